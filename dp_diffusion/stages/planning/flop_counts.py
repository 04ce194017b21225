"""Counts operations and memory of the networks, without compiling them."""

from __future__ import annotations

from collections.abc import Iterator
import functools
import math
from typing import Any

import jax

from dp_diffusion import config as config_lib
from dp_diffusion import types
from dp_diffusion.data import registry
from dp_diffusion.evaluation.classifiers import training
from dp_diffusion.models import unet
from dp_diffusion.models import weights
from dp_diffusion.training import state as train_state

_UPSAMPLED = 'convolve_repeated'  # Name of the compiled function.
_CONVOLUTION = 'conv3x3'  # Name of the primitive of `models.convolution`.
_BATCH = 97  # Batch size; no parameter has an axis of this length.


def forward_flop(config: config_lib.Config) -> float:
  """Returns the floating-point operations of the network for one image.

  It counts matrix products and convolutions, two operations for each
  multiplication. Products with zero padding count, since the hardware computes
  them. A convolution of repeated pixels counts in full, although
  `models.upsampling` saves half of its products.
  """
  model, variables, inputs = _traced(config)
  closed = jax.make_jaxpr(model.apply)(variables, *inputs)
  return _total(closed) / _BATCH


def classifier_flop(name: str, data: registry.DataConfig) -> float:
  """Returns a classifier's operations for one image, see `forward_flop`."""
  config = training.ClassifierConfig(name=name)
  fns = training.compiled(config, data.num_classes)
  one = jax.ShapeDtypeStruct((1, *data.image_shape), 'uint8')
  variables, _ = jax.eval_shape(fns.init, jax.random.key(0), one)
  return float(_total(jax.make_jaxpr(fns.logits)(variables, one)))


def num_parameters(config: config_lib.Config) -> int:
  """Returns the number of parameters, with classes of the sensitive data."""
  _, variables, _ = _traced(config)
  return sum(math.prod(x.shape) for x in jax.tree.leaves(variables))


def num_trained(config: config_lib.Config) -> int:
  """Returns the number of parameters that `finetune.trainable` names.

  Raises:
    UsageError: a pattern matches no parameter.
  """
  _, variables, _ = _traced(config)
  params = variables['params']
  is_trained = weights.trainable_fn(params, config.finetune.trainable)
  trained, _ = train_state.partition(params, is_trained)
  return sum(math.prod(x.shape) for x in jax.tree.leaves(trained))


def activation_bytes(config: config_lib.Config) -> int:
  """Returns the bytes that the gradient of one draw needs, without weights.

  It counts the arrays that the backward pass reads. A compiler may keep less
  and compute some again, or keep more for its own use.
  """
  model, variables, inputs = _traced(config)

  def kept(variables: types.PyTree, *inputs: Any) -> Any:
    return jax.vjp(lambda v: model.apply(v, *inputs), variables)[1]

  leaves = jax.tree.leaves(jax.eval_shape(kept, variables, *inputs))
  return sum(
    math.prod(x.shape[1:]) * x.dtype.itemsize
    for x in leaves
    if x.shape and x.shape[0] == _BATCH
  )


@functools.lru_cache(maxsize=2)
def _traced(
  config: config_lib.Config,
) -> tuple[unet.UNet, types.PyTree, tuple[Any, ...]]:
  """Returns the network, and the shapes of its variables and inputs."""
  model = unet.UNet(config.unet_config(config.data))
  x = jax.ShapeDtypeStruct((_BATCH, *config.data.image_shape), 'float32')
  numbers = jax.ShapeDtypeStruct((_BATCH,), 'int32')
  inputs = (x, numbers, numbers)
  return model, jax.eval_shape(model.init, jax.random.key(0), *inputs), inputs


def _total(closed: Any) -> int:
  return sum(_flop(equation) for equation in _equations(closed.jaxpr))


def _equations(jaxpr: Any) -> Iterator[Any]:
  """Yields all equations, including those of inner functions."""
  for equation in jaxpr.eqns:
    yield equation
    if _is_upsampled(equation):
      continue
    for value in equation.params.values():
      for inner in value if isinstance(value, (tuple, list)) else (value,):
        inner = getattr(inner, 'jaxpr', inner)
        if hasattr(inner, 'eqns'):
          yield from _equations(inner)


def _is_upsampled(equation: Any) -> bool:
  return equation.params.get('name') == _UPSAMPLED


def _flop(equation: Any) -> int:
  """Returns the operations of a product or a convolution; 0 for others."""
  if equation.primitive.name == 'dot_general':
    (summed, _), _ = equation.params['dimension_numbers']
    shape = equation.invars[0].aval.shape
    num_summed = math.prod(shape[axis] for axis in summed)
  elif equation.primitive.name == 'conv_general_dilated':
    shape = equation.invars[1].aval.shape
    out_axis = equation.params['dimension_numbers'].rhs_spec[0]
    num_summed = math.prod(shape) // shape[out_axis]
  elif equation.primitive.name == _CONVOLUTION or _is_upsampled(equation):
    num_summed = math.prod(equation.invars[1].aval.shape[:-1])
  else:
    return 0
  return 2 * num_summed * math.prod(equation.outvars[0].aval.shape)
