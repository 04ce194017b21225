"""The shape of the code: layers, fences, and nothing at import.

Layers (imports go down only):

  8  __main__                           main
  7  main, sample                       may import all
  6  stages, released_model             0-5, not one another
  5  config, release, sampling          0-4, not one another
  4  baselines, evaluation              0-3
  3  evaluation.metrics.features                0-2
  2  training                           0 and privacy
  1  privacy, diffusion, models, data   0, not one another
  0  types, errors, checks, console, files, ...  0
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
import dataclasses
import functools
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = 'dp_diffusion'
MAX_FUNCTION_LINES = 60  # Without docstrings.
MAX_PARAMETERS = 7  # Without `self`.

# Functions over a limit, each with the reason. An entry that is no longer
# needed fails the test.
_TORCH = 'torch is imported when used: its class and closures lie inside'
OVER_THE_LIMITS = {
  'dp_diffusion/evaluation/classifiers/training.py:_compiled': 'to be divided',
  'dp_diffusion/evaluation/metrics/memorization.py:compare': (
    'sets want a dataclass'
  ),
  'dp_diffusion/evaluation/metrics/prdc.py:compare': 'names want a dataclass',
  'dp_diffusion/evaluation/metrics/quality.py:compare': 'sets want a dataclass',
  'dp_diffusion/evaluation/report/memorization_section.py:section': (
    'to be divided'
  ),
  'dp_diffusion/stages/audit.py:_train': 'wants a dataclass',
  'dp_diffusion/stages/baseline_classifier.py:run': 'to be divided',
  'dp_diffusion/stages/finetune.py:run': 'to be divided',
  'dp_diffusion/stages/finetune.py:wire_steps': 'wants a dataclass',
  'dp_diffusion/training/public_step.py:public_step': 'wants a dataclass',
  'experiments/common.py:row': 'one keyword per column of the table',
  'experiments/benchmarks/peers_torch.py:make_module': _TORCH,
  'experiments/benchmarks/peers_torch.py:make_methods': _TORCH,
}

LAYERS = {
  'checks': 0,
  'errors': 0,
  'exit_codes': 0,
  'types': 0,
  'compile_cache': 0,
  'compiling': 0,
  'config_keys': 0,
  'console': 0,
  'crash_points': 0,
  'files': 0,
  'host_memory': 0,
  'jax_environment': 0,
  'leaf_patterns': 0,
  'public_seed': 0,
  'release_marks': 0,
  'version': 0,
  'xla_flags': 0,
  'privacy': 1,
  'diffusion': 1,
  'models': 1,
  'data': 1,
  'training': 2,
  'evaluation.metrics.features': 3,
  'evaluation': 4,
  'baselines': 4,
  'config': 5,
  'config_help': 6,
  'config_sources': 4,
  'config_values': 4,
  'config_weights': 4,
  'croissant': 4,
  'release_card': 4,
  'release': 5,
  'sampling': 5,
  'released_model': 6,
  'stages': 6,
  'main': 7,
  '__main__': 8,
  'sample': 7,
}
# Narrower than "everything below": layer 2 does not know models or data.
ONLY = {'training': {'privacy'}}

# Library (or attribute of one) to the files that may use it. A folder ends
# with a slash. All but the package itself may also be used by experiments/.
FENCES = {
  'jax.pmap': {'dp_diffusion/training/parallel.py'},
  'flax.jax_utils': {'dp_diffusion/training/parallel.py'},
  'dp_accounting': {'dp_diffusion/privacy/'},
  'orbax': {'dp_diffusion/training/checkpoint.py'},
  'ml_collections': {
    'configs/',
    'dp_diffusion/config.py',
    'dp_diffusion/main.py',
  },
  'tensorflow': {
    'dp_diffusion/data/tfds_builders.py',
    'dp_diffusion/data/tfds_source.py',
    'dp_diffusion/data/camelyon17.py',
    'dp_diffusion/data/tfds_writer.py',
    'dp_diffusion/training/metrics.py',
  },
  'tensorflow_datasets': {
    'dp_diffusion/data/tfds_builders.py',
    'dp_diffusion/data/camelyon17.py',
    'dp_diffusion/data/tfds_writer.py',
  },
  'clu': {'dp_diffusion/training/metrics.py'},
  'jinja2': {'dp_diffusion/evaluation/report/page.py'},
  'markdown_it': {'dp_diffusion/evaluation/report/markdown.py'},
  'pyarrow': {
    'dp_diffusion/data/own/parquet_images.py',
    'dp_diffusion/data/parquet_writer.py',
  },
  'pydicom': {'dp_diffusion/data/dicom.py'},
  'tifffile': {'dp_diffusion/data/image_formats.py'},
  'imagecodecs': {'dp_diffusion/data/image_formats.py'},
  'safetensors': {'dp_diffusion/models/formats/safetensors_file.py'},
  'jax._src': set(),
}
# Imported when used, so that all else runs where they are not installed.
LAZY = {
  *('tensorflow', 'tensorflow_datasets', 'clu'),
  *('pyarrow', 'pydicom', 'tifffile', 'imagecodecs', 'safetensors'),
}

WITHOUT_JAX = ('mechanism', 'accounting', 'ledger', 'statement', 'verify')

# The demo's dataset is a config like any other: these alone may know it. In
# the registry, only the lines of the table that maps names to modules.
DIGITS_MODULES = {
  'dp_diffusion/data/digits.py',
  'dp_diffusion/data/glyphs.py',
  'configs/digits.py',
}
REGISTRY = 'dp_diffusion/data/registry.py'
TABLE_ENTRY = re.compile(r"^\s*'[\w-]+': .*'[\w.:]+',?\)?,?$")


@dataclasses.dataclass(frozen=True)
class Import:
  """One imported module, or one used attribute `library.name`."""

  name: str
  line: int
  is_inside_function: bool


@functools.cache
def sources(*folders: str) -> dict[str, str]:
  """Path below the root to text, of every Python file in the folders."""
  paths = (p for f in folders for p in sorted((ROOT / f).rglob('*.py')))
  return {
    p.relative_to(ROOT).as_posix(): p.read_text(encoding='utf-8') for p in paths
  }


@functools.cache
def parsed(text: str) -> ast.Module:
  """The syntax tree of a file, once for all tests; not to be changed."""
  return ast.parse(text)


def module_name(path: str) -> str:
  name = path.removesuffix('.py').replace('/', '.')
  return name.removesuffix('.__init__')


@functools.cache
def imports(path: str) -> tuple[Import, ...]:
  """What a file imports, and the dotted names that it uses."""
  tree = parsed((ROOT / path).read_text(encoding='utf-8'))
  return tuple(_walk(tree, is_inside=False))


def _walk(node: ast.AST, is_inside: bool) -> Iterator[Import]:
  for child in ast.iter_child_nodes(node):
    if _is_type_checking(child):
      continue
    if isinstance(child, ast.Import):
      for alias in child.names:
        yield Import(alias.name, child.lineno, is_inside)
    elif isinstance(child, ast.ImportFrom):
      for alias in child.names:
        yield Import(f'{child.module}.{alias.name}', child.lineno, is_inside)
    elif isinstance(child, ast.Attribute) and (name := _dotted(child)):
      yield Import(name, child.lineno, is_inside)
    inside = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    yield from _walk(child, is_inside or isinstance(child, inside))


def _dotted(node: ast.AST) -> str:
  """`a.b.c`; '' for an attribute of anything but names."""
  parts = []
  while isinstance(node, ast.Attribute):
    parts.append(node.attr)
    node = node.value
  if not isinstance(node, ast.Name):
    return ''
  return '.'.join((node.id, *reversed(parts)))


def _is_type_checking(node: ast.AST) -> bool:
  """Whether a statement is `if TYPE_CHECKING:`, which never runs."""
  return isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test)


def modules() -> list[str]:
  return [module_name(path) for path in sources(PACKAGE)]


@functools.cache
def edges() -> dict[str, dict[str, int]]:
  """Module to the project's modules that it imports, with a line each."""
  known = set(modules())
  graph: dict[str, dict[str, int]] = {}
  for path in sources(PACKAGE):
    found = graph.setdefault(module_name(path), {})
    for used in imports(path):
      if used.name in known and used.name != PACKAGE:
        found.setdefault(used.name, used.line)
  return graph


