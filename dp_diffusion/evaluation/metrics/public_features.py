"""Features of a classifier that was trained on public images alone.

With them every config has a Frechet distance without any file of weights. The
network does not depend on sensitive images, so it is the same for every
release. A test on public images that it was not trained on shows whether it has
learned anything.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from dp_diffusion.evaluation.classifiers import downstream
from dp_diffusion.evaluation.classifiers import scoring
from dp_diffusion.evaluation.metrics import duplicates
from dp_diffusion.evaluation.metrics import features

_HELD_OUT_SHARE = 5  # One image in five is held out,
_MAX_HELD_OUT = 5000  # but at most this number.
_ORDER_SEED = 0  # Seed for choosing the held-out images.


def extractor(
  classifier: downstream.NeuralClassifier,
  name: str,
  image_shape: tuple[int, int, int],
  bind_fn: features.BindFn = features.jit_bind,
) -> features.NetExtractor:
  """Returns the extractor of the inputs of a classifier's last layer.

  Args:
    classifier: a classifier trained on public images.
    name: name of the features, for tables.
    image_shape: (H, W, C).
    bind_fn: compiles the network for one or several devices.
  """

  def apply(variables: Any, images: jax.Array) -> jax.Array:
    return classifier.fns.features(variables, images)

  found = jax.eval_shape(
    apply, classifier.variables, np.zeros((1, *image_shape), np.uint8)
  )
  return features.NetExtractor(
    name=name,
    num_features=found.shape[-1],
    apply_fn=apply,
    params=classifier.variables,
    bind_fn=bind_fn,
  )


def divide(
  images: np.ndarray, max_train: int, persons: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Chooses public images to train the network on, and others to test it on.

  No held-out image equals one that is trained on, and no person is on both
  sides.

  Args:
    images: uint8[N, H, W, C]; may be memory-mapped.
    max_train: largest number of images to train on.
    persons: int[N], the person on each image; None if unknown.

  Returns:
    Indices int64[T] to train on and int64[M] to test on, ascending. M is at
    most a fifth of N and at most 5,000; it is 0 if nothing can be held out.
  """
  num_images = len(images)
  units = np.arange(num_images) if persons is None else np.asarray(persons)
  _, unit, sizes = np.unique(units, return_inverse=True, return_counts=True)
  rng = np.random.default_rng(_ORDER_SEED)
  order = rng.permutation(len(sizes))
  most = min(num_images // _HELD_OUT_SHARE, _MAX_HELD_OUT)
  is_held_out = np.isin(unit, order[np.cumsum(sizes[order]) <= most])
  held_out, train = np.flatnonzero(is_held_out), np.flatnonzero(~is_held_out)
  train = np.sort(rng.permutation(train)[:max_train])
  known = set(duplicates.digests(images, train))
  is_new = [d not in known for d in duplicates.digests(images, held_out)]
  return train, held_out[np.array(is_new, bool)]


def with_test(
  network: features.NetExtractor,
  classifier: downstream.NeuralClassifier,
  images: np.ndarray,
  labels: np.ndarray,
  persons: np.ndarray | None = None,
) -> features.NetExtractor:
  """Tests the network on public images that it was not trained on.

  Args:
    network: the result of `extractor`.
    classifier: the classifier from which `extractor` made it.
    images: uint8[M, H, W, C], held-out public images; M may be 0.
    labels: int32[M].
    persons: int[M], the person on each image; None if unknown.

  Returns:
    The network with its `network_test`.
  """
  predicted = labels
  if len(images):
    predicted = downstream.predictions(classifier, images)
  found = scoring.accuracy(predicted, labels, persons)
  test = features.NetworkTest(
    accuracy=found.value,
    low=found.low,
    high=found.high,
    chance=scoring.majority_share(labels),
    num_images=len(labels),
    num_features=network.num_features,
    num_live=features.num_live(network.extract(images)),
  )
  return dataclasses.replace(network, network_test=test)
