"""The forms that are understood; all else is text."""

from __future__ import annotations

from dp_diffusion.evaluation.report import markdown


def test_markdown_of_a_card():
  text = '## Head\nFirst\nline.\n\n- one\n  more\n- two\n\n1 **bold** `co*de*`'
  assert markdown.to_html(text) == (
    '<h3>Head</h3>\n<p>First\nline.</p>\n'
    '<ul>\n<li>one\nmore</li>\n<li>two</li>\n</ul>\n'
    '<p>1 <strong>bold</strong> <code>co*de*</code></p>'
  )


def test_html_and_links_stay_text():
  assert markdown.inline('<b> [x](http://a.b) `<i>`') == (
    '&lt;b&gt; x (http://a.b) <code>&lt;i&gt;</code>'
  )
  assert markdown.inline('[x](javascript:y) ![z](http://a.b/c)') == (
    '[x](javascript:y) !z (http://a.b/c)'
  )
  assert '<script' not in markdown.to_html('```\n<script>\n```\n\n- <script>')


def test_numbers_are_those_of_the_page_but_for_code():
  assert markdown.inline('z = -3.5 at 1e-05, `--seed=-1 1e-05`') == (
    'z = −3.5 at 10⁻⁵, <code>--seed=-1 1e-05</code>'
  )
  assert '1e-05 -2' in markdown.to_html('```\n1e-05 -2\n```')
