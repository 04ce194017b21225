"""Lets the released model, and its class head, classify held-out images."""

from __future__ import annotations

import dataclasses

from etils import epath
import numpy as np

from dp_diffusion import config as config_lib
from dp_diffusion import console
from dp_diffusion import release
from dp_diffusion import types
from dp_diffusion.evaluation.classifiers import diffusion_classifier
from dp_diffusion.evaluation.classifiers import scoring
from dp_diffusion.evaluation.report import model_section
from dp_diffusion.evaluation.report import page
from dp_diffusion.models import weights
from dp_diffusion.stages.run import assembly
from dp_diffusion.stages.run import interrupts
from dp_diffusion.training import processes


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Drawn:
  """The held-out images to classify.

  Attributes:
    images: uint8[n, H, W, C].
    labels: int32[n].
    persons: int32[n], the person on each image; None if unknown.
  """

  images: np.ndarray
  labels: np.ndarray
  persons: np.ndarray | None


def sections(
  config: config_lib.Config,
  release_dir: epath.Path,
  held_out: types.DataSource,
  stop: interrupts.Stop,
) -> list[page.Section]:
  """Returns the sections; none if it is off or there is no such model.

  All processes call it. Each classifies its share of the images by the model,
  and all images by the class head, which takes one evaluation of the network.

  Args:
    config: gives the seed, the network and the number of images.
    release_dir: its model is read. That of a baseline is no diffusion model.
    held_out: images that no training has seen. Some of them are drawn by the
      public seed.
    stop: called before every batch; tells whether to stop.

  Raises:
    Interrupted: the user asked to stop.
  """
  found = processes.together(
    lambda: _of_head(config, release_dir, held_out, stop)
  )
  return [*_of_model(config, release_dir, held_out, stop), *found]


def _of_head(
  config: config_lib.Config,
  release_dir: epath.Path,
  held_out: types.DataSource,
  stop: interrupts.Stop,
) -> list[page.Section]:
  classifier = assembly.released_head(config, release_dir, stop.raise_if_asked)
  if classifier is None:
    return []
  title = 'classifying held-out images by the class head'
  with console.progress_of(title, len(held_out.images)) as advance:
    found = classifier.classify(held_out.images, advance)
  score = scoring.score(
    [found.labels],
    np.asarray(held_out.labels),
    config.data.num_classes,
    probs_per_seed=[found.log_probs],
    persons=held_out.person,
  )
  return [model_section.head_section(score)]


def _of_model(
  config: config_lib.Config,
  release_dir: epath.Path,
  held_out: types.DataSource,
  stop: interrupts.Stop,
) -> list[page.Section]:
  num_classes = len(config.data.class_names)
  if not config.evaluate.diffusion_classifier_images or num_classes < 2:
    return []
  classifier = processes.together(lambda: _load(config, release_dir, stop))
  if classifier is None:
    return []
  drawn = _draw(config, held_out)
  bounds = processes.together(lambda: _bounds(classifier, drawn.images))
  # Each is 0 where another process computed it.
  bounds = processes.gather(bounds).sum(axis=0)
  found = diffusion_classifier.by_bounds(bounds)
  score = scoring.score(
    [found.labels],
    drawn.labels,
    num_classes,
    probs_per_seed=[found.log_probs],
    persons=drawn.persons,
  )
  return [model_section.section(score)]


def _load(
  config: config_lib.Config, release_dir: epath.Path, stop: interrupts.Stop
) -> diffusion_classifier.DiffusionClassifier | None:
  """Loads the released model; None if there is no diffusion model."""
  if not (release_dir / 'model' / 'model.json').exists():
    return None
  params, description = release.read_model(release_dir)
  if 'unet' not in description:
    return None
  return diffusion_classifier.DiffusionClassifier(
    config.unet_config(config.data),
    weights.unflatten(params),
    config.finetune_diffusion(),
    seed=config.seed,
    check_stop=stop.raise_if_asked,
  )


def _draw(config: config_lib.Config, held_out: types.DataSource) -> _Drawn:
  """Draws the images to classify, the same on every process."""
  most = config.evaluate.diffusion_classifier_images
  order = np.random.default_rng(config.seed).permutation(len(held_out.images))
  rows = np.sort(order[:most])
  persons = held_out.person
  return _Drawn(
    images=np.asarray(held_out.images[rows]),
    labels=np.asarray(held_out.labels)[rows],
    persons=None if persons is None else np.asarray(persons)[rows],
  )


def _bounds(
  classifier: diffusion_classifier.DiffusionClassifier, images: np.ndarray
) -> np.ndarray:
  """Computes the bounds of this process's share, float64[n, K]."""
  title = 'classifying held-out images by the model'
  with console.progress_of(title, len(images)) as advance:
    return classifier.bounds(images, processes.own_share(), advance)
