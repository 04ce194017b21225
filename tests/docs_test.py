"""The pages of docs/: links lead somewhere, and the site names all of them."""

from __future__ import annotations

import importlib.util
import pathlib
import re
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


@pytest.fixture(scope='module')
def hooks():
  spec = importlib.util.spec_from_file_location('hooks', ROOT / 'docs/hooks.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
