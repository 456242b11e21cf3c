"""The house style, and what figures of both experiments share.

Colours are told apart with any colour vision; the lines differ in marker and dash as well. Figures are drawn on white,
so that they read the same on a dark page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from companion.arithmetic import starts as arithmetic
from companion.compare.statistics import enough, summary
from companion.palette import BLACK, SKY
from companion.vision import starts as vision

if TYPE_CHECKING:
    from torch import Tensor


OWN = "this run"
"""What the reader's own seeds are called where a reference is drawn."""
OWN_POINTS: dict[str, Any] = {
    "marker": "D", "ls": "", "ms": 6, "mfc": "white", "mec": BLACK, "mew": 1.3, "zorder": 6, "clip_on": False,
}  # fmt: skip
"""How they look as points, and below as lines, as Matplotlib takes it."""
OWN_LINE: dict[str, Any] = {"color": BLACK, "lw": 1.3, "zorder": 5}


def reference_name(reference: pd.DataFrame) -> str:
    """What the reference is called in a legend.

    >>> reference_name(pd.DataFrame({"seed": [0, 0, 1]}))
    'reference, 2 seeds'
    """
    seeds = reference["seed"].nunique()
    return f"reference, {seeds} seed{'' if seeds == 1 else 's'}"


def own_legend(place: Figure | Axes, looks: Mapping[str, Any], own: Artist | None = None, **settings: Any) -> None:
    """A legend of ``looks`` (name -> what looks so) and of this run, by default a hollow diamond.

    Below a figure, or inside of its axes. ``settings`` are those of Matplotlib.
    """
    looks = {**looks, OWN: own or Line2D([], [], **OWN_POINTS)}
    where = {"loc": "outside lower center", "ncols": len(looks)} if isinstance(place, Figure) else {}
    place.legend(list(looks.values()), list(looks), **{**where, **settings})


