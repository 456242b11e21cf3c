import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from companion.arithmetic import task as ar
from companion.arithmetic.gpt2 import gpt2
from sicore.stacks import stack

PARSE = ar.Computation.parse

PLAIN = {
    "ab": lambda a, b: a * b,
    "a^2": lambda a, b: a * a,
    "a + b": lambda a, b: a + b,
    "a + ab": lambda a, b: a + a * b,
    "a^2 + ab": lambda a, b: a * a + a * b,
    "2a^2": lambda a, b: 2 * a * a,
    "2b^2": lambda a, b: 2 * b * b,
    "a^2 + b^2": lambda a, b: a * a + b * b,
    "a^2 - b^2": lambda a, b: a * a - b * b,
    "a^2 + ab + b^2": lambda a, b: a * a + a * b + b * b,
    "a^3 + ab": lambda a, b: a**3 + a * b,
    "a^2 + ab + b^2 + a": lambda a, b: a * a + a * b + b * b + a,
    "a^3 + ab + b": lambda a, b: a**3 + a * b + b,
    "3": lambda a, b: 3,
    "-a": lambda a, b: -a,
    "7 - 3a^2b^3 + b": lambda a, b: 7 - 3 * a**2 * b**3 + b,
    "a^10 - 12b": lambda a, b: a**10 - 12 * b,
}


def values(text, pairs, p):
    return PARSE(text)(pairs[:, 0], pairs[:, 1], p).tolist()


def test_every_computation_of_the_paper_is_checked_here():
    assert set(ar.PAPER_COMPUTATIONS) <= set(PLAIN)


@pytest.mark.parametrize("text", PLAIN)
@pytest.mark.parametrize("p", [2, 3, 7, 10, 97, 1009])
def test_values_agree_with_python_integers(rng, text, p):
    pairs = torch.randint(0, 1000, (60, 2), generator=rng)
    assert values(text, pairs, p) == [PLAIN[text](a, b) % p for a, b in pairs.tolist()]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a^2 + ab", "a**2 + a*b"), ("a^2 + ab", "ba+aa"), ("2a^2", "a^2 + a^2"), ("2a^2", "2 * a * a"),
        ("a - b", "-b + a"), ("a + 2", "2+a+b-b"), ("a^3", "a^2a"), ("a", "+a"), ("1", "a^0"), ("ab", " a  b "),
    ],
)  # fmt: skip
def test_equivalent_spellings_are_equal(one, other):
    assert PARSE(one) == PARSE(other)


@pytest.mark.parametrize("text", [*PLAIN, "a^64b^64", "-2ab + 1", "999999999a"])
def test_text_is_read_back_as_the_same_computation(text):
    assert PARSE(str(PARSE(text))) == PARSE(text)


def test_sum_of_large_coefficients_is_read_back():
    computation = PARSE("999999999a + 999999999a")
    assert PARSE(str(computation)) == computation


def test_text_of_a_computation():
    assert str(PARSE("b*a + a**2 - 3")) == "a^2 + ab - 3"
    assert str(PARSE("-2b^2a")) == "-2ab^2"


BAD = [
    "__import__('os')", "a^", "c", "a^999", "a^65", "a^64a", "", " ", "a-a", "0", "0a", "a + ", "+", "-", "a ++ b",
    "a--b", "(a + b)", "a/b", "a^-1", "a^2.5", "1.5a", "2^a", "a^b", "A", "a = b", "a;b", "a\nb", "lambda: a", "a^²",
    "a" * 1001, "a + 1234567890123b",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD)
def test_text_that_is_no_polynomial_is_an_error_that_shows_it(text):
    with pytest.raises(ValueError, match="computation = ") as error:
        PARSE(text)
    assert repr(text)[:20] in str(error.value)


@pytest.mark.parametrize("text", ["a***2", "a*", "*a", "2*", "1 2a", "a^1 2", "a*^2", "a^*2"])
def test_text_with_misplaced_stars_or_spaces_is_an_error(text):
    with pytest.raises(ValueError, match="computation = "):
        PARSE(text)


@pytest.mark.parametrize("text", [5, None, ["a"], b"a"])
def test_computation_that_is_no_string_is_an_error(text):
    with pytest.raises(ValueError, match="expected a string"):
        PARSE(text)


def test_error_says_from_where_the_text_was_not_understood():
    with pytest.raises(ValueError, match=r"not understood from '\+c\+b' on"):
        PARSE("a + c + b")


@pytest.mark.parametrize("p", [1, 0, -7, 2.0, "7", None, True, 2**31])
def test_modulus_out_of_range_is_named(p):
    for call in (lambda: PARSE("ab")(torch.tensor(1), torch.tensor(1), p), lambda: ar.vocabulary(10, p)):
        with pytest.raises(ValueError, match="p = ") as error:
            call()
        assert repr(p) in str(error.value)


