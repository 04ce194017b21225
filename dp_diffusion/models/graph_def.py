"""Reads a TensorFlow GraphDef file without TensorFlow.

A frozen graph keeps its weights in constant nodes. This module decodes the part
of the protobuf wire format that those nodes need: node names, operations,
boolean and float attributes, and constant tensors of float32. It is used by
`inception_weights`.

Wire format: protobuf.dev/programming-guides/encoding. Field numbers:
tensorflow/core/framework/{graph,node_def,attr_value,tensor,tensor_shape}.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import math
import struct
from typing import Any

import numpy as np

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_DT_FLOAT = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
  """One node of the graph.

  Attributes:
    name: path such as 'mixed/tower/conv'.
    op: operation such as 'Const' or 'Relu'.
    scalars: bool and float attributes of the node, by name.
    value: the float32 array of a constant; None for every other node and for
      constants of other types.
  """

  name: str
  op: str
  scalars: dict[str, bool | float]
  value: np.ndarray | None


def read_nodes(data: bytes) -> dict[str, Node]:
  """Decodes a serialized GraphDef.

  Args:
    data: the content of the .pb file.

  Returns:
    The nodes by name, in the file's order. Arrays share memory with `data`.

  Raises:
    ValueError: the bytes are not a GraphDef, or a constant is incomplete.
  """
  try:
    nodes = [_node(v) for f, v in _fields(memoryview(data)) if f == 1]
  except (KeyError, TypeError, UnicodeDecodeError, struct.error) as e:
    raise ValueError('Expected a GraphDef; the bytes do not decode.') from e
  return {node.name: node for node in nodes}


def _fields(view: memoryview) -> Iterator[tuple[int, Any]]:
  """Yields (field number, value) of one message; int or memoryview."""
  at = 0
  value: int | memoryview
  while at < len(view):
    tag, at = _varint(view, at)
    kind = tag & 7
    if kind == _VARINT:
      value, at = _varint(view, at)
    else:
      if kind == _LENGTH:
        size, at = _varint(view, at)
      elif kind in (_FIXED64, _FIXED32):
        size = 8 if kind == _FIXED64 else 4
      else:
        raise ValueError(f'Expected a GraphDef; found wire type {kind}.')
      value, at = view[at : at + size], at + size
      if at > len(view):
        raise ValueError('Expected a whole GraphDef; the file is cut short.')
    yield tag >> 3, value


def _varint(view: memoryview, at: int) -> tuple[int, int]:
  """Returns (value, next position) of a base-128 number."""
  value = 0
  for shift in range(0, 70, 7):
    if at >= len(view):
      raise ValueError('Expected a whole GraphDef; the file is cut short.')
    byte, at = view[at], at + 1
    value |= (byte & 0x7F) << shift
    if byte < 0x80:
      return value, at
  raise ValueError('Expected a GraphDef; found a number of over 10 bytes.')


def _node(view: memoryview) -> Node:
  name, op = '', ''
  scalars: dict[str, bool | float] = {}
  value = None
  for field, content in _fields(view):
    if field == 1:
      name = bytes(content).decode()
    elif field == 2:
      op = bytes(content).decode()
    elif field == 5:  # A map entry; its fields are 1, key, and 2, AttrValue.
      entry = dict(_fields(content))
      key = bytes(entry[1]).decode()
      for kind, attribute in _fields(entry.get(2, memoryview(b''))):
        if kind == 4:
          scalars[key] = struct.unpack('<f', attribute)[0]
        elif kind == 5:
          scalars[key] = bool(attribute)
        elif kind == 8 and key == 'value':
          value = _tensor(attribute)
  return Node(name=name, op=op, scalars=scalars, value=value)


def _tensor(view: memoryview) -> np.ndarray | None:
  """Decodes a TensorProto of float32; returns None for other types."""
  dtype, content = 0, []
  shape: tuple[int, ...] = ()
  for field, part in _fields(view):
    if field == 1:
      dtype = part
    elif field == 2:
      shape = tuple(_dim_size(d) for f, d in _fields(part) if f == 2)
    elif field in (4, 5):  # tensor_content, or float_val (packed or not).
      content.append(part)
  if dtype != _DT_FLOAT:
    return None
  parts = [np.frombuffer(part, '<f4') for part in content] or [np.zeros(1)]
  values = parts[0] if len(parts) == 1 else np.concatenate(parts)
  size = math.prod(shape)
  if 0 < values.size < size:  # The last value is repeated (tensor.proto).
    values = np.pad(values, (0, size - values.size), mode='edge')
  if values.size != size:
    raise ValueError(
      f'Expected a constant of {size} values; got {values.size}.'
    )
  return values.astype(np.float32, copy=False).reshape(shape)


def _dim_size(view: memoryview) -> int:
  return next((v for field, v in _fields(view) if field == 1), 0)
