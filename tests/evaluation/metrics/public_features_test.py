"""Features are what the last layer sees, and never called FID's."""

from __future__ import annotations

import numpy as np

from dp_diffusion.evaluation.classifiers import downstream
from dp_diffusion.evaluation.classifiers import training
from dp_diffusion.evaluation.metrics import public_features


def test_features_are_what_the_last_layer_sees():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (20, 4, 4, 1)).astype(np.uint8)
  labels = rng.integers(3, size=20).astype(np.int32)
  classifier = downstream.train_classifier(
    training.ClassifierConfig(num_steps=2, batch_size=8),
    images,
    labels,
    3,
    seed=0,
  )
  extractor = public_features.extractor(classifier, 'small CNN', (4, 4, 1))
  found = extractor.extract(images)
  assert found.shape == (20, 128) == (20, extractor.num_features)
  assert not extractor.is_inception
  last = classifier.variables['params']['Dense_1']
  logits = found @ last['kernel'] + last['bias']
  probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  np.testing.assert_allclose(
    probs, classifier.predict_proba(images), rtol=1e-4, atol=1e-5
  )
