"""The built book in a browser: every page from a file:// address, with no network."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from conftest import fresh_context
from playwright.sync_api import Browser, Page

sys.path.insert(0, str(Path(__file__).parents[2] / "workflow"))

import website

AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text(encoding="utf-8")
FIRST_PAGE, ANY_PAGE = 1_000_000, 5_000_000
"""Bytes of a page with all that it loads, at most."""
WIDE, PHONE, SMALL_PHONE = 1280, 360, 320
"""Pixels."""


class Visit:
    """A page to go places with, what it asked for, and all that went wrong there."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.asked: list[str] = []
        self.wrong: list[str] = []
        page.on("console", lambda line: line.type == "error" and self.wrong.append(f"console: {line.text}"))
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("requestfailed", lambda request: self.wrong.append(f"failed: {request.url[:200]}"))
        page.on("request", lambda request: self._request(request.url))

    def _request(self, address: str) -> None:
        self.asked.append(address)
        if is_outside(address):
            self.wrong.append(f"outside: {address[:200]}")

    def go(self, path: Path) -> None:
        self.asked.clear()
        self.wrong.clear()
        self.page.goto(path.as_uri())

    def loaded_bytes(self) -> int:
        """Size on the disk of the page and of every file that it loads, its pictures out of sight included."""
        pictures = self.page.evaluate("[...document.images].map(image => image.src)")
        files = {urlsplit(name).path for name in (*self.asked, *pictures) if name.startswith("file:")}
        return sum(Path(url2pathname(name)).stat().st_size for name in files)

    def tab_to(self, selector: str, most: int = 80) -> None:
        """Press Tab until the element has the focus."""
        for _ in range(most):
            self.page.keyboard.press("Tab")
            if self.page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"{selector} does not get the focus within {most} steps of the Tab key")


@contextmanager
def visiting(browser: Browser, width: int = WIDE, **settings: Any) -> Iterator[Visit]:
    """A visit in a fresh context: nothing is kept from another one."""
    context = fresh_context(browser, width, **settings)
    yield Visit(context.new_page())
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
    with visiting(browser) as visit:
        page = visit.page
        for path in pages:
            name = str(path.relative_to(html))
            page.set_viewport_size({"width": WIDE, "height": 900})
            page.emulate_media(color_scheme="light")
            visit.go(path)
            size = visit.loaded_bytes()
            if size > (FIRST_PAGE if name == "book/index.html" else ANY_PAGE):
                found["size"].append(f"{name}: {size} bytes")
            page.evaluate(AXE)
            found["light"] += [f"{name}: {text}" for text in barriers(page)]
            page.emulate_media(color_scheme="dark")
            page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
            # Of what the first look asked, only this changes with the colours: links are underlined in both.
            found["dark"] += [f"{name}: {text}" for text in barriers(page, "runOnly: ['color-contrast']")]
            for width in (WIDE, SMALL_PHONE, PHONE):
                page.set_viewport_size({"width": width, "height": 900})
                needed = page.evaluate("document.documentElement.scrollWidth")
                if needed > width:
                    found["width"].append(f"{name}: {needed} px at {width} px")
            page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            found["phone"] += [f"{name}: {text}" for text in barriers(page, "runOnly: ['scrollable-region-focusable']")]
            found["load"] += [f"{name}: {text}" for text in visit.wrong]
    return found


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("load", id="no error, no failed request, no outside request"),
        pytest.param("light", id="no barrier in light colours"),
        pytest.param("dark", id="no barrier in dark colours"),
        pytest.param("width", id="no scrolling sideways, wide or on a phone"),
        pytest.param("phone", id="on a phone the keyboard reaches what scrolls"),
        pytest.param("size", id="first page 1 MB, any page 5 MB"),
    ],
)
def test_every_page_has(faults, kind):
    assert not faults[kind], "\n".join(faults[kind])


def test_the_address_of_the_folder_leads_to_the_first_page(html, browser):
    with visiting(browser) as visit:
        visit.go(html / "index.html")
        visit.page.wait_for_url("**/book/index.html")
        assert not visit.wrong


def test_the_zip_opens_without_a_server(html, browser, tmp_path):
    website.pack(html, tmp_path / "book.zip")
    with zipfile.ZipFile(tmp_path / "book.zip") as file:
        file.extractall(tmp_path)
    with visiting(browser) as visit:
        visit.go(tmp_path / "book" / "index.html")
        visit.page.wait_for_url("**/book/book/index.html")
        assert visit.page.locator("#main-figure img").evaluate("image => image.naturalWidth") > 100
        assert not visit.wrong


@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_the_search_works_by_keyboard_and_without_a_server(html, browser, width):
    with visiting(browser, width) as visit:
        visit.go(html / "book" / "index.html")
        visit.tab_to(".search-button__button")
        visit.page.keyboard.press("Enter")
        visit.page.keyboard.type("temperature")
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_url("**/search.html?q=temperature*")
        visit.page.wait_for_selector("#search-results li a")
        visit.tab_to("#search-results li a")
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_url("**/book/**")
        assert "temperature" in visit.page.inner_text("article").lower()
        assert not visit.wrong


