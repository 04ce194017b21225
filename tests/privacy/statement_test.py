from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re

import pytest

from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.privacy import statement as statement_lib
from dp_diffusion.privacy import statement_words
from dp_diffusion.privacy import strict_json

MECHANISM = mechanism_lib.DpSgdMechanism(
  num_examples=1000,
  expected_batch_size=100,
  num_steps=40,
  noise_multiplier=1.5,
  l2_clip_norm=0.3,
  delta=1e-4,
)
LEDGER = ledger_lib.Ledger(
  delta=1e-4,
  budget_epsilon=10.0,
  entries=(
    ledger_lib.GaussianEntry(
      kind='noised_histogram',
      mechanism=mechanism_lib.GaussianMechanism(
        noise_multiplier=8.0, l2_sensitivity=1.0, purpose='label histogram'
      ),
    ),
    ledger_lib.DpSgdEntry(
      mechanism=MECHANISM, num_steps=40, num_replayed_steps=2
    ),
  ),
)
NOT_PRIVATE = ledger_lib.Ledger(
  delta=1e-4,
  entries=(
    ledger_lib.DpSgdEntry(
      mechanism=dataclasses.replace(MECHANISM, noise_multiplier=0.0),
      num_steps=1,
    ),
  ),
)


def make(ledger=LEDGER, **change):
  return statement_lib.statement(
    ledger,
    **{
      'dataset': 'shapes',
      'insecure_secret': False,
      'code_revision': 'abc',
      'versions': {'jax': '1'},
      **change,
    },
  )


def test_epsilon_is_that_of_the_ledger():
  got = make()
  assert got['epsilon'] == got['epsilon_pld'] == LEDGER.epsilon('pld')
  assert got['epsilon_rdp'] == LEDGER.epsilon('rdp') > got['epsilon']
  assert got['epsilon_bound'] == 'pld'
  assert got['private'] is True
  assert got['delta'] == 1e-4
  assert got['relation'] == 'add_or_remove_one'
  assert got['unit'] == 'image'
  assert statement_lib.parse_ledger(got) == LEDGER


def test_the_bound_that_holds_is_named(monkeypatch):
  by_rdp = LEDGER.epsilon('rdp')
  for by_pld, bound in ((2 * by_rdp, 'rdp'), (math.inf, 'rdp'), (0.1, 'pld')):
    said = {'pld': by_pld, 'rdp': by_rdp}
    monkeypatch.setattr(
      ledger_lib.Ledger, 'epsilon', lambda _, name, said=said: said[name]
    )
    got = make()
    assert got['epsilon_bound'] == bound and got['private']
    assert got['epsilon'] == said[bound] == min(said.values())
    title = {'pld': 'privacy loss distributions', 'rdp': 'Renyi DP'}[bound]
    assert f'by {title}, the smaller of two bounds' in statement_lib.card(got)


@pytest.mark.parametrize('comparison', statement_words.COMPARISONS)
def test_public_data_are_named(comparison):
  images = {'source': 'forms', 'split': 'all', 'images_sha256': 'a' * 64}
  entry = statement_words.public_data(images, comparison, is_part=True)
  got = make(public_data=[entry])
  assert got['public_data'] == [entry]
  assert json.loads(json.dumps(got)) == got
  (line,) = (
    x for x in statement_lib.card(got).splitlines() if '**Public data**' in x
  )
  words = statement_words.COMPARISONS[comparison]
  for part in ('forms', 'split all', 'a' * 64, words, 'another part'):
    assert part in line
  assert '**Public data**: none' in statement_lib.card(make())


@pytest.mark.parametrize(
  'change',
  [{'source': 'two\nlines'}, {'split': 3}, {'images_sha256': 'abc'}, {'x': 1}],
)
def test_public_data_that_are_not_named_are_refused(change):
  images = {'source': 'forms', 'split': '', 'images_sha256': ''}
  entry = {**statement_words.public_data(images, 'unknown'), **change}
  with pytest.raises(ValueError, match='Expected'):
    make(public_data=[entry])


def test_every_event_has_all_its_parameters():
  events = make()['events']
  assert [e['kind'] for e in events] == ['noised_histogram', 'dp_sgd']
  assert events[1]['mechanism'] == MECHANISM.to_dict()
  assert events[1]['num_steps'] == 40
  assert events[1]['num_replayed_steps'] == 2
  assert events[0]['mechanism']['noise_multiplier'] == 8.0