def part_of(module: str) -> str:
  """The row of LAYERS that a module belongs to."""
  parts = module.split('.')[1:]
  for length in (2, 1):
    if '.'.join(parts[:length]) in LAYERS:
      return '.'.join(parts[:length])
  raise AssertionError(f'{module} is in no layer; see the table above.')


def may_import(user: str, used: str) -> bool:
  mine, its = part_of(user), part_of(used)
  if mine.split('.')[0] == its.split('.')[0]:
    return LAYERS[mine] >= LAYERS[its]  # One package.
  if LAYERS[its] == 0:
    return True  # Layer 0 is one package as well; cycles have a test.
  return LAYERS[its] < LAYERS[mine] and its in ONLY.get(mine, {its})


def test_the_rules_bite():
  """Counterexamples: the checks below could fail."""
  assert not may_import(
    'dp_diffusion.diffusion.losses', 'dp_diffusion.models.x'
  )
  assert not may_import('dp_diffusion.privacy.noise', 'dp_diffusion.training.x')
  assert not may_import(
    'dp_diffusion.training.private_loop', 'dp_diffusion.models.unet'
  )
  assert not may_import(
    'dp_diffusion.evaluation.metrics.features', 'dp_diffusion.config'
  )
  assert not may_import('dp_diffusion.files', 'dp_diffusion.data.registry')
  assert may_import(
    'dp_diffusion.training.private_loop', 'dp_diffusion.privacy.noise'
  )
  assert may_import(
    'dp_diffusion.evaluation.metrics.fid', 'dp_diffusion.data.registry'
  )
  names = {i.name for i in _walk(ast.parse('import jax\njax.pmap(f)'), False)}
  assert names == {'jax', 'jax.pmap'}
  (found,) = _walk(ast.parse('def f():\n  import clu'), False)
  assert found.is_inside_function


