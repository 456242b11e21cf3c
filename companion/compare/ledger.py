"""The ledger of claims: what the paper says, what our tables say, and a verdict by rule.

``book/claims.yaml`` lists the claims, each with the rule by which it is judged and the table that answers it.
:func:`judge_all` computes the verdicts from the reference (``results/``); nothing of it is typed.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
import yaml

from companion.arithmetic.starts import CONDITIONS
from companion.compare import published, statistics
from companion.compare.statistics import (
    ABOVE,
    BELOW,
    DIVERGED,
    EQUIVALENT,
    LEVEL,
    MARGIN,
    MOST_SEEDS,
    POWER,
    TOO_FEW,
    Bounds,
    Interval,
    bounds,
    enough,
    lead,
    least_seeds,
    select,
    student,
    wilson,
)
from companion.compare.texts import between, over_seeds
from companion.lab import tables
from companion.lab.project import project_root

Find = Callable[[str, str], "pd.DataFrame | None"]
"""(table, scale) -> the table, or None where it is not there."""

AGREES, DISAGREES, OPEN, NOT_RUN = "agrees", "does not agree", "open", "not run"
VERDICTS = (AGREES, DISAGREES, OPEN, NOT_RUN)
WIDEST = 0.1
"""Half of the interval of one further run, at most, for an agreement to say anything."""
MOST_POINTS = 0.95
"""Share of the published points that lie inside where nothing is wrong."""
SCALES = {"paper": "the paper's", "quick": "the quick"}
"""Whose tables may answer a claim that names a table alone, the first one first."""
DRAWN = {"paper": "longer run", "quick": "quick run", "vit": "transformer run"}
"""What the scales are called where drawn pictures stand in for the paper's."""
LABELS = {name: one.label for name, one in CONDITIONS.items()} | {
    "resnet18": "ResNet-18",
    "vit_base": "ViT-B/16",
    "imagenet16": "ordinary photographs",
    "mean_pooled": "mean-pooled photographs",
}
"""What stands in a claim for a name in its ``for``."""


@dataclass(frozen=True)
class OneMore:
    """How far one further run lies from the mean of ours.

    Attributes
    ----------
    spread
        Standard deviation of such a run.
    own
        Standard error of our mean.
    runs, groups
        How many of ours, and over how many groups with a mean of their own their spread is pooled.
    """

    spread: float
    own: float
    runs: int
    groups: int = 1

    def reach(self, runs: int = 0, level: float = LEVEL) -> float:
        """Half of the prediction interval, as it is or as it would be with so many runs."""
        runs = runs or self.runs
        error = math.sqrt(self.spread**2 + self.own**2 * self.runs / runs)
        return float(student(runs - self.groups, level)) * error


@dataclass(frozen=True)
class Estimate:
    """What a table says.

    Attributes
    ----------
    values
        One a seed, nan where its run diverged; empty where only the mean is known. Of many comparisons, one each.
    mean
        Over seeds.
    text
        What is shown.
    seeds
        Their number; of many comparisons, the fewest.
    lost
        Seeds that were asked and have no value.
    remark
        What has to be known beside the numbers.
    n_layer
        Of the networks, since deep ones need fewer seeds.
    one_more
        What is known of one further run, where it does not follow from ``values``.
    parts
        Of many comparisons over seeds: (layers, which) -> one value a seed.
    seeds_at
        Of many comparisons: layers of the paper -> the fewest seeds that one has there.
    missing
        Of many comparisons, how many the paper has and we have not, or with too few seeds.
    """

    values: tuple[float, ...]
    mean: float
    text: str
    seeds: int
    lost: int = 0
    remark: str = ""
    n_layer: int = 2
    one_more: OneMore | None = None
    parts: Mapping[tuple[int, int], tuple[float, ...]] = field(default_factory=dict)
    seeds_at: Mapping[int, int] = field(default_factory=dict)
    missing: int = 0

    @classmethod
    def of(
        cls, values: Iterable[float], limits: Bounds = statistics.UNBOUNDED, *, sign: bool = False, lost: int = 0,
        remark: str = "", n_layer: int = 2,
    ) -> Estimate:  # fmt: skip
        """Of one value a seed; ``limits`` are those of the quantity, ``sign`` puts a plus before what is above 0."""
        values = tuple(float(value) for value in values)
        mean = sum(values) / len(values)
        text = over_seeds(values, 0 if abs(mean) >= 100 else 3, sign=sign, limits=limits, n_layer=n_layer)
        return cls(values, mean, text, len(values), lost, remark, n_layer)

    @property
    def asked(self) -> int:
        """Seeds with a value, and those without."""
        return self.seeds + self.lost

    @property
    def enough(self) -> bool:
        """Are there seeds enough for a verdict?"""
        return enough(self.asked, self.n_layer)


