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
from scipy.stats import binom, ttest_1samp
from scipy.stats import t as student

from companion.arithmetic.starts import CONDITIONS
from companion.compare import ledger
from companion.compare.published import curves_as_runs
from companion.lab import tables

ROOT = Path(__file__).parents[2]
CLAIMS = ledger.read_claims(ROOT / "book" / "claims.yaml")


@pytest.fixture(scope="module")
def judged() -> dict[str, ledger.Judged]:
    return {one.id: one for one in ledger.judge_all(ROOT)}


def rows(name: str, scale: str = "paper", **where: object) -> list[dict[str, str]]:
    """A table's rows as texts, read without the code under test."""
    file = io.StringIO(tables.text(name, scale))
    return [row for row in csv.DictReader(file) if all(row[key] == str(value) for key, value in where.items())]


def interval(values: list[float], level: float = 0.05) -> tuple[float, float]:
    half = student.ppf(1 - level / 2, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values) - half, statistics.mean(values) + half


def enough(values: list[float], n_layer: int = 2) -> bool:
    return len(values) >= (5 if n_layer >= 6 else 10)


def shown(values: list[float], n_layer: int = 2, sign: str = "+", most: float = 1.0) -> str:
    """As a row shows it: mean and interval, or a few values, or from where to where more lie."""
    texts = [f"{value:{sign}.3f}" for value in values]
    if enough(values, n_layer):
        low, high = interval(values)
        low, high = max(low, -most if sign else 0.0), min(high, most)
        return f"{statistics.mean(values):{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"
    if len(values) > 3:
        low, high = min(values), max(values)
        return f"{statistics.mean(values):{sign}.3f} ({len(values)} seeds, {low:{sign}.3f} to {high:{sign}.3f})"
    return " and ".join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else texts[0]


def holm(family: dict[str, list[float]], than: float = 0.0) -> dict[str, str]:
    """Verdicts on "above ``than``", by t tests whose p values are adjusted by hand."""
    p = {name: float(ttest_1samp(values, than).pvalue) for name, values in family.items()}
    found, worst = {}, 0.0
    for place, name in enumerate(sorted(p, key=lambda name: p[name])):
        worst = max(worst, (len(p) - place) * p[name])
        side = "agrees" if statistics.mean(family[name]) > than else "does not agree"
        found[name] = side if worst < 0.05 else "open"
    return found


