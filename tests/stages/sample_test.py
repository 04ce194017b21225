"""Labels and shards of the synthetic dataset; the road tests the images."""

from __future__ import annotations

from concurrent import futures
import json
import math
import threading

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion import release
from dp_diffusion import release_marks
from dp_diffusion import released_model
from dp_diffusion.privacy import verify
from dp_diffusion.stages import runner
from dp_diffusion.stages import sample
from dp_diffusion.stages.run import assembly
from dp_diffusion.stages.run import averages
from dp_diffusion.stages.run import interrupts
from dp_diffusion.stages.run import statements
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import parallel
from dp_diffusion.training import processes
from tests import tiny_release
from tests.stages import command


@pytest.mark.parametrize('num_classes', [1, 3, 10])
def test_uniform_labels_differ_by_at_most_one_in_number(num_classes):
  labels = sample.sample_labels('uniform', num_classes, 100)
  assert labels.dtype == np.int32
  counts = np.bincount(labels, minlength=num_classes)
  assert counts.max() - counts.min() <= 1


@hypothesis.given(
  st.lists(st.floats(0, 100), min_size=1, max_size=12).filter(
    lambda weights: sum(weights) > 1e-3
  ),
  st.integers(1, 200),
)
def test_every_prefix_is_close_to_the_weights(weights, num_samples):
  text = ','.join(str(w) for w in weights)
  labels = sample.sample_labels(text, len(weights), num_samples)
  assert labels.shape == (num_samples,) and labels.dtype == np.int32
  shares = np.array(weights) / sum(weights)
  counts = np.cumsum(labels[:, None] == np.arange(len(weights))[None], axis=0)
  wanted = shares[None] * np.arange(1, num_samples + 1)[:, None]
  assert np.all(counts - wanted < 1)
  assert np.all(wanted - counts < 1 + math.log(len(weights)))
  assert not counts[-1][shares == 0].any()


def test_labels_are_a_prefix_of_more_labels():
  few = sample.sample_labels('1,2,4', 3, 20)
  many = sample.sample_labels('1,2,4', 3, 70)
  np.testing.assert_array_equal(few, many[:20])


@pytest.mark.parametrize(
  'text', ['', 'unifrom', '1,2', '1,2,3,4', '-1,1,1', '0,0,0', 'nan,1,1']
)
def test_weights_that_are_no_distribution_are_refused(text):
  with pytest.raises(errors.UsageError, match='3 weights >= 0'):
    sample.sample_labels(text, 3, 10)


@hypothesis.given(st.integers(1, 90), st.integers(1, 20), st.integers(1, 9))
def test_processes_divide_a_shard_by_whole_batches(size, batch_size, count):
  blocks = [
    sample.block(size, batch_size, processes.Share(index, count))
    for index in range(count)
  ]
  assert [number for block in blocks for number in block] == list(range(size))
  assert all(block.start % batch_size == 0 for block in blocks if block)
  num_batches = math.ceil(size / batch_size)
  most = math.ceil(num_batches / count)
  assert max(map(len, blocks)) <= most * batch_size


@pytest.mark.parametrize(('count', 'size'), [(1, 7), (2, 7), (3, 10), (4, 3)])
def test_processes_make_the_images_of_a_shard_together(
  count, size, monkeypatch
):
  """Each in a thread of its own; all of them get every image in its place."""
  own, barrier = threading.local(), threading.Barrier(count, timeout=30)
  parts = [None] * count

  def gather(part):
    parts[own.index] = part
    barrier.wait()
    found = np.stack(parts)
    barrier.wait()
    return found

  monkeypatch.setattr(processes, 'gather', gather)
  monkeypatch.setattr(processes, 'together', lambda call: call())
  monkeypatch.setattr(
    processes, 'own_share', lambda: processes.Share(own.index, count)
  )
  config = config_lib.load(command.DIGITS_SMOKE, {'sample.batch_size': '2'})
  shards = sample._Shards(
    config, None, np.zeros(40, np.int32), interrupts.Stop('')
  )

  def images(span):
    numbers = np.array(span, np.uint8)[:, None, None, None]
    return np.tile(numbers, (1, *config.data.image_shape))

  monkeypatch.setattr(shards, '_images', images)

  def work(index):
    own.index = index
    return shards._images_together(range(20, 20 + size))

  with futures.ThreadPoolExecutor(count) as pool:
    for found in pool.map(work, range(count)):
      np.testing.assert_array_equal(found, images(range(20, 20 + size)))


def test_the_average_is_chosen_before_images_are_sampled(tmp_path, monkeypatch):
  """And before the weights are compared with what the statement covers."""
  happened = []

  def check(_):
    happened.append('checked')
    raise errors.Interrupted('Enough was seen.')

  monkeypatch.setattr(averages, 'choose', lambda *_: happened.append('chosen'))
  monkeypatch.setattr(release, 'check_model', check)
  config = config_lib.load(command.DIGITS_SMOKE)
  workdir = workdirs.Workdir(workdirs.epath.Path(tmp_path))
  with pytest.raises(errors.Interrupted):
    sample.run(config, workdir, interrupts.Stop(''))
  assert happened == ['chosen', 'checked']


