"""How every test runs: 8 CPU devices, strict jax, caches of the tests only.

The settings are environment variables, set before jax is imported, so that
the processes that tests start inherit them.
"""

from __future__ import annotations

import gc
import importlib.metadata
import os
import pathlib
import shutil
import socket
import sys
import tempfile
import weakref

import hypothesis
import pytest

NUM_DEVICES = 8
# Compiling is most of the time of the tests: less of it is done.
QUICK_COMPILATION = (
  '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
  ' --xla_cpu_parallel_codegen_split_count=1'
)
if importlib.metadata.version('jaxlib').startswith('0.10.'):
  # Later ones know no other emitters, and end at a flag that they do not know.
  QUICK_COMPILATION += ' --xla_cpu_use_fusion_emitters=false'

_ENVIRONMENT = {
  'JAX_PLATFORMS': 'cpu',
  'JAX_DEBUG_KEY_REUSE': '1',  # A key consumed twice raises.
  'JAX_NUMPY_RANK_PROMOTION': 'raise',  # Broadcasting is said, not guessed.
  'MPLBACKEND': 'Agg',
  'TF_CPP_MIN_LOG_LEVEL': '3',
  'TF_ENABLE_ONEDNN_OPTS': '0',
}


def _set_environment() -> None:
  assert 'jax' not in sys.modules, 'A pytest plugin imported jax too early.'
  for name, value in _ENVIRONMENT.items():
    os.environ.setdefault(name, value)
  flags = os.environ.get('XLA_FLAGS', '')
  if 'xla_force_host_platform_device_count' not in flags:
    flags += f' --xla_force_host_platform_device_count={NUM_DEVICES}'
  if 'xla_backend_optimization_level' not in flags:
    flags += f' {QUICK_COMPILATION}'
  os.environ['XLA_FLAGS'] = flags.strip()
  # matplotlib's list of fonts takes seconds to make: the user's is kept.
  cache = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  os.environ.setdefault('MPLCONFIGDIR', str(pathlib.Path(cache, 'matplotlib')))


_set_environment()

hypothesis.settings.register_profile(
  'fixed', deadline=None, derandomize=True, max_examples=25, database=None
)
hypothesis.settings.register_profile(
  'explore', deadline=None, max_examples=500, print_blob=True
)
hypothesis.settings.load_profile(os.environ.get('HYPOTHESIS_PROFILE', 'fixed'))