def around(mean: float, spread: float = 0.01, seeds: int = 10) -> list[float]:
    """So many values with this mean, most of them ``spread`` away."""
    return [mean] * (seeds % 2) + [mean - spread, mean + spread] * (seeds // 2)


def with_p(p: float, seeds: int = 10) -> list[float]:
    """Values whose t test beside 0 has this p value."""
    values = around(0.0, 0.1, seeds)
    mean = student.ppf(1 - p / 2, seeds - 1) * statistics.stdev(values) / math.sqrt(seeds)
    return [mean + value for value in values]


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


def leads_by_hand(depth: int, other: str, table: str, scale: str) -> list[float]:
    """One a seed, over the counts from 64 to 2,500 that half of the seeds have, of the seeds that have all of these."""
    value = {
        (row["start"], row["seed"], int(row["n_disambiguation"])): float(row["test_accuracy"])
        for row in rows(table, scale, n_layer=depth)
        if 64 <= int(row["n_disambiguation"]) <= 2500
    }
    pairs = {key[1:] for key in value if ("subnetwork", *key[1:]) in value and (other, *key[1:]) in value}
    seeds = {seed for seed, _ in pairs}
    counts = [n for n in {n for _, n in pairs} if sum((seed, n) in pairs for seed in seeds) >= len(seeds) / 2]
    return [
        statistics.mean(value["subnetwork", seed, n] - value[other, seed, n] for n in counts)
        for seed in sorted(seeds, key=int)
        if all((seed, n) in pairs for n in counts)
    ]


@pytest.mark.parametrize(
    ("name", "other"),
    [("random", "random_initialisation"), ("sampled", "sampled_as_released"), ("full", "full_model")],
)
def test_leads_by_hand_with_the_depths_as_a_family(judged, name, other):
    than, family = -0.05 if name == "full" else 0.0, {}
    for depth in (2, 4, 6, 8, 10, 12):
        one, scale = judged[f"lead-{name}-{depth}"], "paper"
        values = leads_by_hand(depth, other, "04_depths", "paper")
        quick = leads_by_hand(depth, other, "03_transfer", "quick") if depth == 2 else []
        if not enough(values, depth) and enough(quick):
            assert one.remark.endswith(f"At the paper's scale: {shown(values, depth)}")
            values, scale = quick, "quick"
        assert (one.ours, one.seeds, one.scale) == (shown(values, depth), len(values), scale)
        if enough(values, depth):
            family[one.id] = values
        else:
            assert one.verdict == "open"
            assert one.remark.startswith(f"Fewer than {5 if depth >= 6 else 10} seeds")
    assert {key: judged[key].verdict for key in family} == holm(family, than)


@pytest.mark.parametrize(
    ("name", "curve"), [("lead-random-2", "random_init"), ("lead-sampled-2", "sampled"), ("lead-full-2", "full_model")]
)
def test_the_lead_of_the_papers_curve_by_hand(judged, name, curve):
    """Over the counts that our table of the same scale has."""
    table = {"paper": "04_depths", "quick": "03_transfer"}[judged[name].scale]
    counts = {int(row["n_disambiguation"]) for row in rows(table, judged[name].scale, n_layer=2)}
    with (ROOT / "results" / "published" / "appendix_arithmetic_by_depth.csv").open() as file:
        paper = {
            (row["condition"], int(row["n_disambiguation"])): float(row["test_accuracy"])
            for row in csv.DictReader(file)
            if row["layers"] == "2"
        }
    here = [n for start, n in paper if start == curve and n in counts and 64 <= n <= 2500]
    mean = statistics.mean(paper["subnetwork", n] - paper[curve, n] for n in here)
    assert judged[name].paper in {f"{mean - 1e-9:+.3f}", f"{mean + 1e-9:+.3f}"}  # two only of a tie, such as 0.2485


def test_a_lead_over_some_of_the_numbers_of_samples_says_so_and_takes_the_papers_at_the_same(judged):
    table = tables.read("04_depths", "paper")
    kept = table[table["n_disambiguation"].isin([40, 100, 400])]
    claim = next(one for one in CLAIMS if one["id"] == "lead-random-2")
    (some,) = ledger.judge([claim], lambda name, scale: kept if (name, scale) == ("04_depths", "paper") else None)
    (every,) = ledger.judge([claim], lambda name, scale: table if (name, scale) == ("04_depths", "paper") else None)
    assert "Over 2 of 9 numbers of samples" in some.remark
    assert "numbers of samples" not in every.remark
    with (ROOT / "results" / "published" / "appendix_arithmetic_by_depth.csv").open() as file:
        paper = [
            row for row in csv.DictReader(file) if row["layers"] == "2" and row["n_disambiguation"] in ("100", "400")
        ]
    sign = {"subnetwork": 1, "random_init": -1}
    lead = sum(sign.get(row["condition"], 0) * float(row["test_accuracy"]) for row in paper) / 2
    assert float(some.paper) == pytest.approx(lead, abs=0.0005 + 1e-9)


@pytest.mark.parametrize(
    ("name", "table", "first", "other", "column"),
    [
        ("alone", "05_causes", "subnetwork_alone", "random_initialisation", "test_accuracy"),
        ("resnet-ordinary", "10_shape_transfer", "subnetwork", "scratch", "accuracy_ordinary"),
        ("resnet-bias", "10_shape_transfer", "subnetwork", "scratch", "shape_bias"),
        ("other-task", "06_variants", "subnetwork", "random_initialisation", "test_accuracy"),
    ],
)
def test_differences_by_hand(judged, name, table, first, other, column):
    where = {"task": "a^2 + ab + b^2"} if name == "other-task" else {}
    key = "condition" if table.startswith("10_") else "start"
    found = {}
    for scale in ("paper", "quick"):
        if not (ROOT / "results" / scale / table).is_dir():
            continue
        one, two = (
            {row["seed"]: float(row[column]) for row in rows(table, scale, **where, **{key: start})}
            for start in (first, other)
        )
        found[scale] = [one[seed] - two[seed] for seed in sorted(one, key=int)]
    scale = "quick" if not enough(found.get("paper", [])) and enough(found["quick"]) else "paper"
    values = found[scale]
    expected = holm({name: values})[name] if enough(values) else "open"
    assert (judged[name].verdict, judged[name].scale, judged[name].ours) == (expected, scale, shown(values))


def test_the_value_that_a_rule_compares_with_is_shown(judged):
    assert (judged["base-accuracy"].bound, judged["density"].bound) == ("0.99", "0.1")
    assert (judged["base-steps"].bound, judged["lead-random-2"].bound) == ("8,000 to 20,000", "")


def test_a_small_subnetwork_by_hand(judged):
    found = [float(row["density"]) for row in rows("04_depths_masks", n_layer=2) if row["density"] != "nan"]
    low, high = interval(found)  # nan: base given up
    decided = "agrees" if high < 0.1 else "does not agree" if low > 0.1 else "open"
    assert judged["density"].verdict == (decided if enough(found) else "open")
    assert judged["density"].ours == shown(found, sign="")


def one_more_by_hand(values: list[float]) -> tuple[float, float]:
    """Mean, and standard error of one further run beside it."""
    mean, n = statistics.mean(values), len(values)
    middle = (1000 * mean + 2) / 1004  # the share of right answers, and of 2 more right and 2 more wrong ones
    spread = max(statistics.stdev(values), math.sqrt(middle * (1 - middle) / 1000))
    return mean, spread * math.sqrt(1 + 1 / n)


@pytest.mark.parametrize("name", ["point-full_model-1600", "point-subnetwork-400", "point-random_initialisation-100"])
def test_a_point_by_hand(judged, name):
    _, start, count = name.split("-")
    values = [float(row["test_accuracy"]) for row in rows("04_depths", n_layer=2, start=start, n_disambiguation=count)]
    assert judged[name].ours == shown(values, sign="")
    if not enough(values):
        assert (judged[name].verdict, judged[name].remark) == ("open", "Fewer than 10 seeds")
        return
    mean, error = one_more_by_hand(values)
    reach = student.ppf(0.975, len(values) - 1) * error
    inside = abs(mean - float(judged[name].paper)) <= reach
    assert judged[name].verdict == "agrees" if inside and reach <= 0.1 else judged[name].verdict != "agrees"
    assert f"{max(mean - reach, 0):.3f} to {min(mean + reach, 1):.3f}" in judged[name].remark


def test_the_means_over_the_depths_by_hand(judged):
    """One mean a depth, then their mean; the spread is pooled over the depths with several seeds. A family of four."""
    p, reaches = {}, {}
    for start in ("subnetwork", "full_model", "sampled_as_released", "random_initialisation"):
        depths = {}
        for row in rows("04_depths", start=start, n_disambiguation=400):
            depths.setdefault(row["n_layer"], []).append(float(row["test_accuracy"]))
        mean = statistics.mean(map(statistics.mean, depths.values()))
        df = sum(len(values) - 1 for values in depths.values())
        squares = sum(statistics.pvariance(values) * len(values) for values in depths.values())
        ours = sum(1 / len(values) for values in depths.values()) / 36
        found, t = judged[f"point-mean-{start}"], student.ppf(0.975, df)
        half, error = t * (squares / df * ours) ** 0.5, (squares / df * (1 / 6 + ours)) ** 0.5
        assert (len(depths), found.seeds) == (6, sum(map(len, depths.values())))
        assert found.ours == f"{mean:.3f} ({mean - half:.3f} to {mean + half:.3f})"
        assert f"One more run: {mean - t * error:.3f} to {mean + t * error:.3f}" in found.remark
        p[found.id], reaches[found.id] = 2 * student.sf(abs(mean - float(found.paper)) / error, df), t * error
    worst = 0.0
    for place, name in enumerate(sorted(p, key=lambda name: p[name])):
        worst = max(worst, (4 - place) * p[name])
        agrees = p[name] >= 0.05 and reaches[name] <= ledger.WIDEST
        assert judged[name].verdict == ("does not agree" if worst < 0.05 else "agrees" if agrees else "open")


def test_the_base_models_that_were_given_up_count_as_outside(judged):
    asked = rows("04_depths_masks", n_layer=2)
    inside = [row for row in asked if 8000 <= float(row["base_steps"]) <= 20000]
    assert len(inside) < len(asked)  # those given up have nan
    assert judged["base-steps"].remark.startswith(f"{len(inside)} of {len(asked)} runs inside")
    n, p = len(asked), len(inside) / len(asked)
    z = 1.959964  # Wilson's interval of a share
    middle, reach = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (middle - reach) / (1 + z * z / n), (middle + reach) / (1 + z * z / n)
    expected = "agrees" if low > 0.5 else "does not agree" if high < 0.5 else "open"
    assert judged["base-steps"].verdict == (expected if n >= 10 else "open")


def test_the_summary_counts_the_rows(judged):
    texts = ledger.summary(list(judged.values()))
    assert len(texts) == 3
    for verdict, pattern in (
        ("agrees", r"with (\d+) of them our runs agree"),
        ("does not agree", r"with (\d+) they do not"),
        ("open", r"(\d+) are open"),
        ("not run", r"(\d+) were not run"),
    ):
        (number,) = re.findall(pattern, " ".join(texts))
        assert int(number) == sum(one.verdict == verdict for one in judged.values())
    decided = [one for one in judged.values() if one.verdict in ("agrees", "does not agree")]
    numbers = re.findall(r"Of the (\d+) verdicts, (\d+) rest .*, (\d+) on the small quick .* (\d+) on drawn", texts[2])
    drawn = [one for one in decided if one.stand_in]
    rest = [sum(one.scale == scale for one in decided if not one.stand_in) for scale in ("paper", "quick")]
    assert [int(number) for number in numbers[0]] == [len(decided), *rest, len(drawn)]


SETTLED = (
    r"(more than |at least )?[\d,]+ (seeds|runs) (at the (paper's|quick) scale|of the (longer|quick|transformer) run) "
    r"\(there are (?P<there>\d+)\)|"
    r"[\d,]+ seeds with [\d, ]+ layers(, [\d,]+ with [\d, ]+ layers)* at the paper's scale \(the fewest are [\d, ]+\)|"
    r"no number of our seeds will do, as (single runs vary by ±\d\.\d\d \(95 %\)|each published point is one run); "
    r"more published runs would|"
    r"a seed .* in place of the one that diverged"
)


def test_every_open_claim_says_what_would_settle_it_and_no_other_does(judged):
    assert any(one.verdict == "open" for one in judged.values())
    for one in judged.values():
        found = re.fullmatch(SETTLED, one.settle)
        assert bool(found) == (one.verdict == "open"), f"{one.id}: {one.settle!r}"
        if found and found["there"] and not one.id.startswith("base-steps"):  # which counts those given up, too
            assert int(found["there"]) == one.seeds


def test_no_interval_and_no_verdict_from_too_few_seeds_and_none_outside_of_the_quantity(judged):
    claims = {one["id"]: one["ours"] for one in CLAIMS if "ours" in one}
    for one in judged.values():
        if not one.ours or ledger.RULES[one.rule].many:
            continue
        ours = claims[one.id]
        depth = ours.get("n_layer") or ours.get("where", {}).get("n_layer", 2)
        asked = len(rows("04_depths_masks", n_layer=2)) if one.id == "base-steps" else one.seeds
        if asked < (5 if depth >= 6 else 10):
            assert one.verdict == "open", one.id
        ends = re.fullmatch(r"[-+\d.,]+ \(([-+\d.,]+) to ([-+\d.,]+)\)", one.ours)
        assert bool(ends) == (one.seeds >= (5 if depth >= 6 else 10)), one.id
        if ends and one.id != "base-steps":
            least = -1 if "minus" in ours or ours.get("measure") == "lead" else 0
            assert least <= float(ends[1]) <= float(ends[2]) <= 1


# ---------------------------------------------------------------------------------------
# Rules, on made-up values


MADE_UP = {
    "id": "x", "group": "g", "claim": "A.", "source": "s", "paper": 0.5, "rule": "above",
    "ours": {"table": "t", "column": "value"}, "page": "book/x",
}  # fmt: skip


def judged_of(family: dict[str, list[float]], scale: str = "paper", **given: object) -> dict[str, ledger.Judged]:
    """Claims of one family, each with a table of its own; ``given`` is what they say."""
    there = {f"t-{name}": pd.DataFrame({"seed": range(len(of)), "value": of}) for name, of in family.items()}
    claims = [
        MADE_UP | {"id": name, "family": "f", "ours": {"table": f"t-{name}", "column": "value"}} | given
        for name in family
    ]
    found = ledger.judge(claims, lambda name, asked: there.get(name) if asked == scale else None)
    return {one.id: one for one in found}


def judged_alone(values: list[float], **given: object) -> ledger.Judged:
    return judged_of({"x": values}, **given)["x"]


@pytest.mark.parametrize(
    ("rule", "given", "values", "expected"),
    [
        ("above", {}, around(0.1), "agrees"),
        ("above", {}, around(-0.1), "does not agree"),
        ("above", {}, with_p(0.049), "agrees"),
        ("above", {}, with_p(0.051), "open"),
        ("above", {}, [0.5] * 9, "open"),  # nine seeds say nothing
        ("above", {}, [0.5] * 10, "agrees"),
        ("above", {"least": 0.2}, around(0.1), "does not agree"),
        ("above", {"least": 0.2}, around(0.21), "agrees"),
        ("below", {"most": 0.1}, around(0.09), "agrees"),
        ("below", {"most": 0.1}, around(0.11), "does not agree"),
        ("below", {"most": 0.1}, around(0.1), "open"),
        ("no_worse", {}, around(-0.04), "agrees"),
        ("no_worse", {}, around(-0.06), "does not agree"),
        ("no_worse", {}, around(-0.05), "open"),
        ("no_worse", {}, [value - 0.05 for value in with_p(0.049)], "agrees"),
        ("negligible", {}, around(0.0), "agrees"),
        ("negligible", {}, around(0.03), "agrees"),  # there, but smaller than what matters
        ("negligible", {}, around(0.1), "does not agree"),
        ("negligible", {}, around(-0.1), "does not agree"),
        ("negligible", {}, around(0.0, 0.1), "open"),  # holds 0, but shows no equality
        ("negligible", {}, around(0.0, 0.066), "agrees"),  # t(0.975, 9) * 0.0696 / sqrt(10) = 0.0498
        ("negligible", {}, around(0.0, 0.067), "open"),  # 0.0505
        ("one_more_run", {"paper": 0.50}, around(0.5), "agrees"),
        ("one_more_run", {"paper": 0.80}, around(0.5), "does not agree"),
        ("one_more_run", {"paper": 0.50}, around(0.5, 0.1), "open"),
        ("one_more_run", {"paper": 0.50}, around(0.5, 0.01, 9), "open"),
        ("mostly_inside", {"band": [1, 2]}, [1.0] * 9 + [3.0], "agrees"),
        ("mostly_inside", {"band": [1, 2]}, [1.0] + [3.0] * 9, "does not agree"),
        ("mostly_inside", {"band": [1, 2]}, [1.0] * 8 + [3.0] * 2, "open"),  # Wilson: from 0.490 on
        ("mostly_inside", {"band": [1, 2]}, [1.0] * 9, "open"),
    ],
)
def test_each_rule_can_reach_each_verdict(rule, given, values, expected):
    found = judged_alone(values, rule=rule, **given)
    assert (found.verdict, bool(found.settle)) == (expected, expected == "open")


def test_deep_networks_need_five_seeds():
    table = pd.DataFrame({"seed": range(5), "n_layer": 6, "value": [0.5] * 5})
    for depth, expected in ((6, "agrees"), (2, "open")):
        ours = {"table": "t", "where": {"n_layer": depth}, "column": "value"}
        (found,) = ledger.judge([MADE_UP | {"ours": ours}], lambda *_, depth=depth: table.assign(n_layer=depth))
        assert (depth, found.verdict) == (depth, expected)


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        ([0.016, 0.024, 0.049], ["agrees", "agrees", "agrees"]),  # beside 0.05 / 3, 0.05 / 2 and 0.05
        ([0.049, 0.016, 0.024], ["agrees", "agrees", "agrees"]),
        ([0.017, 0.001, 0.026], ["agrees", "agrees", "agrees"]),
        ([0.017, 0.024, 0.049], ["open", "open", "open"]),
        ([0.016, 0.026, 0.030], ["agrees", "open", "open"]),
        ([0.001, 0.2, 0.02], ["agrees", "open", "agrees"]),
        ([0.030], ["agrees"]),
    ],
)
def test_a_family_is_adjusted_by_holms_method(p, expected):
    family = {f"c{place}": with_p(one) for place, one in enumerate(p)}
    found = judged_of(family)
    assert [one.verdict for one in found.values()] == expected
    assert holm(family) == {name: one.verdict for name, one in found.items()}
    for one, alone in zip(found.values(), p, strict=True):
        said = f"Clear by itself, but not within its family of {len(p)}" in one.remark
        assert said == (one.verdict == "open" and alone < 0.05)


