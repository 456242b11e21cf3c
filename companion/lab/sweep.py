"""A list of runs as one command that can be stopped and started again.

A sweep file (YAML) names notebooks and the parameters of each run; ``params/sweep.yaml``
explains the format. Every run's parameters are checked before the first one starts. What
has run with the same notebook, parameters and code is skipped, and a run that was stopped
goes on from what its notebook has put into the store.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from companion.lab.project import project_root
from companion.lab.runner import NotebookError, check, is_up_to_date, read_yaml, resolve, run, with_defaults

_FIELDS = ("name", "notebook", "weight", "parameters")


@dataclass(frozen=True)
class Run:
    """One entry of a sweep file."""

    name: str
    notebook: Path
    weight: float
    parameters: dict[str, Any]


@dataclass(frozen=True)
class _Ready:
    """A run whose parameters have been checked, and the folder of its executed copy."""

    run: Run
    values: dict[str, Any]
    output: Path

    def is_done(self) -> bool:
        try:
            return is_up_to_date(self.run.notebook, self.values, self.output)
        except NotebookError:  # changed since it was checked: its turn will tell
            return False


def read(path: str | Path) -> tuple[list[Path], list[Run]]:
    """Parameter files and runs of a sweep file; its paths are relative to the project's folder.

    Raises ``NotebookError`` naming the file, the run and what is wrong with it.
    """
    content = read_yaml(path, "sweep file")
    if not isinstance(content, dict) or not isinstance(content.get("runs"), list) or not content["runs"]:
        raise NotebookError(f"{path} must hold 'files: [...]' and 'runs:' with at least one run")
    _known(content, ("files", "runs"), str(path))
    files = check(f"files of {path}", content.get("files", []), "list[str]")
    runs = [_run(entry, f"{path}, run {i}") for i, entry in enumerate(content["runs"], 1)]
    seen: dict[str, str] = {}
    for one in runs:
        if slug(one.name) in seen:
            raise NotebookError(
                f"{path}: the names {seen[slug(one.name)]!r} and {one.name!r} give the same folder; rename one"
            )
        seen[slug(one.name)] = one.name
    return [project_root() / name for name in files], runs


def _run(entry: Any, where: str) -> Run:
    """One entry, checked but for its notebook's parameters."""
    if not isinstance(entry, dict):
        raise NotebookError(f"{where}: {entry!r} is not of the form {{name: ..., notebook: ..., parameters: ...}}")
    _known(entry, _FIELDS, where)
    name, notebook = entry.get("name"), entry.get("notebook")
    if not isinstance(name, str) or not slug(name):
        raise NotebookError(f"{where}: name = {name!r}: expected text with a letter or digit in it")
    where = f"{where} ({name})"
    if not isinstance(notebook, str) or not notebook.endswith(".ipynb"):
        raise NotebookError(f"{where}: notebook = {notebook!r}: expected a path that ends in .ipynb")
    weight = check(f"weight of {where}", entry.get("weight", 1.0), "float")
    if weight <= 0:
        raise NotebookError(f"{where}: weight = {weight!r}: expected a positive number")
    parameters = entry.get("parameters") or {}
    if not isinstance(parameters, dict) or not all(isinstance(key, str) for key in parameters):
        raise NotebookError(f"{where}: parameters = {parameters!r}: expected 'name: value' for each")
    return Run(name, project_root() / notebook, weight, parameters)


