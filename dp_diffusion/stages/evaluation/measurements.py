"""Measures everything that an evaluation reports on a synthetic dataset.

`measure` takes a folder with `dataset/*.npz`, as `release.write_shard` writes
it. Our own releases and those of baselines are measured by the same code. The
stage `evaluate` adds the privacy statement and writes the report.

Only process 0 calls it, while the others wait (`processes.on_main`), so nothing
here is collective. Feature networks use all devices of that process, and
classifiers the first one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any

from etils import epath
import numpy as np

from dp_diffusion import config as config_lib
from dp_diffusion import release
from dp_diffusion import types
from dp_diffusion.data import registry
from dp_diffusion.evaluation.classifiers import read_once
from dp_diffusion.evaluation.classifiers import scoring
from dp_diffusion.evaluation.classifiers import trained_classifiers
from dp_diffusion.evaluation.metrics import duplicates
from dp_diffusion.evaluation.report import accuracy_section
from dp_diffusion.evaluation.report import page
from dp_diffusion.stages.evaluation import classifier_plan
from dp_diffusion.stages.evaluation import classifier_tests
from dp_diffusion.stages.evaluation import image_distances
from dp_diffusion.stages.evaluation import model_as_classifier
from dp_diffusion.stages.run import interrupts

SOURCES = accuracy_section.SOURCES


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationPaths:
  """The folders of an evaluation.

  Attributes:
    release: folder with `dataset/*.npz`, which is read.
    evaluation: folder for figures and the report, computed from real images.
    private: folder for trained classifiers and pictures of training images.
      Several evaluations of one sensitive dataset may share it, and then also
      share classifiers.
  """

  release: epath.Path
  evaluation: epath.Path
  private: epath.Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
  """The results of an evaluation.

  Attributes:
    accuracies: scores on the held-out real images, by source and classifier.
    images: set -> (uint8[N, H, W, C], int32[N]) to show.
    sections: sections of the other metrics, each with its numbers.
  """

  accuracies: accuracy_section.Accuracies
  images: Mapping[str, types.LabelledImages]
  sections: Sequence[page.Section]


def measure(
  config: config_lib.Config,
  places: EvaluationPaths,
  stop: interrupts.Stop,
  sources: Sequence[str] = SOURCES,
) -> Measured:
  """Measures a synthetic dataset on real images. It can be resumed.

  Args:
    config: gives data, pretrain.data and evaluate.
    places: the folders of the evaluation.
    stop: called at every step of every classifier; tells whether to stop.
    sources: sources of training images, from `SOURCES`. 'public' is left out if
      the public images have other classes.

  Raises:
    UsageError: a dataset or the features are missing, or there are too few
      images.
    Interrupted: the user asked to stop; trained classifiers are kept.
  """
  settings = config.evaluate
  real = registry.load(config.data)
  synthetic = release.read_dataset(places.release)
  sets = _sources(config, synthetic, real, sources)
  num_classes = len(config.data.class_names) or 1
  held_out = _held_out(config, config.data.test_split)
  members = trained_classifiers.Members(
    sets,
    dict.fromkeys(sets, num_classes),
    places.private / 'classifiers',
    stop.raise_if_asked,
  )
  extractor = image_distances.extractor(config, places.private, stop)
  num_images = {source: len(labels) for source, (_, labels) in sets.items()}
  plan = classifier_plan.make(settings, num_images, config.seed)
  with held_out.closed():
    members.train(plan.all())

  test = held_out.open()
  is_duplicate = duplicates.equal_to_any(test.images, real.images)
  tester = classifier_tests.Tester(
    members,
    test.images,
    test.labels,
    num_classes,
    None if test.person is None else np.asarray(test.person),
    is_duplicate,
  )
  scores: dict[str, dict[str, scoring.Score]] = {s: {} for s in sets}
  for (source, key), group in plan.main.items():
    scores[source][key] = tester.score(group)
  found = accuracy_section.Accuracies(
    scores=scores,
    class_names=config.data.class_names,
    num_train_images=num_images,
    classifier_names={classifier_plan.MAIN: settings.classifier.name},
    num_held_out_equal_training=int(is_duplicate.sum()),
  )
  fresh = test
  if settings.held_out_split not in ('', config.data.test_split):
    fresh = registry.load(config.data, settings.held_out_split)
  persons = None
  if real.person is not None and fresh.person is not None:
    persons = np.asarray(real.person), np.asarray(fresh.person)
  return Measured(
    accuracies=found,
    images={
      **{s: sets[s] for s in ('public', 'synthetic') if s in sets},
      'held_out': (np.asarray(test.images), np.asarray(test.labels)),
    },
    sections=[
      *model_as_classifier.sections(config, places.release, test, stop),
      *classifier_tests.sections(tester, plan, settings.ensemble_size, found),
      *image_distances.sections(
        config,
        extractor,
        synthetic,
        (real.images, real.labels),
        (fresh.images, fresh.labels),
        places.private,
        stop,
        persons,
      ),
    ],
  )


def _sources(
  config: config_lib.Config,
  synthetic: types.LabelledImages,
  real: Any,
  names: Sequence[str],
) -> dict[str, types.LabelledImages]:
  """Returns at most `max_train_images` training images of each source."""
  # As many public images are taken as there are synthetic ones.
  sets = {'synthetic': synthetic}
  has_same_classes = config.pretrain.data.class_names == config.data.class_names
  if 'public' in names and has_same_classes:
    # Public images of other classes would be useless for training.
    public = registry.load(config.pretrain.data)
    sets['public'] = trained_classifiers.subset(
      public.images, public.labels, len(synthetic[1])
    )
  sets['real'] = (real.images, np.asarray(real.labels))
  most = config.evaluate.max_train_images
  return {
    name: trained_classifiers.subset(*sets[name], most or len(sets[name][1]))
    for name in sets
    if name in names
  }


def _held_out(config: config_lib.Config, split: str) -> read_once.HeldOut:
  return read_once.HeldOut(functools.partial(registry.load, config.data, split))
