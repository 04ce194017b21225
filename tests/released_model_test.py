"""A released model: what is refused, what is sampled, what a file carries."""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import pathlib
import re
import shutil
import zipfile

import numpy as np
from PIL import Image
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion import exit_codes
from dp_diffusion import files
from dp_diffusion import host_memory
from dp_diffusion import release_marks
from dp_diffusion import released_model
from dp_diffusion import sample
from dp_diffusion.data import registry
from dp_diffusion.diffusion import samplers
from dp_diffusion.stages.run import released_ledger
from tests import tiny_release


@pytest.fixture(scope='module')
def made(tmp_path_factory) -> pathlib.Path:
  """A release; not to be changed."""
  return tiny_release.make(tmp_path_factory.mktemp('made') / 'release')


@pytest.fixture(scope='module')
def loaded(made) -> released_model.Release:
  return released_model.load_release(made)


@functools.cache
def some_samples(folder: pathlib.Path) -> released_model.Samples:
  return released_model.load_release(folder).sample(20, seed=1)


@pytest.fixture
def copied(made, tmp_path) -> pathlib.Path:
  """A release to be changed."""
  return shutil.copytree(made, tmp_path / 'copied')


def data_config(path: pathlib.Path) -> registry.DataConfig:
  config = registry.DataConfig(name='folder', path=str(path))
  return dataclasses.replace(config, class_names=tiny_release.CLASSES)


def test_images_are_new_and_repeatable(made, loaded):
  found = some_samples(made)
  assert found.images.shape == (20, 8, 8, 1) and found.images.dtype == np.uint8
  assert found.labels.dtype == np.int32
  np.testing.assert_array_equal(found.labels, np.arange(20) % 2)
  again = loaded.sample(20, seed=1)
  np.testing.assert_array_equal(found.images, again.images)
  # An image depends on its number and label, not on how many there are.
  fewer = loaded.sample(3, labels=['star'], seed=1)
  np.testing.assert_array_equal(fewer.labels, [1, 1, 1])
  np.testing.assert_array_equal(fewer.images[1], found.images[1])
  assert (fewer.images[0] != found.images[0]).any()
  new = [loaded.sample(2) for _ in range(2)]
  assert new[0].seed != new[1].seed
  assert (new[0].images != new[1].images).any()


def test_the_seed_0_is_a_seed(loaded):
  found = [loaded.sample(2, seed=0) for _ in range(2)]
  assert [samples.seed for samples in found] == [0, 0]
  np.testing.assert_array_equal(found[0].images, found[1].images)


def test_guidance_is_that_of_the_sampler(made, loaded):
  plain = dataclasses.replace(tiny_release.SAMPLER, guidance_weight=0.0)
  unguided = loaded.sample(20, seed=1, sampler=plain)
  assert (unguided.images != some_samples(made).images).any()


def test_the_model_classifies_images(made, loaded):
  images = some_samples(made).images
  found = loaded.classify(images[:3], seed=1)
  assert found.labels.dtype == np.int32 and found.log_probs.shape == (3, 2)
  np.testing.assert_array_equal(found.labels, found.log_probs.argmax(axis=1))
  again = loaded.classify(images[:3], seed=1)
  np.testing.assert_array_equal(found.log_probs, again.log_probs)


@pytest.mark.parametrize(
  ('images', 'words'),
  [
    ([[1]], 'not list'),
    (np.zeros((2, 8, 8, 1)), 'not float64 of shape (2, 8, 8, 1)'),
    (np.zeros((2, 8, 8, 3), np.uint8), 'not uint8 of shape (2, 8, 8, 3)'),
    (np.zeros((), np.uint8), 'not uint8 of shape ()'),
  ],
)
def test_images_that_cannot_be_classified_are_refused(loaded, images, words):
  with pytest.raises(errors.UsageError) as caught:
    loaded.classify(images)
  assert words in str(caught.value) and '(N, 8, 8, 1)' in str(caught.value)