def test_a_member_with_too_few_seeds_or_a_lost_run_does_not_count():
    family = {"a": with_p(0.02), "b": with_p(0.04)}
    few, lost = {"few": [0.5] * 9}, {"lost": [*with_p(0.001, 9), math.nan]}
    for more in ({}, few, lost, few | lost):
        found = judged_of(family | more)
        assert [found["a"].verdict, found["b"].verdict] == ["agrees", "agrees"]
    assert (found["few"].verdict, found["few"].remark) == ("open", "Fewer than 10 seeds")
    assert (found["lost"].verdict, found["lost"].remark, found["lost"].ours) == ("open", "A run diverged", "–")
    assert found["lost"].settle == "a seed at the paper's scale in place of the one that diverged"


def test_the_claims_of_one_entry_are_a_family(tmp_path):
    entry = MADE_UP | {"id": "x-{n}", "for": {"n": [1, 2, 3]}, "ours": {"table": "t-{n}", "column": "value"}}
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump([entry, MADE_UP]), encoding="utf-8")
    claims = ledger.read_claims(tmp_path / "claims.yaml")
    there = {
        (name, scale): pd.DataFrame({"seed": range(10), "value": with_p(p)})
        for name, scale, p in (
            ("t-1", "paper", 0.02),
            ("t-2", "quick", 0.03),
            ("t-3", "paper", 0.04),
            ("t", "paper", 0.04),
        )
    }
    found = ledger.judge(claims, lambda name, scale: there.get((name, scale)))
    # 0.02 is more than 0.05 / 3, whatever the scale of the others; the last one is an entry, and a family, of its own.
    assert [(one.id, one.verdict) for one in found] == [
        ("x-1", "open"),
        ("x-2", "open"),
        ("x-3", "open"),
        ("x", "agrees"),
    ]


