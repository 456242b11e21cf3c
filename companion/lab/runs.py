"""The runs of the workflow: one notebook with its parameters each, from a list or from one parameter file.

``params/runs.yaml`` explains the list. Every run is checked when it is read, before anything starts.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from companion.lab.project import project_root
from companion.lab.runner import (
    NotebookError,
    as_typed,
    check,
    is_up_to_date,
    read_yaml,
    resolve,
    scale_of,
    tables_of,
    with_defaults,
)

SETTINGS: dict[str, Any] = {"runs": "", "file": "params/quick.yaml", "only": [], "device": "", "reference": False}
"""What ``--config`` may set, and its defaults; ``workflow/Snakefile`` explains them."""


@dataclass(frozen=True)
class Run:
    """One notebook with its parameters. Paths are relative to the project's folder.

    Attributes
    ----------
    name
        Of letters, digits, - and _.
    files
        Parameter files, later ones win.
    given
        Parameters of this run alone; they win over the files.
    """

    name: str
    notebook: str
    files: tuple[str, ...] = ()
    given: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Job:
    """A run whose parameters have been checked.

    Attributes
    ----------
    run
        What was asked for.
    values
        All parameters that differ from the notebook's defaults.
    scale, device
        Of its parameters.
    output
        Folder of its executed copy, relative to the project's folder.
    reference
        Does it write into the committed tables?
    """

    run: Run
    values: dict[str, Any]
    scale: str
    device: str
    output: str
    reference: bool

    @property
    def done(self) -> str:
        """The file that says that it is done, relative to the project's folder."""
        return f"runs/{self.scale}/{self.run.name}.done"

    @property
    def gpus(self) -> int:
        """1 where it needs a GPU, else 0."""
        return int(self.device.startswith("cuda"))

    @property
    def command(self) -> str:
        """``python -m companion run ...`` for a shell, with this Python."""
        words = [sys.executable, "-m", "companion", "run", self.run.notebook, "--if-changed", "-o", self.output]
        words += ["--reference"] if self.reference else []
        for file in self.run.files:
            words += ["-f", file]
        return shlex.join(words + as_typed(project_root() / self.run.notebook, self.run.given or {}))

    def is_up_to_date(self) -> bool:
        """Would its command do nothing?"""
        root = project_root()
        with tables_of(self.reference):
            return is_up_to_date(root / self.run.notebook, self.values, root / self.output)


def plan(given: Mapping[str, Any]) -> dict[str, Job]:
    """All runs, by name: those of the list, or every notebook with the parameter file.

    Raises
    ------
    NotebookError
        For anything wrong with a setting, a file, a name or a parameter of any run.
    """
    settings = _settings(given)
    root = project_root()
    if settings["runs"]:
        runs = read(root / settings["runs"])
    else:
        notebooks = sorted(path.relative_to(root) for path in (root / "notebooks").glob("[!.]*.ipynb"))
        runs = [Run(path.stem, str(path), tuple(settings["file"])) for path in notebooks]
    known = {slug(run.name): run for run in runs}
    only = [slug(name) for name in settings["only"]] or list(known)
    if unknown := [name for name in only if name not in known]:
        raise NotebookError(f"--config only: there is no run {unknown[0]!r}; there are {', '.join(known)}")
    return {run.name: _checked(run, settings) for name, run in known.items() if name in only}


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """:data:`SETTINGS` with ``given`` over them."""
    for name in given:
        if name not in SETTINGS:
            raise NotebookError(f"--config {name}: unknown. Known are {', '.join(SETTINGS)}")
    settings = SETTINGS | dict(given)
    if settings["runs"] and "file" in given:
        raise NotebookError(f"--config runs={settings['runs']} file={given['file']}: the list names its files")
    if str(settings["reference"]).lower() not in ("true", "false"):  # Snakemake reads `true` as text
        raise NotebookError(f"--config reference={settings['reference']!r}: expected true or false")
    settings["reference"] = str(settings["reference"]).lower() == "true"
    for name in ("file", "only"):
        values = settings[name] if isinstance(settings[name], list) else [settings[name]]
        settings[name] = [str(value) for value in values]
    return settings


def _checked(run: Run, settings: Mapping[str, Any]) -> Job:
    root = project_root()
    notebook, files = root / run.notebook, [root / file for file in run.files]
    try:
        values = resolve(notebook, files, run.given)
        if settings["device"] and "device" in with_defaults(notebook, values):
            run = Run(run.name, run.notebook, run.files, {**(run.given or {}), "device": settings["device"]})
            values = resolve(notebook, files, run.given)
        whole = with_defaults(notebook, values)
        scale = scale_of(whole)
    except NotebookError as error:
        raise NotebookError(f"run {run.name!r}: {error}") from error
    # Of a list, several runs may be of one notebook.
    output = f"runs/{scale}/{run.name}" if settings["runs"] else f"runs/{scale}"
    return Job(run, values, scale, str(whole.get("device", "cpu")), output, settings["reference"])


# ---------------------------------------------------------------------------------------
# A list of runs


def read(path: str | Path) -> list[Run]:
    """The runs of a list (YAML), each with its name as :func:`slug` gives it.

    Raises ``NotebookError`` naming the file, the run and what is wrong with it.
    """
    content = read_yaml(path, "list of runs")
    if not isinstance(content, dict) or not isinstance(content.get("runs"), list) or not content["runs"]:
        raise NotebookError(f"{path} must hold 'files: [...]' and 'runs:' with at least one run")
    _check_known(content, ("files", "runs"), str(path))
    files = check(f"files of {path}", content.get("files", []), "list[str]")
    runs = [_run(entry, f"{path}, run {i}", files) for i, entry in enumerate(content["runs"], 1)]
    for i, run in enumerate(runs):
        if any(other.name == run.name for other in runs[:i]):
            raise NotebookError(f"{path}: two runs are called {run.name}, as a folder; rename one")
    return runs


def _run(entry: Any, where: str, files: Sequence[str]) -> Run:
    if not isinstance(entry, dict):
        raise NotebookError(f"{where}: {entry!r} is not of the form {{name: ..., notebook: ..., parameters: ...}}")
    _check_known(entry, ("name", "notebook", "files", "parameters"), where)
    name, notebook = entry.get("name"), entry.get("notebook")
    if not isinstance(name, str) or not slug(name):
        raise NotebookError(f"{where}: name = {name!r}: expected text with a letter or digit in it")
    where = f"{where} ({name})"
    if not isinstance(notebook, str) or not notebook.endswith(".ipynb"):
        raise NotebookError(f"{where}: notebook = {notebook!r}: expected a path that ends in .ipynb")
    own = check(f"files of {where}", entry.get("files", list(files)), "list[str]")
    parameters = entry.get("parameters", {})
    if not isinstance(parameters, dict):
        raise NotebookError(f"{where}: parameters = {parameters!r}: expected 'name: value' for each")
    return Run(slug(name), notebook, tuple(own), parameters)


def _check_known(entry: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    for key in entry:
        if key not in known:
            raise NotebookError(f"{where}: unknown entry {key!r}. Known are {', '.join(known)}")


def slug(name: str) -> str:
    """A name as a folder.

    >>> slug("12 layers, 5 seeds")
    '12-layers-5-seeds'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
