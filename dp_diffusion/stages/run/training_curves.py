"""Draws the numbers of each step of a training: `curves.png`.

It lies beside the `metrics.jsonl` that it is drawn from. The numbers of private
training have no noise, so their picture is for the owner of `private/` alone.

Guarantees:
  * The picture of private training is written to `private/`, whole or not at
    all, with mode 600, and its title says what it is.
    `tests/stages/run/training_curves_test.py::test_private_curves_are_private`.
"""

from __future__ import annotations

from etils import epath

from dp_diffusion import console
from dp_diffusion import files
from dp_diffusion.evaluation.report import charts
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import metrics

NAME = 'curves.png'
_TITLES = {
  'loss': 'loss',
  'grad_norm': 'gradient norm',
  'clip_fraction': 'share clipped',
  'batch_size': 'batch size',
}


def write_private(workdir: workdirs.Workdir) -> None:
  """Draws the fine-tuning so far; there is no picture without a step."""
  title = 'Private training, without noise: never publish this'
  _write(workdir.private, title, mode=0o600)


def write_public(workdir: workdirs.Workdir) -> None:
  """Draws the pre-training so far; there is no picture without a step."""
  _write(workdir.public, 'Public pre-training', mode=0o644)


def _write(folder: epath.Path, title: str, mode: int) -> None:
  rows = metrics.read(folder / metrics.FILE_NAME)
  if not rows:
    return
  path = folder / NAME
  try:
    picture = charts.training_curves(rows, _TITLES, title)
    files.write_bytes(path, picture, mode=mode)
  except OSError as error:
    console.warn(f'{path} could not be written: {error}')
