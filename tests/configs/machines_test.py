"""Recipes for one machine: what follows from the declared number of records."""

from __future__ import annotations

import pathlib

import pytest

from configs.recipes import machines
from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion.data import rendered
from dp_diffusion.diffusion import timesteps
from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import gaussian_calibration

CONFIGS = pathlib.Path(__file__).parent.parent.parent / 'configs'
OWN = {'data__class_names': 'a,b'}


def load(name: str, **overrides: str) -> config_lib.Config:
  path, _, variant = name.partition(':')
  changed = {k.replace('__', '.'): v for k, v in overrides.items()}
  suffix = f':{variant}' if variant else ''
  return config_lib.load(f'{CONFIGS / path}.py{suffix}', changed)


@pytest.mark.parametrize('machine', ['cpu', 'one_gpu'])
@pytest.mark.parametrize(
  ('name', 'given'),
  [
    ('digits', {}),
    ('mnist', {}),
    ('fashion_mnist', {}),
    ('cifar10', {}),
    ('camelyon', {}),
    ('own_images', {**OWN, 'privacy__num_examples': '9000'}),
  ],
)
def test_every_config_has_a_variant_for_either_machine(
  name: str, machine: str, given: dict[str, str]
) -> None:
  config = load(f'{name}:{machine}', **given)
  assert config.privacy.delta <= 1 / config.privacy.num_examples
  assert config.model.channels <= 64
  paper = 0 if name in ('digits', 'own_images') else load(name).privacy.delta
  assert config.privacy.delta == paper or not paper


@pytest.mark.parametrize(
  ('num_records', 'unit', 'batch_size', 'augmult', 'delta'),
  [
    (22_000, 'image', 2048, 1, 1e-6),
    (4000, 'image', 1000, 2, 1e-5),
    (1000, 'image', 250, 8, 1e-4),
    (160, 'person', 80, 26, 1e-4),
    (1, 'image', 1, 8, 0.1),
  ],
)
def test_batch_draws_and_delta_follow_from_the_records(
  num_records: int, unit: str, batch_size: int, augmult: int, delta: float
) -> None:
  config = load(
    'own_images:cpu',
    privacy__num_examples=str(num_records),
    data__unit=unit,
    **OWN,
  )
  assert config.privacy.expected_batch_size == batch_size
  assert config.finetune.augmult == augmult
  assert config.privacy.delta == delta


def test_what_is_typed_stays_and_the_rest_follows() -> None:
  config = load(
    'own_images:cpu',
    privacy__num_examples='22000',
    privacy__delta='1e-5',
    privacy__expected_batch_size='1024',
    data__image_size='32',
    data__channels='1',
    **OWN,
  )
  assert config.privacy.delta == 1e-5
  assert (config.privacy.expected_batch_size, config.finetune.augmult) == (
    1024,
    2,
  )
  public = config.pretrain.data
  assert (public.image_size, public.channels) == (32, 1)
  assert public.class_names == rendered.CLASS_NAMES


def test_weights_of_an_earlier_run_fit_without_a_step_of_pre_training() -> None:
  config = load(
    'own_images:cpu',
    **OWN,
    privacy__num_examples='9000',
    pretrain__init_from='runs/earlier',
    pretrain__num_steps='0',
  )
  public = config.unet_config(config.pretrain.data)
  assert public.num_classes == len(rendered.GIVEN_CLASS_NAMES)


def test_what_was_chosen_is_said_with_its_reason(capsys) -> None:
  load('own_images:cpu', privacy__num_examples='2000', **OWN)
  said = capsys.readouterr().out
  for words in (
    'images of 24x24 pixels',
    'for 2,000 images as declared, expected batch 500 (at most 25% of them)',
    'K = 4 (about 2,048 draws a step',
    'delta 1e-05',
    'read as colour; none was opened',
  ):
    assert words in said


