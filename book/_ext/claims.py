"""The ledger of claims: what the paper says, what our tables say, and a verdict by rule.

``book/claims.yaml`` lists the claims, each with the rule by which it is judged and the table
that answers it. :func:`judge` computes the verdict from ``results/``; nothing of it is typed.

    ```{claims} lead
    ```

draws the claims of one group as a table, ``{claims-summary}`` says how many there are of each
verdict, and ``{claims-rules}`` lists the rules.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from docutils import nodes
from numbers_role import logger
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from companion.compare import published
from companion.compare.statistics import mean_interval, wilson

AGREES, DISAGREES, OPEN, NOT_RUN = "agrees", "does not agree", "not told apart", "not run"
VERDICTS = (AGREES, DISAGREES, OPEN, NOT_RUN)
PUBLISHED = {f"{ours}_{behaviour}".strip("_"): name for name, (ours, behaviour) in published.CONDITIONS.items()}
"""Our name of a start -> the published curves' name."""
WIDEST = 0.1
"""Half of the interval of one further run, at most, for an agreement to say anything."""
LABELS = {
    "subnetwork": "the subnetwork",
    "full_model": "the full model",
    "sampled_as_released": "a random subnetwork, as released",
    "complement_as_released": "one from the complement, as released",
    "random_initialisation": "random initialisation",
    "resnet18": "ResNet-18",
    "vit_base": "ViT-B/16",
    "imagenet16": "ordinary photographs",
    "mean_pooled": "mean-pooled photographs",
}
DEPTHS = (2, 4, 6, 8, 10, 12)
SCALES = {"paper": "the paper's", "quick": "quick"}


@dataclass(frozen=True)
class Estimate:
    """What a table says.

    Attributes
    ----------
    values
        One a seed; empty where only the mean is known.
    mean, half_width
        Over seeds; the half-width of the 95 % interval is nan for one seed.
    seeds
        Their number.
    lost
        Seeds that were asked and have no value.
    remark
        What has to be known beside the numbers.
    one_more
        Ends of the 95 % interval of one further run, where it does not follow from ``values``.
    """

    values: tuple[float, ...]
    mean: float
    half_width: float
    seeds: int
    lost: int = 0
    remark: str = ""
    one_more: tuple[float, float] | None = None

    @classmethod
    def of(cls, values: Sequence[float], lost: int = 0, remark: str = "") -> Estimate:
        mean, half = mean_interval(values)
        return cls(tuple(float(value) for value in values), mean, half, len(values), lost, remark)

    def __str__(self) -> str:
        digits = 0 if abs(self.mean) >= 100 else 3
        if self.seeds > 1:
            return f"{self.mean:,.{digits}f} ± {self.half_width:,.{digits}f}"
        return f"{self.mean:,.{digits}f}"


