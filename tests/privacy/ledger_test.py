from __future__ import annotations

import bisect
import copy
import dataclasses
import json
import math

import dp_accounting
from hypothesis import given
from hypothesis import strategies as st
import pytest

from dp_diffusion import errors
from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import banded_sgd
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import mechanism as mechanism_lib

CONFIG = accounting.PrivacyConfig(
  epsilon=3.0,
  delta=1e-4,
  num_steps=40,
  expected_batch_size=100,
  num_examples=1000,
  l2_clip_norm=0.3,
)
HISTOGRAM = ledger_lib.GaussianEntry(
  kind='noised_histogram',
  mechanism=mechanism_lib.GaussianMechanism(
    noise_multiplier=8.0, l2_sensitivity=1.0, purpose='label histogram'
  ),
)


@pytest.fixture(scope='module')
def calibration():
  return accounting.calibrate(CONFIG)


@pytest.fixture
def ledger(calibration):
  return ledger_lib.start(calibration.mechanism, CONFIG)


@pytest.fixture
def rich_ledger(calibration):
  """One entry of each kind."""
  release = ledger_lib.start(calibration.mechanism, CONFIG).with_steps(40)
  before = (
    ledger_lib.InheritedEntry(ledger=release.seal(), source='release of 2024'),
    HISTOGRAM,
    dataclasses.replace(HISTOGRAM, kind='gaussian'),
  )
  config = dataclasses.replace(CONFIG, epsilon=6.0)
  ledger = ledger_lib.start(calibration.mechanism, config, before=before)
  return ledger.with_steps(7).charge_replayed(3)


def test_event_calibrated_is_event_spent(calibration, ledger):
  spent = ledger.with_steps(40)
  assert spent.dp_events() == (calibration.mechanism.dp_event(),)
  assert spent.epsilon() == calibration.epsilon_pld
  assert spent.epsilon('rdp') == calibration.epsilon_rdp
  for _ in range(40):
    ledger = ledger.with_steps(1)
  assert ledger == spent
  read = ledger_lib.Ledger.from_json(json.dumps(spent.to_json()))
  assert read.dp_events() == (calibration.mechanism.dp_event(),)


def test_nothing_spent_is_nothing(ledger):
  assert ledger.dp_events() == ()
  assert ledger.epsilon() == 0


def test_ledger_never_changes(ledger):
  before = copy.deepcopy(ledger)
  ledger.with_steps(3)
  ledger.charge_replayed(3)
  ledger.seal()
  ledger.add(HISTOGRAM)
  assert ledger == before
  with pytest.raises(dataclasses.FrozenInstanceError):
    ledger.delta = 0.5


@pytest.mark.parametrize(('share', 'is_refused'), [(1.0, False), (1e-5, True)])
def test_a_budget_is_kept_to_its_last_digits(calibration, share, is_refused):
  """A hundred-thousandth too much is too much; only rounding is let through."""
  cost = accounting.epsilon([calibration.mechanism.dp_event(17)], 1e-4)
  budget = cost if share == 1 else cost * (1 - share)
  config = dataclasses.replace(CONFIG, epsilon=budget)
  ledger = ledger_lib.start(calibration.mechanism, config)
  assert ledger.would_exceed(17) == is_refused


@pytest.mark.parametrize('num_steps', [1, 17, 39])
def test_partial_spending_is_below_the_whole(calibration, ledger, num_steps):
  part = ledger.with_steps(num_steps)
  assert 0 < part.epsilon() < calibration.epsilon_pld
  event = calibration.mechanism.dp_event(num_steps)
  assert part.epsilon() == accounting.epsilon([event], 1e-4)


def test_more_than_the_planned_steps_is_asked_in_vain(ledger):
  """That all planned steps fit says nothing about more of them."""
  assert not ledger.would_exceed(40)
  assert ledger.would_exceed(80)


