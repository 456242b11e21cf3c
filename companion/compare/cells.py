"""Texts looked up from tables: the numbers in the book's prose, and in the sentences of the notebooks.

A query names a table, says with a verb what is wanted, and chooses rows:

    03_transfer test_accuracy start=subnetwork n_disambiguation=250
    03_transfer lead test_accuracy start=subnetwork over=random_initialisation
    03_transfer verdict test_accuracy start=subnetwork over=full_model
    paper/04_depths.points mean inside as=percent

- **Table**: its name, after a scale and a slash where it is not the page's own scale. After a dot one of :data:`VIEWS`,
  which computes a table from it.
- **Verb**: one of :data:`VERBS`. Without one: the mean over seeds and its 95 % interval.
- **Column**: what is averaged, counted or shown.
- **Filters**: ``column=value``; several values with ``/``; numbers also as ``64..2500``, ``..40`` or ``0.9..``.
- **Options**: see :data:`OPTIONS`.

What has a space in it stands in quotes: ``task='a^2 + ab'``. Seeds are what is averaged: the rows of a seed, one for
each number of samples for instance, become one value first. Of few seeds the values are shown, as their interval says
little, and there is no verdict on them.

A verdict is adjusted (Holm) for those that are read together with it, its *family*: by default the same comparison with
every other value of ``over``; ``family=task`` makes it that of all tasks, ``family=over+task`` both.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from companion.arithmetic.starts import of
from companion.compare import published
from companion.compare.statistics import (
    MARGIN,
    OPEN,
    OUTCOMES,
    RUN,
    TOO_FEW,
    UNBOUNDED,
    Bounds,
    Verdict,
    bounds,
    enough,
    gap_of_means,
    is_share,
    judge_all,
    lead,
    share_of_gain,
    spreads,
)
from companion.compare.texts import between, number, over_seeds
from companion.lab import tables

OPTIONS: dict[str, str] = {
    "over": "what the chosen value of `by` is compared with, run by run",
    "by": "the column that names what is compared, by default `start` or `condition`; for `plus`, several with +",
    "plus": "values of `by`, with /: the sum of these, seed by seed ...",
    "minus": "... minus the sum of these",
    "whole": "for `share`: the start whose gain is the whole",
    "digits": "after the point; 3 where it is not given, 0 for per cent",
    "as": "`percent`",
    "rest_of": "a number: shown is 1 - value / rest_of",
    "sign": "`yes`: with a plus in front of what is not negative",
    "words": "for `verdict`: in place of above/below/equivalent/open/too few seeds/a run diverged, from the first on",
    "family": "for `verdict`: columns, with +, whose values are read together; by default `over`",
    "margin": "for `verdict`: the smallest difference that would matter, 0.05 of a share by default",
    "text": "for `each`: a text, with {column} for what a row has there",
    "wide": "a column whose values become columns, filled from the column `value`",
}
"""What a query can say beside its filters."""
SETTINGS = ("n_layer", "penalty", "lr")
"""Columns of numbers in which the rows of a seed must agree to be averaged, as in all columns of texts."""

Table = pd.DataFrame


@dataclass(frozen=True)
class Query:
    """A query, taken apart, without the name of its table.

    >>> asked = Query.parse("lead test_accuracy start=subnetwork over=full_model digits=2")
    >>> asked.verb, asked.column, asked.where, asked.options
    ('lead', 'test_accuracy', {'start': 'subnetwork'}, {'over': 'full_model', 'digits': '2'})
    """

    verb: str
    columns: tuple[str, ...]
    where: Mapping[str, str]
    options: Mapping[str, str]

    @classmethod
    def parse(cls, query: str) -> Query:
        """Read a query; ``ValueError`` where a quote is not closed or a thing is said twice."""
        plain: list[str] = []
        where: dict[str, str] = {}
        options: dict[str, str] = {}
        for word in shlex.split(query):
            name, equals, value = word.partition("=")
            said = options if name in OPTIONS else where
            if not equals:
                plain.append(word)
            elif name in said:
                raise ValueError(f"{name} is given twice")
            else:
                said[name] = value
        verb = plain.pop(0) if plain and plain[0] in VERBS else "interval"
        return cls(verb, tuple(plain), where, options)

    @property
    def column(self) -> str:
        if len(self.columns) != 1:
            raise ValueError(
                f"{self.verb} takes one column and got {', '.join(self.columns) or 'none'}. A name with a space in it "
                f"stands in quotes. Verbs are {', '.join(VERBS)}"
            )
        return self.columns[0]

    @property
    def digits(self) -> int:
        return int(self.options.get("digits", 0 if self.unit else 3))

    @property
    def unit(self) -> str:
        if (unit := self.options.get("as")) not in (None, "percent"):
            raise ValueError(f"as={unit}: expected percent")
        return " %" if unit else ""

    def scaled(self, value: Any) -> Any:
        """A number, or a column of them, as it is shown: its rest, or in per cent."""
        if whole := self.options.get("rest_of"):
            value = 1 - value / float(whole)
        return 100 * value if self.unit else value


# ---------------------------------------------------------------------------------------
# Which rows


def _split(values: str) -> list[str]:
    return [value.strip() for value in values.split("/")]


def _column(table: Table, name: str) -> pd.Series:
    if name not in table:
        raise ValueError(f"no column {name!r}; the table has {', '.join(map(str, table.columns))}")
    return table[name]


def _has_texts(column: pd.Series) -> bool:
    return not (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column))


def _there(column: pd.Series) -> str:
    """What a column has, for messages."""
    values = [str(value) for value in column.drop_duplicates()]
    more = f" and {len(values) - 20} more" if len(values) > 20 else ""
    return (", ".join(repr(value) if " " in value or not value else value for value in values[:20]) or "none") + more


def _is(column: pd.Series, value: str) -> pd.Series[bool]:
    """Which rows have a value, written as in a query?"""
    if pd.api.types.is_bool_dtype(column) or _has_texts(column):
        return column.astype(str) == value
    low, dots, high = value.partition("..")
    try:
        if dots:
            return column.between(float(low or "-inf"), float(high or "inf"))
        return column.isna() if value == "nan" else column == float(value)
    except ValueError:
        raise ValueError(f"{column.name}={value}: expected a number, or numbers such as 64..2500") from None


def _select(table: Table, where: Mapping[str, str]) -> Table:
    """The rows that pass all filters. A value that no row has is an error, but of a range or a truth value."""
    for name, values in where.items():
        column, chosen = _column(table, name), pd.Series(False, index=table.index)
        for value in _split(values):
            found = _is(column, value)
            if not found.any() and ".." not in value and not pd.api.types.is_bool_dtype(column):
                raise ValueError(f"no row has {name}={value} beside what stands before it; there is {_there(column)}")
            chosen |= found
        table = table[chosen]
    return table


def _by(table: Table, query: Query) -> str:
    """The column that names what is compared."""
    names = [query.options["by"]] if "by" in query.options else ["start", "condition"]
    found = next((name for name in names if name in table), names[0])
    if not _has_texts(_column(table, found)):
        raise ValueError(f"by={found}: expected a column of texts")
    return found


def _both(table: Table, query: Query) -> tuple[Table, str, str, str]:
    """The rows of what is compared and of what it is compared with; the column, and its two values."""
    by, other = _by(table, query), query.options["over"]
    if by not in query.where:
        raise ValueError(f"over={other}: say with {by}=... what is compared with it")
    one = query.where[by]
    rest = _select(table, {name: value for name, value in query.where.items() if name != by})
    return _select(rest, {by: f"{one}/{other}"}), by, one, other


def _rows(table: Table, query: Query) -> Table:
    """The rows of a query; with ``over``, those that have a counterpart there."""
    if "over" not in query.options:
        return _select(table, query.where)
    both, by, one, other = _both(table, query)
    run = [name for name in RUN if name in both]
    return both[both[by] == one].merge(both.loc[both[by] == other, run], on=run)


# ---------------------------------------------------------------------------------------
# Which values


def _numbers(rows: Table, name: str) -> pd.Series[float]:
    column = _column(rows, name)
    if _has_texts(column):
        raise ValueError(f"column {name!r} has texts, such as {_there(column.head(3))}; expected numbers")
    if column.empty:
        raise ValueError("no rows")
    # As in a file, so that a table gives the same text before and after it is written.
    return column.astype(float).map(lambda value: float(f"{value:.6g}"))


def _by_seed(rows: Table, name: str) -> pd.Series[float]:
    """One value a seed: its mean over numbers of samples and draws. Without seeds, one value a row."""
    values = _numbers(rows, name)
    if "seed" not in rows:
        return values
    kinds = [other for other in rows if other != name and (other in SETTINGS or _has_texts(rows[other]))]
    for seed, own in rows.groupby("seed"):
        mixed = [kind for kind in kinds if own[kind].nunique(dropna=False) > 1]
        if mixed and values[own.index].nunique(dropna=False) > 1:
            told = "; ".join(f"{kind}: {_there(own[kind])}" for kind in mixed)
            raise ValueError(f"the rows of seed {seed} differ in more than their numbers of samples. Choose of {told}")
    draws = ["seed", "draw"] if "draw" in rows else ["seed"]
    each = rows[draws].assign(value=values).groupby(draws)["value"].mean(skipna=False)
    return each.groupby("seed").mean(skipna=False)


def _sums(table: Table, query: Query) -> pd.Series[float]:
    """Seed by seed, the sum of some starts minus that of others; ``by`` may join several columns with +."""
    rows, names = _select(table, query.where), query.options.get("by", "start").split("+")
    kinds = pd.concat([_column(rows, name).astype(str) for name in names], axis=1).agg("+".join, axis=1)
    parts = []
    for sign, option in ((1, "plus"), (-1, "minus")):
        for value in _split(query.options.get(option, "")):
            if not (kinds == value).any():
                raise ValueError(f"{option}={value}: there is {_there(kinds)}")
            parts.append(sign * _by_seed(rows[kinds == value], query.column))
    # Seeds that all of them have; where a run of one diverged there is no value, and so none of a mean over it.
    return pd.concat(parts, axis=1, join="inner").sum(axis=1, skipna=False)


def _values(table: Table, query: Query) -> pd.Series[float]:
    """What a query is about, one value a seed: a column, a lead over another start, a share of it, or sums."""
    if {"plus", "minus"} & set(query.options):
        values = _sums(table, query)
    elif query.verb == "share":
        values = _shares(table, query)
    elif "over" in query.options:
        both, by, one, other = _both(table, query)
        both = both.assign(**{query.column: _numbers(both, query.column)})
        gaps = lead(both, {by: one}, {by: other}, value=query.column)
        values = gaps.groupby("seed")["lead"].mean(skipna=False)
    else:
        values = _by_seed(_select(table, query.where), query.column)
    if values.empty:
        raise ValueError("there is no seed, or no run, that all of these have")
    return query.scaled(values)


def _shares(table: Table, query: Query) -> pd.Series[float]:
    """Which share of the gain of ``whole`` over ``over`` has the chosen start? Seed by seed."""
    _needs(query, "over", "whole")
    both, by, one, other = _both(table, query)
    rest = _select(table, {name: value for name, value in query.where.items() if name != by})
    rows = pd.concat([both, _select(rest, {by: query.options["whole"]})])
    rows = rows.assign(test_accuracy=_numbers(rows, query.column))
    return share_of_gain(rows, one, query.options["whole"], other, by=by)


def _limits(query: Query) -> Bounds:
    """What a quantity can be, as a query shows it."""
    if {"plus", "minus", "rest_of"} & set(query.options) or query.verb == "share":
        return UNBOUNDED
    low, high = bounds(_quantity(query), difference="over" in query.options)
    return (100 * low, 100 * high) if query.unit else (low, high)


def _quantity(query: Query) -> str:
    """What is measured: the column; in a long table, whose column is ``value``, what the row says."""
    said = [query.where[name] for name in ("measure", "quantity") if name in query.where]
    return said[0] if query.column == "value" and said else query.column


def _depth(table: Table, query: Query) -> int:
    """The fewest layers among the rows: from 6 on, fewer seeds are enough."""
    rows = _select(table, query.where)
    return int(rows["n_layer"].min()) if "n_layer" in rows and len(rows) else 2


# ---------------------------------------------------------------------------------------
# Verbs


def _one(value: Any, query: Query) -> str:
    """A cell: a text as it is, a whole number without digits, another one with some."""
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "–"
    if pd.api.types.is_bool(value):
        return "yes" if value else "no"
    shown = query.scaled(float(value))
    whole = "digits" not in query.options and shown.is_integer()
    return number(shown, 0 if whole else query.digits)


def _interval(table: Table, query: Query, sign: bool = False) -> str:
    """Mean and 95 % interval over seeds; of too few seeds, their values."""
    values, depth = _values(table, query).tolist(), _depth(table, query)
    signed = sign or query.options.get("sign") == "yes"
    return over_seeds(values, query.digits, sign=signed, limits=_limits(query), n_layer=depth) + query.unit


def _needs(query: Query, *options: str) -> None:
    if missing := [option for option in options if option not in query.options]:
        raise ValueError(f"{query.verb} needs {', '.join(f'{option}=... ({OPTIONS[option]})' for option in missing)}")


def _lead(table: Table, query: Query) -> str:
    """How far a start lies above another one (``over``, or ``plus`` and ``minus``), with its sign."""
    _needs(query, *(["minus"] if "plus" in query.options else ["over"]))
    return _interval(table, query, sign=True)


def _gain(table: Table, query: Query) -> str:
    """A lead without a plus in front."""
    _needs(query, "over")
    return _interval(table, query)


def judged(table: Table, query: Query) -> Verdict:
    """The verdict on a lead, or on a mean beside 0, within its family."""
    plain = replace(query, options={name: one for name, one in query.options.items() if name != "as"})
    margin = float(query.options.get("margin", MARGIN if is_share(_quantity(query)) else 0.0))
    return judge_all(_family(table, plain), margin=margin, n_layer=_depth(table, query))[()]


def _family(table: Table, query: Query) -> dict[tuple[str, ...], list[float]]:
    """The seeds' values of every comparison that is read together with this one, which has the key ()."""
    family: dict[tuple[str, ...], list[float]] = {(): _values(table, query).tolist()}
    names = [name for name in query.options.get("family", "over" if "over" in query.options else "").split("+") if name]
    choices = [_alternatives(table, query, name) for name in names]
    for chosen in itertools.product(*choices):
        changed = dict(zip(names, chosen, strict=True))
        other = replace(
            query, where={name: changed.get(name, one) for name, one in query.where.items()},
            options={name: changed.get(name, one) for name, one in query.options.items()},
        )  # fmt: skip
        itself = "over" in other.options and other.where[_by(table, other)] == other.options["over"]
        if other == query or itself:
            continue
        with contextlib.suppress(ValueError):  # the table does not have this one
            family[chosen] = _values(table, other).tolist()
    return family


