"""Figures in one house style. Every function takes a tidy table and returns a ``Figure``.

Colours are Okabe & Ito's, told apart with any colour vision; the lines differ in marker
and dash as well. Figures are drawn on white, so that they read the same on a dark page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from companion.compare.statistics import seeds_a_point, summary

ORANGE, SKY, GREEN, BLUE, RED, PURPLE, BLACK = (
    "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#000000",
)  # fmt: skip

CONDITIONS: dict[tuple[str, str], tuple[str, str, str, str]] = {
    ("subnetwork", ""): ("subnetwork", RED, "o", "-"),
    ("full_model", ""): ("full model", BLUE, "s", "-"),
    ("sampled", "as_described"): ("random subset (as described)", GREEN, "^", "-"),
    ("sampled", "as_released"): ("random subset (as released)", GREEN, "v", "--"),
    ("complement", "as_described"): ("outside the subnetwork (as described)", PURPLE, "D", "-"),
    ("complement", "as_released"): ("outside the subnetwork (as released)", PURPLE, "d", "--"),
    ("inherited_only", ""): ("only embeddings, norms, biases", ORANGE, "P", "-"),
    ("random_initialisation", ""): ("random initialisation", BLACK, "x", ":"),
}
"""(condition, behaviour) -> label, colour, marker, dash."""


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


def _count_axis(axes: Axes, counts: Sequence[int], least: float = 0.3) -> None:
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

    Columns: ``layer``, ``matrix``, ``seed``, ``density``.
    """
    colours = dict(zip(sorted(table["layer"].unique()), sns.color_palette("colorblind"), strict=False))
    return _density_bars(table, x="matrix", hue="layer", colours=colours, legend="layer")


