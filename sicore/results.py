"""Result tables as data: a tidy CSV, and beside it a JSON that says where it comes from.

The book reads both: figures and tables come from the CSV, every number in its prose
from ``numbers`` in the JSON.
"""

from __future__ import annotations

import io
import json
import platform
import re
import subprocess
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from sicore.files import write_text, written_aside
from sicore.project import project_root

_RECORDED = ("sicore", "torch", "transformers", "numpy", "pandas", "scipy")


def folder(scale: str) -> Path:
    """``results/<scale>`` in the project's folder."""
    if not isinstance(scale, str) or not re.fullmatch(r"[a-z0-9_-]{1,40}", scale):
        raise ValueError(f"scale = {scale!r}: expected a short name of a-z, 0-9, _ and -, such as 'smoke' or 'quick'")
    return project_root() / "results" / scale


def write(
    name: str,
    scale: str,
    table: pd.DataFrame,
    *,
    parameters: Mapping[str, Any],
    numbers: Mapping[str, str] | None = None,
    figures: Mapping[str, Figure] | None = None,
    device: str = "cpu",
    began: float | None = None,
) -> Path:
    """Write ``results/<scale>/<name>.csv`` with its provenance, and return the CSV's path.

    Parameters
    ----------
    name
        The notebook's name, such as ``03_transfer``.
    table
        Tidy: one observation a row.
    parameters
        The notebook's parameters. ``seeds`` among them is recorded on its own too.
    numbers
        Key -> formatted text, for the ``{num}`` role of the book's pages.
    figures
        Suffix -> figure, saved as ``<name><suffix>.png`` beside the table.
    began
        ``time.monotonic()`` at the start of the notebook, for the wall time.
    """
    target = folder(scale)
    text = io.StringIO()
    table.to_csv(text, index=False, float_format="%.6g", lineterminator="\n", na_rep="nan")
    for suffix, figure in (figures or {}).items():
        with written_aside(target / f"{name}{suffix}.png") as temporary:
            figure.savefig(temporary, format="png", dpi=160, metadata={"Software": None})
    write_text(target / f"{name}.csv", text.getvalue())
    provenance = {
        "name": name,
        "scale": scale,
        "parameters": dict(parameters),
        "seeds": list(parameters.get("seeds", [])),
        "rows": len(table),
        "columns": list(table.columns),
        "numbers": dict(numbers or {}),
        **_commit(),
        "versions": {"python": platform.python_version(), **{package: version(package) for package in _RECORDED}},
        "device": _device(device),
        "wall_seconds": None if began is None else round(time.monotonic() - began, 1),
    }
    write_text(target / f"{name}.json", json.dumps(provenance, indent=1) + "\n")
    return target / f"{name}.csv"


def given(names: Mapping[str, Any]) -> dict[str, Any]:
    """A notebook's parameters, taken from ``globals()`` before anything else is defined there.

    Kept are public names whose values are plain: text, numbers, booleans, lists of these.
    """
    return {
        name: value
        for name, value in names.items()
        if not name.startswith("_")
        and name not in ("In", "Out", "began")
        and isinstance(value, bool | int | float | str | list)
    }


def read(name: str, scale: str) -> pd.DataFrame:
    """The table that notebook ``name`` wrote at ``scale``."""
    path = folder(scale) / f"{name}.csv"
    if not path.is_file():
        raise FileNotFoundError(f"no table {path}: run notebooks/{name}.ipynb at the {scale} scale first")
    return pd.read_csv(path, keep_default_na=False, na_values=["nan"])


def plus_minus(mean: float, half_width: float, digits: int = 2) -> str:
    """``0.93 ± 0.02``, or the mean alone where there is no interval."""
    if half_width != half_width:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {half_width:.{digits}f}"


def _commit() -> dict[str, Any]:
    """Commit of the code, and whether code, notebooks or parameters differ from it."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=project_root(), capture_output=True, text=True, timeout=20, check=True
        )
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "sicore", "notebooks", "params")
        return {"commit": git("rev-parse", "HEAD"), "changed_since_commit": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "changed_since_commit": None}


def _device(device: str) -> str:
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(torch.device(device))
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"CPU, {model}"
