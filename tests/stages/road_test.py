"""The whole road at smoke size, through the command line."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
import io
import json
import os
import pathlib
import stat
import subprocess
import sys
import time
import zipfile

import jax
import numpy as np
from PIL import Image
import pytest

from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import rounding
from tests.stages import command


def _report(run) -> dict:
  return json.loads((run.workdir / 'evaluation' / 'report.json').read_text())


def test_report_has_what_it_promises(finished_run) -> None:
  report = _report(finished_run)
  for key in ('epsilon_pld', 'epsilon_rdp', 'delta', 'noise_multiplier'):
    assert report['privacy'][key] > 0
  assert report['privacy']['epsilon_pld'] <= 10
  for source in ('synthetic', 'public', 'real'):
    for classifier in ('svm', 'cnn'):
      assert 0 <= report['accuracy'][source][classifier] <= 1
  for stage in ('pretrain', 'finetune', 'sample', 'evaluate'):
    assert report['seconds'][stage] > 0
  page = (finished_run.workdir / 'evaluation' / 'report.html').read_text()
  assert 'outside the privacy guarantee' in page.splitlines()[0]


def test_last_lines_say_privacy_accuracy_and_report(finished_run) -> None:
  lines = finished_run.stdout.strip().splitlines()
  assert lines[-8].startswith('privacy') and 'delta 0.0001' in lines[-8]
  assert lines[-7].startswith('accuracy') and 'synthetic' in lines[-7]
  assert 'the released model itself' in lines[-5]
  assert lines[-4].endswith('always one class, the commonest')
  assert lines[-3].startswith(
    'features     small CNN on public images: right on '
  )
  assert lines[-2].startswith('release') and lines[-2].endswith('/release')
  assert lines[-1].endswith('evaluation/report.html')


def test_what_the_real_images_teach_is_not_on_the_terminal(
  finished_run,
) -> None:
  for value in _report(finished_run)['accuracy']['real'].values():
    assert f'{100 * value:.1f} %: trained on real' not in finished_run.stdout
  assert 'trained on real' not in finished_run.stdout


def test_release_holds_images_and_labels(finished_run) -> None:
  shards = sorted((finished_run.workdir / 'release' / 'dataset').glob('*.npz'))
  labels = []
  for shard in shards:
    with np.load(shard) as arrays:
      assert arrays['images'].dtype == np.uint8
      assert arrays['images'].shape[1:] == (8, 8, 1)
      assert arrays['labels'].dtype == np.int32
      labels.extend(arrays['labels'])
  assert np.bincount(labels).tolist() == [6] * 10  # Uniform, from the config.
  assert (finished_run.workdir / 'release' / 'samples.png').stat().st_size > 0


def test_release_is_verified_without_jax(
  finished_run, subprocess_environment: Mapping[str, str]
) -> None:
  done = subprocess.run(
    [
      sys.executable,
      '-m',
      'dp_diffusion.privacy.verify',
      str(finished_run.workdir / 'release'),
    ],
    env=dict(subprocess_environment),
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr


def test_tfds_reads_the_release_without_this_project(
  finished_run, tmp_path
) -> None:
  pytest.importorskip('tensorflow')
  roots = list((finished_run.workdir / 'release/dataset/tfds').glob('*/*'))
  code = (
    'import sys; import tensorflow_datasets as tfds\n'
    f'source = tfds.builder_from_directory({str(roots[0])!r})'
    ".as_data_source('train')\n"
    "assert source[0]['image'].shape == (8, 8, 1)\n"
    "assert not any(m.startswith('dp_diffusion') for m in sys.modules)\n"
    'print(len(source))'
  )
  environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
  out = subprocess.run(
    [sys.executable, '-c', code],
    cwd=tmp_path,
    env=environment,
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  assert out.split()[-1] == '60'


def test_private_folders_are_for_their_owner(finished_run) -> None:
  for name in ('private', 'evaluation'):
    mode = stat.S_IMODE((finished_run.workdir / name).stat().st_mode)
    assert mode == 0o700
  secret = finished_run.workdir / 'private' / 'secret'
  assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def _secrets(workdir: pathlib.Path) -> dict[bytes, str]:
  """The secret and what is drawn from it, in every form they may be written.

  Returns:
    Bytes to look for -> what they are.
  """
  secret = key_streams.Secret.load(workdir / 'private' / 'secret')
  checkpoints = workdir / 'private' / 'checkpoints'
  meta = json.loads(next(checkpoints.rglob('meta.json')).read_text())['meta']
  run_id, facts = meta['run_id'], meta['facts']
  streams = key_streams.KeyStreams(secret=secret, run_id=run_id)
  found = {'secret': secret.value}
  for name, digest in (
    ('run id', run_id),
    ('hash of the dataset', facts['dataset']),
    ('hash of the secret', facts['secret']),
  ):
    found[name] = bytes.fromhex(digest)
  for step in range(4):
    for i, key in enumerate(
      (*streams.noise_keys(step), streams.draw_key(step))
    ):
      found[f'key {i} of step {step}'] = bytes(jax.random.key_data(key))
    found[f'seed {step}'] = streams.seed_bytes('image of a person', step)
  return {
    form: name
    for name, value in found.items()
    for form in (
      value,
      value.hex().encode(),
      value.hex().upper().encode(),
      base64.b64encode(value).rstrip(b'='),
      b'%d' % int.from_bytes(value, 'little'),
      b'%d' % int.from_bytes(value, 'big'),
    )
  }


def _layers(data: bytes) -> Iterator[bytes]:
  """A file's bytes, and what is compressed inside it."""
  yield data
  if zipfile.is_zipfile(io.BytesIO(data)):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
      for name in archive.namelist():
        yield name.encode()
        yield archive.read(name)
  if data.startswith(b'\x89PNG'):
    with Image.open(io.BytesIO(data)) as image:
      yield repr(image.info).encode()
      yield image.tobytes()