@pytest.mark.parametrize(
  ('names', 'labels', 'expected'),
  [
    (('circle', 'star'), (), [0, 1]),
    (('circle', 'star'), 'star', [1]),
    (('circle', 'star'), ['star', 0, '1', 'star'], [1, 0, 1, 1]),
    (('circle', 'star'), np.array([1, 0]), [1, 0]),
    (('7', '1'), ['1', '7'], [1, 0]),
    (('7', '1'), [1, 0], [1, 0]),
    (('a, b', 'c'), ['a, b'], [0]),
    (('b', 'e\u0301t\u00e9'), ['\u00e9te\u0301'], [1]),
    ((), (), [0]),
    ((), [0], [0]),
  ],
)
def test_labels_are_names_or_numbers(loaded, names, labels, expected):
  named = dataclasses.replace(loaded, class_names=names)
  assert named.class_numbers(labels).tolist() == expected


@pytest.mark.parametrize(
  ('names', 'label'),
  [
    (('circle', 'star'), 'stars'),
    (('circle', 'star'), 2),
    (('circle', 'star'), -1),
    (('circle', 'star'), '-1'),
    (('circle', 'star'), 1.0),
    (('circle', 'star'), True),
    (('circle', 'star'), ''),
    (('7', '1'), '0'),
    ((), 'star'),
  ],
)
def test_an_unknown_class_is_refused(loaded, names, label):
  named = dataclasses.replace(loaded, class_names=names)
  with pytest.raises(errors.UsageError, match='labels=') as error:
    named.class_numbers([label])
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('given', 'words'),
  [
    ({'num': 0}, 'num=0'),
    ({'num': -1}, 'num=-1'),
    ({'num': 2.0}, 'num=2.0'),
    ({'num': True}, 'num=True'),
    ({'num': 2**31}, 'num=2147483648'),
    ({'num': 2**31 - 1}, 'memory'),
    ({'seed': -1}, 'seed=-1'),
    ({'seed': 2**31}, 'seed=2147483648'),
    ({'batch_size': 0}, 'batch_size=0'),
    ({'sampler': samplers.SamplerConfig(num_steps=101)}, 'num_steps=101'),
  ],
)
def test_what_cannot_be_is_one_line(loaded, monkeypatch, given, words):
  monkeypatch.setattr(host_memory, 'total_bytes', lambda: 2**30)
  with pytest.raises(errors.UsageError, match=words) as error:
    loaded.sample(**{'num': 1, **given})
  assert '\n' not in str(error.value)


def test_guidance_needs_a_null_class(loaded):
  without = dataclasses.replace(
    loaded, diffusion=dataclasses.replace(loaded.diffusion, label_drop_prob=0.0)
  )
  with pytest.raises(errors.UsageError, match=r'guidance_weight=0\.5'):
    without.sample(1)


def _append(path: pathlib.Path) -> None:
  path.write_bytes(path.read_bytes() + b' ')


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    (lambda f: _append(f / 'model' / 'params.npz'), 'was changed'),
    (lambda f: _append(f / 'model' / 'model.json'), 'was changed'),
    (lambda f: (f / 'README.md').unlink(), 'README.md'),
    (lambda f: (f / 'extra').touch(), 'not listed'),
    (lambda f: (f / 'privacy.json').unlink(), 'privacy.json'),
    (lambda f: (f / 'privacy.json').write_text('{}'), 'verify'),
    (shutil.rmtree, 'privacy.json'),
  ],
)
def test_a_changed_release_is_refused(copied, change, words):
  change(copied)
  with pytest.raises(errors.UsageError, match=words) as error:
    released_model.load_release(copied)
  assert '\n' not in str(error.value) and str(copied) in str(error.value)


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    ({'unet': None}, 'no diffusion model'),
    ({'unet': {'channels': 'many'}}, 'unet.channels'),
    ({'class_names': ['circle']}, 'class_names'),
    ({'class_names': 'ab'}, 'class_names'),
    ({'image_size': 0}, 'image_size'),
    ({'image_size': None}, 'image_size'),
    ({'diffusion': {'schedule': 'linaer'}}, 'linear'),
    ({'sampling': {'sampler': {'name': 'dimm'}, 'batch_size': 1}}, 'ddim'),
    ({'sampling': {'sampler': {}, 'batch_size': 0}}, 'batch_size'),
    ({'sampling': 'ddim'}, 'model.json'),
  ],
)
def test_a_model_that_is_none_is_one_line(tmp_path, change, words):
  folder = tiny_release.make(tmp_path / 'release', **change)
  with pytest.raises(errors.UsageError, match=words) as error:
    released_model.load_release(folder)
  assert '\n' not in str(error.value)


