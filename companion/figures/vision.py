"""Figures of the vision experiment. Every function takes a tidy table and returns a ``Figure``.

Where there is a ``reference``, a table with the same columns and other seeds, it is what is drawn, and the runs of
``table`` lie on top.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from companion.compare.statistics import select
from companion.figures.style import OWN_LINE, OWN_POINTS, density_bars, label, own_legend, reference_name
from companion.palette import BLACK, GREY, RED, SKY
from companion.vision.starts import CONDITIONS

if TYPE_CHECKING:
    from torch import Tensor

CURVES = Patch(color=GREY, alpha=0.3), Line2D([], [], **{**OWN_LINE, **OWN_POINTS, "ms": 4, "ls": "-"})
BARS = Patch(facecolor="white", edgecolor=GREY, lw=2), Patch(facecolor="white", edgecolor=BLACK, lw=0.8)
"""How the reference and this run look in a legend."""


def search_curves(history: pd.DataFrame, reference: pd.DataFrame | None = None) -> Figure:
    """Accuracy of the hard mask and share of weights kept, over the steps of a search: mean and range over seeds.

    Columns: ``network`` (``pretrained`` or ``untrained``), ``seed``, ``step``, ``accuracy``, ``density``.
    """
    figure, panels = plt.subplots(1, 2, figsize=(8.6, 3.4), layout="constrained")
    styles = {"pretrained": (RED, "o", "-"), "untrained": (BLACK, "x", ":")}
    for axes, value, words in zip(
        panels, ("accuracy", "density"), ("accuracy, mean-pooled", "share of weights kept"), strict=True
    ):
        for network, (colour, marker, dash) in styles.items():
            look = {"color": colour, "marker": marker, "ls": dash, "ms": 4}
            _course(axes, history, reference, {"network": network}, value, look, network)
        axes.set(xlabel="step of the search", ylabel=words, ylim=(0, 1.03))
    _legend(figure, panels[0], reference, *CURVES)
    return figure


def _course(
    axes: Axes, table: pd.DataFrame, reference: pd.DataFrame | None, where: Mapping[str, str], value: str,
    look: Mapping[str, Any], name: str,
) -> None:  # fmt: skip
    """A value over the steps: mean and range over seeds; where there is a reference, its, and each own seed on top."""
    own = select(table, where)
    if own.empty:
        return
    by = (own if reference is None else select(reference, where)).groupby("step")[value]
    axes.plot(by.mean().index, by.mean(), **look, label=name)
    axes.fill_between(by.min().index, by.min(), by.max(), color=look["color"], alpha=0.12, lw=0)
    if reference is not None:
        thin = {**OWN_LINE, **OWN_POINTS, "ms": 4, "color": look["color"], "ls": look["ls"]}  # rows cross each other
        for _, rows in own.groupby("seed"):
            axes.plot(rows["step"], rows[value], **thin)


def _legend(figure: Figure, axes: Axes, reference: pd.DataFrame | None, *of_both: Artist) -> None:
    """One legend below for all panels; ``of_both`` is how the reference and this run look."""
    looks = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if reference is None:
        figure.legend(list(looks.values()), list(looks), loc="outside lower center", ncols=3)
    else:
        theirs, ours = of_both
        own_legend(figure, {**looks, reference_name(reference): theirs}, ours, ncols=3)


def density_by_layer(table: pd.DataFrame, reference: pd.DataFrame | None = None) -> Figure:
    """Share of weights kept in every masked tensor, in the network's order.

    Columns: ``network``, ``seed``, ``parameter``, ``density``.
    """
    places = {name: k + 1 for k, name in enumerate(dict.fromkeys(table["parameter"]))}

    def numbered(one: pd.DataFrame) -> pd.DataFrame:
        return one.assign(layer=one["parameter"].map(places))

    return density_bars(
        numbered(table), x="layer", hue="network", colours={"pretrained": RED, "untrained": GREY},
        axis="masked layer, from the input to the output",
        reference=None if reference is None else numbered(reference),
    )  # fmt: skip


def filter_shares(masks: Mapping[int, Mapping[str, Tensor]]) -> Figure:
    """Share of weights kept in every filter or neuron (one output), layer by layer. ``masks``: seed -> masks."""
    figure, axes = plt.subplots(figsize=(8.6, 3.2), layout="constrained")
    names = list(next(iter(masks.values())))
    for own in masks.values():
        for place, name in enumerate(names):
            share = own[name].flatten(1).float().mean(1)
            across = np.linspace(-0.36, 0.36, len(share)) if len(share) > 1 else [0.0]
            axes.plot(place + 1 + np.asarray(across), share.sort().values, ".", color=RED, ms=2.5, alpha=0.5)
    axes.set_xticks(range(1, len(names) + 1))
    axes.set(xlabel="masked layer; within it, filters in order of their share", ylabel="share of weights kept")
    axes.set_ylim(-0.03, 1.03)
    return figure


def vision_curves(
    history: pd.DataFrame, paper: pd.DataFrame | None = None, reference: pd.DataFrame | None = None
) -> Figure:
    """Validation accuracy on ordinary (left) and mean-pooled pictures (right) over the steps; below it the paper's.

    Columns of ``history``: ``condition``, ``seed``, ``step``, ``ordinary``, ``mean_pooled``; lines are means, bands the
    range over seeds. Columns of ``paper``: ``condition`` (the same names), ``metric``, ``step``, ``accuracy``.
    """
    count = 1 if paper is None else 2
    figure, panels = plt.subplots(count, 2, figsize=(9, 3.3 * count + 0.6), layout="constrained", squeeze=False)
    for axes, kind, title in zip(
        panels[0], ("ordinary", "mean_pooled"), ("ordinary pictures", "mean-pooled pictures"), strict=True
    ):
        for name in dict.fromkeys(history["condition"]):
            one = CONDITIONS[name]
            look = {"color": one.colour, "marker": one.marker, "ls": one.dash, "ms": 4}
            _course(axes, history, reference, {"condition": name}, kind, look, one.label)
        axes.set(title=f"here: {title}", xlabel="training step", ylabel="validation accuracy", ylim=(0, 1.03))
    if paper is not None:
        for axes, kind, title in zip(
            panels[1], ("ordinary", "mean_pooled"), ("ImageNet, 16 classes", "mean-pooled ImageNet"), strict=True
        ):
            for name, rows in paper[paper["metric"] == kind].groupby("condition", sort=False):
                one = CONDITIONS[str(name)]
                axes.plot(rows["step"], rows["accuracy"], color=one.colour, ls=one.dash)
            axes.set(title=f"the paper's: {title}", xlabel="training step", ylabel="accuracy", ylim=(0, 1.03))
    _legend(figure, panels[0][0], reference, *CURVES)
    return figure


def decisions(
    table: pd.DataFrame, order: Sequence[str], by: str = "condition", reference: pd.DataFrame | None = None
) -> Figure:
    """Answers to cue conflicts as stacked bars: by shape, by texture, neither. Shares over all seeds.

    Columns: ``by``, ``seed``, ``shape``, ``texture``, ``neither`` (numbers of pictures). With a reference, its bars are
    wide and this run's thin.
    """
    shown = [name for name in order if (table[by] == name).any()]
    figure, axes = plt.subplots(
        figsize=(8, (0.36 if reference is None else 0.46) * len(shown) + 1.5), layout="constrained"
    )
    _stacked(axes, table, by, shown, reference)
    _legend(figure, axes, reference, *BARS)
    return figure


def decisions_by_class(table: pd.DataFrame, conditions: Sequence[str], reference: pd.DataFrame | None = None) -> Figure:
    """As :func:`decisions`, a panel a condition and a bar a class. Columns: ``condition``, ``class`` and as there."""
    classes = list(dict.fromkeys(table["class"]))
    figure, panels = plt.subplots(
        1, len(conditions), figsize=(4.4 * len(conditions), 0.3 * len(classes) + 1.5), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axes, name in zip(panels[0], conditions, strict=True):
        theirs = None if reference is None else select(reference, {"condition": name})
        _stacked(axes, select(table, {"condition": name}), "class", classes, theirs)
        axes.set(title=label(name, "condition"))
    for axes in panels[0][1:]:  # one axis upside down is enough: they share it
        axes.invert_yaxis()
    _legend(figure, panels[0][0], reference, *BARS)
    return figure


def _stacked(
    axes: Axes, table: pd.DataFrame, by: str, shown: Sequence[str], reference: pd.DataFrame | None = None
) -> None:
    # Of each row the place and width of a bar, and the colour of its edge.
    looks = [(table, 0.0, 0.8, "white")] if reference is None else [
        (reference, -0.1, 0.6, "white"), (table, 0.32, 0.2, BLACK),
    ]  # fmt: skip
    for number, (one, below, height, edge) in enumerate(looks):
        sums = one.groupby(by)[["shape", "texture", "neither"]].sum()
        shares = sums.div(sums.sum(axis=1), axis=0).reindex(list(shown))
        left, places = np.zeros(len(shown)), np.arange(len(shown)) + below
        for kind, colour, hatch in (("shape", RED, ""), ("texture", SKY, "//"), ("neither", "#DDDDDD", "")):
            axes.barh(
                places, shares[kind], height, left=left, color=colour, hatch=hatch, edgecolor=edge,
                linewidth=0.8 if number else 1.0, label=None if number else kind,
            )  # fmt: skip
            left = left + shares[kind].to_numpy()
    axes.set_yticks(range(len(shown)), [label(name, by) for name in shown])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share of the answers to cue conflicts")
    axes.grid(axis="y", visible=False)


def answers_grid(pictures: Tensor, table: pd.DataFrame) -> Figure:
    """Pictures in a row, above each its shape and its texture, below it what every network answered.

    ``pictures`` is [n, 3, S, S], uint8. Columns of ``table``: ``picture`` (its number), ``shape``, ``texture``,
    ``condition``, ``answer`` and ``follows``. Answers are marked: ``=`` the shape's class, ``~`` the texture's.
    """
    marks = {"shape": "= ", "texture": "~ ", "neither": ""}
    conditions, count = list(dict.fromkeys(table["condition"])), len(pictures)
    figure, panels = plt.subplots(
        1, count, figsize=(1.25 * count + 1.6, 1.8 + 0.24 * len(conditions)), squeeze=False, layout="constrained"
    )
    for number, axes in enumerate(panels[0]):
        axes.imshow(pictures[number].permute(1, 2, 0).numpy(), interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        own = table[table["picture"] == number].set_index("condition").loc[conditions]
        axes.set_title(f"{own['shape'].iloc[0]},\n{own['texture'].iloc[0]}", fontsize=8)
        words = "\n".join(
            marks[follows] + answer for follows, answer in zip(own["follows"], own["answer"], strict=True)
        )
        axes.text(0.5, -0.08, words, transform=axes.transAxes, ha="center", va="top", fontsize=8, linespacing=1.6)
    first = panels[0][0]
    names = "\n".join(label(name, "condition") for name in conditions)
    first.text(-0.15, -0.08, names, transform=first.transAxes, ha="right", va="top", fontsize=8, linespacing=1.6)
    return figure
