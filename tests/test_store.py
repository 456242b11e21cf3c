import io
import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from companion.__main__ import main
from companion.lab import project, store
from companion.lab.store import Store
from sicore import files

SPEC = {"computation": "ab", "lr": 0.001, "seed": 0, "base": {"p": 7, "list": [1, 2]}}
TENSORS = {"w": torch.arange(6.0).reshape(2, 3)}


@pytest.fixture
def shelf(tmp_path):
    return Store.open(tmp_path / "store")


def test_key_does_not_depend_on_the_order_of_the_spec(shelf):
    turned = {"base": {"list": [1, 2], "p": 7}, "seed": 0, "lr": 0.001, "computation": "ab"}
    assert shelf.path("base", SPEC) == shelf.path("base", turned)


@pytest.mark.parametrize(
    "change",
    [
        {"computation": "a b"}, {"lr": 0.0010000001}, {"seed": 1}, {"base": {"p": 7, "list": [2, 1]}},
        {"base": {"p": 8, "list": [1, 2]}}, {"new": None}, {"kind": "subnetwork"}, {"code": "x"},
    ],
)  # fmt: skip
def test_key_changes_with_every_value_of_the_spec(shelf, change):
    assert shelf.path("base", SPEC).name != shelf.path("base", {**SPEC, **change}).name


def test_key_changes_with_the_kind_and_with_a_removed_setting(shelf):
    names = [shelf.path("base", SPEC), shelf.path("transfer", SPEC)]
    names += [shelf.path("base", {key: SPEC[key] for key in SPEC if key != left}) for left in SPEC]
    assert len({path.name for path in names}) == len(names)


@pytest.mark.parametrize("more", [{}, {"code": "mine"}, {"kind": "mine"}])
def test_key_changes_with_the_code_whatever_the_spec_has(shelf, monkeypatch, more):
    before = shelf.path("base", {**SPEC, **more})
    monkeypatch.setattr(store, "code_fingerprint", lambda: "other")
    assert shelf.path("base", {**SPEC, **more}) != before


def test_put_and_get_round_trip(shelf):
    assert shelf.get("base", SPEC) is None
    shelf.put("base", SPEC, TENSORS, {"accuracy": 0.5})
    tensors, meta = shelf.get("base", SPEC)
    assert torch.equal(tensors["w"], TENSORS["w"])
    assert meta["accuracy"] == 0.5
    assert meta["spec"] == SPEC
    assert shelf.get("subnetwork", SPEC) is None
    assert shelf.get("base", {**SPEC, "seed": 1}) is None


def test_put_again_replaces(shelf):
    shelf.put("base", SPEC, TENSORS, {"n": 1})
    shelf.put("base", SPEC, TENSORS, {"n": 2})
    assert shelf.get("base", SPEC)[1]["n"] == 2


def test_store_opened_again_has_what_was_put(shelf):
    shelf.put("base", SPEC, TENSORS, {})
    assert Store.open(shelf.root).get("base", SPEC) is not None


@pytest.mark.parametrize("damage", [lambda whole: whole[:-3], lambda whole: b"", lambda whole: whole[:-1] + b"?"])
def test_damaged_object_is_set_aside_and_counts_as_absent(shelf, damage):
    shelf.put("base", SPEC, TENSORS, {})
    path = shelf.path("base", SPEC)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match=path.stem):
        assert shelf.get("base", SPEC) is None
    assert not path.exists()
    assert path.with_suffix(".damaged").is_file()
    shelf.put("base", SPEC, TENSORS, {})
    assert shelf.get("base", SPEC) is not None


