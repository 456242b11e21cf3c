"""The ledger of claims: what the paper says, what our tables say, and a verdict by rule.

``book/claims.yaml`` lists the claims, each with the rule by which it is judged and the table that answers it.
:func:`judge_all` computes the verdicts from the reference (``results/``); nothing of it is typed.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from companion.arithmetic.starts import CONDITIONS
from companion.compare import published
from companion.compare.statistics import interval, lead, select, verdict, wilson
from companion.lab import tables
from companion.lab.project import project_root

Find = Callable[[str, str], "pd.DataFrame | None"]
"""(table, scale) -> the table, or None where it is not there."""

AGREES, DISAGREES, OPEN, NOT_RUN = "agrees", "does not agree", "not told apart", "not run"
VERDICTS = (AGREES, DISAGREES, OPEN, NOT_RUN)
MIN_SEEDS = 3
"""Fewest seeds on which a claim is judged."""
MARGIN = 0.02
"""A start that is at most this much accuracy below another one is as good."""
WIDEST = 0.1
"""Half of the interval of one further run, at most, for an agreement to say anything."""
MOST_POINTS = 0.95
"""Share of the published points that lie inside where nothing is wrong."""
SCALES = {"paper": "the paper's", "quick": "quick"}
"""Whose tables may answer a claim that says nothing about it, the first one first."""
LABELS = {name: one.label for name, one in CONDITIONS.items()} | {
    "resnet18": "ResNet-18",
    "vit_base": "ViT-B/16",
    "imagenet16": "ordinary photographs",
    "mean_pooled": "mean-pooled photographs",
}
"""What stands in a claim for a name in its ``for``."""


@dataclass(frozen=True)
class Estimate:
    """What a table says.

    Attributes
    ----------
    values
        One a seed; empty where only the mean is known. Of many comparisons, one each.
    mean, half_width
        Over seeds; the half-width of the 95 % interval is nan for one seed.
    seeds
        Their number; of many comparisons, the fewest.
    lost
        Seeds that were asked and have no value.
    remark
        What has to be known beside the numbers.
    one_more
        Ends of the 95 % interval of one further run, where it does not follow from ``values``.
    text
        What is shown in place of mean and half-width.
    missing
        Of many comparisons, how many the paper has and we have not.
    """

    values: tuple[float, ...]
    mean: float
    half_width: float
    seeds: int
    lost: int = 0
    remark: str = ""
    one_more: tuple[float, float] | None = None
    text: str = ""
    missing: int = 0

    @classmethod
    def of(cls, values: Sequence[float], lost: int = 0, remark: str = "") -> Estimate:
        """Of one value a seed."""
        mean, half = interval(values)
        return cls(tuple(float(value) for value in values), mean, half, len(values), lost, remark)

    def side(self, of: float) -> str:
        """:func:`~companion.compare.statistics.verdict` of the interval over seeds."""
        return verdict(self.mean, self.half_width, of)

    def __str__(self) -> str:
        if self.text:
            return self.text
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
        The same in words.
    direction
        Does it ask for a direction only, so that data may stand in for the paper's?
    many
        Does it judge many comparisons at once, so that the number of seeds is that of the one with the fewest?
    """

    judge: Callable[[Estimate, float, Mapping[str, Any]], tuple[str, str]]
    text: str
    direction: bool
    many: bool = False


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict; all texts.

    Attributes
    ----------
    scale
        The scale of the table that decided, empty where none did.
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


# ---------------------------------------------------------------------------------------
# Rules


def _few(estimate: Estimate) -> tuple[str, str] | None:
    return (OPEN, f"fewer than {MIN_SEEDS} seeds") if estimate.seeds + estimate.lost < MIN_SEEDS else None


def above(estimate: Estimate, paper: float, claim: Mapping[str, Any]) -> tuple[str, str]:
    """Is the interval above ``least`` (0 by default)?"""
    least = float(claim.get("least", 0.0))
    low = estimate.mean - estimate.half_width
    near = f"just so: the interval begins at {low:.4f}" if 0 < low - least < 0.002 else ""
    return _few(estimate) or ({"above": AGREES, "below": DISAGREES}.get(estimate.side(least), OPEN), near)


