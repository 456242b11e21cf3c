"""The training loop: K models at once.

Parameters, optimiser state and data carry a leading axis over the K models of a stack;
one model is a stack of one. Losses of different models never mix, so the gradient of
their sum is each model's own gradient, and AdamW works entry by entry: a stack of K
trains exactly the K models that single runs would train.
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
from torch import Tensor
from tqdm import tqdm  # plain text: a notebook's widget needs scripts from outside

from sicore._replay import Replay
from sicore._state import State, origin_of
from sicore._tensors import check_tensors, is_held, listed, mapped
from sicore.masking import Params
from sicore.stacks import RECOMPUTED, Losses

Evaluate = Callable[[Params, Params, int, Tensor], Mapping[str, Tensor]]
"""(parameters, context, step, active) -> metric name -> one value per active model, [k]."""


@dataclass(frozen=True)
class Watch:
    """What is measured while models train, and what follows from it.

    Parameters
    ----------
    evaluate, every
        Called every ``every`` steps and at the end; its values go to the history.
    metric, maximise
        One of the values of ``evaluate``, and whether more of it is better.
    target, patience
        A model stops when its metric reaches ``target``, or after ``patience`` evaluations without improvement.
    keep_best
        Return each model's parameters of its best evaluation, not of its last step.
    """

    evaluate: Evaluate | None = None
    every: int = 100
    metric: str | None = None
    maximise: bool = True
    target: float | None = None
    patience: int | None = None
    keep_best: bool = False

    def __post_init__(self) -> None:
        check_counts(every=self.every, **{} if self.patience is None else {"patience": self.patience})
        if self.target is not None and math.isnan(self.target):
            raise ValueError(f"target = {self.target!r}: expected a number, or None for no target")


@dataclass(frozen=True)
class Resume:
    """How a training that was stopped goes on, and how it tells where it is.

    Parameters
    ----------
    checkpoint, seconds
        File to write the state to, about every so many seconds. One that is there is resumed if it is of this
        training: same steps, optimiser, initial parameters, context and ``of``. Any other is written over. Removed at
        the end.
    progress
        Label of a progress bar, or a function that is told after every step how many models took it, or None.
    of
        What else makes this training another than others, in words.
    """

    checkpoint: str | Path | None = None
    seconds: float = 60.0
    progress: str | Callable[[int], None] | None = None
    of: str = ""

    def __post_init__(self) -> None:
        if not self.seconds >= 0:
            raise ValueError(f"seconds = {self.seconds!r}: expected 0 or more between two checkpoints")
        if not (self.progress is None or isinstance(self.progress, str) or callable(self.progress)):
            raise ValueError(f"progress = {self.progress!r}: expected a label, a function or None")


@dataclass(frozen=True)
class Run:
    """How the steps are computed.

    Parameters
    ----------
    pieces
        Compute a batch in so many pieces of its second axis and add up their gradients, for a batch that the
        memory does not hold. Losses are means over a batch. BatchNorm in training mode sees each piece by itself.
    keep_going
        A model whose loss is not finite leaves the stack and is named in ``diverged``; the others train on.
    capture, streams
        On a GPU the step is captured as a CUDA graph, which has to know the generators that ``losses`` draws from;
        ``losses`` and ``batches`` then get the step as a tensor. ``capture=False`` runs every step as it is, for
        ``batches`` that come from the host.
    """

    pieces: int = 1
    keep_going: bool = False
    capture: bool = True
    streams: Sequence[torch.Generator] = ()

    def __post_init__(self) -> None:
        check_counts(pieces=self.pieces)
        if not all(isinstance(one, torch.Generator) for one in self.streams):
            raise ValueError(f"streams = {self.streams!r}: expected generators")


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
    watch: Watch | None = None,
    resume: Resume | None = None,
    run: Run | None = None,
) -> Trained:
    """Train a stack of K models with AdamW, or with stochastic gradient descent.

    Parameters
    ----------
    losses
        ``(params, context, batch, step) -> [K]``.
    params
        Initial values, [K, ...] each, in float32 or float64. Not changed. Those that are held, as an ``nn.Parameter``
        with ``requires_grad=False`` (see :func:`sicore.stacks.stack`), stay as they are, whatever their type.
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
        Entries of ``params`` that get no gradient are left alone by both.
    linear_decay
        Lower the learning rate linearly from ``lr`` to 0 over ``steps``.
    limit
        End after this many steps; the learning rate falls as slowly as ``steps`` says.
    clip
        Largest gradient norm of a model (see :func:`clip_`), or None.
    watch, resume, run
        What is measured, how a stopped training goes on, how the steps are computed: see there.

    Raises
    ------
    ValueError
        Before training: for settings out of range, and for a parameter in which small steps would be lost: an integer
        (hold it), bfloat16 and float16 (train float32; compute in less inside of ``losses``, by ``torch.autocast``).
        At the first step: for losses that depend on a tensor with a gradient that is not trained here, or that compute
        a part again during the backward pass (gradient checkpointing).
    FloatingPointError
        Without ``keep_going``, when a loss is not finite; it names the model and the step.

    Examples
    --------
    >>> losses = lambda params, context, batch, step: (params["w"] - batch).square().sum(1)
    >>> ends = train(losses, {"w": torch.zeros(2, 1)}, lambda step, active: 3.0, steps=400, lr=0.05)
    >>> ends.params["w"].round(decimals=1).tolist(), ends.steps
    ([[3.0], [3.0]], [400, 400])
    """
    watch, resume, run = watch or Watch(), resume or Resume(), run or Run()
    last = steps if limit is None else limit
    _check_settings(steps=steps, limit=last, lr=lr, clip=clip, weight_decay=weight_decay, params=params)
    if momentum is not None and not 0 <= momentum < 1:
        raise ValueError(f"momentum = {momentum!r}: expected 0 <= momentum < 1, or None for AdamW")
    if watch.metric is None and (watch.target is not None or watch.patience is not None or watch.keep_best):
        raise ValueError("target, patience and keep_best need metric, the name of a value of evaluate")
    if watch.metric is not None and watch.evaluate is None:
        raise ValueError(f"metric = {watch.metric!r} needs evaluate")
    first = next(iter(params.values()))
    K, device = len(first), first.device
    context = {**(context or {}), "index": torch.arange(K, device=device)}
    settings: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay, "fused": True}
    settings |= {"betas": list(betas), "eps": eps} if momentum is None else {"momentum": momentum}
    origin = origin_of(params, context, steps, f"{resume.of} clip={clip}") if resume.checkpoint else {}
    state = State.fresh(params, context, settings, origin)
    if resume.checkpoint is not None and Path(resume.checkpoint).is_file():
        state.restore(resume.checkpoint)

    def take(step: Any) -> Tensor:
        state.optimizer.zero_grad()
        loss = _gradient(losses, state, batches(step, state.active), step, run)
        if clip is not None:
            clip_(list(state.params.values()), clip)
        state.optimizer.step()
        return loss

    _loop(state, take, last, watch, resume, run, lambda step: lr * (1 - step / steps) if linear_decay else None)
    trained = Trained(*state.result(K))
    _check_whole(trained, run.keep_going)
    if resume.checkpoint is not None:
        Path(resume.checkpoint).unlink(missing_ok=True)
    return trained


def _gradient(losses: Losses, state: State, batch: Any, step: Any, run: Run) -> Tensor:
    """Add up the gradients of a batch's pieces; the mean loss of each active model, [k]."""
    found = []
    for piece in _cut(batch, run.pieces):
        value = losses(state.params, state.context, piece, step)
        if value.shape != (len(state.active),):
            raise ValueError(
                f"losses returned shape {tuple(value.shape)}; expected one loss per model, ({len(state.active)},)"
            )
        if state.active.device.type == "cpu" and not run.keep_going:
            _check_finite(value, state.active, step)
        if not state.checked:
            _check_graph(value, state.params)
            state.checked = True
        (value.sum() if run.pieces == 1 else value.sum() / run.pieces).backward()
        found.append(value.detach())
    return found[0] if run.pieces == 1 else torch.stack(found).mean(0)


