import math

import pandas as pd
import pytest
import torch

from companion.arithmetic.answers import accuracy, agreement
from companion.arithmetic.task import Computation, all_pairs
from companion.compare.statistics import mean_interval, samples_needed, summary, wilson
from companion.vision.answers import mirror_agreement, shape_bias

CANDIDATES = ("a^2 + ab", "2a^2", "2b^2")


def answers(text, pairs, p):
    return Computation.parse(text)(pairs[:, 0], pairs[:, 1], p)


def test_accuracy_by_hand():
    predicted = torch.tensor([[1, 2, 3, 4], [0, 0, 0, 0]])
    assert accuracy(predicted, torch.tensor([[1, 2, 0, 4], [1, 1, 1, 1]])).tolist() == [0.75, 0.0]


@pytest.mark.parametrize("solution", CANDIDATES)
@pytest.mark.parametrize("p", [5, 7, 13])
def test_model_that_computes_a_candidate_agrees_with_it_alone(solution, p):
    pairs = all_pairs(20)
    shares = agreement(answers(solution, pairs, p), pairs, CANDIDATES, p)
    assert shares == {name: float(name == solution) for name in (*CANDIDATES, "other")}


def test_mixed_answers_by_hand():
    # Modulo 7: (1, 0) -> 1, 2, 0; (1, 3) -> 4, 2, 4 does not count; (2, 1) -> 6, 1, 2; (1, 2) -> 3, 2, 1; (1, 1) no.
    pairs = torch.tensor([[1, 0], [1, 3], [2, 1], [1, 2], [1, 1]])
    predicted = torch.tensor([1, 4, 1, 6, 2])
    shares = agreement(predicted, pairs, CANDIDATES, 7)
    assert [shares[name] for name in (*CANDIDATES, "other")] == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3])


def test_random_answers_agree_by_chance_and_shares_sum_to_one(rng):
    pairs = all_pairs(60)
    shares = agreement(torch.randint(0, 7, (len(pairs),), generator=rng), pairs, CANDIDATES, 7)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert [shares[name] for name in CANDIDATES] == pytest.approx([1 / 7] * 3, abs=0.03)
    assert min(shares.values()) >= 0


@pytest.mark.parametrize(("candidates", "p"), [(("a + b", "b + a"), 7), (CANDIDATES, 2)])
def test_candidates_that_no_pair_tells_apart_are_an_error(candidates, p):
    with pytest.raises(ValueError, match=f"modulo {p}"):
        agreement(torch.zeros(100), all_pairs(10), candidates, p)


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


def test_mean_interval_by_hand():
    # Mean 3, standard deviation sqrt(2.5), t(4) = 2.776.
    mean, half = mean_interval([1, 2, 3, 4, 5])
    assert mean == 3.0
    assert half == pytest.approx(2.776445 * math.sqrt(2.5) / math.sqrt(5), abs=1e-5)


def test_mean_interval_of_one_value_has_no_width_and_of_none_is_an_error():
    mean, half = mean_interval([0.25])
    assert mean == 0.25
    assert math.isnan(half)
    with pytest.raises(ValueError, match="values is empty"):
        mean_interval([])


def test_mean_interval_covers_the_truth_95_times_in_100(rng):
    hits = 0
    for _ in range(1000):
        mean, half = mean_interval((torch.randn(4, generator=rng) + 2).tolist())
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


def test_shape_bias_by_hand():
    shape, texture = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([1, 1, 2, 2, 0, 0])
    found = shape_bias(torch.tensor([0, 1, 1, 1, 1, 1]), shape, texture)
    assert (found["shape"], found["texture"], found["neither"], found["images"]) == (3, 1, 2, 6)
    assert found["shape_bias"] == 0.75
    assert (found["low"], found["high"]) == wilson(3, 4)
    only = shape_bias(shape, shape, texture)
    assert (only["shape_bias"], only["high"]) == (1.0, 1.0)
    swapped = shape_bias(torch.tensor([0, 1, 1, 1, 1, 1]), texture, shape)
    assert swapped["shape_bias"] == 0.25


def test_shape_bias_without_a_decision_is_no_number():
    found = shape_bias(torch.tensor([5, 5]), torch.tensor([0, 1]), torch.tensor([1, 0]))
    assert found["neither"] == 2
    assert all(math.isnan(found[name]) for name in ("shape_bias", "low", "high"))


def test_shape_bias_needs_conflicts():
    with pytest.raises(ValueError, match="1 images have shape and texture of one class"):
        shape_bias(torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="have 1, 2 and 2 entries"):
        shape_bias(torch.tensor([0]), torch.tensor([0, 1]), torch.tensor([1, 2]))


def test_mirror_agreement_by_hand():
    # Rows of a kernel: 1 0 1 / 1 1 0 / 0 1 0
    kernel = torch.tensor([[[[1, 0, 1], [1, 1, 0], [0, 1, 0]]]], dtype=torch.bool)
    found = mirror_agreement([kernel])
    assert found == pytest.approx({"left-right": 4 / 6, "up-down": 0 / 6, "both": 0 / 8})
    full = torch.ones(2, 3, 5, 5, dtype=torch.bool)
    assert mirror_agreement([full]) == {"left-right": 1, "up-down": 1, "both": 1}
    # Pooled over entries, not over tensors: 6 and 2 * 3 * 20 pairs off the axis.
    assert mirror_agreement([kernel, full])["left-right"] == pytest.approx((4 + 120) / 126)


def test_mirror_agreement_of_random_masks_is_chance():
    masks = torch.rand(200, 50, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.3
    for value in mirror_agreement([masks]).values():
        assert value == pytest.approx(0.3**2 + 0.7**2, abs=0.01)
    with pytest.raises(ValueError, match="expected kernels"):
        mirror_agreement([torch.ones(3, 3, dtype=torch.bool)])
