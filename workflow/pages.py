"""Pages for notebooks that were not executed here: their text and code, with the committed figures.

    python workflow/pages.py [--scale quick]

For every notebook without an executed copy in book/runs, a page is written there: the
notebook as it is, and below the cell that draws a figure the picture that lies with its
table in results/<scale>, with the cell's own caption; of a notebook whose tables are of
another scale, those. An executed copy is never touched, and takes the page's place as
soon as there is one. A notebook that writes no table only reads the committed ones, which
takes seconds: it is executed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from companion.lab.project import project_root
from companion.lab.runner import run
from companion.lab.tables import names
from sicore.files import write_text

NOTE = """```{{note}}
This page shows the notebook's text and code. It was not executed where this book was built, so the tables and
sentences that it computes are not here. Figures are those that were kept from the {scale} run.
`make book` executes it.
```"""


PLACES = {"06_variants_subnetworks": "fig-shared"}
"""Kept figure -> the notebook's name for it, where the rule of :func:`page` does not find it."""


def kept(root: Path, scale: str) -> dict[str, dict[str, str]]:
    """Notebook -> its kept figures of a scale, as :func:`page` takes them; of those that have a table there."""
    notebooks = [path.stem for path in (root / "notebooks").glob("*.ipynb")]
    found: dict[str, dict[str, str]] = {name: {} for name in notebooks if name in names(scale, root=root / "results")}
    for path in sorted((root / "results" / scale).glob("*/*.png")):
        own = max((name for name in notebooks if path.stem.startswith(name)), key=len, default="")
        figure = PLACES.get(path.stem, path.stem.removeprefix(own))
        found.setdefault(own, {})[figure] = f"../../{path.relative_to(root).as_posix()}"
    return found


def page(notebook: dict[str, Any], figures: dict[str, str], scale: str) -> dict[str, Any]:
    """A notebook with a note below its title and kept figures below the cells that draw them.

    Parameters
    ----------
    notebook
        The source, as in its file.
    figures
        Name of the figure in the notebook, ``fig-held``, or the end of it, ``_held``; ``""``
        for the first one -> path of the picture from the page.
    scale
        The figures' scale.

    Raises
    ------
    ValueError
        Naming a figure that no cell draws.
    """
    names = {
        i: cell["metadata"]["mystnb"]["figure"]["name"]
        for i, cell in enumerate(notebook["cells"])
        if "figure" in cell["metadata"].get("mystnb", {})
    }
    place: dict[int, str] = {}
    for figure, path in figures.items():
        drawn = [i for i, name in names.items() if name.endswith(figure.replace("_", "-"))]
        if not drawn:
            raise ValueError(
                f"{path}: no cell draws {figure!r}; the notebook has {', '.join(names.values()) or 'none'}"
            )
        place[drawn[0]] = path
    cells = []
    for i, cell in enumerate(notebook["cells"]):
        cells.append(cell)
        if i == 0:
            cells.append(_markdown("not-executed", NOTE.format(scale=scale)))
        if i in place:
            shown = cell["metadata"]["mystnb"]
            # As a quoted text: a colon in it would start another option.
            alt = json.dumps(shown["image"]["alt"], ensure_ascii=False)
            options = f":name: {shown['figure']['name']}\n:alt: {alt}"
            cells.append(
                _markdown(f"kept-{i}", f"```{{figure}} {place[i]}\n{options}\n\n{shown['figure']['caption']}\n```")
            )
    metadata = {**notebook["metadata"], "companion": {"not_executed": True}}
    return {**notebook, "cells": cells, "metadata": metadata}


def _markdown(identity: str, text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": identity, "metadata": {}, "source": text}


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="quick", help="whose figures are shown")
    given = parser.parse_args(words)
    root = project_root()
    others = sorted(path.name for path in (root / "results").glob("*") if path.is_dir() and path.name != given.scale)
    scales = {scale: kept(root, scale) for scale in (given.scale, *others)}
    for source in sorted((root / "notebooks").glob("*.ipynb")):
        if "tables.read(" in (text := source.read_text(encoding="utf-8")) and "tables.write(" not in text:
            copy, now = run(source, given={"scale": given.scale}, output=root / "book" / "runs", if_changed=True)
            print(f"{copy}: {'executed' if now else 'up to date'}")
            continue
        scale = next((scale for scale, found in scales.items() if source.stem in found), None)
        if scale is None:
            print(
                f"pages: no results/{given.scale}/{source.stem}: run notebooks/{source.name} with --reference first",
                file=sys.stderr,
            )
            return 2
        copy, figures = root / "book" / "runs" / source.name, scales[scale][source.stem]
        if copy.is_file():
            told = json.loads(copy.read_text(encoding="utf-8"))["metadata"].get("companion", {})
            if told.get("mark"):  # executed, by the runner
                continue
        shown = page(json.loads(text), figures, scale)
        write_text(copy, json.dumps(shown, indent=1, ensure_ascii=False) + "\n")
        print(f"{copy}: not executed, {len(figures)} kept figures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
