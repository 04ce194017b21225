"""The noised label histogram, made in fine-tuning and used in sampling.

Guarantees:
  * Exact counts are in no file, and noise is drawn once.
    `tests/stages/finetune_test.py::test_histogram_is_noised_once`.
  * A histogram with other noise, or of other images, than the ledger says is
    refused.
    `tests/stages/run/histograms_test.py::test_a_histogram_of_others_is_refused`.
  * The images of a record share its count, in whatever order they are stored.
    `tests/stages/run/histograms_test.py::test_labels_are_those_of_each_record`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from etils import epath
import numpy as np

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion import types
from dp_diffusion.data import batching
from dp_diffusion.privacy import entries as entries_lib
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import label_histogram
from dp_diffusion.stages.run import workdirs


def entries(config: config_lib.Config) -> tuple[entries_lib.Entry, ...]:
  """Returns the ledger entries for what is spent before DP-SGD."""
  noise_multiplier = config.privacy.label_histogram_noise_multiplier
  return label_histogram.entries(noise_multiplier)


def write(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  source: types.DataSource,
  records: batching.Records,
  streams: key_streams.KeyStreams,
  dataset: str,
) -> None:
  """Writes the noised histogram to private/, if the config uses one.

  An existing histogram is kept, since new noise would be another release.

  Args:
    config: gives the noise.
    workdir: private/ is written.
    source: the sensitive images.
    records: the images of each record.
    streams: secret randomness of the run.
    dataset: keyed hash of the images, `fingerprint.dataset`.

  Raises:
    UsageError: the existing histogram has other noise or is of other images.
  """
  facts = {
    'noise_multiplier': config.privacy.label_histogram_noise_multiplier,
    'dataset': dataset,
  }
  if _path(workdir).exists():
    _check_kept(workdir, facts)
    return
  for entry in entries(config):
    counts = label_histogram.noised(
      np.asarray(source.labels)[records.images],
      records.starts,
      source.spec.num_classes,
      entry,
      streams,
    )
    found = {'noised': counts.tolist(), **facts}
    files.write_json(_path(workdir), found, mode=0o600)


def _check_kept(workdir: workdirs.Workdir, facts: Mapping[str, Any]) -> None:
  """Compares a histogram with the facts; earlier versions wrote none."""
  kept = files.read_whole_json(_path(workdir))
  for name, value in facts.items():
    if kept.get(name, value) != value:
      raise errors.UsageError(
        f'Expected {_path(workdir)} to be noised as this run says, but its'
        f' {name} differs: the ledger does not count another histogram. Restore'
        ' the config and the images, or give another --workdir.'
      )


def weights(workdir: workdirs.Workdir) -> np.ndarray:
  """Returns the shares of the classes, with negative noised counts set to 0.

  Returns:
    float64[num_classes] >= 0, not all 0.
  """
  counts = np.maximum(files.read_json(_path(workdir))['noised'], 0.0)
  return counts if counts.any() else np.ones_like(counts)


def _path(workdir: workdirs.Workdir) -> epath.Path:
  return workdir.private / workdirs.HISTOGRAM
