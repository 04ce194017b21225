"""Shows the examples of docstrings as code on the site.

In Markdown `>>>` begins a quotation in a quotation, and mkdocstrings reads as
code only what stands below a heading `Examples:`.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

# From the first `>>>` to the empty line that ends what it prints.
_EXAMPLE = re.compile(r'^>>> .*(?:\n.*\S.*)*', re.MULTILINE)


def fence(text: str) -> str:
  """Puts each example of a docstring between the marks of a code block."""
  return _EXAMPLE.sub(lambda found: f'```pycon\n{found[0]}\n```', text)


class Doctests(griffe.Extension):
  """Changes the docstrings that `griffe` has read."""

  def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
    """Fences the examples of one object."""
    if obj.docstring:
      obj.docstring.value = fence(obj.docstring.value)
