"""What is pre-trained on is public: by name and content, and stated."""

from __future__ import annotations

import json
import os
import pathlib
import re

import numpy as np
from PIL import Image
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion import release
from dp_diffusion import types
from dp_diffusion.data import equal_images
from dp_diffusion.data import registry
from dp_diffusion.models import weights
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import verify
from dp_diffusion.stages import finetune
from dp_diffusion.stages import pretrain
from dp_diffusion.stages import runner
from dp_diffusion.stages import warm_up
from dp_diffusion.stages.run import interrupts
from dp_diffusion.stages.run import public_data
from dp_diffusion.stages.run import public_provenance
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import private_loop
from dp_diffusion.training import public_loop
from tests.stages import command
from tests.stages import releases

pytestmark = pytest.mark.usefixtures('one_device')

CLASSES = ('a', 'b')


def load(**changes: object) -> config_lib.Config:
  named = {k.replace('__', '.'): str(v) for k, v in changes.items()}
  return config_lib.load(
    command.DIGITS_SMOKE,
    {
      'model.channel_multipliers': '(1,)',
      'privacy.solve_for': 'epsilon',
      'privacy.epsilon': 'none',
      'privacy.noise_multiplier': '1.25',
      **named,
    },
  )


def on_own(path: pathlib.Path, **changes: object) -> config_lib.Config:
  return load(
    **{
      'pretrain__data__name': 'folder',
      'pretrain__data__path': path,
      'pretrain__data__class_names': CLASSES,
      **changes,
    }
  )


@pytest.fixture
def workdir(tmp_path: pathlib.Path) -> workdirs.Workdir:
  return workdirs.open_workdir(str(tmp_path / 'run'))


@pytest.fixture(scope='module')
def sensitive():
  return registry.load(load().data)


def noise(num: int = 12, size: int = 8) -> np.ndarray:
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (num, size, size, 1), np.uint8)


def write_npz(path: pathlib.Path, images: np.ndarray) -> pathlib.Path:
  np.savez(path, images=images, labels=np.arange(len(images)) % 2)
  return path


def write_folder(path: pathlib.Path, images: np.ndarray, ending: str) -> None:
  for i, image in enumerate(images):
    folder = path / CLASSES[i % 2]
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image[..., 0]).save(folder / f'{i}.{ending}')


@pytest.mark.parametrize(
  'changes',
  [
    {'pretrain__data__name': 'digits'},
    {'pretrain__data__name': 'digits', 'pretrain__data__split_seed': 1},
    {
      'pretrain__data__name': 'digits',
      'pretrain__data__split': 'test',
      'pretrain__data__split_seed': 1,
    },
    {
      'data__name': 'tfds:mnist',
      'pretrain__data__name': 'mnist:3.0.1',
      'pretrain__data__tfds_dir': 'elsewhere',
      'pretrain__data__split': 'train[:50%]',
    },
    {'data__name': 'generated', 'pretrain__data__name': 'generated'},
  ],
)
@pytest.mark.parametrize('stage', ['plan', 'all', 'pretrain'])
def test_the_sensitive_set_by_name(tmp_path, monkeypatch, changes, stage):
  def fail(*_):
    raise AssertionError('Something was read.')

  monkeypatch.setattr(registry, 'load', fail)
  with pytest.raises(errors.UsageError, match='to be other images') as e:
    runner.run(load(**changes), str(tmp_path / 'run'), stage, '')
  assert '\n' not in str(e.value)
  assert 'split' in str(e.value)


def test_what_passes_by_name(workdir):
  for config in (
    load(),
    load(pretrain__data__name='digits', pretrain__data__split='test'),
    load(pretrain__data__name='digits', pretrain__num_steps=0),  # Not read.
    load(
      data__name='generated',
      pretrain__data__name='generated',
      pretrain__data__source_seed=1,
    ),
    load(  # Nothing is promised.
      pretrain__data__name='digits',
      privacy__solve_for='noise_multiplier',
      privacy__epsilon='inf',
      privacy__noise_multiplier='none',
    ),
  ):
    public_data.check_sources(config, workdir)
  unread = load(pretrain__data__name='digits', pretrain__num_steps=0)
  with pytest.raises(errors.UsageError, match='to be other images'):
    public_data.check_sources(unread, workdir, is_read=True)  # By the audit.


