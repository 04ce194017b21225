"""Writes the tables of results, ablations and mutations from results.json.

  python -m experiments.collect           # writes the tables
  python -m experiments.collect --check   # exit code 1 if one is out of date

It reads the rows of every `experiments/*/results.json` (see `common.row`) and
writes
  README.md               the paper's claims, our aims and other methods, a
                          line for each; a claim that no row has is listed as
                          not run. Also the number of mutations
  docs/results.md         all results
  docs/mutations.md       all mutations (`mutations/run.py`), with the test that
                          notices each
  experiments/README.md   all ablations (`ablation_*`)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import pathlib
import re
import statistics
import sys
from typing import Any

from dp_diffusion import files
from dp_diffusion.evaluation.report import formats
from experiments import common

ROOT = pathlib.Path(__file__).resolve().parent.parent
START, END = '<!-- results:start -->', '<!-- results:end -->'
TRUST_START, TRUST_END = '<!-- trust:start -->', '<!-- trust:end -->'
NOT_RUN = 'not run'
NONE = '–'

# The claims of arXiv 2302.13861 in the order of the table, by key: (data and
# setting, number by measure).
CLAIMS = {
  'cifar10': (
    'CIFAR-10, epsilon 10',
    {'FID': '9.8', 'ensemble': '88.0 %'},
  ),
  'camelyon17': ('Camelyon17, epsilon 10', {'accuracy': '91.1 %'}),
  'mnist': ('MNIST, epsilon 10', {'accuracy': '98.6 %'}),
}

# Rows of several epsilons that README shows at epsilon 10, beside one another:
# (data, method, measure).
METHODS = {
  'Digits 8x8, Small CNN': ('Digits 8x8', 'diffusion', 'CNN'),
  'Digits 8x8, DP-MERF (CNN)': ('Digits 8x8', 'DP-MERF', 'CNN'),
  'Digits 8x8, DP-MEPF (CNN)': ('Digits 8x8', 'DP-MEPF', 'CNN'),
  'Digits 8x8, DP-SGD classifier (CNN)': (
    'Digits 8x8',
    'DP-SGD alone',
    'CNN',
  ),
}
_OURS, _DISTANCE = 'diffusion', 'Frechet distance'

_HEADER = (
  *('Data', 'Method', 'Epsilon', 'Measure', 'Paper or aim', 'Ours'),
  *('Distance', 'Hardware, hours'),
)
_RUN_HEADER = ('Seeds', 'Hardware', 'Hours')
_EXPLANATION = (
  'Mean ± standard deviation over seeds (for two seeds: both values).'
  ' Accuracies are those of classifiers trained on synthetic images and tested'
  ' on real ones. Hours are the total of all seeds of a row and of their'
  ' pre-training.'
)
_OF_README = (
  'A value without ± is of one seed; an ensemble is of classifiers on up to 1M'
  ' images; DP-SGD alone makes a classifier and no images. Distance is the'
  ' Frechet distance to real images, in features of a network for these data,'
  ' so that it compares within one dataset only. Hours of rows without paper or'
  ' aim are of all epsilons.'
)
_MADE = (
  'This page is written by `python -m experiments.collect` from'
  ' `experiments/*/results.json`.'
)


def read_results(folder: pathlib.Path) -> list[dict[str, Any]]:
  """Reads the `results.json` of every subfolder, in the order of names."""
  return [files.read_json(p) for p in sorted(folder.glob('*/results.json'))]


def table(results: Sequence[Mapping[str, Any]]) -> str:
  """Returns README's table of claims and aims, and the figures, in markdown.

  Args:
    results: contents of the `results.json`.

  Raises:
    ValueError: a row has a claim that is not known.
  """
  claimed: dict[str, list[tuple[str, ...]]] = {key: [] for key in CLAIMS}
  aimed: list[tuple[str, ...]] = []
  methods: list[tuple[str, ...]] = []
  for result, row in _rows(results):
    key = row['claim']
    if key and key not in CLAIMS:
      raise ValueError(
        f'Expected claim={key!r} of {result["experiment"]} to be one of'
        f' {", ".join(CLAIMS)}.'
      )
    if key:
      claimed[key] += _claim_lines(row, result['machine'])
    elif row['aim']:
      aimed.append(_aim_line(row, result['machine']))
    elif row['what'] in METHODS:
      methods.append(_method_line(row, result['machine']))
  lines = []
  for key, (what, numbers) in CLAIMS.items():
    lines += claimed[key] or [
      (*_data(what), measure, number, NOT_RUN, NONE, NONE)
      for measure, number in numbers.items()
    ]
  drawn = _drawn(_HEADER, lines + aimed + methods)
  parts = [drawn, f'{_EXPLANATION} {_OF_README}'] if results else [drawn]
  parts += [
    f'![{figure["alt"]}](experiments/{result["experiment"]}/{figure["file"]})'
    for result in results
    for figure in result['figures']
  ]
  return '\n\n'.join(parts)


def all_tables(results: Sequence[Mapping[str, Any]]) -> str:
  """Returns tables of all rows in markdown, with a number in each cell.

  A table has a line per row and a column per measure. Rows that follow one
  another and have a measure in common are in one table.

  Args:
    results: contents of the `results.json`.
  """
  tables: list[list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = []
  for result, row in _rows(results):
    last = (
      [name for _, r in tables[-1] for name in r['measures']] if tables else []
    )
    if set(last) & set(row['measures']):
      tables[-1].append((result, row))
    else:
      tables.append([(result, row)])
  return '\n\n'.join(_measure_table(rows) for rows in tables)


def _rows(
  results: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
  """Yields each row with the result that it is from."""
  for result in results:
    for row in result['rows']:
      yield result, row


def _measure_table(
  rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
) -> str:
  """Returns a table of rows, with a column per measure."""
  names = list(dict.fromkeys(n for _, row in rows for n in row['measures']))
  lines = []
  for result, row in rows:
    cells = [
      _cell(row, name) if name in row['measures'] else NONE for name in names
    ]
    lines.append((row['what'], *cells, *_run_cells(row, result['machine'])))
  return _drawn(('Data and setting', *names, *_RUN_HEADER), lines)


def _data(what: str) -> tuple[str, str, str]:
  """Divides 'data and setting' of our method into data, method, epsilon.

  >>> _data('Blood cells 24x24, images, epsilon 10')
  ('Blood cells 24x24, images', 'diffusion', '10')
  """
  found = re.search(r', epsilon (\w+)', what)
  if found is None:
    return what, _OURS, NONE
  return what.replace(found[0], ''), _OURS, found[1]


def _claim_lines(
  row: Mapping[str, Any], machine: Mapping[str, Any]
) -> list[tuple[str, ...]]:
  """Returns a line per measure that the paper or the row has."""
  numbers = CLAIMS[row['claim']][1]
  lines = []
  for name in dict.fromkeys((*row['measures'], *numbers)):
    ours = _cell(row, name) if name in row['measures'] else NONE
    cells = (*_data(row['what']), name, numbers.get(name, NONE), ours)
    lines.append((*cells, *_last_cells(row, machine, name)))
  return lines


def _aim_line(
  row: Mapping[str, Any], machine: Mapping[str, Any]
) -> tuple[str, ...]:
  """Returns the line of a row's aim, such as 'RBF SVM 90 %'.

  The measure is the one with whose name the aim begins, or else the first.
  """
  named = [name for name in row['measures'] if row['aim'].startswith(name)]
  name = max(named, key=len) if named else next(iter(row['measures']))
  aim = row['aim'].removeprefix(name).strip()
  reached = '**missed**' if row['is_missed'] else 'reached'
  ours = _cell(row, name)
  if row['is_missed'] and ours.startswith(f'{aim.removesuffix(" %")}.0 '):
    ours = _cell(row, name, more_decimals=1)  # Rounded, it seems to be reached.
  goal = f'aim {aim.partition(",")[0]}, {reached}'
  cells = (*_data(row['what']), name.removeprefix('Small '), goal, ours)
  return (*cells, *_last_cells(row, machine, name))


def _method_line(
  row: Mapping[str, Any], machine: Mapping[str, Any]
) -> tuple[str, ...]:
  """Returns the line of a row of several epsilons, at epsilon 10."""
  data, method, measure = METHODS[row['what']]
  ours = _cell(row, 'epsilon 10')
  cells = (data, method, '10', measure, NONE, ours)
  return (*cells, *_last_cells(row, machine, measure))


def _last_cells(
  row: Mapping[str, Any], machine: Mapping[str, Any], measure: str
) -> tuple[str, str]:
  """Returns distance, and hardware with hours; a distance is said once."""
  is_here = _DISTANCE in row['measures'] and measure != _DISTANCE
  distance = _cell(row, _DISTANCE) if is_here else NONE
  hardware = (
    f'{machine["cores"]} CPU cores'
    if machine['devices'].endswith(' cpu')
    else re.sub(r'NVIDIA | \d+GB.*', '', machine['devices'])
  )
  hours = _run_cells(row, machine)[-1]
  return distance, hardware if hours == NONE else f'{hardware}, {hours} h'


def trust_line(results: Sequence[Mapping[str, Any]]) -> str:
  """Says of how many mutations a test takes notice, in markdown."""
  found = _mutations(results)
  if not found:
    return 'No mutation run has been collected yet.'
  survivors = [m['name'] for m in found if not _is_noticed(m)]
  missed = f' (not: {"; ".join(survivors)})' if survivors else ''
  return (
    f'- Of {len(found)} mistakes made in the code on purpose, a test notices'
    f' {len(found) - len(survivors)}{missed}: [each of'
    ' them](docs/mutations.md).'
  )


def mutation_counts(results: Sequence[Mapping[str, Any]]) -> str:
  """Returns the numbers of mutations by folder, in markdown."""
  lines = [
    (f'`{folder}`', str(len(here)), str(sum(map(_is_noticed, here))))
    for folder, here in _by_folder(_mutations(results)).items()
  ]
  return _drawn(('Folder', 'Mistakes made', 'Noticed by a test'), lines)


def mutation_tables(results: Sequence[Mapping[str, Any]]) -> str:
  """Returns all mutations with the tests that notice them, in markdown."""
  parts = []
  for folder, here in _by_folder(_mutations(results)).items():
    lines = [
      (
        m['name'],
        f'`{pathlib.PurePosixPath(m["file"]).name}`',
        f'`{m["killed_by"]}`' if _is_noticed(m) else '**no test**',
      )
      for m in here
    ]
    drawn = _drawn(('Mistake', 'Module', 'Noticed by'), lines)
    parts.append(f'## `{folder}`\n\n{drawn}')
  return '\n\n'.join(parts)


def _mutations(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  return [line for result in results for line in result.get('mutations', ())]


def _is_noticed(mutation: Mapping[str, Any]) -> bool:
  return '::' in mutation['killed_by']


def _by_folder(
  mutations: Sequence[dict[str, Any]],
) -> dict[str, list[dict[str, Any]]]:
  """Groups mutations by the subpackage of their file."""
  found: dict[str, list[dict[str, Any]]] = {}
  for mutation in mutations:
    parts = pathlib.PurePosixPath(mutation['file']).parent.parts
    found.setdefault('/'.join(parts[:2]), []).append(mutation)
  return found


def _drawn(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
  """Draws a table in markdown."""
  rows = (header, ('---',) * len(header), *lines)
  return '\n'.join(f'| {" | ".join(cells)} |' for cells in rows)


def _cell(row: Mapping[str, Any], name: str, more_decimals: int = 0) -> str:
  """Formats the values of a measure."""
  unit = row.get('units', {}).get(name, row['unit'])
  return spread(row['measures'][name], unit, more_decimals)


def _run_cells(
  row: Mapping[str, Any], machine: Mapping[str, Any]
) -> tuple[str, str, str]:
  """Returns number of seeds, hardware and hours of a row."""
  counts = sorted({len(values) for values in row['measures'].values()})
  seconds = row['seconds']
  hours = NONE if seconds is None else f'{seconds / 3600:.2g}'
  return ' to '.join(map(str, counts)), _hardware(machine), hours


def spread(values: Sequence[float], unit: str, more_decimals: int = 0) -> str:
  """Formats the mean and, for three values or more, the standard deviation.

  For two values it shows both instead of a standard deviation, which would mean
  little.

  >>> spread([0.90, 0.92, 0.94], '%')
  '92.0 ± 2.0 %'
  >>> spread([9.8], '')
  '9.80'
  >>> spread([0.9, 0.5], '%')
  '70.0 (90.0 and 50.0) %'
  >>> spread([-0.25], '')
  '−0.25'
  >>> spread([0.3999], '%', more_decimals=1)
  '39.99 %'
  """
  mean = statistics.mean(values)
  scale, decimals = (100, 1) if unit == '%' else (1, 2 if mean < 10 else 1)
  decimals += more_decimals
  text = formats.signed(scale * mean, decimals)
  if len(values) == 2:
    both = ' and '.join(formats.signed(scale * v, decimals) for v in values)
    text += f' ({both})'
  elif len(values) > 2:
    text += f' ± {scale * statistics.stdev(values):.{decimals}f}'
  return f'{text} {unit}'.rstrip()


def _hardware(machine: Mapping[str, Any]) -> str:
  if machine['devices'].endswith(' cpu'):
    return f'{machine["cores"]} cores of {machine["cpu"]}'
  return machine['devices']


def insert(
  readme: str, text: str, start_mark: str = START, end_mark: str = END
) -> str:
  """Replaces what is between two marks by `text`, on lines of its own.

  Raises:
    ValueError: a mark is missing.
  """
  before, start, rest = readme.partition(start_mark)
  _, end, after = rest.partition(end_mark)
  if not start or not end:
    raise ValueError(
      f'Expected README to hold {start_mark} and then {end_mark}.'
    )
  return f'{before}{start_mark}\n{text}\n{end_mark}{after}'


def main(argv: Sequence[str] | None = None, root: pathlib.Path = ROOT) -> int:
  """Writes the files, or with --check only compares; returns the exit code."""
  is_check = common.is_check('collect', __doc__, argv)
  stale = [
    path
    for path, new in _made(root).items()
    if not path.exists() or path.read_text(encoding='utf-8') != new
  ]
  for path in stale:
    if is_check:
      name = path.relative_to(root)
      print(f'{name} is out of date: run python -m experiments.collect.')
    else:
      path.parent.mkdir(exist_ok=True)
      files.write_text(path, _made(root)[path])
  return int(bool(stale) and is_check)


def _made(root: pathlib.Path) -> dict[pathlib.Path, str]:
  """Returns the content that each file should have."""
  first, second = root / 'README.md', root / 'experiments' / 'README.md'
  results = read_results(root / 'experiments')
  measured = [result for result in results if 'experiment' in result]
  is_ablation = [r['experiment'].startswith('ablation_') for r in measured]
  ablations = [r for r, yes in zip(measured, is_ablation) if yes]
  others = [r for r, yes in zip(measured, is_ablation) if not yes]
  new = insert(first.read_text(encoding='utf-8'), table(others))
  new = insert(new, trust_line(results), TRUST_START, TRUST_END)
  text = second.read_text(encoding='utf-8')
  mutations = mutation_tables(results)
  return {
    first: new,
    second: insert(text, all_tables(ablations)),
    root / 'docs' / 'results.md': (
      f'# All results\n\n{_MADE} {_EXPLANATION}\n\n{all_tables(others)}\n'
    ),
    root / 'docs' / 'mutations.md': (
      f'# Mistakes made on purpose\n\n{_MADE} Each line is a mistake that was'
      ' made in the code, and the test that fails with it.\n\n'
      f'{mutation_counts(results)}\n\n{mutations}\n'
    ),
  }


if __name__ == '__main__':
  sys.exit(main())
