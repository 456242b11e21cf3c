import math

import numpy as np
import pandas as pd
import pytest

from companion.arithmetic.starts import CONDITIONS
from companion.compare.published import (
    beside_five_runs,
    by_curve,
    crossed,
    curves,
    curves_as_runs,
    depths,
    five_seed_curve,
    lead_at,
    leads_by_depth,
    not_run,
    one_more_run,
    over_depths,
    points,
    read,
    vision_curves,
)
from companion.lab import tables

SUBNETWORK, FULL, RANDOM = ("subnetwork", ""), ("full_model", ""), ("random_initialisation", "")
RELEASED, DESCRIBED = ("sampled", "as_released"), ("sampled", "as_described")
T9 = 2.262157162740992  # t(0.975, 9)


def runs(*starts, n_layer=2):
    """Rows from ((condition, behaviour), {count: accuracies of seeds 0, 1, ...}); None is a run that is missing."""
    rows = [
        (*key, n_layer, n, seed, value)
        for key, curve in starts
        for n, values in curve.items()
        for seed, value in enumerate(values)
        if value is not None
    ]
    columns = ["condition", "behaviour", "n_layer", "n_disambiguation", "seed", "test_accuracy"]
    return pd.DataFrame(rows, columns=columns)


def reference(value, n=100, key=SUBNETWORK):
    row = {"condition": key[0], "behaviour": key[1], "n_layer": 2, "n_disambiguation": n, "published": value}
    return pd.DataFrame([row])


def as_published(seeds=3):
    table = curves().rename(columns={"published": "test_accuracy"})
    return pd.concat([table.assign(seed=seed) for seed in range(seeds)])


def test_all_published_points_are_there_in_our_names():
    table = curves()
    assert list(table.columns) == ["condition", "behaviour", "n_layer", "n_disambiguation", "published"]
    assert len(table) == 480
    assert sorted(table["n_layer"].unique()) == [2, 4, 6, 8, 10, 12]
    assert (table.groupby(["n_layer", "condition", "behaviour"]).size() == 16).all()
    assert set(zip(table["condition"], table["behaviour"], strict=True)) == {
        ("subnetwork", ""),
        ("full_model", ""),
        ("sampled", "as_released"),
        ("complement", "as_released"),
        ("random_initialisation", ""),
    }
    assert table["published"].between(0, 1).all()


