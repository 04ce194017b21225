"""The pages of docs/: links lead somewhere, and the site names all of them."""

from __future__ import annotations

import importlib.util
import pathlib
import re
import sys
import types

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = sorted(
  path.relative_to(ROOT).as_posix()
  for path in (*ROOT.glob('*.md'), *ROOT.glob('docs/*.md'))
)
_LINK = re.compile(r'\[[^\]]*\]\(([^)\s]+)\)')


def _links(page):
  text = (ROOT / page).read_text(encoding='utf-8')
  text = re.sub(r'```.*?```', '', text, flags=re.DOTALL)
  return [link for link in _LINK.findall(text) if '://' not in link]


def _anchors(path):
  heads = re.findall(r'^#+ (.+)$', path.read_text('utf-8'), re.MULTILINE)
  slugs = (re.sub(r'[^\w\- ]', '', head.lower()).strip() for head in heads)
  return {slug.replace(' ', '-') for slug in slugs}


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_to_files_and_headings(page):
  for link in _links(page):
    target, _, anchor = link.partition('#')
    path = (ROOT / page).parent / target if target else ROOT / page
    assert path.exists(), f'{page}: {link}'
    if anchor and path.suffix == '.md':
      assert anchor in _anchors(path), f'{page}: {link}'


def test_the_site_names_every_page():
  nav = (ROOT / 'mkdocs.yml').read_text(encoding='utf-8').partition('\nnav:')[2]
  named = re.findall(r': (\S+\.md)$', nav, re.MULTILINE)
  assert sorted(named) == sorted(p.name for p in (ROOT / 'docs').glob('*.md'))


def test_a_link_that_leaves_the_docs_is_shown_as_a_path(hooks):
  shown = hooks.on_page_markdown(
    'See [the defaults](../configs/default.py) and [`x`](privacy.md).',
    page=None,
  )
  assert shown == (
    'See the defaults (`configs/default.py`) and [`x`](privacy.md).'
  )


def test_a_link_to_no_file_ends_the_build(hooks):
  page = types.SimpleNamespace(file=types.SimpleNamespace(src_uri='a.md'))
  with pytest.raises(FileNotFoundError, match=r"'configs/no.py' in a\.md"):
    hooks.on_page_markdown('[x](../configs/no.py)', page=page)


def test_an_example_shown_as_a_quotation_ends_the_build(hooks):
  page = types.SimpleNamespace(file=types.SimpleNamespace(src_uri='a.md'))
  assert hooks.on_page_content('<blockquote>a', page=page) == '<blockquote>a'
  with pytest.raises(ValueError, match=r'examples of a\.md to be code'):
    hooks.on_page_content('<blockquote>\n<blockquote>a', page=page)


def test_examples_of_docstrings_become_code(monkeypatch):
  stub = types.SimpleNamespace(Extension=object, Object=object)
  monkeypatch.setitem(sys.modules, 'griffe', stub)
  doctests = load('doctests')
  text = 'A.\n\n>>> f(1)\n2\n>>> g(\n...   3\n... )\n4\n\nArgs:\n  x: 5 >>> 2'
  docstring = types.SimpleNamespace(value=text)
  found = types.SimpleNamespace(docstring=docstring)
  doctests.Doctests().on_object(obj=found, loader=None)
  assert docstring.value == (
    'A.\n\n```pycon\n>>> f(1)\n2\n>>> g(\n...   3\n... )\n4\n```'
    '\n\nArgs:\n  x: 5 >>> 2'
  )
  doctests.Doctests().on_object(obj=types.SimpleNamespace(docstring=None))


def test_ruff_of_the_site_is_that_of_the_linters():
  pins = [
    re.search(r'^ruff==\S+', (ROOT / name).read_text('utf-8'), re.MULTILINE)
    for name in ('docs/requirements.txt', 'requirements-dev.txt')
  ]
  assert pins[0][0] == pins[1][0]


@pytest.mark.parametrize('page', PAGES)
def test_code_is_shown_whole(page):
  """A line of the site holds 76 letters beside the button that copies it."""
  text = (ROOT / page).read_text(encoding='utf-8')
  for block in re.findall(r'^```.*?^```', text, re.DOTALL | re.MULTILINE):
    assert not [line for line in block.splitlines() if len(line) > 76]


@pytest.fixture(scope='module')
def hooks():
  return load('hooks')


def load(name):
  """Imports a module of docs/, which is no package."""
  path = ROOT / 'docs' / f'{name}.py'
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
