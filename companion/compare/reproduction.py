"""Did it reproduce? The book's headline numbers from the reader's own seeds, beside where one more such run should lie.

``book/headlines.yaml`` lists the numbers. Of each one the reference (``results/``) has a value for every seed, and so
has the reader's run (``runs/``), for seeds that the reference has not. From the reference's follows where the mean of
so many further seeds lies in 95 % of all cases (:func:`companion.compare.statistics.prediction`).

Some numbers lie outside even where nothing is wrong, and as they come from the same chains, several at once. How many,
the reference itself says: some of its seeds play the reader's part, and the others are the reference
(:func:`chance`). The run is *reproduced* where no more lie outside than in 95 % of these cases.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from companion.compare import cells, statistics
from companion.compare.texts import number
from companion.lab import tables
from companion.lab.project import project_root, tables_folder

HEADLINES = Path("book/headlines.yaml")
"""From the project's folder."""
SCALE = "quick"
VERBS = ("interval", "mean", "lead", "gain")
"""What a headline can be, a mean over seeds or that of a difference."""
GRAIN = 0.001
"""What a value is measured in, one of 1,000 test pairs, which is one in the last digit that is shown."""
MOST_SETS = 400
"""Of more sets of seeds than this to leave out, so many are drawn."""
DRAWS = 20230505
"""Seed of these draws."""
NOTHING: pd.Series[float] = pd.Series(dtype=float)
NO_RUN = "no run of yours"
COMMAND = "make book"
"""Makes a run of the reader's own."""


@dataclass(frozen=True)
class Headline:
    """A number on which the book rests.

    Attributes
    ----------
    group
        Headlines of one group come from the same chains of experiments, so their values depend on each other.
    page
        Where the book has it, from the book's root.
    query
        As in :mod:`companion.compare.cells`, with the table's name.
    """

    id: str
    group: str
    text: str
    page: str
    query: str

    @property
    def table(self) -> str:
        return cells.name_of(self.query, SCALE)[1]

    @property
    def asked(self) -> str:
        """The query without the table."""
        return cells.name_of(self.query, SCALE)[3]

    @property
    def sign(self) -> bool:
        """Is it a difference, shown with its sign?"""
        return cells.Query.parse(self.asked).verb in ("lead", "gain")

    @property
    def limits(self) -> tuple[float, float]:
        """What it can be."""
        return cells.limits(self.asked)


@dataclass(frozen=True)
class Compared:
    """A headline in the reference and in the reader's run.

    Attributes
    ----------
    reference, own
        A value a seed; empty where there is none.
    low, high
        Between these lies the mean of so many further seeds as ``own`` has, or of one, in 95 % of all cases.
    refused
        Why they are not compared; empty where they are.
    shared
        Seeds of the reader's that the reference has, too, and that are not in ``own``.
    """

    headline: Headline
    reference: pd.Series[float]
    own: pd.Series[float]
    low: float = math.nan
    high: float = math.nan
    refused: str = ""
    shared: tuple[int, ...] = ()

    @property
    def value(self) -> float:
        """The mean over the reader's seeds; nan where there is none."""
        return float(self.own.mean()) if len(self.own) else math.nan

    @property
    def inside(self) -> bool:
        return not self.refused and self.low <= self.value <= self.high

    @property
    def outcome(self) -> str:
        """``inside``, ``outside``, or why it is not compared."""
        return self.refused or ("inside" if self.inside else "outside")

    def shown(self, value: float) -> str:
        return number(value, 3, sign=self.headline.sign)

    @property
    def mean_shown(self) -> str:
        return self.shown(float(self.reference.mean()) if len(self.reference) else math.nan)

    @property
    def span_shown(self) -> str:
        """``0.81 to 0.90``; nothing where there is no interval."""
        return "" if math.isnan(self.low) else f"{self.shown(self.low)} to {self.shown(self.high)}"


# ---------------------------------------------------------------------------------------
# Which numbers


def read_headlines(path: Path) -> list[Headline]:
    """The headlines of the file, checked.

    Raises
    ------
    ValueError
        Naming the headline: for a field that is missing, not known or no text, an id that stands twice, a query of
        another kind than :data:`VERBS`, of another scale, or with options that change how a number is shown.
    """
    groups = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(groups, dict) or not all(isinstance(entries, list) for entries in groups.values()):
        raise ValueError(f"{path}: expected groups of headlines, each a list")
    found: list[Headline] = []
    for group, entries in groups.items():
        for entry in entries:
            one = _headline(group, entry)
            if one.id in {other.id for other in found}:
                raise ValueError(f"headline {one.id}: the id stands twice")
            found.append(one)
    return found


