from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
import pathlib
import subprocess
import sys

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import pytest

from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.privacy import rounding
from dp_diffusion.privacy import statement as statement_lib
from dp_diffusion.privacy import statement_words
from dp_diffusion.privacy import strict_json
from dp_diffusion.privacy import verify

MECHANISM = mechanism_lib.DpSgdMechanism(
  num_examples=1000,
  expected_batch_size=100,
  num_steps=40,
  noise_multiplier=3.0,
  l2_clip_norm=0.3,
  delta=1e-4,
)


PUBLIC = statement_words.public_data(
  {'source': 'forms', 'split': 'train', 'images_sha256': 'a' * 64},
  'none_equal',
)


def make_statement(noise_multiplier=3.0, insecure_secret=False, decided=()):
  values = {**MECHANISM.to_dict(), 'noise_multiplier': noise_multiplier}
  mechanism = mechanism_lib.DpSgdMechanism.from_dict(values)
  entry = ledger_lib.DpSgdEntry(mechanism=mechanism, num_steps=40)
  statement = statement_lib.statement(
    ledger_lib.Ledger(delta=1e-4, entries=(entry,)),
    dataset='shapes',
    insecure_secret=insecure_secret,
    code_revision='abc',
    versions={'jax': '1'},
    public_data=[PUBLIC],
    decided_by_opening=decided,
  )
  hashes = {
    name: hashlib.sha256(content).hexdigest()
    for name, content in contents(statement).items()
  }
  return {**statement, 'files': hashes}


def contents(statement):
  guarantee, details = statement_lib.card_parts(statement_lib.card(statement))
  card = f'# Card\n\n{guarantee}\n\n## Images\n\n## Privacy\n\n{details}\n'
  return {'dataset/images-0.npz': b'images', 'README.md': card.encode()}


STATEMENT = make_statement()
CONTENTS = contents(STATEMENT)
CARD = CONTENTS['README.md']


def write_statement(folder, statement, *, forged=False):
  if forged:  # As somebody does who knows of the checksum.
    statement = {**statement, 'checksum': statement_lib.checksum(statement)}
  (folder / 'privacy.json').write_text(json.dumps(statement))


@pytest.fixture
def folder(tmp_path):
  folder = tmp_path / 'release'
  for name, content in CONTENTS.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
  write_statement(folder, STATEMENT)
  return folder


def changed(path, new):
  statement = copy.deepcopy(STATEMENT)
  parent = statement
  for key in path[:-1]:
    parent = parent[key]
  assert json.dumps(parent[path[-1]]) != json.dumps(new)
  parent[path[-1]] = new
  return statement


def check_refused(folder, capsys, message):
  assert verify.main([str(folder)]) == 1
  out = capsys.readouterr().out
  assert 'MISMATCH' in out and 'do not rely' in out
  assert message in out
  return out


def test_right_release_passes(folder, capsys):
  assert verify.main([str(folder)]) == 0
  out = capsys.readouterr().out
  assert (
    f'epsilon {rounding.up(STATEMENT["epsilon"], 6)} at delta 0.0001' in out
  )
  assert 'does not prove what ran' in out
  assert '2 with the sha256' in out
  assert 'MISMATCH' not in out


def test_a_planted_secret_is_warned_of(folder, capsys):
  statement = make_statement(insecure_secret=True)
  for name, content in contents(statement).items():
    (folder / name).write_bytes(content)
  write_statement(folder, statement)
  assert verify.main([str(folder)]) == 0
  assert 'planted secret: nothing is guaranteed' in capsys.readouterr().out
  write_statement(folder, STATEMENT)
  verify.main([str(folder)])
  assert 'planted' not in capsys.readouterr().out


