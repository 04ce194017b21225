"""Watches the host memory of this process; only Linux reports it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import pathlib
import re
import threading

# Field -> its file in /proc: memory that the system cannot reclaim, and the
# largest resident memory so far.
OWN = {'RssAnon': 'status', 'VmHWM': 'status'}
# Resident memory in which a page that n processes map counts 1/n; slow to read.
PROPORTIONAL = {'Pss': 'smaps_rollup'}
_PROCESS = pathlib.Path('/proc/self')


@contextlib.contextmanager
def watched(
  peak: dict[str, int],
  fields: Mapping[str, str] = OWN,
  interval_secs: float = 0.02,
) -> Iterator[None]:
  """Writes the peaks of a block, in bytes, by field.

  Args:
    peak: is filled during the block.
    fields: `OWN`, or more of the fields above.
    interval_secs: time between two readings.
  """
  is_over = threading.Event()

  def watch() -> None:
    while True:
      for field, value in _read(fields).items():
        peak[field] = max(peak.get(field, 0), value)
      if is_over.wait(interval_secs):
        return

  thread = threading.Thread(target=watch, daemon=True)
  thread.start()
  try:
    yield
  finally:
    is_over.set()
    thread.join()


def _read(fields: Mapping[str, str]) -> dict[str, int]:
  """Returns the present memory of the process in bytes, by field."""
  texts = {name: (_PROCESS / name).read_text() for name in fields.values()}
  found = {}
  for field, name in fields.items():
    match = re.search(rf'^{field}:\s+(\d+) kB$', texts[name], re.MULTILINE)
    if match:
      found[field] = int(match[1]) * 1024
  return found
