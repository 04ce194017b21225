"""A small network that is trained on the public images alone.

Its features are those of DP-MEPF and of Private Evolution, and its predictions
are the votes of sensitive images for public classes.
"""

from __future__ import annotations

import numpy as np

from dp_diffusion import config as config_lib
from dp_diffusion import types
from dp_diffusion.evaluation.classifiers import downstream
from dp_diffusion.evaluation.classifiers import training


def train(
  config: config_lib.Config, public: types.DataSource
) -> downstream.NeuralClassifier:
  """Trains the small CNN; it depends on the public images and the config.

  Args:
    config: gives seed and evaluate.classifier.
    public: the public images.
  """
  trained = downstream.train_classifier(
    training.of_kind('small_cnn', config.evaluate.classifier),
    np.asarray(public.images),
    np.asarray(public.labels),
    public.spec.num_classes,
    config.seed,
  )
  assert isinstance(trained, downstream.NeuralClassifier)
  return trained
