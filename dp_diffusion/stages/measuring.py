"""What a synthetic dataset is worth: everything that an evaluation measures.

`measure` takes a folder with `dataset/*.npz`, as `release.write_shard` leaves
it, whoever made it: our own release and the baselines go through the same
code. `evaluate` adds the privacy statement and writes the report.

It is called by process 0 alone while the others wait (`processes.on_main`):
nothing here is collective. Feature networks use all devices of that process,
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
from dp_diffusion.data import registry
from dp_diffusion.evaluation import classifiers as classifiers_lib
from dp_diffusion.evaluation import downstream
from dp_diffusion.evaluation import held_out as held_out_lib
from dp_diffusion.evaluation import members as members_lib
from dp_diffusion.evaluation import page
from dp_diffusion.evaluation import scoring
from dp_diffusion.stages import distances
from dp_diffusion.stages import interrupts

SOURCES = ('synthetic', 'public', 'real')
# As the report's keys: ours by its kind, the outside reference by its name.
MAIN = 'cnn'
REFERENCE = 'svm'

LabelledImages = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Places:
  """The folders of an evaluation.

  Attributes:
    release: holds `dataset/*.npz`; read.
    evaluation: for figures and the report; computed from real images.
    private: for trained classifiers and pictures of training images. Several
      evaluations of one sensitive dataset may share it: what they have in
      common is trained once.
  """

  release: epath.Path
  evaluation: epath.Path
  private: epath.Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
  """What `report.Findings` takes, and what comes after it.

  Attributes:
    scores: source -> classifier -> score on the held-out real images.
    num_train_images: source -> images that its classifiers saw.
    images: set -> (uint8[N, H, W, C], int32[N]) to show.
    classifier_names: key of `scores` -> name of the network.
    sections: of the other metrics, each with its numbers.
  """

  scores: Mapping[str, Mapping[str, scoring.Score]]
  num_train_images: Mapping[str, int]
  images: Mapping[str, LabelledImages]
  classifier_names: Mapping[str, str]
  sections: Sequence[page.Section]


def measure(
  config: config_lib.Config,
  places: Places,
  stop: interrupts.Stop,
  sources: Sequence[str] = SOURCES,
) -> Measured:
  """Measures a synthetic dataset on real images; resumable.

  Args:
    config: uses data, pretrain.data, evaluate.
    places: where the dataset is, and where to keep what was computed.
    stop: asked at every step of every classifier.
    sources: what classifiers are trained on, of `SOURCES`. 'public' is left
      out where the public images have other classes.

  Raises:
    UsageError: a dataset or the features are missing; too few images.
    Interrupted: the user asked to stop; trained classifiers are kept.
  """
  settings = config.evaluate
  real = registry.load(config.data)
  sets = _sources(config, places, real, sources)
  num_classes = len(config.data.class_names) or 1
  held_out = _held_out(config, config.data.test_split)
  members = members_lib.Members(
    sets,
    dict.fromkeys(sets, num_classes),
    places.private / 'classifiers',
    stop.raise_if_asked,
  )
  extractor = distances.extractor(config, places.private, stop)
  asked = {
    (source, key): _of_each_seed(config, source, len(labels), key)
    for source, (_, labels) in sets.items()
    for key in _classifiers(config)
  }
  with held_out.closed():
    members.train([m for group in asked.values() for m in group])

  test = held_out.open()
  test_images = np.asarray(test.images)
  scores: dict[str, dict[str, scoring.Score]] = {s: {} for s in sets}
  for (source, key), group in asked.items():
    predicted = [
      downstream.predictions(members.get(m), test_images) for m in group
    ]
    scores[source][key] = scoring.score(predicted, test.labels, num_classes)
  fresh = test
  if settings.held_out_split not in ('', config.data.test_split):
    fresh = registry.load(config.data, settings.held_out_split)
  sections = distances.sections(
    config,
    extractor,
    release.read_dataset(places.release),
    (real.images, real.labels),
    (fresh.images, fresh.labels),
    places.private,
  )
  return Measured(
    scores=scores,
    num_train_images={s: len(labels) for s, (_, labels) in sets.items()},
    images={
      **{s: sets[s] for s in ('public', 'synthetic') if s in sets},
      'held_out': (test_images, np.asarray(test.labels)),
    },
    classifier_names={MAIN: settings.classifier.name},
    sections=sections,
  )


def _sources(
  config: config_lib.Config,
  places: Places,
  real: Any,
  names: Sequence[str],
) -> dict[str, LabelledImages]:
  """Training images of each source, at most `max_train_images` of each."""
  synthetic = release.read_dataset(places.release)
  # The public set is cut to the size of the release: as many images, no more.
  sets = {'synthetic': synthetic}
  if config.pretrain.data.class_names == config.data.class_names:
    # Public images of other classes could teach nothing about these.
    public = registry.load(config.pretrain.data)
    sets['public'] = members_lib.subset(
      public.images, public.labels, len(synthetic[1])
    )
  sets['real'] = (real.images, np.asarray(real.labels))
  most = config.evaluate.max_train_images
  return {
    name: members_lib.subset(*sets[name], most or len(sets[name][1]))
    for name in sets
    if name in names
  }


def _held_out(config: config_lib.Config, split: str) -> held_out_lib.HeldOut:
  return held_out_lib.HeldOut(
    functools.partial(registry.load, config.data, split)
  )


def _classifiers(
  config: config_lib.Config,
) -> dict[str, classifiers_lib.ClassifierConfig]:
  """Key in the report -> classifier."""
  found = {MAIN: config.evaluate.classifier}
  if config.evaluate.svm:
    found[REFERENCE] = classifiers_lib.ClassifierConfig(name='svm')
  return found


def _of_each_seed(
  config: config_lib.Config, source: str, num_images: int, key: str
) -> list[members_lib.Member]:
  # The reference has no randomness: one fit says all.
  num_seeds = 1 if key == REFERENCE else config.evaluate.num_seeds
  return [
    members_lib.Member(
      source=source,
      num_images=num_images,
      config=_classifiers(config)[key],
      seed=seed,
    )
    for seed in range(num_seeds)
  ]