CHANGES = [
  ('epsilon', ('epsilon',), 1.0),
  ('epsilon', ('epsilon',), None),
  ('epsilon', ('epsilon',), '1'),
  ('epsilon', ('epsilon',), STATEMENT['epsilon'] * 0.999),
  ('epsilon_pld', ('epsilon_pld',), 1.0),
  ('epsilon_rdp', ('epsilon_rdp',), 1.0),
  ('private', ('private',), False),
  ('private', ('private',), 1),
  ('delta', ('delta',), 1e-5),  # The mechanism states it too.
  ('epsilon', ('events', 0, 'mechanism', 'noise_multiplier'), 2.9),
  ('epsilon', ('events', 0, 'num_steps'), 39),
  ('epsilon', ('events', 0, 'num_replayed_steps'), 1),
  ('epsilon', ('events', 0, 'mechanism', 'num_examples'), 1001),
  ('epsilon', ('events', 0, 'mechanism', 'expected_batch_size'), 99),
  ('epsilon', ('events',), []),
  ('relation', ('relation',), 'replace_one'),
  ('unit_in_words', ('unit',), 'person'),
  ('statement', ('statement',), 'All is well.'),
  ('not_covered', ('not_covered',), []),
  ('public_data', ('public_data',), None),
  ('comparison', ('public_data', 0, 'comparison'), 'fine'),
  ('images_sha256', ('public_data', 0, 'images_sha256'), 'abc'),
  ('public_data', ('public_data', 0), {'source': 'forms'}),
]


@pytest.mark.parametrize(('name', 'path', 'new'), CHANGES)
@pytest.mark.parametrize('forged', [False, True])
def test_changed_statement_is_refused(folder, capsys, name, path, new, forged):
  write_statement(folder, changed(path, new), forged=forged)
  check_refused(folder, capsys, name)


@pytest.mark.parametrize(
  ('path', 'new'),
  [
    (('events', 0, 'mechanism', 'num_steps'), 41),
    (('events', 0, 'mechanism', 'l2_clip_norm'), 0.4),
    (('events', 0, 'is_sealed'), True),
    (('budget_epsilon',), 1.0),
    (('dataset',), 'other'),
    (('code_revision',), 'other'),
    (('versions',), {}),
    (('insecure_secret',), True),
    (('checksum',), '0' * 64),
    (('public_data',), []),
    (('public_data', 0, 'comparison'), 'rendered'),
    (('statement_version',), 0),
  ],
)
def test_slips_that_leave_epsilon_are_refused(folder, capsys, path, new):
  write_statement(folder, changed(path, new))
  check_refused(folder, capsys, 'checksum')


def test_unknown_part_of_a_statement_is_refused(folder, capsys):
  write_statement(folder, {**STATEMENT, 'certified': 'yes'}, forged=True)
  check_refused(folder, capsys, "'certified'")


def test_changed_folder_is_refused(folder, capsys):
  card = folder / 'README.md'
  card.write_bytes(CARD + b'.')
  check_refused(folder, capsys, "'README.md' was changed")
  card.unlink()
  check_refused(folder, capsys, "'README.md' is listed, but missing")
  card.mkdir()
  check_refused(folder, capsys, "'README.md' is listed, but missing")
  card.rmdir()
  card.write_bytes(CARD)
  assert verify.main([str(folder)]) == 0
  (folder / 'dataset' / '.hidden').write_bytes(b'')
  check_refused(folder, capsys, "'dataset/.hidden' is in the folder, but not")


@pytest.mark.parametrize('place', [0, 31, 63])
def test_a_sha256_is_compared_as_a_whole(folder, capsys, place):
  digest = STATEMENT['files']['README.md']
  other = 'b' if digest[place] == 'a' else 'a'
  changed_one = digest[:place] + other + digest[place + 1 :]
  hashes = {**STATEMENT['files'], 'README.md': changed_one}
  write_statement(folder, {**STATEMENT, 'files': hashes})
  check_refused(folder, capsys, "'README.md' was changed")


def test_links_are_refused(folder, capsys, tmp_path):
  outside = tmp_path / 'outside'
  outside.mkdir()
  (outside / 'card').write_bytes(CARD)
  card = folder / 'README.md'
  card.unlink()
  card.symlink_to(outside / 'card')
  out = check_refused(folder, capsys, "'README.md' is a link")
  assert 'listed, but missing' in out
  card.unlink()
  card.write_bytes(CARD)
  (folder / 'more').symlink_to(outside)
  check_refused(folder, capsys, "'more' is a link")


