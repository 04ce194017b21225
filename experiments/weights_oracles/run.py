r"""Compares converted networks with the code of their owners.

  python -m experiments.weights_oracles.run --owners=FOLDER [--only=TEXT]

The owners' repositories and an environment with PyTorch for the CPU are put
into FOLDER if they are missing. For every case, the owners' code makes a
network with random weights, writes it to a file, and computes outputs and
samples; our code then reads the same file. The script writes `results.json`,
the table of `docs/weights.md`, and the small files that `tests/models/formats`
reads.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion import config as config_lib
from dp_diffusion import config_weights
from dp_diffusion.diffusion import sampler_steps
from dp_diffusion.diffusion import samplers
from dp_diffusion.models import unet
from dp_diffusion.models import weights
from experiments.weights_oracles import cases as cases_lib

FOLDER = pathlib.Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
FIXTURES = ROOT / 'tests/models/formats/data'
REPOSITORIES = {
  'improved_diffusion': (
    'https://github.com/openai/improved-diffusion',
    '1bc7bbbdc414d83d4abf2ad8cc1446dc36c4e4d5',
  ),
  'guided_diffusion': (
    'https://github.com/openai/guided-diffusion',
    '22e0df8183507e13a7813f8d38d51b072ca1e67c',
  ),
}
PACKAGES = (
  'torch==2.13.0',
  'numpy==2.4.6',
  'tqdm',
  'blobfile',
  'diffusers==0.35.2',
  'safetensors==0.8.0',
)
TOLERANCE = 1e-4


def main() -> None:
  """Runs the cases whose names contain the text of `--only`, or all."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--owners', required=True, type=pathlib.Path)
  parser.add_argument('--only', default='')
  arguments = parser.parse_args()
  python = prepare(arguments.owners)
  path = FOLDER / 'results.json'
  for case in cases_lib.CASES:
    if arguments.only in case.name:
      row = compare(case, arguments.owners, python)
      print(json.dumps(row), flush=True)
      rows = json.loads(path.read_text()) if path.exists() else {}
      rows[case.name] = row
      order = [c.name for c in cases_lib.CASES if c.name in rows]
      rows = {name: rows[name] for name in order}
      path.write_text(json.dumps(rows, indent=2) + '\n')


def prepare(owners: pathlib.Path) -> pathlib.Path:
  """Fetches repositories and environment; returns the environment's Python."""
  for name, (url, commit) in REPOSITORIES.items():
    folder = owners / name.split('_')[0]
    if not folder.exists():
      subprocess.run(['git', 'clone', '-q', url, folder], check=True)
    subprocess.run(['git', '-C', folder, 'checkout', '-q', commit], check=True)
  python = owners / 'venv' / 'bin' / 'python'
  if not python.exists():
    subprocess.run([sys.executable, '-m', 'venv', owners / 'venv'], check=True)
    subprocess.run([python, '-m', 'pip', 'install', *PACKAGES], check=True)
  return python


def compare(
  case: cases_lib.Case, owners: pathlib.Path, python: pathlib.Path
) -> dict[str, Any]:
  """Compares one case; returns its row."""
  with tempfile.TemporaryDirectory() as folder:
    row = _compare(case, owners, python, pathlib.Path(folder))
  if not row['is_equal']:
    raise SystemExit(f'{case.name}: {row}')
  return row


def _compare(
  case: cases_lib.Case,
  owners: pathlib.Path,
  python: pathlib.Path,
  folder: pathlib.Path,
) -> dict[str, Any]:
  is_diffusers = case.format_name == 'diffusers'
  file = folder / ('unet' if is_diffusers else 'weights.pt')
  asked = {
    **dataclasses.asdict(case),
    'owner': case.format_name,
    'package': case.format_name,
    'source': str(owners / case.format_name.split('_')[0]),
    'folder': str(folder),
    'seed': 0,
    'sampler_timesteps': _timesteps(case),
  }
  (folder / 'cases.json').write_text(json.dumps([asked]))
  subprocess.run(
    [python, FOLDER / 'owners.py', folder / 'cases.json'],
    check=True,
    stdout=subprocess.DEVNULL,
  )
  with np.load(folder / 'answers.npz') as archive:
    answers = dict(archive)
  if case.is_fixture:
    keep_fixture(case, folder)
  row: dict[str, Any] = {
    'format': case.format_name,
    'num_parameters': int(answers['num_parameters']),
    'is_true_size': not case.unet,
    'sides': list(case.sides),
    'timesteps': list(case.timesteps),
    'num_sampler_steps': case.num_sampler_steps,
    'sampled_sides': list(case.sampled_sides),
    'largest_output': 0.0,
    'output_difference': 0.0,
    'sample_difference': 0.0,
  }
  for side in sorted({*case.sides, *case.sampled_sides}):
    network = Network(case, file, side)
    if f'x_{side}' in answers:
      output = network.output(answers[f'x_{side}'])
      _add(row, 'output_difference', output - answers[f'output_{side}'])
      _add(row, 'largest_output', output)
    if f'noise_{side}' in answers:
      sampled = network.sample(
        answers[f'noise_{side}'], answers['sampler_timesteps']
      )
      _add(row, 'sample_difference', sampled - answers[f'sampled_{side}'])
  largest = max(1.0, row['largest_output'])
  row['is_equal'] = (
    row['output_difference'] <= TOLERANCE * largest
    and row['sample_difference'] <= TOLERANCE
  )
  return row


