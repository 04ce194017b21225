"""Small folders of images, as users have them."""

from __future__ import annotations

import pathlib

import numpy as np
from PIL import Image


def write_folder(
  folder: pathlib.Path, num_images: int, *, seed: int = 0, size: int = 8
) -> None:
  """Writes grey PNG files of noise into the classes 'a' and 'b'."""
  rng = np.random.default_rng(seed)
  for name in ('a', 'b'):
    (folder / name).mkdir(parents=True, exist_ok=True)
    for index in range(num_images):
      pixels = rng.integers(0, 256, (size, size), np.uint8)
      Image.fromarray(pixels).save(folder / name / f'{index}.png')
