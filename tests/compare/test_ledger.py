"""The ledger of claims: what is in it, its rules, and its verdicts by hand."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import statistics
from pathlib import Path

import pandas as pd
import pytest
import yaml
from scipy.stats import t as student

from companion.arithmetic.starts import CONDITIONS
from companion.compare import ledger
from companion.compare.published import curves_as_runs
from companion.lab import tables

ROOT = Path(__file__).parents[2]
CLAIMS = ledger.read_claims(ROOT / "book" / "claims.yaml")
T = {
    3: 4.302653, 4: 3.182446, 5: 2.776445, 6: 2.570582, 7: 2.446912, 8: 2.364624, 9: 2.306004, 10: 2.262157,
}  # fmt: skip
"""Student's t, 97.5 %, by number of seeds (from a printed table)."""


@pytest.fixture(scope="module")
def judged() -> dict[str, ledger.Judged]:
    return {one.id: one for one in ledger.judge_all(ROOT)}


def rows(name: str, scale: str = "paper", **where: object) -> list[dict[str, str]]:
    """A table's rows as texts, read without the code under test."""
    file = io.StringIO(tables.text(name, scale))
    return [row for row in csv.DictReader(file) if all(row[key] == str(value) for key, value in where.items())]


def interval(values: list[float]) -> tuple[float, float]:
    half = T[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values) - half, statistics.mean(values) + half


def verdict_of(low: float, high: float, bound: float = 0.0) -> str:
    return "agrees" if low > bound else "does not agree" if high < bound else "not told apart"


# ---------------------------------------------------------------------------------------
# What is in it


def test_every_claim_has_a_verdict_a_source_and_a_page(judged):
    assert len(judged) > 40
    for one in judged.values():
        assert one.verdict in ledger.VERDICTS
        assert one.source
        assert one.claim.endswith((".", ")"))
        assert one.paper
        assert (one.verdict == "not run") == (not one.ours), one.id
        assert one.verdict != "not run" or "Needs " in one.remark, one.id
        name = Path(one.page).name
        assert (ROOT / f"{one.page}.md").is_file() or (
            one.page == f"book/runs/{name}" and (ROOT / "notebooks" / f"{name}.ipynb").is_file()
        ), f"{one.id}: no page {one.page}"


def test_where_pictures_stand_in_only_a_direction_is_judged(judged):
    for one in judged.values():
        if one.table.startswith(("08_", "09_", "10_")):
            assert one.stand_in, one.id
            assert "Direction only" in one.remark
            assert ledger.RULES[one.rule].direction


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"source": ""}, "source is missing"),
        ({"page": None}, "page is missing"),
        ({"rule": "guess"}, "rule = 'guess'"),
        ({"ours": None}, "give ours"),
        ({"ours": {"table": "t", "measure": "guess"}}, "measure = 'guess', expected one of rows, lead"),
        ({"stand_in": "drawn pictures", "rule": "one_more_run"}, "only a direction"),
    ],
)
def test_a_claim_that_lacks_something_is_an_error_that_names_it(tmp_path, change, told):
    claim = {
        "id": "x", "group": "g", "claim": "A.", "source": "s", "paper": 0.5, "rule": "above",
        "ours": {"table": "t"}, "page": "book/x",
    }  # fmt: skip
    claim = {key: value for key, value in (claim | change).items() if value is not None}
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump([claim]), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(told)) as error:
        ledger.read_claims(tmp_path / "claims.yaml")
    assert "claim x" in str(error.value)


def test_an_id_that_stands_twice_is_an_error(tmp_path):
    text = (ROOT / "book" / "claims.yaml").read_text(encoding="utf-8")
    first = text[text.index("- id: base-accuracy") : text.index("- id: base-plateau")]
    (tmp_path / "claims.yaml").write_text(text + first, encoding="utf-8")
    with pytest.raises(ValueError, match="base-accuracy: the id stands twice"):
        ledger.read_claims(tmp_path / "claims.yaml")


def test_a_loop_makes_one_claim_of_each_value(judged):
    assert judged["lead-random-12"].claim.startswith("With 12 layers")
    found = {one["id"]: one for one in CLAIMS}
    assert found["lead-random-12"]["ours"]["n_layer"] == 12  # a number, not its text
    assert "as released" in judged["point-sampled_as_released-400"].claim


