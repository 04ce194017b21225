"""Reads and writes weights, and transfers public ones to private training.

A weights file is an `.npz` with one float32 array per leaf, named by its path
('down_0_block_0/conv_1/kernel'). Published weights have other names and
layouts; `key_map` converts them.

Guarantees:
  * Every leaf that is reset or left out is named.
    `tests/models/weights_test.py::test_transfer_names_what_it_resets`.
  * When the classes change, only their rows are new; the null row is kept.
    `::test_only_rows_of_real_classes_are_reset`.
  * Weights trained without classes get zeros for the class rows.
    `::test_rows_beside_a_null_row_of_zeros_are_zeros`.
  * Another architecture is refused with the first leaves that differ.
    `::test_other_architecture_is_refused`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import fnmatch
import zipfile

from etils import epath
from flax import traverse_util
import numpy as np

from dp_diffusion import checks
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion import types
from dp_diffusion.models import key_map as key_maps

RELEASED = 'released_under_differential_privacy'  # A mark, not a weight.
CLASS_ROWS = 'label/classes'  # Path of the rows of the real classes.
NULL_ROW = 'label/null'


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferReport:
  """Which leaves were copied, reset or skipped, by paths as 'label/classes'.

  Attributes:
    copied: leaves taken from the source.
    reset: leaves that keep the target's value, because the source lacks them
      or has them for other classes.
    skipped: leaves of the source that the target lacks.
    is_zero: whether the reset leaves are zeros.
  """

  copied: tuple[str, ...]
  reset: tuple[str, ...]
  skipped: tuple[str, ...]
  is_zero: bool = False

  def lines(self) -> list[str]:
    """Returns a line for the reset leaves and one for the skipped ones."""
    lines = []
    if self.reset:
      origin = 'zeros' if self.is_zero else 'new weights from the public seed'
      lines.append(f'{origin}: {", ".join(self.reset)}')
    if self.skipped:
      lines.append(f'not used: {", ".join(self.skipped)}')
    return lines


def flatten(params: types.Params) -> dict[str, np.ndarray]:
  """Returns the arrays by path, in sorted order.

  >>> list(flatten({'b': {'w': np.zeros(2)}, 'a': np.ones(1)}))
  ['a', 'b/w']
  """
  flat = traverse_util.flatten_dict(dict(params))
  return {'/'.join(path): np.asarray(flat[path]) for path in sorted(flat)}


def unflatten(flat: Mapping[str, np.ndarray]) -> types.Params:
  """Inverts `flatten`."""
  params: types.Params = traverse_util.unflatten_dict(dict(flat), sep='/')
  return params


def save_npz(
  path: epath.PathLike,
  params: types.Params,
  *,
  is_released: bool = False,
) -> None:
  """Writes weights, whole or not at all. Equal weights give equal bytes.

  Args:
    path: the .npz file to write.
    params: nested dict of arrays.
    is_released: whether the weights were trained on sensitive images. The file
      is then marked, so that it cannot be used as public weights even when its
      ledger is missing.
  """
  mark = {RELEASED: np.array(True)} if is_released else {}
  files.write_npz(path, 0o644, **flatten(params), **mark)


def is_released(path: epath.PathLike) -> bool:
  """Whether the file holds the mark of released weights."""
  path = epath.Path(path)
  try:
    with path.open('rb') as f, zipfile.ZipFile(f) as archive:
      return f'{RELEASED}.npy' in archive.namelist()
  except (OSError, zipfile.BadZipFile):
    return False  # Reading the weights reports the error.


def check_sha256(path: epath.Path, expected: str) -> None:
  """Raises UsageError unless the file has this SHA-256; '' checks nothing."""
  if not expected:
    return
  found = files.sha256(path)
  if found != expected.lower():
    raise errors.UsageError(
      f'Expected {path} to have sha256 {expected}, found {found}: it is another'
      ' file or damaged.'
    )


def load_params(
  path: epath.PathLike, *, expected_sha256: str = '', key_map: str = ''
) -> types.Params:
  """Reads weights.

  Args:
    path: the .npz file to read.
    expected_sha256: hex hash that the file must have; '' does not check.
    key_map: JSON file of module `key_map`; '' takes the names as paths.

  Raises:
    UsageError: the file is missing, unreadable or has another hash, or the
      map names arrays that it does not hold.
  """
  path = epath.Path(path)
  if not path.exists():
    raise errors.UsageError(
      f'Expected weights at {path}, which does not exist.'
    )
  check_sha256(path, expected_sha256)
  try:
    arrays = files.read_npz(path)
  except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
    raise errors.UsageError(
      f'Expected {path} to be an .npz file of arrays: {error}. A file of'
      ' another project needs pretrain.init_format.'
    ) from error
  arrays.pop(RELEASED, None)
  if key_map:
    arrays = key_maps.apply(key_map, arrays, str(path))
  return unflatten(arrays)


def transfer(
  source: types.Params,
  target: types.Params,
  *,
  reset_classes: bool,
) -> tuple[types.Params, TransferReport]:
  """Copies the source's weights into the target's architecture.

  Args:
    source: public weights.
    target: newly initialised weights of the architecture to be trained.
    reset_classes: whether the label sets differ. The rows of the real classes
      then keep the target's values, and the null row is copied. A null row of
      zeros means that the source was trained without classes; the class rows
      are then zeros too, since random ones would disturb the network.

  Returns:
    float32 weights, and a report of the leaves.

  Raises:
    UsageError: names the first leaves whose shapes differ; class rows may.
  """
  old, new = flatten(source), flatten(target)
  reset = {CLASS_ROWS} & set(new) if reset_classes else set()
  differing = [
    f'{path} {_shape(old.get(path))} instead of {_shape(new.get(path))}'
    for path in sorted(set(old) | set(new))
    if path not in reset and _shape(old.get(path)) != _shape(new.get(path))
  ]
  if differing:
    raise errors.UsageError(
      'Expected weights of the architecture of config.model, found'
      f' {checks.some(differing)}. Give the model that the weights were'
      ' made with.'
    )
  merged = {
    path: fresh if path in reset else old[path].astype(np.float32)
    for path, fresh in new.items()
  }
  is_zero = NULL_ROW in old and not old[NULL_ROW].any()
  if is_zero:
    merged.update({path: np.zeros_like(merged[path]) for path in reset})
  report = TransferReport(
    is_zero=is_zero,
    copied=tuple(p for p in new if p not in reset),
    reset=tuple(sorted(reset)),
    skipped=tuple(sorted(set(old) - set(new))),
  )
  return unflatten(merged), report


def trainable_fn(
  params: types.Params,
  patterns: Sequence[str],
  reset: Sequence[str] = (),
) -> Callable[[str], bool]:
  """Returns a function that tells which leaves are trained.

  Args:
    params: the weights.
    patterns: shell patterns of paths, such as 'mid*' or '*/kernel'; '*' trains
      all leaves.
    reset: paths of leaves with new weights, which must not be frozen.

  Returns:
    A function from a path to whether that leaf is trained, for
    `training.state.partition`.

  Raises:
    UsageError: a pattern matches nothing, or a reset leaf would be frozen.
  """
  paths = list(flatten(params))
  for pattern in patterns:
    if not fnmatch.filter(paths, pattern):
      raise errors.UsageError(
        f'Expected finetune.trainable={pattern!r} to match a leaf, such as'
        f' {checks.some(paths)}.'
      )
  trained = {p for pattern in patterns for p in fnmatch.filter(paths, pattern)}
  frozen = sorted(set(reset) - trained)
  if frozen:
    raise errors.UsageError(
      f'Expected {checks.some(frozen)} to train, since its weights are'
      ' new: add it to finetune.trainable.'
    )
  return trained.__contains__


def _shape(array: np.ndarray | None) -> str:
  return 'absent' if array is None else str(list(array.shape))