def test_large_numbers_do_not_overflow():
    p = 2**31 - 1
    a, b = 2**31 - 2, 2**31 - 5
    expected = (5 * pow(a, 64, p) * pow(b, 63, p) + 999_999_999 * a * b - b) % p
    assert int(PARSE("5a^64b^63 + 999999999ab - b")(torch.tensor(a), torch.tensor(b), p)) == expected


def test_computation_is_elementwise_and_leaves_its_arguments_alone():
    a = torch.tensor([[5, 6], [7, 8]], dtype=torch.int32)
    b = torch.tensor([1, 2])
    assert PARSE("ab")(a, b, 7).tolist() == [[5, 5], [0, 2]]
    assert a.tolist() == [[5, 6], [7, 8]]


def test_vocabulary_has_the_numbers_and_equals():
    assert ar.vocabulary(1000, 7) == 1001
    assert ar.vocabulary(7, 7) == 8


@pytest.mark.parametrize("numbers", [6, 0, -1, 7.0, True])
def test_vocabulary_without_a_token_for_every_answer_is_an_error(numbers):
    with pytest.raises(ValueError, match=f"numbers = {numbers!r}: at least p = 7"):
        ar.vocabulary(numbers, 7)


def test_tokens_are_a_b_equals():
    pairs = torch.tensor([[[0, 1], [11, 3]]])
    assert ar.tokens(pairs, 12).tolist() == [[[0, 1, 12], [11, 3, 12]]]


def test_all_pairs_in_order():
    assert ar.all_pairs(2).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def as_set(pairs):
    found = {tuple(pair) for pair in pairs.tolist()}
    assert len(found) == len(pairs)
    return found


@pytest.mark.parametrize("sizes", [[12, 5, 7], [20, 0, 124], [60, 42, 42]])
def test_split_is_disjoint_and_its_first_set_covers_every_number(rng, sizes):
    for _ in range(20):
        parts = ar.split_pairs(12, sizes, rng)
        sets = [as_set(part) for part in parts]
        assert [len(part) for part in sets] == sizes
        assert len(set.union(*sets)) == sum(sizes)
        assert {a for a, _ in sets[0]} == {b for _, b in sets[0]} == set(range(12))
        assert all(0 <= a < 12 and 0 <= b < 12 for a, b in set.union(*sets))


def test_split_without_cover_can_be_smaller_than_the_numbers(rng):
    assert [len(part) for part in ar.split_pairs(12, [3, 4], rng, cover=False)] == [3, 4]


def test_split_is_determined_by_its_generator():
    draw = lambda seed: ar.split_pairs(9, [20, 10], torch.Generator().manual_seed(seed))  # noqa: E731
    assert all(torch.equal(a, b) for a, b in zip(draw(1), draw(1), strict=True))
    assert not torch.equal(draw(1)[0], draw(2)[0])


def test_split_draws_every_pair_equally_often_without_cover(rng):
    counts = torch.zeros(16)
    for _ in range(2000):
        (part,) = ar.split_pairs(4, [4], rng, cover=False)
        counts[part[:, 0] * 4 + part[:, 1]] += 1
    assert float((counts - 500).abs().max()) < 100  # 5 standard deviations


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([100, 40, 5], r"145 pairs are asked for \(100 \+ 40 \+ 5\), only 144 exist with 12 numbers"),
        ([11, 5], r"sizes\[0\] = 11: covering every number needs at least 12"),
        ([20, -1], r"\[20, -1\]"),
    ],
)
def test_split_that_cannot_be_made_is_an_error_with_the_counts(rng, sizes, message):
    with pytest.raises(ValueError, match=message):
        ar.split_pairs(12, sizes, rng)


def test_ambiguous_pairs_have_equal_numbers_on_which_the_candidates_agree(rng):
    pairs = ar.ambiguous_pairs(200, 200, rng)
    assert sorted(pairs[:, 0].tolist()) == list(range(200))
    assert torch.equal(pairs[:, 0], pairs[:, 1])
    for p in (2, 3, 7, 31, 200):
        assert values("a^2 + ab", pairs, p) == values("2a^2", pairs, p) == values("2b^2", pairs, p)


@pytest.mark.parametrize(("count", "most"), [(0, 0), (5, 1), (12, 1), (13, 2), (30, 3)])
def test_ambiguous_pairs_use_every_number_before_any_repeats(rng, count, most):
    pairs = ar.ambiguous_pairs(12, count, rng)
    assert pairs.shape == (count, 2)
    counts = torch.bincount(pairs[:, 0], minlength=12)
    assert int(counts.max()) == most
    assert int(counts.min()) >= most - 1


