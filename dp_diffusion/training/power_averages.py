"""Averages of weights with a power of time, whose length is chosen afterwards.

The method is that of EDM2, arXiv 2312.02696, section 3. The average after step
t of a training (t = 1 for the first) has the decay (1 - 1/t)^(gamma + 1), so
weights of time s of T have the density (gamma + 1) s^gamma / T^(gamma + 1). Its
relative length is its std divided by T. Averages of two lengths are kept; one
of another length is approximated by the combination of them whose density is
nearest in the mean square.

All of it is post-processing of the noised gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_LENGTH = 0.28  # That of an equal weight for all steps is 12^-0.5.


def exponent(length: float) -> float:
  """Returns gamma of a relative length (arXiv 2312.02696, algorithm 2).

  >>> round(exponent(0.05), 2), round(exponent(0.1), 2)
  (16.97, 6.94)

  Args:
    length: std of the density, divided by the length of the training.

  Raises:
    ValueError: the length is not in (0, 0.28].
  """
  if not 0 < length <= MAX_LENGTH:
    raise ValueError(
      f'Expected length={length!r} to be in (0, {MAX_LENGTH}], a share of the'
      ' training.'
    )
  inverse = length**-2
  # length^2 = (g + 1) / ((g + 2)^2 (g + 3)).
  roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
  return float(np.max(roots.real))


def combination(lengths: Sequence[float], wanted: float) -> np.ndarray:
  """Returns the weights with which averages are added to one of another length.

  Args:
    lengths: relative lengths of the averages, different ones.
    wanted: relative length of the result.

  Returns:
    float64[len(lengths)], of sum 1; they may be negative.
  """
  given = np.array([exponent(length) for length in lengths])
  target = exponent(wanted)

  def products(left: np.ndarray, right: np.ndarray | float) -> np.ndarray:
    return (left + 1) * (right + 1) / (left + right + 1)

  matrix = products(given[:, None], given[None, :])
  found = np.linalg.solve(matrix, products(given, target))
  return found / found.sum()
