"""Draws the README's picture from a finished run of the demonstration.

  python -m experiments.demo_picture --workdir=runs/digits

It has three grids side by side: public, synthetic, and held-out real images.
Use it only for a run whose real images may be published, such as the
demonstration.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import io
import json
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
from dp_diffusion.evaluation.report import figures

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_GAP = 36
_TITLE = 34


def main(argv: Sequence[str]) -> int:
  """Writes docs/images/demo.png."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--workdir', default='runs/digits')
  parser.add_argument('--config', default=str(_ROOT / 'configs' / 'digits.py'))
  parser.add_argument('--out', default=str(_ROOT / 'docs/images/demo.png'))
  arguments = parser.parse_args(argv)
  workdir = pathlib.Path(arguments.workdir)
  config = config_lib.load(arguments.config)
  report = json.loads((workdir / 'evaluation' / 'report.json').read_text())
  epsilon = report['privacy']['epsilon_pld']
  held_out = registry.load(config.data, config.data.test_split)
  public = registry.load(config.pretrain.data)
  sets = {
    'public, drawn': (public.images, public.labels),
    f'synthetic, epsilon {epsilon:.3g}': release.read_dataset(
      workdir / 'release'
    ),
    'real, held out': (held_out.images, held_out.labels),
  }
  grids = [
    _grid(np.asarray(images), labels, config.data.class_names)
    for images, labels in sets.values()
  ]
  files.write_bytes(arguments.out, _join(list(sets), grids))
  print(arguments.out)
  return 0


def _grid(
  images: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> Image.Image:
  png = figures.class_grid(images, labels, names, per_class=8, with_names=False)
  return Image.open(io.BytesIO(png)).convert('RGB')


def _join(titles: Sequence[str], grids: Sequence[Image.Image]) -> bytes:
  width = sum(grid.width for grid in grids) + _GAP * (len(grids) - 1)
  height = max(grid.height for grid in grids) + _TITLE
  page = Image.new('RGB', (width, height), 'white')
  draw = ImageDraw.Draw(page)
  font = ImageFont.truetype(
    f'{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf', 18
  )
  left = 0
  for title, grid in zip(titles, grids, strict=True):
    draw.text((left, 4), title, fill='black', font=font)
    page.paste(grid, (left, _TITLE))
    left += grid.width + _GAP
  buffer = io.BytesIO()
  page.save(buffer, 'PNG', optimize=True)
  return buffer.getvalue()


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
