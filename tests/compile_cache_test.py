"""Compiled programs are kept in a folder of the user's own, or nowhere."""

from __future__ import annotations

import os
import pathlib
import stat
import subprocess
import sys

import jax
import pytest

from dp_diffusion import compile_cache
from tests import conftest

_CODE = """
import os
from dp_diffusion import compile_cache
assert compile_cache.enable()
import jax
jax.jit(lambda x: x * 2 + 1)(1.0).block_until_ready()
print(os.environ['JAX_COMPILATION_CACHE_DIR'])
"""


def test_folder_is_the_users_alone(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  path = compile_cache.folder()
  assert path and path.parent == tmp_path / 'dp_diffusion'
  assert stat.S_IMODE(path.stat().st_mode) == 0o700
  assert compile_cache.folder() == path
  path.chmod(0o770)
  assert compile_cache.folder() is None


@pytest.mark.skipif(
  not hasattr(os, 'sched_setaffinity') or len(os.sched_getaffinity(0)) < 2,
  reason='needs two cores to choose from',
)
def test_number_of_cores_tells_folders_apart(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  paths = []
  for cores in ({0}, {0, 1}):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid, c=cores: c)
    paths.append(compile_cache.folder())
  assert paths[0] != paths[1]


def test_no_folder_is_no_error(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  (tmp_path / 'file').write_text('')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)
  assert not compile_cache.enable()
  assert 'JAX_COMPILATION_CACHE_DIR' not in os.environ


def test_a_named_folder_stays(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  for named in ('/elsewhere', ''):  # Empty: the user wants none.
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', named)
    assert compile_cache.enable() == bool(named)
    assert os.environ['JAX_COMPILATION_CACHE_DIR'] == named
  assert not list(tmp_path.iterdir())


def test_jax_keeps_what_it_compiles_there(
  tmp_path: pathlib.Path, subprocess_environment: dict[str, str]
) -> None:
  environment = {
    **subprocess_environment,
    'XDG_CACHE_HOME': str(tmp_path),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }
  del environment['JAX_COMPILATION_CACHE_DIR']
  job = subprocess.run(
    [sys.executable, '-c', _CODE],
    env=environment,
    capture_output=True,
    text=True,
    check=True,
  )
  folder = pathlib.Path(job.stdout.strip())
  assert tmp_path in folder.parents
  assert any('jit' in file.name for file in folder.iterdir())


def test_a_torn_entry_is_compiled_anew() -> None:
  """As when another worker of these tests is still writing it."""

  def answer() -> float:
    def torn_entry(x):
      return 3 * x + 1

    return float(jax.jit(torn_entry)(2.0))

  folder = pathlib.Path(jax.config.jax_compilation_cache_dir)
  for entry in folder.glob('jit_torn_entry-*'):
    entry.unlink()  # Of an earlier run.
  assert answer() == 7
  (entry,) = folder.glob('jit_torn_entry-*-cache')
  whole = entry.read_bytes()
  entry.unlink()  # It may be a link to what is kept for the next run.
  try:
    entry.write_bytes(whole[:-9])
    with pytest.warns(UserWarning, match='Error reading persistent'):
      assert answer() == 7
  finally:
    entry.unlink()


def test_the_tests_keep_the_newest_of_what_they_compiled(
  tmp_path: pathlib.Path,
) -> None:
  folder, kept = tmp_path / 'folder', tmp_path / 'kept'
  (kept / 'workers').mkdir(parents=True)
  (kept / 'workers' / 'of_an_earlier_version').write_bytes(b'x')
  for i, name in enumerate(('workers/old', 'commands/newer', 'workers/newest')):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(10))
    os.utime(path, (i, i))
  conftest.keep_newest(folder, kept, 25)
  found = {
    p.relative_to(kept).as_posix() for p in kept.rglob('*') if p.is_file()
  }
  assert found == {'commands/newer', 'workers/newest'}
