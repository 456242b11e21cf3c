"""The stages of the vision experiment, each kept in the store.

``base_models`` -> ``heads`` -> ``subnetworks`` -> ``transfers`` (paper, section 5 and appendix C).

BatchNorm has running statistics, and what happens to them is part of the method: a base that trains
moves them; a head, a linear probe and a search leave them as the base has them (evaluation mode);
a transfer starts from the base's or from fresh ones and moves them; whatever is evaluated uses those
that it ended with. A base that is never trained has those of a pass over pictures: with the initial
ones its activations would shrink from layer to layer.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from companion.lab.make import (
    DTYPES,
    Cost,
    Machine,
    Spec,
    check_counts,
    check_dtype,
    checkpoint,
    fetch,
    history_of,
    make,
    moved,
)
from companion.lab.recipes import PICTURES
from companion.vision import classifiers
from companion.vision.answers import shape_bias
from companion.vision.pictures import Batches, Pictures, normalised, pair, pictures, roles
from sicore.discovery import discover
from sicore.files import canonical_json
from sicore.masking import ContinuousSparsification, Params, maskable, parameter_groups
from sicore.seeding import derive, generator
from sicore.stacks import looped, stack, state_of, unstack, vmapped
from sicore.subnetwork import Subnetwork
from sicore.training import Resume, Run, Watch, check_device, train
from sicore.transfer import Start, start, transfer

INHERITED = ("norms", "biases", "tokens", "head")
"""What the released code copies beside the masked weights, all that is no kernel, the trained head too."""


@dataclass(frozen=True)
class Condition:
    """A row of the table: what a network starts from, what is trained, on which pictures.

    Parameters
    ----------
    copied
        Which of the base's maskable weights: ``subnetwork``, ``sampled`` (as many, drawn at random
        layer by layer), ``everything`` or ``nothing``.
    inherit
        Groups of further parameters that are copied.
    freeze
        Hold the copied weights.
    train
        False: evaluated as it is.
    mixture
        Mean-pooled pictures for every ordinary one in a pass; None for as many as there are.
    balanced
        Every class equally often in a batch.
    random_base
        From a network that was never trained, with the subnetwork that was found in it.
    after
        Name of the condition from whose end this one goes on, with all weights trained. Each has half the steps.
    """

    copied: str
    inherit: tuple[str, ...] = INHERITED
    freeze: bool = False
    train: bool = True
    mixture: float | None = 0.0
    balanced: bool = False
    random_base: bool = False
    after: str = ""


_BODY = INHERITED[:-1]
_HELD = Condition("subnetwork", freeze=True)

CONDITIONS = {
    "scratch": Condition("nothing", inherit=()),
    "new_head": Condition("everything", train=False),
    "fine_tuning": Condition("everything", inherit=_BODY),
    "lp_ft": Condition("everything"),
    "mixture_as_is": Condition("everything", inherit=_BODY, mixture=None),
    "mixture_1_to_4": Condition("everything", inherit=_BODY, mixture=0.25),
    "mixture_1_to_1": Condition("everything", inherit=_BODY, mixture=1.0),
    "mixture_1_to_1_balanced": Condition("everything", inherit=_BODY, mixture=1.0, balanced=True),
    "subnetwork": _HELD,
    "subnetwork_fresh_head": Condition("subnetwork", inherit=_BODY, freeze=True),
    "subnetwork_fresh_norms": Condition("subnetwork", inherit=("head",), freeze=True),
    "subnetwork_alone": Condition("subnetwork", inherit=(), freeze=True),
    "subnetwork_trainable": Condition("subnetwork"),
    "subnetwork_then_free": Condition("subnetwork", after="subnetwork"),
    "sampled": Condition("sampled", freeze=True),
    "inherited_only": Condition("nothing"),
    "random_network": Condition("subnetwork", freeze=True, random_base=True),
}
"""The conditions that have a name."""


@dataclass(frozen=True)
class Stage:
    """An object of this experiment: its ``spec``, ``tensors`` and ``meta``."""

    spec: Spec
    tensors: Params
    meta: dict[str, Any]

    @property
    def data(self) -> Spec:
        """The data spec at the bottom of its own."""
        return dict(_base_of(self.spec)["data"])

    @property
    def seed(self) -> int:
        return int(self.data["seed"])

    @property
    def history(self) -> pd.DataFrame:
        """Values during training, by ``step``."""
        return pd.DataFrame(self.meta["history"])


# ---------------------------------------------------------------------------------------
# The stages


def base_models(
    machine: Machine, seeds: Sequence[int], *, data: Spec, model: Spec, steps: int = 1500, batch: int = 64,
    lr: float = 4e-3, weight_decay: float = 0.05, every: int = 250, dtype: str = "float32", pieces: int = 1,

) -> list[Stage]:  # fmt: skip
    """Classifiers trained on the pretraining pictures, or as they come, one per seed.

    Parameters
    ----------
    data
        Of :func:`companion.vision.pictures.scenes` or :func:`companion.vision.pictures.photographs`.
    model
        ``{"resnet": settings}`` or ``{"vit": settings}``, settings of :func:`companion.vision.classifiers.resnet` and
        :func:`companion.vision.classifiers.vit`; or ``{"pretrained": settings}``, of :func:`companion.vision.classifiers.pretrained`.
    steps
        0: as it is, untrained (``resnet``, ``vit``) or pretrained.
    pieces
        Pieces in which a batch is computed, one after the other, where memory is short.
    """
    check_dtype(dtype)
    check_counts(batch=batch, every=every, pieces=pieces)
    if batch % pieces:
        raise ValueError(f"batch = {batch} is not a multiple of pieces = {pieces}")
    shared = {"pieces": pieces} if pieces > 1 else {}
    if "pretrained" in model:
        if steps:
            raise ValueError(f"steps = {steps}: a pretrained model is taken as it is, with steps = 0")
        model = {**model, "bytes": _checksum(state_of(classifiers.pretrained(**model["pretrained"])))}
    elif steps and "pretraining" not in roles({**data, "seed": 0}):
        raise ValueError("data: photographs come without a set for pretraining; name a pretrained model")
    specs = [
        {
            "data": {**data, "seed": seed}, "model": model, "steps": steps, "batch": batch, "lr": lr,
            "weight_decay": weight_decay, "every": every, **_where(machine, dtype), **shared,
        } for seed in seeds
    ]  # fmt: skip
    for spec in specs[:1]:
        _build(spec["model"], _outputs(spec), 0)
    return _made("vision_base", specs, machine, _train_base)


def heads(
    machine: Machine, bases: Sequence[Stage], *, on: str = "training", steps: int = 1000, batch: int = 256,
    lr: float = 1e-2, weight_decay: float = 1e-4,
) -> list[Stage]:  # fmt: skip
    """A new head for the classes of ``on``, trained on the features of the frozen base.

    With ``on = "discovery"`` it is a linear probe: do the features hold what names mean-pooled pictures?
    """
    check_counts(steps=steps, batch=batch)
    specs = [
        {
            "base": base.spec, "on": on, "steps": steps, "batch": batch, "lr": lr, "weight_decay": weight_decay,
        } for base in bases
    ]  # fmt: skip
    return _made("vision_head", specs, machine, _train_head)


def subnetworks(
    machine: Machine, headed: Sequence[Stage], *, steps: int = 1000, batch: int = 64, lr: float = 2e-2,
    penalty: float = 1e-6, initial_logit: float = 0.1, initial_temperature: float = 10.0,
    final_temperature: float = 100.0, stages: int = 50, every: int = 100,
) -> list[Stage]:  # fmt: skip
    """The subnetwork that recognises mean-pooled pictures, in every base with its new head.

    Masked are all convolutions (of a ViT: all linear layers too), not the head (paper, appendix C).
    ``tensors`` are the masks. The paper starts at logits of -0.1 and a temperature of 1, so that every weight
    begins at 0.48 of its size under running statistics of the full network; here it begins at 0.73.
    """
    check_counts(steps=steps, batch=batch, every=every)
    specs = [
        {
            "headed": one.spec, "steps": steps, "batch": batch, "lr": lr, "penalty": penalty,
            "initial_logit": initial_logit, "initial_temperature": initial_temperature,
            "final_temperature": final_temperature, "stages": stages, "every": every,
        } for one in headed
    ]  # fmt: skip
    return _made("vision_mask", specs, machine, _find_subnetwork)


def transfers(
    machine: Machine, found: Sequence[Stage], random_found: Sequence[Stage] = (), *, conditions: Sequence[str],
    rates: Sequence[float] | Mapping[str, float] = (4e-3,), steps: int = 1000, batch: int = 64,
    weight_decay: float = 0.05, momentum: float = -1.0, weighted: bool = True, every: int = 100,
) -> list[Stage]:  # fmt: skip
    """Train every row of the table, for every seed and learning rate.

    Parameters
    ----------
    found, random_found
        Subnetworks of trained and of untrained bases, of the same seeds.
    conditions
        Names of :data:`CONDITIONS`.
    rates
        Learning rates for all conditions, or one for each by name, as :func:`best_rates` gives them.
    momentum
        Stochastic gradient descent with this momentum (the paper's 0.9); below 0: AdamW.
    weighted
        Loss weighted by the inverse frequency of the classes (paper), but where batches are balanced.

    Returns
    -------
    list
        Each has as ``tensors`` its predictions on all test pictures (``test_KIND``) and its final parameters
        (``params/NAME``), and in ``meta`` ``frozen``, ``inherited``, ``density``, ``steps``, ``seen`` (training
        pictures, counted as often as they are seen) and ``seconds``. The history has accuracies on validation pictures.
    """
    check_counts(steps=steps, batch=batch, every=every)
    for name in conditions:
        if name not in CONDITIONS:
            raise ValueError(f"conditions: {name!r} does not exist; expected some of {', '.join(CONDITIONS)}")
        if CONDITIONS[name].random_base and not random_found:
            raise ValueError(f"conditions: {name!r} needs random_found, subnetworks of untrained bases")
    if not rates:
        raise ValueError("rates is empty: name at least one learning rate")
    if isinstance(rates, Mapping) and (missing := [name for name in conditions if name not in rates]):
        raise ValueError(f"rates: there is none for {', '.join(missing)}")

    def spec_of(name: str, one: Stage, lr: float, length: int) -> Spec:
        row = CONDITIONS[name]
        return {
            "name": name, "condition": vars(row) | {"inherit": list(row.inherit)}, "source": one.spec,
            "before": spec_of(row.after, one, lr, steps - length // 2) if row.after else None,
            "steps": 0 if not row.train else length // 2 if row.after else length, "lr": lr if row.train else 0.0,
            "batch": batch, "weight_decay": weight_decay, "momentum": momentum, "weighted": weighted, "every": every,
        }  # fmt: skip

    specs = []
    for name in conditions:
        own = [rates[name]] if isinstance(rates, Mapping) else rates
        for one in random_found if CONDITIONS[name].random_base else found:
            specs += [spec_of(name, one, lr, steps) for lr in (own if CONDITIONS[name].train else own[:1])]
    before = [spec["before"] for spec in specs if spec["before"]]
    _made("vision_row", before, machine, _train_row)
    return _made("vision_row", specs, machine, _train_row)


def best_rates(rows: Sequence[Stage]) -> dict[str, float]:
    """For every condition the learning rate with the best accuracy on ordinary validation pictures, mean over seeds."""
    # A rate at which a seed diverged is the last choice.
    runs = [(row.spec["name"], row.spec["lr"], row.meta["validation_ordinary"] or 0.0) for row in rows]
    means = pd.DataFrame(runs, columns=["name", "lr", "score"]).groupby(["name", "lr"])["score"].mean()
    return {str(name): float(lr) for name, lr in means.groupby(level="name").idxmax()}


def table(rows: Sequence[Stage]) -> pd.DataFrame:
    """One line a row and seed: accuracies on the test pictures, decisions on cue conflicts, what it started from."""
    lines = []
    for row in rows:
        data = row.data
        line = {"condition": row.spec["name"], "seed": row.seed, "lr": row.spec["lr"]}
        line |= {name: row.meta[name] for name in ("steps", "seen", "frozen", "inherited", "density", "seconds")}
        line["validation_accuracy"] = row.meta["validation_ordinary"]
        for kind in ("ordinary", "mean_pooled", "silhouette"):
            if f"test_{kind}" in row.tensors:
                labels = pictures(data, f"test_{kind}").labels
                line[f"accuracy_{kind}"] = float((row.tensors[f"test_{kind}"] == labels).float().mean())
        conflicts = pictures(data, "test_conflict")
        assert conflicts.texture is not None
        decided = shape_bias(row.tensors["test_conflict"], conflicts.labels, conflicts.texture)
        line |= {"shape_bias": decided["shape_bias"], "bias_low": decided["low"], "bias_high": decided["high"]}
        line |= {name: decided[name] for name in ("images", "shape", "texture", "neither")}
        if "diverged" in row.meta:  # marked, and without values that an average could take in
            line = {name: math.nan if name.startswith(_MEASURED) else value for name, value in line.items()}
            line["diverged"] = row.meta["diverged"]
        lines.append(line)
    return pd.DataFrame(lines)


_MEASURED = ("accuracy_", "validation_", "shape_bias", "bias_")


def bias_by_class(rows: Sequence[Stage]) -> pd.DataFrame:
    """Decisions on cue conflicts, counted by ``condition``, ``seed`` and ``class`` (of the shape)."""
    lines = []
    for row in rows:
        conflicts = pictures(row.data, "test_conflict")
        assert conflicts.texture is not None
        for number, name in enumerate(conflicts.classes):
            own = conflicts.labels == number
            if own.any():
                decided = shape_bias(row.tensors["test_conflict"][own], conflicts.labels[own], conflicts.texture[own])
                counts = {key: decided[key] for key in ("shape", "texture", "neither")}
                lines.append({"condition": row.spec["name"], "seed": row.seed, "class": name, **counts})
    return pd.DataFrame(lines)


# ---------------------------------------------------------------------------------------
# The jobs; each makes one object


def _train_base(specs: list[Spec], machine: Machine, progress: Any) -> None:
    (spec,), began = specs, time.monotonic()
    data = spec["data"]
    model = _build(spec["model"], _outputs(spec), derive(data["seed"], "base"))
    if "pretrained" in spec["model"]:
        model = classifiers.pretrained(**spec["model"]["pretrained"])
    elif not spec["steps"]:
        model = _calibrated(model, pictures(data, _first_role(data)))
    params: Params = state_of(model)
    meta: dict[str, Any] = {"history": []}
    if spec["steps"]:
        validation = pictures(data, "validation_pretraining")
        call = _Call(model, spec, machine)
        trained = train(
            call.losses(training=True), moved(stack([params]), call.device),
            _batches(spec, data, {"pretraining": 1.0}, machine), steps=spec["steps"], lr=spec["lr"],
            weight_decay=spec["weight_decay"], linear_decay=True, run=_run(spec),
            watch=Watch(lambda params, *_: {"accuracy": call.accuracy(unstack(params, 0), validation)}, spec["every"]),
            resume=Resume(checkpoint("vision_base", specs, machine), progress=progress),
        )  # fmt: skip
        params = moved(unstack(trained.params, 0), "cpu")
        meta |= {"history": history_of(trained.history, 0)} | _read_apart(
            call.predict(moved(params, call.device), validation), validation
        )
    machine.store.put("vision_base", spec, params, {**meta, "seconds": time.monotonic() - began}, machine.device)


def _read_apart(predicted: Tensor, asked: Pictures) -> dict[str, float]:
    """Accuracy on pretraining pairs, and how often at least the shape, or at least the texture, is right."""
    (shape, texture), expected = pair(predicted), pair(asked.labels)
    hits = {"": predicted == asked.labels, "shape_": shape == expected[0], "texture_": texture == expected[1]}
    return {f"{part}accuracy": float(right.float().mean()) for part, right in hits.items()}


def _train_head(specs: list[Spec], machine: Machine, progress: Any) -> None:
    (spec,), began = specs, time.monotonic()
    base = spec["base"]
    data, (params, _) = base["data"], _get("vision_base", base, machine)
    known, model = pictures(data, spec["on"]), _build(base["model"], _outputs(base), 0)
    name = classifiers.head(model)
    model.set_submodule(name, nn.Identity())
    below = _Call(model, base, machine)
    device = below.device
    features = below.scores(moved(params, device), known)
    spread = features.std(0).clamp(min=1e-6)  # one learning rate then suits every base
    features, labels = features / spread, known.labels.to(device)
    order = torch.randint(
        len(known), (spec["steps"], spec["batch"]), generator=generator(data["seed"], "head", spec["on"])
    )
    trained = train(
        vmapped(nn.Linear(1, 1), lambda call, batch: F.cross_entropy(call(batch[0]), batch[1])),
        {
            "weight": torch.zeros(1, len(known.classes), features.shape[1], device=device),
            "bias": torch.zeros(1, len(known.classes), device=device),
        },
        lambda step, active: (features[order[step]][None], labels[order[step]][None]),
        steps=spec["steps"], lr=spec["lr"], weight_decay=spec["weight_decay"], linear_decay=True,
        watch=Watch(every=spec["steps"]), resume=Resume(progress=progress), run=Run(capture=False),
    )  # fmt: skip
    own = {f"{name}.weight": trained.params["weight"][0] / spread, f"{name}.bias": trained.params["bias"][0]}
    call, whole = _Call(_headed_model(base), base, machine), moved({**params, **own}, device)
    meta: dict[str, Any] = {"seconds": time.monotonic() - began, "history": history_of(trained.history, 0)}
    for role in ("ordinary", "mean_pooled"):
        meta[f"accuracy_{role}"] = float(call.accuracy(whole, pictures(data, f"test_{role}")))
    machine.store.put("vision_head", spec, moved(own, "cpu"), meta, machine.device)


def _find_subnetwork(specs: list[Spec], machine: Machine, progress: Any) -> None:
    (spec,), began = specs, time.monotonic()
    base = spec["headed"]["base"]
    call = _Call(_headed_model(base), base, machine)
    source = moved(_headed(spec["headed"], machine), call.device)
    validation = pictures(base["data"], "validation_mean_pooled")
    masks, trained = discover(
        call.losses(training=False), stack([source]), _masked_names(call.model),
        _batches(spec, base["data"], {"discovery": 1.0}, machine), steps=spec["steps"], lr=spec["lr"],
        penalty=spec["penalty"], every=spec["every"], run=_run(base),
        family=ContinuousSparsification(
            spec["initial_logit"], spec["initial_temperature"], spec["final_temperature"], spec["stages"]
        ),
        accuracy=lambda params, active: call.accuracy(unstack(params, 0), validation),
        resume=Resume(checkpoint("vision_mask", specs, machine), progress=progress),
    )  # fmt: skip
    own = unstack(masks, 0)
    parts = {
        "": source | {name: source[name] * mask for name, mask in own.items()},
        "ablated_": source | {name: source[name] * ~mask for name, mask in own.items()},
        "full_model_": source,
    }
    kept = moved(own, "cpu")
    meta = {
        "density": Subnetwork(kept, moved(source, "cpu")).density, "seconds": time.monotonic() - began,
        "history": history_of(trained.history, 0),
    }  # fmt: skip
    for kind in ("ordinary", "mean_pooled"):
        asked = pictures(base["data"], f"test_{kind}")
        meta |= {f"accuracy_{part}{kind}": float(call.accuracy(params, asked)) for part, params in parts.items()}
    machine.store.put("vision_mask", spec, kept, meta, machine.device)


def _train_row(specs: list[Spec], machine: Machine, progress: Any) -> None:
    (spec,), began = specs, time.monotonic()
    row, before = spec["condition"], spec["before"]
    base = spec["source"]["headed"]["base"]
    data = base["data"]
    call = _Call(_headed_model(base), base, machine)
    device = call.device
    begin = _start(spec, machine)
    validation = {kind: pictures(data, f"validation_{kind}") for kind in ("ordinary", "mean_pooled")}

    def measure(params: Params) -> dict[str, Tensor]:
        return {kind: call.accuracy(params, asked) for kind, asked in validation.items()}

    params, history, diverged = begin.params, [], {}
    if spec["steps"]:
        shares = _shares(row["mixture"], data)
        weights = _class_weights(shares, data) if spec["weighted"] and not row["balanced"] else None
        trained = transfer(
            call.losses(training=True),
            [Start(moved(begin.params, device), moved(begin.frozen, device))],
            _batches(spec, data, shares, machine, balanced=row["balanced"], weights=weights),
            steps=spec["steps"], lr=spec["lr"], weight_decay=spec["weight_decay"],
            momentum=spec["momentum"] if spec["momentum"] >= 0 else None,
            linear_decay=True, accuracy=lambda params, active: measure(unstack(params, 0)), watch=Watch(every=spec["every"]),
            resume=Resume(checkpoint("vision_row", specs, machine), progress=progress), run=_run(base, keep_going=True),
        )  # fmt: skip
        params, history = moved(unstack(trained.params, 0), "cpu"), history_of(trained.history, 0)
        if trained.diverged:
            diverged = {"diverged": trained.diverged[0]}
    end = moved(params, device)
    predicted = {
        role: call.predict(end, pictures(data, role)).to(torch.int16)
        for role in roles(data)
        if role.startswith("test_")
    }
    steps = spec["steps"] + (before["steps"] if before else 0)
    last = history[-1] if history else measure(end)  # the last step has been evaluated already
    meta = {
        "steps": steps, "seen": steps * spec["batch"],
        "frozen": sum(int(mask.sum()) for mask in begin.frozen.values()), "inherited": begin.inherited,
        "density": _get("vision_mask", spec["source"], machine)[1]["density"], "history": history,
        "seconds": time.monotonic() - began, **diverged,
        **{f"validation_{kind}": None if diverged else float(last[kind]) for kind in validation},
    }  # fmt: skip
    kept = {f"params/{name}": tensor for name, tensor in params.items()}
    machine.store.put("vision_row", spec, {**predicted, **kept}, meta, machine.device)


# ---------------------------------------------------------------------------------------
# Pieces


class _Call:
    """A model that computes with given parameters: losses for a training, answers for an evaluation."""

    def __init__(self, model: nn.Module, base: Spec, machine: Machine) -> None:
        self.device, self.dtype = check_device(machine.device), DTYPES[base["dtype"]]
        self.model = model.to(self.device).eval()

    def losses(self, *, training: bool) -> Any:
        """As :func:`sicore.stacks.looped`; ``training`` moves the running statistics, otherwise they are used."""

        def loss(call: Callable[..., Any], batch: tuple[Tensor, ...]) -> Tensor:
            images, labels, *weights = batch
            scores = self._scores(call, images)
            if not weights:
                return F.cross_entropy(scores, labels)
            return (F.cross_entropy(scores, labels, reduction="none") * weights[0]).mean()

        return looped(copy.deepcopy(self.model).train(training), loss)

    def _scores(self, call: Callable[..., Any], images: Tensor) -> Tensor:
        x = normalised(images).contiguous(memory_format=torch.channels_last)
        # Without the cache: it would hold the casts of weights that the next call replaces.
        with torch.autocast(self.device.type, self.dtype, self.dtype != torch.float32, cache_enabled=False):
            return classifiers.scores(call, x).float()

    @torch.no_grad()
    def scores(self, params: Params, asked: Pictures) -> Tensor:
        """Scores of all classes, [N, classes]; the running statistics are those in ``params``."""
        parts = []
        for rows in torch.arange(len(asked)).split(250):
            images = asked.take(rows, None).to(self.device)
            parts.append(self._scores(lambda *x: functional_call(self.model, params, x), images))
        return torch.cat(parts)

    def predict(self, params: Params, asked: Pictures) -> Tensor:
        """Classes, [N], on the CPU."""
        return self.scores(params, asked).argmax(1).cpu()

    def accuracy(self, params: Params, asked: Pictures) -> Tensor:
        """[1], as evaluations of a stack of one want it."""
        return (self.predict(params, asked) == asked.labels).float().mean()[None]


def _batches(
    spec: Spec, data: Spec, shares: Mapping[str, float], machine: Machine, *, balanced: bool = False,
    weights: Tensor | None = None,
) -> Batches:  # fmt: skip
    parts = [(pictures(data, role), share) for role, share in shares.items()]
    purpose = list(shares) + (["again"] if spec.get("before") else [])
    return Batches(
        parts, batch=spec["batch"], steps=spec["steps"], seed=derive(data["seed"], *purpose), balanced=balanced,
        device=machine.device, weights=weights,
    )  # fmt: skip


def _run(base: Spec, keep_going: bool = False) -> Run:
    """How a training computes whose batches come from the host."""
    return Run(pieces=base.get("pieces", 1), keep_going=keep_going, capture=False)


def _shares(mixture: float | None, data: Spec) -> dict[str, float]:
    """How often each set is seen in a pass, for so many mean-pooled pictures an ordinary one."""
    if mixture == 0:
        return {"training": 1.0}
    if mixture is None:
        return {"training": 1.0, "discovery": 1.0}
    return {"training": 1.0, "discovery": mixture * len(pictures(data, "training")) / len(pictures(data, "discovery"))}


def _class_weights(shares: Mapping[str, float], data: Spec) -> Tensor:
    """Inverse frequency of the classes among the pictures of a pass, [classes], 1 if all are as frequent."""
    classes = len(pictures(data, "training").classes)
    counts = torch.zeros(classes)
    for role, share in shares.items():
        counts += share * torch.bincount(pictures(data, role).labels, minlength=classes)
    return counts.sum() / (counts.clamp(min=1) * classes)


def _start(spec: Spec, machine: Machine) -> Start:
    row, source = spec["condition"], spec["source"]
    base, seed = source["headed"]["base"], source["headed"]["base"]["data"]["seed"]
    if spec["before"]:
        stored, meta = _get("vision_row", spec["before"], machine)
        params = {name.removeprefix("params/"): tensor for name, tensor in stored.items() if name.startswith("params/")}
        return Start(params, {}, meta["inherited"])
    found, model = _subnetwork(source, machine), _headed_model(base, derive(seed, "transfer"))
    headed, fresh, groups = found.weights, state_of(model), groups_of(model)
    names = [name for group in row["inherit"] for name in groups[group]]
    if row["copied"] == "everything":
        fresh_names = set() if "head" in row["inherit"] else set(groups["head"])
        params = {name: fresh[name] if name in fresh_names else headed[name] for name in fresh}
        return Start(params, {}, sum(tensor.numel() for name, tensor in params.items() if name not in fresh_names))
    if row["copied"] == "nothing":
        found = found - found
    elif row["copied"] == "sampled":
        found = found.random(generator(seed, "transfer", "sampled"))
    return start(fresh, found, inherit=names, freeze=row["freeze"])


def subnetwork_of(found: Stage, machine: Machine) -> Subnetwork:
    """What a search has found, as a :class:`sicore.subnetwork.Subnetwork` that can be saved and put elsewhere."""
    return _subnetwork(found.spec, machine)


def _subnetwork(spec: Spec, machine: Machine) -> Subnetwork:
    masks, meta = _get("vision_mask", spec, machine)
    about = {key: value for key, value in meta.items() if key != "history"}
    return Subnetwork({name: mask.bool() for name, mask in masks.items()}, _headed(spec["headed"], machine), about)


def groups_of(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """What a classifier holds beside its maskable weights: the groups of :data:`INHERITED`."""
    prefix = classifiers.head(model)
    own = set(state_of(model))
    groups = {
        kind: tuple(name for name in names if name in own and not name.startswith(f"{prefix}."))
        for kind, names in parameter_groups(model).items()
    }
    return groups | {"head": tuple(name for name in own if name.startswith(f"{prefix}."))}


def _masked_names(model: nn.Module) -> tuple[str, ...]:
    return maskable(model, exclude=f"{classifiers.head(model)}.*")


def _first_role(data: Spec) -> str:
    return "pretraining" if "pretraining" in roles(data) else "training"


def _outputs(base: Spec) -> int:
    return len(pictures(base["data"], _first_role(base["data"])).classes)


@torch.no_grad()
def _calibrated(model: nn.Module, seen: Pictures) -> nn.Module:
    """The model with the running statistics of the first thousand pictures."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the mean over all batches
    model.train()
    for rows in torch.arange(min(len(seen), 1024)).split(64):
        model(normalised(seen.take(rows, None)))
    return model


def _build(model: Spec, classes: int, seed: int) -> nn.Module:
    """The architecture, newly initialised."""
    kind = next((kind for kind in ("resnet", "vit", "pretrained", "untrained") if kind in model), None)
    if kind is None:
        raise ValueError(f"model = {model}: expected resnet, vit, pretrained or untrained")
    if kind == "resnet":
        settings = model[kind] | ({"depths": tuple(model[kind]["depths"])} if "depths" in model[kind] else {})
        return classifiers.resnet(classes, **settings, seed=seed)
    if kind == "vit":
        return classifiers.vit(classes, **model[kind], seed=seed)
    return classifiers.untrained(model[kind]["source"], seed=seed)


def _headed_model(base: Spec, seed: int = 0) -> nn.Module:
    """The base's architecture with a head for the classes of the training pictures, newly initialised."""
    model = _build(base["model"], _outputs(base), seed)
    return classifiers.renew_head(model, len(pictures(base["data"], "training").classes), seed=seed)


def _headed(spec: Spec, machine: Machine) -> Params:
    """Parameters and running statistics of a base with its new head."""
    base, _ = _get("vision_base", spec["base"], machine)
    own, _ = _get("vision_head", spec, machine)
    return {**base, **own}


def _get(kind: str, spec: Spec, machine: Machine) -> tuple[Params, dict[str, Any]]:
    return fetch(kind, spec, machine, f"object ({kind}) of seed {_base_of(spec)['data']['seed']}")


def _made(
    kind: str, specs: list[Spec], machine: Machine, job: Callable[[list[Spec], Machine, Any], None]
) -> list[Stage]:
    # One model a job: copies are computed one after the other anyway, and so every process has work.
    cost = Cost(lambda spec: spec["steps"], _operations, memory=lambda spec: 1, alike=lambda spec: spec)
    found = make(kind, specs, machine, job, cost)
    return [Stage(spec, tensors, meta) for spec, (tensors, meta) in zip(specs, found, strict=True)]


def _base_of(spec: Spec) -> Spec:
    while "data" not in spec:
        spec = next(spec[key] for key in ("base", "headed", "source") if key in spec)
    return spec


def _operations(spec: Spec) -> float:
    """Floating-point operations, roughly: three forward passes a training picture, and one for every other."""
    base = _base_of(spec)
    passes = 3 * spec["batch"] * spec["steps"] if "on" not in spec else len(pictures(base["data"], spec["on"]))
    return passes * forward_operations(canonical_json(base["model"]), base["data"]["size"])


@functools.lru_cache(maxsize=8)
def forward_operations(model: str, size: int) -> int:
    """Floating-point operations of one picture through a model, given as the JSON of its spec."""
    built = _build(json.loads(model), 16, 0).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        built(torch.zeros(1, 3, size, size))
    return int(counter.get_total_flops())


def _where(machine: Machine, dtype: str) -> Spec:
    return {"dtype": machine.dtype(dtype), "device": machine.device.split(":")[0], "code": PICTURES}


def _checksum(params: Params) -> str:
    digest = hashlib.sha256()
    for name in sorted(params):
        digest.update(name.encode() + params[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
