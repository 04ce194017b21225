"""What is wrong with the images, said before anything is computed or spent.

`plan` looks at names. A run looks at headers and one image of each class too,
as its first act, and then at all images (`inspect`), before its first step of
pre-training: whatever is wrong with a file, a class, a division or a depth
costs neither hours nor budget.
"""

from __future__ import annotations

from dp_diffusion import config as config_lib
from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion.data import registry
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import processes


def splits(config: config_lib.Config) -> tuple[str, ...]:
  """Splits of the sensitive data that a whole run reads."""
  named = (
    config.data.split,
    config.data.test_split,
    config.evaluate.held_out_split,
  )
  return tuple(dict.fromkeys(split for split in named if split))


def evaluates_public(config: config_lib.Config) -> bool:
  """Whether `evaluate` reads the public images.

  It asks what they are worth where they have the classes of the sensitive
  ones, and may learn its features from them.
  """
  has_same_classes = config.pretrain.data.class_names == config.data.class_names
  return has_same_classes or config.evaluate.features == 'public'


def names_found(config: config_lib.Config) -> list[str]:
  """Looks for the images by names, folders, classes and splits; opens none.

  Args:
    config: uses data, pretrain and evaluate.

  Returns:
    Lines for a plan: what was found, and how to get what is not here yet.

  Raises:
    UsageError: what the config says of a place is wrong: nothing is there, no
      image, a class that is not listed, no such split.
  """
  asked = {'sensitive': (config.data, splits(config))}
  if config.pretrain.num_steps or evaluates_public(config):
    public = config.pretrain.data
    asked['public'] = public, (public.split,)
  lines = ['data']
  for name, (data, names) in asked.items():
    found = 'there, by name; no image was read'
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
  """Refuses, as the first act of a run, what its stages would refuse later.

  Pre-training by itself reads no sensitive image and may run where there are
  none: then what is wrong with them is only warned of.

  Args:
    config: of the run.
    workdir: says which stages are complete.
    stage: that was asked for.

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
  if is_whole and evaluates_public(config):
    # Read first by the last stage where there are no steps of pre-training.
    registry.check_readable(public, (public.split,))
