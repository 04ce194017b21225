"""A headless Chromium that tells what a page looks like to its readers.

It is driven through its debugging pipe (Chrome DevTools Protocol), for which
nothing needs to be installed but the browser itself.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import json
import os
import pathlib
import select
import shutil
import subprocess
import time
from typing import Any

import pytest

_NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
_TIMEOUT_SECS = 120
# What a reader would trip over. Elements that reach over the right edge of the
# window count unless they lie in a box that scrolls by itself; text is faint
# below a contrast of 4.5 to 1 (WCAG 2, AA).
_MEASURE = """
(() => {
  const width = document.documentElement.clientWidth;
  const all = [...document.querySelectorAll('body *')];
  const scrolls = e => e && e !== document.body && (
    ['auto', 'scroll', 'hidden'].includes(getComputedStyle(e).overflowX)
    || scrolls(e.parentElement));
  const wide = all.filter(e =>
    e.getBoundingClientRect().right > width + 1 && !scrolls(e));
  const rgba = text => {
    const found = text.match(/[0-9.]+/g).map(Number);
    return found.length < 4 ? [...found, 1] : found;
  };
  const background = e => {
    if (!e) return [255, 255, 255];
    const [r, g, b, a] = rgba(getComputedStyle(e).backgroundColor);
    if (a === 1) return [r, g, b];
    const below = background(e.parentElement);
    return [r, g, b].map((x, i) => a * x + (1 - a) * below[i]);
  };
  const light = color => color.slice(0, 3).map(x => x / 255).map(x =>
    x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4
  ).reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
  const contrast = e => {
    const [a, b] = [
      light(rgba(getComputedStyle(e).color)), light(background(e))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  };
  const hasText = e => [...e.childNodes].some(
    n => n.nodeType === 3 && n.textContent.trim());
  const short = e => e.outerHTML.slice(0, 120);
  return JSON.stringify({
    overflow: document.documentElement.scrollWidth - width,
    wide: wide.slice(0, 5).map(short),
    cut: all.filter(e => e.scrollWidth > e.clientWidth + 1
      && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX)).map(short),
    faint: all.filter(e => hasText(e) && contrast(e) < 4.5).slice(0, 5).map(
      e => contrast(e).toFixed(1) + ' ' + short(e)),
    broken: [...document.images].filter(
      e => !e.complete || !e.naturalWidth).length,
    background: light(background(document.body)),
  });
})()
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
  """How a page is shown in a window of some width.

  Attributes:
    errors: what the console said, and what could not be loaded.
    overflow: pixels by which the page is wider than the window.
    wide: the first elements that are the reason.
    cut: boxes that must be scrolled sideways.
    faint: the first elements whose text has too little contrast.
    broken: pictures that are not shown.
    background: lightness of the page, from 0 (black) to 1 (white).
  """

  errors: tuple[str, ...]
  overflow: int
  wide: tuple[str, ...]
  cut: tuple[str, ...]
  faint: tuple[str, ...]
  broken: int
  background: float


def find() -> str:
  """The browser's path; the test is skipped, visibly, where there is none."""
  for name in _NAMES:
    if path := shutil.which(name):
      return path
  pytest.skip('needs Chromium: the report is looked at in a real browser')


