"""Formats numbers for people."""

from __future__ import annotations

import math
import re
from typing import Any

NOTHING = '–'  # Shown where there is no number.
_SCIENTIFIC = re.compile(r'(?<![\w.-])\d+(\.\d+)?e[+-]\d+(?![\w-])')
_NEGATIVE = re.compile(r'(?<![\w.)-])-(?=\d|\.\d|∞)')
_SUPERSCRIPTS = str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹')


def percent(value: float, decimals: int = 1) -> str:
  r"""Formats a share as a percentage.

  >>> percent(0.93125), percent(-0.01), percent(float('nan'))
  ('93.1\xa0%', '−1.0\xa0%', '–')
  """
  if not is_finite(value):
    return NOTHING
  return f'{signed(100 * value, decimals)}\N{NO-BREAK SPACE}%'


def number(value: Any) -> str:
  r"""Formats any number; NaN and None become a dash.

  >>> number(5000), number(2.45678), number(1e-5), number(float('nan'))
  ('5,000', '2.457', '10⁻⁵', '–')
  >>> number(float('inf')), number(3e-6), number(None)
  ('∞', '3\xa0×\xa010⁻⁶', '–')
  >>> number(-5000), number(-0.25), number(float('-inf'))
  ('−5,000', '−0.25', '−∞')
  """
  if isinstance(value, str):
    return value
  if value is None or math.isnan(value):
    return NOTHING
  if math.isinf(value):
    return '∞' if value > 0 else '−∞'
  if value == int(value) and abs(value) < 1e15:
    return with_minus(f'{int(value):,}')
  if abs(value) >= 1e-3:
    return with_minus(f'{value:.4g}')
  mantissa, _, exponent = f'{value:.2e}'.partition('e')
  power = f'10{str(int(exponent)).translate(_SUPERSCRIPTS)}'
  mantissa = with_minus(mantissa.rstrip('0').rstrip('.'))
  space = '\N{NO-BREAK SPACE}'
  return power if mantissa == '1' else f'{mantissa}{space}×{space}{power}'


def signed(value: float, decimals: int) -> str:
  """Formats a number, which may be negative, to some decimals.

  >>> signed(-2.345, 2), signed(-0.001, 2), signed(float('nan'), 1)
  ('−2.35', '0.00', '–')
  """
  if not is_finite(value):
    return NOTHING
  text = f'{value:.{decimals}f}'
  return with_minus(text if float(text) else text.lstrip('-'))


def p_value(value: float) -> str:
  """Formats a p-value; a tiny one is only bounded.

  >>> p_value(0.123), p_value(1e-9)
  ('0.12', '< 10⁻⁴')
  """
  return '< 10⁻⁴' if value < 1e-4 else f'{value:.2g}'


def with_minus(text: str) -> str:
  """Replaces the hyphen before a number by the typographic minus.

  >>> with_minus('-0.5')
  '−0.5'
  """
  return f'−{text[1:]}' if text.startswith('-') else text


def in_text(text: str) -> str:
  r"""Formats the numbers within a text: typographic minus, powers of ten.

  >>> in_text('delta is 1e-05, z = -3.5, of 2.2e+04: k - 1')
  'delta is 10⁻⁵, z = −3.5, of 22,000: k - 1'
  >>> in_text('2026-11-29, x-1, --seed=3, wrn-16-4, 2e5b-1e-2, -∞')
  '2026-11-29, x-1, --seed=3, wrn-16-4, 2e5b-1e-2, −∞'
  """
  text = _SCIENTIFIC.sub(lambda found: number(float(found[0])), text)
  return _NEGATIVE.sub('−', text)


def count(value: float) -> str:
  """Formats a count, or a mean of counts.

  >>> count(3.0), count(2.5), count(0.0)
  ('3', '2.5', '0')
  """
  return number(int(value)) if value == int(value) else f'{value:,.1f}'


def duration(secs: float) -> str:
  """Formats a time in seconds.

  >>> duration(0.42), duration(75.2), duration(7325), duration(float('nan'))
  ('0.4 s', '1 min 15 s', '2 h 2 min', '–')
  """
  if not is_finite(secs):
    return NOTHING
  if secs < 10:
    return f'{secs:.1f} s'
  if secs < 60:
    return f'{secs:.0f} s'
  minutes, secs = divmod(round(secs), 60)
  if minutes < 60:
    return f'{minutes} min {secs} s'
  hours, minutes = divmod(minutes, 60)
  return f'{hours} h {minutes} min'


def is_finite(value: float | None) -> bool:
  """Whether the value is a number, neither None nor NaN nor infinite."""
  return value is not None and math.isfinite(value)