@dataclass(frozen=True)
class Finding:
    """A verdict, what has to be known beside it, and what would settle it where it is open."""

    verdict: str
    remark: str = ""
    settle: str = ""


@dataclass(frozen=True)
class Answer:
    """What a scale's table answers to a claim.

    Attributes
    ----------
    paper, paper_text
        The paper's value, nan where it is no number.
    place
        The scale in words: "at the paper's scale".
    """

    claim: Mapping[str, Any]
    estimate: Estimate
    paper: float
    paper_text: str
    scale: str
    place: str
    table: str
    remark: str


Family = Mapping[str, Answer]
"""The answers to the claims that one entry of ``book/claims.yaml`` makes, by the claims' ids."""


@dataclass(frozen=True)
class Rule:
    """How verdicts are reached.

    Attributes
    ----------
    judge
        The answers of a family -> what is found of each.
    text
        The same in words.
    direction
        Does it ask for a direction only, so that data may stand in for the paper's?
    many
        Does it judge many comparisons at once, so that the number of seeds is that of the one with the fewest?
    """

    judge: Callable[[Family], dict[str, Finding]]
    text: str
    direction: bool
    many: bool = False


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict; all texts.

    Attributes
    ----------
    scale
        The scale of the table that answers, empty where none does.
    remark
        What has to be known beside the verdict.
    settle
        What would settle a claim that is open, empty for others.
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
    settle: str
    table: str
    page: str
    stand_in: str = ""
    bound: str = ""


# ---------------------------------------------------------------------------------------
# Rules


def _seeds(needed: int, answer: Answer, what: str = "seeds") -> str:
    """So many seeds, where, and how many there are; 0 for more than one can run."""
    told = f"{needed:,} {what}" if needed else f"more than {MOST_SEEDS:,} {what}"
    return f"{told} {answer.place} (there are {answer.estimate.asked})"


def _too_few(answer: Answer) -> str:
    return f"fewer than {least_seeds(answer.estimate.n_layer)} seeds"


def _diverged(answer: Answer) -> Finding:
    return Finding(OPEN, "a run diverged", f"a seed {answer.place} in place of the one that diverged")


def _by_interval(
    than: float, margin: float, agrees: str, disagrees: Sequence[str], family: Family
) -> dict[str, Finding]:
    """By :func:`companion.compare.statistics.judge_all`, the family adjusted together."""
    values = {name: answer.estimate.values for name, answer in family.items()}
    layers = {name: answer.estimate.n_layer for name, answer in family.items()}
    found = statistics.judge_all(values, than, margin=margin, n_layer=layers)
    members = sum(one.outcome not in (TOO_FEW, DIVERGED) for one in found.values())
    told = {}
    for name, answer in family.items():
        outcome = found[name].outcome
        if outcome == agrees or outcome in disagrees:
            told[name] = Finding(AGREES if outcome == agrees else DISAGREES)
        elif outcome == DIVERGED:
            told[name] = _diverged(answer)
        elif outcome == TOO_FEW:
            told[name] = Finding(OPEN, _too_few(answer), f"at least {_seeds(found[name].settle, answer)}")
        else:
            alone = statistics.judge(values[name], than, margin=margin, n_layer=layers[name]).outcome
            near = f"clear by itself, but not within its family of {members}" if alone != outcome else ""
            told[name] = Finding(OPEN, near, _seeds(found[name].settle, answer))
    return told


