"""Renders an HTML page of text, tables and figures that opens offline.

This module does not know what the page reports; `report.py` does. The HTML is
in `page.html.jinja` and `blocks.html.jinja`, which escape every value, and the
style is in `page.css`. Pictures are embedded. The page has no script and loads
nothing from outside, which its content security policy enforces.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
import dataclasses
import functools
import math
import pathlib
import re
from typing import Any

import jinja2
import numpy as np

from dp_diffusion.evaluation.report import formats
from dp_diffusion.evaluation.report import markdown

SCALE = 'Scale from 0 to 100 %'  # The title of a column of `Track`.
_MANY_COLUMNS = 3
_LONG_NAME = 4  # Names with more letters are upright above a column.
_PNG = b'\x89PNG\r\n\x1a\n'


@dataclasses.dataclass(frozen=True)
class Text:
  """Text in the markdown of `markdown.py`."""

  words: str


@dataclasses.dataclass(frozen=True)
class Figure:
  """A picture.

  Attributes:
    image: a PNG or an SVG file.
    alt: description for readers who cannot see the picture.
    caption: one or two sentences below the picture.
    title: a few words above the picture.
    is_pixelated: whether the picture is enlarged by sharp pixels.
  """

  image: bytes
  alt: str
  caption: str = ''
  title: str = ''
  is_pixelated: bool = False

  @property
  def kind(self) -> str:
    """CSS class of the element, which says how it is enlarged."""
    if not self.image.startswith(_PNG):
      return 'chart'
    return 'pixelated' if self.is_pixelated else ''

  @property
  def source(self) -> str:
    """The picture as a data URI."""
    form = 'png' if self.image.startswith(_PNG) else 'svg+xml'
    return f'data:image/{form};base64,{base64.b64encode(self.image).decode()}'

  def __post_init__(self) -> None:
    if not self.alt.strip():
      raise ValueError('Expected alt, which says what the figure shows.')
    if not (self.image.startswith(_PNG) or b'<svg' in self.image[:1000]):
      raise ValueError('Expected the image of a figure to be PNG or SVG.')


@dataclasses.dataclass(frozen=True)
class Figures:
  """Figures side by side, or below one another on a narrow screen."""

  figures: tuple[Figure, ...]


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows under a header.

  Attributes:
    header: one title per column.
    rows: cells of text or numbers; `formats.number` formats the numbers.
    caption: explanation of the table.
  """

  header: Sequence[str]
  rows: Sequence[Sequence[Any]]
  caption: str = ''

  @property
  def kind(self) -> str:
    """CSS classes of the element; a narrow screen shows a wide one as cards."""
    if any(isinstance(cell, Track) for row in self.rows for cell in row):
      return ' tracks'
    return ' wide' if len(self.header) >= _MANY_COLUMNS else ''

  def __post_init__(self) -> None:
    for row in self.rows:
      if len(row) != len(self.header):
        raise ValueError(
          f'Expected {len(row)} cells in a row to be {len(self.header)}.'
        )


@dataclasses.dataclass(frozen=True)
class Details:
  """A part that opens on a click. Prose in it is always printed on paper.

  Attributes:
    title: title of the part.
    body: markdown as `Text`, or preformatted text as str.
    is_open: whether it is open from the beginning.
  """

  title: str
  body: Text | str
  is_open: bool = False

  @property
  def is_prose(self) -> bool:
    """Whether the body is markdown."""
    return isinstance(self.body, Text)


@dataclasses.dataclass(frozen=True)
class Tile:
  """An important number in large letters.

  Attributes:
    value: the number as text.
    title: name of the number.
    note: one line below.
    is_main: whether it is drawn in the accent colour.
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
    kind: 'synthetic', 'public' or 'real', which decides colour and shape.
  """

  value: float
  low: float
  high: float
  kind: str


@dataclasses.dataclass(frozen=True)
class Track:
  """A cell with a scale from 0 to 100 % and marks on it; one mark is a bar.

  Attributes:
    marks: the marks in the order of drawing.
    guessing: share that guessing would reach, drawn as a dashed line; NaN
      draws no line.
  """

  marks: tuple[Mark, ...]
  guessing: float = math.nan


@dataclasses.dataclass(frozen=True, eq=False)
class Matrix:
  """A square table of counts, with each row shaded by its shares.

  Attributes:
    names: K names, of rows and of columns.
    counts: float[K, K].
    corner: text of the corner, which says what rows and columns are.
    caption: explanation of the matrix.
  """

  names: Sequence[str]
  counts: np.ndarray
  corner: str
  caption: str = ''

  @property
  def has_long_names(self) -> bool:
    """Whether names are written upright above their columns."""
    return max(map(len, self.names), default=0) > _LONG_NAME

  @property
  def shares(self) -> np.ndarray:
    """Counts divided by the total of their row, float64[K, K]."""
    counts = np.asarray(self.counts, np.float64)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-9)

  def __post_init__(self) -> None:
    if np.shape(self.counts) != (len(self.names), len(self.names)):
      raise ValueError(
        f'Expected counts of shape {np.shape(self.counts)} to be square, with'
        f' {len(self.names)} names.'
      )


@dataclasses.dataclass(frozen=True)
class Columns:
  """A main block and a narrow one beside it, or below on a narrow screen."""

  main: Text
  side: Table


Block = Text | Figure | Figures | Table | Matrix | Details | Tiles | Columns


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of a page.

  Attributes:
    title: heading, also the text of its link at the top.
    blocks: the blocks in order.
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
  """Renders the whole page.

  Args:
    notice: what the reader must know first; also the first line of the file.
    eyebrow: kind of page, shown above the title.
    title: title of the page.
    lead: the finding in one or two sentences, in markdown.
    sections: sections in order; the title of the first one is not shown.

  Returns:
    The HTML.
  """
  return _template().render(
    notice=notice,
    eyebrow=eyebrow,
    title=title,
    lead=lead,
    sections=sections,
  )


@functools.cache
def _template() -> jinja2.Template:
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
  )
  environment.filters |= {
    'cell_class': _cell_class,
    'count': formats.count,
    'inline': markdown.inline,
    'is_finite': formats.is_finite,
    'kind': lambda value: type(value).__name__,
    'markdown': markdown.to_html,
    'number': formats.number,
    'place': lambda share: f'{100 * share:.2f}%',
  }
  environment.globals['scale'] = SCALE
  return environment.get_template('page.html.jinja')


def _cell_class(value: Any) -> str:
  """Returns the CSS class of a cell; a number must not be broken into lines."""
  is_text = isinstance(value, str) and not re.match(r'[-–−∞\d]', value)
  return 'words' if is_text else 'number'
