"""Which images are held out: by content, or as the data say.

Equal images are one piece of evidence, and so are all images of a person: a
held-out image that was trained on measures memory and not generalisation. So
what is joined by either lies on one side.

Where a source does not say, the side follows from the seed and one name alone:
the content of the image, or where persons are known the first by name of those
it is joined with. Adding or removing an image moves no other, unless it joins
persons or parts them: then they move as a whole, and all others stay.

Where it says, the held-out part is kept as it comes, and what bears on it is
left out of training: whether an image is depends on itself and that part alone.
"""

from __future__ import annotations

from collections.abc import Sequence
import hashlib
import os

import numpy as np

_MOST_BITS = 1 << 64


def contents(images: np.ndarray, has_persons: bool) -> list[bytes]:
  """SHA-256 of each image's pixels.

  Args:
    images: uint8[N, H, W, C].
    has_persons: whether persons are known; then an image of a single colour,
      as a blank frame of a stack, equals no other: it says nothing of anybody,
      and would join all whom it shows.

  Returns:
    [N], equal for equal images.
  """
  found = []
  for index, image in enumerate(images):
    is_blank = has_persons and bool((image == image[:1, :1]).all())
    data = f'blank {index}'.encode() if is_blank else image.tobytes()
    found.append(hashlib.sha256(data).digest())
  return found


def keys(
  contents: Sequence[bytes], persons: Sequence[str] | None
) -> list[str | bytes]:
  """One key per record, the same for records that must stay together.

  Records are joined by equal content and by the same person, and through one
  another. Without persons a record's key is its content, so that no other
  record bears on it; else it is the first by name of the persons it is joined
  with.

  >>> keys([b'x', b'y', b'x', b'z'], ['a', 'b', 'c', 'b'])
  ['a', 'b', 'a', 'b']

  Args:
    contents: [N], equal for equal images.
    persons: [N], or None where they are not known.

  Returns:
    [N].
  """
  if persons is None:
    return list(contents)
  parent = {person: person for person in persons}

  def first(person: str) -> str:
    while parent[person] != person:
      parent[person] = person = parent[parent[person]]
    return person

  owner: dict[bytes, str] = {}
  for content, person in zip(contents, persons, strict=True):
    low, high = sorted(
      (first(person), first(owner.setdefault(content, person)))
    )
    parent[high] = low
  return [first(person) for person in persons]


def is_held_out(
  names: Sequence[str | bytes], seed: int, fraction: float
) -> np.ndarray:
  """Tosses one coin for each different key.

  Args:
    names: see `keys`.
    seed: another one makes another choice.
    fraction: probability of a key to be held out, in (0, 1).

  Returns:
    bool[N].
  """
  threshold = int(fraction * _MOST_BITS)
  prefix = f'{seed}/'.encode()  # A name need not be UTF-8.
  coins = (
    hashlib.sha256(prefix + os.fsencode(name)).digest()[:8] for name in names
  )
  return np.array(
    [int.from_bytes(coin, 'little') < threshold for coin in coins], bool
  )


def bearing(
  contents: Sequence[bytes],
  persons: Sequence[str] | None,
  is_held_out: np.ndarray,
) -> dict[int, str]:
  """Training images that bear on the held-out ones of a given division.

  >>> bearing([b'x', b'y', b'z', b'x'], None, np.arange(4) == 3)
  {0: 'it equals a held-out image'}

  Args:
    contents: [N], equal for equal images.
    persons: [N], or None where they are not known.
    is_held_out: bool[N].

  Returns:
    Why, by index.
  """
  found: dict[int, str] = {}
  sides = is_held_out.tolist()
  for values, why in (
    (persons, 'its person is held out'),
    (contents, 'it equals a held-out image'),
  ):
    of_sides = list(zip(values or (), sides))
    there = {value for value, is_out in of_sides if is_out}
    for index, (value, is_out) in enumerate(of_sides):
      if not is_out and value in there:
        found[index] = why
  return found


def reorder(images: np.ndarray, order: np.ndarray) -> None:
  """Moves images so that the i-th becomes what the order[i]-th was.

  In place, image by image: they may be more than the memory holds.

  >>> images = np.array([[1], [2], [3]])
  >>> reorder(images, np.array([2, 0, 1]))
  >>> images.ravel().tolist()
  [3, 1, 2]

  Args:
    images: [N, ...], changed.
    order: int[N], a permutation.
  """
  is_done = order == np.arange(len(order))
  for start in np.flatnonzero(~is_done):
    first, place = images[start].copy(), start
    while not is_done[place]:
      is_done[place] = True
      source = order[place]
      images[place] = first if source == start else images[source]
      place = source
