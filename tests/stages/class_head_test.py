"""The class head of fine-tuning: paid for, trained once, refused, released."""

from __future__ import annotations

import pathlib
import shutil

import jax
import numpy as np
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion import release
from dp_diffusion import released_model
from dp_diffusion import types
from dp_diffusion.baselines import class_head as class_head_lib
from dp_diffusion.data import batching
from dp_diffusion.data import registry
from dp_diffusion.evaluation.classifiers import activations
from dp_diffusion.evaluation.classifiers import head_features
from dp_diffusion.models import class_head as head_lib
from dp_diffusion.models import scattering as scattering_lib
from dp_diffusion.models import weights
from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import fixed_point
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import noise
from dp_diffusion.privacy import verify
from dp_diffusion.stages import class_head
from dp_diffusion.stages import finetune
from dp_diffusion.stages import pretrain
from dp_diffusion.stages import sample
from dp_diffusion.stages.run import assembly
from dp_diffusion.stages.run import budget
from dp_diffusion.stages.run import interrupts
from dp_diffusion.stages.run import run_secret
from dp_diffusion.stages.run import statements
from dp_diffusion.stages.run import workdirs
from tests import tiny_release
from tests.stages import command
from tests.stages import sources

pytestmark = pytest.mark.usefixtures('one_device')

SECRET = key_streams.Secret.insecure(0)
OVERRIDES = {
  'model.channel_multipliers': '(1,)',
  'finetune.class_head.num_steps': '3',
  'finetune.class_head.noise_multiplier': '20',
  'finetune.class_head.num_samples': '4',
  'sample.write_tfds': 'False',  # TensorFlow takes seconds to import.
}
# Every record is in every batch: the noise for an epsilon is soon found.
ALL_IN_A_BATCH = {'privacy__expected_batch_size': '1437'}
NUM_COEFFICIENTS = scattering_lib.num_features(8, 1)


def load(**changes: str) -> config_lib.Config:
  named = {key.replace('__', '.'): text for key, text in changes.items()}
  return config_lib.load(command.DIGITS_SMOKE, {**OVERRIDES, **named})


@pytest.fixture(scope='module')
def params() -> types.Params:
  """Weights none of which is zero, as a new network's last ones are."""
  config = load()
  return weights.unflatten(tiny_release.params(config.unet_config(config.data)))


def train(
  folder: pathlib.Path,
  params: types.Params,
  source: registry.ArraySource | None = None,
  secret: key_streams.Secret = SECRET,
  stop: interrupts.Stop | None = None,
  **changes: str,
) -> head_lib.ClassHead:
  config, source = load(**changes), source or sources.make()
  found = class_head.run(
    config,
    workdirs.open_workdir(str(folder)),
    source,
    batching.make_records(source, config.data.unit),
    secret,
    params,
    stop or interrupts.Stop(''),
  )
  assert found is not None
  return found


