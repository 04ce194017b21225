"""Finds exact nearest neighbours between two large sets, tile by tile.

Precision, recall and the tests for memorization must not miss a nearest
neighbour, so nothing is approximated. A tile of squared distances is a matrix
product in float64; for pixels every product and sum is an exact integer (below
2**53). The distances to the neighbours found are then recomputed from
differences, so that a copy has distance 0, and only a copy.

The cost is 2 * N * M * F operations: 50,000 by 50,000 images of 32x32x3 need
1.5e13, minutes on a CPU. Two blocks and one tile are in memory, less than
300 MB for F <= 3072, however large the sets are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import math

import numpy as np

Advance = Callable[[int], None]  # Called with the number of new queries done.
BLOCK_SIZE = 2048  # Rows of a tile: 50 MB in float64 at F = 3072.


def nearest(
  queries: np.ndarray,
  references: np.ndarray,
  num_neighbors: int = 1,
  exclude_self: bool = False,
  block_size: int = BLOCK_SIZE,
  advance: Advance = lambda _: None,
) -> tuple[np.ndarray, np.ndarray]:
  """Finds the nearest references of each query.

  Args:
    queries: [N, ...] of any real dtype; a point is one row.
    references: [M, ...] whose rows have the same shape.
    num_neighbors: number of neighbours k.
    exclude_self: whether `queries` are the `references` and a point is not
      its own neighbour (its copies are).
    block_size: rows of a tile.
    advance: called after each tile with the number of queries that it completed
      (0 for all but the last tile of a row); an exception that it raises ends
      the search.

  Returns:
    (distances float64[N, k] ascending, indices int64[N, k] into references).
    Among equally near references, the first neighbour is that of lowest index;
    the order of the others is not specified.

  Raises:
    ValueError: shapes differ, or there are fewer than k references.
  """
  _check(queries, references)
  available = len(references) - exclude_self
  if not 1 <= num_neighbors <= available:
    raise ValueError(
      f'Expected num_neighbors={num_neighbors!r} to be at least 1 and at most'
      ' the number of references.'
    )
  distances = np.full((len(queries), num_neighbors), np.inf)
  indices = np.full((len(queries), num_neighbors), -1, np.int64)
  for rows, columns, tile in squared_tiles(queries, references, block_size):
    if exclude_self:
      _blank_diagonal(tile, rows.start, columns.start)
    best = _smallest(tile, min(num_neighbors, tile.shape[1]))
    near = np.take_along_axis(tile, best, axis=1)
    near = np.concatenate([distances[rows], near], axis=1)
    numbers = np.concatenate([indices[rows], best + columns.start], axis=1)
    order = _smallest(near, num_neighbors)
    distances[rows] = np.take_along_axis(near, order, axis=1)
    indices[rows] = np.take_along_axis(numbers, order, axis=1)
    is_last = columns.stop == len(references)
    advance((rows.stop - rows.start) * is_last)
  return _from_differences(queries, references, indices, block_size)


def squared_tiles(
  queries: np.ndarray, references: np.ndarray, block_size: int = BLOCK_SIZE
) -> Iterator[tuple[slice, slice, np.ndarray]]:
  """Yields the squared distances tile by tile.

  They are computed as |a - b|**2 = |a|**2 + |b|**2 - 2 a.b. Points that are not
  integers are first centred at the mean of the first references, which keeps
  the cancellation small.

  Args:
    queries: [N, ...].
    references: [M, ...].
    block_size: rows and columns of a tile.

  Yields:
    (rows, columns, float64 tile >= 0). All columns of a block of rows come
    before the next rows. The caller may change the tile.
  """
  center = 0.0
  if not np.issubdtype(references.dtype, np.integer):
    center = _flat(references[:block_size]).mean(axis=0)
  for i in range(0, len(queries), block_size):
    rows = slice(i, min(i + block_size, len(queries)))
    a = _flat(queries[rows]) - center
    a_squared = np.einsum('if,if->i', a, a)
    for j in range(0, len(references), block_size):
      columns = slice(j, min(j + block_size, len(references)))
      b = _flat(references[columns]) - center
      tile = a @ b.T
      tile *= -2.0
      tile += a_squared[:, None]
      tile += np.einsum('jf,jf->j', b, b)[None, :]
      yield rows, columns, np.maximum(tile, 0.0, out=tile)


def _from_differences(
  queries: np.ndarray,
  references: np.ndarray,
  indices: np.ndarray,
  block_size: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Recomputes distances from differences: 0 for equal points."""
  distances = np.empty(indices.shape)
  for i in range(0, len(queries), block_size):
    rows = slice(i, i + block_size)
    block = _flat(queries[rows])
    for k in range(indices.shape[1]):
      difference = block - _flat(references[indices[rows, k]])
      distances[rows, k] = np.linalg.norm(difference, axis=1)
  order = np.argsort(distances, axis=1, kind='stable')
  return (
    np.take_along_axis(distances, order, axis=1),
    np.take_along_axis(indices, order, axis=1),
  )


def _smallest(values: np.ndarray, k: int) -> np.ndarray:
  """Returns the columns of the k smallest values of each row; see `nearest`."""
  first = np.argmin(values, axis=1)[:, None]
  if k == 1:
    return first
  order = np.argpartition(values, k - 1, axis=1)[:, :k]
  found = np.take_along_axis(values, order, axis=1)
  order = np.take_along_axis(order, np.argsort(found, axis=1), axis=1)
  # If several columns share the smallest value, the lowest goes to the front.
  place = np.argmax(order == first, axis=1)[:, None]
  np.put_along_axis(order, place, order[:, :1], axis=1)
  order[:, :1] = first
  return order


def _flat(points: np.ndarray) -> np.ndarray:
  return np.asarray(points, np.float64).reshape(
    len(points), math.prod(points.shape[1:])
  )


def _check(queries: np.ndarray, references: np.ndarray) -> None:
  if queries.shape[1:] != references.shape[1:]:
    raise ValueError(
      f'Expected points of one shape; got {queries.shape[1:]} and'
      f' {references.shape[1:]}.'
    )


def _blank_diagonal(tile: np.ndarray, row: int, column: int) -> None:
  """Sets the distance of a point to itself to infinity."""
  rows = np.arange(tile.shape[0])
  columns = rows + row - column
  inside = (columns >= 0) & (columns < tile.shape[1])
  tile[rows[inside], columns[inside]] = np.inf
