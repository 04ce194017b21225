"""Launch templates: run as they stand, with stand-ins for srun and gcloud."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess

import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import main

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
LAUNCH = ROOT / 'experiments' / 'launch'
# Says what it was called with: the cache's folder, then one argument a line.
SPY = """#!/usr/bin/env bash
printf '%s\\n' "cache=${JAX_COMPILATION_CACHE_DIR:-}" "$@"
"""
OVERRIDE = "--config.finetune.trainable=('mid*', 'out')"


def _spy(path: pathlib.Path) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(SPY)
  path.chmod(0o755)


def _run(
  template: str, home: pathlib.Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
  path = f'{home / "bin"}:{os.environ["PATH"]}'
  return subprocess.run(
    ['bash', str(LAUNCH / template), *arguments],
    env={'PATH': path, 'HOME': str(home), **environment},
    capture_output=True,
    text=True,
    check=False,
  )


def _check_command(said: list[str], home: pathlib.Path, workdir: str) -> None:
  """The command line is one that `main` understands, as it was meant."""
  assert said[0] == f'cache={home}/.cache/dp_diffusion/compiled'
  arguments = main.parse(said[said.index('dp_diffusion.main') + 1 :])
  assert arguments.workdir == workdir and arguments.stage == 'all'
  config = config_lib.load(
    str(ROOT / arguments.config), dict(arguments.overrides)
  )
  assert config.distributed.enable
  assert config.finetune.trainable == ('mid*', 'out')
  # One process per device, or per host: the batch is divided evenly.
  assert config.pretrain.batch_size % 16 == 0


@pytest.mark.parametrize(
  ('template', 'num_nodes'), [('slurm_1x8.sbatch', 1), ('slurm_2x8.sbatch', 2)]
)
def test_slurm_starts_one_process_per_gpu(
  template: str, num_nodes: int, tmp_path: pathlib.Path
) -> None:
  _spy(tmp_path / 'bin' / 'srun')
  done = _run(
    template,
    tmp_path,
    OVERRIDE,
    CONFIG='configs/cifar10.py',
    WORKDIR='/shared/run',
    SLURM_SUBMIT_DIR=str(tmp_path),
  )
  assert done.returncode == 0, done.stderr
  said = done.stdout.splitlines()
  _check_command(said, tmp_path, '/shared/run')
  # A task that sees one GPU only would look for its own number beyond it.
  assert '--gpu-bind=none' in said
  options = dict(
    re.findall(r'^#SBATCH --([\w-]+)=(\S+)$', _text(template), re.MULTILINE)
  )
  assert int(options['nodes']) == num_nodes
  assert options['ntasks-per-node'] == options['gpus-per-node'] == '8'
  assert not {'gpus-per-task', 'gpus', 'ntasks'} & set(options)


def test_a_tpu_pod_gets_the_command_on_every_host(
  tmp_path: pathlib.Path,
) -> None:
  _spy(tmp_path / 'bin' / 'gcloud')
  done = _run(
    'tpu_pod.sh',
    tmp_path,
    OVERRIDE,
    TPU='pod',
    ZONE='zone',
    CONFIG='configs/cifar10.py',
    WORKDIR='gs://bucket/run',
  )
  assert done.returncode == 0, done.stderr
  assert '--worker=all' in done.stdout.splitlines()
  # The shell of a host reads the command again.
  _, _, remote = done.stdout.partition('--command=')
  _spy(tmp_path / 'dp_diffusion' / '.venv' / 'bin' / 'python')
  on_host = subprocess.run(
    ['bash', '-c', remote],
    env={'PATH': os.environ['PATH'], 'HOME': str(tmp_path)},
    cwd=tmp_path,
    capture_output=True,
    text=True,
    check=True,
  )
  said = on_host.stdout.splitlines()
  _check_command(said, tmp_path, 'gs://bucket/run')
  # A remote workdir must not hold the secret.
  (secret,) = (x for x in said if x.startswith('--config.privacy.secret_dir='))
  assert '://' not in secret


@pytest.mark.parametrize(
  'template', ['slurm_1x8.sbatch', 'slurm_2x8.sbatch', 'tpu_pod.sh']
)
def test_what_is_not_set_is_named(
  template: str, tmp_path: pathlib.Path
) -> None:
  done = _run(template, tmp_path, TPU='pod', ZONE='zone', WORKDIR='w')
  assert done.returncode != 0 and 'CONFIG: a file of configs/' in done.stderr


def test_the_templates_are_those_that_the_page_lists() -> None:
  found = {p.name for p in LAUNCH.iterdir() if p.suffix in ('.sh', '.sbatch')}
  listed = set(re.findall(r'\]\(([\w.]+)\)', _text('README.md')))
  assert found == listed


def _text(name: str) -> str:
  return (LAUNCH / name).read_text()
