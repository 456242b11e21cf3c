"""Figures of the arithmetic experiment. Every function takes a tidy table and returns a ``Figure``."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from companion.arithmetic.starts import CONDITIONS, Condition
from companion.compare.statistics import enough, seeds_a_point, summary
from companion.figures.style import (
    OWN,
    OWN_LINE,
    OWN_POINTS,
    count_axis,
    density_bars,
    label,
    own_legend,
    pretty,
    reference_name,
)
from companion.palette import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY

if TYPE_CHECKING:
    from torch import Tensor


def learning_curves(history: pd.DataFrame, *, floor: float, reference: pd.DataFrame | None = None) -> Figure:
    """Accuracy and loss against the training step, a thin line a seed; with a reference dark, on its lines.

    Columns: ``seed``, ``step``, ``accuracy``, ``loss``. ``floor``, the accuracy of the best
    constant answer, is a dotted line.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    many = history if reference is None else reference
    colours = [RED, BLUE, GREEN, PURPLE, ORANGE, SKY, BLACK]
    seeds = many["seed"].nunique()
    for axes, column in ((left, "accuracy"), (right, "loss")):
        for index, (seed, rows) in enumerate(many.groupby("seed")):
            if reference is None and seeds <= len(colours):
                axes.plot(rows["step"], rows[column], color=colours[index], lw=1.6, label=f"seed {seed}")
            else:
                name = None if index else f"{seeds} seeds" if reference is None else reference_name(many)
                axes.plot(rows["step"], rows[column], color=BLUE, lw=1.0, alpha=0.45, label=name)
        for index, (_, rows) in enumerate(() if reference is None else history.groupby("seed")):
            axes.plot(rows["step"], rows[column], label=None if index else OWN, **OWN_LINE)
    left.axhline(floor, color="grey", ls=":", lw=1.5)
    left.set(xlabel="training step", ylabel="accuracy on held-out pairs", ylim=(0, 1.03))
    right.set(xlabel="training step", ylabel="training loss (nats)", ylim=(0, None))
    left.legend(loc="lower right")
    return figure


def discovery_curves(history: pd.DataFrame, *, reference: pd.DataFrame | None = None) -> Figure:
    """Accuracy, density and temperature while masks are learned, a line a seed; with a reference dark, on its lines.

    Columns: ``seed``, ``step``, ``accuracy`` (hard mask), ``soft_accuracy``, ``density``,
    ``soft_mean``, ``temperature``.
    """
    figure, panels = plt.subplots(1, 3, figsize=(11, 3.4 if reference is None else 3.8), layout="constrained")
    many = history if reference is None else reference
    thin: dict[str, Any] = (
        {"lw": 1.4} if many["seed"].nunique() <= 7 and reference is None else {"lw": 0.9, "alpha": 0.5}
    )
    kinds = ((panels[0], "accuracy", "soft_accuracy"), (panels[1], "density", "soft_mean"))
    for index, (_, rows) in enumerate(many.groupby("seed")):
        labels: tuple[str | None, ...] = ("hard mask", "soft mask") if index == 0 else (None, None)
        for axes, hard, soft in kinds:
            axes.plot(rows["step"], rows[soft], color=SKY, ls="--", label=labels[1], **thin)
            axes.plot(rows["step"], rows[hard], color=RED, label=labels[0], **thin)
        panels[2].plot(rows["step"], rows["temperature"], color=BLACK, lw=1.6)
    for _, rows in () if reference is None else history.groupby("seed"):
        for axes, hard, soft in kinds:
            axes.plot(rows["step"], rows[soft], ls="--", **OWN_LINE)
            axes.plot(rows["step"], rows[hard], **OWN_LINE)
    panels[0].set(xlabel="training step", ylabel="accuracy on the subtask", ylim=(0, 1.03))
    panels[1].set(xlabel="training step", ylabel="share of weights kept", ylim=(0, None))
    panels[2].set(xlabel="training step", ylabel="temperature", yscale="log")
    if reference is None:
        panels[1].legend(loc="upper right")
    else:
        soft_line, hard_line = panels[1].get_legend_handles_labels()[0]
        name = reference_name(reference)
        looks = {f"hard mask, {name}": hard_line, f"soft mask, {name}": soft_line}
        own_legend(figure, looks, Line2D([], [], **OWN_LINE))
    return figure


