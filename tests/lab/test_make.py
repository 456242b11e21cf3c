"""The machine, and who makes what, when: chunks, processes, locks, the log."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from companion.lab import make as jobs
from companion.lab.make import DTYPES, Cost, Machine, make
from companion.lab.recipes import Recipe
from companion.lab.store import Store

MEMORY = 1000  # bytes of one model
THINGS = {"thing": Recipe()}


def open_machine(folder, **settings):
    machine = Machine.open(store=str(folder), **{"workers": 1, **settings})
    return dataclasses.replace(machine, store=Store(machine.store.root, THINGS))


def tiny(steps, seed, **changes):
    """A thing to make."""
    return {"steps": steps, "seed": seed, "batch": 8, **changes}


def cost(operations=lambda spec: 1.0):
    def alike(spec):
        return {name: value for name, value in spec.items() if name != "seed"}

    return Cost(lambda spec: spec["steps"], operations, lambda spec: MEMORY, alike)


def made(specs, machine, job, operations=lambda spec: 1.0):
    """The seeds of what there is in the end."""
    return [int(tensors["seed"]) for tensors, _ in make("thing", specs, machine, job, cost(operations))]


def chunks_of(specs, machine):
    return jobs.chunks_of(specs, machine, cost())


# ---------------------------------------------------------------------------------------
# The machine


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "cuda:77"}, "device = 'cuda:77' is not available; this machine has cpu"),
        ({"workers": -1}, "workers = -1"),
        ({"stack": -1}, "stack = -1: expected 1 or more, or 0"),
    ],
)
def test_machine_that_is_not_there_is_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        open_machine(tmp_path, **settings)


def test_store_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file/store"):
        open_machine(tmp_path / "file" / "store")


@pytest.mark.parametrize(
    ("able", "expected"),
    [
        ({"architecture": "x86_64", "amx_bf16": True, "avx512_bf16": False}, "bfloat16"),
        ({"architecture": "x86_64", "amx_bf16": False, "avx512_bf16": True}, "bfloat16"),
        ({"architecture": "x86_64", "amx_bf16": True, "avx512_bf16": True}, "bfloat16"),
        ({"architecture": "x86_64", "amx_bf16": False, "avx512_bf16": False, "avx512_f": True}, "float32"),
        ({"architecture": "x86", "amx_bf16": False, "avx512_bf16": False}, "float32"),
        ({"architecture": "aarch64", "bf16": False}, "bfloat16"),
        ({"architecture": "arm64", "bf16": True}, "bfloat16"),
        ({}, "bfloat16"),
    ],
)
def test_bfloat16_is_kept_where_the_processor_does_not_only_imitate_it(tmp_path, monkeypatch, able, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    machine = open_machine(tmp_path)
    assert machine.dtype("bfloat16") == expected
    assert machine.dtype("float32") == "float32"
    with pytest.raises(ValueError, match="dtype = 'float16': expected one of float32, bfloat16"):
        machine.dtype("float16")


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_type_on_a_gpu_is_what_was_asked_for(tmp_path, monkeypatch, device):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: pytest.fail("of the processor"), raising=False)
    machine = Machine(Store(tmp_path), device, 0, 0)
    assert [machine.dtype(name) for name in DTYPES] == list(DTYPES)
    with pytest.raises(ValueError, match="dtype = 'half'"):
        machine.dtype("half")


def test_processes_are_the_workers_or_the_cores_or_one_on_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    wanted = {("cpu", 0): 3, ("cpu", 2): 2, ("cuda", 0): 1, ("cuda:1", 4): 4}
    for (device, workers), count in wanted.items():
        assert Machine(Store(tmp_path), device, workers, 8).processes == count


def room_for(monkeypatch, models, processes=1):
    """Let the free memory be twice what so many models need in each of the processes."""
    monkeypatch.setattr(jobs, "free_memory", lambda device: int(2 * processes * models * MEMORY))


@pytest.mark.parametrize(
    ("room", "stack", "device", "expected"),
    [
        (0, 64, "cpu", 1), (0.3, 64, "cpu", 1), (1, 64, "cpu", 1), (1.9, 64, "cpu", 1), (2, 64, "cpu", 2),
        (3.9, 64, "cpu", 2), (8, 64, "cpu", 8), (15.9, 64, "cpu", 8), (63, 64, "cpu", 32), (1e6, 64, "cpu", 64),
        (1e6, 3, "cpu", 3), (5, 3, "cpu", 3), (2.5, 3, "cpu", 2), (0, 1, "cpu", 1), (100, 0, "cpu", 24),
        (20, 0, "cpu", 16), (0, 0, "cpu", 1), (100, 0, "cuda", 64), (1e6, 0, "cuda", 1024), (1e6, 0, "cuda:1", 1024),
        (1e6, 5, "cuda", 5),
    ],
)  # fmt: skip
def test_stack_is_a_power_of_two_that_fits_and_never_above_what_was_asked(
    tmp_path, monkeypatch, room, stack, device, expected
):
    for processes in (1, 3):
        room_for(monkeypatch, room, processes)
        assert Machine(Store(tmp_path), device, processes, stack).fits(MEMORY) == expected


def test_free_memory_is_asked_of_the_device(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: asked.append(device) or (123, 456))
    assert jobs.free_memory("cuda:1") == 123
    assert asked == [torch.device("cuda:1")]


def test_free_memory_of_the_processor_is_what_the_system_says(monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda path: "MemTotal: 99 kB\nMemAvailable:   7 kB\nSwapFree: 5 kB\n")
    assert jobs.free_memory("cpu") == 7 * 1024
    monkeypatch.setattr(Path, "read_text", lambda path: "MemTotal: 99 kB\n")
    assert jobs.free_memory("cpu") == 4 * 2**30

    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    assert jobs.free_memory("cpu") == 4 * 2**30


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="not Linux")
def test_free_memory_is_above_nothing_and_below_all():
    assert 0 < jobs.free_memory("cpu") < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(("count", "stack", "workers"), [(1, 8, 1), (7, 8, 2), (20, 8, 1), (20, 3, 4), (5, 1, 2)])
def test_chunks_hold_every_run_once_and_no_more_than_a_stack(tmp_path, count, stack, workers):
    machine = open_machine(tmp_path, stack=stack, workers=workers)
    specs = [tiny(5, seed) for seed in range(count)]
    chunks = chunks_of(specs, machine)
    assert sorted(spec["seed"] for chunk in chunks for spec in chunk) == list(range(count))
    assert max(map(len, chunks)) <= stack
    assert len(chunks) >= min(workers, count)


def test_chunks_never_mix_what_cannot_train_together(tmp_path):
    specs = [tiny(steps, seed) for seed in range(4) for steps in (5, 6)]
    chunks = chunks_of(specs, open_machine(tmp_path))
    assert all(len({spec["steps"] for spec in chunk}) == 1 for chunk in chunks)
    assert sum(map(len, chunks)) == 8


def test_chunks_hold_no_more_than_the_memory(tmp_path, monkeypatch):
    machine, specs = open_machine(tmp_path, stack=8), [tiny(5, seed) for seed in range(12)]
    for room, sizes in ((100, [6, 6]), (5, [4, 4, 4]), (0, [1] * 12)):
        room_for(monkeypatch, room)
        assert list(map(len, chunks_of(specs, machine))) == sizes


# ---------------------------------------------------------------------------------------
# Who makes what, and when


def put_seed(machine, specs):
    for spec in specs:
        machine.store.put("thing", spec, {"seed": torch.tensor(spec["seed"])}, {})


def test_long_chunks_are_made_first(tmp_path):
    machine, order = open_machine(tmp_path), []

    def job(specs, machine, progress):
        order.append([spec["seed"] for spec in specs])
        put_seed(machine, specs)

    # A stack of three takes longer than a single one of twice as many steps.
    specs = [tiny(5, 0), tiny(50, 1), tiny(30, 2), tiny(60, 3), tiny(30, 4), tiny(30, 5)]
    assert made(specs, machine, job) == [0, 1, 2, 3, 4, 5]
    assert order == [[2, 4, 5], [3], [1], [0]]


def test_only_what_is_missing_of_a_chunk_is_made(tmp_path):
    machine, order, steps = open_machine(tmp_path), [], []
    specs = [tiny(5, seed) for seed in range(4)]
    put_seed(machine, specs[1:3])

    def job(specs, machine, progress):
        order.append([spec["seed"] for spec in specs])
        put_seed(machine, specs)
        progress(len(specs))
        steps.append(progress)

    assert made(specs, machine, job) == [0, 1, 2, 3]
    assert order == [[0, 3]]


@pytest.fixture
def another():
    """Holds the locks of objects until it is let go, and may do something before."""
    held, release, threads = threading.Event(), threading.Event(), []

    def begin(machine, specs, before=lambda: None):
        paths = [machine.store.path("thing", spec).with_suffix(".lock") for spec in specs]
        paths[0].parent.mkdir(parents=True, exist_ok=True)

        def hold():
            with contextlib.ExitStack() as locks:
                for path in paths:
                    locks.enter_context(FileLock(str(path)))
                held.set()
                release.wait(20)
                before()

        threads.append(threading.Thread(target=hold, daemon=True))
        threads[0].start()
        assert held.wait(20)
        return release

    yield begin
    release.set()
    for thread in threads:
        thread.join(20)


def job_that_lets_go_after(count, release, order):
    guard = threading.Lock()

    def job(specs, machine, progress):
        put_seed(machine, specs)
        with guard:
            order.extend(spec["seed"] for spec in specs)
            if len(order) == count:
                release.set()

    return job


def test_chunk_that_another_is_making_is_made_at_the_end(tmp_path, another):
    machine, order = open_machine(tmp_path, stack=1), []
    specs = [tiny(50, 0), tiny(40, 1), tiny(30, 2), tiny(20, 3)]
    job = job_that_lets_go_after(3, another(machine, specs[:1]), order)
    assert made(specs, machine, job) == [0, 1, 2, 3]
    assert order == [1, 2, 3, 0]


def test_chunk_that_another_has_made_is_not_made_again(tmp_path, another):
    machine, order = open_machine(tmp_path, stack=1), []
    specs = [tiny(50, 0), tiny(40, 1), tiny(30, 2)]
    job = job_that_lets_go_after(2, another(machine, specs[:1], lambda: put_seed(machine, specs[:1])), order)
    assert made(specs, machine, job) == [0, 1, 2]
    assert order == [1, 2]


def much(spec):
    """Enough work for new processes."""
    return 1e15


@pytest.fixture
def started(monkeypatch):
    """How often processes were started."""
    plain, calls = jobs._run_in_processes, []

    def count(*args):
        calls.append(args)
        plain(*args)

    monkeypatch.setattr(jobs, "_run_in_processes", count)
    return calls


@pytest.fixture
def threads_as_processes(monkeypatch):
    """Worker processes take seconds to start; who makes what when is the same with threads."""
    jobs._workers.cache_clear()
    monkeypatch.setattr(jobs, "_steps_done", None)
    monkeypatch.setattr(jobs, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(jobs, "leave_with_parent", lambda parent: None)
    monkeypatch.setattr(
        jobs, "ProcessPoolExecutor",
        lambda workers, context, start, given: ThreadPoolExecutor(workers, initializer=start, initargs=given),
    )  # fmt: skip
    yield
    jobs._workers.cache_clear()


@pytest.mark.usefixtures("threads_as_processes")
@pytest.mark.parametrize("locked", [(0, 1), (2,), (1, 3)])
def test_processes_make_at_the_end_what_another_is_making(tmp_path, another, started, locked):
    # As many chunks are held as there are processes: none must wait for them while there is other work.
    machine, order = open_machine(tmp_path, stack=1, workers=2), []
    specs = [tiny(60 - 10 * seed, seed) for seed in range(5)]
    free = {0, 1, 2, 3, 4} - set(locked)
    job = job_that_lets_go_after(len(free), another(machine, [specs[k] for k in locked]), order)
    assert made(specs, machine, job, much) == [0, 1, 2, 3, 4]
    assert set(order[: len(free)]) == free
    assert sorted(order[len(free) :]) == list(locked)
    assert len(started) == 1


@pytest.mark.usefixtures("threads_as_processes")
def test_processes_stay_for_the_next_stage_but_not_after_an_error(tmp_path, monkeypatch):
    plain, pools = jobs.ProcessPoolExecutor, []
    monkeypatch.setattr(jobs, "ProcessPoolExecutor", lambda *given: pools.append(plain(*given)) or pools[-1])
    machine = open_machine(tmp_path, stack=1, workers=2)

    def fail(specs, machine, _):
        raise OSError("no space left")

    def go(specs, machine, _):
        put_seed(machine, specs)

    for number, job in enumerate([go, go, fail, go]):
        specs = [tiny(5, 10 * number), tiny(5, 10 * number + 1)]
        if job is fail:
            with pytest.raises(OSError, match="no space left"):
                made(specs, machine, job, much)
        else:
            assert made(specs, machine, job, much) == [10 * number, 10 * number + 1]
    assert len(pools) == 2


@pytest.mark.parametrize(
    ("operations", "device", "workers", "times"),
    [(4e11, "cpu", 2, 0), (6e11, "cpu", 2, 1), (6e11, "cpu", 1, 0), (4e11, "cuda", 2, 1), (6e11, "cuda", 0, 0)],
)
@pytest.mark.usefixtures("threads_as_processes")
def test_processes_are_started_only_for_enough_work(tmp_path, monkeypatch, started, operations, device, workers, times):
    monkeypatch.setattr(jobs, "free_memory", lambda device: 2**40)
    machine, specs = Machine(Store(tmp_path, THINGS), device, workers, 1), [tiny(5, 0), tiny(5, 1)]
    found = made(specs, machine, lambda specs, machine, _: put_seed(machine, specs), lambda spec: operations / 2)
    assert found == [0, 1]
    assert len(started) == times


def test_every_chunk_that_is_made_has_a_line_in_the_log(tmp_path):
    machine, told = open_machine(tmp_path, stack=2), []

    def job(specs, machine, progress):
        progress(6000)  # so many steps a checkpoint has spared
        progress(2)
        progress(2)
        time.sleep(0.05)
        put_seed(machine, specs)

    specs = [tiny(5, 0), tiny(5, 1)]
    for _ in range(2):  # the second time all is there, and there is nothing to tell
        assert jobs.run("thing", specs, machine, job, told.append, False)
    (line,) = (machine.store.root / "log.txt").read_text().splitlines()
    assert told == [6000, 2, 2]
    assert all(machine.store.path("thing", spec).stem[:12] in line for spec in specs)
    rate = float(line.split(" samples/s")[0].split()[-1].replace(",", ""))
    assert 0 < rate <= 4 * 8 / 0.05, "four steps of eight samples"
    assert float(line.split(" MiB")[0].split()[-1].replace(",", "")) > 10


def test_run_says_whether_the_chunk_was_made(tmp_path, another):
    machine, order = open_machine(tmp_path), []
    release = another(machine, [tiny(5, 0)])
    job = job_that_lets_go_after(9, release, order)
    began = time.monotonic()
    assert jobs.run("thing", [tiny(5, 0)], machine, job, None, False) is False
    assert time.monotonic() - began < 5
    assert order == []
    assert jobs.run("thing", [tiny(5, 1)], machine, job, None, False) is True
    release.set()
    assert jobs.run("thing", [tiny(5, 0)], machine, job, None, True) is True
    assert order == [1, 0]


def test_timeout_inside_a_training_is_not_taken_for_a_lock(tmp_path):
    def job(specs, machine, progress):
        raise TimeoutError("the file server does not answer")

    with pytest.raises(TimeoutError, match="file server"):
        made([tiny(5, 0)], open_machine(tmp_path), job)


def test_checkpoint_of_another_recipe_is_not_resumed(tmp_path):
    machine = open_machine(tmp_path)
    before = jobs.checkpoint("thing", [{"seed": 0}], machine)
    assert jobs.checkpoint("thing", [{"seed": 0}], machine) == before
    assert jobs.checkpoint("thing", [{"seed": 1}], machine) != before
    other = dataclasses.replace(machine, store=Store(tmp_path, {"thing": Recipe("new")}))
    assert jobs.checkpoint("thing", [{"seed": 0}], other) != before


def test_what_has_gone_from_the_store_while_it_was_made_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match=r"1 of 1 objects \(thing\) are not in the store .* after they were made"):
        made([tiny(5, 0)], open_machine(tmp_path), lambda *args: None)


def test_numbers_too_small_for_full_speed_become_zero_while_a_stack_trains():
    tiny = torch.full((16,), 1e-30)
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor cannot")
    with jobs.one_thread("cpu"):
        assert (tiny * 1e-10).count_nonzero() == 0
    assert (tiny * 1e-10).count_nonzero() == 16
    with jobs.one_thread("cuda"):
        assert (tiny * 1e-10).count_nonzero() == 16


def test_worker_whose_parent_is_gone_before_it_begins_leaves_at_once(monkeypatch):
    left = []

    def leave(code):
        left.append(code)
        raise SystemExit

    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit):
        jobs.leave_with_parent(os.getppid() + 1)
    assert left == [1]
    asked = []
    monkeypatch.setattr(jobs, "leave_with_parent", asked.append)
    monkeypatch.setattr(jobs, "keep_freed_memory", lambda: None)
    threads, interrupt = torch.get_num_threads(), signal.getsignal(signal.SIGINT)
    jobs._start_worker(None, 1234)
    torch.set_num_threads(threads)
    assert signal.signal(signal.SIGINT, interrupt) == signal.SIG_IGN, "Ctrl-C is for the parent, which ends its workers"
    time.sleep(0.1)
    assert asked == [1234], "the parent's own word, not who is the parent by now"


def test_workers_leave_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import multiprocessing, os, time, companion.lab.make as jobs\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    pool = ProcessPoolExecutor(1, context, jobs._start_worker, (context.Value('q', 0), os.getpid()))\n"
        "    print(pool.submit(os.getpid).result(), flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        parent.kill()
    for _ in range(100):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived its parent")
