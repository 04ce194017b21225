"""One HTML page that opens offline: sections of text, tables and figures.

Knows nothing of what is reported (`report.py` does). Everything that comes in
is escaped, pictures are embedded, no script and nothing from outside is
loaded; a content security policy in the page says so to the browser.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
import re
from typing import Any

import numpy as np

from dp_diffusion.evaluation.report import formats
from dp_diffusion.evaluation.report import markdown
from dp_diffusion.evaluation.report import page_style

_NEWLINE = '\n'
SCALE = 'Scale from 0 to 100 %'  # The title of a column of `Track`.
_MANY_COLUMNS = 4
_LONG_NAME = 4  # Letters; longer ones stand upright above a column.
_PNG = b'\x89PNG\r\n\x1a\n'


@dataclasses.dataclass(frozen=True)
class Text:
  """Words, in the markdown of `markdown.py`."""

  words: str


@dataclasses.dataclass(frozen=True)
class Figure:
  """A picture.

  Attributes:
    image: a PNG or an SVG file.
    alt: what is to be seen, for those who cannot see it.
    caption: one or two sentences below it.
    title: a few words above it.
    is_pixelated: enlarge by sharp pixels.
  """

  image: bytes
  alt: str
  caption: str = ''
  title: str = ''
  is_pixelated: bool = False

  def __post_init__(self) -> None:
    if not self.alt.strip():
      raise ValueError('Expected alt, which says what the figure shows.')
    if not (self.image.startswith(_PNG) or b'<svg' in self.image[:1000]):
      raise ValueError('Expected the image of a figure to be PNG or SVG.')


@dataclasses.dataclass(frozen=True)
class Figures:
  """Figures side by side; below one another where there is no room."""

  figures: tuple[Figure, ...]


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows under a header.

  Attributes:
    header: one title per column.
    rows: text as it is, numbers as `formats.number` shows them.
    caption: what the table says.
  """

  header: Sequence[str]
  rows: Sequence[Sequence[Any]]
  caption: str = ''

  def __post_init__(self) -> None:
    for row in self.rows:
      if len(row) != len(self.header):
        raise ValueError(
          f'Expected {len(row)} cells in a row to be {len(self.header)}.'
        )


@dataclasses.dataclass(frozen=True)
class Details:
  """What opens on a click; prose is printed in full all the same.

  Attributes:
    title: what is inside.
    body: markdown as `Text`, or preformatted text as str.
    is_open: open from the beginning.
  """

  title: str
  body: Text | str
  is_open: bool = False


@dataclasses.dataclass(frozen=True)
class Tile:
  """One number that matters.

  Attributes:
    value: as shown, large.
    title: what it is.
    note: one line below.
    is_main: drawn in the accent colour.
  """

  value: str
  title: str
  note: str = ''
  is_main: bool = False


@dataclasses.dataclass(frozen=True)
class Tiles:
  """Numbers side by side."""

  tiles: tuple[Tile, ...]


@dataclasses.dataclass(frozen=True)
class Mark:
  """A share in [0, 1] on a track, with its interval.

  Attributes:
    value: the share; NaN draws nothing.
    low: lower end of the interval.
    high: upper end of the interval.
    kind: 'synthetic', 'public' or 'real'; colour and shape.
  """

  value: float
  low: float
  high: float
  kind: str


@dataclasses.dataclass(frozen=True)
class Track:
  """A cell that draws marks from 0 to 100 %; a bar when there is one mark.

  Attributes:
    marks: in the order of drawing.
    guessing: share that guessing would reach, drawn as a dashed line; NaN
      draws none.
  """

  marks: tuple[Mark, ...]
  guessing: float = math.nan


@dataclasses.dataclass(frozen=True, eq=False)
class Matrix:
  """A square of counts, each row shaded by its shares.

  Attributes:
    names: of rows and columns alike.
    counts: float[K, K].
    corner: what rows and columns are.
    caption: what the matrix says.
  """

  names: Sequence[str]
  counts: np.ndarray
  corner: str
  caption: str = ''

  def __post_init__(self) -> None:
    if np.shape(self.counts) != (len(self.names), len(self.names)):
      raise ValueError(
        f'Expected counts of shape {np.shape(self.counts)} to be square, with'
        f' {len(self.names)} names.'
      )


@dataclasses.dataclass(frozen=True)
class Columns:
  """A main block and a narrow one to its right, where there is room."""

  main: Text
  side: Table


