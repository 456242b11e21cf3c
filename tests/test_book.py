"""The book: its extensions, its numbers, its code, and its HTML, built for the tests."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
import yaml

from companion.arithmetic.task import Computation

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "book"
sys.path.insert(0, str(BOOK / "_ext"))

import offline  # noqa: E402
import parameters_table  # noqa: E402
import run_card  # noqa: E402

NUM = re.compile(r"\{num\}`([^`]*)`")


# ---------------------------------------------------------------------------------------
# Extensions, on small inputs


def build(
    folder: Path, page: str, numbers: dict[str, str] | None = None, extensions: Sequence[str] = ()
) -> tuple[str, str]:
    """Build one page with the book's extensions, and others; its HTML and the warnings."""
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    (folder / "book" / "runs").mkdir(parents=True)
    (folder / "results" / "quick").mkdir(parents=True, exist_ok=True)
    (folder / "index.md").write_text(f"# Page\n\n{page}\n\n```{{toctree}}\nbook/runs/01_x\n```\n", encoding="utf-8")
    (folder / "book" / "runs" / "01_x.md").write_text("# Notebook\n", encoding="utf-8")
    if numbers is not None:
        record = {
            "scale": "quick",
            "seeds": [0, 1],
            "device": "cpu",
            "wall_seconds": 75.0,
            "commit": "abc",
            "numbers": numbers,
        }
        (folder / "results" / "quick" / "01_x.json").write_text(json.dumps(record), encoding="utf-8")
        (folder / "results" / "quick" / "01_x.csv").write_text("a\n1\n", encoding="utf-8")
    extensions = ["myst_parser", "numbers_role", "run_card", "parameters_table", "offline", *extensions]
    warnings = folder / "warnings"
    with warnings.open("w", encoding="utf-8") as stream, patch_docutils(), docutils_namespace():
        app = Sphinx(
            folder, None, folder / "out", folder / "trees", "html", confoverrides={"extensions": extensions},
            status=None, warning=stream,
        )  # fmt: skip
        app.build()
    return (folder / "out" / "index.html").read_text(encoding="utf-8"), re.sub(
        "\x1b[^m]*m", "", warnings.read_text(encoding="utf-8")
    )


def test_number_is_shown_and_links_to_its_notebook(tmp_path):
    html, warnings = build(tmp_path, "It is {num}`01_x.acc`.", {"acc": "0.93 ± 0.02"})
    assert "0.93 ± 0.02" in html
    assert 'href="book/runs/01_x.html"' in html
    assert warnings == ""


def test_a_scale_in_front_of_a_name_is_that_of_the_number_and_the_card(tmp_path):
    paper = tmp_path / "results" / "paper"
    paper.mkdir(parents=True)
    record = {"scale": "paper", "seeds": [0], "numbers": {"acc": "0.5"}, "runs": [{}, {}]}
    (paper / "01_x.json").write_text(json.dumps(record), encoding="utf-8")
    (paper / "01_x.csv").write_text("a\n1\n", encoding="utf-8")
    html, warnings = build(
        tmp_path, "{num}`paper/01_x.acc`, {num}`01_x.acc`\n\n```{run-card} paper/01_x\n```", {"acc": "0.9"}
    )
    assert warnings == ""
    text = re.sub("<[^>]*>", "", html)
    assert "0.5, 0.9" in text
    assert "-f params/paper.yaml" in text
    assert "2, merged into one table" in text


def test_missing_number_warns_with_place_and_known_keys(tmp_path):
    _, warnings = build(tmp_path, "It is {num}`01_x.nope`.", {"acc": "1", "other": "2"})
    assert "index.md:3" in warnings
    assert "acc, other" in warnings
    assert "nope" in warnings


@pytest.mark.parametrize("page", ["{num}`01_x.acc`", "```{run-card} 01_x\n```"])
def test_missing_result_warns_with_the_fix(tmp_path, page):
    _, warnings = build(tmp_path, page)
    assert "index.md:3" in warnings
    assert "Run notebooks/01_x.ipynb" in warnings


def test_run_card_has_facts_command_and_downloads(tmp_path):
    html, warnings = build(tmp_path, "```{run-card} 01_x\n```", {})
    assert warnings == ""
    assert "1 min 15 s" in html
    assert "python -m companion run notebooks/01_x.ipynb -f params/quick.yaml" in re.sub("<[^>]*>", "", html)
    assert len(re.findall(r'href="_downloads/[^"]*/01_x\.(?:csv|json)"', html)) == 2


