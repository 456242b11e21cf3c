"""The training loop: K models at once.

Parameters, optimiser state and data carry a leading axis over the K models of a stack;
one model is a stack of one. Losses of different models never mix, so the gradient of
their sum is each model's own gradient, and AdamW works entry by entry: a stack of K
trains exactly the K models that single runs would train. On a CPU with
:func:`sicore.models.stacked_gpt2` that holds to the bit for widths that are multiples of
8 (other widths change how a matrix kernel rounds, by about 1e-9 to 1e-6).
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from tqdm import tqdm  # plain text: a notebook's widget needs scripts from outside

from sicore.files import load_tensors, save_tensors
from sicore.masking import Params

Losses = Callable[[Params, Params, Any, int], Tensor]
"""(parameters, context, batch, step) -> one loss per model, [K], differentiable."""

Evaluate = Callable[[Params, Params, int, Tensor], Mapping[str, Tensor]]
"""(parameters, context, step, active) -> metric name -> one value per active model, [k]."""


@dataclass(frozen=True)
class Trained:
    """What :func:`train` returns.

    Attributes
    ----------
    params
        Final parameters, [K, ...]; with ``keep_best`` those of the best evaluation.
    steps
        Steps taken by each model (fewer than asked for where a model stopped early).
    history
        Rows ``{"model": k, "step": s, "loss": x, metric: value, ...}``.
    diverged
        Model -> step at which its loss was found not to be finite. What ``params`` has for it is worth nothing.
    """

    params: Params
    steps: list[int]
    history: list[dict[str, float]]
    diverged: dict[int, int] = field(default_factory=dict)


def vmapped(model: nn.Module, loss: Callable[[Callable[..., Any], Any], Tensor]) -> Losses:
    """Losses of K copies of any model, by ``torch.func``.

    Parameters
    ----------
    model
        Gives the computation; its mode (``train`` or ``eval``) is taken as it is, its own
        parameter values are not used. Buffers are shared by the stack.
    loss
        ``loss(call, batch) -> scalar``, where ``call(*inputs)`` runs the model. Each
        entry of the batch comes without its leading axis K.

    Examples
    --------
    >>> net = nn.Linear(3, 2)
    >>> losses = vmapped(net, lambda call, batch: nn.functional.mse_loss(call(batch[0]), batch[1]))
    """
    buffers = dict(model.named_buffers())
    for name, module in model.named_modules():
        if module.training and isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            raise ValueError(
                f"{name!r} is a BatchNorm in training mode: it would change its running statistics inside a stack. "
                "Call model.eval() first"
            )

    def one(params: Params, batch: Any) -> Tensor:
        return loss(lambda *inputs: functional_call(model, {**params, **buffers}, inputs), batch)

    stacked = torch.func.vmap(one, randomness="different")

    def losses(params: Params, context: Params, batch: Any, step: int) -> Tensor:
        return stacked(params, batch)

    return losses


def looped(model: nn.Module, loss: Callable[[Callable[..., Any], Any], Tensor]) -> Losses:
    """Losses of K copies of any model, one after the other: for large models, and for BatchNorm that trains.

    Parameters
    ----------
    model
        Gives the computation, in the mode (``train`` or ``eval``) that it is in at the call. In
        training mode the running statistics of each copy are updated; they are entries of
        the stack without a gradient (see :func:`state_of`), so that every copy has its own and a
        checkpoint holds them.
    loss
        As for :func:`vmapped`.
    """
    running = [name for name, tensor in model.named_buffers() if tensor.is_floating_point()]

    def losses(params: Params, context: Params, batch: Any, step: Any) -> Tensor:
        values = []
        for k in range(len(next(iter(params.values())))):
            # Cloned: how a kernel rounds may depend on where a tensor begins in memory.
            own = {name: tensor[k].clone() for name, tensor in params.items()}
            statistics = {name: own[name].detach().clone() for name in running if name in own}
            part = _rows(batch, k)
            values.append(loss(lambda *x, own=own | statistics: functional_call(model, own, x), part))
            with torch.no_grad():
                for name, tensor in statistics.items():
                    params[name].detach()[k].copy_(tensor)
        return torch.stack(values)

    return losses


def _rows(batch: Any, k: int) -> Any:
    """Member k of a batch: a tensor [K, ...], or tuples, lists and dictionaries of them."""
    if isinstance(batch, Tensor):
        return batch[k]
    if isinstance(batch, dict):
        return {name: _rows(part, k) for name, part in batch.items()}
    return type(batch)(_rows(part, k) for part in batch)


def _cut(batch: Any, pieces: int) -> list[Any]:
    """A batch, tensors [K, B, ...] as in :func:`_rows`, in equal pieces of its second axis."""
    if pieces == 1:
        return [batch]
    if isinstance(batch, Tensor):
        if batch.shape[1] % pieces:
            raise ValueError(f"pieces = {pieces} does not divide a batch of {batch.shape[1]}")
        return list(batch.chunk(pieces, 1))
    if isinstance(batch, dict):
        cut = {name: _cut(part, pieces) for name, part in batch.items()}
        return [{name: parts[i] for name, parts in cut.items()} for i in range(pieces)]
    return [type(batch)(parts) for parts in zip(*(_cut(part, pieces) for part in batch), strict=True)]


def state_of(model: nn.Module) -> Params:
    """Parameters and floating-point buffers (running statistics) of a model, detached: what a stack is made of."""
    buffers = {name: tensor for name, tensor in model.named_buffers() if tensor.is_floating_point()}
    return {name: tensor.detach() for name, tensor in [*model.named_parameters(), *buffers.items()]}


def check_device(device: str | torch.device) -> torch.device:
    """The device, if this machine has it; otherwise ``ValueError`` naming what there is."""
    try:
        found = torch.device(device)
        if found.type not in ("cpu", "cuda"):
            raise RuntimeError(f"{found.type} is not supported")
        torch.zeros(1, device=found).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        there = ", ".join(["cpu", *(f"cuda:{i}" for i in range(count))])
        raise ValueError(f"device = {str(device)!r} is not available; this machine has {there}") from error
    return found


def keep_freed_memory() -> None:
    """Let this process keep freed memory instead of handing it back to the system.

    A training step frees and takes the same megabytes again; without this, glibc returns
    them and every step pays for fresh pages (about 10 % of it). Does nothing where the C
    library is another one.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for option, value in (
            (-3, 1 << 30),
            (-1, 1 << 30),
            (-2, 1 << 28),
        ):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD
            libc.mallopt(option, value)


