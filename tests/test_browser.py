"""The built book in a browser: every page from a file:// address, with no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

AXE = Path(__file__).parent / "axe" / "axe.min.js"


class Visit:
    """A page that is open, and all that went wrong while it loaded."""

    def __init__(self, browser: Browser, path: Path, *, width: int = 1280, dark: bool = False) -> None:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
            offline=True,
        )
        self.page: Page = context.new_page()
        self.wrong: list[str] = []
        self.page.on("console", lambda line: line.type == "error" and self.wrong.append(f"console: {line.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("requestfailed", lambda request: self.wrong.append(f"failed: {request.url[:200]}"))
        self.page.on("request", self._requested)
        self.page.goto(path.as_uri())
        self.page.wait_for_load_state("load")

    def _requested(self, request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.wrong.append(f"outside: {request.url[:200]}")

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.page.context.close()


def all_pages(html: Path) -> list[Path]:
    return [path for path in sorted(html.rglob("*.html")) if "_static" not in path.parts]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_no_page_has_an_error_an_outside_request_or_a_barrier(html, browser, dark):
    found = []
    for path in all_pages(html):
        with Visit(browser, path, dark=dark) as visit:
            visit.page.add_script_tag(path=AXE)
            told = visit.page.evaluate("axe.run(document, {preload: false, resultTypes: ['violations']})")
            found += [f"{path.relative_to(html)}: {wrong}" for wrong in visit.wrong]
            found += [
                f"{path.relative_to(html)}: {kind['id']}: {node['html'][:150]}"
                for kind in told["violations"]
                if kind["impact"] in ("serious", "critical")
                for node in kind["nodes"]
            ]
    assert not found, "\n".join(found)


def test_no_page_scrolls_sideways_on_a_phone(html, browser):
    found = []
    for path in all_pages(html):
        with Visit(browser, path, width=360) as visit:
            width = visit.page.evaluate("document.documentElement.scrollWidth")
            if width > 360:
                found.append(f"{path.relative_to(html)}: {width} px")
    assert not found
