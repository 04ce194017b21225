"""Networks of other projects; `data/` holds what their own code answered.

`experiments/weights_oracles` has made these files.
"""

from __future__ import annotations

from etils import epath
import jax
import numpy as np
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import config_weights
from dp_diffusion import errors
from dp_diffusion.models import unet
from dp_diffusion.models import weights
from dp_diffusion.models.formats import foreign
from dp_diffusion.models.formats import published
from experiments.weights_oracles import cases as cases_lib
from experiments.weights_oracles import run
from tests.models.formats import torch_files

CASES = {case.name: case for case in cases_lib.CASES if case.is_fixture}
IMPROVED = CASES['tiny improved']


def file_of(case):
  name = 'unet' if case.format_name == 'diffusers' else 'weights.pt'
  return run.fixture(case) / name


@pytest.mark.parametrize('name', CASES)
def test_answers_as_its_owners_code(name):
  case = CASES[name]
  with np.load(run.fixture(case) / 'answers.npz') as answers:
    network = run.Network(case, file_of(case), 8)
    output = network.output(answers['x_8'])
    assert np.abs(answers['output_8']).max() > 0.5
    np.testing.assert_allclose(output, answers['output_8'], atol=1e-4)
    sampled = network.sample(answers['noise_8'], answers['sampler_timesteps'])
    np.testing.assert_allclose(sampled, answers['sampled_8'], atol=1e-4)


@pytest.fixture(scope='module')
def improved():
  """The tiny network of improved-diffusion, and the config that has read it."""
  config = run.load(IMPROVED, file_of(IMPROVED), 8)
  return config, config_weights.read(config)


def test_the_file_sets_the_network(improved):
  config, found = improved
  model = config.model
  assert (model.channels, model.channel_multipliers) == (8, (1, 2))
  assert (model.num_blocks, model.attention_resolutions) == (1, (4,))
  assert model.scale_shift and model.conv_resample
  assert not model.resblock_updown and not model.crop_odd_sides
  assert config.pretrain.num_steps == 0
  assert found.architecture.has_variance and not found.architecture.num_classes


def test_absent_classes_are_zeros(improved):
  config, found = improved
  network = config.unet_config(config.pretrain.data)
  params = found.params(network, 8)
  assert params['label/classes'].shape == (3, 32)
  assert not params['label/classes'].any() and not params['label/null'].any()
  assert {k: v.shape for k, v in params.items()} == {
    k: v.shape
    for k, v in weights.flatten(
      jax.tree.map(
        lambda x: np.broadcast_to(0.0, x.shape),
        unet.param_shapes(network, 8, 8),
      )
    ).items()
  }
  lines = found.lines(network)
  assert any('zeros' in line and 'label/classes' in line for line in lines)
  assert any('variance' in line for line in lines)


@pytest.mark.parametrize('num_classes', [3, 4])
def test_classes_of_the_file(num_classes):
  """Taken where there are as many."""
  case = CASES['tiny guided']
  config = run.load(case, file_of(case), 8)
  found = config_weights.read(config)
  network = unet.UNetConfig(
    **{
      **vars(config.unet_config(config.pretrain.data)),
      'num_classes': num_classes,
    }
  )
  params = found.params(network, 8)
  assert params['label/classes'].any() == (num_classes == 3)
  assert not params['label/null'].any()
  said = [line for line in found.lines(network) if 'zeros' in line]
  assert ('label/classes' in said[0]) == (num_classes == 4)


