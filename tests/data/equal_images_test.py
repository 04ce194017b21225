from __future__ import annotations

import hashlib

import numpy as np
import pytest

from dp_diffusion.data import equal_images

KEY = bytes(range(32))


def images(seed, num=50, shape=(8, 8, 1)):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (num, *shape), np.uint8)


@pytest.mark.parametrize('block_bytes', [1, 300, 1 << 20])
def test_one_equal_image_is_found(monkeypatch, block_bytes):
  monkeypatch.setattr(equal_images, '_BLOCK_BYTES', block_bytes)
  first, second = images(0), images(1, 31)
  assert not equal_images.share_one(first, second, KEY)
  for place in (0, 17, 30):
    changed = second.copy()
    changed[place] = first[-1]
    assert equal_images.share_one(first, changed, KEY)
    changed[place, 3, 3, 0] ^= 1
    assert not equal_images.share_one(first, changed, KEY)


def test_blank_images_do_not_count():
  first, second = images(0, 3, (4, 4, 3)), images(1, 3, (4, 4, 3))
  for blank in (0, 255, (10, 20, 30)):
    first[1] = second[2] = blank
    assert not equal_images.share_one(first, second, KEY)
  first[1, 0, 0, 0] += 1
  second[2] = first[1]  # One pixel of another colour.
  assert equal_images.share_one(first, second, KEY)


@pytest.mark.parametrize('place', [(0, 0), (4, 3), (7, 7)])
def test_one_pixel_makes_an_image_count(place):
  image = np.full((1, 8, 8, 3), 7, np.uint8)
  assert not len(equal_images.digests(image, b'k' * 16))
  image[0, *place, 1] = 8
  assert len(equal_images.digests(image, b'k' * 16)) == 1


def test_digests_depend_on_the_key():
  some = images(0)
  one = equal_images.digests(some, KEY)
  assert one.dtype == np.uint64 and len(set(one.tolist())) == 50
  assert not set(one) & set(equal_images.digests(some, bytes(32)))
  expected = hashlib.blake2b(some[7].tobytes(), key=KEY, digest_size=8)
  assert int(one[7]).to_bytes(8, 'little') == expected.digest()


def test_images_that_differ_in_one_channel_are_others():
  first = images(0, 3, (8, 8, 3))
  for channel in range(3):
    second = first.copy()
    second[:, 4, 4, channel] ^= 1
    assert not equal_images.share_one(first, second, KEY)


def test_other_shapes_are_refused():
  with pytest.raises(ValueError, match='one shape'):
    equal_images.share_one(images(0), images(0, shape=(8, 8, 3)), KEY)


def test_content_hash_depends_on_pixels_order_and_shape(monkeypatch):
  some = images(0)
  expected = equal_images.content_sha256(some)
  monkeypatch.setattr(equal_images, '_BLOCK_BYTES', 100)
  assert equal_images.content_sha256(some) == expected
  others = [some[::-1], some[:-1], some.reshape(50, 4, 16, 1), some ^ 1]
  found = {equal_images.content_sha256(other) for other in others}
  assert len(found) == 4 and expected not in found
