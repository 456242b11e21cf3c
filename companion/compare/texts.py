"""Numbers as text, as notebooks and pages show them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from companion.compare.statistics import UNBOUNDED, Bounds, Interval, enough, interval

FEW = 3
"""So many values stand in a text one by one."""


def number(value: float, digits: int = 2, sign: bool = False) -> str:
    """A number, or a dash where there is none; with ``sign`` a plus before what is not negative.

    >>> number(0.5), number(0.1234, 3, sign=True), number(float("nan")), number(-0.001)
    ('0.50', '+0.123', '–', '0.00')
    """
    if math.isnan(value):
        return "–"
    value = round(value, digits) + 0.0  # no -0.000
    return f"{value:{'+' if sign else ''},.{digits}f}"


def between(found: Interval, digits: int = 2, sign: bool = False) -> str:
    """``0.93 (0.91 to 0.95)``: a mean and its 95 % interval, the mean alone where there is none.

    >>> between(Interval(0.93, 0.91, 0.95, 10)), between(Interval(0.1, -0.1, 0.3, 10), 1, sign=True)
    ('0.93 (0.91 to 0.95)', '+0.1 (-0.1 to +0.3)')
    """
    mean, low, high = (number(value, digits, sign) for value in found[:3])
    return mean if math.isnan(found.low) else f"{mean} ({low} to {high})"


def over_seeds(
    values: Sequence[float], digits: int = 2, *, sign: bool = False, limits: Bounds = UNBOUNDED, n_layer: int = 2
) -> str:
    """The mean over seeds and its 95 % interval; of too few seeds, whose interval says little, the seeds themselves.

    Up to three of them stand one by one, of more the mean, their number, and from where to where they lie. ``limits``
    are those of the quantity. A dash where there is no value, or a seed without one.

    >>> over_seeds([0.5, 0.75]), over_seeds([0.4, 0.5, 0.5, 0.6]), over_seeds([])
    ('0.50 and 0.75', '0.50 (4 seeds, 0.40 to 0.60)', '–')
    >>> over_seeds([0.5] * 10)
    '0.50 (0.50 to 0.50)'
    """
    if not len(values) or any(map(math.isnan, values)):
        return "–"
    if enough(len(values), n_layer):
        return between(interval(values, limits), digits, sign)
    shown = [number(value, digits, sign) for value in values]
    if len(values) <= FEW:
        return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
    low, high = (number(value, digits, sign) for value in (min(values), max(values)))
    return f"{number(sum(values) / len(values), digits, sign)} ({len(values)} seeds, {low} to {high})"
