"""The microbatch that a stage takes: given, or what the memory allows."""

from __future__ import annotations

import dataclasses
import re
import types

import jax
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion.baselines import class_head
from dp_diffusion.evaluation.classifiers import activations
from dp_diffusion.models import scattering as scattering_lib
from dp_diffusion.stages import plan
from dp_diffusion.stages.planning import batch_sizes
from dp_diffusion.stages.planning import cost_estimates
from dp_diffusion.training import microbatch
from tests.stages import command


@pytest.fixture(scope='module')
def config() -> config_lib.Config:
  return config_lib.load(
    command.DIGITS_SMOKE, {'finetune.microbatch_size': '0'}
  )


@pytest.fixture(scope='module')
def state(config):
  return batch_sizes.private_state(config, 4)


def _devices(
  num_global_devices: int, platform: str = 'gpu', bytes_limit: int = 10_000
):
  device = types.SimpleNamespace(
    platform=platform, memory_stats=lambda: {'bytes_limit': bytes_limit}
  )
  return types.SimpleNamespace(
    devices=(device,),
    num_global_devices=num_global_devices,
    is_cpu=platform == 'cpu',
  )


@pytest.fixture
def need(monkeypatch):
  """500 bytes whatever the size, 1,000 for each example."""

  def measure(compile_fn, resident_bytes=0):
    assert callable(compile_fn)
    return microbatch.MemoryUse(fixed_bytes=500, example_bytes=1000)

  monkeypatch.setattr(microbatch, 'measure', measure)


def test_what_the_config_says_is_taken(config, state, monkeypatch) -> None:
  monkeypatch.setattr(microbatch, 'measure', None)  # Nothing is measured.
  finetune = dataclasses.replace(config.finetune, microbatch_size=7)
  given = dataclasses.replace(config, finetune=finetune)
  assert batch_sizes.private_size(given, state, _devices(1)) == 7


@pytest.mark.usefixtures('need')
@pytest.mark.parametrize(
  ('num_devices', 'expected'), [(1, 8), (8, 4), (32, 1), (100, 1)]
)
def test_memory_and_share_bound_the_records(
  config, state, num_devices, expected, capsys
) -> None:
  assert config.privacy.expected_batch_size == 32
  assert (
    batch_sizes.private_size(config, state, _devices(num_devices)) == expected
  )
  assert f'{expected} records per device' in capsys.readouterr().out


def test_a_record_that_does_not_fit_is_an_error(
  config, state, monkeypatch
) -> None:
  big = microbatch.MemoryUse(fixed_bytes=0, example_bytes=10**6)
  monkeypatch.setattr(microbatch, 'measure', lambda *_: big)
  with pytest.raises(errors.UsageError, match='draw_chunk_size'):
    batch_sizes.private_size(config, state, _devices(1))


@pytest.mark.usefixtures('need')
def test_pretraining_divides_its_share_where_it_must(config) -> None:
  assert config.pretrain.batch_size == 32
  assert batch_sizes.public_size(config, _devices(1)) == 8
  assert batch_sizes.public_size(config, _devices(8)) is None  # 4 fit.
  assert batch_sizes.public_size(config, _devices(1, 'cpu')) is None
  pretrain = dataclasses.replace(config.pretrain, batch_size=36)
  odd = dataclasses.replace(config, pretrain=pretrain)
  assert batch_sizes.public_size(odd, _devices(1)) == 4


@pytest.mark.parametrize('is_silent', [False, True])
@pytest.mark.parametrize(
  ('batch_size', 'bytes_limit'), [(48, 10_000), (800, 10_000), (800, 200_000)]
)
def test_a_plan_measures_the_sizes_that_a_run_takes(
  config, state, batch_size, bytes_limit, is_silent, monkeypatch
) -> None:
  """Also where the compiler gives no figures."""
  need = microbatch.MemoryUse(fixed_bytes=500, example_bytes=1000)
  found = None if is_silent else need
  monkeypatch.setattr(microbatch, 'measure', lambda *_: found)
  # Nothing is compiled or timed: only the sizes matter.
  for name in ('public_compile_fn', 'private_compile_fn'):
    monkeypatch.setattr(batch_sizes, name, lambda *_: lambda *_, **__: None)
  monkeypatch.setattr(cost_estimates, '_secs', lambda *_: 1.0)
  monkeypatch.setattr(cost_estimates, '_sample', lambda _: None)
  changed = dataclasses.replace(
    config,
    pretrain=dataclasses.replace(config.pretrain, batch_size=batch_size),
    privacy=dataclasses.replace(
      config.privacy, expected_batch_size=batch_size, num_examples=10_000
    ),
  )
  devices = _devices(jax.device_count(), bytes_limit=bytes_limit)
  available = microbatch.device_bytes(devices.devices[0])
  planned = cost_estimates.measure(changed, 4, available)
  share = batch_size // devices.num_global_devices
  public_size = batch_sizes.public_size(changed, devices) or share
  assert planned['pretrain'].size == public_size
  private_size = batch_sizes.private_size(changed, state, devices)
  assert planned['finetune'].size == private_size


