"""Pins the options of JAX and XLA that the environment may set.

The module is in the lowest layer. Every option of JAX is also an environment
variable. An option that changes numbers (64-bit floats, another generator,
another precision), or that ends a step midway (traces of NaNs, guards), is
pinned to the value with which everything is tested. Options in `KEPT` affect
only the placement of work or the amount of messages, and are kept. All others
are refused, as are flags of XLA that are not in `XLA_FLAGS`.

Guarantees:
  * A run has the same bits whatever the pinned options say, or it is refused
    in one line before its plan.
    `jax_environment_test.py::test_pinned_options_do_not_change_a_bit`,
    `jax_environment_test.py::test_every_other_option_is_refused`,
    `jax_environment_test.py::test_flags_of_xla`.
"""

from __future__ import annotations

from collections.abc import Mapping
import os
import shlex
import sys
from typing import Any

from dp_diffusion import console
from dp_diffusion import errors

# Option -> its value in every run. Options that the installed JAX lacks are
# skipped.
PINNED: Mapping[str, Any] = {
  # Types and precision.
  'jax_enable_x64': False,
  'jax_numpy_dtype_promotion': 'standard',
  'jax_default_matmul_precision': None,
  'jax_softmax_custom_jvp': False,
  'jax_default_device': None,
  # Public random numbers use this generator; secret ones name theirs.
  'jax_default_prng_impl': 'threefry2x32',
  'jax_threefry_partitionable': True,
  'jax_threefry_gpu_kernel_lowering': False,
  'jax_legacy_prng_key': 'allow',
  'jax_enable_custom_prng': False,
  'jax_random_seed_offset': 0,
  'jax_high_dynamic_range_gumbel': False,
  # A NaN among private gradients must neither end a step nor be reported on
  # the terminal.
  'jax_debug_nans': False,
  'jax_debug_infs': False,
  'jax_disable_jit': False,
  'jax_no_execution': False,
  'jax_no_tracing': False,
  'jax_transfer_guard': 'allow',
}
_DEBUG = ('jax_debug_key_reuse', 'jax_numpy_rank_promotion')  # Used by tests.
_MACHINES = (
  'jax_platforms',
  'jax_platform_name',
  'jax_cuda_visible_devices',
  'jax_rocm_visible_devices',
  'jax_oneapi_visible_devices',
  'jax_num_cpu_devices',
  'jax_cpu_enable_async_dispatch',
  'jax_cpu_collectives_implementation',
  'jax_cpu_get_global_topology_timeout_minutes',
  'jax_cpu_get_local_topology_timeout_minutes',
  'jax_check_proxy_envs',
  'jax_distributed_debug',
  'jax_distributed_verify_secure_credentials',
  'jax_enable_preemption_service',
  'jax_enable_recoverability',
  'jax_cross_host_transfer_socket_address',
  'jax_cross_host_transfer_timeout_seconds',
  'jax_cross_host_transfer_transfer_size',
  'jax_cross_host_transport_addresses',
  'jax_mtls_ca_file',
  'jax_mtls_cert_file',
  'jax_mtls_key_file',
  'jax_mtls_peer_uri_prefix',
)
_CACHE = (
  'jax_enable_compilation_cache',
  'jax_compilation_cache_dir',
  'jax_compilation_cache_check_contents',
  'jax_compilation_cache_include_metadata_in_key',
  'jax_compilation_cache_max_size',
  'jax_persistent_cache_enable_xla_caches',
  'jax_persistent_cache_min_compile_time_secs',
  'jax_persistent_cache_min_entry_size_bytes',
  'jax_raise_persistent_cache_errors',
  'jax_share_binary_between_hosts',
  'jax_share_binary_between_hosts_timeout_ms',
)
_MESSAGES = (
  'jax_captured_constants_report_frames',
  'jax_captured_constants_warn_bytes',
  'jax_compiler_detailed_logging_min_ops',
  'jax_debug_log_modules',
  'jax_explain_cache_misses',
  'jax_include_full_tracebacks_in_locations',
  'jax_log_checkpoint_residuals',
  'jax_log_compiles',
  'jax_logging_level',
  'jax_pprint_use_color',
  'jax_source_url_schema',
  'jax_traceback_filtering',
  'jax_traceback_in_locations_limit',
  'jax_tracer_error_num_traceback_frames',
)
KEPT = frozenset((*_DEBUG, *_MACHINES, *_CACHE, *_MESSAGES))

