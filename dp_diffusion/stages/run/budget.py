"""Calibrates the private steps to the epsilon that all else leaves to them.

Guarantees:
  * The noised histogram, the statistics of a warm-up, the Gaussians of classes
    and the gradients of a class head are entered in the ledger, and DP-SGD is
    calibrated to what remains.
    `tests/stages/finetune_test.py::test_histogram_is_paid_for`,
    `tests/stages/finetune_test.py::test_statistics_of_a_warm_up_are_paid_for`,
    `tests/stages/class_gaussians_test.py::test_they_are_paid_for`,
    `tests/stages/class_head_test.py::test_a_head_is_paid_for`.
"""

from __future__ import annotations

from collections.abc import Sequence

from dp_diffusion import config as config_lib
from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import entries as entries_lib
from dp_diffusion.stages.run import histograms


def entries(config: config_lib.Config) -> tuple[entries_lib.Entry, ...]:
  """Returns the ledger entries for what this run spends beside DP-SGD.

  The class head is trained after the private steps. It is entered before them,
  so that they are calibrated to the rest, and nothing can be spent unentered.
  """
  finetune = config.finetune
  return (
    *histograms.entries(config),
    *finetune.warm_up.entries(),
    *finetune.class_gaussians.entries(),
    *finetune.class_head.entries(),
  )


def calibrate(
  config: config_lib.Config, inherited: Sequence[entries_lib.Entry] = ()
) -> accounting.Calibration:
  """Calibrates DP-SGD to the budget that the other entries leave.

  Args:
    config: gives privacy and finetune.
    inherited: ledger entries from before this run, see `inherited_ledger`.

  Raises:
    UsageError: no noise multiplier keeps the promised epsilon.
  """
  before = (*inherited, *entries(config))
  spent = [event for entry in before for event in entry.dp_events()]
  return accounting.calibrate(config.privacy, spent=spent)