@dataclass(frozen=True)
class Rule:
    """How a verdict is reached.

    Attributes
    ----------
    judge
        (estimate, the paper's value or nan, the claim) -> verdict and a remark.
    text
        The same in words; with the names of what the claim gives.
    direction
        Does it ask for a direction only, so that data may stand in for the paper's?
    """

    judge: Callable[[Estimate, float, Mapping[str, Any]], tuple[str, str]]
    text: str
    direction: bool


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict; all texts.

    Attributes
    ----------
    scale
        The folder of the table that decided, empty where none did.
    remark
        What has to be known beside the verdict.
    bound
        The value that the rule compares with, where it is not 0.
    """

    id: str
    group: str
    claim: str
    source: str
    paper: str
    ours: str
    seeds: int
    scale: str
    verdict: str
    rule: str
    remark: str
    table: str
    page: str
    stand_in: str = ""
    bound: str = ""
    files: tuple[str, ...] = field(default=(), compare=False)


# ---------------------------------------------------------------------------------------
# Rules


def _few(estimate: Estimate) -> tuple[str, str] | None:
    least = published.MIN_SEEDS
    return (OPEN, f"fewer than {least} seeds") if estimate.seeds + estimate.lost < least else None


def above(estimate: Estimate, paper: float, claim: Mapping[str, Any]) -> tuple[str, str]:
    """Is the interval above ``least`` (0 by default)?"""
    least = float(claim.get("least", 0.0))
    low, high = estimate.mean - estimate.half_width, estimate.mean + estimate.half_width
    near = f"just so: the interval begins at {low:.4f}" if 0 < low - least < 0.002 else ""
    return _few(estimate) or (AGREES if low > least else DISAGREES if high < least else OPEN, near)


def below(estimate: Estimate, paper: float, claim: Mapping[str, Any]) -> tuple[str, str]:
    """Is the interval below ``most``?"""
    most = float(claim["most"])
    low, high = estimate.mean - estimate.half_width, estimate.mean + estimate.half_width
    return _few(estimate) or (AGREES if high < most else DISAGREES if low > most else OPEN, "")


def no_worse(estimate: Estimate, paper: float, claim: Mapping[str, Any]) -> tuple[str, str]:
    """Is the interval above -0.02? It does not agree where all of it is below that."""
    return above(estimate, paper, {"least": -published.MARGIN})


def negligible(estimate: Estimate, paper: float, claim: Mapping[str, Any]) -> tuple[str, str]:
    """Is the interval inside -0.02 to 0.02? It does not agree where it has no point in common with these."""
    low, high = estimate.mean - estimate.half_width, estimate.mean + estimate.half_width
    inside, outside = max(-low, high) < published.MARGIN, low > published.MARGIN or high < -published.MARGIN
    return _few(estimate) or (AGREES if inside else DISAGREES if outside else OPEN, "")


def one_more_run(estimate: Estimate, paper: float, claim: Mapping[str, Any]) -> tuple[str, str]:
    """Would one more run of ours land where the paper's did? See :func:`companion.compare.published.points`."""
    if few := _few(estimate):
        return few
    if estimate.one_more:
        low, high = estimate.one_more
    else:
        key = {"n_layer": 0, "condition": "", "behaviour": "", "n_disambiguation": 0}
        runs = pd.DataFrame([{**key, "seed": k, "test_accuracy": value} for k, value in enumerate(estimate.values)])
        (point,) = published.points(runs, pd.DataFrame([{**key, "published": paper}])).itertuples()
        low, high = point.low, point.high
    remark = f"one more run: {low:.3f} to {high:.3f}"
    if not low <= paper <= high:
        return DISAGREES, remark
    return (AGREES, remark) if (high - low) / 2 <= WIDEST else (OPEN, f"{remark}, too wide to tell")


def mostly_inside(estimate: Estimate, paper: float, claim: Mapping[str, Any]) -> tuple[str, str]:
    """Do more than half of the runs lie in ``band``? By Wilson's interval of their share."""
    low, high = claim["band"]
    inside, asked = sum(low <= value <= high for value in estimate.values), estimate.seeds + estimate.lost
    least, most = wilson(inside, asked)
    remark = f"{inside} of {asked} runs inside"
    return _few(estimate) or (AGREES if least > 0.5 else DISAGREES if most < 0.5 else OPEN, remark)


