"""Which form is taken, and the order in which it comes out."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dp_diffusion.models import kernel_gradients


def test_every_choice_is_a_form():
  for platform, groups, side, (channels, features), stride in itertools.product(
    ('cpu', 'cuda', 'tpu'),
    (1, 8),
    (2, 8, 32),
    ((1, 16), (16, 1), (16, 16), (48, 16)),
    (1, 2, 0.5),
  ):
    form = kernel_gradients.choose_form(
      (groups, 4, side, side, channels), features, stride, platform
    )
    assert form in kernel_gradients.FORMS
    assert (form == 'box_sums') == (stride == 0.5)


@pytest.mark.parametrize('stride', [1, 2, 0.5])
@pytest.mark.parametrize('sides', [(4, 6), (5, 7), (6, 5)])
def test_forms_agree(stride, sides):
  rng = np.random.default_rng(0)
  if stride < 1:  # No larger sums than at a stride of 1.
    sides = tuple(side // 2 for side in sides)
  out = tuple(int(-(-side // stride)) for side in sides)
  x = jnp.asarray(rng.normal(size=(2, 3, *sides, 5)), jnp.float32)
  dy = jnp.asarray(rng.normal(size=(2, 3, *out, 4)), jnp.float32)

  @jax.jit
  def compute_all(x, dy):
    return [
      kernel_gradients.compute(form, x, dy, stride, platform)
      for platform in ('cpu', 'cuda')
      for form in kernel_gradients.FORMS
      if form != 'box_sums' or stride == 0.5
    ]

  stock, *others = compute_all(x, dy)
  for other in others:
    np.testing.assert_allclose(other, stock, rtol=0, atol=2e-5)


@pytest.mark.parametrize('platform', ['cpu', 'cuda'])
@pytest.mark.parametrize('form', kernel_gradients.FORMS)
def test_one_group_that_is_not_finite_changes_no_other(form, platform):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(3, 2, 4, 4, 5)).astype(np.float32)
  stride, side = (0.5, 8) if form == 'box_sums' else (1, 4)
  dy = rng.normal(size=(3, 2, side, side, 4)).astype(np.float32)
  compute = jax.jit(
    lambda x, dy: kernel_gradients.compute(form, x, dy, stride, platform)
  )
  alone = compute(x, dy)
  dy[0], x[2, 0, 1] = np.inf, np.nan
  found = compute(x, dy)
  np.testing.assert_array_equal(found[1], alone[1])
  assert not np.isfinite(found[0]).any()


@pytest.mark.parametrize(
  'shape,stride',
  [((3, 3, 16, 8), 1), ((3, 3, 1, 16), 1), ((3, 3, 16, 16), 0.5)],
)
def test_gradients_in_that_order_are_not_moved(shape, stride):
  """What the form does last, the order undoes."""
  channels, features = shape[2:]
  x = jnp.zeros((2, 1, 8, 8, channels))
  dy = jnp.zeros((2, 1, int(8 / stride), int(8 / stride), features))
  form = kernel_gradients.choose_form(x.shape, features, stride, 'cpu')
  axes = (0, *(1 + axis for axis in kernel_gradients.gradient_axes(shape)))
  jaxpr = jax.make_jaxpr(
    lambda x, dy: kernel_gradients.compute(form, x, dy, stride).transpose(axes)
  )(x, dy)
  place = tuple(range(5))
  for eqn in jaxpr.eqns:
    if eqn.primitive is jax.lax.transpose_p:
      place = tuple(place[axis] for axis in eqn.params['permutation'])
  assert place == tuple(range(5))


def test_other_parameters_keep_their_order():
  for shape in ((), (64,), (1, 1, 64, 64), (3, 3, 64, 4), (3, 64, 64)):
    assert kernel_gradients.gradient_axes(shape) == tuple(range(len(shape)))
