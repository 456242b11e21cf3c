"""Files that are either whole or absent: safetensors and text, written aside, then renamed.

No pickle anywhere. A tensor file carries a SHA-256 over its tensors and metadata, so
that a file that was cut short or altered is refused, not half-used. Whoever made a file
can give it a fitting checksum, so that everything else in it is checked as well.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

FORMAT = 1
"""Version of the tensor files, written into each; a file of another one is refused."""

_MAX_DEPTH = 100  # of JSON: what reads it may recurse


def _numbers(*names: str) -> tuple[int, ...]:
    return tuple(getattr(errno, name) for name in names if hasattr(errno, name))  # not every system has all


_FULL = _numbers("ENOSPC", "EDQUOT")
_READ_ONLY = _numbers("EROFS")
_FORBIDDEN = _numbers("EACCES", "EPERM")
_GONE = _numbers("ENOENT", "ENOTDIR", "ENODEV", "ENXIO")
_SILENT = _numbers("ESTALE", "EIO", "ENOTCONN", "EHOSTDOWN", "ETIMEDOUT", "EREMOTEIO")


def reason(error: OSError) -> str:
    """What has happened to the disk, and what to do about it, in a sentence.

    >>> reason(OSError(errno.ENOSPC, "No space left on device"))
    'the disk is full (No space left on device). Make room, then run again'
    """
    what, remedy = "", "Choose a folder that exists, is writable and has space"
    if error.errno in _FULL:
        what, remedy = "the disk is full", "Make room, then run again"
    elif error.errno in _READ_ONLY:
        what, remedy = "the file system is read-only", "Choose a writable folder, or mount it writable"
    elif error.errno in _FORBIDDEN:
        what, remedy = "the folder is read-only for this user", "Choose a writable folder"
    elif error.errno in _GONE:
        what, remedy = "the folder has gone: removed, or its disk or network mount is no longer there", "Bring it back"
    elif error.errno in _SILENT:
        what, remedy = "its disk or network mount does not answer", "When it is back, run again"
    told = error.strerror or str(error)
    return f"{what} ({told}). {remedy}" if what else f"{told}. {remedy}"


@contextlib.contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` if the block succeeds.

    On an error, and when the process is killed, ``path`` keeps what it had before. The
    temporary file is locked while its writer lives, so that one that was left behind can be
    told from one that is being written (see :func:`is_held`); the block must write to
    the file that is there, not put another in its place.

    Raises
    ------
    OSError
        When the folder cannot be written to. It names the file and the folder, and
        says whether the disk is full, read-only or gone.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    temporary = Path(name)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: left-overs stay there
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield temporary
        temporary.chmod(0o644)  # mkstemp makes files that only their owner can read
        os.fsync(handle)  # some disks say only now that they are full
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None:  # from a file inside of this block, which has said it all
            raise
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # the disk may be what has failed: that is the error to be seen
            temporary.unlink(missing_ok=True)
        os.close(handle)


def cannot_write(path: Path, error: OSError) -> OSError:
    """The same error, with the file, the folder and the reason."""
    return OSError(f"cannot write {path.name} into the folder {path.parent}: {reason(error)}")


def is_held(path: Path) -> bool:
    """Has a living process locked this file? True where that cannot be known, False when it has gone."""
    with _unheld(path) as free:
        return not free and path.exists()


def remove_unheld(path: Path) -> bool:
    """Remove a file unless a living process has locked it. Whether it was removed."""
    with _unheld(path) as free:
        if free:
            path.unlink()  # while it is locked: whoever waits for it sees that it has gone, and makes a new one
        return free


@contextlib.contextmanager
def _unheld(path: Path) -> Iterator[bool]:
    """Lock a file that is there, without waiting. Whether that was possible."""
    try:
        file = path.open("r+b")
    except OSError:
        yield False
        return
    with file:
        free = False
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = os.fstat(file.fileno()).st_nlink > 0
        yield free


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path`` in one piece."""
    with written_aside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def checksum(tensors: Mapping[str, Tensor], meta: str) -> str:
    """SHA-256 over names, types, shapes and bytes of the tensors, and over ``meta``."""
    digest = hashlib.sha256(meta.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"|{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and JSON-able metadata to one safetensors file, checksummed.

    Raises
    ------
    ValueError, TypeError
        Before anything is written, when ``meta`` is no JSON, or too long for a header; for a tensor that the format
        cannot hold (``complex128``, sparse, quantised, on the meta device), by its name.
    OSError
        Naming file, folder and reason when it cannot be written (see :func:`written_aside`).

    Examples
    --------
    >>> path = Path(tempfile.mkdtemp()) / "one.safetensors"
    >>> save_tensors(path, {"w": torch.tensor([1.0, 2.0])}, {"seed": 0})
    >>> load_tensors(path)
    ({'w': tensor([1., 2.])}, {'seed': 0})
    """
    text = canonical_json(meta)
    _check_kinds(tensors, path)
    flat = {name: tensor.detach().cpu().resolve_conj().resolve_neg().contiguous() for name, tensor in tensors.items()}
    seen: set[int] = set()
    for name, tensor in flat.items():  # safetensors refuses tensors that share memory
        if tensor.untyped_storage().data_ptr() in seen:
            flat[name] = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
    header = {"format": str(FORMAT), "meta": text, "sha256": checksum(flat, text)}
    try:
        # Not save_file: it writes aside by itself, under a name that nobody would know after a kill.
        data = save(flat, metadata=header)
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be written: {error}") from error
    with written_aside(path) as temporary:
        temporary.write_bytes(data)


def _check_kinds(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors.values()):
        name = next(name for name, tensor in tensors.items() if tensor.dtype == dtype)
        try:
            save({name: torch.empty(0, dtype=dtype)})
        except Exception as error:  # whatever it may be: the library has a table of types, and this is not in it
            raise ValueError(f"{path} cannot be written: {name!r} has type {dtype}, which the format lacks") from error
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta:
            what = "has no values (it is on the meta device)" if tensor.is_meta else "is sparse: call .to_dense() first"
            raise ValueError(f"{path} cannot be written: {name!r} {what}")


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_tensors` wrote: tensors in the order of their names, and metadata.

    Nothing in the file is trusted: its header is checked by safetensors, its contents by their checksum.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When the file is cut short, altered, of another format version, or not ours.
    OSError
        When the disk or mount does not answer.
    """
    path = Path(path)
    # Read, not mapped into memory: a disk that fails is then an error, and not the end of the process. And once:
    # another process may put a new file in its place meanwhile. But its header first: a file that is none of ours
    # may be larger than the memory.
    with _errors_named(path), path.open("rb") as file, safe_open(path, "pt"):
        data = file.read()
        tensors = dict(sorted(load(data).items()))  # safetensors gives them in no fixed order
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])  # checked by load
    texts = _ours(header.get("__metadata__"), path)
    if texts["sha256"] != checksum(tensors, texts["meta"]):
        raise ValueError(f"{path} is damaged: its checksum does not match its contents")
    for name, tensor in tensors.items():
        if tensor.dim() > 64:
            raise ValueError(f"{path}: {name!r} has {tensor.dim()} axes; torch computes with at most 64")
        # A truth value of 2 would be true, and its opposite too.
        if tensor.dtype == torch.bool and tensor.numel() and int(tensor.view(torch.uint8).max()) > 1:
            raise ValueError(f"{path}: {name!r} holds truth values that are neither 0 nor 1")
    return tensors, _meta(texts, path)