RULES: dict[str, Rule] = {
    "above": Rule(
        above,
        "A difference (the first minus the other, paired by seed) or a share. Agrees: its 95 % interval over seeds is "
        "above 0, or above the value that stands beside the rule's name. Does not agree: all of it is below.",
        True,
    ),
    "below": Rule(
        below,
        "Agrees: the 95 % interval over seeds is below the value that stands beside the rule's name. Does not agree: "
        "it is above.",
        True,
    ),
    "no_worse": Rule(
        no_worse,
        f"Agrees: the 95 % interval of the difference is above -{published.MARGIN}, so at most that much is lost. "
        "Does not agree: all of it is below.",
        True,
    ),
    "negligible": Rule(
        negligible,
        f"Agrees: the 95 % interval of the difference lies inside ±{published.MARGIN}. "
        "Does not agree: it lies outside. An interval that is merely wide and holds 0 shows no equality.",
        True,
    ),
    "one_more_run": Rule(
        one_more_run,
        "For a published number that is one run. Agrees: it lies in the 95 % interval of one further run of ours, and "
        f"that interval is at most ±{WIDEST} wide. Inside a wider one: not told apart. Does not agree: outside.",
        False,
    ),
    "mostly_inside": Rule(
        mostly_inside,
        "For a published range. Agrees: more than half of the runs lie in it, with the 95 % interval (Wilson) of "
        "their share above one half. Does not agree: that interval is below one half.",
        False,
    ),
}


# ---------------------------------------------------------------------------------------
# What a table says


def _select(table: pd.DataFrame, where: Mapping[str, Any]) -> pd.DataFrame:
    if missing := [name for name in where if name not in table]:
        raise ValueError(f"where: no column {missing[0]!r}; the table has {', '.join(table.columns)}")
    return table[[all(row) for row in zip(*(table[n] == v for n, v in where.items()), strict=True)]] if where else table


def _rows(table: pd.DataFrame, ours: Mapping[str, Any]) -> Estimate | None:
    """The mean of ``column`` for each seed; with ``minus``, of its differences to other rows of the seed."""
    where, column = ours.get("where", {}), ours["column"]
    first = _select(table, where)
    if minus := ours.get("minus"):
        keys = [name for name in ("seed", "n_layer", "n_disambiguation", "draw") if name in table]
        other = _select(table, {**where, **minus})
        both = first[[*keys, column]].merge(other[[*keys, column]], on=keys, suffixes=("", " other"))
        both[column] = both[column] - both[f"{column} other"]
        first = both
    values = first.dropna(subset=[column]).groupby("seed")[column].mean()
    return Estimate.of(values.tolist()) if len(values) else None


def _lead(table: pd.DataFrame, ours: Mapping[str, Any]) -> Estimate | None:
    """The lead of the subnetwork at one depth, :func:`companion.compare.published.lead`."""
    each = published.lead(table, tuple(ours["over"]), ours["n_layer"])
    if each.empty:
        return None
    part = published.counts_run(each)
    return Estimate.of(each.mean(axis=1).tolist(), remark=f"over {part}" if part else "")


def _plateau(table: pd.DataFrame, ours: Mapping[str, Any]) -> Estimate | None:
    """Median accuracy in the first half of the steps before the jump, the first accuracy above 0.9, for each seed."""
    values = []
    for _, history in table.sort_values("step").groupby("seed"):
        jump = history.loc[history["accuracy"] > 0.9, "step"].min()
        before = history.loc[history["step"] <= jump / 2, "accuracy"]
        if len(before):
            values.append(float(before.median()))
    return Estimate.of(values) if values else None


def _base_steps(table: pd.DataFrame, ours: Mapping[str, Any]) -> Estimate | None:
    """Steps of the base models that got there; the seeds of those given up, which have no number, are lost."""
    found = _rows(table, {**ours, "column": "base_steps"})
    lost = _select(table, ours["where"])["base_steps"].isna().sum()
    return None if found is None else Estimate.of(found.values, int(lost))


def _over_depths(table: pd.DataFrame, ours: Mapping[str, Any]) -> Estimate | None:
    """The mean over the six depths of one start, :func:`companion.compare.published.over_depths`; its runs count as seeds."""
    condition, behaviour = published.CONDITIONS[PUBLISHED[ours["start"]]]
    found = published.over_depths(table)
    where = {"condition": condition, "behaviour": behaviour, "n_disambiguation": ours["n_disambiguation"]}
    for row in _select(found, where).dropna(subset="inside").itertuples():
        remark = f"such a run is a mean over one at each depth, of ours there are {row.runs}"
        return Estimate((), row.mean, row.half_width, row.runs, remark=remark, one_more=(row.low, row.high))
    return None


