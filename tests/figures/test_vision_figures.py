"""Figures of the vision experiment beside a reference: the reference is drawn, and this run lies on top."""

import numpy as np
import pandas as pd
import pytest

from companion import figures, palette
from companion.vision import starts


@pytest.fixture(autouse=True)
def closed():
    yield
    figures.close()


def legend_of(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def own_lines(axes):
    """Lines of this run: hollow diamonds."""
    return [line for line in axes.lines if line.get_marker() == "D"]


def history(seeds, low, **columns):
    """Two steps, an accuracy that grows by 0.2 and from seed to seed by 0.1."""
    rows = [(seed, step, low + 0.2 * step + 0.1 * place) for place, seed in enumerate(seeds) for step in (0, 1)]
    return pd.DataFrame(rows, columns=["seed", "step", "ordinary"]).assign(**columns)


def test_curves_are_the_references_and_every_own_seed_a_thin_line_in_the_look_of_its_row():
    one = starts.CONDITIONS["scratch"]
    own = history([100, 101], 0.5, condition="scratch", mean_pooled=0.5)
    rest = history([0, 1, 2], 0.1, condition="sampled", mean_pooled=0.5)  # a row that this run has not
    reference = pd.concat([history([0, 1, 2], 0.1, condition="scratch", mean_pooled=0.5), rest])
    figure = figures.vision_curves(own, reference=reference)
    left = figure.axes[0]
    mean, *others = left.lines
    assert mean.get_ydata() == pytest.approx([0.2, 0.4])
    assert [line.get_ydata().tolist() for line in others] == [pytest.approx([0.5, 0.7]), pytest.approx([0.6, 0.8])]
    assert {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in others} == {
        (one.colour, one.dash, "D"),
    }  # fmt: skip
    (band,) = left.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (pytest.approx(0.1), pytest.approx(0.5))
    assert legend_of(figure) == [one.label, "reference, 3 seeds", "this run"]
    assert not own_lines(figures.vision_curves(own).axes[0])


def test_a_search_is_the_mean_over_its_seeds_and_with_a_reference_over_the_references():
    table = pd.DataFrame({"network": "untrained", "seed": [0, 0, 1, 1], "step": [1, 2, 1, 2], "density": 0.5})
    table["accuracy"] = [0.1, 0.2, 0.3, 0.4]
    figure = figures.search_curves(table)
    (line,) = figure.axes[0].lines
    assert (line.get_ydata().tolist(), line.get_color()) == ([pytest.approx(0.2), pytest.approx(0.3)], palette.BLACK)
    assert legend_of(figure) == ["untrained"]
    own = table[table["seed"] == 1].assign(seed=100, accuracy=[0.6, 0.7])
    figure = figures.search_curves(own, table)
    mean, ours = figure.axes[0].lines
    assert mean.get_ydata() == pytest.approx([0.2, 0.3])
    assert ours.get_ydata() == pytest.approx([0.6, 0.7])
    assert legend_of(figure) == ["untrained", "reference, 2 seeds", "this run"]


def test_decisions_of_this_run_are_thin_bars_below_the_references():
    reference = pd.DataFrame({
        "condition": ["scratch", "scratch", "sampled"], "seed": [0, 1, 0], "class": "cat", "shape": [1, 3, 0],
        "texture": [1, 1, 5], "neither": [2, 0, 5],
    })  # fmt: skip
    own = pd.DataFrame({
        "condition": ["scratch"], "seed": [100], "class": "cat", "shape": [1], "texture": [0], "neither": [3],
    })  # fmt: skip
    figure = figures.decisions(own, ["scratch", "sampled"], reference=reference)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["from scratch"], "what this run has not is left out"
    wide, thin = np.array([(bar.get_width(), bar.get_height(), bar.get_y()) for bar in axes.patches]).reshape(2, 3, 3)
    assert wide[:, 0].tolist() == pytest.approx([0.5, 0.25, 0.25])
    assert thin[:, 0].tolist() == pytest.approx([0.25, 0.0, 0.75])
    assert thin[0, 1] < wide[0, 1]
    assert thin[0, 2] >= wide[0, 2] + wide[0, 1], "they do not lie over each other"
    assert legend_of(figure) == ["shape", "texture", "neither", "reference, 2 seeds", "this run"]
    panels = figures.decisions_by_class(own, ["scratch"], reference=reference).axes
    assert [bar.get_width() for bar in panels[0].patches] == pytest.approx([0.5, 0.25, 0.25, 0.25, 0.0, 0.75])


def test_layers_have_the_references_bars_and_this_runs_diamonds():
    reference = pd.DataFrame({
        "network": "pretrained", "seed": [0, 0, 1, 1], "parameter": list("abab"), "density": [0.2, 0.1, 0.4, 0.3],
    })  # fmt: skip
    own = pd.DataFrame({"network": "pretrained", "seed": 100, "parameter": ["a", "b"], "density": [0.6, 0.7]})
    axes = figures.density_by_layer(own, reference).axes[0]
    assert [bar.get_height() for bar in axes.patches if bar.get_height()] == pytest.approx([0.3, 0.2])
    assert sorted(float(line.get_ydata()[0]) for line in own_lines(axes)) == pytest.approx([0.6, 0.7])
