"""Measures everything that an evaluation reports on a synthetic dataset.

`measure` takes a folder with `dataset/*.npz`, as `release.write_shard` writes
it. Our own releases and those of baselines are measured by the same code. The
stage `evaluate` adds the privacy statement and writes the report.

All processes call it. Each does its share of what takes hours and keeps the
results in the shared folder: it trains classifiers, on its first device, and
computes features of Inception on all its devices. The released model, too,
classifies images on all devices. Process 0 does the rest while the others wait.
No result depends on who computes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any

from etils import epath
import numpy as np

from dp_diffusion import checks
from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion import release
from dp_diffusion import types
from dp_diffusion.data import registry
from dp_diffusion.evaluation.classifiers import read_once
from dp_diffusion.evaluation.classifiers import scoring
from dp_diffusion.evaluation.classifiers import trained_classifiers
from dp_diffusion.evaluation.metrics import duplicates
from dp_diffusion.evaluation.metrics import features
from dp_diffusion.evaluation.report import accuracy_section
from dp_diffusion.evaluation.report import page
from dp_diffusion.stages.evaluation import classifier_plan
from dp_diffusion.stages.evaluation import classifier_tests
from dp_diffusion.stages.evaluation import image_distances
from dp_diffusion.stages.evaluation import model_as_classifier
from dp_diffusion.stages.run import interrupts
from dp_diffusion.training import processes

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


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _TrainingSets:
  """What is trained before the held-out images are opened.

  Attributes:
    synthetic: (uint8[N, H, W, C], int32[N]).
    real: the sensitive images that the model was trained on.
    by_source: the training images of the classifiers by their source.
    members: the classifiers.
    plan: lists the classifiers.
    has_soft_labels: whether networks learn class probabilities of the synthetic
      images.
  """

  synthetic: types.LabelledImages
  real: types.DataSource
  by_source: Mapping[str, types.LabelledImages]
  members: trained_classifiers.Members
  plan: classifier_plan.Plan
  has_soft_labels: bool = False


def measure(
  config: config_lib.Config,
  places: EvaluationPaths,
  stop: interrupts.Stop,
  sources: Sequence[str] = SOURCES,
) -> Measured | None:
  """Measures a synthetic dataset on real images. It can be resumed.

  Args:
    config: gives data, pretrain.data and evaluate.
    places: the folders of the evaluation, which all processes share.
    stop: called at every step of every classifier; tells whether to stop.
    sources: sources of training images, from `SOURCES`. 'public' is left out if
      the public images have other classes.

  Returns:
    The results on process 0, None on the others.

  Raises:
    UsageError: a dataset or the features are missing, or there are too few
      images.
    Interrupted: the user asked to stop; trained classifiers are kept.
  """
  train = processes.main_first(
    lambda: _training_sets(config, places, stop, sources)
  )
  held_out = read_once.HeldOut(
    functools.partial(registry.load, config.data, config.data.test_split)
  )
  with held_out.closed():
    extractor = processes.together(
      lambda: _train(config, places.private, stop, train)
    )
  test = processes.main_first(held_out.open)
  sets = processes.main_first(lambda: _image_sets(config, train, test))
  processes.together(
    lambda: image_distances.compute_share(
      config, extractor, sets, places.private, stop
    )
  )
  by_model = model_as_classifier.sections(config, places.release, test, stop)

  def finish() -> Measured:
    tester = _tester(config, train, test)
    found = _accuracies(config, train, tester)
    size = config.evaluate.ensemble_size
    return Measured(
      accuracies=found,
      images=_shown(train, test),
      sections=[
        *by_model,
        *classifier_tests.sections(tester, train.plan, size, found),
        *image_distances.sections(
          config, extractor, sets, places.private, stop
        ),
      ],
    )

  return processes.on_main(finish)


def _training_sets(
  config: config_lib.Config,
  places: EvaluationPaths,
  stop: interrupts.Stop,
  sources: Sequence[str],
) -> _TrainingSets:
  """Loads all images but the held-out ones, and plans the classifiers."""
  real = registry.load(config.data)
  synthetic = release.read_dataset(places.release)
  by_source = _sources(config, synthetic, real, sources)
  num_images = {name: len(labels) for name, (_, labels) in by_source.items()}
  soft = {}
  if 'synthetic' in by_source and config.evaluate.soft_labels:
    soft = _soft_labels(config, places.release)
  plan = classifier_plan.make(config.evaluate, num_images, config.seed)
  return _TrainingSets(
    synthetic=synthetic,
    real=real,
    by_source=by_source,
    members=trained_classifiers.Members(
      by_source,
      dict.fromkeys(by_source, config.data.num_classes),
      places.private / 'classifiers',
      stop.raise_if_asked,
      soft,
    ),
    plan=plan,
    has_soft_labels=any(
      member.source in soft and member.config.name != classifier_plan.REFERENCE
      for member in plan.all()
    ),
  )


def _soft_labels(
  config: config_lib.Config, release_dir: epath.Path
) -> dict[str, np.ndarray]:
  """Returns the soft labels of the synthetic images, if they have some."""
  found = release.read_class_probabilities(release_dir)
  if found is None:
    return {}
  num_classes = config.data.num_classes
  if found.dtype != np.float32 or found.shape[1:] != (num_classes,):
    raise errors.UsageError(
      f'Expected class_probabilities in {release_dir}/dataset to be'
      f' float32[N, {num_classes}], not'
      f' {checks.array_type(found.dtype, found.shape)}: restore them, or leave'
      ' them with --config.evaluate.soft_labels=False.'
    )
  most = config.evaluate.max_train_images or len(found)
  rows = trained_classifiers.subset_rows(len(found), most)
  return {'synthetic': found[rows]}


def _train(
  config: config_lib.Config,
  private_dir: epath.Path,
  stop: interrupts.Stop,
  train: _TrainingSets,
) -> features.FeatureExtractor | None:
  """Trains the classifiers of this process.

  Returns:
    The feature network, if this process uses it.
  """
  extractor = None
  if processes.is_main() or image_distances.is_shared(config):
    extractor = image_distances.extractor(config, private_dir, stop)
  train.members.train(train.plan.share(processes.own_share()))
  return extractor


def _image_sets(
  config: config_lib.Config, train: _TrainingSets, test: types.DataSource
) -> image_distances.ImageSets:
  """Returns the images for distances and for the search for copies."""
  real, fresh = train.real, test
  if config.evaluate.held_out_split not in ('', config.data.test_split):
    fresh = registry.load(config.data, config.evaluate.held_out_split)
  persons = None
  if real.person is not None and fresh.person is not None:
    persons = np.asarray(real.person), np.asarray(fresh.person)
  return image_distances.ImageSets(
    synthetic=train.synthetic,
    train=(real.images, real.labels),
    held_out=(fresh.images, fresh.labels),
    persons=persons,
  )


def _tester(
  config: config_lib.Config, train: _TrainingSets, test: types.DataSource
) -> classifier_tests.Tester:
  return classifier_tests.Tester(
    train.members,
    test.images,
    test.labels,
    config.data.num_classes,
    None if test.person is None else np.asarray(test.person),
    duplicates.equal_to_any(test.images, train.real.images),
  )


def _accuracies(
  config: config_lib.Config,
  train: _TrainingSets,
  tester: classifier_tests.Tester,
) -> accuracy_section.Accuracies:
  """Scores the classifiers of each source on the held-out images."""
  scores: dict[str, dict[str, scoring.Score]] = {s: {} for s in train.by_source}
  for (source, key), group in train.plan.main.items():
    scores[source][key] = tester.score(group)
  return accuracy_section.Accuracies(
    scores=scores,
    class_names=config.data.class_names,
    num_train_images={
      source: len(labels) for source, (_, labels) in train.by_source.items()
    },
    classifier_names={classifier_plan.MAIN: config.evaluate.classifier.name},
    has_soft_labels=train.has_soft_labels,
    num_held_out_equal_training=int(tester.is_duplicate.sum()),
  )


def _shown(
  train: _TrainingSets, test: types.DataSource
) -> dict[str, types.LabelledImages]:
  """Returns the images of which the report shows some, by their set."""
  names = [name for name in ('public', 'synthetic') if name in train.by_source]
  return {
    **{name: train.by_source[name] for name in names},
    'held_out': (np.asarray(test.images), np.asarray(test.labels)),
  }


def _sources(
  config: config_lib.Config,
  synthetic: types.LabelledImages,
  real: Any,
  names: Sequence[str],
) -> dict[str, types.LabelledImages]:
  """Returns at most `max_train_images` training images of each source."""
  # As many public images are taken as there are synthetic ones.
  sets = {'synthetic': synthetic}
  if 'public' in names and config.has_same_classes:
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
