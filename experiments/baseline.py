"""Runs one baseline under the privacy of a config.

  python -m experiments.baseline --method=dp_merf --config=FILE --workdir=FOLDER

Methods: dp_merf, dp_mepf, private_evolution, dp_classifier. The workdir gets
`release/`, which `python -m dp_diffusion.privacy.verify` checks, and
`evaluation/report.json`.
Each baseline spends its own epsilon; releases from the same images add up.

Exit codes: 0 done; 2 bad usage or a full disk; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

from collections.abc import Sequence
import shlex
import sys

from dp_diffusion import errors
from dp_diffusion import exit_codes
from dp_diffusion import jax_environment
from dp_diffusion import main as main_lib


def run(argv: Sequence[str]) -> None:
  """Reads the command line and runs the method."""
  jax_environment.fix_and_say()
  # Imported here: they import jax, which reads the environment.
  from dp_diffusion import checks  # noqa: PLC0415
  from dp_diffusion import config as config_lib  # noqa: PLC0415
  from dp_diffusion.baselines import settings  # noqa: PLC0415
  from dp_diffusion.stages import baseline  # noqa: PLC0415
  from dp_diffusion.stages.run import interrupts  # noqa: PLC0415
  from dp_diffusion.stages.run import workdirs  # noqa: PLC0415

  prefix = '--method='
  methods = [a.removeprefix(prefix) for a in argv if a.startswith(prefix)]
  if len(methods) != 1:
    known = ', '.join(settings.METHODS)
    raise errors.UsageError(f'Expected --method=, one of {known}.')
  try:
    checks.check_one_of('--method', methods[0], settings.METHODS)
  except ValueError as error:
    raise errors.UsageError(str(error)) from None
  arguments = main_lib.parse([a for a in argv if not a.startswith(prefix)])
  if not arguments.workdir:
    raise errors.UsageError('Expected --workdir=FOLDER, of its own.')
  config = config_lib.load(arguments.config, arguments.overrides)
  workdir = workdirs.open_workdir(arguments.workdir)
  command = shlex.join(['python', '-m', 'experiments.baseline', *argv])
  with workdir.held(), interrupts.catch(command) as stop:
    baseline.run(config, workdir, methods[0], stop)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs; returns the exit code."""
  argv = sys.argv[1:] if argv is None else argv
  if '--help' in argv or '-h' in argv:
    print(__doc__)
    return 0
  return exit_codes.run(lambda: run(argv))


if __name__ == '__main__':
  sys.exit(main())