def _alternatives(table: Table, query: Query, name: str) -> list[str]:
    """The values that a column has in a family, the query's own among them, as it is written there."""
    own = query.options.get("over") if name == "over" else query.where.get(name)
    if own is None:
        raise ValueError(f"family={name}: expected over, or a column that the query chooses by, with a value for it")
    column = _column(table, _by(table, query) if name == "over" else name)
    return [own, *(str(value) for value in column[~_is(column, own)].drop_duplicates())]


def _verdict(table: Table, query: Query) -> str:
    """On which side of 0 is the lead, or the mean?"""
    words = _split(query.options["words"]) if "words" in query.options else []
    if len(words) > len(OUTCOMES):
        raise ValueError(f"words={query.options['words']}: expected at most {len(OUTCOMES)}, for {'/'.join(OUTCOMES)}")
    found = judged(table, query).outcome
    return dict(zip(OUTCOMES, words, strict=False)).get(found, found)


def _judged(table: Table, query: Query) -> str:
    """A gain and its verdict; of an open one, what would settle it."""
    found = judged(table, query)
    told = f"{_gain(table, query)}: {_verdict(table, query)}"
    if found.outcome not in (OPEN, TOO_FEW):
        return told
    if found.outcome == TOO_FEW:
        return f"{told}, of {found.settle} at least"
    seeds = f"{found.settle:,} seeds" if found.settle else "no number of seeds that one can run"
    return f"{told}, {seeds} would settle it"


