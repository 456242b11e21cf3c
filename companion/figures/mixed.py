"""Figures of mixed distributions. Every function takes tidy tables and returns a ``Figure``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion.figures.style import OWN_POINTS, own_legend, reference_name
from companion.palette import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY

if TYPE_CHECKING:
    from torch import Tensor

LOOKS = [
    (RED, "o", "-"),
    (BLUE, "s", "--"),
    (GREEN, "^", "-."),
    (PURPLE, "D", ":"),
    (ORANGE, "v", "-"),
    (SKY, "X", "--"),
]
"""Colour, marker and dash of what is compared, in the order of a table."""
FACES = {1: ("corners", RED), 2: ("edges", BLUE), 3: ("interior", GREEN)}
"""What a face is called, and its colour, by how many of its three values are above 0."""
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])


def _by_name(table: pd.DataFrame, column: str) -> list[tuple[Any, pd.DataFrame, str, str, str]]:
    """Each value of a column, its rows, and its colour, marker and dash."""
    groups = table.groupby(column, sort=False)
    return [(name, rows, *LOOKS[i % len(LOOKS)]) for i, (name, rows) in enumerate(groups)]


def gate_densities(table: pd.DataFrame) -> Figure:
    """Densities between 0 and 1 as lines, probabilities of 0 and 1 as bars beside them, a panel a law.

    Columns: ``law``, ``gate`` (what a line is called), ``y``, ``value``: where y is 0 or 1 a probability, else a
    density.
    """
    laws = dict(list(table.groupby("law", sort=False)))
    figure, panels = plt.subplots(
        1, len(laws), figsize=(4.7 * len(laws), 3.8), sharey=True, layout="constrained", squeeze=False
    )
    for axes, (law, of_law) in zip(panels[0], laws.items(), strict=True):
        for place, (gate, rows, colour, _, dash) in enumerate(_by_name(of_law, "gate")):
            inside = rows[(rows["y"] > 0) & (rows["y"] < 1)]
            axes.plot(inside["y"], inside["value"], color=colour, ls=dash, lw=2)
            share = 0.08 + 0.84 * place / max(of_law["gate"].nunique() - 1, 1)  # where along it a line is named
            named = inside.iloc[round(share * (len(inside) - 1))]
            axes.annotate(
                gate, (named["y"], named["value"]), xytext=(8 - 16 * share, 6), textcoords="offset points",
                color=colour, ha="left" if share < 0.4 else "right" if share > 0.6 else "center", fontsize=10.5,
            )  # fmt: skip
            for end, side in ((0, -1), (1, 1)):
                mass = float(rows.loc[rows["y"] == end, "value"].iloc[0])
                across = end + side * (0.07 + 0.1 * (place if side > 0 else 2 - place))
                axes.bar(across, mass, width=0.08, color=colour, alpha=0.85)
                axes.text(across, mass + 0.02, f"{mass:.2f}", color=colour, ha="center", fontsize=8.5)
        for end in (0, 1):
            axes.axvline(end, color=GREY, lw=0.8)
        axes.set(title=law, xlabel="value of the mask", xlim=(-0.36, 1.36), ylim=(0, None))
        axes.set_xticks([-0.17, 0.5, 1.17], ["exactly 0", "between", "exactly 1"])
        axes.grid(axis="x", visible=False)
    panels[0][0].set_ylabel("probability (bars), density (lines)")
    return figure


def gate_entropies(table: pd.DataFrame, bound: float) -> Figure:
    """Entropy against the mean before clipping, a line a spread, named at its end; the bound as a dotted line.

    Columns: ``sd``, ``z``, ``entropy`` (nats).
    """
    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    axes.axhline(bound, color=BLACK, ls=":", lw=1.6)
    axes.axhline(0, color=GREY, lw=0.8)
    low, high = table["z"].min(), table["z"].max()
    axes.annotate(
        f"the most there is, {bound:.3f}", (low, bound), xytext=(6, 3), textcoords="offset points", fontsize=10
    )
    ends = []
    for sd, rows, colour, _, dash in _by_name(table, "sd"):
        axes.plot(rows["z"], rows["entropy"], color=colour, ls=dash, lw=2)
        ends.append((float(rows["entropy"].iloc[-1]), f"sd {sd:g}", colour))
    axes.set_ylim(top=bound + 0.15)
    _end_labels(axes, high, ends)
    axes.set(xlabel="z, the mean before clipping", ylabel="entropy (nats)")
    axes.set_xlim(low, high + 0.14 * (high - low))
    return figure


def _end_labels(axes: Axes, x: float, ends: list[tuple[float, str, str]]) -> None:
    """Names at the right ends of lines, each at its height, or as far above the one below that both can be read."""
    bottom, top = axes.get_ylim()
    least, last = 0.055 * (top - bottom), -np.inf
    for height, name, colour in sorted(ends):
        last = max(height, last + least)
        axes.annotate(
            name, (x, last), xytext=(5, 0), textcoords="offset points", color=colour, va="center", fontsize=10,
            fontweight="bold", bbox={"facecolor": "white", "lw": 0, "pad": 1},
        )  # fmt: skip


def triangle_draws(draws: Mapping[str, Tensor]) -> Figure:
    """Draws of three-way laws in the triangle, a panel a law: law -> draws [n, 3].

    Points in the interior and on edges are drawn one by one. On a corner all points are one, so that a disc stands
    there, with the number of the value that is 1, whose area is the share of the draws. Every face has its share.
    """
    figure, panels = plt.subplots(1, len(draws), figsize=(3.9 * len(draws), 3.9), layout="constrained", squeeze=False)
    for axes, (law, values) in zip(panels[0], draws.items(), strict=True):
        points = values.detach().cpu().numpy()
        above = points > 0
        axes.fill(*CORNERS.T, facecolor="none", edgecolor=GREY, lw=1)
        for size, (_, colour) in FACES.items():
            chosen = points[above.sum(1) == size] @ CORNERS
            if size > 1:
                axes.plot(*chosen.T, ls="", marker=".", ms=5, color=colour, alpha=0.45, mew=0, zorder=size)
        for face in np.unique(above, axis=0):
            share, inside, size = float((above == face).all(1).mean()), CORNERS[face], int(face.sum())
            _, colour = FACES[size]
            middle = inside.mean(0)
            outward = (middle - CORNERS.mean(0)) * {1: 0.14 + 0.2 * np.sqrt(share), 2: 0.2, 3: 0}[size]
            if size == 1:
                axes.scatter(*middle, s=1600 * share, color=colour, alpha=0.6, lw=0, zorder=4)
            told = f"{100 * share:.{0 if share >= 0.01 else 1}f} %"
            axes.text(
                *(middle + outward), f"{int(np.argmax(face)) + 1}: {told}" if size == 1 else told,
                ha="left" if outward[0] > 0.01 else "right" if outward[0] < -0.01 else "center",
                va="center" if abs(outward[1]) < 0.05 else "bottom" if outward[1] > 0 else "top",
                color=colour, fontsize=11, fontweight="bold", zorder=6,
                bbox={"facecolor": "white", "alpha": 0.75, "lw": 0, "pad": 1} if size == 3 else None,
            )  # fmt: skip
        kinds = [f"{name} {100 * float((above.sum(1) == size).mean()):.0f} %" for size, (name, _) in FACES.items()]
        axes.set_title(law)
        axes.set_xlabel(", ".join(kinds))
        axes.set(aspect="equal", xticks=[], yticks=[], xlim=(-0.3, 1.3), ylim=(-0.2, 1.08))
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure


def gradient_noise(table: pd.DataFrame, *, reference: pd.DataFrame | None = None) -> Figure:
    """Left: the exact gradient (lines) and the mean of the estimates (points). Right: the spread of one estimate.

    Against the mean of the mask, a colour a law; means over seeds. Columns: ``law``, ``mean``, ``seed``, ``exact``,
    ``estimate`` (mean over the draws of a seed), ``sd`` (of one draw's gradient). With a reference, lines and points
    are its, and those of the table are hollow diamonds.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.0), layout="constrained")
    many = table if reference is None else reference
    looks: dict[str, Any] = {}
    left.axhline(0, color=GREY, lw=0.8)
    for law, own_rows, colour, marker, dash in _by_name(table, "law"):
        means = many[many["law"] == law].groupby("mean")[["exact", "estimate", "sd"]].mean()
        left.plot(means.index, means["exact"], color=colour, ls=dash, lw=2)
        left.plot(means.index, means["estimate"], color=colour, marker=marker, ls="", ms=6)
        (looks[str(law)],) = right.plot(means.index, means["sd"], color=colour, ls=dash, marker=marker, ms=6, lw=2)
        if reference is not None:
            own = own_rows.groupby("mean")[["estimate", "sd"]].mean()
            for axes, column in ((left, "estimate"), (right, "sd")):
                axes.plot(own.index, own[column], **OWN_POINTS | {"mec": colour})
    left.set(xlabel="mean of the mask", ylabel="gradient, for a change of the mean")
    right.set(xlabel="mean of the mask", ylabel="standard deviation of one estimate", ylim=(0, None))
    for axes in (left, right):
        axes.set_xlim(0, 1)
    if reference is None:
        figure.legend(list(looks.values()), list(looks), loc="outside lower center", ncols=len(looks))
    else:
        names = {f"{law}, {reference_name(reference)}": line for law, line in looks.items()}
        own_legend(figure, names, ncols=2)
    return figure
