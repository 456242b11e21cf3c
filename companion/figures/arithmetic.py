"""Figures of the arithmetic experiment. Every function takes a tidy table and returns a ``Figure``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion.arithmetic.starts import CONDITIONS, Condition
from companion.compare.statistics import seeds_a_point, summary
from companion.figures.style import count_axis, density_bars, label, pretty
from companion.palette import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY

if TYPE_CHECKING:
    from torch import Tensor


def learning_curves(history: pd.DataFrame, *, floor: float) -> Figure:
    """Accuracy and loss against the training step, one thin line per seed.

    Columns: ``seed``, ``step``, ``accuracy``, ``loss``. ``floor``, the accuracy of the best
    constant answer, is a dotted line.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for index, (seed, rows) in enumerate(history.groupby("seed")):
        colour = [RED, BLUE, GREEN, PURPLE, ORANGE, SKY, BLACK][index % 7]
        for axes, column in ((left, "accuracy"), (right, "loss")):
            axes.plot(rows["step"], rows[column], color=colour, lw=1.6, label=f"seed {seed}")
    left.axhline(floor, color="grey", ls=":", lw=1.5)
    left.set(xlabel="training step", ylabel="accuracy on held-out pairs", ylim=(0, 1.03))
    right.set(xlabel="training step", ylabel="training loss (nats)", ylim=(0, None))
    left.legend(loc="lower right")
    return figure


def discovery_curves(history: pd.DataFrame) -> Figure:
    """Accuracy, density and temperature while masks are learned, one line per seed.

    Columns: ``seed``, ``step``, ``accuracy`` (hard mask), ``soft_accuracy``, ``density``,
    ``soft_mean``, ``temperature``.
    """
    figure, panels = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    for index, (_, rows) in enumerate(history.groupby("seed")):
        labels: tuple[str | None, ...] = ("hard mask", "soft mask") if index == 0 else (None, None)
        for axes, hard, soft in ((panels[0], "accuracy", "soft_accuracy"), (panels[1], "density", "soft_mean")):
            axes.plot(rows["step"], rows[soft], color=SKY, lw=1.4, ls="--", label=labels[1])
            axes.plot(rows["step"], rows[hard], color=RED, lw=1.4, label=labels[0])
        panels[2].plot(rows["step"], rows["temperature"], color=BLACK, lw=1.6)
    panels[0].set(xlabel="training step", ylabel="accuracy on the subtask", ylim=(0, 1.03))
    panels[1].set(xlabel="training step", ylabel="share of weights kept", ylim=(0, None))
    panels[2].set(xlabel="training step", ylabel="temperature", yscale="log")
    panels[1].legend(loc="upper right")
    return figure


def density_by_matrix(table: pd.DataFrame) -> Figure:
    """Density of a subnetwork by layer and matrix: mean over seeds, range as a thin bar.

    Columns: ``parameter``, ``seed``, ``density``.
    """
    layers, matrices = zip(*map(_layer_and_matrix, table["parameter"]), strict=True)
    table = table.assign(layer=layers, matrix=matrices)
    colours = dict(zip(sorted(set(layers)), sns.color_palette("colorblind"), strict=False))
    return density_bars(table, x="matrix", hue="layer", colours=colours, legend="layer")


def tradeoff(table: pd.DataFrame) -> Figure:
    """Accuracy on the subtask against density, one point per seed and penalty.

    Columns: ``penalty``, ``density``, ``accuracy``.
    """
    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    markers = "osD^vPX*"
    palette = [BLUE, RED, GREEN, PURPLE, ORANGE, BLACK, SKY]
    for index, (penalty, rows) in enumerate(table.groupby("penalty")):
        axes.scatter(
            rows["density"], rows["accuracy"], s=46, color=palette[index % 7], marker=markers[index % 8],
            label=f"{penalty:.0e}".replace("e-0", "e-"), zorder=3,
        )  # fmt: skip
    axes.set(xlabel="share of weights kept", ylabel="accuracy on the subtask", xscale="log", ylim=(0, 1.03))
    axes.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=None))
    axes.legend(title="penalty λ", loc="lower right")
    return figure