def test_every_published_curve_is_a_start_of_ours_and_the_other_way_round():
    theirs = {one.published for one in CONDITIONS.values() if one.published}
    assert theirs == set(read("appendix_arithmetic_by_depth")["condition"])
    assert theirs > set(read("fig2_arithmetic")["condition"])
    assert depths() == [2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize(
    ("condition", "n_layer", "n", "value"),
    [
        ("subnetwork", 2, 250, 0.624),
        ("full_model", 2, 0, 0.447),
        ("sampled", 8, 1000, 0.709),
        ("complement", 4, 1000, 0.691),
        ("random_initialisation", 12, 6400, 0.651),
    ],
)
def test_published_points_one_by_one(condition, n_layer, n, value):
    table = curves().set_index(["condition", "n_layer", "n_disambiguation"])
    assert table.loc[(condition, n_layer, n), "published"] == value


def test_the_twelve_layer_curve_has_its_standard_deviation():
    table = five_seed_curve()
    assert len(table) == 4 * 17
    assert set(table["n_layer"]) == {12}
    assert set(table["condition"]) == {"subnetwork", "full_model", "sampled", "random_initialisation"}
    indexed = table.set_index(["condition", "behaviour", "n_disambiguation"])
    assert indexed.loc[("sampled", "as_released", 1000), ["published", "published_std"]].tolist() == [0.6668, 0.0102]
    assert (table["n_disambiguation"][table["published_std"].isna()] == 0).all()


def test_prediction_interval_by_hand():
    (row,) = points(runs((SUBNETWORK, {100: [0.7, 0.9] * 5})), reference(0.9)).itertuples()
    assert (row.mean, row.seeds) == (pytest.approx(0.8), 10)
    # Standard deviation 0.1 * sqrt(10 / 9): 0.8 ± 2.262157 * 0.105409 * sqrt(1.1), 0.2501.
    assert row.low == pytest.approx(0.8 - T9 * 0.1 * math.sqrt(10 / 9 * 1.1))
    assert row.high == 1.0  # 1.0501, clipped
    assert row.gap == pytest.approx(-0.1)
    assert row.inside
    assert (row.lowest, row.highest, row.between, row.expected) == (0.7, 0.9, True, pytest.approx(9 / 11))


@pytest.mark.parametrize(("value", "inside"), [(0.5499, False), (0.5501, True), (0.6499, True), (0.6502, False)])
def test_inside_ends_where_the_interval_does(value, inside):
    # Standard deviation 0.02 * sqrt(10 / 9): 0.6 ± 2.262157 * 0.0210819 * 1.0488088 = 0.549982 to 0.650018.
    found = points(runs((SUBNETWORK, {100: [0.58, 0.62] * 5})), reference(value))
    assert found["inside"].tolist() == [inside]


@pytest.mark.parametrize(("layers", "seeds", "judged"), [(2, 9, False), (2, 10, True), (6, 4, False), (6, 5, True)])
def test_a_point_is_judged_with_enough_seeds_alone(layers, seeds, judged):
    table = runs((SUBNETWORK, {100: [0.5, 0.6, *[0.55] * (seeds - 2)]}), n_layer=layers)
    (row,) = points(table, reference(0.55).assign(n_layer=layers)).to_dict("records")
    assert [row[name] == row[name] for name in ("low", "high")] == [judged] * 2
    assert pd.isna(row["inside"]) != judged
    assert (row["between"], row["expected"]) == (True, pytest.approx((seeds - 1) / (seeds + 1)))


def test_runs_of_one_kind_lie_between_the_seeds_as_often_as_expected():
    # 2,000 points, each with four runs of a distribution of its own: three are ours, the fourth the paper's.
    drawn = np.random.default_rng(0).beta(2, 5, (2000, 4))
    ours = runs((SUBNETWORK, {count: row[:3].tolist() for count, row in enumerate(drawn)}))
    found = points(ours, pd.concat([reference(row[3], count) for count, row in enumerate(drawn)]))
    assert (found["expected"] == 0.5).all()
    assert found["between"].mean() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(2000))


def test_the_interval_of_one_more_run_is_the_same_for_numbers_and_for_columns():
    # 0.6 ± 4.30265 * 0.02 * 1.154701; 0.99 ± 4.30265 * 0.02 * 1.154701, clipped; one run has none.
    assert one_more_run(0.6, 0.02, 3) == pytest.approx((0.500634, 0.699366), abs=1e-6)
    low, high = one_more_run(pd.Series([0.6, 0.99, 0.5]), pd.Series([0.02, 0.02, 0.02]), pd.Series([3, 3, 1]))
    assert low.tolist() == pytest.approx([0.500634, 0.890634, math.nan], abs=1e-6, nan_ok=True)
    assert high.tolist() == pytest.approx([0.699366, 1, math.nan], abs=1e-6, nan_ok=True)


@pytest.mark.parametrize(("value", "inside"), [(0.997, True), (0.996, False)])
def test_seeds_that_agree_leave_the_sampling_error_of_the_test_pairs(value, inside):
    # m = 1002 / 1004, its standard error 0.00140996: 1 - 2.262157 * 0.00140996 * 1.0488088 = 0.996655.
    found = points(runs((SUBNETWORK, {100: [1.0] * 10})), reference(value))
    assert found["low"].tolist() == pytest.approx([0.996655], abs=1e-6)
    assert found["inside"].tolist() == [inside]