def test_the_number_of_records_must_be_said() -> None:
  with pytest.raises(errors.UsageError, match='privacy.num_examples=N, the'):
    load('own_images:cpu', **OWN)


@pytest.mark.parametrize('machine', ['cpu', 'one_gpu'])
def test_a_smoke_run_needs_nothing(machine: str) -> None:
  config = load(f'own_images:{machine},smoke')
  assert config.data.channels == config.pretrain.data.channels == 3
  assert config.privacy.num_examples == 96


@pytest.mark.parametrize('variant', ['smoke', '1k', 'cpu,smoke'])
def test_delta_follows_a_number_of_records_that_it_does_not_fit(
  variant: str, capsys
) -> None:
  many = {'privacy__num_examples': '22000'}
  config = load(f'own_images:{variant}', **OWN, **many)
  assert config.privacy.num_examples == 22_000
  assert config.privacy.delta == 1e-6
  assert 'delta 1e-06 instead of' in capsys.readouterr().out
  with pytest.raises(errors.UsageError, match='delta'):
    load(f'own_images:{variant}', **OWN, **many, privacy__delta='0.001')


@pytest.mark.parametrize('variant', ['smoke', 'cpu', 'one_gpu'])
@pytest.mark.parametrize('key', ['num_examples', 'delta'])
def test_no_number_of_records_or_delta_is_one_line(
  key: str, variant: str
) -> None:
  with pytest.raises(
    errors.UsageError, match=f'^Expected privacy.{key}=None to'
  ):
    load(f'own_images:{variant}', **OWN, **{f'privacy__{key}': 'None'})


def test_a_delta_that_fits_stays(capsys) -> None:
  config = load('own_images', **OWN, privacy__num_examples='22000')
  assert config.privacy.delta == 1e-5
  assert 'instead of' not in capsys.readouterr().out


def test_delta_is_a_tenth_of_one_over_the_records_at_most() -> None:
  for number in (1, 2, 9, 10, 11, 99, 100, 101, 22_000, 302_436):
    delta = machines.tenth_of_one_over(number)
    assert 0.01 / number < delta <= 0.1 / number * (1 + 1e-12)


def test_one_key_mirrors_images_and_those_of_the_classifiers(capsys) -> None:
  given = {**OWN, 'privacy__num_examples': '9000'}
  for flips, said in (({}, True), ({'data__flip': 'True'}, False)):
    config = load('own_images:cpu', **given, **flips)
    assert config.data.flip == config.evaluate.classifier.flip == (not said)
    assert ('--config.data.flip=True' in capsys.readouterr().out) == said
  apart = {'data__flip': 'True', 'evaluate__classifier__flip': 'False'}
  assert not load('own_images:cpu', **given, **apart).evaluate.classifier.flip


@pytest.mark.parametrize(
  ('names', 'tries', 'guidance'),
  [('a', 1, 1.0), ('a,b', 4, 0.0), ('a,b,c,d', 4, 0.0), ('a,b,c,d,e', 1, 1.0)],
)
def test_few_classes_are_asked_for(
  names: str, tries: int, guidance: float
) -> None:
  given = {'data__class_names': names, 'privacy__num_examples': '900'}
  sampler = load('own_images:cpu', **given).sample.sampler
  assert (sampler.max_tries, sampler.guidance_weight) == (tries, guidance)
  sampler = load('own_images:one_gpu', **given).sample.sampler
  assert (sampler.max_tries, sampler.guidance_weight) == (1, 1.0)
  typed = {'sample__sampler__max_tries': '2'}
  if names == 'a':  # There is no other class to take an image for.
    with pytest.raises(errors.UsageError, match='max_tries=2 to be 1'):
      load('own_images:cpu', **given, **typed)
    return
  sampler = load('own_images:cpu', **given, **typed).sample.sampler
  assert sampler.max_tries == 2


HEAD = {
  'data__class_names': 'a,b,c,d,e',
  'privacy__num_examples': '10000',
  'privacy__delta': '1e-5',
}


