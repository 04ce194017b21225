"""The markdown of cards and captions, as HTML by markdown-it-py.

Paragraphs, headings, lists, **bold**, `code` and ``` blocks. All else is text,
HTML above all; the address of a link is shown and not followed. Numbers are
written as everywhere on the page (`formats.in_text`), but for those in code.
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
  """HTML of whole paragraphs."""
  return markupsafe.Markup(_parser().render(text).rstrip())


def inline(text: str) -> markupsafe.Markup:
  """HTML of a part of a paragraph."""
  return markupsafe.Markup(_parser().renderInline(text))


class _Renderer(renderer.RendererHTML):
  """Shows addresses in brackets, and headings below those of the page."""

  def text(self, tokens: _Tokens, index: int, *_: object) -> str:
    """Escaped words, numbers as on the whole page."""
    return markupsafe.escape(formats.in_text(tokens[index].content))

  def link_open(self, *_: object) -> str:
    """Nothing: no link is followed."""
    return ''

  def link_close(self, tokens: _Tokens, index: int, *_: object) -> str:
    """The address."""
    opened = [t for t in tokens[:index] if t.type == 'link_open']
    return markupsafe.escape(f' ({opened[-1].attrs["href"]})')

  def fence(self, tokens: _Tokens, index: int, *_: object) -> str:
    """Preformatted text that can be reached by the keyboard, to scroll."""
    code = markupsafe.escape(tokens[index].content.rstrip())
    return f'<pre tabindex="0">{code}</pre>\n'

  def heading_open(self, *_: object) -> str:
    """All headings are of one level."""
    return '<h3>'

  def heading_close(self, *_: object) -> str:
    """See `heading_open`."""
    return '</h3>\n'


@functools.cache
def _parser() -> markdown_it.MarkdownIt:
  parser = markdown_it.MarkdownIt('zero', renderer_cls=_Renderer)
  return parser.enable(list(_RULES))