def _forms(tmp_path, images):
  """The same pixels in several forms, among others that are public."""
  mixed = np.concatenate([noise(), images])
  write_folder(tmp_path / 'png', mixed, 'png')
  write_folder(tmp_path / 'bmp', mixed, 'bmp')
  large = mixed.repeat(2, axis=1).repeat(2, axis=2)
  return [
    write_npz(tmp_path / 'x.npz', mixed),
    tmp_path / 'png',
    tmp_path / 'bmp',
    write_npz(tmp_path / 'colour.npz', mixed.repeat(3, axis=3)),
    large,
  ]


def test_equal_images_end_the_run(tmp_path, workdir, sensitive):
  """In another file format, and with three equal channels, they are equal."""
  for path in _forms(tmp_path, np.asarray(sensitive.images[40:60]))[:-1]:
    with pytest.raises(errors.UsageError) as e:
      public_data.compare(on_own(path), workdir, sensitive)
    text = str(e.value)
    assert '\n' not in text and 'an image of folder' in text
    assert not any(character.isdigit() for character in text), text
  public = write_npz(tmp_path / 'public.npz', noise())
  (fact,) = public_data.compare(on_own(public), workdir, sensitive)
  assert fact['comparison'] == 'none_equal'


@pytest.mark.parametrize(
  'use',
  [
    {'finetune__warm_up__chosen_steps': 9},
    {
      'finetune__warm_up__rows_from_votes': True,
      'pretrain__data__class_names': tuple('abcdefghij'),
    },
  ],
)
def test_images_to_choose_from_are_compared(tmp_path, workdir, sensitive, use):
  """Without pre-training, and with the weights of another run."""
  changes = {
    **use,
    'pretrain__num_steps': 0,
    'finetune__warm_up__votes_noise_multiplier': 5,
    'finetune__warm_up__num_chosen': 1,
  }
  equal = _forms(tmp_path, np.asarray(sensitive.images[40:60]))[0]
  other = write_npz(tmp_path / 'public.npz', noise())
  for _ in range(2):
    with pytest.raises(errors.UsageError, match='an image of folder'):
      public_data.compare(on_own(equal, **changes), workdir, sensitive)
    found = public_data.compare(on_own(other, **changes), workdir, sensitive)
    assert [fact['comparison'] for fact in found] == ['none_equal']
    # What the weights say of themselves does not hide them.
    weights.save_npz(workdir.public_weights, {'w': np.zeros(1, np.float32)})
    public_provenance.write(workdir.public_weights, ())
  with pytest.raises(errors.UsageError, match='pretrain.data'):
    data = load(**{**changes, 'pretrain__data__name': 'digits'})
    public_data.check_sources(data, workdir)


def test_images_are_compared_at_the_size_of_the_run(tmp_path, workdir):
  stored = noise(12, 16)
  write_folder(tmp_path / 'sensitive', stored, 'png')
  data = registry.DataConfig(
    name='folder',
    path=str(tmp_path / 'sensitive'),
    class_names=CLASSES,
    image_size=8,
    channels=1,
  )
  source = registry.load(data)
  resized = write_npz(tmp_path / 'resized.npz', np.asarray(source.images))
  for path in (resized, write_npz(tmp_path / 'stored.npz', stored)):
    with pytest.raises(errors.UsageError, match='not among the sensitive'):
      public_data.compare(on_own(path), workdir, source)


