"""The directive ``{notebook-parameters}``: every parameter of every notebook, at every scale.

Names, types, meanings and the values at the smoke scale are read from the cell tagged
``parameters`` of ``notebooks/*.ipynb``, the other values from ``params/*.yaml``. The cell
is parsed, never executed.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from cell_role import logger
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from companion.lab.runner import parameters_of, read_yaml


def notebook_parameters(path: Path) -> list[tuple[str, str, Any, str]]:
    """Name, type, default and meaning of a notebook's parameters."""
    found = parameters_of(path).items()
    return [(name, entry["type"], ast.literal_eval(entry["default"]), entry["help"]) for name, entry in found]


def table_rows(parameters: list[tuple[str, str, Any, str]], scales: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Name, type, meaning, then a value per scale; "same" where the first scale's value stands."""
    rows = []
    for name, kind, default, meaning in parameters:
        first, *others = [values.get(name, default) for values in scales.values()]
        texts = ["same" if value == first else repr(value) for value in others]
        rows.append([name, kind, meaning, repr(first), *texts])
    return rows


def table(header: list[str], rows: list[list[str]]) -> nodes.table:
    """A docutils table; all but headings, meanings and "same" as code."""

    def row(cells: list[str], plain: bool) -> nodes.row:
        kinds = [nodes.inline if plain or i == 2 or text == "same" else nodes.literal for i, text in enumerate(cells)]
        paragraphs = [nodes.paragraph("", "", kind(text, text)) for kind, text in zip(kinds, cells, strict=True)]
        return nodes.row("", *(nodes.entry("", paragraph) for paragraph in paragraphs))

    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in header), cols=len(header))
    group += nodes.thead("", row(header, plain=True))
    group += nodes.tbody("", *(row(cells, plain=False) for cells in rows))
    return nodes.table("", group, classes=["parameters"])


class ParametersTable(SphinxDirective):
    """One table per notebook, without what stands in an earlier one."""

    def run(self) -> list[nodes.Node]:
        root, scales, found, seen = Path(self.env.srcdir), {}, [], set()
        files = [root / "params" / f"{scale}.yaml" for scale in ("smoke", "quick", "paper")]
        notebooks = sorted((root / "notebooks").glob("*.ipynb"))
        for path in (*files, *notebooks):
            self.env.note_dependency(str(path))
        for path in files:
            scales[path.stem] = read_yaml(path, "parameter file") or {}
        for path in notebooks:
            try:
                rows = table_rows(notebook_parameters(path), scales)
            except ValueError as error:
                logger.warning("%s: %s", path.name, error, location=self.get_location(), type="num")
                continue
            new = [row for row in rows if tuple(row) not in seen]
            seen.update(map(tuple, new))
            found.append(nodes.rubric("", path.name))
            if len(new) < len(rows):
                found.append(nodes.paragraph("", f"{len(rows) - len(new)} parameters as above, and:"))
            found.append(table(["name", "type", "meaning", *scales], new))
        return found


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("notebook-parameters", ParametersTable)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
