from __future__ import annotations

import dataclasses
import json
import math

import dp_accounting
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import optimize
from scipy import stats

from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import mechanism as mechanism_lib

DP_SGD = mechanism_lib.DpSgdMechanism(
  num_examples=1437,
  expected_batch_size=480,
  num_steps=150,
  noise_multiplier=2.0,
  l2_clip_norm=0.3,
  delta=1e-4,
)
GAUSSIAN = mechanism_lib.GaussianMechanism(
  noise_multiplier=4.0, l2_sensitivity=1.0, purpose='label histogram'
)


def test_event_is_poisson_sampled_gaussian():
  step = dp_accounting.PoissonSampledDpEvent(
    480 / 1437, dp_accounting.GaussianDpEvent(2.0)
  )
  assert DP_SGD.dp_event() == dp_accounting.SelfComposedDpEvent(step, 150)
  assert DP_SGD.dp_event(7) == dp_accounting.SelfComposedDpEvent(step, 7)
  assert DP_SGD.dp_event(0) == dp_accounting.NoOpDpEvent()


def test_zero_noise_is_not_private():
  none = dataclasses.replace(DP_SGD, noise_multiplier=0)
  assert not none.is_private
  assert DP_SGD.is_private
  for accountant in accounting.ACCOUNTANTS:
    assert accounting.epsilon([none.dp_event()], 1e-4, accountant) == math.inf
    assert accounting.delta([none.dp_event()], 1.0, accountant) == 1.0


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'num_examples': 0}, 'num_examples=0 to be >= 1'),
    ({'num_examples': 10.5}, 'num_examples=10.5 to be an integer'),
    ({'num_examples': 10**400}, 'num_examples=1000'),
    ({'expected_batch_size': 1438}, '=1438 to be <= num_examples=1437; lower'),
    ({'expected_batch_size': True}, 'True to be an integer'),
    ({'num_steps': 150.0}, 'num_steps=150.0 to be an integer'),
    ({'num_steps': 0}, 'num_steps=0 to be >= 1'),
    ({'noise_multiplier': -1.0}, 'noise_multiplier=-1.0 to be >= 0'),
    ({'noise_multiplier': math.nan}, 'noise_multiplier=nan'),
    ({'noise_multiplier': math.inf}, 'noise_multiplier=inf'),
    ({'noise_multiplier': '2'}, "noise_multiplier='2' to be a number"),
    ({'noise_multiplier': None}, 'noise_multiplier=None to be a number'),
    ({'l2_clip_norm': 0.0}, 'l2_clip_norm=0.0 to be > 0'),
    ({'delta': 0.0}, r'delta=0.0 to be in \(0, 1\)'),
    ({'delta': 1}, r'delta=1.0 to be in \(0, 1\)'),
    ({'delta': math.nan}, 'delta=nan'),
    ({'relation': 'replace_one'}, "relation='replace_one' to be 'add_or"),
  ],
)
def test_bad_value_is_refused(change, message):
  with pytest.raises(ValueError, match=message) as e:
    dataclasses.replace(DP_SGD, **change)
  assert '\n' not in str(e.value)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'noise_multiplier': -1.0}, 'noise_multiplier=-1.0'),
    ({'l2_sensitivity': 0.0}, 'l2_sensitivity=0.0'),
    ({'count': 0}, 'count=0'),
    ({'purpose': ''}, 'purpose'),
    ({'purpose': 'two\nlines'}, 'line of text'),
  ],
)
def test_bad_gaussian_is_refused(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(GAUSSIAN, **change)


@pytest.mark.parametrize('mechanism', [DP_SGD, GAUSSIAN])
def test_round_trip(mechanism):
  text = json.dumps(mechanism.to_dict())
  assert type(mechanism).from_dict(json.loads(text)) == mechanism


@pytest.mark.parametrize('mechanism', [DP_SGD, GAUSSIAN])
def test_other_keys_are_refused(mechanism):
  value = mechanism.to_dict()
  with pytest.raises(ValueError, match="unknown: \\['extra'\\]"):
    type(mechanism).from_dict({**value, 'extra': 1})
  for name in value:
    with pytest.raises(ValueError, match=name):
      type(mechanism).from_dict({k: v for k, v in value.items() if k != name})


def test_numpy_numbers_become_python_numbers():
  mechanism = dataclasses.replace(
    DP_SGD, num_steps=np.int64(150), noise_multiplier=np.float64(2.0)
  )
  assert mechanism == DP_SGD
  json.dumps(mechanism.to_dict())


@given(
  num_examples=st.integers(1, 10**6),
  data=st.data(),
  noise=st.floats(0, 1e3),
  clip=st.floats(1e-6, 1e3),
)
def test_round_trip_of_any_mechanism(num_examples, data, noise, clip):
  mechanism = mechanism_lib.DpSgdMechanism(
    num_examples=num_examples,
    expected_batch_size=data.draw(st.integers(1, num_examples)),
    num_steps=3,
    noise_multiplier=noise,
    l2_clip_norm=clip,
    delta=1e-5,
  )
  text = json.dumps(mechanism.to_dict(), allow_nan=False)
  read = mechanism_lib.DpSgdMechanism.from_dict(json.loads(text))
  assert read == mechanism
  assert read.dp_event() == mechanism.dp_event()
  assert 0 < mechanism.sampling_prob <= 1


def closed_form_delta(noise_multiplier: float, epsilon: float) -> float:
  """Theorem 8 of arXiv 1805.06530 for sensitivity 1."""
  half = 1 / (2 * noise_multiplier)
  shift = epsilon * noise_multiplier
  upper = stats.norm.cdf(half - shift)
  return upper - math.exp(epsilon) * stats.norm.cdf(-half - shift)


@pytest.mark.parametrize(
  ('noise_multiplier', 'delta', 'count'),
  [(1.0, 1e-6, 1), (4.0, 1e-4, 1), (4.0, 1e-6, 9), (30.0, 1e-5, 400)],
)
def test_gaussian_matches_closed_form(noise_multiplier, delta, count):
  mechanism = dataclasses.replace(
    GAUSSIAN, noise_multiplier=noise_multiplier, count=count
  )
  one = noise_multiplier / math.sqrt(count)  # `count` releases are as one.
  exact = optimize.brentq(
    lambda epsilon: closed_form_delta(one, epsilon) - delta, 1e-6, 100.0
  )
  events = [mechanism.dp_event()]
  assert accounting.epsilon(events, delta) == pytest.approx(exact, rel=1e-4)
  assert accounting.epsilon(events, delta) >= exact * (1 - 1e-9)
  assert accounting.epsilon(events, delta, 'rdp') >= exact
  assert accounting.delta(events, exact) == pytest.approx(delta, rel=1e-3)


def test_noise_of_a_statistic_is_relative_to_its_sensitivity():
  assert dataclasses.replace(GAUSSIAN, l2_sensitivity=3.0).noise_std == 12.0