def _bound_of(family: Family, name: str, default: float | None = None) -> float:
    """The value that the claims of a family compare with: all have the same."""
    claim = next(iter(family.values())).claim
    return float(claim[name] if default is None else claim.get(name, default))


def above(family: Family) -> dict[str, Finding]:
    """Is the mean above ``least`` (0 by default)?"""
    return _by_interval(_bound_of(family, "least", 0.0), 0.0, ABOVE, [BELOW], family)


def below(family: Family) -> dict[str, Finding]:
    """Is the mean below ``most``?"""
    return _by_interval(_bound_of(family, "most"), 0.0, BELOW, [ABOVE], family)


def no_worse(family: Family) -> dict[str, Finding]:
    """Is the mean above -MARGIN?"""
    return _by_interval(-MARGIN, 0.0, ABOVE, [BELOW], family)


def negligible(family: Family) -> dict[str, Finding]:
    """Is the mean less than MARGIN away from 0?"""
    return _by_interval(0.0, MARGIN, EQUIVALENT, [ABOVE, BELOW], family)


def one_more_run(family: Family) -> dict[str, Finding]:
    """Would one more run of ours land where the paper's did? See :func:`companion.compare.published.one_more_run`.

    Which published values lie outside is adjusted within the family (Holm), as that is what one may err in.
    """
    there = {name: answer.estimate for name, answer in family.items() if answer.estimate.enough}
    known = {name: _one_more(estimate) for name, estimate in there.items() if not math.isnan(estimate.mean)}
    out: set[str] = set()
    while True:
        level = LEVEL / max(len(known) - len(out), 1)
        more = {name for name, one in known.items() if _gap(family[name]) > one.reach(level=level)} - out
        if not more:
            break
        out |= more
    told = {}
    for name, answer in family.items():
        if name not in known:
            few = Finding(OPEN, _too_few(answer), _narrows(answer, LEVEL))
            told[name] = _diverged(answer) if name in there else few
            continue
        reach, mean = known[name].reach(), answer.estimate.mean
        remark = f"one more run: {max(mean - reach, 0):.3f} to {min(mean + reach, 1):.3f}"
        if name in out:
            told[name] = Finding(DISAGREES, remark)
        elif _gap(answer) > reach:
            remark += f", and the paper's is outside, but not clearly so in a family of {len(known)}"
            told[name] = Finding(OPEN, remark, _narrows(answer, level))
        elif reach <= WIDEST:
            told[name] = Finding(AGREES, remark)
        else:
            told[name] = Finding(OPEN, f"{remark}, too wide to tell", _narrows(answer, level))
    return told


def _one_more(estimate: Estimate) -> OneMore:
    """One further run of an accuracy, whose spread is no less than the error of its test pairs (1,000)."""
    if estimate.one_more:
        return estimate.one_more
    runs = estimate.seeds
    spread = float(np.std(estimate.values, ddof=1)) if runs > 1 else math.nan
    spread = float(np.maximum(spread, published.sampling_error(estimate.mean)))  # nan stays nan
    return OneMore(spread, spread / math.sqrt(runs), runs)


def _gap(answer: Answer) -> float:
    return abs(answer.paper - answer.estimate.mean)


