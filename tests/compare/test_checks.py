"""A setting changed: differences and spreads against numbers computed by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from companion.compare import checks

NAMES = {"reference": "answer only", "all positions": "all positions"}
STARTS = ["subnetwork", "random_initialisation"]


def runs(**columns: object) -> pd.DataFrame:
    """Two starts, two seeds, with and without the change; the reference has a third seed."""
    rows = [
        # check, start, seed, accuracy
        ("reference", "subnetwork", 0, 0.80),
        ("reference", "subnetwork", 1, 0.90),
        ("reference", "subnetwork", 2, 0.10),
        ("reference", "random_initialisation", 0, 0.50),
        ("reference", "random_initialisation", 1, 0.60),
        ("reference", "random_initialisation", 2, 0.20),
        ("all positions", "subnetwork", 0, 0.70),
        ("all positions", "subnetwork", 1, 0.80),
        ("all positions", "random_initialisation", 0, 0.55),
        ("all positions", "random_initialisation", 1, 0.65),
    ]
    table = pd.DataFrame(rows, columns=["check", "start", "seed", "test_accuracy"])
    return table.assign(**{"n_layer": 2, "n_disambiguation": 40, "draw": 0, **columns})


def test_both_accuracies_and_their_difference_over_the_seeds_that_both_have():
    shown = checks.compared(runs(), "all positions", NAMES, STARTS)
    assert shown.iloc[0].to_dict() == {
        "start": "subnetwork",
        "disambiguation samples": "40",
        "answer only": "0.800 and 0.900",
        "all positions": "0.700 and 0.800",
        "all positions minus answer only": "-0.100 and -0.100",
        "verdict": "too few seeds",
    }


def many(seeds: range, shift: float) -> pd.DataFrame:
    """As :func:`runs`: with the change the subnetwork's lie this much lower, the others as much higher."""
    rows = [
        (check, start, seed, value + 0.001 * seed + (move if check != "reference" else 0))
        for check in ("reference", "all positions")
        for start, value, move in (("subnetwork", 0.8, -shift), ("random_initialisation", 0.5, shift))
        for seed in seeds
    ]
    table = pd.DataFrame(rows, columns=["check", "start", "seed", "test_accuracy"])
    return table.assign(n_layer=2, n_disambiguation=40, draw=0)


def test_beside_a_reference_stands_this_run_and_the_verdict_is_the_references():
    shown = checks.compared(runs().query("seed < 2"), "all positions", NAMES, STARTS, many(range(10), 0.2))
    assert shown["verdict"].tolist() == ["lower", "higher"]
    first = shown.iloc[0]
    assert first["all positions minus answer only"] == ("-0.200 (-0.200 to -0.200), this run -0.100 and -0.100")
    assert first["answer only"].startswith("0.804 (0.802 to 0.807), this run 0.800 and 0.900")
    alone = checks.compared(many(range(10), 0.01), "all positions", NAMES, STARTS)
    assert alone["verdict"].tolist() == ["equivalent", "equivalent"]


def test_a_row_for_every_number_of_samples_and_one_for_their_mean():
    both = pd.concat([runs(), runs(n_disambiguation=1000, test_accuracy=0.5)])
    shown = checks.compared(both, "all positions", NAMES, ["subnetwork"])
    assert shown["disambiguation samples"].tolist() == ["40", "1,000", "mean of all"]
    assert shown["all positions minus answer only"].tolist() == [
        "-0.100 and -0.100", "+0.000 and +0.000", "-0.050 and -0.050",
    ]  # fmt: skip


def test_what_a_change_makes_of_a_lead():
    said = checks.change_of_lead(runs().query("seed < 2"), "all positions", NAMES, STARTS)
    assert said == (
        "- The lead of the subnetwork over random initialisation is +0.300 and +0.300 with answer only and +0.150 and "
        "+0.150 with all positions: a change of **-0.150 and -0.150** (too few seeds)."
    )
    beside = checks.change_of_lead(runs().query("seed < 2"), "all positions", NAMES, STARTS, many(range(10), 0.2))
    assert beside.endswith("a change of **-0.400 (-0.400 to -0.400)** (below 0).")


def test_spreads_with_that_of_the_test_pairs():
    # Two bases with two transfers each: means 0.5 and 0.9, variances 0.02 and 0 around them.
    table = pd.DataFrame({
        "start": "subnetwork", "n_disambiguation": 40, "seed": [0, 0, 1, 1], "draw": [0, 1, 0, 1],
        "test_accuracy": [0.4, 0.6, 0.9, 0.9],
    })  # fmt: skip
    (found,) = checks.chance(table, 100).to_dict("records")
    assert found["within"] == pytest.approx(math.sqrt(0.01))
    assert found["between"] == pytest.approx(math.sqrt(0.08 - 0.01 / 2))
    assert found["test_pairs"] == pytest.approx(math.sqrt((0.24 + 0.24 + 0.09 + 0.09) / 4 / 100))


def test_one_spread_for_all_numbers_of_samples():
    spread = pd.DataFrame({"start": ["b", "b", "a"], "between": [0.3, 0.1, 0.0], "within": [0.2, 0.4, 0.5]})
    first, second = checks.over_counts(spread).to_dict("records")
    assert (first["start"], second["start"]) == ("b", "a")
    assert first["between"] == pytest.approx(math.sqrt(0.05))
    assert first["within"] == pytest.approx(math.sqrt(0.10))
    assert first["single"] == pytest.approx(math.sqrt(0.15))
    assert second["single"] == pytest.approx(0.5)
