"""Defines each config key once: its default, meaning, unit and values.

A field of a frozen config dataclass is made by `key`, or by `section` if it
holds keys itself. Everything else is derived from it: the `ConfigDict` of
`configs/default.py`, the check at construction (`check`), `docs/config.md` and
`--help=KEY`.

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
_METADATA = 'statement'  # Key of the metadata of a field.
_OR_INFINITE = ', or inf'
_FINITE = 'finite'
_NOUNS = {int: 'integer', float: 'number', str: 'text', bool: 'true or false'}
_PLURALS = {int: 'integers', float: 'numbers', str: 'names'}


@dataclasses.dataclass(frozen=True)
class Allowed:
  """The values that a key of some type may have.

  Attributes:
    words: description for messages and documents, such as '>= 1'.
    check: (name, value) -> None; raises ValueError, one line, for any other
      value. None if the config checks the key together with others.
  """

  words: str
  check: Callable[[str, Any], object] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statement:
  """The definition of a key.

  Attributes:
    default: value in the default config; None means that the value is computed
      or absent.
    text: description with the unit.
    allowed: allowed values, for a tuple those of each element; None allows all
      values of the type.
    mark: source of the default, one of MARKS.
    is_later: whether earlier versions lack the key, see `config.to_dict`.
  """

  default: Any
  text: str
  allowed: Allowed | None
  mark: str
  is_later: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
  """The definition of a field that is itself a config dataclass with keys.

  Attributes:
    text: description of the section.
    changed: key -> default, for defaults that differ from the dataclass's.
    also: further keys, which are resolved before the dataclass is made.
    is_later: whether earlier versions lack the section, see `config.to_dict`.
  """

  text: str
  changed: Mapping[str, Any]
  also: Mapping[str, Statement]
  is_later: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Key:
  """A key at its place in the config.

  Attributes:
    path: dotted path, as a user types it.
    kind: annotated type.
    default: default at this place.
    statement: definition of the key.
  """

  path: str
  kind: Any
  default: Any
  statement: Statement

  @property
  def values(self) -> str:
    """Describes the type and the allowed values.

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
  """Returns the definition of a key.

  Args:
    default: see `Statement`.
    text: see `Statement`.
    allowed: a range of numbers such as '>= 1' or '[0, 1)', which excludes
      infinity unless it ends with ', or inf'; or a tuple of names; or
      `Allowed`.
    mark: see `Statement`.
    is_later: see `Statement`.
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
  """Returns a field of a config dataclass that is a key.

  Args:
    default: see `state`.
    text: see `state`.
    allowed: see `state`.
    mark: see `state`.
    is_later: see `state`.
    is_required: whether the constructor of the dataclass requires the value.
      The default config still has `default`.
  """
  statement = state(default, text, allowed, mark=mark, is_later=is_later)
  given: dict[str, Any] = {} if is_required else {'default': default}
  return dataclasses.field(metadata={_METADATA: statement}, **given)


def section(
  text: str,
  *,
  changed: Mapping[str, Any] | None = None,
  also: Mapping[str, Statement] | None = None,
  default: Any = None,
  is_later: bool = False,
) -> Any:
  """Returns a field of a config dataclass that holds keys; see `Section`.

  Args:
    text: see `Section`.
    changed: see `Section`.
    also: see `Section`.
    default: the section with the defaults of all keys, for constructors that
      do not name it; None requires the section.
    is_later: see `Section`; it needs a default.
  """
  found = Section(
    text=text, changed=changed or {}, also=also or {}, is_later=is_later
  )
  given: dict[str, Any] = {} if default is None else {'default': default}
  return dataclasses.field(metadata={_METADATA: found}, **given)


def of(field: dataclasses.Field[Any]) -> Statement | Section | None:
  """Returns the definition of a field; None if it is no key."""
  return field.metadata.get(_METADATA)


def fact(default: Any) -> Any:
  """Returns a field that is no key: nobody can set it in a config."""
  return dataclasses.field(default=default, metadata={_METADATA: None})


def is_fact(field: dataclasses.Field[Any]) -> bool:
  """Whether a field was made by `fact`."""
  return field.metadata.get(_METADATA, field) is None


def is_later(field: dataclasses.Field[Any]) -> bool:
  """Whether a field is a key or a section that earlier versions lack."""
  statement = of(field)
  return statement is not None and statement.is_later


def in_range(words: str) -> Allowed:
  """Returns the allowed numbers of a range, which is given in words.

  >>> in_range('[0, 1)').check('ema_decay', 1)
  Traceback (most recent call last):
  ...
  ValueError: Expected ema_decay=1 to be in [0, 1).

  Args:
    words: a range such as '> 0', '>= 1', '(0, 1)', '[0, 2**31)' or 'finite',
      ending with ', or inf' if infinity is allowed.
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
  """Allows one of some names."""
  return Allowed(
    ', '.join(repr(name) for name in names),
    functools.partial(checks.check_one_of, known=names),
  )


def check(config: Any, prefix: str = '') -> None:
  """Checks each key of a config dataclass by itself.

  Args:
    config: a dataclass whose fields are made by `key`.
    prefix: prefix of the names in messages, such as 'finetune.'.

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
  """Yields the sections of a config dataclass, itself first.

  Args:
    kind: the dataclass.
    path: dotted path of its section; '' for the whole config.
    said: definition of the field that holds it.

  Yields:
    (dotted path, dataclass, the keys directly in it, description).
  """
  said = said or Section(text='', changed={}, also={})
  prefix = f'{path}.' if path else ''
  hints = type_hints(kind)
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
def type_hints(kind: type) -> dict[str, Any]:
  """Returns the types of the fields of a dataclass; not to be changed."""
  return typing.get_type_hints(kind)


def type_of(key_at: Key) -> type:
  """Returns the Python type of a key's values, such as bool or tuple.

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
  """Returns whether None is one of the values, and the type without it."""
  if typing.get_origin(kind) in (typing.Union, types.UnionType):
    (rest,) = (a for a in typing.get_args(kind) if a is not type(None))
    return True, rest
  return False, kind


def _number(text: str) -> float:
  base, _, power = text.partition('**')
  return float(base) ** float(power or 1)
