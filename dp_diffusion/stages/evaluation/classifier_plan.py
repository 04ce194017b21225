"""Lists the classifiers that an evaluation trains, before it tests any."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from dp_diffusion.evaluation import evaluate_config
from dp_diffusion.evaluation.classifiers import trained_classifiers
from dp_diffusion.evaluation.classifiers import training
from dp_diffusion.training import processes

# Keys of the report: the main classifier is 'cnn', others have their names.
MAIN = 'cnn'
REFERENCE = 'svm'
_MOST_SEEDS = 1000  # Seeds of one run; those of the next run follow.
_NUM_SEEDS = 2**31

Group = tuple[trained_classifiers.Member, ...]  # They differ by seed.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """Groups of classifiers; a classifier may be in several groups.

  Attributes:
    main: (source, key in the report) -> group.
    by_number: number of synthetic images -> group of the main classifier.
    grid: (values that differ in the grid, group), trained on synthetic images.
  """

  main: Mapping[tuple[str, str], Group]
  by_number: Mapping[int, Group]
  grid: tuple[tuple[dict[str, Any], Group], ...]

  def all(self) -> list[trained_classifiers.Member]:
    """Returns every classifier, in the order of training."""
    groups = [
      *self.main.values(),
      *self.by_number.values(),
      *(group for _, group in self.grid),
    ]
    return [member for group in groups for member in group]

  def share(self, share: processes.Share) -> list[trained_classifiers.Member]:
    """Returns the classifiers that a process trains, each of them once.

    The processes take turns, for each kind of network and number of steps, so
    that all have about as much to do. An SVM is not kept in a file. Process 0,
    which tests the classifiers, therefore fits all of these, and trains so many
    fewer networks.

    Args:
      share: which of the processes.
    """
    members = list(dict.fromkeys(self.all()))
    dealt: list[set[trained_classifiers.Member]] = [
      set() for _ in range(share.count)
    ]
    for member in sorted(members, key=_kind):
      is_kept = member.config.name != REFERENCE
      min(dealt if is_kept else dealt[:1], key=len).add(member)
    return [member for member in members if member in dealt[share.index]]


def _kind(member: trained_classifiers.Member) -> tuple[bool, str, int]:
  """Returns what a classifier costs, for sorting; SVMs come first."""
  name = member.config.name
  return name != REFERENCE, name, member.config.num_steps


def make(
  settings: evaluate_config.EvaluateConfig,
  num_images: Mapping[str, int],
  seed: int,
) -> Plan:
  """Makes the plan of an evaluation.

  Args:
    settings: the section `evaluate`.
    num_images: source -> number of training images. Without 'synthetic' there
      are no curve by number of images and no grid.
    seed: seed of the run. Runs with other seeds train other networks even on
      the same images, so that the spread over seeds includes that of networks.
  """

  def group(
    source: str, config: training.ClassifierConfig, number: int = 0
  ) -> Group:
    # The SVM has no randomness, so one fit is enough.
    num_seeds = 1 if config.name == REFERENCE else settings.num_seeds
    return tuple(
      trained_classifiers.Member(
        source=source,
        num_images=number or num_images[source],
        config=config,
        seed=(_MOST_SEEDS * seed + number_of_seed) % _NUM_SEEDS,
      )
      for number_of_seed in range(num_seeds)
    )

  configs = {MAIN: settings.classifier}
  for name in settings.classifiers:
    configs[name] = training.of_kind(name, settings.classifier)
  if settings.svm:
    configs[REFERENCE] = training.ClassifierConfig(name=REFERENCE)
  has_synthetic = 'synthetic' in num_images
  shares = settings.size_shares if has_synthetic else ()
  numbers = {max(1, round(share * num_images['synthetic'])) for share in shares}
  return Plan(
    main={
      (source, key): group(source, config)
      for source in num_images
      for key, config in configs.items()
    },
    by_number={
      number: group('synthetic', settings.classifier, number)
      for number in sorted(numbers)
    },
    grid=tuple(
      (setting, group('synthetic', config))
      for setting, config in settings.selection.settings(settings.classifier)
    )
    if has_synthetic and settings.selection.is_on
    else (),
  )
