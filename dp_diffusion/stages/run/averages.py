"""Keeps averages of the weights, and releases one of a length chosen later.

The averages are functions of the noised gradients alone, so the ledger covers
any combination of them. They stay in `private/`; the chosen one replaces
`release/model` before images are sampled, and the statement is sealed again.

Guarantees:
  * The released weights are the combination of the kept averages, and the
    statement covers them.
    `tests/stages/run/averages_test.py::test_a_length_is_chosen_after_training`.
  * Without averages, the state and the release are what they were.
    `tests/stages/run/averages_test.py::test_without_averages_nothing_changes`.
"""

from __future__ import annotations

import numpy as np

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion import release
from dp_diffusion.models import weights
from dp_diffusion.stages.run import assembly
from dp_diffusion.stages.run import statements
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import power_averages
from dp_diffusion.training import state as train_state

_FILE = 'averages.npz'


def store(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  state: train_state.TrainState,
) -> None:
  """Writes the averages of the last state to private/, if there are any."""
  lengths = config.finetune.power_averages
  if not lengths:
    return
  arrays = {
    f'{length!r}/{path}': value
    for length, average in zip(lengths, state.power_params, strict=True)
    for path, value in weights.flatten(
      train_state.merge(average, state.frozen_params)
    ).items()
  }
  files.write_npz(workdir.private / _FILE, 0o600, **arrays)


def choose(config: config_lib.Config, workdir: workdirs.Workdir) -> None:
  """Releases the average of `sample.average_length`, if the config names one.

  Equal configs write equal bytes, so a call that was killed can be repeated.

  Raises:
    UsageError: there are no averages, or they are damaged; or what lies beside
      the weights is not what the statement says, and would be sealed anew.
  """
  wanted, lengths = config.sample.average_length, config.finetune.power_averages
  if not wanted:
    return
  path = workdir.private / _FILE
  try:
    arrays = files.read_npz(path)
  except (OSError, ValueError) as error:
    raise errors.UsageError(
      f'Expected {path} to hold the averages of the training: {error}. Restore'
      ' it, or set sample.average_length=0.'
    ) from error
  parts = power_averages.combination(lengths, wanted)
  first = f'{lengths[0]!r}/'
  names = [n.removeprefix(first) for n in arrays if n.startswith(first)]
  params = {
    name: sum(
      part * np.asarray(arrays[f'{length!r}/{name}'], np.float64)
      for part, length in zip(parts, lengths, strict=True)
    ).astype(np.float32)
    for name in names
  }
  release.check_model(workdir.release, is_rewritten=True)
  release.write_model(
    workdir.release, params, assembly.model_description(config)
  )
  statements.seal(config, workdir)
