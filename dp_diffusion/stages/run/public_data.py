"""Public means public: the sensitive images are not pre-trained on.

Pre-training adds no noise. If its images are those of the sensitive set, the
guarantee of the release is void, whatever its ledger says. So the data
sections are compared by name before anything is read, and fine-tuning compares
the decoded images, under a key that is drawn for it and kept nowhere. What
pre-training has seen is stated in the release.

An image that was altered (another crop or size, a lossy format, turned or
mirrored) is not found, and neither is one in weights whose images are not at
hand: the statement says what was compared.

Guarantees:
  * The same source and split are refused before anything is read.
    `tests/stages/run/public_data_test.py::test_the_sensitive_set_by_name`.
  * A public image that is equal to a sensitive one ends the run; the message
    has no count and no name.
    `tests/stages/run/public_data_test.py::test_equal_images_end_the_run`.
  * Nothing that was derived from the images is left behind.
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
from dp_diffusion.data import identity
from dp_diffusion.data import registry
from dp_diffusion.privacy import statement_words
from dp_diffusion.stages.run import inherited_ledger
from dp_diffusion.stages.run import public_record
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
  """Compares the sections `data` and `pretrain.data`, and an earlier run's.

  Args:
    config: where it promises no privacy, nothing is refused.
    workdir: its weights may have seen images already.
    is_read: whether the public images are read without any pre-training, as
      by the audit.

  Raises:
    UsageError: they name the same images.
  """
  if not config.privacy.is_private:
    return
  images = seen(config, workdir)
  if is_read and not config.pretrain.num_steps:
    images = (*images, public_record.of_config(config.pretrain.data))
  for entry in images:
    check_source(config.data, entry.data)


def check_source(
  sensitive: registry.DataConfig, public: registry.DataConfig | None
) -> None:
  """Refuses public images that are the sensitive ones, by name.

  Raises:
    UsageError: they name the same images.
  """
  if public is None:
    return
  found = identity.compare(sensitive, public)
  if found == identity.SAME:
    raise errors.UsageError(
      f'Expected pretrain.data ({_named(public)}) to be other images than data'
      f' ({_named(sensitive)}): pre-training adds no noise, so the sensitive'
      ' images would be published. Name public images, or start from weights'
      ' by pretrain.num_steps=0.'
    )


def seen(
  config: config_lib.Config, workdir: workdirs.Workdir
) -> tuple[public_record.PublicImages, ...]:
  """Public images that the first weights have seen, or will have."""
  kept = public_record.read(workdir.public_weights)
  if kept is not None and workdir.public_weights.exists():
    return kept
  return expected(config)


def expected(
  config: config_lib.Config, images_sha256: str = ''
) -> tuple[public_record.PublicImages, ...]:
  """What pre-training takes: its own images, and those of its first weights."""
  found: tuple[public_record.PublicImages, ...] = ()
  if config.pretrain.num_steps:
    found = (public_record.of_config(config.pretrain.data, images_sha256),)
  if config.pretrain.init_from:
    path = inherited_ledger.init_path(config.pretrain)
    if path.exists():  # Else whoever loads them says so.
      found = (*found, *public_record.of_weights(path))
  return found


def begin(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  images: np.ndarray | None,
) -> None:
  """Records what pre-training reads, before its first step.

  Args:
    config: of the run.
    workdir: writes beside the weights that are to come.
    images: public ones uint8[N, H, W, C]; None where none are trained on.

  Raises:
    UsageError: other images than this pre-training began with.
  """
  digest = '' if images is None else equal_images.content_sha256(images)
  now = expected(config, digest)
  before = public_record.read(workdir.public_weights)
  has_begun = (workdir.public / 'checkpoints').exists()
  if before and has_begun and before[0].images_sha256 != digest:
    raise errors.UsageError(
      f'Expected the images of pretrain.data ({_named(config.pretrain.data)})'
      ' with which pre-training began: they have changed since. Restore them,'
      ' or give another --workdir.'
    )
  public_record.write(workdir.public_weights, now)


def compare(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  sensitive: types.DataSource,
) -> list[dict[str, Any]]:
  """Looks for sensitive images among the public ones, as far as at hand.

  All processes call it; process 0 reads the public images.

  Args:
    config: of the run.
    workdir: says which images its weights have seen.
    sensitive: the images of the private training.

  Returns:
    What the statement says of the public images.

  Raises:
    UsageError: an equal image was found; the same line on every process.
  """
  return _compare_all(config, seen(config, workdir), sensitive)


def compare_source(
  config: config_lib.Config, sensitive: types.DataSource
) -> list[dict[str, Any]]:
  """The same for `pretrain.data` as it is read now, by a baseline.

  Raises:
    UsageError: it is the sensitive set by name or by an image, or a release,
      whose ledger a baseline does not compose.
  """
  if config.privacy.is_private:
    check_source(config.data, config.pretrain.data)
  inherited_ledger.refuse_released_images(config.pretrain.data)
  images = (public_record.of_config(config.pretrain.data),)
  return _compare_all(config, images, sensitive)


def _compare_all(
  config: config_lib.Config,
  images: Sequence[public_record.PublicImages],
  sensitive: types.DataSource,
) -> list[dict[str, Any]]:
  if not config.privacy.is_private:
    return [statement_words.public_data(vars(e), 'not_private') for e in images]
  facts = []
  for entry in images:
    # Only process 0 writes the statement; the others go on with it, or end.
    found = processes.on_main(functools.partial(_outcome, entry, sensitive))
    outcome = found or 'unknown'
    if processes.any_process(outcome == 'equal'):
      raise errors.UsageError(_EQUAL.format(source=entry.source))
    is_part = entry.data is not None and (
      identity.compare(config.data, entry.data) == identity.OTHER_PART
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
  entry: public_record.PublicImages, sensitive: types.DataSource
) -> str:
  """One of `statement_words.COMPARISONS`, or 'equal'."""
  if entry.data is None:
    return 'unknown'
  if identity.is_rendered(entry.data):
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