def test_run_card_adds_up_the_seconds_of_training(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("seed,seconds\n0,1.5\n1,nan\n2,\n3,2\n")
    assert run_card.trained_for(table) == 3.5
    table.write_text("seed,accuracy\n0,1\n")
    assert run_card.trained_for(table) == 0


def test_run_card_says_when_the_code_had_local_changes():
    assert run_card.facts({"commit": "0123456789abc", "changed_since_commit": True}) == {
        "Commit": "0123456789, changed since"
    }
    assert run_card.facts({"commit": "0123456789abc", "changed_since_commit": False}) == {"Commit": "0123456789"}
    (told,) = run_card.facts({"diverged": 2, "rows": 30}).items()
    assert told == ("Diverged", "2 of 30 rows: empty in the table, averages with them are dashes")
    (told,) = run_card.facts({"far_off": 1, "rows": 30}).items()
    assert told == ("Far off", "1 of 30 rows, from the other seeds': marked in the table, kept in the averages")
    assert run_card.facts({"diverged": 0, "far_off": 0, "rows": 30}) == {}
    assert run_card.facts({"wall_seconds": 9.0}, trained=5400.0) == {
        "Wall time": "9 s",
        "Training": "1 h 30 min, all rows of the table together",
    }
    assert [run_card.duration(seconds) for seconds in (48.2, 372, 9000)] == ["48 s", "6 min 12 s", "2 h 30 min"]


PARAMETERS_CELL = """\
scale: str = "smoke"  # folder
seeds: list[int] = [0, 1]  # chains
lr: float = 0.1  # rate
formula: str = "ab"  # task
workers: int = 0  # processes
"""


def small_project(folder: Path) -> None:
    """A notebook with five parameters, and a parameter file for it."""
    (folder / "notebooks").mkdir(parents=True)
    (folder / "params").mkdir()
    (folder / "params" / "quick.yaml").write_text("scale: quick\nseeds: [0, 1, 2]\n", encoding="utf-8")
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": PARAMETERS_CELL}
    (folder / "notebooks" / "01_x.ipynb").write_text(json.dumps({"cells": [cell]}), encoding="utf-8")


def test_the_command_of_a_run_card_gives_what_the_parameter_file_does_not(tmp_path):
    small_project(tmp_path)
    line = "python -m companion run notebooks/01_x.ipynb -f params/quick.yaml"
    same = {"scale": "quick", "seeds": [0, 1, 2], "lr": 0.1, "formula": "ab", "workers": 0}
    assert run_card.command(tmp_path, "01_x", "quick", same) == line
    # How many processes computed it changes nothing, and where its store was is nobody's business.
    assert run_card.command(tmp_path, "01_x", "quick", same | {"workers": 7, "store": "/there"}) == line
    other = same | {"seeds": [5], "lr": 1e-4, "formula": "a + ab"}
    assert run_card.command(tmp_path, "01_x", "quick", other) == (
        line + " -p seeds '[5]' -p lr 0.0001 -p formula 'a + ab'"
    )
    assert run_card.command(tmp_path, "01_x", "mine", same | {"scale": "mine"}) == (
        "python -m companion run notebooks/01_x.ipynb -p scale mine -p seeds '[0, 1, 2]'"
    )


@pytest.mark.parametrize("runs", [3, 4])
def test_more_than_three_commands_of_a_run_card_open_on_demand(tmp_path, runs):
    small_project(tmp_path)
    (tmp_path / "results" / "paper").mkdir(parents=True)
    same = {"scale": "paper", "lr": 0.1, "formula": "ab", "workers": 0}
    record = {"scale": "paper", "runs": [{"parameters": same | {"seeds": [seed]}} for seed in range(runs)]}
    (tmp_path / "results" / "paper" / "01_x.json").write_text(json.dumps(record), encoding="utf-8")
    (tmp_path / "results" / "paper" / "01_x.csv").write_text("a\n1\n", encoding="utf-8")
    html, _ = build(tmp_path, "```{run-card} paper/01_x\n```", {})
    assert re.sub("<[^>]*>", "", html).count("python -m companion run notebooks/01_x.ipynb") == runs
    folded = re.search("<details><summary>The 4 commands that made the table</summary>(.*?)</details>", html, re.DOTALL)
    assert (folded is not None) == (runs == 4)
    assert folded is None or re.sub("<[^>]*>", "", folded[1]).count("sicore run") == 4


def test_the_command_of_a_run_card_leads_back_to_its_parameters(tmp_path):
    """What the shell makes of the line, read by the runner, is what had been run."""
    import shlex

    from companion.lab.runner import resolve, with_defaults

    small_project(tmp_path)
    wanted = {"scale": "quick", "seeds": [3, 4], "lr": 3e-05, "formula": "it's a^2 + ab", "workers": 0}
    words = shlex.split(run_card.command(tmp_path, "01_x", "quick", wanted))
    given = {words[i + 1]: words[i + 2] for i, word in enumerate(words) if word == "-p"}
    notebook = tmp_path / "notebooks" / "01_x.ipynb"
    assert with_defaults(notebook, resolve(notebook, [tmp_path / "params" / "quick.yaml"], given)) == wanted


def test_committed_records_have_a_command_that_leads_back_to_them():
    import shlex

    from companion.lab.runner import resolve, with_defaults

    checked = 0
    for path in sorted((ROOT / "results").glob("*/*.json")):
        notebook = ROOT / "notebooks" / f"{path.stem}.ipynb"
        record = json.loads(path.read_text(encoding="utf-8"))
        if not notebook.is_file():
            continue
        for run in record.get("runs") or [record]:
            words = shlex.split(run_card.command(ROOT, path.stem, record["scale"], run["parameters"]))
            given = {words[i + 1]: words[i + 2] for i, word in enumerate(words) if word == "-p"}
            files = [ROOT / words[i + 1] for i, word in enumerate(words) if word == "-f"]
            again = with_defaults(notebook, resolve(notebook, files, given))
            for name, value in run["parameters"].items():
                if name in again and name not in run_card.OF_THE_MACHINE:
                    assert again[name] == value, f"{path}: {name}"
                    checked += 1
    assert checked > 100


def test_the_card_of_a_page_says_when_and_at_which_scale_the_page_was_executed():
    papermill = {"start_time": "2026-11-21T15:56:06+00:00", "duration": 61.2, "parameters": {"scale": "quick"}}
    assert run_card.page_facts({"papermill": papermill}) == {
        "This page": "executed on 2026-11-21 at the quick scale, in 1 min 1 s"
    }
    assert run_card.page_facts({"papermill": papermill | {"parameters": {}}})["This page"].count("smoke scale")
    assert "not executed" in run_card.page_facts({"sicore": {"not_executed": True}})["This page"]
    assert run_card.page_facts({}) == {}


def test_every_notebook_has_its_card_below_the_question():
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert notebooks
    for path in notebooks:
        first = json.loads(path.read_text(encoding="utf-8"))["cells"][0]
        assert first["cell_type"] == "markdown"
        assert f"```{{run-card}} {path.stem}\n```" in "".join(first["source"]), path.name


def test_parameter_rows_say_same_where_a_scale_changes_nothing():
    parameters = [("n", "int", 2, "layers"), ("lr", "float", 0.1, "rate")]
    rows = parameters_table.table_rows(parameters, {"smoke": {}, "quick": {"n": 2}, "paper": {"n": 12}})
    assert rows == [["n", "int", "layers", "2", "same", "12"], ["lr", "float", "rate", "0.1", "same", "same"]]


def test_every_notebook_has_a_readable_parameters_cell():
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert notebooks
    for path in notebooks:
        for name, _, _, meaning in parameters_table.notebook_parameters(path):
            assert meaning, f"{path.name}: {name} has no meaning (a comment at the end of its line)"


def test_outside_assets_are_recognised():
    assert offline.is_outside("https://cdn.example/x.js")
    assert offline.is_outside("//cdn.example/x.css")
    assert offline.is_outside("_static/sphinx-thebe.js")
    assert not offline.is_outside("_static/mathjax/tex-svg.js")


# ---------------------------------------------------------------------------------------
# Pages, as written


def test_every_number_on_a_page_has_a_result():
    folder = ROOT / "results" / "quick"
    if not list(folder.glob("*.json")):
        pytest.skip("no results at the quick scale yet: run `make book`")
    known = {
        f"{scale}{path.stem}.{key}"
        for scale in ("", "paper/", "vit/")
        for path in (folder if not scale else ROOT / "results" / scale).glob("*.json")
        for key in json.loads(path.read_text(encoding="utf-8")).get("numbers", {})
    }
    asked = {
        (page.name, target) for page in BOOK.glob("*.md") for target in NUM.findall(page.read_text(encoding="utf-8"))
    }
    assert asked, "no page shows a result"
    missing = sorted(f"{page}: {target}" for page, target in asked if target not in known)
    assert not missing, f"no such number in the results: {missing}"


def test_every_cited_source_is_in_the_bibliography():
    entries = set(re.findall(r"^@\w+\{(\S+),", (BOOK / "references.bib").read_text(encoding="utf-8"), re.MULTILINE))
    pages = "".join(page.read_text(encoding="utf-8") for page in BOOK.glob("*.md"))
    assert set(re.findall(r"\{cite:[pt]\}`([^`]*)`", pages)) == entries


def test_the_tables_of_the_task_are_right():
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\d) \| (\d) \| (\d) \|$", (BOOK / "task.md").read_text(), re.MULTILINE)
    assert len(rows) == 6
    for a, b, *answers in [map(int, row) for row in rows]:
        computed = [
            int(Computation.parse(f)(torch.tensor(a), torch.tensor(b), 7)) for f in ("a^2 + ab", "2a^2", "2b^2")
        ]
        assert computed == answers
        assert len(set(answers)) == (1 if a == b else 3)


