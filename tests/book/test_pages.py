"""Pages of notebooks that were not executed: text, code, and the figures that are kept with the reference."""

import json
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "workflow"))

import pages  # noqa: E402


def test_kept_figures_stand_below_the_cells_that_draw_them():
    def drawing(name):
        return {
            "cell_type": "code", "source": name, "outputs": [], "execution_count": None,
            "metadata": {"mystnb": {"figure": {"caption": f"About {name}.", "name": name}, "image": {"alt": "text"}}},
        }  # fmt: skip

    source = {"metadata": {}, "cells": [{"cell_type": "markdown", "metadata": {}, "source": "# Title"}]}
    source["cells"] += [drawing("fig-first"), drawing("fig-held"), drawing("fig-last")]
    shown = pages.page(source, {"_held": "h.png", "": "u.png"}, "quick")["cells"]
    text = [cell["source"] for cell in shown]
    assert text[0] == "# Title"
    assert "not executed" in text[1]
    assert text[2] == "fig-first"
    assert text[3].startswith('```{figure} u.png\n:name: fig-first\n:alt: "text"\n\nAbout fig-first.')
    assert (text[4], text[5].split("\n")[0], text[6]) == ("fig-held", "```{figure} h.png", "fig-last")
    assert len(shown) == 7
    with pytest.raises(
        ValueError, match=r"x\.png: no cell draws '_lost'; the notebook has fig-first, fig-held, fig-last"
    ):
        pages.page(source, {"_lost": "x.png"}, "quick")


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A project as after `git clone`: nothing was executed."""
    for name in ("notebooks", "results"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.setenv("COMPANION_HOME", str(tmp_path))
    monkeypatch.delenv("COMPANION_TABLES", raising=False)

    def run(notebook, *, given, output, if_changed):  # in place of half a minute
        assert if_changed
        output.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(notebook, output)), True

    monkeypatch.setattr(pages, "run", run)
    return tmp_path


def shown(root):
    """Notebook -> the text of its page."""
    return {
        path.stem: "\n".join(cell["source"] for cell in nbformat.read(path, as_version=4).cells)
        for path in (root / "book" / "runs").glob("*.ipynb")
    }


@pytest.mark.parametrize("scale", ["quick", "paper"])
def test_every_notebook_has_a_page_and_every_kept_figure_of_the_scale_its_place(clone, scale):
    assert pages.main(["--scale", scale]) == 0
    text = shown(clone)
    assert set(text) == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert [name for name, page in text.items() if "was not executed" not in page] == ["12_published"]
    placed = [path for page in text.values() for path in re.findall(r"^```\{figure\} (\S+)", page, re.MULTILINE)]
    kept = {str(path.relative_to(ROOT)) for path in (ROOT / "results" / scale).rglob("*.png")}
    here = sorted(path.removeprefix("../../") for path in placed if f"/{scale}/" in path)
    assert here == sorted(kept), "once each"
    assert all((clone / path.removeprefix("../../")).is_file() for path in placed)


def test_an_executed_notebook_stays_the_page(clone):
    executed = nbformat.read(ROOT / "notebooks" / "01_base_model.ipynb", as_version=4)
    executed.metadata["companion"] = {"mark": "m"}
    executed.cells.append(nbformat.v4.new_markdown_cell("This ran here."))
    (clone / "book" / "runs").mkdir(parents=True)
    nbformat.write(executed, clone / "book" / "runs" / "01_base_model.ipynb")
    for _ in range(2):  # the second time the pages are there
        assert pages.main([]) == 0
        text = shown(clone)["01_base_model"]
        assert "This ran here." in text
        assert "was not executed" not in text


def test_a_notebook_without_a_table_is_named(clone, capsys):
    (clone / "notebooks").unlink()
    (clone / "notebooks").mkdir()
    source = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (clone / "notebooks" / "99_new.ipynb").write_text(json.dumps(source))
    assert pages.main([]) == 2
    assert "run notebooks/99_new.ipynb with --reference first" in capsys.readouterr().err
