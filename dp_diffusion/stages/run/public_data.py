"""Makes sure that the public images are not the sensitive ones.

Pre-training adds no noise. If it used sensitive images, the guarantee of the
release would be void, whatever its ledger says. Therefore the data sections are
compared by name before anything is read, and fine-tuning compares the decoded
images by hashes, under a random key that is not stored. The release states
which images pre-training used.

Altered images (another crop or size, a lossy format, rotated or mirrored) are
not found. Neither are images that only earlier weights were trained on, if
these images are not available. The statement says what was compared.

Guarantees:
  * The same source and split are refused before anything is read.
    `tests/stages/run/public_data_test.py::test_the_sensitive_set_by_name`.
  * A public image that is equal to a sensitive one ends the run; the message
    has no count and no name.
    `tests/stages/run/public_data_test.py::test_equal_images_end_the_run`.
  * Images that a warm-up chooses from are compared too.
    `tests/stages/run/public_data_test.py::test_images_to_choose_from_are_compared`.
  * Nothing derived from the images is stored.
    `tests/stages/run/public_data_test.py::test_no_digest_is_left_behind`.
  * The statement names the public images, their split and hash, and what was
    compared.
    `tests/stages/run/public_data_test.py::test_the_statement_names_the_images`.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
import os
from typing import Any

import numpy as np

from dp_diffusion import config as config_lib
from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion import types
from dp_diffusion.data import equal_images
from dp_diffusion.data import registry
from dp_diffusion.data import same_source
from dp_diffusion.privacy import statement_words
from dp_diffusion.stages.run import inherited_ledger
from dp_diffusion.stages.run import public_provenance
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import processes

_KEY_BYTES = 32
_EQUAL = (
  'Expected public images that are not among the sensitive ones, but an image'
  ' of {source} is: pre-training adds no noise, so it would be published. Take'
  ' public images of another origin, and pre-train on them in another'
  ' --workdir.'
)


def check_sources(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  *,
  is_read: bool = False,
) -> None:
  """Compares `data` with `pretrain.data` and with the images of first weights.

  Args:
    config: config of the run. If epsilon is infinite, nothing is refused.
    workdir: says which images its weights were trained on.
    is_read: whether the public images are read without pre-training, as the
      audit does.

  Raises:
    UsageError: the sections name the same images.
  """
  if not config.privacy.is_private:
    return
  images = seen(config, workdir)
  if is_read and not config.pretrain.num_steps:
    images = (*images, public_provenance.of_config(config.pretrain.data))
  for entry in images:
    check_source(config.data, entry.data)


def check_source(
  sensitive: registry.DataConfig, public: registry.DataConfig | None
) -> None:
  """Refuses public images that are, by name, the sensitive ones.

  Raises:
    UsageError: the two sections name the same images.
  """
  if public is None:
    return
  found = same_source.compare(sensitive, public)
  if found == same_source.SAME:
    raise errors.UsageError(
      f'Expected pretrain.data ({_named(public)}) to be other images than data'
      f' ({_named(sensitive)}): pre-training adds no noise, so the sensitive'
      ' images would be published. Name public images, or start from weights'
      ' by pretrain.num_steps=0.'
    )


def seen(
  config: config_lib.Config, workdir: workdirs.Workdir
) -> tuple[public_provenance.PublicImages, ...]:
  """Returns the public images that the first weights are trained on."""
  kept = public_provenance.read(workdir.public_weights)
  if kept is None or not workdir.public_weights.exists():
    kept = expected(config)
  data = config.pretrain.data
  if config.finetune.warm_up.has_votes and not any(
    entry.data == data for entry in kept
  ):
    kept = (*kept, public_provenance.of_config(data))
  return kept


def expected(
  config: config_lib.Config, images_sha256: str = ''
) -> tuple[public_provenance.PublicImages, ...]:
  """Returns the images of pre-training and of the weights it starts from."""
  found: tuple[public_provenance.PublicImages, ...] = ()
  if config.pretrain.num_steps:
    found = (public_provenance.of_config(config.pretrain.data, images_sha256),)
  if config.pretrain.init_from:
    path = inherited_ledger.init_path(config.pretrain)
    if path.exists():  # Otherwise loading the weights reports the error.
      found = (*found, *public_provenance.of_weights(path))
  return found


def begin(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  images: np.ndarray | None,
) -> None:
  """Records the images of pre-training, before its first step.

  Args:
    config: config of the run.
    workdir: the record is written to public/, beside the future weights.
    images: uint8[N, H, W, C], the public images; None if there is no training.

  Raises:
    UsageError: pre-training was begun with other images.
  """
  digest = '' if images is None else equal_images.content_sha256(images)
  now = expected(config, digest)
  before = public_provenance.read(workdir.public_weights)
  has_begun = (workdir.public / 'checkpoints').exists()
  if before and has_begun and before[0].images_sha256 != digest:
    raise errors.UsageError(
      f'Expected the images of pretrain.data ({_named(config.pretrain.data)})'
      ' with which pre-training began: they have changed since. Restore them,'
      ' or give another --workdir.'
    )
  public_provenance.write(workdir.public_weights, now)


def compare(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  sensitive: types.DataSource,
) -> list[dict[str, Any]]:
  """Looks for sensitive images among the public ones that are available.

  All processes call it; process 0 reads the public images.

  Args:
    config: config of the run.
    workdir: says which images its weights were trained on.
    sensitive: the images of the private training.

  Returns:
    The entries of the statement on public images.

  Raises:
    UsageError: an equal image was found; the same line on every process.
  """
  return _compare_all(config, seen(config, workdir), sensitive)


def compare_source(
  config: config_lib.Config, sensitive: types.DataSource
) -> list[dict[str, Any]]:
  """Looks for sensitive images in `pretrain.data`, for a baseline.

  Raises:
    UsageError: `pretrain.data` is the sensitive set by name or has a sensitive
      image, or it is a release, whose ledger a baseline does not compose.
  """
  if config.privacy.is_private:
    check_source(config.data, config.pretrain.data)
  inherited_ledger.refuse_released_images(config.pretrain.data)
  images = (public_provenance.of_config(config.pretrain.data),)
  return _compare_all(config, images, sensitive)


def _compare_all(
  config: config_lib.Config,
  images: Sequence[public_provenance.PublicImages],
  sensitive: types.DataSource,
) -> list[dict[str, Any]]:
  if not config.privacy.is_private:
    return [statement_words.public_data(vars(e), 'not_private') for e in images]
  facts = []
  for entry in images:
    # Process 0 writes the statement; the others continue or end with it.
    found = processes.on_main(functools.partial(_outcome, entry, sensitive))
    outcome = found or 'unknown'
    if processes.any_process(outcome == 'equal'):
      raise errors.UsageError(_EQUAL.format(source=entry.source))
    is_part = entry.data is not None and (
      same_source.compare(config.data, entry.data) == same_source.OTHER_PART
    )
    if is_part:
      console.warn(
        f'the public images ({entry.source}, split {entry.split}) are another'
        ' part of the sensitive dataset: accuracy on what is held out of it may'
        ' be too high, and persons may be in both'
      )
    facts.append(
      statement_words.public_data(vars(entry), outcome, is_part=is_part)
    )
  return facts


def _outcome(
  entry: public_provenance.PublicImages, sensitive: types.DataSource
) -> str:
  """Returns one of `statement_words.COMPARISONS`, or 'equal'."""
  if entry.data is None:
    return 'unknown'
  if same_source.is_rendered(entry.data):
    return 'rendered'
  height, _, channels = sensitive.images.shape[1:]
  data = dataclasses.replace(
    entry.data, image_size=height, channels=channels, reflect_pad=0
  )
  try:
    public = registry.load(data)
  except (errors.UsageError, OSError) as error:
    console.warn(
      f'the public images ({entry.source}) are not at hand, and were not'
      f' compared with the sensitive ones: {error}'
    )
    return 'not_at_hand'
  key = os.urandom(_KEY_BYTES)
  if equal_images.share_one(public.images, sensitive.images, key):
    return 'equal'
  is_as_read = data.image_size == entry.data.image_size and (
    data.channels == entry.data.channels
  )
  if entry.images_sha256 and is_as_read:
    digest = equal_images.content_sha256(public.images)
    if digest != entry.images_sha256:
      return 'changed'
  return 'none_equal'


def _named(data: registry.DataConfig) -> str:
  path = f' {data.path}' if data.path else ''
  return f'{data.name}{path}, split {data.split}'
