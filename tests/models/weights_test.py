"""Weights on disk, and from one label set to another."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion.models import unet
from dp_diffusion.models import weights

RNG = np.random.default_rng(0)


def params(num_classes=3, width=4):
  def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)

  return {
    'conv': {'kernel': normal(3, 3, 1, width), 'bias': normal(width)},
    'label': {'classes': normal(num_classes, width), 'null': normal(width)},
  }


def test_flatten_and_unflatten_are_inverse():
  tree = params()
  flat = weights.flatten(tree)
  assert list(flat) == sorted(flat)
  assert weights.unflatten(flat)['conv']['bias'] is tree['conv']['bias']
  assert jax.tree.structure(weights.unflatten(flat)) == jax.tree.structure(tree)


def test_round_trip_through_a_file(tmp_path):
  tree = params()
  weights.save_npz(tmp_path / 'a.npz', tree)
  weights.save_npz(tmp_path / 'b.npz', tree)
  assert (tmp_path / 'a.npz').read_bytes() == (tmp_path / 'b.npz').read_bytes()
  found = weights.load_params(
    tmp_path / 'a.npz', expected_sha256=files.sha256(tmp_path / 'a.npz').upper()
  )
  for path, array in weights.flatten(tree).items():
    np.testing.assert_array_equal(weights.flatten(found)[path], array)


def test_transfer_names_what_it_resets():
  merged, report = weights.transfer(params(5), params(3), reset_classes=True)
  assert report.reset == ('label/classes',)
  assert sorted((*report.copied, *report.reset)) == list(
    weights.flatten(merged)
  )
  assert report.lines() == ['new weights from the public seed: label/classes']


def test_transfer_names_what_it_skips():
  """Classes that the target has no rows for."""
  target = params()
  del target['label']['classes']
  with pytest.raises(errors.UsageError, match='label/classes'):
    weights.transfer(params(), target, reset_classes=False)
  report = weights.TransferReport(copied=(), reset=(), skipped=('a', 'b'))
  assert report.lines() == ['not used: a, b']


@pytest.mark.parametrize('num_old', [3, 5])
def test_only_rows_of_real_classes_are_reset(num_old):
  source, target = params(num_old), params(3)
  merged, _ = weights.transfer(source, target, reset_classes=True)
  np.testing.assert_array_equal(
    merged['label']['classes'], target['label']['classes']
  )
  np.testing.assert_array_equal(
    merged['label']['null'], source['label']['null']
  )
  for name in ('kernel', 'bias'):
    np.testing.assert_array_equal(merged['conv'][name], source['conv'][name])


def test_rows_beside_a_null_row_of_zeros_are_zeros():
  source, target = params(2), params(3)
  source['label']['null'][:] = 0
  merged, report = weights.transfer(source, target, reset_classes=True)
  assert not merged['label']['classes'].any() and report.is_zero
  assert merged['label']['classes'].shape == target['label']['classes'].shape
  assert report.lines() == ['zeros: label/classes']


def test_same_classes_are_all_copied():
  source = params()
  merged, report = weights.transfer(source, params(), reset_classes=False)
  assert report.lines() == [] and not report.reset
  for path, array in weights.flatten(source).items():
    np.testing.assert_array_equal(weights.flatten(merged)[path], array)


def test_weights_become_float32():
  source = jax.tree.map(lambda x: x.astype(np.float16), params())
  merged, _ = weights.transfer(source, params(), reset_classes=False)
  assert {a.dtype for a in weights.flatten(merged).values()} == {
    np.dtype(np.float32)
  }


@pytest.mark.parametrize('reset_classes', [False, True])
def test_other_architecture_is_refused(reset_classes):
  source, target = params(width=8), params()
  source['more'] = np.zeros(2, np.float32)
  with pytest.raises(errors.UsageError) as raised:
    weights.transfer(source, target, reset_classes=reset_classes)
  message = str(raised.value)
  assert 'conv/bias [8] instead of [4]' in message and 'more' in message
  assert '\n' not in message


def test_the_network_has_the_rows_that_are_reset():
  """The path of the class rows is the one that the U-Net uses."""
  config = unet.UNetConfig(
    channels=4,
    channel_multipliers=(1,),
    num_blocks=1,
    attention_resolutions=(),
    head_channels=4,
    num_groups=2,
    num_classes=3,
    image_channels=1,
  )
  shapes = jax.eval_shape(
    unet.UNet(config).init,
    jax.random.key(0),
    jnp.zeros((1, 8, 8, 1)),
    jnp.zeros(1, jnp.int32),
    jnp.zeros(1, jnp.int32),
  )['params']
  found = shapes
  for name in weights.CLASS_ROWS.split('/'):
    found = found[name]
  assert found.shape[0] == 3


def test_key_map_renames_foreign_weights(tmp_path):
  files.write_npz(tmp_path / 'a.npz', theirs=np.ones(2, np.float32))
  (tmp_path / 'map.json').write_text(json.dumps({'ours/bias': 'theirs'}))
  key_map = str(tmp_path / 'map.json')
  found = weights.load_params(tmp_path / 'a.npz', key_map=key_map)
  np.testing.assert_array_equal(found['ours']['bias'], 1.0)


def test_wrong_files_are_refused(tmp_path):
  with pytest.raises(errors.UsageError, match='does not exist'):
    weights.load_params(tmp_path / 'none.npz')
  (tmp_path / 'text.npz').write_text('not weights')
  with pytest.raises(errors.UsageError, match='to be an .npz file'):
    weights.load_params(tmp_path / 'text.npz')
  weights.save_npz(tmp_path / 'a.npz', params())
  with pytest.raises(errors.UsageError, match='sha256 00'):
    weights.load_params(tmp_path / 'a.npz', expected_sha256='00')


def test_patterns_choose_the_leaves_that_train():
  tree = params()
  is_trained = weights.trainable_fn(tree, ('label/*', '*/bias'))
  assert [p for p in weights.flatten(tree) if is_trained(p)] == [
    'conv/bias',
    'label/classes',
    'label/null',
  ]
  with pytest.raises(errors.UsageError, match="'mid.' to match a leaf"):
    weights.trainable_fn(tree, ('mid*',))
  with pytest.raises(errors.UsageError, match='label/classes to train'):
    weights.trainable_fn(tree, ('conv/*',), ('label/classes',))
