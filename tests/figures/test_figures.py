"""Figures: what is drawn, read back from the axes, and how starts look in them."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch

from companion import figures, palette
from companion.arithmetic import starts
from companion.vision import starts as vision_starts

COLOURS = {value for name, value in vars(palette).items() if name.isupper()}
COUNTS = [0, 10, 100]


@pytest.fixture(autouse=True)
def closed():
    yield
    figures.close()


def runs(names=starts.MAIN, depths=(2,), seeds=(0, 1, 2)):
    """A table of transfers with known means: 0.1 for every place of the start and of the count."""
    rows = []
    for depth in depths:
        for place, name in enumerate(names):
            condition, behaviour = starts.CONDITIONS[name].pair
            for at, count in enumerate(COUNTS):
                for seed in seeds:
                    accuracy = min(0.05 * place + 0.2 * at + 0.01 * (seed - 1) + 0.1, 1.0)
                    rows.append((name, condition, behaviour, depth, count, seed, accuracy, 0.4, 0.6))
    columns = ["start", "condition", "behaviour", "n_layer", "n_disambiguation", "seed", "test_accuracy"]
    return pd.DataFrame(rows, columns=[*columns, "agrees a^2 + ab", "agrees other"])


def lines_of(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def legend_of(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


@pytest.mark.parametrize("table", [starts.CONDITIONS, vision_starts.CONDITIONS])
def test_starts_have_the_colours_of_the_palette_and_markers_that_there_are(table):
    for one in table.values():
        assert one.colour in COLOURS, one.name
        mpl.markers.MarkerStyle(one.marker)
        assert one.dash in ("-", "--", "-.", ":"), one.name


def test_a_start_is_called_as_its_table_says_and_anything_else_by_its_name():
    assert figures.label("sampled_alone") == starts.CONDITIONS["sampled_alone"].label
    assert figures.label("subnetwork", "condition") == vision_starts.CONDITIONS["subnetwork"].label
    assert figures.label("subnetwork") != figures.label("subnetwork", "condition")
    assert figures.label("subnetwork of a^2 + ab") == "subnetwork of a² + ab"
    assert figures.label("answer_only", "check") == "answer only"


def test_curves_of_the_starts_are_their_means_in_their_looks():
    table = runs()
    axes = figures.transfer_curves(table, floor=0.25).axes[0]
    drawn = lines_of(axes)
    assert list(drawn) == [starts.CONDITIONS[name].label for name in starts.MAIN]
    for name in starts.MAIN:
        one, means = starts.CONDITIONS[name], table[table["start"] == name].groupby("n_disambiguation")["test_accuracy"]
        line = drawn[one.label]
        assert line.get_xdata().tolist() == COUNTS
        assert line.get_ydata() == pytest.approx(means.mean().to_numpy())
        assert (line.get_color(), line.get_marker(), line.get_linestyle()) == (one.colour, one.marker, one.dash)
    assert any(set(line.get_ydata()) == {0.25} for line in axes.lines), "the floor"
    few = figures.transfer_curves(table, floor=0.25, conditions=["full_model", "subnetwork_alone"])
    assert legend_of(few) == ["full model"]


def test_curves_by_depth_have_a_panel_each_and_the_papers_points():
    paper = pd.DataFrame(
        {
            "condition": "sampled", "behaviour": "as_released", "n_layer": [2, 4, 2, 2],
            "n_disambiguation": [0, 10, 100, 1000], "published": [0.3, 0.5, 0.7, 0.9],
        }
    )  # fmt: skip
    names = ["subnetwork", "sampled_as_released"]
    figure = figures.depth_curves(runs(names, depths=(2, 4)), names, paper=paper)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == ["2 layers, 3 seeds", "4 layers, 3 seeds"]
    hollow = [
        line for axes in shown for line in axes.lines if line.get_markerfacecolor() == "none" and len(line.get_xdata())
    ]
    points = [list(zip(line.get_xdata().tolist(), line.get_ydata().tolist(), strict=True)) for line in hollow]
    assert points == [[(0, 0.3), (100, 0.7)], [(10, 0.5)]], "none beyond our counts, each at its depth"
    assert {line.get_markeredgecolor() for line in hollow} == {palette.GREEN}
    assert legend_of(figure) == [
        "subnetwork", "random subset (as released)", "the paper's value (hollow, same colour and marker)",
    ]  # fmt: skip


def test_our_means_stand_against_the_papers():
    points = pd.DataFrame({
        "condition": ["complement", "complement"], "behaviour": ["as_released", "as_described"],
        "published": [0.4, 0.4], "mean": [0.5, 0.6], "lowest": [0.4, np.nan], "highest": [0.6, np.nan],
    })  # fmt: skip
    (drawn,) = lines_of(figures.against_paper(points).axes[0]).values()
    assert (drawn.get_xdata().tolist(), drawn.get_ydata().tolist()) == ([0.4], [0.5]), "the published start alone"


def own_points(axes):
    """What is drawn of this run on a reference: one list of places a start, row or series."""
    return [
        list(zip(line.get_xdata(), line.get_ydata(), strict=True))
        for line in axes.lines
        if (line.get_marker(), line.get_markeredgewidth()) == ("D", 1.3) and len(line.get_xdata())
    ]


def test_bands_are_drawn_of_seeds_enough_and_stay_within_what_an_accuracy_can_be():
    three = runs(["subnetwork"])
    (lines,) = figures.transfer_curves(three, floor=0.25).axes[0].collections
    ends = three.groupby("n_disambiguation")["test_accuracy"].agg(["min", "max"])
    drawn = [(x, low, high) for (x, low), (_, high) in lines.get_segments()]
    assert drawn == list(ends.itertuples(name=None)), (
        "of three seeds a line from the lowest to the highest, and no band"
    )
    table = runs(["subnetwork"], seeds=range(10)).assign(test_accuracy=lambda rows: (rows["seed"] > 0).astype(float))
    (band,) = figures.transfer_curves(table, floor=0.25).axes[0].collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (min(heights), max(heights)) == (
        pytest.approx(0.9 - 2.2622 * 0.1, abs=1e-5),
        1.0,
    )  # t(9), standard error 0.1
    deep = runs(["subnetwork"], depths=(2, 6), seeds=range(5))
    panels = figures.depth_curves(deep, ["subnetwork"]).axes
    kinds = [type(axes.collections[0]).__name__ for axes in panels]
    assert kinds == ["LineCollection", "FillBetweenPolyCollection"], "5 seeds are enough from 6 layers on"


def test_curves_are_the_references_with_the_seeds_of_this_run_on_them():
    reference, own = runs(["subnetwork", "full_model"], seeds=range(10)), runs(["subnetwork"], seeds=[100, 101])
    figure = figures.transfer_curves(own, floor=0.25, reference=reference)
    (axes,) = figure.axes
    means = reference[reference["start"] == "subnetwork"].groupby("n_disambiguation")["test_accuracy"].mean()
    drawn = lines_of(axes)
    assert drawn["subnetwork"].get_ydata() == pytest.approx(means.to_numpy())
    assert "full model" not in drawn, "a start that this run has not is not drawn"
    assert sorted(own_points(axes)[0]) == sorted(zip(own["n_disambiguation"], own["test_accuracy"], strict=True))
    assert legend_of(figure)[1:] == ["lines: reference, 10 seeds", "this run (a diamond a seed, same colour)"]
    alone = figures.transfer_curves(runs(["inherited_only"]), floor=0.25, reference=reference).axes[0]
    assert len(own_points(alone)[0]) == 9, "a start that the reference has not"
    panels = figures.depth_curves(own, reference=reference)
    assert panels.axes[0].get_title() == "2 layers, 10 seeds"
    assert len(own_points(panels.axes[0])[0]) == 6


def test_rows_of_dots_have_every_seed_their_mean_and_an_interval_of_seeds_enough():
    seeds = [0.1 * (seed % 5) + 0.1 for seed in range(10)]
    table = pd.DataFrame({
        "start": ["subnetwork"] * 10 + ["inherited_only"] * 2, "seed": [*range(10), 0, 1],
        "accuracy": [*seeds, 0.5, 0.7],
    })  # fmt: skip
    axes = figures.dots(
        table, value="accuracy", by="start", order=["inherited_only", "full_model", "subnetwork"], axis="accuracy"
    ).axes[0]
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["only embeddings, norms, biases", "subnetwork"], (
        "in the order asked for, without what is not there"
    )
    points = [sorted(line.get_xdata()) for line in axes.lines if line.get_marker() == "o"]
    assert points == [[0.5, 0.7], sorted(seeds)]
    means = [float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() == "D"]
    assert means == pytest.approx([0.6, 0.3])
    (bar,) = axes.collections  # two seeds have none
    assert np.ptp(bar.get_segments()[0][:, 0]) == pytest.approx(
        2 * 2.2622 * np.std(seeds, ddof=1) / np.sqrt(10), abs=1e-4
    )
    other = figures.dots(
        table, value="accuracy", by="start", order=["subnetwork"], axis="", labels={"subnetwork": "it"}
    )
    assert other.axes[0].get_yticklabels()[0].get_text() == "it"
    own = pd.DataFrame({"start": ["subnetwork", "full_model"], "seed": 100, "accuracy": [0.2, 0.4]})
    beside = figures.dots(
        own, value="accuracy", by="start", order=["full_model", "subnetwork"], axis="", reference=table
    )
    assert own_points(beside.axes[0]) == [[(0.4, 0.3)], [(0.2, 1.3)]], "below its row, also where there is no reference"
    assert [sorted(line.get_xdata()) for line in beside.axes[0].lines if line.get_marker() == "o"] == [sorted(seeds)]
    assert legend_of(beside) == ["reference, 10 seeds", "its mean, 95 % interval", "this run"]


def test_bases_have_their_draws_and_a_mark_at_the_mean():
    table = pd.DataFrame(
        [("subnetwork", base, draw, 0.1 * base + 0.2 * draw) for base in (0, 1) for draw in (0, 1)],
        columns=["start", "seed", "draw", "test_accuracy"],
    )
    figure = figures.bases_and_draws(table, ["subnetwork"], "accuracy")
    (axes,) = figure.axes
    assert axes.get_title() == "subnetwork"
    assert [sorted(line.get_xdata()) for line in axes.lines] == [pytest.approx([0.0, 0.2]), pytest.approx([0.1, 0.3])]
    assert [float(bar.get_segments()[0][0, 0]) for bar in axes.collections] == pytest.approx([0.1, 0.2])
    (axes,) = figures.bases_and_draws(table[table["seed"] == 1], ["subnetwork"], "accuracy", reference=table).axes
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["this run, base 1", "reference, base 0", "reference, base 1"]
    assert [y for _, y in own_points(axes)[0]] == [0, 0]


def test_solutions_have_a_panel_for_every_start_that_ran():
    figure = figures.solutions(runs(["subnetwork", "full_model"]), ["a^2 + ab"], ["subnetwork", "inherited_only"])
    (axes,) = figure.axes
    assert axes.get_title() == "subnetwork"
    assert {name: set(line.get_ydata().round(6)) for name, line in lines_of(axes).items()} == {
        "a² + ab": {0.4}, "other": {0.6},
    }  # fmt: skip
    own = runs(["subnetwork"], seeds=[100]).assign(**{"agrees a^2 + ab": 0.5})
    figure = figures.solutions(own, ["a^2 + ab"], ["subnetwork"], reference=runs(["subnetwork"]))
    assert set(lines_of(figure.axes[0])["a² + ab"].get_ydata().round(6)) == {0.4}
    assert {y for _, y in own_points(figure.axes[0])[0]} == {0.5}
    assert legend_of(figure) == ["a² + ab", "other", "lines: reference, 3 seeds", "this run"]


def test_training_and_search_have_a_line_a_seed():
    steps = {"seed": [0, 0, 1, 1], "step": [1, 2, 1, 2], "accuracy": [0.1, 0.2, 0.3, 0.4]}
    history = pd.DataFrame(
        {**steps, "loss": 1.0, "density": 0.5, "soft_accuracy": 0.5, "soft_mean": 0.5, "temperature": 2.0}
    )
    left = figures.learning_curves(history, floor=0.25).axes[0]
    drawn = {name: line.get_ydata().tolist() for name, line in lines_of(left).items()}
    assert drawn == {"seed 0": [0.1, 0.2], "seed 1": [0.3, 0.4]}
    panels = figures.discovery_curves(history).axes
    assert [len(axes.lines) for axes in panels] == [4, 4, 2]
    many = pd.concat(history.assign(seed=history["seed"] + 2 * block) for block in range(5))
    alone = figures.learning_curves(many, floor=0.25).axes[0]
    assert (list(lines_of(alone)), len(alone.lines)) == (["10 seeds"], 11), "too many for a colour each; and the floor"
    beside = figures.learning_curves(history, floor=0.25, reference=many).axes[0]
    assert list(lines_of(beside)) == ["reference, 10 seeds", "this run"]
    dark = [line.get_ydata().tolist() for line in beside.lines if line.get_color() == palette.BLACK]
    assert dark == [[0.1, 0.2], [0.3, 0.4]]
    searches = figures.discovery_curves(history, reference=many)
    assert [len(axes.lines) for axes in searches.axes] == [24, 24, 10]
    assert legend_of(searches) == ["hard mask, reference, 10 seeds", "soft mask, reference, 10 seeds", "this run"]


def test_densities_are_bars():
    names = [f"transformer.h.{layer}.attn.c_attn.weight" for layer in (0, 1)]
    table = pd.DataFrame({"parameter": names, "seed": 0, "density": [0.2, 0.4]})
    axes = figures.density_by_matrix(table).axes[0]
    assert [bar.get_height() for bar in axes.patches if bar.get_height()] == pytest.approx([0.2, 0.4])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["attn.c_attn"]
    figure = figures.density_by_matrix(table.assign(density=[0.5, 0.1]), reference=table)
    assert [bar.get_height() for bar in figure.axes[0].patches if bar.get_height()] == pytest.approx([0.2, 0.4])
    places = [points[0] for points in own_points(figure.axes[0])]
    assert places == [pytest.approx((-0.2, 0.5)), pytest.approx((0.2, 0.1))], "each on its bar"
    assert legend_of(figure) == ["layer 0", "layer 1", "range of the reference, 1 seed", "this run"]
    layers = pd.DataFrame({"network": "pretrained", "seed": 0, "parameter": ["a", "b"], "density": [0.3, 0.1]})
    axes = figures.density_by_layer(layers).axes[0]
    assert [bar.get_height() for bar in axes.patches if bar.get_height()] == pytest.approx([0.3, 0.1])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2"]


def test_a_trade_off_has_a_series_for_every_penalty():
    table = pd.DataFrame({"penalty": [1e-6, 1e-5, 1e-5], "density": [0.5, 0.1, 0.2], "accuracy": [1.0, 0.9, 0.8]})
    axes = figures.tradeoff(table).axes[0]
    assert [len(points.get_offsets()) for points in axes.collections] == [1, 2]
    assert [points.get_label() for points in axes.collections] == ["1e-6", "1e-5"]
    beside = figures.tradeoff(table[table["penalty"] == 1e-5], reference=table.assign(seed=0)).axes[0]
    assert [len(points.get_offsets()) for points in beside.collections] == [1, 2]
    assert own_points(beside) == [[(0.1, 0.9), (0.2, 0.8)]]


def test_a_mask_is_darker_where_less_is_kept():
    mask = torch.zeros(4, 8, dtype=torch.bool)
    mask[:, :4] = True
    figure = figures.mask_images({"transformer.h.0.mlp.c_fc.weight": mask}, block=4)
    assert figure.axes[0].images[0].get_array().tolist() == [[1.0, 0.0]]
    assert figure.axes[0].get_title() == "layer 0: mlp.c_fc"


def test_a_mask_that_forms_is_drawn_at_five_steps_with_a_line_a_matrix():
    names = ["transformer.h.0.attn.c_attn.weight", "transformer.h.0.attn.c_proj.weight"]
    frames = pd.DataFrame(
        [(step, name, 0.01 * step, "0z/z0") for step in range(0, 90, 10) for name in names],
        columns=["step", "parameter", "density", "picture"],
    )
    figure = figures.mask_forming(frames)
    assert len(figure.axes) == 7  # five pictures, the lines, the colours
    assert [axes.get_title() for axes in figure.axes[:5]] == ["step 0", "step 20", "step 40", "step 60", "step 80"]
    assert figure.axes[0].images[0].get_array().tolist() == [[0, 1], [1, 0]]
    labels = [line.get_label() for line in figure.axes[-1].lines]
    assert labels == ["layer 0, attn.c_attn", "layer 0, attn.c_proj"]


# ---------------------------------------------------------------------------------------
# Vision


def test_curves_of_the_vision_rows_are_means_in_their_looks():
    history = pd.DataFrame(
        [(name, seed, step, 0.1 * step + 0.02 * seed, 0.5) for name in ("scratch", "subnetwork") for seed in (0, 1)
         for step in (1, 2)],
        columns=["condition", "seed", "step", "ordinary", "mean_pooled"],
    )  # fmt: skip
    paper = pd.DataFrame({"condition": "scratch", "metric": "ordinary", "step": [1, 2], "accuracy": [0.3, 0.4]})
    figure = figures.vision_curves(history, paper)
    drawn = lines_of(figure.axes[0])
    one = vision_starts.CONDITIONS["scratch"]
    line = drawn[one.label]
    assert line.get_ydata() == pytest.approx([0.11, 0.21])
    assert (line.get_color(), line.get_marker(), line.get_linestyle()) == (one.colour, one.marker, one.dash)
    (theirs,) = figure.axes[2].lines
    assert (theirs.get_ydata().tolist(), theirs.get_color()) == ([0.3, 0.4], one.colour)
    assert legend_of(figure) == [vision_starts.CONDITIONS[name].label for name in ("scratch", "subnetwork")]


def test_decisions_are_shares_that_fill_the_bar():
    table = pd.DataFrame({
        "condition": ["scratch", "scratch", "sampled"], "class": ["cat", "dog", "cat"], "shape": [1, 3, 0],
        "texture": [1, 1, 5], "neither": [2, 0, 5],
    })  # fmt: skip
    axes = figures.decisions(table, ["sampled", "lp_ft", "scratch"]).axes[0]
    widths = np.array([bar.get_width() for bar in axes.patches]).reshape(3, 2)  # kinds, rows
    assert widths.T.tolist() == [pytest.approx([0.0, 0.5, 0.5]), pytest.approx([0.5, 0.25, 0.25])]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["random subset of its size", "from scratch"]
    panels = figures.decisions_by_class(table, ["scratch"]).axes
    assert panels[0].get_title() == "from scratch"
    assert [text.get_text() for text in panels[0].get_yticklabels()] == ["cat", "dog"]


def test_answers_stand_below_their_pictures():
    table = pd.DataFrame({
        "picture": [0, 0], "shape": "cat", "texture": "dog", "condition": ["scratch", "subnetwork"],
        "answer": ["dog", "cat"], "follows": ["texture", "shape"],
    })  # fmt: skip
    pictures = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    (axes,) = figures.answers_grid(pictures, table).axes
    assert axes.get_title() == "cat,\ndog"
    assert [text.get_text() for text in axes.texts] == ["~ dog\n= cat", "from scratch\nsubnetwork, held"]


def test_filters_stand_in_order_of_their_share():
    masks = {0: {"conv": torch.tensor([[[[1, 1]]], [[[0, 0]]], [[[1, 0]]]], dtype=torch.bool)}}
    (line,) = figures.filter_shares(masks).axes[0].lines
    assert line.get_ydata().tolist() == [0.0, 0.5, 1.0]


def test_a_grid_shows_every_picture_under_the_name_of_its_column():
    pictures = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    figure = figures.picture_grid({"ordinary": pictures, "one": pictures[:1]}, ["cat", "dog"])
    assert [len(axes.images) for axes in figure.axes] == [1, 1, 1, 0]
    assert [axes.get_title() for axes in figure.axes[:2]] == ["cat", "dog"]
