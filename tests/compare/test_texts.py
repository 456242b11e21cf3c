"""Numbers as text."""

import math

import pytest

from companion.compare.statistics import Interval
from companion.compare.texts import between, number, over_seeds

TEN = [0.5, 0.7] * 5  # sd 0.10541, / sqrt(10) = 0.03333, times t(0.975, 9) = 2.26216: 0.0754


def test_an_interval_is_shown_from_ten_seeds_on():
    assert over_seeds(TEN, 3) == "0.600 (0.525 to 0.675)"
    assert over_seeds(TEN[:9], 3) == "0.589 (9 seeds, 0.500 to 0.700)"
    assert over_seeds(TEN, 2, sign=True) == "+0.60 (+0.52 to +0.68)"


def test_deep_networks_need_five():
    five = [0.5, 0.7, 0.6, 0.6, 0.6]
    assert over_seeds(five, n_layer=4) == "0.60 (5 seeds, 0.50 to 0.70)"
    assert over_seeds(five, n_layer=6) == "0.60 (0.51 to 0.69)"


def test_few_seeds_stand_one_by_one():
    assert over_seeds([0.5]) == "0.50"
    assert over_seeds([0.25, 0.5], 3) == "0.250 and 0.500"
    assert over_seeds([1.0, 2.0, 3.0]) == "1.00, 2.00 and 3.00"
    assert over_seeds([]) == "–"


def test_a_run_that_diverged_is_not_averaged_away():
    assert over_seeds([0.5, math.nan]) == "–"
    assert over_seeds([*TEN, math.nan]) == "–"


def test_an_interval_stays_within_what_the_quantity_can_be():
    near_one = [1.0] * 9 + [0.8]
    assert over_seeds(near_one, 2) == "0.98 (0.93 to 1.03)"
    assert over_seeds(near_one, 2, limits=(0, 1)) == "0.98 (0.93 to 1.00)"


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Interval(0.25, 0.125, 0.375, 10), "+0.250 (+0.125 to +0.375)"),
        (Interval(-0.25, -0.375, 0.0, 10), "-0.250 (-0.375 to +0.000)"),
        (Interval(0.5, math.nan, math.nan, 1), "+0.500"),
        (Interval(math.nan, math.nan, math.nan, 3), "–"),
    ],
)
def test_a_difference_has_its_sign(found, text):
    assert between(found, 3, sign=True) == text


def test_large_numbers_have_commas_and_no_zero_has_a_minus():
    assert number(1234.5, 0) == "1,234"
    assert number(-0.0004, 3) == "0.000"
    assert number(-0.0004, 3, sign=True) == "+0.000"
