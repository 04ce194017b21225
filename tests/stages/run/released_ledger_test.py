"""Images of an earlier release are no public images: their ledger counts."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
import zipfile

import numpy as np
from PIL import Image
import pytest

from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion import release
from dp_diffusion.data import registry
from dp_diffusion.stages.run import released_ledger
from tests.stages import releases


def own(path: pathlib.Path) -> registry.DataConfig:
  return registry.DataConfig(
    name='folder', path=str(path), class_names=('a', 'b')
  )


@pytest.fixture
def made(tmp_path):
  return releases.make(tmp_path / 'release', with_images=True)


def test_released_images_bring_their_ledger(made, tmp_path):
  shard = release.shard_path(made, 0, 1)
  expected = released_ledger.of_images(own(shard))
  (entry,) = expected.entries
  assert entry.ledger == releases.ledger() and not expected.is_insecure
  assert 'shapes' in entry.source
  # A folder of PNGs beside the statement, and a zip that holds it.
  folder = tmp_path / 'pngs'
  images, labels = release.read_dataset(made)
  for i, (image, label) in enumerate(zip(images, labels, strict=True)):
    (folder / 'ab'[label]).mkdir(parents=True, exist_ok=True)
    Image.fromarray(image[..., 0]).save(folder / 'ab'[label] / f'{i}.png')
  assert not released_ledger.of_images(own(folder)).entries  # Nothing tells.
  shutil.copyfile(made / 'privacy.json', folder / 'privacy.json')
  with zipfile.ZipFile(tmp_path / 'z.zip', 'w') as archive:
    for file in sorted(folder.rglob('*')):
      archive.write(file, file.relative_to(folder))
  copied = tmp_path / 'copied'
  shutil.copytree(made, copied)
  tfds = registry.DataConfig(
    name='tfds:synthetic_t', tfds_dir=str(made / 'dataset' / 'tfds')
  )
  others = [own(p) for p in (folder, tmp_path / 'z.zip')]
  others += [own(release.shard_path(copied, 0, 1)), tfds]
  for data in others:
    assert released_ledger.of_images(data) == expected
  # What can be loaded still loads: marks and statements are no images.
  loaded = registry.load(own(shard))
  assert loaded.images.shape[1:] == (8, 8, 1)


def test_marked_images_without_it_are_refused(made, tmp_path):
  copy = tmp_path / 'far' / 'mine.npz'
  copy.parent.mkdir()
  shutil.copyfile(release.shard_path(made, 0, 1), copy)
  with pytest.raises(errors.UsageError, match='Expected the ledger of'):
    released_ledger.of_images(own(copy))


def test_parquet_files_of_a_release_bring_its_ledger(made, tmp_path):
  info = {'name': 'x', 'class_names': ['a', 'b']}
  files.write_json(made / 'dataset' / 'dataset.json', info)
  release.write_parquet(made)
  folder = made / 'dataset' / 'parquet'
  expected = released_ledger.of_images(own(release.shard_path(made, 0, 1)))
  (path,) = folder.iterdir()
  for place in (folder, path):
    assert released_ledger.of_images(own(place)) == expected
    assert registry.load(own(place)).images.shape[1:] == (8, 8, 1)
  shutil.copytree(folder, tmp_path / 'mine' / 'parquet')
  with pytest.raises(errors.UsageError, match='Expected the ledger of'):
    released_ledger.of_images(own(tmp_path / 'mine'))


def test_files_of_several_releases_bring_all_their_ledgers(made, tmp_path):
  second = {'w': np.ones(2, np.float32)}
  other = releases.make(tmp_path / 'other', second, with_images=True)
  info = {'name': 'x', 'class_names': ['a', 'b']}
  for path in (made, other):
    files.write_json(path / 'dataset' / 'dataset.json', info)
    release.write_parquet(path)
    mine = tmp_path / 'mine' / path.name
    shutil.copytree(path / 'dataset' / 'parquet', mine)
    shutil.copyfile(path / 'privacy.json', mine / 'privacy.json')
  found = released_ledger.of_images(own(tmp_path / 'mine'))
  assert len(found.entries) == 2
  assert len({entry.source for entry in found.entries}) == 2


def test_pictures_of_a_release_among_others_bring_its_ledger(made, tmp_path):
  """Samples that were unpacked where a folder of images has its split."""
  images = np.random.default_rng(1).integers(0, 256, (4, 8, 8), np.uint8)
  for i, place in enumerate(('train/a', 'train/b', 'test/a', 'test/b')):
    folder = tmp_path / 'mine' / place
    folder.mkdir(parents=True)
    Image.fromarray(images[i]).save(folder / f'{i}.png')
  assert len(registry.load(own(tmp_path / 'mine')).images) == 2
  assert not released_ledger.of_images(own(tmp_path / 'mine')).entries
  shutil.copyfile(made / 'privacy.json', tmp_path / 'mine/train/privacy.json')
  expected = released_ledger.of_images(own(release.shard_path(made, 0, 1)))
  assert released_ledger.of_images(own(tmp_path / 'mine')) == expected


def test_pictures_of_several_releases_in_a_zip_bring_all_their_ledgers(
  made, tmp_path
):
  second = {'w': np.ones(2, np.float32)}
  other = releases.make(tmp_path / 'other', second, with_images=True)
  path = tmp_path / 'z.zip'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('privacy.json', '{"who": "somebody else"}')
    for name, folder in (('train', made), ('test', other)):
      archive.write(folder / 'privacy.json', f'{name}/privacy.json')
      archive.writestr(f'{name}/a/0.png', b'')
  one, two = (
    released_ledger.of_images(own(release.shard_path(folder, 0, 1)))
    for folder in (made, other)
  )
  assert released_ledger.of_images(own(path)) == one + two


def test_a_changed_statement_is_refused(made):
  path = made / 'privacy.json'
  path.write_text(path.read_text().replace('"shapes"', '"others"'))
  with pytest.raises(errors.UsageError, match='its checksum differs'):
    released_ledger.of_images(own(release.shard_path(made, 0, 1)))


def test_a_statement_without_a_checksum_is_refused(made):
  """Whoever changes it could leave the checksum out."""
  path = made / 'privacy.json'
  statement = json.loads(path.read_text())
  del statement['checksum']
  path.write_text(json.dumps(statement))
  with pytest.raises(errors.UsageError, match='its checksum differs'):
    released_ledger.of_images(own(release.shard_path(made, 0, 1)))


def test_images_of_a_planted_secret_say_so(tmp_path):
  made = releases.make(tmp_path / 'release', with_images=True, insecure=True)
  found = released_ledger.of_images(own(release.shard_path(made, 0, 1)))
  assert found.is_insecure and len(found.entries) == 1


def test_one_release_counts_once(made, tmp_path):
  one = released_ledger.of_images(own(release.shard_path(made, 0, 1)))
  assert one + one == one
  other = releases.make(
    tmp_path / 'other', {'w': np.ones(2, np.float32)}, with_images=True
  )
  both = one + released_ledger.of_images(own(release.shard_path(other, 0, 1)))
  assert len(both.entries) == 2  # The same events, drawn twice.


def test_one_planted_secret_is_enough(made):
  """Whichever of weights and images was made with it."""
  one = released_ledger.of_images(own(release.shard_path(made, 0, 1)))
  planted = dataclasses.replace(one, is_insecure=True)
  assert not (one + one).is_insecure
  assert (planted + one).is_insecure and (one + planted).is_insecure


def test_public_images_cost_nothing(tmp_path):
  for data in (
    registry.DataConfig(name='generated'),
    registry.DataConfig(name='tfds:none_such', tfds_dir=str(tmp_path)),
    own(tmp_path),
    own(tmp_path / 'absent'),
  ):
    assert released_ledger.of_images(data) == released_ledger.Inherited()


def test_a_statement_that_names_no_weights_counts_too(made):
  """As of images that were published without their model."""
  statement = json.loads((made / 'privacy.json').read_text())
  del statement['files']['model/params.npz']
  found = released_ledger.of_statement('x', json.dumps(statement).encode())
  assert [entry.ledger for entry in found.entries] == [releases.ledger()]
