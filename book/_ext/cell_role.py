"""The role ``{cell}``: a number in prose, looked up from a result table.

``{cell}`03_transfer test_accuracy start=subnetwork n_disambiguation=250``` becomes a text such as
0.68 (0.64 to 0.72), and links to the notebook that wrote the table, or that shows it. The language is that of
:mod:`companion.compare.cells`. The scale is the config value ``results_scale``, or stands in front of the name, as in
``{cell}`paper/05_causes count seed```. What cannot be looked up is a warning, so a build with ``-W`` fails.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from docutils import nodes
from reference import MissingResult, place, table
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

from companion.compare import cells

logger = logging.getLogger(__name__)

PHRASE = 30
"""A longer text than this many characters wraps like the sentence around it; a shorter one stays in one piece."""
NOTEBOOKS = Path("book/runs")
"""Where the notebooks' pages are, from the book's root."""
SHOWN_BY = {"paper/04_depths": "12_published"}
"""Table -> the notebook that shows it, where that is not the one that wrote it."""

_tables: dict[tuple[str, str, str], pd.DataFrame] = {}
"""Tables and views of this build, since a page asks the same one many times."""


def scale_and_name(env: BuildEnvironment, target: str) -> tuple[str, str]:
    """``paper/05_causes`` -> (paper, 05_causes); without a scale in front, that of the config."""
    scale, slash, name = target.rpartition("/")
    return (scale, name) if slash else (env.config.results_scale, target)


def text_of(env: BuildEnvironment, query: str) -> str:
    """What a query says; the page then depends on the table.

    Raises
    ------
    MissingResult
        When there is no such table.
    ValueError
        When the table does not answer, as :func:`companion.compare.cells.text`.
    """
    scale, name, view, rest = cells.name_of(query, env.config.results_scale)
    root, target, key = Path(env.srcdir), f"{scale}/{name}", (scale, name, view)
    env.note_dependency(str(root / place(root, target)))
    if key not in _tables:
        _tables[key] = cells.view_of(table(root, target), view)
    return cells.text(_tables[key], rest)


def notebook_of(env: BuildEnvironment, name: str) -> str:
    """The page of the notebook that wrote a table: 07_checks, of 07_checks_bases too."""
    stems = [Path(page).name for page in env.found_docs if Path(page).parent == NOTEBOOKS]
    own = [stem for stem in stems if name == stem or name.startswith(f"{stem}_")]
    return max(own, key=len, default=name)


class CellRole(SphinxRole):
    """``{cell}`table verb column filter=value```."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        query = " ".join(self.text.split())
        try:
            text = text_of(self.env, query)
        except (MissingResult, ValueError) as error:
            logger.warning("cell %r: %s", query, error, location=self.get_location(), type="cell")
            return [nodes.problematic(self.rawtext, f"[{query}?]")], []
        scale, name, *_ = cells.name_of(query, self.env.config.results_scale)
        notebook = SHOWN_BY.get(f"{scale}/{name}") or notebook_of(self.env, name)
        link = addnodes.pending_xref(
            "", nodes.inline(text, text), refdomain="std", reftype="doc",
            reftarget=f"/{NOTEBOOKS}/{notebook}", refexplicit=True, refwarn=True, refdoc=self.env.docname,
        )  # fmt: skip
        classes = ["num", "phrase"] if len(text) > PHRASE else ["num"]
        return [nodes.inline("", "", link, classes=classes)], []


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the role and the config value ``results_scale``."""
    app.setup_extension("reference")
    app.add_config_value("results_scale", "quick", "env", [str])
    app.connect("builder-inited", lambda app: _tables.clear())
    app.add_role("cell", CellRole())
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
