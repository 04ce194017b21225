"""SIGKILL at twenty random moments; every run ends with the same bits."""

from __future__ import annotations

from collections.abc import Mapping
import json
import os
import pathlib
import random
import subprocess
import time

import pytest

from tests.stages import command

NUM_KILLS = 20
STAGES = ('finetune', 'sample')
SEED = 'DP_DIFFUSION_KILL_SEED'  # Environment variable; the moments' seed.


def _next_stage(workdir: pathlib.Path) -> str | None:
  record = json.loads((workdir / 'config.json').read_text())
  left = (s for s in STAGES if not record.get(s, {}).get('complete'))
  return next(left, None)


def _run(
  environment: Mapping[str, str],
  workdir: pathlib.Path,
  stage: str,
  kill_after_secs: float | None = None,
) -> bool:
  """Runs a stage, or part of it; returns whether it was killed."""
  process = command.start(
    environment,
    *command.arguments(workdir),
    *(command.ONE_LEVEL, f'--stage={stage}'),
  )
  try:
    out, _ = process.communicate(timeout=kill_after_secs)
  except subprocess.TimeoutExpired:
    process.kill()
    process.communicate()
    return True
  assert process.returncode == 0, out
  return False


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_killed_at_random_moments_equals_uninterrupted(
  finished_run,
  subprocess_environment: Mapping[str, str],
  tmp_path: pathlib.Path,
) -> None:
  seed = int(os.environ.get(SEED) or random.SystemRandom().randrange(2**32))
  print(f'To try the same moments again: {SEED}={seed}')
  rng = random.Random(seed)
  whole = tmp_path / 'whole'
  command.prepare(finished_run.workdir, whole)
  secs = {}
  for stage in STAGES:
    start = time.monotonic()
    _run(subprocess_environment, whole, stage)
    secs[stage] = time.monotonic() - start
  expected = command.outcome(whole)

  num_kills = dict.fromkeys(STAGES, 0)
  num_runs = 0
  while sum(num_kills.values()) < NUM_KILLS:
    workdir = tmp_path / f'run{num_runs}'
    num_runs += 1
    command.prepare(finished_run.workdir, workdir)
    while stage := _next_stage(workdir):
      moment = rng.uniform(0, secs[stage])
      if sum(num_kills.values()) >= NUM_KILLS:
        moment = None  # Let the last one end.
      if _run(subprocess_environment, workdir, stage, moment):
        num_kills[stage] += 1
    outcome = command.outcome(workdir)
    assert outcome.keys() == expected.keys()
    for name, data in expected.items():
      assert outcome[name] == data, name
  print(f'{num_kills} kills in {num_runs} runs')