def below(estimate: Estimate, paper: float, claim: Mapping[str, Any]) -> tuple[str, str]:
    """Is the interval below ``most``?"""
    side = estimate.side(float(claim["most"]))
    return _few(estimate) or ({"below": AGREES, "above": DISAGREES}.get(side, OPEN), "")


def no_worse(estimate: Estimate, paper: float, claim: Mapping[str, Any]) -> tuple[str, str]:
    """Is the interval above -0.02? It does not agree where all of it is below that."""
    return above(estimate, paper, {"least": -MARGIN})


def negligible(estimate: Estimate, paper: float, claim: Mapping[str, Any]) -> tuple[str, str]:
    """Is the interval inside -0.02 to 0.02? It does not agree where it has no point in common with these."""
    of_low, of_high = estimate.side(-MARGIN), estimate.side(MARGIN)
    inside, outside = (of_low, of_high) == ("above", "below"), of_low == "below" or of_high == "above"
    return _few(estimate) or (AGREES if inside else DISAGREES if outside else OPEN, "")


def one_more_run(estimate: Estimate, paper: float, claim: Mapping[str, Any]) -> tuple[str, str]:
    """Would one more run of ours land where the paper's did? See :func:`companion.compare.published.one_more_run`."""
    if few := _few(estimate):
        return few
    low, high = estimate.one_more or published.one_more_run(
        estimate.mean, float(np.std(estimate.values, ddof=1)), estimate.seeds
    )
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


def at_every_depth(estimate: Estimate, paper: float, claim: Mapping[str, Any]) -> tuple[str, str]:
    """Is the effect there (1), and nowhere the opposite (-1), at every depth of the paper?"""
    if -1 in estimate.values:
        return DISAGREES, ""
    return (AGREES if all(value == 1 for value in estimate.values) and not estimate.missing else OPEN), ""


def points_inside(estimate: Estimate, paper: float, claim: Mapping[str, Any]) -> tuple[str, str]:
    """Do as many published points lie inside (1) as would where nothing is wrong?"""
    if estimate.mean < 0.5:
        return DISAGREES, ""
    return (AGREES if estimate.mean >= MOST_POINTS and not estimate.missing else OPEN), ""


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
        f"Agrees: the 95 % interval of the difference is above -{MARGIN}, so at most that much is lost. "
        "Does not agree: all of it is below.",
        True,
    ),
    "negligible": Rule(
        negligible,
        f"Agrees: the 95 % interval of the difference lies inside ±{MARGIN}. "
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
    "at_every_depth": Rule(
        at_every_depth,
        "For leads over several starts, depth by depth. Agrees: at every depth of the paper the 95 % interval of each "
        f"lead is above 0. Does not agree: at some depth one is below 0. A depth without {MIN_SEEDS} seeds leaves it "
        "open (not told apart).",
        True,
        many=True,
    ),
    "points_inside": Rule(
        points_inside,
        f"For many published points, each one run. Those with {MIN_SEEDS} seeds or more of ours count. Agrees: at "
        f"least {100 * MOST_POINTS:.0f} % of them lie in the 95 % interval of one further run of ours, and all "
        "published points count. Does not agree: fewer than half of them do.",
        False,
        many=True,
    ),
}


# ---------------------------------------------------------------------------------------
# What a table says


def _rows(table: pd.DataFrame, ours: Mapping[str, Any]) -> Estimate | None:
    """The mean of ``column`` for each seed; with ``minus``, of the lead over the rows that differ in what it says."""
    where, column = ours.get("where", {}), ours["column"]
    if minus := ours.get("minus"):
        found, column = lead(table, where, {**where, **minus}, value=column), "lead"
    else:
        found = select(table, where)
    values = found.dropna(subset=[column]).groupby("seed")[column].mean()
    return Estimate.of(values.tolist()) if len(values) else None


