"""Gradient canaries for the audit, and an observer of the noised gradients.

A gradient canary (a Dirac canary) is a record whose gradient is `scale` times
one coordinate vector, whatever the parameters are. It goes through the same
loss, clip, sum and noise as every record. The observer reads the noised
gradient that the optimizer receives.

Guarantees:
  * The gradient of a canary is its coordinate, and that of any other record is
    untouched. `gradient_canaries_test.py::test_gradient_is_one_coordinate`.
  * The observer reads the noised mean gradient, and the optimizer receives it
    unchanged. `gradient_canaries_test.py::test_observer_changes_nothing`.
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

NO_CANARY = -1  # The 'coordinate' of a record that is not a canary.


class Observed(NamedTuple):
  """Optimizer state of `observe`.

  Attributes:
    step: int32[], number of steps observed.
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
  """Chooses different coordinates, spread over all trained leaves.

  Args:
    params: trained parameters.
    num_canaries: number of coordinates m.
    seed: seed of the random choice.

  Returns:
    int32[m], indices into the flattened parameters.

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
  """Returns a loss function that also accepts canaries.

  Args:
    loss_fn: loss of the other records.
    is_trained: tells which leaves are trained, as in `state.partition`.
    scale: l2 norm of a canary's gradient before the clip.

  Returns:
    A loss of examples that have a further item 'coordinate', int32[]: an index
    into the flattened trained parameters, or `NO_CANARY`.
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
  """Returns a transformation that records gradients at some coordinates.

  It is chained before the optimizer and does not change the gradient. Its
  records are part of the optimizer state, so a resumed run has every step once.

  Args:
    coordinates: int32[m], indices into the flattened parameters.
    num_steps: number of steps T.
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
  """Returns all elements of a tree as one vector, in the order of leaves."""
  return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])
