"""The page "Did it reproduce?", with a run of the reader's and without."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import reproduced  # noqa: E402


def write(folder: Path, seeds, shift=0.0) -> None:
    table = pd.DataFrame({"seed": list(seeds), "test_accuracy": [0.5 + 0.01 * (7 * s % 5) + shift for s in seeds]})
    folder.mkdir(parents=True)
    table.to_csv(folder / "000.csv", index=False)
    told = {"name": "01_x", "scale": "quick", "keys": ["seed"], "parameters": {"scale": "quick"}}
    (folder / "000.json").write_text(json.dumps({**told, "rows": len(table), "columns": [*table.columns]}))


def build(folder: Path) -> str:
    """The page's HTML; fails where there is a warning."""
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    page = "# Page\n\n```{reproduced}\n```\n\n```{reproduced-coverage}\n```\n\n```{toctree}\nbook/runs/01_x\n```\n"
    (folder / "index.md").write_text(page)
    (folder / "book" / "runs").mkdir(parents=True, exist_ok=True)
    (folder / "book" / "runs" / "01_x.md").write_text("# Notebook\n")
    with (folder / "warnings").open("w") as stream, patch_docutils(), docutils_namespace():
        Sphinx(
            folder, None, folder / "out", folder / "trees", "html",
            confoverrides={"extensions": ["myst_parser", "cell_role", "reproduced"]}, status=None, warning=stream,
        ).build()  # fmt: skip
    assert (folder / "warnings").read_text() == ""
    return (folder / "out" / "index.html").read_text()


@pytest.fixture
def book(tmp_path) -> Path:
    write(tmp_path / "results" / "quick" / "01_x", range(12))
    entry = {"id": "x", "text": "an accuracy", "page": "book/runs/01_x", "query": "01_x test_accuracy"}
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "headlines.yaml").write_text(json.dumps({"arithmetic": [entry]}))
    rows = [("all", "", of, 0.95) for of in (1, 2, 3)] + [("each", "x", of, 0.9 + 0.03 * of) for of in (1, 2, 3)]
    (tmp_path / "results" / "benchmark").mkdir(parents=True)
    table = pd.DataFrame(rows, columns=["headline", "id", "of", "coverage"])
    table.to_csv(tmp_path / "results" / "benchmark" / "coverage.csv", index=False)
    return tmp_path


def test_without_a_run_the_page_has_the_interval_for_one_more_seed(book):
    html = build(book)
    assert "It cannot be said whether it reproduced: no run of yours (make book makes one)." in html
    assert re.search(r"<p>One more seed</p>", html)
    assert re.search(r"<p>0\.4\d\d to 0\.5\d\d</p>", html)
    assert "Yours" not in html
    assert 'href="book/runs/01_x.html"' in html
    assert "95.0 %, 95.0 % and 95.0 %" in html
    assert not (book / reproduced.PICTURE).exists()


def test_with_a_run_it_has_the_verdict_the_figure_and_the_value(book):
    write(book / "runs" / "quick" / "01_x", [100, 101], shift=0.002)
    html = build(book)
    assert "Reproduced. 0 of 1 headline numbers lie outside" in html
    assert re.search(r'0\.\d\d\d <span class="verdict agrees[^>]*>inside</span>', html)
    (alt,) = re.findall(r'<img alt="([^"]*)"', html)
    assert "0 lie outside" in alt
    with Image.open(book / reproduced.PICTURE) as picture:
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 50
    shutil.rmtree(book / "runs")
    write(book / "runs" / "quick" / "01_x", [100, 101], shift=0.2)
    html = build(book)  # again, in the same folder: a new run is seen
    assert "Not reproduced. 1 of 1 headline numbers lies outside" in html
    (alt,) = re.findall(r'<img alt="([^"]*)"', html)
    assert "1 lies outside: an accuracy." in alt
    assert re.search(r'<span class="verdict does-not-agree[^>]*>outside</span>', html)


def test_the_page_of_the_book_uses_both():
    page = (ROOT / "book" / "reproduced.md").read_text(encoding="utf-8")
    assert re.findall(r"```\{(reproduced[-\w]*)\}", page) == ["reproduced", "reproduced-coverage"]