# ---------------------------------------------------------------------------------------
# Verdicts by hand, from the files


def test_paper_values_are_those_of_the_published_files(judged):
    with (ROOT / "results" / "published" / "appendix_arithmetic_by_depth.csv").open() as file:
        point = next(
            row["test_accuracy"]
            for row in csv.DictReader(file)
            if (row["layers"], row["condition"], row["n_disambiguation"]) == ("2", "sampled_complement", "400")
        )
    assert judged["point-complement_as_released-400"].paper == f"{float(point):.3f}"
    with (ROOT / "results" / "published" / "fig4_vision_learning_curves.csv").open() as file:
        best: dict[str, float] = {}
        for row in csv.DictReader(file):
            if (row["model"], row["metric"]) == ("resnet18", "mean_pooled"):
                best[row["condition"]] = max(best.get(row["condition"], 0), float(row["accuracy"]))
    gap = best["subnetwork"] - best["random_init"]
    assert judged["resnet-pooled"].paper.startswith(f"{gap:+.3f} (")
    assert judged["height-resnet18-mean_pooled"].paper == f"{best['subnetwork']:.3f}"


def test_a_lead_by_hand(judged):
    """Averaged over the counts from 64 to 2,500, seed by seed, here and in the paper's curve."""
    for name, other, curve in (
        ("lead-random-2", "random_initialisation", "random_init"),
        ("lead-sampled-2", "sampled_as_released", "sampled"),
        ("lead-full-2", "full_model", "full_model"),
    ):
        value = {
            (row["start"], row["seed"], int(row["n_disambiguation"])): float(row["test_accuracy"])
            for row in rows("04_depths", n_layer=2)
            if 64 <= int(row["n_disambiguation"]) <= 2500
        }
        seeds, counts = (sorted({key[at] for key in value if key[0] == "subnetwork"}) for at in (1, 2))
        gaps = [statistics.mean(value["subnetwork", seed, n] - value[other, seed, n] for n in counts) for seed in seeds]
        low, high = interval(gaps)
        assert judged[name].verdict == verdict_of(low, high, -0.02 if name == "lead-full-2" else 0.0)
        assert judged[name].ours == f"{statistics.mean(gaps):.3f} ± {(high - low) / 2:.3f}"
        with (ROOT / "results" / "published" / "appendix_arithmetic_by_depth.csv").open() as file:
            paper = {
                (row["condition"], int(row["n_disambiguation"])): float(row["test_accuracy"])
                for row in csv.DictReader(file)
                if row["layers"] == "2"
            }
        mean = statistics.mean(paper["subnetwork", n] - paper[curve, n] for n in counts)
        assert judged[name].paper in {f"{mean - 1e-9:+.3f}", f"{mean + 1e-9:+.3f}"}  # two only of a tie, such as 0.2485


def test_a_lead_over_some_of_the_numbers_of_samples_says_so_and_takes_the_papers_at_the_same(judged):
    table = tables.read("04_depths", "paper")
    kept = table[table["n_disambiguation"].isin([40, 100, 400])]
    claim = next(one for one in CLAIMS if one["id"] == "lead-random-2")
    some = ledger.judge(claim, lambda name, scale: kept if (name, scale) == ("04_depths", "paper") else None)
    assert "Over 2 of 9 numbers of samples" in some.remark
    assert "numbers of samples" not in judged["lead-random-2"].remark
    with (ROOT / "results" / "published" / "appendix_arithmetic_by_depth.csv").open() as file:
        paper = [
            row for row in csv.DictReader(file) if row["layers"] == "2" and row["n_disambiguation"] in ("100", "400")
        ]
    sign = {"subnetwork": 1, "random_init": -1}
    lead = sum(sign.get(row["condition"], 0) * float(row["test_accuracy"]) for row in paper) / 2
    assert float(some.paper) == pytest.approx(lead, abs=0.0005 + 1e-9)