def _lead(table: pd.DataFrame, ours: Mapping[str, Any]) -> Estimate | None:
    """The lead of the subnetwork at one depth, :func:`companion.compare.published.lead_at`."""
    each = published.lead_at(table, tuple(ours["over"]), ours["n_layer"])
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
    lost = select(table, ours["where"])["base_steps"].isna().sum()
    return None if found is None else Estimate.of(found.values, int(lost))


def _over_depths(table: pd.DataFrame, ours: Mapping[str, Any]) -> Estimate | None:
    """One start's mean over the depths, :func:`companion.compare.published.over_depths`; its runs count as seeds."""
    condition, behaviour = CONDITIONS[ours["start"]].pair
    found = published.over_depths(table)
    where = {"condition": condition, "behaviour": behaviour, "n_disambiguation": ours["n_disambiguation"]}
    for row in select(found, where).dropna(subset="inside").to_dict("records"):
        mean, half, low, high = (float(row[name]) for name in ("mean", "half_width", "low", "high"))
        remark = f"such a run is a mean over one at each depth, of ours there are {row['runs']}"
        return Estimate((), mean, half, row["runs"], remark=remark, one_more=(low, high))
    return None


def _every_depth(table: pd.DataFrame, ours: Mapping[str, Any]) -> Estimate | None:
    """Are the leads over all of ``over`` above 0, depth by depth? 1 for yes, -1 where one is below, 0 for neither."""
    found: dict[int, int] = {}
    seeds: list[int] = []
    for depth in published.depths():
        each = [published.lead_at(table, tuple(over), depth) for over in ours["over"]]
        if min(map(len, each)) >= MIN_SEEDS:
            sides = [verdict(*interval(one.mean(axis=1).tolist())) for one in each]
            found[depth] = -1 if "below" in sides else int(set(sides) == {"above"})
            seeds += map(len, each)
    if not found:
        return None
    failing, lacking = [depth for depth in found if found[depth] < 1], sorted(set(published.depths()) - found.keys())
    named = (("not with", failing), (f"without {MIN_SEEDS} seeds:", lacking))
    remark = "; ".join(f"{what} {', '.join(map(str, those))} layers" for what, those in named if those)
    good = len(found) - len(failing)
    text = f"above 0 at {good} of {len(found)} depths"
    values = tuple(map(float, found.values()))
    return Estimate(values, good / len(found), math.nan, min(seeds), remark=remark, text=text, missing=len(lacking))


def _points(table: pd.DataFrame, ours: Mapping[str, Any]) -> Estimate | None:
    """Which published points lie where one more run of ours would (1) and which do not (0)?"""
    there, here = _points_of(table, ours)
    if here.empty:
        return None
    inside, share, missing = int(here["inside"].sum()), float(here["inside"].mean()), len(there) - len(here)
    text = f"{inside} of {len(here)} points inside ({100 * share:.1f} %)"
    if "n_disambiguation" in ours:
        text = f"accuracy {here['mean'].min():.3f} to {here['mean'].max():.3f}, {text}"
    remark = f"{missing} points without {MIN_SEEDS} seeds" if missing else ""
    values = tuple(here["inside"].astype(float))
    return Estimate(values, share, math.nan, int(here["seeds"].min()), remark=remark, text=text, missing=missing)


