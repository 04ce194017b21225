"""What an evaluation measures: the section `evaluate` of a config, checked."""

from __future__ import annotations

import dataclasses

from dp_diffusion import array_types
from dp_diffusion.evaluation import classifiers

FEATURES = ('', 'inception', 'public', 'pixels')  # Or a path of an .npz.


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
  """Measuring the released dataset on real held-out images.

  Attributes:
    classifier: the main network, trained on each source of images.
    num_seeds: classifiers per source; their mean is reported.
    svm: also train the fixed outside reference, scikit-learn's RBF SVM.
    max_train_images: at most so many images per source; 0 for all.
    features: what the distances between sets of images are taken in: '' for
      no distances, 'inception' (FID), 'public' (a small CNN trained on the
      public images), 'pixels', or the path of an .npz with a LeNet-5 or a
      CIFAR ResNet.
    inception_path: the file of Inception's weights; '' is the user's cache,
      fetched on first use.
    held_out_split: held-out images of the distribution that was trained on,
      for distances and memorization; '' is data.test_split.
    max_distance_images: at most so many images of a set enter distances.
    allow_few_images: go on with fewer images than features.
    memorization: whether to look for copies of training images.
  """

  classifier: classifiers.ClassifierConfig
  num_seeds: int
  svm: bool
  max_train_images: int
  features: str
  inception_path: str
  held_out_split: str
  max_distance_images: int
  allow_few_images: bool
  memorization: bool

  def __post_init__(self) -> None:
    array_types.check_at_least('num_seeds', self.num_seeds, 1)
    array_types.check_non_negative('max_train_images', self.max_train_images)
    array_types.check_at_least(
      'max_distance_images', self.max_distance_images, 20
    )
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