def test_statement_that_is_a_link_is_refused(folder, capsys, tmp_path):
  (folder / 'privacy.json').rename(tmp_path / 'privacy.json')
  (folder / 'privacy.json').symlink_to(tmp_path / 'privacy.json')
  check_refused(folder, capsys, 'privacy.json to be a file')


def test_pipe_is_refused_and_not_opened(folder, capsys):
  os.mkfifo(folder / 'pipe')
  check_refused(folder, capsys, "'pipe' is a link or no plain file")


@pytest.mark.parametrize(
  'name',
  [
    '../secret',
    'dataset/../../secret',
    '/etc/hostname',
    'dataset\\..\\secret',
    'C:/secret',
    './README.md',
    'dataset//images-0.npz',
    '',
    'a\0b',
    'privacy.json',
  ],
)
def test_path_outside_is_refused(folder, capsys, monkeypatch, name):
  (folder.parent / 'secret').write_bytes(b'secret')
  listed = {**STATEMENT['files'], name: hashlib.sha256(b'secret').hexdigest()}
  write_statement(folder, {**STATEMENT, 'files': listed})
  opened = []
  sha256 = verify._sha256
  monkeypatch.setattr(
    verify, '_sha256', lambda path: opened.append(path) or sha256(path)
  )
  check_refused(folder, capsys, ascii(name))
  assert sorted(opened) == sorted(folder / n for n in CONTENTS)


@pytest.mark.parametrize('value', [None, [], 'x', {'README.md': 1}, {}])
def test_malformed_list_of_files_is_refused(folder, capsys, value):
  write_statement(folder, {**STATEMENT, 'files': value})
  check_refused(folder, capsys, '')


MALFORMED = [
  b'',
  b'{',
  b'null',
  b'[]',
  b'{}',
  b'\xff\xfe',
  b'[' * 100_000,
  b'{"epsilon": NaN}',
  b'{"delta": 1e999}',
  b'{"a": 1, "a": 2}',
  b'9' * 5000,
]


@pytest.mark.parametrize('content', MALFORMED, ids=lambda c: repr(c[:20]))
def test_malformed_statement_is_refused(folder, capsys, content):
  (folder / 'privacy.json').write_bytes(content)
  check_refused(folder, capsys, 'Expected')


def positions(value, path=()):
  if path:
    yield path
  if isinstance(value, dict):
    for key, child in value.items():
      yield from positions(child, (*path, key))
  elif isinstance(value, list):
    for i, child in enumerate(value):
      yield from positions(child, (*path, i))


@settings(max_examples=60)
@given(
  path=st.sampled_from(sorted(positions(STATEMENT), key=repr)),
  new=st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.just([]),
    st.just({}),
  ),
)
def test_any_change_is_refused_without_a_traceback(tmp_path_factory, path, new):
  statement = copy.deepcopy(STATEMENT)
  parent = statement
  for key in path[:-1]:
    parent = parent[key]
  is_same = strict_json.dumps(parent[path[-1]]) == strict_json.dumps(new)
  parent[path[-1]] = new
  folder = tmp_path_factory.mktemp('any')
  for name, content in CONTENTS.items():
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
  write_statement(folder, statement)
  report = verify.verify(folder)
  assert bool(report.mismatches) == (not is_same)
  assert all(line.isprintable() for line in report.mismatches)


def test_card_must_say_the_statement(folder, capsys):
  """Whoever forges the card and its hash has not forged the events."""
  card = CARD.replace(b'(', b'(0.')
  (folder / 'README.md').write_bytes(card)
  hashes = {**STATEMENT['files'], 'README.md': hashlib.sha256(card).hexdigest()}
  write_statement(folder, {**STATEMENT, 'files': hashes}, forged=True)
  out = check_refused(folder, capsys, 'README.md does not hold the sentence')
  assert out.count('MISMATCH') == 1
  (folder / 'README.md').write_bytes(b'\xff' + CARD)
  check_refused(folder, capsys, "'README.md' was changed")