@pytest.fixture(scope='module')
def trained(
  one_device, params: types.Params, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  """A workdir with a head, as `train` leaves it; not to be changed."""
  folder = tmp_path_factory.mktemp('trained') / 'run'
  train(folder, params)
  return folder


@pytest.fixture
def sampled_once(monkeypatch: pytest.MonkeyPatch) -> None:
  """The trainings of a test have one config and weights, and so one sample."""
  sample_images = class_head._samples
  found = []

  def take(*arguments: object) -> np.ndarray:
    if not found:
      found.append(sample_images(*arguments))
    return found[0]

  monkeypatch.setattr(class_head, '_samples', take)


def is_equal(left: head_lib.ClassHead, right: head_lib.ClassHead) -> bool:
  found, wanted = left.arrays(), right.arrays()
  return set(found) == set(wanted) and all(
    np.array_equal(found[name], wanted[name]) for name in wanted
  )


def kept(folder: pathlib.Path) -> pathlib.Path:
  return folder / 'private' / 'class_head' / 'head.npz'


def test_without_it_nothing_is_drawn(tmp_path: pathlib.Path, params) -> None:
  workdir, source = workdirs.open_workdir(str(tmp_path)), sources.make()
  off = load(
    finetune__class_head__num_steps='0',
    finetune__class_head__noise_multiplier='0',
  )
  records = batching.make_records(source, 'image')
  stop = interrupts.Stop('')
  assert (
    class_head.run(off, workdir, source, records, SECRET, params, stop) is None
  )
  assert not run_secret.has_begun(workdir)
  assert budget.entries(off) == ()


def test_a_head_is_paid_for() -> None:
  config = load(**ALL_IN_A_BATCH)
  (entry,) = budget.entries(config)
  assert entry.mechanism == config.finetune.class_head.mechanism
  assert entry.mechanism.count == 3 and entry.noise_multiplier == 20
  found = budget.calibrate(config)
  events = [*entry.dp_events(), found.mechanism.dp_event()]
  delta, epsilon = config.privacy.delta, config.privacy.epsilon
  assert accounting.epsilon(events, delta) <= epsilon
  alone = budget.calibrate(
    load(
      finetune__class_head__num_steps='0',
      finetune__class_head__noise_multiplier='0',
      **ALL_IN_A_BATCH,
    )
  )
  assert found.mechanism.noise_multiplier > alone.mechanism.noise_multiplier


def test_the_noise_is_that_of_the_entry(
  tmp_path: pathlib.Path, params, monkeypatch: pytest.MonkeyPatch
) -> None:
  seen = []

  def add_noise(exact, keys, noise_std):
    seen.append((exact.unit, noise_std, jax.random.key_data(keys).tobytes()))
    return original(exact, keys, noise_std)

  original = noise.add_noise
  monkeypatch.setattr(noise, 'add_noise', add_noise)
  train(tmp_path, params)
  (entry,) = load().finetune.class_head.entries()
  assert [std for _, std, _ in seen] == [
    entry.noise_std
  ] * entry.mechanism.count
  assert {unit for unit, _, _ in seen} == {fixed_point.unit_of(1.0)}
  assert len({keys for _, _, keys in seen}) == entry.mechanism.count


def test_a_head_is_trained_once(
  tmp_path: pathlib.Path, params, monkeypatch: pytest.MonkeyPatch
) -> None:
  first = train(tmp_path, params)
  path = kept(tmp_path)
  assert path.stat().st_mode & 0o777 == 0o600
  assert run_secret.has_begun(workdirs.open_workdir(str(tmp_path)))
  path.unlink()  # As after a kill before it was kept: the same bits.
  assert is_equal(train(tmp_path, params), first)
  monkeypatch.setattr(class_head_lib, 'fit', None)
  assert is_equal(train(tmp_path, params), first)


def test_a_stopped_head_starts_anew_with_the_same_noise(
  tmp_path: pathlib.Path, params
) -> None:
  class StopsAt(interrupts.Stop):
    left = 18  # 15 steps of the sampler, two of activations, then steps.

    def raise_if_asked(self) -> None:
      self.left -= 1
      if not self.left:
        self.ask()
      super().raise_if_asked()

  with pytest.raises(errors.Interrupted):
    train(tmp_path / 'a', params, stop=StopsAt(''))
  assert not kept(tmp_path / 'a').exists()
  assert run_secret.has_begun(workdirs.open_workdir(str(tmp_path / 'a')))
  whole = train(tmp_path / 'b', params)
  assert is_equal(train(tmp_path / 'a', params), whole)


def test_scaling_is_by_sampled_images(
  tmp_path: pathlib.Path, params, monkeypatch: pytest.MonkeyPatch
) -> None:
  """Not by the sensitive ones, whose covariance is not noised."""
  seen, widths_seen = [], []

  def fit_scaling(features: np.ndarray, widths=None) -> class_head_lib.Scaling:
    seen.append(features)
    widths_seen.append(widths)
    return original(features, widths)

  original = class_head_lib.fit_scaling
  monkeypatch.setattr(class_head_lib, 'fit_scaling', fit_scaling)
  changes = {'finetune__class_head__scattering': 'True'}
  train(tmp_path / 'a', params, **changes)
  train(tmp_path / 'b', params, sources.make(seed=1), **changes)
  assert len(seen[0]) == load().finetune.class_head.num_samples
  np.testing.assert_array_equal(*seen)
  # Each kind of features by itself.
  num = seen[0].shape[1] - NUM_COEFFICIENTS
  assert widths_seen == [(num, NUM_COEFFICIENTS)] * 2 and num > 0


def test_every_image_is_read_at_its_place(
  tmp_path: pathlib.Path,
  params,
  sampled_once,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  """However many are in memory at a time."""
  whole = train(tmp_path / 'a', params)
  monkeypatch.setattr(class_head_lib, 'IMAGES_AT_A_TIME', 7)
  assert is_equal(train(tmp_path / 'b', params), whole)


def test_nothing_that_is_printed_depends_on_the_images(
  tmp_path: pathlib.Path, params, sampled_once, capsys
) -> None:
  """Neither their number nor the time that they take."""
  printed = []
  for name, num in (('a', 30), ('b', 17), ('c', 1), ('d', 0)):
    train(tmp_path / name, params, sources.make(num))
    lines = capsys.readouterr().out.splitlines()
    printed.append([line for line in lines if 'sampling' not in line])
  assert printed[0] and all(lines == printed[0] for lines in printed)


def test_no_time_of_the_sensitive_images_is_printed(
  tmp_path: pathlib.Path, params, monkeypatch: pytest.MonkeyPatch
) -> None:
  """A log would keep it; it tells how many there are."""
  progress, shown = console.progress, {}

  def record(title: str, *arguments, is_private: bool = False, **keywords):
    shown[title] = is_private
    return progress(title, *arguments, is_private=is_private, **keywords)

  monkeypatch.setattr(console, 'progress', record)
  train(tmp_path, params)
  assert len(shown) > 1 and 'class head, step' in shown
  assert {title for title, private in shown.items() if not private} == {
    title for title in shown if 'sampl' in title
  }


@pytest.mark.parametrize(
  ('change', 'name'),
  [
    ({'finetune__class_head__noise_multiplier': '30'}, 'head'),
    ({'finetune__class_head__num_samples': '5'}, 'head'),
    ({'finetune__class_head__scattering': 'True'}, 'head'),
    ({'data__unit': 'person'}, 'unit'),
    ({'privacy__num_examples': '97'}, 'num_examples'),
    ({'seed': '7'}, 'seed'),
  ],
)
@pytest.mark.parametrize('is_kept', [True, False])
def test_another_head_is_refused(
  tmp_path: pathlib.Path,
  params,
  trained: pathlib.Path,
  change: dict[str, str],
  name: str,
  is_kept: bool,
) -> None:
  shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
  if not is_kept:
    kept(tmp_path).unlink()
  with pytest.raises(errors.UsageError, match=f'{name} differs') as raised:
    train(tmp_path, params, **change)
  assert '\n' not in str(raised.value)
  assert kept(tmp_path).exists() == is_kept


def test_other_images_weights_and_secrets_are_refused(
  tmp_path: pathlib.Path, params, trained: pathlib.Path
) -> None:
  shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
  first = train(tmp_path, params)  # It is read.
  with pytest.raises(errors.UsageError, match='dataset differs'):
    train(tmp_path, params, sources.make(seed=1))
  with pytest.raises(errors.UsageError, match='differs'):
    train(tmp_path, params, secret=key_streams.Secret.insecure(1))
  with pytest.raises(errors.UsageError, match='weights differs'):
    train(tmp_path, jax.tree.map(lambda x: x + 1, params))
  (tmp_path / 'private' / workdirs.BEGUN_CLASS_HEAD).rename(tmp_path / 'away')
  with pytest.raises(errors.UsageError, match=workdirs.BEGUN_CLASS_HEAD):
    train(tmp_path, params)
  (tmp_path / 'away').rename(tmp_path / 'private' / workdirs.BEGUN_CLASS_HEAD)
  assert is_equal(train(tmp_path, params), first)


def test_another_generator_is_refused_until_it_is_kept(
  tmp_path: pathlib.Path,
  params,
  trained: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
  monkeypatch.setattr(key_streams, 'rng_test_vector', lambda: 'another')
  train(tmp_path, params)
  kept(tmp_path).unlink()
  with pytest.raises(errors.UsageError, match='rng differs'):
    train(tmp_path, params)


def test_a_person_is_one_record(
  tmp_path: pathlib.Path, params, monkeypatch: pytest.MonkeyPatch
) -> None:
  seen = []

  class Watched(class_head_lib.NoisedGradients):
    def __init__(self, units, labels, records, *others) -> None:
      seen.append(np.diff(records.starts).tolist())
      super().__init__(units, labels, records, *others)

  monkeypatch.setattr(class_head_lib, 'NoisedGradients', Watched)
  train(tmp_path, params, data__unit='person')
  assert seen == [[5] * 6]  # Persons, of 30 images.


def make_head(widths: tuple[int, ...], seed: int = 0) -> head_lib.ClassHead:
  rng = np.random.default_rng(seed)
  kernel, bias, *others = (
    rng.normal(scale=0.01, size=shape).astype(np.float32)
    for shape in ((widths[0], 10), 10, *((width, 10) for width in widths[1:]))
  )
  return head_lib.ClassHead(
    kernel=kernel,
    bias=bias,
    scattering_kernel=others[0] if others else None,
  )


@pytest.mark.parametrize('scattering', [False, True])
def test_the_head_labels_the_images_of_the_stage_and_of_a_release(
  tmp_path: pathlib.Path, scattering: bool
) -> None:
  config = load(
    seed='3',
    sample__labels_from_head='True',
    sample__num_samples='12',
    sample__batch_size='4',
    sample__shard_size='7',
    sample__class_probabilities=str(scattering),  # One of two cases will do.
  )
  workdir = workdirs.open_workdir(str(tmp_path / 'run'))
  network, diffusion = (
    config.unet_config(config.data),
    config.finetune_diffusion(),
  )
  params = tiny_release.params(network)
  widths = head_features.widths(
    network,
    weights.unflatten(params),
    diffusion,
    8,
    has_scattering=scattering,
  )
  head = make_head(widths)
  description = assembly.model_description(config)
  release.write_model(workdir.release, params, description)
  release.write_class_head(workdir.release, head)
  statements.store(workdir, tiny_release.LEDGER, is_insecure=False)
  statements.seal(config, workdir)
  path = workdir.release / 'model' / 'class_head.npz'
  for replace in (
    path.unlink,
    lambda: release.write_class_head(workdir.release, make_head(widths, 1)),
  ):
    replace()
    with pytest.raises(errors.UsageError, match='class_head.npz.*covers no'):
      sample.run(config, workdir, interrupts.Stop(''))
  release.write_class_head(workdir.release, head)
  sample.run(config, workdir, interrupts.Stop(''))
  images, labels = release.read_dataset(workdir.release)
  read = head_features.HeadFeatures(
    network, weights.unflatten(params), diffusion, has_scattering=scattering
  )
  log_probs = head.log_probs(read.of(images))
  np.testing.assert_array_equal(labels, np.argmax(log_probs, axis=1))
  soft = release.read_class_probabilities(workdir.release)
  assert (soft is not None) == scattering
  if soft is not None:
    assert soft.std(axis=0).max() > 0.01  # They tell images apart.
    np.testing.assert_allclose(soft, np.exp(log_probs), atol=1e-5)
  assert (labels != sample.sample_labels('uniform', 10, 12)).any()

  card = (workdir.release / 'README.md').read_text()
  assert 'model/class_head.npz' in card
  assert 'A label is the class that the class head finds' in card
  assert ('class_probabilities' in card) == scattering
  assert 'the class that was asked for' not in card
  assert not verify.verify(workdir.release).mismatches
  loaded = released_model.load_release(workdir.release)
  found = loaded.sample(12, seed=3)
  np.testing.assert_array_equal(found.images, images)
  np.testing.assert_array_equal(found.labels, labels)
  if soft is not None:
    np.testing.assert_array_equal(found.class_probabilities, soft)
  assert found.class_probabilities.dtype == np.float32
  classified = loaded.classify(images)
  np.testing.assert_array_equal(classified.labels, labels)
  np.testing.assert_allclose(np.exp(classified.log_probs).sum(axis=1), 1)


@pytest.mark.parametrize(
  'arrays',
  [
    {'kernel': np.zeros((3, 10), np.float32), 'bias': np.zeros(10, np.float32)},
    {'kernel': np.zeros((3, 10), np.float32)},
    {'kernel': np.zeros((3, 10), np.float32), 'bias': np.zeros(9, np.float32)},
    {'kernel': np.full((3, 10), np.nan), 'bias': np.zeros(10)},
    {'scattering_kernel': np.zeros((3, 10), np.float32)},
    {'scattering_kernel': np.zeros((NUM_COEFFICIENTS, 9), np.float32)},
    {'scattering_kernel': np.full((NUM_COEFFICIENTS, 10), np.inf)},
    {'another_kernel': np.zeros((NUM_COEFFICIENTS, 10), np.float32)},
  ],
)
def test_a_head_of_another_network_is_refused(
  tmp_path: pathlib.Path, arrays: dict[str, np.ndarray]
) -> None:
  config = load()
  workdir = workdirs.open_workdir(str(tmp_path))
  network = config.unet_config(config.data)
  params = tiny_release.params(network)
  if 'kernel' not in arrays:  # One that fits, but for what is added.
    diffusion = config.finetune_diffusion()
    tree = weights.unflatten(params)
    num = activations.num_features(network, tree, diffusion, 8)
    arrays = make_head((num,)).arrays() | arrays
  release.write_model(
    workdir.release, params, assembly.model_description(config)
  )
  weights.save_npz(
    workdir.release / 'model' / 'class_head.npz', arrays, is_released=True
  )
  statements.store(workdir, tiny_release.LEDGER, is_insecure=False)
  statements.seal(config, workdir)
  with pytest.raises(errors.UsageError, match='class head') as raised:
    released_model.load_release(workdir.release)
  assert '\n' not in str(raised.value)


def test_fine_tuning_releases_the_head_under_its_ledger(
  tmp_path: pathlib.Path, no_private_steps
) -> None:
  config = load(
    sample__labels_from_head='True',
    finetune__class_head__scattering='True',
    **ALL_IN_A_BATCH,
  )
  workdir = workdirs.open_workdir(str(tmp_path))
  public = tiny_release.params(config.unet_config(config.pretrain.data))
  weights.save_npz(pretrain.weights_path(workdir), public)
  finetune.run(config, workdir, interrupts.Stop(''))
  (entry,) = config.finetune.class_head.entries()
  stated = files.read_json(workdir.release / 'privacy.json')
  assert 'model/class_head.npz' in stated['files']
  assert class_head_lib.PURPOSE in str(stated)
  ledger = statements.read(workdir)['ledger']
  assert entry in ledger_lib.Ledger.from_json(ledger).entries
  assert not verify.verify(workdir.release).mismatches
  found = release.read_class_head(workdir.release)
  assert found is not None
  assert is_equal(
    found, head_lib.ClassHead.from_arrays(files.read_npz(kept(tmp_path)))
  )
  assert len(found.arrays()['scattering_kernel']) == NUM_COEFFICIENTS
  assert released_model.load_release(workdir.release).labels_from_head


@pytest.mark.parametrize(
  ('changes', 'names'),
  [
    (
      {
        'sample__labels_from_head': 'True',
        'finetune__class_head__num_steps': '0',
        'finetune__class_head__noise_multiplier': '0',
      },
      ('sample.labels_from_head', 'finetune.class_head.num_steps'),
    ),
    (
      {'sample__class_probabilities': 'True'},
      ('sample.class_probabilities', 'sample.labels_from_head'),
    ),
    (
      {
        'finetune__power_averages': '(0.1,)',
        'sample__average_length': '0.1',
      },
      ('sample.average_length', 'finetune.class_head'),
    ),
    ({'data__class_names': "('all',)"}, ('finetune.class_head.num_steps',)),
  ],
)
def test_what_does_not_go_together_is_refused(
  changes: dict[str, str], names: tuple[str, ...]
) -> None:
  with pytest.raises(errors.UsageError) as raised:
    load(**changes)
  message = str(raised.value)
  assert '\n' not in message and all(name in message for name in names)
