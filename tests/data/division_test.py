"""Equal images and all images of a person lie on one side."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
from PIL import Image

from dp_diffusion.data import division
from dp_diffusion.data import folder
from dp_diffusion.data import registry


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_joined_records_have_one_key_and_others_another(pairs):
  contents = [bytes([content]) for content, _ in pairs]
  persons = [str(person) for _, person in pairs]
  found = division.keys(contents, persons)
  group = list(range(len(pairs)))  # By brute force, until nothing changes.
  for _ in pairs:
    for i, a in enumerate(pairs):
      for j, b in enumerate(pairs):
        if a[0] == b[0] or a[1] == b[1]:
          group[i] = group[j] = min(group[i], group[j])
  for i in range(len(pairs)):
    for j in range(len(pairs)):
      assert (found[i] == found[j]) == (group[i] == group[j])
  assert division.keys(contents, None) == contents


def test_a_chain_of_shared_images_joins_all_its_persons():
  contents, persons = [b'x', b'x', b'y', b'y', b'z'], ['c', 'b', 'b', 'a', 'd']
  assert division.keys(contents, persons) == ['a', 'a', 'a', 'a', 'd']


def test_copies_of_held_out_images_are_found_whoever_is_on_them():
  contents, persons = [b'x', b'y', b'z', b'x'], ['a', 'c', 'b', 'c']
  found = division.bearing(contents, persons, np.arange(4) == 3)
  assert sorted(found) == [0, 1]
  assert 'equals a held-out image' in found[0] and 'person' in found[1]


def test_a_later_version_divides_as_this_one():
  """Otherwise a run that goes on would train on images held out before."""
  found = division.is_held_out(list('abcdefghijkl'), 3, 0.4)
  assert np.flatnonzero(found).tolist() == [0, 3, 5, 10, 11]


def _images(num):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (num, 8, 8, 3)).astype(np.uint8)


def _load(path, split, **changes):
  return folder.load(
    registry.DataConfig(
      **{
        **{'name': 'folder', 'path': str(path), 'class_names': ('a', 'b')},
        **{'image_size': 8, 'channels': 3, 'test_fraction': 0.4},
        **changes,
      }
    ),
    split,
  )


def _num_shared(path, **changes):
  train, test = (_load(path, s, **changes) for s in ('train', 'test'))
  known = {image.tobytes() for image in train.images}
  assert len(train.images) and len(test.images)
  return sum(image.tobytes() in known for image in test.images)


def test_no_image_of_a_folder_lies_on_both_sides(tmp_path):
  """Neither under another name, nor class, nor file format."""
  for i, image in enumerate(_images(30)):
    for j, (name, fmt) in enumerate(
      (('a', 'PNG'), ('a', 'BMP'), ('b', 'TIFF'))
    ):
      data = io.BytesIO()
      Image.fromarray(image).save(data, fmt)
      path = tmp_path / name / f'{j}_{i}.{fmt.lower()}'
      path.parent.mkdir(exist_ok=True)
      path.write_bytes(data.getvalue())
  assert _num_shared(tmp_path) == 0
  assert _num_shared(tmp_path, split_seed=1) == 0


def test_images_of_one_colour_join_no_persons():
  """As blank slides, which are seldom grey."""
  blank = np.broadcast_to(np.array([240, 230, 250], np.uint8), (2, 4, 4, 3))
  first, second = division.contents(blank, has_persons=True)
  assert first != second
  first, second = division.contents(blank, has_persons=False)
  assert first == second


def test_persons_who_share_an_image_stay_together(tmp_path):
  images = _images(40)
  images[20:] = images[:20]  # Person i + 10 has an image of person i.
  person = np.concatenate([np.arange(20) // 2, 10 + np.arange(20) // 2])
  path = tmp_path / 'all.npz'
  labels = np.arange(40) % 2
  np.savez(path, images=images, labels=labels, person=person)
  assert _num_shared(path) == 0