def _check_graph(losses: Tensor, params: Params) -> None:
    """``ValueError`` when the losses depend on what this training does not know of."""
    trained = {id(tensor) for tensor in params.values()}
    left, seen = [losses.grad_fn], set()
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        tensor = getattr(node, "variable", None)  # of a leaf
        if tensor is not None and id(tensor) not in trained:
            raise ValueError(
                f"the losses depend on a tensor of shape {list(tensor.shape)} that needs a gradient and is not trained "
                "here. Compute with the given parameters alone: with `call`, not with the model; in layers that the "
                "model has registered, not in a list of its own"
            )
        if "CheckpointFunction" in node.name():
            raise ValueError(RECOMPUTED)
        left += [before for before, _ in node.next_functions]


def _loop(
    state: State,
    take: Callable[[Any], Tensor],
    last: int,
    watch: Watch,
    resume: Resume,
    run: Run,
    rate: Callable[[int], float | None],
) -> None:
    """Take steps until ``last``, or until no model is left."""
    device, saved = state.active.device, time.monotonic()
    label = resume.progress if isinstance(resume.progress, str) else None
    bar = tqdm(total=last, initial=state.step, desc=label, disable=label is None, unit="step", mininterval=1.0)
    if callable(resume.progress):
        resume.progress(state.step * len(state.active))

    def captured() -> Callable[[int], Tensor]:
        return Replay(take, device, run.streams) if device.type == "cuda" and run.capture else take

    step_of_stack = captured()
    while state.step < last and len(state.active):
        step = state.step
        if (lr := rate(step)) is not None:
            state.set_lr(lr)
        loss = step_of_stack(step)
        due = (step + 1) % watch.every == 0 or step + 1 == last
        if due and device.type != "cpu" and not run.keep_going:
            _check_finite(loss, state.active, step)
        state.step += 1
        bar.update()
        if callable(resume.progress):
            resume.progress(len(state.active))
        smaller = False
        if run.keep_going and (due or device.type == "cpu"):
            finite = loss.isfinite()
            smaller = state.give_up(finite)
            loss = loss[finite] if smaller else loss
        if due and len(state.active):
            _record(state, loss, watch)
            smaller |= state.retire(watch.target, watch.maximise, watch.patience)
        if smaller:
            step_of_stack = captured()  # of the smaller stack
        if resume.checkpoint is not None and time.monotonic() - saved >= resume.seconds:
            state.save(resume.checkpoint)
            saved = time.monotonic()
    bar.close()


