"""Intervals over seeds, and comparisons between starts. Tidy tables in, tidy tables out; no torch.

A seed is a whole chain (base model, subnetwork, transfers), so seeds are what is averaged, and runs that share one
are compared with each other. :func:`interval` is the one interval, :func:`judge` the one way to a verdict (of a family
of comparisons that is read together: :func:`judge_all`), :func:`prediction` says where further seeds should lie, and
:func:`lead` is the one comparison of two starts.
"""

from __future__ import annotations

import bisect
import functools
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

RUN = ("n_layer", "n_disambiguation", "draw", "seed")
"""Columns that say which run of a start a row is; a table has some of them. Runs of two starts are paired by these."""

FAR_OFF = (5.0, 0.1)
"""From how many deviations on, and from how far, a run lies far off the others of its kind (:func:`far_off`)."""

MARGIN = 0.05
"""The smallest difference of an accuracy, a share or a shape bias that would matter."""
LEVEL = 0.05
"""1 - the confidence of intervals, and the most that is allowed for one wrong verdict in a family of them."""
POWER = 0.8
"""How probable a verdict is for the smallest difference that counts as one that would have been seen."""
MOST_SEEDS = 10_000
"""What would take more seeds than this counts as not to be settled."""

ABOVE, BELOW, EQUIVALENT, OPEN = "above", "below", "equivalent", "open"
TOO_FEW, DIVERGED = "too few seeds", "a run diverged"
OUTCOMES = (ABOVE, BELOW, EQUIVALENT, OPEN, TOO_FEW, DIVERGED)
"""What :func:`judge` can say; the last two are no verdict."""

Bounds = tuple[float, float]
UNBOUNDED: Bounds = (-math.inf, math.inf)


# ---------------------------------------------------------------------------------------
# What a quantity can be


_SHARES = re.compile(
    r"accura|density|share|agrees|bias|best.constant|kept|soft_mean"
    r"|^(layers|embeddings|left-right|up-down|both)$"
    r"|^(head|probe|subnetwork|ablated|pretraining)(\b|_)|^(whole network|without)\b"
)
_COUNTS = re.compile(r"step|seconds|frozen|inherited|^n_|images|seen|^size$|^total$")


def is_share(column: str) -> bool:
    """Is a column, or a measure of a long table, an accuracy, a density or another share, from 0 to 1?

    >>> is_share("test_accuracy"), is_share("best_step")
    (True, False)
    """
    return bool(_SHARES.search(column)) and not _COUNTS.search(column)


def bounds(column: str, difference: bool = False) -> Bounds:
    """The least and the most that a value of a column can be, or the difference of two.

    >>> bounds("test_accuracy"), bounds("shape_bias", difference=True), bounds("best_step")
    ((0.0, 1.0), (-1.0, 1.0), (0.0, inf))
    """
    low, high = (0.0, 1.0) if is_share(column) else (0.0, math.inf) if _COUNTS.search(column) else UNBOUNDED
    return (low - high, high - low) if difference else (low, high)


def enough(seeds: int, n_layer: int = 2) -> bool:
    """Are there seeds enough for an interval and a verdict? 10, or 5 from 6 layers on.

    >>> enough(9), enough(10), enough(5, n_layer=6)
    (False, True, True)
    """
    return seeds >= least_seeds(n_layer)


def least_seeds(n_layer: int = 2) -> int:
    """The fewest seeds on which a verdict is given."""
    return 5 if n_layer >= 6 else 10


# ---------------------------------------------------------------------------------------
# Intervals


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


class Interval(NamedTuple):
    """The mean over seeds and the ends of its confidence interval, nan for one seed; and how many seeds."""

    mean: float
    low: float
    high: float
    seeds: int


