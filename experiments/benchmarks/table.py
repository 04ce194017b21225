"""Writes the README's table from the results.json of each machine.

python -m experiments.benchmarks.table            # writes it
python -m experiments.benchmarks.table --check    # exit code 1 if out of date
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import pathlib
import sys
from typing import Any

from dp_diffusion import files
from experiments import common

START, END = '<!-- benchmarks:start -->', '<!-- benchmarks:end -->'
HERE = pathlib.Path(__file__).resolve().parent
# Section of results.json -> its title, in the order of the table.
SECTIONS = {
  'private_step': 'A private step over an ordinary one',
  'peers': 'Beside other libraries',
  'convolutions': 'Kernel gradients, one per example',
  'host_overhead': 'What the host adds',
  'forward': 'Fewer products in the forward pass',
  'scale': 'Many processes',
  'sampling': 'Sampling',
  'calibration': 'Calibration',
  'evaluation_memory': 'What an evaluation needs',
  'profile': 'Where the time of a private step goes, as shares',
  'gpu_mfu': 'Use of the arithmetic of an accelerator',
}
NONE = '–'
_HEADER = ('What', 'Ratio', 'Aim', 'Measured')


def row(
  what: str,
  ratio: float | None,
  measured: Mapping[str, float | str],
  *,
  at_most: float | None = None,
  at_least: float | None = None,
) -> dict[str, Any]:
  """Makes one line of the table.

  Args:
    what: what is compared, and its size.
    ratio: the ratio or other number that has a goal; None for no such number.
    measured: name with unit -> number; shown after the ratio.
    at_most: goal of a ratio that should be small.
    at_least: goal of a ratio that should be large.
  """
  return {
    'what': what,
    'ratio': ratio,
    'at_most': at_most,
    'at_least': at_least,
    'measured': dict(measured),
  }


def of_rows(rows: Sequence[Mapping[str, Any]]) -> str:
  """Formats the rows as a table in markdown."""
  lines = [_HEADER, ('---',) * len(_HEADER), *map(_cells, rows)]
  return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
  measured = ', '.join(
    f'{name} {_number(value)}' for name, value in row['measured'].items()
  )
  ratio = NONE if row['ratio'] is None else f'**{_number(row["ratio"])}**'
  return row['what'], ratio, _aim(row), measured or NONE


def _aim(row: Mapping[str, Any]) -> str:
  """The goal, and whether the unrounded number reaches it."""
  if row['at_most'] is not None:
    is_reached, word, aim = row['ratio'] <= row['at_most'], '≤', row['at_most']
  elif row['at_least'] is not None:
    is_reached = row['ratio'] >= row['at_least']
    word, aim = '≥', row['at_least']
  else:
    return NONE
  return f'{word} {aim:g}: {"reached" if is_reached else "**missed**"}'


def _number(value: float | str) -> str:
  """Formats a number with three significant figures and no exponent.

  >>> _number(1.0471), _number(43.21), _number(12345.6), _number('x9')
  ('1.05', '43.2', '12346', 'x9')
  """
  if isinstance(value, str):
    return value
  return f'{value:.0f}' if abs(value) >= 100 else f'{value:#.3g}'.rstrip('.')


def of_machine(results: Mapping[str, Any]) -> str:
  """The tables of everything that was measured on one machine."""
  parts = []
  for section, title in SECTIONS.items():
    if section not in results:
      continue
    found = results[section]
    machine = found['machine']
    where = machine['devices']
    if where.endswith(' cpu'):
      where = f'{machine["cores"]} cores of {machine["cpu"]}'
    parts += [
      f'### {title}',
      of_rows(found['rows']),
      f'`{found["command"]}`, {where}, jax {machine["jax"]}.',
    ]
  return '\n\n'.join(parts)


def shapes(results: Mapping[str, Any]) -> str:
  """The table of all convolutions measured on one machine, for the docs."""
  found = results.get('convolutions', {}).get('shapes', {})
  if not found:
    return ''
  header = ('Network', 'Shape', 'Form', 'Ours / stock', 'GFLOP/s', 'Stock')
  lines: list[tuple[str, ...]] = [header, ('---',) * len(header)]
  lines += [
    (
      network,
      line['shape'],
      line['form'],
      *(_number(line[key]) for key in ('ratio', 'gflops', 'stock_gflops')),
    )
    for network, all_shapes in found.items()
    for line in all_shapes
  ]
  return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)


def write(folder: pathlib.Path, is_check: bool = False) -> bool:
  """Puts the tables between the marks of README.md and docs/performance.md.

  Args:
    folder: holds README.md and MACHINE/results.json.
    is_check: whether to compare only, and write nothing.

  Returns:
    Whether both files were already up to date.
  """
  found = [files.read_json(p) for p in sorted(folder.glob('*/results.json'))]
  texts = {folder / 'README.md': map(of_machine, found)}
  docs = folder.parent.parent / 'docs' / 'performance.md'
  if docs.exists():
    texts[docs] = map(shapes, found)
  is_right = True
  for path, parts in texts.items():
    old = path.read_text(encoding='utf-8')
    before, _, rest = old.partition(START)
    _, _, after = rest.partition(END)
    drawn = '\n\n'.join(filter(None, parts))
    new = f'{before}{START}\n{drawn}\n{END}{after}'
    if old != new:
      is_right = False
      if not is_check:
        files.write_text(path, new)
  return is_right


def main(argv: Sequence[str] | None = None) -> int:
  """Writes or checks; returns the exit code."""
  is_check = common.is_check('benchmarks.table', __doc__, argv)
  is_right = write(HERE, is_check)
  if is_check and not is_right:
    print(
      'README.md is out of date: run python -m experiments.benchmarks.table'
    )
  return int(is_check and not is_right)


if __name__ == '__main__':
  sys.exit(main())
