"""One process of the job that `scale` measures; `scale` starts it.

  python -m experiments.benchmarks.scale_process FOLDER --config=... --stage=...

It runs a stage as the main program does, and writes to FOLDER what it measured,
as PROCESS.json.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
import os
import pathlib
import sys
import time
from typing import Any

from dp_diffusion import files
from experiments.benchmarks import host_peak

_INTERVAL_SECS = 0.1


class Timer:
  """Measures calls of functions.

  Attributes:
    cpu_secs: name -> CPU seconds of the calling thread, one number per call.
      Threads that compute for the devices do not count.
    secs: name -> seconds of wall time, one number per call.
    before: name -> CPU seconds of the whole process before the first call.
  """

  def __init__(self) -> None:
    """Starts without any call."""
    self.cpu_secs: dict[str, list[float]] = {}
    self.secs: dict[str, list[float]] = {}
    self.before: dict[str, float] = {}

  def watch(self, owner: Any, name: str) -> None:
    """Replaces a function of a module or class by one that is measured."""
    fn: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(fn)
    def measured(*args: Any, **kwargs: Any) -> Any:
      self.before.setdefault(name, time.process_time())
      cpu, wall = time.thread_time(), time.perf_counter()
      result = fn(*args, **kwargs)
      self.cpu_secs.setdefault(name, []).append(time.thread_time() - cpu)
      self.secs.setdefault(name, []).append(time.perf_counter() - wall)
      return result

    setattr(owner, name, measured)


def main(folder: str, *arguments: str) -> int:
  """Runs the main program, and writes what was measured."""
  peak: dict[str, int] = {}
  timer = Timer()
  fields = host_peak.OWN | host_peak.PROPORTIONAL
  with host_peak.watched(peak, fields, _INTERVAL_SECS):
    # Imported here, so that their memory is measured.
    from dp_diffusion import main as main_lib  # noqa: PLC0415
    from dp_diffusion.data import batching  # noqa: PLC0415
    from dp_diffusion.privacy import batch_selection  # noqa: PLC0415
    from dp_diffusion.training import checkpoint  # noqa: PLC0415
    from dp_diffusion.training import private_loop  # noqa: PLC0415

    timer.watch(batch_selection.PoissonSelector, 'select')
    timer.watch(batching, 'gather')
    timer.watch(checkpoint.Checkpointer, 'save')
    timer.watch(private_loop, 'private_step')
    code = main_lib.main(arguments)
  number = int(os.environ['JAX_PROCESS_ID'])
  found = {'peak': peak, **vars(timer)}
  files.write_json(pathlib.Path(folder) / f'{number}.json', found)
  return code


if __name__ == '__main__':
  sys.exit(main(*sys.argv[1:]))
