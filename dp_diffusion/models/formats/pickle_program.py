"""Reads a pickle without running the code that it names.

A pickle is a program, and Python's interpreter of it calls whatever function
the program names. The interpreter here has only the opcodes that plain data
need. It looks names up in the caller's table and refuses every other; it
imports nothing and calls nothing else.

Guarantees:
  * No code that a pickle names is imported or run.
    `tests/models/formats/pickle_program_test.py::test_no_name_outside_the_table`,
    `tests/models/formats/pickle_program_test.py::test_only_named_calls`.
  * A damaged program raises ValueError, whatever its bytes are.
    `tests/models/formats/pickle_program_test.py::test_damaged_programs`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import pickletools
from typing import IO, Any, cast

MAX_BYTES = 4 * 2**20  # Largest program; 1,000 tensors need 0.2 MB.
_MARK = object()
_CONSTANTS = {
  'NONE': None,
  'NEWTRUE': True,
  'NEWFALSE': False,
  'EMPTY_TUPLE': (),
}
_ARGUMENTS = (
  'BININT',
  'BININT1',
  'BININT2',
  'LONG1',
  'BINFLOAT',
  'BINUNICODE',
  'SHORT_BINUNICODE',
)
_TUPLES = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}
_NO_EFFECT = ('PROTO', 'FRAME')


@dataclasses.dataclass(frozen=True)
class Call:
  """A function of ours that is called in place of one that a pickle names.

  Attributes:
    function: takes positional arguments, and raises ValueError or TypeError if
      they are not what it expects.
  """

  function: Callable[..., Any]


def load(
  stream: IO[bytes],
  names: Mapping[str, Any],
  persistent: Callable[[Any], Any] | None = None,
) -> Any:
  """Interprets one program, up to its STOP.

  >>> import io, pickle
  >>> load(io.BytesIO(pickle.dumps({'a': (1, [2.5, None])}, 2)), {})
  {'a': (1, [2.5, None])}

  Args:
    stream: a binary stream, left at the end of the program.
    names: 'module.name' -> its replacement, a `Call` or a constant.
    persistent: maps a persistent id, which refers to data outside the pickle,
      to its replacement. None refuses such ids.

  Returns:
    An object made of dicts with str or int keys, lists, tuples, numbers, text,
    None and the replacements of `names` and `persistent`.

  Raises:
    ValueError: the program has a name outside `names` or an opcode that plain
      data do not need, is damaged, or has more than MAX_BYTES.
  """
  machine = _Machine(names, persistent)
  limited = cast(IO[bytes], _Limited(stream))
  try:
    for opcode, argument, _ in pickletools.genops(limited):
      if opcode.name == 'STOP':
        return machine.pop()
      machine.do(opcode.name, argument)
  except (IndexError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(f'a damaged pickle ({error!r})') from error
  raise ValueError('a pickle without an end')


class _Limited:
  """A stream that raises ValueError after MAX_BYTES bytes."""

  def __init__(self, stream: IO[bytes]) -> None:
    self._stream = stream
    self._left = MAX_BYTES

  def read(self, size: int) -> bytes:
    return self._count(self._stream.read(min(size, self._left + 1)))

  def readline(self) -> bytes:
    return self._count(self._stream.readline(self._left + 1))

  def _count(self, data: bytes) -> bytes:
    self._left -= len(data)
    if self._left < 0:
      raise ValueError(f'a pickle of more than {MAX_BYTES} bytes')
    return data


class _Machine:
  """The stack and the memo of a running program."""

  def __init__(
    self,
    names: Mapping[str, Any],
    persistent: Callable[[Any], Any] | None,
  ) -> None:
    self._names = names
    self._persistent = persistent
    self._stack: list[Any] = []
    self._memo: dict[int, Any] = {}

  def pop(self) -> Any:
    value = self._stack.pop()
    if value is _MARK:
      raise ValueError('a damaged pickle (a mark instead of a value)')
    return value

  def do(self, name: str, argument: Any) -> None:
    """Executes one opcode."""
    if name in _NO_EFFECT:
      return
    if name in _CONSTANTS:
      self._stack.append(_CONSTANTS[name])
    elif name in _ARGUMENTS:
      self._stack.append(argument)
    elif name in _TUPLES:
      values = [self.pop() for _ in range(_TUPLES[name])]
      self._stack.append(tuple(reversed(values)))
    else:
      action = getattr(self, f'_do_{name.lower()}', None)
      if action is None:
        raise ValueError(f'the pickle opcode {name}, which weights do not need')
      action(argument)

  def _above_mark(self) -> list[Any]:
    values: list[Any] = []
    while (value := self._stack.pop()) is not _MARK:
      values.append(value)
    return values[::-1]

  def _top(self, kind: type) -> Any:
    if type(self._stack[-1]) is not kind:
      raise ValueError(f'a damaged pickle (no {kind.__name__} to fill)')
    return self._stack[-1]

  def _do_mark(self, _: Any) -> None:
    self._stack.append(_MARK)

  def _do_tuple(self, _: Any) -> None:
    self._stack.append(tuple(self._above_mark()))

  def _do_empty_list(self, _: Any) -> None:
    self._stack.append([])

  def _do_empty_dict(self, _: Any) -> None:
    self._stack.append({})

  def _do_append(self, _: Any) -> None:
    value = self.pop()
    self._top(list).append(value)

  def _do_appends(self, _: Any) -> None:
    values = self._above_mark()
    self._top(list).extend(values)

  def _do_setitem(self, _: Any) -> None:
    value, key = self.pop(), self.pop()
    self._set([key, value])

  def _do_setitems(self, _: Any) -> None:
    self._set(self._above_mark())

  def _set(self, values: list[Any]) -> None:
    target = self._top(dict)
    for key, value in zip(values[::2], values[1::2], strict=True):
      # Hashing a deeply nested tuple would overflow the stack.
      if type(key) not in (str, int):
        raise ValueError(f'a {type(key).__name__} as a key')
      target[key] = value

  def _do_memoize(self, _: Any) -> None:
    self._do_binput(len(self._memo))

  def _do_binput(self, place: int) -> None:
    value = self.pop()
    self._memo[place] = value
    self._stack.append(value)

  _do_long_binput = _do_binput

  def _do_binget(self, place: int) -> None:
    self._stack.append(self._memo[place])

  _do_long_binget = _do_binget

  def _do_global(self, name: str) -> None:
    dotted = name.replace(' ', '.', 1)
    if dotted not in self._names:
      raise ValueError(f'the code {dotted!r}, which is not run')
    self._stack.append(self._names[dotted])

  def _do_stack_global(self, _: Any) -> None:
    name, module = self.pop(), self.pop()
    self._do_global(f'{module} {name}')

  def _do_reduce(self, _: Any) -> None:
    arguments, call = self.pop(), self.pop()
    if not isinstance(call, Call) or not isinstance(arguments, tuple):
      raise ValueError('a call of what is no known function')
    self._stack.append(call.function(*arguments))

  def _do_build(self, _: Any) -> None:
    """Drops the attributes of a dict, such as the `_metadata` of PyTorch."""
    self.pop()
    self._top(dict)

  def _do_binpersid(self, _: Any) -> None:
    if self._persistent is None:
      raise ValueError('a persistent id, which nothing stands for')
    self._stack.append(self._persistent(self.pop()))
