"""Checks a published release from its folder alone.

    python -m dp_diffusion.privacy.verify RELEASE_DIR

It recomputes epsilon from the events in `privacy.json`, and the sha256 of every
file, for the recipient of a release. It needs dp-accounting but not JAX. The
exit code is 0 if everything agrees, 1 if something differs, and 2 if there is
nothing to check. A release at gs:// must first be copied to a local folder.

Guarantees:
  * A statement that was changed is refused:
    `verify_test.py::test_changed_statement_is_refused`.
  * A release of an earlier version is checked with the accountant of that
    version, and refused if that understated epsilon:
    `verify_test.py::test_earlier_version_is_checked_as_before`.
  * A file that was changed, added or removed is refused:
    `verify_test.py::test_changed_folder_is_refused`.
  * A card that does not agree with the statement is refused:
    `verify_test.py::test_card_must_say_the_statement`.
  * Of files that are not listed only those that desktop systems leave behind,
    by name, are passed over; each is named:
    `verify_test.py::test_what_a_desktop_leaves_is_named_and_not_refused`.
  * A path that leads outside the folder is refused and not read:
    `verify_test.py::test_path_outside_is_refused`.
  * There is no traceback, whatever `privacy.json` holds:
    `verify_test.py::test_malformed_statement_is_refused`.
  * jax is not imported: `verify_test.py::test_runs_without_jax`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import importlib.metadata
import math
import os
import pathlib
import re
import stat
import sys
from typing import Any

from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import rounding
from dp_diffusion.privacy import statement as statement_lib
from dp_diffusion.privacy import strict_json

_USAGE = 'usage: python -m dp_diffusion.privacy.verify RELEASE_DIR'
_TOLERANCE = 1e-6  # Relative, for an epsilon computed on another machine.
_CARD = 'README.md'
_CROISSANT = 'croissant.json'
# Metadata at the top of the card (YAML, as Hugging Face reads it).
_FRONT = re.compile(
  r'---\n(?:(?:license|license_name|license_link|pretty_name|task_categories'
  r'|size_categories|tags|configs): ?[ -~]*\n|[ -] [ -~]+\n)*---\n\n'
)
# Files that desktop systems write into folders that are looked at.
_DESKTOP = re.compile(
  r'\.DS_Store|\.localized|Icon\r|Thumbs\.db|ehthumbs\.db|[Dd]esktop\.ini'
  r'|\.directory'
)
_OF_MACOS = '._'  # Before the name of a file or folder beside it.
_MAX_BYTES = 64 << 20  # Largest size of a file that is parsed.
_LIMITS = (
  'This shows that the statement agrees with itself and with the files. It'
  ' does not prove what ran: that the code was the one named, on the data'
  ' named, with a secret that stayed secret, rests on whoever made the release.'
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
  """The result of a check.

  Attributes:
    facts: lines about what was recomputed.
    mismatches: lines, one for each difference.
  """

  facts: tuple[str, ...]
  mismatches: tuple[str, ...]


def verify(release_dir: str | os.PathLike[str]) -> Report:
  """Checks the statement and the files of a release.

  >>> report = verify(release_dir)
  >>> report.facts[0], report.mismatches
  ('guarantee  epsilon ... at delta 0.001, ...', ())

  Args:
    release_dir: local folder that holds `privacy.json`.

  Returns:
    The result. No content of the folder makes the function raise.
  """
  folder = pathlib.Path(release_dir)
  try:
    statement = _read_statement(folder / statement_lib.FILE_NAME)
  except (OSError, ValueError) as e:
    return Report(facts=(), mismatches=(_one_line(e),))
  facts, mismatches = _check_statement(statement)
  file_facts, file_mismatches = _check_files(folder, statement.get('files'))
  return Report(
    facts=(*facts, *file_facts),
    mismatches=(
      *mismatches,
      *file_mismatches,
      *_check_card(folder, statement),
      *_check_croissant(folder, statement),
    ),
  )


def main(argv: Sequence[str]) -> int:
  """Prints the report.

  Args:
    argv: the arguments, without the program.

  Returns:
    The exit code.
  """
  if list(argv) in (['-h'], ['--help']):
    print((__doc__ or _USAGE).partition('\nGuarantees:')[0].rstrip())
    return 0
  problem = _usage_problem(argv)
  if problem:
    print(problem, file=sys.stderr)
    return 2
  report = verify(argv[0])
  for line in report.facts:
    print(line)
  for line in report.mismatches:
    print(f'MISMATCH   {line}')
  if report.mismatches:
    print(
      f'result     {len(report.mismatches)} mismatch(es): do not rely on it'
    )
    return 1
  print('result     everything agrees')
  print(_LIMITS)
  return 0


def _usage_problem(argv: Sequence[str]) -> str:
  """Returns why there is nothing to check, or ''."""
  if len(argv) != 1 or argv[0].startswith('-'):
    return _USAGE
  try:
    folder = pathlib.Path(argv[0])
    if not folder.is_dir():
      return f'Expected {ascii(argv[0])} to be a folder: give the release/ one.'
    if not os.path.lexists(folder / statement_lib.FILE_NAME):
      return (
        f'Expected {ascii(argv[0])} to hold {statement_lib.FILE_NAME}: give the'
        f' release/ folder{release_within(folder)}.'
      )
  except (OSError, ValueError):
    return f'Expected {ascii(argv[0])} to be a folder that can be read.'
  return ''


def release_within(folder: pathlib.Path) -> str:
  """Returns a hint for whoever names the folder of a run, or ''."""
  inside = folder / 'release'
  try:
    is_there = (inside / statement_lib.FILE_NAME).is_file()
  except (OSError, ValueError):
    return ''
  return f', {ascii(str(inside))}' if is_there else ''


def _read_plain(path: pathlib.Path) -> bytes:
  """Reads a file, but follows no link and reads no pipe and nothing huge."""
  status = path.lstat()
  if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
    raise ValueError(f'Expected {path.name} to be a file of a few kB.')
  return path.read_bytes()


def _read_statement(path: pathlib.Path) -> dict[str, Any]:
  statement = strict_json.loads(_read_plain(path))
  if not isinstance(statement, dict):
    raise ValueError(f'Expected {path.name} to hold a JSON object.')
  return statement


def _check_statement(
  statement: Mapping[str, Any],
) -> tuple[list[str], list[str]]:
  """Computes the statement again from its events, and compares."""
  try:
    ledger = statement_lib.parse_ledger(statement)
    again = statement_lib.statement(
      ledger,
      dataset=_get(statement, 'dataset', str),
      insecure_secret=_get(statement, 'insecure_secret', bool),
      code_revision=_get(statement, 'code_revision', str),
      versions=_get(statement, 'versions', dict),
      public_data=_optional_list(statement, 'public_data'),
      decided_by_opening=_optional_list(statement, 'decided_by_opening_images'),
    )
  except ValueError as e:
    return [], [f'{statement_lib.FILE_NAME}: {_one_line(e)}']
  mismatches = []
  if statement.get('checksum') != statement_lib.checksum(statement):
    mismatches.append(
      f'{statement_lib.FILE_NAME}: it was changed after it was written (its'
      ' checksum differs)'
    )
  facts = _facts(again)
  version = statement.get('statement_version')
  # Of an earlier version: other words; the numbers mean the same.
  if type(version) is int and version in range(1, statement_lib.VERSION):
    expected = ['statement', 'private', 'epsilon', 'epsilon_pld', 'epsilon_rdp']
    expected += sorted(set(statement) - set(again) - {'files'})
    mismatches += _understated(statement, again)
    again = {**again, **_as_before(ledger, again, version)}
    facts.append(
      f'NOTE       words of version {version} are not compared, but for the'
      ' sentence'
    )
  else:
    expected = sorted(set(again) | (set(statement) - {'files'}))
  for name in expected:
    stated, found = statement.get(name), again.get(name)
    if name != 'checksum' and not _is_same(name, stated, found):
      mismatches.append(
        f'{statement_lib.FILE_NAME}: {ascii(name)} is stated as'
        f' {_short(stated)}, recomputed as {_short(found)}'
      )
  return facts, mismatches


def _as_before(
  ledger: ledger_lib.Ledger, again: Mapping[str, Any], version: int
) -> dict[str, Any]:
  """Returns what an earlier version stated; before 4 by another accountant.

  That was a PLD at a fixed interval.
  """
  insecure = again['insecure_secret']
  if version >= 4:
    text = statement_lib.sentence(ledger, again['epsilon'], insecure, version)
    return {'statement': text}
  found = ledger.epsilon(accounting.FIXED_PLD)
  epsilon = found if math.isfinite(found) else None
  return {
    'statement': statement_lib.sentence(ledger, epsilon, insecure, version),
    'private': epsilon is not None,
    'epsilon': epsilon,
    'epsilon_pld': epsilon,
  }


def _understated(
  statement: Mapping[str, Any], again: Mapping[str, Any]
) -> list[str]:
  """Returns a mismatch if an earlier accountant understated epsilon."""
  stated, found = statement.get('epsilon'), again['epsilon']
  if not isinstance(stated, (int, float)) or isinstance(stated, bool):
    return []  # No number of a bound; other checks speak of it.
  if found is not None and found <= stated * (1 + _TOLERANCE):
    return []
  return [
    f"{statement_lib.FILE_NAME}: 'epsilon' is stated as {_short(stated)}, but"
    f' {_short(found)} is the least that can be proved'
  ]


def _facts(again: Mapping[str, Any]) -> list[str]:
  version = importlib.metadata.version('dp-accounting')
  if not again['private']:
    facts = ['guarantee  NONE: an event adds no noise, epsilon is infinite']
  else:
    facts = [
      f'guarantee  epsilon {rounding.up(again["epsilon"], 6)} at delta'
      f' {rounding.up(again["delta"], 6)}, for adding or removing one'
      f' {again["unit"]}'
    ]
    for name, words in (
      ('epsilon_pld', 'privacy loss distributions'),
      ('epsilon_rdp', 'Renyi DP'),
    ):
      if again[name] is not None:
        bound = rounding.up(again[name], 6)
        facts.append(f'           epsilon {bound} by {words}')
  facts.append(
    f'events     {len(again["events"])}, composed with dp-accounting {version}'
  )
  if again['insecure_secret']:
    facts.append('WARNING    made with a planted secret: nothing is guaranteed')
  return facts


def _check_files(
  folder: pathlib.Path, stated: Any
) -> tuple[list[str], list[str]]:
  """Compares the hashes, and looks for files that are not listed."""
  if not isinstance(stated, dict):
    return [], ["'files' does not list the files of the release"]
  present, mismatches = _list_files(folder)
  num_right = 0
  for name, digest in sorted(stated.items()):
    problem = _path_problem(name)
    if problem:
      mismatches.append(f'{ascii(name)} {problem}')
    elif name not in present:
      mismatches.append(f'{ascii(name)} is listed, but missing')
    elif not isinstance(digest, str) or not re.fullmatch(
      '[0-9a-f]{64}', digest
    ):
      mismatches.append(f'{ascii(name)} has no sha256 in the list')
    elif _sha256(folder / name) != digest:
      mismatches.append(f'{ascii(name)} was changed: its sha256 differs')
    else:
      num_right += 1
  facts = [f'files      {num_right} with the sha256 that is stated']
  for name in sorted(present - set(stated)):
    if _is_of_desktop(folder / name):
      facts.append(
        f'NOTE       {ascii(name)}, of a desktop system, is not part of the'
        ' release'
      )
    else:
      mismatches.append(f'{ascii(name)} is in the folder, but not listed')
  return facts, mismatches


def _is_of_desktop(path: pathlib.Path) -> bool:
  """Whether a file has a name that only desktop systems give."""
  if _DESKTOP.fullmatch(path.name):
    return True
  beside = path.name.removeprefix(_OF_MACOS)
  return beside not in ('', path.name) and path.with_name(beside).exists()


def _check_card(
  folder: pathlib.Path, statement: Mapping[str, Any]
) -> list[str]:
  """Compares the card with the statement; returns the mismatches."""
  try:
    text = _read_plain(folder / _CARD).decode(errors='replace')
  except FileNotFoundError:
    return [f'{_CARD} is missing: nobody is told the guarantee']
  except (OSError, ValueError) as e:
    return [f'{_CARD} cannot be read: {_one_line(e)}']
  try:
    sentence, details = statement_lib.card_parts(statement_lib.card(statement))
  except (ValueError, KeyError, TypeError, AttributeError):
    return []  # The statement itself is refused.
  front = _FRONT.match(text)
  heading, _, rest = text[front.end() if front else 0 :].partition('\n\n')
  if not heading.startswith('# ') or not rest.startswith(f'{sentence}\n'):
    return [
      f'{_CARD} does not hold the sentence of the statement below its heading'
    ]
  is_current = statement['statement_version'] == statement_lib.VERSION
  if is_current and not rest.endswith(f'\n## Privacy\n\n{details}\n'):
    return [f'{_CARD} does not end with the words of the statement']
  return []


def _check_croissant(
  folder: pathlib.Path, statement: Mapping[str, Any]
) -> list[str]:
  """Compares the description in the Croissant file with the statement."""
  try:
    found = strict_json.loads(_read_plain(folder / _CROISSANT))
  except FileNotFoundError:
    return []  # It is listed as missing if the release had one.
  except (OSError, ValueError):
    found = None
  sentence = statement.get('statement')
  description = found.get('description') if isinstance(found, dict) else None
  if isinstance(sentence, str) and isinstance(description, str):
    if description.endswith(f' {sentence}'):
      return []
  return [f'{_CROISSANT} does not hold the sentence of the statement']


def _path_problem(name: str) -> str:
  """Returns why a listed path is no file inside the folder, or ''."""
  parts = name.split('/')
  if name.startswith('/') or '\\' in name or ':' in parts[0] or '..' in parts:
    return 'leads outside the folder'
  if not name or '\0' in name or {'', '.'} & set(parts):
    return 'is not a plain relative path'
  if name == statement_lib.FILE_NAME:
    return 'cannot hold its own sha256'
  return ''


def _list_files(folder: pathlib.Path) -> tuple[set[str], list[str]]:
  """Lists relative paths of plain files, and problems with other ones."""
  found: set[str] = set()
  problems: list[str] = []
  walk = os.walk(
    folder, onerror=lambda e: problems.append(f'a folder: {_one_line(e)}')
  )
  for root, folders, names in walk:
    for name in (*folders, *names):
      path = pathlib.Path(root, name)
      relative = path.relative_to(folder).as_posix()
      mode = path.lstat().st_mode
      if stat.S_ISREG(mode):
        found.add(relative)
      elif not stat.S_ISDIR(mode):
        problems.append(f'{ascii(relative)} is a link or no plain file')
  return found - {statement_lib.FILE_NAME}, problems


def _sha256(path: pathlib.Path) -> str:
  """Returns the hex digest, or '' for a file that cannot be read."""
  try:
    with path.open('rb') as f:
      return hashlib.file_digest(f, 'sha256').hexdigest()
  except OSError:
    return ''


def _is_same(name: str, stated: Any, found: Any) -> bool:
  if name.startswith('epsilon') and isinstance(found, float):
    is_number = isinstance(stated, (int, float)) and not isinstance(
      stated, bool
    )
    return is_number and math.isclose(stated, found, rel_tol=_TOLERANCE)
  # JSON distinguishes 1, 1.0 and True.
  return strict_json.dumps(stated) == strict_json.dumps(found)


def _optional_list(statement: Mapping[str, Any], name: str) -> Sequence[Any]:
  """Returns a list that earlier versions do not have."""
  if name not in statement:
    return ()
  found: Sequence[Any] = _get(statement, name, list)
  return found


def _get(statement: Mapping[str, Any], name: str, wanted: type) -> Any:
  value = statement.get(name)
  if not isinstance(value, wanted):
    raise ValueError(f'Expected {name!r} to be of type {wanted.__name__}.')
  return value


def _short(value: Any) -> str:
  text = ascii(value)
  return text if len(text) <= 60 else text[:57] + '...'


def _one_line(error: BaseException) -> str:
  text = ascii(str(error))[1:-1].replace('\\n', ' ')
  return text if len(text) <= 300 else text[:297] + '...'


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