def _smallest(table: Table, query: Query) -> str:
    """The smallest difference that would have been seen."""
    return number(query.scaled(judged(table, query).smallest), query.digits) + query.unit


def _unpaired(table: Table, query: Query) -> str:
    """A lead over other seeds (Welch's interval), at the numbers of samples that both have."""
    _needs(query, "over")
    both, by, one, other = _both(table, query)
    shared = both[both.groupby("n_disambiguation")[by].transform("nunique") == 2]
    first, second = (query.scaled(_by_seed(shared[shared[by] == value], query.column)) for value in (one, other))
    found = gap_of_means(first.tolist(), second.tolist(), _limits(query))
    if not enough(found.seeds, _depth(table, query)):
        return f"{number(found.mean, query.digits, sign=True)}{query.unit} ({len(first)} and {len(second)} seeds)"
    return between(found, query.digits, sign=True) + query.unit


def _mean(table: Table, query: Query) -> str:
    """The mean over seeds, without its interval."""
    mean = float(_values(table, query).mean(skipna=False))
    return number(mean, query.digits) + ("" if math.isnan(mean) else query.unit)


def _of_rows(statistic: Callable[[pd.Series[float]], float]) -> Callable[[Table, Query], str]:
    """A statistic of all rows."""

    def verb(table: Table, query: Query) -> str:
        return _one(statistic(_numbers(_select(table, query.where), query.column)), query) + query.unit

    return verb