def _found_in(words: Mapping[bytes, str], data: bytes) -> set[str]:
  return {
    name
    for layer in _layers(data)
    for word, name in words.items()
    if word in layer
  }


def test_secret_and_its_keys_are_in_no_other_file(finished_run) -> None:
  """Nor on the terminal; compressed files are looked into."""
  words = _secrets(finished_run.workdir)
  kept: set[str] = set()
  for path, data in command.contents(finished_run.workdir).items():
    found = _found_in(words, data)
    if path.startswith('private/'):
      kept |= found
    else:
      assert not found, path
  assert not _found_in(words, finished_run.stdout.encode())
  # The search finds what is there: this is all that private/ keeps of them.
  assert kept == {
    'secret',
    'run id',
    'hash of the dataset',
    'hash of the secret',
  }


def test_the_search_looks_into_compressed_files() -> None:
  archive, picture = io.BytesIO(), io.BytesIO()
  value = np.frombuffer(b'a secret', np.uint8)
  np.savez_compressed(archive, x=np.r_[np.zeros(5000, np.uint8), value])
  Image.fromarray(np.tile(value, (8, 1))).save(picture, 'PNG')
  for file in (archive, picture):
    assert b'a secret' not in file.getvalue()
    assert _found_in({b'a secret': 'it'}, file.getvalue()) == {'it'}


def test_finished_run_does_nothing_more(
  finished_run, subprocess_environment: Mapping[str, str]
) -> None:
  before = command.contents(finished_run.workdir)
  out = command.succeed(
    subprocess_environment,
    f'--workdir={finished_run.workdir}',
    command.ONE_LEVEL,
  )
  assert out.count('complete, nothing to do') == 4
  assert out.strip().endswith('evaluation/report.html')
  assert command.contents(finished_run.workdir) == before


