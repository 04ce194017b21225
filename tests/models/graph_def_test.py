"""The small GraphDef reader, against bytes made by hand and by TensorFlow."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
import pytest

from dp_diffusion.models import graph_def


def varint(value):
  out = b''
  while value > 127:
    out, value = out + bytes([value & 127 | 128]), value >> 7
  return out + bytes([value])


def field(number, content):
  if isinstance(content, int):
    return varint(number << 3) + varint(content)
  return varint(number << 3 | 2) + varint(len(content)) + content


def attribute(key, value):
  return field(5, field(1, key) + field(2, value))


def shape_of(*dims):
  return field(2, b''.join(field(2, field(1, d)) for d in dims))


def constant(name, tensor):
  node = field(1, name) + field(2, b'Const')
  return field(1, node + attribute(b'value', field(8, tensor)))


def test_reads_names_operations_and_scalars():
  epsilon = varint(4 << 3 | 5) + struct.pack('<f', 0.25)
  node = field(1, b'a/batchnorm') + field(2, b'Norm') + field(3, b'a')
  node += attribute(b'epsilon', epsilon) + attribute(b'scale', field(5, 1))
  nodes = graph_def.read_nodes(field(1, node) + field(4, field(1, 8)))
  assert list(nodes) == ['a/batchnorm']
  found = nodes['a/batchnorm']
  assert (found.op, found.value) == ('Norm', None)
  assert found.scalars == {'epsilon': 0.25, 'scale': True}


@pytest.mark.parametrize(
  'content, expected',
  [
    (field(4, struct.pack('<6f', *range(6))), range(6)),
    (field(5, struct.pack('<6f', *range(6))), range(6)),
    (field(5, struct.pack('<2f', 1, 2)), [1, 2, 2, 2, 2, 2]),  # last repeats
    (b'', [0] * 6),
  ],
)
def test_reads_every_form_of_a_constant(content, expected):
  tensor = field(1, 1) + shape_of(2, 3) + content
  value = graph_def.read_nodes(constant(b'w', tensor))['w'].value
  assert value.dtype == np.float32
  np.testing.assert_array_equal(value, np.reshape(list(expected), (2, 3)))


def test_reads_floats_that_are_not_packed():
  one = varint(5 << 3 | 5) + struct.pack('<f', 1.5)
  tensor = field(1, 1) + shape_of(2) + one + one
  value = graph_def.read_nodes(constant(b'w', tensor))['w'].value
  np.testing.assert_array_equal(value, [1.5, 1.5])


def test_other_types_are_passed_over():
  tensor = field(1, 7) + shape_of() + field(8, b'text')
  assert graph_def.read_nodes(constant(b'w', tensor))['w'].value is None


def test_refuses_what_is_not_whole():
  whole = constant(b'w', field(1, 1) + shape_of(2) + field(4, bytes(8)))
  for size in range(1, len(whole)):
    with pytest.raises(ValueError, match='Expected'):
      graph_def.read_nodes(whole[:size])
  with pytest.raises(ValueError, match='constant of 2 values'):
    graph_def.read_nodes(
      constant(b'w', field(1, 1) + shape_of(2) + field(4, bytes(16)))
    )


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_noise_is_an_error_or_a_graph_but_never_a_crash(data):
  try:
    assert isinstance(graph_def.read_nodes(data), dict)
  except ValueError:
    pass