def test_fewer_test_pairs_widen_the_interval_and_none_are_an_error():
    table = runs((SUBNETWORK, {100: [0.0] * 10}))
    error = math.sqrt(2 / 104 * 102 / 104 / 100)
    found = points(table, reference(0.05), test_pairs=100)
    assert found["high"].tolist() == pytest.approx([T9 * error * math.sqrt(1.1)])
    with pytest.raises(ValueError, match="test_pairs = 0: expected 1 or more"):
        points(table, test_pairs=0)


def test_one_seed_has_a_gap_but_no_interval():
    (row,) = points(runs((SUBNETWORK, {100: [0.5]})), reference(0.4)).itertuples()
    assert row.gap == pytest.approx(0.1)
    assert row.inside is row.between is pd.NA
    assert all(math.isnan(value) for value in (row.expected, row.low, row.high))


def test_only_points_that_are_in_both_count():
    table = runs((SUBNETWORK, {50: [0.5], 250: [0.6]}), (DESCRIBED, {250: [0.1]}), (RELEASED, {250: [0.2]}))
    found = points(pd.concat([table, runs((SUBNETWORK, {250: [0.7]}), n_layer=3)]))
    assert found[["n_layer", "condition", "behaviour", "n_disambiguation", "published"]].values.tolist() == [
        [2, "subnetwork", "", 250, 0.624],
        [2, "sampled", "as_released", 250, 0.425],
    ]
    assert len(points(table.iloc[:0])) == 0


def test_a_table_that_is_the_published_one_has_no_gap():
    found = points(as_published(seeds=10))
    assert len(found) == 480
    assert found["gap"].abs().max() < 1e-12
    assert found["inside"].all()
    assert found["between"].all()
    curve = by_curve(found)
    assert len(curve) == 30
    assert (curve["between"] == 1).all()
    for level in (50, 90, 99):
        pd.testing.assert_series_equal(curve[f"published_{level}"], curve[f"ours_{level}"], check_names=False)


def test_twelve_layers_against_the_mean_of_five_runs():
    table = runs((SUBNETWORK, {10000: [0.9996, 1.0]}), n_layer=12)
    assert points(table, five_seed_curve())["gap"].tolist() == pytest.approx([0])


def test_a_run_of_ours_against_the_spread_of_the_papers_five():
    # m = 668.8 / 1004, its standard error 0.014913, more than the published 0.0102:
    # 0.6668 ± 2.776445 * 0.014913 * 1.095445 = 0.621443 to 0.712157.
    table = runs((RELEASED, {0: [0.3], 1000: [0.6214, 0.6215, 0.7121, 0.7122]}), n_layer=12)
    found = beside_five_runs(table)
    assert found["inside"].tolist() == [False, True, True, False]
    assert found["seed"].tolist() == [0, 1, 2, 3]
    # 0.8848 ± 2.776445 * 0.0211 * 1.095445 = 0.8206 to 0.9490: the published spread is the larger one.
    (row,) = beside_five_runs(runs((SUBNETWORK, {400: [0.9]}), n_layer=12)).itertuples()
    assert (row.low, row.high) == (pytest.approx(0.820625, abs=1e-6), pytest.approx(0.948975, abs=1e-6))
    assert beside_five_runs(runs((SUBNETWORK, {400: [0.9]}), n_layer=10)).empty