Block = Text | Figure | Figures | Table | Matrix | Details | Tiles | Columns


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of a page.

  Attributes:
    title: heading, and its entry among the links at the top.
    blocks: in order.
    data: numbers of this section, for the JSON beside the page.
  """

  title: str
  blocks: tuple[Block, ...]
  data: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def render(
  notice: str,
  eyebrow: str,
  title: str,
  lead: str,
  sections: Sequence[Section],
) -> str:
  """The whole page.

  Args:
    notice: what the reader must know first; also the file's first line.
    eyebrow: kind of page, above the title.
    title: of the page.
    lead: the finding in a sentence or two, in markdown.
    sections: in order; the first one's title is not shown.

  Returns:
    HTML.
  """
  links = ''.join(
    f'<li><a href="#s{i}">{markdown.escape(s.title)}</a></li>'
    for i, s in enumerate(sections)
    if i
  )
  comment = notice.replace('--', '- -')
  body = [_section(i, section) for i, section in enumerate(sections)]
  body.insert(1, f'<nav aria-label="Sections"><ul>{links}</ul></nav>')
  return f"""<!DOCTYPE html><!-- {markdown.escape(comment)} -->
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
img-src data:; style-src 'unsafe-inline'">
<title>{markdown.escape(title)} – {markdown.escape(eyebrow)}</title>
<style>
{page_style.STYLE}</style>
</head>
<body>
<p class="notice" role="note">{markdown.inline(notice)}</p>
<header>
<p class="eyebrow">{markdown.escape(eyebrow)}</p>
<h1>{markdown.escape(title)}</h1>
<div class="lead">{markdown.to_html(lead)}</div>
</header>
<main>
{_NEWLINE.join(body)}
</main>
</body>
</html>
"""


def _section(index: int, section: Section) -> str:
  blocks = '\n'.join(_RENDER[type(block)](block) for block in section.blocks)
  heading = markdown.escape(section.title)
  if index == 0:
    return f'<section aria-label="{heading}">\n{blocks}\n</section>'
  return f'<section id="s{index}">\n<h2>{heading}</h2>\n{blocks}\n</section>'


def _text(block: Text) -> str:
  return f'<div class="text">{markdown.to_html(block.words)}</div>'


def _figure(block: Figure) -> str:
  kind = 'png' if block.image.startswith(_PNG) else 'svg+xml'
  source = base64.b64encode(block.image).decode('ascii')
  name = 'pixelated' if block.is_pixelated else ''
  name = name if kind == 'png' else 'chart'
  named = f' class="{name}"' if name else ''
  title = f'<h3>{markdown.escape(block.title)}</h3>' if block.title else ''
  caption = (
    f'<figcaption>{markdown.inline(block.caption)}</figcaption>'
    if block.caption
    else ''
  )
  return (
    f'<figure>{title}<img{named} alt="{markdown.escape(block.alt)}"'
    f' src="data:image/{kind};base64,{source}">{caption}</figure>'
  )


def _figures(block: Figures) -> str:
  inside = '\n'.join(_figure(figure) for figure in block.figures)
  return f'<div class="figures">\n{inside}\n</div>'


def _tiles(block: Tiles) -> str:
  inside = ''.join(
    f'<div class="tile{" main" if tile.is_main else ""}">'
    f'<dt>{markdown.escape(tile.title)}</dt>'
    f'<dd class="value">{markdown.escape(tile.value)}</dd>'
    f'<dd class="note">{markdown.escape(tile.note)}</dd></div>'
    for tile in block.tiles
  )
  return f'<dl class="tiles">{inside}</dl>'


def _columns(block: Columns) -> str:
  return (
    f'<div class="columns">\n{_text(block.main)}\n{_table(block.side)}\n</div>'
  )


def _details(block: Details) -> str:
  is_prose = isinstance(block.body, Text)
  inside = (
    _text(block.body)
    if isinstance(block.body, Text)
    else f'<pre tabindex="0">{markdown.escape(block.body)}</pre>'
  )
  return (
    f'<details{" class=prose" if is_prose else ""}'
    f'{" open" if block.is_open else ""}>'
    f'<summary>{markdown.escape(block.title)}</summary>{inside}</details>'
  )


def _table(block: Table) -> str:
  """A table; its roles are said, as narrow screens lay it out differently."""
  kind = ''  # Narrow screens show the rows of the other two as cards.
  if any(isinstance(c, Track) for row in block.rows for c in row):
    kind = ' tracks'
  elif len(block.header) >= _MANY_COLUMNS:
    kind = ' wide'
  head = ''.join(map(_header_cell, block.header))
  body = ''.join(
    f'<tr role="row">{"".join(map(_cell, row, block.header, range(99)))}</tr>'
    for row in block.rows
  )
  words = markdown.inline(block.caption)
  caption = f'<caption>{words}</caption>' if words else ''
  return (
    f'<div class="table{kind}">'
    f'<table role="table">{caption}'
    f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>'
    f'<tbody role="rowgroup">{body}</tbody></table></div>'
  )


def _header_cell(title: str) -> str:
  inside = markdown.escape(title)
  if title == SCALE:
    ends = '<span>0</span><span>50</span><span>100 %</span>'
    inside = f'<span class="scale" aria-label="{inside}">{ends}</span>'
  return f'<th role="columnheader" scope="col">{inside}</th>'


def _cell(value: Any, title: str, column: int) -> str:
  if isinstance(value, Track):
    return f'<td role="cell" class="track">{_track(value)}</td>'
  text = markdown.escape(formats.number(value))
  if column == 0:
    return f'<th role="rowheader" scope="row">{text}</th>'
  is_text = isinstance(value, str) and not re.match(r'[-–−∞\d]', value)
  kind = 'words' if is_text else 'number'
  return (
    f'<td role="cell" class="{kind}" data-title="{markdown.escape(title)}">'
    f'{markdown.escape(formats.number(value))}</td>'
  )


def _track(track: Track) -> str:
  """An SVG without a view box: it stretches, its marks do not."""
  grid = ''.join(
    f'<line class="grid" x1="{x}%" x2="{x}%" y1="0" y2="100%"/>'
    for x in (0, 25, 50, 75, 100)
  )
  marks = [mark for mark in track.marks if formats.is_finite(mark.value)]
  draw = _bar if len(track.marks) == 1 else _dot
  inside = ''.join(draw(mark) for mark in marks)
  if formats.is_finite(track.guessing):
    x = f'{100 * track.guessing:.2f}%'
    inside += ''.join(
      f'<line class="{kind}" x1="{x}" x2="{x}" y1="0" y2="22"/>'
      for kind in ('under', 'guessing')
    )
  return f'<svg aria-hidden="true" height="22">{grid}{inside}</svg>'


def _bar(mark: Mark) -> str:
  return (
    f'<rect class="{mark.kind}" x="0" y="4" height="14" rx="2"'
    f' width="{100 * mark.value:.2f}%"/>'
    f'{_whisker(mark, "halo")}{_whisker(mark, "whisker")}'
  )


def _dot(mark: Mark) -> str:
  x = f'{100 * mark.value:.2f}%'
  if mark.kind == 'real':
    return f'<line class="tick" x1="{x}" x2="{x}" y1="3" y2="19"/>'
  whisker = _whisker(mark, 'span') if mark.kind == 'synthetic' else ''
  return f'{whisker}<circle class="{mark.kind}" cx="{x}" cy="11" r="5"/>'


def _whisker(mark: Mark, kind: str) -> str:
  if not (formats.is_finite(mark.low) and formats.is_finite(mark.high)):
    return ''
  low, high = f'{100 * mark.low:.2f}%', f'{100 * mark.high:.2f}%'
  return (
    f'<line class="{kind}" x1="{low}" x2="{high}" y1="11" y2="11"/>'
    f'<line class="{kind}" x1="{low}" x2="{low}" y1="7" y2="15"/>'
    f'<line class="{kind}" x1="{high}" x2="{high}" y1="7" y2="15"/>'
  )


def _matrix(block: Matrix) -> str:
  names = [markdown.escape(name) for name in block.names]
  kind = ' long' if max(map(len, block.names), default=0) > _LONG_NAME else ''
  head = ''.join(f'<th scope="col"><span>{name}</span></th>' for name in names)
  totals = np.maximum(np.asarray(block.counts).sum(axis=1), 1e-9)
  body = ''
  for i, (name, row) in enumerate(zip(names, block.counts)):
    cells = ''.join(
      f'<td class="number{" own" if i == j else ""}"'
      f' style="background: rgba(11, 114, 133, {0.45 * v / totals[i]:.3f})">'
      f'{formats.count(v)}</td>'
      for j, v in enumerate(row)
    )
    body += f'<tr><th scope="row">{name}</th>{cells}</tr>'
  return (
    f'<div class="table matrix{kind}"><table>'
    f'<caption>{markdown.inline(block.caption)}</caption>'
    f'<thead><tr><td>{markdown.escape(block.corner)}</td>{head}</tr></thead>'
    f'<tbody>{body}</tbody></table></div>'
  )


_RENDER: dict[type, Callable[[Any], str]] = {
  Text: _text,
  Figure: _figure,
  Figures: _figures,
  Table: _table,
  Matrix: _matrix,
  Details: _details,
  Tiles: _tiles,
  Columns: _columns,
}
