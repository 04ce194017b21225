"""Binds noised statistics of the sensitive images to what they are drawn from.

The facts of which they are a function, with the secret, are written before the
images are read. A rerun with the same facts draws the same bits; with others it
would be another release, which the ledger does not count.

Guarantees:
  * Statistics with other facts than those that were begun are refused.
    `tests/stages/run/begun_statistics_test.py::test_other_facts_are_refused`.
  * Kept ones of unknown origin are refused.
    `tests/stages/run/begun_statistics_test.py::test_unknown_origin_is_refused`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from etils import epath

from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion.stages.run import workdirs


def begin(
  workdir: workdirs.Workdir,
  begun: epath.Path,
  kept: epath.Path,
  facts: Mapping[str, Any],
  what: str,
) -> None:
  """Records what is drawn, unless it is kept, and refuses to draw another.

  The random number generator, the fact `rng`, may change once it is kept.

  Args:
    workdir: the run, for messages.
    begun: file of the facts; it is written.
    kept: file of what was drawn, which exists once it is complete.
    facts: JSON values that determine the noise.
    what: what is drawn, for messages, such as 'its class head'.

  Raises:
    UsageError: another was begun, or it is not known which was.
  """
  is_kept = kept.exists()
  if begun.exists():
    before = files.read_whole_json(begun)['facts']
    for name, value in facts.items():
      if before.get(name) != value and not (is_kept and name == 'rng'):
        raise errors.UsageError(
          f'{workdir.root} has begun {what}, and {name} differs now: that would'
          ' be another release, which the ledger does not count. Restore'
          f' {name}, or give another --workdir.'
        )
  elif is_kept:
    raise errors.UsageError(
      f'Expected {begun} to say what {kept} was made from, but it is not there:'
      ' restore it, or give another --workdir.'
    )
  if not is_kept:
    files.write_json(begun, {'facts': dict(facts)}, mode=0o600)
