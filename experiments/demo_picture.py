"""Draws a picture of public, synthetic and real images from a finished run.

  python -m experiments.demo_picture --workdir=runs/digits
  python -m experiments.demo_picture --workdir=runs/own_images/NAME \
    --config=configs/own_images.py:cpu --out=docs/images/cells.png \
    --set=data.path=malaria_cells.zip --set=privacy.num_examples=22000 \
    --set=data.class_names=Parasitized,Uninfected

Grids of many classes stand side by side, those of few one below the other, with
the names of the classes. Use it only for a run whose real images may be
published, such as the demonstration.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import io
import pathlib
import sys

import matplotlib
import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

from dp_diffusion import config as config_lib
from dp_diffusion import files
from dp_diffusion import release
from dp_diffusion.data import registry
from dp_diffusion.evaluation.report import image_grids
from dp_diffusion.privacy import statement

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_GAP = 36
_TITLE = 34
_FEW_CLASSES = 4


def main(argv: Sequence[str]) -> int:
  """Writes the picture, docs/images/demo.png unless told otherwise."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--workdir', default='runs/digits')
  parser.add_argument('--config', default=str(_ROOT / 'configs' / 'digits.py'))
  parser.add_argument('--out', default=str(_ROOT / 'docs/images/demo.png'))
  parser.add_argument('--set', action='append', default=[])
  arguments = parser.parse_args(argv)
  workdir = pathlib.Path(arguments.workdir)
  pairs = (pair.partition('=') for pair in arguments.set)
  config = config_lib.load(arguments.config, {k: v for k, _, v in pairs})
  said = files.read_json(workdir / 'release' / statement.FILE_NAME)
  epsilon = statement.number(said, 'epsilon_pld')
  held_out = registry.load(config.data, config.data.test_split)
  public = registry.load(config.pretrain.data)
  sets = {
    'public, drawn': (public.images, public.labels),
    f'synthetic, epsilon {epsilon:.3g}': release.read_dataset(
      workdir / 'release'
    ),
    'real, held out': (held_out.images, held_out.labels),
  }
  names = config.data.class_names
  is_low = len(names) <= _FEW_CLASSES
  if is_low:  # The classes of public images are others.
    del sets['public, drawn']
  grids = [
    _grid(np.asarray(images), labels, names, is_low)
    for images, labels in sets.values()
  ]
  join = _join_below if is_low else _join
  files.write_bytes(arguments.out, join(list(sets), grids))
  print(arguments.out)
  return 0


def _grid(
  images: np.ndarray, labels: np.ndarray, names: Sequence[str], is_low: bool
) -> Image.Image:
  png = image_grids.class_grid(
    images, labels, names, per_class=16 if is_low else 8, with_names=is_low
  )
  return Image.open(io.BytesIO(png)).convert('RGB')


def _join_below(titles: Sequence[str], grids: Sequence[Image.Image]) -> bytes:
  width = max(grid.width for grid in grids)
  heights = [grid.height + _TITLE for grid in grids]
  page = Image.new('RGB', (width, sum(heights)), 'white')
  draw, top = ImageDraw.Draw(page), 0
  for title, grid, height in zip(titles, grids, heights, strict=True):
    draw.text((4, top + 4), title, fill='black', font=_font())
    page.paste(grid, (0, top + _TITLE))
    top += height
  return _png(page)


def _join(titles: Sequence[str], grids: Sequence[Image.Image]) -> bytes:
  width = sum(grid.width for grid in grids) + _GAP * (len(grids) - 1)
  height = max(grid.height for grid in grids) + _TITLE
  page = Image.new('RGB', (width, height), 'white')
  draw = ImageDraw.Draw(page)
  left = 0
  for title, grid in zip(titles, grids, strict=True):
    draw.text((left, 4), title, fill='black', font=_font())
    page.paste(grid, (left, _TITLE))
    left += grid.width + _GAP
  return _png(page)


def _font() -> ImageFont.FreeTypeFont:
  folder = matplotlib.get_data_path()
  return ImageFont.truetype(f'{folder}/fonts/ttf/DejaVuSans.ttf', 18)


def _png(page: Image.Image) -> bytes:
  buffer = io.BytesIO()
  page.save(buffer, 'PNG', optimize=True)
  return buffer.getvalue()


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
