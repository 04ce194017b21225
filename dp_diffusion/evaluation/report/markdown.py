"""The little markdown that cards and captions need, as escaped HTML.

Paragraphs, `## headings`, `- lists`, **bold**, `code` and ``` blocks. All else
is text, HTML above all; the address of a link is shown and not followed.
"""

from __future__ import annotations

import html
import re


def to_html(text: str) -> str:
  """HTML of whole paragraphs."""
  parts = re.split(r'^```[^\n]*\n(.*?)^```[ ]*$', text, flags=re.M | re.S)
  out = []
  for i, part in enumerate(parts):
    if i % 2:
      out.append(f'<pre tabindex="0">{escape(part.rstrip())}</pre>')
    else:
      out.extend(_paragraphs(part))
  return '\n'.join(out)


def _paragraphs(text: str) -> list[str]:
  """HTML of blocks of lines: headings, lists and paragraphs."""
  out: list[str] = []
  for block in re.split(r'\n\s*\n', text.strip()):
    lines: list[str] = []
    for line in block.splitlines():
      heading = re.match(r'(#{1,6})\s+(.*)', line)
      if heading:
        out.extend(_lines(lines))
        lines = []
        out.append(f'<h3>{inline(heading[2])}</h3>')
      else:
        lines.append(line)
    out.extend(_lines(lines))
  return out


def _lines(lines: list[str]) -> list[str]:
  if not any(line.strip() for line in lines):
    return []
  out, items, words = [], [], []
  for line in lines:
    item = re.match(r'\s*[-*]\s+(.*)', line)
    if item:
      items.append(item[1])
    elif items:
      items[-1] += ' ' + line.strip()
    else:
      words.append(line.strip())
  if words:
    out.append(f'<p>{inline(" ".join(words))}</p>')
  if items:
    inside = ''.join(f'<li>{inline(item)}</li>' for item in items)
    out.append(f'<ul>{inside}</ul>')
  return out


def inline(text: str) -> str:
  """HTML of a part of a paragraph."""
  parts = re.split(r'`([^`]+)`', text)
  out = []
  for i, part in enumerate(parts):
    part = escape(part)
    if i % 2:
      out.append(f'<code>{part}</code>')
      continue
    part = re.sub(r'\[([^\]]+)\]\(([^)\s]+)\)', r'\1 (\2)', part)
    out.append(re.sub(r'\*\*(.+?)\*\*', r'<strong>\1</strong>', part))
  return ''.join(out)


def escape(text: str) -> str:
  """Text that is no HTML, in an attribute either."""
  return html.escape(text, quote=True)
