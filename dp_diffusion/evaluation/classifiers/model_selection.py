"""Measures whether hyper-parameters can be chosen on synthetic data alone.

Somebody who has only the synthetic images chooses the classifier setting that
scores best on them. This module scores a grid of settings twice, on synthetic
and on real held-out images, and compares the two rankings: by rank
correlations, and by the accuracy on real images that the choice loses (top-1
regret). The paper (arXiv 2302.13861) claims that such a choice works; the
measures are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import itertools
from typing import Any, TypeVar

import numpy as np
from scipy import stats

from dp_diffusion import checks

ConfigT = TypeVar('ConfigT')
# config -> (score on synthetic images, score on real ones); higher is better.
ScoreFn = Callable[[ConfigT], tuple[float, float]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
  """Scores of one setting, a dot of the scatter figure.

  Attributes:
    setting: the hyper-parameters that differ within the grid.
    synthetic_score: score on synthetic images; higher is better.
    real_score: score on real held-out images; higher is better.
  """

  setting: dict[str, Any]
  synthetic_score: float
  real_score: float

  @property
  def label(self) -> str:
    """Label in the figure, such as 'learning_rate=0.1, weight_decay=0'."""
    return ', '.join(f'{k}={v}' for k, v in self.setting.items())


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectionResult:
  """How well the ranking on synthetic images agrees with that on real ones.

  Attributes:
    points: one per setting, in the order of the grid.
    spearman: Spearman's rank correlation; None if all scores of a side are
      equal, as for the three values that follow.
    spearman_p_value: two-sided p-value, exact by permutation for up to 7
      settings, else by Student's t.
    kendall: Kendall's tau-b.
    kendall_p_value: two-sided p-value.
    top1_regret: best real score minus the real score of the setting that is
      best on synthetic images. If several are equally best there, the mean.
    random_regret: best real score minus the mean real score of all settings.
    chosen: index of the first setting that is best on synthetic images.
    best: index of the first setting that is best on real images.
  """

  points: tuple[Point, ...]
  spearman: float | None
  spearman_p_value: float | None
  kendall: float | None
  kendall_p_value: float | None
  top1_regret: float
  random_regret: float
  chosen: int
  best: int

  def to_dict(self) -> dict[str, Any]:
    """Returns all fields as JSON values."""
    return dataclasses.asdict(self)


def grid(base: ConfigT, axes: Mapping[str, Sequence[Any]]) -> list[ConfigT]:
  """Returns a config for every combination of the values of some fields.

  Args:
    base: a frozen dataclass that gives the other fields.
    axes: values by field; the last field varies fastest.

  Returns:
    The configs, in that order.

  Raises:
    ValueError: a field is unknown or has no values.
  """
  known = [f.name for f in dataclasses.fields(base)]  # type: ignore[arg-type]
  for name, values in axes.items():
    checks.check_one_of('axis', name, known)
    checks.check_at_least(f'len({name})', len(values), 1)
  return [
    dataclasses.replace(base, **dict(zip(axes, values, strict=True)))  # type: ignore[type-var]
    for values in itertools.product(*axes.values())
  ]


def run(
  base: ConfigT, axes: Mapping[str, Sequence[Any]], score_fn: ScoreFn[ConfigT]
) -> SelectionResult:
  """Scores a grid on synthetic and real images, and compares the rankings.

  Args:
    base: a frozen dataclass that gives the fields that are not varied.
    axes: values by field.
    score_fn: trains and scores one config.
  """
  points = []
  for config in grid(base, axes):
    synthetic, real = score_fn(config)
    setting = {name: getattr(config, name) for name in axes}
    points.append(
      Point(setting=setting, synthetic_score=synthetic, real_score=real)
    )
  return compare(points)


def compare(points: Sequence[Point]) -> SelectionResult:
  """Compares the ranking of settings on synthetic images with that on real.

  Args:
    points: at least two settings with their scores.

  Raises:
    ValueError: there are fewer than two settings, or a score is not finite.
  """
  checks.check_at_least('len(points)', len(points), 2)
  synthetic = np.array([p.synthetic_score for p in points], np.float64)
  real = np.array([p.real_score for p in points], np.float64)
  for name, scores in (('synthetic', synthetic), ('real', real)):
    for score in scores:
      checks.check_finite(f'{name} score', float(score))
  spearman: tuple[float | None, float | None] = (None, None)
  kendall = spearman
  if np.ptp(synthetic) > 0 and np.ptp(real) > 0:
    spearman = _spearman(synthetic, real)
    kendall = _pair(stats.kendalltau(synthetic, real))
  chosen = synthetic == synthetic.max()
  return SelectionResult(
    points=tuple(points),
    spearman=spearman[0],
    spearman_p_value=spearman[1],
    kendall=kendall[0],
    kendall_p_value=kendall[1],
    top1_regret=float(real.max() - real[chosen].mean()),
    random_regret=float(real.max() - real.mean()),
    chosen=int(np.argmax(synthetic)),
    best=int(np.argmax(real)),
  )


def _spearman(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
  """Returns the rank correlation and its p-value, exact for up to 7 settings.

  For more settings the p-value is that of Student's t.
  """
  found = _pair(stats.spearmanr(x, y))
  if len(x) > 7:
    return found
  a, b = stats.rankdata(x), stats.rankdata(y)
  a, b = a - a.mean(), b - b.mean()
  orders = np.array(list(itertools.permutations(range(len(x)))))
  products = np.abs(b[orders] @ a)
  return found[0], float((products >= abs(a @ b) - 1e-9).mean())


def _pair(found: Any) -> tuple[float, float]:
  return float(found.statistic), float(found.pvalue)