def _points_of(table: pd.DataFrame, ours: Mapping[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The published points, and those that have enough seeds of ours; with ``n_disambiguation``, at that number."""
    there, here = published.curves(), published.points(table)
    here = here[here["seeds"] >= MIN_SEEDS]
    where = {name: ours[name] for name in ("n_disambiguation",) if name in ours}
    return select(there, where), select(here, where)


MEASURES: dict[str, Callable[[pd.DataFrame, Mapping[str, Any]], Estimate | None]] = {
    "rows": _rows,
    "lead": _lead,
    "plateau": _plateau,
    "base_steps": _base_steps,
    "over_depths": _over_depths,
    "every_depth": _every_depth,
    "points": _points,
}


def _paper_value(claim: Mapping[str, Any], table: pd.DataFrame | None) -> tuple[float, str]:
    """The paper's value as a number (nan where it is none) and as text."""
    paper = claim["paper"]
    if isinstance(paper, str):
        return math.nan, paper
    if isinstance(paper, int | float):
        return float(paper), f"{paper:.2f}"
    if paper.get("lead"):
        return _paper_lead(claim["ours"], table)
    if paper.get("points"):
        return math.nan, _paper_points(claim["ours"], table)
    file = published.read(paper["file"])

    def value(where: Mapping[str, Any]) -> float:
        theirs = {name: _published_name(item) if name == "condition" else item for name, item in where.items()}
        rows = select(file, theirs)
        if not len(rows):
            raise ValueError(f"claim {claim['id']}: {paper['file']}.csv has no row with {dict(where)}")
        return float(rows[paper["column"]].max() if paper.get("take") == "max" else rows[paper["column"]].mean())

    first = value(paper["where"])
    if "minus" not in paper:
        return first, f"{first:.3f}"
    other = value({**paper["where"], **paper["minus"]})
    return first - other, f"{first - other:+.3f} ({first:.3f} and {other:.3f})"


def _published_name(start: str) -> str:
    """The paper's name of a start; what is none of ours is one already."""
    return (start in CONDITIONS and CONDITIONS[start].published) or start


def _paper_lead(ours: Mapping[str, Any], table: pd.DataFrame | None) -> tuple[float, str]:
    """The lead in the published curves, at one depth, over the numbers of samples that ours has; or at every depth."""
    curves = published.curves_as_runs()
    if "n_layer" not in ours:
        least = [
            min(published.lead_at(curves, tuple(over), depth).to_numpy().mean() for over in ours["over"])
            for depth in published.depths()
        ]
        return math.nan, f"above 0 at {sum(lead > 0 for lead in least)} of {len(least)} depths"
    over, depth = tuple(ours["over"]), ours["n_layer"]
    if table is not None:
        counts = published.lead_at(table, over, depth).columns
        curves = curves[curves["n_disambiguation"].isin(counts)]
    mean = float(published.lead_at(curves, over, depth).to_numpy().mean())
    return mean, f"{mean:+.3f}"


def _paper_points(ours: Mapping[str, Any], table: pd.DataFrame | None) -> str:
    """How many points there are; or, at one number of samples, between which values those lie that we have too."""
    there, here = _points_of(published.curves_as_runs() if table is None else table, ours)
    if "n_disambiguation" not in ours:
        return f"{len(there)} points"
    values = (there if here.empty else here)["published"]
    return f"accuracy {values.min():.3f} to {values.max():.3f}"


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
        Naming the claim: for a field that is missing, an unknown rule or measure, an id that stands twice, or data
        that stand in for the paper's under a rule that asks for more than a direction.
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
        if (measure := claim.get("ours", {}).get("measure", "rows")) not in MEASURES:
            raise ValueError(f"claim {name}: measure = {measure!r}, expected one of {', '.join(MEASURES)}")
        if claim.get("stand_in") and "ours" in claim and not RULES[claim["rule"]].direction:
            raise ValueError(f"claim {name}: {claim['stand_in']}: only a direction can be judged, not {claim['rule']}")
    twice = [name for name, count in Counter(claim["id"] for claim in found).items() if count > 1]
    if twice:
        raise ValueError(f"claim {twice[0]}: the id stands twice")
    return found


def judge(claim: Mapping[str, Any], find: Find = tables.find) -> Judged:
    """The verdict on one claim, from the first scale whose table answers with enough seeds.

    Parameters
    ----------
    claim
        One of :func:`read_claims`.
    find
        Where tables come from: the reference, by default.
    """
    rule, ours = RULES[claim["rule"]], claim.get("ours", {})
    answers: list[tuple[str, Estimate, pd.DataFrame]] = []
    for scale in claim.get("scales", SCALES) if ours else ():
        table = find(ours["table"], scale)
        estimate = None if table is None else MEASURES[ours.get("measure", "rows")](table, ours)
        if table is not None and estimate is not None:
            answers.append((scale, estimate, table))
    enough = [one for one in answers if one[1].seeds + one[1].lost >= MIN_SEEDS]
    chosen = (enough or answers)[:1]
    paper, paper_text = _paper_value(claim, chosen[0][2] if chosen else None)
    remarks, stand_in = [], claim.get("stand_in", "")
    text, scale, seeds, table_name, said = "", "", 0, "", NOT_RUN
    if chosen:
        ((scale, estimate, _),) = chosen
        text, seeds, table_name = str(estimate), estimate.seeds, ours["table"]
        said, remark = rule.judge(estimate, paper, claim)
        remarks += [remark, estimate.remark]
        if stand_in:
            remarks.append(f"direction only: {stand_in}")
    else:
        remarks.append(f"needs {claim.get('needs') or _lacking(ours)}")
    remarks.append(claim.get("note", ""))
    sentences = ". ".join(one[0].upper() + one[1:].rstrip(".") for one in remarks if one)
    return Judged(
        claim["id"], claim["group"], claim["claim"], claim["source"], paper_text, text, seeds, scale, said,
        claim["rule"], sentences, table_name, claim["page"], stand_in if chosen else "", _bound(claim),
    )  # fmt: skip


def _bound(claim: Mapping[str, Any]) -> str:
    """The value that the rule compares with, where it is not 0."""
    if "band" in claim:
        return "{:,} to {:,}".format(*claim["band"])
    return next((f"{claim[name]:g}" for name in ("least", "most") if name in claim), "")


def _lacking(ours: Mapping[str, Any]) -> str:
    depth = ours.get("n_layer") or ours.get("where", {}).get("n_layer")
    return f"runs with {depth} layers" if depth else f"runs of {ours['table']}"


def judge_all(root: Path | None = None) -> list[Judged]:
    """All claims with their verdicts, in the order of ``book/claims.yaml``; ``root`` is the project's folder."""
    root = root or project_root()
    files = [root / "book" / "claims.yaml", *sorted(path for path in (root / "results").rglob("*") if path.is_file())]
    return list(_judge_all(root, tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files)))


@functools.lru_cache(maxsize=1)
def _judge_all(root: Path, files: tuple[tuple[str, int, int], ...]) -> tuple[Judged, ...]:
    """Computed once as long as no file changes: several places of a build ask for it."""
    find = functools.cache(partial(tables.find, root=root / "results"))
    return tuple(judge(claim, find) for claim in read_claims(root / "book" / "claims.yaml"))


def as_table(judged: Sequence[Judged]) -> pd.DataFrame:
    """A row a claim, a column a field of :class:`Judged`."""
    return pd.DataFrame([asdict(one) for one in judged], columns=list(Judged.__dataclass_fields__))


def summary(judged: Sequence[Judged], find: Find = tables.find) -> list[str]:
    """Three sentences: how many, with which verdicts, and at what scale."""
    counts = Counter(one.verdict for one in judged)
    decided = [one for one in judged if one.verdict != NOT_RUN]
    drawn = [one for one in decided if one.stand_in]
    full = [one for one in decided if not one.stand_in and one.scale == "paper"]
    quick = [one for one in decided if not one.stand_in and one.scale == "quick"]
    curves = find("04_depths", "paper")
    ran = set() if curves is None else {int(depth) for depth in curves["n_layer"]}
    layers = f"{', '.join(map(str, sorted(ran))) or 'no'} layers"
    if missing := [str(depth) for depth in published.depths() if depth not in ran]:
        layers += f" ({', '.join(missing)} layers are not run yet)"
    return [
        f"This ledger has {len(judged)} claims of the paper: with {counts[AGREES]} of them our runs agree, with "
        f"{counts[DISAGREES]} they do not agree, and {counts[OPEN]} they leave open (not told apart).",
        f"{counts[NOT_RUN]} could not be tested: what each one needs stands in its row.",
        f"Of those that were tested, {len(full)} were tested with the paper's own settings and {layers}, "
        f"{len(quick)} at the small quick scale, and {len(drawn)} on drawn pictures in place of ImageNet, where only "
        "the direction of a difference counts.",
    ]
