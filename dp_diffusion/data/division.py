"""Divides images into a training part and a held-out part.

A held-out image that was also trained on measures memory, not generalisation.
Therefore equal images, and all images of a person, are in the same part. They
form a group, together with everything that is connected to them in this way.

If the data do not state a division, the part of a group depends only on the
seed and a key: the content of the image or, if persons are known, the first of
the group's persons by name. Adding or removing an image moves no other image,
unless it joins or separates persons: then these move as a whole, and all others
stay.

If the data state a division, their held-out part is kept, and training images
that equal a held-out image or show its person are left out. Whether a training
image is left out depends only on that image and the held-out part.
"""

from __future__ import annotations

from collections.abc import Sequence
import hashlib
import os

import numpy as np

_MOST_BITS = 1 << 64


def contents(images: np.ndarray, has_persons: bool) -> list[bytes]:
  """Returns the SHA-256 of each image's pixels.

  Args:
    images: uint8[N, H, W, C].
    has_persons: whether persons are known. Then images of a single colour, such
      as blank frames of a stack, count as different from one another: they say
      nothing of anybody, and would join all persons who have one.

  Returns:
    N hashes, equal for equal images.
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
  """Returns one key per record, the same for records of one group.

  Equal content or the same person puts two records into one group. Without
  persons, the key of a record is its content, so it does not depend on other
  records. With persons, it is the first by name of the persons of the group.

  >>> keys([b'x', b'y', b'x', b'z'], ['a', 'b', 'c', 'b'])
  ['a', 'b', 'a', 'b']

  Args:
    contents: hashes of N images, equal for equal images.
    persons: the person on each image; None if unknown.

  Returns:
    N keys.
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
  """Decides at random for each different key whether it is held out.

  Args:
    names: N keys, the result of `keys`.
    seed: seed of the random choice.
    fraction: probability that a key is held out, in (0, 1).

  Returns:
    bool[N], whether each record is held out.
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
  """Finds training images that equal a held-out image or show its person.

  >>> bearing([b'x', b'y', b'z', b'x'], None, np.arange(4) == 3)
  {0: 'it equals a held-out image'}

  Args:
    contents: hashes of N images, equal for equal images.
    persons: the person on each image; None if unknown.
    is_held_out: bool[N], the held-out part that the data state.

  Returns:
    The reason for each such image, by its index.
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


def under_several(
  contents: Sequence[bytes], labels: Sequence[int]
) -> list[list[int]]:
  """Records of equal content and different labels, those together.

  >>> under_several([b'x', b'y', b'x', b'y'], [0, 1, 1, 1])
  [[0, 2]]

  Args:
    contents: [N], equal for equal images.
    labels: [N].

  Returns:
    Places in ascending order, and groups by their first.
  """
  groups: dict[bytes, list[int]] = {}
  for index, content in enumerate(contents):
    groups.setdefault(content, []).append(index)
  return [
    group
    for group in groups.values()
    if len({labels[index] for index in group}) > 1
  ]


def reorder(images: np.ndarray, order: np.ndarray) -> None:
  """Reorders images in place: image i becomes the former image order[i].

  The images are moved one by one, since they may exceed the memory.

  >>> images = np.array([[1], [2], [3]])
  >>> reorder(images, np.array([2, 0, 1]))
  >>> images.ravel().tolist()
  [3, 1, 2]

  Args:
    images: [N, ...], changed in place.
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