def load_meta(path: str | Path) -> dict[str, Any]:
    """The metadata of a tensor file, without its tensors and so without their checksum.

    Raises as :func:`load_tensors` does.
    """
    path = Path(path)
    with _errors_named(path), path.open("rb"), safe_open(path, "pt") as file:
        texts = file.metadata()
    return _meta(_ours(texts, path), path)


@contextlib.contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    """Say of every error of the block what it means for this file: that it is absent, out of reach or damaged."""
    try:
        if not path.is_file():
            raise FileNotFoundError
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no file {path}") from error
    except OSError as error:
        raise OSError(f"cannot read {path}: {reason(error)}") from error
    except MemoryError:
        raise
    except Exception as error:  # whatever it may be: the file is somebody's, and the fault is in it
        raise ValueError(f"{path} is damaged or not a safetensors file: {error}") from error


def _ours(texts: Mapping[str, str] | None, path: Path) -> Mapping[str, str]:
    """The texts in a file's header, if it is one of ours."""
    texts = texts or {}
    if texts.get("format") != str(FORMAT):
        raise ValueError(f"{path} has format version {texts.get('format')!r}; this version of sicore reads {FORMAT}")
    if "meta" not in texts or "sha256" not in texts:
        raise ValueError(f"{path} is damaged: it has no metadata or no checksum")
    return texts


def _meta(texts: Mapping[str, str], path: Path) -> dict[str, Any]:
    try:
        meta = strict_json(texts["meta"])
    except ValueError as error:
        raise ValueError(f"{path} has metadata that is not JSON: {error}") from error
    if not isinstance(meta, dict):
        raise ValueError(f"{path} has metadata that is not a JSON object")
    return meta


def strict_json(text: str) -> Any:
    """JSON as the standard has it, and no more: no name twice, no NaN or infinity, text that UTF-8 can hold.

    ``ValueError`` for all else, for a number of more than 4,300 digits and for nesting of more than 100 levels.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name stands twice in one object")
        return found

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"the number {text[:40]} is too large")
        return value

    def constant(text: str) -> float:
        raise ValueError(f"{text} is no JSON")

    try:
        value = json.loads(text, object_pairs_hook=once, parse_float=number, parse_constant=constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    _check_depth(value, _MAX_DEPTH)
    json.dumps(value, ensure_ascii=False).encode()
    return value


def _check_depth(value: Any, left: int) -> None:
    if not left:
        raise ValueError(f"it is nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            _check_depth(part, left - 1)
