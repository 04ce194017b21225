"""The noised label histogram, made in fine-tuning and used in sampling.

Guarantees:
  * It is entered in the ledger, and DP-SGD is calibrated to what remains.
    `tests/stages/finetune_test.py::test_histogram_is_paid_for`.
  * Exact counts are in no file, and noise is drawn once.
    `tests/stages/finetune_test.py::test_histogram_is_noised_once`.
"""

from __future__ import annotations

from collections.abc import Sequence

from etils import epath
import numpy as np

from dp_diffusion import config as config_lib
from dp_diffusion import files
from dp_diffusion import types
from dp_diffusion.data import batching
from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import entries as entries_lib
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import label_histogram
from dp_diffusion.stages.run import run_secret
from dp_diffusion.stages.run import workdirs


def entries(config: config_lib.Config) -> tuple[entries_lib.Entry, ...]:
  """Returns the ledger entries for what is spent before DP-SGD."""
  noise_multiplier = config.privacy.label_histogram_noise_multiplier
  return label_histogram.entries(noise_multiplier)


def calibrate(
  config: config_lib.Config, inherited: Sequence[entries_lib.Entry] = ()
) -> accounting.Calibration:
  """Calibrates DP-SGD to the budget that remains after the histogram.

  Args:
    config: gives privacy.
    inherited: ledger entries from before this run, see `inherited_ledger`.

  Raises:
    UsageError: no noise multiplier keeps the promised epsilon.
  """
  before = (*inherited, *entries(config))
  spent = [event for entry in before for event in entry.dp_events()]
  return accounting.calibrate(config.privacy, spent=spent)


def write(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  source: types.DataSource,
  records: batching.Records,
  streams: key_streams.KeyStreams,
) -> None:
  """Writes the noised histogram to private/, if the config uses one.

  An existing histogram is kept, since new noise would be another release.
  """
  if _path(workdir).exists():
    return
  for entry in entries(config):
    counts = label_histogram.noised(
      np.asarray(source.labels)[records.images],
      records.starts,
      source.spec.num_classes,
      entry,
      streams,
    )
    files.write_json(_path(workdir), {'noised': counts.tolist()}, mode=0o600)


def weights(workdir: workdirs.Workdir) -> np.ndarray:
  """Returns the shares of the classes, with negative noised counts set to 0.

  Returns:
    float64[num_classes] >= 0, not all 0.
  """
  counts = np.maximum(files.read_json(_path(workdir))['noised'], 0.0)
  return counts if counts.any() else np.ones_like(counts)


def _path(workdir: workdirs.Workdir) -> epath.Path:
  return workdir.private / run_secret.HISTOGRAM
