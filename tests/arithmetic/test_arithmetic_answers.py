import pytest
import torch

from companion.arithmetic.answers import accuracy, agreement, constant
from companion.arithmetic.task import Computation, all_pairs

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


def test_constant_answers_by_hand():
    # Modulo 3, numbers 0 to 2: on the diagonal 0, 2, 2; beside it four times 1 (pairs with a 0) and twice 2.
    found = constant("a^2 + b^2", numbers=3, p=3)
    assert found.answer == 2
    assert [found.equal, found.elsewhere, found.unequal] == pytest.approx([2 / 3, 1 / 3, 2 / 3])


def test_one_answer_for_all_equal_pairs():
    found = constant("a^2 - b^2", numbers=3, p=3)
    assert (found.answer, found.equal) == (0, 1.0)
    # Beside the diagonal: 2, 2, 1, 1 (pairs with a 0), and 0 for (1, 2) and (2, 1).
    assert found.elsewhere == pytest.approx(1 / 3)
