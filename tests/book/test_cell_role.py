"""The role ``{cell}``: what it shows, what it links to, what it says when there is nothing to show."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from companion.compare import cells
from companion.compare.statistics import far_off
from companion.lab import tables

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "book"
sys.path.insert(0, str(BOOK / "_ext"))

import cell_role  # noqa: E402

CELL = re.compile(r"\{cell\}`([^`]*)`")


def write(folder: Path, scale: str, name: str, table: pd.DataFrame) -> None:
    place = folder / "results" / scale / name
    place.mkdir(parents=True)
    table.to_csv(place / "000.csv", index=False)
    record = {"name": name, "scale": scale, "keys": ["start", "seed"], "rows": len(table), "columns": [*table.columns]}
    (place / "000.json").write_text(json.dumps(record), encoding="utf-8")


def build(folder: Path, page: str) -> tuple[str, str]:
    """Build one page beside two notebooks' pages; its HTML and the warnings."""
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    (folder / "book" / "runs").mkdir(parents=True, exist_ok=True)
    pages = "\n".join(f"book/runs/{name}" for name in ("01_x", "01_x_y"))
    sources = {"index": f"# Page\n\n{page}\n\n```{{toctree}}\n{pages}\n```\n"}
    sources |= dict.fromkeys(("book/runs/01_x", "book/runs/01_x_y"), "# Notebook\n")
    for name, source in sources.items():
        path = folder / f"{name}.md"
        if not path.is_file() or path.read_text(encoding="utf-8") != source:  # else Sphinx reads it again anyway
            path.write_text(source, encoding="utf-8")
    warnings = folder / "warnings"
    with warnings.open("w", encoding="utf-8") as stream, patch_docutils(), docutils_namespace():
        app = Sphinx(
            folder, None, folder / "out", folder / "trees", "html",
            confoverrides={"extensions": ["myst_parser", "cell_role"]}, status=None, warning=stream,
        )  # fmt: skip
        app.build()
    html = (folder / "out" / "index.html").read_text(encoding="utf-8")
    return html, re.sub("\x1b[^m]*m", "", warnings.read_text(encoding="utf-8"))


def runs(shift: float = 0.0) -> pd.DataFrame:
    values = [0.9, 0.8, 0.7, 0.5, 0.5, 0.5]
    return pd.DataFrame({
        "start": ["a"] * 3 + ["b or c"] * 3, "seed": [0, 1, 2] * 2, "test_accuracy": [value - shift for value in values]
    })  # fmt: skip


@pytest.fixture
def book(tmp_path) -> Path:
    write(tmp_path, "quick", "01_x", runs())
    write(tmp_path, "paper", "01_x", runs(0.1))
    write(tmp_path, "quick", "01_x_bases", runs())
    write(tmp_path, "quick", "01_x_y_bases", runs())
    return tmp_path


def test_a_number_is_shown_and_links_to_its_notebook(book):
    html, warnings = build(book, "It is {cell}`01_x test_accuracy start=a digits=2`.")
    assert warnings == ""
    assert "0.90, 0.80 and 0.70" in html
    assert 'href="book/runs/01_x.html"' in html
    assert 'class="num"' in html


def test_a_long_text_wraps_like_the_sentence_around_it(book):
    html, _ = build(book, "{cell}`01_x each start=a text='seed {seed} has {test_accuracy}'`")
    assert "seed 0 has 0.900, seed 1 has 0.800, seed 2 has 0.700" in html
    assert 'class="num phrase"' in html


def test_a_scale_in_front_is_that_of_the_number(book):
    html, warnings = build(
        book, "{cell}`paper/01_x mean test_accuracy start=a`, {cell}`01_x mean test_accuracy start=a`"
    )
    assert warnings == ""
    assert "0.700, 0.800" in re.sub("<[^>]*>", "", html)


def test_words_and_quotes_stand_in_a_table(book):
    seeds = [*range(10)]
    values = [0.9 - 0.001 * seed for seed in seeds] + [0.5 + 0.001 * seed for seed in seeds]
    table = pd.DataFrame({"start": ["a"] * 10 + ["b or c"] * 10, "seed": seeds * 2, "test_accuracy": values})
    write(book, "quick", "01_x_y", table)
    page = (
        "| a | b |\n|---|---|\n"
        "| {cell}`01_x_y verdict test_accuracy start=a over='b or c' words='better than/worse` | |"
    )
    _, warnings = build(book, page)
    assert "No closing quotation" in warnings
    page = page.replace("worse`", "worse than'`")
    html, warnings = build(book, page)
    assert warnings == ""
    assert "better than" in html