def fixture(case: cases_lib.Case) -> pathlib.Path:
  """The folder in which the quick test finds a case."""
  return FIXTURES / case.name.replace(' ', '_')


def keep_fixture(case: cases_lib.Case, folder: pathlib.Path) -> None:
  """Copies the files that the quick test reads."""
  target = fixture(case)
  shutil.rmtree(target, ignore_errors=True)
  target.mkdir(parents=True)
  for name in (
    'answers.npz',
    'weights.pt',
    'unet/config.json',
    'unet/diffusion_pytorch_model.safetensors',
    'scheduler/scheduler_config.json',
  ):
    if (folder / name).exists():
      (target / name).parent.mkdir(exist_ok=True)
      shutil.copy(folder / name, target / name)


def _add(row: dict[str, Any], key: str, values: np.ndarray) -> None:
  row[key] = max(row[key], float(np.abs(values).max()))


class Network:
  """The network that our code loads from a file, with a user's config keys."""

  def __init__(
    self, case: cases_lib.Case, file: pathlib.Path, side: int
  ) -> None:
    self._case = case
    self._config = load(case, file, side)
    data = self._config.pretrain.data
    model_config = self._config.unet_config(data)
    found = config_weights.read(self._config)
    self._params = weights.unflatten(found.params(model_config, side))
    self._model = unet.UNet(model_config)
    self._labels = jnp.asarray(case.labels, jnp.int32)

  def output(self, x: np.ndarray) -> np.ndarray:
    """The network's output, float32[B, H, W, C]."""
    steps = jnp.asarray(self._case.timesteps, jnp.int32)
    apply = jax.jit(self._model.apply)
    return np.asarray(apply({'params': self._params}, x, steps, self._labels))

  def sample(self, noise: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
    """Samples with DDIM from this noise, at these timesteps."""
    config = samplers.SamplerConfig(name='ddim', num_steps=len(timesteps))
    diffusion = self._config.pretrain_diffusion()

    def step(params: Any, state: Any, i: jax.Array) -> Any:
      denoise = unet.make_denoise_fn(self._model, params)
      step_fn = samplers.step_fn(denoise, config, diffusion)
      return step_fn(state, self._labels, i)

    step = jax.jit(step)
    state = samplers.init_state(jax.random.key(0), noise.shape)
    state = dataclasses.replace(state, x=jnp.asarray(noise))
    sampler_steps.coefficients.cache_clear()
    with mock.patch.object(
      sampler_steps, 'timestep_sequence', lambda *_: np.asarray(timesteps)
    ):
      for i in range(len(timesteps)):
        state = step(self._params, state, i)
    sampler_steps.coefficients.cache_clear()
    return np.asarray(state.x)


def load(
  case: cases_lib.Case, file: pathlib.Path, side: int
) -> config_lib.Config:
  """The config of a user who starts from the file."""
  names = ','.join(f'c{i}' for i in range(case.num_classes))
  return config_lib.load(
    str(ROOT / 'configs/own_images.py'),
    {
      'pretrain.init_from': str(file),
      'pretrain.init_format': case.format_name,
      'data.image_size': str(side),
      'pretrain.data.image_size': str(side),
      'data.class_names': names,
      'pretrain.data.class_names': names,
      'model.compute_dtype': 'float32',
      'finetune.mixture_boundaries': '()',
      'finetune.mixture_weights': '()',
      **case.typed,
    },
  )


def _timesteps(case: cases_lib.Case) -> list[int]:
  """Even timesteps without T - 1, where the cosine schedule depends on T."""
  share = np.arange(case.num_sampler_steps, -1, -1) / case.num_sampler_steps
  return [int(t) for t in np.rint((case.num_timesteps - 1) * share)[1:]]


if __name__ == '__main__':
  main()
