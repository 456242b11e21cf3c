import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from sicore import project, store
from sicore.store import Store

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
