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
import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

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
    checkpoint,
    fetch,
    history_of,
    make,
    moved,
)
from companion.vision import classifiers
from companion.vision.answers import shape_bias
from companion.vision.pictures import Batches, Pictures, meanings, normalised, pictures, roles
from companion.vision.specs import Base, Head, Row, Search, build, masked
from companion.vision.starts import CONDITIONS, Condition
from sicore.discovery import discover
from sicore.files import canonical_json, checksum
from sicore.masking import Params, parameter_groups
from sicore.seeding import derive, generator
from sicore.stacks import looped, stack, state_of, unstack, vmapped
from sicore.subnetwork import Subnetwork
from sicore.training import Resume, Run, Watch, check_counts, check_device, train
from sicore.transfer import Start, start, transfer

S = TypeVar("S", Base, Head, Search, Row)
"""A kind of spec."""


@dataclass(frozen=True)
class Stage(Generic[S]):
    """An object of this experiment: its ``spec``, ``tensors`` and ``meta``."""

    spec: S
    tensors: Params
    meta: dict[str, Any]

    @property
    def data(self) -> dict[str, Any]:
        """The data spec at the bottom of its own."""
        return self.spec.base.data

    @property
    def seed(self) -> int:
        return self.spec.base.seed

    @property
    def history(self) -> pd.DataFrame:
        """Values during training, by ``step``."""
        return pd.DataFrame(self.meta["history"])


# ---------------------------------------------------------------------------------------
# The stages


def base_models(
    machine: Machine, seeds: Sequence[int], *, data: dict[str, Any], model: dict[str, Any], **settings: Any
) -> list[Stage[Base]]:
    """A classifier for each seed, trained on the pretraining pictures or as it comes.

    Parameters
    ----------
    data
        Of :func:`companion.vision.pictures.scenes` or :func:`companion.vision.pictures.photographs`.
    model, settings
        Of :class:`companion.vision.specs.Base`.

    Raises
    ------
    ValueError
        For a setting out of range, or a model that does not do (:func:`companion.vision.classifiers.check`): no
        pictures of this size, several heads. Nothing is trained by then.
    """
    device = machine.device.split(":")[0]
    specs = [Base(data={**data, "seed": seed}, model=model, **settings, device=device) for seed in seeds]
    if specs and (kind := next((kind for kind in ("pretrained", "untrained") if kind in model), "")):
        model = {**model, "bytes": _checksum(model)}
        found = classifiers.normalisation(model[kind]["source"])
        if found != classifiers.IMAGENET:
            model["normalisation"] = [list(numbers) for numbers in found]
        specs = [dataclasses.replace(spec, model=model) for spec in specs]
    for spec in specs[:1]:
        classifiers.check(spec.build(), spec.data["size"])
    return _made("vision_base", specs, machine, _train_base)


def heads(machine: Machine, bases: Sequence[Stage[Base]], **settings: Any) -> list[Stage[Head]]:
    """A new head for every base; ``settings`` are those of :class:`companion.vision.specs.Head`."""
    specs = [Head(base=base.spec, **settings) for base in bases]
    return _made("vision_head", specs, machine, _train_head)


def subnetworks(machine: Machine, headed: Sequence[Stage[Head]], **settings: Any) -> list[Stage[Search]]:
    """The subnetwork that recognises mean-pooled pictures, in every base with its new head.

    ``settings`` are those of :class:`companion.vision.specs.Search`. ``tensors`` of the results are the masks.
    """
    specs = [Search(headed=one.spec, **settings) for one in headed]
    return _made("vision_mask", specs, machine, _find_subnetwork)


