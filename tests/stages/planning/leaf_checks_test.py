"""Patterns of leaves are checked before any compute."""

from __future__ import annotations

import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion.stages.planning import leaf_checks
from tests.stages import command


def check(others: dict[str, str] | None = None, **finetune: str) -> None:
  changed = {f'finetune.{key}': text for key, text in finetune.items()}
  config = config_lib.load(command.DIGITS_SMOKE, {**(others or {}), **changed})
  leaf_checks.check(config)


def test_patterns_of_trained_leaves_pass():
  check(gradient_scales='label/classes=50,*/kernel=2')
  check(gradient_scales='label/classes=50', trainable='label/*')


@pytest.mark.parametrize(
  ('scales', 'words'),
  [
    ('labels/*=2', "'labels/\\*' of gradient_scales to match a leaf that is"),
    ('out/*=2', "'out/\\*' of gradient_scales"),  # It is frozen.
    ('*=1,label/*=2', 'a leaf that no earlier pattern has that is trained'),
  ],
)
def test_patterns_of_nothing_are_refused(scales, words):
  with pytest.raises(errors.UsageError, match=words):
    check(gradient_scales=scales, trainable='label/*')


def test_each_trained_leaf_needs_a_group():
  check(clip_groups='label/*=1', trainable='label/*')
  with pytest.raises(errors.UsageError, match='group for'):
    check(clip_groups='label/*=1', trainable='label/*,out/*')


def test_trainable_is_checked_too():
  with pytest.raises(errors.UsageError, match="trainable='labels'"):
    check(trainable='labels')


def test_rows_of_new_classes_are_not_frozen():
  """Fine-tuning would refuse it after a warm-up, whose budget is spent."""
  check(trainable='out/*')
  others = {'pretrain.data.class_names': str(tuple('abcdefghij'))}
  check(others, trainable='label/*,out/*')
  with pytest.raises(errors.UsageError, match='label/classes to train'):
    check(others, trainable='out/*')