def _density_bars(
    table: pd.DataFrame, *, x: str, hue: str, colours: Mapping[Any, Any], label: str = "", legend: str = ""
) -> Figure:
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    sns.barplot(
        table, x=x, y="density", hue=hue, palette=dict(colours), ax=axes,
        errorbar=lambda x: (x.min(), x.max()), err_kws={"linewidth": 1.2, "color": "black"},
    )  # fmt: skip
    axes.set(xlabel=label, ylabel="share of weights kept", ylim=(0, None))
    axes.legend(title=legend)
    return figure


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
    table: pd.DataFrame, *, floor: float, paper: pd.DataFrame | None = None, conditions: Sequence[tuple[str, str]] = ()
) -> Figure:
    """Test accuracy against the number of disambiguation samples: mean and 95 % interval over seeds.

    Columns: ``condition``, ``behaviour``, ``n_disambiguation``, ``seed``, ``test_accuracy``.
    ``floor``, the accuracy of the best constant answer, is a dotted line.
    ``paper`` (columns ``condition``, ``n_disambiguation``, ``test_accuracy``) is drawn with thin lines.
    """
    figure, axes = plt.subplots(figsize=(7.2, 5.0), layout="constrained")
    means = summary(table, ["condition", "behaviour", "n_disambiguation"], "test_accuracy")
    for key, (label, colour, marker, dash) in CONDITIONS.items():
        rows = means[(means["condition"] == key[0]) & (means["behaviour"] == key[1])].sort_values("n_disambiguation")
        if rows.empty or (conditions and key not in conditions):
            continue
        x, y, half = rows["n_disambiguation"], rows["mean"], rows["half_width"].fillna(0)
        strong = key[0] == "subnetwork"
        axes.plot(
            x,
            y,
            color=colour,
            marker=marker,
            ls=dash,
            lw=2.6 if strong else 1.7,
            ms=6,
            label=label,
            zorder=4 if strong else 3,
        )
        axes.fill_between(x, y - half, np.minimum(y + half, 1), color=colour, alpha=0.13, lw=0)
        if paper is not None:
            own = paper[paper["condition"] == key[0]].sort_values("n_disambiguation")
            axes.plot(own["n_disambiguation"], own["test_accuracy"], color=colour, lw=0.8, alpha=0.7)
    axes.axhline(floor, color="grey", ls=":", lw=1.5)
    _count_axis(axes, sorted(table["n_disambiguation"].unique()))
    axes.set(
        xlabel="disambiguation samples in the training set", ylabel="accuracy on unambiguous pairs", ylim=(0, 1.03)
    )
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def depth_curves(
    table: pd.DataFrame, conditions: Sequence[tuple[str, str]], *, paper: pd.DataFrame | None = None
) -> Figure:
    """Transfer curves in one panel per depth, all over the same numbers of samples: mean and 95 % interval over seeds.

    Columns as in :func:`transfer_curves`, and ``n_layer``. ``paper`` (columns ``condition``,
    ``behaviour``, ``n_layer``, ``n_disambiguation``, ``published``) is drawn as small hollow points.
    """
    depths = sorted(table["n_layer"].unique())
    columns = min(len(depths), 3)
    rows = -(-len(depths) // columns)
    figure, panels = plt.subplots(
        rows,
        columns,
        figsize=(max(3.7 * columns, 7.2), 3.4 * rows + 0.9),
        sharey=True,
        layout="constrained",
        squeeze=False,
    )
    counts = sorted(table["n_disambiguation"].unique())  # of all depths: panels stand side by side to be compared
    unit = min((count for count in counts if count > 0), default=1)
    least = (np.log1p(counts[-1] / unit) - np.log1p(counts[0] / unit)) / 7
    handles: dict[str, mpl.lines.Line2D] = {}
    for axes, depth in zip(panels.flat, depths, strict=False):
        part = table[table["n_layer"] == depth]
        means = summary(part, ["condition", "behaviour", "n_disambiguation"], "test_accuracy")
        for key in conditions:
            label, colour, marker, dash = CONDITIONS[key]
            own = means[(means["condition"] == key[0]) & (means["behaviour"] == key[1])].sort_values("n_disambiguation")
            if own.empty:
                continue
            x, y, half = own["n_disambiguation"], own["mean"], own["half_width"].fillna(0)
            (handles[label],) = axes.plot(x, y, color=colour, marker=marker, ms=4, ls=dash, lw=1.7)
            axes.fill_between(x, np.maximum(y - half, 0), np.minimum(y + half, 1), color=colour, alpha=0.1, lw=0)
            if paper is not None:
                there = paper[
                    (paper["condition"] == key[0]) & (paper["behaviour"] == key[1]) & (paper["n_layer"] == depth)
                ]
                there = there[there["n_disambiguation"] <= counts[-1]]
                axes.plot(
                    there["n_disambiguation"],
                    there["published"],
                    ls="",
                    marker=marker,
                    ms=5,
                    mfc="none",
                    mec=colour,
                    alpha=0.8,
                )
        _count_axis(axes, counts, least)
        seeds = seeds_a_point(part)[depth]
        axes.set(
            title=f"{depth} layer{'s' if depth != 1 else ''}, {seeds} seed{'s' if seeds != '1' else ''}", ylim=(0, 1.03)
        )
        axes.set_xlabel("disambiguation samples")
    for axes in panels.flat[len(depths) :]:
        axes.set_visible(False)
    for row in panels:
        row[0].set_ylabel("accuracy on unambiguous pairs")
    if paper is not None:
        handles["the paper's value (hollow, same colour and marker)"] = mpl.lines.Line2D(
            [], [], ls="", marker="o", mfc="none", mec="grey"
        )
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2)
    return figure


