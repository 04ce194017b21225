"""Computes the features in which sets of images are compared.

`inception` computes the 2048 features of FID, `from_npz` those of a small
network in a file, `pixels` takes the pixels themselves. `NetExtractor` can use
any network that was trained on public data alone. Only a distance in the
features of Inception with the known weights may be called FID; `is_inception`
is true for these features alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import functools
import pathlib
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion import checks
from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion.models import feature_nets
from dp_diffusion.models import inception as inception_net
from dp_diffusion.models import inception_weights
from dp_diffusion.training import parallel

# (params, images uint8[B, H, W, C]) -> features float32[B, F].
ApplyFn = Callable[[Any, jax.Array], jax.Array]
# (ApplyFn, params) -> compiled function from images to features.
BindFn = Callable[[ApplyFn, Any], Callable[[np.ndarray], Any]]

_MANY_BATCHES = 50  # Progress is shown for more batches than this.
_RESERVED_WORDS = ('fid', 'inception')
_LIVE_SHARE = 0.1  # Smallest share of live features for a distance.
# An accuracy must reach chance times the first number, or chance plus the
# second number times (1 - chance), whichever is less.
_TIMES_CHANCE = 5
_WAY_FROM_CHANCE = 0.1
_SAME = 1e-6  # Largest spread of a feature that counts as constant.


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkTest:
  """Test of a feature network on public images that it was not trained on.

  A network that has learned nothing maps every image to nearly the same
  features. Noise is then as near to real images as real images are to one
  another, and a distance in these features is meaningless.

  Attributes:
    accuracy: share of correct predictions, in [0, 1]; NaN without images.
    low: lower end of the 95 % interval of the accuracy.
    high: upper end of the 95 % interval of the accuracy.
    chance: accuracy of always answering the commonest class; NaN without
      images.
    num_images: number of held-out public images in the test.
    num_features: number of features F.
    num_live: number of features that differ between these images.
  """

  accuracy: float
  low: float
  high: float
  chance: float
  num_images: int
  num_features: int
  num_live: int

  @property
  def required(self) -> float:
    """The smallest accuracy with which distances are shown.

    It is five times chance, or chance + (1 - chance) / 10 if that is less:
    2.5 % for 200 classes of equal size, 19 % for 10, 55 % for 2.
    """
    way = self.chance + _WAY_FROM_CHANCE * (1 - self.chance)
    return min(_TIMES_CHANCE * self.chance, way)

  @property
  def is_better_than_chance(self) -> bool:
    """Whether the accuracy is at least `required` and its interval > chance."""
    return self.low > self.chance and self.accuracy >= self.required

  @property
  def has_enough_live(self) -> bool:
    """Whether at least a tenth of the features differ between images."""
    return are_enough_live(self.num_live, self.num_features)


def num_live(features: np.ndarray) -> int:
  """Returns how many of the features float32[N, F] differ between the images.

  >>> num_live(np.array([[1.0, 2.0, 0.0], [1.0, 3.0, 0.0]]))
  1
  """
  if not len(features):
    return 0
  spread = np.ptp(features, axis=0)
  return int(np.sum(spread > _SAME * np.abs(features).max()))


def are_enough_live(live: int, num_features: int) -> bool:
  """Whether `live` of `num_features` features are enough for a distance.

  >>> are_enough_live(6, 128), are_enough_live(13, 128)
  (False, True)
  """
  return live >= max(1, _LIVE_SHARE * num_features)


class FeatureExtractor(Protocol):
  """Computes the features in which sets of images are compared."""

  @property
  def name(self) -> str:
    """Name of the features, for tables."""

  @property
  def num_features(self) -> int:
    """Number of features F."""

  @property
  def is_inception(self) -> bool:
    """Whether a Frechet distance in these features is FID."""

  @property
  def is_learned(self) -> bool:
    """Whether a network computes the features; pixels are not learned."""

  @property
  def network_test(self) -> NetworkTest | None:
    """Test of a network that was trained here; None for other features."""

  def blocks(self, images: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the features of uint8[N, H, W, C] in blocks float32[<= B, F]."""

  def extract(
    self, images: np.ndarray, out: np.ndarray | None = None
  ) -> np.ndarray:
    """Maps uint8[N, H, W, C] to float32[N, F]."""


def jit_bind(apply_fn: ApplyFn, params: Any) -> Callable[[np.ndarray], Any]:
  """Compiles a network with its parameters for the default device."""
  return functools.partial(jax.jit(apply_fn), jax.device_put(params))


