"""A full disk, a read-only folder, a folder or mount that vanishes: an error that says which, and whole files."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from companion.lab import runner, store, tables
from companion.lab.recipes import Recipe
from companion.lab.store import Store
from sicore import files
from sicore.files import is_held, load_tensors, remove_unheld, save_tensors, write_text, written_aside
from sicore.training import Resume, train

SPEC, OTHER = {"seed": 0}, {"seed": 1}
TENSORS = {"w": torch.arange(6.0)}

FAULTS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk is full",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "the folder is read-only for this user",
    errno.ENOENT: "the folder has gone",
    errno.ESTALE: "does not answer",
    errno.EIO: "does not answer",
}


@pytest.fixture
def break_at(monkeypatch):
    """Let one of the calls of which a write is made fail."""

    def begin(place, number):
        def fail(*args, **kwargs):
            raise OSError(number, os.strerror(number))

        def half(path, data, **kwargs):
            with path.open("wb") as file:
                file.write(data[: len(data) // 2] if isinstance(data, bytes) else b"half")
            fail()

        if place == "begin":
            monkeypatch.setattr(tempfile, "mkstemp", fail)
        elif place == "middle":
            monkeypatch.setattr(Path, "write_bytes", half)
            monkeypatch.setattr(Path, "write_text", half)
        else:
            monkeypatch.setattr(os, {"flush": "fsync", "rename": "replace"}[place], fail)

    return begin


PLACES = ("begin", "middle", "flush", "rename")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("number", FAULTS)
def test_failed_put_says_what_has_happened_and_leaves_the_store_whole(tmp_path, break_at, monkeypatch, place, number):
    shelf = Store.open(tmp_path / "store")
    shelf.put("base", SPEC, TENSORS, {"n": 1})
    break_at(place, number)
    for spec in (SPEC, OTHER):
        with pytest.raises(OSError, match=FAULTS[number]) as error:
            shelf.put("base", spec, {"w": torch.ones(1000)}, {"n": 2})
        assert str(shelf.root / "base") in str(error.value)
        assert shelf.path("base", spec).name in str(error.value)
    monkeypatch.undo()
    assert [problem for _, problem in store.verify(shelf)] == [""]
    assert [file.state for file in store.contents(shelf)] == ["current"]
    assert shelf.get("base", SPEC)[1]["n"] == 1
    assert shelf.get("base", OTHER) is None


@pytest.mark.parametrize("place", PLACES)
def test_failed_checkpoint_says_what_has_happened_and_leaves_the_last_one(tmp_path, break_at, monkeypatch, place):
    path, faults = tmp_path / "run.checkpoint", [place]

    def losses(params, context, batch, step):
        if step == 3 and faults:
            break_at(faults.pop(), errno.ENOSPC)
        return params["w"].square().sum(1)

    def run():
        return train(
            losses, {"w": torch.ones(2, 3)}, lambda step, active: None, steps=6, lr=0.1,
            resume=Resume(path, seconds=0.0),
        )  # fmt: skip

    with pytest.raises(OSError, match=r"cannot write run\.checkpoint .* the disk is full"):
        run()
    monkeypatch.undo()
    assert load_tensors(path)[1]["step"] == 3
    assert [file.name for file in tmp_path.iterdir()] == ["run.checkpoint"]
    resumed = run()
    path.unlink(missing_ok=True)
    assert torch.equal(resumed.params["w"], run().params["w"])


@pytest.mark.parametrize("keys", [(), ("n",)])
@pytest.mark.parametrize("place", PLACES)
def test_failed_table_says_what_has_happened_and_leaves_the_last_one(tmp_path, break_at, monkeypatch, place, keys):
    monkeypatch.setenv("COMPANION_HOME", str(tmp_path))
    path = tables.write("a", pd.DataFrame({"n": [1]}), parameters={"scale": "smoke", "n": 1}, keys=keys)
    before = path.read_text(), path.with_suffix(".json").read_text()
    break_at(place, errno.EROFS)
    with pytest.raises(OSError, match="the file system is read-only") as error:
        tables.write("a", pd.DataFrame({"n": [1, 2]}), parameters={"scale": "smoke", "n": 2}, keys=keys)
    assert str(error.value).count("cannot write") == 1
    monkeypatch.undo()
    assert (path.read_text(), path.with_suffix(".json").read_text()) == before
    assert sorted(path.parent.iterdir()) == [path, path.with_suffix(".json")]


@pytest.mark.parametrize("number", [errno.EROFS, errno.ETIMEDOUT])
def test_lock_on_a_disk_that_fails_says_so(tmp_path, monkeypatch, number):
    shelf = Store.open(tmp_path / "store")

    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(store.FileLock, "acquire", fail)
    told = {errno.EROFS: "the file system is read-only", errno.ETIMEDOUT: "does not answer"}[number]
    with pytest.raises(OSError, match=f"cannot write .* {told}") as error, shelf.lock("base", SPEC, wait=False):
        pytest.fail("it has the lock")
    assert not isinstance(error.value, TimeoutError), "that would mean that another process has it"


def test_store_that_was_removed_is_not_begun_anew(tmp_path):
    shelf = Store.open(tmp_path / "store")
    (tmp_path / "store").rmdir()
    with pytest.raises(OSError, match="the folder has gone"):
        shelf.put("base", SPEC, TENSORS, {})
    with pytest.raises(OSError, match="the folder has gone"), shelf.lock("base", SPEC):
        pytest.fail("it has the lock")
    assert list(tmp_path.iterdir()) == []
    assert shelf.get("base", SPEC) is None


def test_unreadable_file_is_neither_absent_nor_damaged(tmp_path, monkeypatch):
    shelf = Store.open(tmp_path / "store")
    shelf.put("base", SPEC, TENSORS, {})

    def fail(*args, **kwargs):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(OSError, match=r"cannot read .*safetensors: its disk or network mount does not answer"):
        shelf.get("base", SPEC)
    monkeypatch.undo()
    assert shelf.get("base", SPEC) is not None


def test_object_that_memory_is_too_short_for_is_not_damaged(tmp_path, monkeypatch):
    shelf = Store.open(tmp_path / "store")
    shelf.put("base", SPEC, TENSORS, {})

    def fail(data):
        raise MemoryError

    monkeypatch.setattr(files, "load", fail)
    with pytest.raises(MemoryError):
        shelf.get("base", SPEC)
    monkeypatch.undo()
    assert shelf.get("base", SPEC) is not None


def test_notebook_whose_copy_cannot_be_written_says_why(tmp_path, monkeypatch):
    import papermill

    monkeypatch.setenv("COMPANION_HOME", str(tmp_path))
    (tmp_path / "a.ipynb").write_text(
        '{"cells": [{"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": ["n: int = 1"]}]}'
    )

    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(papermill, "execute_notebook", fail)
    with pytest.raises(OSError, match=r"cannot write a\.ipynb into the folder .*smoke: the disk is full"):
        runner.run(tmp_path / "a.ipynb")


def fill(shelf):
    """Put objects until the disk is full, and return how many it has taken."""
    for count in range(100):
        try:
            shelf.put("base", {"seed": count}, {"w": torch.rand(5000)}, {})
        except OSError as error:
            told = str(error)
            break
    assert "the disk is full" in told
    return count


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_really_full_disk_says_so_and_the_store_stays_whole(tmp_path):
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)], capture_output=True
    ).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        shelf = Store.open(tmp_path / "store")
        count = fill(shelf)
        assert 3 < count < 100
        found = list(store.verify(shelf))
        assert [problem for _, problem in found] == [""] * count
        (tmp_path / "store" / "base" / shelf.path("base", {"seed": 0}).name).unlink()
        shelf.put("base", {"seed": count}, {"w": torch.rand(5000)}, {})
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_folder_that_only_reading_is_allowed_in_says_so(tmp_path):
    shelf = Store.open(tmp_path / "store")
    shelf.put("base", SPEC, TENSORS, {})
    (shelf.root / "base").chmod(0o555)
    try:
        if os.geteuid() == 0:
            pytest.skip("root may write anywhere")
        with pytest.raises(OSError, match="the folder is read-only for this user"):
            shelf.put("base", OTHER, TENSORS, {})
        assert shelf.get("base", SPEC) is not None
    finally:
        (shelf.root / "base").chmod(0o755)


# ---------------------------------------------------------------------------------------
# Kills


KILLED = """
import sys, time
from sicore.files import written_aside
with written_aside(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print(temporary, flush=True)
    time.sleep(60)
"""


def test_writer_that_was_killed_leaves_the_old_file_and_a_temporary_one_that_is_known_as_such(tmp_path):
    path = tmp_path / "x"
    write_text(path, "old")
    with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        temporary = Path(writer.stdout.readline().strip())
        assert is_held(temporary)
        assert not remove_unheld(temporary)
        assert temporary.exists()
        writer.send_signal(signal.SIGKILL)
    assert path.read_text() == "old"
    assert not is_held(temporary)
    assert remove_unheld(temporary)
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def test_file_that_is_being_written_is_held_until_it_is_there(tmp_path):
    with written_aside(tmp_path / "x") as temporary:
        temporary.write_text("x")
        assert is_held(temporary)
    assert not is_held(tmp_path / "x")
    with written_aside(tmp_path / "y") as temporary:
        save_tensors(tmp_path / "z", TENSORS, {})
        temporary.write_bytes((tmp_path / "z").read_bytes())
        assert is_held(temporary)


def test_waiting_for_a_lock_that_is_removed_gives_the_new_one_to_one_holder(tmp_path):
    import threading

    shelf, order = Store.open(tmp_path / "store"), []
    lock = shelf.path("base", SPEC).with_suffix(".lock")
    first, second = threading.Event(), threading.Event()

    def wait():
        with shelf.lock("base", SPEC):
            order.append("second")
            first.set()
            second.wait(20)

    with shelf.lock("base", SPEC):
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.3)  # it has opened the lock file
        lock.unlink()
    assert first.wait(20)
    with pytest.raises(TimeoutError), shelf.lock("base", SPEC, wait=False):
        pytest.fail("two have the lock")
    second.set()
    waiting.join(20)
    assert order == ["second"]


EIGHT = """
import os, sys
from pathlib import Path
import torch
from companion.lab import make as jobs
from companion.lab.recipes import Recipe
from companion.lab.store import Store

machine = jobs.Machine(Store(Path(sys.argv[1]), {"thing": Recipe()}), workers=1, stack=4)
log = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def job(specs, machine, progress):
    import time
    for spec in specs:
        os.write(log, f"{spec['seed']}\\n".encode())
        time.sleep(0.1)
        machine.store.put("thing", spec, {"w": torch.full((5,), float(spec["seed"]))}, {})

cost = jobs.Cost(lambda spec: 1, lambda spec: 1.0, lambda spec: 1, lambda spec: {})
children, (begin, ready) = [], os.pipe()
for number in range(8):
    if not (child := os.fork()):
        os.close(ready)
        os.read(begin, 1)  # until all are there
        specs = [{"seed": (number + i) % 13} for i in range(9)]
        found = jobs.make("thing", specs, machine, job, cost)
        good = all(float(tensors["w"][0]) == spec["seed"] for spec, (tensors, _) in zip(specs, found))
        os._exit(0 if good else 1)
    children.append(child)
os.close(ready)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


def test_eight_processes_that_want_overlapping_objects_make_each_once(tmp_path):
    shelf = Store.open(tmp_path / "store")
    done = subprocess.run(
        [sys.executable, "-c", EIGHT, str(shelf.root), str(tmp_path / "log")],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == list(range(13))
    assert {file.state for file in store.contents(Store(shelf.root, {"thing": Recipe()}))} == {"current", "lock"}
