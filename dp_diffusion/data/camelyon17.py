"""Camelyon17-WILDS: patches of lymph nodes from five hospitals (CC0).

This is a TFDS builder for the release in any of its forms
(`camelyon17_release`). Patches are resized with antialiasing when the dataset
is prepared. A patient has many patches, so the patient is kept as `person`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import io
import os
import pathlib
from typing import Any

from PIL import Image

from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion.data import camelyon17_release
from dp_diffusion.data import decoding
from dp_diffusion.data import registry
from dp_diffusion.data import tfds_builders
from dp_diffusion.data import tfds_source

NAME = camelyon17_release.NAME
TFDS_NAME = NAME  # The name under which TFDS may also know the dataset.
VERSION = '1.0.0'
CLASS_NAMES = ('normal', 'tumor')
PATCH_SIZE = 96
SPLITS = ('train', 'id_val', 'val', 'test')
READS = ('manual_dir', 'tfds_dir')
PUBLISHED_COUNTS = {
  'train': 302_436,
  'id_val': 33_560,
  'val': 34_904,
  'test': 85_054,
}


def load(config: registry.DataConfig, split: str) -> registry.ArraySource:
  """Loads a split; prepares the TFDS dataset first if it is absent.

  Args:
    config: gives image_size (0 keeps 96), tfds_dir and manual_dir.
    split: 'train', 'id_val', 'val' (hospital 1) or 'test' (hospital 2).

  Returns:
    RGB images with the patient as `person`.

  Raises:
    UsageError: there is neither an archive nor a network, or the number of
      patches differs from the release.
  """
  registry.check_split(split, SPLITS)
  if config.class_names not in ((), CLASS_NAMES):
    raise errors.UsageError(
      f'Expected data.class_names={config.class_names!r} to be {CLASS_NAMES!r}.'
    )
  size = config.image_size or PATCH_SIZE
  data_dir = tfds_builders.data_dir(config)
  path = tfds_builders.find(f'{NAME}/{size}x{size}', data_dir)
  if path is None:
    release = camelyon17_release.find_release(
      config
    ) or camelyon17_release.download(config, data_dir)
    builder = make_builder(release, size, data_dir)
    path = tfds_builders.prepare_builder(builder, config)
  builder = tfds_builders.open_builder(path)
  check_counts(builder.info.splits)
  config = dataclasses.replace(
    config, image_key='image', label_key='label', person_key='patient'
  )
  return tfds_source.load_from_builder(builder, config, split)


def check_available(config: registry.DataConfig, splits: Sequence[str]) -> None:
  """See `registry.check_available`."""
  for split in splits:
    registry.check_split(split, SPLITS)
  size = config.image_size or PATCH_SIZE
  is_prepared = tfds_builders.find(
    f'{NAME}/{size}x{size}', tfds_builders.data_dir(config)
  )
  if not is_prepared and not camelyon17_release.find_release(config):
    camelyon17_release.check_can_download(config)


def check_counts(splits: Mapping[str, Any]) -> None:
  """Raises UsageError unless every split has the published size."""
  found = {name: splits[name].num_examples for name in SPLITS if name in splits}
  if found != PUBLISHED_COUNTS:
    raise errors.UsageError(
      f'Expected {NAME} to have {PUBLISHED_COUNTS} patches, which it has not: '
      'remove the prepared dataset and prepare it again.'
    )


def make_builder(
  release: camelyon17_release.Release, size: int, data_dir: pathlib.Path
) -> Any:
  """Makes the TFDS builder of the release at one image size.

  Args:
    release: the source of the patches.
    size: side length in pixels to which patches are resized.
    data_dir: folder in which the dataset is prepared.

  Returns:
    A `tfds.core.GeneratorBasedBuilder` named `camelyon17_wilds`.
  """
  tfds = tfds_builders.import_tfds()

  base: Any = tfds.core.GeneratorBasedBuilder

  class Camelyon17Wilds(base, skip_registration=True):  # type: ignore[call-arg]
    """Lymph node patches, split by hospital."""

    name = NAME
    VERSION = tfds.core.Version(VERSION)

    def _info(self) -> Any:
      return tfds.core.DatasetInfo(
        builder=self,
        description=__doc__,
        homepage='https://wilds.stanford.edu/datasets/#camelyon17',
        license='CC0 1.0',
        features=tfds.features.FeaturesDict(
          {
            'image': tfds.features.Image(
              shape=(size, size, 3), encoding_format='png'
            ),
            'label': tfds.features.ClassLabel(names=list(CLASS_NAMES)),
            'patient': tfds.features.Text(),
            'center': tfds.features.ClassLabel(num_classes=5),
          }
        ),
        supervised_keys=('image', 'label'),
      )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
      del dl_manager
      return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, Any]]:
      expected, found = PUBLISHED_COUNTS[split], 0
      with console.progress(f'preparing {split}', expected) as advance:
        for key, patch, data in release.patches(split):
          yield key, _example(key, patch, data, size)
          advance(1)
          found += 1
      if found != expected:
        raise errors.UsageError(
          f'Expected split {split!r} of {NAME} to have {expected} patches, '
          'which it has not: not the official release, or not whole.'
        )

  return Camelyon17Wilds(
    data_dir=os.fspath(data_dir),
    config=tfds.core.BuilderConfig(name=f'{size}x{size}', version=VERSION),
    file_format='array_record',
  )


def _example(
  key: str, patch: camelyon17_release.Patch, data: bytes, size: int
) -> dict[str, Any]:
  """Returns a patch as a TFDS example, encoded without TensorFlow."""
  try:
    image = decoding.decode(data, size, 3, PATCH_SIZE**2)
  except decoding.UnreadableError as error:
    raise errors.UsageError(f'{key} of {NAME}: {error}.') from error
  encoded = io.BytesIO()
  Image.fromarray(image).save(encoded, 'PNG')
  encoded.seek(0)
  return {
    'image': encoded,
    'label': patch.label,
    'patient': patch.patient,
    'center': patch.center,
  }
