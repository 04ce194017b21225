"""Which records must lie on one side of a train/test division.

Equal images are one piece of evidence, and so are all images of a person: a
held-out image that was trained on measures memory and not generalisation.
"""

from __future__ import annotations

from collections.abc import Sequence
import hashlib


def digest(content: bytes) -> bytes:
  """SHA-256 of an image's pixels."""
  return hashlib.sha256(content).digest()


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
