"""The section `evaluate` of a config: what an evaluation measures."""

from __future__ import annotations

import dataclasses
from typing import Any

from dp_diffusion import config_keys
from dp_diffusion.evaluation.classifiers import model_selection
from dp_diffusion.evaluation.classifiers import training

_AXES = {  # Axis of a grid -> field of a classifier.
  'num_steps': 'num_steps',
  'learning_rates': 'learning_rate',
  'weight_decays': 'weight_decay',
  'label_smoothings': 'label_smoothing',
}
FEATURES = ('', 'inception', 'public', 'pixels')  # Or the path of an .npz.
_PAPERS = 'wrn_40_4'  # The classifier of the paper [r].
_NETWORKS = tuple(name for name in training.NAMES if name != 'svm')


def _listed(names: tuple[str, ...]) -> str:
  return ', '.join(map(repr, names))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectionConfig:
  """A grid of classifier settings. There is no grid if every axis is ().

  An axis that is () keeps the value of the main classifier. A network other
  than the main one has its usual settings (`training.RECIPES`).
  """

  names: tuple[str, ...] = config_keys.key((), 'Kinds of networks.', _NETWORKS)
  num_steps: tuple[int, ...] = config_keys.key(
    (), 'Numbers of optimizer steps.', '>= 1'
  )
  learning_rates: tuple[float, ...] = config_keys.key(
    (), 'Peak learning rates.', '> 0'
  )
  weight_decays: tuple[float, ...] = config_keys.key(
    (), 'Weight decays, per unit of learning rate.', '>= 0'
  )
  label_smoothings: tuple[float, ...] = config_keys.key(
    (), 'Label smoothings.', '[0, 1)'
  )

  def __post_init__(self) -> None:
    config_keys.check(self, 'selection.')

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
  """What an evaluation of the released dataset measures."""

  classifier: training.ClassifierConfig = config_keys.section(
    'The main network, trained on each source of images.',
    changed={
      'name': _PAPERS,
      'num_steps': 10_000,
      **training.RECIPES[_PAPERS],
    },
  )
  classifiers: tuple[str, ...] = config_keys.key(
    (),
    'Further networks. Each has its usual settings, but the steps, batch size,'
    ' augmentation and validation of the main one.',
    _NETWORKS,
  )
  num_seeds: int = config_keys.key(
    5,
    'Number of classifiers per source of images; the report shows their mean.',
    '>= 1',
  )
  ensemble_size: int = config_keys.key(
    5,
    'Number of these classifiers in an ensemble, at most num_seeds; 0 for'
    ' none.',
    '>= 0',
  )
  size_shares: tuple[float, ...] = config_keys.key(
    (),
    'Shares of the synthetic images on which the main classifier is also'
    ' trained, as 0.1,0.3,1.0; () for none.',
    '(0, 1]',
  )
  selection: SelectionConfig = config_keys.section(
    'A grid of settings, to test choosing them on synthetic images.'
  )
  svm: bool = config_keys.key(
    False, "Whether to train the fixed reference too, scikit-learn's RBF SVM."
  )
  soft_labels: bool = config_keys.key(
    True,
    'Whether networks learn the class probabilities of synthetic images where'
    ' the dataset holds them (sample.class_probabilities), and not the labels.',
    is_later=True,
  )
  diffusion_classifier_images: int = config_keys.key(
    0,
    'Number of held-out images that the released model classifies itself, by'
    ' the class under which it removes noise best; 0 for none. An image takes'
    ' 24 evaluations of the network for each class.',
    '>= 0',
    is_later=True,
  )
  max_train_images: int = config_keys.key(
    0, 'Largest number of images per source; 0 takes all.', '>= 0'
  )
  features: str = config_keys.key(
    '',
    'Features in which distances between sets of images are measured:'
    " 'inception' (FID), 'public' (a small CNN trained on the public images),"
    " 'pixels', or the path of an .npz with a LeNet-5 or a CIFAR ResNet; ''"
    ' measures no distances.',
    config_keys.Allowed(f'{_listed(FEATURES)}, or an .npz file'),
  )
  inception_path: str = config_keys.key(
    '',
    "The file of Inception's weights; '' takes the user's cache and downloads"
    ' the file on first use.',
  )
  held_out_split: str = config_keys.key(
    '',
    'Split of held-out images from the same distribution as the training'
    " images, for distances and memorization; '' is data.test_split.",
  )
  max_distance_images: int = config_keys.key(
    50_000, 'Largest number of images of a set in a distance.', '>= 20'
  )
  allow_few_images: bool = config_keys.key(
    False, 'Whether to measure distances with fewer images than features.'
  )
  memorization: bool = config_keys.key(
    True, 'Whether to look for copies of training images.'
  )

  def __post_init__(self) -> None:
    config_keys.check(self)
    if self.ensemble_size > self.num_seeds:
      raise ValueError(
        f'Expected ensemble_size={self.ensemble_size} to be at most'
        f' num_seeds={self.num_seeds}: it is how many of these classifiers are'
        ' put together.'
      )
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