@pytest.mark.parametrize(
  ('epsilon', 'num_records', 'num_steps', 'share'),
  [
    (10.0, 60_000, 60, 0.1),
    (10.0, 18_000, 60, 0.1),
    (10.0, 15_000, 60, 0.2),
    (10.0, 5000, 40, 0.2),
    (10.0, 1200, 20, 0.2),
    (1.0, 22_000, 31, 0.2),
  ],
)
def test_enough_records_train_a_class_head(
  epsilon: float, num_records: int, num_steps: int, share: float
) -> None:
  """For a share of the budget, which the private steps do without."""
  records = {'privacy__num_examples': str(num_records)}
  config = load(
    'own_images:cpu', **{**HEAD, **records}, privacy__epsilon=str(epsilon)
  )
  head = config.finetune.class_head
  assert head.num_steps == num_steps and config.sample.labels_from_head
  assert head.scattering and config.sample.class_probabilities
  sampler = config.sample.sampler
  assert (sampler.max_tries, sampler.guidance_weight) == (1, 0.0)
  (entry,) = head.entries()
  (event,) = entry.dp_events()
  whole = gaussian_calibration.calibrate(
    epsilon, 1e-5, l2_sensitivity=1.0, purpose='x'
  )
  mu_of_head = num_steps**0.5 / head.noise_multiplier
  mu = 1 / whole.noise_multiplier
  assert mu_of_head**2 == pytest.approx(share * mu**2, rel=1e-3)
  assert accounting.epsilon([event], 1e-5) < 0.5 * epsilon


@pytest.mark.parametrize(
  'changes',
  [
    {'privacy__num_examples': '1000'},
    {'privacy__num_examples': '8000', 'privacy__epsilon': '1'},
    {'privacy__epsilon': 'inf'},
    {'data__class_names': 'a'},
  ],
)
def test_otherwise_there_is_no_class_head(changes: dict[str, str]) -> None:
  config = load('own_images:cpu', **{**HEAD, **changes})
  assert not config.finetune.class_head.is_used
  assert not config.sample.labels_from_head


def test_what_is_typed_of_a_class_head_stays() -> None:
  typed = {
    'finetune__class_head__num_steps': '0',
    'finetune__class_head__noise_multiplier': '0',
    'sample__labels_from_head': 'False',
  }
  config = load('own_images:cpu', **HEAD, **typed)
  assert not config.finetune.class_head.is_used
  typed = {
    'finetune__class_head__num_steps': '9',
    'finetune__class_head__noise_multiplier': '50',
  }
  config = load('own_images:cpu', **HEAD, **typed)
  head = config.finetune.class_head
  assert (head.num_steps, head.noise_multiplier) == (9, 50)
  assert not config.sample.labels_from_head
  typed = {'finetune__class_head__learning_rate': '7'}
  head = load('own_images:cpu', **HEAD, **typed).finetune.class_head
  assert (head.num_steps, head.learning_rate) == (57, 7)


@pytest.mark.parametrize(
  'typed',
  [
    {'finetune__class_head__num_steps': '0'},
    {'finetune__class_head__noise_multiplier': '0'},
    {'sample__labels_from_head': 'False'},
    {'finetune__power_averages': '(0.1,)', 'sample__average_length': '0.1'},
  ],
)
def test_one_key_is_enough_for_no_class_head(typed, capsys) -> None:
  """The recipe is then that of fewer records, and nothing is paid for."""
  few = {**HEAD, 'data__class_names': 'a,b'}
  config = load('own_images:cpu', **few, **typed)
  assert not config.finetune.class_head.is_used
  assert not config.sample.labels_from_head
  assert config.sample.sampler.max_tries == 4
  assert config.sample.num_samples == 5000
  assert 'class head' not in capsys.readouterr().out
  config = load('own_images:cpu', **few)
  assert config.sample.num_samples == 10_000
  assert '20% of the budget' in capsys.readouterr().out


