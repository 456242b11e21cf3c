"""The paper's own curves, and our runs beside them.

A table of runs has (at least) the columns ``condition``, ``behaviour`` ("" where it does
not apply), ``n_layer``, ``n_disambiguation``, ``seed`` and ``test_accuracy``, one run a row,
at the paper's settings; depths, conditions, counts and seeds may be missing. Runs without
an accuracy (nan) do not count. Source of the curves: ``results/published/README.md``.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from companion.arithmetic import starts
from companion.compare.statistics import enough, lead, prediction, samples_needed, student
from companion.lab.project import project_root
from companion.vision import starts as vision_starts

Values: TypeAlias = Any
"""A number, or a column of them."""
POINT = ["n_layer", "condition", "behaviour", "n_disambiguation"]
LEVELS = (0.5, 0.9, 0.99)
LEAD_COUNTS = (64, 2500)
"""First and last count of a lead. Below, no start has learned the task; above, most are near 1."""
SUBNETWORK = starts.CONDITIONS["subnetwork"].pair
FIVE = 5
"""Runs of the paper in each point of :func:`five_seed_curve`."""


def read(name: str) -> pd.DataFrame:
    """A file of ``results/published``, as it is."""
    return pd.read_csv(project_root() / "results" / "published" / f"{name}.csv")


def curves() -> pd.DataFrame:
    """The published points of every depth, one run each.

    Returns
    -------
    pandas.DataFrame
        ``condition``, ``behaviour``, ``n_layer``, ``n_disambiguation``, ``published``
        (test accuracy in [0, 1]): 6 depths x 5 conditions x 16 counts.

    Examples
    --------
    >>> len(curves())
    480
    """
    return _renamed(read("appendix_arithmetic_by_depth"))


def depths() -> list[int]:
    """Numbers of layers in the paper.

    >>> depths()
    [2, 4, 6, 8, 10, 12]
    """
    return sorted(set(curves()["n_layer"].tolist()))


def curves_as_runs() -> pd.DataFrame:
    """:func:`curves` as a table of runs, each point a run of seed 0."""
    return curves().rename(columns={"published": "test_accuracy"}).assign(seed=0)


def five_seed_curve() -> pd.DataFrame:
    """Figure 2 at 12 layers: as :func:`curves`, each a mean over :data:`FIVE` runs, with ``published_std``.

    Four conditions (not the complement) x 17 counts; no standard deviation is given for 0 samples.
    """
    table = read("fig2_arithmetic")
    table = table[table["layers"] == "12"].astype({"layers": int}).reset_index(drop=True)
    return _renamed(table).assign(published_std=table["std_over_5_runs"])


def vision_curves(model: str = "resnet18") -> pd.DataFrame:
    """Figure 4: accuracy over training steps, of ``resnet18`` or ``vit_base`` on photographs, one run each.

    Returns
    -------
    pandas.DataFrame
        ``condition`` (``subnetwork`` or ``scratch``), ``metric`` (``ordinary``: 16-class ImageNet, or
        ``mean_pooled``), ``step``, ``accuracy``.

    Examples
    --------
    >>> float(vision_curves().query("condition == 'subnetwork' and metric == 'ordinary'")["accuracy"].max())
    0.8457
    """
    table = read("fig4_vision_learning_curves")
    if model not in set(table["model"]):
        raise ValueError(f"model = {model!r}: expected one of {', '.join(sorted(set(table['model'])))}")
    table = table[table["model"] == model]
    ours = {one.published: one.name for one in vision_starts.CONDITIONS.values() if one.published}
    return pd.DataFrame({
        "condition": table["condition"].map(ours),
        "metric": table["metric"].replace("imagenet16", "ordinary"),
        "step": table["x_axis"] * 1e4, "accuracy": table["accuracy"],
    }).reset_index(drop=True)  # fmt: skip


def points(table: pd.DataFrame, reference: pd.DataFrame | None = None, *, test_pairs: int = 1000) -> pd.DataFrame:
    """Our runs beside the published value, at every point that is in both.

    The published value is one run. Does it lie between the lowest and the highest of our n seeds? A further run of the
    same kind would with probability (n - 1) / (n + 1), whatever the distribution; more often where values are equal.
    So the share of many points says something even of few seeds, of which no single point can be judged. Where there
    are enough (:func:`companion.compare.statistics.enough`), each is held against the interval of :func:`one_more_run`.

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
        ``n_layer``, ``condition``, ``behaviour``, ``n_disambiguation``, ``published``, ``mean``, ``lowest``
        and ``highest`` of our seeds, ``seeds``, ``gap`` (mean - published), ``between`` (is ``published``
        from ``lowest`` to ``highest``?) and ``expected``, the probability of that; ``low``, ``high`` and
        ``inside`` of the 95 % prediction interval. ``between`` and ``expected`` are missing for one seed;
        ``low``, ``high`` and ``inside`` where seeds are too few. A point at which a run diverged is left out.
    """
    reference = curves() if reference is None else reference
    ours = _runs(table).groupby(POINT)["test_accuracy"].agg(["mean", "std", "min", "max", "count"]).reset_index()
    names = {"count": "seeds", "min": "lowest", "max": "highest"}
    found = reference[[*POINT, "published"]].merge(ours.rename(columns=names), on=POINT)
    mean, seeds = found["mean"], found["seeds"]
    found["gap"] = mean - found["published"]
    single = seeds < 2
    found["between"] = _published_inside(found, "lowest", "highest").mask(single)
    found["expected"] = ((seeds - 1) / (seeds + 1)).mask(single)
    pairs = zip(seeds.tolist(), found["n_layer"].tolist(), strict=True)
    few = np.array([not enough(*pair) for pair in pairs], dtype=bool)
    low, high = one_more_run(mean, found["std"], seeds, test_pairs)
    found["low"], found["high"] = low.mask(few), high.mask(few)
    found["inside"] = _published_inside(found)
    columns = ["mean", "lowest", "highest", "seeds", "gap", "between", "expected", "low", "high", "inside"]
    return found[[*POINT, "published", *columns]]


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
    theirs["low"], theirs["high"] = one_more_run(theirs["published"], theirs["published_std"], FIVE, test_pairs)
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
    :func:`one_more_run`, s is taken as no less than the error of ``test_pairs`` test pairs.

    Returns
    -------
    pandas.DataFrame
        ``condition``, ``behaviour``, ``n_disambiguation``, ``published``, ``mean``, ``mean_low`` and
        ``mean_high`` (our mean's 95 % interval), ``runs`` (of ours), ``spread`` (standard deviation of one
        such mean), ``error`` (standard error of ours by the same s), ``low``, ``high`` and ``inside``. With
        too few runs (:func:`companion.compare.statistics.enough`, of all depths together) spread, error and
        intervals are nan and ``inside`` is missing.
    """
    place = [name for name in POINT if name != "n_layer"]
    reference = curves()
    each = _runs(table).groupby(POINT)["test_accuracy"].agg(["mean", "var", "count"]).reset_index()
    rows = []
    for key, part in reference.merge(each, on=POINT).groupby(place, sort=False):
        depths, df = len(part), int((part["count"] - 1).sum())
        if depths < reference["n_layer"].nunique():
            continue
        mean, ours = part["mean"].mean(), (1 / part["count"]).sum() / depths**2
        runs = int(part["count"].sum())
        pooled = np.sqrt(((part["count"] - 1) * part["var"].fillna(0)).sum() / df) if df and enough(runs) else math.nan
        spread = np.maximum(pooled, sampling_error(mean, test_pairs)) / math.sqrt(depths)
        error = spread * math.sqrt(depths * ours)
        half, reach = student(df) * pooled * math.sqrt(ours), student(df) * math.hypot(spread, error)
        ends = (mean - half, mean + half, runs, spread, error, mean - reach, mean + reach)
        rows.append((*key, part["published"].mean(), mean, *ends))
    columns = ["published", "mean", "mean_low", "mean_high", "runs", "spread", "error", "low", "high"]
    found = pd.DataFrame(rows, columns=[*place, *columns])
    for name in ("mean_low", "low", "mean_high", "high"):
        found[name] = found[name].clip(0, 1)
    found["inside"] = _published_inside(found)
    return found


