"""Tables of results as notebooks and pages show them: numbers as text, a column a fact.

What stands in them is computed by :mod:`companion.compare.published` and :mod:`companion.compare.statistics`, and is
only put into words here. Where nothing was run, a table has its columns and no rows.
"""

from __future__ import annotations

import pandas as pd

from companion.arithmetic.starts import CONDITIONS
from companion.compare import published
from companion.compare.cells import both_told, view_of
from companion.compare.statistics import Interval, bounds, enough, gap_of_means, samples_needed
from companion.compare.texts import between, number, over_seeds


def needed(table: pd.DataFrame, reference: pd.DataFrame | None = None, level: float = 0.9) -> pd.DataFrame:
    """Number of samples at which each start reaches an accuracy, ours beside the paper's with as many layers.

    Parameters
    ----------
    table
        Runs of one depth, as :func:`companion.arithmetic.stages.transfers` gives them.
    reference
        The same of the reference, which then stands first.
    level
        The accuracy; see :func:`companion.compare.statistics.samples_needed`.

    Returns
    -------
    pandas.DataFrame
        A row a start: its label; the number over our seeds, or how many seeds get there where not all do; that of the
        published curve, a dash where there is no curve or it does not get there.
    """
    (layers,) = table["n_layer"].unique()
    theirs = published.curves().query("n_layer == @layers")
    rows = []
    for name in dict.fromkeys(table["start"]):
        one = CONDITIONS[name]
        here = [_over_seeds_needed(runs[runs["start"] == name], level) for runs in _both(table, reference)]
        curve = theirs[(theirs["condition"] == one.pair[0]) & (theirs["behaviour"] == one.pair[1])]
        there = _needed(curve, "published", level)
        rows.append((one.label, both_told(*here), number(there, 0)))
    return pd.DataFrame(rows, columns=["start", "samples needed here", f"paper, {layers} layers, 1,000 numbers"])


def _both(table: pd.DataFrame, reference: pd.DataFrame | None) -> list[pd.DataFrame]:
    """The reference, where there is one, and the run."""
    return [table] if reference is None else [reference, table]


def _over_seeds_needed(runs: pd.DataFrame, level: float) -> str:
    each = [_needed(part, "test_accuracy", level) for _, part in runs.groupby("seed")]
    reached = sum(value == value for value in each)
    if reached < len(each):
        return f"{reached} of {len(each)} seed{'s get' if len(each) > 1 else ' gets'} there"
    return over_seeds(each, 0, limits=bounds("n_disambiguation"), n_layer=int(runs["n_layer"].min()) if each else 2)


def _needed(curve: pd.DataFrame, accuracy: str, level: float) -> float:
    return samples_needed(curve["n_disambiguation"].tolist(), curve[accuracy].tolist(), level)


def masks(table: pd.DataFrame, reference: pd.DataFrame | None = None) -> pd.DataFrame:
    """Base models and masks, a row a depth: means over seeds, and how many bases were given up.

    Columns as of :func:`companion.arithmetic.stages.bases_and_masks`; of the reference, where there is one, too.
    """
    measures = {
        "base accuracy": ("base_accuracy", 2), "base steps": ("base_steps", 0),
        "accuracy on the subtask": ("subtask_accuracy", 2), "weights kept": ("density", 3),
        "base without them": ("ablated_base_accuracy", 2),
        "base without as many random ones": ("random_ablated_base_accuracy", 2),
    }  # fmt: skip
    rows = []
    for depth in sorted(table["n_layer"].unique()):
        asked = [runs[runs["n_layer"] == depth] for runs in _both(table, reference)]
        left = [runs.dropna(subset="base_steps") for runs in asked]
        shown = {
            title: both_told(
                *(over_seeds(one[name].tolist(), digits, limits=bounds(name), n_layer=depth) for one in left)
            )
            for title, (name, digits) in measures.items()
        }
        shown["seeds"] = both_told(*(f"{len(one)}" for one in left))
        shown["given up"] = both_told(*(f"{len(every) - len(one)}" for every, one in zip(asked, left, strict=True)))
        rows.append({"layers": depth, **shown})
    return pd.DataFrame(rows, columns=["layers", *measures, "seeds", "given up"])