def _range(table: Table, query: Query) -> str:
    """From the smallest to the largest."""
    values = _numbers(_select(table, query.where), query.column)
    return f"{_one(values.min(), query)} to {_one(values.max(), query)}{query.unit}"


def _single(table: Table, query: Query) -> str:
    """The one value that all rows have."""
    values = _column(_select(table, query.where), query.column).drop_duplicates()
    if len(values) != 1:
        raise ValueError(f"{query.column} has {len(values)} values, {_there(values)}; expected one")
    return _one(values.tolist()[0], query) + query.unit


def _each_value(table: Table, query: Query) -> str:
    """Every value of a column, once; numbers by size. ``none`` where there is no row."""
    values = _column(_rows(table, query), query.column).drop_duplicates()
    values = values if _has_texts(values) else values.sort_values()
    return ", ".join(_one(value, query) for value in values.tolist()) or "none"


def _count(table: Table, query: Query) -> str:
    """How many different values a column has; with ``over``, in the runs that both have."""
    return f"{_column(_rows(table, query), query.column).nunique():,}"


def _number_of_rows(table: Table, query: Query) -> str:
    """How many rows there are."""
    if query.columns:
        raise ValueError(f"rows takes no column and got {', '.join(query.columns)}")
    return f"{len(_rows(table, query)):,}"


