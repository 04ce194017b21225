"""The forms that are understood; all else is text."""

from __future__ import annotations

from dp_diffusion.evaluation.report import markdown


def test_markdown_of_a_card():
  text = '## Head\nFirst\nline.\n\n- one\n  more\n- two\n\n1 **bold** `co*de*`'
  assert markdown.to_html(text) == (
    '<h3>Head</h3>\n<p>First line.</p>\n<ul><li>one more</li><li>two</li></ul>'
    '\n<p>1 <strong>bold</strong> <code>co*de*</code></p>'
  )


def test_html_and_links_stay_text():
  assert markdown.inline('<b> [x](http://a.b) `<i>`') == (
    '&lt;b&gt; x (http://a.b) <code>&lt;i&gt;</code>'
  )
  assert '<script' not in markdown.to_html('```\n<script>\n```\n\n- <script>')