def what_ran(table: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Which of the paper's points were run, a row a depth and type of numbers.

    Parameters
    ----------
    table, found
        The tables ``04_depths`` and ``04_depths_masks``.
    """
    rows = []
    for depth in published.depths():
        rows += [
            {
                "layers": depth, "numbers of samples": _which(part["n_disambiguation"]),
                "seeds": ", ".join(map(str, sorted(part["seed"].unique()))),
                "bases that got there": f"{asked['base_steps'].count()} of {len(asked)}",
                "starts": _range(part.groupby("n_disambiguation")["start"].nunique()),
                "transfers": f"{len(part):,}", "type of numbers": number_type,
            }
            for number_type, part in table[table["n_layer"] == depth].groupby("dtype")
            for asked in [found[(found["n_layer"] == depth) & (found["dtype"] == number_type)]]
        ] or [{"layers": depth, "numbers of samples": "not run"}]  # fmt: skip
    columns = [
        "layers", "numbers of samples", "seeds", "bases that got there", "starts", "transfers", "type of numbers",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns).fillna("–")


def _which(counts: pd.Series[int]) -> str:
    """How many of the paper's numbers of samples, and which."""
    there, every = set(counts), set(published.five_seed_curve()["n_disambiguation"])
    if not every - there:
        return f"all {len(every)}"
    few = min(there, every - there, key=len)
    names = ", ".join(f"{count:,}" for count in sorted(few))
    return f"{len(there)} of {len(every)}: {'' if few is there else 'without '}{names}"


def _range(values: pd.Series[int]) -> str:
    return " to ".join(map(str, sorted({values.min(), values.max()})))


def five_runs(table: pd.DataFrame) -> pd.DataFrame:
    """Our runs with 12 layers beside the paper's five (:func:`companion.compare.published.beside_five_runs`)."""
    return pd.DataFrame(
        [
            (
                label, f"{count:,}", f"{part['published'].iloc[0]:.3f} ({part['published_std'].iloc[0]:.3f})",
                f"{part['low'].iloc[0]:.3f} to {part['high'].iloc[0]:.3f}",
                over_seeds(part["test_accuracy"].tolist(), 3, limits=(0, 1), n_layer=12),
                f"{part['inside'].sum()} of {len(part)}",
            )
            for (label, count), part in view_of(table, "five_runs").groupby(["label", "n_disambiguation"], sort=False)
        ],
        columns=["start", "samples", "the paper's five runs, mean (sd)", "one more of them", "ours", "inside"],
    )  # fmt: skip


def over_depths(table: pd.DataFrame) -> pd.DataFrame:
    """Our mean over the depths beside the paper's (:func:`companion.compare.published.over_depths`)."""
    return pd.DataFrame(
        [
            (
                row["label"], f"{row['n_disambiguation']:,}", f"{row['published']:.3f}",
                between(Interval(row["mean"], row["mean_low"], row["mean_high"], row["runs"]), 3),
                f"{row['low']:.3f} to {row['high']:.3f}" if row["low"] == row["low"] else "–", row["runs"],
                _yes(row["inside"]),
            )
            for row in view_of(table, "over_depths").to_dict("records")
        ],
        columns=["start", "samples", "the paper", "ours", "one more such mean", "runs", "inside"],
    )  # fmt: skip


def depth_leads(table: pd.DataFrame) -> pd.DataFrame:
    """Our lead at each depth beside the paper's (:func:`companion.compare.published.leads_by_depth`)."""
    return pd.DataFrame(
        [
            (
                CONDITIONS[row["reference"]].label, row["n_layer"],
                over_seeds(row["values"], 3, sign=True, limits=(-1, 1), n_layer=row["n_layer"]),
                number(row["published"], 3, sign=True), number(row["gap"], 3, sign=True), row["seeds"],
                _yes(row["inside"]),
            )
            for row in view_of(table, "depth_leads").to_dict("records")
        ],
        columns=["lead over", "layers", "ours", "the paper", "ours minus the paper's", "seeds", "inside"],
    )  # fmt: skip


def _yes(value: bool | None) -> str:
    return "–" if pd.isna(value) else "yes" if value else "no"


def points(table: pd.DataFrame) -> pd.DataFrame:
    """Point by point, a row a depth: published points, how many of them lie between our seeds, and how many should.

    Points of :func:`companion.compare.published.points` with one seed are left out.
    """
    rows = []
    for depth, part in view_of(table, "points").groupby("n_layer"):
        seeds = sorted({part["seeds"].min(), part["seeds"].max()})
        rows.append((
            depth, " to ".join(map(str, seeds)), len(part), int(part["between"].sum()), f"{part['expected'].sum():.0f}",
            number(part["distance"].median(), 3), number(part["distance"].max(), 3),
        ))  # fmt: skip
    columns = ["layers", "seeds", "points", "between our seeds", "expected", "distance, median", "distance, largest"]
    return pd.DataFrame(rows, columns=columns)


def two_types(table: pd.DataFrame) -> pd.DataFrame:
    """Accuracy in float32 and in bfloat16, where a depth has runs of a start in both.

    Their seeds differ, so the two are compared as two samples (Welch), at the numbers of samples that both have. With
    too few seeds of one of them the difference has no interval.
    """
    rows = []
    for (layers, name), part in table.groupby(["n_layer", "start"], sort=False):
        depth = int(str(layers))
        both = part[part.groupby("n_disambiguation")["dtype"].transform("nunique") == 2]
        if both.empty:
            continue
        means = both.groupby(["dtype", "seed"])["test_accuracy"].mean()
        wide, narrow = means["float32"].tolist(), means["bfloat16"].tolist()
        each = (over_seeds(values, 3, limits=(0, 1), n_layer=depth) for values in (wide, narrow))
        gap = gap_of_means(narrow, wide, (-1, 1))
        few = not enough(gap.seeds, depth)
        told = number(gap.mean, 3, sign=True) if few else between(gap, 3, sign=True)
        rows.append((depth, CONDITIONS[str(name)].label, both["n_disambiguation"].nunique(), *each, told))
    columns = ["layers", "start", "numbers of samples", "float32", "bfloat16", "bfloat16 minus float32"]
    return pd.DataFrame(rows, columns=columns)