# Flag of XLA -> allowed values; None for any value.
_OFF = ('false', '0')
XLA_FLAGS: Mapping[str, tuple[str, ...] | None] = {
  # Devices, processes, memory, threads.
  'xla_force_host_platform_device_count': None,
  'xla_cpu_multi_thread_eigen': None,
  'xla_cpu_parallel_codegen_split_count': None,
  'xla_cpu_collective_call_warn_stuck_timeout_seconds': None,
  'xla_cpu_collective_call_terminate_timeout_seconds': None,
  'xla_cpu_collective_timeout_seconds': None,
  'xla_gpu_cuda_data_dir': None,
  'xla_gpu_force_compilation_parallelism': None,
  'xla_gpu_memory_limit_slop_factor': None,
  # Choice and order of kernels; rounding differs as between two machines.
  'xla_backend_optimization_level': None,
  'xla_cpu_use_fusion_emitters': None,
  'xla_disable_hlo_passes': ('cse_barrier_expander',),
  'xla_gpu_all_reduce_combine_threshold_bytes': None,
  'xla_gpu_autotune_level': None,
  'xla_gpu_deterministic_ops': None,
  'xla_gpu_enable_command_buffer': None,
  'xla_gpu_enable_latency_hiding_scheduler': None,
  'xla_gpu_exclude_nondeterministic_ops': None,
  'xla_gpu_graph_level': None,
  'xla_llvm_disable_expensive_passes': None,
  # Arithmetic that ignores NaNs or changes the order of sums must be off.
  'xla_allow_excess_precision': ('true', '1'),
  'xla_cpu_enable_fast_math': _OFF,
  'xla_cpu_enable_fast_min_max': _OFF,
  'xla_gpu_enable_fast_min_max': _OFF,
}
_XLA_PREFIXES = ('xla_dump_', 'xla_gpu_dump_', 'xla_gpu_per_fusion_autotune_')
_TRUE = ('y', 'yes', 't', 'true', 'on', '1')
_FALSE = ('n', 'no', 'f', 'false', 'off', '0', '')


def fix_and_say() -> None:
  """Calls `fix` at the start of a command, and warns of what it overruled.

  Raises:
    UsageError: an option or flag is neither pinned nor kept.
  """
  if overruled := fix():
    console.warn(
      f'{", ".join(overruled)}: not followed, all runs compute in one way'
    )


def fix() -> list[str]:
  """Pins options that change numbers; call it before JAX is imported.

  A second call pins options that a config file or a library has changed.

  Returns:
    The pinned options for which the environment had another value, as
    `NAME=value`.

  Raises:
    UsageError: an option or flag is neither pinned nor kept.
  """
  check_xla_flags(os.environ.get('XLA_FLAGS', ''))
  overruled = []
  if 'jax' not in sys.modules:  # A bad value would make the import fail.
    for option, value in PINNED.items():
      text = os.environ.pop(option.upper(), None)
      if text is not None and not _says(text, value):
        overruled.append(f'{option.upper()}={text}')
  try:
    import jax
  except ValueError as error:
    raise errors.UsageError(
      f"Expected JAX's environment variables to be valid: {error}."
    ) from None
  check_options(os.environ, jax.config.values)
  for option, value in PINNED.items():
    if option in jax.config.values:
      jax.config.update(option, value)
  return overruled


def check_options(
  environment: Mapping[str, str], options: Mapping[str, Any]
) -> None:
  """Refuses options that are neither pinned nor kept.

  Args:
    environment: `os.environ`.
    options: options of the installed JAX, `jax.config.values`.

  Raises:
    UsageError: names such an option.
  """
  for option in options:
    variable = option.upper()
    is_known = option in PINNED or option in KEPT
    if variable in environment and not is_known:
      raise errors.UsageError(
        f'Expected no {variable}={environment[variable]!r} in the environment:'
        ' it changes how JAX computes, and no run was tested with it. Unset it.'
      )


def check_xla_flags(text: str) -> None:
  """Refuses flags that are not in `XLA_FLAGS`.

  Args:
    text: value of the environment variable XLA_FLAGS.

  Raises:
    UsageError: names such a flag, or says that the text holds no flags.
  """
  try:
    flags = shlex.split(text)
  except ValueError:
    flags = [f'"{text}']  # The text has an unclosed quote.
  for flag in flags:
    name, _, value = flag.removeprefix('--').partition('=')
    is_dump = name.startswith(_XLA_PREFIXES)
    allowed = None if is_dump else XLA_FLAGS.get(name, ())
    if not flag.startswith('--') or (
      allowed is not None and value.lower() not in allowed
    ):
      raise errors.UsageError(
        f'Expected no {flag!r} in XLA_FLAGS: it may change what XLA computes,'
        ' and no run was tested with it. Remove it.'
      )


def _says(text: str, value: Any) -> bool:
  """Whether the text of a variable means the value."""
  if isinstance(value, bool):
    return text.lower() in (_TRUE if value else _FALSE)
  return text.lower() in (str(value).lower(), '')