def _record(state: State, loss: Tensor, watch: Watch) -> None:
    """Append one history row per active model, and keep the best parameters."""
    values: dict[str, list[float]] = {"loss": loss.tolist()}  # a copy: a captured step writes to the same place again
    if watch.evaluate is not None:
        with torch.no_grad():
            measured = watch.evaluate(state.params, state.context, state.step, state.active)
        values |= {name: torch.as_tensor(value).tolist() for name, value in measured.items()}
    for name, one in values.items():
        if not isinstance(one, list) or len(one) != len(state.active) or any(isinstance(x, list) for x in one):
            raise ValueError(
                f"evaluate: {name!r} has another shape than ({len(state.active)},), a value for each model"
            )
    if watch.metric is not None and watch.metric not in values:
        raise ValueError(f"metric = {watch.metric!r} is not measured; evaluate gives {', '.join(values)}")
    for row, model in enumerate(state.active.tolist()):
        if model in state.stopped:
            continue
        state.history.append(
            {"model": model, "step": state.step, **{name: value[row] for name, value in values.items()}}
        )
        if watch.metric is None:
            continue
        value, previous = values[watch.metric][row], state.best.get(model)
        state.last[model] = value
        if previous is None or math.isnan(previous[0]):
            better = True
        else:
            better = value > previous[0] if watch.maximise else value < previous[0]
        state.best[model] = (value, 0) if better or previous is None else (previous[0], previous[1] + 1)
        if better and watch.keep_best:
            state.kept[model] = {name: tensor.detach()[row].clone() for name, tensor in state.params.items()}


