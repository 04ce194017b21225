"""Images to features, for every distance between sets of images.

`inception` gives the 2048 features of FID, `from_npz` those of a small
network in a file, `pixels` the pixels themselves; `NetExtractor` takes any
network trained on public data alone. Only Inception with the known weights
may give a number called FID: `is_inception` is true for no other.
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

# (params, images uint8[B, H, W, C]) -> float32[B, F]
ApplyFn = Callable[[Any, jax.Array], jax.Array]
# Compiles an ApplyFn with its params: images -> features, any fixed B.
BindFn = Callable[[ApplyFn, Any], Callable[[np.ndarray], Any]]

_MANY_BATCHES = 50  # Fewer show no progress.
_RESERVED_WORDS = ('fid', 'inception')
_LIVE_SHARE = 0.1  # Of the features, at least; else no distance.
_TIMES_CHANCE = 5  # That an accuracy has to reach, or
_WAY_FROM_CHANCE = 0.1  # so far towards 1, whichever is less.
_SAME = 1e-6  # Spread of a feature that is constant but for rounding.


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkTest:
  """How a feature network does on public images that it has not seen.

  A network that has learned nothing maps every image to nearly the same
  features, so that noise comes out as near to real images as real images do.

  Attributes:
    accuracy: in [0, 1]; NaN without images.
    low: lower end of its 95 % interval.
    high: upper end of its 95 % interval.
    chance: accuracy of always answering the commonest class; NaN likewise.
    num_images: held-out public images that it was tested on.
    num_features: F.
    num_live: features that differ between these images.
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
    """The accuracy from which on distances are shown.

    Five times chance, or a tenth of the way from chance to 1 where that is
    less: 2.5 % for 200 equal classes, 19 % for 10, 55 % for 2.
    """
    way = self.chance + _WAY_FROM_CHANCE * (1 - self.chance)
    return min(_TIMES_CHANCE * self.chance, way)

  @property
  def is_better_than_chance(self) -> bool:
    """Whether accuracy and its interval lie clearly above chance."""
    return self.low > self.chance and self.accuracy >= self.required

  @property
  def has_enough_live(self) -> bool:
    """Whether at least a tenth of the features say anything."""
    return are_enough_live(self.num_live, self.num_features)


def num_live(features: np.ndarray) -> int:
  """How many of the features float32[N, F] differ between the images.

  >>> num_live(np.array([[1.0, 2.0, 0.0], [1.0, 3.0, 0.0]]))
  1
  """
  if not len(features):
    return 0
  spread = np.ptp(features, axis=0)
  return int(np.sum(spread > _SAME * np.abs(features).max()))


def are_enough_live(live: int, num_features: int) -> bool:
  """Whether so many live features of F are enough for a distance.

  >>> are_enough_live(6, 128), are_enough_live(13, 128)
  (False, True)
  """
  return live >= max(1, _LIVE_SHARE * num_features)


class FeatureExtractor(Protocol):
  """Turns images into the features that sets of images are compared in."""

  @property
  def name(self) -> str:
    """Of the features, for tables."""

  @property
  def num_features(self) -> int:
    """F."""

  @property
  def is_inception(self) -> bool:
    """Whether a Frechet distance in these features is FID."""

  @property
  def is_learned(self) -> bool:
    """Whether they are of a network, and not the pixels themselves."""

  @property
  def network_test(self) -> NetworkTest | None:
    """Of a network trained here; None for others and for pixels."""

  def blocks(self, images: np.ndarray) -> Iterator[np.ndarray]:
    """Maps uint8[N, H, W, C] to float32[<= B, F] blocks, in order."""

  def extract(
    self, images: np.ndarray, out: np.ndarray | None = None
  ) -> np.ndarray:
    """Maps uint8[N, H, W, C] to float32[N, F]."""


def jit_bind(apply_fn: ApplyFn, params: Any) -> Callable[[np.ndarray], Any]:
  """Compiles for the default device."""
  return functools.partial(jax.jit(apply_fn), jax.device_put(params))


def parallel_bind(devices: parallel.DataParallel) -> BindFn:
  """Returns a `BindFn` that spreads each batch over devices."""

  def bind(apply_fn: ApplyFn, params: Any) -> Callable[[np.ndarray], Any]:
    run = devices.pmap_map(apply_fn)
    return functools.partial(run, devices.replicate(params))

  return bind


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class NetExtractor:
  """Features of a network trained on public data.

  Attributes:
    name: of the features, for tables. May not suggest FID.
    num_features: F.
    apply_fn: the network.
    params: its weights.
    batch_size: images per call; the last batch is padded.
    bind_fn: how it is compiled, and for which devices.
    network_test: how the network does on public images, where it was trained
      here.
    is_learned: whether it is a network, and not the pixels themselves.
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
    """Computes features batch by batch; nothing else is kept.

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
        f' {images.dtype}{list(images.shape)}.'
      )
    # How many real images there are is not for a terminal.
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
      out: float32[N, F] to fill; None makes one.

    Returns:
      `out`: 400 MB for 50,000 images and Inception.

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
  """Made by `inception` alone, which has checked the weights."""

  @property
  def is_inception(self) -> bool:
    return True


def inception(
  path: str = '', batch_size: int = 64, bind_fn: BindFn = jit_bind
) -> NetExtractor:
  """FID's Inception-v3 with its own weights.

  Args:
    path: the frozen graph; '' for the cache, fetched on first use.
    batch_size: images per call over all devices.
    bind_fn: how it is compiled.

  Raises:
    UsageError: the weights cannot be had, or are not the known ones.
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
  """A LeNet-5 or a CIFAR ResNet in a .npz; see `models.feature_nets`.

  Args:
    path: the file. Its name goes into the name of the features.
    batch_size: images per call over all devices.
    bind_fn: how it is compiled.

  Raises:
    UsageError: there is no such file, or it holds no such network.
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
  """The pixels themselves in [0, 1], row by row; F = H x W x C."""
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
