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
  assert header == [*collect._HEADER]
  assert [row[0] for row in rows] == [
    'CIFAR-10',
    'CIFAR-10',
    'Camelyon17',
    'MNIST',
  ]
  assert {row[5] for row in rows} == {'not run'}
  assert rows[0][1:5] == ['diffusion', '10', 'FID', '9.8']


def test_ours_stands_beside_the_claim():
  row = common.row(
    'MNIST, epsilon 10',
    {'accuracy': [0.97, 0.98, 0.99], 'Frechet distance': [0.5]},
    units={'Frechet distance': ''},
    seconds=5400,
    claim='mnist',
  )
  found = lines_of(result(row, devices='8 x NVIDIA H100 80GB HBM3'))
  rows = {(r[0], r[3]): r for r in found}
  assert rows['MNIST', 'accuracy'] == [
    *('MNIST', 'diffusion', '10', 'accuracy', '98.6 %', '98.0 ± 1.0 %'),
    *('0.50', '8 x H100, 1.5 h'),
  ]
  assert rows['MNIST', 'Frechet distance'][5:7] == ['0.50', '–']
  assert rows['CIFAR-10', 'FID'][4:6] == ['9.8', 'not run']
  assert 'standard deviation' in collect.table([result(row)])


def test_measures_that_the_paper_lacks_have_lines_of_their_own():
  row = common.row('C', {'one network': [0.8], 'FID': [9]}, claim='cifar10')
  found = [r[3:6] for r in lines_of(result(row)) if r[0] == 'C']
  assert found[0] == ['one network', '–', '80.0 %']
  assert [f[:2] for f in found[1:]] == [
    ['FID', '9.8'],
    ['ensemble', '88.0 %'],
  ]
  assert found[2][2] == '–'


@pytest.mark.parametrize(
  ('is_missed', 'word'), [(True, '**missed**'), (False, 'reached')]
)
def test_a_row_says_whether_it_reached_its_aim(is_missed, word):
  row = common.row(
    'Own', {'B': [0.6], 'A': [0.5]}, aim='A 60 %', is_missed=is_missed
  )
  *_, own = lines_of(result(row, common.row('No aim', {'A': [0.5]})))
  assert own == [
    *('Own', 'diffusion', '–', 'A', f'aim 60 %, {word}', '50.0 %'),
    *('–', '2 CPU cores'),
  ]


def test_other_methods_stand_beside_ours_at_epsilon_10():
  row = common.row(
    'Digits 8x8, DP-MERF (CNN)',
    {'epsilon 1': [0.7], 'epsilon 10': [0.9]},
    seconds=3600,
  )
  *_, line = lines_of(result(row))
  assert line == [
    *('Digits 8x8', 'DP-MERF', '10', 'CNN', '–', '90.0 %'),
    *('–', '2 CPU cores, 1 h'),
  ]


def test_an_aim_that_is_just_missed_does_not_look_reached():
  row = common.row('x', {'A': [0.3999]}, aim='A 40 %', is_missed=True)
  assert ' aim 40 %, **missed** | 39.99 % |' in collect.table([result(row)])


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
  *_, line = collect.all_tables([result(row)]).splitlines()
  assert line.startswith('| a | 90.0 % | 0.40 |')


def test_rows_that_share_a_measure_are_one_table_of_numbers():
  rows = [
    common.row('a', {'x': [0.1], 'y': [0.2]}),
    common.row('b', {'y': [0.3], 'z': [0.4]}, seconds=3600),
    common.row('c', {'w': [0.5]}),
  ]
  first, second = collect.all_tables([result(*rows)]).split('\n\n')
  assert first.splitlines()[0] == (
    '| Data and setting | x | y | z | Seeds | Hardware | Hours |'
  )
  assert first.splitlines()[2:] == [
    '| a | 10.0 % | 20.0 % | – | 1 | 2 cores of Abacus 1 | – |',
    '| b | – | 30.0 % | 40.0 % | 1 | 2 cores of Abacus 1 | 1 |',
  ]
  assert second.startswith('| Data and setting | w |')


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
  both = [{'mutations': found}, result()]
  lines = collect.mutation_counts(both).splitlines()
  assert lines[2:4] == ['| `a` | 2 | 2 |', '| `b` | 1 | 0 |']
  assert 'a test notices 2 (not: No ledger): ' in collect.trust_line(both)
  assert 'No mutation run' in collect.trust_line([result()])
  lines = collect.mutation_tables(both).splitlines()
  assert '| No clip | `y.py` | `tests/a/y_test.py::test_two` |' in lines
  assert lines[-1] == '| No ledger | `z.py` | **no test** |'


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
  text = (tmp_path / 'docs' / 'results.md').read_text()
  assert '| Own | 50.0 % | 1 |' in text


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
  line = '| Clip norm | 50.0 % | 60.0 % | 1 | 2 cores of Abacus 1 | 1 |'
  assert line in text
  assert 'Clip norm' not in (tmp_path / 'README.md').read_text()


def test_every_method_of_the_readme_has_been_run(repository):
  results = collect.read_results(repository / 'experiments')
  assert set(collect.METHODS) <= {
    row['what'] for result in results for row in result.get('rows', ())
  }


def test_readme_is_up_to_date(repository):
  if not collect.read_results(repository / 'experiments'):
    pytest.skip('no experiment has been run: no experiments/*/results.json')
  assert collect.main(['--check'], repository) == 0
