"""Writes the tables of `docs/weights.md` from `results.json`.

python -m experiments.weights_oracles.table
"""

from __future__ import annotations

from collections.abc import Mapping
import json
import pathlib
from typing import Any

from dp_diffusion.models.formats import published

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = pathlib.Path(__file__).resolve().parent / 'results.json'
PAGE = ROOT / 'docs/weights.md'
_MARKS = ('<!-- {}:start -->', '<!-- {}:end -->')
_ENTRIES = {
  'improved_diffusion': published.IMPROVED,
  'guided_diffusion': published.GUIDED,
}


def main() -> None:
  """Writes both tables into the page."""
  PAGE.write_text(with_tables(PAGE.read_text(), read()))


def read() -> dict[str, Any]:
  """Reads the rows that `run` wrote."""
  rows: dict[str, Any] = json.loads(RESULTS.read_text())
  return rows


def with_tables(page: str, rows: Mapping[str, Any]) -> str:
  """Returns the page with its tables replaced by those of these rows."""
  for name, lines in (('files', _files(rows)), ('proof', _proof(rows))):
    start, end = (mark.format(name) for mark in _MARKS)
    before, _, rest = page.partition(start)
    _, _, after = rest.partition(end)
    page = f'{before}{start}\n' + '\n'.join(lines) + f'\n{end}{after}'
  return page


def _files(rows: Mapping[str, Any]) -> list[str]:
  """The table of published files that can be loaded."""
  lines = [
    '| file | `pretrain.init_format` | classes | network; schedule, time |'
    ' licence | compared in true size |',
    '|---|---|---|---|---|---|',
  ]
  for format_name, entries in _ENTRIES.items():
    for entry in entries:
      row = rows.get(entry.names[0])
      compared = 'not yet; a small one is'
      if row is not None:
        compared = (
          f'{row["num_parameters"] / 1e6:.1f}M parameters, outputs within'
          f' {row["output_difference"]:.0e}'
        )
      a = entry.architecture
      files = ', '.join(
        f'[{url.rpartition("/")[2]}]({url})' for url in entry.urls
      )
      multipliers = ', '.join(map(str, a.channel_multipliers))
      said = {k.split('.')[1]: v for k, v in entry.said.items()}
      heads = (
        f'{said["num_heads"]} heads'
        if said.get('num_heads')
        else f'heads of {said["head_channels"]}'
      )
      lines.append(
        f'| {files} | `{format_name}` |'
        f' {a.num_classes or "none"} | {a.channels} x ({multipliers}),'
        f' {a.num_blocks} blocks, {heads};'
        f' {said["schedule"]}, {said["time_scale"]:g} t +'
        f' {said["time_offset"]:g} | {entry.licence} | {compared} |'
      )
  return lines


def _proof(rows: Mapping[str, Any]) -> list[str]:
  """The table of compared networks and their differences."""
  lines = [
    '| network | parameters | sides | largest output | largest difference |'
    ' of samples (sides) |',
    '|---|---|---|---|---|---|',
  ]
  for name, row in rows.items():
    sides = ', '.join(map(str, row['sides']))
    sampled = ', '.join(map(str, row['sampled_sides']))
    samples = (
      f'{row["sample_difference"]:.1e} ({sampled})'
      if sampled
      else 'not sampled'
    )
    lines.append(
      f'| {name} | {row["num_parameters"]:,} | {sides} |'
      f' {row["largest_output"]:.3g} | {row["output_difference"]:.1e} |'
      f' {samples} |'
    )
  return lines


if __name__ == '__main__':
  main()
