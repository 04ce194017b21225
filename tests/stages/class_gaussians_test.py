"""The Gaussians of the classes: paid for, drawn once, released, used."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import optax
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion import release
from dp_diffusion import released_model
from dp_diffusion.data import batching
from dp_diffusion.data import registry
from dp_diffusion.diffusion import samplers
from dp_diffusion.models import class_gaussians as gaussians_lib
from dp_diffusion.models import weights
from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import noise
from dp_diffusion.privacy import verify
from dp_diffusion.stages import class_gaussians
from dp_diffusion.stages import class_head
from dp_diffusion.stages import finetune
from dp_diffusion.stages import pretrain
from dp_diffusion.stages import sample
from dp_diffusion.stages.run import assembly
from dp_diffusion.stages.run import averages
from dp_diffusion.stages.run import budget
from dp_diffusion.stages.run import interrupts
from dp_diffusion.stages.run import run_secret
from dp_diffusion.stages.run import statements
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import state as train_state
from tests import tiny_release
from tests.stages import command
from tests.stages import sources

pytestmark = pytest.mark.usefixtures('one_device')

SECRET = key_streams.Secret.insecure(0)
OVERRIDES = {
  'model.channel_multipliers': '(1,)',
  'finetune.class_gaussians.noise_multiplier': '20',
  'finetune.class_gaussians.side': '2',
  'sample.sampler.name': 'ddim',
  'sample.sampler.num_steps': '3',
  'sample.sampler.first_timestep': '4',
  'sample.write_tfds': 'False',  # TensorFlow takes seconds to import.
}
OFF = {
  'finetune__class_gaussians__noise_multiplier': '0',
  'sample__sampler__first_timestep': '0',
}


def load(**changes: str) -> config_lib.Config:
  named = {key.replace('__', '.'): text for key, text in changes.items()}
  return config_lib.load(command.DIGITS_SMOKE, {**OVERRIDES, **named})


def draw(
  folder: pathlib.Path,
  source: registry.ArraySource | None = None,
  secret: key_streams.Secret = SECRET,
  **changes: str,
) -> gaussians_lib.ClassGaussians | None:
  config, source = load(**changes), source or sources.make()
  workdir = workdirs.open_workdir(str(folder))
  records = batching.make_records(source, config.data.unit)
  class_gaussians.run(config, workdir, source, records, secret)
  return class_gaussians.read(config, workdir)


def is_equal(left, right) -> bool:
  return np.array_equal(left.means, right.means) and np.array_equal(
    left.factors, right.factors
  )


def kept(folder: pathlib.Path) -> pathlib.Path:
  return folder / 'private' / 'class_gaussians' / 'statistics.npz'


def test_without_them_nothing_is_drawn(tmp_path: pathlib.Path) -> None:
  assert draw(tmp_path, **OFF) is None
  assert not run_secret.has_begun(workdirs.open_workdir(str(tmp_path)))
  assert budget.entries(load(**OFF)) == ()


def test_they_are_paid_for() -> None:
  config = load()
  (entry,) = budget.entries(config)
  assert entry.mechanism == config.finetune.class_gaussians.mechanism
  assert entry.mechanism.count == 1 and entry.noise_multiplier == 20
  found = budget.calibrate(config)
  events = [*entry.dp_events(), found.mechanism.dp_event()]
  delta, epsilon = config.privacy.delta, config.privacy.epsilon
  assert accounting.epsilon(events, delta) <= epsilon
  alone = budget.calibrate(load(**OFF))
  assert found.mechanism.noise_multiplier > alone.mechanism.noise_multiplier


def test_what_is_drawn_is_what_the_ledger_says(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  seen = []

  def add_noise(exact, keys, noise_std):
    seen.append(noise_std)
    return original(exact, keys, noise_std)

  original = noise.add_noise
  monkeypatch.setattr(noise, 'add_noise', add_noise)
  draw(tmp_path)
  (entry,) = load().finetune.class_gaussians.entries()
  assert seen == [entry.noise_std] == [20.0]


def test_they_are_drawn_once(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  first = draw(tmp_path)
  path = kept(tmp_path)
  assert path.stat().st_mode & 0o777 == 0o600
  assert run_secret.has_begun(workdirs.open_workdir(str(tmp_path)))
  path.unlink()  # As after a kill before it was kept: the same bits.
  assert is_equal(draw(tmp_path), first)
  monkeypatch.setattr(noise, 'add_noise', None)
  assert is_equal(draw(tmp_path), first)


@pytest.mark.parametrize(
  ('change', 'name'),
  [
    ({'finetune__class_gaussians__noise_multiplier': '30'}, 'gaussians'),
    ({'finetune__class_gaussians__side': '3'}, 'gaussians'),
    ({'data__unit': 'person'}, 'unit'),
    ({'seed': '7'}, 'seed'),
  ],
)
@pytest.mark.parametrize('is_kept', [True, False])
def test_others_are_refused(
  tmp_path: pathlib.Path, change: dict[str, str], name: str, is_kept: bool
) -> None:
  draw(tmp_path)
  if not is_kept:
    kept(tmp_path).unlink()
  with pytest.raises(errors.UsageError, match=f'{name} differs') as raised:
    draw(tmp_path, **change)
  assert '\n' not in str(raised.value)
  assert kept(tmp_path).exists() == is_kept


def test_other_images_and_secrets_are_refused(tmp_path: pathlib.Path) -> None:
  first = draw(tmp_path)
  with pytest.raises(errors.UsageError, match='dataset differs'):
    draw(tmp_path, sources.make(seed=1))
  with pytest.raises(errors.UsageError, match='differs'):
    draw(tmp_path, secret=key_streams.Secret.insecure(1))
  assert is_equal(draw(tmp_path), first)


def test_other_facts_give_other_noise(tmp_path: pathlib.Path) -> None:
  """With one secret and the same noise multiplier."""
  noises = []
  for name, changes in (('a', {}), ('b', {'seed': '7'})):
    draw(tmp_path / name, **changes)
    noises.append(np.load(kept(tmp_path / name))['noised'])
  assert np.mean(np.abs(noises[0] - noises[1])) > 10


def test_another_generator_is_refused_until_it_is_kept(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  draw(tmp_path)
  monkeypatch.setattr(key_streams, 'rng_test_vector', lambda: 'another')
  draw(tmp_path)
  kept(tmp_path).unlink()
  with pytest.raises(errors.UsageError, match='rng differs'):
    draw(tmp_path)


def test_an_average_seals_no_gaussians_of_others(
  tmp_path: pathlib.Path,
) -> None:
  """They would have a statement that does not cover them."""
  config = load(finetune__power_averages='(0.1,)', sample__average_length='0.1')
  before = draw(tmp_path)
  workdir = workdirs.open_workdir(str(tmp_path))
  params = tiny_release.params(config.unet_config(config.data))
  averages.store(
    config,
    workdir,
    train_state.create(
      weights.unflatten(params), optax.sgd(0.1), num_power_averages=1
    ),
  )
  statements.store(workdir, tiny_release.LEDGER, is_insecure=False)
  description = assembly.model_description(config)
  release.write_model(workdir.release, params, description)
  release.write_class_gaussians(workdir.release, before)
  statements.seal(config, workdir)
  replaced = dataclasses.replace(before, means=before.means / 2)
  release.write_class_gaussians(workdir.release, replaced)
  with pytest.raises(errors.UsageError, match='class_gaussians.npz to be the'):
    sample.run(config, workdir, interrupts.Stop(''))
  release.write_class_gaussians(workdir.release, before)
  averages.choose(config, workdir)
  release.check_model(workdir.release)


def test_a_head_names_what_samples_start_from(tmp_path: pathlib.Path) -> None:
  """It is scaled by samples, so another start would give other gradients."""
  config, source = load(), sources.make()
  params = tiny_release.params(config.unet_config(config.data))
  given = draw(tmp_path)
  facts = [
    class_head.make_facts(config, source, SECRET, params, start)
    for start in (
      None,
      given,
      dataclasses.replace(given, means=given.means / 2),
    )
  ]
  later = load(sample__sampler__first_timestep='5')
  facts.append(class_head.make_facts(later, source, SECRET, params, given))
  runs = {key_streams.run_id(SECRET, each) for each in facts}
  assert len(runs) == 4 and 'start' not in facts[0]


def test_a_person_is_one_record(tmp_path: pathlib.Path) -> None:
  """Its images weigh as much as one, so counts are those of persons."""
  images = draw(tmp_path / 'a')
  persons = draw(tmp_path / 'b', data__unit='person')
  assert not is_equal(images, persons)
  noised = [np.load(kept(tmp_path / name))['noised'] for name in 'ab']
  counts = [n[:, -1].sum() / 0.1**0.5 for n in noised]
  noise_std = 20 * (10 / 0.1) ** 0.5  # Of the sum of ten counts.
  assert abs(counts[0] - 30) < 4 * noise_std
  assert abs(counts[1] - 6) < 4 * noise_std


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'sample__sampler__first_timestep': '0'}, 'to be both 0 or both > 0'),
    (
      {'finetune__class_gaussians__noise_multiplier': '0'},
      'to be both 0 or both > 0',
    ),
    (
      {
        'finetune__class_gaussians__side': '8',
        'data__image_size': '4',
        'pretrain__data__image_size': '4',
      },
      'side=8 to be at most',
    ),
    (
      {
        'finetune__mixture_boundaries': '(0, 4, 1000)',
        'finetune__mixture_weights': '(1, 0)',
      },
      'first_timestep=4 to be a timestep that',
    ),
    ({'sample__sampler__first_timestep': '1000'}, 'first_timestep=1000 to be'),
    (
      {'sample__sampler__first_timestep': '1'},
      r'num_steps=3 to be at most first_timestep \+ 1 = 2',
    ),
  ],
)
def test_what_does_not_fit_is_refused(
  changes: dict[str, str], message: str
) -> None:
  with pytest.raises(errors.UsageError, match=message):
    load(**changes)


def test_a_run_releases_them_and_samples_from_them(
  tmp_path: pathlib.Path, no_private_steps, monkeypatch: pytest.MonkeyPatch
) -> None:
  """The stage, the class head and a release start from the same Gaussians."""
  starts = []
  original = gaussians_lib.ClassGaussians.draw

  def watched(self, keys, labels):
    starts.append((self.means.sum(), len(labels)))
    return original(self, keys, labels)

  monkeypatch.setattr(gaussians_lib.ClassGaussians, 'draw', watched)
  config = load(
    privacy__num_steps='2',
    privacy__expected_batch_size='1437',  # All: epsilon is soon computed.
    sample__num_samples='12',
    sample__batch_size='6',
    finetune__class_head__num_steps='2',
    finetune__class_head__noise_multiplier='20',
    finetune__class_head__num_samples='5',
  )
  workdir = workdirs.open_workdir(str(tmp_path / 'run'))
  public = tiny_release.params(config.unet_config(config.pretrain.data))
  weights.save_npz(pretrain.weights_path(workdir), public)
  for stage in (finetune, sample):
    stage.run(config, workdir, interrupts.Stop(''))
  assert not verify.verify(workdir.release).mismatches
  statement = (workdir.release / 'privacy.json').read_text()
  assert 'means and covariances of the classes' in statement
  card = (workdir.release / 'README.md').read_text()
  assert 'class_gaussians.npz' in card
  found = release.read_class_gaussians(workdir.release)
  assert is_equal(found, class_gaussians.read(config, workdir))
  assert {size for _, size in starts} == {5, 6}  # Of the head, of the stage.
  assert {total for total, _ in starts} == {found.means.sum()}
  loaded = released_model.load_release(workdir.release)
  again = loaded.sample(12, seed=config.seed)
  images, _ = release.read_dataset(workdir.release)
  np.testing.assert_array_equal(again.images, images)
  starts.clear()
  other = samplers.SamplerConfig(name='ddim', num_steps=2)
  assert loaded.sample(2, seed=1, sampler=other).images.shape[0] == 2
  assert starts == [(found.means.sum(), 6)]
  noisier = dataclasses.replace(other, first_timestep=5)
  with pytest.raises(errors.UsageError, match='first_timestep=5 to be at most'):
    loaded.sample(2, seed=1, sampler=noisier)
  arrays = files.read_npz(workdir.release / 'model' / 'class_gaussians.npz')
  assert weights.RELEASED in arrays  # Used elsewhere, they bring the ledger.