def house_style() -> None:
    """Set fonts, grid and colours for every figure that follows."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    mpl.rcParams.update({
        "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white",
        "axes.titlesize": 12, "axes.labelsize": 12, "legend.fontsize": 10,
        "xtick.labelsize": 10.5, "ytick.labelsize": 10.5,
        "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "figure.dpi": 110,
        "svg.hashsalt": "sicore",
    })  # fmt: skip


def close() -> None:
    """Forget all figures, so that a notebook shows none of them a second time."""
    plt.close("all")


def label(name: str, by: str = "start") -> str:
    """What figures and tables call a start: its label, or its name where it is in no table of starts.

    ``by`` is the column that holds the name: ``start`` in tables of the arithmetic experiment, ``condition`` in those
    of the vision experiment.

    >>> label("inherited_only"), label("inherited_only", "condition"), label("subnetwork of a^2")
    ('only embeddings, norms, biases', 'norms and head, no subnetwork', 'subnetwork of a²')
    """
    if by == "condition" and name in vision.CONDITIONS:
        return vision.CONDITIONS[name].label
    if by == "start" and name in arithmetic.CONDITIONS:
        return arithmetic.CONDITIONS[name].label
    return pretty(name.replace("_", " "))


def pretty(computation: str) -> str:
    """``a^2 + ab`` -> ``a² + ab``, for labels."""
    for digit, raised in (("^2", "²"), ("^3", "³")):
        computation = computation.replace(digit, raised)
    return computation


def count_axis(axes: Axes, counts: Sequence[int], least: float = 0.3) -> None:
    """Numbers of samples on an axis of log(1 + n / m), m the smallest above 0, so that 0 has a place.

    Ticks stand at least ``least`` apart on that axis.
    """
    unit = min((count for count in counts if count > 0), default=1)
    axes.set_xscale("function", functions=(lambda n: np.log1p(n / unit), lambda x: np.expm1(x) * unit))
    axes.set_xlim(min(counts) - 0.08 * unit, max(counts) * 1.06)
    shown: list[int] = []
    for count in sorted(counts):
        if not shown or np.log1p(count / unit) - np.log1p(shown[-1] / unit) > least:
            shown.append(count)
    axes.set_xticks(shown, [f"{count:,}" for count in shown], minor=False)
    axes.minorticks_off()


def density_bars(
    table: pd.DataFrame, *, x: str, hue: str, colours: Mapping[Any, Any], axis: str = "", legend: str = "",
    reference: pd.DataFrame | None = None,
) -> Figure:  # fmt: skip
    """Density as bars: mean over the rows of a bar, range as a thin line; with a reference, bars are its.

    Columns of both: ``x``, ``hue``, ``density``; of the reference also ``seed``.
    """
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    bars = table if reference is None else reference
    order, kinds = list(dict.fromkeys(bars[x])), [kind for kind in colours if (bars[hue] == kind).any()]
    sns.barplot(
        bars, x=x, y="density", hue=hue, order=order, hue_order=kinds, palette=dict(colours), ax=axes,
        legend=reference is None, errorbar=lambda x: (x.min(), x.max()), err_kws={"linewidth": 1.2, "color": "black"},
    )  # fmt: skip
    axes.set(xlabel=axis, ylabel="share of weights kept", ylim=(0, None))
    if reference is None:
        axes.legend(title=legend)
        return figure
    width = 0.8 / len(kinds)
    for (place, kind), rows in table.groupby([x, hue]):
        if place in order and kind in kinds:
            across = order.index(place) - 0.4 + width * (kinds.index(kind) + 0.5)
            axes.plot([across] * len(rows), rows["density"], **OWN_POINTS)
    looks = {f"{legend} {kind}".strip(): Patch(color=colours[kind]) for kind in kinds}
    range_look = Line2D([], [], color=BLACK, marker="|", ms=9, mew=1.2, ls="")
    own_legend(figure, {**looks, f"range of the {reference_name(reference)}": range_look})
    return figure


def dots(
    table: pd.DataFrame, *, value: str, by: str, order: Sequence[str], axis: str,
    labels: Mapping[str, str] | None = None, reference: pd.DataFrame | None = None,
) -> Figure:  # fmt: skip
    """One row per start: every seed a small point, beside them the mean and, of enough seeds, its 95 % interval.

    With a reference these are its, and the seeds of the table are hollow diamonds below them.

    Columns of both: ``by`` (the start), ``seed`` and ``value``, one row a seed and start. ``labels`` stand in place of
    :func:`label`, name by name.
    """
    many = table if reference is None else reference
    shown = [name for name in order if (table[by] == name).any() or (many[by] == name).any()]
    means = summary(many, [by], value).set_index(by)
    height = 0.42 if reference is None else 0.5
    figure, axes = plt.subplots(figsize=(7.6, height * len(shown) + 1.3), layout="constrained")
    point: dict[str, Any] = {"marker": "o", "color": SKY, "ms": 4, "ls": ""}
    mean_point: dict[str, Any] = {"fmt": "D", "color": BLACK, "ms": 5, "capsize": 3, "lw": 1.6}
    for row, name in enumerate(shown):
        if reference is not None:
            own = table.loc[table[by] == name, value]
            axes.plot(own, [row + 0.3] * len(own), **OWN_POINTS)
        if name not in means.index:
            continue
        mean, low, high, seeds = (float(means[column][name]) for column in ("mean", "low", "high", "seeds"))
        axes.plot(many.loc[many[by] == name, value], [row] * int(seeds), **point)
        reach = [[mean - low], [high - mean]] if enough(int(seeds)) else None
        axes.errorbar(mean, row, xerr=reach, **mean_point)
    axes.set_yticks(range(len(shown)), [(labels or {}).get(name) or label(name, by) for name in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -0.03), min(high, 1.03))
    axes.set_xlabel(axis)
    axes.grid(axis="y", visible=False)
    if reference is not None:
        mean_look = axes.errorbar([], [], xerr=[], **mean_point)
        own_legend(figure, {reference_name(reference): Line2D([], [], **point), "its mean, 95 % interval": mean_look})
    return figure


def picture_grid(rows: Mapping[str, Tensor], columns: Sequence[str] = ()) -> Figure:
    """Pictures in rows, each with its name, under the names of the columns.

    Every value of ``rows`` is [n, 3, H, W], uint8.
    """
    most = max(len(pictures) for pictures in rows.values())
    figure, panels = plt.subplots(
        len(rows), most, figsize=(0.62 * most + 1.2, 0.68 * len(rows) + 0.5), layout="constrained", squeeze=False
    )
    for line, (name, pictures) in zip(panels, rows.items(), strict=True):
        for axes in line:
            axes.axis("off")
        for axes, picture in zip(line, pictures, strict=False):
            axes.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
        line[0].text(
            -0.15, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=9.5, clip_on=False
        )
    for axes, name in zip(panels[0], columns, strict=False):
        axes.set_title(name, fontsize=8, rotation=35, ha="left", va="bottom", rotation_mode="anchor", pad=2)
    return figure
