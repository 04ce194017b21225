"""The command line: what is understood, and one line for what is not."""

from __future__ import annotations

import errno
import pathlib
import shlex
import subprocess
import sys

import pytest

from dp_diffusion import errors
from dp_diffusion import main

ROOT = pathlib.Path(__file__).parent.parent


def test_flags_and_overrides_are_read_in_both_forms() -> None:
  arguments = main.parse(
    [
      '--config=configs/a.py:smoke',
      '--workdir',
      'w',
      '--stage=plan',
      '--config.privacy.epsilon=5',
      '--config.seed',
      '3',
    ]
  )
  assert arguments == main.Arguments(
    'configs/a.py:smoke', 'w', 'plan', {'privacy.epsilon': '5', 'seed': '3'}
  )


@pytest.mark.parametrize(
  ('argv', 'words'),
  [
    (['--confg=a.py'], 'did you mean --config'),
    (['--config=a.py', '--stage=finetun'], "did you mean 'finetune'"),
    (['--config=a.py', '--stage'], 'Expected a value after --stage'),
    (['--config=a.py', 'extra'], "Unknown argument 'extra'"),
    (['digits'], 'did you mean --config=digits'),
    (['digits:cpu'], 'did you mean --config=digits:cpu'),
    (['configs/digits.py'], 'did you mean --config=configs/digits.py'),
    (['--config=digits', 'plan'], 'did you mean --stage=plan'),
    (['--epsilon=5'], 'did you mean --config.privacy.epsilon'),
    (['--privacy.epsilon=5'], 'did you mean --config.privacy.epsilon'),
    (['--seed=5'], r'did you mean --config.seed\?'),
    (['--verion'], 'did you mean --version'),
    ([], 'Expected --config=FILE'),
  ],
)
def test_bad_usage_is_named(argv: list[str], words: str) -> None:
  with pytest.raises(errors.UsageError, match=words):
    main.parse(argv)


@pytest.mark.parametrize(
  ('argv', 'words'),
  [
    (['--stage=plan'], 'Expected --config=FILE'),
    (['--config=none.py'], 'to be a config file'),
    (['--config=configs/digits.py', '--config.sed=1'], 'did you mean seed'),
  ],
)
def test_bad_usage_exits_with_2_and_one_line(
  argv: list[str],
  words: str,
  capsys: pytest.CaptureFixture[str],
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.chdir(ROOT)
  assert main.main(argv) == 2
  captured = capsys.readouterr()
  assert captured.err.startswith('error: ') and words in captured.err
  assert captured.err.count('\n') == 1 and not captured.out


def test_a_message_of_several_lines_becomes_one(
  capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
  def run(arguments: main.Arguments) -> None:
    raise errors.UsageError('The host said:\n\tno.')

  monkeypatch.setattr(main, 'run', run)
  assert main.main(['--config=a.py']) == 2
  assert capsys.readouterr().err == 'error: The host said: no.\n'


def test_default_workdir_has_config_and_variant() -> None:
  assert main.default_workdir('configs/a.py') == 'runs/a'
  assert main.default_workdir('configs/a.py:smoke') == 'runs/a-smoke'


def test_a_second_interrupt_ends_without_a_traceback(
  capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
  def run(arguments: main.Arguments) -> None:
    raise KeyboardInterrupt

  monkeypatch.setattr(main, 'run', run)
  assert main.main(['--config=a.py']) == 130
  assert 'stays good' in capsys.readouterr().out


def test_full_disk_anywhere_is_one_line(monkeypatch, capsys) -> None:
  def fill(_):
    raise OSError(errno.ENOSPC, 'No space left on device', 'private/x.json')

  monkeypatch.setattr(main, 'run', fill)
  assert main.main(['--config=configs/digits.py']) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: the disk is full (private/x.json)')
  assert error.count('\n') == 1

  def other(_):
    raise OSError(errno.EIO, 'Input/output error')

  monkeypatch.setattr(main, 'run', other)
  with pytest.raises(OSError, match='Input/output'):  # A traceback helps here.
    main.main(['--config=configs/digits.py'])


def test_the_command_can_be_typed_again(monkeypatch) -> None:
  typed = ['--config=c.py', "--config.data.class_names=('a','b')", 'a b']
  monkeypatch.setattr(main.sys, 'argv', ['main', *typed])
  command = main.command_line()
  assert shlex.split(command) == ['python', '-m', 'dp_diffusion.main', *typed]


@pytest.mark.parametrize('program', ['/a b/bin/dp-diffusion', 'dp-diffusion'])
def test_the_installed_command_is_named_as_it_was_typed(program, monkeypatch):
  # Its Python may be one that no `python` of the user's is.
  monkeypatch.setattr(main.sys, 'argv', [program, '--config=digits'])
  assert main.command_line() == 'dp-diffusion --config=digits'


def test_help_lists_flags_configs_and_variants(capsys, monkeypatch) -> None:
  monkeypatch.chdir(ROOT)
  assert main.main(['--stage=plan', '--help']) == 0
  shown = capsys.readouterr().out
  for words in (
    '--workdir',
    '--help=KEY',
    '--version',
    'docs/index.md',
    'dp_diffusion.privacy.verify',
    'configs/mnist.py: MNIST',
    'letters',
  ):
    assert words in shown
  assert 'configs/default.py:' not in shown


@pytest.mark.parametrize(
  'argv',
  [
    ['--help=privacy.delta'],
    ['--help', 'privacy.delta'],
    ['-h', '--config.privacy.delta=3'],
    ['--config=configs/digits.py', '--help=config.privacy.delta'],
  ],
)
def test_help_of_a_key(argv, capsys) -> None:
  assert main.main(argv) == 0
  shown = capsys.readouterr().out
  assert shown.startswith('privacy.delta = 1e-05\n  number in (0, 1)\n')


def test_help_of_an_unknown_key_names_near_ones(capsys) -> None:
  assert main.main(['--help=privacy.dleta']) == 2
  captured = capsys.readouterr()
  assert 'did you mean privacy.delta' in captured.err
  assert captured.err.count('\n') == 1 and not captured.out


@pytest.mark.parametrize('argv', [['--help'], ['--version']])
def test_a_reader_that_has_gone_is_no_error(argv) -> None:
  code = 'import sys; from dp_diffusion import main; sys.exit(main.main())'
  with subprocess.Popen(
    [sys.executable, '-c', code, *argv],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  ) as process:
    process.stdout.close()
    assert process.wait() == 0 and not process.stderr.read()
