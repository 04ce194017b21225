"""Private Evolution: public images that the sensitive ones vote for.

The method is that of Lin et al. 2024, arXiv 2305.15560, with a simulator as in
Sim-PE, arXiv 2502.05505. Nothing is trained on the sensitive images. Each class
has a population of public images, which a renderer made, or another public
source. In every generation each sensitive image votes for the image of its
class's population that is nearest in the features of DP-MEPF, which a public
network computes. The
votes get Gaussian noise, small ones count as zero, and the next population
consists of variations of images that are drawn in proportion to the votes.

A variation of an image is one of its nearest neighbours among the public
images, of which there are fewer with each generation. This is what Sim-PE does
where only images of a simulator are at hand and not its parameters, so it
serves every public source.

Sensitivity. Given the populations, which depend on earlier noised votes alone,
the vote of a sensitive image is a unit vector over all images of all
populations, and depends on this image and its label alone. A record of several
images contributes the mean of their unit vectors, whose norm is at most 1.
Adding or removing a record changes the histogram of votes by its own term
alone, so the l2 sensitivity of each generation is 1, and all G of them
together are G Gaussian mechanisms that are composed adaptively: one ledger
entry, released G times.

Deviation: every candidate is scored by itself, not by the mean of several
variations (their lookahead), and votes are normalized within a class, so that
no size of a class is used. The released images are variations of the last
population, drawn in proportion to its votes.

Guarantees:
  * One record, even a person with many images and labels, moves the votes of a
    generation by at most 1, and no other record's vote.
    `private_evolution_test.py::test_neighbours_differ_by_at_most_the_sensitivity`,
    `::test_a_vote_does_not_depend_on_other_images`.
  * Votes have the noise of the ledger's entry, another one in each generation,
    and their number is that of the entry.
    `private_evolution_test.py::test_noise_std`,
    `::test_one_mechanism_everywhere`.
  * Populations and released images depend on the sensitive images through the
    noised votes alone.
    `private_evolution_test.py::test_populations_follow_the_noised_votes_alone`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion import config_keys
from dp_diffusion import types
from dp_diffusion.baselines import mean_embedding
from dp_diffusion.baselines import one_by_one
from dp_diffusion.data import batching
from dp_diffusion.privacy import entries as entries_lib
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import label_histogram

PURPOSE = 'nearest-neighbour votes'
_BATCH_SIZE = 256

# (generation, int64[num_classes, P]) -> float64[num_classes, P], noised votes
# for candidates.
VotesFn = Callable[[int, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivateEvolutionConfig:
  """Settings of Private Evolution on the public images of the config."""

  num_generations: int = config_keys.key(
    4, 'How often the sensitive images vote.', '>= 1'
  )
  population: int = config_keys.key(
    100, 'Public images of each class that are voted for.', '>= 1'
  )
  threshold: float = config_keys.key(
    2.0,
    'Subtracted from the noised votes, which are then at least 0, in units of'
    ' the std of their noise.',
    '>= 0',
  )
  first_neighbors: int = config_keys.key(
    100,
    'Nearest public images from which the first variation of an image is'
    ' drawn.',
    '>= 1',
  )
  last_neighbors: int = config_keys.key(
    20,
    'The same for the released images; the numbers between are geometric.',
    '>= 1',
  )
  num_features: int = config_keys.key(
    256,
    'Random directions on which features are projected; distances stay about'
    ' the same, and the features of many images fit in memory.',
    '>= 1',
  )
  max_candidates: int = config_keys.key(
    50_000, 'Public images that are used at most, chosen by the seed.', '>= 1'
  )

  def __post_init__(self) -> None:
    config_keys.check(self)
    if self.last_neighbors > self.first_neighbors:
      raise ValueError(
        f'Expected last_neighbors={self.last_neighbors} to be <='
        f' first_neighbors={self.first_neighbors}: variations become smaller.'
      )

  def num_neighbors(self, generation: int) -> int:
    """Returns the number of neighbours after a generation, counted from 0.

    >>> config = PrivateEvolutionConfig(num_generations=3)
    >>> [config.num_neighbors(i) for i in range(3)]
    [100, 45, 20]
    """
    if self.num_generations == 1:
      return self.last_neighbors
    share = generation / (self.num_generations - 1)
    ratio = self.last_neighbors / self.first_neighbors
    return round(self.first_neighbors * ratio**share)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidates:
  """The public images from which populations are made.

  Attributes:
    features: float32[N, F] of all of them.
    of_class: for each class of the sensitive images int64[M], the indices of
      the candidates for it, M >= 1.
  """

  features: np.ndarray
  of_class: tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Population:
  """The last images that were voted for.

  Attributes:
    images: int64[num_classes, P], indices of candidates.
    shares: float64[num_classes, P] >= 0, of which each row sums to 1.
  """

  images: np.ndarray
  shares: np.ndarray


def choose(
  labels: np.ndarray,
  public_names: Sequence[str],
  class_names: Sequence[str],
) -> tuple[np.ndarray, ...]:
  """Returns the public images that are candidates for each class.

  >>> choose(np.array([0, 1, 1]), ('a', 'b'), ('b',))
  (array([1, 2]),)
  >>> choose(np.array([0, 1, 1]), ('a', 'b'), ('b', 'c'))
  (array([0, 1, 2]), array([0, 1, 2]))

  Args:
    labels: int[N], labels of the public images.
    public_names: the public class names.
    class_names: those of the sensitive images, () if they have no classes.

  Returns:
    For each class the public images of the class of this name. If any class
    has none, all images are candidates for every class.
  """
  number_of = {name: i for i, name in enumerate(public_names)}
  found = [
    np.flatnonzero(labels == number_of.get(name, -1)) for name in class_names
  ]
  if found and all(map(len, found)):
    return tuple(found)
  return (np.arange(len(labels)),) * max(1, len(class_names))


def project(
  feature_fn: mean_embedding.FeatureFn,
  image_shape: tuple[int, int, int],
  num_features: int,
  key: types.Key,
) -> mean_embedding.FeatureFn:
  """Returns features projected on random directions.

  Squared distances keep their mean and get a relative std of sqrt(2 /
  num_features), by the lemma of Johnson and Lindenstrauss.

  Args:
    feature_fn: features of a public network, float32[B, F].
    image_shape: (H, W, C).
    num_features: number of directions.
    key: typed PRNG key[] from the public seed.

  Returns:
    A function from float32[B, H, W, C] in [-1, 1] to float32[B, num_features].
  """
  found = jax.eval_shape(feature_fn, jnp.zeros((1, *image_shape)))
  directions = jax.random.normal(key, (found.shape[1], num_features))
  directions = directions / num_features**0.5

  def features(images: types.Array) -> types.Array:
    return feature_fn(images) @ directions

  return features


def nearest(
  own: np.ndarray, labels: np.ndarray, populations: np.ndarray
) -> np.ndarray:
  """Returns the vote of each image, the nearest one of its class's population.

  Args:
    own: float32[N, F], features of the sensitive images.
    labels: int[N] in [0, num_classes).
    populations: float32[num_classes, P, F].

  Returns:
    int64[N], label P + place in the population: a number in [0, num_classes P)
    for every image, whatever its features are.
  """
  found = [np.zeros(0, np.int64)]
  for start in range(0, len(own), _BATCH_SIZE):
    rows = np.arange(start, start + _BATCH_SIZE)
    rows = np.minimum(rows, len(own) - 1)
    votes = _nearest(own[rows], labels[rows].astype(np.int32), populations)
    found.append(np.asarray(votes, np.int64)[: len(own) - start])
  return np.concatenate(found)


@jax.jit
def _nearest(
  x: types.Array, labels: types.Array, populations: types.Array
) -> types.Array:
  def one(image: tuple[types.Array, types.Array]) -> types.Array:
    features, label = image
    squares = jnp.square(populations[label] - features[None])
    nearest = jnp.argmin(jnp.sum(squares, axis=1))
    return label * populations.shape[1] + nearest

  return jax.lax.map(one, (x, labels))


def make_votes_fn(
  feature_fn: mean_embedding.FeatureFn,
  source: types.DataSource,
  records: batching.Records,
  candidates: Candidates,
  entry: entries_lib.Entry,
  streams: key_streams.KeyStreams,
) -> VotesFn:
  """Returns a function for the noised votes of a generation.

  No other function of this module reads sensitive images, and their votes do
  not leave it without noise.

  Args:
    feature_fn: features of a public network.
    source: the sensitive images.
    records: the images of each record.
    candidates: the public images.
    entry: that of the ledger, which states the noise of each generation.
    streams: secret randomness of the run; equal streams give equal noise.
  """
  order = records.images
  own = one_by_one.apply(feature_fn, source.images)[order]
  labels = np.asarray(source.labels)[order]

  def votes(generation: int, population: np.ndarray) -> np.ndarray:
    found = label_histogram.noised(
      nearest(own, labels, candidates.features[population]),
      records.starts,
      population.size,
      entry,
      streams,
      purpose=f'{PURPOSE}, generation {generation}',
    )
    return found.reshape(population.shape)

  return votes


def evolve(
  config: PrivateEvolutionConfig,
  candidates: Candidates,
  votes_fn: VotesFn,
  noise_std: float,
  rng: np.random.Generator,
  stop: Callable[[], object] = lambda: None,
) -> Population:
  """Returns the last population, which is post-processing of noised votes.

  Args:
    config: numbers of generations, images and neighbours.
    candidates: the public images.
    votes_fn: the result of `make_votes_fn`; called once per generation.
    noise_std: std of the noise in each vote.
    rng: public randomness.
    stop: called before each generation; it raises to end.
  """
  size = config.population
  images = np.stack(
    [rng.choice(c, size, len(c) < size) for c in candidates.of_class]
  )
  shares = np.full(images.shape, 1 / size)
  for generation in range(config.num_generations):
    stop()
    if generation:
      number = config.num_neighbors(generation - 1)
      images = np.stack(
        [
          vary(candidates, label, rng.choice(row, size, p=p), number, rng)
          for label, (row, p) in enumerate(zip(images, shares, strict=True))
        ]
      )
    votes = votes_fn(generation, images)
    shares = to_shares(votes, config.threshold * noise_std)
  return Population(images=images, shares=shares)


def to_shares(votes: np.ndarray, threshold: float) -> np.ndarray:
  """Returns shares by noised votes above a threshold.

  >>> to_shares(np.array([[1.0, 3.0, 7.0], [0.1, -2.0, 0.5]]), 1.0)
  array([[0.        , 0.25      , 0.75      ],
         [0.33333333, 0.33333333, 0.33333333]])

  Args:
    votes: float64[num_classes, P].
    threshold: subtracted from the votes.

  Returns:
    float64[num_classes, P]; equal shares in a class without votes above it.
  """
  above = np.maximum(votes - threshold, 0.0)
  above = np.where(above.any(axis=1, keepdims=True), above, 1.0)
  return above / above.sum(axis=1, keepdims=True)


def vary(
  candidates: Candidates,
  label: int,
  parents: np.ndarray,
  num_neighbors: int,
  rng: np.random.Generator,
) -> np.ndarray:
  """Returns a variation of each parent: one of its nearest candidates.

  Args:
    candidates: the public images.
    label: class of the parents.
    parents: int64[B], indices of candidates.
    num_neighbors: number of nearest candidates from which one is drawn, the
      parent itself included; all of them if there are fewer.
    rng: public randomness.

  Returns:
    int64[B], indices of candidates for the class.
  """
  which = candidates.of_class[label]
  number = min(num_neighbors, len(which))
  different, places = np.unique(parents, return_inverse=True)
  x = candidates.features[which]
  near = np.empty((len(different), number), np.int64)
  for row, parent in enumerate(different):
    distances = np.square(x - candidates.features[parent]).sum(axis=1)
    near[row] = which[np.argsort(distances, kind='stable')[:number]]
  return near[places, rng.integers(number, size=len(parents))]


def sample(
  config: PrivateEvolutionConfig,
  candidates: Candidates,
  population: Population,
  labels: np.ndarray,
  rng: np.random.Generator,
) -> np.ndarray:
  """Draws a public image for each label, by the shares of its class.

  Args:
    config: gives the last number of neighbours.
    candidates: the public images.
    population: the result of `evolve`.
    labels: int32[N].
    rng: public randomness.

  Returns:
    int64[N], indices of candidates.
  """
  found = np.empty(len(labels), np.int64)
  for label in range(len(candidates.of_class)):
    chosen = np.flatnonzero(labels == label)
    parents = rng.choice(
      population.images[label], len(chosen), p=population.shares[label]
    )
    found[chosen] = vary(candidates, label, parents, config.last_neighbors, rng)
  return found