def test_negative_number_of_ambiguous_pairs_is_an_error(rng):
    with pytest.raises(ValueError, match="ambiguous = -1"):
        ar.ambiguous_pairs(12, -1, rng)


def test_unambiguous_pairs_are_disjoint_and_never_equal(rng):
    sets = [as_set(part) for part in ar.unambiguous_pairs(12, [30, 20, 82], rng)]
    assert [len(part) for part in sets] == [30, 20, 82]
    assert set.union(*sets) == {(a, b) for a in range(12) for b in range(12) if a != b}


def test_too_many_unambiguous_pairs_are_an_error_with_the_counts(rng):
    with pytest.raises(ValueError, match=r"133 .*\(100 \+ 33\), only 132 exist with 12"):
        ar.unambiguous_pairs(12, [100, 33], rng)


@pytest.mark.parametrize(("size", "count"), [(5, 20), (5, 23), (7, 3), (1, 4)])
def test_sample_order_is_a_chain_of_permutations(rng, size, count):
    order = ar.sample_order(size, count, rng).tolist()
    assert len(order) == count
    for start in range(0, count - size + 1, size):
        assert sorted(order[start : start + size]) == list(range(size))
    rest = order[count - count % size :]
    assert len(set(rest)) == len(rest)


def test_epochs_are_shuffled_anew(rng):
    order = ar.sample_order(50, 100, rng)
    assert not torch.equal(order[:50], order[50:])


def test_order_of_an_empty_set_is_an_error(rng):
    with pytest.raises(ValueError, match="size = 0"):
        ar.sample_order(0, 3, rng)


def test_batches_follow_the_orders_and_never_touch_the_padding():
    sets = [torch.tensor([[1, 2], [3, 4], [5, 6]]), torch.tensor([[7, 8]])]
    generators = [torch.Generator().manual_seed(k) for k in range(2)]
    data = ar.samples(sets, PARSE("ab"), p=11, numbers=12, batch=2, steps=6, generators=generators)
    order = ar.sample_order(3, 12, torch.Generator().manual_seed(0))
    for step in range(6):
        inputs, answers = data(step, torch.tensor([0, 1]))
        rows = sets[0][order[2 * step : 2 * step + 2]]
        assert inputs[0].tolist() == [[a, b, 12] for a, b in rows.tolist()]
        assert answers[0].tolist() == [a * b % 11 for a, b in rows.tolist()]
        assert inputs[1].tolist() == [[7, 8, 12]] * 2
        assert answers[1].tolist() == [1, 1]
        only = data(step, torch.tensor([1]))
        assert torch.equal(only[0], inputs[1:])
        assert torch.equal(only[1], answers[1:])


@pytest.mark.parametrize("p", [2, 3, 7])
@pytest.mark.parametrize("texts", [("a^2 + ab", "2a^2", "2b^2"), ("a", "b"), ("a",), ("a + b", "b + a")])
def test_distinct_by_brute_force(texts, p):
    pairs = ar.all_pairs(8)
    expected = []
    for a, b in pairs.tolist():
        found = [int(PARSE(text)(torch.tensor(a), torch.tensor(b), p)) for text in texts]
        expected.append(all(x != y for x, y in itertools.combinations(found, 2)))
    assert ar.distinct(pairs, [PARSE(text) for text in texts], p).tolist() == expected


@pytest.fixture
def nets():
    return [gpt2(vocab=12, n_layer=1, n_embd=16, n_head=2, seed=seed).eval() for seed in range(2)]


@pytest.fixture
def batch(rng):
    pairs = torch.randint(0, 11, (2, 6, 2), generator=rng)
    return ar.tokens(pairs, 11), PARSE("ab")(pairs[..., 0], pairs[..., 1], 5)


@torch.no_grad()
def test_loss_on_the_answer_by_hand(nets, batch):
    values = ar.losses(n_head=2)(stack(nets), {}, batch, 0)
    for k, net in enumerate(nets):
        logs = net(batch[0][k]).logits.log_softmax(-1)
        expected = -sum(float(logs[i, 2, batch[1][k, i]]) for i in range(6)) / 6
        assert float(values[k]) == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_loss_on_all_positions_by_hand(nets, batch):
    values = ar.losses(n_head=2, all_positions=True)(stack(nets), {}, batch, 0)
    for k, net in enumerate(nets):
        logs = net(batch[0][k]).logits.log_softmax(-1)
        total = 0.0
        for i, (_, b, equals) in enumerate(batch[0][k].tolist()):
            total -= float(logs[i, 0, b] + logs[i, 1, equals] + logs[i, 2, batch[1][k, i]])
        assert float(values[k]) == pytest.approx(total / 18, abs=1e-5)


