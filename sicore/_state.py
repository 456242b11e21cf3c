"""What changes while a stack trains, and its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sicore._tensors import as_held, is_held
from sicore.files import load_tensors, save_tensors
from sicore.masking import Params


def _optimizer(params: Params, settings: Mapping[str, Any]) -> torch.optim.Optimizer:
    trained = [tensor for tensor in params.values() if not is_held(tensor)]
    device = next(iter(params.values())).device
    lr = settings["lr"]
    if device.type == "cuda":  # a captured step reads the rate from the device
        lr = torch.tensor(lr, device=device)
    if "momentum" in settings:
        return torch.optim.SGD(trained, **{**settings, "lr": lr})
    return torch.optim.AdamW(trained, **{**settings, "lr": lr}, capturable=device.type == "cuda")


def _own(values: Tensor, like: Tensor) -> Tensor:
    return as_held(values) if is_held(like) else values.requires_grad_()


def origin_of(params: Params, context: Params, steps: int, of: str) -> dict[str, Any]:
    """What a training begins with, as JSON: so that no other one goes on from its checkpoint."""
    begin = {**context, **params}
    return {
        "steps": steps,
        "of": of,
        "kinds": {name: [str(one.dtype), list(one.shape), is_held(one)] for name, one in begin.items()},
        # Sums, not a checksum: on another machine a first value may round otherwise, and the training may go on there.
        # As text: JSON has no nan and no infinity, which a context may hold where nothing computes with it.
        "sums": {name: [repr(float(f(one.double()))) for f in (torch.sum, torch.norm)] for name, one in begin.items()},
    }


def _same(one: Any, other: dict[str, Any]) -> bool:
    if not isinstance(one, dict) or any(one.get(key) != other[key] for key in ("steps", "of", "kinds")):
        return False
    return all(
        a == b or abs(float(a) - float(b)) <= 1e-3 * float(own[1])
        for name, own in other["sums"].items()
        for a, b in zip(one["sums"][name], own, strict=True)
    )


@dataclass
class State:
    """Everything that changes during training; saved whole, restored whole."""

    params: Params  # [k, ...] of the active models; those that are held get no gradient
    context: Params  # [k, ...]
    settings: dict[str, Any]  # of the optimiser
    optimizer: torch.optim.Optimizer
    origin: dict[str, Any]  # of the whole stack: what makes this training another than others, see origin_of
    step: int
    history: list[dict[str, float]]
    best: dict[int, tuple[float, int]]  # model -> best value, evaluations since
    kept: dict[int, Params]  # model -> parameters of its best evaluation or its end
    stopped: dict[int, int]  # model -> steps taken
    last: dict[int, float]  # model -> its metric at the last evaluation
    diverged: dict[int, int]  # model -> step
    checked: bool = False  # of the losses: what do they depend on?

    @classmethod
    def fresh(cls, params: Params, context: Params, settings: dict[str, Any], origin: dict[str, Any]) -> State:
        own = {name: _own(tensor.detach().clone(), tensor) for name, tensor in params.items()}
        optimizer = _optimizer(own, settings)
        return cls(own, context, settings, optimizer, origin, 0, [], {}, {}, {}, {}, {})

    @property
    def active(self) -> Tensor:
        """Indices of the models that still train, [k], on the device of the parameters."""
        return self.context["index"]

    def select(self, rows: Tensor) -> None:
        """Keep only some of the active models (indices into the active ones)."""
        old = self.optimizer
        params = {name: _own(tensor.detach()[rows], tensor) for name, tensor in self.params.items()}
        self.optimizer = _optimizer(params, self.settings)
        for name, tensor in self.params.items():
            if tensor in old.state:
                self.optimizer.state[params[name]] = {
                    key: value[rows] if value.dim() else value for key, value in old.state[tensor].items()
                }
        self.params = params
        self.context = {name: tensor[rows] for name, tensor in self.context.items()}

    def set_lr(self, lr: float) -> None:
        group = self.optimizer.param_groups[0]
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)  # in place: a captured step reads this tensor
        else:
            group["lr"] = lr

    def retire(self, target: float | None, maximise: bool, patience: int | None) -> bool:
        """Stop the models that have reached the target or lost patience. True when the stack became smaller.

        On a GPU they leave the stack a quarter at a time, since every change of the stack
        costs a new capture; until then they train on, and nothing of it is kept.
        """
        if target is None and patience is None:
            return False
        active = self.active.tolist()
        for row, model in enumerate(active):
            if model in self.stopped:
                continue
            value = self.last[model]
            reached = target is not None and (value >= target if maximise else value <= target)
            if reached or (patience is not None and self.best[model][1] >= patience):
                self.stopped[model] = self.step
                if model not in self.kept:
                    self.kept[model] = {name: tensor.detach()[row].clone() for name, tensor in self.params.items()}
        rows = [row for row, model in enumerate(active) if model not in self.stopped]
        gone = len(active) - len(rows)
        if not gone or (self.active.device.type == "cuda" and rows and gone < len(active) / 4):
            return False
        self.select(torch.tensor(rows, dtype=torch.long, device=self.active.device))
        return True

    def give_up(self, finite: Tensor) -> bool:
        """Take the models out whose loss is not finite, ``finite`` [k]. True when the stack became smaller."""
        if bool(finite.all()):
            return False
        for row, model in enumerate(self.active.tolist()):
            if not finite[row] and model not in self.stopped:
                self.stopped[model] = self.diverged[model] = self.step
                self.kept[model] = {name: tensor.detach()[row].clone() for name, tensor in self.params.items()}
        self.select(finite.nonzero().squeeze(1))
        return True

    def result(self, K: int) -> tuple[Params, list[int], list[dict[str, float]], dict[int, int]]:
        final = dict(self.kept)
        for row, model in enumerate(self.active.tolist()):
            self.stopped.setdefault(model, self.step)
            if model not in final:
                final[model] = {name: tensor.detach()[row] for name, tensor in self.params.items()}
        params = {
            name: as_held(torch.stack([final[model][name] for model in range(K)]), is_held(tensor))
            for name, tensor in self.params.items()
        }
        return params, [self.stopped[model] for model in range(K)], self.history, self.diverged

    def save(self, path: str | Path) -> None:
        tensors: Params = {"active": self.active}
        for name, tensor in self.params.items():
            tensors[f"params/{name}"] = tensor
            for key, value in self.optimizer.state.get(tensor, {}).items():
                tensors[f"optimiser/{key}/{name}"] = value
        for model, kept in self.kept.items():
            tensors |= {f"kept/{model}/{name}": tensor for name, tensor in kept.items()}
        meta = {
            "step": self.step,
            "origin": self.origin,
            "settings": self.settings,
            # As text: JSON has no nan and no infinity.
            "history": [{key: repr(value) for key, value in row.items()} for row in self.history],
            "best": {str(model): [repr(value), waited] for model, (value, waited) in self.best.items()},
            "stopped": {str(model): value for model, value in self.stopped.items()},
            "diverged": {str(model): value for model, value in self.diverged.items()},
        }
        save_tensors(path, tensors, {"kind": "checkpoint", **meta})

    def restore(self, path: str | Path) -> None:
        try:
            tensors, meta = load_tensors(path)
            if meta.get("kind") != "checkpoint":
                raise ValueError(f"{path} holds no checkpoint")
        except ValueError:
            return  # a damaged checkpoint costs time, not correctness: start again
        device = self.active.device
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        if meta.get("settings") != self.settings or not _same(meta.get("origin"), self.origin):
            return  # of another training: it costs time, too
        if len(tensors["active"]) < len(self.active):
            self.select(tensors["active"])
        for name, tensor in self.params.items():
            tensor.data.copy_(tensors[f"params/{name}"])
            keys = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")
            saved = {key: tensors[at] for key in keys if (at := f"optimiser/{key}/{name}") in tensors}
            if saved:
                self.optimizer.state[tensor] = saved
        for name, tensor in tensors.items():
            if name.startswith("kept/"):
                _, model, parameter = name.split("/", 2)
                self.kept.setdefault(int(model), {})[parameter] = tensor
        self.step = meta["step"]
        self.history = [
            {key: int(value) if key in ("model", "step") else float(value) for key, value in row.items()}
            for row in meta["history"]
        ]
        self.best = {int(model): (float(value), waited) for model, (value, waited) in meta["best"].items()}
        self.stopped = {int(model): value for model, value in meta["stopped"].items()}
        self.diverged = {int(model): value for model, value in meta["diverged"].items()}