def test_published_points_outside_are_a_family():
    values = around(0.5, 0.02)
    mean, error = one_more_by_hand(values)

    def verdicts(*p: float) -> list[str]:
        claims = [
            MADE_UP
            | {
                "id": f"c{n}",
                "family": "f",
                "rule": "one_more_run",
                "paper": mean + student.ppf(1 - one / 2, 9) * error,
            }
            for n, one in enumerate(p)
        ]
        table = pd.DataFrame({"seed": range(10), "value": values})
        return [one.verdict for one in ledger.judge(claims, lambda *_: table)]

    assert verdicts(0.049) == ["does not agree"]
    assert verdicts(0.051) == ["agrees"]
    assert verdicts(0.024, 0.5) == ["does not agree", "agrees"]
    assert verdicts(0.026, 0.5) == ["open", "agrees"]
    assert verdicts(0.024, 0.049) == ["does not agree", "does not agree"]
    assert verdicts(0.049, 0.026) == ["open", "open"]


def test_a_published_point_beside_a_lost_run_has_no_verdict_and_does_not_count():
    values = around(0.5, 0.02)
    mean, error = one_more_by_hand(values)
    paper = mean + student.ppf(1 - 0.04 / 2, 9) * error
    found = judged_of({"a": values, "lost": [*values[:9], math.nan]}, rule="one_more_run", paper=paper)
    assert [found["a"].verdict, found["lost"].verdict] == ["does not agree", "open"]
    assert (found["lost"].remark, found["lost"].settle[:6]) == ("A run diverged", "a seed")


