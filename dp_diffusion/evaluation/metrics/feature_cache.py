"""Features on the disk: those that take hours are kept, none fills the memory.

For Inception on a CPU an interrupted evaluation continues where it stopped,
and evaluations of several releases share the features of the real images: a
file holds those of a few thousand images, and belongs in `private/`.

Three sets of 50,000 images have a gigabyte of Inception features. `on_disk`
gives room for them in a file that has no name and ends with the process, so
that the memory they take is given back when something else needs it.
"""

from __future__ import annotations

from collections.abc import Callable
import hashlib
import math
import os
import tempfile

from etils import epath
import numpy as np

from dp_diffusion import files
from dp_diffusion.evaluation.classifiers import trained_classifiers
from dp_diffusion.evaluation.metrics import features as features_lib

CHUNK_SIZE = 5000  # Images per file: 41 MB at F = 2048.


def extract(
  extractor: features_lib.FeatureExtractor,
  images: np.ndarray,
  folder: epath.PathLike,
  check: Callable[[], None] = lambda: None,
  chunk_size: int = CHUNK_SIZE,
) -> np.ndarray:
  """Computes the features that are not there yet.

  Args:
    extractor: its name must say which weights it has.
    images: uint8[N, H, W, C]; may be memory-mapped.
    folder: where chunks are kept; private.
    check: called before every chunk; what it raises ends the work.
    chunk_size: images per file.

  Returns:
    float32[N, F], as `on_disk` gives it.

  Raises:
    Exception: what `check` raised; finished chunks are kept.
  """
  found = on_disk((len(images), extractor.num_features), folder)
  for start in range(0, len(images), chunk_size):
    chunk = np.asarray(images[start : start + chunk_size])
    path = epath.Path(folder) / _name(extractor, chunk)
    if not path.exists():
      check()
      files.write_npz(path, 0o600, features=extractor.extract(chunk))
    found[start : start + len(chunk)] = files.read_npz(path)['features']
  return found


def on_disk(
  shape: tuple[int, ...], folder: epath.PathLike, dtype: type = np.float32
) -> np.ndarray:
  """Zeros in a file of this process alone.

  Args:
    shape: [N, F], or of images.
    folder: private, where the file takes its room but has no name; where it
      is at gs:// or the like, the machine's folder for temporary files.
    dtype: of the zeros.
  """
  if not all(shape):
    return np.zeros(shape, dtype)
  where = None
  if files.is_local(folder):
    where = os.fspath(folder)
    os.makedirs(where, mode=0o700, exist_ok=True)
  with tempfile.TemporaryFile(dir=where) as file:
    return np.asarray(np.memmap(file, dtype, 'w+', shape=shape))


def rows_of(
  images: np.ndarray, rows: np.ndarray, folder: epath.PathLike, max_bytes: int
) -> np.ndarray:
  """Some of the images, in memory or, where they are many, on the disk.

  Args:
    images: uint8[N, H, W, C]; may be memory-mapped.
    rows: int64[n], which of them.
    folder: as of `on_disk`.
    max_bytes: of memory for the result.

  Returns:
    uint8[n, H, W, C].
  """
  shape = (len(rows), *images.shape[1:])
  if math.prod(shape) <= max_bytes:
    return np.asarray(images[rows])
  found = on_disk(shape, folder, np.uint8)
  for start in range(0, len(rows), CHUNK_SIZE):
    chunk = rows[start : start + CHUNK_SIZE]
    found[start : start + len(chunk)] = images[chunk]
  return found


def _name(extractor: features_lib.FeatureExtractor, images: np.ndarray) -> str:
  facts = (
    extractor.name,
    extractor.num_features,
    trained_classifiers.fingerprint(images),
  )
  digest = hashlib.sha256(repr(facts).encode()).hexdigest()
  return f'features-{digest[:20]}.npz'