def test_lost_steps_of_an_inherited_release_still_count(calibration):
  release = ledger_lib.start(
    calibration.mechanism, dataclasses.replace(CONFIG, epsilon=6.0)
  )
  release = release.with_steps(20).charge_replayed(5).seal()
  entry = ledger_lib.InheritedEntry(ledger=release, source='of 2024')
  assert entry.dp_events() == (calibration.mechanism.dp_event(25),)


def test_everything_that_a_release_had_spent_counts(rich_ledger):
  """Its histogram, and what it had inherited, not its last training alone."""
  events = rich_ledger.dp_events()
  first = ledger_lib.InheritedEntry(ledger=rich_ledger.seal(), source='first')
  release = ledger_lib.Ledger(delta=1e-4, entries=(first, HISTOGRAM))
  second = ledger_lib.InheritedEntry(ledger=release, source='second')
  for entry, expected in (
    (first, events),
    (second, (*events, HISTOGRAM.mechanism.dp_event())),
  ):
    assert entry.dp_events() == entry.dp_events(5) == expected
    assert entry.declared_counts() == rich_ledger.declared_counts()
    assert len(entry.declared_counts()) == 2  # Of two trainings.
    assert entry.training_assumptions() == rich_ledger.training_assumptions()
    lines = '\n'.join(entry.describe())
    for line in (line for e in rich_ledger.entries for line in e.describe()):
      assert line.strip() in lines


def test_spending_past_the_budget_is_refused(calibration):
  # A budget below what the whole mechanism costs: it can be begun, not ended.
  config = dataclasses.replace(CONFIG, epsilon=2.0)
  ledger = ledger_lib.start(calibration.mechanism, config)

  def cost(num_steps):
    event = calibration.mechanism.dp_event(num_steps)
    return accounting.epsilon([event], 1e-4)

  most = bisect.bisect_right(range(1, 41), 2.0, key=cost)
  assert 0 < most < 40
  assert cost(most) <= 2.0 < cost(most + 1)
  assert not ledger.would_exceed(most)
  assert ledger.would_exceed(most + 1)
  ledger.check_can_spend(most)
  with pytest.raises(errors.UsageError, match='within epsilon=2: the tot'):
    ledger.check_can_spend(most + 1)
  full = ledger.with_steps(most)
  assert full.epsilon() <= 2.0
  with pytest.raises(errors.UsageError, match='1 more steps'):
    full.with_steps(1)
  with pytest.raises(errors.UsageError, match='this event'):
    full.add(
      dataclasses.replace(
        HISTOGRAM,
        mechanism=dataclasses.replace(HISTOGRAM.mechanism, noise_multiplier=1),
      )
    )


def test_planned_steps_are_accounted_once(ledger, monkeypatch):
  ledger.check_can_spend(40)  # Kept in memory from here on.
  monkeypatch.setattr(
    accounting, '_compose', lambda *_: pytest.fail('composed again')
  )
  for _ in range(40):
    ledger = ledger.with_steps(1)


def test_charges_of_replayed_steps_add_up(ledger):
  twice = ledger.with_steps(4).charge_replayed(3).charge_replayed(2)
  assert twice.entries[-1].num_replayed_steps == 5
  assert twice == ledger.charge_replayed(2).with_steps(4).charge_replayed(3)
  assert twice.dp_events()[0].count == 9


def test_replayed_steps_are_charged(calibration, ledger):
  lost = ledger.with_steps(10).charge_replayed(5)
  assert lost.dp_events() == (calibration.mechanism.dp_event(15),)
  assert lost.entries[0].num_steps == 10
  # The budget was for 40 steps: 30 more are 5 too many.
  lost.check_can_spend(25)
  with pytest.raises(errors.UsageError, match='30 more steps'):
    lost.check_can_spend(30)
  # What is spent is spent, whatever the budget says.
  beyond = lost.charge_replayed(100)
  assert beyond.epsilon() > beyond.budget_epsilon