def against_paper(points: pd.DataFrame) -> Figure:
    """Our mean against the paper's value, a point for every published one that was run.

    Columns: ``condition``, ``behaviour``, ``published``, ``mean``, ``low``, ``high`` (prediction
    interval of one run; may be missing). On the diagonal both agree.
    """
    figure, axes = plt.subplots(figsize=(6.4, 5.6), layout="constrained")
    axes.plot([0, 1], [0, 1], color="grey", ls=":", lw=1.5)
    for key, (label, colour, marker, _) in CONDITIONS.items():
        own = points[(points["condition"] == key[0]) & (points["behaviour"] == key[1])]
        if own.empty:
            continue
        axes.vlines(own["published"], own["low"], own["high"], color=colour, alpha=0.3, lw=1.5)
        axes.plot(own["published"], own["mean"], ls="", marker=marker, color=colour, ms=6, label=label)
    axes.set(xlabel="accuracy in the paper (one run)", ylabel="our mean, with the interval for one run")
    axes.set(xlim=(0.15, 1.03), ylim=(0.15, 1.03))
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def dots(
    table: pd.DataFrame, *, value: str, by: str, order: Sequence[str], labels: Mapping[str, str], axis: str
) -> Figure:
    """One row per start: every seed a small point, the mean and, from three seeds on, its 95 % interval beside them.

    Columns: ``by`` (the start), ``seed`` and ``value``, one row a seed and start.
    """
    shown = [name for name in order if (table[by] == name).any()]
    means = summary(table, [by], value).set_index(by)
    figure, axes = plt.subplots(figsize=(7.6, 0.42 * len(shown) + 1.3), layout="constrained")
    for row, name in enumerate(shown):
        axes.plot(table.loc[table[by] == name, value], [row] * int((table[by] == name).sum()), "o", color=SKY, ms=4)
        # An interval from two seeds reaches beyond any accuracy and says nothing.
        half = float(means["half_width"][name]) if int(means["seeds"][name]) > 2 else 0.0
        mean = float(means["mean"][name])
        axes.errorbar(mean, row, xerr=half, fmt="D", color=BLACK, ms=5, capsize=3, lw=1.6)
    axes.set_yticks(range(len(shown)), [labels.get(name, name) for name in shown])
    axes.invert_yaxis()
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -0.03), min(high, 1.03))
    axes.set_xlabel(axis)
    axes.grid(axis="y", visible=False)
    return figure


def bases_and_draws(table: pd.DataFrame, starts: Sequence[str], labels: Mapping[str, str], axis: str) -> Figure:
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
        axes.set(title=labels.get(start, start))
        axes.set_yticks(range(len(bases)), [f"base {base}" for base in bases])
        axes.grid(axis="y", visible=False)
    panels[0][0].set_ylim(len(bases) - 0.4, -0.6)
    figure.supxlabel(axis, fontsize=12)
    return figure