def _narrows(answer: Answer, level: float) -> str:
    """What would settle a claim about one published run.

    So many seeds that the run lies outside of the interval, or inside of one that is narrow; with the mean and the
    spread as they are. With ever more seeds, the interval still stays as wide as single runs vary.
    """
    one, gap, least = _one_more(answer.estimate), _gap(answer), least_seeds(answer.estimate.n_layer)
    if math.isnan(one.spread):
        return _seeds(least, answer)
    z, z_family = (NormalDist().inv_cdf(1 - each / 2) for each in (LEVEL, level))
    if (z * one.spread <= WIDEST and gap <= z * one.spread) or gap > z_family * one.spread:
        for runs in range(max(least, one.runs), MOST_SEEDS + 1):
            if gap <= one.reach(runs) <= WIDEST or gap > one.reach(runs, level):
                return _seeds(runs, answer, "runs" if one.groups > 1 else "seeds")
    width = f"±{z * one.spread:.2f} (95 %)"
    return f"no number of our seeds will do, as single runs vary by {width}; more published runs would"


def _one_by_one(judge: Callable[[Answer], Finding]) -> Callable[[Family], dict[str, Finding]]:
    """A rule whose claims have no family."""

    @functools.wraps(judge)
    def every(family: Family) -> dict[str, Finding]:
        return {name: judge(answer) for name, answer in family.items()}

    return every


@_one_by_one
def mostly_inside(answer: Answer) -> Finding:
    """Do more than half of the runs lie in ``band``? By Wilson's interval of their share."""
    (low, high), estimate = answer.claim["band"], answer.estimate
    inside, asked = sum(low <= value <= high for value in estimate.values), estimate.asked
    least, most = wilson(inside, asked)
    remark = f"{inside} of {asked} runs inside"
    if estimate.enough and (least > 0.5 or most < 0.5):
        return Finding(AGREES if least > 0.5 else DISAGREES, remark)
    few = "" if estimate.enough else f", {_too_few(answer)}"
    needed = _settles_share(inside / asked, max(asked, least_seeds(estimate.n_layer)))
    return Finding(OPEN, remark + few, _seeds(needed, answer))


def _settles_share(share: float, least: int) -> int:
    """Runs, ``least`` or more, of which Wilson's interval leaves one half out in 80 of 100 cases; 0 for too many.

    If the share stays as it is. By the normal approximation: (z sqrt(1/4) + z' sqrt(share (1 - share)))² over the
    squared distance from one half.
    """
    if share == 0.5:
        return 0
    z, z_power = NormalDist().inv_cdf(1 - LEVEL / 2), NormalDist().inv_cdf(POWER)
    needed = ((z / 2 + z_power * math.sqrt(share * (1 - share))) / (share - 0.5)) ** 2
    return max(math.ceil(needed), least) if needed <= MOST_SEEDS else 0


@_one_by_one
def at_every_depth(answer: Answer) -> Finding:
    """Is every lead above 0, at every depth of the paper? All of them are one family."""
    estimate = answer.estimate
    found = statistics.judge_all(estimate.parts, margin=0.0, n_layer={part: part[0] for part in estimate.parts})
    outcomes = [one.outcome for one in found.values()]
    if BELOW in outcomes:
        depths = sorted({depth for (depth, _), one in found.items() if one.outcome == BELOW})
        return Finding(DISAGREES, f"below 0 with {_join(depths)} layers")
    needed = {depth: least_seeds(depth) for depth in estimate.seeds_at}
    for depth in {depth for depth, _ in found}:
        here = [one for (at, _), one in found.items() if at == depth and one.outcome != ABOVE]
        needed[depth] = max([one.settle or MOST_SEEDS for one in here], default=0)
    needed = {depth: seeds for depth, seeds in needed.items() if seeds}
    if not needed:
        return Finding(AGREES)
    clear = sorted(estimate.seeds_at.keys() - needed.keys())
    remark = f"clear with {_join(clear)} layers" if clear else "clear at no depth yet"
    return Finding(OPEN, remark, _seeds_at(needed, answer))


@_one_by_one
def points_inside(answer: Answer) -> Finding:
    """Do as many published points lie inside (1) as would where nothing is wrong?"""
    estimate = answer.estimate
    inside, every = sum(estimate.values), len(estimate.values) + estimate.missing
    if inside + estimate.missing < every / 2:
        return Finding(DISAGREES)
    if not estimate.missing:
        if inside >= MOST_POINTS * every:
            return Finding(AGREES)
        return Finding(
            OPEN, settle="no number of our seeds will do, as each published point is one run; more published runs would"
        )
    lacking = {depth: least_seeds(depth) for depth, seeds in estimate.seeds_at.items() if not enough(seeds, depth)}
    return Finding(OPEN, f"{estimate.missing} points with too few seeds", _seeds_at(lacking, answer))


