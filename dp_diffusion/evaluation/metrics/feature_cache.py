"""Keeps features of images on the disk.

Inception takes hours on a CPU, so its features are saved in files of a few
thousand images each. An interrupted evaluation then continues where it stopped,
and evaluations of several releases share the features of the real images. The
files belong in `private/`.

The Inception features of three sets of 50,000 images have a gigabyte. `on_disk`
puts them into a file without a name, which ends with the process, so that the
system can free their memory when it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
import hashlib
import math
import os
import tempfile

from etils import epath
import numpy as np

from dp_diffusion import files
from dp_diffusion.evaluation.classifiers import trained_classifiers
from dp_diffusion.evaluation.metrics import features as features_lib
from dp_diffusion.training import processes

CHUNK_SIZE = 5000  # Images per file: 41 MB at F = 2048.


def extract(
  extractor: features_lib.FeatureExtractor,
  images: np.ndarray,
  folder: epath.PathLike,
  check: Callable[[], None] = lambda: None,
  chunk_size: int = CHUNK_SIZE,
) -> np.ndarray:
  """Returns the features of images; computes those that are not saved yet.

  Args:
    extractor: the feature network; its name must identify its weights.
    images: uint8[N, H, W, C]; may be memory-mapped.
    folder: private folder for the files.
    check: called before every chunk; an exception that it raises ends the work.
    chunk_size: images per file.

  Returns:
    float32[N, F], an array of `on_disk`.

  Raises:
    Exception: the exception of `check`. Finished chunks are kept.
  """
  found = on_disk((len(images), extractor.num_features), folder)
  for start in range(0, len(images), chunk_size):
    chunk = images[start : start + chunk_size]
    path = _saved(extractor, chunk, folder, check)
    found[start : start + len(chunk)] = files.read_npz(path)['features']
  return found


def extract_share(
  extractor: features_lib.FeatureExtractor,
  sets: Iterable[np.ndarray],
  folder: epath.PathLike,
  share: processes.Share,
  check: Callable[[], None] = lambda: None,
  chunk_size: int = CHUNK_SIZE,
) -> None:
  """Computes and saves the features of a process's share of the chunks.

  When all processes have done so, `extract` finds the features of every set.

  Args:
    extractor: see `extract`.
    sets: uint8[N, H, W, C] each; may be memory-mapped.
    folder: private folder for the files, which the processes share.
    share: which of the processes.
    check: see `extract`.
    chunk_size: images per file.

  Raises:
    Exception: the exception of `check`. Finished chunks are kept.
  """
  chunks = [
    images[start : start + chunk_size]
    for images in sets
    for start in range(0, len(images), chunk_size)
  ]
  for chunk in share.of(chunks):
    _saved(extractor, chunk, folder, check)


def _saved(
  extractor: features_lib.FeatureExtractor,
  images: np.ndarray,
  folder: epath.PathLike,
  check: Callable[[], None],
) -> epath.Path:
  """Returns the file with the features of a chunk; writes it if needed."""
  images = np.asarray(images)
  path = epath.Path(folder) / _name(extractor, images)
  if not path.exists():
    check()
    files.write_npz(path, 0o600, features=extractor.extract(images))
  return path


def on_disk(
  shape: tuple[int, ...], folder: epath.PathLike, dtype: type = np.float32
) -> np.ndarray:
  """Returns an array of zeros in a file that only this process can open.

  Args:
    shape: shape of the array, such as [N, F].
    folder: private folder on whose disk the nameless file lies. If the folder
      is remote (gs://), the machine's folder for temporary files is used.
    dtype: dtype of the array.
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
  """Returns some of the images, in memory or, if they are many, on the disk.

  Args:
    images: uint8[N, H, W, C]; may be memory-mapped.
    rows: int64[n], indices of the images.
    folder: private folder, see `on_disk`.
    max_bytes: largest size of a result in memory.

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
