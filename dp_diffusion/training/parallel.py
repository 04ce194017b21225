"""Runs functions on several devices and processes; only it uses `jax.pmap`.

Every function works in the same way on one CPU and on several hosts with
several accelerators each. A tree "on devices" has a leading axis D, with one
slice per device of this process; a replicated tree has D equal slices.

Each process feeds its own devices. All processes must call the collective
functions (`pmap_apply`, `pmap_public_step`, `pmap_private_stats`, and those of
`processes`) equally often and in the same order.

Guarantees:
  * The std of the noise is the same on 1 and 8 devices and on 2 processes, and
    replicas are equal to the bit.
    `parallel_test.py::test_noise_std_on_devices`,
    `::test_noise_std_on_two_processes`, `::test_replicas_are_identical`.
  * Neither devices nor processes change the step.
    `parallel_test.py::test_one_device_equals_eight`,
    `::test_batch_on_one_device_only`, `::test_two_processes_equal_one`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dp_diffusion import errors
from dp_diffusion import types
from dp_diffusion.privacy import clipping
from dp_diffusion.privacy import grid_limits
from dp_diffusion.training import private_step
from dp_diffusion.training import public_step
from dp_diffusion.training import state as train_state

AXIS_NAME = 'devices'


def check_num_devices() -> None:
  """Checks, before any compute, that exact sums over all devices are possible.

  Raises:
    UsageError: the job has more devices than sums on the grid allow.
  """
  found = jax.device_count()
  if found > grid_limits.MAX_DEVICES:
    raise errors.UsageError(
      f'Expected at most {grid_limits.MAX_DEVICES} devices for private steps,'
      f' found {found}: their sums would not be exact; use fewer.'
    )


class DataParallel:
  """The devices of this job, each of which holds a replica."""

  def __init__(self, devices: Sequence[jax.Device] | None = None) -> None:
    """Chooses devices.

    Args:
      devices: some devices of this process; None for all of every process.

    Raises:
      ValueError: some devices are named in a job of several processes.
    """
    if devices is not None and jax.process_count() > 1:
      raise ValueError('Expected devices=None in a job of several processes.')
    self._pmap_devices = None if devices is None else tuple(devices)
    self.devices = self._pmap_devices or tuple(jax.local_devices())
    # Arrays are placed as pmap places its results; otherwise the second call
    # of a step would compile it again.
    self._sharding = jax.sharding.NamedSharding(
      jax.sharding.Mesh(np.array(self.devices), (AXIS_NAME,)),
      jax.sharding.PartitionSpec(AXIS_NAME),
    )

  @property
  def num_devices(self) -> int:
    """Number D of devices of this process."""
    return len(self.devices)

  @property
  def num_global_devices(self) -> int:
    """Number of devices of all processes."""
    return self.num_devices if self._pmap_devices else jax.device_count()

  @property
  def is_cpu(self) -> bool:
    """Whether the devices are CPUs.

    A CPU allocates the memory of a call when the call is queued.
    """
    return self.devices[0].platform == 'cpu'

  @property
  def process_index(self) -> int:
    """Number of this process, from 0."""
    return jax.process_index()

  @property
  def process_count(self) -> int:
    """Number of processes."""
    return jax.process_count()

  @property
  def is_main(self) -> bool:
    """Whether this process writes files and prints messages."""
    return self.process_index == 0

  def shard(self, tree: types.PyTree) -> types.PyTree:
    """Puts leaves [D, ...] on devices, one slice each."""
    return jax.tree.map(
      lambda x: jax.device_put(x, self._sharding, may_alias=False), tree
    )

  def replicate(self, tree: types.PyTree) -> types.PyTree:
    """Copies leaves [...] to every device: [D, ...]."""
    return self.shard(jax.tree.map(self._repeat, tree))

  def replica_shapes(self, tree: types.PyTree) -> types.PyTree:
    """Returns what `replicate` would return, as shapes: no memory is taken.

    A function that is lowered with them and compiled is not compiled again when
    it is called with the arrays.

    Args:
      tree: arrays or their shapes, [...].
    """
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        (self.num_devices, *x.shape), x.dtype, sharding=self._sharding
      ),
      tree,
    )

  def _repeat(self, x: Any) -> Any:
    if isinstance(x, jax.Array) and jnp.issubdtype(
      x.dtype, jax.dtypes.prng_key
    ):
      return jnp.broadcast_to(x[None], (self.num_devices, *x.shape))
    x = np.asarray(x)
    return np.broadcast_to(x[None], (self.num_devices, *x.shape))

  def unreplicate(self, tree: types.PyTree) -> types.PyTree:
    """Fetches the first replica to the host: NumPy leaves [...]."""
    first = jax.tree.map(lambda x: x.addressable_shards[0].data, tree)
    return jax.tree.map(lambda x: x[0], jax.device_get(first))

  def replicas_are_equal(self, tree: types.PyTree) -> bool:
    """Whether all replicas of this process are equal to the bit."""
    for leaf in jax.tree.leaves(tree):
      replicas = [np.asarray(s.data).tobytes() for s in leaf.addressable_shards]
      if any(replica != replicas[0] for replica in replicas):
        return False
    return True

  def pmap(
    self,
    fn: Callable[..., Any],
    in_axes: int | tuple[int | None, ...] = 0,
    donate_argnums: tuple[int, ...] = (),
  ) -> Callable[..., Any]:
    """Maps `fn` over the devices of all processes, with axis `AXIS_NAME`."""
    return jax.pmap(
      fn,
      axis_name=AXIS_NAME,
      in_axes=in_axes,
      donate_argnums=donate_argnums,
      devices=self._pmap_devices,
    )

  def pmap_local(
    self,
    fn: Callable[..., Any],
    in_axes: int | tuple[int | None, ...] = 0,
    donate_argnums: tuple[int, ...] = (),
  ) -> Callable[..., Any]:
    """Maps `fn`, without collectives, over the devices of THIS process."""
    return jax.pmap(
      fn,
      in_axes=in_axes,
      donate_argnums=donate_argnums,
      devices=self.devices,
    )

  def pmap_zeros(
    self, config: clipping.GradConfig
  ) -> Callable[[types.Params], clipping.ClippedSum]:
    """Compiles a function from params to an empty sum, both on devices."""
    return self.pmap(functools.partial(clipping.zeros, config=config))

  def pmap_accumulate(
    self, loss_fn: types.LossFn, config: clipping.GradConfig
  ) -> Callable[..., clipping.ClippedSum]:
    """Compiles `private_step.accumulate`.

    Args:
      loss_fn: loss of one draw of one example.
      config: number of draws and clip norm.

    Returns:
      A function (params, frozen_params, total, microbatch, draw_key) -> total.
      The draw key is one typed key; everything else is on devices. The given
      total is donated.
    """
    fn = functools.partial(private_step.accumulate, loss_fn, config=config)
    return self.pmap(fn, in_axes=(0, 0, 0, 0, None), donate_argnums=(2,))

  def pmap_apply(
    self,
    optimizer: optax.GradientTransformation,
    config: private_step.ApplyConfig,
  ) -> Callable[..., train_state.TrainState]:
    """Compiles `private_step.apply`.

    Args:
      optimizer: the result of `optimizers.make`.
      config: the numbers of the mechanism.

    Returns:
      A function (state, total, noise_keys) -> state. If the noise is correlated
      it has a fourth argument, the past noise. The noise keys are typed
      keys[4], the same for all devices; everything else is on devices. The
      given state is donated.
    """
    fn = functools.partial(
      private_step.apply,
      optimizer=optimizer,
      config=config,
      axis_name=AXIS_NAME,
    )
    of_noise = (None, 0) if len(config.noise_strategy) > 1 else (None,)
    return self.pmap(fn, in_axes=(0, 0, *of_noise), donate_argnums=(0,))

  def pmap_private_stats(
    self,
  ) -> Callable[[clipping.ClippedSum], clipping.GradStats]:
    """Compiles a function from the total to un-noised statistics.

    They are equal on all devices. They are private: use `unreplicate`, and
    write them to `private/` only.
    """
    return self.pmap(
      functools.partial(private_step.private_stats, axis_name=AXIS_NAME)
    )

  def pmap_public_step(
    self,
    loss_fn: types.LossFn,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
    microbatch_size: int | None = None,
  ) -> Callable[..., tuple[train_state.TrainState, types.Array]]:
    """Compiles `public_step.public_step`.

    Args:
      loss_fn: loss of one draw of one example.
      optimizer: the result of `optimizers.make`.
      ema_decay: final decay of the moving average.
      microbatch_size: examples of a device at a time; None for all.

    Returns:
      A function (state, batch, draw_key, indices) -> (state, loss). The draw
      key is one typed key; everything else is on devices. The given state is
      donated.
    """
    fn = functools.partial(
      public_step.public_step,
      loss_fn,
      optimizer=optimizer,
      ema_decay=ema_decay,
      microbatch_size=microbatch_size,
      axis_name=AXIS_NAME,
    )
    return self.pmap(fn, in_axes=(0, 0, None, 0), donate_argnums=(0,))

  def pmap_map(self, fn: Callable[..., Any]) -> Callable[..., Any]:
    """Maps a function over rows, spread over the devices of THIS process.

    Samplers and feature networks use it. It has no collective, so processes may
    call it a different number of times.

    Args:
      fn: (replica, *arrays[b, ...]) -> tree of arrays [b, ...].

    Returns:
      A function (tree on devices, *host arrays or typed keys [n, ...]) -> NumPy
      tree [n, ...]. The rows are padded to a multiple of D with the last one.
      Use the same n in all calls, since each new n is compiled.
    """
    mapped = jax.pmap(fn, axis_name=AXIS_NAME, devices=self.devices)

    def run(replicated: types.PyTree, *arrays: Any) -> Any:
      num_rows = len(arrays[0])
      per_device = -(-num_rows // self.num_devices)
      rows = np.arange(per_device * self.num_devices)
      rows = np.minimum(rows, num_rows - 1)
      shape = (self.num_devices, per_device)
      shards = [
        self.shard(x[rows].reshape(shape + x.shape[1:])) for x in arrays
      ]
      results = jax.device_get(mapped(replicated, *shards))
      return jax.tree.map(
        lambda x: x.reshape((-1,) + x.shape[2:])[:num_rows], results
      )

    return run


def wait_for_last_but_one(results: Sequence[tuple[int, Any]]) -> None:
  """Waits until the devices are at most one step behind the host.

  Args:
    results: (step, arrays on devices), in the order of the steps.
  """
  if len(results) > 1:
    jax.block_until_ready(results[-2][1])