def seeds_that_settle(values: list[float], than: float, least: int) -> int:
    """With the mean and the spread of these, in 80 of 100 cases."""
    gap, spread = abs(statistics.mean(values) - than), statistics.stdev(values)
    for n in range(least, 10_001):
        if (student.ppf(0.975, n - 1) + student.ppf(0.8, n - 1)) * spread / math.sqrt(n) <= gap:
            return n
    return 0


@pytest.mark.parametrize(
    ("rule", "given", "values", "than"),
    [
        ("above", {}, [0.1, -0.05, 0.12], 0.0),
        ("above", {"least": 0.02}, around(0.03, 0.05), 0.02),
        ("below", {"most": 0.1}, around(0.12, 0.05, 12), 0.1),
        ("no_worse", {}, around(-0.06, 0.03), -0.05),
        ("no_worse", {}, [-0.06, -0.055], -0.05),
        ("above", {}, [0.3], 0.0),
        ("above", {}, around(0.0001, 0.5), 0.0),
    ],
)
def test_seeds_that_would_settle_it(rule, given, values, than):
    found = judged_alone(values, rule=rule, **given)
    least = max(len(values), 10)
    if len(values) < least:
        told = "at least 10 seeds"
    else:
        needed = seeds_that_settle(values, than, least)
        told = f"{needed:,} seeds" if needed else "more than 10,000 seeds"
    assert found.settle == f"{told} at the paper's scale (there are {len(values)})"


@pytest.mark.parametrize(
    ("values", "paper", "settle"),
    [
        # Single runs vary by 1.96 standard deviations; 0.1 is allowed.
        ([0.4, 0.5, 0.6], 0.5, "no number of our seeds will do, as single runs vary by ±0.20 (95 %); more published"),
        ([0.49, 0.50, 0.51], 0.5, "10 seeds at the paper's scale (there are 3)"),
        ([0.5], 0.5, "10 seeds at the paper's scale (there are 1)"),
        (around(0.5, 0.06), 0.5, "no number of our seeds will do, as single runs vary by ±0.12"),
        (around(0.5, 0.046), 0.5, None),
        (around(0.5, 0.1, 4), 0.71, "no number of our seeds will do, as single runs vary by ±0.23"),
        (around(0.5, 0.1, 4), 0.77, None),  # outside as soon as there are some more
    ],
)
def test_seeds_that_would_settle_a_published_run(values, paper, settle):
    found = judged_alone(values, rule="one_more_run", paper=paper)
    assert found.verdict == "open"
    if settle:
        assert found.settle.startswith(settle)
        return
    (needed,) = re.findall(r"^(\d+) seeds at the paper's scale", found.settle)
    mean, spread = statistics.mean(values), statistics.stdev(values)

    def settles(n: int) -> bool:
        reach = student.ppf(0.975, n - 1) * spread * math.sqrt(1 + 1 / n)
        return reach < abs(paper - mean) or abs(paper - mean) <= reach <= 0.1

    assert next(n for n in range(10, 200) if settles(n)) == int(needed)


