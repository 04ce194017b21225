"""Trains, samples and measures: `dp-diffusion --config=NAME`.

  dp-diffusion --config=NAME                  runs one of the configs below
  dp-diffusion --config=NAME --stage=plan     prints what that will do and cost
  dp-diffusion --config=own_images:cpu --config.data.path=FOLDER ...

`python -m dp_diffusion` and `python -m dp_diffusion.main` are the same command.

Flags:
  --config=FILE[:VARIANT]   a file of configs/, or its name, and one of its
                            variants
  --workdir=FOLDER          where everything is kept (default runs/NAME)
  --stage=STAGE             plan, pretrain, finetune, sample, evaluate, all;
                            inspect (a look at the sensitive images, for
                            private/), forget (removes decoded images from the
                            cache folder), or audit (public images only; exit
                            1: refuted)
  --config.KEY=VALUE        any key of docs/config.md
  --help                    this page and the configs in configs/
  --help=KEY                what a key means (--help=privacy.delta), or the keys
                            of a section (--help=privacy)
  --version                 version of the package

Exit codes: 0 done; 1 failed; 2 bad usage or config (one line says what);
130 stopped by Ctrl-C (the message says what is saved).

With a finished release:
  python -m dp_diffusion.privacy.verify RELEASE   checks it
  python -m dp_diffusion.sample RELEASE ...       samples more images
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import difflib
import os
import pathlib
import shlex
import sys

from dp_diffusion import checks
from dp_diffusion import compile_cache
from dp_diffusion import config_values
from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion import exit_codes
from dp_diffusion import host_memory
from dp_diffusion import jax_environment
from dp_diffusion import version
from dp_diffusion import xla_flags

STAGES = (
  'plan',
  'inspect',
  'pretrain',
  'finetune',
  'sample',
  'evaluate',
  'audit',
  'all',
  'forget',
)
_COMMAND = 'dp-diffusion'  # As `pyproject.toml` calls it.
_FLAGS = ('--config', '--workdir', '--stage', '--help', '--version')


@dataclasses.dataclass(frozen=True)
class Arguments:
  """The command line of the user.

  Attributes:
    config: FILE[:VARIANT].
    workdir: a folder, or '' for runs/NAME.
    stage: one of STAGES.
    overrides: dotted config key -> text.
  """

  config: str
  workdir: str
  stage: str
  overrides: dict[str, str]


# Why not `ml_collections.config_flags` (1.1.0), which was tried: it takes the
# values of keys from `sys.argv`, whatever arguments it is given; an unknown key
# is an AttributeError of two lines or a KeyError and names no near key of other
# sections; an unknown variant prints the traceback of the config file, and its
# syntax errors are raised as they are; a file that is not there is noticed when
# the config is first used; `none` is refused for keys such as privacy.epsilon;
# class names 0,1 become numbers, 01,02 are refused and a,b is one name; a key
# before --config is an error.
def parse(argv: Sequence[str]) -> Arguments:
  """Parses the command line (without the program's name).

  Raises:
    UsageError: a flag or stage is unknown, or a value or --config is missing.
  """
  values = {'--config': '', '--workdir': '', '--stage': 'all'}
  overrides: dict[str, str] = {}
  rest = list(argv)
  while rest:
    flag, equals, value = rest.pop(0).partition('=')
    is_override = flag.startswith('--config.')
    if not is_override and flag not in values:
      near = _meant(flag)
      hint = f'; did you mean {near}?' if near else '.'
      raise errors.UsageError(
        f'Unknown argument {flag!r}. Expected --config, --workdir, --stage'
        f' or --config.KEY=VALUE{hint}'
      )
    if not equals:
      if not rest:
        raise errors.UsageError(
          f'Expected a value after {flag}, as in {flag}=VALUE.'
        )
      value = rest.pop(0)
    if is_override:
      overrides[flag.removeprefix('--config.')] = value
    else:
      values[flag] = value
  if not values['--config']:
    raise errors.UsageError(
      'Expected --config=FILE, such as --config=own_images:cpu; --help lists'
      ' the flags and the configs.'
    )
  try:
    checks.check_one_of('--stage', values['--stage'], STAGES)
  except ValueError as error:
    raise errors.UsageError(str(error)) from None
  return Arguments(
    values['--config'], values['--workdir'], values['--stage'], overrides
  )


def _meant(argument: str) -> str:
  """Returns what an unknown argument may stand for, or ''.

  >>> _meant('mnist:cpu'), _meant('plan'), _meant('--confg'), _meant('x')
  ('--config=mnist:cpu', '--stage=plan', '--config', '')
  """
  if not argument.startswith('-'):
    name = argument.partition(':')[0]
    path = config_values.shipped_folder() / pathlib.PurePath(name).name
    if name.endswith('.py') or path.with_suffix('.py').is_file():
      return f'--config={argument}'
    if argument in STAGES:
      return f'--stage={argument}'
  if near := difflib.get_close_matches(argument, _FLAGS, n=1, cutoff=0.8):
    return near[0]
  if argument.startswith('--'):
    # Imported here, as `run` does.
    from dp_diffusion import config as config_lib  # noqa: PLC0415
    from dp_diffusion import config_keys  # noqa: PLC0415

    tail = f'.{argument.removeprefix("--")}'
    for _, _, keys, _ in config_keys.sections(config_lib.Config):
      for key in keys:
        if f'.{key.path}'.endswith(tail):
          return f'--config.{key.path}'
  return ''.join(difflib.get_close_matches(argument, _FLAGS, n=1))


def help_topic(argv: Sequence[str]) -> str | None:
  """Returns the topic of --help: a key, '' for the flags, or None.

  >>> help_topic(['--help=privacy']), help_topic(['-h', 'privacy.delta'])
  ('privacy', 'privacy.delta')
  >>> help_topic(['--help', '--stage=plan']), help_topic(['--stage=plan'])
  ('', None)
  """
  for place, argument in enumerate(argv):
    flag, _, topic = argument.partition('=')
    if flag in ('--help', '-h'):
      following = ''.join(argv[place + 1 : place + 2])
      is_key = following.startswith('--config.') or following[:1] not in '-'
      return topic or (following if is_key else '')
  return None


def show_help(topic: str) -> None:
  """Prints the flags and the configs, or the help on a key or section.

  Raises:
    UsageError: there is no such key or section.
  """
  if not topic:
    folder = config_values.shipped_folder()
    found = config_values.describe_files(folder)
    console.say(
      f'{__doc__}\nConfigs, as --config=NAME or --config=NAME:VARIANT:\n{found}'
      '\n\nWhere to read more: README.md and docs/ of the repository, beginning'
      ' with docs/index.md.'
    )
    return
  # Imported here, as `run` does.
  from dp_diffusion import config_help  # noqa: PLC0415

  console.say(config_help.of(topic))


def default_workdir(config_argument: str) -> str:
  """Returns the default workdir; 'configs/a.py:b,c' gives 'runs/a-b-c'."""
  file_name, _, variant = config_argument.partition(':')
  stem, variant = pathlib.Path(file_name).stem, variant.replace(',', '-')
  return f'runs/{stem}-{variant}' if variant else f'runs/{stem}'


def run(arguments: Arguments) -> None:
  """Loads the config and runs the stage, or all stages."""
  jax_environment.fix_and_say()
  # Imported here, so that --help and errors in flags are fast.
  from dp_diffusion import config as config_lib  # noqa: PLC0415
  from dp_diffusion.stages import runner  # noqa: PLC0415

  config = config_lib.load(arguments.config, arguments.overrides)
  workdir = arguments.workdir or default_workdir(arguments.config)
  runner.run(config, workdir, arguments.stage, command_line())


def command_line() -> str:
  """Returns the command as a user would type it again."""
  program, *rest = sys.argv
  is_installed = pathlib.PurePath(program).stem == _COMMAND
  start = [_COMMAND] if is_installed else ['python', '-m', 'dp_diffusion.main']
  return shlex.join([*start, *rest])


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns the exit code."""
  argv = list(sys.argv[1:] if argv is None else argv)
  host_memory.keep_freed()
  xla_flags.keep_barriers()
  compile_cache.enable()
  # Hides messages of libraries that do not concern the user.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
  topic = help_topic(argv)

  def work() -> None:
    if argv == ['--version']:
      console.say(f'dp_diffusion {version.of_package()}')
    elif topic is not None:
      show_help(topic)
    else:
      run(parse(argv))

  return exit_codes.run(work)


if __name__ == '__main__':
  sys.exit(main())
