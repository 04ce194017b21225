"""Examples whose gradient is known, and a look at what training does to them.

For the audit: a gradient canary is a record whose gradient is `scale` times
one coordinate of the parameters (a Dirac canary), whatever the parameters. It
goes through the loss, clip, sum and noise that every record goes through. What
comes out is read where the optimizer stands: it sees noised gradients only.

Guarantees:
  * The gradient of a canary is its coordinate, and that of any other record is
    untouched. `canaries_test.py::test_gradient_is_one_coordinate`.
  * What is observed is the noised mean gradient, and the optimizer gets it
    unchanged. `canaries_test.py::test_observer_changes_nothing`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dp_diffusion import errors
from dp_diffusion import types
from dp_diffusion.training import state as train_state

NO_CANARY = -1  # The 'coordinate' of every other record.


class Observed(NamedTuple):
  """Optimizer state of `observe`.

  Attributes:
    step: int32[], steps seen.
    rows: float32[T, m], the noised mean gradient at each canary's coordinate.
  """

  step: types.Array
  rows: types.Array


def num_coordinates(params: types.Params) -> int:
  """Number of trained parameters."""
  return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(params))


def choose_coordinates(
  params: types.Params, num_canaries: int, seed: int
) -> np.ndarray:
  """Different coordinates, spread over all trained leaves: int32[m].

  Raises:
    UsageError: there are fewer parameters than canaries.
  """
  size = num_coordinates(params)
  if size < num_canaries:
    raise errors.UsageError(
      f'Expected audit.num_canaries={num_canaries} to be <= {size}, the'
      ' number of trained parameters: each canary takes one of them.'
    )
  rng = np.random.default_rng([seed, num_canaries])
  return rng.choice(size, num_canaries, replace=False).astype(np.int32)


def with_canaries(
  loss_fn: types.LossFn,
  is_trained: Callable[[str], bool],
  scale: float,
) -> types.LossFn:
  """Adds canaries to a loss.

  Args:
    loss_fn: loss of the other records.
    is_trained: which leaves train, as for `state.partition`.
    scale: l2 norm of a canary's gradient before the clip.

  Returns:
    A loss of examples that have int32[] 'coordinate' besides: a place among
    the trained parameters, or `NO_CANARY`.
  """

  def loss(
    params: types.Params,
    example: types.Example,
    draw_key: types.Key,
  ) -> types.Array:
    coordinate = example['coordinate']
    trained, _ = train_state.partition(params, is_trained)
    value = _flat(trained)[jnp.maximum(coordinate, 0)]
    others = loss_fn(params, example, draw_key)
    return jnp.where(coordinate == NO_CANARY, others, scale * value)

  return loss


def observe(
  coordinates: np.ndarray, num_steps: int
) -> optax.GradientTransformation:
  """Keeps what an optimizer is given at some coordinates; changes nothing.

  Chain it before the optimizer. It is part of the state, so a run that is
  resumed has seen every step once.

  Args:
    coordinates: int32[m].
    num_steps: T.
  """

  def init(params: types.Params) -> Observed:
    del params
    return Observed(
      step=jnp.zeros((), jnp.int32),
      rows=jnp.zeros((num_steps, len(coordinates)), jnp.float32),
    )

  def update(
    updates: types.PyTree, state: Observed, params: Any = None
  ) -> tuple[types.PyTree, Observed]:
    del params
    row = _flat(updates)[jnp.asarray(coordinates)]
    seen = Observed(state.step + 1, state.rows.at[state.step].set(row))
    return updates, seen

  return optax.GradientTransformation(init, update)


def _flat(tree: types.PyTree) -> types.Array:
  """All elements of a tree in the order of its leaves."""
  return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])
