"""Whether so many records are enough: by what was measured, and no guess."""

from __future__ import annotations

import dataclasses
import json

from hypothesis import given
from hypothesis import strategies as st
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion.models import unet
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.stages.planning import flop_counts
from dp_diffusion.stages.planning import sufficiency
from tests.stages import command

_CONFIGS = command.ROOT / 'configs'


def _setting(
  noise: float, side: int = 8, is_pretrained: bool = True
) -> sufficiency.Setting:
  return sufficiency.Setting(
    noise_over_batch=noise / 100,
    noise_over_signal=noise,
    image_shape=(side, side, 1),
    is_pretrained=is_pretrained,
    num_records=1000,
  )


def _run(
  noise: float,
  synthetic: float,
  public: tuple[float, ...] = (0.8,),
  **more: object,
) -> sufficiency.MeasuredRun:
  return sufficiency.MeasuredRun(
    what='a',
    source='b',
    setting=_setting(noise, **more),
    chance=0.1,
    synthetic=(synthetic,),
    public=public,
    real=(0.9,),
  )


MECHANISM = mechanism_lib.DpSgdMechanism(
  num_examples=1000,
  expected_batch_size=50,
  num_steps=100,
  noise_multiplier=2.0,
  l2_clip_norm=0.3,
  delta=1e-4,
)


def test_the_noise_is_what_the_module_says(monkeypatch):
  monkeypatch.setattr(flop_counts, 'num_trained', lambda _: 400)
  config = config_lib.load(command.DIGITS_SMOKE)
  found = sufficiency.setting(config, MECHANISM)
  assert found.noise_over_batch == 0.04
  assert found.noise_over_signal == pytest.approx(0.04 * 2)
  assert (found.image_shape, found.num_records) == ((8, 8, 1), 1000)
  assert found.is_pretrained


@pytest.mark.parametrize(
  ('keys', 'is_pretrained'),
  [
    ({'pretrain.num_steps': '0'}, False),
    ({'pretrain.num_steps': '0', 'pretrain.init_from': 'runs/x'}, True),
    ({}, True),
  ],
)
def test_weights_that_are_given_are_pre_trained(keys, is_pretrained):
  config = config_lib.load(command.DIGITS_SMOKE, keys)
  found = sufficiency.setting(config, MECHANISM)
  assert found.is_pretrained == is_pretrained


def test_frozen_weights_get_no_noise():
  config = config_lib.load(command.DIGITS_SMOKE)
  part = config_lib.load(
    command.DIGITS_SMOKE, {'finetune.trainable': "('mid*',)"}
  )
  assert isinstance(flop_counts._traced(config)[0], unet.UNet)
  assert flop_counts.num_trained(config) == flop_counts.num_parameters(config)
  assert 0 < flop_counts.num_trained(part) < flop_counts.num_trained(config)


@pytest.mark.parametrize(
  ('found', 'level'),
  [
    (_setting(2.0), sufficiency.TOO_FEW),
    (_setting(1.0), sufficiency.TOO_FEW),  # As the run that gained nothing.
    (_setting(2.0, side=32, is_pretrained=False), sufficiency.TOO_FEW),
    (_setting(2.0, side=4), sufficiency.UNCLEAR),  # Smaller images.
    (_setting(0.5), sufficiency.UNCLEAR),
    (_setting(0.1), sufficiency.ENOUGH),
    (_setting(0.01), sufficiency.ENOUGH),
    (_setting(0.01, side=4), sufficiency.ENOUGH),
    (_setting(0.01, side=32), sufficiency.UNCLEAR),
    (_setting(0.01, is_pretrained=False), sufficiency.UNCLEAR),
  ],
)
def test_only_a_run_that_was_no_harder_or_no_easier_decides(found, level):
  runs = (_run(1.0, synthetic=0.79), _run(0.1, synthetic=0.89))
  assert sufficiency.judge(found, runs).level == level


def test_what_was_lost_or_not_gained_is_no_success():
  for run in (
    _run(0.1, synthetic=0.7, public=()),  # Too much of 90 % is lost.
    _run(0.1, synthetic=0.89, public=(0.9,)),  # Public images did better.
  ):
    verdict = sufficiency.judge(_setting(0.01), (run,))
    assert verdict.level == sufficiency.UNCLEAR and verdict.run == run
  lost = _run(0.1, synthetic=0.3, public=())  # Of what, is not known.
  assert not lost.is_useless
  scratch = _run(0.1, synthetic=0.3, is_pretrained=False)
  assert not scratch.is_useless


@given(noise=st.floats(1e-4, 1e3), factor=st.floats(1.0, 100.0))
def test_more_noise_is_never_judged_better(noise, factor):
  order = (sufficiency.ENOUGH, sufficiency.UNCLEAR, sufficiency.TOO_FEW)
  runs = sufficiency.measured_runs()
  less = _setting(noise, side=14)
  more = dataclasses.replace(less, noise_over_signal=noise * factor)
  levels = [order.index(sufficiency.judge(s, runs).level) for s in (less, more)]
  assert levels == sorted(levels)


def test_a_table_goes_through_a_file():
  for run in sufficiency.measured_runs():
    text = json.dumps(sufficiency.to_json(run))
    assert sufficiency.from_json(json.loads(text)) == run
    assert (command.ROOT / run.source).exists()


def _lines(name: str, noise: float, **changed: str) -> str:
  config = config_lib.load(
    f'{_CONFIGS}/{name}', {k.replace('__', '.'): v for k, v in changed.items()}
  )
  privacy = config.privacy
  mechanism = mechanism_lib.DpSgdMechanism(
    num_examples=privacy.num_examples,
    expected_batch_size=privacy.expected_batch_size,
    num_steps=privacy.num_steps,
    noise_multiplier=noise,
    l2_clip_norm=privacy.l2_clip_norm,
    delta=privacy.delta,
  )
  return '\n'.join(sufficiency.lines(config, mechanism))


def test_a_thousand_images_and_thirteen_persons_are_too_few():
  text = _lines('own_images.py:1k', 2.381)
  assert '0.004762 of the clip norm' in text
  assert '(2.381 over 500 of 1,000 images)' in text
  assert '1,000 images are too few for images of this size' in text
  assert 'experiments/digits_epsilon/results.json' in text
  assert 'more records; a larger epsilon' in text
  assert 'smaller images' in text and 'pre-training' not in text
  text = _lines(
    'own_images.py:1k',
    3.5,
    data__unit='person',
    privacy__num_examples='13',
    privacy__expected_batch_size='13',
    privacy__delta='0.01',
    pretrain__num_steps='0',
    pretrain__optimizer__warmup_steps='0',
  )
  assert '13 persons are too few for images of this size' in text
  assert text.endswith('pre-training on public images')


def test_what_was_measured_to_do_is_not_called_too_little():
  text = _lines('digits.py', 1.3727)
  assert '1,437 images may be enough' in text and 'would help' not in text


def test_without_noise_nothing_is_judged():
  assert not _lines('digits.py', 0.0)
