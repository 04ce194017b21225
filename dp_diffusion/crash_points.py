"""Named moments at which a test may kill the process.

The module is in the lowest layer. Crash safety is tested by real kills
(SIGKILL: no handler runs, no buffer is flushed) at the critical moments. The
code marks them with `reach`, which does nothing unless the environment asks for
a kill:

  DP_DIFFUSION_CRASH_AT=mid_save      dies the first time it gets there
  DP_DIFFUSION_CRASH_AT=mid_save:3    dies the third time
"""

from __future__ import annotations

import os
import signal

from dp_diffusion import checks

ENVIRONMENT_VARIABLE = 'DP_DIFFUSION_CRASH_AT'

POINTS = {
  'mid_step': 'a private step has run; no checkpoint holds it yet',
  'mid_save': 'parts of a checkpoint are being written',
  'before_commit': 'a checkpoint is written and does not count yet',
  'after_save': 'a checkpoint counts; nothing has followed from it',
  'mid_sample': 'some shards of samples are written, one is being made',
  'mid_release': 'some files of the release are written, others are not',
  'mid_evaluate': 'some classifiers are trained and kept, others are not',
}

_times_reached: dict[str, int] = {}


def reach(point: str) -> None:
  """Kills this process with SIGKILL if the environment asks for it here.

  Args:
    point: a key of `POINTS`.

  Raises:
    ValueError: the point, here or in the environment, is unknown.
  """
  checks.check_one_of('point', point, POINTS)
  wanted = os.environ.get(ENVIRONMENT_VARIABLE, '')
  if not wanted:
    return
  name, _, times = wanted.partition(':')
  checks.check_one_of(ENVIRONMENT_VARIABLE, name, POINTS)
  if name != point:
    return
  _times_reached[point] = _times_reached.get(point, 0) + 1
  if _times_reached[point] == int(times or 1):
    os.kill(os.getpid(), signal.SIGKILL)