def _known(entry: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    for key in entry:
        if key not in known:
            raise NotebookError(f"{where}: unknown entry {key!r}. Known are {', '.join(known)}")


def slug(name: str) -> str:
    """A name as a folder.

    >>> slug("12 layers, 5 seeds")
    '12-layers-5-seeds'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(48.2), duration(372), duration(9000)
    ('48 s', '6 min 12 s', '2 h 30 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def sweep(path: str | Path, only: Sequence[str] = (), *, dry_run: bool = False, progress: bool = True) -> int:
    """Execute the runs of a sweep file in order, and return the exit status.

    Parameters
    ----------
    only
        Names of the runs to execute; none: all.
    dry_run
        Print which runs are up to date, and execute nothing.

    Returns
    -------
    int
        0 when all is done; 1 when a run has failed, which does not stop the others; 130 when
        the sweep was interrupted.

    Raises
    ------
    NotebookError
        Before anything starts, for anything wrong with the file, a name or a parameter.
    """
    files, runs = read(path)
    if unknown := [name for name in only if name not in [one.name for one in runs]]:
        raise NotebookError(f"{path} has no run {unknown[0]!r}. Known are {', '.join(one.name for one in runs)}")
    ready = [_ready(one, files) for one in runs if not only or one.name in only]
    if dry_run:
        _list(ready)
        return 0
    return _execute(ready, files, progress)


def _ready(one: Run, files: Sequence[Path]) -> _Ready:
    try:
        values = resolve(one.notebook, files, one.parameters)
    except NotebookError as error:
        raise NotebookError(f"run {one.name!r}: {error}") from error
    scale = str(with_defaults(one.notebook, values).get("scale", "smoke"))
    return _Ready(one, values, project_root() / "runs" / scale / slug(one.name))


def _list(ready: Sequence[_Ready]) -> None:
    """One line for each run: is it up to date, its share of the work, what it is."""
    total = sum(one.run.weight for one in ready)
    for i, one in enumerate(ready, 1):
        state = "up to date" if one.is_done() else "to do"
        given = ", ".join(f"{name} = {value}" for name, value in one.run.parameters.items())
        share = f"{one.run.weight / total:.0%}"
        print(f"[{i}/{len(ready)}] {state:10}  {share:>4}  {one.run.name}: {one.run.notebook.name} {given}".rstrip())


def _execute(ready: Sequence[_Ready], files: Sequence[Path], progress: bool) -> int:
    began = time.monotonic()
    failed: list[_Ready] = []
    measured: list[tuple[float, float]] = []  # weight and seconds of each run executed in this call
    for i, one in enumerate(ready, 1):
        try:
            # Looked up again each time: another sweep may have done some of them meanwhile.
            waiting = sum(other.run.weight for other in ready[i - 1 :] if not other.is_done())
            undone = waiting + sum(other.run.weight for other in failed)
            total = sum(other.run.weight for other in ready)
            elapsed = time.monotonic() - began
            _say(
                f"[{i}/{len(ready)}] {one.run.name}: {1 - undone / total:.0%} of the work done, "
                f"{duration(elapsed)} elapsed, {_time_left(waiting, measured)}"
            )
            start = time.monotonic()
            copy, now = run(
                one.run.notebook, files, one.run.parameters, output=one.output, if_changed=True, progress=progress
            )
            seconds = time.monotonic() - start
            _say(f"{copy}: {f'executed in {duration(seconds)}' if now else 'up to date'}")
            if now:
                measured.append((one.run.weight, seconds))
        except KeyboardInterrupt:
            _complain(f"stopped in {one.run.name}. The same command goes on from there")
            return 130
        except Exception as error:  # a failed cell, a dead kernel, a full disk: the other runs do not need this one
            print(error, file=sys.stderr)
            _complain(f"{one.run.name} failed ({type(error).__name__})")
            failed.append(one)
    skipped = len(ready) - len(measured) - len(failed)
    _say(
        f"{len(ready)} runs in {duration(time.monotonic() - began)}: {len(measured)} executed, "
        f"{skipped} up to date, {len(failed)} failed"
    )
    for one in failed:
        partial = one.output / f"{one.run.notebook.stem}.failed"
        _complain(f"failed: {one.run.name}" + (f"; see the last cells of {partial}" if partial.exists() else ""))
    if failed:
        _complain("when the cause is mended, the same command repeats these and skips what is done")
    return 1 if failed else 0


def _time_left(weight: float, measured: Sequence[tuple[float, float]]) -> str:
    """What the runs of this call say about the time for ``weight`` more.

    >>> _time_left(3.0, []), _time_left(3.0, [(1.0, 50.0), (1.0, 70.0)])
    ('time left not known before a run is measured', 'about 3 min 0 s left')
    """
    if not weight:
        return "nothing left to do"
    if not measured:
        return "time left not known before a run is measured"
    rate = sum(seconds for _, seconds in measured) / sum(done for done, _ in measured)
    return f"about {duration(weight * rate)} left"


def _say(line: str) -> None:
    print(line, flush=True)


def _complain(line: str) -> None:
    print(f"sicore: {line}", file=sys.stderr, flush=True)
