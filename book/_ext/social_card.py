"""What other sites show of the book: 1200 x 630 pixels, drawn from the main table when the book is built."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

SHOWN = ("subnetwork", "full_model", "inherited_only", "random_initialisation")


def draw(rows: pd.DataFrame, scale: str, target: Path) -> None:
    """The curves of the main starts, with the book's title; ``rows`` are the table 03_transfer."""
    import matplotlib as mpl  # slow to import, and needed only for a book that is published

    from companion.arithmetic.starts import CONDITIONS
    from companion.compare.statistics import summary

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    means = summary(rows, ["start", "n_disambiguation"], "test_accuracy")
    figure = plt.figure(figsize=(12, 6.3), dpi=100, facecolor="white")
    figure.text(0.05, 0.86, "Put a skill into a network", fontsize=40, weight="bold", color="#222222")
    figure.text(0.05, 0.775, "Instilling Inductive Biases with Subnetworks, executable", fontsize=22, color="#444444")
    note = f"{rows['n_layer'].iat[0]} layers, {rows['seed'].nunique()} seeds, {scale} scale"
    figure.text(0.68, 0.15, note, fontsize=16, color="#444444")
    axes = figure.add_axes((0.08, 0.13, 0.58, 0.56))
    for start in SHOWN:
        line = means[means["start"] == start]
        one = CONDITIONS[start]
        label = one.label.replace("embeddings, ", "embeddings,\n")  # in two lines
        axes.plot(
            range(len(line)), line["mean"], marker=one.marker, ls=one.dash, lw=4, ms=11, color=one.colour, label=label
        )
        axes.set_xticks(range(len(line)), [f"{n:,}" for n in line["n_disambiguation"]])
    axes.tick_params(labelsize=16)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylim(0, 1)
    axes.set_xlabel("samples that tell the solution", fontsize=18)
    axes.set_ylabel("accuracy", fontsize=18)
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc=(0.68, 0.28),
        fontsize=16,
        frameon=False,
        title="start with",
        alignment="left",
        title_fontsize=17,
    )
    figure.savefig(target)
    plt.close(figure)
