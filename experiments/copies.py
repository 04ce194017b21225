"""Runs that go on from a copy of another run's folder.

A setting of the sampling, or of what comes after it, does not change the
training: runs that differ in nothing else share one, each in a copy of its
folder. Nothing private is spent twice, as nothing is trained twice.
"""

from __future__ import annotations

from collections.abc import Mapping
import pathlib
import shlex
import shutil

from dp_diffusion import files


def make(source: pathlib.Path, workdir: pathlib.Path) -> None:
  """Copies `source` to `workdir`, whole or not at all, unless it is there."""
  if workdir.exists():
    return
  partial = workdir.with_name(f'{workdir.name}.partial')
  shutil.rmtree(partial, ignore_errors=True)
  shutil.copytree(source, partial)
  partial.rename(workdir)


def command(source: pathlib.Path, workdir: pathlib.Path) -> str:
  """What does the same in a shell, whole or not at all as well.

  >>> print(command(pathlib.Path('a'), pathlib.Path('b')))
  test -d b || { rm -rf b.partial && cp -a a b.partial && mv b.partial b; }
  """
  partial = workdir.with_name(f'{workdir.name}.partial')
  a, b, p = (shlex.quote(str(path)) for path in (source, workdir, partial))
  return f'test -d {b} || {{ rm -rf {p} && cp -a {a} {p} && mv {p} {b}; }}'


def own_seconds(
  source: pathlib.Path, seconds: Mapping[str, float]
) -> dict[str, float]:
  """Seconds by stage, without the stages that were copied.

  Args:
    source: of the copy.
    seconds: of each stage, as the copy's report says.
  """
  path = source / 'private' / 'seconds.json'
  copied = files.read_json(path) if path.exists() else {}
  return {stage: s for stage, s in seconds.items() if stage not in copied}