def test_weights_of_another_network_are_named(tmp_path):
  network = dataclasses.replace(tiny_release.NETWORK, num_blocks=2)
  folder = tiny_release.make(
    tmp_path / 'release', unet=dataclasses.asdict(network)
  )
  with pytest.raises(errors.UsageError, match='other weights: down_0_block_1'):
    released_model.load_release(folder)


def save_head(path: pathlib.Path, **shapes: tuple[int, ...]) -> None:
  np.savez(path, **{k: np.zeros(v, np.float32) for k, v in shapes.items()})


@pytest.mark.parametrize(
  ('write', 'words'),
  [
    (lambda path: None, 'not there, .* labels_from_head'),
    (lambda path: path.write_bytes(b'x'), 'zip'),
    (lambda path: path.write_bytes(b'PK\x03\x04'), 'zip'),
    (lambda path: save_head(path, kernel=(3, 2)), 'bias'),
    (lambda path: save_head(path, kernel=(3, 2), bias=(2,)), r'\(3, 2\)'),
  ],
)
def test_a_class_head_that_is_none_is_named(tmp_path, write, words):
  folder = tiny_release.make(
    tmp_path / 'release',
    sampling={
      'sampler': config_lib.to_dict(tiny_release.SAMPLER),
      'labels_from_head': True,
    },
  )
  path = folder / 'model' / 'class_head.npz'
  write(path)
  tiny_release.seal(folder)
  with pytest.raises(errors.UsageError, match=words) as error:
    released_model.load_release(folder)
  message = str(error.value)
  assert message.startswith(f'Expected {path} to be') and '\n' not in message


@pytest.mark.parametrize(
  ('write', 'words'),
  [
    (lambda path: None, 'no class Gaussians to start from'),
    (lambda path: path.write_bytes(b'x'), 'zip'),
    (lambda path: save_head(path, means=(2, 8, 8, 1)), 'factors'),
    (
      lambda path: save_head(path, means=(2, 4, 4, 1), factors=(2, 1, 2, 2, 1)),
      r'\(2, 8, 8, 1\)',
    ),
  ],
)
def test_gaussians_that_are_none_are_named(tmp_path, write, words):
  sampler = dataclasses.replace(tiny_release.SAMPLER, first_timestep=9)
  folder = tiny_release.make(
    tmp_path / 'release', sampling={'sampler': config_lib.to_dict(sampler)}
  )
  path = folder / 'model' / 'class_gaussians.npz'
  write(path)
  tiny_release.seal(folder)
  with pytest.raises(errors.UsageError, match=words) as error:
    released_model.load_release(folder)
  message = str(error.value)
  assert message.startswith(f'Expected {path} to hold') and '\n' not in message


def test_an_earlier_release_needs_a_sampler(tmp_path, made):
  folder = tiny_release.make(tmp_path / 'release', sampling=None)
  earlier = released_model.load_release(folder)
  assert earlier.sampler is None
  command = 'dp_diffusion.sample FOLDER'
  assert command in (made / 'README.md').read_text()
  assert command not in (folder / 'README.md').read_text()
  with pytest.raises(errors.UsageError, match='--sampler=') as error:
    earlier.sample(1)
  assert '\n' not in str(error.value)
  found = earlier.sample(
    20,
    seed=1,
    sampler=tiny_release.SAMPLER,
    batch_size=tiny_release.BATCH_SIZE,
  )
  np.testing.assert_array_equal(found.images, some_samples(made).images)