def test_mean_over_the_depths_by_hand():
    # Depths 2 to 10 have one seed at 0.5, 12 has 0.5, 0.55, 0.6, 0.65 and 0.7: mean (5 * 0.5 + 0.6) / 6,
    # s = sqrt(0.025 / 4) with df = 4, sum(1/n) = 5.2; t(0.975, 4) * s * sqrt(1/6 + 5.2/36) = 0.122430, and without the
    # 1/6 0.083422.
    one = [runs((SUBNETWORK, {100: [0.5]}), n_layer=depth) for depth in (2, 4, 6, 8, 10)]
    table = pd.concat([*one, runs((SUBNETWORK, {100: [0.5, 0.55, 0.6, 0.65, 0.7], 400: [0.9]}), n_layer=12)])
    (row,) = over_depths(table).itertuples()
    assert (row.condition, row.behaviour, row.n_disambiguation, row.runs) == ("subnetwork", "", 100, 10)
    assert row.published == pytest.approx(0.6165, abs=5e-4)  # Figure 2 has the mean of the appendix's curves
    assert row.mean == pytest.approx(3.1 / 6)
    assert (row.mean_low, row.mean_high) == (
        pytest.approx(3.1 / 6 - 0.083422, abs=1e-6),
        pytest.approx(3.1 / 6 + 0.083422, abs=1e-6),
    )
    assert (row.low, row.high) == (
        pytest.approx(3.1 / 6 - 0.122430, abs=1e-6),
        pytest.approx(3.1 / 6 + 0.122430, abs=1e-6),
    )
    assert row.inside
    assert (row.spread, row.error) == (
        pytest.approx(math.sqrt(0.025 / 4 / 6)), pytest.approx(math.sqrt(0.025 / 4 * 5.2 / 36)),
    )  # fmt: skip
    (row,) = over_depths(table[table["seed"] < 4]).itertuples()
    assert (row.runs, row.inside) == (9, pd.NA)
    assert all(math.isnan(value) for value in (row.mean_low, row.mean_high, row.low, row.high))


def test_mean_over_the_depths_of_single_runs_has_no_interval():
    found = over_depths(as_published(seeds=1))
    assert len(found) == 5 * 16
    assert (found["mean"] - found["published"]).abs().max() < 1e-12
    assert found[["mean_low", "mean_high", "low", "high"]].isna().all(axis=None)
    assert found["inside"].isna().all()


def test_mean_over_the_depths_with_seeds_that_agree_leaves_the_sampling_error():
    found = over_depths(as_published(seeds=2)).set_index(["condition", "n_disambiguation"])
    # df = 6; 1/6 + (6/2) / 36 = 1/4; m = (1000 * 0.6165 + 2) / 1004.
    m = (1000 * found.loc[("subnetwork", 100), "mean"] + 2) / 1004
    reach = 2.4469118511449692 * math.sqrt(m * (1 - m) / 1000 / 4)
    row = found.loc[("subnetwork", 100)]
    assert row["high"] - row["mean"] == pytest.approx(reach)
    assert (row["mean_low"], row["mean_high"]) == (pytest.approx(row["mean"]), pytest.approx(row["mean"]))
    assert found["inside"].all()


def test_a_missing_behaviour_is_none_and_a_run_without_accuracy_does_not_count():
    table = runs((SUBNETWORK, {100: [0.5, 0.6, math.nan]})).assign(behaviour=math.nan)
    found = points(table)
    assert found[["behaviour", "seeds"]].values.tolist() == [["", 2]]


def test_a_point_at_which_a_run_diverged_is_not_averaged_over_the_others():
    table = runs((SUBNETWORK, {100: [0.5, 0.6, math.nan], 250: [0.5, 0.6, 0.7]}))
    assert points(table)["n_disambiguation"].tolist() == [100, 250]
    table["diverged"] = table["test_accuracy"].isna().map({True: 120.0, False: math.nan})
    assert points(table)["n_disambiguation"].tolist() == [250]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns="seed"), "table has no column 'seed': expected n_layer, condition"),
        (lambda table: table.assign(test_accuracy=62.0), "test_accuracy = 62: expected a share from 0 to 1"),
        (lambda table: pd.concat([table, table]), r"a run twice: .*'seed': 0.*, expected one row a run"),
    ],
)
def test_a_table_that_cannot_be_meant_is_an_error(change, message):
    table = change(runs((SUBNETWORK, {100: [0.5]}), (RANDOM, {100: [0.5]})))
    for function in (points, not_run, lambda table: lead_at(table, RANDOM, 2)):
        with pytest.raises(ValueError, match=message):
            function(table)


