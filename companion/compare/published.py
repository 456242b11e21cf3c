"""The paper's own arithmetic curves, our runs beside them, and which of its claims hold here.

A table of runs has (at least) the columns ``condition``, ``behaviour`` ("" where it does
not apply), ``n_layer``, ``n_disambiguation``, ``seed`` and ``test_accuracy``, one run a row,
at the paper's settings; depths, conditions, counts and seeds may be missing. Runs without
an accuracy (nan) do not count. Source of the curves: ``results/published/README.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from companion.compare.statistics import mean_interval, samples_needed
from companion.lab.tables import folder, with_sign

CONDITIONS: dict[str, tuple[str, str]] = {
    "subnetwork": ("subnetwork", ""),
    "full_model": ("full_model", ""),
    "sampled": ("sampled", "as_released"),
    "sampled_complement": ("complement", "as_released"),
    "random_init": ("random_initialisation", ""),
}
"""Published name -> our (condition, behaviour). The released code made the published controls."""

POINT = ["n_layer", "condition", "behaviour", "n_disambiguation"]
LEVELS = (0.5, 0.9, 0.99)
LEAD_COUNTS = (64, 2500)
"""First and last count of a lead. Below, no start has learned the task; above, most are near 1."""
FIVE = 5
"""Runs of the paper in each point of :func:`five_seed_curve`."""
MIN_SEEDS = 3
"""Fewest seeds on which a claim is judged."""
MARGIN = 0.02
"""A start that is at most this much accuracy below another one is as good."""


def curves() -> pd.DataFrame:
    """The published points of every depth, one run each.

    Returns
    -------
    pandas.DataFrame
        ``condition``, ``behaviour``, ``n_layer``, ``n_disambiguation``, ``published``
        (test accuracy in [0, 1]): 6 depths x 5 conditions x 16 counts.

    >>> len(curves())
    480
    """
    return _renamed(pd.read_csv(folder("published") / "appendix_arithmetic_by_depth.csv"))


def curves_as_runs() -> pd.DataFrame:
    """:func:`curves` with the columns of our own table, as :func:`lead` wants them: each point is a run of seed 0."""
    return curves().rename(columns={"published": "test_accuracy"}).assign(seed=0)


def five_seed_curve() -> pd.DataFrame:
    """Figure 2 at 12 layers: as :func:`curves`, each a mean over :data:`FIVE` runs, with ``published_std``.

    Four conditions (not the complement) x 17 counts; no standard deviation is given for 0 samples.
    """
    table = pd.read_csv(folder("published") / "fig2_arithmetic.csv")
    table = table[table["layers"] == "12"].astype({"layers": int}).reset_index(drop=True)
    return _renamed(table).assign(published_std=table["std_over_5_runs"])


def vision_curves(model: str = "resnet18") -> pd.DataFrame:
    """Figure 4: accuracy over training steps, of ``resnet18`` or ``vit_base`` on photographs, one run each.

    Returns
    -------
    pandas.DataFrame
        ``condition`` (``subnetwork`` or ``scratch``), ``metric`` (``ordinary``: 16-class ImageNet, or
        ``mean_pooled``), ``step``, ``accuracy``.

    >>> float(vision_curves().query("condition == 'subnetwork' and metric == 'ordinary'")["accuracy"].max())
    0.8457
    """
    table = pd.read_csv(folder("published") / "fig4_vision_learning_curves.csv")
    if model not in set(table["model"]):
        raise ValueError(f"model = {model!r}: expected one of {', '.join(sorted(set(table['model'])))}")
    table = table[table["model"] == model]
    return pd.DataFrame({
        "condition": table["condition"].replace("random_init", "scratch"),
        "metric": table["metric"].replace("imagenet16", "ordinary"),
        "step": table["x_axis"] * 1e4, "accuracy": table["accuracy"],
    }).reset_index(drop=True)  # fmt: skip


def points(table: pd.DataFrame, reference: pd.DataFrame | None = None, *, test_pairs: int = 1000) -> pd.DataFrame:
    """Our runs beside the published value, at every point that is in both.

    The published value is one run, so it is held against the 95 % prediction interval of
    one further run, mean ± t(0.975, n - 1) * sd * sqrt(1 + 1/n), clipped to [0, 1]. The sd
    over seeds holds the sampling error of the test pairs already. It is taken as no less
    than that error, sqrt(m (1 - m) / test_pairs) with m = (mean * test_pairs + 2) / (test_pairs + 4),
    as otherwise seeds that agree by chance, all at 1.000 for instance, would leave no interval.

    Parameters
    ----------
    table
        Runs.
    reference
        Published points, :func:`curves` by default.
    test_pairs
        Pairs on which one run is tested.

    Returns
    -------
    pandas.DataFrame
        ``n_layer``, ``condition``, ``behaviour``, ``n_disambiguation``, ``published``,
        ``mean``, ``half_width`` (of the mean's 95 % confidence interval over seeds), ``seeds``,
        ``gap`` (mean - published), ``low``, ``high`` and ``inside``. With one seed, the
        intervals are nan and ``inside`` is missing. A point at which a run diverged is left out.
    """
    from scipy.stats import t as student  # slow to import, so only here

    reference = curves() if reference is None else reference
    ours = _runs(table).groupby(POINT)["test_accuracy"].agg(["mean", "std", "count"]).reset_index()
    found = reference[[*POINT, "published"]].merge(ours.rename(columns={"count": "seeds"}), on=POINT)
    mean, seeds = found["mean"], found["seeds"]
    found["half_width"] = student.ppf(0.975, np.where(seeds > 1, seeds - 1, np.nan)) * found["std"] / np.sqrt(seeds)
    found["gap"] = mean - found["published"]
    found["low"], found["high"] = _one_more_run(mean, found["std"], seeds, test_pairs)
    found["inside"] = _published_inside(found)
    return found[[*POINT, "published", "mean", "half_width", "seeds", "gap", "low", "high", "inside"]]


def beside_five_runs(table: pd.DataFrame, *, test_pairs: int = 1000) -> pd.DataFrame:
    """Our runs with 12 layers, each held against the five that the paper has there (:func:`five_seed_curve`).

    The other way round than :func:`points`: the interval for one more run comes from the
    paper's mean and standard deviation, so that a single run of ours can be judged. The
    paper's five share one base model and one mask, and each of ours has its own, so that
    more than 5 % of ours may lie outside although nothing is wrong.

    Returns
    -------
    pandas.DataFrame
        A row a run: ``condition``, ``behaviour``, ``n_layer``, ``n_disambiguation``,
        ``published``, ``published_std``, ``low``, ``high``, ``seed``, ``test_accuracy`` and
        ``inside``. Points without a published standard deviation (0 samples) are left out.
    """
    theirs = five_seed_curve().dropna(subset="published_std")
    theirs["low"], theirs["high"] = _one_more_run(
        theirs["published"], theirs["published_std"], pd.Series(FIVE, theirs.index), test_pairs
    )
    found = theirs.merge(_runs(table)[[*POINT, "seed", "test_accuracy"]], on=POINT)
    found["inside"] = found["test_accuracy"].between(found["low"], found["high"])
    return found


def over_depths(table: pd.DataFrame, *, test_pairs: int = 1000) -> pd.DataFrame:
    """The mean over the six depths (Figure 2), ours beside the paper's, where every depth has a run of ours.

    At each depth we take the mean of our seeds, then the mean of these. The paper's value is
    the mean of one run a depth, so the interval is that for one more such mean. Depths with a
    single seed have no standard deviation of their own: one is pooled over the depths with
    more, as if runs varied as much at each. With n_d seeds at depth d of D, pooled s with
    df = sum(n_d - 1): mean ± t(0.975, df) * s * sqrt(1/D + sum(1/n_d) / D^2). As in
    :func:`points`, s is taken as no less than the error of ``test_pairs`` test pairs.

    Returns
    -------
    pandas.DataFrame
        ``condition``, ``behaviour``, ``n_disambiguation``, ``published``, ``mean``,
        ``half_width`` (of our mean's 95 % interval), ``runs`` (of ours), ``low``, ``high``
        and ``inside``. Where no depth has two seeds, the intervals are nan and ``inside`` is missing.
    """
    from scipy.stats import t as student  # slow to import, so only here

    place = [name for name in POINT if name != "n_layer"]
    reference = curves()
    each = _runs(table).groupby(POINT)["test_accuracy"].agg(["mean", "var", "count"]).reset_index()
    rows = []
    for key, part in reference.merge(each, on=POINT).groupby(place, sort=False):
        depths, df = len(part), int((part["count"] - 1).sum())
        if depths < reference["n_layer"].nunique():
            continue
        mean, ours = part["mean"].mean(), (1 / part["count"]).sum() / depths**2
        pooled = np.sqrt(((part["count"] - 1) * part["var"].fillna(0)).sum() / df) if df else math.nan
        t = student.ppf(0.975, df) if df else math.nan
        reach = t * np.maximum(pooled, _sampling_error(mean, test_pairs)) * math.sqrt(1 / depths + ours)
        rows.append((
            *key, part["published"].mean(), mean, t * pooled * math.sqrt(ours), int(part["count"].sum()), mean - reach,
            mean + reach,
        ))  # fmt: skip
    found = pd.DataFrame(rows, columns=[*place, "published", "mean", "half_width", "runs", "low", "high"])
    found["low"], found["high"] = found["low"].clip(lower=0), found["high"].clip(upper=1)
    found["inside"] = _published_inside(found)
    return found


def _one_more_run(mean: pd.Series, std: pd.Series, runs: pd.Series, test_pairs: int) -> tuple[pd.Series, pd.Series]:
    """Ends of the 95 % prediction interval of :func:`points`; nan with one run."""
    from scipy.stats import t as student  # slow to import, so only here

    t = student.ppf(0.975, np.where(runs > 1, runs - 1, np.nan))
    reach = t * np.maximum(std, _sampling_error(mean, test_pairs)) * np.sqrt(1 + 1 / runs)
    return (mean - reach).clip(lower=0), (mean + reach).clip(upper=1)


def _sampling_error(mean: pd.Series | float, test_pairs: int) -> pd.Series | float:
    """Standard error of an accuracy on ``test_pairs`` pairs, not 0 for one of 1.000: see :func:`points`."""
    if test_pairs < 1:
        raise ValueError(f"test_pairs = {test_pairs}: expected 1 or more")
    middle = (mean * test_pairs + 2) / (test_pairs + 4)
    return (middle * (1 - middle) / test_pairs) ** 0.5


def _published_inside(found: pd.DataFrame) -> pd.Series:
    """Does ``published`` lie from ``low`` to ``high``? Missing where there is no interval."""
    inside = found["published"].between(found["low"], found["high"]).astype("boolean")
    return inside.mask(found["low"].isna())


def crossed(points: pd.DataFrame) -> pd.DataFrame:
    """Every published point held against all of our curves, the right one and the wrong ones.

    How easily would :func:`points` pass a curve that is not ours? Where as many published points
    lie inside the intervals of another start as inside those of their own, the intervals are too
    wide to tell the starts apart.

    Parameters
    ----------
    points
        Rows of :func:`points`. Those without an interval are left out.

    Returns
    -------
    pandas.DataFrame
        ``n_layer``, ``n_disambiguation``, ``start`` (of the published point), ``against`` (of our
        mean and interval), both such as "sampled as released", ``gap`` (our mean - published) and
        ``inside``.
    """
    judged = points[points["inside"].notna()]
    name = (judged["condition"] + " " + judged["behaviour"]).str.strip().str.replace("_", " ")
    place = ["n_layer", "n_disambiguation"]
    theirs, ours = judged[[*place, "published"]].assign(start=name), judged[[*place, "mean", "low", "high"]]
    both = theirs.merge(ours.assign(against=name), on=place)
    both["gap"] = both["mean"] - both["published"]
    both["inside"] = both["published"].between(both["low"], both["high"])
    return both[[*place, "start", "against", "gap", "inside"]]


def by_curve(points: pd.DataFrame) -> pd.DataFrame:
    """One row a curve, from the rows of :func:`points`.

    Returns
    -------
    pandas.DataFrame
        ``n_layer``, ``condition``, ``behaviour``, ``points``, ``inside`` (share of the points
        with two seeds or more, or nan), ``largest_gap`` (signed; the first one of several),
        ``largest_gap_at``, ``mean_absolute_gap``, and for 50, 90 and 99 % ``published_50``,
        ``ours_50`` and so on: the samples needed by the published curve and by our mean
        curve, both over the counts that both have; nan where it is never reached.
    """
    rows = []
    for key, curve in points.groupby(POINT[:3], sort=False):
        curve = curve.sort_values("n_disambiguation")
        counts, size, inside = curve["n_disambiguation"].tolist(), curve["gap"].abs(), curve["inside"].dropna()
        largest = int(size.to_numpy().argmax())
        share = float(inside.mean()) if len(inside) else math.nan
        needed = [
            samples_needed(counts, curve[name].tolist(), level) for level in LEVELS for name in ("published", "mean")
        ]
        rows.append((*key, len(curve), share, curve["gap"].iloc[largest], counts[largest], size.mean(), *needed))
    columns = ["points", "inside", "largest_gap", "largest_gap_at", "mean_absolute_gap"]
    names = [f"{name}_{100 * level:.0f}" for level in LEVELS for name in ("published", "ours")]
    return pd.DataFrame(rows, columns=[*POINT[:3], *columns, *names])


def lead(table: pd.DataFrame, over: tuple[str, str], n_layer: int) -> pd.DataFrame:
    """The subnetwork's test accuracy minus that of another start, paired by seed.

    A seed's lead is the mean of its row, over the counts from 64 to 2,500 that both starts
    have: with fewer samples no start has learned the task, with more most are near 1, and
    there a lead says little. All seeds have the same counts: a count that fewer than half of
    the seeds have is left out, and then a seed that lacks one of the others.

    Parameters
    ----------
    over
        (condition, behaviour) of the other start.

    Returns
    -------
    pandas.DataFrame
        A row a seed, a column a count, no value missing. Empty where there is no pair of runs.

    >>> row = {"behaviour": "", "n_layer": 2, "n_disambiguation": 100, "seed": 0}
    >>> runs = [row | {"condition": "subnetwork", "test_accuracy": 0.75}]
    >>> runs += [row | {"condition": "full_model", "test_accuracy": 0.5}]
    >>> lead(pd.DataFrame(runs), ("full_model", ""), 2).mean(axis=1).tolist()
    [0.25]
    """
    return _differences(_runs(table), over).get(n_layer, pd.DataFrame())


def outside(value: float, leads: Sequence[float]) -> bool:
    """Does ``value`` lie outside the 95 % prediction interval of one more seed's lead?

    The interval is as much wider than the mean's as sqrt(n + 1) for n seeds; with one seed there is none, and
    nothing lies outside.

    >>> outside(0.6, [0.1, 0.2, 0.3]), outside(0.7, [0.1, 0.2, 0.3]), outside(0.7, [0.2])
    (False, True, False)
    """
    mean, half = mean_interval(leads)
    return abs(value - mean) > half * math.sqrt(len(leads) + 1)


def counts_at_every_depth(table: pd.DataFrame) -> list[int]:
    """The counts of a :func:`lead` that each depth of ``table`` was run with, smallest first.

    >>> runs = curves_as_runs()
    >>> counts_at_every_depth(runs[(runs["n_layer"] < 12) | runs["n_disambiguation"].isin([0, 100, 400])])
    [100, 400]
    """
    runs = _runs(table)
    depths_of = runs.groupby("n_disambiguation")["n_layer"].nunique()
    shared = depths_of.index[depths_of == runs["n_layer"].nunique()]
    return [int(count) for count in shared if LEAD_COUNTS[0] <= count <= LEAD_COUNTS[1]]


def leads_by_depth(table: pd.DataFrame, over: tuple[str, str]) -> pd.DataFrame:
    """The :func:`lead` at each depth beside the paper's, all over :func:`counts_at_every_depth`.

    The mean of ``gap`` over the depths says whether our lead is the paper's: each depth has its own runs,
    ours and the paper's, so the gaps are as many independent values.

    Parameters
    ----------
    over
        (condition, behaviour) of the other start.

    Returns
    -------
    pandas.DataFrame
        A row a depth that has the lead, from the fewest layers on: ``n_layer``, ``seeds``, ``mean`` and
        ``half_width`` (nan for one seed) of its 95 % interval over seeds, ``published``, ``gap``
        (our mean - published) and ``outside`` (:func:`outside`).

    >>> found = leads_by_depth(curves_as_runs(), ("random_initialisation", ""))
    >>> found["n_layer"].tolist(), float(found["gap"].abs().max())
    ([2, 4, 6, 8, 10, 12], 0.0)
    """
    runs, rows, shared = _runs(table), [], counts_at_every_depth(table)
    ours, theirs = (
        _differences(each[each["n_disambiguation"].isin(shared)], over) for each in (runs, curves_as_runs())
    )
    for depth in sorted(ours.keys() & theirs.keys()):
        each, value = ours[depth].mean(axis=1).tolist(), float(theirs[depth].to_numpy().mean())
        mean, half = mean_interval(each)
        rows.append((depth, len(each), mean, half, value, mean - value, outside(value, each)))
    return pd.DataFrame(rows, columns=["n_layer", "seeds", "mean", "half_width", "published", "gap", "outside"])


def counts_run(differences: pd.DataFrame) -> str:
    """How many of the paper's counts from 64 to 2,500 are in a :func:`lead`; empty where all are.

    >>> counts_run(pd.DataFrame({100: [0.2], 400: [0.3]}))
    '2 of 9 numbers of samples'
    """
    every = curves()["n_disambiguation"].drop_duplicates().between(*LEAD_COUNTS).sum()
    found = len(differences.columns)
    return "" if found == every else f"{found} of {every} numbers of samples"


def not_run(table: pd.DataFrame) -> str:
    """The published points beside which ``table`` has no run, in words; "none" where there is one beside each.

    A number of samples counts as run at a depth where all five published starts have it.

    >>> runs = curves_as_runs()
    >>> not_run(runs[(runs["n_layer"] < 10) & ((runs["n_layer"] != 8) | (runs["n_disambiguation"] < 6400))])
    '1 of 16 numbers of samples with 8 layers; 10, 12 layers'
    """
    reference, place = curves(), ["n_layer", "n_disambiguation"]
    found = reference.merge(_runs(table)[POINT].drop_duplicates(), on=POINT, how="left", indicator=True)
    lacking = found.assign(lacking=found["_merge"] != "both").groupby(place)["lacking"].any()
    depths: dict[int, list[str]] = {}
    for depth, missing in lacking.groupby("n_layer").sum().items():
        depths.setdefault(int(missing), []).append(str(depth))
    every = reference["n_disambiguation"].nunique()
    return "; ".join(
        ("" if missing == every else f"{missing} of {every} numbers of samples with ") + f"{', '.join(at)} layers"
        for missing, at in sorted(depths.items()) if missing
    ) or "none"  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, and the rule by which runs decide on it.

    Attributes
    ----------
    text
        The claim.
    source
        Where the paper makes or shows it.
    rule
        When it counts as reproduced, partly, undecided, not reproduced, or not run.
    judge
        Runs -> (the paper's value, ours, verdict).
    """

    text: str
    source: str
    rule: str
    judge: Callable[[pd.DataFrame], tuple[str, str, str]]


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """What the runs say about each of ``CLAIMS``.

    Returns
    -------
    pandas.DataFrame
        Texts: ``claim``, ``source``, ``paper`` and ``ours`` (values), ``verdict``
        ("reproduced", "partly", "undecided", "not reproduced" or "not run") and ``rule``.
    """
    table = _runs(table)
    rows = [(claim.text, claim.source, *claim.judge(table), claim.rule) for claim in CLAIMS]
    return pd.DataFrame(rows, columns=["claim", "source", "paper", "ours", "verdict", "rule"])


def _renamed(table: pd.DataFrame) -> pd.DataFrame:
    """The files' columns and conditions in our names."""
    ours = [CONDITIONS[name] for name in table["condition"]]
    return pd.DataFrame({
        "condition": [condition for condition, _ in ours],
        "behaviour": [behaviour for _, behaviour in ours],
        "n_layer": table["layers"],
        "n_disambiguation": table["n_disambiguation"],
        "published": table["test_accuracy"],
    })  # fmt: skip


def _runs(table: pd.DataFrame) -> pd.DataFrame:
    """The table's columns that matter, checked, without the points at which a run diverged."""
    columns = [*POINT, "seed", "test_accuracy"]
    if missing := [column for column in columns if column not in table]:
        raise ValueError(f"table has no column {missing[0]!r}: expected {', '.join(columns)}")
    runs = table.assign(behaviour=table["behaviour"].astype(object).fillna("").astype(str))
    if "diverged" in runs:  # of the seeds that are left a mean would say too much
        lost = runs.groupby(POINT)["diverged"].transform("count") > 0
        runs = runs[~lost]
    runs = runs.loc[runs["test_accuracy"].notna(), columns].reset_index(drop=True)
    wrong = runs.loc[~runs["test_accuracy"].between(0, 1), "test_accuracy"]
    if len(wrong):
        raise ValueError(f"test_accuracy = {wrong.iloc[0]:g}: expected a share from 0 to 1")
    twice = runs[runs.duplicated([*POINT, "seed"])]
    if len(twice):
        raise ValueError(f"table has a run twice: {twice.iloc[0][[*POINT, 'seed']].to_dict()}, expected one row a run")
    return runs


def _differences(runs: pd.DataFrame, over: tuple[str, str]) -> dict[int, pd.DataFrame]:
    """Depth -> subnetwork minus ``over``: a row a seed, a column a count, none missing."""
    runs = runs[runs["n_disambiguation"].between(*LEAD_COUNTS)]

    def wide(condition: str, behaviour: str) -> pd.DataFrame:
        rows = runs[(runs["condition"] == condition) & (runs["behaviour"] == behaviour)]
        return rows.pivot(index=["n_layer", "seed"], columns="n_disambiguation", values="test_accuracy")

    both = (wide("subnetwork", "") - wide(*over)).dropna(how="all")
    layers, found = both.index.get_level_values("n_layer"), {}
    for depth in layers.unique():
        each = both.loc[layers == depth].droplevel("n_layer")
        each = each.loc[:, each.notna().mean() >= 0.5].dropna()
        if each.size:
            found[int(depth)] = each
    return found


def _published_differences(over: tuple[str, str]) -> dict[int, pd.DataFrame]:
    return _differences(curves_as_runs(), over)


def _intervals(differences: dict[int, pd.DataFrame]) -> dict[int, tuple[float, float]]:
    """Depth -> mean lead and half-width, at depths with enough seeds."""
    return {
        depth: mean_interval(each.mean(axis=1).tolist())
        for depth, each in differences.items()
        if len(each) >= MIN_SEEDS
    }


def _verdict(holds: Sequence[bool | None]) -> str:
    """Of one answer a depth; None where the interval leaves it open."""
    if not holds:
        return "not run"
    if any(holds):
        return "reproduced" if all(holds) else "partly"
    return "undecided" if None in holds else "not reproduced"


def _above(mean: float, half: float, least: float = 0.0) -> bool | None:
    """Is the interval above ``least``? False when all of it is below 0, None when it is neither."""
    return True if mean - half > least else False if mean + half < 0 else None


def _leads(table: pd.DataFrame, *, over: tuple[str, str], as_good: bool = False) -> tuple[str, str, str]:
    """Judge the lead over one start at each depth; ``as_good``: no worse will do."""
    here, there = _differences(table, over), _published_differences(over)
    ours = _intervals(here)
    paper = []
    for depth, each in there.items():
        if depth in ours:
            each = each.loc[:, each.columns.isin(here[depth].columns)]
        if each.size and (depth in ours or not ours):
            paper.append(f"{each.to_numpy().mean():+.3f} ({depth} layers)")
    texts = []
    for depth, interval in ours.items():
        of = ", ".join(filter(None, (f"{depth} layers", counts_run(here[depth]))))
        texts.append(f"{with_sign(*interval)} ({of})")
    holds = [_above(mean, half, -MARGIN if as_good else 0.0) for mean, half in ours.values()]
    return "; ".join(paper) or "no published value", "; ".join(texts) or "no result", _verdict(holds)


def _depths(table: pd.DataFrame) -> tuple[str, str, str]:
    """Judge the leads over the controls of figure 2 together, depth by depth."""
    controls = CONDITIONS["random_init"], CONDITIONS["sampled"]
    first, second = (_published_differences(over) for over in controls)
    there = [min(first[depth].to_numpy().mean(), second[depth].to_numpy().mean()) > 0 for depth in first]
    one, other = (_intervals(_differences(table, over)) for over in controls)
    both = {depth: (_above(*one[depth]), _above(*other[depth])) for depth in one if depth in other}
    holds = {depth: False if False in each else None if None in each else True for depth, each in both.items()}
    failing, missing = [depth for depth in holds if not holds[depth]], [depth for depth in first if depth not in holds]
    named = (("not", failing), (f"without {MIN_SEEDS} seeds:", missing))
    rest = "; ".join(f"{what} {', '.join(map(str, depths))} layers" for what, depths in named if depths)
    ours = f"above 0 at {sum(map(bool, holds.values()))} of {len(holds)} depths" + (f" ({rest})" if rest else "")
    verdict = _verdict(list(holds.values())) if len(holds) > 1 else "not run"
    if verdict == "reproduced" and missing:
        verdict = "partly"
    return f"above 0 at {sum(there)} of {len(there)} depths", ours if holds else "no result", verdict


def _agreement(table: pd.DataFrame, *, unaided: bool = False) -> tuple[str, str, str]:
    """Judge the share of published points inside; ``unaided``: at 0 disambiguation samples only."""
    there, here = curves(), points(table)
    here = here[here["seeds"] >= MIN_SEEDS]
    if unaided:
        there, here = (rows[rows["n_disambiguation"] == 0] for rows in (there, here))

    def spread(rows: pd.DataFrame, column: str) -> str:
        return f"accuracy {rows[column].min():.3f} to {rows[column].max():.3f}" if unaided else ""

    if not len(here):
        return spread(there, "published") or f"{len(there)} points", "no result", "not run"
    paper = spread(here, "published") or f"{len(there)} points"
    inside, missing = int(here["inside"].sum()), len(there) - len(here)
    share = inside / len(here)
    ours = f"{inside} of {len(here)} points inside ({100 * share:.1f} %)" + (
        f", {missing} without {MIN_SEEDS} seeds" if missing else ""
    )
    ours = f"{spread(here, 'mean')}, {ours}" if unaided else ours
    good = share >= 0.95 and not missing
    return paper, ours, "reproduced" if good else "partly" if share >= 0.5 else "not reproduced"


_LEAD = (
    f"Lead: test accuracy of the subnetwork minus the other's, paired by seed, averaged over {LEAD_COUNTS[0]} to "
    f"{LEAD_COUNTS[1]:,} samples. Reproduced: its 95 % interval is above {{}} at every depth with {MIN_SEEDS} seeds "
    "or more; partly: at some. Otherwise not reproduced, where the intervals are below 0, or undecided."
)
_INSIDE = (
    f"Of the points with {MIN_SEEDS} seeds or more: the published value is in the 95 % prediction interval of one "
    "further run at 95 % of them or more, and every published point has so many (reproduced), at half or more "
    "(partly), at fewer (not reproduced)."
)
_DEPTHS = (
    "The leads over random initialisation and over the random subnetwork as released, as above, are both above 0: "
    f"at every depth of the paper (reproduced), at some (partly). Depths with {MIN_SEEDS} seeds or more of all three "
    "count as run. At none of these: not reproduced, where an interval is below 0 at each, or undecided. Not run: "
    "fewer than two of them."
)
_FIGURE, _APPENDIX = "section 4, figure 2", "appendix, curves by depth"
_OTHERS = (
    ("random initialisation", _FIGURE, ("random_initialisation", "")),
    ("a random subnetwork, as released", _FIGURE, ("sampled", "as_released")),
    ("a random subnetwork, as described", _FIGURE, ("sampled", "as_described")),
    ("one from its complement, as released", _APPENDIX, ("complement", "as_released")),
    ("one from its complement, as described", _APPENDIX, ("complement", "as_described")),
)

CLAIMS: tuple[Claim, ...] = (
    *(
        Claim(
            f"The discovered subnetwork learns the task from fewer disambiguation samples than {name}",
            source,
            _LEAD.format("0"),
            partial(_leads, over=over),
        )
        for name, source, over in _OTHERS
    ),
    Claim(
        "The discovered subnetwork does as well as the full model, or better",
        _FIGURE,
        _LEAD.format(f"-{MARGIN}"),
        partial(_leads, over=("full_model", ""), as_good=True),
    ),
    Claim("The effect holds at every depth", _APPENDIX, _DEPTHS, _depths),
    Claim(
        "Without disambiguation samples no start prefers a^2 + ab",
        _APPENDIX,
        "At 0 disambiguation samples. " + _INSIDE,
        partial(_agreement, unaided=True),
    ),
    Claim("Our curves are the published ones", _APPENDIX, _INSIDE, _agreement),
)
"""The paper's claims about arithmetic. Each is "not run" where nothing meets its rule's conditions."""