@pytest.mark.parametrize(
    ("name", "table", "scale", "first", "other", "column"),
    [
        ("alone", "05_causes", "paper", "subnetwork_alone", "random_initialisation", "test_accuracy"),
        ("resnet-ordinary", "10_shape_transfer", "paper", "subnetwork", "scratch", "accuracy_ordinary"),
        ("resnet-bias", "10_shape_transfer", "paper", "subnetwork", "scratch", "shape_bias"),
        ("other-task", "06_variants", "paper", "subnetwork", "random_initialisation", "test_accuracy"),
    ],
)
def test_differences_by_hand(judged, name, table, scale, first, other, column):
    where = {"task": "a^2 + ab + b^2"} if name == "other-task" else {}
    key = "condition" if table.startswith("10_") else "start"
    one, two = (
        {row["seed"]: float(row[column]) for row in rows(table, scale, **where, **{key: start})}
        for start in (first, other)
    )
    low, high = interval([one[seed] - two[seed] for seed in one])
    assert (judged[name].verdict, judged[name].scale) == (verdict_of(low, high), scale)
    assert judged[name].ours == f"{(low + high) / 2:.3f} ± {(high - low) / 2:.3f}"


def test_the_value_that_a_rule_compares_with_is_shown(judged):
    assert (judged["base-accuracy"].bound, judged["density"].bound) == ("0.99", "0.1")
    assert (judged["base-steps"].bound, judged["lead-random-2"].bound) == ("8,000 to 20,000", "")


def test_a_small_subnetwork_by_hand(judged):
    found = [row for row in rows("04_depths_masks", n_layer=2) if row["density"] != "nan"]  # nan: base given up
    low, high = interval([float(row["density"]) for row in found])
    expected = "agrees" if high < 0.1 else "does not agree" if low > 0.1 else "not told apart"
    assert judged["density"].verdict == expected


@pytest.mark.parametrize("name", ["point-full_model-1600", "point-subnetwork-400", "point-random_initialisation-100"])
def test_one_more_run_by_hand(judged, name):
    _, start, count = name.split("-")
    values = [float(row["test_accuracy"]) for row in rows("04_depths", n_layer=2, start=start, n_disambiguation=count)]
    mean, n = statistics.mean(values), len(values)
    middle = (1000 * mean + 2) / 1004  # the share of right answers, and of 2 more right and 2 more wrong ones
    spread = max(statistics.stdev(values), math.sqrt(middle * (1 - middle) / 1000))
    low, high = mean - T[n] * spread * math.sqrt(1 + 1 / n), mean + T[n] * spread * math.sqrt(1 + 1 / n)
    low, high = max(low, 0), min(high, 1)
    inside, narrow = low <= float(judged[name].paper) <= high, high - low <= 0.2
    assert judged[name].verdict == ("does not agree" if not inside else "agrees" if narrow else "not told apart")
    assert f"{low:.3f} to {high:.3f}" in judged[name].remark


@pytest.mark.parametrize("start", ["subnetwork", "full_model", "sampled_as_released", "random_initialisation"])
def test_the_mean_over_the_depths_by_hand(judged, start):
    """One mean a depth, then their mean; the spread is pooled over the depths with several seeds."""
    depths = {}
    for row in rows("04_depths", start=start, n_disambiguation=400):
        depths.setdefault(row["n_layer"], []).append(float(row["test_accuracy"]))
    mean = statistics.mean(map(statistics.mean, depths.values()))
    df = sum(len(values) - 1 for values in depths.values())
    squares = sum(statistics.pvariance(values) * len(values) for values in depths.values())
    ours = sum(1 / len(values) for values in depths.values()) / 36
    reach = student.ppf(0.975, df) * (squares / df * (1 / 6 + ours)) ** 0.5
    found = judged[f"point-mean-{start}"]
    assert (len(depths), found.seeds) == (6, sum(map(len, depths.values())))
    assert found.ours == f"{mean:.3f} ± {student.ppf(0.975, df) * (squares / df * ours) ** 0.5:.3f}"
    assert f"One more run: {mean - reach:.3f} to {mean + reach:.3f}" in found.remark
    inside = mean - reach <= float(found.paper) <= mean + reach
    assert found.verdict == (
        ledger.AGREES if inside and reach <= ledger.WIDEST else ledger.OPEN if inside else ledger.DISAGREES
    )


def test_the_base_models_that_were_given_up_count_as_outside(judged):
    asked = rows("04_depths_masks", n_layer=2)
    inside = [row for row in asked if 8000 <= float(row["base_steps"]) <= 20000]
    assert len(inside) < len(asked)  # those given up have nan
    assert judged["base-steps"].remark.startswith(f"{len(inside)} of {len(asked)} runs inside")
    n, p = len(asked), len(inside) / len(asked)
    z = 1.959964  # Wilson's interval of a share
    middle, reach = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (middle - reach) / (1 + z * z / n), (middle + reach) / (1 + z * z / n)
    assert judged["base-steps"].verdict == verdict_of(low, high, 0.5)