def density_by_matrix(table: pd.DataFrame, *, reference: pd.DataFrame | None = None) -> Figure:
    """Density of a subnetwork by layer and matrix: mean over seeds, range as a thin bar (see ``density_bars``).

    Columns: ``parameter``, ``seed``, ``density``.
    """
    own, many = _by_matrix(table), None if reference is None else _by_matrix(reference)
    colours = dict(zip(sorted(set(own["layer"])), sns.color_palette("colorblind"), strict=False))
    return density_bars(own, x="matrix", hue="layer", colours=colours, legend="layer", reference=many)


def by_density(
    table: pd.DataFrame, *, levels: Mapping[int, float], reference: pd.DataFrame | None = None
) -> Figure:  # fmt: skip
    """Accuracy against the share of weights kept: a line a number of samples, with its band of 95 % from 10 seeds on.

    Columns: ``share``, ``n_disambiguation``, ``seed``, ``test_accuracy``. ``levels`` are dotted lines, by number of
    samples. With a reference the lines are its, and the means of the table hollow diamonds.
    """
    figure, axes = plt.subplots(figsize=(7.6, 4.4), layout="constrained")
    many = table if reference is None else reference
    counts = sorted(many["n_disambiguation"].unique())
    shades = sns.color_palette("viridis", len(counts))
    for count, shade in zip(counts, shades, strict=True):
        means = summary(many[many["n_disambiguation"] == count], ["share"], "test_accuracy").sort_values("share")
        axes.plot(means["share"], means["mean"], color=shade, marker="o", ms=4, lw=1.8)
        if enough(int(means["seeds"].min())):
            axes.fill_between(means["share"], means["low"], means["high"], color=shade, alpha=0.2, lw=0)
        last = means.iloc[-1]
        axes.annotate(
            f"{count} samples", (last["share"], last["mean"]), xytext=(7, 0), textcoords="offset points", va="center",
            color=shade,
        )  # fmt: skip
        if count in levels:
            axes.axhline(levels[count], color=shade, ls=":", lw=1.4)
        if reference is not None:
            own = table[table["n_disambiguation"] == count].groupby("share")["test_accuracy"].mean()
            axes.plot(own.index, own, **OWN_POINTS)
    shares = sorted(many["share"].unique())
    axes.set_xscale("log")
    axes.set_xticks(shares, [f"{100 * share:g} %" for share in shares])
    axes.minorticks_off()
    axes.margins(x=0.12)
    axes.set(xlabel="share of weights in the subnetwork", ylabel="accuracy of the new network", ylim=(None, 1.02))
    if reference is not None:
        own_legend(axes, {}, loc="lower right")
    return figure


def named_curves(
    table: pd.DataFrame, *, by: str, order: Sequence[str], labels: Mapping[str, str],
    reference: pd.DataFrame | None = None,
) -> Figure:  # fmt: skip
    """Accuracy against the number of samples, as in :func:`transfer_curves`, a line a name in place of a start.

    Columns: ``by`` (the name), ``n_disambiguation``, ``seed``, ``test_accuracy``.
    """
    figure, axes = plt.subplots(figsize=(8.4, 4.8), layout="constrained")
    table, many = table.assign(start=table[by]), None if reference is None else reference.assign(start=reference[by])
    looks = itertools.cycle(zip([RED, ORANGE, BLUE, GREEN, BLACK], "osD^x", strict=True))
    names = [Condition(name, labels[name], *look, "-", "nothing") for name, look in zip(order, looks, strict=False)]
    for one in names:
        _curve(axes, one, table, None, 5, many)
    count_axis(axes, sorted(table["n_disambiguation"].unique()))
    axes.set(xlabel="disambiguation samples", ylabel="accuracy on unambiguous pairs", ylim=(None, 1.02))
    _legend(figure, axes, False, many, names)
    return figure


def _by_matrix(table: pd.DataFrame) -> pd.DataFrame:
    layers, matrices = zip(*map(_layer_and_matrix, table["parameter"]), strict=True)
    return table.assign(layer=layers, matrix=matrices)


