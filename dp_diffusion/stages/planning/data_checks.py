"""Checks the images before anything is computed or spent.

`plan` checks names only. A run first also checks headers and one image of each
class, and then all images (`inspect`), before its first step of pre-training.
An error in a file, a class, a division or a depth therefore costs neither hours
nor budget.
"""

from __future__ import annotations

from dp_diffusion import config as config_lib
from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion.data import registry
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import processes


def splits(config: config_lib.Config) -> tuple[str, ...]:
  """Returns the splits of the sensitive data that a whole run reads."""
  named = (
    config.data.split,
    config.data.test_split,
    config.evaluate.held_out_split,
  )
  return tuple(dict.fromkeys(split for split in named if split))


def evaluates_public(config: config_lib.Config) -> bool:
  """Whether `evaluate` reads the public images.

  It trains classifiers on them if they have the classes of the sensitive
  images, and may train its feature network on them.
  """
  return config.has_same_classes or config.evaluate.features == 'public'


def names_found(config: config_lib.Config) -> list[str]:
  """Checks names, folders, classes and splits, opening no further image.

  Args:
    config: gives data, pretrain and evaluate.

  Returns:
    Lines for a plan on what was found, and how to get what is missing.

  Raises:
    UsageError: a path of the config is empty or does not exist, a class is not
      listed, or a split does not exist.
  """
  asked = {'sensitive': (config.data, splits(config))}
  if config.reads_public_images or evaluates_public(config):
    public = config.pretrain.data
    asked['public'] = public, (public.split,)
  lines = ['data']
  for name, (data, names) in asked.items():
    found = 'there, by name; no image was read'
    if name == 'sensitive' and config.found:
      keys = ', '.join(config.found)
      found = f'there, by name; images were opened for {keys} alone'
    try:
      registry.check_available(data, names)
    except errors.UsageError as error:
      if data.path or data.tfds_dir or data.manual_dir:
        raise
      found = f'not there yet: {error}'
    lines.append(f'  {name:<19} {found}')
  return lines


def check(
  config: config_lib.Config, workdir: workdirs.Workdir, stage: str
) -> None:
  """Checks, at the start of a run, what its stages would refuse later.

  Pre-training alone reads no sensitive image and may run on a machine without
  them. In that case there is only a warning about sensitive images.

  Args:
    config: config of the run.
    workdir: says which stages are complete.
    stage: the stage that the user asked for.

  Raises:
    UsageError: see `registry.load`.
  """
  is_before = not workdir.is_complete('finetune')
  if stage == 'pretrain' and not workdir.is_complete('pretrain'):
    processes.on_main(lambda: _check_where_present(config))
  elif stage in ('finetune', 'all') and is_before:
    processes.on_main(lambda: _check_readable(config, is_whole=stage == 'all'))
  elif stage == 'evaluate':
    processes.on_main(
      lambda: registry.check_available(config.data, splits(config))
    )


def _check_where_present(config: config_lib.Config) -> None:
  try:
    registry.check_available(config.data, splits(config))
  except errors.UsageError as error:
    console.warn(f'pretrain reads no sensitive image, finetune would: {error}')
    return
  registry.check_readable(config.data, splits(config))


def _check_readable(config: config_lib.Config, *, is_whole: bool) -> None:
  registry.check_readable(config.data, splits(config))
  public = config.pretrain.data
  is_last = is_whole and evaluates_public(config)
  if is_last or config.finetune.warm_up.has_votes:
    # Without pre-training, a later stage would be the first to read them.
    registry.check_readable(public, (public.split,))