def test_the_summary_counts_the_rows(judged):
    texts = ledger.summary(list(judged.values()))
    assert len(texts) == 3
    for verdict, pattern in (
        ("agrees", r"with (\d+) of them our runs agree"),
        ("does not agree", r"with (\d+) they do not"),
        ("not told apart", r"(\d+) they leave open"),
        ("not run", r"(\d+) could not be tested"),
    ):
        (number,) = re.findall(pattern, " ".join(texts))
        assert int(number) == sum(one.verdict == verdict for one in judged.values())


# ---------------------------------------------------------------------------------------
# Rules, on made-up values


@pytest.mark.parametrize(
    ("rule", "given", "paper", "values", "expected"),
    [
        ("above", {}, 0, [0.1, 0.11, 0.12], "agrees"),
        ("above", {}, 0, [-0.1, -0.11, -0.12], "does not agree"),
        ("above", {}, 0, [-0.1, 0.1, 0.1], "not told apart"),
        ("above", {}, 0, [0.5, 0.5], "not told apart"),  # two seeds say nothing
        ("above", {"least": 0.2}, 0, [0.1, 0.11, 0.12], "does not agree"),
        ("below", {"most": 0.1}, 0, [0.05, 0.05, 0.06], "agrees"),
        ("below", {"most": 0.1}, 0, [0.15, 0.15, 0.16], "does not agree"),
        ("below", {"most": 0.1}, 0, [0.05, 0.15, 0.1], "not told apart"),
        ("no_worse", {}, 0, [-0.01, -0.01, -0.011], "agrees"),
        ("no_worse", {}, 0, [-0.05, -0.05, -0.051], "does not agree"),
        ("no_worse", {}, 0, [-0.05, 0.05, 0.0], "not told apart"),
        ("negligible", {}, 0, [0.001, -0.001, 0.002], "agrees"),
        ("negligible", {}, 0, [0.1, 0.1, 0.11], "does not agree"),
        ("negligible", {}, 0, [-0.1, -0.1, -0.11], "does not agree"),
        ("negligible", {}, 0, [0.1, -0.1, 0.0], "not told apart"),  # holds 0, but shows no equality
        ("one_more_run", {}, 0.50, [0.49, 0.50, 0.51], "agrees"),
        ("one_more_run", {}, 0.80, [0.49, 0.50, 0.51], "does not agree"),
        ("one_more_run", {}, 0.50, [0.30, 0.50, 0.70], "not told apart"),
        ("mostly_inside", {"band": [1, 2]}, 0, [1.0, 1.5, 2.0, 1.2, 1.7], "agrees"),
        ("mostly_inside", {"band": [1, 2]}, 0, [3.0, 0.5, 2.1, 9.0, 8.0], "does not agree"),
        ("mostly_inside", {"band": [1, 2]}, 0, [1.0, 1.5, 3.0, 4.0, 1.7], "not told apart"),
    ],
)
def test_each_rule_can_reach_each_verdict(rule, given, paper, values, expected):
    assert ledger.RULES[rule].judge(ledger.Estimate.of(values), paper, given)[0] == expected


MADE_UP = {
    "id": "x", "group": "g", "claim": "A.", "source": "s", "paper": 0.5, "rule": "above",
    "ours": {"table": "t", "column": "value"}, "page": "book/x",
}  # fmt: skip


def test_the_larger_scale_decides_unless_it_has_too_few_seeds():
    there: dict[str, pd.DataFrame] = {}

    def verdict(**values: list[float]) -> tuple[str, str]:
        there.clear()
        there.update({scale: pd.DataFrame({"seed": range(len(of)), "value": of}) for scale, of in values.items()})
        found = ledger.judge(MADE_UP, lambda name, scale: there.get(scale) if name == "t" else None)
        return found.verdict, found.scale

    assert verdict() == ("not run", "")
    assert verdict(quick=[1.0, 1.0, 1.1]) == ("agrees", "quick")
    assert verdict(quick=[1.0, 1.0, 1.1], paper=[-1.0, -1.0]) == ("agrees", "quick")
    assert verdict(quick=[1.0, 1.0, 1.1], paper=[-1.0, -1.0, -1.1]) == ("does not agree", "paper")
    assert verdict(paper=[-1.0, -1.0]) == ("not told apart", "paper")