def _seeds_at(needed: Mapping[int, int], answer: Answer) -> str:
    """``10 seeds with 2, 4 layers, 5 with 6 layers at the paper's scale (the fewest are 3, 3, 1)``."""
    by_number: dict[int, list[int]] = {}
    for depth in sorted(needed):
        by_number.setdefault(needed[depth], []).append(depth)
    told = [
        f"{seeds:,}{'' if place else ' seeds'} with {_join(depths)} layers"
        for place, (seeds, depths) in enumerate(by_number.items())
    ]
    there = _join(answer.estimate.seeds_at[depth] for depths in by_number.values() for depth in depths)
    return f"{', '.join(told)} {answer.place} (the fewest are {there})"


def _join(values: Iterable[int]) -> str:
    return ", ".join(map(str, values))


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
        f"Agrees: the 95 % interval of the difference is above -{MARGIN}, so less than that is lost. "
        "Does not agree: all of it is below.",
        True,
    ),
    "negligible": Rule(
        negligible,
        f"Agrees: the 95 % interval of the difference lies inside ±{MARGIN}. Does not agree: it lies "
        "beyond. An interval that reaches over an end is open: that it holds 0 shows no equality.",
        True,
    ),
    "one_more_run": Rule(
        one_more_run,
        "For a published number that is one run. Agrees: it lies in the 95 % interval of one further run of ours, and "
        f"that interval is at most ±{WIDEST} wide. Inside a wider one: open. Does not agree: outside. The seeds that "
        "would settle it are those that do so with our mean and spread as they are.",
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
        "For leads over several starts, depth by depth; all of them are one family. Agrees: at every depth of the "
        "paper the interval of each lead is above 0. Does not agree: one is below 0.",
        True,
        many=True,
    ),
    "points_inside": Rule(
        points_inside,
        "For many published points, each one run. Those with enough seeds of ours count. Agrees: all count, and at "
        f"least {100 * MOST_POINTS:.0f} % of them lie in the 95 % interval of one further run of ours. Does not agree: "
        "so many lie outside that fewer than half of all can lie inside. Where no point counts, the row shows how many "
        "lie between our lowest and our highest seed, and how many are expected there if nothing is wrong.",
        False,
        many=True,
    ),
}


# ---------------------------------------------------------------------------------------
# What a table says


def _rows(table: pd.DataFrame, ours: Mapping[str, Any]) -> Estimate | None:
    """The mean of ``column`` for each seed; with ``minus``, of the lead over the rows that differ in what it says."""
    where, column, minus = ours.get("where", {}), ours["column"], ours.get("minus")
    limits = bounds(column, difference=bool(minus))
    if minus:
        found, name = lead(table, where, {**where, **minus}, value=column), "lead"
    else:
        found, name = select(table, where), column
        if "base_steps" in found:
            found = found.dropna(subset=["base_steps"])  # the base was given up, and nothing made of it
    if found.empty:
        return None
    values = found.groupby("seed")[name].mean(skipna=False).tolist()
    return Estimate.of(values, limits, sign=bool(minus), n_layer=where.get("n_layer", 2))


def _lead(table: pd.DataFrame, ours: Mapping[str, Any]) -> Estimate | None:
    """The lead of the subnetwork at one depth, :func:`companion.compare.published.lead_at`."""
    each = published.lead_at(table, tuple(ours["over"]), ours["n_layer"])
    if each.empty:
        return None
    part = published.counts_run(each)
    return Estimate.of(
        each.mean(axis=1), bounds("test_accuracy", difference=True), sign=True, remark=f"over {part}" if part else "",
        n_layer=ours["n_layer"],
    )  # fmt: skip


