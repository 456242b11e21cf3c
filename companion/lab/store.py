"""Artefacts by content: what determines an object is hashed, and the hash names its file.

A base model or a subnetwork takes minutes to make and is needed by several notebooks.
Each is stored once under ``<root>/<kind>/<key>.safetensors``; a second run finds it, a
killed run leaves nothing half-written, and of two equal runs at once one makes it.
:func:`contents`, :func:`verify`, :func:`garbage` and :func:`remove` are what
``python -m companion store`` does.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import re
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from companion.lab.origin import made_by
from companion.lab.project import project_root
from companion.lab.recipes import PICTURES, RECIPES, Recipe, recipe, without_neutral
from sicore.files import (
    cannot_write,
    canonical_json,
    is_held,
    load_meta,
    load_tensors,
    reason,
    remove_unheld,
    save_tensors,
)

FIRST_TRANSFORMERS = "5.23.0"
"""The version that is left out of the key, since objects were stored with it before it had a place there."""


@functools.cache
def transformers_version() -> str:
    """The version that decides initial weights, without importing it."""
    return version("transformers")


@dataclass(frozen=True)
class Store:
    """A folder of artefacts.

    Parameters
    ----------
    root
        Default: ``.store`` in the project's folder.
    recipes
        Of the kinds of objects that may be kept.
    """

    root: Path
    recipes: Mapping[str, Recipe] = field(default_factory=lambda: RECIPES, repr=False, compare=False)

    @classmethod
    def open(cls, root: str | Path | None = None) -> Store:
        """The store at ``root``, checked to be writable before anything is computed."""
        path = Path(root) if root else project_root() / ".store"
        try:
            path.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path).close()
        except OSError as error:
            raise OSError(f"store = {str(path)!r} cannot be written to: {reason(error)}") from error
        return cls(path)

    def path(self, kind: str, spec: Mapping[str, Any]) -> Path:
        """The file of the object that ``spec`` determines. ``ValueError`` for a kind that is no plain name."""
        if not re.fullmatch(r"[a-z0-9_]{1,40}", kind):
            raise ValueError(f"kind = {kind!r}: expected a short name of a-z, 0-9 and _")
        made_with = without_neutral(
            {"code": recipe(kind, self.recipes), "torch": torch.__version__, "transformers": transformers_version()},
            transformers=FIRST_TRANSFORMERS,
        )
        text = canonical_json({"kind": kind, "spec": spec, **made_with})
        return self.root / kind / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"

    def get(self, kind: str, spec: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The object, or None when it is not there.

        A file that is damaged, or holds another object than its name says, is set aside as
        ``*.damaged`` with a warning, and counts as absent.
        """
        path = self.path(kind, spec)
        try:
            tensors, meta = load_tensors(path)
            if canonical_json(meta.get("spec")) != canonical_json(spec):
                raise ValueError(f"{path} holds another object than its name says")
        except FileNotFoundError:
            return None
        except ValueError as error:
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, path.with_suffix(".damaged"))
            warnings.warn(f"{error}; set aside as {path.stem}.damaged, it is computed again", stacklevel=2)
            return None
        return tensors, meta

    def put(
        self, kind: str, spec: Mapping[str, Any], tensors: Mapping[str, Tensor], meta: Mapping[str, Any],
        device: str = "cpu",
    ) -> None:  # fmt: skip
        """Write the object in one piece, with who made it (:func:`companion.lab.origin.made_by`) on which device.

        ``OSError`` when the disk is full, read-only or gone: it says which. What the store held before stays whole.
        """
        path = self.path(kind, spec)
        self._check_is_there(path)
        save_tensors(path, tensors, {**meta, "spec": dict(spec), "made_by": made_by(device)})

    def log(self, line: str) -> None:
        """Add a line with the time to ``log.txt``. Several processes may; each line stays whole."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        # A line that cannot be written is not worth a run: what it tells of is in the store already.
        with contextlib.suppress(OSError), open(self.root / "log.txt", "a", encoding="utf-8") as file:
            file.write(f"{stamp}  {line}\n")

    @contextlib.contextmanager
    def lock(self, kind: str, spec: Mapping[str, Any], *, wait: bool = True) -> Iterator[None]:
        """Hold the right to make this object; a second process waits here and then finds it.

        Without ``wait``, ``TimeoutError`` at once when another process holds it.

        The empty lock file stays, for whoever waits for it; :func:`remove` takes those away that nobody holds.
        """
        path = self.path(kind, spec).with_suffix(".lock")
        lock = FileLock(str(path), timeout=-1 if wait else 0)
        try:
            self._check_is_there(path)
            path.parent.mkdir(exist_ok=True)
            lock.acquire()
        except Timeout:  # another process has it; any other TimeoutError is the disk's
            raise
        except OSError as error:
            raise error if error.errno is None else cannot_write(path, error) from error
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def locks(self, kind: str, specs: Sequence[Mapping[str, Any]], *, wait: bool = True) -> Iterator[None]:
        """:meth:`lock` for several objects, all of them or, without ``wait``, ``TimeoutError``."""
        allow_open_files(len(specs) + 256)
        with contextlib.ExitStack() as held:
            # In the order of their names, the same in every process: no two wait for each other.
            for spec in sorted(specs, key=lambda spec: self.path(kind, spec)):
                held.enter_context(self.lock(kind, spec, wait=wait))
            yield

    def _check_is_there(self, path: Path) -> None:
        # Not made again: after the loss of a disk that would go on in an empty folder.
        if not self.root.is_dir():
            raise cannot_write(path, FileNotFoundError(errno.ENOENT, f"no folder {self.root}"))


def allow_open_files(count: int) -> None:
    """Let this process have ``count`` files open, as far as the system permits."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if 0 <= soft < count:
            resource.setrlimit(resource.RLIMIT_NOFILE, (count if hard < 0 else min(count, hard), hard))