def parallel_bind(devices: parallel.DataParallel) -> BindFn:
  """Returns a `BindFn` that spreads each batch over devices."""

  def bind(apply_fn: ApplyFn, params: Any) -> Callable[[np.ndarray], Any]:
    run = devices.pmap_map(apply_fn)
    return functools.partial(run, devices.replicate(params))

  return bind


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class NetExtractor:
  """Computes the features of a network that was trained on public data.

  Attributes:
    name: name of the features, for tables; it must not suggest FID.
    num_features: number of features F.
    apply_fn: the network.
    params: weights of the network.
    batch_size: images per call; the last batch is padded.
    bind_fn: compiles the network for one or several devices.
    network_test: test on public images, if the network was trained here.
    is_learned: False if the features are the pixels themselves.
  """

  name: str
  num_features: int
  apply_fn: ApplyFn
  params: Any
  batch_size: int = 256
  bind_fn: BindFn = jit_bind
  network_test: NetworkTest | None = None
  is_learned: bool = True

  def __post_init__(self) -> None:
    checks.check_at_least('batch_size', self.batch_size, 1)
    checks.check_at_least('num_features', self.num_features, 1)
    if not self.is_inception and any(
      word in self.name.lower() for word in _RESERVED_WORDS
    ):
      raise ValueError(
        f'Expected name={self.name!r} not to suggest FID: these features are'
        ' not those of Inception with the known weights.'
      )

  @property
  def is_inception(self) -> bool:
    """Whether a Frechet distance in these features is FID."""
    return False

  @functools.cached_property
  def _run(self) -> Callable[[np.ndarray], Any]:
    return self.bind_fn(self.apply_fn, self.params)

  def blocks(self, images: np.ndarray) -> Iterator[np.ndarray]:
    """Computes features batch by batch, keeping one batch in memory.

    Args:
      images: uint8[N, H, W, C]; may be memory-mapped.

    Yields:
      float32[b, F] with b <= batch_size, in the order of the images.

    Raises:
      ValueError: the images are not uint8[N, H, W, C], or a feature is not
        finite.
    """
    if images.dtype != np.uint8 or images.ndim != 4:
      raise ValueError(
        'Expected images to be uint8[N, H, W, C]; got'
        f' {checks.array_type(images.dtype, images.shape)}.'
      )
    # The terminal must not show the number of real images.
    title = f'features ({self.name})'
    is_long = len(images) > _MANY_BATCHES * self.batch_size
    progress = (
      console.progress_of(title, len(images))
      if is_long
      else contextlib.nullcontext(_say_nothing)
    )
    with progress as advance:
      for start in range(0, len(images), self.batch_size):
        batch = np.asarray(images[start : start + self.batch_size])
        size = len(batch)
        rows = np.minimum(np.arange(self.batch_size), size - 1)
        found = np.asarray(self._run(batch[rows]), np.float32)[:size]
        if not np.isfinite(found).all():
          raise ValueError(
            f'Expected finite {self.name} features; images {start} to'
            f' {start + size - 1} have others.'
          )
        advance(size)
        yield found

  def extract(
    self, images: np.ndarray, out: np.ndarray | None = None
  ) -> np.ndarray:
    """Computes the features of all images.

    Args:
      images: uint8[N, H, W, C]; may be memory-mapped.
      out: array float32[N, F] for the result; None allocates one.

    Returns:
      `out`, which has 400 MB for 50,000 images and Inception.

    Raises:
      ValueError: see `blocks`.
    """
    found = out
    if found is None:
      found = np.empty((len(images), self.num_features), np.float32)
    start = 0
    for block in self.blocks(images):
      found[start : start + len(block)] = block
      start += len(block)
    return found


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _InceptionExtractor(NetExtractor):
  """Features of FID; made by `inception` alone, which checks the weights."""

  @property
  def is_inception(self) -> bool:
    return True


def inception(
  path: str = '', batch_size: int = 64, bind_fn: BindFn = jit_bind
) -> NetExtractor:
  """Returns the extractor of FID's features, Inception-v3.

  Args:
    path: the frozen graph; '' takes the cache and downloads on first use.
    batch_size: images per call over all devices.
    bind_fn: compiles the network for one or several devices.

  Raises:
    UsageError: the weights are missing and cannot be downloaded, or are not
      the known ones.
  """
  return _InceptionExtractor(
    name='Inception-v3',
    num_features=inception_net.NUM_FEATURES,
    apply_fn=_inception_features,
    params=inception_weights.load(path),
    batch_size=batch_size,
    bind_fn=bind_fn,
  )


def from_npz(
  path: str | pathlib.Path, batch_size: int = 256, bind_fn: BindFn = jit_bind
) -> NetExtractor:
  """Returns the extractor of a LeNet-5 or a CIFAR ResNet in a .npz file.

  See `models.feature_nets`.

  Args:
    path: the file. Its name becomes part of the name of the features.
    batch_size: images per call over all devices.
    bind_fn: compiles the network for one or several devices.

  Raises:
    UsageError: the file does not exist, or holds no such network.
  """
  path = pathlib.Path(path)
  if not path.exists():
    raise errors.UsageError(
      f'Expected a feature network at {str(path)!r}; there is no such file.'
    )
  weights = files.read_npz(path)
  try:
    kind, net = feature_nets.kind_of(weights)
  except ValueError as e:
    raise errors.UsageError(f'{path}: {e}') from e
  last = 'fc.f7.weight' if kind == 'lenet5' else 'linear.weight'
  return NetExtractor(
    name=kind if kind in path.stem else f'{path.stem} ({kind})',
    num_features=weights[last].shape[1],
    apply_fn=functools.partial(_first, net),
    params=weights,
    batch_size=batch_size,
    bind_fn=bind_fn,
  )


def pixels(
  image_shape: tuple[int, int, int], bind_fn: BindFn = jit_bind
) -> NetExtractor:
  """Returns the extractor of the pixels in [0, 1]; F = H * W * C."""
  return NetExtractor(
    name='pixels',
    num_features=int(np.prod(image_shape)),
    apply_fn=_pixel_features,
    params=(),
    bind_fn=bind_fn,
    is_learned=False,
  )


def _say_nothing(steps: int = 1) -> None:
  del steps


def _inception_features(params: Any, images: jax.Array) -> jax.Array:
  x = inception_net.preprocess(images)
  found = inception_net.InceptionV3().apply({'params': params}, x)
  assert isinstance(found, jax.Array)
  return found


def _first(net: feature_nets.Net, params: Any, images: jax.Array) -> jax.Array:
  return net(params, images)[0]


def _pixel_features(params: Any, images: jax.Array) -> jax.Array:
  del params
  return images.reshape((len(images), -1)).astype(jnp.float32) / 255.0
