"""Converts the markdown of cards and captions to HTML with markdown-it-py.

It supports paragraphs, headings, lists, **bold**, `code` and ``` blocks. All
else, HTML included, is shown as text; a link is shown as its address. Numbers
outside code are formatted as on the rest of the page (`formats.in_text`).
"""

from __future__ import annotations

from collections.abc import Sequence
import functools

import markdown_it
from markdown_it import renderer
from markdown_it import token as token_lib
import markupsafe

from dp_diffusion.evaluation.report import formats

_Tokens = Sequence[token_lib.Token]
_RULES = ('heading', 'list', 'fence', 'emphasis', 'backticks', 'link')


def to_html(text: str) -> markupsafe.Markup:
  """Converts paragraphs of markdown to HTML."""
  return markupsafe.Markup(_parser().render(text).rstrip())


def inline(text: str) -> markupsafe.Markup:
  """Converts markdown within a paragraph to HTML, without the paragraph."""
  return markupsafe.Markup(_parser().renderInline(text))


class _Renderer(renderer.RendererHTML):
  """Renders addresses in brackets, and headings one level below the page's."""

  def text(self, tokens: _Tokens, index: int, *_: object) -> str:
    """Escapes the text and formats its numbers."""
    return markupsafe.escape(formats.in_text(tokens[index].content))

  def link_open(self, *_: object) -> str:
    """Renders nothing, since there are no links on the page."""
    return ''

  def link_close(self, tokens: _Tokens, index: int, *_: object) -> str:
    """Renders the address in brackets."""
    opened = [t for t in tokens[:index] if t.type == 'link_open']
    return markupsafe.escape(f' ({opened[-1].attrs["href"]})')

  def fence(self, tokens: _Tokens, index: int, *_: object) -> str:
    """Renders preformatted text that can be scrolled with the keyboard."""
    code = markupsafe.escape(tokens[index].content.rstrip())
    return f'<pre tabindex="0">{code}</pre>\n'

  def heading_open(self, *_: object) -> str:
    """Opens a heading; all headings have the same level."""
    return '<h3>'

  def heading_close(self, *_: object) -> str:
    """Closes a heading, see `heading_open`."""
    return '</h3>\n'


@functools.cache
def _parser() -> markdown_it.MarkdownIt:
  parser = markdown_it.MarkdownIt('zero', renderer_cls=_Renderer)
  return parser.enable(list(_RULES))
