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
from companion.lab.recipes import FIRST, PICTURES, RECIPES, Recipe, recipe, without_neutral
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


# ---------------------------------------------------------------------------------------
# The other part of the key: recipe and versions


def with_word(kind, word):
    return {**RECIPES, kind: Recipe(word, RECIPES[kind].made_from)}


@pytest.mark.parametrize("more", [{}, {"code": "mine"}, {"kind": "mine"}])
def test_key_changes_with_the_recipe_whatever_the_spec_has(shelf, more):
    other = Store(shelf.root, with_word("base", "new"))
    assert shelf.path("base", {**SPEC, **more}) != other.path("base", {**SPEC, **more})


def moved(kind, word="new"):
    """The kinds whose places change with the word of ``kind``."""
    before, after = Store(Path("store")), Store(Path("store"), with_word(kind, word))
    return {name for name in RECIPES if before.path(name, SPEC) != after.path(name, SPEC)}


def test_a_new_word_moves_a_kind_and_what_is_made_from_it_and_nothing_else():
    assert moved("transfer") == {"transfer"}
    assert moved("base") == {"base", "subnetwork", "transfer"}
    assert moved("vision_head") == {"vision_head", "vision_mask", "vision_row"}
    assert all(moved(kind, FIRST) == set() for kind in RECIPES)


def test_a_word_at_one_place_of_a_chain_is_told_from_the_same_word_at_another():
    chain = {"a": Recipe(), "b": Recipe(made_from="a"), "c": Recipe(made_from="b")}
    words = {recipe("c", {**chain, kind: Recipe("new", chain[kind].made_from)}) for kind in chain}
    assert len(words | {recipe("c", chain)}) == 4


def test_a_kind_without_a_recipe_is_refused_with_those_that_there_are(shelf):
    with pytest.raises(ValueError, match="kind = 'bases' has no recipe; there are base, subnetwork, transfer, "):
        shelf.put("bases", SPEC, TENSORS, {})
    lost = {"thing": Recipe(made_from="nothing")}
    with pytest.raises(ValueError, match="kind = 'nothing' has no recipe; there are thing"):
        Store(shelf.root, lost).path("thing", SPEC)
    assert list(shelf.root.iterdir()) == []


def test_key_changes_with_the_versions_that_decide_numbers(shelf, monkeypatch):
    places = {shelf.path("base", SPEC)}
    monkeypatch.setattr(torch, "__version__", "2.99.0")
    places.add(shelf.path("base", SPEC))
    monkeypatch.setattr(store, "transformers_version", lambda: "4.0")
    places.add(shelf.path("base", SPEC))
    assert len(places) == 3


def test_a_setting_is_left_out_where_it_is_neutral_and_only_there():
    settings = {"steps": 5, "pieces": 1, "share": 0.0}
    assert without_neutral(settings, pieces=1) == {"steps": 5, "share": 0.0}
    assert without_neutral(settings, pieces=1, share=0) == {"steps": 5}
    assert without_neutral(settings, pieces=2, share=False) == settings
    assert without_neutral({"pieces": True}, pieces=1) == {"pieces": True}
    with pytest.raises(ValueError, match="neutral: 'piecs' is no setting; there are steps, pieces, share"):
        without_neutral(settings, piecs=1)


def test_every_object_says_who_made_it(shelf):
    shelf.put("base", SPEC, TENSORS, {"accuracy": 0.5})
    _, meta = shelf.get("base", SPEC)
    assert set(meta) == {"accuracy", "spec", "made_by"}
    assert torch.__version__.startswith(meta["made_by"]["versions"]["torch"])
    assert meta["made_by"]["device"].startswith("CPU")
    assert {"commit", "changed_since_commit", "machine", "processor", "date"} < set(meta["made_by"])


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


def test_project_root_is_the_next_folder_upwards_with_a_table_of_contents(tmp_path, monkeypatch):
    monkeypatch.delenv("COMPANION_HOME", raising=False)
    (tmp_path / "_toc.yml").write_text("")
    deep = tmp_path / "notebooks" / "deep"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert project.project_root() == tmp_path
    (tmp_path / "notebooks" / "_toc.yml").write_text("")
    assert project.project_root() == tmp_path / "notebooks"


