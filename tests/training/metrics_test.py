"""Tests of dp_diffusion/training/metrics.py."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import stat
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dp_diffusion.training import metrics

KINDS = {
  'private': metrics.PrivateMetrics,
  'public': metrics.PublicMetrics,
}


@pytest.mark.parametrize('kind', KINDS)
def test_rows_are_on_disk_at_once(tmp_path, kind):
  with KINDS[kind](tmp_path / kind) as writer:
    writer.write(1, {'loss': jnp.float32(0.5), 'num': np.int64(3)})
    lines = writer.path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
      {'step': 1, 'loss': 0.5, 'num': 3}
    ]
    writer.write(np.int32(2), {'loss': 0.25})
  assert [row['step'] for row in metrics.read(writer.path)] == [1, 2]


@pytest.mark.parametrize(
  ('kind', 'folder', 'is_fine'),
  [
    ('private', 'run/private', True),
    ('private', 'run/private/audit', True),
    ('private', 'public/run/private', True),
    ('private', 'run', False),
    ('private', 'run/public', False),
    ('private', 'private/run/public', False),
    ('private', 'run/private_data', False),
    ('private', 'run/release', False),
    ('public', 'run/public', True),
    ('public', 'private/run/public', True),
    ('public', 'run/private', False),
    ('public', 'run/private/public/private', False),
    ('public', 'run/release', False),
  ],
)
def test_each_kind_has_its_folder(tmp_path, kind, folder, is_fine):
  if is_fine:
    KINDS[kind](tmp_path / folder).close()
    assert (tmp_path / folder).is_dir()
  else:
    with pytest.raises(ValueError, match=f'to be {kind!r} or below it'):
      KINDS[kind](tmp_path / folder)
    assert not list(tmp_path.iterdir())


def test_private_file_is_its_owners(tmp_path):
  with metrics.PrivateMetrics(tmp_path / 'private') as writer:
    writer.write(1, {'loss': 1.0})
  assert stat.S_IMODE(os.stat(writer.path).st_mode) == 0o600
  assert stat.S_IMODE((tmp_path / 'private').stat().st_mode) == 0o700
  metrics.PublicMetrics(tmp_path / 'public').close()
  assert stat.S_IMODE((tmp_path / 'public').stat().st_mode) & 0o500 == 0o500


def test_a_torn_line_is_mended(tmp_path):
  path = tmp_path / 'private' / 'metrics.jsonl'
  path.parent.mkdir()
  path.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
  assert metrics.read(path) == [{'step': 1, 'loss': 1.0}]
  with metrics.PrivateMetrics(path.parent) as writer:
    writer.write(2, {'loss': 2.0})
  assert metrics.read(path) == [
    {'step': 1, 'loss': 1.0},
    {'step': 2, 'loss': 2.0},
  ]


def test_repeated_steps_count_once(tmp_path):
  for steps in ((1, 2, 3), (2, 3, 4)):
    with metrics.PublicMetrics(tmp_path / 'public') as writer:
      for step in steps:
        writer.write(step, {'first': steps[0]})
  rows = metrics.read(writer.path)
  assert [(r['step'], r['first']) for r in rows] == [
    (1, 1), (2, 2), (3, 2), (4, 2)
  ]  # fmt: skip


def test_what_is_not_finite_is_readable(tmp_path):
  with metrics.PrivateMetrics(tmp_path / 'private') as writer:
    writer.write(1, {'a': float('nan'), 'b': -np.inf, 'c': 1e-300})
  assert metrics.read(writer.path) == [
    {'step': 1, 'a': 'nan', 'b': '-inf', 'c': 1e-300}
  ]


def test_no_rows_where_there_is_no_file(tmp_path):
  assert metrics.read(tmp_path / 'metrics.jsonl') == []


def test_only_the_first_process_writes(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  with metrics.PublicMetrics(tmp_path / 'public') as writer:
    writer.write(1, {'loss': 1.0})
  assert not list(tmp_path.iterdir())


def test_short_runs_do_not_import_tensorflow(tmp_path, subprocess_environment):
  code = (
    'import sys\n'
    'from dp_diffusion.training import metrics\n'
    'with metrics.PublicMetrics(sys.argv[1]) as writer:\n'
    '  writer.write(1, {"loss": 1.0})\n'
    'assert not {"tensorflow", "clu"} & set(sys.modules)\n'
  )
  command = [sys.executable, '-c', code, str(tmp_path / 'public')]
  subprocess.run(command, env=subprocess_environment, check=True)


def test_writes_for_tensorboard(tmp_path, monkeypatch):
  """All rows reach TensorBoard, those before it was opened as well."""
  tf = pytest.importorskip('tensorflow')
  from tensorboard.backend.event_processing import event_accumulator

  with metrics.PublicMetrics(tmp_path / 'public') as writer:
    writer.write(1, {'loss': 3.0})
    monkeypatch.setattr(metrics, '_SECS_BEFORE_TENSORBOARD', 0.0)
    writer.write(2, {'loss': 2.0})
    writer.write(3, {'loss': float('nan')})
    writer.write(4, {'loss': 0.5})
  folder = tmp_path / 'public' / 'tensorboard'
  board = event_accumulator.EventAccumulator(str(folder))
  board.Reload()
  events = board.Tensors('loss')
  assert [event.step for event in events] == [1, 2, 3, 4]
  values = [float(tf.make_ndarray(event.tensor_proto)) for event in events]
  np.testing.assert_array_equal(values, [3.0, 2.0, np.nan, 0.5])


def test_remote_folders_are_written_in_batches(tmp_path, monkeypatch):
  """An object store, which cannot append, played by a local folder."""
  monkeypatch.setattr(metrics.files, 'is_local', lambda _: False)
  monkeypatch.setattr(metrics, '_REMOTE_WRITES_AT_ONCE', 2)
  folder = tmp_path / 'public'
  with metrics.PublicMetrics(folder) as writer:
    for step in range(1, 6):
      writer.write(step, {'loss': 0.0})
    assert len(metrics.read(writer.path)) == 4
  with metrics.PublicMetrics(folder) as writer:
    writer.write(6, {'loss': 0.0})
  assert [r['step'] for r in metrics.read(pathlib.Path(writer.path))] == [
    1, 2, 3, 4, 5, 6
  ]  # fmt: skip


def test_a_tracker_gets_public_metrics_alone(tmp_path):
  public, private = tmp_path / 'run' / 'public', tmp_path / 'run' / 'private'
  with metrics.PublicMetrics(public, use_tensorboard=False) as writer:
    writer.write(0, {'loss': 0.5})
    writer.write(1, {'loss': float('nan')})
  with metrics.PrivateMetrics(private) as writer:
    writer.write(0, {'loss': 0.25})
  assert metrics.read_public(public) == [{'step': 0, 'loss': 0.5}, {'step': 1}]
  hidden = tmp_path / 'a' / 'public'
  hidden.parent.mkdir()
  hidden.symlink_to(private)
  inside = tmp_path / 'b' / 'public'
  inside.mkdir(parents=True)
  (inside / 'metrics.jsonl').symlink_to(private / 'metrics.jsonl')
  copied = private / 'copies'
  copied.mkdir()
  for folder in (
    private,
    public / '..' / 'private',
    private / 'public' / '..',
    hidden,
    inside,
    copied,
    tmp_path / 'run',
  ):
    with pytest.raises(ValueError, match="to be 'public' or below it"):
      metrics.read_public(folder)


def test_the_tracker_of_the_documents_is_sent_public_metrics(
  tmp_path, monkeypatch, repository
):
  text = (repository / 'docs' / 'evaluation.md').read_text(encoding='utf-8')
  (code,) = (
    part.partition('```')[0]
    for part in text.split('```python\n')[1:]
    if 'import mlflow' in part
  )
  sent = []
  tracker = types.ModuleType('mlflow')
  tracker.start_run = lambda run_name: contextlib.nullcontext()
  tracker.log_metrics = lambda values, step: sent.append((step, values))
  monkeypatch.setitem(sys.modules, 'mlflow', tracker)
  monkeypatch.chdir(tmp_path)
  for kind, writer in (
    ('public', metrics.PublicMetrics),
    ('private', metrics.PrivateMetrics),
  ):
    with writer(tmp_path / 'runs' / 'digits' / kind) as lines:
      lines.write(0, {'loss': 0.5 if kind == 'public' else 0.25})
      lines.write(1, {'loss': 0.75 if kind == 'public' else 0.25})
  exec(code, {})
  assert sent == [(0, {'loss': 0.5}), (1, {'loss': 0.75})]
