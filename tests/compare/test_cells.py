"""Texts looked up from tables: every verb against numbers computed by hand, and what errors say."""

from __future__ import annotations

import json
import math
import re
import statistics

import pandas as pd
import pytest

from companion.compare import cells, published
from companion.lab import tables

COUNTS = {"start": "start", "n": "n_disambiguation", "seed": "seed", "acc": "test_accuracy"}
ROWS = """
    start    n    seed  acc
    sub      0    0     0.40
    sub      100  0     0.80
    sub      0    1     0.50
    sub      100  1     0.90
    sub      0    2     0.45
    sub      100  2     1.00
    random   0    0     0.30
    random   100  0     0.50
    random   0    1     0.20
    random   100  1     0.60
    random   0    2     0.35
    random   100  2     0.55
"""
T = {9: 2.262157, 11: 2.200985}  # Student's t, 97.5 %, by degrees of freedom, from a printed table


def runs(times: int = 1) -> pd.DataFrame:
    """The rows above; with ``times`` again for further seeds, 3 to 5 and so on."""
    lines = [line.split() for line in ROWS.strip().splitlines()]
    table = pd.DataFrame(lines[1:], columns=[COUNTS[name] for name in lines[0]])
    table = table.astype({"n_disambiguation": int, "seed": int, "test_accuracy": float})
    table = table.assign(n_layer=2, draw=0, density=[0.1, 0.1, 0.2, 0.2, 0.15, 0.15] * 2, diverged=False)
    return pd.concat([table.assign(seed=table["seed"] + 3 * k) for k in range(times)], ignore_index=True)


def told(values: list[float], digits: int = 3, sign: str = "", unit: str = "") -> str:
    """Mean and interval of three values, each of which four seeds have."""
    every = values * 4
    half = T[11] * statistics.stdev(every) / math.sqrt(12)
    mean = statistics.mean(every)
    return f"{mean:{sign}.{digits}f} ({mean - half:{sign}.{digits}f} to {mean + half:{sign}.{digits}f}){unit}"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        # Seeds of the start `sub`, over both numbers of samples: 0.6, 0.7, 0.725, each four times.
        ("test_accuracy start=sub", told([0.6, 0.7, 0.725])),
        ("interval test_accuracy start=sub digits=1", told([0.6, 0.7, 0.725], 1)),
        ("test_accuracy start=sub n_disambiguation=100 digits=2", told([0.8, 0.9, 1.0], 2)),
        # Leads: 0.2, 0.3, 0.275.
        ("lead test_accuracy start=sub over=random", told([0.2, 0.3, 0.275], sign="+")),
        ("lead test_accuracy start=random over=sub", told([-0.2, -0.3, -0.275], sign="+")),
        ("gain test_accuracy start=sub over=random", told([0.2, 0.3, 0.275])),
        ("test_accuracy start=sub as=percent", told([60, 70, 72.5], 0, unit=" %")),
        ("verdict test_accuracy start=sub over=random", "above"),
        ("verdict test_accuracy start=random over=sub words='better than/worse than/like'", "worse than"),
        ("verdict test_accuracy start=sub over=random margin=0.3", "equivalent"),
        ("verdict test_accuracy start=sub over=random margin=0.26", "open"),
        ("verdict test_accuracy start=sub over=random seed=0", "too few seeds"),
        ("verdict test_accuracy start=sub", "above"),
        ("judged test_accuracy start=sub over=random", f"{told([0.2, 0.3, 0.275])}: above"),
    ],
)
def test_what_is_over_seeds(query, expected):
    assert cells.text(runs(4), query) == expected


def test_an_open_verdict_says_how_many_seeds_would_settle_it():
    # Leads 0.2, 0.3, 0.275 around 0.2583, four times: sd 0.0444. To a border at 0.28 are 0.02167. With n seeds half of
    # the interval and the 80 % quantile of t, together about 2.9 sd / sqrt(n), have to be less: n = 36.
    judged = cells.text(runs(4), "judged test_accuracy start=sub over=random margin=0.28")
    assert re.fullmatch(rf"{re.escape(told([0.2, 0.3, 0.275]))}: open, 3[4-8] seeds would settle it", judged)
    few = cells.text(runs(), "judged test_accuracy start=sub over=random")
    assert few == "0.200, 0.300 and 0.275: too few seeds, of 10 at least"


