"""Intervals, verdicts and comparisons between starts, against numbers worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from companion.compare import statistics as analysis
from companion.compare.statistics import interval, lead, samples_needed, student, summary, verdict, wilson

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
    mean, half = interval([1, 2, 3, 4, 5])
    assert mean == 3.0
    assert half == pytest.approx(2.776445 * math.sqrt(2.5) / math.sqrt(5), abs=1e-5)


def test_interval_of_one_value_has_no_width_and_of_none_is_an_error():
    mean, half = interval([0.25])
    assert mean == 0.25
    assert math.isnan(half)
    with pytest.raises(ValueError, match="values is empty"):
        interval([])


def test_interval_covers_the_truth_95_times_in_100():
    rng, hits = np.random.default_rng(20230505), 0
    for _ in range(1000):
        mean, half = interval(rng.normal(2, 1, 4).tolist())
        hits += abs(mean - 2) <= half
    assert 925 <= hits <= 975


def test_summary_by_hand():
    rows = [("x", 1, 0.5), ("y", 1, 0.1), ("x", 1, 0.7), ("x", 2, 0.9)]
    table = summary(pd.DataFrame(rows, columns=["condition", "n", "accuracy"]), ["condition", "n"], "accuracy")
    assert list(table.columns) == ["condition", "n", "mean", "half_width", "seeds"]
    assert table[["condition", "n", "seeds"]].values.tolist() == [["x", 1, 2], ["y", 1, 1], ["x", 2, 1]]
    assert table["mean"].tolist() == pytest.approx([0.6, 0.1, 0.9])
    assert table.half_width[0] == pytest.approx(12.7062 * 0.1, abs=1e-4)  # t(1) = 12.706
    assert table.half_width[1:].isna().all()


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
    mean, half = interval(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_interval_of_a_run_that_diverged_is_no_number():
    assert all(math.isnan(value) for value in interval([0.5, math.nan, 0.5]))


def test_quantiles_of_student_from_a_printed_table():
    assert [student(n) for n in (1, 2, 9)] == pytest.approx([12.7062, 4.3027, 2.2622], abs=5e-5)
    assert student(np.array([1, 9])) == pytest.approx([12.7062, 2.2622], abs=5e-5)
    assert math.isnan(student(0))


# ---------------------------------------------------------------------------------------
# On which side


@pytest.mark.parametrize(
    ("mean", "half_width", "least", "told"),
    [
        (0.5, 0.25, 0.0, "above"),
        (-0.5, 0.25, 0.0, "below"),
        (0.5, 0.5, 0.0, "not told apart"),  # an end of the interval at 0 is in it
        (-0.5, 0.5, 0.0, "not told apart"),
        (0.5, 0.4999, 0.0, "above"),
        (-0.5, 0.4999, 0.0, "below"),
        (0.0, 0.0, 0.0, "not told apart"),
        (0.0, 0.0, -0.02, "above"),
        (0.5, 0.25, 0.25, "not told apart"),
        (0.5, 0.25, 0.24, "above"),
        (0.5, 0.25, 0.75, "not told apart"),
        (0.5, 0.25, 0.76, "below"),
        (0.5, math.nan, 0.0, "one seed"),
        (math.nan, math.nan, 0.0, "a run diverged"),
        (math.nan, 0.1, 0.0, "a run diverged"),
    ],
)
def test_a_verdict_says_on_which_side_the_interval_lies(mean, half_width, least, told):
    assert verdict(mean, half_width, least) == told


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
    leads, before = (analysis.leads(table, "base").set_index("start") for table in (lost, TABLE))
    assert leads.loc["half", "verdict"] == "a run diverged"
    assert math.isnan(leads.loc["half", "mean"])
    assert leads.loc["good"].equals(before.loc["good"])
    without = lost[~((lost["start"] == "half") & (lost["seed"] == 1))]  # a seed that was never run is another thing
    assert analysis.leads(without, "base").set_index("start").loc["half", "seeds"] == 2


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
    # At n = 10 everything is 0.5 higher. "few" was not run there: over n = 0 alone it is level with "all".
    rows = {("all", seed): (0.2, 0.7) for seed in range(3)} | {("few", seed): (0.2, 0.7) for seed in range(3)}
    table = runs(rows)
    table = table[(table["start"] == "all") | (table["n_disambiguation"] == 0)]
    assert analysis.leads(table, "all")[["mean", "half_width"]].values.tolist() == [[0, 0]]


def test_leads_rest_on_the_lead():
    for name in ("good", "half"):
        by_seed = lead(TABLE, {"start": name}, {"start": "base"}).groupby("seed")["lead"].mean().tolist()
        row = analysis.leads(TABLE, "base").set_index("start").loc[name]
        assert (row["mean"], row["half_width"]) == pytest.approx(interval(by_seed))
        assert row["verdict"] == verdict(*interval(by_seed))


def test_leads_are_paired_by_seed():
    leads = analysis.leads(TABLE, "base").set_index("start")
    # good - base by seed: 0.2, 0.4, 0.2; half - base: 0.1, 0.2, 0.1; t(0.975, 2) = 4.302653.
    assert leads.loc["good", "mean"] == pytest.approx(0.8 / 3)
    deviation = math.sqrt(((0.2 - 0.8 / 3) ** 2 * 2 + (0.4 - 0.8 / 3) ** 2) / 2)
    assert leads.loc["good", "half_width"] == pytest.approx(4.302653 * deviation / math.sqrt(3), rel=1e-6)
    assert leads.loc["good", "verdict"] == "not told apart"
    assert list(leads["seeds"]) == [3, 3]
    assert "base" not in leads.index


@pytest.mark.parametrize(
    ("gaps", "verdict"), [((0.2, 0.2, 0.21), "above"), ((-0.2, -0.2, -0.21), "below"), ((0.1,), "one seed")]
)
def test_verdict_follows_the_interval(gaps, verdict):
    table = runs({("a", seed): (0.5 + gap, 0.5 + gap) for seed, gap in enumerate(gaps)}
                 | {("b", seed): (0.5, 0.5) for seed in range(len(gaps))})  # fmt: skip
    assert analysis.leads(table, "b")["verdict"].tolist() == [verdict]


def test_only_seeds_that_both_have_are_compared():
    table = TABLE[~((TABLE["start"] == "base") & (TABLE["seed"] == 1))]
    assert analysis.leads(table, "base")["seeds"].tolist() == [2, 2]


def test_unknown_reference_is_named():
    with pytest.raises(ValueError, match="reference = 'none': expected one of base, good, half"):
        analysis.leads(TABLE, "none")


def test_share_of_the_gain_is_one_half():
    share, half = analysis.share_of_gain(TABLE, "half", "good", "base")
    assert share == pytest.approx(0.5)
    assert half == pytest.approx(0.0, abs=1e-9)


def test_share_of_the_gain_is_none_where_a_run_diverged_or_nothing_was_gained():
    lost = TABLE.copy()
    lost.loc[lost.index[lost["start"] == "half"][:1], "test_accuracy"] = math.nan
    for table, whole in ((lost, "good"), (TABLE, "base"), (TABLE, "nowhere")):
        assert all(map(math.isnan, analysis.share_of_gain(table, "half", whole, "base")))


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
    mean, half = analysis.gap_of_means(first, second)
    interval = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((interval.low, interval.high))
    assert analysis.gap_of_means([0.5, 0.5], [0.25, 0.25]) == (0.25, 0.0)
    mean, half = analysis.gap_of_means([0.5], [0.25, 0.75])
    assert mean == 0
    assert math.isnan(half)


def test_the_seeds_at_a_point_are_counted_for_each_depth():
    rows = [(2, "subnetwork", "", 0, 0), (2, "subnetwork", "", 0, 1), (2, "sampled", "as_released", 9, 1)]
    rows += [(4, "subnetwork", "", count, seed) for count in (0, 9) for seed in (3, 4, 7)]
    table = pd.DataFrame(rows, columns=["n_layer", "condition", "behaviour", "n_disambiguation", "seed"])
    assert analysis.seeds_a_point(table) == {2: "1 to 2", 4: "3"}
    assert analysis.seeds_a_point(table.iloc[:0]) == {}
