"""Tests of dp_diffusion/crash_points.py."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from dp_diffusion import crash_points

REACH_THRICE = """
from dp_diffusion import crash_points
for i in range(3):
  crash_points.reach('mid_save')
  crash_points.reach('mid_step')
  print(i, flush=True)
"""


def test_does_nothing_unless_asked(monkeypatch):
  monkeypatch.delenv(crash_points.ENVIRONMENT_VARIABLE, raising=False)
  for point in crash_points.POINTS:
    crash_points.reach(point)


def test_another_point_is_passed(monkeypatch):
  monkeypatch.setenv(crash_points.ENVIRONMENT_VARIABLE, 'mid_release:1')
  crash_points.reach('mid_save')


def test_unknown_points_are_refused(monkeypatch):
  with pytest.raises(ValueError, match="did you mean 'mid_save'"):
    crash_points.reach('mid_saves')
  monkeypatch.setenv(crash_points.ENVIRONMENT_VARIABLE, 'mid_sav')
  with pytest.raises(ValueError, match='DP_DIFFUSION_CRASH_AT'):
    crash_points.reach('mid_save')


@pytest.mark.parametrize(
  ('wanted', 'printed'), [('mid_save', b''), ('mid_step:2', b'0\n')]
)
def test_kills_at_the_named_time(subprocess_environment, wanted, printed):
  job = subprocess.run(
    [sys.executable, '-c', REACH_THRICE],
    env={**subprocess_environment, crash_points.ENVIRONMENT_VARIABLE: wanted},
    capture_output=True,
    check=False,
  )
  assert job.returncode == -signal.SIGKILL
  assert job.stdout == printed
