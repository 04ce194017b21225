"""Draws the noised Gaussians of the classes, before the private steps.

It is a part of fine-tuning, if `finetune.class_gaussians` asks for it. The
statistic is drawn from the sensitive images once, with the noise that its
ledger entry says, and kept in `private/class_gaussians/`; the Gaussians are
computed from it, and published beside the weights.

Guarantees:
  * The statistic is paid for: its entry is in the published ledger, and DP-SGD
    is calibrated to what remains.
    `tests/stages/class_gaussians_test.py::test_they_are_paid_for`.
  * The noise that is drawn is that of the entry.
    `tests/stages/class_gaussians_test.py::test_what_is_drawn_is_what_the_ledger_says`.
  * It is drawn once. A rerun before it is kept gives the same bits; afterwards
    it is read. Other images, noise or secrets are refused.
    `tests/stages/class_gaussians_test.py::test_they_are_drawn_once`,
    `tests/stages/class_gaussians_test.py::test_others_are_refused`.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
from typing import Any

from etils import epath

from dp_diffusion import config as config_lib
from dp_diffusion import files
from dp_diffusion import types
from dp_diffusion.baselines import class_gaussians
from dp_diffusion.baselines import mean_embedding
from dp_diffusion.data import batching
from dp_diffusion.models import class_gaussians as gaussians_lib
from dp_diffusion.privacy import key_streams
from dp_diffusion.stages.run import begun_statistics
from dp_diffusion.stages.run import fingerprint
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import processes


def run(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  source: types.DataSource,
  records: batching.Records,
  secret: key_streams.Secret,
) -> None:
  """Draws the statistic and keeps it, if there are to be Gaussians.

  All processes call it.

  Args:
    config: gives seed, data and finetune.class_gaussians.
    workdir: private/class_gaussians is written.
    source: the sensitive images; process 0 draws the statistic from them.
    records: the images of each record.
    secret: secret of the run.

  Raises:
    UsageError: other Gaussians than these were drawn before.
  """
  used = config.finetune.class_gaussians
  if not used.is_used:
    return
  facts = make_facts(config, source, secret)
  processes.agree({k: json.dumps(v, sort_keys=True) for k, v in facts.items()})
  begun = workdir.private / workdirs.BEGUN_CLASS_GAUSSIANS
  kept = _kept(workdir)

  def draw() -> None:
    begun_statistics.begin(
      workdir, begun, kept, facts, 'the Gaussians of its classes'
    )
    if kept.exists():
      return
    streams = key_streams.KeyStreams(
      secret=secret, run_id=key_streams.run_id(secret, facts)
    )
    (noised,) = mean_embedding.noised_sums(
      class_gaussians.make_feature_fn(config.data.image_shape, used.side),
      source,
      records,
      used.mechanism,
      streams,
      class_gaussians.PURPOSE,
    )
    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.write_npz(kept, 0o600, noised=noised)

  processes.on_main(draw)


def read(
  config: config_lib.Config, workdir: workdirs.Workdir
) -> gaussians_lib.ClassGaussians | None:
  """Returns the Gaussians that `run` has drawn; None if there are to be none.

  Args:
    config: gives data and finetune.class_gaussians.
    workdir: private/class_gaussians is read.
  """
  used = config.finetune.class_gaussians
  if not used.is_used:
    return None
  return class_gaussians.estimate(
    files.read_npz(_kept(workdir))['noised'],
    config.data.image_shape,
    used.side,
    used.mechanism.noise_std,
  )


def _kept(workdir: workdirs.Workdir) -> epath.Path:
  return workdir.private / 'class_gaussians' / 'statistics.npz'


def make_facts(
  config: config_lib.Config,
  source: types.DataSource,
  secret: key_streams.Secret,
) -> Mapping[str, Any]:
  """Returns the facts that name the statistic, and so determine its noise.

  Args:
    config: gives seed, data and finetune.class_gaussians.
    source: the sensitive images.
    secret: secret of the run.
  """
  used = config.finetune.class_gaussians
  return {
    'gaussians': config_lib.to_dict(used),
    'events': [entry.to_json() for entry in used.entries()],
    'unit': config.data.unit,
    'classes': source.spec.num_classes,
    'seed': config.seed,
    'dataset': fingerprint.dataset(secret, source),
    'secret': key_streams.fingerprint(secret, 'secret'),
    'rng': key_streams.rng_test_vector(),
  }
