"""One setting changed: the same starts with and without the change.

A table of checks has a column ``check``: ``reference``, or the name of a change. Both have the same seeds and numbers
of samples, so every difference is taken run by run.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pandas as pd

from companion.arithmetic.starts import CONDITIONS
from companion.compare import cells, statistics


def compared(
    table: pd.DataFrame, check: str, names: Mapping[str, str], starts: Sequence[str],
    reference: pd.DataFrame | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Accuracy without and with a change and their difference, as text, for every start and number of samples.

    Parameters
    ----------
    table
        Rows of transfers with the column ``check``. Seeds that the change does not have are left out.
    names
        What ``reference`` and ``check`` are called.
    reference
        The same rows of the reference, beside which those of ``table`` are shown
        (:func:`companion.compare.cells.beside`).
    """
    table = _of_both(table, check, starts)
    ask = cells.beside(table, None if reference is None else _of_both(reference, check, starts))
    counts = {f"{count:,}": f"n_disambiguation={count}" for count in sorted(table["n_disambiguation"].unique())}
    if len(counts) > 1:
        counts["mean of all"] = ""
    rows = []
    for start, (count, where) in itertools.product(starts, counts.items()):
        family = f"start{'+n_disambiguation' if where else ''}"
        where = f"start={start} {where}"
        gap = f"test_accuracy check='{check}' {where} over=reference by=check"
        rows.append({
            "start": CONDITIONS[start].label,
            "disambiguation samples": count,
            names["reference"]: ask(f"test_accuracy check=reference {where}"),
            names[check]: ask(f"test_accuracy check='{check}' {where}"),
            f"{names[check]} minus {names['reference']}": ask(f"lead {gap}"),
            "verdict": ask(f"verdict {gap} family={family} words=higher/lower"),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _of_both(table: pd.DataFrame, check: str, starts: Sequence[str]) -> pd.DataFrame:
    """Rows of these starts without and with a change, of the seeds that have it."""
    table = table[table["check"].isin(["reference", check]) & table["start"].isin(starts)]
    return table[table["seed"].isin(table.loc[table["check"] == check, "seed"])]


def change_of_lead(
    table: pd.DataFrame, check: str, names: Mapping[str, str], starts: Sequence[str],
    reference: pd.DataFrame | None = None,
) -> str:  # fmt: skip
    """What a change makes of the lead of the first start over each other one, a line each, with one verdict for each.

    Arguments as above; where there is a reference, only that is told.
    """
    judged = table if reference is None else reference
    first, *others = starts
    changes = {
        other: f"test_accuracy by=check+start plus='{check}+{first} / reference+{other}' "
        f"minus='{check}+{other} / reference+{first}'"
        for other in others
    }
    verdicts = statistics.judge_all(
        {other: cells.values(judged, change).tolist() for other, change in changes.items()},
        n_layer=int(judged["n_layer"].min()),
    )
    words = {"above": "above 0", "below": "below 0", "equivalent": "about 0"}
    lines = []
    for other, change in changes.items():
        before, after = (
            cells.text(judged, f"lead test_accuracy check='{one}' start={first} over={other}")
            for one in ("reference", check)
        )
        by_how_much, outcome = cells.text(judged, f"lead {change}"), verdicts[other].outcome
        lines.append(
            f"- The lead of the {CONDITIONS[first].label} over {CONDITIONS[other].label} is {before} with "
            f"{names['reference']} and {after} with {names[check]}: a change of **{by_how_much}** "
            f"({words.get(outcome, outcome)})."
        )
    return "\n".join(lines)


def chance(table: pd.DataFrame, pairs: int) -> pd.DataFrame:
    """Spreads of an accuracy: between bases, between transfers from one base, and from the test pairs alone.

    Parameters
    ----------
    table
        Transfers from every base with several draws.
    pairs
        How many test pairs an accuracy is measured on.

    Returns
    -------
    pandas.DataFrame
        :func:`companion.compare.statistics.spreads`, with ``test_pairs``: the standard deviation that is expected from
        the draw of ``pairs`` test pairs (binomial).
    """
    point = ["start", "n_disambiguation"]
    variance = table.assign(test_pairs=table["test_accuracy"] * (1 - table["test_accuracy"]) / pairs)
    expected = variance.groupby(point)["test_pairs"].mean() ** 0.5
    return statistics.spreads(table).merge(expected.reset_index(), on=point)


def over_counts(spread: pd.DataFrame) -> pd.DataFrame:
    """One spread for all numbers of samples: root mean square of those of :func:`chance`, a row a start.

    Columns: ``start``, ``between``, ``within``, and ``single``, by how much runs vary that have a new base each.
    """
    squares = spread.set_index("start")[["between", "within"]] ** 2
    pooled = squares.groupby(level=0, sort=False).mean() ** 0.5
    return pooled.assign(single=(pooled**2).sum(axis=1) ** 0.5).reset_index()