def test_a_saved_file_brings_its_ledger(made, tmp_path):
  path = tmp_path / 'elsewhere' / 'more.npz'
  path.parent.mkdir()
  found = some_samples(made)
  found.save(path)
  with np.load(path, allow_pickle=False) as f:
    np.testing.assert_array_equal(f['images'], found.images)
    np.testing.assert_array_equal(f['labels'], found.labels)
    assert json.loads(f['privacy.json']) == files.read_json(
      made / 'privacy.json'
    )
  statement = files.read_json(made / 'privacy.json')
  assert release_marks.of_npz(path) == release_marks.of_statement(statement)
  (entry,) = released_ledger.of_images(data_config(path)).entries
  assert entry.ledger == tiny_release.LEDGER
  images = registry.load(
    dataclasses.replace(data_config(path), image_size=8, channels=1)
  )
  assert 0 < len(images.labels) <= 20
  found.save(path.with_name('again.npz'))
  assert path.read_bytes() == path.with_name('again.npz').read_bytes()


def test_a_saved_file_has_soft_labels(made, tmp_path):
  plain = some_samples(made)
  assert plain.class_probabilities is None
  soft = np.full((20, 2), 0.5, np.float32)
  path = tmp_path / 'more.npz'
  dataclasses.replace(plain, class_probabilities=soft).save(path)
  with np.load(path, allow_pickle=False) as f:
    np.testing.assert_array_equal(f['class_probabilities'], soft)
    np.testing.assert_array_equal(f['images'], plain.images)
  images = registry.load(
    dataclasses.replace(data_config(path), image_size=8, channels=1)
  )
  assert 0 < len(images.labels) <= 20


def test_a_zip_has_a_folder_of_pictures_per_class_and_its_ledger(
  made, tmp_path
):
  found = some_samples(made)
  path = tmp_path / 'elsewhere' / 'more.zip'
  path.parent.mkdir()
  found.save(path)
  with zipfile.ZipFile(path) as archive:
    assert archive.testzip() is None
    names = archive.namelist()
    statement = json.loads(archive.read('privacy.json'))
    archive.extractall(tmp_path / 'unpacked')
  assert statement == files.read_json(made / 'privacy.json')
  assert names[:2] == ['0-circle/000000.png', '1-star/000001.png']
  assert len(names) == 21 and names[-1] == 'privacy.json'
  # As torchvision's ImageFolder numbers the classes.
  classes = sorted(p.name for p in (tmp_path / 'unpacked').iterdir())[:2]
  for i, (image, label) in enumerate(zip(found.images, found.labels)):
    file = tmp_path / 'unpacked' / classes[label] / f'{i:06d}.png'
    np.testing.assert_array_equal(Image.open(file), image[..., 0])
  for place in (path, tmp_path / 'unpacked'):
    config = registry.DataConfig(name='folder', path=str(place))
    (entry,) = released_ledger.of_images(config).entries
    assert entry.ledger == tiny_release.LEDGER
  config = dataclasses.replace(
    data_config(path),
    class_names=('0-circle', '1-star'),
    image_size=8,
    channels=1,
  )
  assert 0 < len(registry.load(config).labels) <= 20
  found.save(path.with_name('again.zip'))
  assert path.read_bytes() == path.with_name('again.zip').read_bytes()


def test_folders_of_classes_have_the_order_of_labels():
  names = tuple(f'{i}/a: ?' for i in range(11, 0, -1))
  folders = released_model._class_folders(names)
  assert folders == sorted(folders) and folders[0] == '00-11_a_ _'
  assert released_model._class_folders(()) == ['0-image']