MEASURES = {"over_depths": _over_depths, "rows": _rows, "lead": _lead, "plateau": _plateau, "base_steps": _base_steps}


def _paper_value(results: Path, claim: Mapping[str, Any], table: pd.DataFrame | None) -> tuple[float, str]:
    """The paper's value as a number (nan where it is none) and as text."""
    paper = claim["paper"]
    if isinstance(paper, str):
        return math.nan, paper
    if isinstance(paper, int | float):
        return float(paper), f"{paper:.2f}"
    if paper.get("lead"):
        ours, curves = claim["ours"], published.curves_as_runs()
        if table is not None:  # over the same numbers of samples
            counts = published.lead(table, tuple(ours["over"]), ours["n_layer"]).columns
            curves = curves[curves["n_disambiguation"].isin(counts)]
        mean = published.lead(curves, tuple(ours["over"]), ours["n_layer"]).mean(axis=None)
        return mean, f"{mean:+.3f}"
    file = _table(results / "published" / f"{paper['file']}.csv")

    def value(where: Mapping[str, Any]) -> float:
        rows = _select(file, {name: PUBLISHED.get(v, v) if name == "condition" else v for name, v in where.items()})
        if not len(rows):
            raise ValueError(f"claim {claim['id']}: {paper['file']}.csv has no row with {dict(where)}")
        return float(rows[paper["column"]].max() if paper.get("take") == "max" else rows[paper["column"]].mean())

    first = value(paper["where"])
    if "minus" not in paper:
        return first, f"{first:.3f}"
    other = value({**paper["where"], **paper["minus"]})
    return first - other, f"{first - other:+.3f} ({first:.3f} and {other:.3f})"


@cache
def _read(path: Path, changed: int) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False, na_values=["nan", ""]).fillna({"behaviour": ""})


def _table(path: Path) -> pd.DataFrame:
    return _read(path, path.stat().st_mtime_ns)


# ---------------------------------------------------------------------------------------
# The ledger


def _filled(value: Any, names: Mapping[str, Any]) -> Any:
    """``{name}`` in all texts; a text that is nothing else becomes the value itself."""
    if isinstance(value, Mapping):
        return {key: _filled(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, names) for item in value]
    if isinstance(value, str):
        for name, one in names.items():
            if value == f"{{{name}}}":
                return one
            value = value.replace(f"{{{name}}}", str(one))
    return value


def read_claims(path: Path) -> list[dict[str, Any]]:
    """The claims of the file, checked; those with ``for`` once for each of its combinations.

    Raises
    ------
    ValueError
        Naming the claim: for a field that is missing, an unknown rule, an id that stands twice, or data that
        stand in for the paper's under a rule that asks for more than a direction.
    """
    found: list[dict[str, Any]] = []
    for entry in yaml.safe_load(path.read_text(encoding="utf-8")):
        loops = entry.pop("for", {})
        for combination in itertools.product(*loops.values()):
            names = dict(zip(loops, combination, strict=True))
            labels = {name: LABELS.get(str(value), value) for name, value in names.items()}
            found.append({**_filled(entry, names), "claim": _filled(entry.get("claim", ""), labels)})
    for claim in found:
        name = claim.get("id") or claim
        for needed in ("id", "group", "claim", "source", "paper", "rule", "page"):
            if not claim.get(needed) and claim.get(needed) != 0:
                raise ValueError(f"claim {name}: {needed} is missing")
        if claim["rule"] not in RULES:
            raise ValueError(f"claim {name}: rule = {claim['rule']!r}, expected one of {', '.join(RULES)}")
        if "ours" not in claim and "needs" not in claim:
            raise ValueError(f"claim {name}: give ours, or say with needs what is missing")
        if claim.get("stand_in") and "ours" in claim and not RULES[claim["rule"]].direction:
            raise ValueError(f"claim {name}: {claim['stand_in']}: only a direction can be judged, not {claim['rule']}")
    twice = [name for name, count in Counter(claim["id"] for claim in found).items() if count > 1]
    if twice:
        raise ValueError(f"claim {twice[0]}: the id stands twice")
    return found