def test_the_smallest_difference_that_would_have_been_seen():
    # sd 0.0444 / sqrt(12) = 0.01281, times t(0.975, 11) + t(0.8, 11) = 2.201 + 0.876, and the border.
    sd = statistics.stdev([0.2, 0.3, 0.275] * 4)
    expected = 0.05 + (T[11] + 0.875530) * sd / math.sqrt(12)
    assert cells.text(runs(4), "smallest test_accuracy start=sub over=random") == f"{expected:.3f}"


def test_verdicts_are_adjusted_for_those_that_are_read_with_them():
    # The middle start is 0.0703 ± a little above `random`: its interval leaves the border out at 95 %, not at 97.5 %.
    far = runs(4)
    middle = far[far["start"] == "random"].assign(
        start="middle", test_accuracy=lambda rows: rows["test_accuracy"] + 0.0703 + 0.03 * (rows["seed"] % 2 * 2 - 1)
    )
    table = pd.concat([far, middle], ignore_index=True)
    gaps = [0.0703 + 0.03 * (seed % 2 * 2 - 1) for seed in range(12)]
    least = {level: statistics.mean(gaps) - t * statistics.stdev(gaps) / math.sqrt(12) for level, t in
             ((0.05, 2.200985), (0.025, 2.593093))}  # fmt: skip
    assert least[0.05] > 0.05 > least[0.025]
    asked = "verdict test_accuracy start=middle over=random"
    # With `sub`, which is clear, it is the last of Holm's order and judged at 0.05; with two that are open it is not.
    assert cells.text(table, f"{asked} family=start") == "above"
    again = [middle.assign(start=name) for name in ("other", "third")]
    assert cells.text(pd.concat([table, *again], ignore_index=True), f"{asked} family=start") == "open"
    assert cells.text(table[table["start"] != "sub"], asked) == "above"


def test_a_family_may_be_over_another_column():
    table = pd.concat([runs(4).assign(task="x"), runs(4).assign(task="y")], ignore_index=True)
    asked = "verdict test_accuracy task=x start=sub over=random"
    for family in ("over", "task", "over+task"):
        assert cells.text(table, f"{asked} family={family}") == "above"
    with pytest.raises(ValueError, match="family=nope: expected over, or a column that the query chooses by"):
        cells.text(table, f"{asked} family=nope")


def test_values_by_seed():
    found = cells.values(runs(), "lead test_accuracy start=sub over=random")
    assert found.index.tolist() == [0, 1, 2]
    assert found.tolist() == pytest.approx([0.2, 0.3, 0.275])
    with pytest.raises(ValueError, match="'nope': no column"):
        cells.values(runs(), "nope")


def test_a_run_stands_beside_the_reference():
    own = runs()[runs()["seed"] < 2].assign(seed=lambda rows: rows["seed"] + 100)
    ask = cells.beside(own, runs(4))
    shown = cells.text(runs(4), "test_accuracy start=sub")
    assert ask("test_accuracy start=sub") == f"{shown}, this run 0.600 and 0.700"
    assert ask("verdict test_accuracy start=sub over=random") == "above"
    judged = cells.text(runs(4), "judged test_accuracy start=sub over=random")
    assert ask("judged test_accuracy start=sub over=random") == f"{judged}, this run 0.200 and 0.300"
    assert ask("count seed") == "12"
    assert ask("test_accuracy start=random seed=..5").count("this run") == 0, "it has no such rows"
    assert cells.beside(own, None)("test_accuracy start=sub") == "0.600 and 0.700"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("test_accuracy start=sub", "0.600, 0.700 and 0.725"),
        ("test_accuracy start=sub seed=0/1", "0.600 and 0.700"),
        ("test_accuracy start=sub seed=0", "0.600"),
        ("test_accuracy start=sub sign=yes seed=..1", "+0.600 and +0.700"),
        ("mean test_accuracy start=sub", "0.675"),
        ("mean density as=percent", "15 %"),
        ("mean density start=sub as=percent digits=1", "15.0 %"),
        ("mean density rest_of=0.2 as=percent", "25 %"),
        ("lead test_accuracy start=sub over=random seed=0/1", "+0.200 and +0.300"),
        ("mean test_accuracy start=sub over=random digits=2", "0.26"),
        # Over rows.
        ("median test_accuracy start=sub digits=2", "0.65"),
        ("min test_accuracy start=sub", "0.400"),
        ("max test_accuracy start=random digits=1", "0.6"),
        ("range n_disambiguation", "0 to 100"),
        ("range density as=percent", "10 to 20 %"),
        ("single n_layer", "2"),
        ("values n_disambiguation", "0, 100"),
        ("values start", "sub, random"),
        ("count seed", "3"),
        ("count seed start=sub n_disambiguation=100 over=random", "3"),
        ("rows", "12"),
        ("rows test_accuracy=0.9..", "2"),
        ("rows diverged=True", "0"),
        ("each start=sub test_accuracy=0.9.. text='{start} {n_disambiguation}: {test_accuracy}'",
         "sub 100: 0.900, sub 100: 1"),
        ("each test_accuracy=2.. text={start}", "none"),
    ],
)  # fmt: skip
def test_a_verb_says_what_the_table_says(query, expected):
    assert cells.text(runs(), query) == expected