def _each(table: Table, query: Query) -> str:
    """A text for every row, from the option ``text``; ``none`` where there is no row."""
    _needs(query, "text")
    rows, text, place = _select(table, query.where), query.options["text"], re.compile(r"\{(\w+)\}")
    for name in place.findall(text):
        _column(rows, name)
    told = [place.sub(lambda found, row=row: _one(row[found[1]], query), text) for row in rows.to_dict("records")]  # type: ignore[misc]
    return ", ".join(told) or "none"


def _not_run(table: Table, query: Query) -> str:
    """The published points that have no run of ours, in words (:func:`companion.compare.published.not_run`)."""
    return published.not_run(_select(table, query.where))


VERBS: dict[str, Callable[[Table, Query], str]] = {
    "interval": _interval,
    "mean": _mean,
    "lead": _lead,
    "gain": _gain,
    "verdict": _verdict,
    "judged": _judged,
    "smallest": _smallest,
    "share": _interval,
    "unpaired": _unpaired,
    "median": _of_rows(lambda values: float(values.median())),
    "min": _of_rows(lambda values: float(values.min())),
    "max": _of_rows(lambda values: float(values.max())),
    "range": _range,
    "single": _single,
    "values": _each_value,
    "count": _count,
    "rows": _number_of_rows,
    "each": _each,
    "not_run": _not_run,
}
"""What can be asked, from ``interval`` to ``unpaired`` over seeds, from ``median`` on over rows."""


