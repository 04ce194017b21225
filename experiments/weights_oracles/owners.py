"""Computes outputs and samples with the owners' own code, in PyTorch.

This script imports nothing of this project.

  python owners.py CASES.json

Each case names a repository on the path, the flags of its network, and what to
compute. All weights are random, and none stays zero. They are written as the
owners write theirs, with `torch.save(model.state_dict())`.
"""

from __future__ import annotations

import importlib
import json
import pathlib
import sys
from typing import Any

import numpy as np
import torch


def main() -> None:
  """Computes every case."""
  torch.set_grad_enabled(False)
  for case in json.loads(pathlib.Path(sys.argv[1]).read_text()):
    out = pathlib.Path(case['folder'])
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(case['seed'])
    made = _diffusers(case) if case['owner'] == 'diffusers' else _openai(case)
    np.savez(out / 'answers.npz', **made)
    print(case['name'], flush=True)


def _openai(case: dict[str, Any]) -> dict[str, np.ndarray]:
  sys.path.insert(0, case['source'])
  package = importlib.import_module(case['package'])
  unet = importlib.import_module(f'{package.__name__}.unet')
  scripts = importlib.import_module(f'{package.__name__}.script_util')
  respace = importlib.import_module(f'{package.__name__}.respace')
  sys.path.pop(0)
  _group(unet, case['num_groups'])
  flags = {**scripts.model_and_diffusion_defaults(), **case['flags']}
  if case['unet']:  # A small network, which the flags cannot describe.
    model = unet.UNetModel(**case['unet'])
  else:
    model, _ = scripts.create_model_and_diffusion(**flags)
  num_steps = flags['diffusion_steps']
  diffusion = scripts.create_gaussian_diffusion(
    steps=num_steps,
    learn_sigma=flags['learn_sigma'],
    noise_schedule=flags['noise_schedule'],
    rescale_timesteps=flags['rescale_timesteps'],
  )
  model.eval()
  _randomize(model)
  _save(model, pathlib.Path(case['folder']), case['dtype'])
  factor = num_steps // case['num_timesteps']  # Our step t is factor t + rest.
  wrapped = respace._WrappedModel(  # The form in which training calls it.
    model, list(range(num_steps)), flags['rescale_timesteps'], num_steps
  )
  made = {'num_parameters': np.int64(_count(model))}
  labels = torch.tensor(case['labels'])
  keywords = {'y': labels} if model.num_classes is not None else {}
  for side in case['sides']:
    x = _noise(len(labels), side)
    steps = (torch.tensor(case['timesteps']) + 1) * factor - 1
    with _Cut(unet, model):
      output = wrapped(x, steps, **keywords)
    made[f'x_{side}'] = _ours(x)
    made[f'output_{side}'] = _ours(output[:, :3])
  made['sampler_timesteps'] = np.array(case['sampler_timesteps'])
  for side in case['sampled_sides']:
    spaced = respace.SpacedDiffusion(
      use_timesteps=[(t + 1) * factor - 1 for t in case['sampler_timesteps']],
      betas=diffusion_betas(flags, package.__name__),
      model_mean_type=diffusion.model_mean_type,
      model_var_type=diffusion.model_var_type,
      loss_type=diffusion.loss_type,
      rescale_timesteps=flags['rescale_timesteps'],
    )
    x = _noise(len(labels), side)
    made[f'noise_{side}'] = _ours(x)
    made[f'sampled_{side}'] = _ours(
      spaced.ddim_sample_loop(
        model,
        x.shape,
        noise=x,
        model_kwargs=keywords,
        device=torch.device('cpu'),
      )
    )
  return made


def diffusion_betas(flags: dict[str, Any], package: str) -> np.ndarray:
  """The betas of all timesteps, by the owners' code."""
  gaussian = importlib.import_module(f'{package}.gaussian_diffusion')
  return gaussian.get_named_beta_schedule(
    flags['noise_schedule'], flags['diffusion_steps']
  )


