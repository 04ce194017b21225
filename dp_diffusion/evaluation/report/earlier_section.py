"""Lists the earlier evaluations of a folder, which saw the same test images.

One evaluation reads the held-out images once, after every choice. But somebody
who reads the report, changes a setting and evaluates again has made a choice by
these images. The report therefore counts the evaluations before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dp_diffusion.evaluation.report import formats
from dp_diffusion.evaluation.report import page

KEY = 'earlier_evaluations'


def with_last(report: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Returns the evaluations that a report lists, and that report's own.

  Args:
    report: content of the `report.json` that is about to be replaced.

  Returns:
    [{'evaluate': section of the config, 'accuracy': source -> classifier ->
    share}], oldest first.
  """
  last = {
    'evaluate': report['config']['evaluate'],
    'accuracy': report['accuracy'],
  }
  return [*report.get(KEY, ()), last]


def section(
  earlier: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
) -> page.Section:
  """Says how often the held-out images were read before, with what result.

  Args:
    earlier: the result of `with_last`.
    settings: section `evaluate` of this evaluation's config.
  """
  if not earlier:
    return page.Section('Earlier evaluations', (), {KEY: []})
  rows = [
    (
      number,
      _changed(found['evaluate'], settings) or 'nothing',
      *(_accuracy(found, source) for source in ('synthetic', 'real')),
    )
    for number, found in enumerate(earlier, 1)
  ]
  times = 'once' if len(earlier) == 1 else f'{len(earlier)} times'
  return page.Section(
    'Earlier evaluations',
    (
      page.Text(
        f'**The held-out images were read {times} before**, with other'
        ' settings of `evaluate`. If these were changed because of what was'
        ' found, the accuracies of this report are too good.'
      ),
      page.Table(
        ('', 'Other than now', 'Synthetic: CNN', 'Real: CNN'),
        rows,
      ),
    ),
    {KEY: list(earlier)},
  )


def _accuracy(found: Mapping[str, Any], source: str) -> str:
  value = found['accuracy'].get(source, {}).get('cnn')
  return formats.NOTHING if value is None else formats.percent(value)


def _changed(before: Any, now: Any, prefix: str = '') -> str:
  """Lists the keys that differ with their earlier values: 'a.b = 1, c = 2'."""
  if not isinstance(before, Mapping) or not isinstance(now, Mapping):
    return '' if before == now else f'{prefix} = {before}'
  changes = (
    _changed(before.get(key), now.get(key), f'{prefix}.{key}'.lstrip('.'))
    for key in sorted({*before, *now})
  )
  return ', '.join(filter(None, changes))