def test_steps_beyond_the_mechanism_are_refused(calibration):
  config = dataclasses.replace(CONFIG, epsilon=100.0)
  ledger = ledger_lib.start(calibration.mechanism, config)
  with pytest.raises(ValueError, match='num_steps=41 to be <= the 40 steps'):
    ledger.with_steps(41)
  with pytest.raises(ValueError, match='num_steps=-1 to be >= 0'):
    ledger.with_steps(-1)
  with pytest.raises(ValueError, match='num_steps=1.0 to be an integer'):
    ledger.with_steps(1.0)


def test_sealed_training_goes_no_further(ledger):
  sealed = ledger.with_steps(4).seal()
  with pytest.raises(errors.UsageError, match='is sealed'):
    sealed.with_steps(1)
  assert sealed.epsilon() == ledger.with_steps(4).epsilon()


def test_every_kind_of_event_counts(rich_ledger, calibration):
  events = (
    calibration.mechanism.dp_event(),
    HISTOGRAM.mechanism.dp_event(),
    HISTOGRAM.mechanism.dp_event(),
    calibration.mechanism.dp_event(10),
  )
  assert rich_ledger.dp_events() == events
  for accountant in accounting.ACCOUNTANTS:
    total = rich_ledger.epsilon(accountant)
    assert total == accounting.epsilon(events, 1e-4, accountant)
    for i in range(4):
      rest = events[:i] + events[i + 1 :]
      assert accounting.epsilon(rest, 1e-4, accountant) < total


def test_inherited_ledger_leaves_less(calibration):
  release = ledger_lib.start(calibration.mechanism, CONFIG).with_steps(40)
  before = [ledger_lib.InheritedEntry(ledger=release, source='first')]
  spent = [event for entry in before for event in entry.dp_events()]
  config = dataclasses.replace(CONFIG, epsilon=4.0)
  second = accounting.calibrate(config, spent=spent).mechanism
  ledger = ledger_lib.start(second, config, before=before).with_steps(40)
  assert 3.9 < ledger.epsilon() <= 4.0
  with pytest.raises(errors.UsageError, match='this event'):
    tight = dataclasses.replace(CONFIG, epsilon=1.0)
    ledger_lib.start(second, tight, before=before)


def test_no_noise_is_infinite():
  config = dataclasses.replace(CONFIG, epsilon=math.inf)
  mechanism = accounting.calibrate(config).mechanism
  ledger = ledger_lib.start(mechanism, config).with_steps(40)
  assert ledger.epsilon() == ledger.epsilon('rdp') == math.inf
  assert ledger.to_json()['budget_epsilon'] is None
  assert ledger_lib.Ledger.from_json(ledger.to_json()) == ledger
  assert 'epsilon inf' in ledger.summary()[0]


def test_no_noise_is_refused_under_a_budget(calibration):
  noiseless = dataclasses.replace(calibration.mechanism, noise_multiplier=0)
  ledger = ledger_lib.start(noiseless, CONFIG)
  with pytest.raises(errors.UsageError, match='total would be inf'):
    ledger.with_steps(1)


def test_computed_epsilon_is_the_budget():
  config = dataclasses.replace(
    CONFIG, epsilon=None, noise_multiplier=2.0, solve_for='epsilon'
  )
  calibration = accounting.calibrate(config)
  ledger = ledger_lib.start(calibration.mechanism, config)
  assert ledger.budget_epsilon == calibration.epsilon_pld
  assert ledger.with_steps(40).epsilon() == calibration.epsilon_pld


def test_relation_and_unit_are_stated(rich_ledger):
  value = rich_ledger.to_json()
  assert value['relation'] == 'add_or_remove_one'
  assert value['unit'] == 'image'
  with pytest.raises(ValueError, match='inherited ledger'):
    dataclasses.replace(rich_ledger, unit='person')
  with pytest.raises(ValueError, match="relation='replace_one'"):
    dataclasses.replace(rich_ledger, relation='replace_one')
  with pytest.raises(ValueError, match='delta=0.0001 of the mechanism'):
    dataclasses.replace(rich_ledger, delta=1e-5)


