"""The result of an audit as a sentence, a figure and a section of the report.

An audit uses public images, canaries and the coins that include them, so its
result says nothing of a sensitive image.
"""

from __future__ import annotations

from collections.abc import Mapping
import io
from typing import Any

from matplotlib import figure
import numpy as np

from dp_diffusion.evaluation.report import page

_IN, _OUT, _CLAIM = '#1f6f8b', '#c8a15a', '#b3403a'
_NUM_BINS = 50


def sentence(result: Mapping[str, Any]) -> str:
  """Returns the result of the audit with gradient canaries as a sentence.

  Args:
    result: content of `audit.json`.
  """
  whole, claim = result['white_box'], result['claim']
  steps = result.get('steps')  # Audits of earlier versions have none.
  verdict = (
    'which does not contradict it'
    if result['is_passed']
    else 'which REFUTES it: the mechanism is not what it says'
  )
  by_steps = (
    f' Step by step ({steps["num_with"]} times a canary was selected,'
    f' {steps["num_without"]} times not): at least'
    f' {steps["epsilon_lower_bound"]:.3g} of at most {steps["ceiling"]:.3g},'
    ' if records are selected as the accountant takes it.'
    if steps
    else ''
  )
  return (
    f'Claimed: epsilon {claim["epsilon"]:g} at delta {claim["delta"]:g}.'
    f' Measured, with {100 * result["confidence"]:g} % confidence,'
    f' {verdict}.{by_steps} From the whole run, knowing nothing of its'
    f' selection ({whole["num_correct"]} of {whole["num_guesses"]} guesses on'
    f' {whole["num_canaries"]} canaries right): at least'
    f' {whole["epsilon_lower_bound"]:.3g}; {whole["ceiling"]:.3g} is the most'
    ' that this audit can show.'
  )


def plot(
  scores: np.ndarray, is_included: np.ndarray, result: Mapping[str, Any]
) -> bytes:
  """Draws the scores of included and omitted canaries, and the lower bound.

  Args:
    scores: float64[m], scores of the gradient canaries.
    is_included: bool[m], whether the coin of each canary included it.
    result: content of `audit.json`.

  Returns:
    A PNG file.
  """
  found = result['white_box']
  canvas = figure.Figure(figsize=(7, 4.2), layout='constrained')
  top, bottom = canvas.subplots(2, 1, height_ratios=(3, 1))
  low, high = np.quantile(scores, [0.002, 0.998])
  bins = np.linspace(low, max(high, low + 1e-9), _NUM_BINS)
  clipped = np.clip(scores, bins[0], bins[-1])
  for mask, colour, name in (
    (is_included, _IN, 'in the dataset'),
    (~is_included, _OUT, 'left out'),
  ):
    top.hist(clipped[mask], bins, color=colour, alpha=0.6, label=name)
  threshold = found['threshold_in']
  if threshold is not None:
    top.axvline(
      np.clip(threshold, bins[0], bins[-1]),
      color='black',
      linestyle=':',
      label='guessed in, from here',
    )
  top.set(xlabel='score of a canary', ylabel='canaries')
  top.legend(frameon=False)
  bottom.barh(0, found['ceiling'], color='#c3c8d0', label='most it can show')
  bounds = [found['epsilon_lower_bound']]
  if steps := result.get('steps'):
    bounds.append(steps['epsilon_lower_bound'])
  bottom.barh(0, max(bounds), color=_IN, label='lower bound')
  bottom.axvline(result['claim']['epsilon'], color=_CLAIM, label='claim')
  bottom.set(xlabel='epsilon', yticks=[], xlim=(0, None))
  # The legend is above the axes, since beside the bars it would cover the line
  # of the claim.
  bottom.legend(frameon=False, ncols=3, loc='lower left', bbox_to_anchor=(0, 1))
  for axes in (top, bottom):
    axes.spines[['top', 'right']].set_visible(False)
  buffer = io.BytesIO()
  canvas.savefig(buffer, format='png', dpi=120, metadata={'Software': None})
  return buffer.getvalue()


def section(result: Mapping[str, Any], picture: bytes) -> page.Section:
  """Returns the section of the report on the audit.

  Args:
    result: content of `audit.json`.
    picture: the PNG file of `plot`.
  """
  attacks = {
    'Gradient canaries, every step seen': (
      'white_box',
      'the trade-off curve is that of the accountant',
    ),
    'Image canaries, the model alone seen': ('black_box', 'the same'),
  }
  rows: list[tuple[Any, ...]] = [
    (
      name,
      f'{found["num_correct"]} of {found["num_guesses"]} guesses right',
      found['epsilon_lower_bound'],
      found['ceiling'],
      assumed,
    )
    for name, (key, assumed) in attacks.items()
    if (found := result[key])
  ]
  if steps := result.get('steps'):
    rows.insert(
      0,
      (
        'Gradient canaries, every step and its selection known',
        f'{steps["num_missed"]} of {steps["num_with"]} missed,'
        f' {steps["num_false"]} of {steps["num_without"]} false alarms',
        steps['epsilon_lower_bound'],
        steps['ceiling'],
        'records are selected as the accountant takes it',
      ),
    )
  earlier = len(result['earlier_runs'])
  words = (
    f'{sentence(result)}\n\nThe audit is a training of its own, on public'
    ' images and canaries, through the same code; it reads no sensitive image'
    ' and spends nothing. A lower bound below the claim proves nothing; one'
    f' above it would prove a fault. Audits before this one: {earlier}.'
  )
  return page.Section(
    'Privacy audit',
    (
      page.Text(words),
      page.Table(
        ('Attack', 'Seen', 'ε is at least', 'Most it can show', 'Assumes that'),
        rows,
      ),
      page.Figure(
        picture,
        alt='Scores of canaries in and left out; the bound beside the claim.',
        caption=(
          'The less the two colours differ, the less an attacker who sees every'
          ' noised step can tell who took part.'
        ),
      ),
    ),
    {'audit': dict(result)},
  )