def test_plan_says_what_is_spent_and_left(
  finished_run, subprocess_environment: Mapping[str, str]
) -> None:
  before = command.contents(finished_run.workdir)
  out = command.succeed(
    subprocess_environment,
    f'--workdir={finished_run.workdir}',
    command.ONE_LEVEL,
    '--stage=plan',
  )
  assert 'noise multiplier' in out and 'under RDP' in out
  statement = finished_run.workdir / 'release' / 'privacy.json'
  epsilon = json.loads(statement.read_text())['epsilon']
  assert f'spent               epsilon {rounding.up(epsilon, 6)} by PLD' in out
  left = rounding.down(max(0, 10 - epsilon), 6)
  assert f'left                epsilon {left} of 10' in out
  assert 'DP-SGD, 4 of 4 steps' in out and '[complete]' in out
  assert command.contents(finished_run.workdir) == before


def test_plan_alone_writes_nothing(
  subprocess_environment: Mapping[str, str], tmp_path
) -> None:
  out = command.succeed(
    subprocess_environment,
    f'--workdir={tmp_path / "new"}',
    command.ONE_LEVEL,
    '--stage=plan',
  )
  assert 'parameters' in out and 'FLOP' in out and 'nothing yet' in out
  assert not (tmp_path / 'new').exists()


def test_another_config_is_refused_with_both_values(
  finished_run, subprocess_environment: Mapping[str, str]
) -> None:
  done = command.run(
    subprocess_environment,
    f'--workdir={finished_run.workdir}',
    command.ONE_LEVEL,
    '--config.privacy.epsilon=5',
  )
  assert done.returncode == 2
  assert 'privacy.epsilon=10.0' in done.stderr
  assert 'privacy.epsilon=5.0' in done.stderr
  assert done.stderr.count('\n') == 1


def test_a_sealed_release_is_not_trained_further(
  finished_run, subprocess_environment: Mapping[str, str]
) -> None:
  done = command.run(
    subprocess_environment,
    f'--workdir={finished_run.workdir}',
    command.ONE_LEVEL,
    '--stage=finetune',
    '--config.privacy.num_steps=5',
  )
  assert done.returncode == 2 and 'privacy.num_steps=4' in done.stderr


def test_stage_before_its_time_names_the_missing_one(
  subprocess_environment: Mapping[str, str], tmp_path
) -> None:
  done = command.run(
    subprocess_environment, f'--workdir={tmp_path}', '--stage=sample'
  )
  assert done.returncode == 2
  assert 'finetune' in done.stderr and done.stderr.count('\n') == 1


def test_workdir_that_cannot_be_written_is_named(
  subprocess_environment: Mapping[str, str], tmp_path
) -> None:
  (tmp_path / 'file').write_text('')
  done = command.run(
    subprocess_environment, f'--workdir={tmp_path / "file" / "run"}'
  )
  assert done.returncode == 2
  assert '--workdir=' in done.stderr and done.stderr.count('\n') == 1


# The user presses Ctrl-C at the first line of the private training.
INTERRUPTED = """
import os
import signal
from dp_diffusion import console

say = console.say

def interrupt(message):
  say(message)
  if message.startswith('private training, step: 0/'):
    os.kill(os.getpid(), signal.SIGINT)

console.say = interrupt
"""


def test_interrupt_saves_and_says_how_to_continue(
  finetuned_run, subprocess_environment: Mapping[str, str], tmp_path
) -> None:
  workdir = tmp_path / 'run'
  command.prepare(finetuned_run.workdir, workdir)
  arguments = (*command.quick(workdir), '--stage=finetune')
  done = command.run(subprocess_environment, *arguments, code=INTERRUPTED)
  rest = done.stdout + done.stderr
  assert done.returncode == 130, rest
  assert 'To continue: python -m dp_diffusion.main' in rest
  assert list((workdir / 'private' / 'checkpoints').glob('[0-9]*'))
  out = command.succeed(subprocess_environment, *arguments)
  assert 'continues from step' in out
  assert (workdir / 'release' / 'privacy.json').exists()
  assert time.monotonic() > 0