def interval(values: Sequence[float], bounds: Bounds = UNBOUNDED, level: float = LEVEL) -> Interval:
    """Mean and its 95 % confidence interval over seeds: Student's t, cut at what the quantity can be.

    The cut costs no coverage, since the true mean lies inside the bounds.

    >>> interval([1.0, 2.0, 3.0]).mean, interval([0.9, 1.0, 1.0], bounds=(0.0, 1.0)).high
    (2.0, 1.0)

    Raises
    ------
    ValueError
        Without values.
    """
    data = np.asarray(list(values), dtype=float)
    if not len(data):
        raise ValueError("values is empty: there is nothing to average")
    mean = float(data.mean())
    if len(data) == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = student(len(data) - 1, level) * _error(data)
    return Interval(mean, max(mean - half, bounds[0]), min(mean + half, bounds[1]), len(data))


def _error(data: np.ndarray) -> float:
    """Standard error of a mean."""
    return float(data.std(ddof=1)) / math.sqrt(len(data))


def span(values: Sequence[float], bounds: Bounds = UNBOUNDED, n_layer: int = 2) -> Interval:
    """:func:`interval`, or of too few seeds their mean, and the lowest and the highest; what a figure draws.

    >>> span([0.5, 0.9, 0.7])[1:]
    (0.5, 0.9, 3)
    """
    found = interval(values, bounds)
    if enough(found.seeds, n_layer) or found.seeds == 1 or math.isnan(found.mean):
        return found
    return Interval(found.mean, min(values), max(values), found.seeds)


def prediction(
    values: Sequence[float], of: int = 1, bounds: Bounds = UNBOUNDED, grain: float = 0.0
) -> tuple[float, float]:
    """Ends of the 95 % prediction interval of the mean of ``of`` further seeds.

    mean ± (t(0.975, n - 1) * sd * sqrt(1 / of + 1 / n) + grain), cut at the bounds; nan for one value.

    Parameters
    ----------
    grain
        What a value is measured in, such as one pair of 1,000 for an accuracy: seeds that all have the same value
        would otherwise have an interval without a width, which any rounding leaves.

    Examples
    --------
    >>> low, high = prediction([0.4, 0.5, 0.6])
    >>> round(low, 3), round(high, 3)
    (0.003, 0.997)
    """
    data = np.asarray(list(values), dtype=float)
    if len(data) < 2:
        return math.nan, math.nan
    reach = student(len(data) - 1) * float(data.std(ddof=1)) * math.sqrt(1 / of + 1 / len(data)) + grain
    return max(float(data.mean()) - reach, bounds[0]), min(float(data.mean()) + reach, bounds[1])


def student(freedom: Any, level: float = LEVEL) -> Any:
    """The two-sided quantile of Student's t (97.5 % by default), for a number of degrees of freedom or for many.

    nan where there is none.

    >>> round(student(2), 4), math.isnan(student(0))
    (4.3027, True)
    """
    if np.ndim(freedom):
        return np.array([_student(float(one), level) for one in freedom])
    return _student(float(freedom), level)


@functools.lru_cache(maxsize=4096)  # a page asks for the same few, thousands of times
def _student(freedom: float, level: float) -> float:
    from scipy.stats import t  # slow to import, so only here

    return float(t.ppf(1 - level / 2, freedom))


def summary(table: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """Mean, ends of the 95 % interval over seeds (:func:`interval`) and number of seeds, per group."""
    rows = []
    for key, group in table.groupby(list(by), sort=False, dropna=False):
        found = interval(group[value].tolist(), bounds(value))
        rows.append((*(key if isinstance(key, tuple) else (key,)), *found))
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "seeds"])


# ---------------------------------------------------------------------------------------
# Verdicts


