"""What makes a run the same run, when it is resumed or shared by processes.

Facts of the mechanism, the training and the dataset: they name the run (and
so choose its randomness), processes compare them, and a resume compares them
with those of its checkpoint. The dataset is known by a keyed hash alone.

Guarantees:
  * A resume under another mechanism, training config, dataset or secret is
    refused. `tests/stages/finetune_test.py::test_resume_refuses_what_changed`,
    `tests/stages/finetune_test.py::test_resume_refuses_another_dataset`,
    `tests/stages/finetune_test.py::test_resume_refuses_another_secret`.
  * Processes compare all of them before anything is computed.
    `tests/stages/run_facts_test.py::test_processes_compare_all_facts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dp_diffusion import array_types
from dp_diffusion import config as config_lib
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.stages import statements
from dp_diffusion.stages import workdirs


def make(
  config: config_lib.Config,
  mechanism: mechanism_lib.DpSgdMechanism,
  source: array_types.DataSource,
  secret: key_streams.Secret,
) -> dict[str, Any]:
  """What makes two runs the same run. Device count is not part of it."""
  training = config_lib.to_dict(config.finetune)
  for operational in (
    'microbatch_size',
    'draw_chunk_size',
    'checkpoint_every_steps',
  ):
    del training[operational]
  training['model'] = config_lib.to_dict(config.model)
  training['diffusion'] = config_lib.to_dict(config.diffusion)
  training['seed'] = config.seed
  training['reflect_pad'] = config.data.reflect_pad
  training['flip'] = config.data.flip
  training['unit'] = config.data.unit
  training['label_histogram_noise_multiplier'] = (
    config.privacy.label_histogram_noise_multiplier
  )
  return {
    'mechanism': mechanism.to_dict(),
    'training': training,
    'dataset': dataset(secret, source),
    'secret': key_streams.fingerprint(secret, 'secret'),
    'versions': statements.versions(),
    'rng': key_streams.rng_test_vector(),
  }


def dataset(secret: key_streams.Secret, source: array_types.DataSource) -> str:
  """Keyed hash of all that a source holds; who is in which image included."""
  person = np.zeros(0, np.int32) if source.person is None else source.person
  return key_streams.fingerprint(
    secret, 'dataset', source.images, source.labels, person
  )


def run_id(secret: key_streams.Secret, facts: Mapping[str, Any]) -> str:
  """Names the run: all facts but the versions, which may change on the way."""
  lasting = {k: v for k, v in facts.items() if k != 'versions'}
  return key_streams.run_id(secret, lasting)


def check_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
  """Refuses to continue as if nothing had changed.

  Other versions may continue, and so may another generator: the steps that it
  runs again are charged again (`loop.charge_lost_steps`).

  Raises:
    UsageError: mechanism or training differ (both values), or the dataset or
      the secret (its hash says only that).
  """
  for name in ('mechanism', 'training'):
    difference = workdirs.first_difference(before[name], now[name])
    if difference:
      key, old, new = difference
      raise array_types.UsageError(
        f'Expected the {name} of the run that is resumed: {key} was {old!r}'
        f' and is now {new!r}. Give the old value, or another --workdir.'
      )
  for name in ('secret', 'dataset'):
    if before[name] != now[name]:
      raise array_types.UsageError(
        f'Expected the {name} of the run that is resumed, but it differs.'
        f' Restore the old {name}, or give another --workdir.'
      )
