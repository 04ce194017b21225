"""Curves of a training: drawn from its metrics, in the folder of its kind."""

from __future__ import annotations

import io
import stat

import numpy as np
from PIL import Image

from dp_diffusion import files
from dp_diffusion.evaluation.report import charts
from dp_diffusion.stages.run import training_curves
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import metrics
from tests.stages import command

TITLES = {'loss': 'loss', 'grad_norm': 'gradient norm'}


def rows(num=200):
  return [
    {'step': i, 'loss': 1 / (i + 1), 'grad_norm': 3.0} for i in range(num)
  ]


def test_private_curves_are_private(tmp_path, monkeypatch):
  draw, titles = charts.training_curves, []

  def spy(found, names, title):
    titles.append(title)
    return draw(found, names, title)

  monkeypatch.setattr(charts, 'training_curves', spy)
  workdir = workdirs.open_workdir(str(tmp_path / 'run'))
  training_curves.write_private(workdir)  # Nothing to draw yet.
  before = set(command.contents(tmp_path))
  with metrics.PrivateMetrics(workdir.private) as writer:
    writer.write(0, {'loss': 0.3, 'grad_norm': float('nan'), 'batch_size': 0})
    writer.write(1, {'loss': float('inf'), 'grad_norm': 2.0, 'batch_size': 3})
  training_curves.write_private(workdir)
  training_curves.write_public(workdir)
  written = set(command.contents(tmp_path)) - before
  assert written == {'run/private/metrics.jsonl', 'run/private/curves.png'}
  path = workdir.private / 'curves.png'
  assert stat.S_IMODE(path.stat().mode) == 0o600
  assert path.read_bytes().startswith(b'\x89PNG')
  assert titles == ['Private training, without noise: never publish this']


def test_public_curves_lie_in_public(tmp_path):
  workdir = workdirs.open_workdir(str(tmp_path / 'run'))
  with metrics.PublicMetrics(workdir.public, use_tensorboard=False) as writer:
    writer.write(0, {'loss': 0.3})
  training_curves.write_public(workdir)
  assert (workdir.public / 'curves.png').exists()
  assert not (workdir.private / 'curves.png').exists()


def test_a_full_disk_ends_no_training(tmp_path, monkeypatch, capsys):
  workdir = workdirs.open_workdir(str(tmp_path / 'run'))
  with metrics.PrivateMetrics(workdir.private) as writer:
    writer.write(0, {'loss': 0.3})

  def fail(*_, **__):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(files, 'write_bytes', fail)
  training_curves.write_private(workdir)
  assert 'curves.png could not be written' in capsys.readouterr().err


def test_equal_numbers_give_equal_bytes_and_others_do_not():
  drawn = [charts.training_curves(rows(n), TITLES, 'x') for n in (200, 200, 90)]
  assert drawn[0] == drawn[1] != drawn[2]
  one = Image.open(
    io.BytesIO(charts.training_curves(rows(), {'loss': 'a'}, ''))
  )
  two = Image.open(io.BytesIO(drawn[0]))
  assert two.height > 1.5 * one.height and two.width == one.width
  assert 'Software' not in two.info


def test_a_curve_falls_where_the_numbers_do():
  picture = charts.training_curves(
    [{'step': i, 'loss': 200 - i} for i in range(200)], {'loss': 'loss'}, ''
  )
  pixels = np.asarray(Image.open(io.BytesIO(picture)).convert('RGB')).astype(
    int
  )
  line = np.abs(pixels - (0x0B, 0x72, 0x85)).sum(-1) < 30
  heights, columns = np.nonzero(line)
  left, right = np.quantile(columns, [0.1, 0.9])
  assert heights[columns < left].mean() + 50 < heights[columns > right].mean()
