"""Shape letters, array types and protocols that every other module shares.

This is the lowest layer: it imports no other module of the package.

Shape letters, used in every docstring:
  B  examples in a (micro)batch         N  records in a dataset
  K  draws per example (augmult)        D  devices of this process
  H, W, C  height, width, channels      T  diffusion timesteps
  F  features

Images are `uint8[..., H, W, C] in [0, 255]` on the host and on disk, and
`float32[..., H, W, C] in [-1, 1]` inside models and samplers.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
  import jax

  Array = jax.Array
  Key = jax.Array  # A typed PRNG key, `jax.random.key`, never raw uint32.
PyTree = Any
Params = PyTree  # Nested dict of float32 leaves.
LabelledImages = tuple[np.ndarray, np.ndarray]  # uint8[N, H, W, C], int32[N].
Example = Mapping[str, 'Array']  # {'image': uint8[H, W, C], 'label': int32[]}


def __getattr__(name: str) -> Any:
  """Imports jax when `Array` or `Key` is first asked for.

  A published statement can so be verified where jax is not installed.
  """
  if name in ('Array', 'Key'):
    import jax

    return jax.Array
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


class LossFn(Protocol):
  """Loss of ONE draw of ONE example.

  A draw includes its augmentation, timestep, noise and label drop. No loss over
  a batch exists on the private path.
  """

  def __call__(self, params: Params, example: Example, draw_key: Key) -> Array:
    """Returns float32[]; `example` leaves have no batch axis."""


class DenoiseFn(Protocol):
  """A network with its weights bound."""

  def __call__(self, x_t: Array, timestep: Array, label: Array) -> Array:
    """Maps float32[B, H, W, C], int32[B], int32[B] to float32[B, H, W, C]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSpec:
  """The public facts on a dataset.

  Attributes:
    name: name in the registry.
    image_shape: (H, W, C).
    class_names: one name per label; label i is class_names[i]. May be empty
      only for an unlabelled dataset (then every label is 0 and there is 1
      class).
    has_person: whether the source says which person an image shows.
  """

  name: str
  image_shape: tuple[int, int, int]
  class_names: tuple[str, ...]
  has_person: bool = False

  @property
  def num_classes(self) -> int:
    """Number of labels, at least 1."""
    return max(1, len(self.class_names))


@runtime_checkable
class DataSource(Protocol):
  """Images with random access. The arrays may be memory-mapped: do not copy.

  Attributes:
    spec: the public facts.
    images: uint8[N, H, W, C].
    labels: int32[N] in [0, spec.num_classes).
    person: int32[N], the person on each image; None if unknown.
  """

  spec: DatasetSpec
  images: np.ndarray
  labels: np.ndarray
  person: np.ndarray | None