def test_imports_go_down():
  wrong = [
    f'{user}:{line} imports {used}'
    for user, found in edges().items()
    for used, line in found.items()
    if user != PACKAGE and not may_import(user, used)
  ]
  assert not wrong


def test_no_cycles():
  graph = {user: set(found) for user, found in edges().items()}
  while free := {user for user, used in graph.items() if not used & set(graph)}:
    for user in free:
      del graph[user]
  assert not graph, 'modules that import one another'


def _is_allowed(path: str, allowed: set[str]) -> bool:
  return any(
    path.startswith(place) if place.endswith('/') else path == place
    for place in allowed
  )


@pytest.mark.parametrize('name', FENCES)
def test_fences(name):
  wrong = [
    f'{path}:{used.line} uses {used.name}'
    for path in sources(PACKAGE, 'configs')
    if not _is_allowed(path, FENCES[name])
    for used in imports(path)
    if used.name == name or used.name.startswith(f'{name}.')
  ]
  assert not wrong


def test_no_private_part_of_jax_anywhere():
  wrong = [
    f'{path}:{used.line}'
    for path, text in sources(
      PACKAGE, 'configs', 'experiments', 'tests'
    ).items()
    if '_src' in text  # Reading every test takes seconds.
    for used in imports(path)
    if used.name.startswith('jax._src')
  ]
  assert not wrong


def test_heavy_libraries_are_imported_when_used():
  wrong = [
    f'{path}:{used.line} imports {used.name}'
    for path in sources(PACKAGE, 'configs')
    for used in imports(path)
    if used.name.split('.')[0] in LAZY and not used.is_inside_function
  ]
  assert not wrong


def test_modules_are_imported_not_names():
  known = set(modules())
  wrong = []
  for path, text in sources(PACKAGE, 'configs', 'experiments', 'tests').items():
    for node in ast.walk(parsed(text)):
      if not isinstance(node, ast.ImportFrom) or not node.module:
        continue
      is_surface = path == f'{PACKAGE}/__init__.py'
      if node.module.split('.')[0] == PACKAGE and not is_surface:
        names = (f'{node.module}.{alias.name}' for alias in node.names)
        wrong += [f'{path}:{node.lineno} {n}' for n in names if n not in known]
  assert not wrong


def mentions(path: str, text: str, word: str) -> list[str]:
  """Lines with the word, in whatever meaning."""
  pattern = re.compile(word, re.IGNORECASE)
  lines = enumerate(text.splitlines(), 1)
  return [
    f'{path}:{number} {line.strip()}'
    for number, line in lines
    if pattern.search(line)
    and not (path == REGISTRY and TABLE_ENTRY.match(line))
  ]


def test_only_its_own_modules_know_the_demo():
  wrong = [
    found
    for path, text in sources(PACKAGE, 'configs').items()
    if path not in DIGITS_MODULES
    for found in mentions(path, text, 'digits')
  ]
  assert not wrong
  assert mentions('x.py', 'if name == "Digits":', 'digits')
  assert mentions(REGISTRY, 'if name == "digits":', 'digits')
  assert not mentions(REGISTRY, "  'digits': 'dp_diffusion.data.x',", 'digits')


def test_packages_are_a_docstring():
  """All but the first, which names what a library user imports."""
  for path, text in sources(PACKAGE).items():
    if path.endswith('/__init__.py') and path != f'{PACKAGE}/__init__.py':
      assert len(parsed(text).body) == 1 and ast.get_docstring(parsed(text)), (
        path
      )


def _size(function: ast.FunctionDef) -> tuple[int, int]:
  """Lines without docstrings, and parameters without `self`."""
  lines = function.end_lineno - function.lineno + 1
  for node in ast.walk(function):
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
      if ast.get_docstring(node) is not None:
        lines -= node.body[0].end_lineno - node.body[0].lineno + 1
  given = function.args
  positional = [a.arg for a in (*given.posonlyargs, *given.args)]
  rest = [a for a in (given.vararg, given.kwarg) if a]
  bound = positional[:1] in (['self'], ['cls'])
  return lines, len(positional) - bound + len(given.kwonlyargs) + len(rest)