def test_by_curve_by_hand():
    there = pd.concat([reference(0.2, 0), reference(0.6, 9), reference(1.0, 99)])
    table = runs((SUBNETWORK, {99: [0.8, 0.8], 0: [0.2, 0.2], 9: [0.7, 0.7]}))
    (row,) = by_curve(points(table, there)).itertuples()
    assert (row.n_layer, row.condition, row.behaviour, row.points) == (2, "subnetwork", "", 3)
    assert (row.largest_gap, row.largest_gap_at) == (pytest.approx(-0.2), 99)
    assert row.mean_absolute_gap == pytest.approx(0.1)
    # Straight over log10(1 + n), which is 0, 1, 2: 0.5 at 3/4 of the first piece, and at 3/5.
    assert (row.published_50, row.ours_50) == pytest.approx((10**0.75 - 1, 10**0.6 - 1))
    assert row.published_90 == pytest.approx(10**1.75 - 1)
    assert row.published_99 == pytest.approx(10**1.975 - 1)
    assert math.isnan(row.ours_90)
    assert math.isnan(row.ours_99)


def test_by_curve_takes_the_share_over_points_with_two_seeds():
    there = pd.concat([reference(0.6, n) for n in (10, 16, 25)])
    # With n = 10 the published value is between the seeds, with 16 far from them, with 25 nobody can say.
    table = runs((SUBNETWORK, {10: [0.58, 0.6, 0.62], 16: [0.1, 0.1, 0.1], 25: [0.1]}))
    assert by_curve(points(table, there))["between"].tolist() == [0.5]
    alone = by_curve(points(table[table["n_disambiguation"] == 25], there))
    assert alone["points"].tolist() == [1]
    assert alone["between"].isna().all()
    assert list(by_curve(points(table.iloc[:0])).columns) == list(alone.columns)


def test_published_points_against_every_start_by_hand():
    # Ours: the subnetwork from 0.6 to 0.8, and random around 0.4.
    there = pd.concat([reference(0.65), reference(0.45, key=RANDOM)])

    def shares(random):
        ours = runs((SUBNETWORK, {100: [0.6, 0.7, 0.8]}), (RANDOM, {100: random}))
        found = crossed(points(ours, there)).set_index(["start", "against"])
        # Ours minus theirs, with our means 0.7 and 0.4: 0.7 - 0.65, 0.4 - 0.65, 0.7 - 0.45, 0.4 - 0.45.
        assert found["gap"].tolist() == pytest.approx([0.05, -0.25, 0.25, -0.05])
        return found["between"].to_dict()

    told_apart = {
        ("subnetwork", "subnetwork"): True,
        ("subnetwork", "random initialisation"): False,
        ("random initialisation", "subnetwork"): False,
        ("random initialisation", "random initialisation"): True,
    }
    assert shares([0.3, 0.4, 0.5]) == told_apart
    # Wide seeds: those of random initialisation, too, lie on both sides of the subnetwork's point.
    assert shares([0.1, 0.4, 0.7]) == told_apart | {("subnetwork", "random initialisation"): True}


def test_crossed_stays_at_one_depth_and_one_number_of_samples():
    keys = [SUBNETWORK, FULL, RELEASED, DESCRIBED]
    there = pd.concat([reference(0.5, n, key) for n in (10, 25) for key in keys])
    few = runs(*((key, {10: [0.5, 0.6], 25: [0.5]}) for key in keys))  # with 25 samples there is one seed
    wrong = crossed(points(few, there))
    assert set(wrong["n_disambiguation"]) == {10}
    names = {"subnetwork", "full model", "sampled as released", "sampled as described"}
    assert set(zip(wrong["start"], wrong["against"], strict=True)) == {(one, other) for one in names for other in names}
    assert len(wrong) == 16
    deeper = runs((FULL, {10: [0.5, 0.6]}), n_layer=4)
    two_depths = pd.concat([few[few["condition"] == "subnetwork"], deeper])
    both = pd.concat([reference(0.5, 10), reference(0.5, 10, FULL).assign(n_layer=4)])
    assert (crossed(points(two_depths, both))["start"] == ["subnetwork", "full model"]).all()
    assert crossed(points(few.iloc[:0])).empty


