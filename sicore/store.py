"""Artefacts by content: what determines an object is hashed, and the hash names its file.

A base model or a subnetwork takes minutes to make and is needed by several notebooks.
Each is stored once under ``<root>/<kind>/<key>.safetensors``; a second run finds it, a
killed run leaves nothing half-written, and of two equal runs at once one makes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from sicore.files import canonical_json, load_tensors, save_tensors
from sicore.project import code_fingerprint, project_root


@dataclass(frozen=True)
class Store:
    """A folder of artefacts.

    Parameters
    ----------
    root
        Default: ``.store`` in the project's folder.
    """

    root: Path

    @classmethod
    def open(cls, root: str | Path | None = None) -> Store:
        """The store at ``root``, checked to be writable before anything is computed."""
        path = Path(root) if root else project_root() / ".store"
        try:
            path.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path).close()
        except OSError as error:
            raise OSError(
                f"store = {str(path)!r} cannot be written to: {error.strerror}. Choose a writable folder with space"
            ) from error
        return cls(path)

    def path(self, kind: str, spec: Mapping[str, Any]) -> Path:
        """The file of the object that ``spec`` determines."""
        made_by = {"code": code_fingerprint(), "torch": torch.__version__}
        text = canonical_json({"kind": kind, "spec": spec, **made_by})
        return self.root / kind / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"

    def get(self, kind: str, spec: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The object, or None when it is not there.

        A damaged file is set aside as ``*.damaged`` with a warning, and counts as absent.
        """
        path = self.path(kind, spec)
        try:
            tensors, meta = load_tensors(path)
        except FileNotFoundError:
            return None
        except ValueError as error:
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, path.with_suffix(".damaged"))
            warnings.warn(f"{error}; set aside as {path.stem}.damaged, it is computed again", stacklevel=2)
            return None
        return tensors, meta

    def put(self, kind: str, spec: Mapping[str, Any], tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Write the object in one piece."""
        save_tensors(self.path(kind, spec), tensors, {**meta, "spec": dict(spec)})

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

        The empty lock file stays: to remove it would let a third process lock another file
        of the same name while the second still holds this one.
        """
        path = self.path(kind, spec).with_suffix(".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(str(path), timeout=-1 if wait else 0):
            yield
