"""The row of the colour run: its aim, and the floor beside its distance."""

from __future__ import annotations

import pathlib

import pytest

from experiments.cifar10_jpeg import run


def entry(group, accuracy, distance):
  return {
    'group': group,
    'seconds': {'finetune': 60.0},
    'accuracy': {'synthetic': {'cnn': accuracy}, 'real': {'cnn': 0.8}},
    'quality': {'synthetic': {'frechet': {'value': distance}}},
  }


@pytest.mark.parametrize('accuracy, is_missed', [(0.41, False), (0.39, True)])
def test_the_aim_is_that_of_the_private_run(accuracy, is_missed):
  found = [entry('epsilon 10', accuracy, 3.0), entry(run.FLOOR, 0.1, 9.0)]
  first, second = run.rows(found, 30.0)
  assert first['is_missed'] is is_missed and first['seconds'] == 90.0
  assert first['measures'] == {
    'accuracy': [accuracy],
    'of real images': [0.8],
    'Frechet distance': [3.0],
  }
  assert second['measures'] == {'Frechet distance': [9.0]}


def test_the_floor_differs_by_its_steps_and_what_is_no_part_of_it():
  mine, floor = run.PLAN(pathlib.Path('runs'), False).runs
  extra = set(floor.arguments) - set(mine.arguments)
  assert {a.partition('=')[0] for a in extra} == {
    '--workdir',
    '--config.finetune.optimizer.learning_rate',
    '--config.privacy.num_steps',
    '--config.evaluate.classifier.name',
    '--config.evaluate.classifier.num_steps',
  }