def test_the_side_bar_works_by_keyboard(html, browser):
    with visiting(browser, PHONE) as visit:
        visit.go(html / "book" / "index.html")
        page = visit.page
        link = page.locator(".bd-sidebar-primary a", has_text="The task")
        assert not link.is_visible()
        visit.tab_to(".primary-toggle")
        page.keyboard.press("Enter")
        link.wait_for(state="visible")
        # The opened side bar takes the focus, a little after it is seen.
        page.wait_for_function("document.activeElement.closest('.bd-sidebar-primary')")
        arrow = page.get_by_label("Pages under: The experiments")
        arrow.focus()
        page.keyboard.press("Enter")
        page.locator(".bd-sidebar-primary a", has_text="Base model").wait_for(state="visible")
        link.focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/task.html")
        assert not visit.wrong


def test_the_colours_are_switched_by_keyboard_and_kept(html, browser):
    with visiting(browser, color_scheme="light") as visit:
        visit.go(html / "book" / "index.html")
        seen = []
        visit.tab_to(".theme-switch-button")
        for _ in range(3):
            seen.append(visit.page.evaluate("getComputedStyle(document.body).backgroundColor"))
            visit.page.keyboard.press("Enter")
            if visit.page.evaluate("document.documentElement.dataset.mode") == "dark":
                visit.page.reload()
                assert visit.page.evaluate("document.documentElement.dataset.theme") == "dark"
                visit.tab_to(".theme-switch-button")
        assert len(set(seen)) == 2
        assert not visit.wrong


# ---------------------------------------------------------------------------------------
# Print

PAPER = 718
"""Width of an A4 page between margins of 1 cm, pixels."""
LOOKED_AT = ("index", "vision", "03_transfer")
"""Pages whose colours are measured: a figure that lives on the screen, tables, code and a run card."""
ON_PAPER = """() => {
  const article = document.querySelector('.bd-article'), shown = e => e.getClientRects().length > 0;
  const name = e => `${e.tagName.toLowerCase()}.${e.className} ${(e.textContent || '').trim().slice(0, 40)}`;
  const all = [...article.querySelectorAll('*')].filter(e => !e.closest('svg, mjx-container, script, style, template'));
  const folded = [...article.querySelectorAll('details')].flatMap(
    e => [...e.children].filter(c => c.tagName !== 'SUMMARY' && !shown(c)).map(c => `folded: ${name(e)}`));
  const cut = all.filter(e => shown(e) && e.clientWidth && e.scrollWidth > e.clientWidth + 2
    && getComputedStyle(e).overflowX !== 'visible').map(e => `cut: ${name(e)}`);
  const wide = all.filter(e => shown(e) && e.getBoundingClientRect().right > innerWidth + 2)
    .map(e => `wide: ${name(e)}`);
  const live = [...article.querySelectorAll('figure.live')].filter(
    e => ![...e.querySelectorAll('img')].some(i => shown(i) && i.closest('.live-box') === null)).map(name);
  return [...folded, ...cut, ...wide.slice(0, 3), ...live.map(e => `no picture: ${e}`)];
}"""


def test_on_paper_every_page_is_open_whole_and_light(html, browser):
    found = []
    with visiting(browser, PAPER) as visit:
        page = visit.page
        page.emulate_media(color_scheme="dark", media="print")
        for path in sorted((html / "book").rglob("*.html")):
            visit.go(path)
            page.evaluate("dispatchEvent(new Event('beforeprint'))")
            found += [f"{path.name}: {text}" for text in page.evaluate(ON_PAPER)]
            if path.stem in LOOKED_AT:
                page.evaluate(AXE)
                found += [f"{path.name}: {text}" for text in barriers(page, "runOnly: ['color-contrast']")]
            assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert not found, "\n".join(found)


def test_a_printed_run_card_has_its_parameters_and_the_screen_stays_as_it_was(html, browser):
    with visiting(browser) as visit:
        page = visit.page
        page.emulate_media(color_scheme="dark")
        visit.go(html / "book" / "runs" / "03_transfer.html")
        state = (
            "[document.documentElement.dataset.theme, document.querySelectorAll('.bd-article details[open]').length]"
        )
        before = page.evaluate(state)
        height = "document.querySelector('.run-card dl.all-parameters').getClientRects().length"
        assert before == ["dark", 0]
        page.evaluate(f"addEventListener('beforeprint', () => {{ window.printed = [{height}, ...{state}]; }})")
        page.pdf()
        lines, theme, opened = page.evaluate("printed")
        assert (lines, theme) == (1, "light")
        assert opened == page.evaluate("document.querySelectorAll('.bd-article details').length")
        assert page.evaluate(state) == before