def test_blank_images_are_no_evidence(tmp_path, workdir):
  images = noise()
  images[3:6] = 255
  public = write_npz(
    tmp_path / 'x.npz', np.where(images == 255, 255, 7 ^ images)
  )
  source = registry.ArraySource(
    spec=types.DatasetSpec(
      name='x', image_shape=(8, 8, 1), class_names=CLASSES
    ),
    images=images,
    labels=np.zeros(len(images), np.int32),
  )
  (fact,) = public_data.compare(on_own(public), workdir, source)
  assert fact['comparison'] == 'none_equal'


def test_no_digest_is_left_behind(
  tmp_path, workdir, sensitive, monkeypatch, capsys
):
  keys, digests = [], equal_images.digests
  monkeypatch.setattr(
    equal_images,
    'digests',
    lambda x, key: (keys.append(key), digests(x, key))[1],
  )
  path = write_npz(tmp_path / 'x.npz', np.asarray(sensitive.images[:8]))
  for _ in range(2):
    with pytest.raises(errors.UsageError):
      public_data.compare(on_own(path), workdir, sensitive)
  assert len(set(keys)) == 2  # Fresh each time.
  assert not [
    n
    for n in command.contents(pathlib.Path(workdir.root))
    if n != 'private/.lock'
  ]
  printed = ''.join(capsys.readouterr())
  # Reading that is slow prints its percent, which depend on no image.
  counted = re.sub(r'percent: \d+/100|, \d+ s', '', printed)
  assert '8' not in counted and keys[0].hex() not in printed


def test_fine_tuning_ends_before_anything_private(
  tmp_path, workdir, sensitive, monkeypatch
):
  for module, name in ((private_loop, 'train_private'), (warm_up, 'run')):
    monkeypatch.setattr(module, name, lambda *_: pytest.fail('It trained.'))
  path = write_npz(
    tmp_path / 'x.npz', np.concatenate([noise(), sensitive.images[5:25]])
  )
  config = on_own(path)
  weights.save_npz(workdir.public_weights, releases.PARAMS)
  public_data.begin(
    config, workdir, np.asarray(registry.load(config.pretrain.data).images)
  )
  monkeypatch.setattr(finetune, '_first_params', lambda *_: ({}, ()))
  with pytest.raises(errors.UsageError, match='not among the sensitive'):
    finetune.run(config, workdir, interrupts.Stop(''))
  left = command.contents(pathlib.Path(workdir.root))
  assert not [n for n in left if n.startswith('release/')]
  assert not [n for n in left if 'begun' in n]


def test_a_baseline_takes_no_sensitive_or_released_images(
  tmp_path, sensitive
) -> None:
  with pytest.raises(errors.UsageError, match='to be other images than data'):
    public_data.compare_source(load(pretrain__data__name='digits'), sensitive)
  path = write_npz(tmp_path / 'x.npz', np.asarray(sensitive.images[:12]))
  with pytest.raises(errors.UsageError, match='folder x.npz'):
    public_data.compare_source(on_own(path), sensitive)
  made = releases.make(tmp_path / 'release', with_images=True)
  shard = release.shard_path(made, 0, 1)
  with pytest.raises(errors.UsageError, match='would not be counted'):
    public_data.compare_source(on_own(shard), sensitive)


def test_all_sets_of_public_images_are_compared(
  tmp_path, workdir, sensitive
) -> None:
  """By name and by content, also those that are not the first."""
  weights.save_npz(workdir.public_weights, releases.PARAMS)
  config = on_own(write_npz(tmp_path / 'x.npz', noise()))
  equal = on_own(
    write_npz(tmp_path / 'y.npz', np.asarray(sensitive.images[:12]))
  )
  own, by_name, by_content = (
    public_provenance.of_config(one.pretrain.data)
    for one in (config, load(pretrain__data__name='digits'), equal)
  )
  public_provenance.write(workdir.public_weights, (own, by_name))
  with pytest.raises(errors.UsageError, match='to be other images than data'):
    public_data.check_sources(config, workdir)
  public_provenance.write(workdir.public_weights, (own, by_content))
  public_data.check_sources(config, workdir)
  with pytest.raises(errors.UsageError, match='folder y.npz'):
    public_data.compare(config, workdir, sensitive)