def clip_(params: list[Tensor], clip: float) -> None:
    """Scale each model's gradient to a norm of at most ``clip``, in place.

    The norm is taken over all of a model's parameters, as in
    ``torch.nn.utils.clip_grad_norm_``, separately for every entry of the leading axis.
    """
    grads = [p.grad for p in params if p.grad is not None]
    # Added up one tensor at a time: a reduction over a stacked tensor rounds differently
    # for different K, and a model's bits must not depend on who shares its stack.
    squares = sum(torch.linalg.vector_norm(grad.reshape(len(grad), -1), dim=1).square() for grad in grads)  # [K]
    scale = (clip / (torch.as_tensor(squares).sqrt() + 1e-6)).clamp(max=1.0)
    if scale.device.type == "cpu" and bool((scale == 1).all()):
        return  # multiplying by one changes no bit; asking costs nothing on a CPU
    for grad in grads:
        grad.mul_(scale.view(-1, *[1] * (grad.dim() - 1)))


def train(
    losses: Losses,
    params: Params,
    batches: Callable[[int, Tensor], Any],
    *,
    steps: int,
    lr: float,
    context: Params | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float | None = None,
    linear_decay: bool = False,
    limit: int | None = None,
    clip: float | None = None,
    evaluate: Evaluate | None = None,
    every: int = 100,
    metric: str | None = None,
    maximise: bool = True,
    target: float | None = None,
    patience: int | None = None,
    keep_best: bool = False,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    progress: str | Callable[[int], None] | None = None,
    streams: Sequence[torch.Generator] = (),
    capture: bool = True,
    pieces: int = 1,
    average: Callable[[list[Tensor]], None] | None = None,
    keep_going: bool = False,
) -> Trained:
    """Train a stack of K models with AdamW, or with stochastic gradient descent.

    Parameters
    ----------
    losses
        ``(params, context, batch, step) -> [K]``.
    params
        Initial values, [K, ...] each. Not changed.
    batches
        ``(step, active) -> batch`` for the models whose indices are in ``active``. A pure
        function of its arguments, so that a resumed run sees the same data.
    context
        Constant tensors with a leading axis K that ``losses`` needs (source weights,
        frozen masks); they lose the rows of models that have stopped. ``index``, each model's
        place in the stack, is always there.
    lr, betas, eps, weight_decay
        AdamW, with decoupled weight decay.
    momentum
        Stochastic gradient descent with this momentum instead; its weight decay is part of the gradient.
        Entries of ``params`` that get no gradient (running statistics) are left alone by both.
    linear_decay
        Lower the learning rate linearly from ``lr`` to 0 over ``steps``.
    limit
        End after this many steps; the learning rate falls as slowly as ``steps`` says.
    clip
        Largest gradient norm of a model (see :func:`clip_`), or None.
    evaluate, every
        Called every ``every`` steps and at the end; its values go to the history.
    metric, maximise, target, patience, keep_best
        ``metric`` is one of the values of ``evaluate``. A model stops when it reaches
        ``target``, or after ``patience`` evaluations without improvement; with
        ``keep_best`` its parameters of the best evaluation are returned.
    checkpoint, checkpoint_seconds
        File to write the state to; an existing one is resumed. Removed at the end.
    progress
        Label of a progress bar, or a function that is told after every step how many
        models took it, or None.
    streams
        Generators that ``losses`` draws from. On a GPU the training step is captured as a
        CUDA graph, which has to know them; ``losses`` and ``batches`` then get the step as a
        tensor.
    capture
        False: on a GPU too every step runs as it is, for ``batches`` that come from the host.
    pieces
        Compute a batch in so many pieces of its second axis and add up their gradients, for a batch that the
        memory does not hold. Losses are means over a batch. BatchNorm in training mode sees each piece by itself.
    average
        Replaces gradients and losses in place by their means over processes that train the same models
        on different data (:meth:`sicore.parallel.Group.average_`).
    keep_going
        A model whose loss is not finite leaves the stack and is named in ``diverged``; the others train on.

    Raises
    ------
    ValueError
        Before training: for settings out of range.
    FloatingPointError
        Without ``keep_going``, when a loss is not finite; it names the model and the step.
    """
    last = steps if limit is None else limit
    _check_settings(
        pieces=pieces, steps=steps, limit=last, lr=lr, every=every, clip=clip, weight_decay=weight_decay, params=params
    )
    if momentum is not None and not 0 <= momentum < 1:
        raise ValueError(f"momentum = {momentum!r}: expected 0 <= momentum < 1, or None for AdamW")
    if metric is None and (target is not None or patience is not None or keep_best):
        raise ValueError("target, patience and keep_best need metric, the name of a value of evaluate")
    if metric is not None and evaluate is None:
        raise ValueError(f"metric = {metric!r} needs evaluate")

    first = next(iter(params.values()))
    K, device = len(first), first.device
    context = {**(context or {}), "index": torch.arange(K, device=device)}
    settings: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay, "fused": True}
    settings |= {"betas": list(betas), "eps": eps} if momentum is None else {"momentum": momentum}
    state = _State.fresh(params, context, settings)
    if checkpoint is not None and Path(checkpoint).is_file():
        state.restore(checkpoint)
    saved = time.monotonic()
    label = progress if isinstance(progress, str) else None
    bar = tqdm(total=last, initial=state.step, desc=label, disable=label is None, unit="step", mininterval=1.0)
    if callable(progress):
        progress(state.step * len(state.active))

    def gradient(step: Any) -> Tensor:
        whole = batches(step, state.active)
        found = []
        for piece in _cut(whole, pieces):
            value = losses(state.params, state.context, piece, step)
            if value.shape != (len(state.active),):
                raise ValueError(
                    f"losses returned shape {tuple(value.shape)}; expected one loss per model, ({len(state.active)},)"
                )
            if device.type == "cpu" and not keep_going:
                _check_finite(value, state.active, step)
            (value.sum() if pieces == 1 else value.sum() / pieces).backward()
            found.append(value.detach())
        loss = found[0] if pieces == 1 else torch.stack(found).mean(0)
        if average is not None:
            average([*(tensor.grad for tensor in state.params.values() if tensor.grad is not None), loss])
        return loss

    def descend() -> None:
        if clip is not None:
            clip_(list(state.params.values()), clip)
        state.optimizer.step()

    def both(step: Any) -> Tensor:
        state.optimizer.zero_grad()
        value = gradient(step)
        descend()
        return value

    replay = Replay(both, device, streams) if device.type == "cuda" and capture else None
    while state.step < last and len(state.active):
        step = state.step
        if linear_decay:
            state.set_lr(lr * (1 - step / steps))
        value = replay(step) if replay is not None else both(step)
        due = (step + 1) % every == 0 or step + 1 == last
        if due and device.type != "cpu" and not keep_going:
            _check_finite(value, state.active, step)
        state.step += 1
        bar.update()
        if callable(progress):
            progress(len(state.active))
        smaller = False
        if keep_going and (due or device.type == "cpu"):
            finite = value.isfinite()
            smaller = state.give_up(finite)
            value = value[finite] if smaller else value
        if due and len(state.active):
            _record(state, value, evaluate, metric, maximise, keep_best)
            smaller |= state.retire(target, maximise, patience)
        if smaller and replay is not None:
            replay = Replay(both, device, streams)  # of the smaller stack
        if checkpoint is not None and time.monotonic() - saved >= checkpoint_seconds:
            state.save(checkpoint)
            saved = time.monotonic()
    bar.close()
    result = state.result(K)
    for name, tensor in result.params.items():
        whole = tensor.reshape(len(tensor), -1).isfinite().all(1).tolist()
        bad = [model for model in range(K) if not whole[model] and model not in result.diverged]
        if bad and not keep_going:
            raise FloatingPointError(f"parameter {name!r} of model {bad[0]} is not finite after training")
        result.diverged.update({model: result.steps[model] for model in bad})
    if checkpoint is not None:
        Path(checkpoint).unlink(missing_ok=True)
    return result


