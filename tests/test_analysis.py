"""Comparisons between starts, against numbers worked out by hand."""

import math

import pandas as pd
import pytest
from scipy import stats

from companion.compare import statistics as analysis


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