def _headline(group: str, entry: Any) -> Headline:
    needed = ("id", "text", "page", "query")
    if not isinstance(entry, dict):
        raise ValueError(f"headline {entry!r} in {group}: expected {', '.join(needed)}")
    name = f"headline {entry.get('id') or entry}"
    for key in (*needed, *entry):
        if key not in needed:
            raise ValueError(f"{name}: {key} is not known, expected {', '.join(needed)}")
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise ValueError(f"{name}: {key} is missing, or no text")
    scale, table, view, rest = cells.name_of(entry["query"], "")
    try:
        query = cells.Query.parse(rest)
        asked_once = query.column
    except ValueError as error:
        raise ValueError(f"{name}: query {entry['query']!r}: {error}") from error
    shown = set(query.options) - {"over", "by", "plus", "minus"}
    if not table or scale or view or not asked_once or query.verb not in VERBS or shown:
        raise ValueError(
            f"{name}: query {entry['query']!r}: expected a table of the scale {SCALE}, one of {', '.join(VERBS)}, a "
            "column, filters, and of the options only over, by, plus and minus"
        )
    return Headline(group=group, **{key: entry[key].strip() for key in needed})


# ---------------------------------------------------------------------------------------
# The reference and the reader's run


def compare(headline: Headline, reference: pd.Series[float], own: pd.Series[float], refused: str = "") -> Compared:
    """Where the reader's value lies. Both have a value a seed. Seeds that the reference has, too, do not count.

    Refused, with the reason, are fewer reference seeds than a verdict needs, a seed without a value, which has
    diverged, and a run that has no seed of its own. ``refused`` is a reason that is known before.
    """
    fresh = own[~own.index.isin(reference.index)]
    shared = own[own.index.isin(reference.index)].index.tolist()
    few, least = len(reference), statistics.least_seeds()
    unfit = f"the reference has {few} seeds, of {least}" if few < least else _lost(reference, "the reference's ")
    reasons = (
        unfit, refused, "" if len(own) else NO_RUN,
        f"the reference has {_seeds(shared)}, too" if shared and not len(fresh) else "", _lost(fresh),
    )  # fmt: skip
    why = next(filter(None, reasons), "")
    low = high = math.nan
    if not unfit:
        low, high = statistics.prediction(reference.tolist(), max(len(fresh), 1), headline.limits, grain=GRAIN)
    return Compared(headline, reference, fresh, low, high, why, tuple(shared))


def _lost(values: pd.Series[float], whose: str = "") -> str:
    """The seeds without a value."""
    lost = values[values.isna()].index.tolist()
    return f"{whose}{_seeds(lost)} diverged" if lost else ""


def _seeds(seeds: Sequence[int]) -> str:
    """
    >>> _seeds([3]), _seeds([0, 1, 2])
    ('seed 3', 'seeds 0, 1 and 2')
    """
    *most, last = map(str, seeds)
    return f"seeds {', '.join(most)} and {last}" if most else f"seed {last}"


def compare_all(root: Path | None = None, own: Path | None = None, scale: str = SCALE) -> list[Compared]:
    """All headlines, in the order of the file.

    Parameters
    ----------
    root
        The project's folder.
    own
        The folder of the reader's tables, with one folder a scale; by default where runs write them.
    scale
        That of the reader's run. The reference is that of the quick scale.

    Raises
    ------
    ValueError
        As :func:`read_headlines`, and where the reference does not answer a query: naming the headline.
    """
    root = root or project_root()
    sources: dict[str, tuple[_Source, str]] = {}
    found = []
    for headline in read_headlines(root / HEADLINES):
        name = headline.table
        if name not in sources:
            sources[name] = _both(name, root / "results", own or tables_folder(), scale)
        (reference, mine), refused = sources[name]
        if reference is None:
            found.append(compare(headline, NOTHING, NOTHING))
            continue
        try:
            values = cells.values(reference, headline.asked)
        except ValueError as error:
            raise ValueError(f"headline {headline.id}: {error}") from error
        own_values = NOTHING
        if mine is not None and not refused:
            try:
                own_values = cells.values(mine, headline.asked)
            except ValueError:  # a part of the experiment that was not run
                refused = "your run has no such rows"
        found.append(compare(headline, values, own_values, refused))
    return found


_Source = tuple[pd.DataFrame | None, pd.DataFrame | None]