def test_lead_is_paired_by_seed():
    # Differences 0.1, 0.2, 0.3, although the accuracies themselves are far apart.
    table = runs((SUBNETWORK, {100: [0.2, 0.6, 1.0]}), (RANDOM, {100: [0.1, 0.4, 0.7]}))
    each = lead_at(table.sample(frac=1, random_state=0), RANDOM, 2)
    assert each[100].to_dict() == pytest.approx({0: 0.1, 1: 0.2, 2: 0.3})


def test_lead_averages_over_the_counts_from_64_to_2500_that_both_have():
    ours = {0: [1.0], 40: [1.0], 64: [0.5], 250: [0.9], 400: [1.0], 2500: [1.0], 4000: [1.0]}
    theirs = {0: [0.0], 40: [0.0], 64: [0.4], 250: [0.4], 1000: [0.0], 2500: [0.4], 4000: [0.0]}
    each = lead_at(runs((SUBNETWORK, ours), (RANDOM, theirs)), RANDOM, 2)
    assert each.loc[0].to_dict() == pytest.approx({64: 0.1, 250: 0.5, 2500: 0.6})


def test_lead_averages_over_the_same_counts_for_all_seeds():
    # 800 is there for one seed of four, so it is left out; then seed 3 lacks 250, and is left out.
    ours = {100: [0.5, 0.5, 0.5, 0.9], 250: [0.7, 0.7, 0.7, None], 800: [1.0]}
    theirs = {100: [0.4, 0.4, 0.4, 0.1], 250: [0.4, 0.4, 0.4, 0.1], 800: [0.0]}
    each = lead_at(runs((SUBNETWORK, ours), (RANDOM, theirs)), RANDOM, 2)
    assert (each.index.tolist(), each.columns.tolist()) == ([0, 1, 2], [100, 250])
    assert each[100].tolist() == pytest.approx([0.1] * 3)
    assert each[250].tolist() == pytest.approx([0.3] * 3)


@pytest.mark.parametrize(
    "table",
    [
        runs((SUBNETWORK, {100: [0.5]})),
        runs((RANDOM, {100: [0.5]})),
        runs((SUBNETWORK, {100: [0.5]}), (RANDOM, {250: [0.5]})),
        runs((SUBNETWORK, {100: [0.5, None]}), (RANDOM, {100: [None, 0.5]})),
        runs((SUBNETWORK, {10: [0.5]}), (RANDOM, {10: [0.5]})),
        runs((SUBNETWORK, {100: [0.5]}), (RANDOM, {100: [0.5]}), n_layer=4),
        runs(),
    ],
)
def test_lead_without_a_pair_of_runs(table):
    assert lead_at(table, RANDOM, 2).empty


def test_leads_by_depth_by_hand():
    # Published with 100 samples: 2 layers 0.442 - 0.344, 12 layers 0.617 - 0.399. 400 is run with 2 layers alone.
    two = runs((SUBNETWORK, {100: [0.5, 0.6, 0.7], 400: [1.0] * 3}), (RANDOM, {100: [0.3] * 3, 400: [0.0] * 3}))
    twelve = runs((SUBNETWORK, {100: [0.9]}), (RANDOM, {100: [0.4]}), n_layer=12)
    found = leads_by_depth(pd.concat([twelve, two]), RANDOM)
    assert found[["n_layer", "seeds"]].values.tolist() == [[2, 3], [12, 1]]
    assert found["mean"].tolist() == pytest.approx([0.3, 0.5])
    assert [list(values) for values in found["values"]] == [pytest.approx([0.2, 0.3, 0.4]), pytest.approx([0.5])]
    assert found["published"].tolist() == pytest.approx([0.098, 0.218])
    assert found["gap"].tolist() == pytest.approx([0.202, 0.282])
    assert found["inside"].isna().all(), "seeds are too few"
    # Ten seeds: 0.3 ± T9 * 0.1 * sqrt(10 / 9 * 1.1), which is 0.25, and next to nothing around 0.8.
    for low, high, inside in ((0.4, 0.2, True), (0.101, 0.1, False)):
        ten = runs((SUBNETWORK, {100: [0.6 if low == 0.4 else 0.9] * 10}), (RANDOM, {100: [low, high] * 5}))
        assert leads_by_depth(ten, RANDOM)["inside"].tolist() == [inside]