class Browser:
  """One running browser with one empty tab."""

  def __init__(self, commands: int, answers: int) -> None:
    """Takes the ends of the pipes."""
    self._commands, self._answers = commands, answers
    self._buffer, self._last = b'', 0
    self._errors: list[str] = []
    self._session = ''
    target = self.call('Target.createTarget', url='about:blank')['targetId']
    attached = self.call('Target.attachToTarget', targetId=target, flatten=True)
    self._session = attached['sessionId']
    for domain in ('Page', 'Runtime', 'Log', 'Network'):
      self.call(f'{domain}.enable')

  def call(self, method: str, **params: Any) -> dict[str, Any]:
    """Sends a command and waits for its answer."""
    self._last += 1
    message = {'id': self._last, 'method': method, 'params': params}
    if self._session:
      message['sessionId'] = self._session
    os.write(self._commands, json.dumps(message).encode() + b'\0')
    while (found := self._next()).get('id') != self._last:
      self._note(found)
    if 'error' in found:
      raise RuntimeError(f'{method}: {found["error"]}')
    return found.get('result', {})

  def look(
    self,
    page: pathlib.Path,
    width: int,
    *,
    is_dark: bool = False,
    is_printed: bool = False,
  ) -> Look:
    """Opens a file in a window of so many pixels.

    Args:
      page: an HTML file.
      width: of the window, in CSS pixels.
      is_dark: whether the reader prefers dark pages.
      is_printed: whether it is laid out for paper.
    """
    self._errors = []
    self.call(
      'Emulation.setDeviceMetricsOverride',
      width=width,
      height=900,
      deviceScaleFactor=1,
      mobile=width < 600,
    )
    scheme = {
      'name': 'prefers-color-scheme',
      'value': 'dark' if is_dark else 'light',
    }
    medium = 'print' if is_printed else 'screen'
    self.call('Emulation.setEmulatedMedia', media=medium, features=[scheme])
    self.call('Page.navigate', url=page.resolve().as_uri())
    self._wait_for('Page.loadEventFired')
    measured = self._evaluate(_MEASURE)
    return Look(
      errors=tuple(self._errors),
      overflow=measured['overflow'],
      wide=tuple(measured['wide']),
      cut=tuple(measured['cut']),
      faint=tuple(measured['faint']),
      broken=measured['broken'],
      background=measured['background'],
    )

  def picture(self) -> bytes:
    """A PNG of the page that was looked at last, for people."""
    shot = self.call('Page.captureScreenshot', captureBeyondViewport=True)
    return base64.b64decode(shot['data'])

  def _evaluate(self, expression: str) -> dict[str, Any]:
    found = self.call('Runtime.evaluate', expression=expression)
    return json.loads(found['result']['value'])

  def _wait_for(self, method: str) -> None:
    while (found := self._next()).get('method') != method:
      self._note(found)

  def _note(self, event: Mapping[str, Any]) -> None:
    """Keeps what the console would show as an error."""
    params = event.get('params', {})
    match event.get('method'):
      case 'Log.entryAdded' if params['entry']['level'] in ('error', 'warning'):
        self._errors.append(params['entry']['text'])
      case 'Runtime.exceptionThrown' | 'Runtime.consoleAPICalled':
        self._errors.append(json.dumps(params)[:200])
      case 'Network.loadingFailed':
        self._errors.append(params['errorText'])

  def _next(self) -> dict[str, Any]:
    """The next message of the browser."""
    end = time.monotonic() + _TIMEOUT_SECS
    while b'\0' not in self._buffer:
      left = end - time.monotonic()
      if left <= 0 or not select.select([self._answers], [], [], left)[0]:
        raise TimeoutError('The browser does not answer.')
      received = os.read(self._answers, 1 << 20)
      if not received:
        raise RuntimeError('The browser has ended.')
      self._buffer += received
    message, _, self._buffer = self._buffer.partition(b'\0')
    return json.loads(message)


@contextlib.contextmanager
def running(profile: pathlib.Path) -> Iterator[Browser]:
  """A browser with an empty profile of its own; see `find`."""
  path = find()
  (to_read, commands), (answers, to_write) = os.pipe(), os.pipe()
  flags = (
    *('--headless=new', '--remote-debugging-pipe', '--no-sandbox'),
    *('--disable-gpu', '--disable-dev-shm-usage', '--no-first-run'),
    *('--disable-background-networking', '--hide-scrollbars'),
    f'--user-data-dir={profile}',
  )
  process = subprocess.Popen(
    ['bash', '-c', f'exec "$0" "$@" 3<&{to_read} 4>&{to_write}', path, *flags],
    pass_fds=(to_read, to_write),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  os.close(to_read)
  os.close(to_write)
  try:
    try:
      browser = Browser(commands, answers)
    except (BrokenPipeError, RuntimeError) as error:
      pytest.skip(f'needs a Chromium that starts; {path} does not: {error}')
    yield browser
  finally:
    process.kill()
    process.wait()
    os.close(commands)
    os.close(answers)