def test_runs_without_a_counterpart_do_not_count():
    table = runs()
    table = table[(table["start"] == "sub") | (table["n_disambiguation"] == 100)].query("seed < 2 or start == 'sub'")
    assert cells.text(table, "lead test_accuracy start=sub over=random") == "+0.300 and +0.300"
    assert cells.text(table, "count n_disambiguation start=sub over=random") == "1"
    assert cells.text(table, "values seed start=sub over=random") == "0, 1"


def test_share_of_a_gain():
    table = runs(4)
    part = table[table["start"] == "random"].assign(
        start="part", test_accuracy=lambda rows: rows["test_accuracy"] + 0.1
    )
    shares = [100 * 0.1 / lead for lead in (0.2, 0.3, 0.275)]
    asked = "share test_accuracy start=part whole=sub over=random as=percent"
    assert cells.text(pd.concat([table, part]), asked) == told(shares, 0, unit=" %")


def test_sums_of_starts_over_two_columns():
    changed = runs(4).assign(check="changed", test_accuracy=lambda rows: rows["test_accuracy"] + 0.002 * rows["seed"])
    table = pd.concat([runs(4).assign(check="reference"), changed], ignore_index=True)
    table.loc[table["start"] == "random", "test_accuracy"] = 0.5
    query = (
        "lead test_accuracy by=check+start plus='changed+sub / reference+random' minus='changed+random / reference+sub'"
    )
    half = T[11] * statistics.stdev([0.002 * seed for seed in range(12)]) / math.sqrt(12)
    assert cells.text(table, query) == f"+0.011 ({0.011 - half:+.3f} to {0.011 + half:+.3f})"
    assert cells.text(table, query.replace("lead", "verdict")) == "equivalent"


def test_two_groups_of_other_seeds():
    first = runs(4).query("start == 'sub'").assign(dtype="float32")
    second = first.assign(dtype="bfloat16", seed=first["seed"] + 20, test_accuracy=first["test_accuracy"] - 0.1)
    table = pd.concat([first, second, second.assign(n_disambiguation=7, test_accuracy=0.0).head(1)])
    asked = "unpaired test_accuracy dtype=bfloat16 over=float32 by=dtype"
    half = 2.073873 * math.sqrt(2 * statistics.variance([0.6, 0.7, 0.725] * 4) / 12)  # t with 22 degrees of freedom
    assert cells.text(table, asked) == f"-0.100 ({-0.1 - half:+.3f} to {-0.1 + half:+.3f})"
    assert cells.text(table[table["seed"] % 20 < 3], asked) == "-0.100 (3 and 3 seeds)"


def test_a_long_table_is_made_wide():
    table = pd.DataFrame({
        "seed": [0, 0, 0, 0], "penalty": [1e-6, 1e-6, 1e-5, 1e-5], "measure": ["density", "accuracy"] * 2,
        "value": [0.2, 0.95, 0.1, 0.5],
    })  # fmt: skip
    assert cells.text(table, "min density accuracy=0.9.. wide=measure") == "0.200"


