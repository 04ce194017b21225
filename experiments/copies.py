"""Copies the folder of a run, so that another run can continue from it.

Settings of sampling and evaluation do not change the training. Runs that differ
only in such settings share one training, each in a copy of its folder. No
privacy budget is spent twice, because nothing is trained twice.
"""

from __future__ import annotations

from collections.abc import Mapping
import pathlib
import shlex
import shutil

from dp_diffusion import files


def make(source: pathlib.Path, workdir: pathlib.Path) -> None:
  """Copies `source` to `workdir` atomically, unless `workdir` exists."""
  if workdir.exists():
    return
  partial = workdir.with_name(f'{workdir.name}.partial')
  shutil.rmtree(partial, ignore_errors=True)
  shutil.copytree(source, partial)
  partial.rename(workdir)


def command(source: pathlib.Path, workdir: pathlib.Path) -> str:
  """The shell command that does the same as `make`, also atomically.

  >>> print(command(pathlib.Path('a'), pathlib.Path('b')))
  test -d b || { rm -rf b.partial && cp -a a b.partial && mv b.partial b; }
  """
  partial = workdir.with_name(f'{workdir.name}.partial')
  a, b, p = (shlex.quote(str(path)) for path in (source, workdir, partial))
  return f'test -d {b} || {{ rm -rf {p} && cp -a {a} {p} && mv {p} {b}; }}'


def own_seconds(
  source: pathlib.Path, seconds: Mapping[str, float]
) -> dict[str, float]:
  """Seconds by stage, without those of the stages that were copied.

  Args:
    source: the folder that was copied.
    seconds: seconds of each stage in the report of the copy.
  """
  path = source / 'private' / 'seconds.json'
  copied = files.read_json(path) if path.exists() else {}
  return {stage: s for stage, s in seconds.items() if stage not in copied}
