"""The book: its extensions, its numbers, its code, and its HTML, built for the tests."""

from __future__ import annotations

import itertools
import json
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pandas as pd
import pytest
import torch
import yaml

from companion.arithmetic.task import Computation
from companion.lab import tables

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "book"
sys.path.insert(0, str(BOOK / "_ext"))

import offline  # noqa: E402
import parameters_table  # noqa: E402
import run_card  # noqa: E402

# ---------------------------------------------------------------------------------------
# Extensions, on small inputs


def write_part(results: Path, name: str, csv: str = "a\n1\n", part: str = "000", **record: Any) -> None:
    """A part of a table of the reference, ``<scale>/<table>``."""
    rows = csv.splitlines()
    (results / name).mkdir(parents=True, exist_ok=True)
    (results / name / f"{part}.csv").write_text(csv, encoding="utf-8")
    told = {
        "scale": name.split("/")[0], "rows": len(rows) - 1, "columns": rows[0].split(","), "keys": [],
        "parameters": {}, "makers": None,
    }  # fmt: skip
    (results / name / f"{part}.json").write_text(json.dumps(told | record), encoding="utf-8")


def build(folder: Path, page: str, *, table: bool = False, extensions: Sequence[str] = ()) -> tuple[str, str]:
    """Build one page with the book's extensions, and others, and a table 01_x; its HTML and the warnings."""
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    (folder / "book" / "runs").mkdir(parents=True, exist_ok=True)
    (folder / "results" / "quick").mkdir(parents=True, exist_ok=True)
    (folder / "index.md").write_text(f"# Page\n\n{page}\n\n```{{toctree}}\nbook/runs/01_x\n```\n", encoding="utf-8")
    (folder / "book" / "runs" / "01_x.md").write_text("# Notebook\n", encoding="utf-8")
    if table:
        write_part(folder / "results", "quick/01_x", seeds=[0, 1], device="cpu", wall_seconds=75.0, commit="abc")
    extensions = ["myst_parser", "cell_role", "run_card", "parameters_table", "offline", *extensions]
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


def test_a_scale_in_front_of_a_name_is_that_of_the_card(tmp_path):
    for part in ("000", "001"):
        csv = f"a\n{part}\n"
        write_part(tmp_path / "results", "paper/01_x", csv, part, keys=["a"], seeds=[0])
    html, warnings = build(tmp_path, "```{run-card} paper/01_x\n```", table=True)
    assert warnings == ""
    text = re.sub("<[^>]*>", "", html)
    assert "-f params/paper.yaml" in text
    assert "2, joined into one table" in text


def test_missing_result_warns_with_the_fix(tmp_path):
    _, warnings = build(tmp_path, "```{run-card} 01_x\n```")
    assert "index.md:3" in warnings
    assert "Run notebooks/01_x.ipynb" in warnings


def test_run_card_has_facts_command_and_downloads(tmp_path):
    html, warnings = build(tmp_path, "```{run-card} 01_x\n```", table=True)
    assert warnings == ""
    assert "1 min 15 s" in html
    assert "python -m companion run notebooks/01_x.ipynb -f params/quick.yaml" in re.sub("<[^>]*>", "", html)
    assert len(re.findall(r'href="_downloads/[^"]*/01_x\.(?:csv|json)"', html)) == 2


def test_downloads_are_the_joined_table_and_its_record(tmp_path):
    for part in ("000", "001"):
        write_part(tmp_path / "results", "quick/02_x", f"seed,score\n{int(part)},0.5\n", part, keys=["seed"])
    html, warnings = build(tmp_path, "```{run-card} 02_x\n```", table=True)
    assert warnings == ""
    csv, record = (
        (tmp_path / "out" / place).read_text(encoding="utf-8")
        for place in re.findall(r'href="(_downloads/[^"]*/02_x\.(?:csv|json))"', html)
    )
    assert csv == "seed,score,run\n0,0.5,0\n1,0.5,1\n"
    assert [run["part"] for run in json.loads(record)["runs"]] == ["000", "001"]


def test_a_page_is_built_again_when_a_part_is_added(tmp_path):
    page = "```{run-card} 01_x\n```"
    assert "joined into one table" not in build(tmp_path, page, table=True)[0]
    write_part(tmp_path / "results", "quick/01_x", "a\n2\n", "001", keys=["a"])
    assert "2, joined into one table" in build(tmp_path, page)[0]


def test_run_card_adds_up_the_seconds_of_training():
    assert run_card.trained_for(pd.DataFrame({"seed": [0, 1, 2], "seconds": [1.5, math.nan, 2]})) == 3.5
    assert run_card.trained_for(pd.DataFrame({"seed": [0], "accuracy": [1]})) == 0


def maker(kind="base", **known):
    versions = {"python": "3.11", "torch": "2.15"}
    return {
        "kind": kind, "commit": "0123456789abc", "changed_since_commit": False, "device": "CPU, X", "objects": 2,
        "versions": versions, "seconds": 60.0, "first": "2026-11-20T10:00:00Z", "last": "2026-11-20T11:00:00Z",
    } | known  # fmt: skip


