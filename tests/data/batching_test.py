"""Tests of dp_diffusion.data.batching."""

from __future__ import annotations

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies
import numpy as np
import pytest

from dp_diffusion import errors
from dp_diffusion import types
from dp_diffusion.data import batching
from dp_diffusion.data import registry

_SEED = bytes(range(32))


def _source(person=None, num_images=7):
  rng = np.random.default_rng(0)
  return registry.ArraySource(
    spec=types.DatasetSpec(
      name='toy',
      image_shape=(2, 2, 1),
      class_names=('a', 'b', 'c'),
      has_person=person is not None,
    ),
    images=rng.integers(0, 256, (num_images, 2, 2, 1), np.uint8),
    labels=rng.integers(0, 3, num_images, np.int32),
    person=None if person is None else np.asarray(person, np.int32),
  )


def test_gather_keeps_order_repeats_and_shape():
  source = _source()
  indices = np.array([[6, 0, 0], [3, 6, 1]])
  batch = batching.gather(source, indices)
  for i in range(2):
    for j in range(3):
      np.testing.assert_array_equal(
        batch['image'][i, j], source.images[indices[i, j]]
      )
      assert batch['label'][i, j] == source.labels[indices[i, j]]
  assert batch['image'].dtype == np.uint8
  assert batch['label'].dtype == np.int32


def test_gather_of_rising_numbers_is_a_copy_too():
  source = _source()
  batch = batching.gather(source, np.array([0, 2, 5]))
  np.testing.assert_array_equal(batch['image'], source.images[[0, 2, 5]])
  assert not np.shares_memory(batch['image'], source.images)


def test_gather_of_nothing_is_empty():
  batch = batching.gather(_source(), np.zeros(0, np.int64))
  assert batch['image'].shape == (0, 2, 2, 1)
  assert batch['label'].shape == (0,)


def test_an_image_is_a_record():
  records = batching.make_records(_source(), 'image')
  assert records.num_records == 7
  np.testing.assert_array_equal(
    batching.draw_images(records, [4, 2], 3, _SEED), [[4] * 3, [2] * 3]
  )


def test_a_person_is_a_record_of_all_their_images():
  source = _source(person=[5, 1, 5, 9, 1, 5, 9])
  records = batching.make_records(source, 'person')
  assert records.num_records == 3
  found = [
    set(records.images[records.starts[r] : records.starts[r + 1]])
    for r in range(3)
  ]
  assert found == [{1, 4}, {0, 2, 5}, {3, 6}]


def test_persons_must_be_known():
  with pytest.raises(errors.UsageError, match='knows persons'):
    batching.make_records(_source(), 'person')


def test_draws_are_uniform_over_the_images_of_the_person():
  source = _source(person=[0, 1, 1, 1, 0, 2, 1])
  records = batching.make_records(source, 'person')
  draws = batching.draw_images(records, [1], 40_000, _SEED)
  images, counts = np.unique(draws, return_counts=True)
  np.testing.assert_array_equal(images, [1, 2, 3, 6])
  assert np.all(np.abs(counts - 10_000) < 500)  # 5.8 standard deviations.


def test_a_draw_depends_on_seed_record_and_draw_only():
  source = _source(person=[0] * 3 + [1] * 4)
  records = batching.make_records(source, 'person')
  both = batching.draw_images(records, [0, 1], 64, _SEED)
  alone = batching.draw_images(records, [1], 32, _SEED)
  np.testing.assert_array_equal(both[1, :32], alone[0])
  other = batching.draw_images(records, [1], 32, _SEED[::-1])
  assert not np.array_equal(alone, other)


def test_records_come_as_one_image_per_draw():
  source = _source(person=[0, 0, 1, 1, 1, 2, 2])
  records = batching.make_records(source, 'person')
  batch = batching.gather_records(source, records, [2, 0], 5, _SEED)
  assert batch['image'].shape == (2, 5, 2, 2, 1)
  chosen = batching.draw_images(records, [2, 0], 5, _SEED)
  np.testing.assert_array_equal(batch['label'], source.labels[chosen])


def test_a_short_seed_is_refused():
  records = batching.make_records(_source(), 'image')
  with pytest.raises(ValueError, match='16 bytes'):
    batching.draw_images(records, [0], 1, b'short')


@settings(deadline=None, max_examples=30)
@given(
  num_images=strategies.integers(1, 40),
  batch_size=strategies.integers(1, 60),
  seed=strategies.integers(0, 3),
)
def test_every_epoch_shows_every_image_once(num_images, batch_size, seed):
  num_steps = -(-3 * num_images // batch_size)
  seen = np.concatenate(
    [
      batching.public_indices(num_images, batch_size, seed, step)
      for step in range(num_steps)
    ]
  )
  for epoch in range(3):
    order = seen[epoch * num_images : (epoch + 1) * num_images]
    np.testing.assert_array_equal(np.sort(order), np.arange(num_images))


def test_public_batches_depend_on_seed_and_step_alone():
  def take(seed, step):
    return batching.public_indices(100, 10, seed, step)

  forward = [take(0, step) for step in range(25)]
  backward = [take(0, step) for step in reversed(range(25))][::-1]
  np.testing.assert_array_equal(forward, backward)
  assert not np.array_equal(take(0, 3), take(1, 3))
  assert not np.array_equal(take(0, 3), take(0, 13))  # Another epoch.


def test_a_later_version_draws_as_this_one():
  """A run that goes on after an upgrade has the batches it would have had."""
  assert batching.public_indices(7, 5, 2, 1).tolist() == [0, 1, 4, 2, 0]
  assert batching.public_indices(7, 5, 2, 3).tolist() == [3, 5, 1, 0, 2]
  records = batching.Records(
    images=np.arange(12), starts=np.array([0, 1, 5, 12])
  )
  assert batching.draw_images(records, [0, 1, 2], 4, _SEED).tolist() == [
    [0, 0, 0, 0],
    [4, 2, 1, 1],
    [10, 8, 10, 6],
  ]


def test_public_batch_gathers_the_indices():
  source = _source()
  batch = batching.public_batch(source, 4, 0, 2)
  indices = batching.public_indices(7, 4, 0, 2)
  np.testing.assert_array_equal(batch['label'], source.labels[indices])