def test_weights_that_are_gone_are_named_in_one_line(tmp_path):
  config = config_lib.load(command.DIGITS_SMOKE)
  workdir = workdirs.open_workdir(str(tmp_path))
  folder = workdir.release / 'model'
  folder.mkdir(parents=True)
  (folder / 'model.json').write_text('{}')
  for content in (None, b'', b'junk'):
    if content is not None:
      (folder / 'params.npz').write_bytes(content)
    with pytest.raises(errors.UsageError, match='Restore it') as error:
      sample.make_sampler(
        config, workdir, parallel.DataParallel(), interrupts.Stop('')
      )
    assert '\n' not in str(error.value)


def test_a_release_gives_the_images_of_the_stage(tmp_path):
  """Without private/, which is needed no more, and from any labels."""
  config = config_lib.load(
    command.DIGITS_SMOKE,
    {
      'seed': '3',
      'sample.num_samples': '12',
      'sample.batch_size': '4',
      'sample.shard_size': '7',
      'sample.sampler.num_steps': '2',
      'sample.sampler.guidance_weight': '0.5',
      'diffusion.label_drop_prob': '0.1',
    },
  )
  workdir = workdirs.open_workdir(str(tmp_path / 'run'))
  description = assembly.model_description(config)
  del description['sampling']  # As an earlier version has fine-tuned.
  params = tiny_release.params(config.unet_config(config.data))
  release.write_model(workdir.release, params, description)
  statements.store(workdir, tiny_release.LEDGER, is_insecure=False)
  statements.seal(config, workdir)
  other = {name: value + 1 for name, value in params.items()}
  release.write_model(workdir.release, other, description)
  with pytest.raises(errors.UsageError, match='covers no others'):
    sample.run(config, workdir, interrupts.Stop(''))
  release.write_model(workdir.release, params, description)
  foreign = release.shard_path(workdir.release, 1, 2)
  shape = (5, 8, 8, 1)
  copied = np.zeros(shape, np.uint8), np.zeros(5, np.int32)
  release.write_shard(workdir.release, 1, 2, *copied)
  with pytest.raises(errors.UsageError, match=foreign.name):
    sample.run(config, workdir, interrupts.Stop(''))
  foreign.unlink()
  sample.run(config, workdir, interrupts.Stop(''))
  images, labels = release.read_dataset(workdir.release)
  assert images.std() > 1 and (images[0] != images[10]).any()

  workdir.private.rmtree()
  loaded = released_model.load_release(workdir.release)
  assert loaded.sampler == config.sample.sampler
  found = loaded.sample(12, seed=3)
  np.testing.assert_array_equal(found.labels, labels)
  np.testing.assert_array_equal(found.images, images)
  assert found.mark == release_marks.of_npz(
    release.shard_path(workdir.release, 1, 2)
  )
  parquet = workdir.release / 'dataset' / 'parquet'
  for shard in range(2):
    path = parquet / f'train-{shard:05d}-of-00002.parquet'
    assert found.mark == release_marks.of_parquet(path)


def test_another_card_is_written_without_sampling_again(tmp_path, monkeypatch):
  typed = {
    'sample.num_samples': '4',
    'sample.shard_size': '2',
    'sample.write_tfds': 'false',
    'card.date': '2026-01-31',
  }
  config = config_lib.load(command.DIGITS_SMOKE, typed)
  workdir = workdirs.open_workdir(str(tmp_path / 'run'))
  params = tiny_release.params(config.unet_config(config.data))
  description = assembly.model_description(config)
  release.write_model(workdir.release, params, description)
  statements.store(workdir, tiny_release.LEDGER, is_insecure=False)
  statements.seal(config, workdir)
  workdir.begin('finetune', config)
  workdir.complete('finetune', 1.0)
  runner._run_stage('sample', config, workdir, interrupts.Stop(''))
  before = command.contents(tmp_path / 'run' / 'release')

  monkeypatch.setattr(sample, 'make_sampler', None)  # Nothing is sampled.
  runner._run_stage('sample', config, workdir, interrupts.Stop(''))
  assert command.contents(tmp_path / 'run' / 'release') == before
  typed |= {'card.license': 'cc-by-4.0', 'card.data_name': 'Digits of 1998'}
  other = config_lib.load(command.DIGITS_SMOKE, typed)
  workdir.check(other)
  runner._run_stage('sample', other, workdir, interrupts.Stop(''))
  after = command.contents(tmp_path / 'run' / 'release')
  assert {name for name in after if after[name] != before.get(name)} == {
    'README.md',
    'croissant.json',
    'privacy.json',
  }
  assert b'made from Digits of 1998' in after['README.md']
  assert json.loads(after['privacy.json'])['dataset'] == 'Digits of 1998'
  assert not verify.verify(workdir.release).mismatches
  assert workdir.is_complete('sample') and not workdir.has_other_card(other)