def test_run_card_says_who_made_the_networks_that_the_runs_have_read():
    runs = [
        {"makers": [maker(), maker("vision_mask", last="2026-11-22T10:00:00Z")]},
        {"makers": [maker(objects=3, seconds=1.0), maker(device="GPU", first="2026-12-01", last="2026-12-01")]},
        {"makers": [maker(commit=None, device=None, versions=None, first=None, last=None)]},
    ]
    who = "commit 0123456789"
    assert set(run_card.made(runs)) == {
        f"2 objects (base; 1 min 0 s): {run_card.UNKNOWN}",
        f"2 objects (base; 1 min 0 s): {who}; GPU; python 3.11, torch 2.15; 2026-12-01",
        f"7 objects (base, vision mask; 2 min 1 s): {who}; CPU, X; python 3.11, torch 2.15; 2026-11-20 to 2026-11-22",
    }
    assert run_card.made([{"makers": None}, *runs[:1]])[-1] == f"of 1 of 2 runs {run_card.UNKNOWN}"
    assert run_card.made([{"makers": []}]) == []


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
    (tmp_path / "params" / "reference.yaml").write_text("seeds: [5, 6]\n", encoding="utf-8")
    assert run_card.command(tmp_path, "01_x", "quick", same) == line
    assert run_card.command(tmp_path, "01_x", "quick", same | {"seeds": [5, 6]}) == f"{line} -f params/reference.yaml"
    assert run_card.command(tmp_path, "01_x", "mine", same | {"scale": "mine"}) == (
        "python -m companion run notebooks/01_x.ipynb -p scale mine -p seeds '[0, 1, 2]'"
    )


@pytest.mark.parametrize("runs", [3, 4])
def test_more_than_three_commands_of_a_run_card_open_on_demand(tmp_path, runs):
    small_project(tmp_path)
    same = {"scale": "paper", "lr": 0.1, "formula": "ab", "workers": 0}
    for seed in range(runs):
        parameters = same | {"seeds": [seed]}
        write_part(tmp_path / "results", "paper/01_x", f"a\n{seed}\n", f"{seed:03d}", keys=["a"], parameters=parameters)
    html, _ = build(tmp_path, "```{run-card} paper/01_x\n```", table=True)
    assert re.sub("<[^>]*>", "", html).count("python -m companion run notebooks/01_x.ipynb") == runs
    folded = re.search("<details><summary>The 4 commands that made the table</summary>(.*?)</details>", html, re.DOTALL)
    assert (folded is not None) == (runs == 4)
    assert folded is None or re.sub("<[^>]*>", "", folded[1]).count("companion run") == 4


def test_the_command_of_a_run_card_leads_back_to_its_parameters(tmp_path):
    """What the shell makes of the line, read by the runner, is what had been run."""
    import shlex

    from companion.lab.runner import resolve, with_defaults

    small_project(tmp_path)
    wanted = {"scale": "quick", "seeds": [3, 4], "lr": 3e-05, "formula": "it's a^2 + ab", "workers": 0}
    words = shlex.split(run_card.command(tmp_path, "01_x", "quick", wanted))
    typed = [(words[i + 1], words[i + 2]) for i, word in enumerate(words) if word == "-p"]
    notebook = tmp_path / "notebooks" / "01_x.ipynb"
    assert with_defaults(notebook, resolve(notebook, [tmp_path / "params" / "quick.yaml"], typed=typed)) == wanted


def test_committed_records_have_a_command_that_leads_back_to_them():
    import shlex

    from companion.lab.runner import resolve, with_defaults

    checked = 0
    for notebook, scale in itertools.product(sorted((ROOT / "notebooks").glob("*.ipynb")), ("quick", "paper", "vit")):
        if notebook.stem not in tables.names(scale, root=ROOT / "results"):
            continue
        for run in tables.record(notebook.stem, scale, root=ROOT / "results")["runs"]:
            words = shlex.split(run_card.command(ROOT, notebook.stem, scale, run["parameters"]))
            typed = [(words[i + 1], words[i + 2]) for i, word in enumerate(words) if word == "-p"]
            files = [ROOT / words[i + 1] for i, word in enumerate(words) if word == "-f"]
            again = with_defaults(notebook, resolve(notebook, files, typed=typed))
            for name, value in run["parameters"].items():
                if name in again and name not in run_card.OF_THE_MACHINE:
                    assert again[name] == value, f"{scale}/{notebook.stem}: {name}"
                    checked += 1
    assert checked > 100


def test_the_card_of_a_page_says_when_and_at_which_scale_the_page_was_executed():
    papermill = {"start_time": "2026-11-21T15:56:06+00:00", "duration": 61.2, "parameters": {"scale": "quick"}}
    assert run_card.page_facts({"papermill": papermill}) == {
        "This page": "executed on 2026-11-21 at the quick scale, in 1 min 1 s"
    }
    assert run_card.page_facts({"papermill": papermill | {"parameters": {}}})["This page"].count("smoke scale")
    assert "not executed" in run_card.page_facts({"companion": {"not_executed": True}})["This page"]
    assert run_card.page_facts({}) == {}


CARDS = {"12_published": "paper/04_depths"}
"""Notebook without a table of its own -> the table that it shows."""


def test_every_notebook_has_its_card_below_the_question():
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert notebooks
    for path in notebooks:
        first = json.loads(path.read_text(encoding="utf-8"))["cells"][0]
        assert first["cell_type"] == "markdown"
        assert f"```{{run-card}} {CARDS.get(path.stem, path.stem)}\n```" in "".join(first["source"]), path.name


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
    assert len(code) == 7
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code)], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "the mask of model 0 is empty" in done.stdout
    assert "the mask of model 0 is full" in done.stdout
    kept = re.findall(r"Subnetwork\(.* ([\d.]+)%,", done.stdout)
    assert len(kept) == 4, "one of the paper's family, one of the page's own, one of a set size, one in transplant"
    assert [float(share) for share in kept[2:]] == pytest.approx([10, 20], abs=1.0)
    assert "was asked for" not in done.stderr
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
        scale, _, table = CARDS.get(source.stem, f"quick/{source.stem}").partition("/")
        assert f"python -m companion run notebooks/{table}.ipynb -f params/{scale}.yaml" in words
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