@pytest.mark.parametrize('version', [1, statement_lib.VERSION])
def test_a_card_that_hides_the_sentence_is_refused(folder, capsys, version):
  sentence = STATEMENT['statement']
  false = sentence.replace('(', '(0.')
  card = f'# Card\n\n{false}\n\n<!--\n\n{sentence}\n\n-->\n'.encode()
  rewrite_card(folder, card, statement_version=version)
  check_refused(folder, capsys, 'README.md does not hold the sentence')


@pytest.mark.parametrize('part', ['whom_one_must_trust', 'not_covered'])
def test_a_card_that_leaves_out_what_is_not_covered_is_refused(
  folder, capsys, part
):
  line = STATEMENT[part][0].encode()
  assert line in CARD
  rewrite_card(folder, CARD.replace(line, b'Nobody.'))
  check_refused(folder, capsys, 'README.md does not end with the words')


def test_a_card_that_goes_on_is_refused(folder, capsys):
  """After the words of the statement, or in the line of its sentence."""
  sentence = STATEMENT['statement'].encode()
  more = CARD.replace(sentence, sentence + b' Or so.', 1)
  assert more != CARD
  for card, words in (
    (CARD + b'\nNone of this holds.\n', 'does not end with the words'),
    (more, 'does not hold the sentence'),
  ):
    rewrite_card(folder, card)
    check_refused(folder, capsys, f'README.md {words}')


FRONT = b"""---
pretty_name: "Shapes: (10, 0.0001)"
license: cc-by-4.0
configs:
- config_name: default
  data_files:
  - split: train
    path: dataset/parquet/*.parquet
---

"""


def test_a_card_may_begin_with_facts_for_machines(folder):
  rewrite_card(folder, FRONT + CARD)
  assert not verify.verify(folder).mismatches


@pytest.mark.parametrize(
  'front',
  [
    FRONT.replace(b'license', b'epsilon'),
    FRONT.replace(b'license: ', b'# epsilon is 0.01. license: '),
    FRONT.replace(b'---\n\n', b'\n'),  # It does not end.
    FRONT.replace(b'license', b'\n# Card\n\nAll is well.\n\nlicense'),
    b'\n' + FRONT,
    FRONT + FRONT,
    FRONT.replace(b'cc-by', b'a\x85# b'),  # A line break of YAML.
  ],
)
def test_facts_for_machines_hide_no_words(folder, front):
  (folder / 'README.md').write_bytes(front + CARD)
  (mismatch,) = verify._check_card(folder, STATEMENT)
  assert 'README.md does not hold the sentence' in mismatch


@pytest.mark.parametrize('name', ['README.md', 'croissant.json'])
def test_huge_or_special_files_are_refused_unread(
  folder, capsys, name, monkeypatch
):
  path = folder / name
  path.unlink(missing_ok=True)
  path.write_bytes(b'x' * 2000)
  monkeypatch.setattr(verify, '_MAX_BYTES', 1999)
  check = {
    'README.md': verify._check_card,
    'croissant.json': verify._check_croissant,
  }[name]
  monkeypatch.setattr(pathlib.Path, 'read_bytes', lambda path: 1 / 0)
  assert len(check(folder, STATEMENT)) == 1
  path.unlink()
  os.mkfifo(path)  # Reading it would wait for a writer.
  assert len(check(folder, STATEMENT)) == 1


def test_croissant_must_say_the_sentence(folder, capsys):
  sentence = STATEMENT['statement']
  value = {'description': f'Synthetic images. {sentence}', 'name': 'shapes'}
  path = folder / 'croissant.json'
  path.write_text(json.dumps(value))
  assert not verify._check_croissant(folder, STATEMENT)
  hashes = {**STATEMENT['files'], path.name: '0' * 64}
  for wrong in (
    json.dumps({**value, 'description': sentence.replace('(', '(0.')}).encode(),
    json.dumps({**value, 'description': f' {sentence} Or less.'}).encode(),
    json.dumps({**value, 'description': f'Not{sentence}'}).encode(),
    json.dumps({**value, 'description': [f' {sentence}']}).encode(),
    json.dumps({'name': 'shapes'}).encode(),
    json.dumps([value]).encode(),
    b'{',
    b'[' * 100_000,
    b'\xff',
  ):
    path.write_bytes(wrong)
    assert len(verify._check_croissant(folder, STATEMENT)) == 1
  hashes[path.name] = hashlib.sha256(wrong).hexdigest()
  write_statement(folder, {**STATEMENT, 'files': hashes})
  check_refused(folder, capsys, 'croissant.json does not hold the sentence')