@dataclass(frozen=True)
class Verdict:
    """What seeds say of a quantity, beside a value.

    Attributes
    ----------
    outcome
        One of :data:`OUTCOMES`.
    smallest
        The smallest true distance from that value that would be found above or below in 80 of 100 cases; nan where
        there are too few seeds.
    settle
        Where the outcome is ``open``: how many seeds would give a verdict in 80 of 100 cases if mean and spread stayed
        as they are; in a family no fewer than those before it in Holm's order need. 0 where more than
        :data:`MOST_SEEDS` would be needed. With too few seeds, whose spread says little: the fewest for a verdict.
    """

    outcome: str
    smallest: float = math.nan
    settle: int = 0

    def __str__(self) -> str:
        return self.outcome


def judge(values: Sequence[float], than: float = 0.0, *, margin: float = MARGIN, n_layer: int = 2) -> Verdict:
    """On which side of ``than`` does a mean over seeds lie? :func:`judge_all` for a family of one.

    >>> judge([0.3 + 0.01 * seed for seed in range(10)]).outcome
    'above'
    """
    return judge_all({"": values}, than, margin=margin, n_layer=n_layer)[""]


def judge_all(
    family: Mapping[Any, Sequence[float]], than: float = 0.0, *, margin: float = MARGIN,
    n_layer: int | Mapping[Any, int] = 2,
) -> dict[Any, Verdict]:  # fmt: skip
    """Verdicts on comparisons that are read together, by their intervals over seeds.

    ``equivalent``: the interval lies within ``than`` ± ``margin``; ``above``, ``below``: it lies beyond, on that side;
    ``open``: it reaches over an end. All three ask the same two borders, so that two runs of an experiment hardly ever
    get verdicts that exclude each other, as they often do where ``above`` asks for an interval that leaves ``than`` out
    (``benchmarks/verdicts.py``). The intervals' level is Holm's: the clearest of m comparisons is judged at 0.05 / m,
    the next at 0.05 / (m - 1), and so on to the first that is open, with which the rest is. So all verdicts of a family
    are right together with 95 % confidence.

    Sources: Holm (1979), "A simple sequentially rejective multiple test procedure"; Kruschke (2018), "Rejecting or
    accepting parameter values", for the two borders.

    Parameters
    ----------
    family
        Name -> one value a seed, of differences that are paired by seed for instance. Those with too few seeds
        (:func:`enough`) or a run without a value get no verdict, and count as no member.
    margin
        The smallest difference that would matter; 0: a side is all that is asked for, and nothing is equivalent.
    n_layer
        Of the networks, since deep ones need fewer seeds (:func:`enough`): of all members, or of each.
    """
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin = {margin!r}: expected a finite number of 0 or more")
    found: dict[Any, Verdict] = {}
    judged: dict[Any, np.ndarray] = {}
    for name, values in family.items():
        data = np.asarray(list(values), dtype=float) - than
        least = least_seeds(n_layer[name] if isinstance(n_layer, Mapping) else n_layer)
        if np.isnan(data).any():
            found[name] = Verdict(DIVERGED)
        elif len(data) < least:
            found[name] = Verdict(TOO_FEW, settle=least)
        else:
            judged[name] = data
    order = sorted(judged, key=lambda name: _doubt(judged[name], margin))
    needed: list[int] = []  # of those that are open
    for place, name in enumerate(order):
        data, level = judged[name], LEVEL / (len(order) - place)
        outcome = OPEN if needed else _outcome(data, margin, level)
        if outcome == OPEN:
            needed.append(_settles(data, margin, level, len(data)))
        settle = max(needed, default=0) if all(needed) else 0
        found[name] = Verdict(outcome, _detectable(data, margin, level), settle)
    return {name: found[name] for name in family}


def _outcome(data: np.ndarray, margin: float, level: float) -> str:
    _, low, high, _ = interval(data.tolist(), level=level)
    if -margin < low and high < margin:
        return EQUIVALENT
    return ABOVE if low > margin else BELOW if high < -margin else OPEN


def _reach(data: np.ndarray, margin: float) -> float:
    """From the mean to the nearer border: half of the widest interval that still gets a verdict."""
    return abs(abs(float(data.mean())) - margin)