def _plateau(table: pd.DataFrame, ours: Mapping[str, Any]) -> Estimate | None:
    """Median accuracy in the first half of the steps before the jump, the first accuracy above 0.9, for each seed."""
    values = []
    for _, history in table.sort_values("step").groupby("seed"):
        jump = history.loc[history["accuracy"] > 0.9, "step"].min()
        before = history.loc[history["step"] <= jump / 2, "accuracy"]
        if len(before):
            values.append(float(before.median()))
    return Estimate.of(values, bounds("accuracy")) if values else None


def _base_steps(table: pd.DataFrame, ours: Mapping[str, Any]) -> Estimate | None:
    """Steps of the base models that got there; the seeds of those given up, which have no number, are lost."""
    found = select(table, ours["where"])["base_steps"]
    there = found.dropna()
    return Estimate.of(there, bounds("base_steps"), lost=len(found) - len(there)) if len(there) else None


def _over_depths(table: pd.DataFrame, ours: Mapping[str, Any]) -> Estimate | None:
    """One start's mean over the depths, :func:`companion.compare.published.over_depths`; its runs count as seeds."""
    condition, behaviour = CONDITIONS[ours["start"]].pair
    where = {"condition": condition, "behaviour": behaviour, "n_disambiguation": ours["n_disambiguation"]}
    for row in select(published.over_depths(table), where).to_dict("records"):
        runs = int(row["runs"])
        one_more = OneMore(row["spread"], row["error"], runs, len(published.depths())) if enough(runs) else None
        text = between(Interval(row["mean"], row["mean_low"], row["mean_high"], runs), 3)
        remark = f"such a run is a mean over one at each depth, of ours there are {runs}"
        return Estimate((), row["mean"], text, runs, remark=remark, one_more=one_more)
    return None


def _every_depth(table: pd.DataFrame, ours: Mapping[str, Any]) -> Estimate | None:
    """The leads over all of ``over``, depth by depth."""
    parts: dict[tuple[int, int], tuple[float, ...]] = {}
    for depth in published.depths():
        each = [published.lead_at(table, tuple(over), depth) for over in ours["over"]]
        if not any(one.empty for one in each):
            parts |= {(depth, place): tuple(one.mean(axis=1)) for place, one in enumerate(each)}
    if not parts:
        return None
    least = {
        depth: min(sum(values) / len(values) for (at, _), values in parts.items() if at == depth) for depth, _ in parts
    }
    seeds_at = dict.fromkeys(published.depths(), 0) | {
        depth: min(len(values) for (at, _), values in parts.items() if at == depth) for depth in least
    }
    good = sum(mean > 0 for mean in least.values())
    return Estimate(
        tuple(least.values()), good / len(least), f"above 0 at {good} of {len(least)} depths",
        min(seeds_at[depth] for depth in least), parts=parts, seeds_at=seeds_at,
    )  # fmt: skip


def _points(table: pd.DataFrame, ours: Mapping[str, Any]) -> Estimate | None:
    """Which published points lie where one more run of ours would (1) and which do not (0)?

    Of those with too few seeds for that, the text tells how many lie between our lowest and our highest seed, and how
    many would if nothing were wrong.
    """
    there, here = _points_of(table, ours)
    if here.empty:
        return None
    judged, several = here.dropna(subset="inside"), here.dropna(subset="between")
    values = tuple(judged["inside"].astype(float))
    if len(judged):
        text = f"{int(sum(values))} of {len(judged)} points inside ({100 * sum(values) / len(judged):.1f} %)"
    elif len(several):
        text = f"{int(several['between'].sum())} of {len(several)} points between our lowest and our highest seed, "
        text += f"{several['expected'].astype(float).sum():.0f} are expected"
    else:
        text = f"{len(here)} points, a seed each"
    if "n_disambiguation" in ours:
        text = f"accuracy {here['mean'].min():.3f} to {here['mean'].max():.3f}; {text}"
    seeds = there.merge(here[[*published.POINT, "seeds"]], on=published.POINT, how="left")["seeds"].fillna(0)
    least = seeds.groupby(there["n_layer"].to_numpy()).min()
    seeds_at = dict(zip(map(int, least.index), map(int, least), strict=True))
    share = sum(values) / len(values) if values else math.nan
    return Estimate(values, share, text, int(here["seeds"].min()), seeds_at=seeds_at, missing=len(there) - len(judged))