def test_no_noise_is_said():
  got = make(NOT_PRIVATE)
  assert got['private'] is False
  assert got['epsilon'] is got['epsilon_pld'] is got['epsilon_rdp'] is None
  assert 'NO differential-privacy guarantee' in got['statement']
  card = statement_lib.card(got)
  assert 'NO differential-privacy guarantee' in card
  assert 'In plain words' not in card


def test_insecure_secret_is_said():
  assert 'does not hold' not in statement_lib.card(make())
  got = make(insecure_secret=True)
  assert got['insecure_secret'] is True
  assert 'does not hold' in got['statement']
  assert 'does not hold' in statement_lib.card(got)
  # The assumption that it breaks, and no other.
  before, now = (
    {a['assumption']: a['holds'] for a in s['accounting']['assumptions']}
    for s in (make(), got)
  )
  assert before.keys() == now.keys()
  (broken,) = (name for name in now if now[name] != before[name])
  assert broken.startswith('Selection and noise are random')
  assert before[broken].startswith('yes')
  assert now[broken].startswith('NO, the secret was planted')
  assert now[broken] in statement_lib.card(got)


@pytest.mark.parametrize('ledger', [LEDGER, NOT_PRIVATE])
def test_is_strict_json(ledger):
  got = make(ledger)
  assert json.loads(json.dumps(got, allow_nan=False)) == got
  assert strict_json.loads(json.dumps(got)) == got


@pytest.mark.parametrize(
  'topic',
  [
    'Timing',
    'host',
    'computational',
    'floating-point',
    'Hyper-parameters',
    'Several releases',
    'pre-training',
    'held out',
    'Several images of one person',
  ],
)
def test_what_is_not_covered_is_complete(topic):
  got = make()
  assert any(topic in line for line in got['not_covered'])
  assert topic in statement_lib.card(got)


def test_unit_person():
  ledger = dataclasses.replace(LEDGER, unit='person')
  got = make(ledger)
  assert 'all images of one person' in got['unit_in_words']
  assert not any('Several images' in line for line in got['not_covered'])
  assert 'one person of the sensitive data' in got['statement']
  with pytest.raises(ValueError, match="unit='image' to be that of the ledger"):
    statement_lib.check_unit(ledger, 'image')
  statement_lib.check_unit(ledger, 'person')


def test_delta_against_number_of_records():
  words = make()['delta_in_words']
  assert 'With N = 1000 records' in words and 'delta is 0.1 times 1/N' in words
  assert '0.1 records of all 1000' in words and 'too much' not in words
  large = dataclasses.replace(
    LEDGER,
    delta=1e-2,
    entries=(
      ledger_lib.DpSgdEntry(
        mechanism=dataclasses.replace(MECHANISM, delta=1e-2)
      ),
    ),
  )
  assert 'few whole records' in make(large)['delta_in_words']


def test_delta_against_the_largest_number_of_records():
  """Of several trainings: as many records as may have been published."""
  many = dataclasses.replace(MECHANISM, num_examples=5000)
  inherited = ledger_lib.InheritedEntry(
    ledger=dataclasses.replace(
      LEDGER, entries=(ledger_lib.DpSgdEntry(mechanism=many),)
    ),
    source='an earlier release',
  )
  ledger = dataclasses.replace(LEDGER, entries=(inherited, *LEDGER.entries))
  assert 'With N = 5000 records' in make(ledger)['delta_in_words']


@pytest.mark.parametrize(
  'part',
  [
    'Setting',
    'Unit',
    'Neighbours',
    'Delta',
    'Epsilon',
    'What was done to the data',
    'Whom one must trust',
    'Accesses to the data that are covered',
    'Accesses that are not',
    'What is released',
    'How epsilon was computed',
    'k times epsilon',
    'Holds: yes',
    'code revision',
    'sha256',
  ],
)
def test_card_has_what_careful_reporting_asks_for(part):
  assert part in statement_lib.card(make())


def test_words_never_round_a_bound_down():
  """Epsilon, delta, the share of records, and the factor exp(epsilon)."""
  delta = 1.2345601e-4
  training = LEDGER.entries[1]
  mechanism = dataclasses.replace(training.mechanism, delta=delta)
  entry = dataclasses.replace(training, mechanism=mechanism)
  ledger = ledger_lib.Ledger(delta=delta, entries=(entry,))
  for noise in (1.5, 1.6, 1.7, 1.8):
    noised = dataclasses.replace(mechanism, noise_multiplier=noise)
    entry = dataclasses.replace(entry, mechanism=noised)
    got = make(dataclasses.replace(ledger, entries=(entry,)))
    said = re.search(r'is \(([\d.e-]+), ([\d.e-]+)\)-diff', got['statement'])
    epsilon, shown_delta = map(float, said.groups())
    assert got['epsilon'] <= epsilon < got['epsilon'] * 1.0011
    assert delta <= shown_delta < delta * 1.00001
    assert f'delta is {said[2]}: ' in got['delta_in_words']
    share = re.search(r'so delta is ([\d.e-]+) times', got['delta_in_words'])
    assert float(share[1]) >= 1000 * delta
    card = statement_lib.card(got)
    factor = re.search(r'at most exp\(epsilon\) = ([\d.e+]+)\.', card)
    assert float(factor[1]) >= math.exp(got['epsilon'])