def _doubt(data: np.ndarray, margin: float) -> float:
    """The least level at which the interval still gets a verdict."""
    from scipy.stats import t

    return float(2 * t.sf(_reach(data, margin) / max(_error(data), 1e-12), len(data) - 1))


def _detectable(data: np.ndarray, margin: float, level: float) -> float:
    """The smallest true difference that an interval of this width finds beyond the border with probability POWER."""
    freedom = len(data) - 1
    return margin + (student(freedom, level) + student(freedom, 2 * (1 - POWER))) * _error(data)


def _settles(data: np.ndarray, margin: float, level: float, least: int) -> int:
    """Seeds, ``least`` or more, with which the mean and the spread of these would get a verdict; 0 for too many."""
    from scipy.stats import t

    mean, spread = abs(float(data.mean())), max(float(data.std(ddof=1)), 1e-12)

    def power(seeds: int) -> float:
        """How probable is a verdict? An interval has to stay off both borders, or to be beyond the nearer one."""
        scale, half = math.sqrt(seeds) / spread, student(seeds - 1, level)
        near, far = t.cdf(np.array([abs(margin - mean), margin + mean]) * scale - half, seeds - 1)
        return float(near if mean >= margin else near + far - 1)

    if power(MOST_SEEDS) < POWER:
        return 0
    return least + bisect.bisect_left(range(least, MOST_SEEDS), POWER, key=power)


# ---------------------------------------------------------------------------------------
# Runs


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


def gap_of_means(first: Sequence[float], second: Sequence[float], bounds: Bounds = UNBOUNDED) -> Interval:
    """Mean of ``first`` minus mean of ``second``, of different seeds, and its 95 % interval (Welch, 1947).

    Its ends are nan where one of the two has fewer than two values; ``seeds`` is the fewer of the two.

    Examples
    --------
    >>> [round(value, 3) for value in gap_of_means([0.4, 0.5, 0.6], [0.1, 0.2, 0.3])]
    [0.3, 0.073, 0.527, 3]
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    gap, seeds = float(a.mean() - b.mean()), min(len(a), len(b))
    if seeds < 2:
        return Interval(gap, math.nan, math.nan, seeds)
    errors = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    half = 0.0
    if sum(errors):
        freedom = sum(errors) ** 2 / (errors[0] ** 2 / (len(a) - 1) + errors[1] ** 2 / (len(b) - 1))
        half = student(freedom) * math.sqrt(sum(errors))
    return Interval(gap, max(gap - half, bounds[0]), min(gap + half, bounds[1]), seeds)


def share_of_gain(table: pd.DataFrame, part: str, whole: str, floor: str, *, by: str = "start") -> pd.Series[float]:
    """Which share of the gain of ``whole`` over ``floor`` does ``part`` give? One value a seed.

    (part - floor) / (whole - floor), of accuracies averaged over the sample numbers; nan where a run of a seed diverged
    or there is no gain to share. Seeds that lack one of the three are left out.
    """
    by_seed = curve_means(table, [by]).groupby(["seed", by])["test_accuracy"]
    means, there = by_seed.mean(skipna=False).unstack(by), by_seed.size().unstack(by)
    three = list(dict.fromkeys((part, whole, floor)))
    means = means.reindex(columns=three)[there.reindex(columns=three).notna().all(axis=1)]
    share = (means[part] - means[floor]) / (means[whole] - means[floor])
    return share.where(np.isfinite(share))


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
        n = len(values)
        if n < 5:
            continue
        others = np.broadcast_to(values, (n, n))[~np.eye(n, dtype=bool)].reshape(n, n - 1)  # a row for each left out
        middle = np.median(others, axis=1)
        usual = 1.4826 * np.median(np.abs(others - middle[:, None]), axis=1)
        marked[values.index] = np.abs(values - middle) > np.maximum(deviations * usual, least)
    return marked
