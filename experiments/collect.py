"""Writes the tables: claims beside what we measured, ablations, mutations.

  python -m experiments.collect           # writes the tables
  python -m experiments.collect --check   # exit code 1 where it is out of date

It reads the rows of every `experiments/*/results.json` (see `common.row`). A
claim that no row stands beside is listed as not run. Mistakes that were made on
purpose (`mutations/run.py`) have a table of their own, and ablations
(`ablation_*`) one in experiments/README.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import pathlib
import statistics
import sys
from typing import Any

from dp_diffusion import files
from dp_diffusion.evaluation.report import formats

ROOT = pathlib.Path(__file__).resolve().parent.parent
START, END = '<!-- results:start -->', '<!-- results:end -->'
TRUST_START, TRUST_END = '<!-- trust:start -->', '<!-- trust:end -->'
NOT_RUN = 'not run'
NONE = '–'

# Key to (data and setting, claim), arXiv 2302.13861, in the order of the table.
CLAIMS = {
  'cifar10': (
    'CIFAR-10, epsilon 10',
    'FID 9.8; accuracy 88.0 % (an ensemble, up to 1M images)',
  ),
  'camelyon17': ('Camelyon17, epsilon 10', 'accuracy 91.1 %'),
  'mnist': ('MNIST, epsilon 10', 'accuracy 98.6 %'),
}

_HEADER = ('Data', 'Paper', 'Ours', 'Seeds', 'Hardware', 'Hours')
_ABLATION_HEADER = ('What is varied', 'Found', 'Seeds', 'Hardware', 'Hours')
_EXPLANATION = (
  'Mean ± standard deviation over seeds (of two: both); accuracies are of'
  ' classifiers trained on synthetic images and tested on real ones. Hours'
  ' are of all seeds of a row and their pre-training, one after the other.'
)


def read_results(folder: pathlib.Path) -> list[dict[str, Any]]:
  """Every `results.json` one folder down, by name."""
  return [files.read_json(p) for p in sorted(folder.glob('*/results.json'))]


def table(results: Sequence[Mapping[str, Any]]) -> str:
  """The table in markdown, and the figures below it.

  Args:
    results: contents of the `results.json`.

  Raises:
    ValueError: a row stands beside a claim that is not known.
  """
  beside: dict[str, list[tuple[str, ...]]] = {key: [] for key in CLAIMS}
  others: list[tuple[str, ...]] = []
  for result in results:
    hardware = _hardware(result['machine'])
    for row in result['rows']:
      key = row['claim']
      if key and key not in CLAIMS:
        raise ValueError(
          f'Expected claim={key!r} of {result["experiment"]} to be one of'
          f' {", ".join(CLAIMS)}.'
        )
      (beside[key] if key else others).append(_cells(row, hardware))
  lines = [_HEADER, ('---',) * len(_HEADER)]
  for key, (what, claim) in CLAIMS.items():
    lines += beside[key] or [(what, claim, NOT_RUN, NONE, NONE, NONE)]
  lines += others
  drawn = '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)
  parts = [drawn, _EXPLANATION] if results else [drawn]
  parts += [
    f'![{figure["alt"]}](experiments/{result["experiment"]}/{figure["file"]})'
    for result in results
    for figure in result['figures']
  ]
  return '\n\n'.join(parts)


def ablation_table(results: Sequence[Mapping[str, Any]]) -> str:
  """What the ablations found, in markdown: defaults are chosen by it."""
  lines = [_ABLATION_HEADER, ('---',) * len(_ABLATION_HEADER)]
  for result in results:
    for row in result['rows']:
      what, _, *cells = _cells(row, _hardware(result['machine']))
      lines.append((what, *cells))
  return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)


def trust_table(results: Sequence[Mapping[str, Any]]) -> str:
  """The mutations in markdown, by the subpackage that they were made in."""
  found = [line for result in results for line in result.get('mutations', ())]
  if not found:
    return 'No mutation run has been collected yet.'
  survivors = [m['name'] for m in found if '::' not in m['killed_by']]
  lines = [('Folder', 'Mistakes made in it, one at a time', 'Noticed by')]
  lines.append(('---',) * len(lines[0]))
  folders = [
    '/'.join(pathlib.PurePosixPath(line['file']).parent.parts[:2])
    for line in found
  ]
  for folder in dict.fromkeys(folders):
    here = [m for m, where in zip(found, folders) if where == folder]
    names = '; '.join(
      f'**{m["name"]} (survives)**' if m['name'] in survivors else m['name']
      for m in here
    )
    tests = {m['killed_by'].split('::')[0].split('/')[-1] for m in here}
    noticed = ', '.join(f'`{t}`' for t in sorted(tests) if t.endswith('.py'))
    lines.append((f'`{folder}`', names, noticed or NONE))
  drawn = '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)
  return (
    f'{drawn}\n\n{len(found) - len(survivors)} of {len(found)} are noticed.'
    ' Which test notices which:'
    ' [experiments/mutations](experiments/mutations/results.json).'
  )


def _cells(row: Mapping[str, Any], hardware: str) -> tuple[str, ...]:
  units = row.get('units', {})
  ours = '; '.join(
    f'{name} {spread(values, units.get(name, row["unit"]))}'
    for name, values in row['measures'].items()
  )
  if row['aim']:
    word = '**missed**' if row['is_missed'] else 'reached'
    ours += f' (aim: {row["aim"]}: {word})'
  claim = CLAIMS[row['claim']][1] if row['claim'] else NONE
  counts = sorted({len(values) for values in row['measures'].values()})
  seeds = ' to '.join(map(str, counts))
  seconds = row['seconds']
  hours = NONE if seconds is None else f'{seconds / 3600:.2g}'
  return row['what'], claim, ours, seeds, hardware, hours


def spread(values: Sequence[float], unit: str) -> str:
  """Mean and, of three values or more, the sample standard deviation.

  Two values stand beside their mean: their standard deviation says nothing.

  >>> spread([0.90, 0.92, 0.94], '%')
  '92.0 ± 2.0 %'
  >>> spread([9.8], '')
  '9.80'
  >>> spread([0.9, 0.5], '%')
  '70.0 (90.0 and 50.0) %'
  >>> spread([-0.25], '')
  '−0.25'
  """
  mean = statistics.mean(values)
  scale, decimals = (100, 1) if unit == '%' else (1, 2 if mean < 10 else 1)
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
  """Puts `text` between the marks, on lines of its own.

  Raises:
    ValueError: the marks are not there.
  """
  before, start, rest = readme.partition(start_mark)
  _, end, after = rest.partition(end_mark)
  if not start or not end:
    raise ValueError(
      f'Expected README to hold {start_mark} and then {end_mark}.'
    )
  return f'{before}{start_mark}\n{text}\n{end_mark}{after}'


def main(argv: Sequence[str] | None = None, root: pathlib.Path = ROOT) -> int:
  """Writes or checks; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog='python -m experiments.collect',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--check', action='store_true', help='write nothing')
  arguments = parser.parse_args(argv)
  stale = [
    path
    for path, new in _made(root).items()
    if path.read_text(encoding='utf-8') != new
  ]
  for path in stale:
    if arguments.check:
      name = path.relative_to(root)
      print(f'{name} is out of date: run python -m experiments.collect.')
    else:
      files.write_text(path, _made(root)[path])
  return int(bool(stale) and arguments.check)


def _made(root: pathlib.Path) -> dict[pathlib.Path, str]:
  """What both READMEs have to be."""
  first, second = root / 'README.md', root / 'experiments' / 'README.md'
  results = read_results(root / 'experiments')
  measured = [result for result in results if 'experiment' in result]
  is_ablation = [r['experiment'].startswith('ablation_') for r in measured]
  ablations = [r for r, yes in zip(measured, is_ablation) if yes]
  others = [r for r, yes in zip(measured, is_ablation) if not yes]
  new = insert(first.read_text(encoding='utf-8'), table(others))
  new = insert(new, trust_table(results), TRUST_START, TRUST_END)
  text = second.read_text(encoding='utf-8')
  return {first: new, second: insert(text, ablation_table(ablations))}


if __name__ == '__main__':
  sys.exit(main())
