"""Links of docs/ to files elsewhere in the repository.

On GitHub `../configs/default.py` is a link that works. The site holds docs/
alone, so there such a link becomes the path as text. One whose file is not
there fails the build.
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
