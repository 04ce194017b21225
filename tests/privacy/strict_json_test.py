from __future__ import annotations

import functools
import math

from hypothesis import given
from hypothesis import strategies as st
import pytest

from dp_diffusion.privacy import strict_json


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('{"a": NaN}', 'without NaN'),
    ('[-Infinity]', 'without -Infinity'),
    ('[1e999]', 'finite'),
    ('{"a": 1, "a": 2}', 'repeated'),
    ('{', 'found an error'),
    (b'\xff', 'UTF-8'),
    ('[' * 100_000, 'nested'),
    ('[' + '9' * 5000 + ']', 'integers to be short'),
  ],
)
def test_bad_json_is_refused(text, message):
  with pytest.raises(ValueError, match=message):
    strict_json.loads(text)


@given(st.binary(max_size=40))
def test_any_bytes_parse_or_raise_value_error(data):
  try:
    strict_json.loads(data)
  except ValueError as e:
    assert '\n' not in str(e)


json_values = st.recursive(
  st.none()
  | st.booleans()
  | st.integers(-(2**53), 2**53)
  | st.floats(allow_nan=False, allow_infinity=False)
  | st.text(max_size=4),
  lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=3), inner, max_size=3)
  ),
  max_leaves=6,
)


@given(json_values)
def test_dumps_and_loads_are_inverse(value):
  assert strict_json.loads(strict_json.dumps(value)) == value


def test_infinity_is_not_written():
  with pytest.raises(ValueError, match='JSON compliant'):
    strict_json.dumps(math.inf)


@pytest.mark.parametrize('value', [None, 1, 'a', []])
def test_fields_wants_an_object(value):
  with pytest.raises(ValueError, match='to be an object'):
    strict_json.fields('it', value, ('a',))


def test_negative_zero_is_zero():
  assert math.copysign(1, strict_json.real('x', -0.0)) == 1


@pytest.mark.parametrize('value', [math.nan, -math.inf, -1, True, '1', None])
@pytest.mark.parametrize('options', [{}, {'positive': True}, {'finite': False}])
def test_what_is_no_number_is_refused(value, options):
  """NaN compares false with every limit, so each check would pass it."""
  for read in (
    functools.partial(strict_json.real, **options),
    strict_json.probability,
    functools.partial(strict_json.integer, minimum=0),
  ):
    with pytest.raises(ValueError, match='Expected epsilon='):
      read('epsilon', value)
