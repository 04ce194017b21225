"""Worker process of `peers` that runs our clipped sum and jax_privacy's."""

from __future__ import annotations

import pathlib
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion.models import kernel_gradients
from dp_diffusion.models import unet
from dp_diffusion.models import weights
from dp_diffusion.privacy import clipping
from dp_diffusion.training import private_step as step_lib
from experiments.benchmarks import harness
from experiments.benchmarks import networks
from experiments.benchmarks import peers


def make_methods(folder: pathlib.Path) -> dict[str, Any]:
  """Returns method -> call that returns the clipped sum of all images."""
  import jax_privacy  # noqa: PLC0415

  harness.start()
  config = networks.load((folder / 'network').read_text()).config
  model = unet.UNet(config.unet_config(config.data))
  params = weights.unflatten(dict(np.load(folder / 'weights.npz')))
  params = jax.tree.map(jnp.asarray, params)
  batch = {k: jnp.asarray(v) for k, v in np.load(folder / 'inputs.npz').items()}
  num_images = len(batch['x'])

  def batch_loss(params: Any, batch: Any) -> jax.Array:
    output = model.apply(
      {'params': params}, batch['x'], batch['timestep'], batch['label']
    )
    return jnp.mean(jnp.square(output - batch['target']))

  def loss(params: Any, example: Any, key: Any) -> jax.Array:
    del key
    return batch_loss(params, jax.tree.map(lambda x: x[None], example))

  grad_config = clipping.GradConfig(
    l2_clip_norm=peers.CLIP_NORM,
    rescale_to_unit_norm=False,
    gradient_axes=kernel_gradients.gradient_axes,
  )

  def ours(params: Any, batch: Any) -> Any:
    return step_lib.accumulate(
      loss,
      params,
      {},
      clipping.zeros(params, grad_config),
      step_lib.Microbatch(
        examples=batch,
        indices=jnp.arange(num_images, dtype=jnp.int32),
        is_padding=jnp.zeros(num_images, bool),
      ),
      jax.random.key(0),
      config=grad_config,
    ).grad_sum

  theirs = jax_privacy.clipped_grad(batch_loss, l2_clip_norm=peers.CLIP_NORM)
  compiled = {'ours': jax.jit(ours).lower(params, batch).compile()}
  with networks.stock_convolutions():
    compiled['jax_privacy'] = jax.jit(theirs).lower(params, batch).compile()
  return {
    name: (lambda f=f: jax.block_until_ready(f(params, batch)))
    for name, f in compiled.items()
  }


def main() -> None:
  """Runs each method named on stdin, and prints its seconds."""
  folder = pathlib.Path(sys.argv[1])
  methods = make_methods(folder)
  for line in sys.stdin:
    name = line.strip()
    start = time.perf_counter()
    result = methods[name]()
    print(time.perf_counter() - start, flush=True)
    path = folder / f'{name}.npz'
    if not path.exists():
      np.savez(path, **weights.flatten(result))


if __name__ == '__main__':
  main()