def test_a_file_is_never_replaced(made, tmp_path, monkeypatch):
  found = some_samples(made)
  path = tmp_path / 'more.npz'
  path.write_bytes(b'before')
  (tmp_path / 'link.npz').symlink_to('nowhere')
  for name in ('more.npz', 'link.npz'):
    with pytest.raises(errors.UsageError, match='not to be there'):
      found.save(tmp_path / name)
  # Somebody writes it after it was looked for.
  monkeypatch.setattr(files, 'check_new', lambda path: None)
  with pytest.raises(errors.UsageError, match='not to be there'):
    found.save(path)
  assert path.read_bytes() == b'before'
  assert sorted(p.name for p in tmp_path.iterdir()) == ['link.npz', 'more.npz']


@pytest.mark.parametrize('is_taken', [False, True])
def test_a_file_system_without_links(made, tmp_path, monkeypatch, is_taken):
  path = tmp_path / 'more.npz'

  def refuse(*_):
    if is_taken:
      path.write_bytes(b'before')
    raise OSError(errno.EPERM, 'Operation not permitted')

  monkeypatch.setattr(files.os, 'link', refuse)
  if is_taken:
    with pytest.raises(errors.UsageError, match='can be written'):
      some_samples(made).save(path)
    assert path.read_bytes() == b'before'
  else:
    some_samples(made).save(path)
  assert [p.name for p in tmp_path.iterdir()] == ['more.npz']


@pytest.mark.parametrize(
  ('name', 'words'),
  [
    ('more.npy', r'ends with \.npz .* or \.zip'),
    ('more', r'or \.zip'),
    ('more/', r'or \.zip'),
    ('gs://bucket/more.npz', 'local'),
    ('absent/more.npz', 'to be there'),
    (f'{"x" * 250}.npz', 'can be written'),
    ('a\0.npz', 'local file'),
  ],
)
def test_a_bad_name_of_a_file_is_one_line(tmp_path, monkeypatch, name, words):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(errors.UsageError, match=words) as error:
    released_model.check_new_file(name, tmp_path / 'release')
  assert '\n' not in str(error.value)
  assert not list(tmp_path.iterdir())


def test_the_release_is_enough(copied, tmp_path, monkeypatch, capsys):
  """The whole command, in a folder of its own; then once more."""
  monkeypatch.chdir(tmp_path)
  typed = ['copied', '--num=3', '--labels', 'star,0', '--seed=5']
  assert sample.main([*typed, '--out=more.npz']) == 0
  said = capsys.readouterr()
  assert 'epsilon' in said.out and 'more.npz: 3 images, seed 5' in said.out
  assert 'sampling, image: 3/3' in said.out and not said.err
  with np.load('more.npz') as f:
    np.testing.assert_array_equal(f['labels'], [1, 0, 1])
  assert sample.main([*typed, '--out=more.npz']) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: Expected out=') and error.count('\n') == 1
  assert sample.main([*typed, '--out=copied/model/more.npz']) == 2
  assert 'outside the release' in capsys.readouterr().err
  with pytest.raises(errors.UsageError, match='outside the release'):
    some_samples(copied).save(copied / 'dataset.npz')
  unguided = '--sampler=ancestral,num_steps=3,guidance_weight=0'
  assert sample.main([*typed, unguided, '--out=other.npz']) == 0
  with np.load('more.npz') as f, np.load('other.npz') as other:
    assert (f['images'] != other['images']).any()
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    'copied',
    'more.npz',
    'other.npz',
  ]


def test_a_file_that_cannot_be_written_is_found_before_sampling(
  made, tmp_path, monkeypatch, capsys
):
  """Sampling may take hours."""
  monkeypatch.setattr(
    released_model.Release,
    'sample',
    lambda *_, **__: pytest.fail('It sampled.'),
  )
  out = tmp_path / 'more.npz'
  out.write_bytes(b'before')
  assert sample.main([str(made), '--num=1', f'--out={out}']) == 2
  assert 'not to be there' in capsys.readouterr().err