def test_images_of_an_earlier_run(tmp_path, sensitive):
  """By its record, by the config of one without a record, through a third."""
  first = workdirs.open_workdir(str(tmp_path / 'first'))
  path = write_npz(tmp_path / 'x.npz', np.asarray(sensitive.images[:12]))
  config = on_own(path)
  weights.save_npz(first.public_weights, releases.PARAMS)
  public_data.begin(config, first, np.asarray(sensitive.images[:12]))
  second = workdirs.open_workdir(str(tmp_path / 'second'))
  after = load(pretrain__num_steps=0, pretrain__init_from=first.root)
  weights.save_npz(second.public_weights, releases.PARAMS)
  public_data.begin(after, second, None)
  third = workdirs.open_workdir(str(tmp_path / 'third'))
  last = load(pretrain__num_steps=0, pretrain__init_from=second.root)
  for run, its in ((first, config), (second, after), (third, last)):
    with pytest.raises(errors.UsageError, match='folder x.npz'):
      public_data.compare(its, run, sensitive)
  public_provenance.path_of(first.public_weights).unlink()
  first.begin('pretrain', config)
  with pytest.raises(errors.UsageError, match='folder x.npz'):
    public_data.compare(after, third, sensitive)
  path.unlink()
  (fact,) = public_data.compare(after, third, sensitive)
  assert fact['comparison'] == 'not_at_hand'


def test_a_run_without_a_record_began_with_other_weights(tmp_path, sensitive):
  """They have seen images too, and pre-training does not undo it."""
  path = write_npz(tmp_path / 'x.npz', noise())
  workdir = workdirs.open_workdir(str(tmp_path / 'first'))
  weights.save_npz(workdir.public_weights, releases.PARAMS)
  workdir.begin('pretrain', on_own(path, pretrain__init_from='far/net.npz'))
  found = public_provenance.of_weights(workdir.public_weights)
  assert [images.source for images in found] == [
    'folder x.npz',
    'weights of net.npz',
  ]


def test_an_earlier_run_on_the_sensitive_set(tmp_path):
  """Whoever trains without privacy may start there; nobody else."""
  first = workdirs.open_workdir(str(tmp_path / 'first'))
  weights.save_npz(first.public_weights, releases.PARAMS)
  config = load(pretrain__data__name='digits')
  public_data.begin(config, first, noise())
  after = load(pretrain__num_steps=0, pretrain__init_from=first.root)
  with pytest.raises(errors.UsageError, match='to be other images'):
    runner.run(after, str(tmp_path / 'second'), 'all', '')


def test_rendered_images_are_not_said_to_be_compared(workdir, sensitive):
  (fact,) = public_data.compare(load(), workdir, sensitive)
  assert fact['comparison'] == 'rendered'


def test_images_count_beside_those_of_the_weights_to_start_from(
  tmp_path, workdir, sensitive
):
  """A pre-training that goes on from others sees both."""
  foreign = tmp_path / 'foreign.npz'
  weights.save_npz(foreign, releases.PARAMS)
  changes = {'pretrain__init_from': foreign}
  path = write_npz(tmp_path / 'x.npz', noise())
  own, before = public_data.expected(on_own(path, **changes))
  assert own.source == 'folder x.npz'
  assert before.source.startswith('weights of sha256')
  equal = write_npz(tmp_path / 'y.npz', np.asarray(sensitive.images[:12]))
  with pytest.raises(errors.UsageError, match='folder y.npz'):
    public_data.compare(on_own(equal, **changes), workdir, sensitive)


def test_weights_from_elsewhere_are_said(tmp_path, workdir, sensitive):
  path = tmp_path / 'foreign.npz'
  weights.save_npz(path, releases.PARAMS)
  config = load(pretrain__num_steps=0, pretrain__init_from=path)
  (fact,) = public_data.compare(config, workdir, sensitive)
  assert fact['comparison'] == 'unknown' and 'sha256' in fact['source']
  assert not public_data.compare(
    load(pretrain__num_steps=0), workdir, sensitive
  )


