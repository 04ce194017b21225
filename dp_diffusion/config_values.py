"""Reads config values from files and typed text, into checked dataclasses.

It does not depend on the names of keys, which `config` defines.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
import contextlib
import csv
import dataclasses
import difflib
import importlib.util
import math
import pathlib
import sys
import traceback
import types
import typing
from typing import Any

from dp_diffusion import checks
from dp_diffusion import config_keys
from dp_diffusion import errors

UsageError = errors.UsageError
_CONFIGS = 'configs'


# (config, dotted keys that were typed) -> lines to be printed.
FinishFn = Callable[[Any, Collection[str]], list[str]]


def load_file(config_argument: str) -> tuple[Any, FinishFn]:
  """Runs `get_config(VARIANT)` of FILE, given as 'FILE[:VARIANT]'.

  A file may also have `finish(config, variant, typed)`. It changes, in place,
  the keys that depend on keys of the command line, and returns lines to be
  printed.

  Args:
    config_argument: FILE is a path, or the name of a config that comes with the
      package, such as 'mnist' or 'configs/mnist.py', in any working folder.

  Returns:
    A `ConfigDict`, and the function to call after the command line's keys are
    set.

  Raises:
    UsageError: there is no such file or variant (the message names the known
      ones), or the file is no config (the message names the line).
  """
  file_name, _, variant = config_argument.partition(':')
  path = find_file(file_name)
  _let_import_configs(path)
  with _errors_named(config_argument, path):
    module = _run(path)
    config = module.get_config(variant)
    if not hasattr(config, 'to_dict'):
      raise TypeError(
        f'get_config returns {type(config).__name__}, not a ConfigDict'
      )
    finish = getattr(module, 'finish', None)

  def named_finish(config: Any, typed: Collection[str]) -> list[str]:
    if finish is None:
      return []
    with _errors_named(config_argument, path):
      return list(finish(config, variant, typed))

  return config, named_finish


@contextlib.contextmanager
def _errors_named(config_argument: str, path: pathlib.Path) -> Iterator[None]:
  """Turns an exception of a config file into a `UsageError` of one line."""
  try:
    yield
  except ValueError as error:
    raise UsageError(f'--config={config_argument}: {error}') from error
  except Exception as error:  # The file is code of the user.
    raise UsageError(
      f'--config={config_argument} is no config, see configs/default.py:'
      f' {type(error).__name__}: {_first_line(error)}{_line_in(path, error)}'
    ) from error


def shipped_folder() -> pathlib.Path:
  """Folder of the configs, in the installed package or beside it in a clone."""
  package = pathlib.Path(__file__).resolve().parent
  installed = package / _CONFIGS
  return installed if installed.is_dir() else package.parent / _CONFIGS


def find_file(file_name: str) -> pathlib.Path:
  """The path of a config file, or of one that comes with the package.

  Args:
    file_name: a path; or 'NAME', 'NAME.py' or 'configs/NAME.py' of a config in
      `shipped_folder`, which is used if the working folder has no such file.

  Raises:
    UsageError: there is no such file; the message names similar ones.
  """
  path = pathlib.Path(file_name)
  if path.is_file():
    return path
  shipped = shipped_folder()
  if path.parent in (pathlib.Path(), pathlib.Path(_CONFIGS)):
    named = shipped / f'{path.name.removesuffix(".py")}.py'
    if named.is_file():
      return named
  folder = path.parent if path.parent != pathlib.Path() else shipped
  folder = folder if folder.is_dir() else shipped
  files = sorted(p for p in folder.glob('*.py') if p.stem != '__init__')
  names = {p.stem: _as_typed(p, shipped) for p in files}
  near = difflib.get_close_matches(path.stem, names, n=1)
  hint = f' Did you mean {names[near[0]]}?' if near else ''
  known = ', '.join(names.values()) or f'{_CONFIGS}/NAME.py'
  raise UsageError(
    f'Expected --config={file_name} to be a config file, such as {known}.{hint}'
  )


def _as_typed(path: pathlib.Path, shipped: pathlib.Path) -> str:
  is_shipped = path.parent.resolve() == shipped
  return f'{_CONFIGS}/{path.name}' if is_shipped else str(path)


def _let_import_configs(path: pathlib.Path) -> None:
  """Makes `configs.default` importable for a config file in any folder."""
  root = path.resolve().parent.parent
  if (root / _CONFIGS / 'default.py').is_file() and not _is_package(root):
    if str(root) not in sys.path:
      sys.path.insert(0, str(root))
  elif _CONFIGS not in sys.modules:
    # `sys.path` is not used: modules of the package have names of Python's own.
    package = types.ModuleType(_CONFIGS)
    package.__path__ = [str(shipped_folder()), str(path.resolve().parent)]
    sys.modules[_CONFIGS] = package


def _is_package(folder: pathlib.Path) -> bool:
  return folder == pathlib.Path(__file__).resolve().parent


def describe_files(folder: pathlib.Path) -> str:
  """Lists the configs of a folder with their variants, without running them.

  Args:
    folder: folder of config files, in which `VARIANTS` is a dictionary.

  Returns:
    A line per config; '' if there are none.
  """
  lines = []
  for path in sorted(folder.glob('*.py')):
    try:
      tree = ast.parse(path.read_text(encoding='utf-8'))
    except (SyntaxError, ValueError, OSError):
      continue  # Loading it as --config reports the error.
    functions = [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]
    if 'get_config' not in functions or path.stem == 'default':
      continue  # It does not run by itself.
    names = _variants(tree)
    title = (ast.get_docstring(tree) or '').partition('\n')[0]
    shown = _as_typed(path, shipped_folder())
    lines.append(f'  {shown}: {title}'.rstrip(': '))
    if names:
      lines.append(f'    variants: {", ".join(names)}')
  return '\n'.join(lines)


def has_variant(name: str, variant: str) -> bool:
  """Returns whether a config that comes with the package has a variant.

  >>> has_variant('mnist', 'cpu'), has_variant('none_such', 'cpu')
  (True, False)
  """
  path = shipped_folder() / f'{name}.py'
  if not path.is_file():
    return False
  return variant in _variants(ast.parse(path.read_text(encoding='utf-8')))


def _variants(tree: ast.Module) -> list[str]:
  """Returns the names in the table `VARIANTS` of a config file."""
  for node in tree.body:
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
      if ast.unparse(node.targets[0]) == 'VARIANTS':
        keys = node.value.keys
        return [str(k.value) for k in keys if isinstance(k, ast.Constant)]
  return []


def _run(path: pathlib.Path) -> Any:
  """Runs a file and returns its module."""
  spec = importlib.util.spec_from_file_location(
    f'dp_diffusion_config_{path.stem}', path
  )
  if spec is None or spec.loader is None:
    raise ImportError(f'{path.name} does not end with .py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _line_in(path: pathlib.Path, error: Exception) -> str:
  """Returns the line of the file that led to the error, as ' (line 3)'."""
  if isinstance(error, SyntaxError):
    return ''  # The message of a SyntaxError names the line.
  frames = traceback.extract_tb(error.__traceback__)
  lines = [f.lineno for f in frames if f.filename == str(path)]
  return f' (line {lines[-1]})' if lines else ''


def _first_line(error: Exception) -> str:
  return (str(error).splitlines() or [''])[0]


def override(config: Any, key: str, text: str, schema: type) -> None:
  """Sets config.key from text, typed as the value that it replaces.

  Args:
    config: a `ConfigDict`, changed in place.
    key: dotted key.
    text: the value as the user typed it.
    schema: dataclass of `config`, which gives the types of tuples' elements.
  """
  node = config
  parts = key.split('.')
  for depth, part in enumerate(parts):
    if not hasattr(node, 'get_type') or part not in node:
      raise unknown_key(key, list(_leaf_names(config.to_dict())))
    if depth < len(parts) - 1:
      node = node[part]
  leaf = parts[-1]
  if hasattr(node[leaf], 'get_type'):
    inside = checks.some([f'{key}.{k}' for k in node[leaf]])
    raise UsageError(
      f'Expected --config.{key} to name one value; it holds {inside}.'
    )
  hint = _hint(schema, parts)
  if hint == tuple[str, ...]:
    value: Any = parse_names(text)
  else:
    value = parse_value(f'config.{key}', text, node.get_type(leaf))
  if value is None:  # A config's `finish` may compute with a typed value.
    _convert(hint, value, key)
  with node.ignore_type():
    node[leaf] = value


def unknown_key(key: str, known: Sequence[str]) -> UsageError:
  """Returns the error for an unknown key, which names similar keys."""
  near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
  tail = key.rsplit('.', 1)[-1]
  near += [k for k in known if k.rsplit('.', 1)[-1] == tail and k not in near]
  hint = f'; did you mean {" or ".join(near[:3])}?' if near else '.'
  return UsageError(f'Unknown config key {key!r}{hint}')


def _leaf_names(tree: Mapping[str, Any], prefix: str = '') -> Iterator[str]:
  for key, value in tree.items():
    if isinstance(value, Mapping):
      yield from _leaf_names(value, f'{prefix}{key}.')
    else:
      yield f'{prefix}{key}'


def parse_value(name: str, text: str, kind: type) -> Any:
  """Reads `text` as a value of type `kind`."""
  if kind is not str and text.lower() == 'none':
    return None
  try:
    if kind is bool:
      return {'true': True, '1': True, 'false': False, '0': False}[text.lower()]
    if kind is int:
      return int(text)
    if kind is float:
      return float(text)
    if kind in (tuple, list):
      return _parse_tuple(text)
  except (KeyError, ValueError, SyntaxError):
    raise UsageError(
      f'Expected --{name}={text} to be of type {kind.__name__}.'
    ) from None
  return text


def _parse_tuple(text: str) -> tuple[Any, ...]:
  text = text.strip()
  if not text or text in ('()', '[]'):
    return ()
  try:
    value = ast.literal_eval(text)
  except (ValueError, SyntaxError):
    inner = text.strip('()[]').strip().removesuffix(',')
    return tuple(part.strip() for part in inner.split(','))
  return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _hint(schema: type, parts: Sequence[str]) -> Any:
  """Returns the annotated type of a dotted key; None without annotation."""
  hint: Any = schema
  for part in parts:
    if not dataclasses.is_dataclass(hint):
      return None
    hint = config_keys.type_hints(typing.cast(type, hint)).get(part)
  return hint


def parse_names(text: str) -> tuple[str, ...]:
  """Reads names separated by commas; numbers among them remain text.

  >>> parse_names('0,1,02'), parse_names('(True, False)')
  (('0', '1', '02'), ('True', 'False'))
  >>> parse_names("('grade 1, 2', 'other')"), parse_names('"1, 2",other')
  (('grade 1, 2', 'other'), ('1, 2', 'other'))

  Args:
    text: names, or a Python tuple or list of them. Quotes keep a comma.

  Returns:
    The names, without spaces around them.
  """
  text = text.strip()
  try:
    value = ast.literal_eval(text)
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    value = None
  if isinstance(value, str):
    return (value,)
  if isinstance(value, (tuple, list)) and all(
    isinstance(name, str) for name in value
  ):
    return tuple(value)
  inner = _without_brackets(text).strip()
  if not inner:
    return ()
  quote = "'" if "'" in inner else '"'
  inner = ' '.join(inner.splitlines())
  (names,) = csv.reader([inner], quotechar=quote, skipinitialspace=True)
  names = [name.strip() for name in names]
  return tuple(names[:-1] if len(names) > 1 and not names[-1] else names)


def _without_brackets(text: str) -> str:
  """Removes a pair of brackets that encloses the whole text.

  >>> _without_brackets('(a, (b))'), _without_brackets('(a),(b)')
  ('a, (b)', '(a),(b)')
  """
  if (text[:1], text[-1:]) not in (('(', ')'), ('[', ']')):
    return text
  depth = 0
  for place, letter in enumerate(text):
    depth += (letter in '([') - (letter in ')]')
    if not depth and place < len(text) - 1:
      return text
  return text[1:-1]


def parse_weights(name: str, text: str, num_classes: int) -> tuple[float, ...]:
  """Reads a distribution over classes, given as text.

  >>> parse_weights('labels', 'uniform', 2), parse_weights('labels', '3,1', 2)
  ((1.0, 1.0), (3.0, 1.0))

  Args:
    name: dotted key, for messages.
    text: 'uniform', or one weight per class.
    num_classes: number of classes.

  Raises:
    UsageError: the weights are no distribution over the classes.
  """
  if text == 'uniform':
    return (1.0,) * num_classes
  try:
    weights = tuple(float(w) for w in text.split(','))
  except ValueError:
    weights = ()
  if len(weights) != num_classes or not (
    all(0 <= w < math.inf for w in weights) and sum(weights) > 0
  ):
    raise UsageError(
      f"Expected {name}={text!r} to be 'uniform' or {num_classes} weights >= 0,"
      f' one per class, as in {",".join(["1"] * num_classes)!r}.'
    )
  return weights


def build(kind: type, values: Mapping[str, Any], path: str) -> Any:
  """Builds a dataclass from nested values; errors name the dotted key."""
  hints = config_keys.type_hints(kind)
  fields = {
    f.name: f for f in dataclasses.fields(kind) if not config_keys.is_fact(f)
  }
  for key in values:
    if key not in fields:
      near = difflib.get_close_matches(key, fields, n=1)
      hint = f'; did you mean {path}{near[0]}?' if near else '.'
      raise UsageError(f'Unknown config key {f"{path}{key}"!r}{hint}')
  built = {}
  for name, field in fields.items():
    if name in values:
      built[name] = _convert(hints[name], values[name], f'{path}{name}')
    elif (
      field.default is dataclasses.MISSING
      and field.default_factory is dataclasses.MISSING
    ):
      raise UsageError(f'Missing config key {path}{name}.')
  try:
    return kind(**built)
  except ValueError as error:
    prefix = f'config.{path.rstrip(".")}: ' if path else ''
    raise UsageError(f'{prefix}{error}') from error


def _convert(hint: Any, value: Any, path: str) -> Any:
  """Checks and converts one value to its annotated type."""
  if isinstance(hint, type) and dataclasses.is_dataclass(hint):
    if not isinstance(value, Mapping):
      raise UsageError(f'Expected {path} to hold keys, not {value!r}.')
    return build(hint, value, f'{path}.')
  origin = typing.get_origin(hint)
  if origin in (typing.Union, types.UnionType):
    kinds = [a for a in typing.get_args(hint) if a is not type(None)]
    if value is None:
      return None
    return _convert(kinds[0], value, path)
  if origin is tuple:
    element = typing.get_args(hint)[0]
    if not isinstance(value, (tuple, list)):
      raise UsageError(f'Expected {path}={value!r} to be a tuple.')
    if element is str:  # For class names such as 0 or True without quotes.
      value = [str(v) if type(v) in (int, bool) else v for v in value]
    return tuple(_convert(element, v, path) for v in value)
  if hint is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if hint in (int, float, str, bool) and type(value) is not hint:
    quoted = f", in quotes: '{value}'" if hint is str else ''
    raise UsageError(
      f'Expected {path}={value!r} to be of type {hint.__name__}{quoted}.'
    )
  return value