def one_more_run(mean: Values, std: Values, runs: Values, test_pairs: int = 1000) -> tuple[Values, Values]:
    """Ends of the 95 % prediction interval of one further run's accuracy; numbers in, or columns.

    mean ± t(0.975, n - 1) * sd * sqrt(1 + 1/n), clipped to [0, 1]. The sd over seeds holds the sampling error
    of the test pairs already. It is taken as no less than that error, sqrt(m (1 - m) / test_pairs) with
    m = (mean * test_pairs + 2) / (test_pairs + 4), as otherwise seeds that agree by chance, all at 1.000 for
    instance, would leave no interval.

    Parameters
    ----------
    mean, std, runs
        Of the runs that were made; with one run, the ends are nan.
    test_pairs
        Pairs on which one run is tested.
    """
    reach = student(runs - 1) * np.maximum(std, sampling_error(mean, test_pairs)) * np.sqrt(1 + 1 / runs)
    return np.maximum(mean - reach, 0), np.minimum(mean + reach, 1)


def sampling_error(mean: Values, test_pairs: int = 1000) -> Values:
    """Standard error of an accuracy on ``test_pairs`` pairs, not 0 for one of 1.000: see :func:`one_more_run`."""
    if test_pairs < 1:
        raise ValueError(f"test_pairs = {test_pairs}: expected 1 or more")
    middle = (mean * test_pairs + 2) / (test_pairs + 4)
    return (middle * (1 - middle) / test_pairs) ** 0.5