def transfers(
    machine: Machine, found: Sequence[Stage[Search]], random_found: Sequence[Stage[Search]] = (), *,
    conditions: Sequence[str], rates: Sequence[float] | Mapping[str, float] = (4e-3,), steps: int = 1000,
    **settings: Any,
) -> list[Stage[Row]]:  # fmt: skip
    """Train every row of the table, for every seed and learning rate.

    Parameters
    ----------
    found, random_found
        Subnetworks of trained and of untrained bases, of the same seeds.
    conditions
        Names of :data:`companion.vision.starts.CONDITIONS`.
    rates
        Learning rates for all conditions, or one for each by name, as :func:`best_rates` gives them.
    steps
        Of a whole row: one that goes on from the end of another has half of them, and so has that one.
    settings
        Of :class:`companion.vision.specs.Row`.

    Returns
    -------
    list
        Each has as ``tensors`` its predictions on all test pictures (``test_KIND``) and its final parameters
        (``params/NAME``), and in ``meta`` ``frozen``, ``inherited``, ``density``, ``steps``, ``seen`` (training
        pictures, counted as often as they are seen) and ``seconds``. The history has accuracies on validation pictures.
    """
    check_counts(steps=steps)
    for name in conditions:
        if name not in CONDITIONS:
            raise ValueError(f"conditions: {name!r} does not exist; expected some of {', '.join(CONDITIONS)}")
        if CONDITIONS[name].random_base and not random_found:
            raise ValueError(f"conditions: {name!r} needs random_found, subnetworks of untrained bases")
    if not rates:
        raise ValueError("rates is empty: name at least one learning rate")
    if isinstance(rates, Mapping) and (missing := [name for name in conditions if name not in rates]):
        raise ValueError(f"rates: there is none for {', '.join(missing)}")
    specs = []
    for condition in (CONDITIONS[name] for name in conditions):
        own = [rates[condition.name]] if isinstance(rates, Mapping) else rates
        for one in random_found if condition.random_base else found:
            for lr in own if condition.train else own[:1]:
                specs.append(_row(condition, one.spec, lr, steps, settings))
    _made("vision_row", [spec.before for spec in specs if spec.before], machine, _train_row)
    return _made("vision_row", specs, machine, _train_row)


