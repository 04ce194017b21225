"""What a user has in JAX's environment changes no bit, or is refused."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import pytest

from dp_diffusion import errors
from dp_diffusion import jax_environment

# A private step, and what the environment of its process was told otherwise.
CODE = """
from dp_diffusion import jax_environment
print(len(jax_environment.fix()))
import hashlib
import jax
from dp_diffusion.training import parallel
from tests.training import private_problem
jax_environment.fix()
trainer = private_problem.Trainer(parallel.DataParallel(), size=100)
state, _ = trainer.train(2)
leaves = jax.tree.leaves(trainer.data_parallel.unreplicate(state))
print(hashlib.sha256(b''.join(x.tobytes() for x in leaves)).hexdigest())
print(jax.random.key_data(jax.random.key(3)).shape, jax.numpy.arange(2.0).dtype)
"""
OTHERWISE = {
  'JAX_ENABLE_X64': '1',
  'JAX_NUMPY_DTYPE_PROMOTION': 'strict',
  'JAX_DEFAULT_MATMUL_PRECISION': 'bfloat16',
  'JAX_SOFTMAX_CUSTOM_JVP': 'true',
  'JAX_DEFAULT_DEVICE': 'cpu',
  'JAX_DEFAULT_PRNG_IMPL': 'rbg',
  'JAX_THREEFRY_PARTITIONABLE': '0',
  'JAX_THREEFRY_GPU_KERNEL_LOWERING': 'true',
  'JAX_LEGACY_PRNG_KEY': 'error',
  'JAX_ENABLE_CUSTOM_PRNG': '1',
  'JAX_RANDOM_SEED_OFFSET': '7',
  'JAX_HIGH_DYNAMIC_RANGE_GUMBEL': '1',
  'JAX_DEBUG_NANS': '1',
  'JAX_DEBUG_INFS': 'yes',
  'JAX_DISABLE_JIT': '1',
  'JAX_NO_EXECUTION': '1',
  'JAX_NO_TRACING': 'banana',  # No value of it: jax would not be imported.
  'JAX_TRANSFER_GUARD': 'disallow',
}


def run(environment: dict[str, str]) -> list[str]:
  done = subprocess.run(
    [sys.executable, '-c', CODE],
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  assert not done.returncode, done.stderr
  return done.stdout.split('\n')


def test_pinned_options_do_not_change_a_bit(subprocess_environment):
  assert {name.lower() for name in OTHERWISE} == set(jax_environment.PINNED)
  plain = run(subprocess_environment)
  overruled = run({**subprocess_environment, **OTHERWISE})
  assert plain[0] == '0' and overruled[0] == str(len(OTHERWISE))
  assert plain[1:] == overruled[1:]


def test_a_baseline_pins_before_jax_is_imported(subprocess_environment):
  """With options that are pinned, and flags of XLA that stay."""
  code = (
    'import sys\n'
    'from experiments import baseline\n'
    "assert 'jax' not in sys.modules\n"
    "sys.exit(baseline.main(['--method=none']))\n"
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    env={
      **subprocess_environment,
      **OTHERWISE,
      'XLA_FLAGS': '--xla_force_host_platform_device_count=2'
      ' --xla_dump_to=/dev/null/none',
    },
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 2
  *warnings, last = done.stderr.strip().split('\n')
  assert len(warnings) == 1 and 'not followed' in warnings[0]
  assert last.startswith("error: Expected --method='none' to be one of")


def test_what_is_pinned_is_what_the_tests_have():
  for option, value in jax_environment.PINNED.items():
    found = jax.config.values.get(option, value)
    if option == 'jax_transfer_guard':  # Not set means that all is allowed.
      found = found or 'allow'
    assert found == value, option


def test_what_python_code_has_changed_is_pinned_again():
  before = jax.config.values['jax_random_seed_offset']
  jax.config.update('jax_random_seed_offset', 5)
  try:
    assert jax_environment.fix() == []
    assert jax.config.values['jax_random_seed_offset'] == before == 0
  finally:
    jax.config.update('jax_random_seed_offset', 0)


def test_every_other_option_is_refused():
  known = {*jax_environment.PINNED, *jax_environment.KEPT}
  others = set(jax.config.values) - known
  assert {'jax_enable_checks', 'jax_enable_pgle', 'jax_use_magma'} <= others
  for option in others:
    variable = option.upper()
    with pytest.raises(errors.UsageError, match=f"no {variable}='1'"):
      jax_environment.check_options({variable: '1'}, jax.config.values)
  kept = {option.upper(): '1' for option in known}
  jax_environment.check_options({**kept, 'HOME': '/'}, jax.config.values)


@pytest.mark.parametrize(
  'text',
  [
    '--xla_cpu_enable_fast_math=true',
    '--xla_cpu_enable_fast_math',
    '--xla_cpu_enable_fast_min_max=1',
    '--xla_gpu_enable_fast_min_max=TRUE',
    '--xla_allow_excess_precision=false',
    '--xla_dump_to=x --xla_flag_of_tomorrow=1',
    '--xla_disable_hlo_passes=dce',
    '/home/me/flags',
    'xla_dump',
    '--xla_dump_to="x',
  ],
)
def test_flags_of_xla(text):
  with pytest.raises(errors.UsageError, match='XLA_FLAGS') as error:
    jax_environment.check_xla_flags(text)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'text',
  [
    '',
    os.environ['XLA_FLAGS'],  # Those of the tests.
    ' --xla_dump_to="a folder"   --xla_cpu_enable_fast_math=false',
    '--xla_disable_hlo_passes=cse_barrier_expander',
    '--xla_gpu_deterministic_ops=true',
  ],
)
def test_flags_of_xla_that_stay(text):
  jax_environment.check_xla_flags(text)


@pytest.mark.parametrize(
  ('variable', 'text', 'words'),
  [
    ('JAX_LOG_COMPILES', 'banana', 'JAX_LOG_COMPILES'),
    ('JAX_ENABLE_CHECKS', '1', 'JAX_ENABLE_CHECKS'),
    ('XLA_FLAGS', '--xla_cpu_enable_fast_math=true', 'fast_math'),
  ],
)
@pytest.mark.parametrize(
  'program',
  [
    ('dp_diffusion.main', '--stage=plan'),
    ('experiments.baseline', '--method=dp_merf'),
  ],
  ids=lambda program: program[0],
)
def test_refused_in_one_line_before_the_plan(
  variable, text, words, program, subprocess_environment, repository
):
  done = subprocess.run(
    [sys.executable, '-m', *program]
    + ['--config=configs/digits.py:smoke', '--workdir=/dev/null/none'],
    env={**subprocess_environment, variable: text},
    cwd=repository,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 2 and not done.stdout
  assert done.stderr.startswith('error: ') and words in done.stderr
  assert done.stderr.count('\n') == 1