def _published_inside(found: pd.DataFrame, low: str = "low", high: str = "high") -> pd.Series:
    """Does ``published`` lie from ``low`` to ``high``? Missing where there are no such ends."""
    inside = found["published"].between(found[low], found[high]).astype("boolean")
    return inside.mask(found[low].isna())


def crossed(points: pd.DataFrame) -> pd.DataFrame:
    """Every published point held against all of our curves, the right one and the wrong ones.

    How easily would :func:`points` pass a curve that is not ours? Where as many published points
    lie between our seeds of another start as between those of their own, the seeds differ too
    much to tell the starts apart.

    Parameters
    ----------
    points
        Rows of :func:`points`. Those with one seed are left out.

    Returns
    -------
    pandas.DataFrame
        ``n_layer``, ``n_disambiguation``, ``start`` (of the published point), ``against`` (of our
        seeds), both such as "sampled as released", ``gap`` (our mean - published) and
        ``between``.
    """
    judged = points[points["between"].notna()]
    name = (judged["condition"] + " " + judged["behaviour"]).str.strip().str.replace("_", " ")
    place = ["n_layer", "n_disambiguation"]
    theirs, ours = judged[[*place, "published"]].assign(start=name), judged[[*place, "mean", "lowest", "highest"]]
    both = theirs.merge(ours.assign(against=name), on=place)
    both["gap"] = both["mean"] - both["published"]
    both["between"] = both["published"].between(both["lowest"], both["highest"])
    return both[[*place, "start", "against", "gap", "between"]]


def by_curve(points: pd.DataFrame) -> pd.DataFrame:
    """One row a curve, from the rows of :func:`points`.

    Returns
    -------
    pandas.DataFrame
        ``n_layer``, ``condition``, ``behaviour``, ``points``, ``between`` (share of the points
        with two seeds or more, or nan), ``largest_gap`` (signed; the first one of several),
        ``largest_gap_at``, ``mean_absolute_gap``, and for 50, 90 and 99 % ``published_50``,
        ``ours_50`` and so on: the samples needed by the published curve and by our mean
        curve, both over the counts that both have; nan where it is never reached.
    """
    rows = []
    for key, curve in points.groupby(POINT[:3], sort=False):
        curve = curve.sort_values("n_disambiguation")
        counts, size, between = curve["n_disambiguation"].tolist(), curve["gap"].abs(), curve["between"].dropna()
        largest = int(size.to_numpy().argmax())
        share = float(between.mean()) if len(between) else math.nan
        needed = [
            samples_needed(counts, curve[name].tolist(), level) for level in LEVELS for name in ("published", "mean")
        ]
        rows.append((*key, len(curve), share, curve["gap"].iloc[largest], counts[largest], size.mean(), *needed))
    columns = ["points", "between", "largest_gap", "largest_gap_at", "mean_absolute_gap"]
    names = [f"{name}_{100 * level:.0f}" for level in LEVELS for name in ("published", "ours")]
    return pd.DataFrame(rows, columns=[*POINT[:3], *columns, *names])


def lead_at(
    table: pd.DataFrame, over: tuple[str, str], n_layer: int, counts: Collection[int] | None = None
) -> pd.DataFrame:
    """The subnetwork's :func:`~companion.compare.statistics.lead` over another start, at one depth.

    All seeds have the same counts: a count that fewer than half of the seeds have is left out, and then a seed that
    lacks one of the others.

    Parameters
    ----------
    over
        (condition, behaviour) of the other start.
    counts
        Which numbers of samples count. By default those from 64 to 2,500 (:data:`LEAD_COUNTS`): with fewer samples no
        start has learned the task, with more most are near 1, and there a lead says little.

    Returns
    -------
    pandas.DataFrame
        A row a seed, a column a count, no value missing. The mean of its row is a seed's lead. Empty where there is
        no pair of runs.

    Examples
    --------
    >>> row = {"behaviour": "", "n_layer": 2, "n_disambiguation": 100, "seed": 0}
    >>> runs = [row | {"condition": "subnetwork", "test_accuracy": 0.75}]
    >>> runs += [row | {"condition": "full_model", "test_accuracy": 0.5}]
    >>> lead_at(pd.DataFrame(runs), ("full_model", ""), 2).mean(axis=1).tolist()
    [0.25]
    """
    return _leads(_runs(table), over, counts).get(n_layer, pd.DataFrame())


