"""What lost steps cost, by the journal alone."""

from __future__ import annotations

from etils import epath
import pytest

from dp_diffusion import files
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.training import journal

MECHANISM = mechanism_lib.DpSgdMechanism(
  num_examples=100,
  expected_batch_size=10,
  num_steps=20,
  noise_multiplier=2.0,
  l2_clip_norm=1.0,
  delta=1e-3,
)


@pytest.mark.parametrize(
  ('begun', 'start_step', 'num_charged', 'expected'),
  [
    ({}, 0, 0, 0),
    ({'now': [[0, 6]]}, 4, 0, 0),  # Repeated alike.
    ({'old': [[0, 6]], 'now': [[4, 8]]}, 4, 0, 2),
    ({'old': [[0, 6]], 'now': [[4, 8]]}, 4, 2, 2),  # Charged before.
    ({'older': [[0, 6]], 'old': [[4, 10]], 'now': [[8, 9]]}, 8, 0, 4),
    ({'older': [[0, 6]], 'old': [[4, 10]], 'now': [[8, 9]]}, 8, 2, 4),
    ({'older': [[0, 6]], 'old': [[0, 6]]}, 0, 0, 12),
    ({'now': [[0, 6], [9, 12]]}, 4, 0, 3),
  ],
)
def test_charges(
  tmp_path, monkeypatch, begun, start_step, num_charged, expected
):
  """All that was begun, but for what is counted as steps or repeated alike."""
  monkeypatch.setattr(key_streams, 'rng_test_vector', lambda: 'rng')
  path = epath.Path(tmp_path / 'journal.json')
  spans = {f'{name} rng': value for name, value in begun.items()}
  files.write_json(path, {'begun_steps': spans})
  ledger = ledger_lib.Ledger(
    delta=MECHANISM.delta,
    entries=(
      ledger_lib.DpSgdEntry(
        mechanism=MECHANISM,
        num_steps=start_step,
        num_replayed_steps=num_charged,
      ),
    ),
  )
  for _ in range(2):  # Once is enough.
    ledger = journal.charge_lost_steps(path, 'now', ledger, start_step)
    assert ledger.entries[-1].num_replayed_steps == expected


@pytest.mark.parametrize(('num_processes', 'end'), [(1, 2), (2, 5)])
def test_several_processes_take_nothing_back(
  tmp_path, monkeypatch, num_processes, end
):
  """The devices of another process may have begun a step more than ours."""
  monkeypatch.setattr(key_streams, 'rng_test_vector', lambda: 'rng')
  path = epath.Path(tmp_path / 'journal.json')
  with journal.Journal(
    path,
    'now',
    num_steps=20,
    checkpoint_every_steps=5,
    num_processes=num_processes,
  ) as begun:
    begun.begin(0)
    assert files.read_json(path)['begun_steps'] == {'now rng': [[0, 5]]}
    begun.begin(1)
  assert files.read_json(path)['begun_steps'] == {'now rng': [[0, end]]}


def test_a_shorter_span_hides_no_step_of_a_longer_one(tmp_path, monkeypatch):
  """As where checkpoints are nearer to each other than before a kill."""
  monkeypatch.setattr(key_streams, 'rng_test_vector', lambda: 'rng')
  path = epath.Path(tmp_path / 'journal.json')

  def begin(every: int, *steps: int) -> None:
    killed = journal.Journal(
      path, 'now', num_steps=20, checkpoint_every_steps=every, num_processes=1
    )
    for step in steps:
      killed.begin(step)

  begin(10, 0)
  begin(4, 0, 1, 2, 3, 4)
  assert files.read_json(path)['begun_steps'] == {'now rng': [[0, 10]]}
  begin(4, 8, 12)
  assert files.read_json(path)['begun_steps'] == {'now rng': [[0, 16]]}
  begin(1, 18)
  begin(1, 2)
  spans = [[0, 16], [18, 19]]
  assert files.read_json(path)['begun_steps'] == {'now rng': spans}
