"""Published names and layouts become ours."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from dp_diffusion import errors
from dp_diffusion.models import key_map
from dp_diffusion.models import layers

RNG = np.random.default_rng(0)


def _apply(tmp_path, mapping, **arrays):
  path = tmp_path / 'map.json'
  path.write_text(mapping if isinstance(mapping, str) else json.dumps(mapping))
  return key_map.apply(path, arrays, 'published.npz')


def _normal(*shape):
  return RNG.normal(size=shape).astype(np.float32)


def test_a_convolution_of_the_other_layout_gives_the_same(tmp_path):
  weight, bias, x = _normal(5, 4, 3, 3), _normal(5), _normal(2, 6, 6, 4)
  found = _apply(
    tmp_path,
    {
      'kernel': {'array': 'w', 'then': [['transpose', [2, 3, 1, 0]]]},
      'bias': 'b',
    },
    w=weight,
    b=bias,
  )
  got = layers.Conv(5).apply({'params': found}, x)
  expected = jax.lax.conv_general_dilated(
    x, weight, (1, 1), 'SAME', dimension_numbers=('NHWC', 'OIHW', 'NHWC')
  )
  np.testing.assert_allclose(got, expected + bias[None, None, None], atol=1e-5)


def test_interleaved_heads_give_the_same_attention(tmp_path):
  """Queries, keys and values head by head, as a 1-D convolution has them."""
  heads, size = 3, 4
  channels = heads * size
  weight, bias = _normal(3 * channels, channels, 1), _normal(3 * channels)
  per_head = [['reshape', [heads, 3, size, channels]]]
  found = _apply(
    tmp_path,
    {
      'qkv/kernel': {
        'array': 'w',
        'then': [
          *per_head,
          ['transpose', [3, 1, 0, 2]],
          ['reshape', [1, 1, channels, 3 * channels]],
        ],
      },
      'qkv/bias': {
        'array': 'b',
        'then': [
          ['reshape', [heads, 3, size]],
          ['transpose', [1, 0, 2]],
          ['reshape', [-1]],
        ],
      },
    },
    w=weight,
    b=bias,
  )
  x = _normal(1, 2, 2, channels)
  module = layers.Attention(size, 1)
  identity = np.eye(channels, dtype=np.float32)[None, None]
  params = {
    'norm': {
      'scale': np.ones(channels, np.float32),
      'bias': np.zeros(channels, np.float32),
    },
    'qkv': {'kernel': found['qkv/kernel'], 'bias': found['qkv/bias']},
    'proj': {'kernel': identity, 'bias': np.zeros(channels, np.float32)},
  }
  got = np.asarray(module.apply({'params': params}, x) - x)

  flat = x.reshape(4, channels)
  flat = (flat - flat.mean()) / np.sqrt(flat.var() + 1e-5)
  qkv = (flat @ weight[..., 0].T + bias[None]).reshape(4, heads, 3, size)
  expected = np.empty((4, heads, size))
  for head in range(heads):
    q, k, v = (qkv[:, head, i] for i in range(3))
    logits = q @ k.T / np.sqrt(size)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    expected[:, head] = weights / weights.sum(1, keepdims=True) @ v
  np.testing.assert_allclose(
    got.reshape(4, channels), expected.reshape(4, channels), atol=1e-5
  )


@pytest.mark.parametrize(
  ('mapping', 'words'),
  [
    ('{', 'to be a JSON object: '),
    ('[]', 'found a list'),
    ({'ours': 'gone'}, 'published.npz to hold .* it lacks gone'),
    ({'ours': 3}, 'expected ours to be a name or .* not 3'),
    ({'ours': {'array': 'a'}}, 'reshape or transpose, not'),
    ({'ours': {'array': 'a', 'then': [['flip', 0]]}}, 'reshape or transpose'),
    (
      {'ours': {'array': 'a', 'then': [['reshape', [5]]]}},
      r'ours: cannot reshape a of shape \[2, 3\] to \[5\]',
    ),
    (
      {'ours': {'array': 'a', 'then': [['transpose', 'x']]}},
      'ours: cannot transpose a',
    ),
  ],
)
def test_a_wrong_map_is_refused_in_one_line(tmp_path, mapping, words):
  with pytest.raises(errors.UsageError, match=words) as error:
    _apply(tmp_path, mapping, a=_normal(2, 3))
  assert '\n' not in str(error.value)


def test_a_missing_map_is_refused(tmp_path):
  with pytest.raises(errors.UsageError, match='to be a JSON object'):
    key_map.apply(tmp_path / 'absent.json', {}, 'published.npz')
