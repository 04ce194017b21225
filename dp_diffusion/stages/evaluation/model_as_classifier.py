"""Lets the released model itself classify held-out images."""

from __future__ import annotations

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
from dp_diffusion.stages.run import interrupts


def sections(
  config: config_lib.Config,
  release_dir: epath.Path,
  held_out: types.DataSource,
  stop: interrupts.Stop,
) -> list[page.Section]:
  """Returns the section, or none if it is off or there is no such model.

  Args:
    config: gives the seed, the network and the number of images.
    release_dir: its model is read. That of a baseline is no diffusion model.
    held_out: images that no training has seen. Some of them are drawn by the
      public seed.
    stop: called before every batch; tells whether to stop.

  Raises:
    Interrupted: the user asked to stop.
  """
  most = config.evaluate.diffusion_classifier_images
  num_classes = len(config.data.class_names)
  if not most or num_classes < 2:
    return []
  if not (release_dir / 'model' / 'model.json').exists():
    return []
  params, description = release.read_model(release_dir)
  if 'unet' not in description:
    return []
  classifier = diffusion_classifier.DiffusionClassifier(
    config.unet_config(config.data),
    weights.unflatten(params),
    config.finetune_diffusion(),
    seed=config.seed,
    check_stop=stop.raise_if_asked,
  )
  drawn = np.random.default_rng(config.seed).permutation(len(held_out.images))
  drawn = np.sort(drawn[:most])
  images, labels = held_out.images[drawn], np.asarray(held_out.labels)[drawn]
  title = 'classifying held-out images by the model'
  with console.progress_of(title, len(drawn)) as advance:
    found = classifier.classify(np.asarray(images), advance)
  persons = held_out.person
  score = scoring.score(
    [found.labels],
    labels,
    num_classes,
    probs_per_seed=[found.log_probs],
    persons=None if persons is None else np.asarray(persons)[drawn],
  )
  return [model_section.section(score)]