def test_a_table_beside_the_main_one_is_its_notebooks(book):
    html, _ = build(book, "{cell}`01_x_bases count seed`")
    assert 'href="book/runs/01_x.html"' in html
    html, _ = build(book, "{cell}`01_x_y_bases count seed`")
    assert 'href="book/runs/01_x_y.html"' in html


def test_what_cannot_be_looked_up_is_a_warning_with_its_place(book):
    html, warnings = build(book, "It is {cell}`01_x nope start=a`.")
    assert "index.md:3" in warnings
    assert "no column 'nope'" in warnings
    assert "start, seed, test_accuracy" in warnings
    assert "[01_x nope start=a?]" in html


def test_a_table_that_is_not_there_is_a_warning_with_the_fix(book):
    _, warnings = build(book, "It is {cell}`02_z count seed`.")
    assert "index.md:3" in warnings
    assert "there is no results/quick/02_z" in warnings


def test_a_page_is_read_again_after_a_new_part(book):
    html, _ = build(book, "Seeds: {cell}`01_x count seed`.")
    assert ">3<" in html
    more = runs().assign(seed=[5, 6, 7] * 2)
    more.to_csv(book / "results" / "quick" / "01_x" / "001.csv", index=False)
    record = json.loads((book / "results" / "quick" / "01_x" / "000.json").read_text(encoding="utf-8"))
    (book / "results" / "quick" / "01_x" / "001.json").write_text(json.dumps(record), encoding="utf-8")
    html, warnings = build(book, "Seeds: {cell}`01_x count seed`.")
    assert warnings == ""
    assert ">6<" in html


# ---------------------------------------------------------------------------------------
# Pages, as written


@pytest.fixture(scope="module")
def ask():
    """Looks a query up among the committed tables; each is read once."""
    known: dict[tuple[str, str, str], pd.DataFrame] = {}

    def asked(query: str) -> str:
        scale, name, view, rest = cells.name_of(query, "quick")
        if (scale, name, view) not in known:
            table = tables.read(name, scale, root=ROOT / "results", marks=far_off)
            known[scale, name, view] = cells.view_of(table, view)
        return cells.text(known[scale, name, view], rest)

    return asked


def test_every_cell_on_a_page_has_a_text(ask):
    wrong, asked = [], 0
    for page in sorted(BOOK.glob("*.md")):
        for query in CELL.findall(page.read_text(encoding="utf-8")):
            asked += 1
            try:
                assert ask(query)
            except (ValueError, FileNotFoundError) as error:
                wrong.append(f"{page.name}: {error}")
    assert asked > 300
    assert not wrong, "\n".join(wrong)


def test_a_rest_is_that_of_the_number_of_test_pairs():
    for page in BOOK.glob("*.md"):
        for query in CELL.findall(page.read_text(encoding="utf-8")):
            if found := re.search(r"rest_of=(\S+)", query):
                scale, name, *_ = cells.name_of(query, "quick")
                pairs = tables.record(name, scale, root=ROOT / "results")["parameters"]["evaluation_pairs"]
                assert float(found[1]) == pairs, query


def test_the_best_first_is_the_best_first(ask):
    """The rows of the table of subnetworks are written in an order that the results have to keep."""
    page = (BOOK / "paper.md").read_text(encoding="utf-8").partition("The best first:")[2].partition("```")[0]
    queries = [query for query in CELL.findall(page) if " lead " not in query]
    tasks: dict[str, list[float]] = {}
    for query in queries:
        task = cells.Query.parse(cells.name_of(query, "quick")[3]).where["task"]
        tasks.setdefault(task, []).append(float(ask(query.replace(" test_accuracy", " mean test_accuracy"))))
    assert len(queries) == 6
    assert list(tasks) == ["a^2 - b^2", "a^2 + b^2"]
    assert all(means == sorted(means, reverse=True) for means in tasks.values())


def test_the_notebook_of_a_table_that_is_no_notebooks_is_its_own_name():
    environment = SimpleNamespace(found_docs={"book/runs/07_checks", "book/paper"})
    assert cell_role.notebook_of(environment, "07_checks_bases") == "07_checks"
    assert cell_role.notebook_of(environment, "07_checksum") == "07_checksum"
