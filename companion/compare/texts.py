"""Numbers as text, as notebooks and pages show them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from companion.compare.statistics import interval


def plus_minus(mean: float, half_width: float, digits: int = 2) -> str:
    """``0.93 ± 0.02``, the mean alone where there is no interval, a dash where a run without a value is among them."""
    if math.isnan(mean):
        return "–"
    if math.isnan(half_width):
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {half_width:.{digits}f}"


def with_sign(mean: float, half_width: float, digits: int = 3) -> str:
    """:func:`plus_minus` of a difference.

    >>> with_sign(0.1234, 0.05), with_sign(-0.1234, 0.05), with_sign(0.1234, math.nan)
    ('+0.123 ± 0.050', '-0.123 ± 0.050', '+0.123')
    """
    return ("+" if mean >= 0 else "") + plus_minus(mean, half_width, digits)


def over_seeds(values: Sequence[float], digits: int = 2) -> str:
    """Mean and half of the 95 % interval over seeds; of one or two seeds, whose interval says nothing, the values.

    >>> over_seeds([0.5, 0.75]), over_seeds([0.5, 0.5, 0.5]), over_seeds([])
    ('0.50 and 0.75', '0.50 ± 0.00', '–')
    """
    if not values:
        return "–"
    if len(values) < 3:
        return " and ".join(plus_minus(value, math.nan, digits) for value in values)
    return plus_minus(*interval(values), digits)


def by_group(table: pd.DataFrame, by: str | list[str], columns: Mapping[str, str], digits: int = 2) -> pd.DataFrame:
    """A table to be shown: a row a group, in the order of the table, and in each cell the text of :func:`over_seeds`.

    ``columns`` are those that are shown, with what they are called. Where a group has no value at all stands a dash.

    >>> runs = pd.DataFrame({"start": ["a", "a", "b"], "test_accuracy": [0.5, 0.75, 1.0]})
    >>> by_group(runs, "start", {"test_accuracy": "accuracy"})["accuracy"].to_dict()
    {'a': '0.50 and 0.75', 'b': '1.00'}
    """

    def shown(values: pd.Series[float]) -> str:
        return over_seeds([] if values.isna().all() else values.tolist(), digits)

    return table.groupby(by, sort=False)[list(columns)].agg(shown).rename(columns=dict(columns))
