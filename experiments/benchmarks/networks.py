"""The networks that are timed, with their losses and random images.

Times do not depend on the content of the images. The loss is that of
fine-tuning, including augmentation, timestep and noise of each draw.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion import config as config_lib
from dp_diffusion import types
from dp_diffusion.models import convolution
from dp_diffusion.models import kernel_gradients
from dp_diffusion.models import materialize
from dp_diffusion.models import unet
from dp_diffusion.stages.run import assembly

# Name -> config file and overrides. The small network is that of MNIST with
# half the width and two blocks per level.
NETWORKS = {
  'small': (
    'configs/mnist.py',
    {'model.channels': '32', 'model.num_blocks': '2'},
  ),
  'mnist': ('configs/mnist.py', {}),
  '80m': ('configs/cifar10.py', {'model.compute_dtype': 'float32'}),
  '80m_bf16': ('configs/cifar10.py', {}),
  'smoke': ('configs/mnist.py:smoke', {}),
}


@dataclasses.dataclass(frozen=True)
class Network:
  """A network that can be timed.

  Attributes:
    config: config of a run with this network.
    loss_fn: loss of one draw of one example.
    params: float32, with random values. A new network has many zeros, and with
      them some gradients would be zero.
  """

  config: config_lib.Config
  loss_fn: types.LossFn
  params: types.Params

  @property
  def num_parameters(self) -> int:
    """Number of weights of the network."""
    return sum(leaf.size for leaf in jax.tree.leaves(self.params))

  @property
  def title(self) -> str:
    """Parameters and image size, such as '1.62M U-Net, 28x28'."""
    side = self.config.data.image_size
    return f'{self.num_parameters / 1e6:.3g}M U-Net, {side}x{side}'

  def batch(self, num_images: int, seed: int = 0) -> types.PyTree:
    """Random images and labels, uint8[n, H, W, C] and int32[n]."""
    data, rng = self.config.data, np.random.default_rng(seed)
    shape = (num_images, *data.image_shape)
    labels = np.arange(num_images) % data.num_classes
    return {
      'image': jnp.asarray(rng.integers(0, 256, shape, np.uint8)),
      'label': jnp.asarray(labels, jnp.int32),
    }


def load(name: str) -> Network:
  """Makes a network of `NETWORKS`."""
  file, overrides = NETWORKS[name]
  config = config_lib.load(file, overrides)
  model = unet.UNet(config.unet_config(config.data))
  loss_fn = assembly.make_loss_fn(
    model, config.finetune_diffusion(), config.data
  )
  shapes = assembly.param_shapes(config, config.data)
  rng = np.random.default_rng(0)

  def fill(x: jax.ShapeDtypeStruct) -> jax.Array:
    fan_in = int(np.prod(x.shape[:-1])) if len(x.shape) > 1 else 100
    values = rng.standard_normal(x.shape, np.float32) / np.sqrt(fan_in)
    return jnp.asarray(values + (1.0 if len(x.shape) == 1 else 0.0))

  return Network(config, loss_fn, jax.tree.map(fill, shapes))


def stock_conv3x3(
  x: jax.Array, kernel: jax.Array, stride: float = 1, form: str = ''
) -> jax.Array:
  """Same as `convolution.conv3x3`, with jax's own convolution and gradients."""
  del form
  return kernel_gradients.stock(x, kernel, stride)


@contextlib.contextmanager
def stock_convolutions() -> Iterator[None]:
  """Functions traced inside use `stock_conv3x3` and no fusion barriers."""
  with (
    mock.patch.object(convolution, 'conv3x3', stock_conv3x3),
    mock.patch.object(materialize, 'keep', lambda x: x),
    mock.patch.object(materialize, 'keep_gradient', lambda x: x),
  ):
    yield
