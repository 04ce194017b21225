"""Worker process of `sampling` that runs a pipeline of diffusers.

Its network has the depth, widths and attention of ours, but no classes, because
the pipelines pass none. The table states its number of parameters.
"""

from __future__ import annotations

import pathlib
import sys
import time
from typing import Any

from dp_diffusion import config as config_lib
from experiments.benchmarks import networks


def network_arguments(config: config_lib.Config) -> dict[str, Any]:
  """Arguments of diffusers' `UNet2DModel` for the network of a config."""
  model, data = config.unet_config(config.data), config.data
  sides = [
    data.image_size // 2**i for i in range(len(model.channel_multipliers))
  ]
  has_attention = [side in model.attention_resolutions for side in sides]
  kinds = ['Attn' if yes else '' for yes in has_attention]
  return {
    'sample_size': data.image_size,
    'in_channels': data.channels,
    'out_channels': data.channels,
    'layers_per_block': model.num_blocks,
    'block_out_channels': tuple(
      model.channels * m for m in model.channel_multipliers
    ),
    'down_block_types': tuple(f'{kind}DownBlock2D' for kind in kinds),
    'up_block_types': tuple(f'{kind}UpBlock2D' for kind in reversed(kinds)),
    'norm_num_groups': model.num_groups,
    'attention_head_dim': model.head_channels,
  }


def make_methods(
  config: config_lib.Config, num_steps: int, batch_size: int
) -> tuple[dict[str, Any], int]:
  """Returns sampler name -> call that samples a batch, and the parameters."""
  import diffusers  # noqa: PLC0415
  import torch  # noqa: PLC0415

  torch.manual_seed(0)
  net = diffusers.UNet2DModel(**network_arguments(config)).eval()
  steps = {'num_train_timesteps': config.diffusion.num_timesteps}
  schedulers = {
    'ancestral': diffusers.DDPMScheduler(**steps),
    'ddim': diffusers.DDIMScheduler(**steps),
    'dpm_solver_pp_2m': diffusers.DPMSolverMultistepScheduler(**steps),
  }

  def method(scheduler: Any) -> Any:
    pipeline = diffusers.DDPMPipeline(unet=net, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return lambda: pipeline(
      batch_size=batch_size, num_inference_steps=num_steps, output_type='np'
    )

  calls = {name: method(scheduler) for name, scheduler in schedulers.items()}
  return calls, sum(p.numel() for p in net.parameters())


def main() -> None:
  """Runs each sampler named on stdin, and prints its seconds."""
  folder = pathlib.Path(sys.argv[1])
  name, num_steps, batch_size = (folder / 'problem').read_text().split()
  config = networks.load(name).config
  methods, num = make_methods(config, int(num_steps), int(batch_size))
  (folder / 'num_parameters').write_text(str(num))
  for line in sys.stdin:
    start = time.perf_counter()
    methods[line.strip()]()
    print(time.perf_counter() - start, flush=True)


if __name__ == '__main__':
  main()
