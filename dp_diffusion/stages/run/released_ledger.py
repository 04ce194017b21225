"""Reads the ledger of released weights or images from their statement.

Weights of a release and the images sampled from them have the same statement,
and so the same entry of a ledger. Used together they count once: the images are
computed from the weights, so they reveal nothing more.

Guarantees:
  * Images of an earlier release bring its ledger: its `.npz`, its TFDS form, a
    folder or zip beside its statement.
    `tests/stages/run/released_ledger_test.py::test_released_images_bring_their_ledger`.
  * Images of several releases, in a folder or a zip, bring all their ledgers.
    `tests/stages/run/released_ledger_test.py::test_files_of_several_releases_bring_all_their_ledgers`,
    `tests/stages/run/released_ledger_test.py::test_pictures_of_several_releases_in_a_zip_bring_all_their_ledgers`.
  * Marked images without it are refused.
    `tests/stages/run/released_ledger_test.py::test_marked_images_without_it_are_refused`.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Any

from dp_diffusion import errors
from dp_diffusion import release_marks
from dp_diffusion.data import registry
from dp_diffusion.data import same_source
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import statement as statement_lib
from dp_diffusion.privacy import strict_json


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inherited:
  """The ledgers that weights or images bring.

  Attributes:
    entries: ledgers of releases; none for public weights or images.
    is_insecure: whether the secret of one of them was planted by a test.
  """

  entries: tuple[ledger_lib.InheritedEntry, ...] = ()
  is_insecure: bool = False

  def __add__(self, other: Inherited) -> Inherited:
    """Returns the union; each release counts once."""
    new = tuple(e for e in other.entries if e not in self.entries)
    return Inherited(
      entries=(*self.entries, *new),
      is_insecure=self.is_insecure or other.is_insecure,
    )


def of_images(data: registry.DataConfig) -> Inherited:
  """Returns the ledger of the images of a data section, reading no image.

  Raises:
    UsageError: the images are marked as released and their statement is not
      beside them, or the statement is damaged.
  """
  found = Inherited()
  for folder in same_source.places(data):
    for place in release_marks.places(folder):
      for origin in release_marks.find_all(place):
        found += of_statement(origin.where, origin.content)
  return found


def of_statement(
  where: str,
  content: bytes,
  problem_of: Callable[[dict[str, Any]], str] = lambda statement: '',
  what: str = 'images',
) -> Inherited:
  """Returns the ledger of a release.

  Args:
    where: path of its `privacy.json`, for messages.
    content: content of the file.
    problem_of: returns why the statement does not cover the weights or images,
      or ''.
    what: 'weights' or 'images', for messages.

  Raises:
    UsageError: the statement is damaged or does not cover them.
  """
  try:
    statement = strict_json.loads(content)
    if not isinstance(statement, dict):
      raise ValueError('it is no JSON object')
    ledger = statement_lib.parse_ledger(statement)
    is_insecure = strict_json.boolean(
      'insecure_secret', statement.get('insecure_secret')
    )
    is_whole = statement.get('checksum') == statement_lib.checksum(statement)
    problem = problem_of(statement)
    dataset = strict_json.line('dataset', statement.get('dataset'))
    mark = release_marks.of_statement(statement)
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise doubtful(where, str(error), what) from error
  if not is_whole:
    raise doubtful(where, 'its checksum differs', what)
  if problem:
    raise doubtful(where, problem, what)
  model = f', weights of sha256 {mark.model_sha256[:16]}' if mark else ''
  source = f'the release of {dataset}{model}'
  return Inherited(
    entries=(ledger_lib.InheritedEntry(ledger=ledger, source=source),),
    is_insecure=is_insecure,
  )


def doubtful(where: str, reason: str, what: str) -> errors.UsageError:
  """Returns the error for a statement that cannot be relied on."""
  return errors.UsageError(
    f'Expected {where} to state what the {what} beside it have cost, but'
    f' {reason}: take the release as it was published, or {what} that are'
    ' public.'
  )
