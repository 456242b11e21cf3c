"""Intervals, verdicts and comparisons between starts, against numbers worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from companion.compare import statistics as analysis
from companion.compare.statistics import (
    bounds,
    enough,
    interval,
    judge,
    judge_all,
    lead,
    prediction,
    samples_needed,
    student,
    summary,
    wilson,
)

# ---------------------------------------------------------------------------------------
# Intervals


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # Newcombe (1998), Statistics in Medicine 17, table I, method 3, to 4 digits
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_published_values(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_wilson_against_its_formula():
    x, n, z = 37, 120, 2.5758293035489004
    p = x / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    assert wilson(x, n, level=0.99) == pytest.approx((middle - half, middle + half), abs=1e-9)


@pytest.mark.parametrize(("successes", "trials"), [(-1, 5), (6, 5), (0, 0)])
def test_wilson_of_impossible_counts_is_an_error(successes, trials):
    with pytest.raises(ValueError, match=f"successes = {successes}, trials = {trials}"):
        wilson(successes, trials)


def test_interval_by_hand():
    # Mean 3, standard deviation sqrt(2.5), t(4) = 2.776.
    found = interval([1, 2, 3, 4, 5])
    half = 2.776445 * math.sqrt(2.5) / math.sqrt(5)
    assert found == pytest.approx((3.0, 3.0 - half, 3.0 + half, 5), abs=1e-5)


def test_interval_of_one_value_has_no_width_and_of_none_is_an_error():
    found = interval([0.25])
    assert found.mean == 0.25
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    with pytest.raises(ValueError, match="values is empty"):
        interval([])


def test_interval_covers_the_truth_95_times_in_100():
    rng, hits = np.random.default_rng(20230505), 0
    for _ in range(1000):
        found = interval(rng.normal(2, 1, 4).tolist())
        hits += found.low <= 2 <= found.high
    assert 925 <= hits <= 975


def test_an_interval_cut_at_the_bounds_covers_as_often():
    rng, hits, cut = np.random.default_rng(7), 0, 0
    for _ in range(1000):
        shares = rng.beta(9.0, 1.0, 10).tolist()  # mean 0.9
        found, whole = interval(shares, (0.0, 1.0)), interval(shares)
        assert 0 <= found.low <= found.mean <= found.high <= 1
        assert (found.low <= 0.9 <= found.high) == (whole.low <= 0.9 <= whole.high)
        hits, cut = hits + (found.low <= 0.9 <= found.high), cut + (found.high < whole.high)
    assert cut > 0
    assert hits > 900


@pytest.mark.parametrize(
    ("column", "difference", "expected"),
    [
        ("test_accuracy", False, (0, 1)),
        ("accuracy_mean_pooled", True, (-1, 1)),
        ("shape_bias", False, (0, 1)),
        ("density", False, (0, 1)),
        ("agrees a^2 + ab", False, (0, 1)),
        ("base_steps", False, (0, math.inf)),
        ("base_steps", True, (-math.inf, math.inf)),
        ("seconds", False, (0, math.inf)),
        ("gap", False, (-math.inf, math.inf)),
    ],
)
def test_what_a_quantity_can_be(column, difference, expected):
    assert bounds(column, difference) == expected


def test_prediction_by_hand():
    values = [0.4, 0.5, 0.6, 0.7]  # mean 0.55, sd 0.12910, t(3) = 3.18245
    for of in (1, 2, 3):
        half = 3.182446 * 0.1290994 * math.sqrt(1 / of + 1 / 4)
        assert prediction(values, of) == pytest.approx((0.55 - half, 0.55 + half), abs=1e-5)
    assert prediction(values, 1, (0.0, 1.0))[1] == 1.0
    assert prediction([0.9] * 4, grain=0.001) == pytest.approx((0.899, 0.901))
    assert all(map(math.isnan, prediction([0.5])))


def test_summary_by_hand():
    rows = [("x", 1, 0.5), ("y", 1, 0.1), ("x", 1, 0.7), ("x", 2, 0.9)]
    table = summary(pd.DataFrame(rows, columns=["condition", "n", "accuracy"]), ["condition", "n"], "accuracy")
    assert list(table.columns) == ["condition", "n", "mean", "low", "high", "seeds"]
    assert table[["condition", "n", "seeds"]].values.tolist() == [["x", 1, 2], ["y", 1, 1], ["x", 2, 1]]
    assert table["mean"].tolist() == pytest.approx([0.6, 0.1, 0.9])
    assert table[["low", "high"]].values[0].tolist() == [0, 1], "0.6 ± 12.706 * 0.1, cut at what an accuracy can be"
    assert table[["low", "high"]][1:].isna().all(axis=None)


def test_summary_by_one_column():
    table = summary(pd.DataFrame({"n": [1, 1, 2], "v": [0.0, 1.0, 5.0]}), ["n"], "v")
    assert table[["n", "mean"]].values.tolist() == [[1, 0.5], [2, 5.0]]


def test_summary_keeps_groups_whose_key_is_missing():
    table = pd.DataFrame({"behaviour": [None, "as_described"], "v": [1.0, 2.0]})
    assert summary(table, ["behaviour"], "v")["mean"].tolist() == [1.0, 2.0]


def test_samples_needed_at_a_measured_count():
    assert samples_needed([0, 10, 100], [0.1, 0.9, 0.95]) == 10.0
    assert samples_needed([0, 10], [0.95, 0.97]) == 0.0


def test_samples_needed_between_counts_is_straight_over_log1p():
    # Halfway in accuracy between 1 + n = 1 and 1 + n = 100: 1 + n = 10.
    assert samples_needed([0, 99], [0.8, 1.0]) == pytest.approx(9.0)
    # A quarter of the way from 9 to 99: 10 * 10^(1/4) - 1.
    assert samples_needed([0, 9, 99], [0.0, 0.4, 0.8], level=0.5) == pytest.approx(10 * 10**0.25 - 1)


def test_samples_needed_ignores_the_order_and_takes_the_first_crossing():
    assert samples_needed([100, 0, 10, 1000], [0.2, 0.1, 0.9, 0.9]) == 10.0


def test_samples_needed_is_nan_where_the_level_is_never_reached():
    assert math.isnan(samples_needed([0, 10], [0.5, 0.899]))
    assert math.isnan(samples_needed([], []))


def test_samples_needed_with_lists_of_different_length_is_an_error():
    with pytest.raises(ValueError, match="zip"):
        samples_needed([0, 1], [0.5])


def test_interval_is_scipys():
    values = [0.61, 0.55, 0.72, 0.64, 0.58]
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert interval(values)[1:3] == pytest.approx((low, high))
    low, high = stats.t.interval(0.99, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert interval(values, level=0.01)[1:3] == pytest.approx((low, high))


def test_interval_of_a_run_that_diverged_is_no_number():
    assert all(math.isnan(value) for value in interval([0.5, math.nan, 0.5])[:3])


def test_quantiles_of_student_from_a_printed_table():
    assert [student(n) for n in (1, 2, 9)] == pytest.approx([12.7062, 4.3027, 2.2622], abs=5e-5)
    assert student(np.array([1, 9])) == pytest.approx([12.7062, 2.2622], abs=5e-5)
    assert math.isnan(student(0))


# ---------------------------------------------------------------------------------------
# Verdicts


def around(mean: float, half: float, seeds: int = 10, level: float = 0.05) -> list[float]:
    """So many values whose interval of this level is mean ± half."""
    ends = np.array([-1.0, 1.0] * (seeds // 2))
    error = ends.std(ddof=1) / math.sqrt(seeds)
    return (mean + ends * half / (stats.t.ppf(1 - level / 2, seeds - 1) * error)).tolist()


@pytest.mark.parametrize(
    ("mean", "half", "told"),
    [
        (0.30, 0.24, "above"),
        (0.30, 0.26, "open"),  # reaches over 0.05
        (-0.30, 0.24, "below"),
        (-0.30, 0.26, "open"),
        (0.00, 0.04, "equivalent"),
        (0.00, 0.06, "open"),
        (0.03, 0.01, "equivalent"),  # leaves 0 out, and is smaller than what would matter
        (0.03, 0.03, "open"),
        (-0.04, 0.005, "equivalent"),
    ],
)
def test_a_verdict_is_where_the_interval_lies(mean, half, told):
    assert judge(around(mean, half)).outcome == told
    assert judge(around(mean + 0.5, half), than=0.5).outcome == told


def test_without_a_margin_only_the_side_is_asked():
    assert judge(around(0.03, 0.02), margin=0).outcome == "above"
    assert judge(around(-0.03, 0.02), margin=0).outcome == "below"
    assert judge(around(0.03, 0.04), margin=0).outcome == "open"
    assert judge([0.0] * 10, margin=0).outcome == "open"
    with pytest.raises(ValueError, match="margin = -1"):
        judge(around(0.0, 1.0), margin=-1)


def test_few_seeds_give_no_verdict():
    clear = [0.5] * 9
    assert judge(clear).outcome == "too few seeds"
    assert judge(clear).settle == 10
    assert judge([*clear, 0.5]).outcome == "above"
    assert judge(clear[:5], n_layer=6).outcome == "above"
    assert judge(clear[:4], n_layer=6).outcome == "too few seeds"
    assert judge([0.5]).settle == 10
    assert [enough(seeds) for seeds in (9, 10)] == [False, True]


def test_a_run_that_diverged_gives_no_verdict():
    assert judge([*[0.5] * 11, math.nan]).outcome == "a run diverged"


def test_holm_by_hand():
    # Each interval leaves its border by a little at its own level: 0.05 / 3, 0.05 / 2, 0.05, the clearest first.
    family = {
        "last": around(0.2, 0.149, level=0.05),
        "first": around(0.2, 0.149, level=0.05 / 3),
        "second": around(0.2, 0.149, level=0.05 / 2),
    }
    assert [one.outcome for one in judge_all(family).values()] == ["above"] * 3
    assert list(judge_all(family)) == ["last", "first", "second"]
    # Where the second is open, the last is too, though its own interval leaves the border out.
    family["second"] = around(0.2, 0.149, level=0.05 / 1.9)
    assert judge(family["last"]).outcome == "above"
    assert {name: one.outcome for name, one in judge_all(family).items()} == {
        "last": "open", "first": "above", "second": "open",
    }  # fmt: skip
    # By itself it would need fewer seeds than the second, which has to be settled first.
    family["last"] = around(0.2, 0.149, level=0.05 / 1.8)
    needed = {name: one.settle for name, one in judge_all(family).items()}
    assert needed["last"] == needed["second"] > 10
    assert needed["first"] == 0


def test_who_gets_no_verdict_is_no_member_of_the_family():
    family = {"few": [0.2] * 3, "lost": [math.nan] * 10, "one": around(0.2, 0.149)}
    assert [one.outcome for one in judge_all(family).values()] == ["too few seeds", "a run diverged", "above"]
    deep = judge_all({"deep": [0.2, 0.21] * 3, "flat": [0.2, 0.21] * 3}, n_layer={"deep": 6, "flat": 2})
    assert [one.outcome for one in deep.values()] == ["above", "too few seeds"]


def test_a_family_without_effects_has_a_wrong_verdict_at_most_five_times_in_100():
    rng, wrong = np.random.default_rng(3), 0
    for _ in range(600):
        family = {name: (0.05 + rng.normal(0, 0.1, 10)).tolist() for name in range(6)}  # on the border itself
        wrong += any(one.outcome != "open" for one in judge_all(family).values())
    assert wrong <= 45  # 30 are expected at most; 45 are 2.8 standard deviations more


def test_the_smallest_difference_is_found_in_80_of_100_cases():
    rng, found = np.random.default_rng(11), 0
    smallest = np.mean([judge(rng.normal(0, 0.1, 12).tolist()).smallest for _ in range(300)])
    for _ in range(500):
        found += judge(rng.normal(smallest, 0.1, 12).tolist()).outcome == "above"
    assert 370 <= found <= 430


@pytest.mark.parametrize("mean", [0.08, 0.02, 0.0])  # at 0 the interval can reach over either border
def test_so_many_seeds_settle_an_open_verdict(mean):
    settle = judge(around(mean, 0.06)).settle
    spread = float(np.std(around(mean, 0.06), ddof=1))
    assert settle > 10
    rng = np.random.default_rng(5)
    got = [judge(rng.normal(mean, spread, settle).tolist()).outcome for _ in range(300)]
    assert 0.73 <= sum(one != "open" for one in got) / 300 <= 0.87
    assert judge(around(mean, 0.001)).settle == 0, "it is none that is open"


def test_on_the_border_no_number_of_seeds_settles():
    assert judge(around(0.05, 0.05)).settle == 0


# ---------------------------------------------------------------------------------------
# Comparisons


def runs(values):
    """{(start, seed): accuracies at n = 0, 10} -> tidy table with one draw."""
    return pd.DataFrame([
        {"start": start, "seed": seed, "draw": 0, "n_disambiguation": n, "test_accuracy": value}
        for (start, seed), row in values.items() for n, value in zip((0, 10), row, strict=True)
    ])  # fmt: skip


TABLE = runs({
    ("good", 0): (0.5, 0.7), ("good", 1): (0.6, 0.8), ("good", 2): (0.6, 0.6),
    ("half", 0): (0.4, 0.6), ("half", 1): (0.4, 0.6), ("half", 2): (0.5, 0.5),
    ("base", 0): (0.4, 0.4), ("base", 1): (0.3, 0.3), ("base", 2): (0.4, 0.4),
})  # fmt: skip


def test_a_curve_is_averaged_over_its_sample_numbers():
    means = analysis.curve_means(TABLE, ["start"]).set_index(["start", "seed"])["test_accuracy"]
    assert means["good", 0] == pytest.approx(0.6)
    assert means["base", 1] == pytest.approx(0.3)
    assert len(means) == 9


def test_a_run_that_diverged_is_not_averaged_away():
    lost = TABLE.copy()
    lost.loc[(lost["start"] == "half") & (lost["seed"] == 1) & (lost["n_disambiguation"] == 10), "test_accuracy"] = (
        math.nan
    )
    means = analysis.curve_means(lost, ["start"]).set_index(["start", "seed"])["test_accuracy"]
    assert math.isnan(means["half", 1])


def test_a_lead_is_taken_run_by_run():
    found = lead(TABLE.sample(frac=1, random_state=0), {"start": "good"}, {"start": "base"})
    assert sorted(found.columns) == ["draw", "lead", "n_disambiguation", "over", "seed", "start"]
    by_run = found.set_index(["seed", "n_disambiguation"])["lead"]
    assert by_run.to_dict() == pytest.approx({
        (0, 0): 0.1, (0, 10): 0.3, (1, 0): 0.3, (1, 10): 0.5, (2, 0): 0.2, (2, 10): 0.2,
    })  # fmt: skip
    assert (found["start"] - found["over"]).tolist() == pytest.approx(found["lead"].tolist())


def test_a_lead_over_chosen_numbers_of_samples():
    both = lead(TABLE, {"start": "good"}, {"start": "base"})
    for counts in ([10], {10, 64}, range(1, 100)):
        found = lead(TABLE, {"start": "good"}, {"start": "base"}, counts=counts)
        assert found.equals(both[both["n_disambiguation"] == 10].reset_index(drop=True))
    assert lead(TABLE, {"start": "good"}, {"start": "base"}, counts=[]).empty


def test_a_lead_pairs_by_every_column_that_tells_runs_apart():
    rows = [
        {"start": start, "n_layer": layers, "draw": draw, "seed": 0, "accuracy": value}
        for start, values in {"a": (0.1, 0.2, 0.3, 0.4), "b": (0.0, 0.0, 0.2, 0.2)}.items()
        for (layers, draw), value in zip(((2, 0), (2, 1), (4, 0), (4, 1)), values, strict=True)
    ]
    found = lead(pd.DataFrame(rows), {"start": "a"}, {"start": "b"}, value="accuracy")
    assert found["lead"].tolist() == pytest.approx([0.1, 0.2, 0.1, 0.2])
    deep = lead(pd.DataFrame(rows), {"start": "a", "n_layer": 4}, {"start": "b"}, value="accuracy")
    assert deep["lead"].tolist() == pytest.approx([0.1, 0.2])


def test_a_lead_leaves_out_a_run_without_its_other_one_and_keeps_one_without_a_value():
    table = TABLE[~((TABLE["start"] == "base") & (TABLE["seed"] == 1))].copy()
    table.loc[(table["start"] == "base") & (table["seed"] == 2), "test_accuracy"] = math.nan
    found = lead(table, {"start": "good"}, {"start": "base"})
    assert found["seed"].tolist() == [0, 0, 2, 2]
    assert found["lead"].isna().tolist() == [False, False, True, True]
    assert lead(table, {"start": "good"}, {"start": "none"}).empty


@pytest.mark.parametrize(
    ("table", "where", "told"),
    [
        (TABLE, {"beginning": "good"}, "where: no column 'beginning'; the table has start, seed"),
        (TABLE.drop(columns="seed"), {"start": "good"}, "table has no column 'seed'"),
        (TABLE.drop(columns="test_accuracy"), {"start": "good"}, "table has no column 'test_accuracy'"),
        (pd.concat([TABLE, TABLE]), {"start": "good"}, r"a run twice, \{.*'seed': 0\}; expected one row a run"),
    ],
)
def test_a_lead_of_what_is_no_table_of_runs_is_an_error(table, where, told):
    with pytest.raises(ValueError, match=told):
        lead(table, where, {"start": "base"})


def test_a_count_that_one_start_lacks_does_not_enter_its_lead():
    rows = {("all", 0): (0.2, 0.6), ("few", 0): (0.2, 0.4)}
    table = runs(rows)
    table = table[(table["start"] == "all") | (table["n_disambiguation"] == 0)]
    assert lead(table, {"start": "few"}, {"start": "all"})["lead"].tolist() == [0]


def test_a_lead_is_paired_by_seed():
    # good - base by seed: 0.2, 0.4, 0.2.
    gaps = lead(TABLE, {"start": "good"}, {"start": "base"}).groupby("seed")["lead"].mean()
    assert gaps.tolist() == pytest.approx([0.2, 0.4, 0.2])


def test_only_seeds_that_both_have_are_compared():
    table = TABLE[~((TABLE["start"] == "base") & (TABLE["seed"] == 1))]
    assert set(lead(table, {"start": "good"}, {"start": "base"})["seed"]) == {0, 2}


def test_share_of_the_gain_is_one_half():
    assert analysis.share_of_gain(TABLE, "half", "good", "base").tolist() == pytest.approx([0.5] * 3)


def test_share_of_the_gain_is_none_where_a_run_diverged_or_nothing_was_gained():
    lost = TABLE.copy()
    lost.loc[lost.index[lost["start"] == "half"][:1], "test_accuracy"] = math.nan
    assert analysis.share_of_gain(lost, "half", "good", "base").isna().tolist() == [True, False, False]
    assert analysis.share_of_gain(TABLE, "half", "base", "base").isna().all()
    assert analysis.share_of_gain(TABLE, "half", "nowhere", "base").empty


def test_spreads_by_the_formula_for_two_by_two():
    rows = [
        {"start": "s", "seed": seed, "draw": draw, "n_disambiguation": 5, "test_accuracy": value}
        for (seed, draw), value in {(0, 0): 0.2, (0, 1): 0.4, (1, 0): 0.7, (1, 1): 0.9}.items()
    ]
    found = analysis.spreads(pd.DataFrame(rows)).iloc[0]
    # Within: variance of (0.2, 0.4) is 0.02. Means 0.3 and 0.8: variance 0.125, of which 0.02 / 2 is from within.
    assert found["within"] == pytest.approx(math.sqrt(0.02))
    assert found["between"] == pytest.approx(math.sqrt(0.125 - 0.01))
    assert (found["bases"], found["draws"]) == (2, 2)


def test_bases_that_do_not_differ_have_no_spread_of_their_own():
    rows = [
        {"start": "s", "seed": seed, "draw": draw, "n_disambiguation": 5, "test_accuracy": 0.5 + 0.1 * draw}
        for seed in (0, 1) for draw in (0, 1)
    ]  # fmt: skip
    assert analysis.spreads(pd.DataFrame(rows))["between"].tolist() == [0.0]


@pytest.mark.parametrize("keep", [lambda r: r["seed"] == 0, lambda r: r["draw"] == 0, lambda r: r.index != 3])
def test_spreads_need_two_of_both_and_none_missing(keep):
    rows = pd.DataFrame([
        {"start": "s", "seed": seed, "draw": draw, "n_disambiguation": 5, "test_accuracy": 0.5}
        for seed in (0, 1) for draw in (0, 1)
    ])  # fmt: skip
    with pytest.raises(ValueError, match="expected two or more of both"):
        analysis.spreads(rows[keep(rows)])


def seeds(values, **columns):
    return pd.DataFrame({"start": "a", "seed": range(len(values)), "test_accuracy": values} | columns)


def test_far_off_is_five_deviations_of_the_others_and_a_tenth():
    # The others of the last: median 0.5, median absolute deviation 0.04, so usual is 0.0593 and far from 0.2965 on.
    others = [0.42, 0.46, 0.5, 0.54, 0.58]
    for last, told in ((0.79, False), (0.80, True), (0.21, False), (0.20, True)):
        assert analysis.far_off(seeds([*others, last]), ["start"]).tolist() == [False] * 5 + [told]
    # Where the others agree, a tenth is still usual.
    for last, told in ((0.601, True), (0.599, False)):
        assert analysis.far_off(seeds([0.5] * 5 + [last]), ["start"]).tolist()[-1] is told


def test_far_off_needs_five_values_of_one_kind():
    few = seeds([0.9, 0.9, 0.9, 0.1])
    assert not analysis.far_off(few, ["start"]).any()
    lost = pd.concat([few, seeds([float("nan")])], ignore_index=True)
    assert not analysis.far_off(lost, ["start"]).any()
    two_kinds = pd.concat([few, seeds([0.1] * 5, start="b")], ignore_index=True)
    assert not analysis.far_off(two_kinds, ["start"]).any()
    assert analysis.far_off(two_kinds, ["test_accuracy"]).sum() == 0
    assert analysis.far_off(pd.concat([few, seeds([0.9])], ignore_index=True), ["start"]).tolist() == [False] * 3 + [
        True,
        False,
    ]


def test_the_gap_of_two_samples_is_welchs():
    first, second = [0.61, 0.55, 0.72, 0.64], [0.31, 0.52, 0.47]
    expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert analysis.gap_of_means(first, second)[1:] == pytest.approx((expected.low, expected.high, 3))
    assert analysis.gap_of_means([0.5, 0.5], [0.25, 0.25]) == (0.25, 0.25, 0.25, 2)
    single = analysis.gap_of_means([0.5], [0.25, 0.75])
    assert single.mean == 0
    assert math.isnan(single.low)


def test_the_seeds_at_a_point_are_counted_for_each_depth():
    rows = [(2, "subnetwork", "", 0, 0), (2, "subnetwork", "", 0, 1), (2, "sampled", "as_released", 9, 1)]
    rows += [(4, "subnetwork", "", count, seed) for count in (0, 9) for seed in (3, 4, 7)]
    table = pd.DataFrame(rows, columns=["n_layer", "condition", "behaviour", "n_disambiguation", "seed"])
    assert analysis.seeds_a_point(table) == {2: "1 to 2", 4: "3"}
    assert analysis.seeds_a_point(table.iloc[:0]) == {}
