"""What the Snakemake workflow needs to know: its runs, how they depend on each other, and the command of a job.

A run is one notebook with its parameters, from a parameter file or from a sweep file. The
notebook of the depths is split into jobs, by depth, seed and some of its starts; every other
run is one job. Snakemake itself is not needed here.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from companion.lab.project import project_root
from companion.lab.runner import NotebookError, resolve, with_defaults
from companion.lab.sweep import Run, slug
from companion.lab.sweep import read as read_sweep

DEFAULTS: dict[str, Any] = {
    "file": "params/quick.yaml",
    "sweep": "",
    "device": "",
    "starts_per_job": 5,
    "local_gpus": False,
}
"""What ``--config`` may set, and its defaults; ``workflow/Snakefile`` explains them."""

DEPTHS = "04_depths"
"""The notebook that is split."""

BOOK_SCALE = "quick"
"""The scale whose executed notebooks are pages of the book."""

USES = {
    "02_discovery": ("01_base_model",),
    "03_transfer": ("02_discovery", DEPTHS),
    DEPTHS: ("02_discovery",),
    "05_causes": ("02_discovery", DEPTHS),
    "06_variants": ("02_discovery", DEPTHS),
    "07_checks": ("02_discovery", DEPTHS),
    "10_shape_transfer": ("09_shape_subnetwork",),
    "11_audit": ("02_discovery", "03_transfer"),
}
"""Notebook -> those whose trained models it reads. It would train them itself if it did not wait for them."""


@dataclass(frozen=True)
class Planned:
    """A run whose parameters have been checked.

    Attributes
    ----------
    name
        Short, for folders.
    run
        The notebook, and what it is given beside the parameter files.
    files
        Parameter files, relative to the project's folder.
    parameters
        All of them, with the notebook's defaults.
    page
        Where its executed copy goes, relative to the project's folder.
    """

    name: str
    run: Run
    files: tuple[Path, ...]
    parameters: dict[str, Any]
    page: str

    @property
    def stem(self) -> str:
        """The notebook's name without its ending."""
        return self.run.notebook.stem

    @property
    def is_split(self) -> bool:
        """Is it computed by several jobs?"""
        return self.stem == DEPTHS

    @property
    def gpus(self) -> int:
        """1 where its jobs need a GPU, else 0."""
        return int(str(self.parameters.get("device", "cpu")).startswith("cuda"))

    @property
    def table(self) -> str:
        """Where its result table goes, relative to the project's folder."""
        return f"results/{self.parameters['scale']}/{self.stem}.csv"

    def changes(self, **parameters: Any) -> dict[str, Any]:
        """Parameters of one of its jobs that its whole does not have, or has otherwise."""
        return self.run.parameters | parameters


def settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """:data:`DEFAULTS` with ``given`` over them; ``NotebookError`` naming what is not known or not possible."""
    for name in given:
        if name not in DEFAULTS:
            raise NotebookError(f"--config {name}: unknown. Known are {', '.join(DEFAULTS)}")
    found = DEFAULTS | dict(given)
    if found["sweep"] and "file" in given:
        raise NotebookError(
            f"--config file={given['file']} sweep={found['sweep']}: give one of them; a sweep names its files"
        )
    size = found["starts_per_job"]
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise NotebookError(f"--config starts_per_job={size!r}: expected an integer of 1 or more")
    if not isinstance(found["local_gpus"], bool):
        raise NotebookError(f"--config local_gpus={found['local_gpus']!r}: expected true or false")
    return found


def plan(given: Mapping[str, Any]) -> dict[str, Planned]:
    """All runs, by name: those of the sweep file, or every notebook with the parameter file.

    Raises ``NotebookError`` for anything wrong with a setting, a file, a name or a parameter, before anything runs.
    """
    found = settings(given)
    root = project_root()
    if found["sweep"]:
        files, runs = read_sweep(root / found["sweep"])
    else:
        files = [root / found["file"]]
        runs = [Run(path.stem, path, 1.0, {}) for path in sorted((root / "notebooks").glob("*.ipynb"))]
    planned = {}
    for one in runs:
        name = slug(one.name)
        try:
            values = resolve(one.notebook, files, one.parameters)
            whole = with_defaults(one.notebook, values)
            if found["device"] and "device" in whole:
                values = resolve(one.notebook, files, one.parameters | {"device": found["device"]})
                one = Run(one.name, one.notebook, one.weight, one.parameters | {"device": found["device"]})
                whole = with_defaults(one.notebook, values)
        except NotebookError as error:
            raise NotebookError(f"run {one.name!r}: {error}") from error
        folder = f"runs/{whole['scale']}"
        if found["sweep"]:
            folder += f"/{name}"
        elif whole["scale"] == BOOK_SCALE:
            folder = "book/runs"
        notebook = Run(one.name, one.notebook.relative_to(root), one.weight, one.parameters)
        relative = tuple(file.relative_to(root) for file in files)
        planned[name] = Planned(name, notebook, relative, whole, f"{folder}/{one.notebook.name}")
    return planned


def waits_for(one: Planned, runs: Mapping[str, Planned]) -> list[Planned]:
    """The runs whose models ``one`` reads, see :data:`USES`, of the same number of layers."""
    return [
        other
        for other in runs.values()
        if other.stem in USES.get(one.stem, ()) and (not _layers(one) or set(_layers(one)) & set(_layers(other)))
    ]


def _layers(one: Planned) -> list[int]:
    if "n_layers" in one.parameters:
        return list(one.parameters["n_layers"])
    return [one.parameters["n_layer"]] if "n_layer" in one.parameters else []


def pieces(values: Sequence[Any], size: int) -> list[list[Any]]:
    """``values`` in parts of ``size``, the last one may be shorter.

    >>> pieces(["a", "b", "c"], 2)
    [['a', 'b'], ['c']]
    """
    return [list(values[i : i + size]) for i in range(0, len(values), size)]


def run_command(one: Planned, output: str | Path, **changes: Any) -> str:
    """``python -m companion run ...`` for a shell, with this Python.

    Parameters
    ----------
    output
        Folder of the executed copy.
    changes
        Parameters that differ from the whole run's.
    """
    words = ["run", str(one.run.notebook)]
    for file in one.files:
        words += ["-f", str(file)]
    for name, value in one.changes(**changes).items():
        words += ["-p", name, value if isinstance(value, str) else json.dumps(value)]
    return shlex.join([sys.executable, "-m", "sicore", *words, "-o", str(output)])


def collect_command(one: Planned, depth: int, seeds: Sequence[int], tables: Sequence[str], output: str) -> str:
    """``python -m companion collect ...`` for the jobs of one depth: each start, number of samples and seed once."""
    keys = {
        "start": one.parameters["depth_starts"],
        "n_layer": [depth],
        "n_disambiguation": one.parameters["n_disambiguation"],
        "seed": list(seeds),
    }
    words = ["collect", *tables]
    for name, values in keys.items():
        words += ["-k", name, json.dumps(values)]
    return shlex.join([sys.executable, "-m", "sicore", *words, "-o", output])


def holds_command(one: Planned, parts: Sequence[str]) -> str:
    """``python -m companion holds ...``: does the run's result table have all rows of ``parts``?"""
    return shlex.join([sys.executable, "-m", "sicore", "holds", one.table, *parts])
