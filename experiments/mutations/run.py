"""Makes each mistake in a scratch copy, and checks that a test notices it.

  python -m experiments.mutations.run                  # the one test of each
  python -m experiments.mutations.run --full           # all of `make test`
  python -m experiments.mutations.run --only=noise     # names with this text

The working tree is never changed. A mutation is killed if a test fails with it
and passes without it; the tests of all mutations run on the unchanged code
first. `results.json` is written after each mutation. A later call with `--only`
replaces the lines of the mutations that it ran.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from typing import Any

from dp_diffusion import files
from experiments import machines
from experiments.mutations import mutations

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
RESULTS = pathlib.Path(__file__).resolve().parent / 'results.json'
SURVIVED = 'survived'
_FAILED = re.compile(
  r'^(?:FAILED|ERROR) (\S+?::\S+?)(?:\[.*)?(?: - .*)?$', re.MULTILINE
)
_TESTS_FAILED = 1  # Exit codes of pytest.
_ALL_PASSED = 0


def copy_repository(folder: pathlib.Path, root: pathlib.Path = ROOT) -> None:
  """Copies the files that git tracks or does not ignore, as they are now.

  Args:
    folder: the copy, which is made and is a git repository.
    root: root of the repository that is copied.
  """

  def git(where: pathlib.Path, *arguments: str) -> str:
    return subprocess.run(
      ['git', '-C', str(where), *arguments],
      check=True,
      capture_output=True,
      text=True,
    ).stdout

  listed = git(root, 'ls-files', '-z', '-co', '--exclude-standard')
  for name in listed.split('\0'):
    if name and (root / name).is_file():
      (folder / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy2(root / name, folder / name)
  git(folder, 'init', '-q')
  git(folder, 'add', '-A')


def run_tests(
  folder: pathlib.Path, *tests: str, is_all: bool = False
) -> tuple[int, str]:
  """Runs tests of a copy.

  Args:
    folder: the copy.
    *tests: files or ids of tests; if none, all tests of `make test` run.
    is_all: whether to continue after a test has failed.

  Returns:
    pytest's exit code and output.
  """
  environment = {**os.environ, 'PYTHONDONTWRITEBYTECODE': '1'}
  environment.pop('PYTHONPATH', None)
  done = subprocess.run(
    [
      sys.executable,
      '-m',
      'pytest',
      '-q',
      *(() if is_all else ('-x',)),
      '-p',
      'no:cacheprovider',
      '-m',
      'not slow',
      *tests,
    ],
    cwd=folder,
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  return done.returncode, done.stdout + done.stderr


def check_original(
  original: pathlib.Path, chosen: Sequence[mutations.Mutation]
) -> None:
  """Raises RuntimeError unless the tests pass without any mistake."""
  tests = dict.fromkeys(mutation.test for mutation in chosen)
  code, output = run_tests(original, *tests, is_all=True)
  if code != _ALL_PASSED:
    raise RuntimeError(f'Expected the tests to pass unchanged.\n{output}')


def kill(
  mutation: mutations.Mutation, original: pathlib.Path, *, is_full: bool
) -> dict[str, Any]:
  """Makes one mistake, and finds the test that notices it.

  Args:
    mutation: the mistake.
    original: a copy without mistakes, checked by `check_original`.
    is_full: whether to run all tests instead of the one of the mutation.

  Returns:
    A line for `results.json`.

  Raises:
    RuntimeError: the mutated code did not run, or the test that failed also
      fails without the mistake.
  """
  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch) / 'repository'
    shutil.copytree(original, folder)
    mutation.apply(folder)
    code, output = run_tests(folder, *([] if is_full else [mutation.test]))
  found = _FAILED.search(output)
  if code == _ALL_PASSED:
    killed_by = SURVIVED
  elif code == _TESTS_FAILED and found:
    killed_by = found.group(1)
    code = _ALL_PASSED
    if is_full or killed_by != mutation.test.partition('[')[0]:
      code, output = run_tests(original, killed_by)
  if code != _ALL_PASSED:
    raise RuntimeError(f'{mutation.name}: no verdict.\n{output}')
  return {
    'name': mutation.name,
    'file': mutation.path,
    'killed_by': killed_by,
    'tests': 'all' if is_full else mutation.test,
  }


def write(
  lines: Sequence[dict[str, Any]], machine: dict[str, Any], path: pathlib.Path
) -> None:
  """Writes `results.json` in the order of ALL; new lines replace old ones."""
  old = files.read_json(path)['mutations'] if path.exists() else []
  by_name = {line['name']: line for line in (*old, *lines)}
  files.write_json(
    path,
    {
      'experiment': 'mutations',
      'machine': machine,
      'rows': [],
      'figures': [],
      'mutations': [
        by_name[m.name] for m in mutations.ALL if m.name in by_name
      ],
    },
  )


def main(
  argv: Sequence[str] | None = None, results: pathlib.Path = RESULTS
) -> int:
  """Runs the mutations; returns 1 if one survives, else 0."""
  parser = argparse.ArgumentParser(
    prog='python -m experiments.mutations.run',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--full', action='store_true', help='run all tests')
  parser.add_argument('--only', default='', help='names with this text')
  arguments = parser.parse_args(argv)
  chosen = [
    m for m in mutations.ALL if arguments.only.lower() in m.name.lower()
  ]
  machine = machines.facts()
  lines: list[dict[str, Any]] = []
  with tempfile.TemporaryDirectory() as scratch:
    original = pathlib.Path(scratch) / 'repository'
    original.mkdir()
    copy_repository(original)
    check_original(original, chosen)
    for mutation in chosen:
      line = kill(mutation, original, is_full=arguments.full)
      print(f'{mutation.name}: {line["killed_by"]}', flush=True)
      lines.append(line)
      write(lines, machine, results)
  survivors = [line for line in lines if line['killed_by'] == SURVIVED]
  print(f'{len(lines) - len(survivors)} of {len(lines)} killed')
  return 1 if survivors or not lines else 0


if __name__ == '__main__':
  sys.exit(main())