def _check_settings(
    *,
    pieces: int,
    steps: int,
    limit: int,
    lr: float,
    every: int,
    clip: float | None,
    weight_decay: float,
    params: Params,
) -> None:
    for name, count in {"pieces": pieces, "steps": steps, "limit": limit, "every": every}.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} = {count!r}: expected an integer of 1 or more")
    if limit > steps:
        raise ValueError(f"limit = {limit}: expected at most steps = {steps}")
    if not 0 < lr < float("inf"):
        raise ValueError(f"lr = {lr!r}: the learning rate is a finite number above 0")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip = {clip!r}: expected a number above 0, or None for no clipping")
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay = {weight_decay!r}: expected 0 or more")
    if not params:
        raise ValueError("params is empty: there is nothing to train")
    sizes = {name: len(tensor) for name, tensor in params.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"params have different leading axes: {sizes}")


def _check_finite(value: Tensor, active: Tensor, step: int) -> None:
    finite = value.detach().isfinite()
    if not bool(finite.all()):
        bad = active[~finite].tolist()
        raise FloatingPointError(
            f"the loss of model {', '.join(map(str, bad))} of the stack is not finite at step {step}; "
            "lower the learning rate, or check the data"
        )


def _optimizer(params: Params, settings: Mapping[str, Any]) -> torch.optim.Optimizer:
    device = next(iter(params.values())).device
    lr = settings["lr"]
    if device.type == "cuda":  # a captured step reads the rate from the device
        lr = torch.tensor(lr, device=device)
    if "momentum" in settings:
        return torch.optim.SGD(params.values(), **{**settings, "lr": lr})
    return torch.optim.AdamW(params.values(), **{**settings, "lr": lr}, capturable=device.type == "cuda")


