"""One statement for each config key: its default, meaning, unit and values.

A field of a frozen config dataclass is made by `key`, or by `section` where it
holds keys itself. All that is said of a key comes from there: the `ConfigDict`
of `configs/default.py`, the check at construction (`check`), `docs/config.md`
and `--help=KEY`.

Marks of a default: [P] stated in the paper (arXiv 2302.13861), [R] agreed by
two re-implementations of its hyper-parameter table, [r] from one; without a
mark it is our choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import functools
import math
import numbers
import re
import types
import typing
from typing import Any

from dp_diffusion import checks

MARKS = {
  'P': 'stated in the paper (arXiv 2302.13861)',
  'R': 'agreed by two re-implementations of its hyper-parameter table',
  'r': 'from one re-implementation',
  '': 'our choice',
}
_METADATA = 'statement'  # Of a field.
_OR_INFINITE = ', or inf'
_FINITE = 'finite'
_NOUNS = {int: 'integer', float: 'number', str: 'text', bool: 'true or false'}
_PLURALS = {int: 'integers', float: 'numbers', str: 'names'}


@dataclasses.dataclass(frozen=True)
class Allowed:
  """Which values a key may have, beside its type.

  Attributes:
    words: for messages and documents, as '>= 1'.
    check: (name, value) -> raises ValueError, one line, for any other value.
      None where the config that holds the key checks it with others.
  """

  words: str
  check: Callable[[str, Any], object] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statement:
  """All that is said of a key.

  Attributes:
    default: what a config starts with; None computes it, or does without.
    text: what it is, with its unit.
    allowed: values, or None for all of its type. Those of a tuple: of each
      element.
    mark: one of MARKS, where the default comes from.
    is_later: earlier versions did not have the key, see `config.to_dict`.
  """

  default: Any
  text: str
  allowed: Allowed | None
  mark: str
  is_later: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
  """What is said of a field that holds keys, a config dataclass itself.

  Attributes:
    text: what it is.
    changed: key -> default, where it is another one than elsewhere.
    also: keys that are resolved before the dataclass is made.
  """

  text: str
  changed: Mapping[str, Any]
  also: Mapping[str, Statement]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Key:
  """A key at its place in the config.

  Attributes:
    path: dotted, as it is typed.
    kind: its annotated type.
    default: here.
    statement: of the field.
  """

  path: str
  kind: Any
  default: Any
  statement: Statement

  @property
  def values(self) -> str:
    """Its type and the values allowed, in words.

    >>> Key(
    ...   path='a', kind=int, default=1, statement=state(1, '', '>= 1')
    ... ).values
    'integer >= 1'
    """
    optional, kind = _without_none(self.kind)
    is_tuple = typing.get_origin(kind) is tuple
    noun = _PLURALS[typing.get_args(kind)[0]] if is_tuple else _NOUNS[kind]
    allowed = self.statement.allowed.words if self.statement.allowed else ''
    if allowed[:1] in ('[', '('):
      allowed = f'in {allowed}'
    if not allowed:
      words = noun
    elif allowed == _FINITE:
      words = f'{allowed} {noun}'
    elif kind is str:
      words = allowed  # A list of them.
    else:
      words = f'{noun}, each {allowed}' if is_tuple else f'{noun} {allowed}'
    return f'{words}, or none' if optional else words


def state(
  default: Any,
  text: str,
  allowed: str | tuple[str, ...] | Allowed | None = None,
  *,
  mark: str = '',
  is_later: bool = False,
) -> Statement:
  """A statement; see `Statement` for the arguments.

  Args:
    default: see there.
    text: see there.
    allowed: a range of numbers, as '>= 1' or '[0, 1)', in which infinity is
      not unless the words end with ', or inf'; or names; or anything else.
    mark: see there.
    is_later: see there.
  """
  if mark not in MARKS:
    raise ValueError(f'Expected mark={mark!r} to be one of {list(MARKS)}.')
  if isinstance(allowed, str):
    allowed = in_range(allowed)
  elif isinstance(allowed, tuple):
    allowed = one_of(allowed)
  return Statement(
    default=default, text=text, allowed=allowed, mark=mark, is_later=is_later
  )


def key(
  default: Any,
  text: str,
  allowed: str | tuple[str, ...] | Allowed | None = None,
  *,
  mark: str = '',
  is_later: bool = False,
  is_required: bool = False,
) -> Any:
  """A field of a config dataclass that is a key.

  Args:
    default: see `state`.
    text: see `state`.
    allowed: see `state`.
    mark: see `state`.
    is_later: see `state`.
    is_required: whoever makes the dataclass must give it; a config file starts
      with the default all the same.
  """
  statement = state(default, text, allowed, mark=mark, is_later=is_later)
  given: dict[str, Any] = {} if is_required else {'default': default}
  return dataclasses.field(metadata={_METADATA: statement}, **given)


def section(
  text: str,
  *,
  changed: Mapping[str, Any] | None = None,
  also: Mapping[str, Statement] | None = None,
) -> Any:
  """A field of a config dataclass that holds keys; see `Section`."""
  found = Section(text=text, changed=changed or {}, also=also or {})
  return dataclasses.field(metadata={_METADATA: found})


def of(field: dataclasses.Field[Any]) -> Statement | Section | None:
  """What is said of a field; None where it is no key."""
  return field.metadata.get(_METADATA)


def is_later(field: dataclasses.Field[Any]) -> bool:
  """Whether a field is a key that earlier versions did not have."""
  statement = of(field)
  return isinstance(statement, Statement) and statement.is_later


def in_range(words: str) -> Allowed:
  """Numbers in a range, which the words give.

  >>> in_range('[0, 1)').check('ema_decay', 1)
  Traceback (most recent call last):
  ...
  ValueError: Expected ema_decay=1 to be in [0, 1).

  Args:
    words: as '> 0', '>= 1', '(0, 1)', '[0, 2**31)' or 'finite', with ', or
      inf' at the end where infinity is one of the values.
  """
  limits = words.removesuffix(_OR_INFINITE)
  is_infinite_allowed = limits != words
  if limits == _FINITE:
    low, high, has_low, has_high = -math.inf, math.inf, False, False
  elif found := re.fullmatch(r'(>=?) (\S+)', limits):
    low, high = _number(found[2]), math.inf
    has_low, has_high = found[1] == '>=', is_infinite_allowed
  elif found := re.fullmatch(r'([\[(])(\S+), (\S+)([\])])', limits):
    low, high = _number(found[2]), _number(found[3])
    has_low, has_high = found[1] == '[', found[4] == ']'
  else:
    raise ValueError(f'Expected words={words!r} to be a range, as in ">= 1".')
  preposition = 'in ' if limits[0] in '[(' else ''

  def is_inside(value: Any) -> bool:
    if (has_low and value == low) or (has_high and value == high):
      return True
    return low < value < high

  def check_range(name: str, value: Any) -> None:
    if isinstance(value, numbers.Real) and is_inside(value):
      return
    wanted = words
    if value == math.inf and limits.startswith('>'):
      wanted += ' and finite'
    raise ValueError(f'Expected {name}={value!r} to be {preposition}{wanted}.')

  return Allowed(words, check_range)


def one_of(names: tuple[str, ...]) -> Allowed:
  """One of some names."""
  return Allowed(
    ', '.join(repr(name) for name in names),
    functools.partial(checks.check_one_of, known=names),
  )


def check(config: Any, prefix: str = '') -> None:
  """Checks each key of a config dataclass by itself.

  Args:
    config: a dataclass whose fields are made by `key`.
    prefix: of the names in messages, as 'finetune.'.

  Raises:
    ValueError: one line that names the key, its value and what was expected.
  """
  for field in dataclasses.fields(config):
    statement = of(field)
    if not isinstance(statement, Statement) or statement.allowed is None:
      continue
    value, run = getattr(config, field.name), statement.allowed.check
    if run is None or (value is None and statement.default is None):
      continue
    for element in value if isinstance(value, (tuple, list)) else (value,):
      run(f'{prefix}{field.name}', element)


def sections(
  kind: type, path: str = '', said: Section | None = None
) -> Iterator[tuple[str, type, tuple[Key, ...], str]]:
  """Every section below a config dataclass, itself first.

  Args:
    kind: the dataclass.
    path: dotted, of the section that it is; '' for the whole config.
    said: of the field that holds it.

  Yields:
    (dotted path, dataclass, the keys directly in it, what is said of it).
  """
  said = said or Section(text='', changed={}, also={})
  prefix = f'{path}.' if path else ''
  hints = _hints(kind)
  found, inner = [], []
  for field in dataclasses.fields(kind):
    statement = of(field)
    if isinstance(statement, Section):
      inner.append((hints[field.name], f'{prefix}{field.name}', statement))
    elif statement is not None:
      found.append((field.name, hints[field.name], statement))
  found += [(name, type(s.default), s) for name, s in said.also.items()]
  known = {name for name, _, _ in found}
  if unknown := set(said.changed) - known:
    raise ValueError(f'Expected {sorted(unknown)} to be keys of {path}.')
  keys = tuple(
    Key(
      path=f'{prefix}{name}',
      kind=hint,
      default=said.changed.get(name, statement.default),
      statement=statement,
    )
    for name, hint, statement in found
  )
  yield path, kind, keys, said.text
  for hint, inner_path, inner_said in inner:
    yield from sections(hint, inner_path, inner_said)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
  return typing.get_type_hints(kind)


def type_of(key_at: Key) -> type:
  """The Python type of a key's values, as bool or tuple.

  >>> type_of(
  ...   Key(
  ...     path='a', kind=float | None, default=None, statement=state(None, '')
  ...   )
  ... )
  <class 'float'>
  """
  _, kind = _without_none(key_at.kind)
  return typing.get_origin(kind) or kind


def _without_none(kind: Any) -> tuple[bool, Any]:
  """Whether None is one of the values, and the type without it."""
  if typing.get_origin(kind) in (typing.Union, types.UnionType):
    (rest,) = (a for a in typing.get_args(kind) if a is not type(None))
    return True, rest
  return False, kind


def _number(text: str) -> float:
  base, _, power = text.partition('**')
  return float(base) ** float(power or 1)