def solutions(table: pd.DataFrame, candidates: Sequence[str], conditions: Sequence[tuple[str, str]]) -> Figure:
    """Share of answers that agree with each candidate, per condition, against the sample number."""
    figure, panels = plt.subplots(
        1, len(conditions), figsize=(3.3 * len(conditions), 3.6), sharey=True, layout="constrained", squeeze=False
    )
    styles = [(RED, "o", "-"), (BLUE, "s", "--"), (GREEN, "^", "-."), (BLACK, "x", ":")]
    for axes, key in zip(panels[0], conditions, strict=True):
        rows = table[(table["condition"] == key[0]) & (table["behaviour"] == key[1])]
        for candidate, (colour, marker, dash) in zip([*candidates, "other"], styles, strict=False):
            means = rows.groupby("n_disambiguation")[f"agrees {candidate}"].mean()
            axes.plot(means.index, means, color=colour, marker=marker, ls=dash, ms=5, label=pretty(candidate))
        _count_axis(axes, sorted(table["n_disambiguation"].unique())[::2])
        axes.set(title=CONDITIONS[key][0], xlabel="disambiguation samples", ylim=(0, 1.03))
    panels[0][0].set_ylabel("share of answers")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def mask_images(masks: Mapping[str, Tensor], titles: Mapping[str, str] | None = None, block: int = 4) -> Figure:
    """Masks as pictures: darker where more of a block of ``block`` x ``block`` weights is kept."""
    figure, panels = plt.subplots(1, len(masks), figsize=(11, 3.2), layout="constrained", squeeze=False)
    image = None
    for axes, (name, mask) in zip(panels[0], masks.items(), strict=True):
        rows, columns = (size // block * block for size in mask.shape)
        share = mask[:rows, :columns].float().reshape(rows // block, block, columns // block, block).mean((1, 3))
        image = axes.imshow(share.cpu().numpy(), cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        axes.set(title=(titles or {}).get(name, name), xticks=[], yticks=[])
        axes.set_xlabel(f"{mask.shape[1]} outputs")
        axes.set_ylabel(f"{mask.shape[0]} inputs")
    assert image is not None
    figure.colorbar(image, ax=panels[0].tolist(), label="share kept", shrink=0.9)
    return figure


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


def pretty(computation: str) -> str:
    """``a^2 + ab`` -> ``a² + ab``, for labels."""
    for digit, raised in (("^2", "²"), ("^3", "³")):
        computation = computation.replace(digit, raised)
    return computation


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


# ---------------------------------------------------------------------------------------
# Vision

ROWS: dict[str, tuple[str, str, str, str]] = {
    "scratch": ("from scratch", BLACK, "x", ":"),
    "new_head": ("pretrained, new head", ORANGE, "P", "-"),
    "fine_tuning": ("full fine-tuning", BLUE, "s", "-"),
    "lp_ft": ("new head, then fine-tuning (LP-FT)", BLUE, "D", "--"),
    "mixture_as_is": ("mixture, as it is", PURPLE, "v", "--"),
    "mixture_1_to_4": ("mixture, 1 pooled to 4", PURPLE, "<", "-."),
    "mixture_1_to_1": ("mixture, 1 to 1", PURPLE, "d", "-"),
    "mixture_1_to_1_balanced": ("mixture, 1 to 1, balanced", PURPLE, ">", ":"),
    "subnetwork": ("subnetwork, held", RED, "o", "-"),
    "subnetwork_fresh_head": ("subnetwork, fresh head", RED, "^", "--"),
    "subnetwork_fresh_norms": ("subnetwork, fresh norms", RED, "v", "--"),
    "subnetwork_alone": ("subnetwork alone (as described)", RED, "*", ":"),
    "subnetwork_trainable": ("subnetwork, trainable", RED, "h", "-."),
    "subnetwork_then_free": ("subnetwork, held then trainable", RED, "p", "-."),
    "sampled": ("random subset of its size", GREEN, "^", "-"),
    "inherited_only": ("norms and head, no subnetwork", SKY, "+", "-"),
    "random_network": ("subnetwork of an untrained network", GREEN, "v", ":"),
}
"""Conditions of the vision experiment -> label, colour, marker, dash."""


def search_curves(history: pd.DataFrame) -> Figure:
    """Accuracy of the hard mask and share of weights kept, over the steps of a search.

    Columns: ``network`` (``pretrained`` or ``untrained``), ``seed``, ``step``, ``accuracy``, ``density``.
    """
    figure, panels = plt.subplots(1, 2, figsize=(8.6, 3.4), layout="constrained")
    styles = {"pretrained": (RED, "o", "-"), "untrained": (BLACK, "x", ":")}
    for axes, value, label in zip(
        panels, ("accuracy", "density"), ("accuracy, mean-pooled", "share of weights kept"), strict=True
    ):
        for network, (colour, marker, dash) in styles.items():
            part = history[history["network"] == network]
            for number, (_, rows) in enumerate(part.groupby("seed")):
                axes.plot(
                    rows["step"], rows[value], color=colour, marker=marker, ls=dash, ms=4,
                    label=None if number else network,
                )  # fmt: skip
        axes.set(xlabel="step of the search", ylabel=label, ylim=(0, 1.03))
    panels[0].legend()
    return figure


def density_by_layer(table: pd.DataFrame) -> Figure:
    """Share of weights kept in every masked tensor, in the network's order.

    Columns: ``network``, ``seed``, ``parameter``, ``density``.
    """
    order = list(dict.fromkeys(table["parameter"]))
    table = table.assign(layer=table["parameter"].map({name: k + 1 for k, name in enumerate(order)}))
    return _density_bars(
        table, x="layer", hue="network", colours={"pretrained": RED, "untrained": "#999999"},
        label="masked layer, from the input to the output",
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


def vision_curves(history: pd.DataFrame, paper: pd.DataFrame | None = None) -> Figure:
    """Validation accuracy on ordinary (left) and mean-pooled pictures (right) over the steps; below it the paper's.

    Columns of ``history``: ``condition``, ``seed``, ``step``, ``ordinary``, ``mean_pooled``; lines are means, bands the
    range over seeds. Columns of ``paper``: ``condition`` (the same names), ``metric``, ``step``, ``accuracy``.
    """
    count = 1 if paper is None else 2
    figure, panels = plt.subplots(count, 2, figsize=(9, 3.3 * count + 0.6), layout="constrained", squeeze=False)
    for axes, kind, title in zip(
        panels[0], ("ordinary", "mean_pooled"), ("ordinary pictures", "mean-pooled pictures"), strict=True
    ):
        for name, rows in history.groupby("condition", sort=False):
            label, colour, marker, dash = ROWS[str(name)]
            by = rows.groupby("step")[kind]
            axes.plot(by.mean().index, by.mean(), color=colour, marker=marker, ls=dash, ms=4, label=label)
            axes.fill_between(by.min().index, by.min(), by.max(), color=colour, alpha=0.12, lw=0)
        axes.set(title=f"here: {title}", xlabel="training step", ylabel="validation accuracy", ylim=(0, 1.03))
    if paper is not None:
        for axes, kind, title in zip(
            panels[1], ("ordinary", "mean_pooled"), ("ImageNet, 16 classes", "mean-pooled ImageNet"), strict=True
        ):
            for name, rows in paper[paper["metric"] == kind].groupby("condition", sort=False):
                label, colour, _, dash = ROWS[str(name)]
                axes.plot(rows["step"], rows["accuracy"], color=colour, ls=dash, label=None)
            axes.set(title=f"the paper's: {title}", xlabel="training step", ylabel="accuracy", ylim=(0, 1.03))
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def decisions(table: pd.DataFrame, by: str, order: Sequence[str], labels: Mapping[str, str] | None = None) -> Figure:
    """Answers to cue conflicts as stacked bars: by shape, by texture, neither. Shares over all seeds.

    Columns: ``by``, ``shape``, ``texture``, ``neither`` (numbers of pictures).
    """
    shown = [name for name in order if (table[by] == name).any()]
    figure, axes = plt.subplots(figsize=(8, 0.36 * len(shown) + 1.5), layout="constrained")
    _stacked(axes, table, by, shown, labels or {})
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def decisions_by_class(table: pd.DataFrame, conditions: Sequence[str], labels: Mapping[str, str]) -> Figure:
    """As :func:`decisions`, a panel a condition and a bar a class. Columns: ``condition``, ``class`` and numbers."""
    classes = list(dict.fromkeys(table["class"]))
    figure, panels = plt.subplots(
        1, len(conditions), figsize=(4.4 * len(conditions), 0.3 * len(classes) + 1.5), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axes, name in zip(panels[0], conditions, strict=True):
        _stacked(axes, table[table["condition"] == name], "class", classes, {})
        axes.set(title=labels.get(name, name))
    for axes in panels[0][1:]:  # one axis upside down is enough: they share it
        axes.invert_yaxis()
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _stacked(axes: Axes, table: pd.DataFrame, by: str, shown: Sequence[str], labels: Mapping[str, str]) -> None:
    sums = table.groupby(by)[["shape", "texture", "neither"]].sum()
    shares = sums.div(sums.sum(axis=1), axis=0).loc[list(shown)]
    left = np.zeros(len(shown))
    for kind, colour, hatch in (("shape", RED, ""), ("texture", SKY, "//"), ("neither", "#DDDDDD", "")):
        axes.barh(range(len(shown)), shares[kind], left=left, color=colour, hatch=hatch, edgecolor="white", label=kind)
        left += shares[kind].to_numpy()
    axes.set_yticks(range(len(shown)), [labels.get(name, name) for name in shown])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share of the answers to cue conflicts")
    axes.grid(axis="y", visible=False)


def answers_grid(pictures: Tensor, table: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
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
    names = "\n".join(labels.get(name, name) for name in conditions)
    first.text(-0.15, -0.08, names, transform=first.transAxes, ha="right", va="top", fontsize=8, linespacing=1.6)
    return figure