def test_a_release_that_names_no_images_is_not_taken_for_none(tmp_path):
  """A statement of an earlier version does not say what its weights saw."""
  released = releases.make(tmp_path / 'release')
  path = released / 'model' / 'params.npz'
  assert public_provenance.of_weights(path) == ()  # Trained from scratch.
  statement = json.loads((released / 'privacy.json').read_text())
  del statement['public_data']
  (released / 'privacy.json').write_text(json.dumps(statement))
  (found,) = public_provenance.of_weights(path)
  assert found.source.startswith('weights of sha256 ')
  (released / 'privacy.json').write_text('not JSON')
  assert public_provenance.of_weights(path) == (found,)


def test_another_part_is_said_and_compared(workdir, sensitive, capsys):
  config = load(pretrain__data__name='digits', pretrain__data__split='test')
  (fact,) = public_data.compare(config, workdir, sensitive)
  assert fact['is_part_of_sensitive_dataset']
  assert fact['comparison'] == 'none_equal'
  assert 'another part of the sensitive dataset' in capsys.readouterr().err


def test_images_that_changed_are_said(tmp_path, workdir, sensitive):
  config = on_own(write_npz(tmp_path / 'x.npz', noise()))
  weights.save_npz(workdir.public_weights, releases.PARAMS)
  public_data.begin(config, workdir, noise())  # All; one split is read.
  (fact,) = public_data.compare(config, workdir, sensitive)
  assert fact['comparison'] == 'changed'
  assert fact['images_sha256'] == equal_images.content_sha256(noise())


def test_pre_training_goes_on_with_the_same_images(tmp_path, workdir):
  config = on_own(write_npz(tmp_path / 'x.npz', noise()))
  public_data.begin(config, workdir, noise())
  (workdir.public / 'checkpoints').mkdir()
  public_data.begin(config, workdir, noise())
  with pytest.raises(errors.UsageError, match='changed since'):
    public_data.begin(config, workdir, noise(11))


def test_a_damaged_record_is_refused(workdir):
  weights.save_npz(workdir.public_weights, releases.PARAMS)
  path = pathlib.Path(public_provenance.path_of(workdir.public_weights))
  for text in ('[]', '{"images": [{"source": 1}]}', '{"images": 3}', '{'):
    path.write_text(text)
    with pytest.raises(errors.UsageError, match='damaged') as e:
      public_data.seen(load(), workdir)
    assert '\n' not in str(e.value)


def test_the_statement_names_the_images(
  tmp_path, workdir, no_private_steps, monkeypatch
):
  """From pre-training to the published card, the steps apart."""
  images = noise()
  config = on_own(
    write_npz(tmp_path / 'public.npz', images),
    pretrain__num_steps=1,
    pretrain__optimizer__warmup_steps=0,
  )
  monkeypatch.setattr(public_loop, 'compile_public_step', lambda *_: None)
  monkeypatch.setattr(
    public_loop,
    'train_public',
    lambda run, devices, state, *_: (state, run.num_steps),
  )
  key_streams.Secret.create(workdir.private / 'secret')
  pretrain.run(config, workdir, interrupts.Stop(''))
  finetune.run(config, workdir, interrupts.Stop(''))
  statement = json.loads((workdir.release / 'privacy.json').read_text())
  read = np.asarray(registry.load(config.pretrain.data).images)
  assert statement['public_data'] == [
    {
      'source': 'folder public.npz',
      'split': 'train',
      'images_sha256': equal_images.content_sha256(read),
      'comparison': 'none_equal',
      'is_part_of_sensitive_dataset': False,
    }
  ]
  card = (workdir.release / 'README.md').read_text()
  assert '**Public data**: folder public.npz, split train, images of' in card
  assert not verify.verify(workdir.release).mismatches
  assert str(tmp_path) not in card + os.fspath(
    statement['public_data'][0]['source']
  )