DESKTOP_FILES = (
  '.DS_Store',
  'dataset/.DS_Store',
  'Thumbs.db',
  'ehthumbs.db',
  'desktop.ini',
  'Desktop.ini',
  '.directory',
  '.localized',
  'Icon\r',
  'dataset/._images-0.npz',
  '._dataset',
)


def test_what_a_desktop_leaves_is_named_and_not_refused(folder, capsys):
  for name in DESKTOP_FILES:
    (folder / name).write_bytes(b'places of icons')
  assert verify.main([str(folder)]) == 0
  out = capsys.readouterr().out
  for name in DESKTOP_FILES:
    assert f'NOTE       {ascii(name)}' in out
  assert out.count('not part of the release') == len(DESKTOP_FILES)


@pytest.mark.parametrize(
  'name',
  [
    '.ds_store2',
    'thumbs.db.png',
    'x.DS_Store',
    '._absent',  # Of no file that is here.
    '._',
    '.directory~',
    '.Trash/x',
    '__MACOSX/._README.md',
    'notes.txt',
  ],
)
def test_other_files_are_refused_as_before(folder, name):
  (folder / name).parent.mkdir(exist_ok=True)
  (folder / name).write_bytes(b'x')
  _, mismatches = verify._check_files(folder, STATEMENT['files'])
  assert mismatches == [f'{ascii(name)} is in the folder, but not listed']


def test_a_folder_or_link_named_so_is_refused(folder, tmp_path):
  (folder / '.DS_Store').mkdir()
  (folder / '.DS_Store' / 'scan.png').write_bytes(b'x')
  (tmp_path / 'outside').write_bytes(b'x')
  (folder / 'Thumbs.db').symlink_to(tmp_path / 'outside')
  _, mismatches = verify._check_files(folder, STATEMENT['files'])
  assert mismatches == [
    "'Thumbs.db' is a link or no plain file",
    "'.DS_Store/scan.png' is in the folder, but not listed",
  ]


def test_a_listed_desktop_file_is_checked_as_others(folder):
  (folder / '.DS_Store').write_bytes(b'x')
  listed = {**STATEMENT['files'], '.DS_Store': '0' * 64}
  _, mismatches = verify._check_files(folder, listed)
  assert mismatches == ["'.DS_Store' was changed: its sha256 differs"]


def test_a_release_without_a_card_is_refused(folder, capsys):
  (folder / 'README.md').unlink()
  files = {k: v for k, v in STATEMENT['files'].items() if k != 'README.md'}
  write_statement(folder, {**STATEMENT, 'files': files}, forged=True)
  check_refused(folder, capsys, 'README.md is missing')


@pytest.mark.parametrize(
  'change',
  [
    {'statement': 'Everything here is (0.1, 1e-09)-differentially private.'},
    {'certified': 'yes'},
  ],
)
def test_an_older_version_is_no_way_around_the_sentence(folder, capsys, change):
  old = {**STATEMENT, 'statement_version': 1, **change}
  card = f'# Card\n\n{old["statement"]}\n'.encode()
  (folder / 'README.md').write_bytes(card)
  files = {**STATEMENT['files'], 'README.md': hashlib.sha256(card).hexdigest()}
  write_statement(folder, {**old, 'files': files}, forged=True)
  check_refused(folder, capsys, ascii(next(iter(change))))


def rewrite_card(folder, card, **changes):
  (folder / 'README.md').write_bytes(card)
  files = {**STATEMENT['files'], 'README.md': hashlib.sha256(card).hexdigest()}
  changed_one = {**STATEMENT, **changes, 'files': files}
  write_statement(folder, changed_one, forged=True)