def test_on_a_cpu_hours_follow_from_the_speed_of_a_convolution(
  config, monkeypatch
) -> None:
  assert 1e7 < cost_estimates.convolution_speed(config) < 1e15
  monkeypatch.setattr(cost_estimates, 'convolution_speed', lambda _: 1e9)
  flop = {'pretrain': 0.0, 'finetune': 60e9 * 2, 'sample': 3600e9 * 150}
  found = cost_estimates.lines(config, 4, examples={}, flop=flop)
  assert '1 GFLOP/s' in found[0] and 'at best' in found[0]
  assert [line.split()[:3] for line in found[1:3]] == [
    ['finetune', '2', 'minutes'],
    ['sample', '150', 'hours'],
  ]
  assert found[3].startswith('  memory ') and 'KiB per device' in found[3]
  # Nothing of a stage without steps.
  assert [line.split()[0] for line in found[4:]] == ['too']  # More than a day.


def test_processes_that_are_not_there_are_planned_for(
  config, monkeypatch
) -> None:
  monkeypatch.setattr(cost_estimates, 'convolution_speed', lambda _: 1e9)
  distributed = config_lib.DistributedConfig(enable=True, num_processes=8)
  many = dataclasses.replace(config, distributed=distributed)
  assert cost_estimates.num_devices(many) == 64
  assert cost_estimates.num_devices(config) == 8
  flop = {'finetune': 60e9 * 16}
  found = cost_estimates.lines(many, 4, examples={}, flop=flop)
  assert found[0].startswith('  on 8 CPUs like this one, at the speed')
  assert found[1].split() == ['finetune', '2', 'minutes']
  # Each process knows all records and reads its share.
  assert cost_estimates.host_bytes(many) == cost_estimates.host_bytes(config)
  assert 'it reads 32 records per step' in cost_estimates.host_text(config)
  assert 'it reads 4 records per step' in cost_estimates.host_text(many)
  monkeypatch.setenv('JAX_NUM_PROCESSES', '4')
  assert cost_estimates.num_devices(config) == 32


def test_images_that_are_memory_mapped_take_no_memory(config) -> None:
  records = config.privacy.num_examples
  found = cost_estimates.host_bytes(config)
  data = dataclasses.replace(config.data, max_in_memory_bytes=1)
  mapped = cost_estimates.host_bytes(dataclasses.replace(config, data=data))
  assert found - mapped == 64 * records and mapped < 50 * records


def test_costs_do_not_depend_on_a_warm_up(config) -> None:
  """A plan of `own_images:cpu` once ended with a traceback."""
  optimizer = dataclasses.replace(config.finetune.optimizer, warmup_steps=3)
  finetune = dataclasses.replace(config.finetune, optimizer=optimizer)
  warmed = dataclasses.replace(config, finetune=finetune)
  assert cost_estimates.disk_bytes(warmed) == cost_estimates.disk_bytes(config)
  with pytest.raises(ValueError, match='warmup_steps=3 to be < num_steps=3'):
    batch_sizes.private_state(warmed, 3)


def test_memory_of_a_record_grows_with_its_draws(config, state) -> None:
  one, four = (cost_estimates.record_bytes(config, k) for k in (1, 4))
  assert one > microbatch.tree_bytes(state.params)
  activations = one - microbatch.tree_bytes(state.params)
  assert four - one == 3 * activations


