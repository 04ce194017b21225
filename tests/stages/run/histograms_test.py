"""The histogram of labels that a run keeps."""

from __future__ import annotations

import json
import pathlib
import stat

import numpy as np
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion import types
from dp_diffusion.data import batching
from dp_diffusion.data import registry
from dp_diffusion.privacy import key_streams
from dp_diffusion.stages.run import histograms
from dp_diffusion.stages.run import workdirs
from tests.stages import command

LABELS = np.array([2, 1, 1, 2, 0, 1, 0], np.int32)
PERSONS = np.array([8, 5, 5, 8, 5, 8, 3], np.int32)  # Not in order.
# 3: [0], 5: [1, 1, 0], 8: [2, 2, 1].
SHARES = [1 + 1 / 3, 2 / 3 + 1 / 3, 2 / 3]


def write(
  folder: pathlib.Path, noise: str = '0.001', dataset: str = 'a hash'
) -> pathlib.Path:
  config = config_lib.load(
    command.DIGITS_SMOKE,
    {
      'sample.labels': 'noised_histogram',
      'privacy.label_histogram_noise_multiplier': noise,
    },
  )
  workdir = workdirs.Workdir(workdirs.epath.Path(folder))
  source = registry.ArraySource(
    spec=types.DatasetSpec(
      name='x',
      image_shape=(1, 1, 1),
      class_names=('a', 'b', 'c'),
      has_person=True,
    ),
    images=np.zeros((len(LABELS), 1, 1, 1), np.uint8),
    labels=LABELS,
    person=PERSONS,
  )
  streams = key_streams.KeyStreams(
    secret=key_streams.Secret.insecure(0), run_id='a'
  )
  records = batching.make_records(source, 'person')
  histograms.write(config, workdir, source, records, streams, dataset)
  return folder / 'private' / 'label_histogram.json'


def test_labels_are_those_of_each_record(tmp_path: pathlib.Path) -> None:
  """Otherwise taking a person away would move the labels of others."""
  path = write(tmp_path)
  assert stat.S_IMODE(path.stat().st_mode) == 0o600
  found = json.loads(path.read_text())['noised']
  np.testing.assert_allclose(found, SHARES, atol=0.01)


@pytest.mark.parametrize(
  ('change', 'name'),
  [({'noise': '10'}, 'noise_multiplier'), ({'dataset': 'another'}, 'dataset')],
)
def test_a_histogram_of_others_is_refused(
  tmp_path: pathlib.Path, change: dict[str, str], name: str
) -> None:
  """A ledger of more noise would promise more than the labels keep."""
  before = write(tmp_path).read_bytes()
  assert write(tmp_path).read_bytes() == before
  with pytest.raises(errors.UsageError, match=f'its {name} differs') as raised:
    write(tmp_path, **change)
  assert '\n' not in str(raised.value)
  assert (tmp_path / 'private' / 'label_histogram.json').read_bytes() == before


def test_a_histogram_of_an_earlier_version_is_kept(
  tmp_path: pathlib.Path,
) -> None:
  path = write(tmp_path)
  path.write_text('{"noised": [1.0, 2.0, 3.0]}')
  write(tmp_path)
  assert json.loads(path.read_text()) == {'noised': [1.0, 2.0, 3.0]}