@pytest.mark.parametrize("place", ["file", "file/below", "file/far/below"])
def test_root_that_cannot_be_written_is_named(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written to") as error:
        Store.open(tmp_path / place)
    assert str(tmp_path / place) in str(error.value)


def test_opening_leaves_no_trace(tmp_path):
    Store.open(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_stores_can_be_opened_at_the_same_time(tmp_path):
    errors = []

    def work():
        try:
            for _ in range(100):
                Store.open(tmp_path / "new")
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def make(root, number):
    shelf = Store(Path(root))
    with shelf.lock("base", SPEC):
        if shelf.get("base", SPEC) is None:
            time.sleep(0.05)
            with open(Path(root) / "made", "a") as log:
                log.write(f"{number}\n")
            shelf.put("base", SPEC, {"w": torch.full((50_000,), float(number))}, {"maker": number})
    tensors, meta = shelf.get("base", SPEC)
    return bool((tensors["w"] == meta["maker"]).all())


def test_two_processes_that_want_one_object_make_it_once(shelf):
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        assert all(pool.map(make, [str(shelf.root)] * 2, range(2)))
    assert len((shelf.root / "made").read_text().split()) == 1


def test_writers_at_once_leave_one_whole_object(shelf):
    wrong = []

    def write(number):
        for _ in range(15):
            shelf.put("base", SPEC, {"w": torch.full((20_000,), float(number))}, {"maker": number})
            tensors, meta = shelf.get("base", SPEC)
            if not bool((tensors["w"] == meta["maker"]).all()):
                wrong.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(list((shelf.root / "base").iterdir())) == 1


def test_lock_has_one_holder_even_when_a_release_is_slow(shelf, monkeypatch):
    plain, holders, most, guard = Path.unlink, [0], [0], threading.Lock()

    def slowly(path, missing_ok=False):
        time.sleep(0.3)
        plain(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", slowly)

    def hold(wait):
        time.sleep(wait)
        with shelf.lock("base", SPEC):
            with guard:
                holders[0] += 1
                most[0] = max(most[0], holders[0])
            time.sleep(0.4)
            with guard:
                holders[0] -= 1

    # The second gets the lock while the first still tidies up; the third comes after that.
    threads = [threading.Thread(target=hold, args=(wait,)) for wait in (0, 0.1, 0.74)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_lock_without_waiting_fails_at_once_when_another_holds_it(shelf):
    held, release = threading.Event(), threading.Event()

    def hold():
        with shelf.lock("base", SPEC):
            held.set()
            release.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(20)
        began = time.monotonic()
        with pytest.raises(TimeoutError), shelf.lock("base", SPEC, wait=False):
            pytest.fail("two have the lock")
        assert time.monotonic() - began < 5
        with shelf.lock("base", {**SPEC, "seed": 1}, wait=False):  # of another object
            pass
    finally:
        release.set()
        thread.join()
    entered = False
    with shelf.lock("base", SPEC, wait=False):
        entered = True
    assert entered


def test_lock_is_free_again_after_an_error(shelf):
    with pytest.raises(RuntimeError), shelf.lock("base", SPEC):
        raise RuntimeError
    done = threading.Event()

    def again():
        with shelf.lock("base", SPEC):
            done.set()

    threading.Thread(target=again, daemon=True).start()
    assert done.wait(5)


def test_fingerprint_ignores_comments_docstrings_and_layout():
    plain = "def f(x):\n    return x + 1\n"
    other = '"""Module."""\n\n# a comment\ndef f(x):\n    """Documented."""\n    return (x +\n            1)  # why\n'
    assert project.fingerprint(plain) == project.fingerprint(other)


@pytest.mark.parametrize("changed", ["return x + 2", "return x - 1", "return 'x' + 1", "y = x; return y + 1"])
def test_fingerprint_changes_with_the_code(changed):
    assert project.fingerprint("def f(x):\n    return x + 1\n") != project.fingerprint(f"def f(x):\n    {changed}\n")


def test_fingerprint_covers_every_module_that_decides_numbers():
    folder = Path(project.__file__).parent
    assert all((folder / f"{name}.py").is_file() for name in project.NUMERIC)
    assert {"training", "models", "discovery", "transfer", "arithmetic", "experiments"} <= set(project.NUMERIC)
    assert project.code_fingerprint() != project.code_fingerprint(project.NUMERIC[1:])


def test_project_root_is_the_next_folder_upwards_with_a_table_of_contents(tmp_path, monkeypatch):
    monkeypatch.delenv("SICORE_HOME", raising=False)
    (tmp_path / "_toc.yml").write_text("")
    deep = tmp_path / "notebooks" / "deep"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert project.project_root() == tmp_path
    (tmp_path / "notebooks" / "_toc.yml").write_text("")
    assert project.project_root() == tmp_path / "notebooks"


def test_project_root_can_be_set_and_falls_back_to_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SICORE_HOME", raising=False)
    assert project.project_root() == tmp_path
    monkeypatch.setenv("SICORE_HOME", str(tmp_path / "elsewhere"))
    assert project.project_root() == tmp_path / "elsewhere"
    assert Store.open().root == tmp_path / "elsewhere" / ".store"


# ---------------------------------------------------------------------------------------
# What is here, is it whole, what is no longer needed


def states(shelf):
    return {file.path.name: file.state for file in store.contents(shelf)}


def test_object_under_another_objects_name_is_set_aside(shelf):
    shelf.put("base", SPEC, TENSORS, {})
    other = {**SPEC, "seed": 1}
    shelf.path("base", SPEC).rename(shelf.path("base", other))
    with pytest.warns(UserWarning, match="another object"):
        assert shelf.get("base", other) is None


@pytest.mark.parametrize("kind", ["", "../base", "a/b", "/tmp", "Base", "a" * 41])
def test_kind_cannot_leave_the_store(shelf, kind):
    with pytest.raises(ValueError, match="kind"):
        shelf.path(kind, SPEC)


def test_objects_of_todays_code_are_current_and_others_outdated(shelf, monkeypatch):
    shelf.put("base", SPEC, TENSORS, {})
    assert list(states(shelf).values()) == ["current"]
    (file,) = store.contents(shelf)
    assert (file.path, file.size) == (shelf.path("base", SPEC), shelf.path("base", SPEC).stat().st_size)
    assert "computation = ab" in file.about
    monkeypatch.setattr(store, "code_fingerprint", lambda *modules: "other")
    assert list(states(shelf).values()) == ["outdated"]
    monkeypatch.undo()
    monkeypatch.setattr(torch, "__version__", "1.0")
    assert list(states(shelf).values()) == ["outdated"]


@pytest.mark.parametrize("where", [lambda code: {"code": code}, lambda code: {"a": {"code": code}, "code": "own"}])
def test_vision_objects_are_current_by_their_own_code_too(shelf, monkeypatch, where):
    monkeypatch.setattr(store, "_vision_code", lambda: "own")
    shelf.put("vision_base", where("own"), TENSORS, {})
    assert list(states(shelf).values()) == ["current"]
    shelf.put("vision_base", where("old"), TENSORS, {})
    assert sorted(states(shelf).values()) == ["current", "outdated"]
    shelf.put("base", where("old"), TENSORS, {})
    assert states(shelf)[shelf.path("base", where("old")).name] == "current", "it has no code of its own"


def test_code_of_the_vision_experiment_is_that_of_its_objects():
    from companion.vision.stages import CODE

    assert store._vision_code() == project.code_fingerprint(CODE)


def garbage_of_all_kinds(shelf):
    """One file of each kind of garbage, an object that is current, and what the store has not made."""
    shelf.put("base", SPEC, TENSORS, {})
    folder = shelf.root / "base"
    old = {**SPEC, "seed": 5}
    shelf.put("base", old, TENSORS, {})
    shelf.path("base", old).rename(folder / f"{'0' * 32}.safetensors")
    shelf.put("base", old, TENSORS, {})
    cut = shelf.path("base", old)
    cut.write_bytes(cut.read_bytes()[:-1])
    for name in ("a.damaged", "a.checkpoint", ".a.safetensors.xyz.tmp", "a.lock"):
        (folder / name).write_text("")
    (folder / "notes.txt").write_text("")
    (shelf.root / "README").write_text("")
    return {
        f"{'0' * 32}.safetensors": "outdated", cut.name: "damaged", "a.damaged": "damaged",
        "a.checkpoint": "checkpoint", ".a.safetensors.xyz.tmp": "temporary", "a.lock": "lock",
    }  # fmt: skip


def test_garbage_is_found_and_removed_and_nothing_else(shelf):
    expected = garbage_of_all_kinds(shelf)
    found = store.garbage(shelf)
    assert {file.path.name: file.state for file in found} == expected
    assert states(shelf) == expected | {shelf.path("base", SPEC).name: "current", "notes.txt": "foreign"}
    assert store.remove(shelf, found) == found
    assert states(shelf) == {shelf.path("base", SPEC).name: "current", "notes.txt": "foreign"}
    assert (shelf.root / "README").is_file()
    assert shelf.get("base", SPEC) is not None
    assert store.remove(shelf, found) == [], "gone by now"


def test_garbage_can_be_asked_for_by_age(shelf):
    garbage_of_all_kinds(shelf)
    week = time.time() - 7 * 86400
    os.utime(shelf.root / "base" / "a.damaged", (week, week))
    assert [file.path.name for file in store.garbage(shelf, older_than=6.9)] == ["a.damaged"]
    assert store.garbage(shelf, older_than=7.1) == []


def test_what_a_living_process_holds_is_no_garbage_and_is_not_removed(shelf):
    with files.written_aside(shelf.root / "base" / "b.safetensors") as temporary:
        (shelf.root / "base" / "a.checkpoint").write_text("")
        listed = store.garbage(shelf)
        assert [file.state for file in listed] == ["checkpoint"]
        with shelf.lock("base", SPEC):
            lock = shelf.path("base", SPEC).with_suffix(".lock")
            assert store.garbage(shelf) == []
            assert set(states(shelf).values()) == {"in use"}
            late = [*listed, *(store.File(path, 0, 0.0, "lock") for path in (lock, temporary))]
            assert store.remove(shelf, late) == []
            assert lock.exists()
            with pytest.raises(TimeoutError), shelf.lock("base", SPEC, wait=False):
                pytest.fail("two have the lock")
        temporary.write_text("")
    assert sorted(file.state for file in store.garbage(shelf)) == ["checkpoint", "damaged", "lock"]


def test_object_that_is_made_anew_while_it_is_to_be_removed_stays(shelf):
    shelf.put("base", SPEC, TENSORS, {})
    path = shelf.path("base", SPEC)
    path.write_bytes(b"")
    listed = store.garbage(shelf)
    assert [file.state for file in listed] == ["damaged"]
    with shelf.lock("base", SPEC):
        assert store.remove(shelf, listed) == []
        shelf.put("base", SPEC, TENSORS, {})
    assert store.remove(shelf, listed) == []
    assert shelf.get("base", SPEC) is not None


def test_links_are_not_followed(shelf, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.damaged").write_text("")
    (shelf.root / "base").mkdir()
    (shelf.root / "base" / "b.damaged").symlink_to(tmp_path / "outside" / "a.damaged")
    (shelf.root / "kind").symlink_to(tmp_path / "outside")
    assert store.garbage(shelf) == []
    assert (tmp_path / "outside" / "a.damaged").exists()


def test_verify_names_what_is_damaged_and_changes_nothing(shelf):
    shelf.put("base", SPEC, TENSORS, {})
    for seed in (1, 2):
        shelf.put("base", {**SPEC, "seed": seed}, TENSORS, {})
    assert [problem for _, problem in store.verify(shelf)] == ["", "", ""]
    path = shelf.path("base", SPEC)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    files.save_tensors(shelf.root / "base" / "x.safetensors", TENSORS, {})
    before = states(shelf)
    wrong = {one: problem for one, problem in store.verify(shelf) if problem}
    assert set(wrong) == {path, shelf.root / "base" / "x.safetensors"}
    assert "checksum" in wrong[path]
    assert states(shelf) == before


def run_command(capsys, *words):
    status = main(["store", *map(str, words)])
    return status, capsys.readouterr()


def test_command_lists_verifies_and_asks_before_it_removes(shelf, capsys, monkeypatch):
    expected = garbage_of_all_kinds(shelf)
    status, told = run_command(capsys, "ls", "--store", shelf.root)
    assert status == 0
    assert [line.split()[:3] for line in told.out.splitlines()[:2]] == [
        ["base", "checkpoint", "1"],
        ["base", "current", "1"],
    ]
    status, told = run_command(capsys, "ls", "--all", "--store", shelf.root)
    assert all(name in told.out for name in expected)
    status, told = run_command(capsys, "verify", "--store", shelf.root)
    assert status == 1
    assert "2 of 4 objects and checkpoints are whole" in told.out
    for answer in ("", "\n", "n\n", "no\n"):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        status, told = run_command(capsys, "gc", "--store", shelf.root)
        assert status == 1
        assert "Remove 6 files" in told.out
        assert all(name in told.out for name in expected)
        assert expected.items() <= states(shelf).items()
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    status, told = run_command(capsys, "gc", "--store", shelf.root)
    assert status == 0
    assert "removed 6 files" in told.out
    assert run_command(capsys, "gc", "--store", shelf.root)[1].out.startswith("nothing to remove")
    assert run_command(capsys, "verify", "--store", shelf.root)[0] == 0


def test_command_removes_without_a_question_and_by_age(shelf, capsys, monkeypatch):
    garbage_of_all_kinds(shelf)
    monkeypatch.setattr("sys.stdin", None)
    assert run_command(capsys, "gc", "--yes", "--older-than", "1", "--store", shelf.root)[1].out.startswith("nothing")
    assert "removed 6 files" in run_command(capsys, "gc", "--yes", "--store", shelf.root)[1].out
    for days in ("-1", "nan", "inf", "x"):
        with pytest.raises(SystemExit):
            run_command(capsys, "gc", "--older-than", days)
        assert "--older-than" in capsys.readouterr().err


def test_command_names_a_store_that_is_not_there_and_makes_none(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SICORE_HOME", str(tmp_path))
    status, told = run_command(capsys, "ls")
    assert status == 2
    assert str(tmp_path / ".store") in told.err
    assert list(tmp_path.iterdir()) == []