def test_the_command_says_the_seed_that_it_drew(made, tmp_path, capsys):
  """With it, anybody makes the same images again."""
  typed = [str(made), '--num=2']
  assert sample.main([*typed, f'--out={tmp_path / "first.npz"}']) == 0
  seed = re.search(r'images, seed (\d+),', capsys.readouterr().out)[1]
  again = tmp_path / 'again.npz'
  assert sample.main([*typed, f'--seed={seed}', f'--out={again}']) == 0
  with np.load(tmp_path / 'first.npz') as f, np.load(again) as g:
    np.testing.assert_array_equal(f['images'], g['images'])


def test_a_name_with_a_comma_is_one_class(tmp_path):
  names = ['star', 'circle, filled']
  folder = tiny_release.make(tmp_path / 'release', class_names=names)
  out = tmp_path / 'more.npz'
  typed = [str(folder), '--num=2', '--labels', names[1], f'--out={out}']
  assert sample.main(typed) == 0
  with np.load(out) as f:
    assert f['labels'].tolist() == [1, 1]


def test_what_is_not_given_of_a_sampler_is_that_of_the_release():
  before = samplers.SamplerConfig(
    name='ancestral', num_steps=9, guidance_weight=0.5
  )
  found = sample._sampler('num_steps=7', before)
  assert found == dataclasses.replace(before, num_steps=7)
  found = sample._sampler('ddim,guidance_weight=2', before)
  assert found == dataclasses.replace(before, name='ddim', guidance_weight=2.0)
  assert sample._sampler('', before) is None  # It takes that of the release.


@pytest.mark.parametrize(
  ('typed', 'words'),
  [
    ([], 'one RELEASE, not 0'),
    (['a', 'b', '--num=1', '--out=x.npz'], 'not 2'),
    (['a', '--out=x.npz'], '--num'),
    (['a', '--num=1'], '--out'),
    (['a', '--num'], 'after --num'),
    (['a', '--num=1', '--num=2'], '--num once'),
    (['a', '--num=many', '--out=x.npz'], '--num=many'),
    (['a', '--num=1', '--sed=2'], 'did you mean --seed'),
    (['a', '-n', '1'], "'-n'"),
    (['absent', '--num=1', '--out=x.npz'], 'privacy.json'),
    (['gs://a/release', '--num=1', '--out=x.npz'], 'local folder'),
    (['made', '--num=1', '--out=x.npz', '--labels=sun'], 'circle'),
    (['made', '--num=1', '--out=x.npz', '--sampler=dimm'], 'ddim'),
    (['made', '--num=1', '--out=x.npz', '--sampler=ddim,steps=5'], "'steps=5'"),
    (
      ['made', '--num=1', '--out=x.npz', '--sampler=num_steps=x'],
      'num_steps=x',
    ),
    (
      ['made', '--num=1', '--out=x.npz', '--sampler=num_steps=none'],
      'num_steps',
    ),
  ],
)
def test_what_was_typed_wrong_is_one_line(
  made, tmp_path, monkeypatch, capsys, typed, words
):
  monkeypatch.chdir(tmp_path)
  typed = [str(made) if argument == 'made' else argument for argument in typed]
  assert sample.main(typed) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ') and error.count('\n') == 1
  assert words in error
  assert not list(tmp_path.iterdir())


def test_the_folder_of_a_run_is_answered_with_that_of_its_release(made):
  with pytest.raises(errors.UsageError, match=r"of a run, '.*/release'\.$"):
    released_model.load_release(made.parent)


def test_help_says_every_flag(capsys):
  assert sample.main(['--help']) == 0
  text = capsys.readouterr().out
  assert all(f'--{name}=' in text for name in sample._FLAGS)


def test_ctrl_c_writes_nothing(made, tmp_path, monkeypatch, capsys):
  def interrupt(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(console, 'progress', interrupt)
  out = tmp_path / 'more.npz'
  assert sample.main([str(made), '--num=1', f'--out={out}']) == 130
  assert not list(tmp_path.iterdir())
  assert exit_codes.run(lambda: None) == 0