def _over_the_limits(path: str, text: str) -> list[str]:
  """`path:function` of each function that is too long or takes too much."""
  return [
    f'{path}:{node.name}'
    for node in ast.walk(parsed(text))
    if isinstance(node, ast.FunctionDef)
    for lines, parameters in [_size(node)]
    if lines > MAX_FUNCTION_LINES or parameters > MAX_PARAMETERS
  ]


def test_functions_fit_a_screen_and_take_few_parameters():
  files = sources(PACKAGE, 'configs', 'experiments')
  found = {f for p, t in files.items() for f in _over_the_limits(p, t)}
  assert not found - set(OVER_THE_LIMITS), 'divide it, or make a dataclass'
  assert not set(OVER_THE_LIMITS) - found, 'no longer over: remove the entry'


def test_the_limits_bite():
  body = '\n'.join(['  x = 1'] * 59)
  docstring = '  """One.\n\n  Two.\n  """\n'
  assert not _over_the_limits('a.py', f'def f():\n{docstring}{body}')
  assert _over_the_limits('a.py', f'def f():\n  x = 0\n{body}') == ['a.py:f']
  seven = 'self, a, b, c, *d, e, f, **g'
  assert not _over_the_limits('a.py', f'def f({seven}): ...')
  assert _over_the_limits('a.py', f'def f(h, {seven[6:]}): ...') == ['a.py:f']


def test_every_guarantee_names_its_test():
  """Each bullet below `Guarantees:` names a test that is there."""
  tests = {
    name
    for text in sources('tests').values()
    for name in re.findall(r'^def (test_\w+)', text, re.MULTILINE)
  }
  wrong, num_bullets = [], 0
  for path, text in sources(PACKAGE).items():
    for node in ast.walk(parsed(text)):
      if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
        continue
      docstring = ast.get_docstring(node) or ''
      for bullet in _guarantees(docstring):
        num_bullets += 1
        named = re.findall(r'\btest_\w+(?!\w*\.py)\b', bullet)
        if not named or set(named) - tests:
          wrong.append(f'{path}: {bullet}')
  assert not wrong
  assert num_bullets


def _guarantees(docstring: str) -> list[str]:
  """The bullets of the section, each on one line."""
  _, found, section = docstring.partition('Guarantees:\n')
  if not found:
    return []
  section = re.split(r'\n\s*\n|\n(?=\S)', section)[0]
  bullets = re.split(r'^\s*[-*] ', section, flags=re.MULTILINE)[1:]
  return [re.sub(r'\s+', ' ', bullet).strip() for bullet in bullets]


IMPORT_ALL = """
import importlib, sys
for name in sys.argv[1:]:
  importlib.import_module(name)
heavy = {'tensorflow', 'tensorflow_datasets', 'clu'} & set(sys.modules)
assert not heavy, heavy
"""


def test_nothing_happens_at_import(subprocess_environment, tmp_path):
  """No device is asked for, nothing is written, printed or warned about."""
  names = modules() + [
    module_name(p) for p in sources('configs') if '__init__' not in p
  ]
  environment = {
    **subprocess_environment,
    'JAX_PLATFORMS': 'none_such',  # Any use of a device raises.
    'HOME': str(tmp_path),
    'TMPDIR': str(tmp_path),
    'XDG_CACHE_HOME': str(tmp_path),
    'PYTHONDONTWRITEBYTECODE': '1',
  }
  job = subprocess.run(
    [sys.executable, '-W', 'error', '-c', IMPORT_ALL, *names],
    env=environment,
    cwd=tmp_path,
    capture_output=True,
    text=True,
    check=False,
  )
  assert (job.returncode, job.stdout, job.stderr) == (0, '', '')
  assert not list(tmp_path.iterdir())


IMPORT_WITHOUT_JAX = """
import importlib, sys
for name in sys.argv[1:]:
  importlib.import_module(f'dp_diffusion.privacy.{name}')
assert not {'jax', 'jaxlib', 'flax'} & set(sys.modules)
"""


def test_a_statement_is_verified_without_jax(subprocess_environment):
  there = [m for m in WITHOUT_JAX if f'{PACKAGE}.privacy.{m}' in modules()]
  job = subprocess.run(
    [sys.executable, '-c', IMPORT_WITHOUT_JAX, *there],
    env=subprocess_environment,
    capture_output=True,
    text=True,
    check=False,
  )
  assert job.returncode == 0, job.stderr