def test_a_draw_of_two_noises_counts_twice(config) -> None:
  finetune = dataclasses.replace(config.finetune, antithetic_noise=True)
  both = dataclasses.replace(config, finetune=finetune)
  assert cost_estimates.record_bytes(both, 3) == cost_estimates.record_bytes(
    config, 6
  )
  found = plan.costs(config, 7)['finetune'], plan.costs(both, 7)['finetune']
  assert found[1].passes == 2 * found[0].passes > 0
  assert found[1].flop == 2 * found[0].flop


def test_disk_counts_checkpoints_and_images(config, state) -> None:
  images = 64 * (config.privacy.num_examples + config.sample.num_samples)
  expected = 2 * 3 * microbatch.tree_bytes(state) + images
  assert cost_estimates.disk_bytes(config) == pytest.approx(expected, rel=0.01)


@pytest.mark.slow
def test_every_stage_is_measured_and_said(config, monkeypatch) -> None:
  """On a CPU that passes for an accelerator."""
  device = types.SimpleNamespace(
    platform='gpu',
    device_kind='Fake 1',
    memory_stats=lambda: {'bytes_limit': 2**32},
  )
  monkeypatch.setattr(jax, 'local_devices', lambda: [device])
  costs = plan.costs(config, 4)
  found = cost_estimates.lines(
    config,
    4,
    examples={k: c.examples for k, c in costs.items()},
    flop={k: c.flop for k, c in costs.items()},
  )
  assert found[0] == '  on 8 x Fake 1, measured on one:'
  for stage, line in zip(('pretrain', 'finetune', 'sample'), found[1:]):
    assert line.startswith(f'  {stage} ')
    assert re.search(r'\d (hour|minute|second)s?, ', line)
    assert line.endswith('iB')  # Of memory; never 0 bytes.
    assert float(line.split()[1]) > 0


@pytest.mark.slow
@pytest.mark.usefixtures('need')
def test_memory_of_a_step_is_the_same_at_any_expected_batch(state) -> None:
  """The compiler's own analysis of the network's step at 256 and at 16,384.

  A larger batch is more microbatches of the size that memory allows;
  `tests/training/microbatch_test.py` has the update that follows.
  """
  found = []
  for expected_batch_size in (256, 16_384):
    config = config_lib.load(
      command.DIGITS_SMOKE,
      {
        'finetune.microbatch_size': '0',
        'privacy.num_examples': '50000',
        'privacy.delta': '1e-5',
        'privacy.expected_batch_size': str(expected_batch_size),
      },
    )
    size = batch_sizes.private_size(config, state, _devices(1))
    compiled = batch_sizes.private_compile_fn(config, state)(size)
    found.append((size, microbatch.peak_bytes(compiled)))
  assert found[0] == found[1]
  size, peak = found[0]
  # It counts what each record needs: a gradient, and what its draws keep.
  assert peak > size * microbatch.tree_bytes(state.params)


@pytest.mark.slow
def test_the_choice_is_made_from_the_real_network(config, state) -> None:
  found = microbatch.measure(batch_sizes.private_compile_fn(config, state))
  weights = microbatch.tree_bytes(state.params)
  assert found.fixed_bytes > 2 * weights and found.example_bytes > weights
  # What `plan` says where it does not compile is of the same size.
  estimate = cost_estimates.record_bytes(config, config.finetune.augmult)
  assert 1 / 3 < found.example_bytes / estimate < 3


@pytest.mark.parametrize('scattering', [False, True])
def test_host_memory_counts_the_features_of_a_class_head(
  config, scattering
) -> None:
  head = class_head.ClassHeadConfig(
    num_steps=3, noise_multiplier=9.0, scattering=scattering
  )
  finetune = dataclasses.replace(config.finetune, class_head=head)
  with_head = dataclasses.replace(config, finetune=finetune)
  more = cost_estimates.host_bytes(with_head)
  more -= cost_estimates.host_bytes(config)
  width = activations.num_features(
    config.unet_config(config.data),
    batch_sizes.private_state(config).all_params,
    config.finetune_diffusion(),
    config.data.image_size,
  )
  assert width % (4 * config.model.channels) == 0  # Of each block's channels.
  if scattering:
    data = config.data
    width += scattering_lib.num_features(data.image_size, data.channels)
  images = config.privacy.num_examples
  kept_and_scaled = 2 * images + 52 * min(images, class_head.IMAGES_AT_A_TIME)
  assert more == kept_and_scaled * width + 40 * width**2
  assert 'class head' in cost_estimates.host_text(with_head)
  assert 'class head' not in cost_estimates.host_text(config)
