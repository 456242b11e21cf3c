"""What the theme's pages lack for those who read with a keyboard, hear the page, or have a small machine.

The theme's HTML is corrected after it is written, and one script, ``reachable.js``, is added.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

CORRECTIONS: list[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), text)
    for pattern, text in (
        # The arrow that unfolds a part of the side bar is named by its page.
        (r">([^<]+)</a>(<details[^>]*>)<summary><span", r'>\1</a>\2<summary aria-label="Pages under: \1"><span'),
        # A spoken name that is not the text that is seen: what a listener says does not find it.
        (r'<summary aria-label="Toggle hidden content">', "<summary>"),
        (r'(<button class="btn search-button-field[^>]*) aria-label="Search"', r'\1 aria-label="Search Ctrl+K"'),
        # Icons are no text.
        (r'<(i|span) class="((?:theme-switch )?fa[\w-]* [^"]*)"(?! aria-hidden)', r'<\1 class="\2" aria-hidden="true"'),
        # A list whose entries are no list items is announced as a list of nothing.
        (r'<div role="list" class="citation-list">', '<div class="citation-list">'),
    )
]

SIGNATURE = re.compile(r'<dt class="sig .*?</dt>', re.DOTALL)
WRAPPED = re.compile(r'<span class="pre">([^<]*)</span>')
"""Sphinx wraps every word of a signature twice; the inner ones are a third of all elements of the reference."""


def corrected(page: str) -> str:
    """A page's HTML with all corrections; a second time changes nothing.

    >>> corrected('<a href="b.html">B</a><details><summary><span class="toctree-toggle">')
    '<a href="b.html">B</a><details><summary aria-label="Pages under: B"><span class="toctree-toggle">'
    """
    for pattern, text in CORRECTIONS:
        page = pattern.sub(text, page)
    return SIGNATURE.sub(lambda signature: WRAPPED.sub(r"\1", signature[0]), page)


def correct(app: Sphinx, error: Exception | None) -> None:
    """Correct every page that was written."""
    if error or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        if (better := corrected(page)) != page:
            path.write_text(better, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Run when all pages are written."""
    app.add_js_file("reachable.js", loading_method="defer")
    app.connect("build-finished", correct, priority=980)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