def judge(claim: Mapping[str, Any], results: Path) -> Judged:
    """The verdict on one claim, from the first scale whose table answers with enough seeds.

    Parameters
    ----------
    claim
        One of :func:`read_claims`.
    results
        The folder with one folder a scale.
    """
    rule, ours = RULES[claim["rule"]], claim.get("ours")
    answers: list[tuple[str, Estimate, pd.DataFrame]] = []
    files: list[str] = []
    for scale in claim.get("scales", SCALES) if ours else ():
        csv = results / scale / f"{ours['table']}.csv"
        files.append(str(csv))
        if not csv.is_file():
            continue
        table = _table(csv)
        found = MEASURES[ours.get("measure", "rows")](table, ours)
        if found is not None:
            answers.append((scale, found, table))
    enough = [one for one in answers if one[1].seeds + one[1].lost >= published.MIN_SEEDS]
    chosen = (enough or answers)[:1]
    paper, paper_text = _paper_value(results, claim, chosen[0][2] if chosen else None)
    remarks, stand_in = [], claim.get("stand_in", "")
    text, scale, seeds, table_name, verdict = "", "", 0, "", NOT_RUN
    if chosen:
        ((scale, estimate, _),) = chosen
        text, seeds, table_name = str(estimate), estimate.seeds, ours["table"]
        verdict, remark = rule.judge(estimate, paper, claim)
        remarks += [remark, estimate.remark]
        if stand_in:
            remarks.append(f"direction only: {stand_in}")
    else:
        remarks.append(f"needs {claim.get('needs') or _lacking(ours)}")
    remarks.append(claim.get("note", ""))
    sentences = ". ".join(one[0].upper() + one[1:].rstrip(".") for one in remarks if one)
    return Judged(
        claim["id"], claim["group"], claim["claim"], claim["source"], paper_text, text, seeds, scale, verdict,
        claim["rule"], sentences, table_name, claim["page"],
        stand_in if chosen else "", _bound(claim), tuple(files),
    )  # fmt: skip


def _bound(claim: Mapping[str, Any]) -> str:
    """The value that the rule compares with, where it is not 0."""
    if "band" in claim:
        return "{:,} to {:,}".format(*claim["band"])
    return next((f"{claim[name]:g}" for name in ("least", "most") if name in claim), "")


def _lacking(ours: Mapping[str, Any]) -> str:
    depth = ours.get("n_layer") or ours.get("where", {}).get("n_layer")
    return f"runs with {depth} layers" if depth else f"runs of {ours['table']}"


def ledger(root: Path) -> list[Judged]:
    """All claims with their verdicts, in the file's order; ``root`` is the book's root."""
    files = [root / "book" / "claims.yaml", *sorted((root / "results").glob("*/*.*"))]
    return list(_ledger(root, tuple((str(file), file.stat().st_mtime_ns) for file in files)))


@cache
def _ledger(root: Path, files: tuple[tuple[str, int], ...]) -> tuple[Judged, ...]:
    """Computed once as long as no file changes: several directives of a build ask for it."""
    return tuple(judge(claim, root / "results") for claim in read_claims(root / "book" / "claims.yaml"))