def test_a_run_that_diverged_is_a_dash():
    table = runs(4)
    table.loc[0, "test_accuracy"] = math.nan
    assert cells.text(table, "test_accuracy start=sub") == "–"
    assert cells.text(table, "mean test_accuracy start=sub") == "–"
    assert cells.text(table, "lead test_accuracy start=sub over=random") == "–"
    assert cells.text(table, "verdict test_accuracy start=sub over=random") == "a run diverged"
    assert cells.text(table, "rows test_accuracy=nan") == "1"


def test_truth_values_texts_and_what_is_missing():
    table = pd.DataFrame({"inside": pd.array([True, False, None], dtype="boolean"), "name": ["a b", "", "c"]})
    assert cells.text(table, "rows inside=True") == "1"
    assert cells.text(table, "each text='{name}-{inside}'") == "a b-yes, -no, c-–"
    assert cells.text(table, "rows name='a b'/c") == "2"
    assert cells.text(table, "rows name=") == "1"


def test_the_last_bits_of_a_sum_are_not_shown():
    seeds = [seed for seed in range(10) for _ in "ab"]
    table = pd.DataFrame({"start": ["a", "b"] * 10, "seed": seeds, "x": [0.1, 0.4, 0.4, 0.1] * 5})
    assert cells.text(table, "lead x start=a over=b").startswith("+0.000 (")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("nope start=sub", ["'nope start=sub'", "no column 'nope'", "test_accuracy"]),
        ("test_accuracy start=nope", ["start=nope", "sub, random"]),
        ("test_accuracy nope=1", ["no column 'nope'", "start, n_disambiguation"]),
        ("test_accuracy n_layer=two", ["n_layer=two", "expected a number"]),
        ("test_accuracy start=sub seed=7..", ["no rows"]),
        ("test_accuracy", ["seed 0 differ", "start: sub, random"]),
        ("test_accuracy density start=sub", ["takes one column", "test_accuracy, density"]),
        ("start", ["has texts", "expected numbers"]),
        ("lead test_accuracy start=sub", ["needs over"]),
        ("lead test_accuracy over=random", ["start=..."]),
        ("lead test_accuracy start=sub over=nope", ["start=nope", "sub, random"]),
        ("lead test_accuracy n_layer=2 over=3 by=n_layer", ["by=n_layer", "column of texts"]),
        ("lead test_accuracy plus=sub minus=nope", ["minus=nope", "sub, random"]),
        ("lead test_accuracy plus=sub", ["needs minus"]),
        ("share test_accuracy start=sub over=random", ["needs whole"]),
        ("single seed", ["has 3 values", "0, 1, 2"]),
        ("rows seed", ["rows takes no column"]),
        ("each start=sub", ["needs text"]),
        ("each text={nope}", ["no column 'nope'"]),
        ("mean density as=percents", ["expected percent"]),
        ("verdict test_accuracy start=sub words=1/2/3/4/5/6/7", ["at most 6"]),
        ("test_accuracy start=sub start=random", ["start is given twice"]),
        ("test_accuracy start='sub", ["No closing quotation"]),
    ],
)
def test_an_error_names_the_query_and_what_is_there(query, said):
    with pytest.raises(ValueError, match=re.escape(repr(query))) as caught:
        cells.text(runs(), query)
    for words in said:
        assert words in str(caught.value)


# ---------------------------------------------------------------------------------------
# Views, and tables of the reference


def our_runs() -> pd.DataFrame:
    """The paper's own curves as three seeds of ours, one of them 0.05 off, with 12 layers twice."""
    theirs = published.curves_as_runs()
    parts = [
        theirs.assign(seed=seed, test_accuracy=(theirs["test_accuracy"] + shift).clip(0, 1))
        for seed, shift in ((0, 0.0), (1, 0.05), (2, -0.05))
    ]
    table = pd.concat(parts, ignore_index=True)
    return table.assign(start=(table["condition"] + "_" + table["behaviour"]).str.strip("_"), draw=0)


