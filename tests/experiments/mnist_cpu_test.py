from __future__ import annotations

import pytest

from experiments.mnist_cpu import run


def entry(group, cnn, workdir='runs/x'):
  accuracy = {'synthetic': {'cnn': {'value': cnn + 0.01}}}
  members = {'num_members': 3, 'accuracy': accuracy}
  return {
    'group': group,
    'seconds': {'finetune': 60.0},
    'accuracy': {'synthetic': {'cnn': cnn}, 'real': {'cnn': 0.99}},
    'ensembles': members,
    'command': f'python -m dp_diffusion.main "--workdir={workdir}"',
  }


@pytest.mark.parametrize('cnn, is_missed', [(0.93, False), (0.91, True)])
def test_the_aim_is_that_of_epsilon_10(cnn, is_missed):
  found = [entry('epsilon 10', cnn), entry('epsilon 1', 0.5)]
  ten, one, real = run.rows(found, 30.0)
  assert ten['is_missed'] is is_missed and not one['is_missed']
  together = ten['measures']['Small CNN, 3 together']
  assert together == [pytest.approx(cnn + 0.01)]
  assert ten['seconds'] == 90.0 and real['measures'] == {'Small CNN': [0.99]}


def test_without_an_ensemble_there_is_no_such_measure():
  found = entry('epsilon 10', 0.95)
  del found['ensembles']
  assert set(run.rows([found], 0.0)[0]['measures']) == {'Small CNN'}


def test_the_pictures_are_those_of_the_releases(tmp_path):
  found = []
  for group in ('epsilon 10', 'from scratch'):
    release = tmp_path / f'of {group}' / 'release'
    release.mkdir(parents=True)
    (release / 'samples.png').write_bytes(group.encode())
    found.append(entry(group, 0.9, release.parent))
  run.EXPERIMENT.draw(found, tmp_path / 'x.png')
  assert (tmp_path / 'x.png').read_bytes() == b'epsilon 10'
  assert (tmp_path / 'from_scratch.png').read_bytes() == b'from scratch'


def test_an_audit_has_a_row_of_its_own():
  found = [
    entry('epsilon 1', 0.9)
    | {
      'audit': {
        'claim': {'epsilon': 1.0},
        'confidence': 0.95,
        'epsilon_lower_bound': bound,
      }
    }
    for bound in (0.1, 0.2, 0.0)  # The strongest counts.
  ]
  last = run.rows(found, 0.0)[-1]
  what = 'a step that claims epsilon 1, at 95% confidence, at least'
  assert last['measures'] == {what: [0.2]} and not last['unit']
  assert last['what'].endswith('audits of an earlier version, by guesses alone')
  found[0]['audit'] |= {'tests': ['white_box', 'steps']}
  now, before = run.rows(found, 0.0)[-2:]
  assert now['what'] == 'MNIST 14x14, audits'
  assert now['measures'] == {what: [0.1]} and before == last


def test_images_are_told_beside_accuracies():
  def quality(distance, precision):
    return {
      'frechet': {'value': distance},
      'precision_recall': {'precision': precision, 'recall': 0.9},
    }

  near = {'closer_to_train': {'fraction': 0.85, 'expected': 0.86}}
  found = entry('epsilon 10', 0.95) | {
    'quality': {
      'synthetic': quality(0.3, 0.6),
      'synthetic_at_equal_number': quality(0.4, 0.7),
      'real': quality(0.1, 0.8),
    },
    'memorization': {'synthetic': near},
  }
  ten, real = run.rows([found], 0.0)
  assert (
    ten['measures']
    | {
      'Frechet distance': [0.4],
      'precision': [0.7],
      'recall': [0.9],
      'nearest image is of training': [0.85],
      'and by chance': [0.86],
    }
    == ten['measures']
  )
  assert ten['units'] == {'Frechet distance': ''} and ten['unit'] == '%'
  assert real['measures']['precision'] == [0.8]
  assert 'nearest image is of training' not in real['measures']


def test_from_scratch_pays_for_no_pretraining_and_has_no_aim(tmp_path):
  found = [entry('epsilon 10', 0.95), entry('from scratch', 0.5)]
  found[1]['accuracy']['synthetic']['wrn_16_1'] = 0.6
  _, scratch, _ = run.rows(found, 30.0)
  assert scratch['seconds'] == 60.0 and not scratch['is_missed']
  assert scratch['measures']['WRN-16-1'] == [0.6]
  (of_scratch,) = (
    planned
    for planned in run.PLAN(tmp_path, False).runs
    if planned.facts['group'] == 'from scratch'
  )
  arguments = of_scratch.arguments
  assert '--config.pretrain.init_from=' in arguments
  assert '--config.privacy.epsilon=10' in arguments
