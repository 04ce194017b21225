"""The table that a plan judges by: from results alone, and up to date."""

from __future__ import annotations

import json
import shutil

import pytest

from dp_diffusion.stages.planning import sufficiency
from experiments import measured_runs


def test_the_table_is_what_the_results_say():
  assert measured_runs.main(['--check']) == 0
  by_what = {run.what: run for run in sufficiency.measured_runs()}
  assert by_what['digits_epsilon, epsilon 1'].is_useless
  assert by_what['digits_epsilon, epsilon 10'].is_good
  assert not any('infinite' in what for what in by_what)


def test_a_config_that_has_changed_since_is_refused(tmp_path, monkeypatch):
  """Its noise would stand beside an accuracy that it did not give."""
  shutil.copytree(measured_runs.ROOT / 'configs', tmp_path / 'configs')
  source = 'experiments/ablation_pretraining/results.json'
  results = json.loads((measured_runs.ROOT / source).read_text())
  for run in results['runs']:
    run['command'] += ' --config.privacy.num_steps=70'
  (tmp_path / source).parent.mkdir(parents=True)
  (tmp_path / source).write_text(json.dumps(results))
  monkeypatch.setattr(measured_runs, 'EXPERIMENTS', ('ablation_pretraining',))
  with pytest.raises(ValueError, match='run it anew'):
    measured_runs.table(tmp_path)
