"""Noised statistics are those that were begun, or are refused."""

from __future__ import annotations

from etils import epath
import pytest

from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion.stages.run import begun_statistics
from dp_diffusion.stages.run import workdirs

FACTS = {'seed': 1, 'events': [{'count': 2}], 'rng': 'a'}


@pytest.fixture
def workdir(tmp_path) -> workdirs.Workdir:
  return workdirs.open_workdir(str(tmp_path))


def paths(workdir: workdirs.Workdir) -> tuple[epath.Path, epath.Path]:
  return workdir.private / 'begun.json', workdir.private / 'kept.npz'


def begin(workdir: workdirs.Workdir, **changes: object) -> None:
  begun, kept = paths(workdir)
  begun_statistics.begin(workdir, begun, kept, {**FACTS, **changes}, 'its sums')


def test_facts_are_written_before_anything_is_drawn(workdir):
  begin(workdir)
  begun, _ = paths(workdir)
  assert files.read_json(begun) == {'facts': FACTS}
  assert begun.stat().mode & 0o777 == 0o600
  begin(workdir)


@pytest.mark.parametrize('is_kept', [False, True])
@pytest.mark.parametrize(
  'change', [{'seed': 2}, {'events': [{'count': 3}]}, {'more': 1}]
)
def test_other_facts_are_refused(workdir, change, is_kept):
  begin(workdir)
  begun, kept = paths(workdir)
  if is_kept:
    kept.write_bytes(b'x')
  (name,) = change
  with pytest.raises(errors.UsageError) as raised:
    begin(workdir, **change)
  message = str(raised.value)
  assert f'has begun its sums, and {name} differs now' in message
  assert '\n' not in message
  assert files.read_json(begun) == {'facts': FACTS}


def test_the_generator_may_change_once_they_are_kept(workdir):
  begin(workdir)
  with pytest.raises(errors.UsageError, match='rng differs'):
    begin(workdir, rng='b')
  begun, kept = paths(workdir)
  kept.write_bytes(b'x')
  begin(workdir, rng='b')
  assert files.read_json(begun) == {'facts': FACTS}  # It made what is kept.


def test_unknown_origin_is_refused(workdir):
  begun, kept = paths(workdir)
  kept.write_bytes(b'x')
  with pytest.raises(errors.UsageError, match='begun.json to say') as raised:
    begin(workdir)
  assert '\n' not in str(raised.value) and not begun.exists()
