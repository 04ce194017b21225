"""The benchmarks: fair turns, honest tables, and peers with our weights."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from dp_diffusion import files
from dp_diffusion.models import convolution
from experiments.benchmarks import convolutions
from experiments.benchmarks import gpu_mfu
from experiments.benchmarks import harness
from experiments.benchmarks import networks
from experiments.benchmarks import peers
from experiments.benchmarks import peers_diffusers
from experiments.benchmarks import peers_torch
from experiments.benchmarks import scale
from experiments.benchmarks import table

MACHINE = {'devices': '1 x cpu', 'cores': 2, 'cpu': 'A B', 'jax': '1'}


def test_turns_are_taken_and_warmups_do_not_count():
  calls = []
  fns = {name: lambda name=name: calls.append(name) for name in 'ab'}
  seconds = harness.interleaved(fns, num_rounds=2)
  assert calls == ['b', 'a', 'a', 'b', 'b', 'a'] or calls == [
    'a',
    'b',
    'b',
    'a',
    'a',
    'b',
  ]
  assert {name: len(s) for name, s in seconds.items()} == {'a': 2, 'b': 2}


def test_ratio_is_of_the_rounds():
  assert harness.ratio([2.0, 90.0, 4.0], [1.0, 3.0, 2.0]) == 2.0


def test_the_stock_convolution_takes_the_place_of_ours():
  with networks.stock_convolutions():
    assert convolution.conv3x3 is networks.stock_conv3x3
  assert convolution.conv3x3 is not networks.stock_conv3x3


def test_a_miss_is_not_rounded_away():
  rows = [
    table.row('near', 1.0801, {}, at_most=1.08),
    table.row('small', 1.08, {}, at_most=1.08),
    table.row('slow', 2.1999, {}, at_least=2.2),
    table.row('fast', 2.2, {'images/s': 1234.5}, at_least=2.2),
    table.row('free', None, {}),
  ]
  near, small, slow, fast, free = table.of_rows(rows).splitlines()[2:]
  assert '≤ 1.08: **missed**' in near and '≤ 1.08: reached' in small
  assert '**missed**' in slow and 'reached' in fast and '1234' in fast
  assert 'reached' not in free and 'missed' not in free


def test_tables_are_written_between_the_marks_and_checked(tmp_path):
  folder = tmp_path / 'experiments' / 'benchmarks'
  (folder / 'a').mkdir(parents=True)
  content = {
    'command': 'c',
    'machine': MACHINE,
    'rows': [table.row('x / y', 1.5, {})],
  }
  files.write_json(folder / 'a' / 'results.json', {'peers': content})
  readme = folder / 'README.md'
  readme.write_text(f'# B\n{table.START}\nold\n{table.END}\nlast\n')
  assert not table.write(folder, is_check=True)
  assert 'old' in readme.read_text()
  assert not table.write(folder)
  text = readme.read_text()
  assert '| x / y | **1.50** |' in text and '`c`, 2 cores of A B' in text
  assert text.endswith('last\n') and 'old' not in text
  assert table.write(folder, is_check=True)


def test_a_machine_without_convolutions_leaves_no_gap_in_the_docs(tmp_path):
  folder = tmp_path / 'experiments' / 'benchmarks'
  shape = {'shape': 's', 'form': 'x9'}
  shape |= dict.fromkeys(('ratio', 'gflops', 'stock_gflops'), 1.0)
  for name, section in (
    ('a', {}),
    ('b', {'convolutions': {'shapes': {'small': [shape]}}}),
  ):
    (folder / name).mkdir(parents=True)
    content = {'command': 'c', 'machine': MACHINE, 'rows': []}
    section = {key: content | value for key, value in section.items()}
    files.write_json(folder / name / 'results.json', section)
  docs = tmp_path / 'docs' / 'performance.md'
  docs.parent.mkdir()
  for path in (docs, folder / 'README.md'):
    path.write_text(f'{table.START}\n{table.END}\n')
  table.write(folder)
  assert docs.read_text().startswith(f'{table.START}\n| Network |')


@pytest.mark.parametrize('text', ['', '16', '16x', '0x8', '16x8,', 'axb'])
def test_a_case_that_is_none_is_told(text, capsys):
  with pytest.raises(SystemExit):
    gpu_mfu.main([f'--cases={text}'])
  error = capsys.readouterr().err.splitlines()[-1]
  assert f'Expected {text!r} to be images x K' in error


def test_the_committed_tables_are_those_of_the_results():
  assert table.write(table.HERE, is_check=True)


def test_every_convolution_of_a_network_is_found():
  found = convolutions.shapes_of(networks.load('smoke'))
  assert (28, 28, 1, 8, 1) in found and (28, 28, 8, 1, 1) in found
  assert {stride for *_, stride in found} == {0.5, 1, 2}
  assert len(found) == len(set(found))


def test_kernels_reach_pytorch_and_come_back():
  for shape in ((3, 3, 4, 5), (4, 5)):
    kernel = np.random.default_rng(0).normal(size=shape)
    there = peers_torch.to_torch('a/kernel', kernel)
    assert there.shape[:2] == shape[::-1][:2]
    np.testing.assert_array_equal(
      peers_torch.to_ours('a/kernel', there), kernel
    )
  classes = np.zeros((3, 2))
  assert peers_torch.to_torch('label/classes', classes) is classes


def test_sums_that_differ_are_seen(tmp_path):
  for method in ('ours', 'jax_privacy', 'opacus hooks', 'opacus ghost'):
    value = 4.0 if method == 'opacus ghost' else 3.0
    np.savez(tmp_path / f'{method}.npz', **{'a/b': np.array([value, 4.0])})
  found = peers.worst_difference(tmp_path)
  assert found == {
    'jax_privacy': 0.0,
    'opacus hooks': 0.0,
    'opacus ghost': pytest.approx(0.2),
  }


def test_costs_of_a_profile_are_summed_by_operation(tmp_path):
  events = [
    {'args': {'hlo_op': 'dot.1'}, 'dur': 1000},
    {'args': {'hlo_op': 'dot.12'}, 'dur': 2000},
    {'args': {'hlo_op': 'fusion'}, 'dur': 500},
    {'name': 'python', 'dur': 9000},
  ]
  data = gzip.compress(json.dumps({'traceEvents': events}).encode())
  (tmp_path / 'x').mkdir()
  (tmp_path / 'x' / 'host.trace.json.gz').write_bytes(data)
  assert gpu_mfu.top_costs(tmp_path) == [('dot', 3.0), ('fusion', 0.5)]


def test_growth_is_that_from_the_fewest_processes_to_the_most():
  def job(number):
    secs = {name: [number, number] for name in ('private_step', 'save')}
    secs |= {name: [number] * 4 for name in ('select', 'gather')}
    return {
      'peak': {'RssAnon': number * 1e9, 'Pss': 1e9},
      'before': {'private_step': 3.0},
      'secs': secs,
      'cpu_secs': secs,
    }

  found = scale.rows({1: [job(2)], 4: [job(2), job(3), job(2), job(2)]}, 'N')
  memory, largest, *rest = found
  assert memory['ratio'] == 1 and largest['ratio'] == 1.5
  assert memory['what'].startswith('anonymous GB, process 0: 32 devices in 4')
  assert largest['measured'] == {'in 1': 2, 'in 4': 3}
  selection = [row for row in rest if 'select' in row['what']]
  assert [row['measured']['in 1'] for row in selection] == [4000, 4000]


def test_an_unknown_device_needs_its_peak():
  assert gpu_mfu.peak_tflops('NVIDIA H100 80GB', 0.0) == 989.0
  assert gpu_mfu.peak_tflops('cpu', 2.0) == 2.0
  with pytest.raises(ValueError, match='--peak'):
    gpu_mfu.peak_tflops('cpu', 0.0)


def test_the_network_of_diffusers_has_our_shape():
  config = networks.load('80m').config
  found = peers_diffusers.network_arguments(config)
  assert found['block_out_channels'] == (192, 384, 384, 384)
  assert found['down_block_types'] == (
    *('DownBlock2D', 'AttnDownBlock2D'),
    *('DownBlock2D', 'DownBlock2D'),
  )
  assert found['up_block_types'][2] == 'AttnUpBlock2D'
  assert found['layers_per_block'] == 2 and found['sample_size'] == 32
