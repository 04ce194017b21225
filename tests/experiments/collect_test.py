"""README's table of results."""

from __future__ import annotations

import pytest

from dp_diffusion import files
from experiments import collect
from experiments import common
from tests.experiments import reports

README = (
  f'# A\n\n{collect.START}\nold\n{collect.END}\n\n'
  f'{collect.TRUST_START}\n{collect.TRUST_END}\n\nlast\n'
)


def write_readmes(root):
  (root / 'README.md').write_text(README)
  (root / 'experiments').mkdir()
  (root / 'experiments' / 'README.md').write_text(
    f'# B\n\n{collect.START}\n{collect.END}\n'
  )


def result(*rows, devices='1 x cpu', figures=()):
  return {
    'experiment': 'a',
    'machine': {**reports.MACHINE, 'devices': devices},
    'rows': list(rows),
    'figures': list(figures),
  }


def lines_of(*results):
  return [
    [cell.strip() for cell in line.split('|')[1:-1]]
    for line in collect.table(results).splitlines()
    if line.startswith('|')
  ]


def test_without_results_each_claim_is_not_run():
  header, _, *rows = lines_of()
  assert header == list(collect._HEADER)
  assert [row[0].split(',')[0] for row in rows] == [
    'CIFAR-10',
    'Camelyon17',
    'MNIST',
  ]
  assert {row[2] for row in rows} == {'not run'}
  assert rows[0][1] == (
    'FID 9.8; accuracy 88.0 % (an ensemble, up to 1M images)'
  )


def test_ours_stands_beside_the_claim():
  row = common.row(
    'MNIST, epsilon 10',
    {'accuracy': [0.97, 0.98, 0.99]},
    seconds=5400,
    claim='mnist',
  )
  rows = {r[0]: r for r in lines_of(result(row, devices='8 x GPU'))}
  assert rows['MNIST, epsilon 10'] == [
    'MNIST, epsilon 10',
    'accuracy 98.6 %',
    'accuracy 98.0 ± 1.0 %',
    '3',
    '8 x GPU',
    '1.5',
  ]
  assert rows['CIFAR-10, epsilon 10'][2] == 'not run'
  assert 'standard deviation' in collect.table([result(row)])


@pytest.mark.parametrize(
  ('is_missed', 'word'), [(True, '**missed**'), (False, 'reached')]
)
def test_a_row_says_whether_it_reached_its_aim(is_missed, word):
  row = common.row(
    'Own', {'A': [0.5], 'B': [0.6]}, aim='A 60 %', is_missed=is_missed
  )
  *_, own = lines_of(result(row))
  assert own == [
    'Own',
    '–',
    f'A 50.0 %; B 60.0 % (aim: A 60 %: {word})',
    '1',
    '2 cores of Abacus 1',
    '–',
  ]


def test_figures_are_shown():
  figures = [{'file': 'b.png', 'alt': 'B against A'}]
  text = collect.table([result(figures=figures)])
  assert text.endswith('\n\n![B against A](experiments/a/b.png)')


def test_unknown_claim_is_refused():
  with pytest.raises(
    ValueError, match="claim='mnst' of a to be one of cifar10"
  ):
    collect.table([result(common.row('x', {'A': [1.0]}, claim='mnst'))])


def test_a_measure_can_have_a_unit_of_its_own():
  row = common.row(
    'a', {'CNN': [0.9], 'distance': [0.4]}, units={'distance': ''}
  )
  assert lines_of(result(row))[-1][2] == 'CNN 90.0 %; distance 0.40'


def test_spread_is_that_of_a_sample():
  assert collect.spread([9.0, 10.0, 11.0], '') == '10.0 ± 1.0'
  assert collect.spread([0.9], '%') == '90.0 %'


def test_two_values_have_no_standard_deviation():
  assert collect.spread([9.0, 11.0], '') == '10.0 (9.0 and 11.0)'


def test_only_what_is_between_the_marks_changes():
  new = collect.insert(README, 'table')
  assert new == README.replace('old', 'table')
  with pytest.raises(ValueError, match='Expected README to hold'):
    collect.insert('# A\n', 'table')


def mutation(name, file, killed_by):
  return {'name': name, 'file': file, 'killed_by': killed_by, 'tests': 't.py'}


def test_mutations_stand_by_folder_and_survivors_are_said():
  found = [
    mutation('No noise', 'a/x.py', 'tests/a/x_test.py::test_one'),
    mutation('No clip', 'a/y.py', 'tests/a/y_test.py::test_two'),
    mutation('No ledger', 'b/z.py', 'survived'),
  ]
  lines = collect.trust_table([{'mutations': found}, result()]).splitlines()
  assert lines[2] == '| `a` | No noise; No clip | `x_test.py`, `y_test.py` |'
  assert lines[3] == '| `b` | **No ledger (survives)** | – |'
  assert lines[-1].startswith('2 of 3 are noticed.')
  assert 'No mutation run' in collect.trust_table([result()])


def test_check_says_what_is_out_of_date(tmp_path, capsys):
  write_readmes(tmp_path)
  assert collect.main(['--check'], tmp_path) == 1
  assert 'README.md is out of date' in capsys.readouterr().out
  assert (tmp_path / 'README.md').read_text() == README
  assert collect.main([], tmp_path) == 0
  assert collect.main(['--check'], tmp_path) == 0
  files.write_json(
    tmp_path / 'experiments' / 'a' / 'results.json',
    result(common.row('Own', {'A': [0.5]})),
  )
  assert collect.main(['--check'], tmp_path) == 1
  assert collect.main([], tmp_path) == 0
  assert '| Own | – | A 50.0 % |' in (tmp_path / 'README.md').read_text()


def test_ablations_stand_among_the_experiments(tmp_path, capsys):
  write_readmes(tmp_path)
  row = common.row('Clip norm', {'1': [0.5], '2': [0.6]}, seconds=3600)
  files.write_json(
    tmp_path / 'experiments' / 'ablation_x' / 'results.json',
    result(row) | {'experiment': 'ablation_x'},
  )
  assert collect.main(['--check'], tmp_path) == 1
  assert 'experiments/README.md is out of date' in capsys.readouterr().out
  assert collect.main([], tmp_path) == 0
  text = (tmp_path / 'experiments' / 'README.md').read_text()
  line = '| Clip norm | 1 50.0 %; 2 60.0 % | 1 | 2 cores of Abacus 1 | 1 |'
  assert line in text
  assert 'Clip norm' not in (tmp_path / 'README.md').read_text()


def test_readme_is_up_to_date(repository):
  if not collect.read_results(repository / 'experiments'):
    pytest.skip('no experiment has been run: no experiments/*/results.json')
  assert collect.main(['--check'], repository) == 0
