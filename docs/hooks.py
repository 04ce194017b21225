"""What the site needs beside the pages of docs/.

Links that leave docs/: on GitHub `../configs/default.py` is a link that works.
The site holds docs/ alone, so there it becomes the path as text. A link to a
file that is not there fails the build.
"""

from __future__ import annotations

import pathlib
import re
from typing import Any

_REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
_OUTSIDE = re.compile(r'\[([^\]]*)\]\(\.\./([^)#]+)(#[^)]*)?\)')


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
  """Replaces each link that leaves docs/ by its text and its path.

  Args:
    markdown: the page's source.
    page: mkdocs' page, for the message.

  Returns:
    The source without such links.

  Raises:
    FileNotFoundError: a link to a file that the repository does not have.
  """

  def as_text(match: re.Match[str]) -> str:
    text, path, _ = match.groups()
    if not (_REPOSITORY / path).exists():
      raise FileNotFoundError(
        f'Expected the link to {path!r} in {page.file.src_uri} to lead to a'
        ' file of the repository.'
      )
    shown = text.strip('`')
    return f'{text}' if shown == path else f'{text} (`{path}`)'

  return _OUTSIDE.sub(as_text, markdown)


def on_page_content(html: str, page: Any, **_: Any) -> str:
  """Refuses a page that shows an example of code as quotations.

  Raises:
    ValueError: an example that `doctests.py` did not fence.
  """
  if re.search(r'<blockquote>\s*<blockquote>', html):
    raise ValueError(
      f'Expected the examples of {page.file.src_uri} to be code: `>>>` outside'
      ' of a code block begins a quotation in a quotation.'
    )
  return html
