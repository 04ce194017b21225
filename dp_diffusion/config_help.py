"""Describes the config keys, for `--help=KEY` and `docs/config.md`."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import itertools
import textwrap

from dp_diffusion import config as config_lib
from dp_diffusion import config_keys
from dp_diffusion import config_values

_WIDTH = 80
_INTRO = """\
# Config keys

`tests/config_help_test.py` writes this page from the statement that each key
has in the code; do not edit it.

A file of `configs/` sets a key as `config.privacy.epsilon = 10.0`, the command
line as `--config.privacy.epsilon=10`; names and numbers of a tuple are typed
with commas between them, and `none` stands for no value.
`python -m dp_diffusion.main --help=privacy.epsilon` prints what is said here of
a key, and `--help=privacy` of a section.

Where a default comes from: {marks}; our choice where there is no mark.
"""


@dataclasses.dataclass(frozen=True)
class _Section:
  """A section, or several sections with the same keys.

  Attributes:
    paths: dotted path of each section; '' is the whole config.
    texts: description of each section.
    keys: keys of each section, in the same order.
  """

  paths: tuple[str, ...]
  texts: tuple[str, ...]
  keys: tuple[tuple[config_keys.Key, ...], ...]


def of(topic: str) -> str:
  """Returns the description of a key, or of a section and its keys.

  Args:
    topic: dotted key or section, such as 'privacy.delta' or 'privacy'; also as
      typed with a value, '--config.privacy.delta'.

  Raises:
    UsageError: there is no such key or section; the message names similar ones.
  """
  topic = topic.partition('=')[0].removeprefix('--').removeprefix('config.')
  sections = list(config_keys.sections(config_lib.Config))
  known = []
  for path, kind, keys, text in sections:
    if path and path == topic:
      below = [
        '\n'.join(_wrapped(f'{p}: {t} See --help={p}', '  '))
        for p, _, _, t in sections
        if p.startswith(f'{path}.')
      ]
      title = '\n'.join(_wrapped(f'{path}: {text}', '  '))
      place = f'Stated in {kind.__module__.replace(".", "/")}.py.'
      return '\n\n'.join([title, *map(_block, keys), *below, place])
    for key in keys:
      if key.path == topic:
        return _block(key)
      known.append(key.path)
    known.append(path)
  raise config_values.unknown_key(topic, [name for name in known if name])


def page() -> str:
  """Returns the text of `docs/config.md`."""
  marks = ', '.join(
    f'[{mark}] {words}' for mark, words in config_keys.MARKS.items() if mark
  )
  intro = '\n'.join(
    '\n'.join(_wrapped(line))
    for line in _INTRO.format(marks=marks).splitlines()
  )
  return '\n\n'.join([intro.rstrip(), *map(_table, _groups())]) + '\n'


def _block(key: config_keys.Key) -> str:
  mark = f' [{key.statement.mark}]' if key.statement.mark else ''
  source = f' Default: {config_keys.MARKS[key.statement.mark]}.' if mark else ''
  return '\n'.join(
    [
      f'{key.path} = {_shown(key.default)}{mark}',
      *_indented(key.values),
      *_indented(key.statement.text + source),
    ]
  )


def _indented(text: str) -> list[str]:
  return _wrapped(f'  {text}', '  ')


def _wrapped(text: str, indent: str = '') -> list[str]:
  return textwrap.wrap(
    text, _WIDTH, subsequent_indent=indent, break_on_hyphens=False
  )


def _shown(default: object) -> str:
  """Shows a default as a user may type it; 64000000 as 64_000_000."""
  if default is None:
    return 'none'
  is_long = isinstance(default, int) and default >= 10_000
  return f'{default:_}' if is_long else repr(default)


def _groups() -> Iterator[_Section]:
  """Yields the sections in order of the config, those of one kind together."""
  found = list(config_keys.sections(config_lib.Config))
  for kind in dict.fromkeys(kind for _, kind, _, _ in found):
    alike = [section for section in found if section[1] is kind]
    paths, _, keys, texts = zip(*alike, strict=True)
    yield _Section(paths, texts, keys)


def _table(section: _Section) -> str:
  names = ', '.join(f'`{path}`' for path in section.paths)
  lines = [f'## {names}', ''] if section.paths[0] else ['## The run']
  for path, text in zip(section.paths, section.texts, strict=True):
    if path:
      lines.append(f'- `{path}`: {_escaped(text)}')
  if not section.keys[0]:
    return '\n'.join(lines)
  lines += ['', '| key | default | values | what it is |', '|---|---|---|---|']
  for keys in zip(*section.keys, strict=True):
    first = keys[0]
    name, text = first.path.rpartition('.')[2], first.statement.text
    values = _escaped(first.values)
    default = ', '.join(_defaults(keys))
    lines.append(f'| `{name}` | {default} | {values} | {_escaped(text)} |')
  return '\n'.join(lines)


def _defaults(keys: tuple[config_keys.Key, ...]) -> Iterator[str]:
  """Yields the default of a key, and those of sections that differ."""
  mark = f' [{keys[0].statement.mark}]' if keys[0].statement.mark else ''
  own = keys[0].statement.default
  others = [key for key in keys if key.default != own]
  if len(others) < len(keys):
    yield f'`{_shown(own)}`{mark}'
  for default, alike in itertools.groupby(others, lambda key: key.default):
    places = [f'`{key.path.rpartition(".")[0]}`' for key in alike]
    where = f' in {", ".join(places)}' if len(keys) > 1 else ''
    yield f'`{_shown(default)}`{mark}{where}'


def _escaped(text: str) -> str:
  return text.replace('<', '&lt;').replace('|', '\\|').replace('*', '\\*')
