"""Releases that were never trained, for tests of what follows one."""

from __future__ import annotations

import json
import pathlib

import numpy as np

from dp_diffusion import config as config_lib
from dp_diffusion import files
from dp_diffusion import release
from dp_diffusion import release_marks
from dp_diffusion import types
from dp_diffusion.models import weights
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.privacy import statement as statement_lib
from tests.stages import command

SPENT = mechanism_lib.DpSgdMechanism(
  num_examples=1000,
  expected_batch_size=100,
  num_steps=30,
  noise_multiplier=2.0,
  l2_clip_norm=0.3,
  delta=1e-4,
)
PARAMS = {'a': {'w': np.arange(3, dtype=np.float32)}}


def ledger(
  noise_multiplier: float = 2.0, unit: str = 'image'
) -> ledger_lib.Ledger:
  """Thirty steps of one mechanism."""
  values = {**SPENT.to_dict(), 'noise_multiplier': noise_multiplier}
  entry = ledger_lib.DpSgdEntry(
    mechanism=mechanism_lib.DpSgdMechanism.from_dict(values),
    num_steps=30,
    is_sealed=True,
  )
  return ledger_lib.Ledger(delta=1e-4, unit=unit, entries=(entry,))


def make(
  folder: pathlib.Path,
  params: types.Params | None = None,
  *,
  insecure: bool = False,
  with_images: bool = False,
  **of_ledger: object,
) -> pathlib.Path:
  """Writes a model, on demand images of 8x8 pixels, and their statement."""
  spent = ledger(**of_ledger)
  params = PARAMS if params is None else params
  config = config_lib.to_dict(config_lib.load(command.DIGITS_SMOKE))
  release.write_model(
    folder,
    weights.flatten(params),
    {'unet': config['model'], 'diffusion': config['diffusion']},
  )
  if with_images:
    _write_images(folder, spent)
  statement = statement_lib.statement(
    spent,
    dataset='shapes',
    insecure_secret=insecure,
    code_revision='abc',
    versions={'jax': '1'},
  )
  release.seal(folder, statement)
  return folder


def _write_images(folder: pathlib.Path, spent: ledger_lib.Ledger) -> None:
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (20, 8, 8, 1), np.uint8)
  labels = np.arange(20, dtype=np.int32) % 2
  digest = files.sha256(folder / 'model' / 'params.npz')
  mark = release_marks.make(spent.to_json(), digest)
  release.write_shard(folder, 0, 1, images, labels, mark)
  spec = types.DatasetSpec(
    name='t', image_shape=(8, 8, 1), class_names=('a', 'b')
  )
  release.write_dataset_info(folder, spec)
  tfds = folder / 'dataset' / 'tfds' / 'synthetic_t' / '1.0.0'
  tfds.mkdir(parents=True)
  info = {'name': 'synthetic_t', 'description': mark.in_description()}
  (tfds / 'dataset_info.json').write_text(json.dumps(info))