def test_project_root_can_be_set_and_falls_back_to_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COMPANION_HOME", raising=False)
    assert project.project_root() == tmp_path
    monkeypatch.setenv("COMPANION_HOME", str(tmp_path / "elsewhere"))
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


def test_objects_of_todays_recipe_and_versions_are_current_and_others_older(shelf, monkeypatch):
    shelf.put("base", SPEC, TENSORS, {})
    assert list(states(shelf).values()) == ["current"]
    (file,) = store.contents(shelf)
    assert (file.path, file.size) == (shelf.path("base", SPEC), shelf.path("base", SPEC).stat().st_size)
    assert "computation = ab" in file.about
    assert list(states(Store(shelf.root, with_word("base", "new"))).values()) == ["older"]
    assert list(states(Store(shelf.root, with_word("subnetwork", "new"))).values()) == ["current"]
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "2.99.0")
        assert list(states(shelf).values()) == ["older"]
    with monkeypatch.context() as patch:
        patch.setattr(store, "transformers_version", lambda: "4.0")
        assert list(states(shelf).values()) == ["older"]
    assert list(states(Store(shelf.root, {"transfer": Recipe()})).values()) == ["older"], "a kind that has gone"


@pytest.mark.parametrize("where", [lambda code: {"code": code}, lambda code: {"a": {"code": code}, "code": PICTURES}])
def test_vision_objects_are_current_by_the_recipe_of_the_pictures_too(shelf, where):
    shelf.put("vision_base", where(PICTURES), TENSORS, {})
    assert list(states(shelf).values()) == ["current"]
    shelf.put("vision_base", where("old"), TENSORS, {})
    assert sorted(states(shelf).values()) == ["current", "older"]


def garbage_of_all_kinds(shelf):
    """One file of each kind of garbage, a current object, an older one, and what the store has not made."""
    shelf.put("base", SPEC, TENSORS, {})
    folder = shelf.root / "base"
    Store(shelf.root, with_word("base", "old")).put("base", {**SPEC, "seed": 5}, TENSORS, {})
    shelf.put("base", {**SPEC, "seed": 6}, TENSORS, {})
    cut = shelf.path("base", {**SPEC, "seed": 6})
    cut.write_bytes(cut.read_bytes()[:-1])
    for name in ("a.damaged", "a.checkpoint", ".a.safetensors.xyz.tmp", "a.lock"):
        (folder / name).write_text("")
    (folder / "notes.txt").write_text("")
    (shelf.root / "README").write_text("")
    return {
        cut.name: "damaged", "a.damaged": "damaged",
        "a.checkpoint": "checkpoint", ".a.safetensors.xyz.tmp": "temporary", "a.lock": "lock",
    }  # fmt: skip


def older_of(shelf):
    """The place of the older object of :func:`garbage_of_all_kinds`."""
    return Store(shelf.root, with_word("base", "old")).path("base", {**SPEC, "seed": 5})


def left_of(shelf):
    """What is no garbage of :func:`garbage_of_all_kinds`."""
    return {shelf.path("base", SPEC).name: "current", older_of(shelf).name: "older", "notes.txt": "foreign"}


def test_garbage_is_found_and_removed_and_nothing_else(shelf):
    expected = garbage_of_all_kinds(shelf)
    found = store.garbage(shelf)
    assert {file.path.name: file.state for file in found} == expected
    assert states(shelf) == expected | left_of(shelf)
    assert store.remove(shelf, found) == found
    assert states(shelf) == left_of(shelf)
    assert (shelf.root / "README").is_file()
    assert shelf.get("base", SPEC) is not None
    assert store.remove(shelf, found) == [], "gone by now"


def test_older_objects_are_removed_only_when_they_are_asked_for(shelf):
    expected = garbage_of_all_kinds(shelf)
    found = store.garbage(shelf, older=True)
    assert {file.path.name: file.state for file in found} == expected | {older_of(shelf).name: "older"}
    assert store.remove(shelf, found) == found
    assert states(shelf) == {shelf.path("base", SPEC).name: "current", "notes.txt": "foreign"}


