"""The section `evaluate` of a config: what an evaluation measures."""

from __future__ import annotations

import dataclasses
from typing import Any

from dp_diffusion import checks
from dp_diffusion.evaluation.classifiers import model_selection
from dp_diffusion.evaluation.classifiers import training

_AXES = {  # Axis of a grid -> field of a classifier.
  'num_steps': 'num_steps',
  'learning_rates': 'learning_rate',
  'weight_decays': 'weight_decay',
  'label_smoothings': 'label_smoothing',
}
FEATURES = ('', 'inception', 'public', 'pixels')  # Or the path of an .npz.


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectionConfig:
  """A grid of classifier settings. There is no grid if every axis is ().

  An axis that is () keeps the value of the main classifier. A network other
  than the main one has its usual settings (`training.RECIPES`).

  Attributes:
    names: kinds of networks.
    num_steps: numbers of optimizer steps.
    learning_rates: peak learning rates.
    weight_decays: weight decays, per unit of learning rate.
    label_smoothings: label smoothings, in [0, 1).
  """

  names: tuple[str, ...]
  num_steps: tuple[int, ...]
  learning_rates: tuple[float, ...]
  weight_decays: tuple[float, ...]
  label_smoothings: tuple[float, ...]

  @property
  def is_on(self) -> bool:
    """Whether there is a grid."""
    return any(dataclasses.astuple(self))

  def settings(
    self, main: training.ClassifierConfig
  ) -> list[tuple[dict[str, Any], training.ClassifierConfig]]:
    """Returns every setting: (values that differ in the grid, classifier).

    Args:
      main: the main classifier.
    """
    axes = {
      field: getattr(self, axis)
      for axis, field in _AXES.items()
      if getattr(self, axis)
    }
    found = []
    for name in self.names or (main.name,):
      base = training.of_kind(name, main)
      for config in model_selection.grid(base, axes):
        named = {'name': name} if self.names else {}
        rest = {field: getattr(config, field) for field in axes}
        found.append((named | rest, config))
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
  """What an evaluation of the released dataset measures.

  Attributes:
    classifier: the main network, trained on each source of images.
    classifiers: further networks. Each has its usual settings
      (`training.RECIPES`), but the steps, batch size, augmentation and
      validation of the main one.
    num_seeds: number of classifiers per source; the report shows their mean.
    ensemble_size: number of these classifiers in an ensemble; 0 for none.
    size_shares: shares of the synthetic images, in (0, 1], on which the main
      classifier is also trained; () for none.
    selection: a grid of settings, to test choosing them on synthetic images.
    svm: whether to train the fixed reference too, scikit-learn's RBF SVM.
    max_train_images: largest number of images per source; 0 takes all.
    features: features in which distances between sets of images are measured:
      'inception' (FID), 'public' (a small CNN trained on the public images),
      'pixels', or the path of an .npz with a LeNet-5 or a CIFAR ResNet; ''
      measures no distances.
    inception_path: the file of Inception's weights; '' takes the user's cache
      and downloads the file on first use.
    held_out_split: split of held-out images from the same distribution as the
      training images, for distances and memorization; '' is data.test_split.
    max_distance_images: largest number of images of a set in a distance.
    allow_few_images: whether to measure distances with fewer images than
      features.
    memorization: whether to look for copies of training images.
  """

  classifier: training.ClassifierConfig
  classifiers: tuple[str, ...]
  num_seeds: int
  ensemble_size: int
  size_shares: tuple[float, ...]
  selection: SelectionConfig
  svm: bool
  max_train_images: int
  features: str
  inception_path: str
  held_out_split: str
  max_distance_images: int
  allow_few_images: bool
  memorization: bool

  def __post_init__(self) -> None:
    checks.check_at_least('num_seeds', self.num_seeds, 1)
    checks.check_non_negative('max_train_images', self.max_train_images)
    checks.check_at_least('max_distance_images', self.max_distance_images, 20)
    if not 0 <= self.ensemble_size <= self.num_seeds:
      raise ValueError(
        f'Expected ensemble_size={self.ensemble_size} to be at most'
        f' num_seeds={self.num_seeds}: it is how many of these classifiers are'
        ' put together.'
      )
    for share in self.size_shares:
      if not 0 < share <= 1:
        raise ValueError(f'Expected size_shares={share!r} to be in (0, 1].')
    for name in self.classifiers:
      checks.check_one_of('classifiers', name, set(training.NAMES) - {'svm'})
    if len({self.classifier.name, *self.classifiers}) <= len(self.classifiers):
      raise ValueError(
        f'Expected classifiers={self.classifiers} to be others than'
        f' {self.classifier.name!r}, without repeats.'
      )
    self._check_selection()
    if not self.features.endswith('.npz') and self.features not in FEATURES:
      raise ValueError(
        f"Expected features={self.features!r} to be '', 'inception', 'public',"
        " 'pixels' or the path of an .npz file."
      )
    if self.inception_path and self.features != 'inception':
      raise ValueError(
        f"Expected features={self.features!r} to be 'inception', as"
        ' inception_path is set.'
      )

  def _check_selection(self) -> None:
    if not self.selection.is_on:
      return
    settings = self.selection.settings(self.classifier)  # This checks each.
    if len(settings) < 2:
      raise ValueError('Expected selection to give at least two settings.')
    if any(config.name == 'svm' for _, config in settings) or (
      not self.classifier.validation_fraction
    ):
      raise ValueError(
        'Expected selection of networks with classifier.validation_fraction >'
        ' 0: settings are chosen on that part of the synthetic images.'
      )
