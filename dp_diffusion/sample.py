"""The command that samples a release: `python -m dp_diffusion.sample ...`.

It needs only the folder `release/`, which it verifies first.

  RELEASE                   folder with privacy.json and model/
  --num=N                   number of images
  --out=FILE                new file for images and statement, never replaced:
                            .npz (arrays) or .zip (PNG files, a folder per
                            class)
  --labels=CLASS,CLASS,...  names or numbers of classes, taken in turn;
                            'uniform', the default, for all
  --seed=SEED               gives the same images again; a new one by default.
                            That of the run gives the images of dataset/
  --sampler=NAME,KEY=VALUE,...
                            another sampler than that of the release, or other
                            values of it: ddim,num_steps=50,guidance_weight=1
  --batch_size=N            images per device at a time

Exit codes: 0 done; 2 what was given cannot work (one line says what); 130
stopped by Ctrl-C, nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import difflib
import sys
from typing import TYPE_CHECKING, Any

from dp_diffusion import compile_cache
from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion import exit_codes
from dp_diffusion import host_memory
from dp_diffusion import jax_environment
from dp_diffusion import xla_flags

if TYPE_CHECKING:
  from dp_diffusion.diffusion import samplers

_FLAGS = ('num', 'out', 'labels', 'seed', 'sampler', 'batch_size')
_NUMBERS = ('num', 'seed', 'batch_size')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
  """Arguments of the command line.

  Attributes:
    release: folder of the release.
    num: number of images.
    out: path of the .npz or .zip.
    labels: classes, separated by commas; '' for all.
    seed: seed of the images; None for a new one.
    sampler: changes of the sampler, as text; '' for that of the release.
    batch_size: images at a time; None for that of the release.
  """

  release: str
  num: int
  out: str
  labels: str = ''
  seed: int | None = None
  sampler: str = ''
  batch_size: int | None = None


def parse(argv: Sequence[str]) -> Arguments:
  """Parses the command line, given without the program's name.

  Raises:
    UsageError: an unknown flag, or a value that is missing or no number.
  """
  folders: list[str] = []
  values: dict[str, str] = {}
  rest = list(argv)
  while rest:
    argument = rest.pop(0)
    if not argument.startswith('-'):
      folders.append(argument)
      continue
    flag, equals, value = argument.partition('=')
    name = flag.removeprefix('--')
    if name not in _FLAGS or not flag.startswith('--'):
      near = difflib.get_close_matches(name, _FLAGS, n=1)
      hint = f'; did you mean --{near[0]}?' if near else '.'
      raise errors.UsageError(
        f'Unknown argument {flag!r}. Expected RELEASE and'
        f' {", ".join(f"--{known}" for known in _FLAGS)}{hint}'
      )
    if name in values:
      raise errors.UsageError(f'Expected --{name} once.')
    if not equals and not rest:
      raise errors.UsageError(f'Expected a value after {flag}.')
    values[name] = value if equals else rest.pop(0)
  if len(folders) != 1:
    raise errors.UsageError(
      f'Expected one RELEASE, not {len(folders)}, as in python -m'
      ' dp_diffusion.sample runs/x/release --num=1000 --out=more.npz'
    )
  for name in ('num', 'out'):
    if not values.get(name):
      raise errors.UsageError(f'Expected --{name}=...; --help says all.')
  given: dict[str, Any] = {
    name: _number(name, text) if name in _NUMBERS else text
    for name, text in values.items()
  }
  return Arguments(release=folders[0], **given)


def _number(name: str, text: str) -> int:
  try:
    return int(text)
  except ValueError:
    raise errors.UsageError(
      f'Expected --{name}={text} to be a whole number.'
    ) from None


def run(arguments: Arguments) -> None:
  """Samples, and writes the file.

  Raises:
    UsageError: an argument is not possible for this release.
  """
  jax_environment.fix_and_say()
  # Imported here, so that --help and a mistyped flag answer at once.
  from dp_diffusion import config_values  # noqa: PLC0415
  from dp_diffusion import released_model  # noqa: PLC0415

  release = released_model.load_release(arguments.release)
  released_model.check_new_file(arguments.out, release.folder)
  for fact in release.facts:
    console.say(fact)
  labels = config_values.parse_names(arguments.labels)
  if arguments.labels in release.class_names:  # A name may hold a comma.
    labels = (arguments.labels,)
  elif labels == ('uniform',):
    labels = ()
  samples = release.sample(
    arguments.num,
    labels=labels,
    seed=arguments.seed,
    sampler=_sampler(arguments.sampler, release.sampler),
    batch_size=arguments.batch_size,
  )
  samples.save(arguments.out)
  console.say(
    f'{arguments.out}: {arguments.num} images, seed {samples.seed}, under the'
    ' guarantee of the release'
  )


def _sampler(
  text: str, before: samplers.SamplerConfig | None
) -> samplers.SamplerConfig | None:
  """Applies 'NAME,KEY=VALUE,...' to the release's sampler; None for ''.

  Raises:
    UsageError: an unknown key or value.
  """
  from dp_diffusion import config_values  # noqa: PLC0415
  from dp_diffusion.diffusion import samplers  # noqa: PLC0415

  if not text:
    return None
  values = dataclasses.asdict(before or samplers.SamplerConfig())
  for place, part in enumerate(text.split(',')):
    key, equals, value = part.strip().partition('=')
    if not equals and not place:
      key, value = 'name', key
    if key not in values:
      raise errors.UsageError(
        f'Expected --sampler={text} to be NAME,KEY=VALUE,..., with keys of'
        f' {", ".join(values)}; not {part.strip()!r}.'
      )
    kind = type(values[key])
    values[key] = config_values.parse_value(f'sampler: {key}', value, kind)
  try:
    return samplers.SamplerConfig(**values)
  except (TypeError, ValueError) as error:
    raise errors.UsageError(f'--sampler={text}: {error}') from error


def main(argv: Sequence[str] | None = None) -> int:
  """Runs; returns the exit code."""
  argv = list(sys.argv[1:] if argv is None else argv)
  if '--help' in argv or '-h' in argv:
    console.say(__doc__ or '')
    return 0
  host_memory.keep_freed()
  xla_flags.keep_barriers()
  compile_cache.enable()
  return exit_codes.run(lambda: run(parse(argv)))


if __name__ == '__main__':
  sys.exit(main())
