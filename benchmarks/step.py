"""How long does a training step take? The stack beside a plain loop, interleaved.

For each stage (base, discovery, transfer) and depth this times, in turn and in one
process with one thread:

- ``loop``: a Python loop over single Hugging Face GPT-2 models with fused AdamW, the same
  mathematics and the same loss (answer only), masks as one more operation per matrix;
- ``stack``: the same K models trained by ``sicore.training.train`` on ``stacked_gpt2``;
- ``vmap``: the same by ``torch.func`` (with ``--vmap``).

The variants take turns in every round, so that a drift of the machine's speed hits all of
them, and the ratio is taken round by round. The floor is the time that the matrix
products alone would need at the machine's matmul rate, which is measured in the same run.

    python benchmarks/step.py            # 2 layers
    python benchmarks/step.py --layers 2 12
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import pandas as pd
import torch
import torch.nn.functional as F
from torch.func import functional_call

import sicore as si
from companion.arithmetic import task as ar
from companion.arithmetic.gpt2 import Dropout, gpt2
from companion.lab import tables as results
from sicore.training import keep_freed_memory

NUMBERS, P, BATCH = 100, 7, 50
LR, CLIP, PENALTY = 3e-4, 1.0, 1e-6


def matmul_rate(dtype: torch.dtype) -> float:
    """Operations a second (one thread) of a large square product, best of several."""
    a, b = (torch.randn(1024, 1024).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - began)
    return 2 * 1024**3 / best


def operations(
    n_layer: int, d: int = 128, positions: int = 3, numbers: int = NUMBERS, all_positions: bool = False
) -> float:
    """Floating-point operations of the matrix products of one training step of one model.

    Only what the loss needs. Where that is on the answer only: the last layer's queries, projections and MLP at
    the last position alone. Forward, and twice that for the gradients of inputs and weights.
    """
    full = positions * 12 * d * d
    last = full if all_positions else positions * 2 * d * d + (1 + 1 + 8) * d * d
    head = (positions if all_positions else 1) * d * (numbers + 1)
    return 3 * 2 * BATCH * ((n_layer - 1) * full + last + head)


class Stage:
    """Data and starting points of one stage, and its variants as ``steps -> None``."""

    def __init__(
        self, stage: str, n_layer: int, K: int, numbers: int = NUMBERS, all_positions: bool = False, batch: int = BATCH
    ) -> None:
        self.stage, self.K, self.numbers, self.all_positions, self.batch = stage, K, numbers, all_positions, batch
        self.models = [gpt2(vocab=numbers + 1, n_layer=n_layer, seed=k).eval() for k in range(K)]
        self.fresh = [gpt2(vocab=numbers + 1, n_layer=n_layer, seed=100 + k).eval() for k in range(K)]
        self.names = si.maskable(self.models[0], include="transformer.h.*")
        self.masks = [
            {n: torch.rand(m.get_parameter(n).shape, generator=si.generator(k, n)) < 0.1 for n in self.names}
            for k, m in enumerate(self.models)
        ]
        self.f = ar.Computation.parse("a + ab")
        self.sets = [ar.split_pairs(numbers, [5000], si.generator(k, "pairs"))[0] for k in range(K)]

    def data(self, steps: int) -> ar.Samples:
        orders = [si.generator(k, "order") for k in range(self.K)]
        return ar.samples(
            self.sets, self.f, p=P, numbers=self.numbers, batch=self.batch, steps=steps, generators=orders
        )

    def run_stack(self, steps: int, losses, dtype: torch.dtype, resume: si.Resume | None = None) -> si.Trained:
        data = self.data(steps)
        common, watch = {"steps": steps, "lr": LR, "resume": resume}, si.Watch(every=steps)
        if self.stage == "base":
            return si.train(losses, si.stack(self.models), data, clip=CLIP, watch=watch, **common)
        if self.stage == "discovery":
            source = si.stack(self.models)
            return si.discover(
                losses, source, self.names, data, penalty=PENALTY, dtype=dtype, every=steps, **common
            )[1]  # fmt: skip
        starts = []
        for model, fresh, masks in zip(self.models, self.fresh, self.masks, strict=True):
            params = {n: p.detach().clone() for n, p in fresh.named_parameters()}
            params |= {n: torch.where(m, model.get_parameter(n).detach(), params[n]) for n, m in masks.items()}
            starts.append(si.Start(params, masks))
        return si.transfer(losses, starts, data, clip=CLIP, weight_decay=0.01, dtype=dtype, watch=watch, **common)

    def stacked(self, dtype: torch.dtype) -> Callable[[int], si.Trained]:
        losses = ar.losses(n_head=4, dtype=dtype, dropout=Dropout(0.0, range(self.K)), all_positions=self.all_positions)
        return lambda steps: self.run_stack(steps, losses, dtype)

    def vmapped(self) -> Callable[[int], si.Trained]:
        losses = si.vmapped(self.models[0], lambda call, batch: F.cross_entropy(call(batch[0]).logits[:, -1], batch[1]))
        return lambda steps: self.run_stack(steps, losses, torch.float32)

    def loop(self, dtype: torch.dtype) -> Callable[[int], list[tuple[si.Params, float]]]:
        return lambda steps: self.run_loop(steps, dtype)

    def run_loop(self, steps: int, dtype: torch.dtype) -> list[tuple[si.Params, float]]:
        """Parameters (of the discovery: logits) and last loss of every model."""
        data, result = self.data(steps), []
        for k, (model, fresh, masks) in enumerate(zip(self.models, self.fresh, self.masks, strict=True)):
            source = {n: model.get_parameter(n).detach() for n in self.names}
            if self.stage == "discovery":
                free = {n: torch.full_like(w, -0.1, requires_grad=True) for n, w in source.items()}
            else:
                net = model if self.stage == "base" else fresh
                free = {n: p.detach().clone().requires_grad_() for n, p in net.named_parameters()}
            decay = 0.01 if self.stage == "transfer" else 0.0
            optimizer = torch.optim.AdamW(free.values(), lr=LR, weight_decay=decay, fused=True)
            for step in range(steps):
                inputs, answers = (part[0] for part in data(step, torch.tensor([k])))
                targets = (
                    torch.cat([inputs[:, 1:], answers[:, None]], dim=1) if self.all_positions else answers[:, None]
                )
                if self.stage == "base":
                    effective = free
                elif self.stage == "discovery":
                    T = si.ContinuousSparsification().schedule(step, steps)
                    soft = {n: torch.sigmoid(T * m) for n, m in free.items()}
                    effective = {n: source[n] * soft[n] for n in soft}
                else:
                    effective = free | {n: torch.where(masks[n], source[n], free[n]) for n in masks}
                with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                    out = functional_call(model, effective, (inputs,), {"logits_to_keep": targets.shape[1]})
                loss = F.cross_entropy(out.logits.flatten(0, 1).float(), targets.flatten())
                last = loss.item()
                if self.stage == "discovery":
                    loss = loss + PENALTY * sum(m.sum() for m in soft.values())
                loss.backward()
                if self.stage != "discovery":
                    torch.nn.utils.clip_grad_norm_(free.values(), CLIP)
                optimizer.step()
                optimizer.zero_grad()
            if self.stage == "transfer":
                free = free | {n: torch.where(masks[n], source[n], free[n]) for n in masks}
            result.append((free, last))
        return result


def agreement(steps: int = 100, K: int = 4) -> None:
    """Largest differences between the stack and separate Hugging Face models, float32, 2 layers."""
    print(f"agreement after {steps} steps, {K} models, float32, no dropout: largest absolute difference")
    for name in ("base", "transfer"):
        stage = Stage(name, 2, K)
        stacked, single = stage.stacked(torch.float32)(steps), stage.loop(torch.float32)(steps)
        loss = max(abs(row["loss"] - last) for row, (_, last) in zip(stacked.history, single, strict=True))
        params = max(
            float((stacked.params[n][k] - tensor.detach()).abs().max())
            for k, (free, _) in enumerate(single)
            for n, tensor in free.items()
        )
        print(f"{name:>10}: loss {loss:.1e}, parameters {params:.1e}")
        if name == "transfer":
            same = all(
                torch.equal(stacked.params[n][k][mask], stage.models[k].get_parameter(n)[mask])
                for k, masks in enumerate(stage.masks)
                for n, mask in masks.items()
            )
            print(f"{name:>10}: frozen weights bit-equal to the source: {same}")


KINDS = {
    "matrix products": ("bmm", "baddbmm"),
    "compiled (GELU, norms, attention, loss)": ("sicore_gpt2",),
    "optimiser and clipping": ("_fused_adamw_", "linalg_vector_norm", "Optimizer"),
    "copies and changes of type": ("copy_", "_to_copy", "cat", "contiguous", "clone"),
    "soft masks": ("sigmoid",),
    "frozen weights": ("bitwise",),
    "sums and products": (
        "mul",
        "sum",
        "softmax",
        "add",
        "nll",
        "div",
        "index",
        "embedding",
    ),
}


def breakdown(steps: int = 40, K: int = 8) -> list[tuple[str, str, str, str]]:
    """Share of a stacked step's time by kind of operation, 2 layers, by torch's profiler."""
    rows = []
    for name in ("base", "discovery", "transfer"):
        for label, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
            go = Stage(name, 2, K).stacked(dtype)
            go(5)
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                go(steps)
            total, shares = 0.0, dict.fromkeys([*KINDS, "the rest (Python, autograd, other operations)"], 0.0)
            for event in profile.key_averages():
                kind = next(
                    (k for k, words in KINDS.items() if any(word in event.key for word in words)), list(shares)[-1]
                )
                shares[kind] += event.self_cpu_time_total
                total += event.self_cpu_time_total
            rows += [(name, label, kind, f"{share / total:.0%}") for kind, share in shares.items()]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[2])
    parser.add_argument("--stages", nargs="+", default=["base", "discovery", "transfer"])
    parser.add_argument("--stack", type=int, default=8, help="K, models in the stack")
    parser.add_argument("--steps", type=int, default=40, help="at 2 layers; fewer for deeper models")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--vmap", action="store_true", help="time torch.func as well")
    parser.add_argument("--agreement", action="store_true", help="compare results, not times")
    parser.add_argument("--write", action="store_true", help="write the table to results/benchmark/step.csv")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    if given.agreement:
        return agreement()
    start, rows = time.monotonic(), []
    rate = {dtype: matmul_rate(dtype) for dtype in (torch.float32, torch.bfloat16)}
    single, short = (rate[dtype] / 1e9 for dtype in (torch.float32, torch.bfloat16))
    print(f"one thread; matmul rate float32 {single:.0f}, bfloat16 {short:.0f} GFLOP/s")
    print(
        f"stack of {given.stack}, batch {BATCH}, {given.rounds} rounds of {given.steps} steps; median ms a model a step"
    )
    print(f"{'layers':>6} {'stage':>10} {'variant':>12} {'ms':>7} {'x loop':>7} {'floor ms':>9} {'of peak':>8}")
    for n_layer in given.layers:
        for name in given.stages:
            stage = Stage(name, n_layer, given.stack)
            variants = {
                "loop float32": (stage.loop(torch.float32), torch.float32),
                "loop bf16": (stage.loop(torch.bfloat16), torch.bfloat16),
                "stack float32": (stage.stacked(torch.float32), torch.float32),
                "stack bf16": (stage.stacked(torch.bfloat16), torch.bfloat16),
            }
            if given.vmap:
                variants["vmap float32"] = (stage.vmapped(), torch.float32)
            times: dict[str, list[float]] = {label: [] for label in variants}
            steps = max(10, given.steps * 2 // n_layer)
            for round_ in range(given.rounds + 1):  # the first warms up
                for label, (go, _) in variants.items():
                    began = time.perf_counter()
                    go(steps)
                    if round_:
                        times[label].append((time.perf_counter() - began) / steps / given.stack * 1e3)
            for label, (_, dtype) in variants.items():
                ratio = statistics.median(a / b for a, b in zip(times["loop float32"], times[label], strict=True))
                floor = operations(n_layer) / rate[dtype] * 1e3
                ms = statistics.median(times[label])
                print(
                    f"{n_layer:>6} {name:>10} {label:>12} {ms:7.2f} {ratio:7.2f} {floor:9.2f} {floor / ms:8.0%}",
                    flush=True,
                )
                rows.append((n_layer, name, label, round(ms, 2), round(ratio, 2), round(floor, 2), f"{floor / ms:.0%}"))
    if given.write:
        columns = [
            "layers",
            "stage",
            "variant",
            "ms a model a step",
            "times faster than the loop",
            "floor in ms",
            "of peak",
        ]
        parameters = vars(given) | {"gflops": {str(dtype): round(value / 1e9) for dtype, value in rate.items()}}
        shares = pd.DataFrame(breakdown(), columns=["stage", "type", "kind", "share"])
        shares = shares.pivot(index="kind", columns=["stage", "type"], values="share").loc[shares["kind"].unique()]
        shares.columns = [" ".join(column) for column in shares.columns]
        results.write_benchmark("breakdown", shares.reset_index(), parameters=parameters)
        results.write_benchmark("step", pd.DataFrame(rows, columns=columns), parameters=parameters, began=start)
    return None


if __name__ == "__main__":
    main()