def test_card_says_what_was_done():
  card = statement_lib.card(make())
  assert card.startswith('# ')
  for part in (
    'DP-SGD: 40 steps',
    '1000 records',
    '2 lost steps',
    'label histogram',
    'central curator',
    'code revision abc',
    'delta is 0.0001',
    'Renyi',
  ):
    assert part in card
  assert 'None' not in card


def test_inherited_events_are_told():
  inherited = ledger_lib.InheritedEntry(ledger=LEDGER, source='first release')
  ledger = ledger_lib.Ledger(delta=1e-4, entries=(inherited,))
  card = statement_lib.card(make(ledger))
  assert '- Inherited from first release:\n  - label histogram' in card


def test_numbers():
  got = make()
  assert statement_lib.number(got, 'noise_multiplier') == 1.5
  assert statement_lib.number(got, 'epsilon_pld') == got['epsilon']
  assert statement_lib.number(make(NOT_PRIVATE), 'epsilon_pld') is None
  empty = make(ledger_lib.Ledger(delta=1e-4))
  assert statement_lib.number(empty, 'noise_multiplier') is None
  assert 'Nothing.' in statement_lib.card(empty)


def test_checksum_covers_all_but_the_files():
  got = make()
  assert statement_lib.checksum({**got, 'files': {'a': 'b'}}) == got['checksum']
  for name in set(got) - {'checksum'}:
    assert statement_lib.checksum({**got, name: 0}) != got['checksum']


@pytest.mark.parametrize(
  'change', [{'dataset': 'a\nb'}, {'code_revision': 1}, {'versions': {'a': 1}}]
)
def test_facts_are_lines(change):
  with pytest.raises(ValueError, match='line of text'):
    make(**change)


def test_large_epsilon_promises_nothing():
  assert 'next to nothing' in statement_lib._meaning(100.0)


def test_what_was_decided_by_opening_images_is_said():
  usual, got = make(), make(decided_by_opening=('data.channels',))
  assert got['decided_by_opening_images'] == ['data.channels']
  (words,) = set(got['data_accesses_not_covered']) - set(
    usual['data_accesses_not_covered']
  )
  assert 'grey or in colour' in words and words in statement_lib.card(got)
  assert 'decided_by_opening_images' not in usual
  for key in ('data.name', 1, None):
    with pytest.raises(ValueError, match=r'to be of data\.channels, not'):
      make(decided_by_opening=(key,))


def test_words_have_a_version():
  # Other words are another version of the statement: raise VERSION, and then
  # this digest. Releases of older versions are compared by their numbers.
  got = make()
  words = {
    name: got[name]
    for name in sorted(got)
    if name not in ('epsilon', 'epsilon_pld', 'epsilon_rdp', 'checksum')
  }
  digest = hashlib.sha256(strict_json.dumps(words).encode()).hexdigest()
  assert (statement_lib.VERSION, digest[:16]) == (5, 'b22ab5153004a5e0')


def test_card_of_an_earlier_version_is_its_sentence():
  """Its words are not ours to say again, and some of its keys are missing."""
  now = make()
  old = {
    name: now[name] for name in ('statement', 'epsilon_pld', 'epsilon_rdp')
  }
  found = statement_lib.card({**old, 'statement_version': 1})
  assert found.startswith('# ')
  assert now['statement'] in found and 'README.md' in found


def test_noised_sums_alone_are_not_called_a_training():
  sums = dataclasses.replace(LEDGER, entries=LEDGER.entries[:1])
  found = make(sums)
  text = strict_json.dumps(found)
  for word in ('private step', 'gradient', 'trained on them', 'each step'):
    assert word not in text and word in strict_json.dumps(make())
  assert 'noised sums' in statement_lib.card(found)
  inherited = ledger_lib.InheritedEntry(source='before', ledger=LEDGER)
  later = dataclasses.replace(sums, entries=(inherited,))
  assert make(later)['setting'] == make()['setting']