# ---------------------------------------------------------------------------------------
# What is here, is it whole, what is no longer needed


@dataclass(frozen=True)
class File:
    """A file of a store.

    Attributes
    ----------
    size, age
        Bytes, and seconds since the last change.
    state
        ``current``: an object that today's code would look for. ``older``: a whole one of another recipe, or of
        another version of torch or transformers. ``in use``: a checkpoint, lock or temporary file of a process
        that lives. ``foreign``: nothing that the store has made. All else is garbage: ``damaged``, ``checkpoint``
        (of a training that nobody is at), ``temporary`` (of a process that was killed), ``lock`` (that nobody holds).
    about
        Of an object: settings that it was made with.
    """

    path: Path
    size: int
    age: float
    state: str
    about: str = ""


GARBAGE = ("damaged", "checkpoint", "temporary", "lock")
"""States of what is of use to nobody."""


def contents(store: Store) -> list[File]:
    """Every file of the store, by kind and name. Links are not followed."""
    files = []
    for folder in sorted(store.root.iterdir()):
        if folder.is_dir() and not folder.is_symlink():
            files += [_file(store, path) for path in sorted(folder.iterdir()) if path.is_file()]
    return [file for file in files if file is not None]


def garbage(store: Store, older_than: float = 0.0, *, older: bool = False) -> list[File]:
    """What is of use to nobody and no living process holds, unchanged for ``older_than`` days or more.

    With ``older`` also whole objects of another recipe or version, which other code may still look for.
    """
    wanted = (*GARBAGE, "older") if older else GARBAGE
    return [file for file in contents(store) if file.state in wanted and file.age >= older_than * 86400]


def remove(store: Store, files: Iterable[File]) -> list[File]:
    """Remove what :func:`garbage` has listed, and return what was removed.

    What has come into use since it was listed stays. Raises ``OSError`` naming a file that cannot be removed.
    """
    gone = []
    for file in files:
        try:
            if _remove(store, file):
                gone.append(file)
        except OSError as error:
            raise OSError(f"cannot remove {file.path}: {reason(error)}") from error
    return gone


def verify(store: Store) -> Iterator[tuple[Path, str]]:
    """Read every object and checkpoint as a whole: its path, and what is wrong with it or ``""``. Changes nothing."""
    for file in contents(store):
        if file.path.suffix not in (".safetensors", ".checkpoint"):
            continue
        try:
            _, meta = load_tensors(file.path)
            if file.path.suffix == ".safetensors" and not isinstance(meta.get("spec"), dict):
                raise ValueError(f"{file.path} does not say what it was made from")
        except FileNotFoundError:
            continue  # replaced or removed meanwhile
        except (ValueError, OSError) as error:
            yield file.path, str(error)
        else:
            yield file.path, ""


def _file(store: Store, path: Path) -> File | None:
    try:
        found = path.lstat()
        state, about = ("foreign", "") if path.is_symlink() else _state(store, path)
    except FileNotFoundError:
        return None  # another process is at work
    return File(path, found.st_size, time.time() - found.st_mtime, state, about)


def _state(store: Store, path: Path) -> tuple[str, str]:
    if path.suffix == ".safetensors":
        return _state_of_object(store, path)
    if path.suffix == ".damaged":
        return "damaged", ""
    if path.suffix == ".lock":
        return "in use" if is_held(path) else "lock", ""
    if path.suffix == ".tmp" and path.name.startswith("."):
        return "in use" if is_held(path) else "temporary", ""
    if path.suffix == ".checkpoint":
        # Its name does not say whose locks guard it: while one of its kind is held, it stays.
        held = any(is_held(lock) for lock in path.parent.glob("*.lock"))
        return "in use" if held else "checkpoint", ""
    return "foreign", ""


def _state_of_object(store: Store, path: Path) -> tuple[str, str]:
    kind = path.parent.name
    try:
        spec = load_meta(path).get("spec")
    except ValueError:
        return "damaged", ""
    if not isinstance(spec, dict):
        return "damaged", ""
    plain = [f"{name} = {value}" for name, value in spec.items() if not isinstance(value, dict | list | None)]
    try:
        current = store.path(kind, spec) == path
    except ValueError:  # a folder that is no kind
        current = False
    current = current and all(code == PICTURES for code in _codes(spec))
    return "current" if current else "older", ", ".join(plain)


def _codes(spec: Any) -> Iterator[Any]:
    """Every entry ``code`` in a spec and in those that it was made from."""
    if isinstance(spec, dict):
        for name, value in spec.items():
            if name == "code":
                yield value
            yield from _codes(value)


def _remove(store: Store, listed: File) -> bool:
    path = listed.path
    if path.suffix in (".lock", ".tmp"):
        return remove_unheld(path)
    with contextlib.ExitStack() as held:
        if path.suffix == ".safetensors":  # nobody makes it anew meanwhile
            lock = path.with_suffix(".lock")
            try:
                held.enter_context(FileLock(str(lock), timeout=0))
            except Timeout:
                return False
            held.callback(lock.unlink, missing_ok=True)
        file = _file(store, path)
        wanted = ("older",) if listed.state == "older" else GARBAGE
        if file is None or file.state not in wanted:
            return False
        path.unlink(missing_ok=True)
        return True
