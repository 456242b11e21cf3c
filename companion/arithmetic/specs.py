"""What decides a base model, a search and a transfer: checked settings, and the data that follows from them.

The spec of what an object was made from is nested in its own, and the JSON of a spec is part of the key under which
the object is stored. So a setting that is added later is left out of a spec's ``json`` where it has the default that
changes nothing: name it in the call of :func:`companion.lab.recipes.without_neutral` there, as ``Base.json`` does.
Otherwise nothing that is stored would be found again.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from companion.arithmetic.gpt2 import Dropout, check_sizes, gpt2
from companion.arithmetic.task import Computation, ambiguous_pairs, split_pairs, unambiguous_pairs, vocabulary
from companion.lab.make import DTYPES, check_dtype
from companion.lab.recipes import without_neutral
from sicore.families import (
    ContinuousSparsification,
    Family,
    GaussianGate,
    GradientTimesWeight,
    HardConcrete,
    Magnitude,
    Score,
    StraightThrough,
)
from sicore.masking import Params, maskable, matching, parameter_groups
from sicore.seeding import derive, generator
from sicore.training import check_counts, check_optimiser

INHERITED = ("embeddings", "norms", "biases")
"""What the released code copies beside the masked weights (see :func:`sicore.masking.parameter_groups`)."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """A base model: GPT-2, trained from scratch on ``computation`` (paper, section 4).

    The defaults are the paper's settings, but for stopping: training ends when the accuracy
    on validation pairs reaches ``target``. The paper's way, ten epochs without a lower loss, is ``patience`` above 0:
    training ends after so many evaluations without a lower loss on validation pairs, and the lowest one's network is
    kept; it counts as one that has learned its task if it has reached ``target``.
    ``train_pairs``, ``validation_pairs`` and ``test_pairs`` are disjoint.

    Models stay on a plateau for a time that differs much from seed to seed. With ``limit``
    above 0, one that has not reached ``target`` after so many steps is given up; the
    learning rate still falls over ``steps``.

    On a GPU the models of a stack share a stream of dropout, so that ``stack`` counts there; on a CPU it is 0.
    """

    computation: str = "a + ab"
    p: int = 7
    numbers: int = 1000
    n_layer: int = 2
    n_embd: int = 128
    n_head: int = 4
    train_pairs: int = 200_000
    validation_pairs: int = 1000
    test_pairs: int = 1000
    steps: int = 200_000
    limit: int = 0
    batch: int = 50
    lr: float = 5e-4
    weight_decay: float = 0.0
    dropout: float = 0.1
    clip: float | None = 1.0
    all_positions: bool = True
    every: int = 1000
    target: float | None = 0.999
    patience: int = 0
    dtype: str = "float32"
    device: str = "cpu"
    stack: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        vocabulary(self.numbers, self.p)
        check_counts(train_pairs=self.train_pairs)
        check_sizes(n_layer=self.n_layer, n_embd=self.n_embd, n_head=self.n_head)
        _check(self)
        if isinstance(self.limit, bool) or not isinstance(self.limit, int) or not 0 <= self.limit <= self.steps:
            raise ValueError(f"limit = {self.limit!r}: expected 1 to steps = {self.steps}, or 0 for no limit")
        if isinstance(self.patience, bool) or not isinstance(self.patience, int) or self.patience < 0:
            raise ValueError(
                f"patience = {self.patience!r}: expected 1 or more evaluations, or 0 to stop at target = {self.target}"
            )
        derive(self.seed)

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Base:
        """From its JSON."""
        return cls(**spec)

    def json(self) -> dict[str, Any]:
        return without_neutral(vars(self), stack=0, patience=0)

    def build(self, seed: int) -> nn.Module:
        """The network, newly initialised."""
        return gpt2(
            vocab=vocabulary(self.numbers, self.p), n_layer=self.n_layer, n_embd=self.n_embd, n_head=self.n_head,
            seed=seed,
        )  # fmt: skip

    def split(self) -> list[Tensor]:
        """Training, validation and test pairs, [N, 2] each."""
        sizes = {
            "train_pairs": self.train_pairs, "validation_pairs": self.validation_pairs, "test_pairs": self.test_pairs,
        }  # fmt: skip
        return _split(self.numbers, sizes, self.seed, "base")


FAMILIES: dict[str, Family | Score] = {
    "continuous_sparsification": ContinuousSparsification(),
    "hard_concrete": HardConcrete(),
    "gaussian_gate": GaussianGate(),
    "straight_through": StraightThrough(),
    "magnitude": Magnitude(),
    "gradient_times_weight": GradientTimesWeight(),
}
"""Mask families by the names that tables and parameters have for them."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search for the subnetwork of ``base`` that computes ``computation`` (paper, section 3.1).

    Masked are the attention and MLP projections. The defaults are the paper's settings.
    With ``complete`` the embeddings are masked too, and the search runs with norms at 1 and
    biases at 0, as they are in a fresh network: the subnetwork then needs nothing beside itself.

    ``family`` is one of :data:`FAMILIES`; ``stages``, ``final_temperature``, ``initial_logit`` and ``skip_temperature``
    are those of continuous sparsification. A ``density`` above 0 is reached by a Lagrangian, and ``penalty`` is then
    only its unit. With ``redraw`` above 0 fresh weights stand outside of the mask at every so many steps, zeros at the
    others (:func:`sicore.transplant.redrawn`): of the parameters that match ``redraw_only``, times ``redraw_scale``,
    and with ``redraw_still`` the same ones at every step. ``dropout`` is that of the search. ``completeness`` is the
    weight of a second loss, the cross-entropy of the rest of the network with the uniform answer. With ``to_base`` the
    loss is the divergence from the base's own answers, in place of the right ones.
    """

    base: Base
    computation: str = "ab"
    pairs: int = 50_000
    validation_pairs: int = 1000
    test_pairs: int = 1000
    steps: int = 5000
    batch: int = 500
    lr: float = 1e-3
    penalty: float = 1e-7
    stages: int = 50
    final_temperature: float = 100.0
    initial_logit: float = -0.1
    skip_temperature: bool = False
    weight_decay: float = 0.0
    all_positions: bool = False
    every: int = 100
    complete: bool = False
    dtype: str = "float32"
    family: str = "continuous_sparsification"
    density: float = 0.0
    redraw: int = 0
    redraw_only: str = "*"
    redraw_scale: float = 1.0
    redraw_still: bool = False
    dropout: float = 0.0
    completeness: float = 0.0
    to_base: bool = False

    def __post_init__(self) -> None:
        check_counts(pairs=self.pairs)
        _check(self)
        for name in ("penalty", "completeness"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} = {getattr(self, name)!r}: expected a finite number of 0 or more")
        if self.family not in FAMILIES:
            raise ValueError(f"family = {self.family!r} does not exist; expected one of {', '.join(FAMILIES)}")
        if not 0 <= self.density <= 1:
            raise ValueError(
                f"density = {self.density!r}: expected a share of the weights, or 0 for what penalty brings"
            )
        ranks = isinstance(FAMILIES[self.family], Score)
        if ranks and not self.density:
            raise ValueError(f"density = 0: family = {self.family!r} ranks weights, and needs the share to keep")
        if isinstance(self.redraw, bool) or not isinstance(self.redraw, int) or self.redraw < 0:
            raise ValueError(
                f"redraw = {self.redraw!r}: expected fresh weights at every so many steps, 1 or more, or 0 for zeros"
            )
        if ranks and (self.redraw or self.completeness or self.dropout or self.to_base):
            raise ValueError(
                f"family = {self.family!r} ranks weights and takes no steps: without redraw, completeness, dropout and "
                "to_base"
            )
        if self.to_base and (self.complete or self.dropout):
            raise ValueError(
                "to_base = True: the base's answers are those of the whole base, without complete and dropout"
            )
        if not 0 < self.redraw_scale < math.inf:
            raise ValueError(f"redraw_scale = {self.redraw_scale!r}: expected a finite number above 0")
        if self.redraw and not self.redrawn():
            raise ValueError(f"redraw_only = {self.redraw_only!r} matches none of {', '.join(self.masked())}")
        Dropout(self.dropout, [])
        self.masks()

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Search:
        """From its JSON."""
        return cls(**{**spec, "base": Base.of(spec["base"])})

    def json(self) -> dict[str, Any]:
        neutral = without_neutral(
            vars(self), family="continuous_sparsification", density=0.0, redraw=0, redraw_only="*", redraw_scale=1.0,
            redraw_still=False, dropout=0.0, completeness=0.0, to_base=False,
        )  # fmt: skip
        return neutral | {"base": self.base.json()}

    def masks(self) -> Family | Score:
        """How the mask is learned."""
        if self.family != "continuous_sparsification":
            return FAMILIES[self.family]
        return ContinuousSparsification(
            self.initial_logit, final=self.final_temperature, stages=self.stages, skip=self.skip_temperature
        )

    def split(self) -> list[Tensor]:
        """Training, validation and test pairs, [N, 2] each."""
        sizes = {"pairs": self.pairs, "validation_pairs": self.validation_pairs, "test_pairs": self.test_pairs}
        return _split(self.base.numbers, sizes, self.base.seed, "discovery")

    def masked(self) -> tuple[str, ...]:
        """Names of the masked parameters: the layers' matrices, for a complete subnetwork the embeddings too."""
        model = self.base.build(seed=0)
        layers = maskable(model, include="transformer.h.*")
        return layers + parameter_groups(model)["embeddings"] if self.complete else layers

    def redrawn(self) -> list[str]:
        """Names of the masked parameters outside of whose mask fresh weights stand."""
        return matching(self.masked(), self.redraw_only)

    def masked_dtype(self, dtype: str) -> torch.dtype:
        """The type of the masked weights where products are computed in ``dtype``."""
        # Embeddings are looked up in float32: a token's gradient is a sum over the whole batch.
        return torch.float32 if self.complete else DTYPES[dtype]

    def source(self, params: Params) -> Params:
        """The network that is searched, from the base's ``params``: see ``complete``."""
        if not self.complete:
            return params
        groups = parameter_groups(self.base.build(seed=0))
        plain = {}
        for name in groups["norms"] + groups["biases"]:
            one = name in groups["norms"] and name.endswith("weight")
            plain[name] = torch.ones_like(params[name]) if one else torch.zeros_like(params[name])
        return params | plain


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """A training on ``computation`` that starts from what the search ``source`` has found (paper, section 4).

    The training set is ``ambiguous`` pairs with a = b and the first ``n_disambiguation`` of a fixed
    random sequence of pairs with a != b; validation and test pairs hold a != b. A run stops at the accuracy
    ``target`` on validation pairs; with 1.0 that changes no test accuracy, since of equally good
    evaluations the first is kept anyway. Each ``draw`` has other fresh weights and other samples.

    ``copied``, ``behaviour``, ``inherit`` and ``freeze`` say where it starts, as in
    :class:`companion.arithmetic.starts.Condition`.
    """

    source: Search
    computation: str = "a^2 + ab"
    ambiguous: int = 1000
    validation_pairs: int = 1000
    test_pairs: int = 1000
    steps: int = 10_000
    batch: int = 50
    lr: float = 2e-4
    weight_decay: float = 0.01
    dropout: float = 0.1
    clip: float | None = 1.0
    all_positions: bool = False
    every: int = 100
    target: float | None = None
    dtype: str = "float32"
    copied: str = "subnetwork"
    behaviour: str = ""
    inherit: tuple[str, ...] = INHERITED
    freeze: bool = True
    n_disambiguation: int = 0
    draw: int = 0

    def __post_init__(self) -> None:
        _check(self)
        if self.ambiguous < 0:
            raise ValueError(f"ambiguous = {self.ambiguous}: the number of samples is 0 or more")
        if self.n_disambiguation < 0 or self.n_disambiguation + self.ambiguous < 1:
            raise ValueError(
                f"n_disambiguation = {self.n_disambiguation} with ambiguous = {self.ambiguous}: "
                "a training set needs 1 sample or more"
            )

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Transfer:
        """From its JSON."""
        return cls(**{**spec, "source": Search.of(spec["source"]), "inherit": tuple(spec["inherit"])})

    def json(self) -> dict[str, Any]:
        return without_neutral(vars(self)) | {"source": self.source.json(), "inherit": list(self.inherit)}

    @property
    def base(self) -> Base:
        """The base model that was searched."""
        return self.source.base

    @property
    def seed(self) -> int:
        """Of the fresh weights, of dropout and of the order of the samples."""
        return derive(self.base.seed, "transfer", *_draw(self.draw))

    def generator(self, *purpose: str) -> torch.Generator:
        """Random numbers that all runs of a seed and draw share."""
        return generator(self.base.seed, "transfer", *purpose, *_draw(self.draw))

    def inherited(self) -> list[str]:
        """Names of the parameters beside the masked ones that are copied."""
        known = parameter_groups(self.base.build(seed=0))
        for group in self.inherit:
            if group not in known:
                raise ValueError(f"inherit: {group!r} does not exist; expected some of {', '.join(known)}")
        return [name for group in self.inherit for name in known[group]]

    def split(self) -> tuple[Tensor, Tensor, Tensor]:
        """Training, validation and test pairs, [N, 2] each.

        The runs of a seed and draw share the evaluation pairs, and the larger training sets hold the smaller ones.
        """
        ambiguous, validation, test, pool = _drawn_pairs(
            self.base.numbers, self.base.seed, self.draw, self.ambiguous, self.validation_pairs, self.test_pairs
        )
        if self.n_disambiguation > len(pool):
            raise ValueError(
                f"n_disambiguation = {self.n_disambiguation}: only {len(pool)} pairs with a != b are left among "
                f"{self.base.numbers} numbers beside {len(validation) + len(test)} for validation and test"
            )
        return torch.cat([ambiguous, pool[: self.n_disambiguation]]), validation, test

    def seen(self, pairs: Tensor) -> Tensor:
        """Which of the pairs [N, 2] were training pairs of the base or of the search? Boolean [N]."""
        numbers = self.base.numbers
        seen = torch.zeros(numbers * numbers, dtype=torch.bool)
        for trained in (self.base.split()[0], self.source.split()[0]):
            seen[trained[:, 0] * numbers + trained[:, 1]] = True
        return seen[pairs[:, 0] * numbers + pairs[:, 1]]


