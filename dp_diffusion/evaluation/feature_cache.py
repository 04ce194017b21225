"""Features that take hours are kept in files, a few thousand images in each.

For Inception on a CPU: an interrupted evaluation continues where it stopped,
and evaluations of several releases share the features of the real images.
These belong in `private/`.
"""

from __future__ import annotations

from collections.abc import Callable
import hashlib

from etils import epath
import numpy as np

from dp_diffusion import files
from dp_diffusion.evaluation import features as features_lib
from dp_diffusion.evaluation import members

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
    float32[N, F].

  Raises:
    Exception: what `check` raised; finished chunks are kept.
  """
  found = np.empty((len(images), extractor.num_features), np.float32)
  for start in range(0, len(images), chunk_size):
    chunk = np.asarray(images[start : start + chunk_size])
    path = epath.Path(folder) / _name(extractor, chunk)
    if not path.exists():
      check()
      files.write_npz(path, 0o600, features=extractor.extract(chunk))
    found[start : start + len(chunk)] = files.read_npz(path)['features']
  return found


def _name(extractor: features_lib.FeatureExtractor, images: np.ndarray) -> str:
  facts = (extractor.name, extractor.num_features, members.fingerprint(images))
  digest = hashlib.sha256(repr(facts).encode()).hexdigest()
  return f'features-{digest[:20]}.npz'
