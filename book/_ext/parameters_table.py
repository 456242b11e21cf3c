"""The directive ``{notebook-parameters}``: every parameter of every notebook, at every scale.

Names, types, meanings and the values at the smoke scale are read from the cell tagged
``parameters`` of ``notebooks/*.ipynb``, the other values from ``params/*.yaml``. The cell
is parsed, never executed.
"""

from __future__ import annotations

import ast
import io
import json
import tokenize
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from numbers_role import logger
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def parse_cell(source: str) -> list[tuple[str, str, Any, str]]:
    """Name, type, value, meaning of the parameters in a cell; ``ValueError`` names a line of another form."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    found = []
    for line in ast.parse(source).body:
        try:
            kind, value = ast.unparse(line.annotation), ast.literal_eval(line.value)  # type: ignore[attr-defined]
        except (AttributeError, ValueError) as error:
            text = ast.get_source_segment(source, line)
            raise ValueError(f"{text!r} is not of the form 'name: type = literal  # meaning'") from error
        found.append((ast.unparse(line.target), kind, value, comments.get(line.end_lineno or 0, "")))
    return found


def notebook_parameters(path: Path) -> list[tuple[str, str, Any, str]]:
    """The parameters of a notebook, from its one cell tagged ``parameters``."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    tagged = [cell for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"{path.name}: {len(tagged)} cells are tagged 'parameters', expected one")
    return parse_cell("".join(tagged[0]["source"]))


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
            scales[path.stem] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
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