def _both(name: str, results: Path, own: Path, scale: str) -> tuple[_Source, str]:
    """The reference and the reader's rows that were made as it was; and why there are none."""
    reference, mine = tables.find(name, SCALE, root=results), tables.find(name, scale, root=own)
    if reference is None or mine is None:
        return (reference, mine), "" if mine is not None else NO_RUN
    settings = [run["parameters"] for run in tables.record(name, SCALE, root=results)["runs"]]
    runs = tables.record(name, scale, root=own)["runs"]
    # Of each run, the parameters in which it differs from that of the reference to which it is nearest.
    differing = [min((tables.differing(run["parameters"], one) for one in settings), key=len) for run in runs]
    alike = [i for i, names in enumerate(differing) if not names]
    if not alike:
        return (reference, None), f"your run has another {' and another '.join(differing[-1])}"
    return (reference, mine[mine["run"].isin(alike)] if "run" in mine else mine), ""


# ---------------------------------------------------------------------------------------
# How many chance puts outside


def left_out(seeds: Sequence[int], of: int, most: int = MOST_SETS, *, ordered: bool = False) -> list[tuple[int, ...]]:
    """Every set of ``of`` seeds; with ``ordered``, in every order. Of more than ``most``, so many at random.

    >>> left_out([3, 4, 5], 2), len(left_out([3, 4, 5], 2, ordered=True)), len(set(left_out(range(20), 3, most=200)))
    ([(3, 4), (3, 5), (4, 5)], 6, 200)
    """
    if (math.perm if ordered else math.comb)(len(seeds), of) <= most:
        return list((itertools.permutations if ordered else itertools.combinations)(seeds, of))
    rng, found = np.random.default_rng(DRAWS), dict[tuple[int, ...], None]()
    while len(found) < most:
        drawn = [int(seed) for seed in rng.choice(list(seeds), of, replace=False)]
        found[tuple(drawn if ordered else sorted(drawn))] = None
    return list(found)


class _Predicted:
    """Does the mean of some seeds lie where the others say that it should? Every set is asked once."""

    def __init__(self, values: pd.Series[float], limits: tuple[float, float]) -> None:
        self.values, self.limits = values.to_numpy(dtype=float), limits
        self.place = {seed: i for i, seed in enumerate(values.index.tolist())}
        self.known: dict[frozenset[int], bool] = {}

    def inside(self, held: Sequence[int]) -> bool:
        key = frozenset(held)
        if key not in self.known:
            mine = [self.place[seed] for seed in sorted(key)]
            rest = np.delete(self.values, mine)
            low, high = statistics.prediction(rest.tolist(), of=len(mine), bounds=self.limits, grain=GRAIN)
            self.known[key] = bool(low <= self.values[mine].mean() <= high)
        return self.known[key]


def coverage(values: pd.Series[float], of: int, limits: tuple[float, float], most: int = MOST_SETS) -> tuple[int, int]:
    """How many means of ``of`` seeds lie where the other seeds say that they should, and of how many.

    >>> coverage(pd.Series([0.5, 0.6, 0.7, 0.6, 0.5, 5.0]), 1, (0.0, 10.0))
    (5, 6)
    """
    sets, predicted = left_out(values.index.tolist(), of, most), _Predicted(values, limits)
    return sum(map(predicted.inside, sets)), len(sets)


@dataclass(frozen=True)
class Chance:
    """How many of the headlines lie outside where a run of the reference itself plays the reader's.

    Attributes
    ----------
    shares
        The share of the cases with 0, 1, 2 ... outside.
    """

    shares: tuple[float, ...] = (1.0,)

    @property
    def mean(self) -> float:
        return sum(count * share for count, share in enumerate(self.shares))

    @property
    def most(self) -> int:
        """In 95 % of the cases, no more than this."""
        return int(np.searchsorted(np.cumsum(self.shares), 0.95 - 1e-9))


def chance(compared: Sequence[Compared]) -> Chance:
    """From the reference's seeds left out as many as the reader has, and shared among the headlines in the same way.

    The groups have nothing in common, so their counts are added as independent ones.

    Parameters
    ----------
    compared
        Those that are counted. Where there is no run of the reader's, one of a single seed is taken.
    """
    shares = np.array([1.0])
    for group in dict.fromkeys(one.headline.group for one in compared):
        shares = np.convolve(shares, _of_group([one for one in compared if one.headline.group == group]))
    return Chance(tuple(float(share) for share in shares))


