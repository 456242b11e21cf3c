"""Pages for notebooks that were not executed here: their text and code, with the committed figures.

    python workflow/pages.py [--scale quick]

For every notebook without an executed copy in book/runs, a page is written there: the
notebook as it is, and below the cell that draws a figure the picture that lies in
results/<scale>, with the cell's own caption. An executed copy is never touched, and takes
the page's place as soon as there is one.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from companion.lab.project import project_root
from companion.lab.tables import folder
from sicore.files import write_text

NOTE = """```{{note}}
This page shows the notebook's text and code. It was not executed where this book was built, so the tables and
sentences that it computes are not here. Figures are those that were kept from the {scale} run.
`make book` executes it.
```"""


PLACES = {"04_depths": "fig-depths-paper", "06_variants_subnetworks": "fig-shared"}
"""Kept figure -> the notebook's name for it, where the rule of :func:`page` does not find it."""


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
    metadata = {**notebook["metadata"], "sicore": {"not_executed": True}}
    return {**notebook, "cells": cells, "metadata": metadata}


def _markdown(identity: str, text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": identity, "metadata": {}, "source": text}


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="quick", help="whose figures are shown")
    given = parser.parse_args(words)
    target, results = project_root() / "book" / "runs", folder(given.scale)
    for source in sorted((project_root() / "notebooks").glob("*.ipynb")):
        if not (results / f"{source.stem}.json").is_file():
            print(
                f"pages: no results/{given.scale}/{source.stem}.json: run notebooks/{source.name} first",
                file=sys.stderr,
            )
            return 2
        copy = target / source.name
        if copy.is_file() and "not_executed" not in json.loads(copy.read_text("utf-8"))["metadata"].get("sicore", {}):
            continue
        figures = {
            PLACES.get(path.stem, path.stem.removeprefix(source.stem)): f"../../results/{given.scale}/{path.name}"
            for path in results.glob(f"{source.stem}*.png")
        }
        shown = page(json.loads(source.read_text(encoding="utf-8")), figures, given.scale)
        write_text(copy, json.dumps(shown, indent=1, ensure_ascii=False) + "\n")
        print(f"{copy}: not executed, {len(figures)} kept figures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