def summary(judged: Sequence[Judged], results: Path) -> list[str]:
    """Three sentences: how many, with which verdicts, and at what scale."""
    counts = Counter(one.verdict for one in judged)
    decided = [one for one in judged if one.verdict != NOT_RUN]
    drawn = [one for one in decided if one.stand_in]
    full = [one for one in decided if not one.stand_in and one.scale == "paper"]
    quick = [one for one in decided if not one.stand_in and one.scale == "quick"]
    ran = {int(depth) for depth in _table(results / "paper" / "04_depths.csv")["n_layer"]}
    missing = ", ".join(str(depth) for depth in DEPTHS if depth not in ran)
    return [
        f"This ledger has {len(judged)} claims of the paper: with {counts[AGREES]} of them our runs agree, with "
        f"{counts[DISAGREES]} they do not agree, and {counts[OPEN]} they leave open (not told apart).",
        f"{counts[NOT_RUN]} could not be tested: what each one needs stands in its row.",
        f"Of those that were tested, {len(full)} were tested with the paper's own settings and "
        f"{', '.join(map(str, sorted(ran)))} layers{f' ({missing} layers are not run yet)' if missing else ''}, "
        f"{len(quick)} at the small quick scale, and {len(drawn)} on drawn pictures in place of ImageNet, where only "
        "the direction of a difference counts.",
    ]


# ---------------------------------------------------------------------------------------
# On the page


class _FromLedger(SphinxDirective):
    """What the directives share: the ledger, and the files that a page then depends on."""

    def ledger(self) -> list[Judged]:
        root = Path(self.env.srcdir)
        self.env.note_dependency(str(root / "book" / "claims.yaml"))
        self.env.note_dependency(__file__)
        try:
            judged = ledger(root)
        except (ValueError, KeyError, OSError) as error:
            logger.warning("claims: %s", error, location=self.get_location(), type="num")
            return []
        for file in {file for one in judged for file in one.files}:
            self.env.note_dependency(file)
        return judged

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
        text = " ".join(summary(judged, Path(self.env.srcdir) / "results"))
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

        rule = nodes.reference(
            "", f"{one.rule.replace('_', ' ')} {one.bound}".strip(), refid=f"rule-{one.rule.replace('_', '-')}"
        )
        where_told = self.link("notebook" if "/runs/" in one.page else "page", one.page)
        claim = nodes.entry("", nodes.paragraph(one.claim, one.claim), small(f"{one.source} · rule: ", rule))
        paper = nodes.entry("", nodes.paragraph(one.paper, one.paper))
        ours = nodes.entry("", nodes.paragraph("", one.ours or "–"))
        if one.scale:
            drawn = f"{one.stand_in.split(' in place')[0]}, {'longer' if one.scale == 'paper' else 'quick'} run"
            where = drawn if one.stand_in else f"{SCALES[one.scale]} scale"
            plural = "s" if one.seeds > 1 else ""
            ours += small(f"{where}, {one.seeds} seed{plural} · ", where_told)
        else:
            ours += small(where_told)
        badge = nodes.inline(one.verdict, one.verdict, classes=["verdict", one.verdict.replace(" ", "-")])
        verdict = nodes.entry("", nodes.paragraph("", "", badge))
        if one.remark:
            verdict += small(f"{one.remark}.")
        return nodes.row("", claim, paper, ours, verdict, ids=[f"claim-{one.id.replace('_', '-')}"])


def write_csv(app: Sphinx, error: Exception | None) -> None:
    """The ledger as ``_static/claims.csv`` beside the pages."""
    root = Path(app.srcdir)
    if error is None and app.builder.format == "html" and (root / "book" / "claims.yaml").is_file():
        columns = [name for name in Judged.__dataclass_fields__ if name != "files"]
        rows = [[getattr(one, name) for name in columns] for one in ledger(root)]
        target = Path(app.outdir) / "_static" / "claims.csv"
        pd.DataFrame(rows, columns=columns).to_csv(target, index=False)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("claims", ClaimsTable)
    app.add_directive("claims-summary", ClaimsSummary)
    app.add_directive("claims-rules", ClaimsRules)
    app.add_css_file("claims.css")
    app.connect("build-finished", write_csv)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