@pytest.mark.parametrize(("inside", "asked"), [(6, 10), (8, 20), (6, 13), (12, 20), (4, 6)])
def test_seeds_that_would_settle_a_share(inside, asked):
    """By the binomial distribution, Wilson's interval leaves one half out in about 80 of 100 cases."""
    found = judged_alone([1.0] * inside + [3.0] * (asked - inside), rule="mostly_inside", band=[1, 2])
    assert found.verdict == "open"
    assert found.settle.endswith(f" seeds at the paper's scale (there are {asked})")
    needed = int(found.settle.split()[0].replace(",", ""))

    def power(n: int) -> float:
        share, z = inside / asked, 1.959964
        clear = [k for k in range(n + 1) if abs(k / n - 0.5) > z * 0.5 / math.sqrt(n)]  # what Wilson's interval inverts
        return float(sum(binom.pmf(k, n, share) for k in clear))

    assert power(needed) == pytest.approx(0.8, abs=0.04)
    assert needed > asked


def test_half_of_the_runs_inside_is_never_settled():
    found = judged_alone([1.0] * 5 + [3.0] * 5, rule="mostly_inside", band=[1, 2])
    assert found.settle == "more than 10,000 seeds at the paper's scale (there are 10)"


def test_the_larger_scale_decides_unless_it_has_too_few_seeds():
    there: dict[str, pd.DataFrame] = {}

    def verdict(table: object = "t", **values: list[float]) -> tuple[str, str]:
        there.clear()
        there.update({scale: pd.DataFrame({"seed": range(len(of)), "value": of}) for scale, of in values.items()})
        claim = MADE_UP | {"ours": {"table": table, "column": "value"}}
        (found,) = ledger.judge([claim], lambda name, scale: there.get(scale) if name == "t" else None)
        return found.verdict, found.scale

    many, few, less = around(1.0), around(-1.0, 0.01, 9), around(-1.0)
    assert verdict() == ("not run", "")
    assert verdict(quick=many) == ("agrees", "quick")
    assert verdict(quick=many, paper=few) == ("agrees", "quick")
    assert verdict(quick=many, paper=less) == ("does not agree", "paper")
    assert verdict(quick=few, paper=few) == ("open", "paper")
    # A table by scale: others are not asked.
    assert verdict({"paper": "t"}, quick=many) == ("not run", "")
    assert verdict({"paper": "t"}, quick=many, paper=few) == ("open", "paper")
    assert verdict({"paper": "other", "quick": "t"}, quick=many, paper=less) == ("agrees", "quick")


def test_where_the_smaller_scale_answers_the_seeds_of_the_larger_one_are_shown():
    tables_of = {
        "paper": pd.DataFrame({"seed": [0, 1], "value": [0.25, 0.5]}),
        "quick": pd.DataFrame({"seed": range(10), "value": around(0.3)}),
    }
    (found,) = ledger.judge([MADE_UP], lambda name, scale: tables_of[scale])
    assert (found.scale, found.seeds, found.remark) == ("quick", 10, "At the paper's scale: 0.250 and 0.500")
    (found,) = ledger.judge(
        [MADE_UP | {"stand_in": "drawn ones in place of some"}], lambda name, scale: tables_of[scale]
    )
    assert found.remark == "The longer run: 0.250 and 0.500. Direction only: drawn ones in place of some"


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
    part("1", {seed: 1.0 + seed / 100 for seed in range(9)})
    assert said(MADE_UP) == ["open"]
    part("2", {9: 1.2})
    assert said(MADE_UP) == ["agrees"]
    assert said(MADE_UP, MADE_UP | {"id": "y", "rule": "below", "most": 0.5}) == ["agrees", "does not agree"]
    part("3", {seed: -1.0 - seed / 100 for seed in range(10)})  # replaces all
    assert said(MADE_UP) == ["does not agree"]
    shutil.rmtree(tmp_path / "results")
    assert said(MADE_UP) == ["not run"]


def test_a_column_or_a_published_row_that_is_not_there_is_an_error():
    (claim,) = [one for one in CLAIMS if one["id"] == "alone"]
    with pytest.raises(ValueError, match="no column 'beginning'"):
        ledger.judge([{**claim, "ours": {**claim["ours"], "where": {"beginning": "x"}}}])
    paper = {"file": "fig2_arithmetic", "where": {"layers": "3"}, "column": "test_accuracy"}
    with pytest.raises(ValueError, match=r"claim alone: fig2_arithmetic\.csv has no row"):
        ledger.judge([{**claim, "paper": paper}])


# ---------------------------------------------------------------------------------------
# The claims about curves, on made-up runs

SUBNETWORK, FULL, RANDOM, RELEASED, DESCRIBED = (
    CONDITIONS[name]
    for name in (
        "subnetwork", "full_model", "random_initialisation", "sampled_as_released", "sampled_as_described",
    )
)  # fmt: skip
# Differences from 0.5: 0.2 and -0.2, with intervals of ± 0.0075, and 0.01 ± 0.075.
ABOVE, BELOW, NEITHER = around(0.7), around(0.3), around(0.51, 0.1)
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


def as_published(seeds=10):
    return pd.concat([curves_as_runs().assign(seed=seed) for seed in range(seeds)])