class _Cut:
  """Makes the owners' network accept a side of 28, which it does not support.

  Features doubled from 4 to 8 pixels are cut to the 7 pixels of those they are
  concatenated with. At an odd end, means of pixels are over the pixels that
  exist. Even sides are not changed.
  """

  def __init__(self, unet: Any, model: Any) -> None:
    self._unet = unet
    for module in model.modules():
      if isinstance(module, torch.nn.AvgPool2d):
        module.ceil_mode = True

  def __enter__(self) -> None:
    torch_of = self._torch = self._unet.th

    class Torch:
      """PyTorch with a `cat` that cuts."""

      def __getattr__(self, name: str) -> Any:
        return getattr(torch_of, name)

      def cat(self, parts: list[Any], dim: int) -> Any:
        height, width = parts[-1].shape[2:]
        parts = [part[:, :, :height, :width] for part in parts]
        return torch_of.cat(parts, dim=dim)

    self._unet.th = Torch()

  def __exit__(self, *_: object) -> None:
    self._unet.th = self._torch


def _group(unet: Any, num_groups: int) -> None:
  """Sets the number of groups: small networks have fewer than 32 channels."""
  nn = importlib.import_module(unet.__name__.rpartition('.')[0] + '.nn')
  unet.normalization = lambda channels: nn.GroupNorm32(num_groups, channels)


def _diffusers(case: dict[str, Any]) -> dict[str, np.ndarray]:
  import diffusers

  model = diffusers.UNet2DModel(**case['unet']).eval()
  _randomize(model)
  if case['dtype'] == 'float16':
    model.half()  # Half the bytes; the model is rounded with it.
  scheduler = diffusers.DDIMScheduler(
    timestep_spacing='trailing', **case['scheduler']
  )
  diffusers.DDIMPipeline(model, scheduler).save_pretrained(case['folder'])
  model.float()
  made = {'num_parameters': np.int64(_count(model))}
  labels = torch.tensor(case['labels'])
  keywords = {'class_labels': labels} if model.class_embedding else {}
  for side in case['sides']:
    x = _noise(len(labels), side)
    output = model(x, torch.tensor(case['timesteps']), **keywords).sample
    made[f'x_{side}'] = _ours(x)
    made[f'output_{side}'] = _ours(output)
  scheduler.set_timesteps(case['num_sampler_steps'])
  made['sampler_timesteps'] = scheduler.timesteps.numpy()
  for side in case['sampled_sides']:
    x = _noise(len(labels), side)
    made[f'noise_{side}'] = _ours(x)
    for t in scheduler.timesteps:
      output = model(x, t, **keywords).sample
      x = scheduler.step(
        output, t, x, use_clipped_model_output=True
      ).prev_sample
    made[f'sampled_{side}'] = _ours(x)
  return made


def _randomize(model: Any) -> None:
  """Randomizes all weights; those that start at 0 or 1 would hide errors."""
  for name, parameter in model.named_parameters():
    fan = parameter[0].numel() if parameter.ndim > 1 else 1
    noise = torch.randn_like(parameter)
    if parameter.ndim > 1:
      parameter.copy_(noise / fan**0.5)
    else:
      parameter.copy_(parameter.clamp(-1, 1) + 0.1 * noise)
    if 'emb.weight' in name or 'class_embedding' in name:
      parameter.copy_(noise)


def _save(model: Any, folder: pathlib.Path, dtype: str) -> None:
  state = model.state_dict()
  if dtype == 'float16':  # Half the bytes; the model is rounded with it.
    model.half().float()
    state = {k: v.half() for k, v in model.state_dict().items()}
  torch.save(state, folder / 'weights.pt')


def _count(model: Any) -> int:
  return sum(p.numel() for p in model.parameters())


def _noise(batch: int, side: int) -> Any:
  return torch.randn(batch, 3, side, side)


def _ours(x: Any) -> np.ndarray:
  """[B, C, H, W] to float32[B, H, W, C]."""
  return np.ascontiguousarray(x.numpy().transpose(0, 2, 3, 1))


if __name__ == '__main__':
  main()
