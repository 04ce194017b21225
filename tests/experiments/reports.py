"""Finished runs that nobody ran: the files, with made-up numbers."""

from __future__ import annotations

from typing import Any

from dp_diffusion import files
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import mechanism as mechanism_lib
from experiments import common

MACHINE = {
  'cpu': 'Abacus 1',
  'cores': 2,
  'devices': '1 x cpu',
  'python': '3.11.9',
  'jax': '0.0',
  'runs_at_a_time': 1,
}


def write(
  run: common.Run,
  *,
  synthetic: float = 0.9,
  public: float = 0.5,
  real: float = 0.98,
) -> None:
  """Makes the files of a complete run; the CNN is 0.01 below the SVM."""
  accuracy = {
    source: {'svm': value, 'cnn': value - 0.01}
    for source, value in (
      ('synthetic', synthetic),
      ('public', public),
      ('real', real),
    )
  }
  epsilon = run.facts['epsilon']
  report: dict[str, Any] = {
    'notice': 'made up',
    'accuracy': accuracy,
    'accuracy_interval': {
      source: {
        name: [value - 0.05, value + 0.05] for name, value in row.items()
      }
      for source, row in accuracy.items()
    },
    'accuracy_per_class': {},
    'num_held_out_images': 360,
    'num_train_images': {'synthetic': 5000, 'public': 5000, 'real': 1437},
    'seconds': {
      'pretrain': 2.0,
      'finetune': 100.0,
      'sample': 20.0,
      'evaluate': 10.0,
    },
    'config': {'privacy': {'epsilon': epsilon}},
  }
  mechanism = mechanism_lib.DpSgdMechanism(
    num_examples=1437,
    expected_batch_size=100,
    num_steps=10,
    noise_multiplier=0.0 if epsilon is None else 20 / epsilon,
    l2_clip_norm=1.0,
    delta=1e-4,
  )
  entry = ledger_lib.DpSgdEntry(mechanism=mechanism, num_steps=10)
  privacy = {
    **ledger_lib.Ledger(delta=1e-4, entries=(entry,)).to_json(),
    'private': epsilon is not None,
    'epsilon_pld': epsilon,
    'epsilon_rdp': None if epsilon is None else 1.1 * epsilon,
    'code_revision': 'abc',
    'versions': {'jax': '0.0'},
  }
  files.write_json(run.workdir / 'evaluation' / 'report.json', report)
  files.write_json(run.workdir / 'release' / 'privacy.json', privacy)
