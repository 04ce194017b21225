"""The page of published weights is that of the results."""

from __future__ import annotations

from experiments.weights_oracles import cases
from experiments.weights_oracles import run
from experiments.weights_oracles import table


def test_the_page_holds_the_results():
  page, rows = table.PAGE.read_text(), table.read()
  assert table.with_tables(page, rows) == page
  for case in cases.CASES:
    if case.is_fixture:
      assert rows[case.name]['is_equal']
  assert all(
    row['output_difference'] <= run.TOLERANCE * max(1.0, row['largest_output'])
    and row['sample_difference'] <= run.TOLERANCE
    for row in rows.values()
  )
