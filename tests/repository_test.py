"""What stands around the code: README, citation, requirements."""

from __future__ import annotations

import ast
import re
import tomllib


def test_readme_is_short_and_has_its_parts(repository):
  text = (repository / 'README.md').read_text()
  assert text.count('\n') < 200
  for part in ('make demo', 'make test', 'Not covered', 'How to cite'):
    assert part in text
  for name in ('results', 'trust'):
    start = text.index(f'<!-- {name}:start -->')
    assert start < text.index(f'<!-- {name}:end -->')


def test_cells_of_the_readme_are_one_line(repository):
  text = (repository / 'README.md').read_text()
  rows = [line for line in text.splitlines() if line.startswith('|')]
  assert len(rows) > 30
  for row in rows:
    shown = re.sub(r'\[([^]]*)\]\([^)]*\)|[`*]', r'\1', row)
    for cell in shown.strip('|').split('|'):
      assert len(cell.strip()) <= 60, cell


def test_the_readme_is_in_order(repository):
  text = (repository / 'README.md').read_text()
  places = [
    text.index(part)
    for part in (
      *('**Publish synthetic images', '![Blood cells', 'make demo'),
      *('## Your own images', '## Results', '<!-- results:start -->'),
      *('## What the guarantee covers', '## Why trust it'),
    )
  ]
  assert places == sorted(places)
  trust = text.partition('## Why trust it')[2].partition('\n## ')[0]
  reasons = re.split(r'^- ', trust, flags=re.MULTILINE)[1:]
  assert len(reasons) == 5 and all('](' in reason for reason in reasons)


def test_links_of_the_documents_lead_somewhere(repository):
  for name in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'):
    text = (repository / name).read_text()
    for link in re.findall(r'(?<!!)\[[^]]*\]\(([^)]+)\)', text):
      if not link.startswith('https://'):
        assert (repository / link).exists(), f'{name}: {link}'


def test_documents_name_tests_that_are_there(repository):
  text = (repository / 'docs' / 'privacy.md').read_text()
  named = set(re.findall(r'`(\w+_test\.py)`', text))
  there = {path.name for path in (repository / 'tests').rglob('*_test.py')}
  assert len(named) > 5 and named <= there


def test_every_config_is_in_the_table(repository):
  text = (repository / 'README.md').read_text()
  for path in (repository / 'configs').glob('*.py'):
    if path.stem not in ('__init__', 'default'):
      assert f'| `{path.stem}` |' in text, path.stem


def test_versions_agree(repository):
  project = tomllib.loads((repository / 'pyproject.toml').read_text())
  version = project['project']['version']
  citation = (repository / 'CITATION.cff').read_text()
  assert f'\nversion: {version}\n' in citation
  assert 'arXiv:2302.13861' in citation


def test_requirements_are_pinned_as_locked(repository):
  """Each direct pin for a Python is in the lock of that Python."""
  names = set()
  for number in ('311', '312', '313'):
    lock = (repository / 'lock' / f'py{number}.txt').read_text().lower()
    locked = dict(line.split('==') for line in lock.split() if '==' in line)
    locked = {k.replace('_', '-'): v for k, v in locked.items()}
    for file in ('requirements.txt', 'requirements-dev.txt'):
      for line in (repository / file).read_text().splitlines():
        pin, _, marker = line.partition(';')
        if not re.match(r'[a-z]', pin) or not _applies(marker, number):
          continue
        name, version = re.sub(r'\[.*\]', '', pin).strip().split('==')
        names.add(name)
        assert locked[name.lower().replace('_', '-')] == version, name
  assert {'jax', 'flax', 'tensorflow-cpu', 'pytest'} <= names


def _applies(marker: str, number: str) -> bool:
  """Whether a marker holds for a Python on Linux, x86_64."""
  if 'aarch64' in marker:
    return False
  found = re.search(r'python_version (<|>=) "3\.(\d+)"', marker)
  if not found:
    return True
  is_below = int(number[1:]) < int(found[2])
  return is_below if found[1] == '<' else not is_below


def test_development_extra_names_what_is_pinned(repository):
  project = tomllib.loads((repository / 'pyproject.toml').read_text())
  extra = set(project['project']['optional-dependencies']['dev'])
  pins = (repository / 'requirements-dev.txt').read_text()
  assert extra == set(re.findall(r'^([\w-]+)==', pins, re.MULTILINE))


def test_test_modules_are_named_to_be_found(repository):
  """A test in a file that pytest does not collect would never run."""
  for path in (repository / 'tests').rglob('*.py'):
    if path.name.endswith('_test.py') or path.name == 'conftest.py':
      continue
    tree = ast.parse(path.read_text())
    names = [n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    assert not [n for n in names if n.startswith('test_')], path


def test_the_map_of_the_packages_is_whole(repository):
  text = (repository / 'CONTRIBUTING.md').read_text()
  named = set(re.findall(r'^\| `(dp_diffusion/[\w/]+)`', text, re.MULTILINE))
  package = repository / 'dp_diffusion'
  there = {
    str(path.parent.relative_to(repository))
    for path in package.glob('*/**/__init__.py')
  }
  assert there - named <= {'dp_diffusion/evaluation'}
  assert named <= there
