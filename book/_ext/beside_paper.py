"""What the page "At the paper's scale" shows of the runs there: tables and a picture, made when a build begins.

They are made from ``results/paper/04_depths`` and the paper's curves, and lie in ``_build/beside_paper``. The page
includes them, as in ``:file: ../_build/beside_paper/five_runs.csv``, and is read again after a new part of the table.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from reference import keep
from sphinx.application import Sphinx

from companion.compare import published, shown
from companion.lab import tables

FOLDER = Path("_build/beside_paper")
"""From the book's root."""


def contents(results: Path) -> dict[str, bytes]:
    """File -> what is in it; nothing where there are no runs."""
    runs, masks = (tables.find(name, "paper", root=results) for name in ("04_depths", "04_depths_masks"))
    if runs is None or masks is None:
        return {}
    found = {
        "what_ran": shown.what_ran(runs, masks), "five_runs": shown.five_runs(runs),
        "over_depths": shown.over_depths(runs), "depth_leads": shown.depth_leads(runs),
    }  # fmt: skip
    texts = {f"{name}.csv": table.to_csv(index=False).encode() for name, table in found.items()}

    import matplotlib as mpl  # slow to import, and needed only where there are runs

    mpl.use("Agg")
    from companion import figures
    from companion.arithmetic.starts import MAIN

    pictured = [name for name in MAIN if name != "inherited_only"]  # which has few points
    picture = io.BytesIO()
    with mpl.rc_context():
        figures.house_style()
        figure = figures.depth_curves(runs, pictured, paper=published.curves())
        figure.savefig(picture, format="png", dpi=160, metadata={"Software": None})
    figures.close()
    return {**texts, "curves.png": picture.getvalue()}


def write(app: Sphinx) -> None:
    """Write what is not there as it is; remove what has gone."""
    root = Path(app.srcdir)
    keep(root, FOLDER, lambda: contents(root / "results"))


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", write)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
