"""Classifies images by the class head of a released model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dp_diffusion import console
from dp_diffusion import types
from dp_diffusion.diffusion import schedules
from dp_diffusion.evaluation.classifiers import diffusion_classifier
from dp_diffusion.evaluation.classifiers import head_features
from dp_diffusion.models import class_head
from dp_diffusion.models import unet


class HeadClassifier:
  """A class head with what it reads of images."""

  def __init__(
    self,
    network: unet.UNetConfig,
    params: types.Params,
    diffusion: schedules.DiffusionProcess,
    head: class_head.ClassHead,
    check_stop: Callable[[], None] = lambda: None,
  ) -> None:
    """Puts the weights on the devices.

    Args:
      network: the denoiser.
      params: its weights, those with which the head was trained.
      diffusion: the process that it was trained on.
      head: the head.
      check_stop: called before every batch; raises to end.
    """
    self._head = head
    self._features = head_features.HeadFeatures(
      network,
      params,
      diffusion,
      has_scattering=head.scattering_kernel is not None,
      check_stop=check_stop,
    )

  def classify(
    self,
    images: np.ndarray,
    advance: console.Advance = lambda steps=1: None,
  ) -> diffusion_classifier.Classified:
    """Classifies images.

    Args:
      images: uint8[N, H, W, C], at least one.
      advance: told how many images are done, after each batch.
    """
    found = self._head.log_probs(self._features.of(images, advance))
    return diffusion_classifier.Classified(
      labels=np.argmax(found, axis=1).astype(np.int32), log_probs=found
    )