def tradeoff(table: pd.DataFrame, *, reference: pd.DataFrame | None = None) -> Figure:
    """Accuracy on the subtask against density, a point a seed and penalty; on those of a reference diamonds.

    Columns: ``penalty``, ``seed``, ``density``, ``accuracy``.
    """
    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    markers = "os^vPX*"
    palette = [BLUE, RED, GREEN, PURPLE, ORANGE, BLACK, SKY]
    many = table if reference is None else reference
    faint: dict[str, Any] = {"s": 46} if reference is None else {"s": 26, "alpha": 0.5, "lw": 0}
    for index, (penalty, rows) in enumerate(many.groupby("penalty")):
        colour = palette[index % 7]
        axes.scatter(
            rows["density"], rows["accuracy"], color=colour, marker=markers[index % 7],
            label=f"{penalty:.0e}".replace("e-0", "e-"), zorder=3, **faint,
        )  # fmt: skip
        if reference is not None:
            own = table[table["penalty"] == penalty]
            axes.plot(own["density"], own["accuracy"], **(OWN_POINTS | {"mfc": colour}))
    axes.set(xlabel="share of weights kept", ylabel="accuracy on the subtask", xscale="log", ylim=(0, 1.03))
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
    if reference is None:
        axes.legend(title="penalty λ", loc="lower right")
    else:
        looks = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        own_legend(
            axes, looks, title=f"penalty λ,\n{reference_name(reference)}", loc="center left", bbox_to_anchor=(1, 0.5)
        )
    return figure


def transfer_curves(
    table: pd.DataFrame, *, floor: float, conditions: Sequence[str] = (), paper: pd.DataFrame | None = None,
    reference: pd.DataFrame | None = None,
) -> Figure:  # fmt: skip
    """Test accuracy against the number of disambiguation samples: mean over seeds, of enough with its 95 % interval.

    Columns: ``start``, ``n_disambiguation``, ``seed``, ``test_accuracy``. ``floor``, the accuracy of
    the best constant answer, is a dotted line. ``conditions`` names the starts that are drawn, by default all that the
    table has. ``paper`` is that of :func:`depth_curves`. With a ``reference`` the lines are its, and the seeds of the
    table are hollow diamonds.
    """
    figure, axes = plt.subplots(figsize=(7.2, 5.0), layout="constrained")
    for one in _there(table, conditions):
        _curve(axes, one, table, paper, 6, reference)
    axes.axhline(floor, color="grey", ls=":", lw=1.5)
    count_axis(axes, sorted(table["n_disambiguation"].unique()))
    axes.set(xlabel="disambiguation samples in the training set", ylabel="accuracy on unambiguous pairs")
    axes.set_ylim(0, 1.03)
    _legend(figure, axes, paper is not None, reference)
    return figure