def as_before(statement, version=3):
  """What an earlier version stated of the same events."""
  ledger = statement_lib.parse_ledger(statement)
  epsilon = ledger.epsilon(accounting.FIXED_PLD)
  old = {k: v for k, v in statement.items() if k != 'epsilon_bound'}
  return {
    **old,
    'statement_version': version,
    'statement': statement_lib.sentence(ledger, epsilon, False, version),
    'epsilon': epsilon,
    'epsilon_pld': epsilon,
  }


def write_earlier(folder, statement):
  card = f'# Card\n\n{statement["statement"]}\n'.encode()
  (folder / 'README.md').write_bytes(card)
  files = {**STATEMENT['files'], 'README.md': hashlib.sha256(card).hexdigest()}
  write_statement(folder, {**statement, 'files': files}, forged=True)


def test_earlier_version_is_checked_as_before(folder, capsys):
  """By the accountant of its time, unless that promised too much."""
  old = as_before(STATEMENT)
  assert old['epsilon'] != STATEMENT['epsilon']
  write_earlier(folder, old)
  assert verify.main([str(folder)]) == 0
  for name in ('epsilon', 'epsilon_pld'):
    for factor in (0.999, 1.001):
      write_earlier(folder, {**old, name: factor * old[name]})
      check_refused(folder, capsys, name)


def test_version_4_is_checked_by_the_present_accountant(folder, capsys):
  """Its sentence rounded delta to nearest."""
  delta = 1.2345601e-4
  mechanism = dataclasses.replace(MECHANISM, delta=delta)
  entry = ledger_lib.DpSgdEntry(mechanism=mechanism, num_steps=40)
  facts = {name: STATEMENT[name] for name in ('dataset', 'code_revision')}
  now = statement_lib.statement(
    ledger_lib.Ledger(delta=delta, entries=(entry,)),
    insecure_secret=False,
    versions={'jax': '1'},
    **facts,
  )
  text = now['statement'].replace('0.000123457', '0.000123456')
  assert text != now['statement']
  old = {**now, 'statement_version': 4, 'statement': text}
  write_earlier(folder, old)
  assert verify.main([str(folder)]) == 0
  assert 'at delta 0.000123457,' in capsys.readouterr().out
  write_earlier(folder, {**old, 'epsilon': 0.999 * old['epsilon']})
  check_refused(folder, capsys, 'epsilon')
  write_earlier(folder, {**now, 'statement': text})
  check_refused(folder, capsys, 'statement')


def test_earlier_epsilon_that_was_too_small_is_refused(
  folder, capsys, monkeypatch
):
  """At delta 1e-12 rounding in some SciPy makes dp-accounting's 1e-4 less."""
  values = {'noise_multiplier': 5.0, 'num_steps': 200, 'delta': 1e-12}
  values |= {'expected_batch_size': 500}
  mechanism = dataclasses.replace(MECHANISM, **values)
  entry = ledger_lib.DpSgdEntry(mechanism=mechanism, num_steps=200)
  ledger = ledger_lib.Ledger(delta=1e-12, entries=(entry,))
  facts = {name: STATEMENT[name] for name in ('dataset', 'code_revision')}
  statement = statement_lib.statement(
    ledger, insecure_secret=False, versions={'jax': '1'}, **facts
  )
  of_events = ledger_lib.Ledger.epsilon

  def epsilon(self, accountant=accounting.SMALLER):
    if accountant == accounting.FIXED_PLD:
      return 10.8994
    return of_events(self, accountant)

  monkeypatch.setattr(ledger_lib.Ledger, 'epsilon', epsilon)
  write_earlier(folder, as_before(statement))
  out = check_refused(folder, capsys, 'the least that can be proved')
  assert '10.8999' in out


def test_facts_round_no_bound_down():
  bounds = dict.fromkeys(('epsilon', 'epsilon_pld', 'epsilon_rdp'), 1.2345612)
  facts = verify._facts({**STATEMENT, **bounds, 'delta': 1.2345612e-5})
  assert 'epsilon 1.23457 at delta 1.23457e-05' in facts[0]
  assert facts[1].split()[:2] == facts[2].split()[:2] == ['epsilon', '1.23457']