class Replay:
    """A training step on a GPU, captured as a CUDA graph: one launch in place of thousands.

    The first calls run the step as it is, on a side stream, so that what is set up once
    is set up; then it is recorded, and every further call plays the recording.

    Parameters
    ----------
    run
        ``step (a tensor) -> losses``; changes parameters in place.
    streams
        Generators that it draws from.
    capture
        ``(run, step, streams) -> (replay, losses)``; another one in tests.
    """

    WARM_UP = 3

    def __init__(
        self, run: Callable[[Tensor], Tensor], device: torch.device, streams: Sequence[torch.Generator] = (),
        capture: Callable[..., tuple[Callable[[], None], Tensor]] | None = None,
    ) -> None:  # fmt: skip
        self.run, self.streams, self.capture = run, streams, capture or _capture
        self.step = torch.zeros((), dtype=torch.int64, device=device)
        self.side = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.calls = 0
        self.replay: Callable[[], None] | None = None
        self.value = self.step

    def __call__(self, step: int) -> Tensor:
        self.step.fill_(step)
        self.calls += 1
        if self.calls <= self.WARM_UP:
            if self.side is None:
                return self.run(self.step)
            self.side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.side):
                value = self.run(self.step)
            torch.cuda.current_stream().wait_stream(self.side)
            return value
        if self.replay is None:
            self.replay, self.value = self.capture(self.run, self.step, self.streams)
        self.replay()
        return self.value