def _row(condition: Condition, source: Search, lr: float, steps: int, settings: Mapping[str, Any]) -> Row:
    """The spec of a row, with that of the row from whose end it goes on."""
    if not condition.train:
        return Row(condition=condition, source=source, steps=0, lr=0.0, **settings)
    before = None
    if condition.after:
        before = _row(CONDITIONS[condition.after], source, lr, steps - steps // 2, settings)
        steps = steps // 2
    return Row(condition=condition, source=source, before=before, steps=steps, lr=lr, **settings)


def best_rates(rows: Sequence[Stage[Row]]) -> dict[str, float]:
    """For every condition the learning rate with the best accuracy on ordinary validation pictures, mean over seeds."""
    # A rate at which a seed diverged is the last choice.
    runs = [(row.spec.name, row.spec.lr, row.meta["validation_ordinary"] or 0.0) for row in rows]
    means = pd.DataFrame(runs, columns=["name", "lr", "score"]).groupby(["name", "lr"])["score"].mean()
    return {str(name): float(lr) for name, lr in means.groupby(level="name").idxmax()}


def table(rows: Sequence[Stage[Row]]) -> pd.DataFrame:
    """One line a row and seed: accuracies on the test pictures, decisions on cue conflicts, what it started from."""
    lines = []
    for row in rows:
        data = row.data
        line = {"condition": row.spec.name, "seed": row.seed, "lr": row.spec.lr}
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


def search_table(
    bases: Sequence[Stage[Base]], headed: Sequence[Stage[Head]], probes: Sequence[Stage[Head]],
    found: Sequence[Stage[Search]],
) -> pd.DataFrame:  # fmt: skip
    """One line a seed: accuracies of the base, of its new head, of a linear probe, and of the subnetwork.

    ``probes`` are heads that were trained on mean-pooled pictures (``on="discovery"``). All are of the same seeds.
    What the base was not trained for is nan.
    """
    lines = []
    for base, head, probe, one in zip(bases, headed, probes, found, strict=True):
        lines.append({
            "seed": one.seed,
            "pretraining": base.meta.get("accuracy", math.nan),
            "pretraining_shape": base.meta.get("shape_accuracy", math.nan),
            "pretraining_texture": base.meta.get("texture_accuracy", math.nan),
            "head_ordinary": head.meta["accuracy_ordinary"], "head_mean_pooled": head.meta["accuracy_mean_pooled"],
            "probe_mean_pooled": probe.meta["accuracy_mean_pooled"],
            "subnetwork_mean_pooled": one.meta["accuracy_mean_pooled"],
            "subnetwork_ordinary": one.meta["accuracy_ordinary"],
            "ablated_ordinary": one.meta["accuracy_ablated_ordinary"],
            "ablated_mean_pooled": one.meta["accuracy_ablated_mean_pooled"],
            "density": one.meta["density"], "steps": one.spec.steps, "seconds": one.meta["seconds"],
        })  # fmt: skip
    return pd.DataFrame(lines)


def answers_table(rows: Sequence[Stage[Row]], most: int) -> pd.DataFrame:
    """What rows of one seed answered to the first cue conflicts of the test, ``most`` of them.

    Columns: ``seed``, ``picture`` (its number), ``shape`` and ``texture`` (its classes), ``condition``, ``answer`` and
    ``follows`` (``shape``, ``texture`` or ``neither``).
    """
    lines = []
    for row in rows:
        conflicts = pictures(row.data, "test_conflict")
        assert conflicts.texture is not None
        classes = conflicts.classes
        decided = zip(row.tensors["test_conflict"], conflicts.labels, conflicts.texture, strict=True)
        for number, (answer, shape, texture) in enumerate([map(int, one) for one in decided][:most]):
            lines.append({
                "seed": row.seed, "picture": number, "shape": classes[shape], "texture": classes[texture],
                "condition": row.spec.name, "answer": classes[answer],
                "follows": "shape" if answer == shape else "texture" if answer == texture else "neither",
            })  # fmt: skip
    return pd.DataFrame(lines)


def bias_by_class(rows: Sequence[Stage[Row]]) -> pd.DataFrame:
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
                lines.append({"condition": row.spec.name, "seed": row.seed, "class": name, **counts})
    return pd.DataFrame(lines)


# ---------------------------------------------------------------------------------------
# The jobs; each makes one object


def _train_base(specs: list[Spec], machine: Machine, progress: Any) -> None:
    spec, began = Base.of(specs[0]), time.monotonic()
    model = spec.build(derive(spec.seed, "base"))
    if "pretrained" in spec.model:
        model = classifiers.pretrained(**spec.model["pretrained"])
    elif not spec.steps:
        model = _calibrated(model, pictures(spec.data, spec.first_role), spec.normalisation)
    if "bytes" in spec.model and _checksum(spec.model) != spec.model["bytes"]:
        raise ValueError(f"model = {spec.model}: its files have changed since the run began. Run again")
    params: Params = state_of(model)
    meta: dict[str, Any] = {"history": []}
    if spec.steps:
        validation = pictures(spec.data, "validation_pretraining")
        call = Call(model, spec, machine)
        trained = train(
            call.losses(training=True), moved(stack([params]), call.device),
            batches(spec, {"pretraining": 1.0}, machine), steps=spec.steps, lr=spec.lr,
            weight_decay=spec.weight_decay, linear_decay=True, run=_run(spec),
            watch=Watch(lambda params, *_: {"accuracy": call.accuracy(unstack(params, 0), validation)}, spec.every),
            resume=Resume(checkpoint("vision_base", specs, machine), progress=progress),
        )  # fmt: skip
        params = moved(unstack(trained.params, 0), "cpu")
        meta |= {"history": history_of(trained.history, 0)} | _read_apart(
            call.predict(moved(params, call.device), validation), validation, meanings(spec.data)
        )
    machine.store.put("vision_base", specs[0], params, {**meta, "seconds": time.monotonic() - began}, machine.device)


def _read_apart(predicted: Tensor, asked: Pictures, known: Tensor) -> dict[str, float]:
    """Accuracy on pretraining classes, and how often the shape or the texture for which they stand is right.

    ``known`` are their :func:`companion.vision.pictures.meanings`.
    """
    found = {"accuracy": float((predicted == asked.labels).float().mean())}
    for part, said in zip(("shape", "texture"), known.T, strict=True):
        standing, right = said[asked.labels] >= 0, said[predicted] == said[asked.labels]
        if standing.any():
            found[f"{part}_accuracy"] = float(right[standing].float().mean())
    return found


def _train_head(specs: list[Spec], machine: Machine, progress: Any) -> None:
    spec, began = Head.of(specs[0]), time.monotonic()
    base = spec.base
    params, known, model = _params(base, machine), pictures(base.data, spec.on), base.build()
    name = classifiers.head(model)
    model.set_submodule(name, nn.Identity())
    below = Call(model, base, machine)
    device = below.device
    features = below.scores(moved(params, device), known)
    spread = features.std(0).clamp(min=1e-6)  # one learning rate then suits every base
    features, labels = features / spread, known.labels.to(device)
    order = torch.randint(len(known), (spec.steps, spec.batch), generator=generator(base.seed, "head", spec.on))
    trained = train(
        vmapped(nn.Linear(1, 1), lambda call, batch: F.cross_entropy(call(batch[0]), batch[1])),
        {
            "weight": torch.zeros(1, len(known.classes), features.shape[1], device=device),
            "bias": torch.zeros(1, len(known.classes), device=device),
        },
        lambda step, active: (features[order[step]][None], labels[order[step]][None]),
        steps=spec.steps, lr=spec.lr, weight_decay=spec.weight_decay, linear_decay=True,
        watch=Watch(every=spec.steps), resume=Resume(progress=progress), run=Run(capture=False),
    )  # fmt: skip
    own = {f"{name}.weight": trained.params["weight"][0] / spread, f"{name}.bias": trained.params["bias"][0]}
    call, whole = Call(base.headed(), base, machine), moved({**params, **own}, device)
    meta: dict[str, Any] = {"seconds": time.monotonic() - began, "history": history_of(trained.history, 0)}
    for role in ("ordinary", "mean_pooled"):
        meta[f"accuracy_{role}"] = float(call.accuracy(whole, pictures(base.data, f"test_{role}")))
    machine.store.put("vision_head", specs[0], moved(own, "cpu"), meta, machine.device)


def _find_subnetwork(specs: list[Spec], machine: Machine, progress: Any) -> None:
    spec, began = Search.of(specs[0]), time.monotonic()
    base = spec.base
    call = Call(base.headed(), base, machine)
    source = moved(headed_params(spec.headed, machine), call.device)
    validation = pictures(base.data, "validation_mean_pooled")
    masks, trained = discover(
        call.losses(training=False), stack([source]), masked(call.model), batches(spec, {"discovery": 1.0}, machine),
        steps=spec.steps, lr=spec.lr, penalty=spec.penalty, every=spec.every, run=_run(base), family=spec.family(),
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
        asked = pictures(base.data, f"test_{kind}")
        meta |= {f"accuracy_{part}{kind}": float(call.accuracy(params, asked)) for part, params in parts.items()}
    machine.store.put("vision_mask", specs[0], kept, meta, machine.device)


def _train_row(specs: list[Spec], machine: Machine, progress: Any) -> None:
    spec, began = Row.of(specs[0]), time.monotonic()
    row, base = spec.condition, spec.base
    call, begin = Call(base.headed(), base, machine), start_of(spec, machine)
    validation = {kind: pictures(base.data, f"validation_{kind}") for kind in ("ordinary", "mean_pooled")}

    def measure(params: Params) -> dict[str, Tensor]:
        return {kind: call.accuracy(params, asked) for kind, asked in validation.items()}

    params, history, diverged = begin.params, [], {}
    if spec.steps:
        shares = shares_of(row.mixture, base.data)
        weights = class_weights(shares, base.data) if spec.weighted and not row.balanced else None
        trained = transfer(
            call.losses(training=True), [Start(moved(begin.params, call.device), moved(begin.frozen, call.device))],
            batches(spec, shares, machine, balanced=row.balanced, weights=weights), steps=spec.steps, lr=spec.lr,
            weight_decay=spec.weight_decay, momentum=spec.momentum if spec.momentum >= 0 else None, linear_decay=True,
            accuracy=lambda params, active: measure(unstack(params, 0)), watch=Watch(every=spec.every),
            resume=Resume(checkpoint("vision_row", specs, machine), progress=progress), run=_run(base, keep_going=True),
        )  # fmt: skip
        params, history = moved(unstack(trained.params, 0), "cpu"), history_of(trained.history, 0)
        if trained.diverged:
            diverged = {"diverged": trained.diverged[0]}
    end, asked = moved(params, call.device), [role for role in roles(base.data) if role.startswith("test_")]
    predicted = {role: call.predict(end, pictures(base.data, role)).to(torch.int16) for role in asked}
    steps = spec.steps + (spec.before.steps if spec.before else 0)
    last = history[-1] if history else measure(end)  # the last step has been evaluated already
    meta = {
        "steps": steps, "seen": steps * spec.batch,
        "frozen": sum(int(mask.sum()) for mask in begin.frozen.values()), "inherited": begin.inherited,
        "density": _get("vision_mask", spec.source, machine)[1]["density"], "history": history,
        "seconds": time.monotonic() - began, **diverged,
        **{f"validation_{kind}": None if diverged else float(last[kind]) for kind in validation},
    }  # fmt: skip
    kept = {f"params/{name}": tensor for name, tensor in params.items()}
    machine.store.put("vision_row", specs[0], {**predicted, **kept}, meta, machine.device)


# ---------------------------------------------------------------------------------------
# Pieces


class Call:
    """A model that computes with given parameters: losses for a training, answers for an evaluation."""

    def __init__(self, model: nn.Module, base: Base, machine: Machine) -> None:
        self.device, self.dtype = check_device(machine.device), DTYPES[base.dtype]
        self.model, self.normalisation = model.to(self.device).eval(), base.normalisation

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
        x = normalised(images, self.normalisation).contiguous(memory_format=torch.channels_last)
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


def batches(
    spec: Base | Search | Row, shares: Mapping[str, float], machine: Machine, *, balanced: bool = False,
    weights: Tensor | None = None,
) -> Batches:  # fmt: skip
    """What a training sees: of every role of its pictures a share in each pass."""
    data, purpose = spec.base.data, list(shares)
    if isinstance(spec, Row) and spec.before:
        purpose.append("again")
    return Batches(
        [(pictures(data, role), share) for role, share in shares.items()], batch=spec.batch, steps=spec.steps,
        seed=derive(spec.base.seed, *purpose), balanced=balanced, device=machine.device, weights=weights,
    )  # fmt: skip


def _run(base: Base, keep_going: bool = False) -> Run:
    """How a training computes whose batches come from the host."""
    return Run(pieces=base.pieces, keep_going=keep_going, capture=False)


def shares_of(mixture: float | None, data: dict[str, Any]) -> dict[str, float]:
    """How often each set is seen in a pass, for so many mean-pooled pictures an ordinary one."""
    if mixture == 0:
        return {"training": 1.0}
    if mixture is None:
        return {"training": 1.0, "discovery": 1.0}
    return {"training": 1.0, "discovery": mixture * len(pictures(data, "training")) / len(pictures(data, "discovery"))}


def class_weights(shares: Mapping[str, float], data: dict[str, Any]) -> Tensor:
    """Inverse frequency of the classes among the pictures of a pass, [classes], 1 if all are as frequent."""
    classes = len(pictures(data, "training").classes)
    counts = torch.zeros(classes)
    for role, share in shares.items():
        counts += share * torch.bincount(pictures(data, role).labels, minlength=classes)
    return counts.sum() / (counts.clamp(min=1) * classes)


def start_of(spec: Row, machine: Machine) -> Start:
    """What a row starts from."""
    if spec.before:
        stored, meta = _get("vision_row", spec.before, machine)
        params = {name.removeprefix("params/"): tensor for name, tensor in stored.items() if name.startswith("params/")}
        return Start(params, {}, meta["inherited"])
    row, base = spec.condition, spec.base
    found, model = _subnetwork(spec.source, machine), base.headed(derive(base.seed, "transfer"))
    fresh, groups = state_of(model), groups_of(model)
    if row.copied == "everything":
        kept_fresh = set() if "head" in row.inherit else set(groups["head"])
        params = {name: fresh[name] if name in kept_fresh else found.weights[name] for name in fresh}
        return Start(params, {}, sum(tensor.numel() for name, tensor in params.items() if name not in kept_fresh))
    if row.copied == "nothing":
        found = found - found
    elif row.copied == "sampled":
        found = found.random(generator(base.seed, "transfer", "sampled"))
    names = [name for group in row.inherit for name in groups[group]]
    return start(fresh, found, inherit=names, freeze=row.freeze)


def subnetwork_of(found: Stage[Search], machine: Machine) -> Subnetwork:
    """What a search has found, as a :class:`sicore.subnetwork.Subnetwork` that can be saved and put elsewhere."""
    return _subnetwork(found.spec, machine)


def _subnetwork(spec: Search, machine: Machine) -> Subnetwork:
    masks, meta = _get("vision_mask", spec, machine)
    about = {key: value for key, value in meta.items() if key != "history"}
    masks = {name: mask.bool() for name, mask in masks.items()}
    return Subnetwork(masks, headed_params(spec.headed, machine), about)


def groups_of(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """What a classifier holds beside its maskable weights: the groups of :data:`companion.vision.starts.INHERITED`.

    Embeddings (CLIP's of positions) and what a layer holds that is of no known kind (Swin's table of relative
    positions) are no kernels, and stand among the tokens.
    """
    prefix = classifiers.head(model)
    own = set(state_of(model))
    groups = {
        kind: tuple(name for name in names if name in own and not name.startswith(f"{prefix}."))
        for kind, names in parameter_groups(model).items()
    }
    others = (*groups.pop("embeddings"), *groups.pop("others"))
    return groups | {
        "tokens": (*groups["tokens"], *others),
        "head": tuple(name for name in own if name.startswith(f"{prefix}.")),
    }


@torch.no_grad()
def _calibrated(model: nn.Module, seen: Pictures, normalisation: classifiers.Normalisation) -> nn.Module:
    """The model with the running statistics of the first thousand pictures."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the mean over all batches
    model.train()
    for rows in torch.arange(min(len(seen), 1024)).split(64):
        model(normalised(seen.take(rows, None), normalisation))
    return model


def headed_params(spec: Head, machine: Machine) -> Params:
    """Parameters and running statistics of a base with its new head."""
    own, _ = _get("vision_head", spec, machine)
    return {**_params(spec.base, machine), **own}


def _params(base: Base, machine: Machine) -> Params:
    return _get("vision_base", base, machine)[0]


def _get(kind: str, spec: Base | Head | Search | Row, machine: Machine) -> tuple[Params, dict[str, Any]]:
    return fetch(kind, spec.json(), machine, f"object ({kind}) of seed {spec.base.seed}")


def _made(
    kind: str, specs: Sequence[S], machine: Machine, job: Callable[[list[Spec], Machine, Any], None]
) -> list[Stage[S]]:
    found = make(kind, [spec.json() for spec in specs], machine, job, COST)
    return [Stage(spec, tensors, meta) for spec, (tensors, meta) in zip(specs, found, strict=True)]


def _operations(spec: Spec) -> float:
    """Floating-point operations, roughly: three forward passes a training picture, and one for every other."""
    base = spec
    while "data" not in base:
        base = next(base[key] for key in ("base", "headed", "source") if key in base)
    passes = 3 * spec["batch"] * spec["steps"] if "on" not in spec else len(pictures(base["data"], spec["on"]))
    return passes * forward_operations(canonical_json(base["model"]), base["data"]["size"])


# One model a job: copies are computed one after the other anyway, and so every process has work.
COST = Cost(lambda spec: spec["steps"], _operations, memory=lambda spec: 1, alike=lambda spec: spec)


@functools.lru_cache(maxsize=8)
def forward_operations(model: str, size: int) -> int:
    """Floating-point operations of one picture through a model, given as the JSON of its spec."""
    built = build(json.loads(model), 16).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        built(torch.zeros(1, 3, size, size))
    return int(counter.get_total_flops())


def _checksum(model: Mapping[str, Any]) -> str:
    """Of a model that is on this machine: its weights, or its first untrained ones, and its settings."""
    pretrained = "pretrained" in model
    built = classifiers.pretrained(**model["pretrained"]) if pretrained else build(model, 0)
    return checksum(state_of(built), classifiers.settings_of(built))[:16]
