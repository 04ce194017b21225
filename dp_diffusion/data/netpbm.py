"""Reads PGM and PPM files deeper than 8 bits, with one or several images."""

from __future__ import annotations

import dataclasses
import re

import numpy as np

# Two kinds are ASCII, two binary; all other kinds have 8 bits or are rare.
_CHANNELS = {b'P2': 1, b'P3': 3, b'P5': 1, b'P6': 3}
_SPACE = rb'(?:\s|#[^\n\r]*[\n\r])+'
_HEADER = re.compile(
  rb'(P[2356])' + 3 * (_SPACE + rb'(\d{1,9})') + rb'(?:#[^\n\r]*[\n\r]|\s)'
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
  """Header of one image of a file.

  Attributes:
    width, height: size in pixels.
    channels: 1 or 3.
    largest: value of white, 1 to 65535.
    is_text: whether the values are written as text.
    start: offset of the first byte of the header.
    offset: offset of the first value.
  """

  width: int
  height: int
  channels: int
  largest: int
  is_text: bool
  start: int
  offset: int

  @property
  def num_bytes(self) -> int:
    """Number of bytes of the values, if they are binary."""
    width = 1 if self.largest < 256 else 2
    return self.width * self.height * self.channels * width


def headers(data: bytes) -> list[Header]:
  """Reads the headers of all images of a file; none for another format.

  Raises:
    ValueError: a size or a largest value is impossible.
  """
  found: list[Header] = []
  start = 0
  while match := _HEADER.match(data, start):
    width, height, largest = (int(match[i]) for i in (2, 3, 4))
    if not width or not height or not 0 < largest < 1 << 16:
      raise ValueError('its header has an impossible size or largest value')
    header = Header(
      width=width,
      height=height,
      channels=_CHANNELS[match[1]],
      largest=largest,
      is_text=match[1] in (b'P2', b'P3'),
      start=start,
      offset=match.end(),
    )
    found.append(header)
    if header.is_text:
      break  # The formats allow one image of text per file.
    start = header.offset + header.num_bytes
  return found


def read(data: bytes, header: Header) -> np.ndarray:
  """Reads the stored values of one image, uint16[H, W, C].

  Raises:
    ValueError: the file is cut short, or a value is above `header.largest`.
  """
  shape = (header.height, header.width, header.channels)
  num_values = int(np.prod(shape, dtype=np.int64))
  if header.is_text:
    text = re.sub(rb'#[^\n\r]*', b'', data[header.offset :])
    values = np.array(text.split(None, num_values)[:num_values], np.int64)
  else:
    raw = data[header.offset : header.offset + header.num_bytes]
    kind = np.dtype('>u2' if header.largest > 255 else 'u1')
    whole = len(raw) // kind.itemsize * kind.itemsize
    values = np.frombuffer(raw[:whole], kind).astype(np.int64)
  if len(values) < num_values:
    raise ValueError('truncated')
  if values.min() < 0 or values.max() > header.largest:
    raise ValueError('it has values above the largest of its header')
  return values.astype(np.uint16).reshape(shape)