def _capture(
    run: Callable[[Tensor], Tensor], step: Tensor, streams: Sequence[torch.Generator]
) -> tuple[Callable[[], None], Tensor]:
    graph = torch.cuda.CUDAGraph()
    for stream in streams:
        graph.register_generator_state(stream)
    with torch.cuda.graph(graph):
        value = run(step)
    return graph.replay, value


@dataclass
class _State:
    """Everything that changes during training; saved whole, restored whole."""

    params: Params  # [k, ...] of the active models
    context: Params  # [k, ...]
    settings: dict[str, Any]  # of the optimiser
    optimizer: torch.optim.Optimizer
    shapes: dict[str, list[int]]  # of the whole stack
    step: int
    history: list[dict[str, float]]
    best: dict[int, tuple[float, int]]  # model -> best value, evaluations since
    kept: dict[int, Params]  # model -> parameters of its best evaluation or its end
    stopped: dict[int, int]  # model -> steps taken
    last: dict[int, float]  # model -> its metric at the last evaluation
    diverged: dict[int, int]  # model -> step

    @classmethod
    def fresh(cls, params: Params, context: Params, settings: dict[str, Any]) -> _State:
        own = {name: tensor.detach().clone().requires_grad_() for name, tensor in params.items()}
        optimizer = _optimizer(own, settings)
        shapes = {name: list(tensor.shape) for name, tensor in own.items()}
        return cls(own, context, settings, optimizer, shapes, 0, [], {}, {}, {}, {}, {})

    @property
    def active(self) -> Tensor:
        """Indices of the models that still train, [k], on the device of the parameters."""
        return self.context["index"]

    def select(self, rows: Tensor) -> None:
        """Keep only some of the active models (indices into the active ones)."""
        old = self.optimizer
        params = {name: tensor.detach()[rows].requires_grad_() for name, tensor in self.params.items()}
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

    def result(self, K: int) -> Trained:
        final = dict(self.kept)
        for row, model in enumerate(self.active.tolist()):
            self.stopped.setdefault(model, self.step)
            if model not in final:
                final[model] = {name: tensor.detach()[row] for name, tensor in self.params.items()}
        params = {name: torch.stack([final[model][name] for model in range(K)]) for name in self.params}
        return Trained(params, [self.stopped[model] for model in range(K)], self.history, self.diverged)

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
            "shapes": self.shapes,
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
        if meta.get("shapes") != self.shapes or meta.get("settings") != self.settings:
            return  # of another model, stack or optimiser
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


def _record(
    state: _State, loss: Tensor, evaluate: Evaluate | None, metric: str | None, maximise: bool, keep_best: bool
) -> None:
    """Append one history row per active model, and keep the best parameters."""
    values: dict[str, list[float]] = {"loss": loss.tolist()}  # a copy: a captured step writes to the same place again
    if evaluate is not None:
        with torch.no_grad():
            measured = evaluate(state.params, state.context, state.step, state.active)
        values |= {name: torch.as_tensor(value).tolist() for name, value in measured.items()}
    if metric is not None and metric not in values:
        raise ValueError(f"metric = {metric!r} is not measured; evaluate gives {', '.join(values)}")
    for row, model in enumerate(state.active.tolist()):
        if model in state.stopped:
            continue
        state.history.append(
            {"model": model, "step": state.step, **{name: value[row] for name, value in values.items()}}
        )
        if metric is None:
            continue
        value, previous = values[metric][row], state.best.get(model)
        state.last[model] = value
        worst = previous is None or math.isnan(previous[0])
        better = worst or (value > previous[0] if maximise else value < previous[0])  # type: ignore[index]
        state.best[model] = (value, 0) if better else (previous[0], previous[1] + 1)  # type: ignore[index]
        if better and keep_best:
            state.kept[model] = {name: tensor.detach()[row].clone() for name, tensor in state.params.items()}