def judged_on(table, *ids):
    """The claims of the groups "lead" and "whole" that take their numbers from curves alone, on these runs."""
    chosen = [
        one for one in CLAIMS if one.get("ours", {}).get("measure") in ("lead", "every_depth", "points")
        and (not ids or one["id"] in ids)
    ]  # fmt: skip
    found = ledger.judge(chosen, lambda name, scale: table if (name, scale) == ("04_depths", "paper") else None)
    return {one.id: one for one in found}


def at_depths(other, *accuracies):
    """Subnetwork at ``accuracies`` and the other start at 0.5, with 250 samples, at 2, 4, ... layers."""
    return pd.concat([
        runs((SUBNETWORK, {250: each}), (other, {250: [0.5] * len(each)}), n_layer=2 * index)
        for index, each in enumerate(accuracies, start=1)
    ])  # fmt: skip


@pytest.mark.parametrize(("name", "other"), OTHERS.items())
def test_verdict_on_a_lead(name, other):
    found = judged_on(at_depths(CONDITIONS[other], ABOVE, NEITHER, around(0.3, seeds=5), [0.7] * 4))
    said = {int(key.rpartition("-")[2]): one for key, one in found.items() if key.rpartition("-")[0] == f"lead-{name}"}
    assert {depth: one.verdict for depth, one in said.items()} == {
        2: "agrees", 4: "open", 6: "does not agree", 8: "open", 10: "not run", 12: "not run",
    }  # fmt: skip
    assert said[8].remark.startswith("Fewer than 5 seeds")
    assert said[8].settle == "at least 5 seeds at the paper's scale (there are 4)"
    rest = {key: one.verdict for key, one in found.items() if one not in said.values() and one.group == "lead"}
    assert set(rest.values()) == {"not run"}


@pytest.mark.parametrize(
    ("accuracies", "verdict"),
    [
        (ABOVE, "agrees"),
        ([0.5] * 10, "agrees"),
        ([0.455] * 10, "agrees"),
        ([0.445] * 10, "does not agree"),  # 0.055 below, more than matters
        (around(0.45, 0.1), "open"),
        (BELOW, "does not agree"),
        ([0.7] * 9, "open"),  # nine seeds
    ],
)
def test_verdict_on_as_good_as_the_full_model(accuracies, verdict):
    assert judged_on(at_depths(FULL, accuracies), "lead-full-2")["lead-full-2"].verdict == verdict


def test_values_of_a_lead():
    # Published at 2 layers: 0.468 - 0.371 = 0.097 with 160 samples, 0.624 - 0.417 = 0.207 with 250. Not with 50.
    counts = (50, 160, 250)
    table = runs((SUBNETWORK, dict.fromkeys(counts, ABOVE)), (RANDOM, dict.fromkeys(counts, [0.5] * 10)))
    found = judged_on(table, "lead-random-2")["lead-random-2"]
    # t(0.975, 9) * 0.01 * sqrt(10 / 9) / sqrt(10) = 2.2622 / 300 = 0.0075
    assert (found.paper, found.ours) == ("+0.152", "+0.200 (+0.192 to +0.208)")
    assert (found.seeds, found.scale, found.remark) == (10, "paper", "Over 2 of 9 numbers of samples")
    two = judged_on(at_depths(FULL, ABOVE, BELOW))
    assert two["lead-full-2"].paper == "+0.005"  # 0.624 - 0.619
    assert two["lead-full-4"].paper == "+0.076"  # 0.806 - 0.73
    assert [two[f"lead-full-{n}"].ours for n in (2, 4)] == ["+0.200 (+0.192 to +0.208)", "-0.200 (-0.208 to -0.192)"]
    assert judged_on(at_depths(DESCRIBED, ABOVE))["lead-described-2"].paper.startswith("no curve")


WIDE = [0.2, 0.4, 0.5, 0.6, 0.7]
CLEAR = "Clear with 2, 4, 6, 8, 10 layers"


@pytest.mark.parametrize(
    ("over_random", "over_sampled", "verdict", "ours", "remark", "settle"),
    [
        ([0.4] * 6, [0.4] * 6, "agrees", "6 of 6", "", ""),
        ([0.4] * 6, [0.4] * 5 + [0.6], "does not agree", "5 of 6", "Below 0 with 12 layers", ""),
        ([0.4] * 6, [0.4] * 5 + [WIDE], "open", "6 of 6", CLEAR, f"{seeds_that_settle(WIDE, 0.5, 5)} seeds with 12|5"),
        ([0.4] * 6, [0.4] * 5, "open", "5 of 5", CLEAR, "5 seeds with 12|0"),
        ([0.4] * 6, [0.4] * 5 + [[0.4] * 4], "open", "6 of 6", CLEAR, "5 seeds with 12|4"),
        ([[0.4] * 9, 0.4], [0.4] * 2, "open", "2 of 2", "Clear with 4 layers",
         "10 seeds with 2 layers, 5 with 6, 8, 10, 12|9, 0, 0, 0, 0"),
        ([[0.6] * 9], [0.4], "open", "0 of 1", "Clear at no depth yet",
         "10 seeds with 2, 4 layers, 5 with 6, 8, 10, 12|9, 0, 0, 0, 0, 0"),
        ([0.4, 0.4], [0.4, 0.6], "does not agree", "1 of 2", "Below 0 with 4 layers", ""),
        ([0.6, 0.4], [0.4, 0.6], "does not agree", "0 of 2", "Below 0 with 2, 4 layers", ""),
        ([0.4, 0.4], [], "not run", "", "Needs runs of 04_depths", ""),
    ],
)  # fmt: skip
def test_verdict_on_every_depth(over_random, over_sampled, verdict, ours, remark, settle):
    def seeds(value, depth):
        return value if isinstance(value, list) else [value] * (10 if depth < 6 else 5)

    table = pd.concat([
        runs((start, {250: seeds(value, depth)}), n_layer=depth)
        for start, values in ((SUBNETWORK, [0.5] * 6), (RANDOM, over_random), (RELEASED, over_sampled))
        for depth, value in zip((2, 4, 6, 8, 10, 12), values, strict=False)
    ])  # fmt: skip
    found = judged_on(table, "every-depth")["every-depth"]
    assert (found.verdict, found.remark) == (verdict, remark)
    assert found.ours == (f"above 0 at {ours} depths" if ours else "")
    assert found.paper == "above 0 at 6 of 6 depths"
    needed, _, there = settle.partition("|")
    assert found.settle == (f"{needed} layers at the paper's scale (the fewest are {there})" if settle else "")