# ---------------------------------------------------------------------------------------
# Views


def _labelled(found: Table) -> Table:
    pairs = zip(found["condition"], found["behaviour"], strict=True)
    return found.assign(label=[of(*pair).label for pair in pairs])


def _points(table: Table) -> Table:
    found = published.points(table)
    several = _labelled(found[found["between"].notna()])
    return several.assign(distance=several["gap"].abs())


def _crossed(table: Table) -> Table:
    found = published.crossed(published.points(table))
    return found.assign(wrong=found["start"] != found["against"], distance=found["gap"].abs())


def _over_depths(table: Table) -> Table:
    return _labelled(published.over_depths(table))


def _five_runs(table: Table) -> Table:
    found = _labelled(published.beside_five_runs(table))
    return found.assign(side=(found["test_accuracy"] > found["high"]).map({True: "above", False: "below"}))


def _depth_leads(table: Table) -> Table:
    pairs = {"random_initialisation": ("random_initialisation", ""), "sampled_as_released": ("sampled", "as_released")}
    parts = [published.leads_by_depth(table, pair).assign(reference=name) for name, pair in pairs.items()]
    return pd.concat(parts, ignore_index=True)


def _shared_counts(table: Table) -> Table:
    return pd.DataFrame({"n_disambiguation": published.counts_at_every_depth(table)})


def _spreads(table: Table) -> Table:
    drawn = table[table["check"].isin(["reference", "draws"])]
    return spreads(drawn[drawn["start"].isin(drawn.loc[drawn["check"] == "draws", "start"])])


VIEWS: dict[str, Callable[[Table], Table]] = {
    "points": _points,
    "crossed": _crossed,
    "over_depths": _over_depths,
    "five_runs": _five_runs,
    "depth_leads": _depth_leads,
    "shared_counts": _shared_counts,
    "spreads": _spreads,
}
"""Tables that are computed from a table, by functions of :mod:`companion.compare.published`:

- ``points``: ``points``, those with two seeds or more, with ``label`` and ``distance`` (size of the gap).
- ``crossed``: ``crossed``, with ``wrong`` (beside another start than its own) and ``distance``.
- ``over_depths``: ``over_depths``, with ``label``.
- ``five_runs``: ``beside_five_runs``, with ``label`` and ``side`` (of the interval's upper end).
- ``depth_leads``: ``leads_by_depth`` over two starts (``reference``), at the numbers of samples in ``shared_counts``.
- ``spreads``: :func:`companion.compare.statistics.spreads`, of the starts with several draws.
"""


# ---------------------------------------------------------------------------------------
# Asking


def text(table: Table, query: str) -> str:
    """What a query, without the name of a table, says of a table in memory.

    Raises
    ------
    ValueError
        Naming the query and what is there: for a column or value that is not there, where no rows are left, and where
        a mean would be over rows that differ in more than their numbers of samples.

    Examples
    --------
    >>> runs = pd.DataFrame({"start": list("aabb"), "seed": [0, 1, 0, 1], "test_accuracy": [0.9, 0.8, 0.6, 0.7]})
    >>> text(runs, "test_accuracy start=a"), text(runs, "mean test_accuracy start=b as=percent")
    ('0.900 and 0.800', '65 %')
    >>> text(runs, "lead test_accuracy start=a over=b digits=1")
    '+0.3 and +0.1'
    """
    try:
        table, asked = _asked(table, query)
        return VERBS[asked.verb](table, asked)
    except ValueError as error:
        raise ValueError(f"{query!r}: {error}") from error