def test_views_are_the_tables_of_the_published_comparison():
    table = our_runs()
    points, crossed = (cells.view_of(table, view) for view in ("points", "crossed"))
    assert cells.text(points, "rows") == "480"
    assert cells.text(points, "mean between as=percent") == "100 %"
    assert cells.text(points, "mean expected as=percent") == "50 %"
    assert float(cells.text(points, "max distance")) < 0.05
    assert cells.text(crossed, "mean between wrong=False as=percent") == "100 %"
    assert float(cells.text(crossed, "mean between wrong=True digits=6")) == pytest.approx(
        crossed.loc[crossed["start"] != crossed["against"], "between"].mean(), abs=1e-6
    )
    assert cells.text(cells.view_of(table, "over_depths"), "rows") == str(len(published.over_depths(table)))
    five = cells.view_of(table, "five_runs")
    assert cells.text(five, "count seed") == "3"
    assert set(five.loc[~five["inside"], "side"]) <= {"above", "below"}
    leads = cells.view_of(table, "depth_leads")
    assert cells.text(leads, "rows reference=sampled_as_released") == "6"
    assert cells.text(cells.view_of(table, "shared_counts"), "values n_disambiguation").startswith("64, 100")
    assert cells.text(table, "not_run") == "none"
    assert cells.text(table[table["n_layer"] < 12], "not_run") == "12 layers"


def test_spreads_are_those_of_starts_with_several_draws():
    rows = [
        {"check": check, "start": start, "n_disambiguation": 9, "seed": seed, "draw": draw,
         "test_accuracy": 0.5 + 0.1 * seed + 0.01 * draw}
        for seed in (0, 1)
        for check, start, draw in (("reference", "sub", 0), ("draws", "sub", 1), ("reference", "full", 0))
    ]  # fmt: skip
    view = cells.view_of(pd.DataFrame(rows), "spreads")
    assert cells.text(view, "single within start=sub") == f"{0.01 / math.sqrt(2):.3f}"
    assert cells.text(view, "values start") == "sub"


@pytest.fixture
def reference(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_HOME", str(tmp_path))
    for scale, name, table in (("quick", "03_x", runs()), ("paper", "03_x", runs().assign(seed=runs()["seed"] + 5))):
        folder = tmp_path / "results" / scale / name
        folder.mkdir(parents=True)
        table.to_csv(folder / "000.csv", index=False)
        record = {"keys": ["start", "n_disambiguation", "seed"], "rows": len(table), "columns": list(table.columns)}
        (folder / "000.json").write_text(json.dumps(record), encoding="utf-8")
    return tmp_path


def test_a_table_is_found_by_its_name_and_scale(reference):
    assert cells.lookup("03_x values seed") == "0, 1, 2"
    assert cells.lookup("paper/03_x values seed") == "5, 6, 7"
    assert cells.lookup("03_x values seed", "paper") == "5, 6, 7"


def test_a_lookup_names_the_table_and_the_views(reference):
    with pytest.raises(ValueError, match=r"paper/03_x: 'single nope': no column 'nope'"):
        cells.lookup("paper/03_x single nope")
    with pytest.raises(ValueError, match=r"quick/03_x: no view 'nope'; there is points"):
        cells.lookup("03_x.nope rows")
    with pytest.raises(FileNotFoundError, match="04_y"):
        cells.lookup("04_y rows")


def test_memory_and_file_give_the_same_text(reference):
    table = runs().assign(test_accuracy=lambda rows: (rows["test_accuracy"] + 0.0005).astype("float32").astype(float))
    tables._write_both(reference / "results" / "quick" / "04_y" / "000.csv", table, {
        "keys": ["start", "n_disambiguation", "seed"], "rows": len(table), "columns": list(table.columns),
    })  # fmt: skip
    for query in (
        "test_accuracy start=sub n_disambiguation=0",
        "test_accuracy start=sub seed=0",
        "range test_accuracy",
    ):
        assert cells.lookup(f"04_y {query}") == cells.text(table, query)


def test_a_run_that_diverged_leaves_no_sum_over_it():
    table = runs()
    table.loc[(table["start"] == "random") & (table["seed"] == 2), "test_accuracy"] = math.nan
    assert cells.text(table, "lead test_accuracy plus=sub minus=random") == "–"
    assert cells.text(table, "lead test_accuracy plus=sub minus=random seed=0/1").startswith("+")
