from __future__ import annotations

import dataclasses
import json

import dp_accounting
from dp_accounting import rdp
from jax_privacy import accounting as jax_privacy_accounting
from jax_privacy.matrix_factorization import toeplitz
import numpy as np
import pytest

from dp_diffusion import errors
from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import banded_sgd
from dp_diffusion.privacy import batch_selection
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.privacy import statement as statement_lib

MECHANISM = banded_sgd.BandedSgdMechanism(
  num_examples=1000,
  expected_batch_size=50,
  num_steps=10,
  noise_multiplier=2.0,
  l2_clip_norm=0.3,
  delta=1e-4,
  num_bands=4,
)
CONFIG = accounting.PrivacyConfig(
  epsilon=6.0,
  delta=1e-4,
  num_steps=10,
  expected_batch_size=50,
  num_examples=1000,
  l2_clip_norm=0.3,
  num_bands=4,
)


@pytest.mark.parametrize(
  ('num_steps', 'num_bands'), [(1, 2), (7, 2), (8, 2), (9, 4), (30, 20)]
)
def test_epsilon_is_that_of_jax_privacy(num_steps, num_bands):
  mechanism = dataclasses.replace(
    MECHANISM, num_steps=num_steps, num_bands=num_bands
  )
  oracle = jax_privacy_accounting.DpsgdTrainingAccountant(
    dp_accountant_config=jax_privacy_accounting.RdpAccountantConfig(
      orders=rdp.rdp_privacy_accountant.DEFAULT_RDP_ORDERS
    )
  ).compute_epsilon(
    num_steps,
    jax_privacy_accounting.DpParams(
      noise_multipliers=2.0,
      batch_size=50,
      num_samples=1000,
      delta=1e-4,
      cycle_length=num_bands,
    ),
  )
  found = accounting.epsilon([mechanism.dp_event()], 1e-4, 'rdp')
  assert found == pytest.approx(oracle, rel=1e-6)


def test_part_of_a_training_costs_its_rounds():
  rounds = [MECHANISM.dp_event(n) for n in range(1, 11)]
  counts = [event.count for event in rounds]
  assert counts == [1, 1, 1, 1, 2, 2, 2, 2, 3, 3]
  assert rounds[-1] == MECHANISM.dp_event()
  assert rounds[0].event == dp_accounting.PoissonSampledDpEvent(
    0.2, dp_accounting.GaussianDpEvent(2.0)
  )
  assert MECHANISM.dp_event(0) == dp_accounting.NoOpDpEvent()


@pytest.mark.parametrize('num_bands', [2, 3, 16])
def test_strategy_is_that_of_jax_privacy(num_bands):
  found = dataclasses.replace(MECHANISM, num_bands=num_bands).noise_strategy
  oracle = np.asarray(toeplitz.optimal_max_error_strategy_coefs(num_bands))
  np.testing.assert_allclose(
    found, oracle / np.linalg.norm(oracle), rtol=1e-6, atol=0
  )


@pytest.mark.parametrize('num_bands', [2, 5])
def test_columns_meet_the_theorem(num_bands):
  strategy = dataclasses.replace(MECHANISM, num_bands=num_bands).noise_strategy
  columns = np.zeros((20, 20))
  for step in range(20):
    length = min(num_bands, 20 - step)
    columns[step : step + length, step] = strategy[:length]
  gram = columns.T @ columns
  assert np.all(np.diag(gram) <= 1 + 1e-12)
  assert gram[0, 0] == pytest.approx(1.0, abs=1e-12)
  steps = np.arange(20)
  apart = np.abs(steps[:, None] - steps) >= num_bands
  assert np.all(gram[apart] == 0) and gram[0, num_bands - 1] > 0.05


def make_selector(num_records=4000, **changes):
  return batch_selection.PoissonSelector(
    secret=bytes(32),
    run_id='run',
    num_records=num_records,
    sampling_prob=MECHANISM.sampling_prob,
    num_groups=MECHANISM.num_groups,
    **changes,
  )


def test_records_take_part_in_turn():
  selector = make_selector()
  num_steps = 200
  taken = np.zeros((num_steps, 4000), bool)
  for step in range(num_steps):
    taken[step, selector.select(step)] = True
  by_group = taken.reshape(50, 4, 4000).sum(axis=0)
  assert np.all((by_group > 0).sum(axis=0) <= 1)  # One group for each record.
  sizes = (by_group > 0).sum(axis=1)
  assert np.all(np.abs(sizes - 1000) < 5 * np.sqrt(4000 * 3 / 16))
  # The rate of plain DP-SGD over all steps: expected_batch_size of the records.
  rate = taken.mean()
  assert abs(rate - 0.05) < 5 * np.sqrt(0.05 / taken.size)


