"""What the site makes of docstrings, and what it refuses."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest
from doc_pages import ROOT
from mkdocs.exceptions import PluginError

spec = importlib.util.spec_from_file_location("docs_pages", ROOT / "docs" / "pages.py")
site = importlib.util.module_from_spec(spec)
spec.loader.exec_module(site)


def test_examples_become_blocks_of_code():
    text = "One line.\n\n    >>> 1 + 1\n    2\n\nMore."
    assert site.markdown(text) == (
        "One line.\n\n    ```pycon\n    >>> 1 + 1\n    2\n    ```\n\nMore."
    )


def test_formulas_become_mathml():
    text = site.markdown("p :math:`\\ge 1`\n\n.. math:: a = b,\n          c\n\nend")
    inline, block, end = text.split("\n\n")
    assert inline.startswith('p <math xmlns="http://www.w3.org/1998/Math/MathML" display="inline">')
    assert 'display="block"' in block
    assert block.endswith("<mi>c</mi></mrow></math>")
    assert end == "end"


@pytest.mark.parametrize(
    "tag",
    [
        '<link rel="stylesheet" href="https://cdn.example/x.css">',
        '<script defer src="//cdn.example/x.js"></script>',
        "<img alt='' src='http://example/x.png'>",
    ],
)
def test_a_page_that_loads_from_another_host_is_refused(tag):
    page = SimpleNamespace(file=SimpleNamespace(src_uri="a.md"))
    with pytest.raises(PluginError, match=r"a\.md loads from another host"):
        site.on_post_page(f"<p>{tag}</p>", page=page)


def test_a_link_to_another_host_is_no_loading():
    page = SimpleNamespace(file=SimpleNamespace(src_uri="a.md"))
    text = '<a href="https://example.org">there</a><img src="../surface.png">'
    assert site.on_post_page(text, page=page) == text
