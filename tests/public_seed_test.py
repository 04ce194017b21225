"""Each purpose of the public seed has a stream of its own."""

from __future__ import annotations

import itertools
import pathlib
import re

import jax
import numpy as np

import dp_diffusion
from dp_diffusion import public_seed

PACKAGE = pathlib.Path(dp_diffusion.__file__).parent
USED = re.compile(r'public_seed\.Purpose\.(\w+)')
# A stream that is made beside the table, from a seed and a number or a name.
BESIDE = re.compile(
  r'fold_in\(\s*jax\.random\.key\(|default_rng\(\s*\[\s*config\.seed'
)


def test_streams_differ():
  keys = [
    tuple(jax.random.key_data(purpose.key(seed)).tolist())
    for purpose, seed in itertools.product(public_seed.Purpose, (0, 1))
  ]
  assert len(set(keys)) == 2 * len(public_seed.Purpose)
  draws = [p.rng(0).bytes(8) for p in public_seed.Purpose]
  assert len(set(draws)) == len(public_seed.Purpose)


def test_a_number_is_given_once():
  values = [p.value for p in public_seed.Purpose]
  assert len(public_seed.Purpose.__members__) == len(set(values))


def test_streams_are_those_of_runs_that_were_made_before():
  purpose = public_seed.Purpose.WARM_UP_DRAWS
  key = jax.random.fold_in(jax.random.key(7), 204)
  assert (jax.random.key_data(purpose.key(7)) == jax.random.key_data(key)).all()
  before = np.random.default_rng([7, 204]).bytes(8)
  assert purpose.rng(7).bytes(8) == before


def test_each_purpose_is_used_in_one_place_and_no_stream_is_made_beside_them():
  found, beside = [], []
  for path in sorted(PACKAGE.rglob('*.py')):
    text = path.read_text(encoding='utf-8')
    found += USED.findall(text)
    if BESIDE.search(text) and path.name != 'public_seed.py':
      beside.append(path.name)
  assert sorted(set(found)) == sorted(p.name for p in public_seed.Purpose)
  twice = {name for name in found if found.count(name) > 1}
  assert twice == {'BASELINE_FEATURES'}  # A run of one baseline has one use.
  assert not beside
  assert BESIDE.search('jax.random.fold_in(\n  jax.random.key(config.seed), 3)')
