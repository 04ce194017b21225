"""Kinds of events are known to the modules that make them, and to a table."""

from __future__ import annotations

import ast
import functools
import pathlib

import pytest

from dp_diffusion.privacy import entries
from dp_diffusion.privacy import ledger as ledger_lib

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PACKAGE = ROOT / 'dp_diffusion'
# The table of kinds, and the config section that chooses one.
TABLE = 'dp_diffusion/privacy/ledger.py'
CHOICE = 'dp_diffusion/privacy/privacy_config.py'
# Kinds that are not a training, and who makes their entries.
MAKERS = {
  'noised_histogram': {TABLE, 'dp_diffusion/privacy/label_histogram.py'},
  'gaussian': {
    TABLE,
    'dp_diffusion/baselines/class_gaussians.py',
    'dp_diffusion/baselines/class_head.py',
    'dp_diffusion/baselines/mean_embedding.py',
    'dp_diffusion/baselines/warm_up.py',
  },
  'inherited': {
    TABLE,
    'dp_diffusion/stages/run/released_ledger.py',
    'dp_diffusion/stages/run/inherited_ledger.py',
  },
}
MAX_FILES = 3


@functools.cache
def trees():
  paths = sorted(PACKAGE.rglob('*.py'))
  return [
    (
      path.relative_to(ROOT).as_posix(),
      ast.parse(path.read_text(encoding='utf-8')),
    )
    for path in paths
  ]


def class_names(kind):
  """The classes of a kind: its entry, and the mechanism of a training."""
  entry = ledger_lib.KINDS[kind]
  mechanism = getattr(entry, 'mechanism_type', None)
  return {entry.__name__} | ({mechanism.__name__} if mechanism else set())


def names_in(tree):
  """Names that a module uses, docstrings and comments apart."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Attribute):
      yield node.attr
    elif isinstance(node, ast.Name):
      yield node.id
    elif isinstance(node, ast.ClassDef):
      yield node.name


def texts_in(tree):
  for node in ast.walk(tree):
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
      yield node.value


def type_tests(tree):
  """Where a module asks which kind an entry or a mechanism is."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
      if node.func.id in ('isinstance', 'issubclass'):
        asked = ast.unparse(node.args[1])
        if asked.endswith(('Entry', 'Mechanism')) or 'Entry' in asked:
          yield ast.unparse(node)
    elif isinstance(node, ast.Compare):
      for side in (node.left, *node.comparators):
        text = ast.unparse(side)
        if text.endswith(('entry.kind', "event['kind']", '.mechanism.kind')):
          yield ast.unparse(node)
    elif isinstance(node, ast.MatchClass):
      if ast.unparse(node.cls).endswith(('Entry', 'Mechanism')):
        yield ast.unparse(node.cls)


TRAININGS = [
  kind
  for kind, entry in ledger_lib.KINDS.items()
  if issubclass(entry, entries.TrainingEntry)
]


def test_the_check_bites():
  found = [
    *type_tests(ast.parse('isinstance(x, ledger_lib.DpSgdEntry)')),
    *type_tests(ast.parse("event['kind'] == ledger_lib.DpSgdEntry.kind")),
    *type_tests(ast.parse('isinstance(x, (A, m.GaussianEntry))')),
    *type_tests(ast.parse('match x:\n  case m.BandMechanism():\n    pass')),
  ]
  assert len(found) == 4
  assert set(TRAININGS) | set(MAKERS) == set(ledger_lib.KINDS)


def test_no_module_asks_for_the_kind_of_an_entry():
  wrong = [
    f'{path}: {found}' for path, tree in trees() for found in type_tests(tree)
  ]
  assert not wrong


@pytest.mark.parametrize('kind', TRAININGS)
def test_a_kind_of_training_touches_three_files(kind):
  """Its own module, the table, and the config section that chooses it."""
  names = class_names(kind)
  found = {
    path
    for path, tree in trees()
    if names & set(names_in(tree)) or kind in texts_in(tree)
  }
  assert {TABLE, CHOICE} < found and len(found) <= MAX_FILES, found


@pytest.mark.parametrize('kind', MAKERS)
def test_other_kinds_are_named_by_those_who_make_them(kind):
  found = {
    path for path, tree in trees() if class_names(kind) & set(names_in(tree))
  }
  shared = {
    path
    for other in MAKERS
    if class_names(other) == class_names(kind)
    for path in MAKERS[other]
  }
  assert found <= shared, found - shared


@pytest.mark.parametrize('kind', ledger_lib.KINDS)
def test_a_kind_answers_all_that_is_asked(kind):
  """Every question of the protocol has an answer of its own or a default."""
  entry = ledger_lib.KINDS[kind]
  asked = [name for name in vars(entries.Entry) if not name.startswith('_')]
  assert len(asked) > 10
  for name in asked:
    assert hasattr(entry, name), name
  for name in ('dp_events', 'to_json', 'from_json', 'summary', 'describe'):
    assert getattr(entry, name) is not getattr(entries.Entry, name), name