MANY = {**HEAD, 'privacy__num_examples': '40000', 'data__channels': '1'}


def test_many_classes_of_many_records_start_from_gaussians(capsys) -> None:
  """For a twentieth of the budget; no private draw is noisier than the start.

  With few classes, or with noisier covariances, the recipe stays as it was.
  """
  config = load('own_images:cpu', **MANY)
  (entry,) = config.finetune.class_gaussians.entries()
  whole = gaussian_calibration.calibrate(
    10.0, 1e-5, l2_sensitivity=1.0, purpose='x'
  )
  ratio = (whole.noise_multiplier / entry.noise_multiplier) ** 2
  assert ratio == pytest.approx(0.05, rel=1e-3)
  assert config.sample.sampler.first_timestep == 499
  weights = timesteps.probabilities(config.finetune_diffusion())
  assert weights[:500].sum() == pytest.approx(1) and weights[:500].min() > 0
  assert '5% of the budget' in capsys.readouterr().out
  for changes in (
    {'data__class_names': 'a,b'},
    {'privacy__num_examples': '10000'},
    {'data__channels': '3'},
    {'privacy__epsilon': '1'},
    {'privacy__epsilon': 'inf'},
    {'sample__sampler__num_steps': '501'},
  ):
    config = load('own_images:cpu', **{**MANY, **changes})
    assert not config.finetune.class_gaussians.is_used
    assert not config.sample.sampler.first_timestep
    assert config.finetune.mixture_boundaries == (0, 250, 1000)
  assert 'mean and the covariance' not in capsys.readouterr().out
  assert not load('own_images:one_gpu', **MANY).sample.sampler.first_timestep


@pytest.mark.parametrize(
  'typed',
  [
    {'finetune__class_gaussians__noise_multiplier': '0'},
    {'finetune__mixture_boundaries': '()', 'finetune__mixture_weights': '()'},
    {'sample__sampler__first_timestep': '0'},
  ],
)
def test_one_key_is_enough_for_no_gaussians(typed: dict[str, str]) -> None:
  config = load('own_images:cpu', **MANY, **typed)
  assert not config.finetune.class_gaussians.is_used
  assert not config.sample.sampler.first_timestep
  assert config.finetune.class_head.is_used


def test_the_number_of_steps_may_be_solved_for() -> None:
  config = load(
    'own_images:cpu',
    **OWN,
    privacy__num_examples='9000',
    privacy__solve_for='num_steps',
    privacy__noise_multiplier='2',
    privacy__num_steps='None',
  )
  assert config.privacy.num_steps is None


@pytest.mark.parametrize(
  ('name', 'has_gaussians'),
  [
    ('mnist', True),
    ('fashion_mnist', True),
    ('cifar10', False),
    ('camelyon', False),
  ],
)
def test_named_sets_have_a_class_head_too(
  name: str, has_gaussians: bool, capsys
) -> None:
  """Its noise follows from the epsilon that is typed."""
  heads = []
  for epsilon in ('10', '1'):
    config = load(f'{name}:cpu', privacy__epsilon=epsilon)
    heads.append(config.finetune.class_head)
    assert config.sample.labels_from_head
    assert config.sample.sampler.max_tries == 1
    assert 'class head' in capsys.readouterr().out
    if epsilon == '10':
      assert config.finetune.class_gaussians.is_used == has_gaussians
  assert heads[0].scattering and heads[1].scattering
  mu = [head.num_steps**0.5 / head.noise_multiplier for head in heads]
  assert mu[0] > 3 * mu[1]
  for variant in (':smoke,cpu', ':one_gpu', ''):
    assert not load(name + variant).finetune.class_head.is_used
  off = {'finetune__class_head__num_steps': '0'}
  config = load(f'{name}:cpu', **off)
  assert not config.finetune.class_head.is_used
  tries = config.sample.sampler.max_tries
  assert tries == (4 if name == 'camelyon' else 1)
