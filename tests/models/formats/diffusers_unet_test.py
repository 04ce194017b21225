"""Folders of diffusers: what is exact, and what is refused by key."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy

from dp_diffusion import errors
from dp_diffusion.models.formats import foreign
from experiments.weights_oracles import cases as cases_lib
from experiments.weights_oracles import run

CASE = next(c for c in cases_lib.CASES if c.name == 'tiny diffusers')
FILE = 'unet/diffusion_pytorch_model.safetensors'


@pytest.fixture
def folder(tmp_path):
  shutil.copytree(run.fixture(CASE), tmp_path / 'model')
  return tmp_path / 'model'


def read(folder, **options):
  return foreign.read('diffusers', foreign.find('diffusers', folder), **options)


def change(path, **values):
  path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refused(folder, **options):
  with pytest.raises(errors.UsageError) as raised:
    found = read(folder, **options)
    for array in found.arrays.values():
      array.load()
  assert '\n' not in str(raised.value)
  return str(raised.value)


def test_folder_of_pipeline_of_network_and_file(folder):
  names = {read(folder / part).path for part in ('', 'unet', FILE)}
  assert names == {str(folder / FILE)}
  said = read(folder).said
  assert said['model.head_channels'] == 4 and said['model.num_groups'] == 4
  assert said['diffusion.schedule'] == 'linear'


def test_a_head_size_that_is_absent_is_not_null(folder):
  """Without the key heads have 8 channels; with null there is one head."""
  path = folder / 'unet/config.json'
  kept = json.loads(path.read_text())
  del kept['attention_head_dim']
  path.write_text(json.dumps(kept))
  said = read(folder).said
  assert (said['model.num_heads'], said['model.head_channels']) == (0, 8)
  change(path, attention_head_dim=None)
  said = read(folder).said
  assert said['model.num_heads'] == 1 and 'model.head_channels' not in said


@pytest.mark.parametrize(
  ('key', 'value'),
  [
    ('flip_sin_to_cos', False),
    ('freq_shift', 1),
    ('downsample_padding', 0),
    ('center_input_sample', True),
    ('time_embedding_type', 'fourier'),
    ('act_fn', 'relu'),
    ('mid_block_scale_factor', 2),
    ('class_embed_type', 'timestep'),
    ('downsample_type', 'resnet'),
    ('up_block_types', ['UpBlock2D', 'UpBlock2D']),
    ('down_block_types', ['CrossAttnDownBlock2D', 'DownBlock2D']),
    ('block_out_channels', [8, 12]),
    ('block_out_channels', []),
    ('block_out_channels', 'many'),
    ('out_channels', 6),
    ('layers_per_block', 0),
    ('norm_eps', 'small'),
    ('attn_norm_num_groups', 2),
    ('time_embedding_dim', 3),
    ('_class_name', 'UNet2DConditionModel'),
  ],
)
def test_what_cannot_be_exact_is_refused_by_key(folder, key, value):
  change(folder / 'unet/config.json', **{key: value})
  assert f'Expected {key}=' in refused(folder)


@pytest.mark.parametrize(
  ('key', 'value'),
  [
    ('beta_schedule', 'scaled_linear'),
    ('beta_end', 0.03),
    ('trained_betas', [0.1]),
    ('prediction_type', 'flow'),
    ('num_train_timesteps', 4000),  # With the betas of 1,000.
    ('rescale_betas_zero_snr', True),
  ],
)
def test_another_diffusion_is_refused_by_key(folder, key, value):
  change(folder / 'scheduler/scheduler_config.json', **{key: value})
  assert 'scheduler_config.json' in refused(folder)


def test_a_diffusion_that_nothing_says(folder):
  shutil.rmtree(folder / 'scheduler')
  assert 'init_as_configured=True' in refused(folder)
  found = read(
    folder, configured={'diffusion.prediction': 'v', 'model.num_heads': 3}
  )
  assert found.said['diffusion.prediction'] == 'v'
  assert found.said['model.num_heads'] == 0  # The file says so.


def test_damaged_folders(folder):
  path = folder / FILE
  whole = path.read_bytes()
  for content in (b'', whole[:5], whole[:-1], b'\xff' * 100, whole[:200]):
    path.write_bytes(content)
    assert 'a whole safetensors file' in refused(folder)
  path.write_bytes((10**9).to_bytes(8, 'little') + whole[8:])
  assert 'header too large' in refused(folder)
  arrays = {'more': np.ones(2, np.int8)}
  safetensors.numpy.save_file(arrays, path)
  assert 'found I8' in refused(folder)
  safetensors.numpy.save_file({'more': np.ones(2, np.float32)}, path)
  assert 'it lacks' in refused(folder)
  (folder / 'unet/config.json').write_text('[]')
  assert 'config.json to be a JSON object' in refused(folder)
  (folder / 'unet/config.json').write_text('{')
  assert 'config.json' in refused(folder)
  path.unlink()
  assert 'diffusion_pytorch_model.safetensors' in refused(folder)


def test_other_shapes_are_refused(folder):
  path = folder / FILE
  arrays = safetensors.numpy.load_file(path)
  arrays['mid_block.attentions.0.to_k.bias'] = np.ones(3, np.float32)
  safetensors.numpy.save_file(arrays, path)
  config = run.load(CASE, folder, 8)
  network = config.unet_config(config.pretrain.data)
  with pytest.raises(errors.UsageError, match=r'attentions.0.to_q.bias of .*'):
    read(folder).params(network, 8)
