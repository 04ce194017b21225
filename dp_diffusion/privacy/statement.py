"""Writes the privacy statement of a release (`privacy.json`).

The statement, and the part of the card that states the guarantee, are computed
from the ledger and a few public facts, so that `verify` can compute them again
and compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import hashlib
import math
import re
from typing import Any

from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import rounding
from dp_diffusion.privacy import statement_words
from dp_diffusion.privacy import strict_json

# Increase it with every change of the words below or of the keys.
VERSION = 5
FILE_NAME = 'privacy.json'


def statement(
  ledger: ledger_lib.Ledger,
  *,
  dataset: str,
  insecure_secret: bool,
  code_revision: str,
  versions: Mapping[str, str],
  public_data: Sequence[Mapping[str, Any]] = (),
  decided_by_opening: Sequence[str] = (),
) -> dict[str, Any]:
  """Builds `privacy.json` without the hashes of the files.

  Guarantees:
    * Epsilon is that of the ledger, the smaller bound of PLD and RDP:
      `statement_test.py::test_epsilon_is_that_of_the_ledger`.
    * No number of its words is below the computed one:
      `statement_test.py::test_words_never_round_a_bound_down`.
    * If there is no guarantee, numbers and words say so:
      `statement_test.py::test_no_noise_is_said`.
    * What was decided by opening images is stated:
      `statement_test.py::test_what_was_decided_by_opening_images_is_said`.
    * An insecure secret is stated:
      `statement_test.py::test_insecure_secret_is_said`.
    * It is JSON without NaN or infinity:
      `statement_test.py::test_is_strict_json`.

  Args:
    ledger: all events that were spent.
    dataset: public name of the sensitive dataset.
    insecure_secret: whether the secret was planted by a test.
    code_revision: revision of this code at the end of the training.
    versions: {package: version}.
    public_data: results of `statement_words.public_data`, one for each set of
      images that the first weights were trained on.
    decided_by_opening: config keys whose value some of the sensitive images
      showed, which no noise covers; of `statement_words.DECIDED_BY_OPENING`.

  Returns:
    A JSON object, to which `files` {relative path: sha256} must be added.

  Raises:
    ValueError: a fact is not a line of text, or a key is never decided in this
      way.
  """
  decided = {'decided_by_opening_images': list(decided_by_opening)}
  by_pld, by_rdp = ledger.epsilon('pld'), ledger.epsilon('rdp')
  epsilon = _finite_or_none(min(by_pld, by_rdp))
  is_private = epsilon is not None
  insecure = strict_json.boolean('insecure_secret', insecure_secret)
  of_trainings = ledger.training_assumptions()
  is_trained = bool(of_trainings)
  result = {
    'statement_version': VERSION,
    'statement': sentence(ledger, epsilon, insecure),
    'private': is_private,
    'epsilon': epsilon,
    'epsilon_bound': accounting.bound(by_pld, by_rdp) if is_private else None,
    'epsilon_pld': _finite_or_none(by_pld),
    'epsilon_rdp': _finite_or_none(by_rdp),
    'setting': statement_words.SETTING.format(
      did=statement_words.TRAINED if is_trained else statement_words.SUMMED
    ),
    'delta_in_words': _delta_in_words(ledger),
    'relation_in_words': statement_words.RELATION,
    'unit_in_words': statement_words.UNITS[ledger.unit],
    'dataset': strict_json.line('dataset', dataset),
    'public_data': [
      statement_words.check_public_data(entry) for entry in public_data
    ],
    'accounting': _accounting(insecure, of_trainings),
    **ledger.to_json(),  # delta, relation, unit, events with all parameters.
    'whom_one_must_trust': list(statement_words.TRUST),
    'data_accesses_covered': _covered(is_trained),
    **(decided if decided_by_opening else {}),
    'data_accesses_not_covered': _accesses_not_covered(decided_by_opening),
    'released': _released(is_trained),
    'not_covered': _not_covered(ledger.unit),
    'insecure_secret': insecure,
    'code_revision': strict_json.line('code_revision', code_revision),
    'versions': {
      strict_json.line('a package', name): strict_json.line(name, version)
      for name, version in versions.items()
    },
  }
  result['checksum'] = checksum(result)
  return result


def check_unit(ledger: ledger_lib.Ledger, unit: str) -> None:
  """Raises ValueError unless the unit of a config is that of the ledger."""
  if unit != ledger.unit:
    raise ValueError(
      f'Expected unit={unit!r} to be that of the ledger, {ledger.unit!r}.'
    )


def checksum(statement: Mapping[str, Any]) -> str:
  """Returns the hex SHA-256 of a statement without `files` and `checksum`.

  It reveals accidental changes. It cannot reveal a forgery, since a forger can
  compute it too.
  """
  covered = {
    name: value
    for name, value in statement.items()
    if name not in ('files', 'checksum')
  }
  return hashlib.sha256(strict_json.dumps(covered).encode()).hexdigest()


def parse_ledger(statement: Mapping[str, Any]) -> ledger_lib.Ledger:
  """Returns the ledger of a statement.

  Raises:
    ValueError: a part is missing or wrong; one line.
  """
  names = ('version', 'relation', 'unit', 'delta', 'budget_epsilon', 'events')
  found = {name: statement[name] for name in names if name in statement}
  return ledger_lib.Ledger.from_json(found)


def number(statement: Mapping[str, Any], name: str) -> float | None:
  """Returns a number of a statement.

  Args:
    statement: the result of `statement`.
    name: 'epsilon', 'epsilon_pld', 'epsilon_rdp', 'delta', or
      'noise_multiplier' (of the last DP-SGD training).

  Returns:
    The number; None if it is infinite or absent.
  """
  if name != 'noise_multiplier':
    return statement[name]
  for entry in reversed(parse_ledger(statement).entries):
    if entry.training_assumptions() and entry.noise_multiplier is not None:
      return entry.noise_multiplier
  return None


def card(statement: Mapping[str, Any]) -> str:
  """Returns the statement in plain words.

  Args:
    statement: the result of `statement`.

  Returns:
    Markdown that begins with a heading of level 1 and ends in a newline. For a
    statement of an earlier version, which has other words, only the sentence.
  """
  parts = [f'# Privacy of this release\n\n{statement["statement"]}']
  if statement['statement_version'] != VERSION:
    parts.append('The rest is in `README.md` of the release itself.')
    return '\n\n'.join(parts) + '\n'
  if statement['private']:
    parts.append(_meaning(statement['epsilon']))
  parts.append(
    '\n'.join(
      [
        f'- **Setting**: {statement["setting"]}',
        f'- **Data**: {statement["dataset"]}.',
        *_public_lines(statement['public_data']),
        f'- **Unit**: {statement["unit"]}. {statement["unit_in_words"]}',
        f'- **Neighbours** ({statement["relation"]}):'
        f' {statement["relation_in_words"]}',
        f'- **Delta**: {statement["delta_in_words"]}',
        f'- **Epsilon**: {_epsilon_in_words(statement)}',
      ]
    )
  )
  parts.append('## What was done to the data\n\n' + _events_in_words(statement))
  for title, name in (
    ('Whom one must trust', 'whom_one_must_trust'),
    ('Accesses to the data that are covered', 'data_accesses_covered'),
    ('Accesses that are not', 'data_accesses_not_covered'),
    ('What is released', 'released'),
    ('What the guarantee does not cover', 'not_covered'),
  ):
    parts.append(f'## {title}\n\n{bullets(statement[name])}')
  accountant = statement['accounting']
  assumptions = [
    f'{a["assumption"]} Holds: {a["holds"]}.' for a in accountant['assumptions']
  ]
  parts.append(
    f'## How epsilon was computed\n\n{accountant["method"]}\n\n'
    + bullets(assumptions)
  )
  made = [f'code revision {statement["code_revision"]}'] + [
    f'{name} {version}' for name, version in statement['versions'].items()
  ]
  parts.append(f'## Made with\n\n{bullets(made)}')
  return '\n\n'.join(parts) + '\n'


def card_parts(privacy_card: str) -> tuple[str, str]:
  r"""Splits the card into two parts, for the beginning and end of another.

  >>> card_parts('# Title\n\nNo promise.\n\n## Why\n\nNo noise.\n')
  ('No promise.', '### Why\n\nNo noise.')

  Args:
    privacy_card: the result of `card`.

  Returns:
    (the guarantee in one paragraph, the rest with headings one level deeper).
  """
  text = without_title(privacy_card).strip()
  guarantee, _, details = text.partition('\n\n')
  return guarantee, re.sub(r'^#', '##', details, flags=re.MULTILINE)


def without_title(privacy_card: str) -> str:
  r"""Returns the card without its first heading, for a page with its own.

  >>> without_title('# Title\n\nNo promise.\n')
  '\nNo promise.\n'
  """
  return re.sub(r'\A\s*# .*\n', '', privacy_card)


def _public_lines(public_data: Sequence[Mapping[str, Any]]) -> list[str]:
  lines = [statement_words.public_data_line(entry) for entry in public_data]
  lines = lines or [statement_words.NO_PUBLIC_DATA]
  return [f'- **Public data**: {line}' for line in lines]


def _finite_or_none(value: float) -> float | None:
  return value if math.isfinite(value) else None


def _show(epsilon: float | None) -> str:
  return 'infinite' if epsilon is None else rounding.up(epsilon)


def _epsilon_in_words(statement: Mapping[str, Any]) -> str:
  """Returns both bounds in words, and which of them holds."""
  if not statement['private']:
    return 'infinite.'
  names = {'pld': 'privacy loss distributions', 'rdp': 'Renyi DP'}
  first = statement['epsilon_bound']
  (second,) = set(names) - {first}
  return (
    f'{_show(statement["epsilon"])} by {names[first]}, the smaller of two'
    f' bounds, which holds; {_show(statement[f"epsilon_{second}"])} by'
    f' {names[second]}.'
  )


def sentence(
  ledger: ledger_lib.Ledger,
  epsilon: float | None,
  insecure: bool,
  version: int = VERSION,
) -> str:
  """Returns the guarantee in one sentence.

  Args:
    ledger: gives delta and unit.
    epsilon: None means that there is no guarantee.
    insecure: whether the secret was planted by a test.
    version: version of the statement; before 5, delta was rounded to nearest.
  """
  if epsilon is None:
    return statement_words.NOT_PRIVATE
  delta = f'{ledger.delta:g}' if version < 5 else _delta(ledger)
  text = (
    f'Everything in this release together is ({_show(epsilon)},'
    f' {delta})-differentially private with respect to adding or'
    f' removing one {ledger.unit} of the sensitive data.'
  )
  if insecure:
    text += (
      ' BUT its secret randomness was planted for a test and is known: the'
      ' guarantee does not hold.'
    )
  return text


def _delta(ledger: ledger_lib.Ledger) -> str:
  return rounding.up(ledger.delta, 6)


def _delta_in_words(ledger: ledger_lib.Ledger) -> str:
  """Explains delta by the number of records that may be published in full.

  Publishing each record in full with probability delta satisfies the definition
  of differential privacy.
  """
  text = (
    f'delta is {_delta(ledger)}: for a record, the bound by epsilon may fail'
    ' with about that probability'
  )
  counts = ledger.declared_counts()
  if not counts:
    return f'{text}. No event states a number of records.'
  num = max(counts)
  share = ledger.delta * num
  shown = rounding.up(share, 3)
  text += (
    f'. With N = {num} records, 1/N is {1 / num:.3g}, so delta is {shown}'
    ' times 1/N: in the worst case that such a delta allows, as if'
    f' {shown} records of all {num}, on average, were published in full'
  )
  if share > 1:
    text += '. That is too much: a mechanism that publishes a few whole records'
    return text + ' would pass.'
  return f'{text}.'


def _covered(is_trained: bool) -> list[str]:
  training = [statement_words.TRAINING_COVERED] if is_trained else []
  return [*training, *statement_words.ACCESSES_COVERED]


def _accesses_not_covered(decided_by_opening: Sequence[str]) -> list[str]:
  known = statement_words.DECIDED_BY_OPENING
  for key in decided_by_opening:
    if not isinstance(key, str) or key not in known:
      raise ValueError(
        f'Expected decided_by_opening_images to be of {", ".join(known)}, not'
        f' {key!r}.'
      )
  more = [known[key] for key in decided_by_opening]
  return [*statement_words.ACCESSES_NOT_COVERED, *more]


def _released(is_trained: bool) -> list[str]:
  first = (
    statement_words.TRAINING_RELEASED
    if is_trained
    else statement_words.SUMS_RELEASED
  )
  return [first, *statement_words.RELEASED]


def _not_covered(unit: str) -> list[str]:
  extra = [statement_words.SEVERAL_IMAGES] if unit == 'image' else []
  return [*statement_words.NOT_COVERED, *extra]


def _accounting(
  insecure: bool, of_trainings: Sequence[tuple[str, str]]
) -> dict[str, Any]:
  found = statement_words.assumptions(
    of_trainings or statement_words.OF_SUMS, insecure=insecure
  )
  return {
    'method': (
      'Two upper bounds of the same epsilon are computed from all events, and'
      ' the smaller one holds: privacy loss distributions, discretised'
      ' pessimistically and composed by tilted Fourier transforms whose'
      ' rounding errors are added to delta; and Renyi DP (dp-accounting).'
    ),
    'assumptions': [
      {'assumption': text, 'holds': holds} for text, holds in found
    ],
  }


def _meaning(epsilon: float) -> str:
  text = (
    'In plain words: whatever somebody concludes from this release about one'
    ' record, they would have concluded with nearly the same probability had'
    ' that record not been there; up to delta, these probabilities differ by a'
  )
  if epsilon > 50:
    return text + ' factor so large that it promises next to nothing.'
  factor = rounding.up(math.exp(epsilon), 3)
  return text + f' factor of at most exp(epsilon) = {factor}.'


def _events_in_words(statement: Mapping[str, Any]) -> str:
  entries = parse_ledger(statement).entries
  lines = [line for entry in entries for line in entry.describe()]
  return bullets(lines or ['Nothing.'])


def bullets(lines: Sequence[str]) -> str:
  r"""Writes a list in Markdown; an indented line is an item of a list within.

  >>> bullets(['noise', '  of each step'])
  '- noise\n  - of each step'
  """
  return '\n'.join(
    f'{" " * (len(line) - len(line.lstrip()))}- {line.lstrip()}'
    for line in lines
  )
