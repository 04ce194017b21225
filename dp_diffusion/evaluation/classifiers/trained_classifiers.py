"""Trains the classifiers of an evaluation and keeps each in a file.

An evaluation trains dozens of classifiers, which takes hours each at the
paper's size, and tests all of them at the end, since the held-out images may be
read only once. Each trained classifier is therefore saved to a file and dropped
from memory. A rerun trains only the classifiers whose files are missing.
Processes that share the folder may each train some of them.

Some classifiers are trained on real images without noise: the folder must lie
in `private/`. The name of a file contains a hash of everything that the
classifier depends on, including its training images, so a file is never used
for another classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import hashlib
import json

from etils import epath
import numpy as np

from dp_diffusion import console
from dp_diffusion import crash_points
from dp_diffusion import files
from dp_diffusion import types
from dp_diffusion.evaluation.classifiers import downstream
from dp_diffusion.evaluation.classifiers import training
from dp_diffusion.models import weights

_VERSION = 1  # Increase it when a change of the training changes the weights.
_ORDER_SEED = 0  # Seed for choosing a subset of images.
_VARIABLES = 'variables/'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member:
  """What to train one classifier on, and how.

  Attributes:
    source: name of the set of training images.
    num_images: number of images taken from the set; see `subset`.
    config: the kind of classifier and its hyper-parameters.
    seed: seed of weights, batches and validation part.
  """

  source: str
  num_images: int
  config: training.ClassifierConfig
  seed: int


class Members:
  """Trains members and keeps them in a folder."""

  def __init__(
    self,
    sources: Mapping[str, types.LabelledImages],
    num_classes: Mapping[str, int],
    folder: epath.PathLike,
    check: Callable[[], None] = lambda: None,
    probabilities: Mapping[str, np.ndarray] | None = None,
  ) -> None:
    """Stores the arguments; `train` trains.

    Args:
      sources: (images uint8[N, H, W, C], labels int32[N]) by name of the set.
      num_classes: number of classes by name of the set.
      folder: private folder for the files of the classifiers.
      check: called at every step; an exception that it raises ends the
        training.
      probabilities: soft labels float32[N, num_classes] by name of the set, for
        those sets that have some; networks learn these.
    """
    self._sources = sources
    self._probabilities = dict(probabilities or {})
    self._num_classes = num_classes
    self._folder = epath.Path(folder)
    self._check = check
    self._fingerprints: dict[tuple[str, int], str] = {}
    self._in_memory: dict[Member, downstream.Classifier] = {}

  def train(self, members: Iterable[Member]) -> None:
    """Trains the members whose files are missing.

    Args:
      members: members in the order of training; repeated ones are trained once.

    Raises:
      Exception: the exception of `check`. Finished members are kept.
    """
    members = list(dict.fromkeys(members))
    there = [m for m in members if self._is_there(m)]
    total, done = map(_num_steps, (members, there))
    missing = [m for m in members if not self._is_there(m)]
    if not missing:
      return
    # Real images are among the sources, so no time is shown.
    with console.progress(
      'training classifiers, step', total, done, is_private=True
    ) as advance:
      for member in missing:
        self._check()
        self._train(member, advance)

  def get(self, member: Member) -> downstream.Classifier:
    """Loads a trained member.

    Raises:
      FileNotFoundError: the member has not been trained.
    """
    if member in self._in_memory:
      return self._in_memory[member]
    return _unpack(
      files.read_npz(self._path(member)),
      training.compiled(member.config, self._num_classes[member.source]),
    )

  def validation_accuracy(self, member: Member) -> float:
    """Returns a trained network's accuracy on its validation images."""
    classifier = self.get(member)
    assert isinstance(classifier, downstream.NeuralClassifier)
    return classifier.validation_accuracy

  def _train(self, member: Member, advance: console.Advance) -> None:
    taken = 0

    def step(steps: int = 1) -> None:
      nonlocal taken
      self._check()
      taken += steps
      advance(steps)

    images, labels, soft = self._chosen(member.source, member.num_images)
    classifier = downstream.train_classifier(
      member.config,
      images,
      labels,
      self._num_classes[member.source],
      member.seed,
      probabilities=soft,
      advance=step,
    )
    if isinstance(classifier, downstream.NeuralClassifier):
      path = self._path(member)
      files.write_npz(path, 0o600, **_pack(classifier))
      crash_points.reach('mid_evaluate')
    else:
      self._in_memory[member] = classifier
    advance(_num_steps([member]) - taken)  # Early stopping leaves some steps.

  def _is_there(self, member: Member) -> bool:
    return member in self._in_memory or (
      member.config.name != 'svm' and self._path(member).exists()
    )

  def _path(self, member: Member) -> epath.Path:
    source, number = member.source, member.num_images
    if (source, number) not in self._fingerprints:
      images, labels, soft = self._chosen(source, number)
      labelled = fingerprint(images) + fingerprint(labels.astype(np.int32))
      if soft is not None:
        labelled += fingerprint(soft)
      self._fingerprints[source, number] = labelled
    facts = {
      'version': _VERSION,
      'config': dataclasses.asdict(member.config),
      'seed': member.seed,
      'num_classes': self._num_classes[source],
      'images': self._fingerprints[source, number],
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    name = f'{member.config.name}-{digest.hexdigest()[:20]}.npz'
    return self._folder / name

  def _chosen(
    self, source: str, number: int
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Returns a subset's images, labels and, if there are, soft labels."""
    images, labels = subset(*self._sources[source], number)
    soft = self._probabilities.get(source)
    if soft is not None:
      soft = np.asarray(soft[subset_rows(len(soft), number)])
    return images, labels, soft


def subset(
  images: np.ndarray, labels: np.ndarray, number: int
) -> types.LabelledImages:
  """Chooses a random subset of the images, the same in every call.

  A smaller subset is part of every larger one.

  Args:
    images: uint8[N, H, W, C]; may be memory-mapped.
    labels: int32[N].
    number: size of the subset, at most N.

  Returns:
    (uint8[number, H, W, C], int32[number]), in the order of `images`.
  """
  if number >= len(labels):
    return images, np.asarray(labels)
  rows = subset_rows(len(labels), number)
  return np.asarray(images[rows]), np.asarray(labels[rows])


def subset_rows(num_images: int, number: int) -> np.ndarray:
  """Returns the places of the images that `subset` chooses, in order."""
  order = np.random.default_rng(_ORDER_SEED).permutation(num_images)
  return np.sort(order[:number])


def _num_steps(members: Iterable[Member]) -> int:
  """Returns the number of training steps; the SVM counts as one."""
  return sum(
    1 if m.config.name == 'svm' else m.config.num_steps for m in members
  )


def fingerprint(array: np.ndarray) -> str:
  """Returns the hex SHA-256 of shape, dtype and content of an array.

  The array may be memory-mapped.
  """
  digest = hashlib.sha256(repr((array.shape, str(array.dtype))).encode())
  for start in range(0, len(array), 4096):
    digest.update(np.ascontiguousarray(array[start : start + 4096]).data)
  return digest.hexdigest()


def _pack(classifier: downstream.NeuralClassifier) -> dict[str, np.ndarray]:
  flat = weights.flatten(classifier.variables)
  scores = [dataclasses.astuple(score) for score in classifier.validation]
  return {
    **{f'{_VARIABLES}{name}': array for name, array in flat.items()},
    'validation': np.array(scores, np.float64).reshape(-1, 3),
    'best_step': np.array(classifier.best_step),
  }


def _unpack(
  arrays: dict[str, np.ndarray], fns: training.Fns
) -> downstream.NeuralClassifier:
  flat = {
    name.removeprefix(_VARIABLES): array
    for name, array in arrays.items()
    if name.startswith(_VARIABLES)
  }
  return downstream.NeuralClassifier(
    variables=weights.unflatten(flat),
    validation=tuple(
      downstream.ValidationScore(
        step=int(step), accuracy=float(accuracy), loss=float(loss)
      )
      for step, accuracy, loss in arrays['validation']
    ),
    best_step=int(arrays['best_step']),
    fns=fns,
  )
