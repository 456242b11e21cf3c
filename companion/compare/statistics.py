"""Intervals over seeds, and comparisons between starts. Tidy tables in, tidy tables out; no torch.

A seed is a whole chain (base model, subnetwork, transfers), so seeds are what is averaged, and runs that share one
are compared with each other. :func:`interval` is the one interval, :func:`verdict` the one way to say on which side
of a value it lies, and :func:`lead` the one comparison of two starts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

RUN = ("n_layer", "n_disambiguation", "draw", "seed")
"""Columns that say which run of a start a row is; a table has some of them. Runs of two starts are paired by these."""

FAR_OFF = (5.0, 0.1)
"""From how many deviations on, and from how far, a run lies far off the others of its kind (:func:`far_off`)."""


def wilson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (95 % by default).

    Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference".

    >>> [round(x, 3) for x in wilson(8, 10)]
    [0.49, 0.943]
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"successes = {successes}, trials = {trials}: expected 0 <= successes <= trials, trials >= 1")
    from scipy.stats import binomtest  # slow to import, so only here

    ends = binomtest(successes, trials).proportion_ci(level, method="wilson")
    return float(ends.low), float(ends.high)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % confidence interval over seeds (Student's t).

    The half-width is nan for a single value: one seed says nothing about the spread.

    >>> interval([1.0, 2.0, 3.0])[0]
    2.0
    """
    data = np.asarray(list(values), dtype=float)
    if not len(data):
        raise ValueError("values is empty: there is nothing to average")
    if len(data) == 1:
        return float(data[0]), math.nan
    return float(data.mean()), student(len(data) - 1) * float(data.std(ddof=1)) / math.sqrt(len(data))


def verdict(mean: float, half_width: float, least: float = 0.0) -> str:
    """On which side of ``least`` does an interval lie, mean ± half-width?

    Returns
    -------
    str
        ``above`` or ``below`` where the interval leaves ``least`` out; ``not told apart`` where it holds it, an end of
        the interval included; ``one seed`` where there is no half-width; ``a run diverged`` where there is no mean.

    Examples
    --------
    >>> verdict(0.3, 0.1), verdict(0.3, 0.1, least=0.25), verdict(0.3, math.nan)
    ('above', 'not told apart', 'one seed')
    """
    if math.isnan(mean):
        return "a run diverged"
    if math.isnan(half_width):
        return "one seed"
    return "above" if mean - half_width > least else "below" if mean + half_width < least else "not told apart"


def student(freedom: Any) -> Any:
    """The 97.5 % quantile of Student's t, for a number of degrees of freedom or for many; nan where there is none.

    >>> round(student(2), 4), math.isnan(student(0))
    (4.3027, True)
    """
    from scipy.stats import t  # slow to import, so only here

    found = t.ppf(0.975, freedom)
    return found if np.ndim(found) else float(found)