def _check(spec: Base | Search | Transfer) -> None:
    """``ValueError`` naming the first setting that all three have and that is out of range."""
    Computation.parse(spec.computation)
    check_dtype(spec.dtype)
    check_counts(
        steps=spec.steps, batch=spec.batch, every=spec.every, validation_pairs=spec.validation_pairs,
        test_pairs=spec.test_pairs,
    )  # fmt: skip
    check_optimiser(spec.lr, spec.weight_decay, None if isinstance(spec, Search) else spec.clip)
    if not isinstance(spec, Search):
        Dropout(spec.dropout, [])
        if spec.target is not None and not 0 <= spec.target <= 1:
            raise ValueError(f"target = {spec.target!r}: expected an accuracy, 0 to 1, or None")


def _draw(draw: int) -> tuple[Any, ...]:
    """Further words for a generator's purpose; none for the first draw."""
    return ("draw", draw) if draw else ()


def _split(numbers: int, sizes: Mapping[str, int], seed: int, stage: str) -> list[Tensor]:
    """Disjoint sets of pairs, of ``sizes``; the first is the training set. ``ValueError`` naming a size that does not
    fit.
    """
    told = ", ".join(f"{name} = {size}" for name, size in sizes.items())
    if sum(sizes.values()) > numbers**2:
        raise ValueError(
            f"{told}: {sum(sizes.values())} pairs are asked for, only {numbers**2} exist with numbers = {numbers}"
        )
    name, size = next(iter(sizes.items()))
    if size < numbers:
        raise ValueError(f"{name} = {size}: covering every number needs at least numbers = {numbers} training pairs")
    return _split_of(numbers, tuple(sizes.values()), seed, stage)


# Asked for again by every run that is made from them.
@functools.lru_cache(maxsize=16)
def _split_of(numbers: int, sizes: Sequence[int], seed: int, stage: str) -> list[Tensor]:
    return split_pairs(numbers, sizes, generator(seed, stage, "pairs"))


@functools.lru_cache(maxsize=8)
def _drawn_pairs(numbers: int, seed: int, draw: int, ambiguous: int, validation: int, test: int) -> list[Tensor]:
    rng = generator(seed, "transfer", "pairs", *_draw(draw))
    rest = numbers * (numbers - 1) - validation - test
    if rest < 0:
        raise ValueError(
            f"validation_pairs = {validation}, test_pairs = {test}: these are more than the "
            f"{numbers * (numbers - 1)} pairs with a != b among numbers = {numbers}"
        )
    return [ambiguous_pairs(numbers, ambiguous, rng), *unambiguous_pairs(numbers, [validation, test, rest], rng)]
