"""Worker process of `peers` that runs the same network with Opacus.

The modules are made from the weights, by the names of our leaves. The forward
pass is that of `models.unet`, without scale-shift.
"""

from __future__ import annotations

import math
import pathlib
import sys
import time
from typing import Any

import numpy as np

from experiments.benchmarks import networks
from experiments.benchmarks import peers

torch: Any = None  # Set by `main`, which runs where PyTorch is installed.


def make_module(arrays: dict[str, np.ndarray], config: Any) -> Any:
  """The U-Net in PyTorch with our weights; its keys are our leaf names."""
  nn = torch.nn
  functional = torch.nn.functional
  names = dict.fromkeys(k.rpartition('/')[0] for k in arrays)

  def part(name: str) -> Any:
    leaf = {
      k.rpartition('/')[2]: v
      for k, v in arrays.items()
      if k.rpartition('/')[0] == name
    }
    if 'classes' in leaf:
      return nn.Embedding(*leaf['classes'].shape)
    if 'scale' in leaf:
      return nn.GroupNorm(config.num_groups, len(leaf['scale']))
    kernel = leaf['kernel']
    if kernel.ndim == 2:
      return nn.Linear(*kernel.shape)
    size, _, channels, features = kernel.shape
    stride = 2 if name.startswith('down') and '_sample' in name else 1
    return nn.Conv2d(channels, features, size, stride, size // 2)

  class Net(nn.Module):
    def __init__(self) -> None:
      super().__init__()
      self.parts = nn.ModuleDict({k.replace('.', '_'): part(k) for k in names})

    def block(self, h: Any, embedding: Any, name: str) -> Any:
      m, silu = self.parts, functional.silu
      y = m[f'{name}/conv_1'](silu(m[f'{name}/norm_1'](h)))
      y = y + m[f'{name}/embedding'](embedding)[:, :, None, None]
      y = m[f'{name}/conv_2'](silu(m[f'{name}/norm_2'](y)))
      key = f'{name}/shortcut'
      return (m[key](h) if key in m else h) + y

    def attend(self, h: Any, name: str) -> Any:
      if f'{name}/qkv' not in self.parts:
        return h
      batch, channels, height, width = h.shape
      y = self.parts[f'{name}/qkv'](self.parts[f'{name}/norm'](h))
      heads = channels // config.head_channels
      q, k, v = (
        t.reshape(batch, heads, config.head_channels, height * width)
        for t in y.chunk(3, 1)
      )
      logits = torch.einsum(
        'bhcq,bhck->bhqk', q / math.sqrt(config.head_channels), k
      )
      y = torch.einsum('bhqk,bhck->bhcq', logits.softmax(-1), v)
      return h + self.parts[f'{name}/proj'](y.reshape(h.shape))

    def forward(self, x: Any, timestep: Any, label: Any) -> Any:
      m, silu = self.parts, functional.silu
      half = config.channels // 2
      frequency = torch.exp(-math.log(10_000.0) * torch.arange(half) / half)
      angle = timestep[:, None] * frequency
      e = torch.cat([angle.cos(), angle.sin()], 1)
      e = m['time_2'](silu(m['time_1'](e))) + m['label'](label)
      e = silu(e)
      h = m['stem'](x)
      skips, last = [h], len(config.channel_multipliers) - 1
      for level in range(last + 1):
        for i in range(config.num_blocks):
          h = self.block(h, e, f'down_{level}_block_{i}')
          h = self.attend(h, f'down_{level}_attention_{i}')
          skips.append(h)
        if level < last:
          h = m[f'down_{level}_sample/conv'](h)
          skips.append(h)
      h = self.block(h, e, 'middle_block_0')
      h = self.attend(h, 'middle_attention')
      h = self.block(h, e, 'middle_block_1')
      for level in reversed(range(last + 1)):
        for i in range(config.num_blocks + 1):
          h = torch.cat([h, skips.pop()], 1)
          h = self.block(h, e, f'up_{level}_block_{i}')
          h = self.attend(h, f'up_{level}_attention_{i}')
        if level > 0:
          h = functional.interpolate(h, scale_factor=2, mode='nearest')
          h = m[f'up_{level}_sample/conv'](h)
      return m['out'](silu(m['norm_out'](h)))

  net = Net()
  with torch.no_grad():
    for name, value in arrays.items():
      parameter = leaf_of(net.parts, name)
      if parameter is not None:
        parameter.copy_(torch.from_numpy(to_torch(name, value)))
  return net


def leaf_of(parts: Any, name: str) -> Any:
  """The parameter for one of our leaves; None for the null label."""
  module, _, leaf = name.rpartition('/')
  if leaf == 'null':
    return None
  return parts[module].bias if leaf == 'bias' else parts[module].weight


def to_torch(name: str, value: np.ndarray) -> np.ndarray:
  """Moves the axes of our leaf into PyTorch's order, kernels [out, in, ...]."""
  if not name.endswith('kernel'):
    return value
  axes = (3, 2, 0, 1) if value.ndim == 4 else (1, 0)
  return np.ascontiguousarray(value.transpose(axes))


def to_ours(name: str, value: np.ndarray) -> np.ndarray:
  """The inverse of `to_torch`."""
  if not name.endswith('kernel'):
    return value
  return value.transpose((2, 3, 1, 0) if value.ndim == 4 else (1, 0))


def make_methods(folder: pathlib.Path) -> dict[str, Any]:
  """Returns method -> call that returns the clipped sum of all images."""
  from opacus import grad_sample  # noqa: PLC0415
  from opacus.grad_sample import (  # noqa: PLC0415
    grad_sample_module_fast_gradient_clipping as fast,
  )

  network = networks.load((folder / 'network').read_text())
  config = network.config.unet_config(network.config.data)
  arrays = dict(np.load(folder / 'weights.npz'))
  inputs = {
    k: torch.from_numpy(v) for k, v in np.load(folder / 'inputs.npz').items()
  }
  # The copy is necessary: Opacus 1.6 takes images of one channel for contiguous
  # whatever their strides are, and then every convolution is wrong.
  x, target = (
    inputs[k].permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)
    for k in ('x', 'target')
  )
  timestep, label = inputs['timestep'].float(), inputs['label'].long()

  def losses(net: Any) -> Any:
    error = net(x, timestep, label) - target
    return error.square().flatten(1).mean(1)

  plain, hooked, ghosted = (make_module(arrays, config) for _ in range(3))
  hooks = grad_sample.GradSampleModule(hooked, loss_reduction='sum')
  ghost = fast.GradSampleModuleFastGradientClipping(
    ghosted, loss_reduction='sum', max_grad_norm=peers.CLIP_NORM
  )

  def result(net: Any, of: Any) -> dict[str, np.ndarray]:
    found = {}
    for name, value in arrays.items():
      parameter = leaf_of(net.parts, name)
      found[name] = (
        np.zeros_like(value)
        if parameter is None
        else to_ours(name, of(parameter).detach().numpy().copy())
      )
    return found

  def run_ordinary() -> Any:
    plain.zero_grad()
    losses(plain).sum().backward()
    return lambda: result(plain, lambda p: p.grad)

  def run_hooks() -> Any:
    hooks.zero_grad()
    losses(hooks).sum().backward()
    samples = [p.grad_sample for p in hooked.parameters()]
    norms = torch.stack([g.flatten(1).norm(2, 1) for g in samples]).norm(2, 0)
    factor = (peers.CLIP_NORM / norms).clamp(max=1.0)
    for parameter, sample in zip(hooked.parameters(), samples, strict=True):
      parameter.grad = torch.einsum('b,b...', factor, sample)
    return lambda: result(hooked, lambda p: p.grad)

  def run_ghost() -> Any:
    ghost.zero_grad()
    found = losses(ghost)
    found.sum().backward(retain_graph=True)
    for parameter in ghosted.parameters():
      parameter.grad = None
    factor = ghost.get_clipping_coef()
    ghost.disable_hooks()
    (factor * found).sum().backward()
    ghost.enable_hooks()
    return lambda: result(ghosted, lambda p: p.grad)

  return {
    'torch ordinary': run_ordinary,
    'opacus hooks': run_hooks,
    'opacus ghost': run_ghost,
  }


def main() -> None:
  """Runs each method named on stdin, and prints its seconds."""
  global torch
  import torch as library  # noqa: PLC0415

  torch = library
  folder = pathlib.Path(sys.argv[1])
  methods = make_methods(folder)
  for line in sys.stdin:
    name = line.strip()
    start = time.perf_counter()
    read = methods[name]()
    print(time.perf_counter() - start, flush=True)
    path = folder / f'{name}.npz'
    if not path.exists():
      np.savez(path, **read())


if __name__ == '__main__':
  main()
