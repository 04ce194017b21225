"""Tests of dp_diffusion.stages.run.progress_picture."""

from __future__ import annotations

import io
import stat
import types

from etils import epath
import numpy as np
from PIL import Image
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion.diffusion import samplers
from dp_diffusion.models import class_gaussians
from dp_diffusion.models import weights
from dp_diffusion.stages import finetune
from dp_diffusion.stages import runner
from dp_diffusion.stages.run import assembly
from dp_diffusion.stages.run import interrupts
from dp_diffusion.stages.run import progress_picture
from dp_diffusion.stages.run import workdirs
from tests.stages import command

_SMALL = {
  'model.channels': '4',
  'model.head_channels': '4',
  'model.channel_multipliers': '(1,)',
  'pretrain.num_steps': '4',
  'pretrain.checkpoint_every_steps': '2',
  'privacy.num_steps': '2',
  'finetune.checkpoint_every_steps': '1',
  'finetune.augmult': '1',
}


class _Clock:
  """Stands still but for what is added."""

  def __init__(self) -> None:
    self.secs = 0.0

  def __call__(self) -> float:
    return self.secs


def _picture(tmp_path, clock, picture_secs=1.0):
  made = []

  def make(params):
    made.append(params)
    clock.secs += picture_secs
    return np.full((2, 8, 8, 1), 9 * len(made), np.uint8)

  picture = progress_picture.ProgressPicture(
    path=tmp_path / 'progress.png',
    make=make,
    labels=np.array([0, 1], np.int32),
    class_names=('a', 'b'),
    clock=clock,
  )
  return picture, made


def test_pictures_take_a_fiftieth_of_the_time(tmp_path):
  clock = _Clock()
  picture, made = _picture(tmp_path, clock, picture_secs=3.0)
  state = types.SimpleNamespace(all_ema_params='ema')
  times = []
  for step in range(300):
    clock.secs += 10  # A checkpoint every ten seconds.
    before = len(made)
    picture.write(step, state)
    if len(made) > before:
      times.append(step)
  assert times[0] == 74  # Nothing in the first 750 seconds.
  assert 3 * len(made) <= 0.02 * 3000
  assert len(made) >= 10
  assert set(made) == {'ema'}


def test_a_picture_is_for_its_owner_alone(tmp_path):
  clock = _Clock()
  picture, made = _picture(tmp_path, clock)
  clock.secs += 1000
  picture.write(1, types.SimpleNamespace(all_ema_params='ema'))
  assert made == ['ema']
  path = tmp_path / 'progress.png'
  assert stat.S_IMODE(path.stat().st_mode) == 0o600
  assert path.read_bytes().startswith(b'\x89PNG')


def test_a_full_disk_ends_no_training(tmp_path, monkeypatch, capsys):
  clock = _Clock()
  picture, made = _picture(tmp_path, clock)
  clock.secs += 1000

  def refuse(*_, **__):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(progress_picture.files, 'write_bytes', refuse)
  picture.write(1, types.SimpleNamespace(all_ema_params='ema'))
  assert made and not (tmp_path / 'progress.png').exists()
  assert 'progress.png could not be written' in capsys.readouterr().err


def test_fine_tuning_draws_into_its_private_folder(tmp_path, monkeypatch):
  folders = []

  def of_training(config, data, diffusion, folder, gaussians):
    assert gaussians is None
    folders.append(folder)
    raise errors.Interrupted('Enough was seen.')

  monkeypatch.setattr(progress_picture, 'of_training', of_training)
  config = config_lib.load(
    command.DIGITS_SMOKE,
    {
      'model.channel_multipliers': '(1,)',
      # All records: the noise for an epsilon is soon found.
      'privacy.expected_batch_size': '1437',
    },
  )
  command.plant_secret(tmp_path / 'run')
  workdir = workdirs.open_workdir(str(tmp_path / 'run'))
  params = assembly.init_params(config, config.data)
  weights.save_npz(workdir.public_weights, weights.flatten(params))
  with pytest.raises(errors.Interrupted):
    finetune.run(config, workdir, interrupts.Stop(''))
  assert folders == [workdir.private]


def test_a_picture_starts_where_samples_do(tmp_path, monkeypatch):
  """From Gaussians of the classes: black images of one, white of others."""
  config = config_lib.load(
    command.DIGITS_SMOKE,
    {
      **_SMALL,
      'finetune.class_gaussians.noise_multiplier': '20',
      'sample.sampler.first_timestep': '9',
      'sample.sampler.num_steps': '5',
    },
  )
  means = np.full((10, *config.data.image_shape), 1, np.float32)
  means[0] = -1
  factors = np.zeros((10, 1, 2, 2, 1), np.float32)
  picture = progress_picture.of_training(
    config,
    config.data,
    config.finetune_diffusion(),
    epath.Path(tmp_path),
    class_gaussians.ClassGaussians(means=means, factors=factors),
  )
  seen, original = set(), samplers.step_fn

  def step_fn(denoise_fn, sampler, diffusion):
    seen.add(sampler.first_timestep)
    return original(denoise_fn, sampler, diffusion)

  monkeypatch.setattr(samplers, 'step_fn', step_fn)
  images = picture.make(assembly.init_params(config, config.data))
  assert seen == {9}
  brightness = images.mean(axis=(1, 2, 3))
  is_black = picture.labels == 0
  assert brightness[is_black].max() < 64 < 192 < brightness[~is_black].min()


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """Two runs of both trainings: with pictures, and without."""
  found = {}
  for name, first_secs in (('with', 0.0), ('without', 1e9)):
    workdir = tmp_path_factory.mktemp(name) / 'run'
    command.plant_secret(workdir)
    config = config_lib.load(command.DIGITS_SMOKE, _SMALL)
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(progress_picture, '_FIRST_SECS', first_secs)
      patch.setattr(progress_picture, '_SHARE', 1e9)
      for stage in ('pretrain', 'finetune'):
        runner.run(config, str(workdir), stage, 'command')
    found[name] = workdir
  return found


@pytest.mark.slow
def test_training_is_the_same_with_it(runs):
  for place in ('public/model/params.npz', 'release/model/params.npz'):
    arrays = [np.load(runs[name] / place) for name in ('with', 'without')]
    for key in arrays[0].files:
      np.testing.assert_array_equal(arrays[0][key], arrays[1][key])
  assert not (runs['without'] / 'public' / 'progress.png').exists()
  assert not (runs['without'] / 'private' / 'progress.png').exists()


@pytest.mark.slow
def test_a_private_picture_is_private(runs):
  path = runs['with'] / 'private' / 'progress.png'
  assert stat.S_IMODE(path.stat().st_mode) == 0o600
  image = Image.open(io.BytesIO(path.read_bytes()))
  assert image.height > 10 * 8  # A row for each digit.
  assert len(np.unique(np.asarray(image))) > 20
  assert (runs['with'] / 'public' / 'progress.png').exists()
  assert not list((runs['with'] / 'release').rglob('progress*'))
  assert not list(runs['with'].rglob('.*progress*'))  # Whole, no leftovers.
