"""Tests the trained classifiers on the held-out real images."""

from __future__ import annotations

import numpy as np

from dp_diffusion.evaluation.classifiers import model_selection
from dp_diffusion.evaluation.classifiers import scoring
from dp_diffusion.evaluation.classifiers import trained_classifiers
from dp_diffusion.evaluation.report import accuracy_section
from dp_diffusion.evaluation.report import curves_section
from dp_diffusion.evaluation.report import page
from dp_diffusion.evaluation.report import selection_section
from dp_diffusion.stages.evaluation import classifier_plan


class Tester:
  """Scores groups of classifiers. Each classifier predicts only once."""

  def __init__(
    self,
    members: trained_classifiers.Members,
    images: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    persons: np.ndarray | None,
    is_duplicate: np.ndarray,
  ) -> None:
    """Stores the held-out images.

    Args:
      members: the classifiers, all of them trained.
      images: uint8[N, H, W, C].
      labels: int32[N].
      num_classes: number of classes K.
      persons: int[N], the person on each image; None if unknown.
      is_duplicate: bool[N], whether the image equals a training image.
    """
    self.labels = np.asarray(labels)
    self._members = members
    self._images = images
    self._num_classes = num_classes
    self._persons = persons
    self.is_duplicate = is_duplicate
    self._probs: dict[trained_classifiers.Member, np.ndarray] = {}

  def probs(self, member: trained_classifiers.Member) -> np.ndarray:
    """Returns the predicted probabilities, float32[N, K]."""
    if member not in self._probs:
      classifier = self._members.get(member)
      self._probs[member] = classifier.predict_proba(self._images)
    return self._probs[member]

  def score(self, group: classifier_plan.Group) -> scoring.Score:
    """Returns mean and spread of the single classifiers of a group."""
    probs = [self.probs(m) for m in group]
    return scoring.score(
      [np.argmax(p, axis=1) for p in probs],
      self.labels,
      self._num_classes,
      probs_per_seed=probs,
      persons=self._persons,
      is_duplicate=self.is_duplicate,
    )

  def ensemble(
    self, group: classifier_plan.Group, size: int
  ) -> scoring.Accuracy | None:
    """Returns the accuracy of an ensemble of the first `size` classifiers.

    It is None if the group has fewer.
    """
    if not 0 < size <= len(group):
      return None
    mean = np.mean([self.probs(m) for m in group[:size]], axis=0)
    predicted = np.argmax(mean, axis=1)
    return scoring.accuracy(predicted, self.labels, self._persons)

  def point(
    self, setting: dict, group: classifier_plan.Group
  ) -> model_selection.Point:
    """Scores a setting of the grid on synthetic and on real images."""
    chosen_by = [self._members.validation_accuracy(m) for m in group]
    return model_selection.Point(
      setting=setting,
      synthetic_score=float(np.mean(chosen_by)),
      real_score=self.score(group).accuracy.value,
    )


def sections(
  tester: Tester,
  plan: classifier_plan.Plan,
  ensemble_size: int,
  found: accuracy_section.Accuracies,
) -> list[page.Section]:
  """Returns the planned sections: ensembles, curve by number of images, grid.

  Args:
    tester: scores the classifiers.
    plan: lists the classifiers.
    ensemble_size: number of classifiers in an ensemble; 0 for no ensemble.
    found: scores of single classifiers.
  """
  ensembles: dict[str, dict[str, scoring.Accuracy]] = {}
  for (source, key), group in plan.main.items():
    accuracy = tester.ensemble(group, ensemble_size)
    if accuracy and key != classifier_plan.REFERENCE:
      ensembles.setdefault(source, {})[key] = accuracy
  made = curves_section.sections(
    curves_section.Curves(
      ensembles=ensembles,
      ensemble_size=ensemble_size,
      points=[
        curves_section.Point(
          num_images=number,
          single=tester.score(group),
          ensemble=tester.ensemble(group, ensemble_size),
        )
        for number, group in plan.by_number.items()
      ],
      found=found,
    )
  )
  if plan.grid:
    points = [tester.point(setting, group) for setting, group in plan.grid]
    made.append(
      selection_section.section(
        model_selection.compare(points),
        len(plan.grid[0][1]),
        len(tester.labels),
        accuracy_section.majority_share(found.scores) or 1.0,
      )
    )
  return made
