"""The paper's arithmetic task: answer ``a, b, =`` with a polynomial in a and b, modulo p.

Every number is one token (there is no digit structure), ``=`` is the token after the
last number. A pair is a row ``(a, b)`` of an integer tensor. Source: paper, section 4
and appendix B.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from companion.arithmetic.gpt2 import Dropout, stacked_gpt2, stacked_gpt2_loss
from sicore.masking import Params
from sicore.stacks import Losses

MAX_EXPONENT = 64
MAX_COEFFICIENT = 10**12

# The computations named in the paper and in its released code.
PAPER_COMPUTATIONS = (
    "ab", "a^2", "a + b", "a + ab", "a^2 + ab", "2a^2", "2b^2", "a^2 + b^2", "a^2 - b^2",
    "a^2 + ab + b^2", "a^3 + ab", "a^2 + ab + b^2 + a", "a^3 + ab + b",
)  # fmt: skip

_TERM = re.compile(r"([+-]?)(\d{0,20})((?:\*?[ab](?:\^\d{1,3})?)*)")
_FACTOR = re.compile(r"([ab])(?:\^(\d+))?")


@dataclass(frozen=True)
class Computation:
    """A polynomial in ``a`` and ``b`` with integer coefficients.

    Parameters
    ----------
    terms
        ``((exponent of a, exponent of b), coefficient)`` pairs, sorted, coefficients not 0.

    Examples
    --------
    >>> f = Computation.parse("a^2 + ab")
    >>> int(f(torch.tensor(3), torch.tensor(4), p=7))
    0
    """

    terms: tuple[tuple[tuple[int, int], int], ...]

    @classmethod
    def parse(cls, text: str) -> Computation:
        """Read a string such as ``"a^2 + ab"``, ``"2a^2"`` or ``"a^2 - b^2 + 3"``.

        Products are written side by side or with ``*``, powers with ``^`` or ``**``.
        Nothing is evaluated as code. Raises ``ValueError`` naming the text and the
        place that was not understood.
        """
        if not isinstance(text, str) or len(text) > 1000:
            raise ValueError(
                f"computation = {str(text)[:40]!r}: expected a string of up to 1000 characters, such as 'a^2 + ab'"
            )
        compact = text.replace("**", "^").replace(" ", "")
        split_number = re.search(r"\d +\d", text)
        sums: dict[tuple[int, int], int] = {}
        place = 0
        while place < len(compact) and not split_number:
            match = _TERM.match(compact, place)
            if match is None or not (match[2] or match[3]) or (place and not match[1]):
                break
            if match[3].startswith("*") and not match[2]:
                break
            exponents = {"a": 0, "b": 0}
            for letter, power in _FACTOR.findall(match[3]):
                exponents[letter] += int(power) if power else 1
            if max(exponents.values()) > MAX_EXPONENT:
                raise ValueError(f"computation = {text!r}: exponents go up to {MAX_EXPONENT}")
            coefficient = int(match[2] or 1) * (-1 if match[1] == "-" else 1)
            key = (exponents["a"], exponents["b"])
            sums[key] = sums.get(key, 0) + coefficient
            place = match.end()
        if place < len(compact) or not compact:
            rest = compact[place:] or "nothing"
            raise ValueError(
                f"computation = {text!r}: not understood from {rest!r} on; "
                "write a sum of terms in a and b, such as 'a^2 + ab' or '2a^2 - b'"
            )
        if max(abs(value) for value in sums.values()) > MAX_COEFFICIENT:
            raise ValueError(f"computation = {text!r}: coefficients go up to {MAX_COEFFICIENT}")
        terms = tuple(sorted(((key, value) for key, value in sums.items() if value), reverse=True))
        if not terms:
            raise ValueError(f"computation = {text!r}: every term cancels; the answer would always be 0")
        return cls(terms)

    def __call__(self, a: Tensor, b: Tensor, p: int) -> Tensor:
        """The value modulo ``p``, in 0 .. p-1, elementwise on integer tensors."""
        check_modulus(p)
        a, b = a.long() % p, b.long() % p  # reduced at every product, so that nothing overflows
        total = torch.zeros_like(a + b)
        for (i, j), coefficient in self.terms:
            product = torch.full_like(total, coefficient % p)
            for _ in range(i):
                product = product * a % p
            for _ in range(j):
                product = product * b % p
            total = (total + product) % p
        return total

    @classmethod
    def through(cls, table: Tensor) -> Computation:
        """The polynomial with the values ``table`` [p, p], integers modulo a prime p, at every a and b.

        Its text can be read back for p up to 7; that of a larger table may be too long.

        >>> print(Computation.through(torch.tensor([[0, 1], [1, 0]])))
        a + b
        """
        if not isinstance(table, Tensor) or table.is_floating_point():
            raise ValueError(
                f"table is a {getattr(table, 'dtype', type(table).__name__)}: expected a tensor of integers"
            )
        p = len(table)
        check_modulus(p)
        if table.shape != (p, p) or any(p % divisor == 0 for divisor in range(2, p)):
            raise ValueError(f"table has shape {list(table.shape)}: expected [p, p] for a prime p")
        # sum over x of table[x] * (1 - (a - x)^(p - 1)): by Fermat's theorem the bracket is 1 at a = x and else 0.
        at = torch.zeros(p, p, dtype=torch.long)  # [x, power of a]
        for x in range(p):
            for power in range(p):
                at[x, power] = -math.comb(p - 1, power) * pow(-x, p - 1 - power, p) % p
            at[x, 0] = (at[x, 0] + 1) % p
        values = at.T @ (table.long() % p) @ at % p
        terms = sorted((((i, j), int(values[i, j])) for i in range(p) for j in range(p) if values[i, j]), reverse=True)
        if not terms:
            raise ValueError("table: every value is 0; the answer would always be 0")
        return cls(tuple(terms))

    def __str__(self) -> str:
        text = ""
        for (i, j), coefficient in self.terms:
            letters = "".join(
                letter if power == 1 else f"{letter}^{power}" for letter, power in (("a", i), ("b", j)) if power
            )
            size = abs(coefficient)
            body = letters if letters and size == 1 else f"{size}{letters}"
            sign = "-" if coefficient < 0 else "+"
            text += f" {sign} {body}" if text else f"-{body}" if coefficient < 0 else body
        return text


def is_term(part: str, whole: str) -> bool:
    """Are all terms of one computation terms of the other, as the two are written?

    >>> is_term("ab", "a^2 + ab"), is_term("a + b", "a + ab")
    (True, False)
    """
    return set(Computation.parse(part).terms) <= set(Computation.parse(whole).terms)


def check_modulus(p: int) -> None:
    """Raise ``ValueError`` unless ``p`` is an integer of at least 2 and below 2^31."""
    if isinstance(p, bool) or not isinstance(p, int) or not 2 <= p < 2**31:
        raise ValueError(f"p = {p!r}: the modulus is an integer from 2 to 2^31 - 1")


def vocabulary(numbers: int, p: int) -> int:
    """Size of the vocabulary: the numbers 0 .. ``numbers`` - 1 and ``=``.

    Raises ``ValueError`` when the answers 0 .. p-1 do not all have a token.
    """
    check_modulus(p)
    if isinstance(numbers, bool) or not isinstance(numbers, int) or numbers < p:
        raise ValueError(
            f"numbers = {numbers!r}: at least p = {p} numbers are needed, so that every answer has a token"
        )
    return numbers + 1


def tokens(pairs: Tensor, numbers: int) -> Tensor:
    """``a, b, =`` for every pair: [..., 2] -> [..., 3]."""
    equals = torch.full_like(pairs[..., :1], numbers)
    return torch.cat([pairs, equals], dim=-1)


def all_pairs(numbers: int) -> Tensor:
    """Every pair of numbers, [numbers^2, 2], in lexicographic order."""
    return torch.cartesian_prod(torch.arange(numbers), torch.arange(numbers))


def split_pairs(numbers: int, sizes: Sequence[int], generator: torch.Generator, *, cover: bool = True) -> list[Tensor]:
    """Disjoint random sets of pairs, one per entry of ``sizes``, each [size, 2].

    Parameters
    ----------
    sizes
        How many pairs each set holds. The first is the training set.
    cover
        Every number stands at least once as a and once as b in the first set
        (paper, appendix B: "each number covered at least once").

    Raises
    ------
    ValueError
        When more pairs are asked for than exist, or the first set is too small to
        cover every number.
    """
    exist, wanted = numbers * numbers, sum(sizes)
    if min(sizes, default=0) < 0:
        raise ValueError(f"sizes = {list(sizes)}: a set cannot have fewer than 0 pairs")
    if wanted > exist:
        raise ValueError(
            f"{wanted} pairs are asked for ({' + '.join(map(str, sizes))}), only {exist} exist with {numbers} numbers"
        )
    first = torch.empty(0, dtype=torch.long)
    if cover and sizes:
        if sizes[0] < numbers:
            raise ValueError(f"sizes[0] = {sizes[0]}: covering every number needs at least {numbers} training pairs")
        # A random permutation matrix covers every row and every column once.
        first = torch.arange(numbers) * numbers + torch.randperm(numbers, generator=generator)
    rest = torch.randperm(exist, generator=generator)
    order = torch.cat([first, rest[~torch.isin(rest, first)]])
    pairs = all_pairs(numbers)
    return [pairs[part] for part in order[:wanted].split(list(sizes))]


def ambiguous_pairs(numbers: int, count: int, generator: torch.Generator) -> Tensor:
    """Pairs with a = b, on which a^2+ab, 2a^2 and 2b^2 agree, [count, 2].

    Each number once before any repeats. With 1,000 numbers and 1,000 samples this is
    every ambiguous pair once, as in the paper.
    """
    if count < 0:
        raise ValueError(f"ambiguous = {count}: the number of samples is 0 or more")
    rounds = [torch.randperm(numbers, generator=generator) for _ in range(-(-count // numbers))]
    chosen = torch.cat(rounds)[:count] if rounds else torch.empty(0, dtype=torch.long)
    return torch.stack([chosen, chosen], dim=-1)


def unambiguous_pairs(numbers: int, sizes: Sequence[int], generator: torch.Generator) -> list[Tensor]:
    """Disjoint random sets of pairs with a != b: [size, 2] for every entry of ``sizes``.

    Raises ``ValueError`` when more are asked for than exist.
    """
    pairs = all_pairs(numbers)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    if sum(sizes) > len(pairs):
        raise ValueError(
            f"{sum(sizes)} unambiguous pairs are asked for ({' + '.join(map(str, sizes))}), "
            f"only {len(pairs)} exist with {numbers} numbers"
        )
    order = torch.randperm(len(pairs), generator=generator)[: sum(sizes)]
    return [pairs[part] for part in order.split(list(sizes))]


@dataclass(frozen=True)
class Samples:
    """Training sets of K models and the order in which they are shown.

    Attributes
    ----------
    tokens, answers
        [K, max N, 3] and [K, max N]; shorter sets are padded, and the padding is never drawn.
    orders
        [K, steps * batch], int32: rows of the shuffled epochs, end to end (see :func:`sample_order`).
    batch
        Samples a step.
    """

    tokens: Tensor
    answers: Tensor
    orders: Tensor
    batch: int

    def __call__(self, step: int | Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """Batch of a step for the active models: tokens [k, batch, 3], answers [k, batch]."""
        model = active[:, None]
        places = step * self.batch + torch.arange(self.batch, device=active.device)  # [B]
        rows = self.orders[model, places].long()  # [k, B]
        return self.tokens[model, rows], self.answers[model, rows]


def sample_order(size: int, count: int, generator: torch.Generator) -> Tensor:
    """``count`` indices below ``size``: shuffled epochs, one after the other, cut to length."""
    if size < 1:
        raise ValueError(f"size = {size}: a training set needs at least one sample")
    epochs = [torch.randperm(size, generator=generator) for _ in range(-(-count // size))]
    return torch.cat(epochs)[:count]


def samples(
    sets: Sequence[Tensor],
    computation: Computation,
    *,
    p: int,
    numbers: int,
    batch: int,
    steps: int,
    generators: Sequence[torch.Generator],
    device: str | torch.device = "cpu",
) -> Samples:
    """Pack K training sets of pairs, [N_k, 2] each, for :func:`sicore.training.train`."""
    for pairs in sets:
        if len(pairs) and not 0 <= int(pairs.min()) <= int(pairs.max()) < numbers:
            raise ValueError(f"pairs hold {int(pairs.max())}; numbers = {numbers} allows 0 to {numbers - 1}")
    longest = max(len(pairs) for pairs in sets)
    padded = torch.stack([torch.cat([pairs, pairs.new_zeros(longest - len(pairs), 2)]) for pairs in sets])
    orders = [sample_order(len(pairs), steps * batch, g).int() for pairs, g in zip(sets, generators, strict=True)]
    answers = computation(padded[..., 0], padded[..., 1], p)
    return Samples(tokens(padded, numbers).to(device), answers.to(device), torch.stack(orders).to(device), batch)


def distinct(pairs: Tensor, computations: Sequence[Computation], p: int) -> Tensor:
    """Boolean [N]: on which pairs do all of the computations give different answers?"""
    answers = torch.stack([f(pairs[..., 0], pairs[..., 1], p) for f in computations])  # [C, N]
    different = torch.ones(answers.shape[1:], dtype=torch.bool, device=answers.device)
    for i in range(len(computations)):
        for j in range(i):
            different &= answers[i] != answers[j]
    return different


def losses(
    *,
    n_head: int,
    all_positions: bool = False,
    dropout: Dropout | None = None,
    dtype: torch.dtype = torch.float32,
) -> Losses:
    """Cross-entropy of K stacked GPT-2 models on batches of :class:`Samples`.

    On the answer alone, or with ``all_positions`` on every next token as in the paper:
    b cannot be predicted, so that the loss then has a floor of ln(numbers) / 3.
    """

    def objective(params: Params, context: Params, batch: tuple[Tensor, Tensor], step: int) -> Tensor:
        inputs, answers = batch  # [K, B, 3], [K, B]
        if dropout is not None:
            dropout.start(step, context["index"])
        targets = torch.cat([inputs[..., 1:], answers[..., None]], dim=-1) if all_positions else answers
        return stacked_gpt2_loss(params, inputs, targets, n_head=n_head, dropout=dropout, dtype=dtype)

    return objective


def to_uniform(weight: float, *, p: int, n_head: int, dtype: torch.dtype) -> Losses:
    """``weight`` times the cross-entropy of the last position with the uniform law over the p answers.

    It is least, ``weight * ln(p)``, for a network that says nothing about the answer.
    """

    def objective(params: Params, context: Params, batch: tuple[Tensor, Tensor], step: int) -> Tensor:
        logits = stacked_gpt2(params, batch[0], n_head=n_head, dtype=dtype)  # [K, B, V]
        return -weight * logits.float().log_softmax(-1)[..., :p].mean((1, 2))

    return objective


def to_source(*, n_head: int, dtype: torch.dtype) -> Losses:
    """KL divergence of a masked network's answer from that of its whole network, which ``context`` holds."""

    def objective(params: Params, context: Params, batch: tuple[Tensor, Tensor], step: int) -> Tensor:
        with torch.no_grad():
            whole = {name: context[name] for name in params}
            wanted = stacked_gpt2(whole, batch[0], n_head=n_head, dtype=dtype).float().log_softmax(-1)  # [K, B, V]
        found = stacked_gpt2(params, batch[0], n_head=n_head, dtype=dtype).float().log_softmax(-1)
        return (wanted.exp() * (wanted - found)).sum(-1).mean(1)

    return objective


@torch.no_grad()
def predict(params: Params, pairs: Tensor, *, n_head: int, numbers: int, chunk: int = 1000) -> Tensor:
    """Most likely answer token of K stacked models: pairs [K, N, 2] -> [K, N], in float32."""
    parts = [
        stacked_gpt2(params, tokens(part, numbers), n_head=n_head).argmax(-1) for part in pairs.split(chunk, dim=1)
    ]
    return torch.cat(parts, dim=1)