# What takes longest to make, the longest first.
_SHARED_RUNS = (
  *('finished_run', 'finetuned_run'),
  *('neighbours', 'pretrained', 'merf', 'direct'),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Tests of a shared run come first, so that one process has them all.

  The other one would wait until the run is finished, or make it again; and no
  process is left with a long test when the others have ended.
  """

  def first_run(item: pytest.Item) -> int:
    needs = getattr(item, 'fixturenames', ())
    shared = (i for i, run in enumerate(_SHARED_RUNS) if run in needs)
    return next(shared, len(_SHARED_RUNS))

  items.sort(key=first_run)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
  """Modules stay: looking for garbage among them costs a tenth of the time."""
  gc.collect()
  gc.freeze()
  gc.set_threshold(100_000, 20, 50)


_COMPILED = 'DP_DIFFUSION_TESTS_COMPILED'  # Names the folder to all processes.
_MOST_BYTES = 100_000_000  # Of compiled programs that are kept between runs.


def pytest_configure(config: pytest.Config) -> None:
  """Starts with the programs that earlier runs of the tests compiled.

  They lie in pytest's own cache, .pytest_cache. A program that is there is read
  and never written again, so a link to it does. A test that is killed while it
  writes a program spoils one that is kept only if all tests pass.
  """
  if 'PYTEST_XDIST_WORKER' in os.environ:
    return  # The process that started this one has done it.
  folder = pathlib.Path(tempfile.mkdtemp(prefix='compiled-by-tests-'))
  os.environ[_COMPILED] = str(folder)
  kept = _kept_between_runs(config)
  for name in ('workers', 'commands'):
    if kept and (kept / name).is_dir():
      shutil.copytree(kept / name, folder / name, copy_function=link_or_copy)
    else:
      (folder / name).mkdir()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
  """Keeps the newest programs, if no test has failed."""
  if 'PYTEST_XDIST_WORKER' in os.environ or _COMPILED not in os.environ:
    return
  folder = pathlib.Path(os.environ.pop(_COMPILED))
  kept = _kept_between_runs(session.config)
  if kept and exitstatus == pytest.ExitCode.OK:
    keep_newest(folder, kept, _MOST_BYTES)
  shutil.rmtree(folder, ignore_errors=True)


def _kept_between_runs(config: pytest.Config) -> pathlib.Path | None:
  """A folder for each number of cores, which jax does not tell apart."""
  cache = getattr(config, 'cache', None)  # None with `-p no:cacheprovider`.
  num_cores = os.cpu_count()
  if hasattr(os, 'sched_getaffinity'):
    num_cores = len(os.sched_getaffinity(0))
  return cache and cache.mkdir(f'compiled-{num_cores}-cores')


def keep_newest(folder: pathlib.Path, kept: pathlib.Path, limit: int) -> None:
  """Replaces what is kept by the newest files of a folder, `limit` bytes."""
  found = [path for path in folder.rglob('*') if path.is_file()]
  found.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
  shutil.rmtree(kept)
  size = 0
  for path in found:
    size += path.stat().st_size
    if size > limit:
      break
    to = kept / path.relative_to(folder)
    to.parent.mkdir(parents=True, exist_ok=True)
    link_or_copy(path, to)


def link_or_copy(path: str | os.PathLike, to: str | os.PathLike) -> None:
  """A second name for a file, or a copy on another file system."""
  try:
    os.link(path, to)
  except OSError:
    shutil.copy2(path, to)


@pytest.fixture(scope='session', autouse=True)
def _cache_of_this_session(tmp_path_factory: pytest.TempPathFactory) -> None:
  """Nothing is read from, or written to, the user's own cache."""
  cache = of_all_workers(tmp_path_factory) / 'cache'
  cache.mkdir(exist_ok=True)
  os.environ['XDG_CACHE_HOME'] = str(cache)
  _keep_compiled(os.path.join(os.environ[_COMPILED], 'workers'))
  _remember_key_signatures()
  os.fsync = no_fsync


def _keep_compiled(folder: str) -> None:
  """What one test compiled serves the next, in whichever worker it runs.

  jax does not write the entries of that cache atomically: who reads a torn one
  finds that it does not decompress, warns, and compiles. pyproject.toml ignores
  that warning. The processes that tests start have a cache of their own: they
  have fewer devices, which is part of the key. So is the path of the folder,
  unless the compiler's own caches, which only GPUs have, are turned off.
  """
  import jax  # noqa: PLC0415

  jax.config.update('jax_persistent_cache_enable_xla_caches', 'none')
  jax.config.update('jax_compilation_cache_dir', folder)
  # Also the smallest: a test has hundreds, and reading one takes half as long.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)


def no_fsync(descriptor: int) -> None:
  """Instead of `os.fsync`: no test cuts the power, and the disk is slow.

  `files_test.py` and `key_streams_test.py` have one of their own, which sees
  that it is called.
  """


def _remember_key_signatures() -> None:
  """Asks once, not at each call, which keys a program consumes.

  To find a key used twice, jax reads all operations of a program whenever it is
  called or becomes part of another one. The answer for a program never changes.
  A program that uses a key twice has no answer, so it raises each time.
  """
  from jax.experimental.key_reuse import _core  # noqa: PLC0415

  read = _core.jaxpr_type_signature
  known = weakref.WeakKeyDictionary()

  def look_up(program):
    if program not in known:
      known[program] = read(program)
    return known[program]

  _core.jaxpr_type_signature = look_up


@pytest.fixture(scope='session')
def shared_dir() -> pathlib.Path:
  """The folder of shared test data: prepared datasets, feature nets, oracles.

  It is not part of the repository: DP_DIFFUSION_SHARED names it, else it is
  the folder `shared` beside the checkout. A test that needs it is skipped,
  visibly, where there is none.
  """
  root = pathlib.Path(__file__).resolve().parent.parent
  path = pathlib.Path(
    os.environ.get('DP_DIFFUSION_SHARED') or root.parent / 'shared'
  )
  if not path.is_dir():
    pytest.skip(f'needs shared test data: set DP_DIFFUSION_SHARED, not {path}')
  return path


@pytest.fixture(scope='session')
def repository() -> pathlib.Path:
  """Root of the checkout."""
  return pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def free_port() -> int:
  """A TCP port of this machine that nothing listens to."""
  with socket.socket() as s:
    s.bind(('localhost', 0))
    return s.getsockname()[1]


@pytest.fixture(scope='session')
def subprocess_environment(repository: pathlib.Path) -> dict[str, str]:
  """For processes that run the project: they share one compilation cache."""
  return {
    **os.environ,
    'PYTHONPATH': str(repository),
    'JAX_COMPILATION_CACHE_DIR': os.path.join(
      os.environ[_COMPILED], 'commands'
    ),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES': 'none',
  }


def of_all_workers(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """A temporary folder of this session, the same for all its processes."""
  folder = tmp_path_factory.getbasetemp()
  return folder.parent if 'PYTEST_XDIST_WORKER' in os.environ else folder