def tensors():
  """The arrays of the tiny network."""
  found = foreign.torch_file.read(file_of(IMPROVED))
  return {k: v.load() for k, v in found.items()}


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    ({'middle_block.1.qkv.bias': None}, 'lacks middle_block.1.qkv.bias'),
    ({'more.weight': np.ones(2, '<f4')}, 'has beside them more.weight'),
    ({'input_blocks.0.0.weight': np.ones(8, '<f4')}, 'input_blocks.0.0.weight'),
    ({'out.2.weight': np.ones((5, 8, 3, 3), '<f4')}, '5 outputs'),
    (
      {'time_embed.0.weight': np.ones((32, 9), '<f4')},
      'time_embed.0.weight .*have the shape .8, 32.* found .9, 32.',
    ),
    ({'time_embed.0.bias': np.ones((1, 32), '<f4')}, 'time_embed.0.bias'),
    (
      {'middle_block.1.qkv.bias': np.ones(47, '<f4')},
      'middle_block.1.qkv.bias',
    ),
    ({'out.0.bias': np.full(8, np.nan, '<f4')}, 'out.0.bias .* to be finite'),
  ],
)
def test_other_networks_are_refused(tmp_path, change, words):
  arrays = {**tensors(), **change}
  path = tmp_path / 'x.pt'
  torch_files.save(path, {k: v for k, v in arrays.items() if v is not None})
  with pytest.raises(errors.UsageError, match=words) as raised:
    config = run.load(IMPROVED, path, 8)
    network = config.unet_config(config.pretrain.data)
    config_weights.read(config).params(network, 8)
  assert '\n' not in str(raised.value)


def test_another_kind_of_state_is_refused(tmp_path):
  path = tmp_path / 'x.pt'
  torch_files.save(path, {'conv.weight': np.ones((2, 2), '<f4')})
  with pytest.raises(errors.UsageError, match='it has no input_blocks'):
    foreign.read('improved_diffusion', epath.Path(path), configured={'a': 1})


def load(**overrides):
  case = IMPROVED
  typed = {k.replace('__', '.'): v for k, v in overrides.items()}
  return config_lib.load(
    str(run.ROOT / 'configs/own_images.py'),
    {
      'pretrain.init_from': str(file_of(case)),
      'pretrain.init_format': case.format_name,
      'data.class_names': 'a,b',
      **typed,
    },
  )


def test_unknown_weights_need_a_word_of_the_user():
  with pytest.raises(errors.UsageError, match='init_as_configured=True') as e:
    load()
  assert 'imagenet64_uncond_100M' in str(e.value)


@pytest.mark.parametrize(
  ('overrides', 'words'),
  [
    ({'model__channels': '64'}, 'model.channels=64 to be 8, or left out'),
    ({'data__channels': '1'}, 'data.channels=1 to be 3'),
    ({'pretrain__init_from': 'none.pt'}, 'none.pt, which does not exist'),
    ({'pretrain__init_from': '.'}, 'not a folder'),
    ({'pretrain__init_format': 'edm'}, 'licence'),
    ({'pretrain__init_format': 'improved'}, 'mean improved_diffusion'),
    ({'pretrain__init_key_map': 'a.json'}, 'a format has its own names'),
    ({'pretrain__init_from': ''}, 'init_from to be set'),
    ({'pretrain__init_new_attention_order': 'true'}, 'guided_diffusion'),
  ],
)
def test_typed_keys_agree_with_the_file(overrides, words):
  with pytest.raises(errors.UsageError, match=words) as raised:
    load(**{'pretrain__init_as_configured': 'true', **overrides})
  assert '\n' not in str(raised.value)


@pytest.mark.parametrize('side', [64, 32, 28])
@pytest.mark.parametrize(
  'entry', [*published.IMPROVED, *published.GUIDED], ids=lambda e: e.names[0]
)
def test_published_networks_fit(entry, side, monkeypatch):
  """Their keys make a network of ours, at other sizes than their own too."""
  a = entry.architecture
  keys = a.model_keys(side)
  model = {
    k.removeprefix('model.'): v
    for k, v in {**keys, **entry.said}.items()
    if not k.startswith('diffusion.')
  }
  network = unet.UNetConfig(**model, num_classes=a.num_classes or 1)
  network.check_image_shape(side, side, 3)
  sides = network.sides(side)
  attended = tuple(sides[level] for level in a.attention_levels)
  assert network.attention_resolutions == attended
  own = (entry.flags['image_size'] >> level for level in a.attention_levels)
  asked = entry.flags.get('attention_resolutions', '16,8').split(',')
  assert sorted(own, reverse=True) == [int(side) for side in asked]