def test_the_code_for_your_own_model_runs(tmp_path):
    code = re.findall(r"```python\n(.*?)```", (BOOK / "own_model.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(code) == 2
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code)], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Subnetwork(")
    assert (tmp_path / "product.safetensors").is_file()


def test_the_pictures_of_the_method_are_what_their_script_draws(tmp_path):
    script = tmp_path / "figures" / "method.py"
    script.parent.mkdir()
    (tmp_path / "_static").mkdir()
    script.write_text((BOOK / "figures" / "method.py").read_text(encoding="utf-8"), encoding="utf-8")
    subprocess.run([sys.executable, str(script)], check=True)
    for drawn in (tmp_path / "_static").iterdir():
        assert drawn.read_text(encoding="utf-8") == (BOOK / "_static" / drawn.name).read_text(encoding="utf-8")


def test_citation_file_agrees_with_the_package():
    import tomllib

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (str(citation["version"]), citation["license"]) == (project["version"], project["license"])


# ---------------------------------------------------------------------------------------
# Pages, as built


class Page(HTMLParser):
    """What a page loads, links to, offers as targets, and shows as images."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.images: list[dict[str, str | None]] = []
        self.styles: list[str] = []
        self.scripts: list[str] = []
        self.inside = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.inside = tag
        self.ids |= {given[name] or "" for name in ("id", "name") if name in given}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"] or "")
        if tag == "img":
            self.images.append(given)
        if tag == "link" and not {"canonical", "next", "prev", "search", "index", "author"} & set(
            (given.get("rel") or "").split()
        ):
            self.loads.append(given.get("href") or "")
        for name in ("src", "poster", "data"):
            if given.get(name):
                self.loads.append(given[name] or "")
        self.loads += [part.split()[0] for part in (given.get("srcset") or "").split(",") if part.strip()]
        self.styles.append(given.get("style") or "")

    def handle_data(self, data: str) -> None:
        if self.inside in ("style", "script"):
            (self.styles if self.inside == "style" else self.scripts).append(data)

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""


def css_loads(text: str) -> list[str]:
    """Addresses that a style sheet loads, by ``url()`` or ``@import``."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    found = re.findall(r"url\(\s*[\"']?(.*?)[\"']?\s*\)|@import\s+[\"'](.*?)[\"']", text)
    return [address for pair in found for address in pair if address]


def is_outside(address: str) -> bool:
    return address.strip().startswith(("http:", "https:", "//"))


@pytest.fixture(scope="module")
def pages(html) -> dict[Path, Page]:
    found = {path: Page(path) for path in sorted(html.rglob("*.html")) if "_static" not in path.parts}
    assert len(found) > 10
    return found


def test_built_pages_load_nothing_from_outside(html, pages):
    found = [
        f"{path.relative_to(html)}: {address}"
        for path, page in pages.items()
        for address in page.loads + [address for style in page.styles for address in css_loads(style)]
        if is_outside(address)
    ]
    sheets = {path: css_loads(path.read_text(encoding="utf-8")) for path in html.rglob("*.css")}
    found += [
        f"{path.relative_to(html)}: {address}"
        for path, all_ in sheets.items()
        for address in all_
        if is_outside(address)
    ]
    assert not found
    for path, page in pages.items():
        for script in page.scripts:
            assert "https://" not in script, f"{path}: an inline script names an outside address"


def test_every_experiments_page_has_one_run_card_with_its_command(html, pages):
    for source in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text = (html / "book" / "runs" / f"{source.stem}.html").read_text(encoding="utf-8")
        (card,) = re.findall(r'<div class="run-card.*?</details>.*?</div>', text, re.DOTALL)
        words = re.sub("<[^>]*>", "", card)
        assert f"python -m companion run notebooks/{source.name} -f params/quick.yaml" in words
        for label in ("Scale", "Seeds", "Device", "Commit", "Versions", "Wall time"):
            assert label in words, f"{source.stem}: no {label}"
        assert "parameters" in words


def test_built_images_have_text_for_those_who_cannot_see_them(html, pages):
    found = [
        f"{path.relative_to(html)}: {image.get('src')}"[:120]
        for path, page in pages.items()
        for image in page.images
        # A picture without a text gets its file's name, which says nothing.
        if not (image.get("alt") or "").strip() or re.search(r"\.(png|svg|jpe?g)$", image["alt"] or "")
    ]
    assert not found


def test_built_links_and_loads_lead_somewhere(html, pages):
    broken = []
    for path, page in pages.items():
        for address in page.links + page.loads:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc or address.startswith("data:"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchors = pages[target].ids if target in pages else {parts.fragment}
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in anchors):
                broken.append(f"{path.relative_to(html)}: {address}")
    assert not broken