def test_older_words_are_not_compared(folder, capsys):
  """The numbers are, and a version that never was is refused."""
  old = {**as_before(STATEMENT, 1), 'unit_in_words': 'An image.'}
  write_statement(folder, old, forged=True)
  assert verify.main([str(folder)]) == 0
  assert 'words of version 1 are not compared' in capsys.readouterr().out
  for name in ('epsilon', 'epsilon_pld', 'epsilon_rdp', 'private'):
    write_statement(folder, {**old, name: 1.0}, forged=True)
    check_refused(folder, capsys, f"'{name}' is stated as")
  for version in (0, -1, 1.0, True, None, '1', 99, statement_lib.VERSION + 1):
    never = {**STATEMENT, 'statement_version': version}
    write_statement(folder, never, forged=True)
    check_refused(folder, capsys, 'statement_version')


def test_what_was_decided_by_opening_images_is_compared(folder, capsys):
  statement = make_statement(decided=('data.channels',))
  (folder / 'README.md').write_bytes(contents(statement)['README.md'])
  write_statement(folder, statement)
  assert verify.main([str(folder)]) == 0
  name = 'decided_by_opening_images'
  for value in ([], ['data.name'], [1], 'data.channels', None):
    write_statement(folder, {**statement, name: value}, forged=True)
    check_refused(folder, capsys, name)
  del statement[name]
  write_statement(folder, statement, forged=True)
  check_refused(folder, capsys, 'data_accesses_not_covered')


def test_no_guarantee_is_said(folder, capsys):
  statement = make_statement(noise_multiplier=0.0)
  (folder / 'README.md').write_bytes(contents(statement)['README.md'])
  write_statement(folder, statement)
  assert verify.main([str(folder)]) == 0
  assert 'NONE' in capsys.readouterr().out


def test_epsilon_of_another_machine_passes(folder):
  statement = changed(('epsilon',), STATEMENT['epsilon'] * (1 + 1e-9))
  write_statement(folder, statement, forged=True)
  assert verify.main([str(folder)]) == 0


@pytest.mark.parametrize('argv', [[], ['a', 'b'], ['--fast']])
def test_usage(argv, capsys):
  assert verify.main(argv) == 2
  assert capsys.readouterr().err.startswith('usage:')


def test_nothing_to_check(tmp_path, capsys):
  assert verify.main([str(tmp_path)]) == 2
  assert 'privacy.json' in capsys.readouterr().err
  assert verify.main([str(tmp_path / 'absent')]) == 2
  assert verify.main(['a\0b']) == 2
  captured = capsys.readouterr()
  assert captured.out == '' and captured.err.count('\n') == 2
  assert verify.main(['--help']) == 0
  shown = capsys.readouterr().out
  assert 'RELEASE_DIR' in shown and 'exit' in shown.lower()
  assert 'Guarantees' not in shown


def test_the_folder_of_a_run_is_answered_with_that_of_its_release(
  folder, capsys
):
  assert verify.main([str(folder.parent)]) == 2
  error = capsys.readouterr().err
  assert error.rstrip().endswith(f'{str(folder)!r}.')
  assert error.count('\n') == 1


def test_runs_without_jax(folder):
  code = f"""
import runpy
import sys

class Refuse:
  def find_spec(self, name, path=None, target=None):
    if name in ('jax', 'jaxlib', 'flax', 'etils', 'tensorflow'):
      raise ImportError(name)

sys.meta_path.insert(0, Refuse())
sys.argv = ['verify', {str(folder)!r}]
try:
  runpy.run_module('dp_diffusion.privacy.verify', run_name='__main__')
finally:
  assert not {{'jax', 'jaxlib', 'flax', 'etils'}} & set(sys.modules)
"""
  root = pathlib.Path(__file__).parents[2]
  for content, code_expected in (('', 0), ('changed', 1)):
    if content:
      (folder / 'README.md').write_text(content)
    job = subprocess.run(
      [sys.executable, '-c', code],
      cwd=root,
      capture_output=True,
      text=True,
      check=False,
    )
    assert job.returncode == code_expected, job.stderr
    assert job.stderr == ''
  assert 'MISMATCH' in job.stdout