def test_lead_over_chosen_counts():
    table = runs((SUBNETWORK, {10: [0.5], 100: [0.6], 4000: [0.9]}), (RANDOM, {10: [0.1], 100: [0.1], 4000: [0.1]}))
    assert lead_at(table, RANDOM, 2).columns.tolist() == [100]
    assert lead_at(table, RANDOM, 2, counts=[10, 4000]).loc[0].to_dict() == pytest.approx({10: 0.4, 4000: 0.8})


def test_the_leads_of_the_reference_by_another_formula():
    """Sum over both curves, seed by seed, of the counts that all of its seeds have; here and in the paper."""
    ours = tables.read("04_depths", "paper")
    shared = None
    for _, part in ours.groupby("n_layer"):
        counts = {int(n) for n in part["n_disambiguation"] if 64 <= n <= 2500}
        shared = counts if shared is None else shared & counts
    for over in ("random_initialisation", "full_model", "sampled_as_released"):
        by_depth = leads_by_depth(ours, CONDITIONS[over].pair).set_index("n_layer")
        for depth, part in ours.groupby("n_layer"):
            value = part.set_index(["start", "seed", "n_disambiguation"])["test_accuracy"].to_dict()
            seeds = [
                seed for seed in sorted(part["seed"].unique())
                if all((start, seed, n) in value for start in ("subnetwork", over) for n in shared)
            ]  # fmt: skip
            gaps = [
                sum(value["subnetwork", seed, n] - value[over, seed, n] for n in shared) / len(shared) for seed in seeds
            ]
            row = by_depth.loc[depth]
            assert (row["seeds"], row["mean"]) == (len(gaps), pytest.approx(sum(gaps) / len(gaps)))
            own = {int(n) for n in part["n_disambiguation"] if 64 <= n <= 2500}
            each = lead_at(ours, CONDITIONS[over].pair, int(depth))
            assert set(each.columns) <= own
            at = each.stack().to_dict()
            assert at == pytest.approx({
                (seed, n): value["subnetwork", seed, n] - value[over, seed, n] for seed, n in at
            })  # fmt: skip
            theirs = lead_at(curves_as_runs(), CONDITIONS[over].pair, int(depth), counts=shared)
            assert row["published"] == pytest.approx(theirs.to_numpy().mean())


def test_leads_by_depth_without_a_lead():
    assert leads_by_depth(runs((SUBNETWORK, {100: [0.5]})), RANDOM).empty
    assert leads_by_depth(runs(), RANDOM).empty


def test_a_number_of_samples_is_run_where_all_five_starts_have_it():
    table = as_published(seeds=1)
    assert not_run(table) == "none"
    one = (table["n_layer"] == 4) & (table["n_disambiguation"] == 100) & (table["condition"] == "full_model")
    assert not_run(table[~one]) == "1 of 16 numbers of samples with 4 layers"
    assert not_run(table[~one & (table["n_layer"] != 2)]) == "1 of 16 numbers of samples with 4 layers; 2 layers"
    assert not_run(table[:0]) == "2, 4, 6, 8, 10, 12 layers"


def test_the_papers_vision_curves():
    for model, best in (("resnet18", (0.846, 0.589, 0.774, 0.295)), ("vit_base", (0.865, 0.680, 0.651, 0.274))):
        peak = vision_curves(model).groupby(["condition", "metric"])["accuracy"].max()
        keys = [(start, kind) for start in ("subnetwork", "scratch") for kind in ("ordinary", "mean_pooled")]
        assert [float(peak[key]) for key in keys] == pytest.approx(best, abs=6e-4)
    with pytest.raises(ValueError, match="model = 'alexnet'"):
        vision_curves("alexnet")
