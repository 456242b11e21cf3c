"""Files that are either whole or absent: safetensors and text, written aside, then renamed.

No pickle anywhere. A tensor file carries a SHA-256 over its tensors and metadata, so
that a file that was cut short or altered is refused, not half-used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

FORMAT = 1


@contextlib.contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` if the block succeeds.

    On an error, and when the process is killed, ``path`` keeps what it had before.
    Raises ``OSError`` naming the folder when it cannot be created or written to.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise OSError(
            f"cannot write {path.name} into the folder {path.parent}: {error.strerror}. "
            "Choose a folder that exists, is writable and has space"
        ) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
    """Write tensors and JSON-able metadata to one safetensors file, checksummed."""
    text = canonical_json(meta)
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    seen: set[int] = set()
    for name, tensor in flat.items():  # safetensors refuses tensors that share memory
        if tensor.untyped_storage().data_ptr() in seen:
            flat[name] = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
    header = {"format": str(FORMAT), "meta": text, "sha256": checksum(flat, text)}
    with written_aside(path) as temporary:
        save_file(flat, str(temporary), metadata=header)


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_tensors` wrote.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When the file is cut short, altered, of another format version, or not ours.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    data = path.read_bytes()  # in one go: another process may put a new file in its place meanwhile
    try:
        tensors = dict(sorted(load(data).items()))  # safetensors gives them in no fixed order
        length = int.from_bytes(data[:8], "little")  # safetensors: length of the header, header as JSON, tensors
        header = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged or not a safetensors file: {error}") from error
    if header.get("format") != str(FORMAT):
        raise ValueError(f"{path} has format version {header.get('format')!r}; this version of sicore reads {FORMAT}")
    text = header.get("meta", "")
    if header.get("sha256") != checksum(tensors, text):
        raise ValueError(f"{path} is damaged: its checksum does not match its contents")
    try:
        meta = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} has metadata that is not JSON: {error}") from error
    return tensors, meta