@pytest.mark.parametrize(
    ("p", "clear"),
    [
        ([0.049, 0.001, 0.001], "with 6, 8, 10 layers"),
        ([0.051, 0.001, 0.001], "with 8, 10 layers"),
        ([0.049, 0.024, 0.001], "with 6, 8, 10 layers"),
        ([0.049, 0.026, 0.001], "with 10 layers"),
        ([0.049, 0.026, 0.018], "at no depth yet"),  # 0.05 / 3; those over the other start are clear
    ],
)
def test_the_leads_of_every_depth_are_one_family(p, clear):
    table = pd.concat([
        runs((SUBNETWORK, {250: [0.5] * 5}), (RANDOM, {250: [0.5 - one for one in with_p(each, 5)]}), n_layer=depth)
        for depth, each in zip((6, 8, 10), p, strict=True)
    ] + [runs((RELEASED, {250: [0.4] * 5}), n_layer=depth) for depth in (6, 8, 10)])  # fmt: skip
    found = judged_on(table, "every-depth")["every-depth"]
    assert (found.verdict, found.remark) == ("open", f"Clear {clear}")


@pytest.mark.parametrize(
    ("subnetwork", "full_model", "ours"),
    [  # published: 0.318 and 0.447
        (around(0.32), around(0.45), "0.320 to 0.450; 2 of 2 points inside (100.0 %)"),
        (around(0.32), around(0.55), "0.320 to 0.550; 1 of 2 points inside (50.0 %)"),
        (around(0.32), [0.4, 0.45, 0.5], "0.320 to 0.450; 1 of 1 points inside (100.0 %)"),
        # Of three seeds, one more lies between in 2 of 4 cases, of nine in 8 of 10.
        ([0.31, 0.32, 0.33], around(0.5, seeds=9),
         "0.320 to 0.500; 1 of 2 points between our lowest and our highest seed, 1 are expected"),
        ([0.31], [0.5], "0.310 to 0.500; 2 points, a seed each"),
    ],
)  # fmt: skip
def test_what_is_shown_without_telling_samples(subnetwork, full_model, ours):
    table = runs((SUBNETWORK, {0: subnetwork, 250: [0.1] * 3}), (FULL, {0: full_model}))
    found = judged_on(table, "unaided-points")["unaided-points"]
    missing = 28 + sum(not enough(values) for values in (subnetwork, full_model))
    assert (found.verdict, found.ours) == ("open", f"accuracy {ours}")
    assert (found.paper, found.remark) == ("accuracy 0.318 to 0.447", f"{missing} points with too few seeds")
    assert found.settle == (
        "10 seeds with 2, 4 layers, 5 with 6, 8, 10, 12 layers at the paper's scale (the fewest are 0, 0, 0, 0, 0, 0)"
    )


def test_verdict_without_telling_samples_not_run():
    table = runs((SUBNETWORK, {250: [0.6] * 3}))
    found = judged_on(table, "unaided-points")["unaided-points"]
    assert (found.verdict, found.paper, found.ours) == ("not run", "accuracy 0.253 to 0.447", "")


@pytest.mark.parametrize(
    ("outside", "verdict", "ours"),
    [
        (24, "agrees", "456 of 480 points inside (95.0 %)"),
        (25, "open", "455 of 480 points inside (94.8 %)"),
        (240, "open", "240 of 480 points inside (50.0 %)"),
        (241, "does not agree", "239 of 480 points inside (49.8 %)"),
    ],
)
def test_verdict_on_all_points(outside, verdict, ours):
    there = curves_as_runs()
    values = there["test_accuracy"]
    away = (values + 0.3).where(values < 0.6, values - 0.3).where(there.index < outside, values)
    table = pd.concat([there.assign(test_accuracy=away, seed=seed) for seed in range(10)])
    found = judged_on(table, "all-points")["all-points"]
    assert found.settle.startswith("no number of our seeds") == (verdict == "open")
    assert (found.verdict, found.paper, found.ours) == (verdict, "480 points", ours)


def test_points_that_were_not_run_leave_it_open():
    table = as_published()
    found = judged_on(table[table["n_layer"] != 12], "all-points")["all-points"]
    assert (found.verdict, found.ours) == ("open", "400 of 400 points inside (100.0 %)")
    assert found.remark == "80 points with too few seeds"
    assert found.settle == "5 seeds with 12 layers at the paper's scale (the fewest are 0)"


def test_verdicts_of_no_runs_and_of_the_published_ones():
    assert {one.verdict for one in judged_on(runs()).values()} == {"not run"}
    assert {one.verdict for one in judged_on(as_published(4)).values()} == {"open", "not run"}
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
