"""The list of mistakes stays true; verdicts are not given lightly."""

from __future__ import annotations

import pathlib
import shutil

import pytest

from dp_diffusion import files
from experiments.mutations import mutations
from experiments.mutations import run

ISSUE_MINIMUM = 15


@pytest.mark.parametrize('mutation', mutations.ALL, ids=lambda m: m.name)
def test_every_mutation_applies(mutation, repository, tmp_path):
  for path in {edit.path for edit in mutation.edits}:
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(repository / path, tmp_path / path)
  mutation.apply(tmp_path)
  changed = (tmp_path / mutation.path).read_text()
  assert changed != (repository / mutation.path).read_text()
  compile(changed, mutation.path, 'exec')
  file, _, test = mutation.test.partition('::')
  name = test.partition('[')[0]
  assert f'def {name}(' in (repository / file).read_text()


def test_names_are_unique_and_there_are_enough():
  names = {mutation.name for mutation in mutations.ALL}
  assert len(names) == len(mutations.ALL) >= ISSUE_MINIMUM


@pytest.mark.parametrize('text', ['', 'b b'])
def test_a_text_that_is_not_there_once_is_an_error(text, tmp_path):
  (tmp_path / 'a.py').write_text(text)
  with pytest.raises(ValueError, match="Expected a.py to hold once, not .*'b'"):
    mutations.Edit(path='a.py', old='b', new='c').apply(tmp_path)


CODE = 'def half(x):\n  return x / 2\n'
TESTS = (
  'import code_of\n\n'
  'def test_fine():\n  assert code_of.half(0) == 0\n\n'
  'def test_half():\n  assert code_of.half(4) == 2\n'
)


@pytest.fixture
def original(tmp_path: pathlib.Path) -> pathlib.Path:
  folder = tmp_path / 'original'
  folder.mkdir()
  (folder / 'code_of.py').write_text(CODE)
  (folder / 'code_test.py').write_text(TESTS)
  (folder / 'pytest.ini').write_text(
    '[pytest]\npythonpath = .\npython_files = *_test.py\nmarkers = slow\n'
  )
  return folder


def make(old: str, new: str) -> mutations.Mutation:
  edit = mutations.Edit(path='code_of.py', old=old, new=new)
  return mutations.Mutation(
    name='m', edits=(edit,), test='code_test.py::test_half'
  )


def test_verdicts(original, monkeypatch):
  monkeypatch.setenv('PYTEST_DISABLE_PLUGIN_AUTOLOAD', '1')  # It takes seconds.
  run.check_original(original, [make('x / 2', 'x / 3')])
  line = run.kill(make('x / 2', 'x / 3'), original, is_full=False)
  assert line['killed_by'] == 'code_test.py::test_half'
  line = run.kill(make('(x)', '(x, y=0)'), original, is_full=True)
  assert line['killed_by'] == run.SURVIVED
  with pytest.raises(RuntimeError, match='no verdict'):  # Does not compile.
    run.kill(make('x / 2', 'x /'), original, is_full=False)
  assert (original / 'code_of.py').read_text() == CODE
  (original / 'code_of.py').write_text(CODE + '\nX = half(5)\n')
  (original / 'code_test.py').write_text(TESTS.replace('== 2', '== 3'))
  mutation = make('X = half', 'Y = half')
  with pytest.raises(RuntimeError, match='to pass unchanged'):  # Fails anyway.
    run.check_original(original, [mutation])
  with pytest.raises(RuntimeError, match='no verdict'):
    run.kill(mutation, original, is_full=True)


def test_later_lines_replace_earlier_ones(tmp_path):
  first, second, *_ = mutations.ALL
  path = tmp_path / 'results.json'

  def line(mutation, killed_by):
    return {'name': mutation.name, 'killed_by': killed_by}

  run.write([line(second, 'a'), line(first, 'b')], {'cpu': 'x'}, path)
  run.write([line(second, 'c')], {'cpu': 'x'}, path)
  found = files.read_json(path)
  assert [m['killed_by'] for m in found['mutations']] == ['b', 'c']
  assert found['rows'] == [] and found['figures'] == []


def test_copy_has_what_is_not_committed_yet(tmp_path, repository):
  (tmp_path / 'copy').mkdir()
  run.copy_repository(tmp_path / 'copy', repository)
  for name in ('pyproject.toml', 'tests/experiments/mutations_test.py'):
    assert (tmp_path / 'copy' / name).read_bytes() == (
      repository / name
    ).read_bytes()
  assert not (tmp_path / 'copy' / '.venv').exists()


def test_results_are_of_these_mutations(repository):
  path = repository / 'experiments' / 'mutations' / 'results.json'
  if not path.exists():
    pytest.skip('no mutation run: no experiments/mutations/results.json')
  lines = files.read_json(path)['mutations']
  assert [line['name'] for line in lines] == [m.name for m in mutations.ALL]
  for line in lines:
    test_file, _, test = line['killed_by'].partition('::')
    assert f'def {test}(' in (repository / test_file).read_text(), line