def transfer_curves(
    table: pd.DataFrame, *, floor: float, conditions: Sequence[str] = (), paper: pd.DataFrame | None = None
) -> Figure:
    """Test accuracy against the number of disambiguation samples: mean and 95 % interval over seeds.

    Columns: ``start``, ``n_disambiguation``, ``seed``, ``test_accuracy``. ``floor``, the accuracy of
    the best constant answer, is a dotted line. ``conditions`` names the starts that are drawn, by default all that the
    table has. ``paper`` is that of :func:`depth_curves`.
    """
    figure, axes = plt.subplots(figsize=(7.2, 5.0), layout="constrained")
    for one in _there(table, conditions):
        _curve(axes, one, table, paper, 6)
    axes.axhline(floor, color="grey", ls=":", lw=1.5)
    count_axis(axes, sorted(table["n_disambiguation"].unique()))
    axes.set(xlabel="disambiguation samples in the training set", ylabel="accuracy on unambiguous pairs")
    axes.set_ylim(0, 1.03)
    _legend(figure, axes, paper is not None)
    return figure


def depth_curves(table: pd.DataFrame, conditions: Sequence[str] = (), *, paper: pd.DataFrame | None = None) -> Figure:
    """Transfer curves in one panel per depth, all over the same numbers of samples: mean and 95 % interval over seeds.

    Columns as in :func:`transfer_curves`, and ``n_layer``. ``paper`` (columns ``condition``,
    ``behaviour``, ``n_layer``, ``n_disambiguation``, ``published``) is drawn as small hollow points.
    """
    depths = sorted(table["n_layer"].unique())
    columns = min(len(depths), 3)
    rows = -(-len(depths) // columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(max(3.7 * columns, 7.2), 3.4 * rows + 0.9), sharey=True, layout="constrained",
        squeeze=False,
    )  # fmt: skip
    counts = sorted(table["n_disambiguation"].unique())  # of all depths: panels stand side by side to be compared
    unit = min((count for count in counts if count > 0), default=1)
    least = (np.log1p(counts[-1] / unit) - np.log1p(counts[0] / unit)) / 7
    for axes, depth in zip(panels.flat, depths, strict=False):
        part = table[table["n_layer"] == depth]
        there = (
            None if paper is None else paper[(paper["n_layer"] == depth) & (paper["n_disambiguation"] <= counts[-1])]
        )
        for one in _there(part, conditions):
            _curve(axes, one, part, there, 4)
        count_axis(axes, counts, least)
        seeds = seeds_a_point(part)[depth]
        axes.set(
            title=f"{depth} layer{'s' if depth != 1 else ''}, {seeds} seed{'s' if seeds != '1' else ''}", ylim=(0, 1.03)
        )
        axes.set_xlabel("disambiguation samples")
    for axes in panels.flat[len(depths) :]:
        axes.set_visible(False)
    for row in panels:
        row[0].set_ylabel("accuracy on unambiguous pairs")
    _legend(figure, panels, paper is not None)
    return figure


def _there(table: pd.DataFrame, conditions: Sequence[str]) -> list[Condition]:
    """The starts among ``conditions``, or among all where none is named, that a table has."""
    return [CONDITIONS[name] for name in conditions or CONDITIONS if (table["start"] == name).any()]


def _curve(axes: Axes, one: Condition, table: pd.DataFrame, paper: pd.DataFrame | None, size: float) -> None:
    """Mean and interval of a start with markers of ``size`` points, and the paper's points."""
    table = table[table["start"] == one.name].sort_values("n_disambiguation")
    own = summary(table, ["n_disambiguation"], "test_accuracy")
    x, y, half = own["n_disambiguation"], own["mean"], own["half_width"].fillna(0)
    strong = one.name == "subnetwork"
    axes.plot(
        x, y, color=one.colour, marker=one.marker, ls=one.dash, ms=size, lw=2.6 if strong else 1.7, label=one.label,
        zorder=4 if strong else 3,
    )  # fmt: skip
    axes.fill_between(x, np.maximum(y - half, 0), np.minimum(y + half, 1), color=one.colour, alpha=0.12, lw=0)
    if paper is not None:
        there = paper[(paper["condition"] == one.pair[0]) & (paper["behaviour"] == one.pair[1])]
        axes.plot(
            there["n_disambiguation"], there["published"], ls="", marker=one.marker, ms=5, mfc="none", mec=one.colour,
            alpha=0.8,
        )  # fmt: skip


