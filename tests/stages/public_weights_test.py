"""Published weights in, part of the network trained, the rest as it was."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion import release
from dp_diffusion.models import weights
from dp_diffusion.privacy import key_streams
from dp_diffusion.stages import finetune
from dp_diffusion.stages import pretrain
from dp_diffusion.stages.run import assembly
from dp_diffusion.stages.run import interrupts
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import checkpoint
from tests.stages import command

pytestmark = pytest.mark.usefixtures('one_device')

ONE_LEVEL = {'model.channel_multipliers': '(1,)'}
TRAINED = ('out/', 'norm_out/', 'up_0_')


@pytest.fixture(scope='module')
def foreign(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
  """Weights under another's names: .npz, its hash, the map to ours."""
  folder = tmp_path_factory.mktemp('foreign')
  config = config_lib.load(command.DIGITS_SMOKE, ONE_LEVEL)
  params = weights.flatten(assembly.init_params(config, config.pretrain.data))
  rng = np.random.default_rng(0)
  params = {
    k: v + rng.normal(0, 0.01, v.shape).astype(np.float32)
    for k, v in params.items()
  }
  names = {ours: f'tensor.{i}' for i, ours in enumerate(params)}
  path = folder / 'published.npz'
  files.write_npz(path, **{names[k]: v for k, v in params.items()})
  (folder / 'map.json').write_text(json.dumps(names))
  return {
    'params': params,
    'overrides': {
      **ONE_LEVEL,
      'pretrain.num_steps': '0',
      'pretrain.init_from': str(path),
      'pretrain.init_sha256': files.sha256(path),
      'pretrain.init_key_map': str(folder / 'map.json'),
      'pretrain.init_as_configured': 'true',
      'privacy.solve_for': 'epsilon',
      'privacy.epsilon': 'none',
      'privacy.noise_multiplier': '1.25',
      'privacy.num_steps': '1',
      'privacy.expected_batch_size': '8',
      'finetune.trainable': "('out/*', 'norm_out/*', 'up_0_*')",
    },
  }


def _new_workdir(path: pathlib.Path) -> workdirs.Workdir:
  workdir = workdirs.open_workdir(str(path))
  key_streams.Secret.insecure(0).save(workdir.private / 'secret')
  return workdir


def test_published_weights_are_fine_tuned_in_part(
  foreign, tmp_path: pathlib.Path, capsys
) -> None:
  config = config_lib.load(command.DIGITS_SMOKE, foreign['overrides'])
  workdir = _new_workdir(tmp_path / 'run')
  pretrain.run(config, workdir, interrupts.Stop(''))
  public = weights.flatten(weights.load_params(pretrain.weights_path(workdir)))
  assert set(public) == set(foreign['params'])
  for name, array in foreign['params'].items():
    np.testing.assert_array_equal(public[name], array)

  said = capsys.readouterr().out
  assert 'not used' not in said
  assert 'sha256' not in said  # It is the given one.

  finetune.run(config, workdir, interrupts.Stop(''))
  assert 'not used' not in capsys.readouterr().out
  released, _ = release.read_model(workdir.release)
  moved = {k for k in released if not np.array_equal(released[k], public[k])}
  assert moved == {k for k in public if k.startswith(TRAINED)}

  # No moment, average or noise is spent on what is frozen.
  restored = checkpoint.Checkpointer(
    workdir.private / 'checkpoints', is_private=True
  ).restore()
  for part in ('params', 'ema_params', 'opt_state'):
    leaves = [k for k in restored.state if k.split('/')[0].strip('.') == part]
    assert leaves and not [k for k in leaves if 'middle' in k or 'stem' in k]


def test_the_hash_of_weights_is_said_where_none_is_given(
  foreign, capsys
) -> None:
  given = foreign['overrides']
  config = config_lib.load(
    command.DIGITS_SMOKE, {**given, 'pretrain.init_sha256': ''}
  )
  pretrain.initial_params(config)
  assert f'has sha256 {given["pretrain.init_sha256"]};' in (
    capsys.readouterr().out
  )


@pytest.mark.parametrize(
  ('key', 'value', 'words'),
  [
    ('pretrain.init_sha256', 'f' * 64, 'sha256'),
    ('pretrain.init_from', 'nowhere.npz', 'does not exist'),
    ('model.num_blocks', '2', 'architecture'),
  ],
)
def test_other_weights_are_refused_before_training(
  foreign, key: str, value: str, words: str, tmp_path: pathlib.Path
) -> None:
  config = config_lib.load(
    command.DIGITS_SMOKE, {**foreign['overrides'], key: value}
  )
  with pytest.raises(errors.UsageError, match=words):
    pretrain.run(config, _new_workdir(tmp_path), interrupts.Stop(''))
