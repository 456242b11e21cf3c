"""Numbers as text."""

import math

import pandas as pd
import pytest

from companion.compare.texts import by_group, over_seeds, plus_minus, with_sign


def test_over_seeds_shows_the_values_where_an_interval_says_nothing():
    assert over_seeds([0.5]) == "0.50"
    assert over_seeds([0.25, 0.5], 3) == "0.250 and 0.500"
    assert over_seeds([1.0, 2.0, 3.0]) == "2.00 ± 2.48"  # t(0.975, 2) = 4.303, / sqrt(3)
    assert over_seeds([]) == "–"
    assert over_seeds([0.5, math.nan]) == "0.50 and –"
    assert over_seeds([0.5, math.nan, 0.5]) == "–", "a run that diverged is not averaged away"


def test_plus_minus_leaves_out_an_interval_that_one_seed_cannot_give():
    assert plus_minus(0.934, 0.0211) == "0.93 ± 0.02"
    assert plus_minus(0.934, math.nan) == "0.93"
    assert plus_minus(math.nan, math.nan) == "–"


@pytest.mark.parametrize(
    ("mean", "half_width", "text"),
    [(0.25, 0.125, "+0.250 ± 0.125"), (-0.25, 0.125, "-0.250 ± 0.125"), (0.0, math.nan, "+0.000"), (math.nan, 1, "–")],
)
def test_a_difference_has_its_sign(mean, half_width, text):
    assert with_sign(mean, half_width) == text


def test_a_table_to_be_shown_has_a_text_for_every_group():
    runs = pd.DataFrame({
        "start": ["b", "b", "a", "a"], "seed": [0, 1, 0, 1],
        "accuracy": [0.5, 0.75, 1.0, math.nan], "bias": [math.nan, math.nan, 0.25, 0.5],
    })  # fmt: skip
    shown = by_group(runs, "start", {"bias": "shape bias", "accuracy": "right"}, 3)
    assert shown.index.tolist() == ["b", "a"]
    assert shown["shape bias"].tolist() == ["–", "0.250 and 0.500"]
    assert shown["right"].tolist() == ["0.500 and 0.750", "1.000 and –"]
