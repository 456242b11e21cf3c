"""The ledger of claims: what is in it, its verdicts by hand, and its page."""

from __future__ import annotations

import csv
import math
import re
import shutil
import statistics
import sys
from pathlib import Path

import pytest
from scipy.stats import t as student

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import claims  # noqa: E402

T = {
    3: 4.302653, 4: 3.182446, 5: 2.776445, 6: 2.570582, 7: 2.446912, 8: 2.364624, 9: 2.306004, 10: 2.262157,
}  # fmt: skip
"""Student's t, 97.5 %, by number of seeds (from a printed table)."""


@pytest.fixture(scope="module")
def judged() -> dict[str, claims.Judged]:
    return {one.id: one for one in claims.ledger(ROOT)}


def rows(name: str, scale: str = "paper", **where: object) -> list[dict[str, str]]:
    """A table's rows, read without the code under test."""
    with (ROOT / "results" / scale / f"{name}.csv").open(encoding="utf-8", newline="") as file:
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
        assert one.verdict in claims.VERDICTS
        assert one.source
        assert one.claim.endswith((".", ")"))
        assert one.paper
        assert (one.verdict == "not run") == (not one.ours), one.id
        assert one.verdict != "not run" or "Needs " in one.remark, one.id
        name = Path(one.page).name
        assert (ROOT / f"{one.page}.md").is_file() or (
            one.page == f"book/runs/{name}" and (ROOT / "notebooks" / f"{name}.ipynb").is_file()
        ), f"{one.id}: no page {one.page}"


def test_every_claims_group_is_drawn_on_the_page(judged):
    page = (ROOT / "book" / "claims.md").read_text(encoding="utf-8")
    drawn = re.findall(r"```\{claims\} (\w+)", page)
    assert sorted(drawn) == sorted({one.group for one in judged.values()})


def test_where_pictures_stand_in_only_a_direction_is_judged(judged):
    for one in judged.values():
        if one.table.startswith(("08_", "09_", "10_")):
            assert one.stand_in, one.id
            assert "Direction only" in one.remark
            assert claims.RULES[one.rule].direction


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"source": ""}, "source is missing"),
        ({"page": None}, "page is missing"),
        ({"rule": "guess"}, "rule = 'guess'"),
        ({"ours": None}, "give ours"),
        ({"stand_in": "drawn pictures", "rule": "one_more_run"}, "only a direction"),
    ],
)
def test_a_claim_that_lacks_something_is_an_error_that_names_it(tmp_path, change, told):
    import yaml

    claim = {
        "id": "x", "group": "g", "claim": "A.", "source": "s", "paper": 0.5, "rule": "above",
        "ours": {"table": "t"}, "page": "book/x",
    }  # fmt: skip
    claim = {key: value for key, value in (claim | change).items() if value is not None}
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump([claim]), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(told)) as error:
        claims.read_claims(tmp_path / "claims.yaml")
    assert "claim x" in str(error.value)


def test_an_id_that_stands_twice_is_an_error(tmp_path):
    text = (ROOT / "book" / "claims.yaml").read_text(encoding="utf-8")
    first = text[text.index("- id: base-accuracy") : text.index("- id: base-plateau")]
    (tmp_path / "claims.yaml").write_text(text + first, encoding="utf-8")
    with pytest.raises(ValueError, match="base-accuracy: the id stands twice"):
        claims.read_claims(tmp_path / "claims.yaml")


def test_a_loop_makes_one_claim_of_each_value(judged):
    assert judged["lead-random-12"].claim.startswith("With 12 layers")
    found = {one["id"]: one for one in claims.read_claims(ROOT / "book" / "claims.yaml")}
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


def test_a_lead_over_some_of_the_numbers_of_samples_says_so_and_takes_the_papers_at_the_same(judged, tmp_path):
    kept = [row for row in rows("04_depths") if row["n_disambiguation"] in {"40", "100", "400"}]
    (tmp_path / "paper").mkdir()
    with (tmp_path / "paper" / "04_depths.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(kept[0]))
        writer.writeheader()
        writer.writerows(kept)
    claim = next(one for one in claims.read_claims(ROOT / "book" / "claims.yaml") if one["id"] == "lead-random-2")
    some = claims.judge(claim, tmp_path)
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
        claims.AGREES if inside and reach <= claims.WIDEST else claims.OPEN if inside else claims.DISAGREES
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
    texts = claims.summary(list(judged.values()), ROOT / "results")
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
    assert claims.RULES[rule].judge(claims.Estimate.of(values), paper, given)[0] == expected


def test_the_larger_scale_decides_unless_it_has_too_few_seeds(tmp_path):
    claim = {
        "id": "x", "group": "g", "claim": "A.", "source": "s", "paper": 0.5, "rule": "above",
        "ours": {"table": "t", "column": "value"}, "page": "book/x",
    }  # fmt: skip

    def write(scale: str, values: list[float]) -> None:
        (tmp_path / scale).mkdir(exist_ok=True)
        lines = "".join(f"{seed},{value}\n" for seed, value in enumerate(values))
        (tmp_path / scale / "t.csv").write_text(f"seed,value\n{lines}", encoding="utf-8")
        (tmp_path / scale / "t.json").write_text("{}", encoding="utf-8")

    assert claims.judge(claim, tmp_path).verdict == "not run"
    write("quick", [1.0, 1.0, 1.1])
    assert (claims.judge(claim, tmp_path).verdict, claims.judge(claim, tmp_path).scale) == ("agrees", "quick")
    write("paper", [-1.0, -1.0])
    assert claims.judge(claim, tmp_path).scale == "quick"
    write("paper", [-1.0, -1.0, -1.1])
    assert (claims.judge(claim, tmp_path).verdict, claims.judge(claim, tmp_path).scale) == ("does not agree", "paper")
    shutil.rmtree(tmp_path / "quick")
    write("paper", [-1.0, -1.0])
    assert claims.judge(claim, tmp_path).verdict == "not told apart"


def test_a_column_or_a_published_row_that_is_not_there_is_an_error():
    (claim,) = [one for one in claims.read_claims(ROOT / "book" / "claims.yaml") if one["id"] == "alone"]
    with pytest.raises(ValueError, match="no column 'beginning'"):
        claims.judge({**claim, "ours": {**claim["ours"], "where": {"beginning": "x"}}}, ROOT / "results")
    paper = {"file": "fig2_arithmetic", "where": {"layers": "3"}, "column": "test_accuracy"}
    with pytest.raises(ValueError, match=r"claim alone: fig2_arithmetic\.csv has no row"):
        claims.judge({**claim, "paper": paper}, ROOT / "results")


# ---------------------------------------------------------------------------------------
# Its page


def test_the_page_shows_every_claim_with_its_verdict(html, judged):
    page = (html / "book" / "claims.html").read_text(encoding="utf-8")
    for one in judged.values():
        (row,) = re.findall(rf'<tr[^>]*id="claim-{re.escape(one.id.replace("_", "-"))}".*?</tr>', page, re.DOTALL)
        text = re.sub("<[^>]*>", "", row)
        assert one.verdict in text
        assert one.ours in text
        assert one.bound in text
        assert f"{Path(one.page).name}.html" in row
    with (html / "_static" / "claims.csv").open(encoding="utf-8", newline="") as file:
        assert {row["id"]: row["verdict"] for row in csv.DictReader(file)} == {
            one.id: one.verdict for one in judged.values()
        }


def test_the_first_page_leads_to_the_ledger(html):
    assert 'href="claims.html"' in (html / "book" / "index.html").read_text(encoding="utf-8").split("<article", 1)[1]