def test_an_older_object_that_is_current_by_now_stays(shelf):
    garbage_of_all_kinds(shelf)
    listed = [file for file in store.garbage(shelf, older=True) if file.state == "older"]
    assert store.remove(Store(shelf.root, with_word("base", "old")), listed) == []
    assert older_of(shelf).exists()


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
    *lines, total = told.out.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["base", "checkpoint", "1"], ["base", "current", "1"], ["base", "damaged", "2"], ["base", "foreign", "1"],
        ["base", "lock", "1"], ["base", "older", "1"], ["base", "temporary", "1"],
    ]  # fmt: skip
    assert total.startswith("8 files, ")
    status, told = run_command(capsys, "ls", "--all", "--store", shelf.root)
    assert all(name in told.out for name in expected)
    status, told = run_command(capsys, "verify", "--store", shelf.root)
    assert status == 1
    assert "2 of 4 objects and checkpoints are whole" in told.out
    for answer in ("", "\n", "n\n", "no\n"):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        status, told = run_command(capsys, "gc", "--store", shelf.root)
        assert status == 1
        assert "Remove 5 files" in told.out
        assert all(name in told.out for name in expected)
        assert states(shelf) == expected | left_of(shelf)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    status, told = run_command(capsys, "gc", "--store", shelf.root)
    assert status == 0
    assert "removed 5 files" in told.out
    assert states(shelf) == left_of(shelf)
    assert "nothing to remove" in run_command(capsys, "gc", "--store", shelf.root)[1].out
    assert run_command(capsys, "verify", "--store", shelf.root)[0] == 0


def test_command_tells_of_older_objects_and_removes_them_when_asked(shelf, capsys, monkeypatch):
    expected = garbage_of_all_kinds(shelf)
    size = f"1 files, {older_of(shelf).stat().st_size} B"
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    told = run_command(capsys, "gc", "--store", shelf.root)[1].out
    assert f"kept: {size}, of another recipe, or another version of torch or transformers (--older)" in told
    assert older_of(shelf).name not in told
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    told = run_command(capsys, "gc", "--older", "--store", shelf.root)[1].out
    assert "Remove 6 files" in told
    assert f"{size}, are whole objects, which older code may still look for" in told
    assert older_of(shelf).name in told
    assert states(shelf) == expected | left_of(shelf)
    assert "removed 5 files" in run_command(capsys, "gc", "--yes", "--store", shelf.root)[1].out
    told = run_command(capsys, "gc", "--yes", "--store", shelf.root)[1].out.splitlines()
    assert [line.split(":")[0] for line in told] == ["kept", f"nothing to remove in {shelf.root}"]
    assert "removed 1 files" in run_command(capsys, "gc", "--yes", "--older", "--store", shelf.root)[1].out
    assert run_command(capsys, "gc", "--older", "--store", shelf.root)[1].out.startswith("nothing to remove")
    assert shelf.get("base", SPEC) is not None


def test_command_removes_without_a_question_and_by_age(shelf, capsys, monkeypatch):
    garbage_of_all_kinds(shelf)
    monkeypatch.setattr("sys.stdin", None)
    for words in (["--older-than", "1"], ["--older-than", "1", "--older"]):
        told = run_command(capsys, "gc", "--yes", *words, "--store", shelf.root)[1].out
        assert told.splitlines()[-1].startswith("nothing to remove")
    assert "removed 5 files" in run_command(capsys, "gc", "--yes", "--store", shelf.root)[1].out
    for days in ("-1", "nan", "inf", "x"):
        with pytest.raises(SystemExit):
            run_command(capsys, "gc", "--older-than", days)
        assert "--older-than" in capsys.readouterr().err


def test_command_names_a_store_that_is_not_there_and_makes_none(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COMPANION_HOME", str(tmp_path))
    status, told = run_command(capsys, "ls")
    assert status == 2
    assert str(tmp_path / ".store") in told.err
    assert list(tmp_path.iterdir()) == []