def test_a_record_more_changes_no_other():
  fewer, more = make_selector(500), make_selector(501)
  for step in range(8):
    kept = more.select(step)
    np.testing.assert_array_equal(fewer.select(step), kept[kept < 500])


def test_replayed_steps_are_charged():
  entry = banded_sgd.BandedSgdEntry(mechanism=MECHANISM)
  ledger = ledger_lib.Ledger(delta=1e-4, entries=(entry,)).with_steps(6)
  (event,) = ledger.charge_replayed(3).dp_events()
  assert event.count == 2 + 3
  # Wherever a run breaks off, no record took part more often than charged.
  for stop in range(1, 11):
    for begin in range(stop):
      for group in range(4):
        part = len([t for t in range(stop) if t % 4 == group])
        part += len([t for t in range(begin, 10) if t % 4 == group])
        assert part <= MECHANISM.dp_event(10, stop - begin).count


def test_round_trip():
  entry = banded_sgd.BandedSgdEntry(
    mechanism=MECHANISM, num_steps=7, num_replayed_steps=1
  )
  ledger = ledger_lib.Ledger(delta=1e-4, entries=(entry,))
  assert ledger_lib.Ledger.from_json(json.dumps(ledger.to_json())) == ledger
  (stored,) = ledger.to_json()['events']
  assert stored['kind'] == 'banded_dp_sgd'
  assert stored['mechanism']['num_bands'] == 4
  del stored['mechanism']['num_bands']
  with pytest.raises(ValueError, match="missing: \\['num_bands'\\]"):
    banded_sgd.BandedSgdEntry.from_json(stored)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'num_bands': 1}, 'num_bands=1'),
    ({'num_bands': 21}, r'num_bands=21 to be <= num_examples'),
    ({'num_bands': 2.5}, 'num_bands'),
    ({'noise_multiplier': -1}, 'noise_multiplier'),
  ],
)
def test_bad_value_is_refused(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(MECHANISM, **change)
  if 'num_bands' in change and change['num_bands'] != 1:
    with pytest.raises(ValueError, match=message):
      dataclasses.replace(CONFIG, **change)


def test_config_chooses_the_kind_and_calibration_keeps_the_promise():
  found = accounting.calibrate(CONFIG)
  assert found.mechanism.to_dict().keys() == MECHANISM.to_dict().keys()
  assert found.epsilon <= 6.0
  ledger = ledger_lib.start(found.mechanism, CONFIG).with_steps(10)
  assert ledger.epsilon() == found.epsilon
  with pytest.raises((errors.UsageError, ValueError)):
    ledger.with_steps(1)
  plain = dataclasses.replace(CONFIG, num_bands=1)
  assert type(plain.mechanism(2.0, 10)) is mechanism_lib.DpSgdMechanism


def test_statement_says_what_was_done():
  entry = banded_sgd.BandedSgdEntry(mechanism=MECHANISM, num_steps=10)
  ledger = ledger_lib.Ledger(delta=1e-4, entries=(entry,))
  found = statement_lib.statement(
    ledger,
    dataset='shapes',
    insecure_secret=False,
    code_revision='a',
    versions={},
  )
  card = statement_lib.card(found)
  assert '4 groups of 1000 records took turns' in card
  assert 'probability 0.2 (50 expected)' in card
  assert 'drawn at random for each' in card and 'C^-1 z' in card
  assert 'Gaussian noise is added once to that sum' not in card
  assert statement_lib.number(found, 'noise_multiplier') == 2.0
  assert 'noise of 4 bands' in ledger.summary()[-1]
  assert 'from 1 of 4 groups' in MECHANISM.selection


def test_accumulated_noise_is_that_of_the_matrix():
  matrix = sum(
    c * np.eye(10, k=-k) for k, c in enumerate(MECHANISM.noise_strategy)
  )
  # Row t of the prefix sums of C^-1 is the noise of t + 1 steps together.
  last = np.tril(np.ones((10, 10)))[-1] @ np.linalg.inv(matrix)
  assert MECHANISM.accumulated_noise == pytest.approx(
    2.0 * np.linalg.norm(last)
  )
  plain = dataclasses.replace(CONFIG, num_bands=1).mechanism(2.0, 10)
  assert plain.accumulated_noise == pytest.approx(2.0 * np.sqrt(10))
