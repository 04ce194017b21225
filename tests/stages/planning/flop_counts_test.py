"""Operations and memory from a trace, against what is known of the networks."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion.models import unet
from dp_diffusion.stages import plan
from dp_diffusion.stages.planning import flop_counts
from tests.stages import command

CONFIGS = command.ROOT / 'configs'


@pytest.fixture(scope='module')
def digits() -> config_lib.Config:
  return config_lib.load(command.DIGITS_SMOKE)


# GFLOP of a forward pass; FLOP of all stages of the whole recipe.
PAPER = [
  pytest.param('mnist', 1.63, {'finetune': 1.0e19, 'sample': 8e16}),
  pytest.param(
    'cifar10',
    27.7,
    {'pretrain': 1.7e19, 'finetune': 3.5e19, 'sample': 1.4e18},
    marks=pytest.mark.slow,
  ),
]


@pytest.mark.parametrize(('name', 'forward', 'stages'), PAPER)
def test_compute_is_the_papers(
  name: str, forward: float, stages: dict[str, float]
) -> None:
  config = config_lib.load(str(CONFIGS / f'{name}.py'))
  found = flop_counts.forward_flop(config)
  assert found / 1e9 == pytest.approx(forward, rel=0.005)
  costs = plan.costs(config, config.privacy.num_steps)
  for stage, flop in stages.items():  # Published with two digits.
    assert costs[stage].flop == pytest.approx(flop, rel=0.03)


def test_evaluation_is_the_training_of_its_classifiers(digits) -> None:
  """Of a linear one, whose operations are known."""
  settings = digits.evaluate
  linear = dataclasses.replace(
    settings.classifier, name='logistic_regression', num_steps=7, batch_size=5
  )
  settings = dataclasses.replace(
    settings,
    classifier=linear,
    classifiers=(),
    num_seeds=3,
    size_shares=(1.0,),  # The same as those of the whole release.
    selection=dataclasses.replace(settings.selection, learning_rates=()),
    svm=True,
  )
  config = dataclasses.replace(digits, evaluate=settings)
  assert config.pretrain.data.class_names == config.data.class_names
  cost = plan.costs(config, 1)['evaluate']
  assert cost.passes == 3 * 3 * 7 * 5  # Three sources, three seeds each.
  assert cost.flop == cost.passes * 3 * 2 * (8 * 8) * 10


def test_products_and_convolutions_are_counted(monkeypatch, digits) -> None:
  """Of a function whose operations are known, at a batch of one."""
  kernel = np.zeros((3, 3, 5, 7), np.float32)
  matrix = np.zeros((7, 11), np.float32)

  @jax.jit  # Inner functions count too.
  def apply(variables, x):
    kernel, matrix = variables
    y = jax.lax.conv_general_dilated(
      x, kernel, (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    return np.float32(2) * (y @ matrix)

  class Model:
    def apply(self, variables, x):
      return apply(variables, x)

  x = np.zeros((1, 8, 8, 5), np.float32)
  monkeypatch.setattr(flop_counts, '_BATCH', 1)
  monkeypatch.setattr(
    flop_counts, '_traced', lambda _: (Model(), (kernel, matrix), (x,))
  )
  expected = 2 * 4 * 4 * (7 * 3 * 3 * 5 + 11 * 7)
  assert flop_counts.forward_flop(digits) == expected
  # Kept: the input of the convolution and that of the product.
  monkeypatch.setattr(flop_counts, '_BATCH', len(x))
  assert flop_counts.activation_bytes(digits) >= 4 * (8 * 8 * 5 + 4 * 4 * 7)


def test_parameters_are_those_of_the_network(digits) -> None:
  network = digits.unet_config(digits.data)
  assert flop_counts.num_parameters(digits) == unet.num_parameters(
    network, 8, 8
  )


def test_activations_grow_with_the_images_not_with_the_weights() -> None:
  def kept(*, side: str, classes: int) -> int:
    names = str(tuple(str(i) for i in range(classes)))
    return flop_counts.activation_bytes(
      config_lib.load(
        str(command.ROOT / 'tests' / 'configs' / 'rgb32.py'),
        {
          'data.image_size': side,
          'pretrain.data.image_size': side,
          'model.attention_resolutions': '()',
          'data.class_names': names,
        },
      )
    )

  few = kept(side='16', classes=2)
  assert few > 16 * 16 * 8 * 4  # At least one image of 8 channels.
  many = kept(side='16', classes=500)  # One hot.
  assert many - few <= 4 * 500 + 16
  assert 3 < kept(side='32', classes=2) / few < 5
