"""What decides a base, its new head, a search in it and a row of the table: checked settings, and what follows.

The spec of what an object was made from is nested in its own, and the JSON of a spec is part of the key under which
the object is stored. So ``json`` leaves a setting that is added later out where it has the default that changes
nothing (:func:`companion.lab.recipes.without_neutral`): otherwise nothing that is stored would be found again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from companion.lab.make import check_dtype
from companion.lab.recipes import PICTURES, without_neutral
from companion.vision import classifiers
from companion.vision.pictures import pictures, roles
from companion.vision.starts import CONDITIONS, Condition
from sicore.families import ContinuousSparsification
from sicore.masking import maskable
from sicore.training import check_counts, check_optimiser

MODELS = ("resnet", "vit", "pretrained", "untrained")


@dataclass(frozen=True, kw_only=True)
class Base:
    """A classifier, trained on the pretraining pictures or as it comes.

    Parameters
    ----------
    data
        Of :func:`companion.vision.pictures.scenes` or :func:`companion.vision.pictures.photographs`, and ``seed``.
    model
        ``{"resnet": settings}`` or ``{"vit": settings}``, settings of :func:`companion.vision.classifiers.resnet` and
        :func:`companion.vision.classifiers.vit`; or ``{"pretrained": settings}``, of
        :func:`companion.vision.classifiers.pretrained`, or ``{"untrained": settings}`` for its architecture alone.
        Beside these ``bytes``, a checksum of the model, and where it wants another one than ImageNet's
        ``normalisation``, of :func:`companion.vision.classifiers.normalisation`:
        :func:`companion.vision.stages.base_models` finds both.
    steps
        0: as it is, untrained (``resnet``, ``vit``, ``untrained``) or pretrained.
    code
        The recipe of the pictures and networks.
    pieces
        Pieces in which a batch is computed, one after the other, where memory is short.
    """

    data: dict[str, Any]
    model: dict[str, Any]
    steps: int = 1500
    batch: int = 64
    lr: float = 4e-3
    weight_decay: float = 0.05
    every: int = 250
    dtype: str = "float32"
    device: str = "cpu"
    code: str = PICTURES
    pieces: int = 1

    def __post_init__(self) -> None:
        check_dtype(self.dtype)
        check_counts(batch=self.batch, every=self.every, pieces=self.pieces)
        check_optimiser(self.lr, self.weight_decay)
        if self.batch % self.pieces:
            raise ValueError(f"batch = {self.batch} is not a multiple of pieces = {self.pieces}")
        if not any(kind in self.model for kind in MODELS):
            raise ValueError(f"model = {self.model}: expected {', '.join(MODELS[:-1])} or {MODELS[-1]}")
        if self.steps and "pretrained" in self.model:
            raise ValueError(f"steps = {self.steps}: a pretrained model is taken as it is, with steps = 0")
        if self.steps and "pretraining" not in roles(self.data):
            raise ValueError("data: photographs come without a set for pretraining; name a pretrained model")

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Base:
        """From its JSON."""
        return cls(**spec)

    def json(self) -> dict[str, Any]:
        return without_neutral(vars(self), pieces=1)

    @property
    def base(self) -> Base:
        """Itself; every spec has one."""
        return self

    @property
    def seed(self) -> int:
        return int(self.data["seed"])

    @property
    def first_role(self) -> str:
        """The pictures that the base is for."""
        return "pretraining" if "pretraining" in roles(self.data) else "training"

    @property
    def outputs(self) -> int:
        """Classes of the base, before it has a new head."""
        return len(pictures(self.data, self.first_role).classes)

    @property
    def normalisation(self) -> classifiers.Normalisation:
        """Mean and spread by which its pictures are standardised."""
        mean, spread = self.model.get("normalisation", classifiers.IMAGENET)
        return tuple(mean), tuple(spread)

    def build(self, seed: int = 0) -> nn.Module:
        """The architecture, newly initialised."""
        return build(self.model, self.outputs, seed)

    def headed(self, seed: int = 0) -> nn.Module:
        """The architecture with a head for the classes of the training pictures, newly initialised."""
        classes = len(pictures(self.data, "training").classes)
        return classifiers.renew_head(self.build(seed), classes, seed=seed)


@dataclass(frozen=True, kw_only=True)
class Head:
    """A new head for the classes of the pictures ``on``, trained on the features of the frozen base.

    On ``discovery`` it is a linear probe: do the features hold what names mean-pooled pictures?
    """

    base: Base
    on: str = "training"
    steps: int = 1000
    batch: int = 256
    lr: float = 1e-2
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, batch=self.batch)
        check_optimiser(self.lr, self.weight_decay)

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Head:
        """From its JSON."""
        return cls(**{**spec, "base": Base.of(spec["base"])})

    def json(self) -> dict[str, Any]:
        return without_neutral(vars(self)) | {"base": self.base.json()}


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search for the subnetwork that recognises mean-pooled pictures, in a base with its new head.

    Masked are all convolutions (of a ViT: all linear layers too), not the head (paper, appendix C). The paper
    starts at logits of -0.1 and a temperature of 1, so that every weight begins at 0.48 of its size under running
    statistics of the full network; here it begins at 0.73.
    """

    headed: Head
    steps: int = 1000
    batch: int = 64
    lr: float = 2e-2
    penalty: float = 1e-6
    initial_logit: float = 0.1
    initial_temperature: float = 10.0
    final_temperature: float = 100.0
    stages: int = 50
    every: int = 100

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, batch=self.batch, every=self.every)
        check_optimiser(self.lr)
        if not 0 <= self.penalty < math.inf:
            raise ValueError(f"penalty = {self.penalty!r}: expected a finite number of 0 or more")
        self.family()

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Search:
        """From its JSON."""
        return cls(**{**spec, "headed": Head.of(spec["headed"])})

    def json(self) -> dict[str, Any]:
        return without_neutral(vars(self)) | {"headed": self.headed.json()}

    @property
    def base(self) -> Base:
        return self.headed.base

    def family(self) -> ContinuousSparsification:
        """The masks that are searched among."""
        return ContinuousSparsification(
            self.initial_logit, self.initial_temperature, self.final_temperature, self.stages
        )


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table: a training that begins with what the search ``source`` has found.

    Parameters
    ----------
    before
        The row from whose end this one goes on.
    steps
        0: evaluated as it is.
    momentum
        Stochastic gradient descent with this momentum (the paper's 0.9); below 0: AdamW.
    weighted
        Loss weighted by the inverse frequency of the classes (paper), but where batches are balanced.
    """

    condition: Condition
    source: Search
    before: Row | None = None
    steps: int = 1000
    lr: float = 4e-3
    batch: int = 64
    weight_decay: float = 0.05
    momentum: float = -1.0
    weighted: bool = True
    every: int = 100

    def __post_init__(self) -> None:
        check_counts(batch=self.batch, every=self.every)
        if self.steps:
            check_counts(steps=self.steps)
            check_optimiser(self.lr, self.weight_decay)
        if not self.momentum < 1:
            raise ValueError(f"momentum = {self.momentum!r}: expected a number below 1, below 0 for AdamW")

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Row:
        """From its JSON."""
        others = {key: value for key, value in spec.items() if key not in ("name", "condition")}
        source, before = Search.of(spec["source"]), spec["before"]
        return cls(**{
            **others, "condition": CONDITIONS[spec["name"]], "source": source,
            "before": cls.of(before) if before else None,
        })  # fmt: skip

    def json(self) -> dict[str, Any]:
        return {
            **vars(self), "name": self.name, "condition": self.condition.json(), "source": self.source.json(),
            "before": self.before.json() if self.before else None,
        }  # fmt: skip

    @property
    def name(self) -> str:
        """Of the condition."""
        return self.condition.name

    @property
    def base(self) -> Base:
        return self.source.base


def build(model: Mapping[str, Any], classes: int, seed: int = 0) -> nn.Module:
    """A classifier, newly initialised, from the ``model`` of a :class:`Base`."""
    if "resnet" in model:
        return classifiers.resnet(classes, **model["resnet"], seed=seed)
    if "vit" in model:
        return classifiers.vit(classes, **model["vit"], seed=seed)
    kind = "pretrained" if "pretrained" in model else "untrained"
    return classifiers.untrained(model[kind]["source"], seed=seed)


def masked(model: nn.Module) -> tuple[str, ...]:
    """Names of the parameters of a classifier that a search masks: all kernels but the head's."""
    return maskable(model, exclude=f"{classifiers.head(model)}.*")