def _cut(batch: Any, pieces: int) -> list[Any]:
    """A batch, tensors [K, B, ...] or tuples, lists and dictionaries of them, in equal pieces of its second axis."""
    if pieces == 1:
        return [batch]
    sizes: set[int] = set()
    mapped(batch, lambda tensor: sizes.add(tensor.shape[1] if tensor.dim() > 1 else 0))
    if len(sizes) > 1 or 0 in sizes:
        raise ValueError(f"pieces = {pieces}: the second axes of a batch, {sorted(sizes)}, are not all of one size")
    if next(iter(sizes)) % pieces:
        raise ValueError(f"pieces = {pieces} does not divide a batch of {next(iter(sizes))}")
    return [mapped(batch, lambda tensor, i=i: tensor.chunk(pieces, 1)[i]) for i in range(pieces)]  # type: ignore[misc]


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


def check_counts(**counts: int) -> None:
    """``ValueError`` naming the first that is no integer of 1 or more."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} = {value!r}: expected an integer of 1 or more")


def check_optimiser(lr: float, weight_decay: float = 0.0, clip: float | None = None) -> None:
    """``ValueError`` naming the first of an optimiser's settings that is out of range."""
    if not 0 < lr < math.inf:
        raise ValueError(f"lr = {lr!r}: the learning rate is a finite number above 0")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip = {clip!r}: expected a number above 0, or None for no clipping")
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay = {weight_decay!r}: expected 0 or more")


def keep_freed_memory() -> None:
    """Let this process keep freed memory instead of handing it back to the system.

    A training step frees and takes the same megabytes again; without this, glibc returns
    them and every step pays for fresh pages (about 10 % of it). Does nothing where the C
    library is another one.
    """
    M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for option, value in ((M_MMAP_THRESHOLD, 1 << 30), (M_TRIM_THRESHOLD, 1 << 30), (M_TOP_PAD, 1 << 28)):
            libc.mallopt(option, value)


def _check_settings(
    *, steps: int, limit: int, lr: float, clip: float | None, weight_decay: float, params: Params
) -> None:  # fmt: skip
    check_counts(steps=steps, limit=limit)
    if limit > steps:
        raise ValueError(f"limit = {limit}: expected at most steps = {steps}")
    check_optimiser(lr, weight_decay, clip)
    if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        raise ValueError("gradients are off here: call this outside of torch.no_grad and torch.inference_mode")
    check_tensors("params", params)
    if not params:
        raise ValueError("params is empty: there is nothing to train")
    sizes = {name: len(tensor) if tensor.dim() else 0 for name, tensor in params.items()}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        odd = listed(f"{name!r}: {size}" for name, size in sizes.items())
        raise ValueError(f"params have different leading axes, or none: {odd}")
    if all(is_held(tensor) for tensor in params.values()):
        raise ValueError("params: every tensor has requires_grad=False, so there is nothing to train")
    for name, tensor in params.items():
        if not is_held(tensor) and tensor.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"params: {name!r} has type {tensor.dtype}. {_remedy(tensor.dtype)}")


def _remedy(dtype: torch.dtype) -> str:
    if dtype.is_floating_point:
        return (
            "Small steps round to nothing in it: train a float32 copy, model.float(), and compute in less inside of "
            "the losses, with torch.autocast"
        )
    return "Only float32 and float64 are trained: hold it, nn.Parameter(..., requires_grad=False), or leave it out"


def _check_finite(value: Tensor, active: Tensor, step: int) -> None:
    finite = value.detach().isfinite()
    if not bool(finite.all()):
        bad = active[~finite].tolist()
        raise FloatingPointError(
            f"the loss of model {', '.join(map(str, bad))} of the stack is not finite at step {step}; "
            "lower the learning rate, or check the data"
        )


def _check_whole(trained: Trained, keep_going: bool) -> None:
    """Name the models whose parameters are not finite in ``diverged``; without ``keep_going`` that is an error."""
    for name, tensor in trained.params.items():
        whole = tensor.reshape(len(tensor), -1).isfinite().all(1).tolist()
        bad = [model for model in range(len(tensor)) if not whole[model] and model not in trained.diverged]
        if bad and not keep_going:
            raise FloatingPointError(f"parameter {name!r} of model {bad[0]} is not finite after training")
        trained.diverged.update({model: trained.steps[model] for model in bad})
