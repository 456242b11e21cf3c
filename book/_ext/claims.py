"""The ledger of claims on the page; what it says is computed by :mod:`companion.compare.ledger`.

    ```{claims} lead
    ```

draws the claims of one group as a table, ``{claims-summary}`` says how many there are of each
verdict, and ``{claims-rules}`` lists the rules.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from docutils import nodes
from reference import depends_on_all
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from companion.compare.ledger import DRAWN, RULES, SCALES, Judged, as_table, judge_all, summary
from companion.lab import tables

logger = logging.getLogger(__name__)

PAGE = "book/claims"
"""Where the rules are listed."""


class _FromLedger(SphinxDirective):
    """What the directives share."""

    @property
    def root(self) -> Path:
        return Path(self.env.srcdir)

    def ledger(self) -> list[Judged]:
        depends_on_all(self.env)  # any table may change a verdict, a new part of one too
        try:
            return judge_all(self.root)
        except (ValueError, KeyError, OSError) as error:
            logger.warning("claims: %s", error, location=self.get_location(), type="num")
            return []

    def link(self, text: str, page: str) -> nodes.Node:
        return addnodes.pending_xref(
            "", nodes.inline(text, text), refdomain="std", reftype="doc", reftarget=f"/{page}", refexplicit=True,
            refwarn=True, refdoc=self.env.docname,
        )  # fmt: skip


class ClaimsSummary(_FromLedger):
    """Three sentences over all claims."""

    def run(self) -> list[nodes.Node]:
        judged = self.ledger()
        if not judged:
            return []
        text = " ".join(summary(judged, partial(tables.find, root=self.root / "results")))
        return [nodes.paragraph(text, text, classes=["claims-summary"])]


class ClaimsRules(SphinxDirective):
    """The rules, as a list of definitions."""

    def run(self) -> list[nodes.Node]:
        entries = nodes.definition_list()
        for name, rule in RULES.items():
            identity = f"rule-{name.replace('_', '-')}"
            term = nodes.term("", name.replace("_", " "), ids=[identity])
            entries += nodes.definition_list_item("", term, nodes.definition("", nodes.paragraph(rule.text, rule.text)))
        return [entries]


class ClaimsTable(_FromLedger):
    """The claims of one group, one row each; on a narrow screen the rows become cards."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        rows = [one for one in self.ledger() if one.group == self.arguments[0]]
        if not rows:
            logger.warning("claims: no group %r", self.arguments[0], location=self.get_location(), type="num")
            return []
        group = nodes.tgroup("", *(nodes.colspec(colwidth=width) for width in (46, 18, 20, 16)), cols=4)
        titles = ("Claim", "Paper", "Ours", "Verdict")
        group += nodes.thead("", nodes.row("", *(nodes.entry("", nodes.paragraph(title, title)) for title in titles)))
        group += nodes.tbody("", *(self.row(one) for one in rows))
        return [nodes.table("", group, classes=["claims"])]

    def row(self, one: Judged) -> nodes.row:
        def small(*parts: nodes.Node | str) -> nodes.paragraph:
            children = [nodes.Text(part) if isinstance(part, str) else part for part in parts]
            return nodes.paragraph("", "", *children, classes=["small"])

        claim = nodes.entry("", nodes.paragraph(one.claim, one.claim), small(f"{one.source} · rule: ", self.rule(one)))
        paper = nodes.entry("", nodes.paragraph(one.paper, one.paper))
        ours = nodes.entry("", nodes.paragraph("", one.ours or "–"))
        told = self.link("notebook" if "/runs/" in one.page else "page", one.page)
        where_told = [told] if one.page != self.env.docname else []
        if one.scale:
            drawn = f"{one.stand_in.split(' in place')[0]}, {DRAWN[one.scale]}"
            where = drawn if one.stand_in else f"{SCALES[one.scale]} scale"
            seeds = f"{'at least ' if RULES[one.rule].many else ''}{one.seeds} seed{'s' if one.seeds > 1 else ''}"
            ours += small(f"{where}, {seeds}{' · ' if where_told else ''}", *where_told)
        elif where_told:
            ours += small(*where_told)
        badge = nodes.inline(one.verdict, one.verdict, classes=["verdict", one.verdict.replace(" ", "-")])
        verdict = nodes.entry("", nodes.paragraph("", "", badge))
        if one.remark:
            verdict += small(f"{one.remark}.")
        if one.settle:
            verdict += small(f"To settle it: {one.settle}.")
        return nodes.row("", claim, paper, ours, verdict, ids=[f"claim-{one.id.replace('_', '-')}"])

    def rule(self, one: Judged) -> nodes.Node:
        """The rule's name, linked to what it says."""
        text = f"{one.rule.replace('_', ' ')} {one.bound}".strip()
        if self.env.docname != PAGE:
            return self.link(text, PAGE)
        return nodes.reference("", text, refid=f"rule-{one.rule.replace('_', '-')}")


def write_csv(app: Sphinx, error: Exception | None) -> None:
    """The ledger as ``_static/claims.csv`` beside the pages."""
    root = Path(app.srcdir)
    if error is None and app.builder.format == "html" and (root / "book" / "claims.yaml").is_file():
        as_table(judge_all(root)).to_csv(Path(app.outdir) / "_static" / "claims.csv", index=False)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.setup_extension("reference")
    app.add_directive("claims", ClaimsTable)
    app.add_directive("claims-summary", ClaimsSummary)
    app.add_directive("claims-rules", ClaimsRules)
    app.add_css_file("claims.css")
    app.connect("build-finished", write_csv)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
