"""Runs a baseline of `baselines/` and scores it like a release of our own.

A baseline has its own workdir, with its secret, its ledger, and a `release/`
that `verify` checks. It uses the config of a run: `privacy` gives epsilon and
delta, and the section `baseline` the rest. Its epsilon adds to those of other
releases from the same images.

Guarantees:
  * The mechanism that was calibrated is the one in the statement, and the
    folder verifies.
    `tests/stages/baseline_test.py::test_a_release_that_verifies`.
  * A rerun gives the same bits; another config is refused.
    `tests/stages/baseline_test.py::test_rerun_gives_the_same_bits`.
  * Noise is added to the sum once; other images or another secret are refused,
    and so is a folder that holds the release of another run.
    `tests/stages/baseline_test.py::test_the_sum_is_noised_once`,
    `tests/stages/baseline_test.py::test_a_workdir_has_one_ledger`,
    `tests/stages/baseline_test.py::test_leftovers_in_a_release_are_refused`.
  * Embeddings of other images, features, public images or settings have other
    noise, even with one secret.
    `tests/stages/baseline_test.py::test_what_names_an_embedding`.
  * Exact class counts are in no file, and no number of images is.
    `tests/stages/baseline_test.py::test_labels_do_not_follow_those_of_the_images`,
    `tests/stages/baseline_test.py::test_the_model_is_described_by_the_config_alone`.
  * What is trained without noise reads public images.
    `tests/stages/baseline_test.py::test_what_is_trained_without_noise_reads_public_images`.
  * The images of Private Evolution are public ones, and its ledger has all
    votes. `tests/stages/baseline_test.py::test_votes_choose_public_images`,
    `tests/stages/baseline_test.py::test_all_votes_are_in_the_ledger`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import functools
import json
import os
import time
from typing import Any

from etils import epath
import numpy as np

from dp_diffusion import checks
from dp_diffusion import config as config_lib
from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion import jax_environment
from dp_diffusion import public_seed
from dp_diffusion import release
from dp_diffusion import types
from dp_diffusion.baselines import dp_mepf
from dp_diffusion.baselines import dp_merf
from dp_diffusion.baselines import generator as generator_lib
from dp_diffusion.baselines import mean_embedding
from dp_diffusion.baselines import one_by_one
from dp_diffusion.baselines import private_evolution
from dp_diffusion.baselines import settings
from dp_diffusion.data import batching
from dp_diffusion.data import registry
from dp_diffusion.evaluation.classifiers import read_once
from dp_diffusion.evaluation.classifiers import scoring
from dp_diffusion.evaluation.report import report
from dp_diffusion.models import weights
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import rounding
from dp_diffusion.privacy import statement_words
from dp_diffusion.stages import baseline_classifier
from dp_diffusion.stages import evaluate
from dp_diffusion.stages import sample
from dp_diffusion.stages.run import fingerprint
from dp_diffusion.stages.run import interrupts
from dp_diffusion.stages.run import public_data
from dp_diffusion.stages.run import public_network
from dp_diffusion.stages.run import public_provenance
from dp_diffusion.stages.run import run_secret
from dp_diffusion.stages.run import statements
from dp_diffusion.stages.run import workdirs

_EVOLUTION = 'private_evolution'
_OF_PUBLIC_NETWORK = ('dp_mepf', _EVOLUTION)

# (ledger, streams) -> noised arrays, by name.
_Draw = Callable[
  [ledger_lib.Ledger, key_streams.KeyStreams], Mapping[str, np.ndarray]
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Made:
  """What a baseline releases, and its ledger.

  Attributes:
    images: uint8[N, H, W, C].
    params: what is released as the model.
    description: of the model, JSON values.
    ledger: ledger of the noised statistics.
    is_insecure: whether a test planted the secret.
  """

  images: np.ndarray
  params: types.Params
  description: Mapping[str, Any]
  ledger: ledger_lib.Ledger
  is_insecure: bool


def run(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  method: str,
  stop: interrupts.Stop,
) -> None:
  """Makes the release of a baseline and scores it on held-out images.

  Args:
    config: gives seed, data, pretrain.data, privacy, sample, evaluate and
      baseline.
    workdir: working directory of this baseline and config alone; everything but
      public/ is written.
    method: one of `settings.METHODS`.
    stop: called at every step; tells whether to stop. Its command is part of
      the report.

  Raises:
    UsageError: data are missing, the method does not support the config, or the
      workdir belongs to another config.
    Interrupted: the user asked to stop; the same command continues.
  """
  jax_environment.fix()
  checks.check_one_of('method', method, settings.METHODS)
  _tie(config, workdir, method)
  report_path = workdir.evaluation / 'report.json'
  if report_path.exists():
    console.say(f'{method}: complete, nothing to do')
    return
  start = time.monotonic()
  if method == 'dp_classifier':
    _classify_directly(config, workdir, stop, start)
    return
  _generate(config, workdir, method, stop)
  workdir.add_secs(method, time.monotonic() - start)
  evaluate.run(config, workdir, stop, sources=('synthetic',))
  found = files.read_json(report_path)['accuracy']['synthetic']
  for name, accuracy in found.items():
    console.say(f'{method}: {name} {100 * accuracy:.1f} %')


def _classify_directly(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  stop: interrupts.Stop,
  start: float,
) -> None:
  """Trains and tests the DP classifier, which releases no images."""
  held_out = read_once.HeldOut(
    functools.partial(registry.load, config.data, config.data.test_split)
  )
  with held_out.closed():
    predict = baseline_classifier.run(config, workdir, stop)
  test = held_out.open()
  score = scoring.score(
    [predict(np.asarray(test.images))],
    test.labels,
    test.spec.num_classes,
    persons=test.person,
  )
  workdir.add_secs('dp_classifier', time.monotonic() - start)
  _write_report(config, workdir, score, len(test.labels))
  console.say(f'dp_classifier: {100 * score.accuracy.value:.1f} %')


def _tie(
  config: config_lib.Config, workdir: workdirs.Workdir, method: str
) -> None:
  """Refuses a workdir that was begun with another method or config."""
  now = {'method': method, 'config': config_lib.to_dict(config)}
  path = workdir.baseline
  if workdir.has_begun('finetune'):
    raise errors.UsageError(
      f'{workdir.root} belongs to a run of dp_diffusion.main, which has a'
      ' ledger of its own. Give another --workdir.'
    )
  if path.exists():
    difference = workdirs.first_difference(
      _with_later_keys(files.read_json(path)), _with_later_keys(now)
    )
    if difference:
      key, old, new = difference
      raise errors.UsageError(
        f'{workdir.root} belongs to another run: it has {key}={old!r}, this'
        f' one {key}={new!r}. Give the old value, or another --workdir.'
      )
  files.write_json(path, now, mode=0o600)


def _with_later_keys(record: Mapping[str, Any]) -> dict[str, Any]:
  config = config_lib.with_later_keys(record.get('config'), config_lib.Config)
  return {**record, 'config': config}


def _generate(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  method: str,
  stop: interrupts.Stop,
) -> None:
  """Makes the synthetic images, and writes the release."""
  _check_labels(config)
  source = registry.load(config.data)
  public = _check_public(config, method, source)
  learned_from = _public_images(config, method)
  if method == _EVOLUTION:
    assert learned_from is not None
    made = _evolve(config, workdir, source, learned_from, stop)
  else:
    made = _fit_generator(config, workdir, method, source, learned_from, stop)
  statements.store(
    workdir, made.ledger, is_insecure=made.is_insecure, public_data=public
  )
  description = {
    'method': method,
    **made.description,
    'class_names': list(config.data.class_names),
    'image_shape': list(config.data.image_shape),
  }
  release.write_model(
    workdir.release, weights.flatten(made.params), description
  )
  labels = _labels(config, config.sample.num_samples)
  _write_images(config, workdir, made.images, labels)


def _fit_generator(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  method: str,
  source: types.DataSource,
  public: types.DataSource | None,
  stop: interrupts.Stop,
) -> _Made:
  """Fits a generator to the noised embedding."""
  used = config.baseline.generator
  feature_fn = _make_feature_fn(config, method, public)
  target, ledger, secret = _embed(
    config, workdir, method, feature_fn, source, public
  )
  module = generator_lib.Generator(
    image_shape=config.data.image_shape,
    num_classes=config.data.num_classes,
    channels=used.channels,
  )
  params = generator_lib.train(
    used,
    module,
    feature_fn,
    target,
    _labels(config, used.batch_size),
    public_seed.Purpose.BASELINE_GENERATOR.key(config.seed),
    stop.raise_if_asked,
  )
  images = generator_lib.sample(
    module,
    params,
    used.latent_dim,
    _labels(config, config.sample.num_samples),
    public_seed.Purpose.BASELINE_SAMPLES.key(config.seed),
  )
  return _Made(
    images=images,
    params=params,
    description={'generator': dataclasses.asdict(used)},
    ledger=ledger,
    is_insecure=secret.is_insecure,
  )


def _evolve(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  source: types.DataSource,
  public: types.DataSource,
  stop: interrupts.Stop,
) -> _Made:
  """Lets the sensitive images vote for public ones."""
  used = config.baseline.private_evolution
  feature_fn = private_evolution.project(
    _make_feature_fn(config, _EVOLUTION, public),
    config.data.image_shape,
    used.num_features,
    public_seed.Purpose.BASELINE_FEATURES.key(config.seed),
  )
  chosen = public_seed.Purpose.EVOLUTION_CANDIDATES.rng(
    config.seed
  ).permutation(len(public.labels))
  chosen = np.sort(chosen[: used.max_candidates])
  candidates = _candidates(config, feature_fn, public, chosen)

  def draw(
    ledger: ledger_lib.Ledger, streams: key_streams.KeyStreams
  ) -> Mapping[str, np.ndarray]:
    (entry,) = ledger.entries
    votes = private_evolution.make_votes_fn(
      feature_fn,
      source,
      batching.make_records(source, config.data.unit),
      candidates,
      entry,
      streams,
    )
    rng = public_seed.Purpose.EVOLUTION_POPULATIONS.rng(config.seed)
    found = private_evolution.evolve(
      used, candidates, votes, entry.noise_std, rng, stop.raise_if_asked
    )
    return {'images': found.images, 'shares': found.shares}

  found, ledger, secret = _draw_once(
    config, workdir, _EVOLUTION, draw, source, public
  )
  population = private_evolution.Population(**found)
  samples = private_evolution.sample(
    used,
    candidates,
    population,
    _labels(config, config.sample.num_samples),
    public_seed.Purpose.EVOLUTION_VARIATIONS.rng(config.seed),
  )
  return _Made(
    images=_gather(public, chosen[samples]),
    params={
      'images': _gather(public, chosen[population.images]).astype(np.float32),
      'shares': population.shares.astype(np.float32),
    },
    description={'population': dataclasses.asdict(used)},
    ledger=ledger,
    is_insecure=secret.is_insecure,
  )


def _candidates(
  config: config_lib.Config,
  feature_fn: mean_embedding.FeatureFn,
  public: types.DataSource,
  chosen: np.ndarray,
) -> private_evolution.Candidates:
  return private_evolution.Candidates(
    features=one_by_one.apply(feature_fn, public.images[chosen]),
    of_class=private_evolution.choose(
      np.asarray(public.labels)[chosen],
      public.spec.class_names,
      config.data.class_names,
    ),
  )


def _gather(source: types.DataSource, indices: np.ndarray) -> np.ndarray:
  return batching.gather(source, indices)['image']


def _labels(config: config_lib.Config, number: int) -> np.ndarray:
  """Returns int32[number], in the public shares of the classes."""
  return sample.sample_labels(
    config.sample.labels, config.data.num_classes, number
  )


def _check_labels(config: config_lib.Config) -> None:
  if config.sample.labels == config_lib.NOISED_HISTOGRAM:
    raise errors.UsageError(
      f'Expected sample.labels={config_lib.NOISED_HISTOGRAM!r} to be public'
      ' shares for a baseline, which makes no histogram.'
    )


def _write_images(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  images: np.ndarray,
  labels: np.ndarray,
) -> None:
  """Writes the dataset, then the statement for the whole release."""
  mark = statements.mark(workdir)
  release.write_shard(workdir.release, 0, 1, images, labels, mark)
  spec = types.DatasetSpec(
    name=config.name,
    image_shape=images.shape[1:],
    class_names=config.data.class_names,
  )
  release.write_dataset_info(workdir.release, spec)
  release.write_samples(workdir.release)
  release.write_parquet(workdir.release)
  statements.seal(config, workdir)


def _embed(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  method: str,
  feature_fn: mean_embedding.FeatureFn,
  source: types.DataSource,
  public: types.DataSource | None,
) -> tuple[np.ndarray, ledger_lib.Ledger, key_streams.Secret]:
  """Returns the noised mean embedding, its ledger and the secret."""

  def draw(
    ledger: ledger_lib.Ledger, streams: key_streams.KeyStreams
  ) -> Mapping[str, np.ndarray]:
    target = mean_embedding.noised_mean(
      feature_fn,
      source,
      batching.make_records(source, config.data.unit),
      config.privacy.num_examples,
      ledger,
      streams,
    )
    return {'target': target}

  found, ledger, secret = _draw_once(
    config, workdir, method, draw, source, public
  )
  return found['target'], ledger, secret


def start_ledger(config: config_lib.Config, method: str) -> ledger_lib.Ledger:
  """Returns the ledger of a method, with the noise of all its statistics."""
  if method == _EVOLUTION:
    return mean_embedding.start_ledger(
      config.privacy,
      method,
      config.data.unit,
      purpose=private_evolution.PURPOSE,
      count=config.baseline.private_evolution.num_generations,
    )
  return mean_embedding.start_ledger(config.privacy, method, config.data.unit)


def _draw_once(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  method: str,
  draw: _Draw,
  source: types.DataSource,
  public: types.DataSource | None,
) -> tuple[Mapping[str, np.ndarray], ledger_lib.Ledger, key_streams.Secret]:
  """Reads the sensitive images, and keeps what `draw` returns, with noise.

  No other function reads them, and noise is added once.
  """
  ledger = start_ledger(config, method)
  (entry,) = ledger.entries
  console.say(
    f'{method}: {entry.summary()}; epsilon'
    f' {rounding.up(ledger.epsilon())} at delta'
    f' {rounding.up(ledger.delta, 6)}'
  )
  statements.check_release_is_new(workdir)
  secret = run_secret.load_or_make(config, workdir)
  named = facts(config, method, ledger, source, secret, public)
  streams = key_streams.KeyStreams(
    secret=secret, run_id=key_streams.run_id(secret, named)
  )
  _begin_embedding(workdir, streams.run_id)
  kept = _kept(workdir)
  if not kept.exists():
    files.write_npz(kept, 0o600, **draw(ledger, streams))
  return files.read_npz(kept), ledger, secret


def facts(
  config: config_lib.Config,
  method: str,
  ledger: ledger_lib.Ledger,
  source: types.DataSource,
  secret: key_streams.Secret,
  public: types.DataSource | None,
) -> dict[str, Any]:
  """Returns the facts that name an embedding, and so determine its noise.

  Args:
    config: gives seed, pretrain, evaluate.classifier and baseline.
    method: one of `settings.METHODS` but the classifier.
    ledger: the ledger of the embedding.
    source: the sensitive images.
    secret: secret of the run.
    public: the images that a feature network is trained on, or that are voted
      for; None if there are none.
  """
  net = config.baseline.dp_mepf.net
  found = {
    'method': method,
    'ledger': ledger.to_json(),
    'baseline': config_lib.to_dict(config.baseline),
    'net': files.sha256(net) if net and method in _OF_PUBLIC_NETWORK else '',
    'classifier': config_lib.to_dict(config.evaluate.classifier),
    'public': config_lib.to_dict(config.pretrain),
    'seed': config.seed,
    'dataset': fingerprint.dataset(secret, source),
    'rng': key_streams.rng_test_vector(),
  }
  if public is not None:
    found['public_images'] = fingerprint.dataset(secret, public)
  return found


def _kept(workdir: workdirs.Workdir) -> epath.Path:
  """Returns the file of the embedding with noise."""
  return workdir.private / 'embedding.npz'


def _begin_embedding(workdir: workdirs.Workdir, run_id: str) -> None:
  """Records that the images are read, and refuses to read other images.

  Raises:
    UsageError: another sum was begun here, and may have been released, or it is
      not known which was.
  """
  path = workdir.private / workdirs.BEGUN_EMBEDDING
  if _kept(workdir).exists() and not path.exists():
    raise errors.UsageError(
      f'Expected {path} to name the sum that {_kept(workdir)} was made from,'
      ' but it is not there: restore it, or give another --workdir.'
    )
  if path.exists() and files.read_json(path)['run_id'] != run_id:
    raise errors.UsageError(
      f'{workdir.root} has noised the sum over other images, or with another'
      ' secret or jax: again would be another release, which its statement'
      ' does not count. Restore them, or give another --workdir.'
    )
  files.write_json(path, {'run_id': run_id}, mode=0o600)


def _check_public(
  config: config_lib.Config, method: str, source: types.DataSource
) -> list[dict[str, Any]]:
  """Checks the public images that the method depends on, and names them."""
  if method not in _OF_PUBLIC_NETWORK:
    return []
  net, found = config.baseline.dp_mepf.net, []
  if method == _EVOLUTION or not net:
    found = public_data.compare_source(config, source)
  if net and os.path.exists(net):  # Otherwise reading it reports an error.
    images = public_provenance.of_weights(epath.Path(net))
    found += [statement_words.public_data(vars(e), 'unknown') for e in images]
  return found


def _public_images(
  config: config_lib.Config, method: str
) -> types.DataSource | None:
  """Reads the images that are learned from or voted for, if any are."""
  is_trained = method == 'dp_mepf' and not config.baseline.dp_mepf.net
  if not is_trained and method != _EVOLUTION:
    return None
  return registry.load(config.pretrain.data)


def _make_feature_fn(
  config: config_lib.Config,
  method: str,
  public: types.DataSource | None,
) -> mean_embedding.FeatureFn:
  """Returns a feature function that depends on public data at most."""
  if method == 'dp_merf':
    return dp_merf.make_feature_fn(
      config.baseline.dp_merf,
      config.data.image_shape,
      public_seed.Purpose.BASELINE_FEATURES.key(config.seed),
    )
  return dp_mepf.make_feature_fn(
    config.baseline.dp_mepf, _make_activations(config, method, public)
  )


def _make_activations(
  config: config_lib.Config, method: str, public: types.DataSource | None
) -> dp_mepf.ActivationsFn:
  """Returns the public network: the one of a file, or one trained here."""
  net = config.baseline.dp_mepf.net
  if net:
    if not os.path.exists(net):
      raise errors.UsageError(
        f'Expected a feature network at baseline.dp_mepf.net={net!r};'
        ' there is no such file.'
      )
    try:
      return dp_mepf.from_weights(files.read_npz(net))
    except ValueError as error:
      raise errors.UsageError(
        f'baseline.dp_mepf.net={net!r}: {error}'
      ) from error
  assert public is not None
  console.say(f'{method}: trains its feature network on public images')
  trained = public_network.train(config, public)
  return dp_mepf.from_small_cnn(trained.variables, public.spec.num_classes)


def _write_report(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  score: scoring.Score,
  num_held_out: int,
) -> None:
  """Writes evaluation/report.json, with the keys that experiments read."""
  accuracy = score.accuracy
  value: dict[str, Any] = {
    'notice': report.NOTICE,
    'method': 'dp_classifier',
    'accuracy': {'direct': {'cnn': accuracy.value}},
    'accuracy_interval': {'direct': {'cnn': [accuracy.low, accuracy.high]}},
    'num_held_out_images': num_held_out,
    'num_train_images': {'synthetic': 0},
    'seconds': dict(workdir.secs()),
    'config': config_lib.to_dict(config),
  }
  path = workdir.evaluation / 'report.json'
  files.write_json(path, json.loads(json.dumps(value)), mode=0o600)
