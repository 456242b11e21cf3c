"""Tables of results as notebooks and pages show them: numbers as text, a column a fact.

What stands in them is computed by :mod:`companion.compare.published` and :mod:`companion.compare.statistics`, and is
only put into words here. Where nothing was run, a table has its columns and no rows.
"""

from __future__ import annotations

import pandas as pd

from companion.arithmetic.starts import CONDITIONS
from companion.compare import published
from companion.compare.cells import view_of
from companion.compare.statistics import gap_of_means, samples_needed
from companion.compare.texts import over_seeds, plus_minus, with_sign


def needed(table: pd.DataFrame, level: float = 0.9) -> pd.DataFrame:
    """Number of samples at which each start reaches an accuracy, ours beside the paper's with as many layers.

    Parameters
    ----------
    table
        Runs of one depth, as :func:`companion.arithmetic.stages.transfers` gives them.
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
    for name, own in table.groupby("start", sort=False):
        one = CONDITIONS[str(name)]
        each = [_needed(part, "test_accuracy", level) for _, part in own.groupby("seed")]
        reached = sum(value == value for value in each)
        here = over_seeds(each, 0) if reached == len(each) else f"{reached} of {len(each)} seeds get there"
        curve = theirs[(theirs["condition"] == one.pair[0]) & (theirs["behaviour"] == one.pair[1])]
        there = _needed(curve, "published", level)
        rows.append((one.label, here, f"{there:,.0f}" if there == there else "–"))
    return pd.DataFrame(rows, columns=["start", "samples needed here", f"paper, {layers} layers, 1,000 numbers"])


def _needed(curve: pd.DataFrame, accuracy: str, level: float) -> float:
    return samples_needed(curve["n_disambiguation"].tolist(), curve[accuracy].tolist(), level)


def masks(table: pd.DataFrame) -> pd.DataFrame:
    """Base models and masks, a row a depth: means over seeds, and how many bases were given up.

    Columns as of :func:`companion.arithmetic.stages.bases_and_masks`.
    """
    measures = {
        "base accuracy": ("base_accuracy", 2), "base steps": ("base_steps", 0),
        "accuracy on the subtask": ("subtask_accuracy", 2), "weights kept": ("density", 3),
        "base without them": ("ablated_base_accuracy", 2),
        "base without as many random ones": ("random_ablated_base_accuracy", 2),
    }  # fmt: skip
    rows = []
    for depth, asked in table.groupby("n_layer"):
        left = asked.dropna(subset="base_steps")
        shown = {title: over_seeds(left[name].tolist(), digits) for title, (name, digits) in measures.items()}
        rows.append({"layers": depth, **shown, "seeds": len(left), "given up": len(asked) - len(left)})
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
                over_seeds(part["test_accuracy"].tolist(), 3), f"{part['inside'].sum()} of {len(part)}",
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
                plus_minus(row["mean"], row["half_width"], 3), f"{row['low']:.3f} to {row['high']:.3f}", row["runs"],
                {True: "yes", False: "no"}.get(row["inside"], "–"),
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
                CONDITIONS[row["reference"]].label, row["n_layer"], with_sign(row["mean"], row["half_width"]),
                f"{row['published']:+.3f}", f"{row['gap']:+.3f}", row["seeds"],
                "–" if row["seeds"] == 1 else "no" if row["outside"] else "yes",
            )
            for row in view_of(table, "depth_leads").to_dict("records")
        ],
        columns=["lead over", "layers", "ours", "the paper", "ours minus the paper's", "seeds", "inside"],
    )  # fmt: skip


def two_types(table: pd.DataFrame) -> pd.DataFrame:
    """Accuracy in float32 and in bfloat16, where a depth has runs of a start in both.

    Their seeds differ, so the two are compared as two samples (Welch), at the numbers of samples that both have.
    """
    rows = []
    for (depth, name), part in table.groupby(["n_layer", "start"], sort=False):
        both = part[part.groupby("n_disambiguation")["dtype"].transform("nunique") == 2]
        if both.empty:
            continue
        means = both.groupby(["dtype", "seed"])["test_accuracy"].mean()
        wide, narrow = means["float32"].tolist(), means["bfloat16"].tolist()
        rows.append((
            depth, CONDITIONS[str(name)].label, both["n_disambiguation"].nunique(), over_seeds(wide, 3),
            over_seeds(narrow, 3), with_sign(*gap_of_means(narrow, wide)),
        ))  # fmt: skip
    columns = ["layers", "start", "numbers of samples", "float32", "bfloat16", "bfloat16 minus float32"]
    return pd.DataFrame(rows, columns=columns)
