"""Shows the sensitive images to their owner before the budget is spent.

The stage writes to `private/` a picture of images as the network gets them, and
counts of the dataset. The terminal shows only the paths. Nothing is trained and
nothing is released.

Guarantees:
  * The results are in `private/` only; the terminal names the files and shows
    no number.
    `tests/stages/inspect_test.py::test_the_terminal_says_where_and_no_number`.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from dp_diffusion import config as config_lib
from dp_diffusion import console
from dp_diffusion import files
from dp_diffusion import types
from dp_diffusion.data import registry
from dp_diffusion.evaluation.report import image_grids
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import processes

GRID_NAME = 'training_images.png'
SURVEY_NAME = 'survey.json'
_PER_CLASS = 10
_MAX_PIXELS = 64_000_000  # Largest number of pixels of the grid.
_TILE = 96  # Largest side in pixels to which small images are enlarged.
_MODE = 0o600
_NOTICE = (
  'Counted on sensitive images without noise, held-out ones included: never to'
  ' be published.'
)


def run(
  config: config_lib.Config, workdir: workdirs.Workdir
) -> types.DataSource | None:
  """Writes the grid and the survey, and prints their paths.

  Args:
    config: gives data and the held-out split of evaluate.
    workdir: private/ is written.

  Returns:
    The images that are trained on, of the process that looked at them: who
    keeps them need not wait for files to be decoded again.

  Raises:
    UsageError: the images of a split cannot be loaded.
  """
  found: list[types.DataSource] = []

  def look() -> None:
    found.append(registry.load(config.data))
    write(config, workdir, found[0])
    # Otherwise an error in this split would show after the budget is spent.
    held_out = config.evaluate.held_out_split
    if held_out not in ('', config.data.split, config.data.test_split):
      registry.load(config.data, held_out)

  processes.on_main(look)
  return found[0] if found else None


def write(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  source: types.DataSource,
) -> None:
  """Writes the grid and the survey, each whole or not at all.

  Args:
    config: gives data.
    workdir: private/ is written.
    source: the images to train on.

  Raises:
    UsageError: the held-out images cannot be loaded.
  """
  class_names = source.spec.class_names or ('all',)
  num_rows, num_columns = grid_size(len(class_names), source.spec.image_shape)
  picture = image_grids.class_grid(
    source.images,
    np.asarray(source.labels),
    class_names,
    per_class=num_columns,
    max_classes=num_rows,
    seed=int.from_bytes(os.urandom(8), 'little'),
  )
  found = {
    'notice': _NOTICE,
    'grid': {
      'file': GRID_NAME,
      'num_classes': num_rows,
      'num_per_class': num_columns,
    },
    **_counted(registry.survey(config.data)),
  }
  files.write_bytes(workdir.private / GRID_NAME, picture, _MODE)
  files.write_json(workdir.private / SURVEY_NAME, found, _MODE)
  console.say(
    f'what the network will see: {workdir.private / GRID_NAME}; what the images'
    ' are, and any that were left out or come under several classes:'
    f' {workdir.private / SURVEY_NAME} (never publish either)'
  )


def grid_size(
  num_classes: int, image_shape: tuple[int, int, int]
) -> tuple[int, int]:
  """Returns rows and columns of a grid that fits in memory.

  If the images are too large or too many, first columns are left out, then the
  last classes.

  >>> grid_size(10, (32, 32, 3)), grid_size(1000, (256, 256, 3))
  ((10, 10), (976, 1))
  """
  tile = max(_TILE, *image_shape[:2]) ** 2
  num_columns = min(_PER_CLASS, max(1, _MAX_PIXELS // (num_classes * tile)))
  num_rows = min(num_classes, max(1, _MAX_PIXELS // (num_columns * tile)))
  return num_rows, num_columns


def _counted(survey: dict[str, Any]) -> dict[str, Any]:
  """Returns the survey with the files left out counted by class."""
  counts: dict[str, int] = {}
  for entry in survey['skipped']:
    counts[entry['class']] = counts.get(entry['class'], 0) + 1
  return {**survey, 'num_skipped_per_class': counts}
