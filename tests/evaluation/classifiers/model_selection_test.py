"""Rank agreement and regret against hand-made cases and SciPy."""

from __future__ import annotations

import dataclasses
import json

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import stats

from dp_diffusion.evaluation.classifiers import model_selection


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  name: str = 'cnn'
  rate: float = 0.1
  decay: float = 0.0


def compare(synthetic, real):
  return model_selection.compare(
    [
      model_selection.Point(setting={'i': i}, synthetic_score=s, real_score=r)
      for i, (s, r) in enumerate(zip(synthetic, real, strict=True))
    ]
  )


def test_the_same_order_is_perfect():
  result = compare([0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.61, 0.9])
  assert result.spearman == pytest.approx(1)
  assert result.kendall == pytest.approx(1)
  assert result.top1_regret == 0
  assert result.chosen == result.best == 3
  assert result.spearman_p_value == pytest.approx(2 / 24)


def test_the_opposite_order_chooses_the_worst():
  result = compare([3, 2, 1], [0.5, 0.6, 0.9])
  assert result.spearman == pytest.approx(-1)
  assert result.top1_regret == pytest.approx(0.4)
  assert result.random_regret == pytest.approx(0.9 - 2 / 3)
  assert (result.chosen, result.best) == (0, 2)


def test_regret_is_the_mean_over_equal_choices():
  result = compare([1, 1, 0], [0.5, 0.9, 0.9])
  assert result.top1_regret == pytest.approx(0.2)


def test_without_an_order_there_is_no_correlation():
  result = compare([1, 1, 1], [0.5, 0.6, 0.9])
  assert result.spearman is result.kendall is None
  assert result.spearman_p_value is result.kendall_p_value is None
  assert result.top1_regret == pytest.approx(result.random_regret)
  json.dumps(result.to_dict(), allow_nan=False)


@given(
  st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=6
  )
)
def test_correlations_are_those_of_pairs(pairs):
  x, y = np.array(pairs, float).T
  result = compare(x, y)
  if np.ptp(x) == 0 or np.ptp(y) == 0:
    assert result.spearman is None
    return
  ranks = [stats.rankdata(x), stats.rankdata(y)]
  assert result.spearman == pytest.approx(np.corrcoef(*ranks)[0, 1])
  signs = [np.sign(v[:, None] - v[None]) for v in (x, y)]
  tau = (signs[0] * signs[1]).sum() / np.sqrt(
    (signs[0] ** 2).sum() * (signs[1] ** 2).sum()
  )
  assert result.kendall == pytest.approx(tau)
  assert 0 < result.spearman_p_value <= 1


def test_exact_p_value_is_that_of_a_permutation_test():
  x, y = np.array([1.0, 2, 3, 4, 5]), np.array([2.0, 1, 3, 5, 4])
  expected = stats.permutation_test(
    (x,),
    lambda a: stats.spearmanr(a, y).statistic,
    permutation_type='pairings',
    n_resamples=np.inf,
  ).pvalue
  assert compare(x, y).spearman_p_value == pytest.approx(expected)


def test_grid_varies_the_last_axis_fastest():
  axes = {'rate': [0.1, 0.2], 'decay': [0.0, 1.0]}
  configs = model_selection.grid(Config(name='wrn'), axes)
  found = [(c.name, c.rate, c.decay) for c in configs]
  assert found == [
    ('wrn', 0.1, 0.0),
    ('wrn', 0.1, 1.0),
    ('wrn', 0.2, 0.0),
    ('wrn', 0.2, 1.0),
  ]


def test_run_scores_each_setting_once():
  seen = []

  def score(config):
    seen.append(config)
    return config.rate, config.rate - config.decay

  result = model_selection.run(
    Config(), {'rate': [1.0, 2.0], 'decay': [0.0, 0.5]}, score
  )
  assert len(seen) == len(set(seen)) == 4
  assert result.points[3].label == 'rate=2.0, decay=0.5'
  assert result.points[3].real_score == 1.5
  assert result.top1_regret == pytest.approx(0.25)
  stored = json.loads(json.dumps(result.to_dict(), allow_nan=False))
  assert stored['points'][0]['setting'] == {'rate': 1.0, 'decay': 0.0}


def test_bad_arguments_are_refused():
  with pytest.raises(ValueError, match="axis='rat'.*did you mean 'rate'"):
    model_selection.grid(Config(), {'rat': [1.0]})
  with pytest.raises(ValueError, match='rate'):
    model_selection.grid(Config(), {'rate': []})
  with pytest.raises(ValueError, match='len'):
    compare([1], [1])
  with pytest.raises(ValueError, match='synthetic score=nan'):
    compare([float('nan'), 1], [1, 2])