def _points_of(table: pd.DataFrame, ours: Mapping[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The published points, and those that we have too; with ``n_disambiguation``, at that number."""
    where = {name: ours[name] for name in ("n_disambiguation",) if name in ours}
    return select(published.curves(), where), select(published.points(table), where)


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
    """The claims of the file, checked; those with ``for`` once for each of its combinations, which are a ``family``.

    Raises
    ------
    ValueError
        Naming the claim: for a field that is missing, an unknown rule or measure, an id that stands twice, or data
        that stand in for the paper's under a rule that asks for more than a direction.
    """
    found: list[dict[str, Any]] = []
    for entry in yaml.safe_load(path.read_text(encoding="utf-8")):
        loops, family = entry.pop("for", {}), entry.get("id")
        for combination in itertools.product(*loops.values()):
            names = dict(zip(loops, combination, strict=True))
            labels = {name: LABELS.get(str(value), value) for name, value in names.items()}
            claim = {**_filled(entry, names), "claim": _filled(entry.get("claim", ""), labels)}
            found.append({**claim, "family": family})
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


def judge(claims: Sequence[Mapping[str, Any]], find: Find = tables.find) -> list[Judged]:
    """The verdicts on claims, each from the first scale whose table answers with enough seeds.

    Parameters
    ----------
    claims
        Of :func:`read_claims`. Those of one family are judged together.
    find
        Where tables come from: the reference, by default.
    """
    answers = {claim["id"]: _answer(claim, find) for claim in claims}
    found: dict[str, Finding] = {}
    families: dict[str, dict[str, Answer]] = {}
    for claim in claims:
        if answer := answers[claim["id"]]:
            families.setdefault(claim.get("family", claim["id"]), {})[claim["id"]] = answer
    for family in families.values():
        found |= RULES[next(iter(family.values())).claim["rule"]].judge(family)
    return [_judged(claim, answers[claim["id"]], found.get(claim["id"])) for claim in claims]


def _tables(ours: Mapping[str, Any]) -> dict[str, str]:
    """Scale -> the table that may answer there, the first one first."""
    named = ours.get("table", {})
    return dict(named) if isinstance(named, Mapping) else dict.fromkeys(SCALES, named)


def _answer(claim: Mapping[str, Any], find: Find) -> Answer | None:
    """What the first scale with enough seeds says; where none has enough, the first one that says anything."""
    ours = claim.get("ours", {})
    answers: list[tuple[str, str, Estimate, pd.DataFrame]] = []
    for scale, name in _tables(ours).items():
        table = find(name, scale)
        estimate = None if table is None else MEASURES[ours.get("measure", "rows")](table, ours)
        if table is not None and estimate is not None:
            answers.append((scale, name, estimate, table))
    if not answers:
        return None
    chosen = next((one for one in answers if one[2].enough), answers[0])
    scale, name, estimate, table = chosen
    remark = ""
    if chosen is not answers[0]:
        larger, _, first, _ = answers[0]
        remark = f"{_place(claim, larger).removeprefix('of ')}: {first.text}"
    return Answer(claim, estimate, *_paper_value(claim, table), scale, _place(claim, scale), name, remark)


def _place(claim: Mapping[str, Any], scale: str) -> str:
    return f"of the {DRAWN[scale]}" if claim.get("stand_in") else f"at {SCALES[scale]} scale"


def _judged(claim: Mapping[str, Any], answer: Answer | None, found: Finding | None) -> Judged:
    """A claim, with what was found of it; without an answer, with what it needs."""
    stand_in, note = claim.get("stand_in", ""), claim.get("note", "")
    if answer is None or found is None:
        needs = f"needs {claim.get('needs') or _lacking(claim.get('ours', {}))}"
        paper, stand_in = _paper_value(claim, None)[1], ""
        text, seeds, scale, verdict, settle, table, remarks = "", 0, "", NOT_RUN, "", "", [needs, note]
    else:
        estimate, paper = answer.estimate, answer.paper_text
        text, seeds, scale, table = estimate.text, estimate.seeds, answer.scale, answer.table
        verdict, settle = found.verdict, found.settle
        direction = f"direction only: {stand_in}" if stand_in else ""
        remarks = [found.remark, estimate.remark, answer.remark, direction, note]
    remark = ". ".join(one[0].upper() + one[1:].rstrip(".") for one in remarks if one)
    return Judged(
        claim["id"], claim["group"], claim["claim"], claim["source"], paper, text, seeds, scale, verdict,
        claim["rule"], remark, settle, table, claim["page"], stand_in, _bound(claim),
    )  # fmt: skip


def _bound(claim: Mapping[str, Any]) -> str:
    """The value that the rule compares with, where it is not 0."""
    if "band" in claim:
        return "{:,} to {:,}".format(*claim["band"])
    return next((f"{claim[name]:g}" for name in ("least", "most") if name in claim), "")


def _lacking(ours: Mapping[str, Any]) -> str:
    depth = ours.get("n_layer") or ours.get("where", {}).get("n_layer")
    return f"runs with {depth} layers" if depth else f"runs of {' or '.join(dict.fromkeys(_tables(ours).values()))}"


def judge_all(root: Path | None = None) -> list[Judged]:
    """All claims with their verdicts, in the order of ``book/claims.yaml``; ``root`` is the project's folder."""
    root = root or project_root()
    files = [root / "book" / "claims.yaml", *sorted(path for path in (root / "results").rglob("*") if path.is_file())]
    return list(_judge_all(root, tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files)))


@functools.lru_cache(maxsize=1)
def _judge_all(root: Path, files: tuple[tuple[str, int, int], ...]) -> tuple[Judged, ...]:
    """Computed once as long as no file changes: several places of a build ask for it."""
    find = functools.cache(partial(tables.find, root=root / "results"))
    return tuple(judge(read_claims(root / "book" / "claims.yaml"), find))


def as_table(judged: Sequence[Judged]) -> pd.DataFrame:
    """A row a claim, a column a field of :class:`Judged`."""
    return pd.DataFrame([asdict(one) for one in judged], columns=list(Judged.__dataclass_fields__))


def summary(judged: Sequence[Judged], find: Find = tables.find) -> list[str]:
    """Three sentences: how many claims, with which verdicts, and from which runs."""
    counts = Counter(one.verdict for one in judged)
    decided = [one for one in judged if one.verdict in (AGREES, DISAGREES)]
    drawn = sum(bool(one.stand_in) for one in decided)
    full = sum(not one.stand_in and one.scale == "paper" for one in decided)
    curves = find("04_depths", "paper")
    ran = set() if curves is None else {int(depth) for depth in curves["n_layer"]}
    layers = f"{_join(sorted(ran)) or 'no'} layers"
    if missing := [depth for depth in published.depths() if depth not in ran]:
        layers += f" ({_join(missing)} layers are not run yet)"
    return [
        f"This ledger has {len(judged)} claims of the paper: with {counts[AGREES]} of them our runs agree, with "
        f"{counts[DISAGREES]} they do not agree, {counts[OPEN]} are open, and {counts[NOT_RUN]} were not run.",
        "What would settle an open claim, and what one that was not run needs, stands in its row.",
        f"Of the {len(decided)} verdicts, {full} rest on the paper's own settings, which were run with {layers}, "
        f"{len(decided) - full - drawn} on the small quick scale, and {drawn} on drawn pictures in place of ImageNet, "
        "where only the direction of a difference counts.",
    ]
