"""Who made something: commit, machine, processor, device, versions and date."""

from __future__ import annotations

import functools
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from companion.lab.project import project_root
from sicore.files import canonical_json

RECORDED = ("sicore", "torch", "torchvision", "transformers", "numpy", "pandas", "scipy")
CODE = ("sicore", "companion", "notebooks", "params")
"""Folders whose uncommitted changes are worth a remark."""


def made_by(device: str = "cpu") -> dict[str, Any]:
    """The maker of what this process makes now.

    Returns
    -------
    dict
        ``commit`` and ``changed_since_commit`` (None outside of a repository), ``machine`` (its kind), ``processor``,
        ``device`` (the processor again, or the GPU's name), ``versions`` and ``date`` (UTC, to the second).
    """
    processor = _processor()
    return {
        **_commit(project_root()),
        "machine": f"{platform.system()} {platform.machine()}",
        "processor": processor,
        "device": _gpu(device) if device.startswith("cuda") else f"CPU, {processor}",
        "versions": _versions(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def makers(objects: Iterable[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The makers of stored objects, given as (kind, metadata), each maker once a kind, with what it made.

    Returns
    -------
    list
        What :func:`made_by` says but for the date, and ``kind``, ``objects`` (how many), ``seconds`` (of making them),
        ``first`` and ``last`` (date). Objects that do not say who made them have a maker of Nones.
    """
    nobody = dict.fromkeys(("commit", "processor", "device", "versions", "date"))
    return together(
        {**{name: value for name, value in maker.items() if name != "date"}, "kind": kind, "objects": 1,
         "seconds": meta.get("seconds") or 0.0, "first": maker["date"], "last": maker["date"]}
        for kind, meta in objects for maker in [meta.get("made_by") or nobody]
    )  # fmt: skip


def together(lists: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The makers of several runs, as :func:`makers` gives them; an object that two runs have read counts twice."""
    found: dict[str, dict[str, Any]] = {}
    for one in lists:
        who = {name: value for name, value in one.items() if name not in ("objects", "seconds", "first", "last")}
        own = found.setdefault(
            canonical_json(who), {**who, "objects": 0, "seconds": 0.0, "first": one["first"], "last": one["last"]}
        )
        own["objects"] += one["objects"]
        own["seconds"] = round(own["seconds"] + one["seconds"], 1)
        if one["first"] is not None:
            own["first"], own["last"] = min(own["first"], one["first"]), max(own["last"], one["last"])
    return sorted(found.values(), key=lambda own: (own["kind"], own["first"] or ""))


@functools.cache
def _commit(folder: Path) -> dict[str, Any]:
    """Once a process: what it computes comes from the code that it has imported."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", *(name for name in CODE if (folder / name).exists()))
        return {"commit": git("rev-parse", "HEAD"), "changed_since_commit": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "changed_since_commit": None}


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@functools.cache
def _gpu(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(torch.device(device))


@functools.cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in RECORDED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
