"""The facts that identify a run, when it is resumed or shared by processes.

They are facts of the mechanism, the training and the dataset, the latter as a
keyed hash. They determine the run id, and so the randomness of the run.
Processes compare them with one another, and a resume with its checkpoint.

Guarantees:
  * A resume under another mechanism, training config, dataset or secret is
    refused. `tests/stages/finetune_test.py::test_resume_refuses_what_changed`,
    `tests/stages/finetune_test.py::test_resume_refuses_another_dataset`,
    `tests/stages/finetune_test.py::test_resume_refuses_another_secret`.
  * Processes compare all of them before anything is computed.
    `tests/stages/run/fingerprint_test.py::test_processes_compare_all_facts`.
  * Runs that differ in anything that affects a private step, including their
    first weights, have different noise and batches, even with one secret.
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
  """Returns the facts of a run. The number of devices is not one of them.

  Args:
    config: gives data, privacy, finetune, model, diffusion and seed.
    mechanism: mechanism of the private steps.
    source: the sensitive images.
    secret: secret of the run.
    params: all weights before the first private step.
    inherited: ledger entries that the weights bring along.
  """
  training = lasting(config.finetune)
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


def lasting(finetune: config_lib.FinetuneConfig) -> dict[str, Any]:
  """Returns the settings of the private steps that must not change."""
  found = config_lib.to_dict(finetune)
  for operational in (
    'microbatch_size',
    'draw_chunk_size',
    'checkpoint_every_steps',
  ):
    del found[operational]
  return found


def draws(config: config_lib.Config) -> dict[str, Any]:
  """Returns the facts on how images of a record are drawn."""
  data = config.data
  return {
    'reflect_pad': data.reflect_pad,
    'flip': data.flip,
    'unit': data.unit,
  }


def first_weights(secret: key_streams.Secret, params: types.Params) -> str:
  """Returns a keyed hash of the weights that a run starts from."""
  flat = weights.flatten(params)
  return key_streams.fingerprint(
    secret, 'first weights', *(part for leaf in flat.items() for part in leaf)
  )


def dataset(secret: key_streams.Secret, source: types.DataSource) -> str:
  """Returns a keyed hash of images, labels and persons of a source."""
  person = np.zeros(0, np.int32) if source.person is None else source.person
  return key_streams.fingerprint(
    secret, 'dataset', source.images, source.labels, person
  )


def run_id(secret: key_streams.Secret, facts: Mapping[str, Any]) -> str:
  """Returns the run id, a hash of all facts but the versions.

  Versions may change between a run and its resume.
  """
  lasting = {k: v for k, v in facts.items() if k != 'versions'}
  return key_streams.run_id(secret, lasting)


def check_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
  """Raises an error if a resumed run differs from its checkpoint.

  Versions and the random number generator may differ: steps that are run again
  with another generator are charged again (`journal.charge_lost_steps`). The
  first weights are not compared, since another machine may round them
  differently; those of the checkpoint are used.

  Raises:
    UsageError: mechanism or training differ (the message has both values), or
      the dataset or the secret differ (the message has no values).
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
