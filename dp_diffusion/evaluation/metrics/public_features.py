"""Features of a classifier that has seen public images alone.

They give every config a Frechet distance without any file. As the network has
seen no sensitive image, it says the same of every release.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from dp_diffusion.evaluation.classifiers import downstream
from dp_diffusion.evaluation.metrics import features


def extractor(
  classifier: downstream.NeuralClassifier,
  name: str,
  image_shape: tuple[int, int, int],
  bind_fn: features.BindFn = features.jit_bind,
) -> features.NetExtractor:
  """What the last layer of the classifier sees.

  Args:
    classifier: trained on public images.
    name: of the features, for tables.
    image_shape: (H, W, C).
    bind_fn: how it is compiled.
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
