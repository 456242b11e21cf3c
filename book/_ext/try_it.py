"""The directives ``{try-it}`` and ``{own-results}``: what the pages for the reader's own tries need.

Both write a place for a script, with the data that it shows in the page as JSON. The scripts
are ``try.js`` and ``own.js`` in ``book/_static``; they load nothing and send nothing. A reader
whose browser runs no scripts is told so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from docutils import nodes
from live_figure import embedded
from reference import read
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from companion.arithmetic.starts import CONDITIONS
from companion.compare.statistics import least_seeds, span
from companion.compare.texts import over_seeds

NETWORKS: tuple[tuple[str, str, dict[str, str], tuple[str, str, str]], ...] = (
    ("trained on ordinary pictures, new last layer", "09_shape_subnetwork", {"network": "pretrained"},
     ("head_mean_pooled", "head_ordinary", "shape_bias")),
    ("its subnetwork for shape, by itself", "09_shape_subnetwork", {"network": "pretrained"},
     ("subnetwork_mean_pooled", "subnetwork_ordinary", "")),
    *((label, "10_shape_transfer", {"condition": condition},
       ("accuracy_mean_pooled", "accuracy_ordinary", "shape_bias"))
      for label, condition in (
          ("new network with that subnetwork", "subnetwork"),
          ("new network from scratch", "scratch"),
          ("all weights taken over, fine-tuned", "fine_tuning"),
          ("fine-tuned on a mixture with mean-pooled pictures", "mixture_1_to_1"),
      )),
)  # fmt: skip
"""What is shown beside the reader: label, table, its rows, its columns for the three scores."""

CURVES = {"quick": "03_transfer", "paper": "04_depths"}
"""Scale -> the table whose curves stand beside the reader's own."""

COLUMNS = ("start", "condition", "behaviour", "n_layer", "n_disambiguation", "seed", "test_accuracy")
"""What a table of the reader must have."""


def networks(tables: Mapping[str, pd.DataFrame]) -> list[tuple[str, list[str], int]]:
    """Label, the three scores as text ("" for none), and number of seeds, of every network of the tables."""
    rows = []
    for label, name, where, columns in NETWORKS:
        table = tables[name]
        for column, value in where.items():
            table = table[table[column] == value]
        if table.empty:
            raise ValueError(f"{name} has no row with {where}")
        rows.append((label, [over_seeds(table[column].tolist()) if column else "" for column in columns], len(table)))
    return rows


def curves(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The mean accuracy of every start and depth in a table, over seeds.

    Returns
    -------
    list
        ``start``, ``label``, ``colour``, ``n_layer``, and ``points``: number of samples, mean and two ends
        (:func:`companion.compare.statistics.span`; None for one seed), number of seeds.
    """
    table = table.dropna(subset=["test_accuracy"])  # of runs that diverged
    point = ["n_disambiguation", "start", "condition", "behaviour", "n_layer"]
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for (count, start, _, _, depth), rows in table.groupby(point, dropna=False):
        known = CONDITIONS.get(str(start))
        label, colour = (known.label, known.colour) if known else (str(start).replace("_", " "), "#666666")
        line = found.setdefault(
            (str(start), int(depth)),
            {"start": start, "label": label, "colour": colour, "n_layer": int(depth), "points": []},
        )
        mean, *ends, seeds = span(rows["test_accuracy"].tolist(), (0.0, 1.0), int(depth))
        shown = [None if math.isnan(end) else round(end, 4) for end in ends]
        line["points"].append([int(count), round(mean, 4), *shown, seeds])
    return list(found.values())


def place(identity: str, script: str, data: dict[str, Any], docname: str) -> nodes.raw:
    """An element that a script fills, with its data. What stands there before is seen when scripts are off."""
    up = "../" * docname.count("/")
    return nodes.raw(
        "",
        f'<div id="{identity}" class="own-try" data-static="{up}_static/"><div class="panel">'
        "<p><strong>This part of the page needs scripts, and your browser runs none.</strong> "
        "The text around it can be read without.</p></div></div>\n"
        f'<script type="application/json" id="{identity}-data">{embedded(data)}</script>\n'
        f'<script src="{up}_static/{script}" defer></script>',
        format="html",
    )


class TryIt(SphinxDirective):
    """Pictures for the reader to name, and the networks' scores beside the reader's."""

    def run(self) -> list[nodes.Node]:
        root = Path(self.env.srcdir)
        pictures = root / "book" / "_static" / "try_pictures.json"
        self.env.note_dependency(str(pictures))
        tables = {name: read(self.env, f"quick/{name}") for name in {name for _, name, _, _ in NETWORKS}}
        body = "".join(
            f'<tr><th scope="row">{escape(label)}</th>'
            + "".join(f"<td>{text or '–'}</td>" for text in texts)
            + f"<td>{seeds}</td></tr>"
            for label, texts, seeds in networks(tables)
        )
        table = (
            '<div class="pst-scrollable-table-container"><table class="table" id="try-scores">'
            "<caption><span>Share of pictures named rightly, and shape bias. Networks: means over seeds "
            "with their 95 % interval; of few seeds, the seeds themselves.</span></caption><thead><tr>"
            '<th scope="col">who</th><th scope="col">mean-pooled</th><th scope="col">ordinary</th>'
            '<th scope="col">shape bias</th><th scope="col">seeds</th></tr></thead>'
            '<tbody><tr id="try-you" hidden><th scope="row">you</th><td></td><td></td><td></td><td>–</td></tr>'
            f"{body}</tbody></table></div>"
        )
        data = json.loads(pictures.read_text(encoding="utf-8"))
        return [
            place("try", "try.js", data, self.env.docname),
            nodes.raw("", table, format="html"),
        ]


class OwnResults(SphinxDirective):
    """The book's curves, and the reader's beside them."""

    def run(self) -> list[nodes.Node]:
        lines = {scale: curves(read(self.env, f"{scale}/{name}")) for scale, name in CURVES.items()}
        data = {
            "columns": COLUMNS, "tables": CURVES, "book": lines,
            "least": least_seeds(), "deep": 6, "fewest": least_seeds(6),
        }  # fmt: skip
        return [place("own", "own.js", data, self.env.docname)]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register both directives."""
    app.setup_extension("reference")
    app.add_directive("try-it", TryIt)
    app.add_directive("own-results", OwnResults)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