def summary(table: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """Mean, half-width of the 95 % interval over seeds and number of seeds, per group."""
    rows = []
    for key, group in table.groupby(list(by), sort=False, dropna=False):
        mean, half = interval(group[value].tolist())
        rows.append((*(key if isinstance(key, tuple) else (key,)), mean, half, len(group)))
    return pd.DataFrame(rows, columns=[*by, "mean", "half_width", "seeds"])


def samples_needed(counts: Sequence[int], accuracies: Sequence[float], level: float = 0.9) -> float:
    """Number of samples at which a curve first reaches ``level``, or nan if it never does.

    Between two measured counts the curve is taken as straight over log(1 + count).

    >>> samples_needed([0, 10, 100], [0.1, 0.5, 0.9], level=0.9)
    100.0
    """
    points = sorted(zip(counts, accuracies, strict=True))
    for index, (count, value) in enumerate(points):
        if value >= level:
            if index == 0:
                return float(count)
            before, low = points[index - 1]
            share = (level - low) / (value - low)
            left, right = math.log1p(before), math.log1p(count)
            return round(math.expm1(left + share * (right - left)), 9)
    return math.nan


def curve_means(table: pd.DataFrame, by: Sequence[str], value: str = "test_accuracy") -> pd.DataFrame:
    """One number for a whole curve: the mean over the sample numbers, per group, seed and draw.

    Columns: ``by``, ``seed``, ``draw`` and ``value``, which is nan where a run of the curve diverged.
    """
    return table.groupby([*by, "seed", "draw"], sort=False)[value].mean(skipna=False).reset_index()


def seeds_a_point(table: pd.DataFrame) -> dict[int, str]:
    """Over how many seeds the points of each depth are averaged.

    Columns: ``n_layer``, ``condition``, ``behaviour``, ``n_disambiguation``, ``seed``.

    Examples
    --------
    >>> runs = pd.DataFrame({"n_layer": 2, "n_disambiguation": [0, 0, 9], "seed": [0, 1, 2]})
    >>> seeds_a_point(runs.assign(condition="full_model", behaviour=""))
    {2: '1 to 2'}
    """
    point = ["n_layer", "condition", "behaviour", "n_disambiguation"]
    seeds = table.groupby(point, dropna=False)["seed"].nunique().groupby("n_layer").agg(["min", "max"])
    return {
        depth: str(low) if low == high else f"{low} to {high}"
        for depth, low, high in zip(seeds.index.tolist(), seeds["min"], seeds["max"], strict=True)
    }


def select(table: pd.DataFrame, where: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of a table that have these values in these columns.

    >>> select(pd.DataFrame({"start": ["a", "b"], "seed": [0, 0]}), {"start": "b"}).index.tolist()
    [1]

    Raises
    ------
    ValueError
        When the table has no such column.
    """
    chosen = pd.Series(True, index=table.index)
    for column, value in where.items():
        if column not in table:
            raise ValueError(f"where: no column {column!r}; the table has {', '.join(map(str, table.columns))}")
        chosen &= table[column] == value
    return table[chosen]


def lead(
    table: pd.DataFrame,
    start: Mapping[str, Any],
    over: Mapping[str, Any],
    *,
    value: str = "test_accuracy",
    counts: Collection[int] | None = None,
) -> pd.DataFrame:
    """How far the runs of one start lie above those of another one, run by run.

    Runs are paired where they agree in all columns of :data:`RUN` that the table has. A run without its other one
    is left out.

    Parameters
    ----------
    start, over
        Column -> value, which say which rows are meant, such as ``{"start": "subnetwork"}``.
    value
        The column that is compared.
    counts
        Which numbers of samples count (column ``n_disambiguation``); all by default.

    Returns
    -------
    pandas.DataFrame
        A row a pair: the columns of :data:`RUN`, both values, ``start`` and ``over``, and ``lead``, the first minus
        the second; nan where one of the two has no value.

    Raises
    ------
    ValueError
        When a column is not there, or two rows of a start are the same run.

    Examples
    --------
    >>> runs = pd.DataFrame({"start": ["a", "b"], "seed": [3, 3], "test_accuracy": [0.75, 0.5]})
    >>> lead(runs, {"start": "a"}, {"start": "b"}).to_dict("records")
    [{'seed': 3, 'start': 0.75, 'over': 0.5, 'lead': 0.25}]
    """
    run = [column for column in RUN if column in table]
    if absent := [column for column in ("seed", value) if column not in table]:
        raise ValueError(f"table has no column {absent[0]!r}: it has {', '.join(map(str, table.columns))}")
    first, second = select(table, start), select(table, over)
    if counts is not None:
        first, second = (rows[rows["n_disambiguation"].isin(list(counts))] for rows in (first, second))
    for where, rows in ((start, first), (over, second)):
        twice = rows[rows.duplicated(run)]
        if len(twice):
            raise ValueError(
                f"{dict(where)}: the table has a run twice, {twice.iloc[0][run].to_dict()}; expected one row a run"
            )
    both = first[run].assign(start=first[value]).merge(second[run].assign(over=second[value]), on=run)
    return both.assign(lead=both["start"] - both["over"])


def leads(table: pd.DataFrame, reference: str, *, by: str = "start", value: str = "test_accuracy") -> pd.DataFrame:
    """The :func:`lead` of every start over ``reference``.

    Averaged over the numbers of samples and draws first, so that a seed counts once.

    Parameters
    ----------
    by
        The column that names the starts.

    Returns
    -------
    pandas.DataFrame
        ``by``, ``mean`` and ``half_width`` of the difference (95 % interval over seeds, nan for
        one seed), ``seeds``, and its :func:`verdict`; mean and half-width are nan where one of the runs has no value.

    Raises
    ------
    ValueError
        When the table has no such reference, or a run twice.
    """
    names = table[by].unique()
    if reference not in names:
        raise ValueError(f"reference = {reference!r}: expected one of {', '.join(sorted(names))}")
    rows = []
    for name in names:
        pairs = lead(table, {by: name}, {by: reference}, value=value)
        if name == reference or pairs.empty:
            continue
        means = pairs.groupby("seed")[["start", "over"]].mean(skipna=False)
        gap = means["start"] - means["over"]
        mean, half = interval(gap.tolist())
        rows.append((name, mean, half, len(gap), verdict(mean, half)))
    return pd.DataFrame(rows, columns=[by, "mean", "half_width", "seeds", "verdict"])


def gap_of_means(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Mean of ``first`` minus mean of ``second``, of different seeds, and half of its 95 % interval (Welch, 1947).

    The half-width is nan where one of the two has fewer than two values.

    Examples
    --------
    >>> [round(value, 3) for value in gap_of_means([0.4, 0.5, 0.6], [0.1, 0.2, 0.3])]
    [0.3, 0.227]
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    gap = float(a.mean() - b.mean())
    if min(len(a), len(b)) < 2:
        return gap, math.nan
    errors = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    if not sum(errors):
        return gap, 0.0
    freedom = sum(errors) ** 2 / (errors[0] ** 2 / (len(a) - 1) + errors[1] ** 2 / (len(b) - 1))
    return gap, student(freedom) * math.sqrt(sum(errors))


def share_of_gain(table: pd.DataFrame, part: str, whole: str, floor: str, *, by: str = "start") -> tuple[float, float]:
    """Which share of the gain of ``whole`` over ``floor`` does ``part`` give? Mean and half-width over seeds.

    Per seed (part - floor) / (whole - floor), of accuracies averaged over the sample numbers. Both are nan where no
    seed has the three, where a run of a seed diverged, and where a seed has no gain to share.
    """
    by_seed = curve_means(table, [by]).groupby(["seed", by])["test_accuracy"]
    means, there = by_seed.mean(skipna=False).unstack(by), by_seed.size().unstack(by)
    three = list(dict.fromkeys((part, whole, floor)))
    means = means.reindex(columns=three)[there.reindex(columns=three).notna().all(axis=1)]
    share = (means[part] - means[floor]) / (means[whole] - means[floor])
    return interval(share.tolist()) if len(share) and np.isfinite(share).all() else (math.nan, math.nan)


def spreads(table: pd.DataFrame, value: str = "test_accuracy") -> pd.DataFrame:
    """Two spreads: between base models, and between transfers from one base.

    One-way analysis of variance with random effects: rows of one ``seed`` share base and
    mask, ``draw`` numbers the transfers from it.

    Returns
    -------
    pandas.DataFrame
        Per ``start`` and ``n_disambiguation``: ``within``, the standard deviation of transfers
        from one base; ``between``, that of the bases' own effect (0 where the bases vary no
        more than the transfers explain); ``bases`` and ``draws``.

    Raises
    ------
    ValueError
        When a base has another number of transfers than the first, or there are fewer
        than two of either.
    """
    rows = []
    for (start, n), part in table.groupby(["start", "n_disambiguation"], sort=False):
        wide = part.pivot(index="seed", columns="draw", values=value)
        bases, draws = wide.shape
        if bases < 2 or draws < 2 or wide.isna().any(axis=None):
            raise ValueError(
                f"{start}, n = {n}: {bases} bases with {draws} transfers each (some may be missing); "
                "expected two or more of both, and as many transfers from every base"
            )
        within = float(wide.var(axis=1).mean())
        between = max(float(wide.mean(axis=1).var()) - within / draws, 0.0)
        rows.append((start, n, within**0.5, between**0.5, bases, draws))
    return pd.DataFrame(rows, columns=["start", "n_disambiguation", "within", "between", "bases", "draws"])


def far_off(table: pd.DataFrame, alike: Sequence[str], value: str = "test_accuracy") -> pd.Series[bool]:
    """Which runs lie far off the usual range of the other seeds?

    For each row the others with equal ``alike`` give a median and a median absolute deviation,
    times 1.4826 an estimate of the standard deviation that a few odd runs do not spoil. Far off
    is a row more than 5 such deviations and more than 0.1 (of an accuracy or a bias) away
    (:data:`FAR_OFF`). With fewer than five values nothing is usual, and no row is marked; nor is
    one without a value.

    A mark is no reason to leave a row out: it says where to look.

    Examples
    --------
    >>> runs = pd.DataFrame({"start": ["full"] * 5, "test_accuracy": [0.90, 0.91, 0.92, 0.93, 0.40]})
    >>> far_off(runs, ["start"]).tolist()
    [False, False, False, False, True]
    """
    deviations, least = FAR_OFF
    marked = pd.Series(False, index=table.index)
    for _, part in table.groupby(list(alike), sort=False, dropna=False):
        values = part[value].dropna()
        if len(values) < 5:
            continue
        for row in values.index:
            others = values.drop(row)
            middle = others.median()
            usual = 1.4826 * (others - middle).abs().median()
            marked[row] = abs(values[row] - middle) > max(deviations * usual, least)
    return marked
