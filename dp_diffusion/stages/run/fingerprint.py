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
    `tests/stages/run/fingerprint_test.py::test_processes_compare_all_facts`.
  * Runs that differ in anything that shapes a private step, the weights they
    start from included, have other noise and other batches, even with one
    secret.
    `tests/stages/run/fingerprint_test.py::test_other_first_weights_are_another_run`,
    `tests/stages/run/fingerprint_test.py::test_each_fact_is_told_apart`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion import types
from dp_diffusion.models import weights
from dp_diffusion.privacy import entries as entries_lib
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.stages.run import statements
from dp_diffusion.stages.run import workdirs


def make(
  config: config_lib.Config,
  mechanism: mechanism_lib.TrainingMechanism,
  source: types.DataSource,
  secret: key_streams.Secret,
  params: types.Params,
  inherited: Sequence[entries_lib.Entry] = (),
) -> dict[str, Any]:
  """What makes two runs the same run. Device count is not part of it.

  Args:
    config: its data, privacy, finetune, model, diffusion, seed.
    mechanism: of the private steps.
    source: the sensitive images.
    secret: of the run.
    params: all weights before the first private step.
    inherited: what they have cost already.
  """
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
  training.update(draws(config))
  training['label_histogram_noise_multiplier'] = (
    config.privacy.label_histogram_noise_multiplier
  )
  return {
    'mechanism': mechanism.to_dict(),
    'training': training,
    'start': {
      'weights': first_weights(secret, params),
      'inherited': [entry.to_json() for entry in inherited],
    },
    'dataset': dataset(secret, source),
    'secret': key_streams.fingerprint(secret, 'secret'),
    'versions': statements.versions(),
    'rng': key_streams.rng_test_vector(),
  }


def draws(config: config_lib.Config) -> dict[str, Any]:
  """How images of a record are drawn."""
  data = config.data
  return {
    'reflect_pad': data.reflect_pad,
    'flip': data.flip,
    'unit': data.unit,
  }


def first_weights(secret: key_streams.Secret, params: types.Params) -> str:
  """Keyed hash of the weights that a run starts from."""
  flat = weights.flatten(params)
  return key_streams.fingerprint(
    secret, 'first weights', *(part for leaf in flat.items() for part in leaf)
  )


def dataset(secret: key_streams.Secret, source: types.DataSource) -> str:
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
  runs again are charged again (`journal.charge_lost_steps`). The first weights,
  which another machine may round otherwise, are those of the checkpoint.

  Raises:
    UsageError: mechanism or training differ (both values), or the dataset or
      the secret (its hash says only that).
  """
  for name in ('mechanism', 'training'):
    difference = workdirs.first_difference(before[name], now[name])
    if difference:
      key, old, new = difference
      raise errors.UsageError(
        f'Expected the {name} of the run that is resumed: {key} was {old!r}'
        f' and is now {new!r}. Give the old value, or another --workdir.'
      )
  for name in ('secret', 'dataset'):
    if before[name] != now[name]:
      raise errors.UsageError(
        f'Expected the {name} of the run that is resumed, but it differs.'
        f' Restore the old {name}, or give another --workdir.'
      )