def test_summary_says_spent_and_left(ledger):
  lines = '\n'.join(ledger.with_steps(7).summary())
  assert '7 of 40 steps' in lines
  assert 'left' in lines and 'of 3' in lines


def test_summary_rounds_no_bound_down(ledger, monkeypatch):
  monkeypatch.setattr(accounting, 'epsilon', lambda *_: 1.2345612)
  spent = dataclasses.replace(ledger, budget_epsilon=math.inf).summary()[0]
  assert 'epsilon 1.23457 by PLD, 1.23457 by RDP' in spent
  left = dataclasses.replace(ledger, budget_epsilon=2.0).summary()[1]
  assert 'epsilon 0.765438 of 2' in left  # Never more than there is.
  with pytest.raises(errors.UsageError, match='would be 1.23457;'):
    dataclasses.replace(ledger, budget_epsilon=1.0).with_steps(1)


def test_each_event_is_described_by_its_numbers():
  """To the user who trains, and on the card."""
  numbers = {
    'num_examples': 1000,
    'expected_batch_size': 100,
    'num_steps': 40,
    'noise_multiplier': 2.5,
    'l2_clip_norm': 0.3,
    'delta': 1e-4,
  }
  plain, banded = (
    dataclasses.replace(
      ledger_lib.begin(mechanism), num_steps=39, num_replayed_steps=2
    )
    for mechanism in (
      mechanism_lib.DpSgdMechanism(**numbers),
      banded_sgd.BandedSgdMechanism(**numbers, num_bands=4),
    )
  )
  total = ledger_lib.GaussianEntry(
    mechanism=mechanism_lib.GaussianMechanism(
      noise_multiplier=8.0, l2_sensitivity=0.5, purpose='a sum', count=3
    )
  )
  assert [entry.summary() for entry in (plain, banded, total)] == [
    'DP-SGD, 39 of 40 steps (2 replayed), noise multiplier 2.5, sampling'
    ' probability 0.1',
    'DP-SGD with noise of 4 bands, 39 of 40 steps (2 replayed), noise'
    ' multiplier 2.5, sampling probability 0.4 of a group',
    'a sum (3 times), noise multiplier 8',
  ]
  assert [entry.describe() for entry in (plain, banded, total)] == [
    [
      'DP-SGD: 39 steps; at each, every one of 1000 records was selected with'
      ' probability 0.1 (100 expected), its gradient clipped to norm 0.3, and'
      ' Gaussian noise of 2.5 times the clip norm added to the sum. 2 lost'
      ' steps are charged besides.'
    ],
    [
      'DP-SGD with correlated noise: 39 steps, at which 4 groups of 1000'
      ' records took turns; each record of the group was selected with'
      ' probability 0.4 (100 expected), its gradient clipped to norm 0.3, and'
      ' Gaussian noise of 2.5 times the clip norm added to the sum through a'
      ' matrix of 4 bands. 2 lost steps are charged besides.'
    ],
    [
      'a sum (gaussian), 3 time(s), with Gaussian noise of std 4 (noise'
      ' multiplier 8, sensitivity 0.5).'
    ],
  ]


def test_round_trip(rich_ledger, ledger):
  for one in (rich_ledger, ledger, ledger_lib.Ledger(delta=1e-5)):
    text = json.dumps(one.to_json(), allow_nan=False)
    assert ledger_lib.Ledger.from_json(text) == one
    assert ledger_lib.Ledger.from_json(json.loads(text)) == one


