"""Making what the store lacks: stacks of trainings, shared by processes.

An object is determined by its *spec*, a dictionary of settings in which the spec of what
it was made from is nested; the hash of spec and recipe is its key. What is there is read;
what is missing is trained in stacks by several processes. Neither the stack nor the number of
processes changes a bit of a result on a CPU.
"""

from __future__ import annotations

import contextlib
import functools
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm  # plain text: a notebook's widget needs scripts from outside

from companion.lab.store import Store
from sicore.files import canonical_json
from sicore.training import Trained, check_device, keep_freed_memory

Spec = dict[str, Any]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Cost:
    """What is asked of a spec before it is trained.

    Attributes
    ----------
    length
        Steps that its training takes at most.
    operations
        Floating-point operations, roughly.
    memory
        Bytes that one model of a stack needs at most while it trains.
    alike
        The part of the spec that all members of a stack have in common.
    """

    length: Callable[[Spec], int]
    operations: Callable[[Spec], float]
    memory: Callable[[Spec], int]
    alike: Callable[[Spec], Spec]


@dataclass(frozen=True)
class Machine:
    """Where and how to compute; nothing here changes a result on a CPU.

    Parameters
    ----------
    store
        Where objects are kept.
    device
        ``cpu``, ``cuda`` or ``cuda:N``.
    workers
        Processes of one thread each; 0 for one per available core, and for one on a GPU.
    stack
        Most models trained together in one process; 0 for what suits the device. Either
        way no more than the free memory holds.
    objects
        What :func:`make` has returned so far: path in the store -> kind, and who made it in how many seconds.
    """

    store: Store
    device: str = "cpu"
    workers: int = 0
    stack: int = 8
    objects: dict[Path, tuple[str, Spec]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def open(cls, *, store: str = "", device: str = "cpu", workers: int = 0, stack: int = 8) -> Machine:
        """Check every setting before anything is computed."""
        check_device(device)
        if workers < 0:
            raise ValueError(f"workers = {workers}: expected 0 (one per core) or more")
        if stack < 0:
            raise ValueError(f"stack = {stack}: expected 1 or more, or 0 for what suits the device")
        return cls(Store.open(store or None), device, workers, stack)

    @property
    def processes(self) -> int:
        """Number of processes that will be used."""
        if self.device != "cpu":
            return self.workers or 1
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self.workers or cores

    def fits(self, memory: int) -> int:
        """How many models are trained together of which each needs ``memory`` bytes.

        ``stack``, but no more than half of the free memory holds, shared by the processes and
        rounded down to a power of two, so that a small change of the free memory changes nothing.
        """
        room = free_memory(self.device) / 2 / self.processes / memory
        return min(self.stack or (24 if self.device == "cpu" else 1024), 2 ** int(math.log2(max(room, 1))))

    def dtype(self, asked: str) -> str:
        """``asked``, or ``float32`` where the processor would only imitate bfloat16, several times slower."""
        check_dtype(asked)
        if asked == "float32" or self.device != "cpu":
            return asked
        able = torch.cpu.get_capabilities()
        imitated = str(able.get("architecture")).startswith("x86") and not (able["amx_bf16"] or able["avx512_bf16"])
        return "float32" if imitated else asked


def free_memory(device: str) -> int:
    """Bytes that a new process could use on the device."""
    if device != "cpu":
        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 4 * 2**30  # no such file: not Linux


def make(
    kind: str, specs: Sequence[Spec], machine: Machine, job: Callable[[list[Spec], Machine, Any], None], cost: Cost
) -> list[tuple[dict[str, Tensor], dict[str, Any]]]:
    """Read every object of ``specs``; make the missing ones in chunks, in several processes."""
    missing = [spec for spec in specs if machine.store.get(kind, spec) is None]
    if missing:
        # Chunks of all specs, so that a run that was killed finds its checkpoints again.
        wanted = {canonical_json(spec) for spec in missing}
        chunks = [
            chunk for chunk in chunks_of(specs, machine, cost) if any(canonical_json(spec) in wanted for spec in chunk)
        ]
        chunks.sort(key=lambda chunk: -sum(map(cost.length, chunk)))  # a long one last would run alone
        total = sum(map(cost.length, missing))
        largest = max(map(len, chunks))
        with tqdm(
            total=total, desc=f"{kind}: {len(missing)} to train, at most {largest} in a stack", unit="step",
            unit_scale=True, mininterval=1,
        ) as bar:  # fmt: skip
            # Starting processes takes as long as this much work.
            little = sum(map(cost.operations, missing)) < 5e11
            if machine.processes == 1 or len(chunks) == 1 or (little and machine.device == "cpu"):
                # First what no other process is at work on, then wait for those.
                for wait_for_others in (False, True):
                    chunks = [
                        chunk for chunk in chunks
                        if not run(kind, chunk, machine, job, bar.update, wait_for_others)
                    ]  # fmt: skip
            else:
                _run_in_processes(kind, chunks, machine, job, bar)
            bar.update(total - bar.n)  # models that stopped early took fewer steps
    found = [machine.store.get(kind, spec) for spec in specs]
    lost = sum(one is None for one in found)
    if lost:
        raise RuntimeError(
            f"{lost} of {len(specs)} objects ({kind}) are not in the store {machine.store.root} after they were made. "
            "Was the store cleared during the run? Run again"
        )
    for spec, one in zip(specs, found, strict=True):
        maker = {name: one[1].get(name) for name in ("made_by", "seconds")}  # type: ignore[index]
        machine.objects[machine.store.path(kind, spec)] = kind, maker
    return found  # type: ignore[return-value]


def chunks_of(specs: Sequence[Spec], machine: Machine, cost: Cost) -> list[list[Spec]]:
    """Stacks of specs that can train together, small enough to keep every process busy."""
    groups: dict[str, list[Spec]] = {}
    for spec in specs:
        groups.setdefault(canonical_json(cost.alike(spec)), []).append(spec)
    chunks = []
    for group in groups.values():
        parts = -(-len(group) // machine.fits(cost.memory(group[0])))
        if len(groups) == 1:  # as many for every process, so that none works on a last one alone
            parts = min(-(-parts // machine.processes) * machine.processes, len(group))
        size = -(-len(group) // parts)
        chunks += [group[i : i + size] for i in range(0, len(group), size)]
    return chunks


def run(
    kind: str, chunk: list[Spec], machine: Machine, job: Callable[..., None], progress: Any, wait_for_others: bool
) -> bool:
    """Make one chunk. False when another process is making one of its objects and we were not to wait for that."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(machine.store.locks(kind, chunk, wait=wait_for_others))
        except TimeoutError:
            return False
        held.enter_context(one_thread(machine.device))
        missing = [spec for spec in chunk if machine.store.get(kind, spec) is None]
        if missing:
            _logged(kind, missing, machine, job, progress)
    return True


def _logged(kind: str, specs: list[Spec], machine: Machine, job: Callable[..., None], progress: Any) -> None:
    """Run a job and write a line about it into the store's log: what, how fast, how much memory, which keys."""
    began, steps = time.monotonic(), [-1]

    def count(done: int) -> None:
        steps[0] = 0 if steps[0] < 0 else steps[0] + done  # the first call tells what a checkpoint has spared
        progress(done)

    on_gpu = machine.device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(machine.device)
    job(specs, machine, count)
    seconds = time.monotonic() - began
    peak = torch.cuda.max_memory_allocated(machine.device) if on_gpu else peak_memory()
    rate = f"{steps[0] * specs[0].get('batch', 0) / seconds:,.0f} samples/s" if steps[0] > 0 else "no steps counted"
    keys = " ".join(machine.store.path(kind, spec).stem[:12] for spec in specs)
    machine.store.log(
        f"{kind:12} {len(specs):3} made in {seconds:8.1f} s  {rate:>20}  {peak / 2**20:8,.0f} MiB"
        f"  {machine.device}  {keys}"
    )


def peak_memory() -> int:
    """Most bytes that this process has had in memory, 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextlib.contextmanager
def one_thread(device: str) -> Iterator[None]:
    # One thread a process: faster for stacks of small products than two threads on one,
    # and the bits do not depend on how many cores the machine has.
    # Numbers below 1e-38 become 0: late in a search most soft masks are that small, and a
    # processor takes several times as long for them.
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)


_steps_done: Any = None  # shared counter of a worker process


def _start_worker(counter: Any, parent: int) -> None:
    global _steps_done
    _steps_done = counter
    if threading.current_thread() is threading.main_thread():
        # Ctrl-C reaches every process of a terminal. The one that started this one decides; it ends its workers.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    keep_freed_memory()
    threading.Thread(target=leave_with_parent, args=(parent,), daemon=True).start()


def leave_with_parent(parent: int) -> None:
    """End this process when the one that started it is gone, killed for example."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _count(steps: int) -> None:
    with _steps_done.get_lock():
        _steps_done.value += steps


def _run_in_worker(
    kind: str, chunk: list[Spec], machine: Machine, job: Callable[..., None], wait_for_others: bool
) -> bool:
    return run(kind, chunk, machine, job, _count, wait_for_others)


def _run_in_processes(
    kind: str, chunks: list[list[Spec]], machine: Machine, job: Callable[..., None], bar: Any
) -> None:
    machine = replace(machine, objects={})  # workers need no list of them
    pool, counter = _workers(machine.processes)
    before = counter.value
    waiting = {pool.submit(_run_in_worker, kind, chunk, machine, job, False): chunk for chunk in chunks}
    try:
        while waiting:
            done, _ = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            bar.update(counter.value - before - bar.n)
            for future in done:
                chunk = waiting.pop(future)
                if not future.result():  # another process is at it: last in the queue, and then we wait
                    waiting[pool.submit(_run_in_worker, kind, chunk, machine, job, True)] = chunk
    except BaseException:
        _workers.cache_clear()
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in multiprocessing.active_children():
            worker.terminate()  # what it has saved stays
        raise


@functools.lru_cache(maxsize=1)
def _workers(count: int) -> tuple[ProcessPoolExecutor, Any]:
    """Processes and the counter of their steps. They stay for the next stage: one takes ten seconds to get ready."""
    context = multiprocessing.get_context("spawn")  # fork is unsafe once torch has threads
    counter = context.Value("q", 0)
    return ProcessPoolExecutor(count, context, _start_worker, (counter, os.getpid())), counter


def checkpoint(kind: str, chunk: list[Spec], machine: Machine) -> str:
    return str(machine.store.path(kind, {"chunk": chunk}).with_suffix(".checkpoint"))


def fetch(kind: str, spec: Spec, machine: Machine, what: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An object that an earlier stage has made; ``FileNotFoundError`` naming it as ``what`` when it is not there."""
    found = machine.store.get(kind, spec)
    if found is None:
        raise FileNotFoundError(f"the {what} has gone from the store {machine.store.root}")
    return found


def check_converged(trained: Trained, what: str, names: Sequence[str]) -> None:
    """``FloatingPointError`` naming the models of a stack that have diverged, once the others are in the store."""
    if trained.diverged:
        bad = ", ".join(f"{names[model]} (step {step})" for model, step in sorted(trained.diverged.items()))
        raise FloatingPointError(
            f"the {what} of {bad} diverged: its loss is not finite. Lower the learning rate or leave the seed out; "
            "the others are in the store"
        )


def moved(tensors: dict[str, Tensor], device: str | torch.device) -> dict[str, Tensor]:
    """The tensors on a device."""
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def history_of(rows: list[dict[str, float]], k: int) -> list[dict[str, float]]:
    """The rows of member k of a stack, of :attr:`sicore.training.Trained.history`."""
    return [{name: value for name, value in row.items() if name != "model"} for row in rows if row["model"] == k]


def check_dtype(dtype: str) -> None:
    if dtype not in DTYPES:
        raise ValueError(f"dtype = {dtype!r}: expected one of {', '.join(DTYPES)}")