def _legend(figure: Figure, panels: Any, paper: bool) -> None:
    """One legend below for all panels, in the order of the starts."""
    handles: dict[str, Any] = {}
    for axes in np.ravel(panels):
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    order = [one.label for one in CONDITIONS.values() if one.label in handles]
    handles = {name: handles[name] for name in order}
    if paper:
        hollow = mpl.lines.Line2D([], [], ls="", marker="o", mfc="none", mec="grey")
        handles["the paper's value (hollow, same colour and marker)"] = hollow
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=2)


def against_paper(points: pd.DataFrame) -> Figure:
    """Our mean against the paper's value, a point for every published one that was run.

    Columns: ``condition``, ``behaviour``, ``published``, ``mean``, ``low``, ``high`` (prediction
    interval of one run; may be missing). On the diagonal both agree.
    """
    figure, axes = plt.subplots(figsize=(6.4, 5.6), layout="constrained")
    axes.plot([0, 1], [0, 1], color="grey", ls=":", lw=1.5)
    for one in CONDITIONS.values():
        own = points[(points["condition"] == one.pair[0]) & (points["behaviour"] == one.pair[1])]
        if one.published and len(own):
            axes.vlines(own["published"], own["low"], own["high"], color=one.colour, alpha=0.3, lw=1.5)
            axes.plot(own["published"], own["mean"], ls="", marker=one.marker, color=one.colour, ms=6, label=one.label)
    axes.set(xlabel="accuracy in the paper (one run)", ylabel="our mean, with the interval for one run")
    axes.set(xlim=(0.15, 1.03), ylim=(0.15, 1.03))
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def bases_and_draws(table: pd.DataFrame, starts: Sequence[str], axis: str) -> Figure:
    """Several transfers (points) from each base model (rows), one panel per start; a line marks a base's mean.

    Columns: ``start``, ``seed`` (of the base), ``draw`` and ``test_accuracy``.
    """
    bases = sorted(table["seed"].unique())
    figure, panels = plt.subplots(
        1, len(starts), figsize=(max(3.8 * len(starts), 5.0), 0.36 * len(bases) + 1.5), sharex=True, sharey=True,
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for axes, start in zip(panels[0], starts, strict=True):
        for row, base in enumerate(bases):
            own = table.loc[(table["start"] == start) & (table["seed"] == base), "test_accuracy"]
            axes.plot(own, [row] * len(own), "o", color=SKY, ms=5)
            axes.vlines(own.mean(), row - 0.32, row + 0.32, color=BLACK, lw=2)
        axes.set(title=label(start))
        axes.set_yticks(range(len(bases)), [f"base {base}" for base in bases])
        axes.grid(axis="y", visible=False)
    panels[0][0].set_ylim(len(bases) - 0.4, -0.6)
    figure.supxlabel(axis, fontsize=12)
    return figure


def solutions(table: pd.DataFrame, candidates: Sequence[str], conditions: Sequence[str]) -> Figure:
    """Share of answers that agree with each candidate, a panel a start, against the number of samples.

    Columns: ``start``, ``n_disambiguation`` and ``agrees CANDIDATE``; starts that the table has not are left out.
    """
    shown = _there(table, conditions)
    figure, panels = plt.subplots(
        1, len(shown), figsize=(3.3 * len(shown), 3.6), sharey=True, layout="constrained", squeeze=False
    )
    styles = [(RED, "o", "-"), (BLUE, "s", "--"), (GREEN, "^", "-."), (BLACK, "x", ":")]
    for axes, one in zip(panels[0], shown, strict=True):
        rows = table[table["start"] == one.name]
        for candidate, (colour, marker, dash) in zip([*candidates, "other"], styles, strict=False):
            means = rows.groupby("n_disambiguation")[f"agrees {candidate}"].mean()
            axes.plot(means.index, means, color=colour, marker=marker, ls=dash, ms=5, label=pretty(candidate))
        count_axis(axes, sorted(table["n_disambiguation"].unique())[::2])
        axes.set(title=one.label, xlabel="disambiguation samples", ylim=(0, 1.03))
    panels[0][0].set_ylabel("share of answers")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def mask_images(masks: Mapping[str, Tensor], block: int = 4) -> Figure:
    """Masks of GPT-2 as pictures: darker where less of a block of ``block`` x ``block`` weights is kept."""
    figure, panels = plt.subplots(1, len(masks), figsize=(11, 3.2), layout="constrained", squeeze=False)
    image = None
    for axes, (name, mask) in zip(panels[0], masks.items(), strict=True):
        rows, columns = (size // block * block for size in mask.shape)
        share = mask[:rows, :columns].float().reshape(rows // block, block, columns // block, block).mean((1, 3))
        image = axes.imshow(share.cpu().numpy(), cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        layer, matrix = _layer_and_matrix(name)
        axes.set(title=f"layer {layer}: {matrix}", xticks=[], yticks=[])
        axes.set_xlabel(f"{mask.shape[1]} outputs")
        axes.set_ylabel(f"{mask.shape[0]} inputs")
    assert image is not None
    figure.colorbar(image, ax=panels[0].tolist(), label="share kept", shrink=0.9)
    return figure


def _layer_and_matrix(parameter: str) -> tuple[int, str]:
    """``transformer.h.0.attn.c_attn.weight`` is ``attn.c_attn`` of layer 0."""
    words = parameter.split(".")
    return int(words[2]), ".".join(words[3:5])


def mask_forming(frames: pd.DataFrame) -> Figure:
    """A mask on its way: five pictures of the last layer's first matrix, and below the density of every matrix.

    Columns as of ``companion.arithmetic.forming.frames``, rows of one seed.
    """
    names, steps = list(dict.fromkeys(frames["parameter"])), sorted(frames["step"].unique())
    layers = [name.split(".")[2] for name in names]
    shown = names[layers.index(layers[-1])]
    figure = plt.figure(figsize=(9, 5.6), layout="constrained")
    grid = figure.add_gridspec(2, 5, height_ratios=[1, 1.5])
    picked = [steps[round(part * (len(steps) - 1) / 4)] for part in range(5)]
    panels = [figure.add_subplot(grid[0, column]) for column in range(5)]
    image = None
    for axes, step in zip(panels, picked, strict=True):
        text = frames[(frames["parameter"] == shown) & (frames["step"] == step)]["picture"].iloc[0]
        levels = np.array([[int(level, 36) for level in row] for row in text.split("/")]) / 35
        image = axes.imshow(levels, cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        axes.set(title=f"step {step:,}", xticks=[], yticks=[])
    assert image is not None
    panels[0].set_ylabel(f"layer {layers[-1]}\n{'.'.join(shown.split('.')[3:5])}")
    figure.colorbar(image, ax=panels, label="share kept", shrink=0.9)
    axes = figure.add_subplot(grid[1, :])
    styles = dict(zip(dict.fromkeys(layers), ("-", "--", ":", "-."), strict=False))
    colours = dict(
        zip(dict.fromkeys(name.split(".", 3)[3] for name in names), (RED, BLUE, GREEN, PURPLE), strict=False)
    )
    for name, layer in zip(names, layers, strict=True):
        rows, matrix = frames[frames["parameter"] == name], name.split(".", 3)[3]
        axes.plot(
            rows["step"], rows["density"], color=colours.get(matrix, BLACK), ls=styles.get(layer, "-"), lw=1.7,
            label=f"layer {layer}, {matrix.removesuffix('.weight')}",
        )  # fmt: skip
    axes.set(xlabel="step of the search", ylabel="share of weights kept", ylim=(0, None))
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure
