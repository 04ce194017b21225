"""Two neighbouring datasets, no noise: which files may tell them apart.

With the noise taken away, whatever depends on a record shows. Only weights,
and what follows from them, may: in the real run noise covers those.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
import pathlib
import re

import numpy as np
import pytest

from tests.stages import command

_DECLARED = 164  # As many are trained on in one of the two, and not in both.
_MAY_DIFFER = re.compile(
  r'release/(model/params\.npz|dataset/images-.*\.npz|samples\.png'
  r'|dataset/parquet/.*\.parquet|croissant\.json|privacy\.json)'
)


def _run(
  folder: pathlib.Path, num_removed: int, environment: Mapping[str, str]
) -> tuple[dict[str, bytes], str]:
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (200, 8, 8, 1), np.uint8)
  labels = rng.integers(0, 10, 200).astype(np.int32)
  folder.mkdir()
  keep = slice(0, 200 - num_removed)
  np.savez(folder / 'data.npz', images=images[keep], labels=labels[keep])
  done = command.succeed_stages(
    environment,
    'pretrain,finetune,sample',
    '--workdir=run',
    '--config.data.name=folder',
    '--config.data.path=data.npz',
    '--config.model.channel_multipliers=(1,)',
    '--config.privacy.epsilon=inf',
    f'--config.privacy.num_examples={_DECLARED}',
    '--config.sample.write_tfds=false',  # TensorFlow is slow to import.
    cwd=folder,
  )
  survey = json.loads((folder / 'run/private/survey.json').read_text())
  assert survey['splits']['train']['num_images'] == _DECLARED - num_removed
  found = command.contents(folder / 'run')
  outside = {
    path: data
    for path, data in found.items()
    # Public checkpoints: orbax draws the names of their files at random.
    if not path.startswith(('private/', 'evaluation/', 'public/checkpoints/'))
  }
  return outside, done.stdout + done.stderr


@pytest.fixture(scope='module')
def neighbours(
  subprocess_environment: Mapping[str, str],
  tmp_path_factory: pytest.TempPathFactory,
):
  folder = tmp_path_factory.mktemp('neighbours')
  return (
    _run(folder / 'a', 0, subprocess_environment),
    _run(folder / 'b', 1, subprocess_environment),
  )


def test_only_weights_and_what_follows_differ(neighbours) -> None:
  (first, _), (second, _) = neighbours
  assert first.keys() == second.keys()
  different = [path for path in first if first[path] != second[path]]
  assert 'release/model/params.npz' in different  # The test can see a record.
  # Numbers of public training are in the comparison, which no time is in.
  assert 'public/metrics.jsonl' in first
  assert not [path for path in different if not _MAY_DIFFER.fullmatch(path)]


def test_the_statement_differs_in_hashes_alone(neighbours) -> None:
  (first, _), (second, _) = neighbours
  statements = [
    json.loads(found['release/privacy.json']) for found in (first, second)
  ]
  for statement in statements:
    del statement['files']
  assert statements[0] == statements[1]


def test_the_terminal_says_the_same(neighbours) -> None:
  (_, first), (_, second) = neighbours

  def without_public_times(text: str) -> list[str]:
    return [
      line
      for line in text.splitlines()
      if not re.match(r'(public pre-training|sampling).*\d s left', line)
    ]

  found = without_public_times(first)
  assert found == without_public_times(second)
  assert not [line for line in found if re.search(r'\d s\b', line)]