@torch.no_grad()
def test_loss_against_the_uniform_law_by_hand(nets, batch):
    kind = {"n_head": 2, "dtype": torch.float32}
    values = ar.to_uniform(0.5, p=5, **kind)(stack(nets), {}, batch, 0)
    for k, net in enumerate(nets):
        logs = net(batch[0][k]).logits[:, 2].log_softmax(-1)
        expected = -sum(float(logs[i, answer]) for i in range(6) for answer in range(5)) / 30
        assert float(values[k]) == pytest.approx(0.5 * expected, abs=1e-5)
    flat = {name: torch.zeros_like(tensor) for name, tensor in stack(nets).items()}
    assert ar.to_uniform(1.0, p=5, **kind)(flat, {}, batch, 0).tolist() == pytest.approx([math.log(12)] * 2)


@torch.no_grad()
def test_divergence_from_the_source_by_hand(nets, batch):
    other = [gpt2(vocab=12, n_layer=1, n_embd=16, n_head=2, seed=seed).eval() for seed in (5, 6)]
    loss = ar.to_source(n_head=2, dtype=torch.float32)
    values = loss(stack(nets), stack(other), batch, 0)
    for k, (net, whole) in enumerate(zip(nets, other, strict=True)):
        found, wanted = (one(batch[0][k]).logits[:, 2].log_softmax(-1) for one in (net, whole))
        expected = torch.nn.functional.kl_div(found, wanted, log_target=True, reduction="batchmean")
        assert float(values[k]) == pytest.approx(float(expected), abs=1e-6)
    assert loss(stack(nets), stack(nets), batch, 0).tolist() == pytest.approx([0.0, 0.0], abs=1e-7)


@pytest.mark.parametrize("p", [2, 3, 5, 7])
def test_a_polynomial_through_a_table_has_its_values_and_can_be_read_back(p, rng):
    table = torch.randint(p, (p, p), generator=rng)
    found = ar.Computation.through(table)
    a, b = ar.all_pairs(3 * p).T
    assert torch.equal(found(a, b, p), table[a % p, b % p])
    assert PARSE(str(found)) == found


def test_known_tables_give_known_polynomials():
    a = torch.arange(5)
    assert str(ar.Computation.through(a[:, None] * a)) == "ab"
    assert str(ar.Computation.through(a[:, None] ** 2 + 3 * a)) == "a^2 + 3b"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (torch.zeros(4, 4, dtype=torch.long), r"\[4, 4\]: expected \[p, p\] for a prime"),
        (torch.zeros(3, 5, dtype=torch.long), r"\[3, 5\]"), ([[1, 0], [0, 1]], "table is a list"),
        (torch.zeros(3, 3, dtype=torch.long), "every value is 0"),
        (torch.ones(3, 3), r"float32: expected a tensor of integers"),
    ],
)  # fmt: skip
def test_a_table_that_no_polynomial_fits_is_refused(table, said):
    with pytest.raises(ValueError, match=said):
        ar.Computation.through(table)


def test_floor_of_the_loss_on_all_positions_is_a_third_of_the_entropy_of_b():
    # The best that can be known before b: every number alike; = and the answer for certain.
    logits = torch.full((11 * 11, 3, 12), -100.0)
    pairs = ar.all_pairs(11)
    answers = PARSE("ab")(pairs[:, 0], pairs[:, 1], 5)
    logits[:, 0, :11] = 0.0
    logits[:, 1, 11] = 100.0
    logits[torch.arange(121), 2, answers] = 100.0
    targets = torch.cat([ar.tokens(pairs, 11)[:, 1:], answers[:, None]], 1)
    assert float(F.cross_entropy(logits.flatten(0, 1), targets.flatten())) == pytest.approx(math.log(11) / 3, abs=1e-4)


def test_prediction_is_the_argmax_of_hugging_face_in_chunks_of_any_size(nets):
    pairs = torch.stack([ar.all_pairs(11), ar.all_pairs(11).flip(0)])
    expected = torch.stack([net(ar.tokens(pairs[k], 11)).logits[:, -1].argmax(-1) for k, net in enumerate(nets)])
    for chunk in (7, 121, 1000):
        assert torch.equal(ar.predict(stack(nets), pairs, n_head=2, numbers=11, chunk=chunk), expected)


@pytest.mark.parametrize(
    ("part", "whole", "expected"),
    [("ab", "a + ab", True), ("ba", "a + ab", True), ("2ab", "a + ab", False), ("a + b", "b^2 + a", False)],
)
def test_terms_of_a_computation(part, whole, expected):
    assert ar.is_term(part, whole) is expected