def _asked(table: Table, query: str) -> tuple[Table, Query]:
    """The query, and the table that it asks: the one given, or that as a wide one."""
    asked = Query.parse(query)
    if wide := asked.options.get("wide"):
        rest = [name for name in table.columns if name not in (wide, "value")]
        _column(table, wide), _column(table, "value")
        table = table.pivot(index=rest, columns=wide, values="value").reset_index()
    return table, asked


def values(table: pd.DataFrame, query: str) -> pd.Series[float]:
    """What a query is about, one value a seed (the index), as the query shows it. Errors as of :func:`text`.

    >>> runs = pd.DataFrame({"start": list("ab"), "seed": [3, 3], "test_accuracy": [0.75, 0.5]})
    >>> values(runs, "lead test_accuracy start=a over=b").to_dict()
    {3: 0.25}
    """
    try:
        return _values(*_asked(table, query))
    except ValueError as error:
        raise ValueError(f"{query!r}: {error}") from error


def limits(query: str) -> Bounds:
    """What the quantity of a query can be, as the query shows it.

    >>> limits("lead test_accuracy start=a over=b"), limits("density as=percent")
    ((-1.0, 1.0), (0.0, 100.0))
    """
    return _limits(Query.parse(query))


OF_EACH = ("interval", "mean", "lead", "gain", "judged", "share", "median", "min", "max", "range")
"""Verbs that :func:`beside` asks of this run, too."""


def beside(own: Table, reference: Table | None) -> Callable[[str], str]:
    """Asks the reference, and then this run: ``0.85 (0.81 to 0.90), this run 0.85 and 0.83``.

    Verdicts, and what is no value, come from the reference alone. Without a reference, all from this run.
    """

    def ask(query: str) -> str:
        if reference is None:
            return text(own, query)
        told, verb = text(reference, query), Query.parse(query).verb
        if verb not in OF_EACH:
            return told
        here = told
        with contextlib.suppress(ValueError):  # this run has no such rows
            here = text(own, query.replace("judged", "gain", 1) if verb == "judged" else query)
        return both_told(told, here)

    return ask


def both_told(*texts: str) -> str:
    """What the reference says, and this run where it says something else; one text, of this run, where there is none.

    >>> both_told("0.85 (0.81 to 0.90)", "0.85 and 0.83"), both_told("10", "10"), both_told("2")
    ('0.85 (0.81 to 0.90), this run 0.85 and 0.83', '10', '2')
    """
    return ", this run ".join(dict.fromkeys(texts))


def name_of(query: str, default_scale: str) -> tuple[str, str, str, str]:
    """Scale, table and view ("" for none) that a query names, and the rest of it.

    >>> name_of("paper/04_depths.points rows inside=True", "quick")
    ('paper', '04_depths', 'points', 'rows inside=True')
    """
    first, _, rest = query.strip().partition(" ")
    scale, _, name = first.rpartition("/")
    name, _, view = name.partition(".")
    return scale or default_scale, name, view, rest


def view_of(table: Table, view: str) -> Table:
    """One of :data:`VIEWS` of a table; the table itself for ""."""
    if view and view not in VIEWS:
        raise ValueError(f"no view {view!r}; there is {', '.join(VIEWS)}")
    return VIEWS[view](table) if view else table


def lookup(query: str, default_scale: str = "quick") -> str:
    """What a query says of a table of the reference.

    Raises
    ------
    ValueError
        As :func:`text`, and for a view that is not there; the message names the table too.
    FileNotFoundError
        When there is no such table.
    """
    scale, name, view, rest = name_of(query, default_scale)
    try:
        return text(view_of(tables.read(name, scale), view), rest)
    except ValueError as error:
        raise ValueError(f"{scale}/{name}: {error}") from error
