"""Removes all decoded images from the user's cache folder, of any dataset.

Decoded sets that are large (`data.max_in_memory_bytes`) are kept there, so that
the next run starts sooner. They are as sensitive as the images, and lie outside
of every working directory. All go, and not those of the config
alone: files that were changed or moved since are found by no config any more,
and what is still needed is decoded again.
"""

from __future__ import annotations

from dp_diffusion import config as config_lib
from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion.data import cache


def run(config: config_lib.Config) -> None:
  """Removes decoded images of all datasets, and prints the folders.

  Datasets that TFDS has prepared (`data.tfds_dir`) are not a cache, and stay.

  Args:
    config: gives data.cache_dir and pretrain.data.cache_dir.

  Raises:
    UsageError: a folder could not be removed.
  """
  folders = dict.fromkeys(
    (config.data.cache_dir, config.pretrain.data.cache_dir)
  )
  for cache_dir in folders:
    place = cache.place(cache_dir)
    try:
      removed = cache.forget(cache_dir)
    except OSError as error:
      raise errors.UsageError(
        f'Decoded images in {place} could not be removed ({error}): mend the'
        ' permissions there, or remove the folder yourself.'
      ) from error
    console.say(
      f'forget: decoded images of all datasets removed from {place}'
      if removed
      else f'forget: no decoded images in {place}'
    )
