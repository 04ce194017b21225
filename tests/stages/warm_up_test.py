"""The warm-up from noised statistics: drawn once, resumed, refused."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
import types as python_types

import jax
import numpy as np
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion import types
from dp_diffusion.baselines import class_means
from dp_diffusion.baselines import mean_embedding
from dp_diffusion.baselines import public_votes
from dp_diffusion.data import registry
from dp_diffusion.models import weights
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import label_histogram
from dp_diffusion.stages import warm_up
from dp_diffusion.stages.run import assembly
from dp_diffusion.stages.run import interrupts
from dp_diffusion.stages.run import public_network
from dp_diffusion.stages.run import public_provenance
from dp_diffusion.stages.run import run_secret
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import parallel
from dp_diffusion.training import processes
from dp_diffusion.training import public_loop
from tests.stages import command
from tests.stages import sources

pytestmark = pytest.mark.usefixtures('one_device')

SECRET = key_streams.Secret.insecure(0)
OVERRIDES = {
  'model.channel_multipliers': '(1,)',
  'pretrain.num_steps': '0',
  'pretrain.batch_size': '4',
  'pretrain.optimizer.warmup_steps': '0',
  'pretrain.checkpoint_every_steps': '2',
  'finetune.warm_up.mean_steps': '1',
  'finetune.warm_up.mean_noise_multiplier': '3',
  'finetune.warm_up.num_means': '2',
  'finetune.warm_up.generated_steps': '2',
  'finetune.warm_up.embedding_noise_multiplier': '4',
  'finetune.warm_up.num_generated': '20',
  'finetune.warm_up.chosen_steps': '2',
  'finetune.warm_up.votes_noise_multiplier': '2',
  'finetune.warm_up.dp_merf.num_features': '20',
  'finetune.warm_up.generator.num_steps': '2',
  'finetune.warm_up.generator.batch_size': '10',
  'finetune.warm_up.generator.channels': '4',
}


def load(**changes: str) -> config_lib.Config:
  named = {key.replace('__', '.'): text for key, text in changes.items()}
  return config_lib.load(command.DIGITS_SMOKE, {**OVERRIDES, **named})


PUBLIC = sources.make(seed=99)


def train_network(
  config: config_lib.Config, public: types.DataSource
) -> python_types.SimpleNamespace:
  """A network without training, whose weights depend on what it is given."""
  assert public is PUBLIC
  size = config.evaluate.classifier.num_steps
  weights = np.random.default_rng(size).normal(size=(64, 10)).astype('float32')

  def logits(variables, images):
    return images.reshape((len(images), -1)) @ variables

  fns = python_types.SimpleNamespace(logits=logits)
  return python_types.SimpleNamespace(variables=weights, fns=fns)


@pytest.fixture(autouse=True)
def public(monkeypatch: pytest.MonkeyPatch) -> None:
  """Public images, and a network for them, that cost nothing."""
  load_images = registry.load

  def load_or_public(data, *split):
    is_public = data == config.pretrain.data
    return PUBLIC if is_public else load_images(data, *split)

  config = load()
  monkeypatch.setattr(registry, 'load', load_or_public)
  monkeypatch.setattr(public_network, 'train', train_network)


def draw(
  config: config_lib.Config,
  folder: pathlib.Path,
  source: registry.ArraySource | None = None,
  secret: key_streams.Secret = SECRET,
) -> pathlib.Path:
  """Draws the statistics; returns their file."""
  workdir = workdirs.open_workdir(str(folder))
  source = source or sources.make()
  public = warm_up._public_images(config)
  facts = warm_up.make_facts(config, source, secret, public)
  warm_up.draw(config, workdir, source, secret, facts, public)
  return folder / 'private' / 'warm_up' / 'statistics.npz'


@pytest.fixture(scope='module')
def initial() -> types.Params:
  config = load()
  return assembly.init_params(config, config.data)


def run(
  folder: pathlib.Path,
  params: types.Params,
  stop: interrupts.Stop | None = None,
  source: registry.ArraySource | None = None,
) -> dict[str, np.ndarray]:
  found = warm_up.run(
    load(),
    workdirs.open_workdir(str(folder)),
    source or sources.make(),
    SECRET,
    params,
    stop or interrupts.Stop(''),
  )
  return weights.flatten(found)


def is_equal(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
  assert left.keys() == right.keys()
  return all(np.array_equal(left[name], right[name]) for name in left)


class _StopsAt(interrupts.Stop):
  """Asks to stop when a step calls it for the n-th time."""

  def __init__(self, count: int) -> None:
    super().__init__('')
    self.left = count

  def __call__(self) -> bool:
    self.left -= 1
    if not self.left:
      self.ask()
    return super().__call__()


def test_without_it_the_weights_stay(tmp_path: pathlib.Path, initial) -> None:
  off = {name: '0' for name in OVERRIDES if 'steps' in name or 'noise' in name}
  off = {
    k: v for k, v in off.items() if 'warm_up' in k and 'generator' not in k
  }
  workdir = workdirs.open_workdir(str(tmp_path))
  config = load(**{k.replace('.', '__'): v for k, v in off.items()})
  found = warm_up.run(
    config, workdir, sources.make(), SECRET, initial, interrupts.Stop('')
  )
  assert found is initial and not run_secret.has_begun(workdir)


def test_what_is_drawn_is_what_the_ledger_says(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  seen = []

  def record(feature_fn, source, records, mechanism, streams, purpose):
    seen.append((mechanism, purpose))
    return noised_sums(feature_fn, source, records, mechanism, streams, purpose)

  def record_votes(labels, starts, num_classes, entry, streams, purpose):
    seen.append((entry.mechanism, purpose))
    return noised(labels, starts, num_classes, entry, streams, purpose)

  noised_sums, noised = mean_embedding.noised_sums, label_histogram.noised
  monkeypatch.setattr(mean_embedding, 'noised_sums', record)
  monkeypatch.setattr(label_histogram, 'noised', record_votes)
  config = load()
  draw(config, tmp_path)
  entries = config.finetune.warm_up.entries()
  assert [m for m, _ in seen] == [entry.mechanism for entry in entries]
  assert len({purpose for _, purpose in seen}) == 3


def test_processes_compare_what_is_drawn_before_it_is(
  tmp_path: pathlib.Path, initial, monkeypatch: pytest.MonkeyPatch
) -> None:
  """Each would go on from statistics of its own."""
  seen = []

  def refuse(facts):
    seen.append(facts)
    raise errors.UsageError('They differ.')

  monkeypatch.setattr(processes, 'agree', refuse)
  with pytest.raises(errors.UsageError, match='They differ'):
    run(tmp_path, initial)
  (found,) = seen
  facts = warm_up.make_facts(load(), sources.make(), SECRET, PUBLIC)
  assert {name: json.loads(text) for name, text in found.items()} == facts
  assert not (tmp_path / 'private' / workdirs.BEGUN_WARM_UP).exists()


def test_statistics_are_drawn_once(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  path = draw(load(), tmp_path)
  before = path.read_bytes()
  assert path.stat().st_mode & 0o777 == 0o600
  path.unlink()  # As after a kill before they were stored: the same bits.
  assert draw(load(), tmp_path).read_bytes() == before
  monkeypatch.setattr(mean_embedding, 'noised_sums', None)
  assert draw(load(), tmp_path).read_bytes() == before
  workdir = workdirs.open_workdir(str(tmp_path))
  assert run_secret.has_begun(workdir)


@pytest.mark.parametrize(
  ('change', 'name'),
  [
    ({'finetune__warm_up__mean_noise_multiplier': '30'}, 'events'),
    ({'finetune__warm_up__num_means': '3'}, 'events'),
    ({'finetune__warm_up__dp_merf__length_scale': '2'}, 'features'),
    ({'data__unit': 'person'}, 'unit'),
    ({'seed': '7'}, 'seed'),
    ({'finetune__warm_up__votes_noise_multiplier': '3'}, 'events'),
    ({'evaluate__classifier__num_steps': '7'}, 'votes'),
  ],
)
@pytest.mark.parametrize('is_kept', [True, False])
def test_other_statistics_are_refused(
  tmp_path: pathlib.Path, change: dict[str, str], name: str, is_kept: bool
) -> None:
  path = draw(load(), tmp_path)
  if not is_kept:
    path.unlink()
  with pytest.raises(errors.UsageError, match=f'{name} differs') as raised:
    draw(load(**change), tmp_path)
  assert '\n' not in str(raised.value) and path.exists() == is_kept


def test_other_images_and_secrets_are_refused(tmp_path: pathlib.Path) -> None:
  before = draw(load(), tmp_path).read_bytes()
  with pytest.raises(errors.UsageError, match='dataset differs'):
    draw(load(), tmp_path, sources.make(seed=1))
  with pytest.raises(errors.UsageError, match='differs'):
    draw(load(), tmp_path, secret=key_streams.Secret.insecure(1))
  assert draw(load(), tmp_path).read_bytes() == before


def test_statistics_of_unknown_origin_are_refused(
  tmp_path: pathlib.Path,
) -> None:
  """Without the file that names what they were drawn from."""
  path = draw(load(), tmp_path)
  (tmp_path / 'private' / workdirs.BEGUN_WARM_UP).unlink()
  with pytest.raises(errors.UsageError, match=workdirs.BEGUN_WARM_UP) as raised:
    draw(load(), tmp_path)
  assert '\n' not in str(raised.value) and path.exists()


def test_kept_weights_are_of_the_statistics_of_this_run(
  tmp_path: pathlib.Path, initial
) -> None:
  draw(load(), tmp_path)
  path = tmp_path / 'private' / 'warm_up' / 'params.npz'
  weights.save_npz(path, {'w': np.ones(2, np.float32)}, is_released=True)
  assert list(run(tmp_path, initial)) == ['w']
  with pytest.raises(errors.UsageError, match='dataset differs'):
    run(tmp_path, initial, source=sources.make(seed=1))


def test_another_generator_is_refused_until_they_are_stored(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  path = draw(load(), tmp_path)
  monkeypatch.setattr(key_streams, 'rng_test_vector', lambda: 'another')
  draw(load(), tmp_path)
  path.unlink()
  with pytest.raises(errors.UsageError, match='rng differs'):
    draw(load(), tmp_path)


def test_other_statistics_have_other_noise(tmp_path: pathlib.Path) -> None:
  """With one secret: equal noise would cancel in their difference."""
  paths = [
    draw(load(), tmp_path / 'a'),
    draw(load(finetune__warm_up__num_means='3'), tmp_path / 'b'),
  ]
  first, second = (np.load(path)['means'] for path in paths)
  assert np.all(first != second[: len(first)])


def test_what_names_the_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
  """All that they depend on: with one secret, equal names give equal noise."""

  def name(source=None, secret=SECRET, **changes):
    facts = warm_up.make_facts(
      load(**changes), source or sources.make(), secret
    )
    return key_streams.run_id(SECRET, facts)

  source = sources.make()
  more = tuple(source.spec.class_names) + ('more',)
  others = [
    {'images': source.images[::-1]},
    {'labels': source.labels[::-1]},
    {'person': source.person // 2},
    {'spec': dataclasses.replace(source.spec, class_names=more)},
  ]
  names = [
    name(),
    *(name(dataclasses.replace(source, **other)) for other in others),
    name(secret=key_streams.Secret.insecure(1)),
    name(seed='7'),
    name(data__unit='person'),
    name(finetune__warm_up__dp_merf__length_scale='2'),
    name(finetune__warm_up__mean_noise_multiplier='30'),
    name(finetune__warm_up__embedding_noise_multiplier='30'),
    name(finetune__warm_up__num_means='3'),
  ]
  monkeypatch.setattr(key_streams, 'rng_test_vector', lambda: 'another')
  names.append(name())
  assert len(set(names)) == len(names)
  # What is made of them afterwards has no part in it.
  assert name(finetune__warm_up__generator__num_steps='3') == names[-1]


def test_a_person_is_one_record(tmp_path: pathlib.Path) -> None:
  """Counts of all classes sum to the number of persons, not of images."""
  for unit, count in (('image', 30), ('person', 6)):
    path = draw(
      load(data__unit=unit, finetune__warm_up__mean_noise_multiplier='0.001'),
      tmp_path / unit,
    )
    found = np.load(path)['means'][0, :, -1]
    _, weight = class_means.weights(64)
    assert np.sum(found) / weight == pytest.approx(count, abs=0.1)


@pytest.fixture
def compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
  """The runs of a test have one config, and so one step."""
  make = parallel.DataParallel.pmap_public_step
  steps = []

  def take(devices: parallel.DataParallel, *arguments: object):
    if not steps:
      steps.append(make(devices, *arguments))
    return steps[0]

  monkeypatch.setattr(parallel.DataParallel, 'pmap_public_step', take)


def test_a_stopped_warm_up_goes_on(
  tmp_path: pathlib.Path, initial, compiled_once
) -> None:
  whole = run(tmp_path / 'whole', initial)
  assert not is_equal(whole, weights.flatten(initial))
  with pytest.raises(errors.Interrupted):
    run(tmp_path / 'stopped', initial, _StopsAt(2))
  folder = tmp_path / 'stopped' / 'private' / 'warm_up'
  assert not (folder / 'params.npz').exists()
  assert is_equal(run(tmp_path / 'stopped', initial), whole)
  assert weights.is_released(folder / 'params.npz')  # No public weights.
  shutil.rmtree(folder / 'checkpoints')  # What is kept is read.
  assert is_equal(run(tmp_path / 'stopped', initial), whole)
  outside = [
    path.relative_to(tmp_path / 'whole')
    for path in (tmp_path / 'whole').rglob('*')
    if path.is_file() and 'private' not in path.parts
  ]
  assert not outside


def test_private_steps_start_from_averaged_weights(
  tmp_path: pathlib.Path, initial, monkeypatch
) -> None:
  """As after pre-training: the average has less noise than the last weights."""
  averaged = jax.tree.map(lambda leaf: leaf + 1, initial)

  def train(run, devices, state, start_step, stop):
    del devices, start_step, stop
    state = dataclasses.replace(state, ema_params=averaged)
    return state, run.num_steps

  monkeypatch.setattr(public_loop, 'train_public', train)
  assert is_equal(run(tmp_path, initial), weights.flatten(averaged))


def test_training_reads_the_statistics_alone(tmp_path: pathlib.Path) -> None:
  """Other images with the same noised statistics give the same training set."""
  paths = [
    draw(load(), tmp_path / str(seed), sources.make(seed=seed))
    for seed in (0, 1)
  ]
  shutil.copy(*paths)
  for path in paths:
    warm_up.make_images(load(), path.parent, interrupts.Stop(''), PUBLIC)
  first, second = (path.with_name('images.npz').read_bytes() for path in paths)
  assert first == second
  found = np.load(paths[0].with_name('images.npz'))
  assert found['means'].shape == (20, 8, 8, 1)  # Two of each class.
  np.testing.assert_array_equal(found['means_labels'], np.arange(20) % 10)
  assert found['generated'].shape == (20, 8, 8, 1)
  for step, name in ((0, 'means'), (1, 'generated')):
    batch = warm_up.batch(load(), found, step, PUBLIC)
    assert batch['label'].shape == (4,) and batch['label'].dtype == np.int32
    for image, label in zip(batch['image'], batch['label']):
      same = found[name][found[f'{name}_labels'] == label]
      assert np.any(np.all(same == image, axis=(1, 2, 3)))
  last = warm_up.batch(load(), found, 3, PUBLIC)['image']  # Of the public ones.
  assert all(image.tobytes() in PUBLIC.images.tobytes() for image in last)


def test_votes_choose_among_public_images(tmp_path: pathlib.Path) -> None:
  """Each class gets images of the public classes it voted for most."""
  others = ('mean_steps', 'mean_noise_multiplier', 'generated_steps')
  config = load(
    finetune__warm_up__votes_noise_multiplier='0.001',
    finetune__warm_up__num_chosen='1',
    finetune__warm_up__embedding_noise_multiplier='0',
    **{f'finetune__warm_up__{key}': '0' for key in others},
  )
  source = sources.make()
  path = draw(config, tmp_path, source)
  network = train_network(config, PUBLIC)
  pixels = source.images.reshape(30, -1) / 127.5 - 1
  votes = np.zeros((10, 10))
  np.add.at(
    votes, (source.labels, np.argmax(pixels @ network.variables, axis=1)), 1
  )
  found = np.load(path)['votes']
  np.testing.assert_allclose(found, votes, atol=0.01)
  warm_up.make_images(config, path.parent, interrupts.Stop(''), PUBLIC)
  images = np.load(path.with_name('images.npz'))
  chosen = np.argmax(found, axis=1)
  assert set(images['chosen_labels']) == set(range(10))
  np.testing.assert_array_equal(
    PUBLIC.labels[images['chosen']], chosen[images['chosen_labels']]
  )
  for step in (0, 1):
    batch = warm_up.batch(config, images, step, PUBLIC)
    for image, label in zip(batch['image'], batch['label'], strict=True):
      same = PUBLIC.images[PUBLIC.labels == chosen[label]]
      assert np.any(np.all(same == image, axis=(1, 2, 3)))


def test_other_public_images_are_other_votes(tmp_path: pathlib.Path) -> None:
  source, config = sources.make(), load()
  draw(config, tmp_path, source)
  facts = warm_up.make_facts(config, source, SECRET, sources.make(seed=98))
  workdir = workdirs.open_workdir(str(tmp_path))
  with pytest.raises(errors.UsageError, match='votes differs'):
    warm_up.draw(config, workdir, source, SECRET, facts, sources.make(seed=98))


def test_public_images_without_classes_are_refused(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  spec = dataclasses.replace(PUBLIC.spec, class_names=())
  one = dataclasses.replace(PUBLIC, spec=spec, labels=0 * PUBLIC.labels)
  monkeypatch.setattr(registry, 'load', lambda *_: one)
  with pytest.raises(errors.UsageError, match='with 1 class') as raised:
    warm_up._public_images(load())
  assert '\n' not in str(raised.value)
  with pytest.raises(errors.UsageError, match='num_chosen=11'):
    load(finetune__warm_up__num_chosen='11')


ROWS = {
  'pretrain__data__class_names': 'a,b,c,d,e,f,g,h,i,j,k,l',
  'finetune__warm_up__rows_from_votes': 'True',
  'finetune__warm_up__votes_noise_multiplier': '2',
  **{
    f'finetune__warm_up__{key}': '0'
    for key in (
      'mean_steps',
      'mean_noise_multiplier',
      'generated_steps',
      'embedding_noise_multiplier',
      'chosen_steps',
    )
  },
}


def _pretrained(
  config: config_lib.Config, workdir: workdirs.Workdir
) -> np.ndarray:
  """Writes weights of the public classes; returns the embeddings of these."""
  params = assembly.init_params(config, config.pretrain.data)
  weights.save_npz(workdir.public_weights, params, is_released=False)
  public_provenance.write(
    workdir.public_weights,
    (public_provenance.of_config(config.pretrain.data),),
  )
  return weights.flatten(params)[weights.CLASS_ROWS]


def _start(
  monkeypatch: pytest.MonkeyPatch,
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  params: types.Params,
) -> types.Params:
  spec = dataclasses.replace(
    PUBLIC.spec, class_names=config.pretrain.data.class_names
  )
  public = dataclasses.replace(PUBLIC, spec=spec)
  monkeypatch.setattr(registry, 'load', lambda *_: public)
  monkeypatch.setattr(
    public_network, 'train', lambda config, _: train_network(config, PUBLIC)
  )
  return warm_up.run(
    config, workdir, sources.make(), SECRET, params, interrupts.Stop('')
  )


def test_rows_start_where_the_votes_say(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, initial, capsys
) -> None:
  config, workdir = load(**ROWS), workdirs.open_workdir(str(tmp_path))
  rows = _pretrained(config, workdir)
  found = weights.flatten(_start(monkeypatch, config, workdir, initial))
  path = tmp_path / 'private' / 'warm_up' / 'statistics.npz'
  chosen = public_votes.characteristic(np.load(path)['votes'])
  np.testing.assert_array_equal(found.pop(weights.CLASS_ROWS), rows[chosen])
  before = weights.flatten(initial)
  del before[weights.CLASS_ROWS]
  assert is_equal(found, before)
  said = capsys.readouterr().out
  assert (
    f'class 3 starts from the public class {"abcdefghijkl"[chosen[3]]}'
    in (said)
  )
  # The votes alone decide, also when they are read again.
  votes = np.zeros((10, 12))
  votes[range(10), range(11, 1, -1)] = 9.0
  np.savez(path, votes=votes)
  again = weights.flatten(_start(monkeypatch, config, workdir, initial))
  np.testing.assert_array_equal(again[weights.CLASS_ROWS], rows[11:1:-1])


def test_rows_of_other_classes_are_refused(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, initial
) -> None:
  """Weights of as many classes with other names, and of unknown ones."""
  config = load(**ROWS)
  others = dict(ROWS, pretrain__data__class_names='a,b,c,d,e,f,g,h,i,j,k,z')
  workdir = workdirs.open_workdir(str(tmp_path))
  _pretrained(load(**others), workdir)
  with pytest.raises(errors.UsageError, match='not known to be pre-trained'):
    _start(monkeypatch, config, workdir, initial)
  _pretrained(config, workdir)
  public_provenance.path_of(workdir.public_weights).unlink()
  with pytest.raises(errors.UsageError, match='not known to be pre-trained'):
    _start(monkeypatch, config, workdir, initial)
  assert not run_secret.has_begun(workdir)  # Nothing was drawn.
  with pytest.raises(errors.UsageError, match='has the classes of data'):
    load(**{k: v for k, v in ROWS.items() if 'class_names' not in k})


def test_labels_of_a_histogram_are_refused() -> None:
  with pytest.raises(errors.UsageError, match='generated_steps=2'):
    load(
      sample__labels='noised_histogram',
      privacy__label_histogram_noise_multiplier='5',
    )


def test_the_optimizer_must_have_time_to_rise() -> None:
  with pytest.raises(errors.UsageError, match='steps of finetune.warm_up'):
    load(pretrain__optimizer__warmup_steps='5')


def test_a_run_without_it_is_recorded_as_before() -> None:
  off = config_lib.load(command.DIGITS_SMOKE)
  assert 'warm_up' not in config_lib.to_dict(off)['finetune']
  assert config_lib.to_dict(load())['finetune']['warm_up']['mean_steps'] == 1