def _of_group(compared: Sequence[Compared]) -> np.ndarray:
    there = sorted(set.intersection(*(set(one.reference.index) for one in compared)))
    if len(there) < 2:
        raise ValueError(f"{compared[0].headline.group}: the headlines have no two seeds of the reference in common")
    # No more than half of the reference plays the reader: what is left must still predict something.
    parts = sorted({seed for one in compared for seed in one.own.index})[: len(there) // 2] or [0]
    pairs = [
        (_Predicted(one.reference, one.headline.limits), [seed for seed in one.own.index if seed in parts] or parts)
        for one in compared
    ]
    counts = []
    for chosen in left_out(there, len(parts), ordered=True):
        plays = dict(zip(parts, chosen, strict=True))
        counts.append(sum(not predicted.inside([plays[seed] for seed in seeds]) for predicted, seeds in pairs))
    return np.bincount(counts, minlength=len(compared) + 1) / len(counts)


# ---------------------------------------------------------------------------------------
# What is said


@dataclass(frozen=True)
class Answer:
    """All headlines, and whether the run reproduced.

    Attributes
    ----------
    reproduced
        None where nothing could be compared.
    """

    compared: tuple[Compared, ...]
    chance: Chance = field(default_factory=Chance)

    @property
    def counted(self) -> list[Compared]:
        return [one for one in self.compared if not one.refused]

    @property
    def outside(self) -> list[Compared]:
        return [one for one in self.counted if not one.inside]

    @property
    def reproduced(self) -> bool | None:
        return len(self.outside) <= self.chance.most if self.counted else None

    @property
    def why(self) -> str:
        """Why nothing is compared, the reason that most headlines have."""
        most = Counter(one.refused for one in self.compared).most_common(1)
        reason = most[0][0] if most else "there are no headlines"
        return f"{reason} ({COMMAND} makes one)" if reason == NO_RUN else reason

    @property
    def sentences(self) -> list[str]:
        """The verdict first."""
        if not self.counted:
            return [f"It cannot be said whether it reproduced: {self.why}."]
        total, outside = len(self.counted), len(self.outside)
        told = [
            "Reproduced." if self.reproduced else "Not reproduced.",
            f"{outside} of {total} headline numbers lie{'s' if outside == 1 else ''} outside of the interval for one "
            f"more such run. One more run of the reference itself has {self.chance.mean:.1f} outside on average, "
            f"and at most {self.chance.most} in 95 % of all cases.",
        ]
        seeds = sorted({seed for one in self.counted for seed in one.own.index})
        told.append(f"Yours are means over {_seeds(seeds)}.")
        if rest := len(self.compared) - total:
            told.append(f"{rest} {'is' if rest == 1 else 'are'} not compared.")
        if shared := sorted({seed for one in self.compared for seed in one.shared}):
            told.append(f"What {_seeds(shared)} gave is left out, as the reference has the same.")
        return told


def answer(root: Path | None = None, own: Path | None = None, scale: str = SCALE) -> Answer:
    """What :func:`compare_all` finds, with what chance would do to it. Arguments and errors are the same."""
    compared = compare_all(root, own, scale)
    return Answer(tuple(compared), chance([one for one in compared if not one.refused]))


def report(found: Answer) -> str:
    """The answer as plain text: a line a headline, aligned, and the sentences."""
    titles = ("", "yours", "reference", "one more such run", "")
    rows = {
        group: [_row(one) for one in found.compared if one.headline.group == group]
        for group in dict.fromkeys(one.headline.group for one in found.compared)
    }
    every = [titles, *(row for some in rows.values() for row in some)]
    widths = [max(len(row[i]) for row in every) for i in range(4)]

    def line(row: Sequence[str]) -> str:
        first, *numbers, last = row
        told = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True))]
        return "  ".join([*told, last]).rstrip()

    lines = [line(titles)]
    for group, some in rows.items():
        lines += ["", group, *map(line, some)]
    return "\n".join([*lines, "", textwrap.fill(" ".join(found.sentences), 100)])


def _row(one: Compared) -> tuple[str, ...]:
    told = one.outcome.upper() if one.outcome == "outside" else one.outcome
    return one.headline.text, one.shown(one.value), one.mean_shown, one.span_shown or "–", told


def finding(found: Answer) -> str:
    """What the figure shows, in words."""
    count, named = len(found.outside), "; ".join(one.headline.text for one in found.outside)
    told = f"{count} {'lies' if count == 1 else 'lie'} outside{f': {named}' if named else ''}."
    return (
        f"A horizontal strip for each of {len(found.counted)} headline numbers, with the reader's value on the "
        f"interval for one more such run. {told}"
    )