def depth_curves(
    table: pd.DataFrame, conditions: Sequence[str] = (), *, paper: pd.DataFrame | None = None,
    reference: pd.DataFrame | None = None,
) -> Figure:  # fmt: skip
    """Transfer curves in one panel per depth, all over the same numbers of samples.

    Columns and lines as in :func:`transfer_curves`, and ``n_layer``. ``paper`` (columns ``condition``,
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
        many = None if reference is None else reference[reference["n_layer"] == depth]
        for one in _there(part, conditions):
            _curve(axes, one, part, there, 4, many)
        count_axis(axes, counts, least)
        seeds = seeds_a_point(part if many is None or many.empty else many).get(depth, "0")
        axes.set(
            title=f"{depth} layer{'s' if depth != 1 else ''}, {seeds} seed{'s' if seeds != '1' else ''}", ylim=(0, 1.03)
        )
        axes.set_xlabel("disambiguation samples")
    for axes in panels.flat[len(depths) :]:
        axes.set_visible(False)
    for row in panels:
        row[0].set_ylabel("accuracy on unambiguous pairs")
    _legend(figure, panels, paper is not None, reference)
    return figure


def _there(table: pd.DataFrame, conditions: Sequence[str]) -> list[Condition]:
    """The starts among ``conditions``, or among all where none is named, that a table has."""
    return [CONDITIONS[name] for name in conditions or CONDITIONS if (table["start"] == name).any()]


def _curve(
    axes: Axes, one: Condition, table: pd.DataFrame, paper: pd.DataFrame | None, size: float,
    reference: pd.DataFrame | None,
) -> None:  # fmt: skip
    """A start: mean and interval with markers of ``size`` points, the paper's points, this run's beside a reference."""
    table = table[table["start"] == one.name].sort_values("n_disambiguation")
    many = table if reference is None else reference[reference["start"] == one.name].sort_values("n_disambiguation")
    found = summary(many, ["n_disambiguation"], "test_accuracy")
    strong = one.name == "subnetwork"
    axes.plot(
        found["n_disambiguation"], found["mean"], color=one.colour, marker=one.marker, ls=one.dash, ms=size,
        lw=2.6 if strong else 1.7, label=one.label, zorder=4 if strong else 3,
    )  # fmt: skip
    depth = int(many["n_layer"].min()) if "n_layer" in many and len(many) else 2
    sure = np.array([enough(int(seeds), depth) for seeds in found["seeds"]], dtype=bool)
    band, few = found[sure], many[many["n_disambiguation"].isin(found.loc[~sure, "n_disambiguation"])]
    if len(band):
        axes.fill_between(band["n_disambiguation"], band["low"], band["high"], color=one.colour, alpha=0.12, lw=0)
    if len(few):  # of too few seeds, from the lowest to the highest
        ends = few.groupby("n_disambiguation")["test_accuracy"].agg(["min", "max"])
        axes.vlines(ends.index, ends["min"], ends["max"], color=one.colour, alpha=0.5, lw=1)
    if paper is not None:
        there = paper[(paper["condition"] == one.pair[0]) & (paper["behaviour"] == one.pair[1])]
        axes.plot(
            there["n_disambiguation"], there["published"], ls="", marker=one.marker, ms=5, mfc="none", mec=one.colour,
            alpha=0.8,
        )  # fmt: skip
    if reference is not None:
        look = OWN_POINTS | {"ms": 0.75 * size, "mec": one.colour}
        axes.plot(table["n_disambiguation"], table["test_accuracy"], **look)


def _legend(
    figure: Figure, panels: Any, paper: bool, reference: pd.DataFrame | None,
    names: Iterable[Condition] = CONDITIONS.values(),
) -> None:  # fmt: skip
    """One legend below for all panels, in the order of the names, by default of all starts."""
    handles: dict[str, Any] = {}
    for axes in np.ravel(panels):
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    order = [one.label for one in names if one.label in handles]
    handles = {name: handles[name] for name in order}
    if paper:
        hollow = Line2D([], [], ls="", marker="o", mfc="none", mec="grey")
        handles["the paper's value (hollow, same colour and marker)"] = hollow
    if reference is not None:
        handles[f"lines: {reference_name(reference)}"] = Line2D([], [], color="grey", lw=1.7)
        handles[f"{OWN} (a diamond a seed, same colour)"] = Line2D([], [], **OWN_POINTS | {"mec": "grey"})
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=2)


def against_paper(points: pd.DataFrame) -> Figure:
    """Our mean against the paper's value, a point for every published one that was run.

    Columns: ``condition``, ``behaviour``, ``published``, ``mean``, ``lowest`` and ``highest`` (of our seeds, the ends
    of a bar). On the diagonal both agree.
    """
    figure, axes = plt.subplots(figsize=(6.4, 5.6), layout="constrained")
    axes.plot([0, 1], [0, 1], color="grey", ls=":", lw=1.5)
    for one in CONDITIONS.values():
        own = points[(points["condition"] == one.pair[0]) & (points["behaviour"] == one.pair[1])]
        if one.published and len(own):
            axes.vlines(own["published"], own["lowest"], own["highest"], color=one.colour, alpha=0.3, lw=1.5)
            axes.plot(own["published"], own["mean"], ls="", marker=one.marker, color=one.colour, ms=6, label=one.label)
    axes.set(xlabel="accuracy in the paper (one run)", ylabel="our mean, and from lowest to highest seed")
    axes.set(xlim=(0.15, 1.03), ylim=(0.15, 1.03))
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def bases_and_draws(
    table: pd.DataFrame, starts: Sequence[str], axis: str, *, reference: pd.DataFrame | None = None
) -> Figure:
    """Several transfers (points) from each base model (rows), one panel per start; a line marks a base's mean.

    Columns: ``start``, ``seed`` (of the base), ``draw`` and ``test_accuracy``. With a reference its bases stand below
    those of the table, whose points are hollow diamonds.
    """
    bases = [(OWN, table, seed) for seed in sorted(table["seed"].unique())]
    if reference is not None:
        bases += [("reference", reference, seed) for seed in sorted(reference["seed"].unique())]
    a_row = 0.36 if len(bases) <= 8 else 0.22
    figure, panels = plt.subplots(
        1, len(starts), figsize=(max(3.8 * len(starts), 5.0), a_row * len(bases) + 1.5), sharex=True, sharey=True,
        layout="constrained", squeeze=False,
    )  # fmt: skip
    point: dict[str, Any] = {"marker": "o", "ls": "", "color": SKY, "ms": 5}
    for axes, start in zip(panels[0], starts, strict=True):
        for row, (whose, rows, base) in enumerate(bases):
            found = rows.loc[(rows["start"] == start) & (rows["seed"] == base), "test_accuracy"]
            look = OWN_POINTS if reference is not None and whose == OWN else point
            axes.plot(found, [row] * len(found), **look)
            axes.vlines(found.mean(), row - 0.32, row + 0.32, color=BLACK, lw=2)
        axes.set(title=label(start))
        names = [f"base {base}" if reference is None else f"{whose}, base {base}" for whose, _, base in bases]
        axes.set_yticks(range(len(bases)), names, fontsize=10.5 if len(bases) <= 8 else 8.5)
        axes.grid(axis="y", visible=False)
    panels[0][0].set_ylim(len(bases) - 0.4, -0.6)
    figure.supxlabel(axis, fontsize=12)
    return figure


def solutions(
    table: pd.DataFrame, candidates: Sequence[str], conditions: Sequence[str], *, reference: pd.DataFrame | None = None
) -> Figure:
    """Share of answers that agree with each candidate, a panel a start, against the number of samples.

    Columns: ``start``, ``seed``, ``n_disambiguation`` and ``agrees CANDIDATE``; starts that the table has not are left
    out. Means over seeds: with a reference lines are its, and those of the table are hollow diamonds.
    """
    shown = _there(table, conditions)
    figure, panels = plt.subplots(
        1, len(shown), figsize=(3.3 * len(shown), 3.6), sharey=True, layout="constrained", squeeze=False
    )
    many = table if reference is None else reference
    styles = [(RED, "o", "-"), (BLUE, "s", "--"), (GREEN, "^", "-."), (BLACK, "x", ":")]
    for axes, one in zip(panels[0], shown, strict=True):
        for candidate, (colour, marker, dash) in zip([*candidates, "other"], styles, strict=False):
            means, own = (
                rows[rows["start"] == one.name].groupby("n_disambiguation")[f"agrees {candidate}"].mean()
                for rows in (many, table)
            )
            axes.plot(means.index, means, color=colour, marker=marker, ls=dash, ms=5, label=pretty(candidate))
            if reference is not None:
                axes.plot(own.index, own, **(OWN_POINTS | {"mec": colour}))
        count_axis(axes, sorted(table["n_disambiguation"].unique())[::2])
        axes.set(title=one.label, xlabel="disambiguation samples", ylim=(0, 1.03))
    panels[0][0].set_ylabel("share of answers")
    looks = dict(zip(*reversed(panels[0][0].get_legend_handles_labels()), strict=True))
    if reference is None:
        figure.legend(list(looks.values()), list(looks), loc="outside lower center", ncols=len(looks))
    else:
        own_legend(figure, {**looks, f"lines: {reference_name(reference)}": Line2D([], [], color="grey", lw=1.5)})
    return figure


def mask_images(masks: Mapping[str, Tensor], block: int = 4, matrix: str = "") -> Figure:
    """Masks of GPT-2 as pictures: darker where less of a block of ``block`` x ``block`` weights is kept.

    Named by parameters, or, where ``matrix`` is the name of one, by what tells several masks of it apart.
    """
    figure, panels = plt.subplots(1, len(masks), figsize=(11, 3.2), layout="constrained", squeeze=False)
    image = None
    for axes, (name, mask) in zip(panels[0], masks.items(), strict=True):
        rows, columns = (size // block * block for size in mask.shape)
        share = mask[:rows, :columns].float().reshape(rows // block, block, columns // block, block).mean((1, 3))
        image = axes.imshow(share.cpu().numpy(), cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        axes.set(title=name if matrix else "layer {}: {}".format(*_layer_and_matrix(name)), xticks=[], yticks=[])
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
