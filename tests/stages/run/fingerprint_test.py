"""What several processes compare, and what names a run."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion.data import registry
from dp_diffusion.models import weights
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.stages import finetune
from dp_diffusion.stages.run import assembly
from dp_diffusion.stages.run import budget
from dp_diffusion.stages.run import fingerprint
from dp_diffusion.stages.run import interrupts
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import processes
from tests.stages import command

pytestmark = pytest.mark.usefixtures('one_device')

SECRET = key_streams.Secret.insecure(0)


class Disagree(Exception):
  """Stands for the refusal of `processes.agree`."""


def load(**changes: str) -> config_lib.Config:
  named = {key.replace('__', '.'): text for key, text in changes.items()}
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


@pytest.fixture(scope='module')
def config() -> config_lib.Config:
  return load()


@pytest.fixture(scope='module')
def source(config):
  return registry.load(config.data)


@pytest.fixture(scope='module')
def params(config):
  return assembly.init_params(config, config.data)


def test_processes_compare_all_facts(
  config, source, params, tmp_path, monkeypatch
) -> None:
  """Before a checkpoint is looked for."""
  compared = {}

  def refuse(facts):
    compared.update(facts)
    raise Disagree

  monkeypatch.setattr(processes, 'agree', refuse)
  workdir = workdirs.open_workdir(str(tmp_path / 'run'))
  SECRET.save(workdir.private / 'secret')
  weights.save_npz(workdir.public_weights, weights.flatten(params))
  with pytest.raises(Disagree):
    finetune.run(config, workdir, interrupts.Stop(''))
  mechanism = budget.calibrate(config).mechanism
  facts = fingerprint.make(config, mechanism, source, SECRET, params)
  assert compared == {
    k: json.dumps(v, sort_keys=True) for k, v in facts.items()
  }
  assert set(facts) == {
    'mechanism',
    'training',
    'start',
    'dataset',
    'secret',
    'versions',
    'rng',
  }
  assert {'jax', 'jaxlib', 'numpy', 'optax'} <= set(facts['versions'])


def test_each_fact_is_told_apart(config, source, params, monkeypatch) -> None:
  mechanism = budget.calibrate(config).mechanism

  def make(config=config, mechanism=mechanism, source=source, secret=SECRET):
    return fingerprint.make(config, mechanism, source, secret, params)

  facts = make()
  assert facts == make()
  turned = np.r_[1, 0, 2 : len(source.labels)]
  data = {
    'order': dataclasses.replace(
      source, images=source.images[turned], labels=source.labels[turned]
    ),
    'labels': dataclasses.replace(source, labels=source.labels[::-1]),
    'persons': dataclasses.replace(
      source,
      spec=dataclasses.replace(source.spec, has_person=True),
      person=source.labels,
    ),
  }
  for other in data.values():
    assert make(source=other)['dataset'] != facts['dataset']
  other = make(secret=key_streams.Secret.insecure(1))
  assert other['secret'] != facts['secret']
  noise = dataclasses.replace(mechanism, noise_multiplier=1.3)
  assert make(mechanism=noise)['mechanism'] != facts['mechanism']
  ids = {
    fingerprint.run_id(SECRET, f) for f in (facts, other, make(mechanism=noise))
  }
  assert len(ids) == 3
  with monkeypatch.context() as patch:
    patch.setattr(key_streams, 'rng_test_vector', lambda: 'another')
    assert make()['rng'] == 'another'
  # Other versions do not begin another run, they go on with this one.
  moved = {**facts, 'versions': {'jax': '0'}}
  assert fingerprint.run_id(SECRET, moved) == fingerprint.run_id(SECRET, facts)
  fingerprint.check_same(facts, moved)
  # Nothing here tells anything of the images to who does not have the secret.
  assert (
    facts['dataset'] != make(secret=key_streams.Secret.insecure(1))['dataset']
  )


@pytest.mark.parametrize(
  ('changes', 'is_other'),
  [
    ({'data__reflect_pad': '2'}, True),
    ({'data__flip': 'true'}, True),
    ({'seed': '5'}, True),
    ({'model__dropout': '0.1'}, True),
    ({'diffusion__schedule': 'linear'}, True),
    ({'finetune__augmult': '4'}, True),
    ({'finetune__trainable': "('out*',)"}, True),
    ({'finetune__rescale_to_unit_norm': 'false'}, True),
    ({'finetune__gradient_scales': "('out*=2',)"}, True),
    (
      {
        'sample__labels': 'noised_histogram',
        'privacy__label_histogram_noise_multiplier': '9',
      },
      True,
    ),
    ({'finetune__microbatch_size': '3'}, False),
    ({'finetune__checkpoint_every_steps': '3'}, False),
  ],
  ids=lambda value: '-'.join(value) if isinstance(value, dict) else None,
)
def test_each_setting_of_a_step_names_the_run(
  config, source, params, changes: dict[str, str], is_other: bool
) -> None:
  """With one secret, the noise of two settings would otherwise cancel."""
  mechanism = budget.calibrate(config).mechanism
  ids = {
    fingerprint.run_id(
      SECRET, fingerprint.make(one, mechanism, source, SECRET, params)
    )
    for one in (config, load(**changes))
  }
  assert len(ids) == 1 + is_other


def test_what_changes_no_step_alone_is_left_out(config) -> None:
  every = config_lib.to_dict(config.finetune)
  named = fingerprint.lasting(config.finetune)
  assert set(every) - set(named) == {
    'microbatch_size',
    'draw_chunk_size',
    'checkpoint_every_steps',
  }
  assert named == {key: every[key] for key in named}


@pytest.mark.parametrize('place', [0, -1])
def test_each_image_is_part_of_the_dataset(source, place) -> None:
  """A resume on other images would spend more than its ledger says."""
  images = np.array(source.images)
  images[place, -1, -1] ^= 1
  other = dataclasses.replace(source, images=images)
  before = fingerprint.dataset(SECRET, source)
  assert fingerprint.dataset(SECRET, other) != before


def test_every_fact_but_the_versions_names_the_run() -> None:
  names = 'mechanism training start dataset secret versions rng'.split()
  facts = dict.fromkeys(names, 'before')
  run_id = fingerprint.run_id(SECRET, facts)
  for name in names:
    is_same = fingerprint.run_id(SECRET, {**facts, name: 'now'}) == run_id
    assert is_same == (name == 'versions'), name


def test_the_persons_are_part_of_the_dataset(source) -> None:
  """Other persons are other records: their noise must be another draw."""
  spec = dataclasses.replace(source.spec, has_person=True)
  found = set()
  for per_person in (1, 2):
    person = np.arange(len(source.labels), dtype=np.int32) // per_person
    people = dataclasses.replace(source, spec=spec, person=person)
    found.add(fingerprint.dataset(SECRET, people))
  assert len({*found, fingerprint.dataset(SECRET, source)}) == 3


def test_other_first_weights_are_another_run(config, source, params) -> None:
  """With one secret, two runs would otherwise add the same noise."""
  mechanism = budget.calibrate(config).mechanism
  moved = jax.tree.map(np.array, params)
  jax.tree.leaves(moved)[-1].flat[-1] += 1e-6
  entry = ledger_lib.InheritedEntry(
    ledger=ledger_lib.Ledger(
      delta=mechanism.delta,
      budget_epsilon=1.0,
      entries=(ledger_lib.DpSgdEntry(mechanism=mechanism, num_steps=2),),
    ).seal(),
    source='the release of x',
  )
  keys = set()
  for start, inherited in ((params, ()), (moved, ()), (params, (entry,))):
    facts = fingerprint.make(
      config, mechanism, source, SECRET, start, inherited
    )
    streams = key_streams.KeyStreams(
      secret=SECRET, run_id=fingerprint.run_id(SECRET, facts)
    )
    keys.add(np.asarray(jax.random.key_data(streams.noise_keys(0))).tobytes())
  assert len(keys) == 3
