from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar.report.markup import inline, render


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a **b** *c* `d`", "a <strong>b</strong> <em>c</em> <code>d</code>"),
        ("`**not bold** <x>`", "<code>**not bold** &lt;x&gt;</code>"),
        ("2 * 3 * 4 and a_b_c", "2 * 3 * 4 and a_b_c"),
        ("[x](https://e.org/?a=1&b=2)", '<a href="https://e.org/?a=1&amp;b=2">x</a>'),
        ("[x](#there)", '<a href="#there">x</a>'),
        ("[x](javascript:alert(1))", "[x](javascript:alert(1))"),
        ('[x](https://e.org/"onclick=)', '<a href="https://e.org/&quot;onclick=">x</a>'),
        ("<b>&", "&lt;b&gt;&amp;"),
    ],
)
def test_inline(text: str, html: str) -> None:
    assert inline(text) == html


def test_blocks() -> None:
    text = "one\ntwo\n\n- a\n  goes on\n- b\n\n1. x\n2. y\n\n### Head\n\n```\n<pre> **raw**\n\nline\n```\nafter"
    assert render(text).splitlines() == [
        "<p>one two</p>",
        "<ul><li>a goes on</li><li>b</li></ul>",
        "<ol><li>x</li><li>y</li></ol>",
        "<h3>Head</h3>",
        '<pre tabindex="0"><code>&lt;pre&gt; **raw**',
        "",
        "line</code></pre>",
        "<p>after</p>",
    ]


def test_an_unclosed_fence_keeps_its_code() -> None:
    assert render("```\ncode") == '<pre tabindex="0"><code>code</code></pre>'
    assert render("") == ""


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet="ab<>&\"'*`[]()#- \n1.:/", max_size=60))
def test_no_text_can_smuggle_markup(text: str) -> None:
    """Whatever comes in, only our own tags come out."""
    import re

    tags = set(re.findall(r"<\s*/?\s*([^\s>]*)", render(text)))
    assert tags <= {"p", "ul", "ol", "li", "h3", "pre", "code", "strong", "em", "a"}
