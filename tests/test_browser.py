"""The built book in a browser: every page from a file:// address, with no network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from playwright.sync_api import Browser, Page

AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text(encoding="utf-8")
FIRST_PAGE, ANY_PAGE = 1_000_000, 5_000_000
"""Bytes of a page with all that it loads, at most."""
WIDE, PHONE, SMALL_PHONE = 1280, 360, 320
"""Pixels."""


@contextmanager
def visiting(browser: Browser, **settings: Any) -> Iterator[tuple[Page, list[str]]]:
    """A page to go places with, and a list of all that goes wrong there."""
    context = browser.new_context(
        viewport={"width": WIDE, "height": 900}, reduced_motion="reduce", offline=True, **settings
    )
    page, wrong = context.new_page(), []
    page.on("console", lambda line: line.type == "error" and wrong.append(f"console: {line.text}"))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url[:200]}"))
    page.on("request", lambda request: is_outside(request.url) and wrong.append(f"outside: {request.url[:200]}"))
    yield page, wrong
    context.close()


def is_outside(address: str) -> bool:
    return not address.startswith(("file:", "data:", "blob:"))


def barriers(page: Page, options: str = "") -> list[str]:
    """What axe finds on a page and calls serious or critical.

    The page must have the script. Two rules stay out that are never that grave and take a fifth of the time.
    """
    told = page.evaluate(
        "axe.run(document, {preload: false, resultTypes: ['violations'], %s})"
        % (options or "rules: {region: {enabled: false}, 'table-duplicate-name': {enabled: false}}")
    )
    return [
        f"{kind['id']}: {node['html'][:150]}"
        for kind in told["violations"]
        if kind["impact"] in ("serious", "critical")
        for node in kind["nodes"]
    ]


def loaded_bytes(page: Page) -> int:
    """Size on the disk of a page and of every file that it has loaded."""
    names = page.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")
    files = {url2pathname(urlsplit(name).path) for name in [page.url, *names] if name.startswith("file:")}
    return sum(Path(name).stat().st_size for name in files)


@pytest.fixture(scope="module")
def faults(html, browser) -> dict[str, list[str]]:
    """One visit to every page. What is wrong there, by kind.

    A page is loaded once, wide and light; then its colours change to dark, then its width to
    that of a phone.
    """
    found: dict[str, list[str]] = {kind: [] for kind in ("load", "light", "dark", "width", "phone", "size")}
    pages = [path for path in sorted(html.rglob("*.html")) if "_static" not in path.parts and path.parent != html]
    pages += [html / name for name in ("genindex.html", "py-modindex.html", "search.html")]
    assert len(pages) > 10
    with visiting(browser) as (page, wrong):
        for path in pages:
            name = str(path.relative_to(html))
            page.set_viewport_size({"width": WIDE, "height": 900})
            page.emulate_media(color_scheme="light")
            page.goto(path.as_uri())
            size = loaded_bytes(page)
            if size > (FIRST_PAGE if name == "book/index.html" else ANY_PAGE):
                found["size"].append(f"{name}: {size} bytes")
            page.evaluate(AXE)
            found["light"] += [f"{name}: {text}" for text in barriers(page)]
            page.emulate_media(color_scheme="dark")
            page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
            # Of all rules only these look at colours.
            found["dark"] += [
                f"{name}: {text}" for text in barriers(page, "runOnly: ['color-contrast', 'link-in-text-block']")
            ]
            for width in (SMALL_PHONE, PHONE):
                page.set_viewport_size({"width": width, "height": 900})
                needed = page.evaluate("document.documentElement.scrollWidth")
                if needed > width:
                    found["width"].append(f"{name}: {needed} px at {width} px")
            page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            found["phone"] += [f"{name}: {text}" for text in barriers(page, "runOnly: ['scrollable-region-focusable']")]
            found["load"] += [f"{name}: {text}" for text in wrong]
            wrong.clear()
    return found


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("load", id="no error, no failed request, no outside request"),
        pytest.param("light", id="no barrier in light colours"),
        pytest.param("dark", id="no barrier in dark colours"),
        pytest.param("width", id="no scrolling sideways on a phone"),
        pytest.param("phone", id="on a phone the keyboard reaches what scrolls"),
        pytest.param("size", id="first page 1 MB, any page 5 MB"),
    ],
)
def test_every_page_has(faults, kind):
    assert not faults[kind], "\n".join(faults[kind])


def test_the_address_of_the_folder_leads_to_the_first_page(html, browser):
    with visiting(browser) as (page, wrong):
        page.goto((html / "index.html").as_uri())
        page.wait_for_url("**/book/index.html")
        assert not wrong
