"""What later stages would refuse is refused before any training."""

from __future__ import annotations

import pathlib

import numpy as np
from PIL import Image
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion.stages.planning import data_checks
from dp_diffusion.stages.run import workdirs
from tests.stages import command

CLASSES = tuple('abcdefghijkl')


@pytest.fixture
def public(tmp_path: pathlib.Path) -> pathlib.Path:
  """Public images, one of them none."""
  folder = tmp_path / 'public'
  for number, name in enumerate(CLASSES):
    (folder / name).mkdir(parents=True)
    for i in range(3):
      pixels = np.full((8, 8), 20 * number + i, np.uint8)
      Image.fromarray(pixels).save(folder / name / f'{i}.png')
  (folder / CLASSES[1] / '1.png').write_bytes(b'no image')
  return folder


def check(public: pathlib.Path, stage: str, **changed: str) -> None:
  given = {
    'pretrain.data.name': 'folder',
    'pretrain.data.path': str(public),
    'pretrain.data.class_names': ','.join(CLASSES),
    'pretrain.num_steps': '0',
    'pretrain.optimizer.warmup_steps': '0',
    'evaluate.features': '',
    **{key.replace('__', '.'): text for key, text in changed.items()},
  }
  config = config_lib.load(command.DIGITS_SMOKE, given)
  workdir = workdirs.open_workdir(str(public.with_name('run')))
  data_checks.check(config, workdir, stage)


VOTES = {'finetune__warm_up__votes_noise_multiplier': '2'}


@pytest.mark.parametrize(
  ('stage', 'changed'),
  [
    ('finetune', {'chosen_steps': '2'}),
    ('finetune', {'rows_from_votes': 'True'}),
    ('all', {'rows_from_votes': 'True'}),
  ],
)
def test_public_images_of_votes_are_looked_at_first(public, stage, changed):
  votes = {f'finetune__warm_up__{k}': v for k, v in changed.items()}
  with pytest.raises(errors.UsageError, match='1.png'):
    check(public, stage, **VOTES, **votes)


def test_public_images_of_the_evaluation_are_looked_at_first(public):
  with pytest.raises(errors.UsageError, match='1.png'):
    check(public, 'all', evaluate__features='public')


@pytest.mark.parametrize('stage', ['finetune', 'all'])
def test_public_images_that_nothing_reads_are_not_opened(public, stage):
  check(public, stage)
