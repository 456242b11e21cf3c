"""Tables as they are shown: what stands in a cell, by hand, and of the paper's own curves taken as runs of ours."""

import math

import pandas as pd
import pytest

from companion.arithmetic import starts
from companion.compare import published, shown

SUBNETWORK, RANDOM = starts.CONDITIONS["subnetwork"], starts.CONDITIONS["random_initialisation"]


@pytest.fixture(scope="module")
def theirs():
    """The paper's points, each as a run of seed 0."""
    runs = published.curves_as_runs()
    pairs = zip(runs["condition"], runs["behaviour"], strict=True)
    return runs.assign(start=[starts.of(*pair).name for pair in pairs], dtype="float32")


def runs(accuracies, **columns):
    """Runs from the subnetwork: seed -> number of samples -> accuracy."""
    condition, behaviour = SUBNETWORK.pair
    rows = [(seed, count, value) for seed, curve in accuracies.items() for count, value in curve.items()]
    found = pd.DataFrame(rows, columns=["seed", "n_disambiguation", "test_accuracy"])
    return found.assign(**({"start": SUBNETWORK.name, "condition": condition, "behaviour": behaviour} | columns))


def test_samples_needed_of_every_seed_or_how_many_get_there():
    good = {0: 0.2, 100: 0.9}
    table = shown.needed(runs({0: good, 1: {0: 0.2, 40: 0.95, 100: 0.9}, 2: good}, n_layer=3))
    assert table.columns.tolist() == ["start", "samples needed here", "paper, 3 layers, 1,000 numbers"]
    # The second seed is at 0.9 where 0.7 / 0.75 of the way from log(1) to log(41) are gone.
    needed = math.exp(math.log(41) * 0.7 / 0.75) - 1
    assert table.iloc[0].tolist() == ["subnetwork", f"100, {needed:.0f} and 100", "–"]
    some = shown.needed(runs({0: good, 1: {0: 0.2, 100: 0.8}}, n_layer=3))
    assert some["samples needed here"].tolist() == ["1 of 2 seeds get there"]
    many = runs(dict.fromkeys(range(10), good), n_layer=3)
    assert shown.needed(many)["samples needed here"].tolist() == ["100 (100 to 100)"]
    beside = shown.needed(runs({100: {0: 0.2, 100: 0.8}}, n_layer=3), many)
    assert beside["samples needed here"].tolist() == ["100 (100 to 100), this run 0 of 1 seed gets there"]


def test_the_papers_curves_need_as_many_samples_as_the_papers_curves(theirs):
    table = shown.needed(theirs[theirs["n_layer"] == 2]).set_index("start")
    ours, paper = table["samples needed here"], table["paper, 2 layers, 1,000 numbers"]
    assert ours["random initialisation"] == "0 of 1 seed gets there"
    assert paper["random initialisation"] == "–"
    assert (ours == paper).sum() == len(table) - 1


def test_masks_are_means_over_the_seeds_that_are_left():
    measures = ["base_accuracy", "subtask_accuracy", "density", "ablated_base_accuracy", "random_ablated_base_accuracy"]
    found = pd.DataFrame({
        "n_layer": [2, 2, 2, 4], "seed": [0, 1, 2, 0], "base_steps": [400, math.nan, 600, 500],
        **{name: [0.25, math.nan, 0.75, 0.5] for name in measures},
    })  # fmt: skip
    first, second = shown.masks(found).to_dict("records")
    assert (first["base steps"], first["weights kept"]) == ("400 and 600", "0.250 and 0.750")
    assert (first["seeds"], first["given up"]) == ("2", "1")
    assert (second["layers"], second["base without them"], second["given up"]) == (4, "0.50", "0")
    own = found[found["seed"] == 0].assign(seed=100, base_steps=700)
    first, second = shown.masks(own, found).to_dict("records")
    assert (first["base steps"], first["weights kept"]) == (
        "400 and 600, this run 700",
        "0.250 and 0.750, this run 0.250",
    )
    assert (first["seeds"], first["given up"]) == ("2, this run 1", "1, this run 0")
    assert second["base steps"] == "500, this run 700"


