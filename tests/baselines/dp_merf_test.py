"""Random features of DP-MERF against the kernel."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from dp_diffusion.baselines import dp_merf

SHAPE = (4, 4, 1)
MERF = dp_merf.DpMerfConfig(num_features=4000, length_scale=0.7)


def test_random_features_are_of_norm_1_and_approximate_the_kernel():
  rng = np.random.default_rng(0)
  images = rng.uniform(-1, 1, (3, *SHAPE)).astype(np.float32)
  fn = dp_merf.make_feature_fn(MERF, SHAPE, jax.random.key(0))
  found = np.asarray(fn(images), np.float64)
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-6)
  scale = MERF.length_scale * 4  # The root of 16 pixels.
  for i in range(3):
    for j in range(3):
      distance = np.linalg.norm(images[i] - images[j])
      kernel = np.exp(-(distance**2) / (2 * scale**2))
      assert found[i] @ found[j] == pytest.approx(kernel, abs=0.06)


@pytest.mark.parametrize(
  'values',
  [
    {'num_features': 3, 'length_scale': 1.0},
    {'num_features': 4, 'length_scale': 0.0},
  ],
)
def test_bad_value_is_refused(values):
  with pytest.raises(ValueError, match='Expected'):
    dp_merf.DpMerfConfig(**values)