def counts_at_every_depth(table: pd.DataFrame) -> list[int]:
    """The counts of a lead (:data:`LEAD_COUNTS`) that each depth of ``table`` was run with, smallest first.

    >>> runs = curves_as_runs()
    >>> counts_at_every_depth(runs[(runs["n_layer"] < 12) | runs["n_disambiguation"].isin([0, 100, 400])])
    [100, 400]
    """
    runs = _runs(table)
    depths_of = runs.groupby("n_disambiguation")["n_layer"].nunique()
    shared = depths_of.index[depths_of == runs["n_layer"].nunique()]
    return [int(count) for count in shared if LEAD_COUNTS[0] <= count <= LEAD_COUNTS[1]]


def leads_by_depth(table: pd.DataFrame, over: tuple[str, str]) -> pd.DataFrame:
    """The lead (:func:`lead_at`) at each depth beside the paper's, all over :func:`counts_at_every_depth`.

    The mean of ``gap`` over the depths says whether our lead is the paper's: each depth has its own runs,
    ours and the paper's, so the gaps are as many independent values.

    Parameters
    ----------
    over
        (condition, behaviour) of the other start.

    Returns
    -------
    pandas.DataFrame
        A row a depth that has the lead, from the fewest layers on: ``n_layer``, ``seeds``, ``mean`` over
        these, ``values``, a tuple with one a seed, ``published``, ``gap`` (our mean - published) and ``inside``: does
        the paper's lie in the 95 % prediction interval of one more seed's? Missing where seeds are too few.

    Examples
    --------
    >>> found = leads_by_depth(curves_as_runs(), ("random_initialisation", ""))
    >>> found["n_layer"].tolist(), float(found["gap"].abs().max())
    ([2, 4, 6, 8, 10, 12], 0.0)
    """
    runs, rows, shared = _runs(table), [], counts_at_every_depth(table)
    ours, theirs = (_leads(each, over, shared) for each in (runs, curves_as_runs()))
    for depth in sorted(ours.keys() & theirs.keys()):
        each, value = ours[depth].mean(axis=1).tolist(), float(theirs[depth].to_numpy().mean())
        mean, (low, high) = sum(each) / len(each), prediction(each)
        inside = low <= value <= high if enough(len(each), depth) else None
        rows.append((depth, len(each), mean, tuple(each), value, mean - value, inside))
    columns = ["n_layer", "seeds", "mean", "values", "published", "gap", "inside"]
    return pd.DataFrame(rows, columns=columns).astype({"inside": "boolean"})


def counts_run(differences: pd.DataFrame) -> str:
    """How many of the paper's counts from 64 to 2,500 are in a :func:`lead_at`; empty where all are.

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


def _renamed(table: pd.DataFrame) -> pd.DataFrame:
    """The files' columns and conditions in our names."""
    ours = {one.published: one.pair for one in starts.CONDITIONS.values() if one.published}
    return pd.DataFrame({
        "condition": [ours[name][0] for name in table["condition"]],
        "behaviour": [ours[name][1] for name in table["condition"]],
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


def _leads(runs: pd.DataFrame, over: tuple[str, str], counts: Collection[int] | None = None) -> dict[Any, pd.DataFrame]:
    """Depth -> :func:`lead_at`, of runs that were checked."""
    start, other = ({"condition": condition, "behaviour": behaviour} for condition, behaviour in (SUBNETWORK, over))
    counts = range(LEAD_COUNTS[0], LEAD_COUNTS[1] + 1) if counts is None else counts
    found: dict[Any, pd.DataFrame] = {}
    for depth, part in lead(runs, start, other, counts=counts).groupby("n_layer"):
        each = part.pivot(index="seed", columns="n_disambiguation", values="lead")
        each = each.loc[:, each.notna().mean() >= 0.5].dropna()
        if each.size:
            found[depth] = each
    return found