def test_what_ran_names_the_few_and_counts_the_rest(theirs):
    masks = pd.DataFrame({"n_layer": [2, 2], "dtype": "float32", "seed": [0, 1], "base_steps": [400, math.nan]})
    every = set(theirs["n_disambiguation"])
    some = theirs[(theirs["n_layer"] == 2) & (theirs["n_disambiguation"] > 10)]
    table = shown.what_ran(some, masks)
    assert table["layers"].tolist() == published.depths()
    first = table.iloc[0].to_dict()
    left_out = sorted(every - set(some["n_disambiguation"]))
    assert first["numbers of samples"] == f"{len(every) - 2} of 17: without {left_out[0]}, {left_out[1]}, 10,000"
    assert (first["bases that got there"], first["starts"], first["seeds"]) == ("1 of 2", "5", "0")
    assert first["transfers"] == str(len(some))
    assert table["numbers of samples"].tolist()[1:] == ["not run"] * 5
    assert table["seeds"].tolist()[1:] == ["–"] * 5
    few = shown.what_ran(theirs[(theirs["n_layer"] == 4) & theirs["n_disambiguation"].isin([100, 6400])], masks)
    assert few["numbers of samples"].tolist()[:2] == ["not run", "2 of 17: 100, 6,400"]


def test_a_run_at_the_papers_mean_lies_inside_its_five_runs():
    five = published.five_seed_curve().dropna(subset="published_std")
    ours = five.rename(columns={"published": "test_accuracy"}).assign(seed=3)
    table = shown.five_runs(ours)
    assert (table["inside"] == "1 of 1").all()
    assert len(table) == len(five)
    assert [mean.split(" (")[0] for mean in table["the paper's five runs, mean (sd)"]] == table["ours"].tolist()
    assert shown.five_runs(ours[ours["seed"] > 3]).empty


def test_the_papers_curves_have_the_papers_mean_over_depths_and_its_leads(theirs):
    means = shown.over_depths(theirs)
    assert means["the paper"].tolist() == means["ours"].tolist()
    assert set(means["inside"]) == {"–"}  # a single seed a depth has no spread
    assert set(means["runs"]) == {6}
    leads = shown.depth_leads(theirs)
    assert leads["ours"].tolist() == leads["the paper"].tolist()
    assert set(leads["ours minus the paper's"]) == {"+0.000"}
    assert set(leads["inside"]) == {"–"}
    assert leads["lead over"].unique().tolist() == [RANDOM.label, starts.CONDITIONS["sampled_as_released"].label]


def test_two_types_are_compared_at_the_samples_that_both_have():
    wide = runs({0: {0: 0.1, 100: 0.5}, 1: {0: 0.1, 100: 0.7}}, n_layer=2, dtype="float32")
    narrow = runs({2: {100: 0.75}, 3: {100: 0.75}, 4: {100: 0.75}}, n_layer=2, dtype="bfloat16")
    (row,) = shown.two_types(pd.concat([wide, narrow, wide.assign(n_layer=4)])).to_dict("records")
    assert (row["layers"], row["start"], row["numbers of samples"]) == (2, "subnetwork", 1)
    assert (row["float32"], row["bfloat16"]) == ("0.500 and 0.700", "0.750, 0.750 and 0.750")
    assert row["bfloat16 minus float32"] == "+0.150", "from two and three seeds no interval"
    wide, narrow = (
        runs({seed: {100: value + 0.1 * (seed % 2)} for seed in range(10)}, n_layer=2, dtype=dtype)
        for value, dtype in ((0.6, "float32"), (0.7, "bfloat16"))
    )
    (row,) = shown.two_types(pd.concat([wide, narrow])).to_dict("records")
    # Welch: each has a standard deviation of 0.05 * sqrt(10 / 9), and t(0.975, 18) = 2.100922.
    half = 2.100922 * math.sqrt(2 / 10 * 0.05**2 * 10 / 9)
    assert row["bfloat16 minus float32"] == f"+0.100 (+{0.1 - half:.3f} to +{0.1 + half:.3f})"


def test_points_are_counted_depth_by_depth(theirs):
    # At 2 layers three seeds around each published point; at 4 three that lie above it.
    near = [theirs[theirs["n_layer"] == 2].assign(seed=seed) for seed in range(3)]
    far = [theirs[theirs["n_layer"] == 4].assign(seed=seed) for seed in range(3)]
    far = [part.assign(test_accuracy=(part["test_accuracy"] + 0.001).clip(upper=1)) for part in far]
    first, second = shown.points(pd.concat([*near, *far])).to_dict("records")
    assert (first["layers"], first["seeds"], first["points"], first["between our seeds"]) == (2, "3", 80, 80)
    assert (first["expected"], first["distance, median"]) == ("40", "0.000")
    assert second["between our seeds"] == (theirs.query("n_layer == 4")["test_accuracy"] == 1).sum()
    assert second["distance, largest"] == "0.001"
