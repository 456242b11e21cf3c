"""The directives ``{reproduced}``, the headline numbers of a reader's own run, and ``{reproduced-coverage}``.

The first shows what :mod:`companion.compare.reproduction` finds in ``results/quick`` and ``runs/quick`` when the book
is built: the verdict, a figure with a strip for each number, and a table. Where there is no run of the reader's, as on
the published site, the table says where one more seed would lie.
The second is a sentence: how often seeds of the reference that are left out lie where the others say (from
``results/benchmark/coverage.csv``, which ``benchmarks/coverage.py`` writes).
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import reference
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from companion.compare.reproduction import Answer, Compared, answer, finding
from companion.palette import BLUE, RED
from sicore.files import written_aside

logger = logging.getLogger(__name__)

COVERAGE = "benchmark/coverage"
PICTURE = Path("_build/reproduced/strips.png")
"""From the book's root."""
FARTHEST = 1.6
"""A value that lies farther from the middle than so many half intervals is drawn there."""
BADGES = {"inside": "agrees", "outside": "does-not-agree"}
"""What claims.css calls these colours."""


class Reproduced(SphinxDirective):
    """The verdict, the figure and the table."""

    def run(self) -> list[nodes.Node]:
        reference.depends_on_all(self.env)  # a run may have come since, or a new part of the reference
        root = Path(self.env.srcdir)
        try:
            found = answer(root, root / "runs")
        except (ValueError, KeyError, OSError) as error:
            logger.warning("reproduced: %s", error, location=self.get_location(), type="num")
            return []
        text = " ".join(found.sentences)
        told = [nodes.paragraph(text, text, classes=["claims-summary"])]
        groups = dict.fromkeys(one.headline.group for one in found.compared)
        tables = [self.table(found, [one for one in found.compared if one.headline.group == group]) for group in groups]
        return [*told, *(self.figure(root, found) if found.counted else []), *tables]

    def figure(self, root: Path, found: Answer) -> list[nodes.Node]:
        picture = io.BytesIO()
        draw(found.counted, picture)
        target = root / PICTURE
        if not target.is_file() or target.read_bytes() != picture.getvalue():
            with written_aside(target) as temporary:
                temporary.write_bytes(picture.getvalue())
        caption = (
            "Your run beside the reference. A grey bar is the interval for one more such run, each drawn to its own "
            "scale; the line in it is the reference's mean, and the mark your value."
        )
        figure = nodes.figure("", nodes.image(uri=f"/{PICTURE}", alt=finding(found)), nodes.caption(caption, caption))
        self.set_source_info(figure)
        return [figure]

    def table(self, found: Answer, rows: list[Compared]) -> nodes.table:
        """A row a headline; the reader's values only where there are some."""
        own = bool(found.counted)
        columns = ("Yours", "Reference", "One more such run") if own else ("Reference", "One more seed")
        titles = (rows[0].headline.group.capitalize(), *columns)
        group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in titles), cols=len(titles))
        group += nodes.thead("", nodes.row("", *(_entry(title) for title in titles)))
        group += nodes.tbody("", *(self.row(one, own) for one in rows))
        return nodes.table("", group, classes=["reproduced"])

    def row(self, one: Compared, own: bool) -> nodes.row:
        link = addnodes.pending_xref(
            "", nodes.inline(one.headline.text, one.headline.text), refdomain="std", reftype="doc",
            reftarget=f"/{one.headline.page}", refexplicit=True, refwarn=True, refdoc=self.env.docname,
        )  # fmt: skip
        cells = [nodes.entry("", nodes.paragraph("", "", link))]
        if own:
            badge = nodes.inline(one.outcome, one.outcome, classes=["verdict", BADGES.get(one.outcome, "not-run")])
            value = [] if one.refused else [nodes.Text(f"{one.shown(one.value)} ")]
            cells.append(nodes.entry("", nodes.paragraph("", "", *value, badge)))
        return nodes.row("", *cells, _entry(one.mean_shown), _entry(one.span_shown or one.outcome))


class Coverage(SphinxDirective):
    """How often the intervals hold, in a sentence, and the table behind it."""

    def run(self) -> list[nodes.Node]:
        try:
            found = reference.read(self.env, COVERAGE)
        except reference.MissingResult as error:
            logger.warning("reproduced-coverage: %s", error, location=self.get_location(), type="num")
            return []
        line = nodes.paragraph("", coverage_told(found))
        link = reference.download(self.env, COVERAGE, "each of them")
        line += [nodes.Text(" ("), link, nodes.Text(").")]
        return [line]


def coverage_told(found: pd.DataFrame) -> str:
    """The sentence."""
    shares = [f"{100 * share:.1f} %" for share in found[found["headline"] == "all"].sort_values("of")["coverage"]]
    each = found[found["headline"] == "each"]
    low, high = (f"{100 * share:.0f}" for share in (each["coverage"].min(), each["coverage"].max()))
    return (
        f"Over all {each['id'].nunique()} numbers {', '.join(shares[:-1])} and {shares[-1]} of the means of 1, 2 and 3 "
        f"seeds lie in their intervals; of a number by itself, {low} to {high} %"
    )


def draw(counted: list[Compared], target: io.BytesIO) -> None:
    """A strip for each headline: the interval as a bar, drawn to its own scale, and the reader's value as a mark."""
    import matplotlib as mpl  # slow to import, and needed only where there is a run

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    from companion import figures

    with mpl.rc_context():
        figures.house_style()
        figure, axes = plt.subplots(figsize=(8, 0.8 + 0.21 * len(counted)), layout="constrained")
        for place, one in enumerate(counted):
            middle, half = (one.low + one.high) / 2, (one.high - one.low) / 2
            at = float(np.clip((one.value - middle) / half, -FARTHEST, FARTHEST))
            mean = (float(one.reference.mean()) - middle) / half
            axes.barh(place, 2, left=-1, height=0.56, color="#d9d9d9")
            axes.plot([mean, mean], [place - 0.28, place + 0.28], color="#7f7f7f", linewidth=1.5)
            colour, mark = (BLUE, "o") if one.inside else (RED, "D")
            axes.plot(at, place, mark, color=colour, markersize=6 if one.inside else 7, zorder=3)
        axes.set_yticks(range(len(counted)), [one.headline.text for one in counted], fontsize=10)
        axes.set_ylim(len(counted) - 0.4, -0.6)
        axes.set_xlim(-FARTHEST - 0.1, FARTHEST + 0.1)
        axes.set_xticks([-1, 1], ["lower end", "upper end"])
        axes.grid(visible=False, axis="y")
        figure.savefig(target, format="png", dpi=160, metadata={"Software": None})
    figures.close()


def _entry(text: str) -> nodes.entry:
    return nodes.entry("", nodes.paragraph(text, text))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.setup_extension("reference")
    app.add_directive("reproduced", Reproduced)
    app.add_directive("reproduced-coverage", Coverage)
    app.add_css_file("claims.css")
    app.add_css_file("reproduced.css")
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
