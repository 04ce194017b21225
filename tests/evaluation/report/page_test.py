"""The page: everything escaped, nothing loaded, no NaN."""

from __future__ import annotations

import html.parser
import math
import re

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from dp_diffusion.evaluation.report import formats
from dp_diffusion.evaluation.report import image_grids
from dp_diffusion.evaluation.report import page

EVIL = '<script>alert("x")</script>&\'"`'
_VOID = {'meta', 'img', 'line', 'circle', 'rect', 'br', 'link'}


class Parser(html.parser.HTMLParser):
  """Collects elements and text; checks that tags are balanced."""

  def __init__(self):
    super().__init__(convert_charrefs=True)
    self.open, self.elements, self.text = [], [], []

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    if tag not in _VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    if tag not in _VOID:
      assert self.open.pop() == tag

  def handle_startendtag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))

  def handle_data(self, data):
    if self.open and self.open[-1] != 'style':
      self.text.append(data)


def parse(text):
  parser = Parser()
  parser.feed(text)
  assert not parser.open
  return parser


def render(*blocks, notice='Read this.', title='Title', lead='Lead.'):
  sections = [
    page.Section('First', (page.Text('x'),)),
    page.Section('Second', blocks),
  ]
  return page.render(notice, 'Kind', title, lead, sections)


@pytest.fixture(scope='module')
def png():
  return image_grids.png(np.zeros((2, 2, 1), np.uint8))


def every_block(text, png):
  mark = page.Mark(0.5, 0.4, 0.6, 'synthetic')
  return (
    page.Text(f'# {text}\n\n{text}\n- {text}'),
    page.Text(f'```\n{text}\n```\n\n`{text}` **{text}** [{text}](http://a.b)'),
    page.Figure(png, text, text, text, True),
    page.Figures((page.Figure(png, text),)),
    page.Table((text, page.SCALE), [(text, page.Track((mark,)))], text),
    page.Table((text, text), [(text, text), (1.5, math.nan)]),
    page.Details(text, text),
    page.Details(text, page.Text(text), True),
    page.Tiles((page.Tile(text, text, text, True),)),
    page.Columns(page.Text(text), page.Table((text,), [(text,)])),
  )


def test_everything_is_escaped(png):
  text = render(*every_block(EVIL, png), notice=EVIL, title=EVIL, lead=EVIL)
  parser = parse(text)
  assert not any(tag == 'script' for tag, _ in parser.elements)
  assert ''.join(parser.text).count('<script>') > 10  # It is there, as text.


@hypothesis.given(
  st.text(st.characters(codec='utf-8'), min_size=1, max_size=30)
)
def test_any_text_gives_a_balanced_page(text):
  hypothesis.assume(text.strip())
  png = image_grids.png(np.zeros((1, 1, 1), np.uint8))
  parser = parse(render(*every_block(text, png), title=text, lead=text))
  known = """html head title style body p header h1 div main section nav ul li
    a h2 h3 figure figcaption table caption thead tbody tr th td details
    summary pre dl dt dd svg span code strong""".split()
  assert {tag for tag, _ in parser.elements} <= {*known, *_VOID}


def test_nothing_from_outside_is_loaded(png):
  parser = parse(render(*every_block('see https://example.com', png)))
  for tag, attributes in parser.elements:
    assert tag not in ('script', 'link', 'iframe', 'object')
    for name in ('src', 'href'):
      value = attributes.get(name, '#')
      assert value.startswith(('#', 'data:image/')), (tag, value)
  policy = [a for t, a in parser.elements if 'http-equiv' in a]
  assert "default-src 'none'" in policy[0]['content']
  style = render().partition('<style>')[2].partition('</style>')[0]
  assert 'url(' not in style and '@import' not in style


def test_the_notice_comes_first():
  text = render(notice='Outside the guarantee.')
  assert 'Outside the guarantee.' in text.splitlines()[0]
  parser = parse(text)
  body = [t.strip() for t in parser.text if t.strip()]
  assert body[1] == 'Outside the guarantee.'  # After the title of the tab.


def test_links_at_the_top_lead_to_sections():
  parser = parse(render(page.Text('x')))
  ids = {a['id'] for _, a in parser.elements if 'id' in a}
  links = [a['href'] for t, a in parser.elements if t == 'a']
  assert links == ['#s1'] and ids == {'s1'}


def test_figures_say_what_they_show(png):
  with pytest.raises(ValueError, match='alt'):
    page.Figure(png, ' ')
  with pytest.raises(ValueError, match='PNG or SVG'):
    page.Figure(b'GIF89a', 'a picture')
  images = [
    a
    for t, a in parse(render(page.Figure(png, 'A cat'))).elements
    if t == 'img'
  ]
  assert images[0]['alt'] == 'A cat'


def test_rows_fit_their_header():
  with pytest.raises(ValueError, match='3 cells'):
    page.Table(('a', 'b'), [(1, 2, 3)])


def test_nan_is_never_shown():
  nan = math.nan
  marks = (page.Mark(nan, nan, nan, 'real'), page.Mark(nan, 0, 1, 'public'))
  text = render(
    page.Table(('a', 'b', 'c'), [(nan, None, -math.inf)]),
    page.Table(('a', page.SCALE), [('x', page.Track(marks))]),
    page.Table(('a', page.SCALE), [('x', page.Track(marks[:1]))]),
  )
  body = text.partition('</style>')[2]
  assert not re.search(r'\bnan\b|\binf\b|none', body, re.I)
  assert formats.NOTHING in body and '−∞' in body


def test_track_marks_are_where_the_shares_are():
  one = page.Track((page.Mark(0.931, 0.9, 0.953, 'synthetic'),))
  parser = parse(render(page.Table(('a', page.SCALE), [('x', one)])))
  bars = [a for t, a in parser.elements if t == 'rect']
  assert bars == [
    {
      'class': 'synthetic', 'x': '0', 'y': '4', 'height': '14', 'rx': '2',
      'width': '93.10%',
    }
  ]  # fmt: skip
  ends = {a['x1'] for t, a in parser.elements if a.get('class') == 'whisker'}
  assert ends == {'90.00%', '95.30%'}