@given(
  noise=st.floats(1e-3, 1e3),
  delta=st.floats(1e-12, 0.5),
  num_steps=st.integers(0, 50),
  num_replayed=st.integers(0, 10**6),
)
def test_round_trip_to_the_bit(noise, delta, num_steps, num_replayed):
  mechanism = mechanism_lib.DpSgdMechanism(
    num_examples=10**6 + 1,
    expected_batch_size=333,
    num_steps=50,
    noise_multiplier=noise,
    l2_clip_norm=1.0,
    delta=delta,
  )
  entry = ledger_lib.DpSgdEntry(
    mechanism=mechanism, num_steps=num_steps, num_replayed_steps=num_replayed
  )
  ledger = ledger_lib.Ledger(delta=delta, entries=(entry,))
  text = json.dumps(ledger.to_json())
  read = ledger_lib.Ledger.from_json(text)
  assert read.dp_events() == ledger.dp_events()
  assert json.dumps(read.to_json()) == text


def paths(value, path=()):
  """Every position in nested JSON."""
  yield path
  children = (
    value.items()
    if isinstance(value, dict)
    else enumerate(value)
    if isinstance(value, list)
    else ()
  )
  for key, child in children:
    yield from paths(child, (*path, key))


def changed(value, path, new):
  value = copy.deepcopy(value)
  parent = value
  for key in path[:-1]:
    parent = parent[key]
  if new is ...:
    del parent[path[-1]]
  else:
    parent[path[-1]] = new
  return value


def test_damaged_ledger_is_refused(rich_ledger):
  value = rich_ledger.to_json()
  positions = [path for path in paths(value) if path]
  assert len(positions) > 40
  for path in positions:
    for new in (..., [], {}, 'x\ny', True, -1, math.nan, [[]]):
      if new is ... and isinstance(path[-1], int):
        continue  # An event less is another ledger, not a damaged one.
      if new == [] and path[-1] == 'events':
        continue
      if new is True and path[-1] == 'is_sealed':
        continue
      with pytest.raises(ValueError, match='Expected') as e:
        ledger_lib.Ledger.from_json(changed(value, path, new))
      assert '\n' not in str(e.value), (path, new)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', 'found an error'),
    ('null', 'to be an object'),
    ('{"version": 1}', 'missing'),
    ('{"delta": NaN}', 'NaN'),
  ],
)
def test_bad_text_is_refused(text, message):
  with pytest.raises(ValueError, match=message):
    ledger_lib.Ledger.from_json(text)


def test_other_versions_and_unknown_keys_are_refused(ledger):
  value = ledger.to_json()
  with pytest.raises(ValueError, match='version 1'):
    ledger_lib.Ledger.from_json({**value, 'version': 2})
  with pytest.raises(ValueError, match="unknown: \\['extra'\\]"):
    ledger_lib.Ledger.from_json({**value, 'extra': 0})


def test_deep_nesting_is_refused(ledger):
  value = ledger.to_json()
  for _ in range(400):
    value = {
      **ledger.to_json(),
      'events': [{'kind': 'inherited', 'source': 'x', 'ledger': value}],
    }
  with pytest.raises(ValueError, match='deeply nested'):
    ledger_lib.Ledger.from_json(value)


def test_entries_are_checked():
  with pytest.raises(ValueError, match='an entry of a ledger, not dict'):
    ledger_lib.Ledger(delta=1e-5, entries=({},))
  with pytest.raises(ValueError, match="kind='histogram' to be one of"):
    dataclasses.replace(HISTOGRAM, kind='histogram')
  with pytest.raises(ValueError, match='source to say'):
    ledger_lib.InheritedEntry(ledger=ledger_lib.Ledger(delta=0.1), source='')
  with pytest.raises(ValueError, match='mechanism to be a DpSgdMechanism'):
    ledger_lib.DpSgdEntry(mechanism=HISTOGRAM.mechanism)
  with pytest.raises(ValueError, match='last entry is a DpSgdEntry'):
    ledger_lib.Ledger(delta=0.1).with_steps(1)


def test_events_are_of_dp_accounting(rich_ledger):
  assert all(
    isinstance(e, dp_accounting.DpEvent) for e in rich_ledger.dp_events()
  )
