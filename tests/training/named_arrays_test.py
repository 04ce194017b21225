"""Tests of dp_diffusion/training/named_arrays.py."""

from __future__ import annotations

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import numpy as np
import pytest

from dp_diffusion import errors
from dp_diffusion.training import named_arrays


def test_names_are_paths():
  tree = {'a': [np.ones(1), {'b/c': np.ones(2)}], 'empty': np.zeros((0, 2))}
  assert list(named_arrays.flatten(tree)) == ['a/0', 'a/1/b%2Fc']


@hypothesis.given(
  st.dictionaries(
    st.text('ab/', min_size=1, max_size=3),
    hnp.arrays(
      st.sampled_from([np.float32, np.int32, np.uint8]),
      hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    ),
    max_size=4,
  )
)
def test_round_trip(tree):
  tree = {'leaves': tree}
  back = named_arrays.unflatten(tree, named_arrays.flatten(tree), 'it')
  assert jax.tree.structure(back) == jax.tree.structure(tree)
  for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(tree)):
    assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def test_unflatten_names_what_differs():
  arrays = {'w': np.ones(2, np.float32)}
  for template, message in (
    ({'v': np.ones(2)}, 'Expected it to have the leaf v,'),
    ({'w': np.ones(3, np.float32)}, r'w as float32\[3\], found float32\[2\]'),
    ({'w': np.ones(2, np.int32)}, r'w as int32\[2\], found float32\[2\]'),
    ({}, 'found 1 other leaves, such as w'),
  ):
    with pytest.raises(errors.UsageError, match=message):
      named_arrays.unflatten(template, arrays, 'it')


def test_digest_sees_every_part():
  arrays = {'a': np.arange(4, dtype=np.int32), 'b': np.ones((2, 3))}
  same = named_arrays.digest(dict(reversed(arrays.items())), {'x': 1})
  others = [
    (arrays, {'x': 2}),
    ({**arrays, 'a': np.arange(1, 5, dtype=np.int32)}, {'x': 1}),
    ({**arrays, 'a': np.arange(4, dtype=np.uint32)}, {'x': 1}),
    ({**arrays, 'b': np.ones((3, 2))}, {'x': 1}),
    ({'c': arrays['a'], 'b': arrays['b']}, {'x': 1}),
    ({'a': arrays['a']}, {'x': 1}),
  ]
  digests = {named_arrays.digest(*other) for other in others}
  assert same == named_arrays.digest(arrays, {'x': 1})
  assert len(digests) == len(others) and same not in digests


def test_digest_ignores_memory_order():
  array = np.arange(6.0).reshape(2, 3)
  fortran = {'a': np.asfortranarray(array)}
  assert named_arrays.digest({'a': array}, {}) == named_arrays.digest(
    fortran, {}
  )
