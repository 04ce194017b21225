"""Tests of dp_diffusion/console.py."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dp_diffusion import console


@pytest.fixture(autouse=True)
def _speak() -> None:
  console.silence(False)


@pytest.fixture
def clock(monkeypatch):
  """A clock that stands still until a test moves it."""
  now = [100.0]
  monkeypatch.setattr(console.time, 'monotonic', lambda: now[0])
  return now


def test_says_to_output_and_warns_to_error(capsys):
  console.say('done')
  console.warn('odd')
  assert capsys.readouterr() == ('done\n', 'warning: odd\n')


def test_a_silent_process_says_nothing(capsys):
  console.silence()
  console.say('done')
  console.warn('odd')
  with console.progress('work', 2) as advance:
    advance()
  assert capsys.readouterr() == ('', '')


def test_lines_come_now_and_then(capsys, clock):
  with console.progress('work', 100, done=20) as advance:
    for _ in range(40):
      clock[0] += 1.0
      advance()
    clock[0] += 1.0
    advance(40)
  lines = capsys.readouterr().out.splitlines()
  assert lines == [
    'work: 20/100',
    'work: 35/100, 15 s, 65 s left',
    'work: 50/100, 30 s, 50 s left',
    'work: 100/100, 41 s, 0 s left',
  ]


@pytest.mark.parametrize('secs', [0.0, 1.0, 60.0])
def test_private_work_says_nothing_of_its_time(capsys, clock, secs):
  """Output is the same however long the steps take."""
  with console.progress('work', 20, is_private=True) as advance:
    for step in range(20):
      clock[0] += secs * step
      advance()
  expected = ['work: 0/20'] + [f'work: {n}/20' for n in range(2, 21, 2)]
  assert capsys.readouterr().out.splitlines() == expected


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
  monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
  with console.progress('work', 4, done=1) as advance:
    advance(3)
  out = capsys.readouterr().out
  assert 'work' in out and '4/4' in out


@pytest.mark.parametrize(
  'stream, call', [('stdout', 'say'), ('stderr', 'warn')]
)
def test_work_goes_on_when_nobody_reads_any_more(tmp_path, stream, call):
  code = (
    'import pathlib, sys\n'
    'from dp_diffusion import console\n'
    'sys.stdin.readline()\n'
    f'for _ in range(100): console.{call}("x" * 1000)\n'
    'pathlib.Path(sys.argv[1]).touch()\n'
  )
  done = tmp_path / 'done'
  with subprocess.Popen(
    [sys.executable, '-c', code, str(done)],
    stdin=subprocess.PIPE,
    **{stream: subprocess.PIPE},
  ) as process:
    getattr(process, stream).close()
    process.stdin.write(b'\n')
    process.stdin.close()
    assert process.wait() == 0
  assert done.exists()


@pytest.mark.parametrize('total, size', [(60, 7), (61, 20), (5, 5), (1000, 1)])
def test_a_share_is_written_alike_whatever_the_work(capsys, total, size):
  with console.progress_of('distances', total) as advance:
    for start in range(0, total, size):
      advance(min(size, total - start))
  lines = capsys.readouterr().out.splitlines()
  expected = [f'distances, percent: {i}/100' for i in range(0, 101, 10)]
  assert lines == expected
