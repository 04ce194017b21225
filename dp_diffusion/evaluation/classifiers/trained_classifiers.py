"""The classifiers of an evaluation, each kept in a file once it is trained.

An evaluation trains dozens of classifiers, hours each at the paper's size, and
tests all of them at the very end, as the held-out images are read once. So a
trained one is written down and forgotten; a rerun trains what is missing, and
one that asks for more trains no more than that.

The files hold what real images taught without noise: they belong in `private/`.
A file is named by a hash of all that it depends on, the training images among
them, so that it can be used for nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import hashlib
import json

from etils import epath
import numpy as np

from dp_diffusion import console
from dp_diffusion import files
from dp_diffusion import types
from dp_diffusion.evaluation.classifiers import downstream
from dp_diffusion.evaluation.classifiers import training
from dp_diffusion.models import weights

_VERSION = 1  # Raise it when training gives other weights.
_ORDER_SEED = 0  # Of which images a part of a set holds.
_VARIABLES = 'variables/'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member:
  """One classifier.

  Attributes:
    source: name of the set of images that it is trained on.
    num_images: how many of them; see `subset`.
    config: which classifier, and how it is trained.
    seed: of its weights, batches and validation part.
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
  ) -> None:
    """Nothing is trained here.

    Args:
      sources: name -> (images uint8[N, H, W, C], labels int32[N]).
      num_classes: name -> how many classes its labels may have.
      folder: where members are kept; private.
      check: called at every step; what it raises ends the training.
    """
    self._sources = sources
    self._num_classes = num_classes
    self._folder = epath.Path(folder)
    self._check = check
    self._fingerprints: dict[tuple[str, int], str] = {}
    self._in_memory: dict[Member, downstream.Classifier] = {}

  def train(self, members: Iterable[Member]) -> None:
    """Trains those that are not there.

    Args:
      members: in the order of training; repeated ones are trained once.

    Raises:
      Exception: what `check` raised; finished members are kept.
    """
    members = list(dict.fromkeys(members))
    there = [m for m in members if self._is_there(m)]
    total, done = map(_num_steps, (members, there))
    missing = [m for m in members if not self._is_there(m)]
    if not missing:
      return
    # Real images are among the sources: no time is said.
    with console.progress(
      'training classifiers, step', total, done, is_private=True
    ) as advance:
      for member in missing:
        self._check()
        self._train(member, advance)

  def get(self, member: Member) -> downstream.Classifier:
    """A trained member.

    Raises:
      FileNotFoundError: it has not been trained.
    """
    if member in self._in_memory:
      return self._in_memory[member]
    return _unpack(
      files.read_npz(self._path(member)),
      training.compiled(member.config, self._num_classes[member.source]),
    )

  def validation_accuracy(self, member: Member) -> float:
    """Of a trained network, on the part of its own images kept for that."""
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

    images, labels = subset(*self._sources[member.source], member.num_images)
    classifier = downstream.train_classifier(
      member.config,
      images,
      labels,
      self._num_classes[member.source],
      member.seed,
      advance=step,
    )
    if isinstance(classifier, downstream.NeuralClassifier):
      path = self._path(member)
      files.write_npz(path, 0o600, **_pack(classifier))
    else:
      self._in_memory[member] = classifier
    advance(_num_steps([member]) - taken)  # Where it stopped early.

  def _is_there(self, member: Member) -> bool:
    return member in self._in_memory or (
      member.config.name != 'svm' and self._path(member).exists()
    )

  def _path(self, member: Member) -> epath.Path:
    source, number = member.source, member.num_images
    if (source, number) not in self._fingerprints:
      images, labels = subset(*self._sources[source], number)
      labelled = fingerprint(images) + fingerprint(labels.astype(np.int32))
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


def subset(
  images: np.ndarray, labels: np.ndarray, number: int
) -> types.LabelledImages:
  """As many images as asked for, at random but always the same.

  Smaller subsets lie within larger ones.

  Args:
    images: uint8[N, H, W, C]; may be memory-mapped.
    labels: int32[N].
    number: how many, at most N.

  Returns:
    (uint8[number, H, W, C], int32[number]), in the order of the images.
  """
  if number >= len(labels):
    return images, np.asarray(labels)
  order = np.random.default_rng(_ORDER_SEED).permutation(len(labels))
  rows = np.sort(order[:number])
  return np.asarray(images[rows]), np.asarray(labels[rows])


def _num_steps(members: Iterable[Member]) -> int:
  """The reference is fitted in one."""
  return sum(
    1 if m.config.name == 'svm' else m.config.num_steps for m in members
  )


def fingerprint(array: np.ndarray) -> str:
  """Hex SHA-256 of shape, type and content; may be memory-mapped."""
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