def test_a_new_part_of_a_table_and_a_new_claim_are_seen_at_once(tmp_path):
    def part(name: str, values: dict[int, float]) -> None:
        place = tmp_path / "results" / "paper" / "t"
        place.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{seed},{value}\n" for seed, value in values.items())
        (place / f"{name}.csv").write_text(f"seed,value\n{lines}", encoding="utf-8")
        record = {"rows": len(values), "columns": ["seed", "value"], "keys": ["seed"]}
        (place / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")

    def said(*claims: dict[str, object]) -> list[str]:
        (tmp_path / "book").mkdir(exist_ok=True)
        (tmp_path / "book" / "claims.yaml").write_text(yaml.safe_dump(list(claims)), encoding="utf-8")
        return [one.verdict for one in ledger.judge_all(tmp_path)]

    assert said(MADE_UP) == ["not run"]
    part("1", {0: 1.0, 1: 1.1})
    assert said(MADE_UP) == ["not told apart"]
    part("2", {2: 1.2})
    assert said(MADE_UP) == ["agrees"]
    assert said(MADE_UP, MADE_UP | {"id": "y", "rule": "below", "most": 0.5}) == ["agrees", "does not agree"]
    part("3", {0: -1.0, 1: -1.1, 2: -1.2})  # replaces all
    assert said(MADE_UP) == ["does not agree"]
    shutil.rmtree(tmp_path / "results")
    assert said(MADE_UP) == ["not run"]


def test_a_column_or_a_published_row_that_is_not_there_is_an_error():
    (claim,) = [one for one in CLAIMS if one["id"] == "alone"]
    with pytest.raises(ValueError, match="no column 'beginning'"):
        ledger.judge({**claim, "ours": {**claim["ours"], "where": {"beginning": "x"}}})
    paper = {"file": "fig2_arithmetic", "where": {"layers": "3"}, "column": "test_accuracy"}
    with pytest.raises(ValueError, match=r"claim alone: fig2_arithmetic\.csv has no row"):
        ledger.judge({**claim, "paper": paper})


# ---------------------------------------------------------------------------------------
# The claims about curves, on made-up runs

SUBNETWORK, FULL, RANDOM, RELEASED, DESCRIBED = (
    CONDITIONS[name]
    for name in (
        "subnetwork", "full_model", "random_initialisation", "sampled_as_released", "sampled_as_described",
    )
)  # fmt: skip
T2 = 4.302652729911275  # t(0.975, 2)
# Differences 0.2 ± 0.025 (mean and 95 % interval): above; -0.2 ± 0.025: below; 0.01 ± 0.248: neither.
ABOVE, BELOW, NEITHER = [0.69, 0.7, 0.71], [0.29, 0.3, 0.31], [0.41, 0.51, 0.61]
OTHERS = {
    "random": "random_initialisation",
    "sampled": "sampled_as_released",
    "described": "sampled_as_described",
    "complement": "complement_as_released",
    "described-complement": "complement_as_described",
}


def runs(*starts, n_layer=2):
    """Rows from (start, {count: accuracies of seeds 0, 1, ...})."""
    return pd.DataFrame(
        [
            (*start.pair, start.name, n_layer, n, seed, value)
            for start, curve in starts
            for n, values in curve.items()
            for seed, value in enumerate(values)
        ],
        columns=["condition", "behaviour", "start", "n_layer", "n_disambiguation", "seed", "test_accuracy"],
    )


def as_published(seeds=3):
    return pd.concat([curves_as_runs().assign(seed=seed) for seed in range(seeds)])


def judged_on(table, *ids):
    """The claims of the groups "lead" and "whole" that take their numbers from curves alone, on these runs."""
    chosen = [
        one for one in CLAIMS if one.get("ours", {}).get("measure") in ("lead", "every_depth", "points")
        and (not ids or one["id"] in ids)
    ]  # fmt: skip
    found = [ledger.judge(one, lambda name, scale: table if name == "04_depths" else None) for one in chosen]
    return {one.id: one for one in found}


def at_depths(other, *accuracies):
    """Subnetwork at ``accuracies`` and the other start at 0.5, with 250 samples, at 2, 4, ... layers."""
    return pd.concat([
        runs((SUBNETWORK, {250: each}), (other, {250: [0.5] * len(each)}), n_layer=2 * index)
        for index, each in enumerate(accuracies, start=1)
    ])  # fmt: skip


@pytest.mark.parametrize(("name", "other"), OTHERS.items())
def test_verdict_on_a_lead(name, other):
    found = judged_on(at_depths(CONDITIONS[other], ABOVE, NEITHER, BELOW, [0.7, 0.7]))
    said = {int(key.rpartition("-")[2]): one for key, one in found.items() if key.rpartition("-")[0] == f"lead-{name}"}
    assert {depth: one.verdict for depth, one in said.items()} == {
        2: "agrees", 4: "not told apart", 6: "does not agree", 8: "not told apart", 10: "not run", 12: "not run",
    }  # fmt: skip
    assert "Fewer than 3 seeds" in said[8].remark
    rest = {key: one.verdict for key, one in found.items() if one not in said.values() and one.group == "lead"}
    assert set(rest.values()) == {"not run"}


@pytest.mark.parametrize(
    ("accuracies", "verdict"),
    [
        (ABOVE, "agrees"),
        ([0.5, 0.5, 0.5], "agrees"),
        ([0.485, 0.485, 0.485], "agrees"),
        ([0.475, 0.475, 0.475], "does not agree"),  # 0.025 below, more than the margin
        (NEITHER, "not told apart"),
        (BELOW, "does not agree"),
        ([0.7, 0.7], "not told apart"),  # two seeds
    ],
)
def test_verdict_on_as_good_as_the_full_model(accuracies, verdict):
    assert judged_on(at_depths(FULL, accuracies), "lead-full-2")["lead-full-2"].verdict == verdict


def test_values_of_a_lead():
    # Published at 2 layers: 0.468 - 0.371 = 0.097 with 160 samples, 0.624 - 0.417 = 0.207 with 250. Not with 50.
    counts = (50, 160, 250)
    table = runs((SUBNETWORK, dict.fromkeys(counts, ABOVE)), (RANDOM, dict.fromkeys(counts, [0.5] * 3)))
    found = judged_on(table, "lead-random-2")["lead-random-2"]
    assert (found.paper, found.ours) == ("+0.152", f"0.200 ± {T2 * 0.01 / math.sqrt(3):.3f}")
    assert (found.seeds, found.scale, found.remark) == (3, "paper", "Over 2 of 9 numbers of samples")
    two = judged_on(at_depths(FULL, ABOVE, BELOW))
    assert two["lead-full-2"].paper == "+0.005"  # 0.624 - 0.619
    assert two["lead-full-4"].paper == "+0.076"  # 0.806 - 0.73
    assert (two["lead-full-2"].ours, two["lead-full-4"].ours) == ("0.200 ± 0.025", "-0.200 ± 0.025")
    assert judged_on(at_depths(DESCRIBED, ABOVE))["lead-described-2"].paper.startswith("no curve")


LACKING = "Without 3 seeds: 6, 8, 10, 12 layers"


@pytest.mark.parametrize(
    ("over_random", "over_sampled", "verdict", "ours", "remark"),
    [
        ([0.4] * 6, [0.4] * 6, "agrees", "6 of 6", ""),
        ([0.4] * 6, [0.4] * 5 + [0.6], "does not agree", "5 of 6", "Not with 12 layers"),
        ([0.4] * 6, [0.4] * 5 + [[0.3, 0.5, 0.6]], "not told apart", "5 of 6", "Not with 12 layers"),
        ([0.4] * 6, [0.4] * 5, "not told apart", "5 of 5", "Without 3 seeds: 12 layers"),
        ([0.4] * 6, [0.4] * 5 + [[0.4, 0.4]], "not told apart", "5 of 5", "Without 3 seeds: 12 layers"),
        ([0.4, 0.4], [0.4, 0.4], "not told apart", "2 of 2", LACKING),
        ([0.4, 0.4], [0.4, 0.6], "does not agree", "1 of 2", f"Not with 4 layers; {LACKING.lower()}"),
        ([0.6, 0.4], [0.4, 0.6], "does not agree", "0 of 2", f"Not with 2, 4 layers; {LACKING.lower()}"),
        ([0.4, 0.4], [], "not run", "", "Needs runs of 04_depths"),
    ],
)
def test_verdict_on_every_depth(over_random, over_sampled, verdict, ours, remark):
    table = pd.concat([
        runs((start, {250: value if isinstance(value, list) else [value] * 3}), n_layer=2 * index)
        for start, values in ((SUBNETWORK, [0.5] * 6), (RANDOM, over_random), (RELEASED, over_sampled))
        for index, value in enumerate(values, start=1)
    ])  # fmt: skip
    found = judged_on(table, "every-depth")["every-depth"]
    assert (found.verdict, found.remark) == (verdict, remark)
    assert found.ours == (f"above 0 at {ours} depths" if ours else "")
    assert found.paper == "above 0 at 6 of 6 depths"


@pytest.mark.parametrize(
    ("subnetwork", "full_model", "verdict", "ours"),
    [  # published: 0.318 and 0.447
        ([0.31, 0.32, 0.33], [0.44, 0.45, 0.46], "not told apart", "0.320 to 0.450, 2 of 2 points inside (100.0 %)"),
        ([0.31, 0.32, 0.33], [0.54, 0.55, 0.56], "not told apart", "0.320 to 0.550, 1 of 2 points inside (50.0 %)"),
        ([0.64, 0.65, 0.66], [0.54, 0.55, 0.56], "does not agree", "0.550 to 0.650, 0 of 2 points inside (0.0 %)"),
    ],
)
def test_verdict_without_telling_samples(subnetwork, full_model, verdict, ours):
    table = runs((SUBNETWORK, {0: subnetwork, 250: [0.1] * 3}), (FULL, {0: full_model}))
    found = judged_on(table, "unaided-points")["unaided-points"]
    assert (found.verdict, found.ours) == (verdict, f"accuracy {ours}")
    assert (found.paper, found.remark) == ("accuracy 0.318 to 0.447", "28 points without 3 seeds")


def test_verdict_without_telling_samples_not_run():
    table = runs((SUBNETWORK, {0: [0.3, 0.3], 250: [0.6] * 3}))
    found = judged_on(table, "unaided-points")["unaided-points"]
    assert (found.verdict, found.paper, found.ours) == ("not run", "accuracy 0.253 to 0.447", "")


@pytest.mark.parametrize(
    ("outside", "verdict", "ours"),
    [
        (24, "agrees", "456 of 480 points inside (95.0 %)"),
        (25, "not told apart", "455 of 480 points inside (94.8 %)"),
        (240, "not told apart", "240 of 480 points inside (50.0 %)"),
        (241, "does not agree", "239 of 480 points inside (49.8 %)"),
    ],
)
def test_verdict_on_all_points(outside, verdict, ours):
    there = curves_as_runs()
    values = there["test_accuracy"]
    away = (values + 0.3).where(values < 0.6, values - 0.3).where(there.index < outside, values)
    table = pd.concat([there.assign(test_accuracy=away, seed=seed) for seed in range(3)])
    found = judged_on(table, "all-points")["all-points"]
    assert (found.verdict, found.paper, found.ours) == (verdict, "480 points", ours)


def test_points_that_were_not_run_leave_it_open():
    table = as_published()
    found = judged_on(table[table["n_layer"] != 12], "all-points")["all-points"]
    assert (found.verdict, found.ours) == ("not told apart", "400 of 400 points inside (100.0 %)")
    assert found.remark == "80 points without 3 seeds"


def test_verdicts_of_no_runs_and_of_the_published_ones():
    none = runs()
    for table in (none, as_published(ledger.MIN_SEEDS - 1)):
        whole = [one for one in judged_on(table).values() if one.group == "whole"]
        assert {one.verdict for one in whole} == {"not run"}
    assert {one.verdict for one in judged_on(none).values()} == {"not run"}
    found = judged_on(as_published())
    described = {key for key in found if key.startswith("lead-described")}
    assert {found[key].verdict for key in described} == {"not run"}
    # At 2 layers the full model is ahead of the subnetwork, by less than the margin.
    assert {found[key].verdict for key in found.keys() - described} == {"agrees"}


def test_the_ledger_as_a_table_has_every_field_of_every_claim(judged):
    table = ledger.as_table(list(judged.values()))
    assert table["id"].tolist() == list(judged)
    row = table.set_index("id").loc["density"]
    assert (row["verdict"], row["rule"], row["bound"]) == (judged["density"].verdict, "below", "0.1")
    assert list(ledger.as_table([]).columns) == list(table.columns)
