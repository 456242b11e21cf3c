"""Result tables: a folder of parts, one a run, which are joined when they are read.

    results/<scale>/<table>/<part>.csv     one observation a row
    results/<scale>/<table>/<part>.json    where they come from: its record

``results/`` is the *reference*: committed, many seeds, only ever added to; pages, figures and the ledger read it.
``runs/`` has the same shape, is the reader's own, and git ignores it. A run writes one new part, and changes no other:
nothing is merged, locked or renumbered. Where two parts have rows with equal keys, the later one's count. Parts are
ordered by name, and a name begins with the time.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from companion.lab import origin
from companion.lab.project import reference_folder, tables_folder, writes_reference
from sicore.files import written_aside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from companion.lab.make import Machine

SEEDS = ("seeds", "few_seeds", "vision_seeds", "scene_seeds", "mixed_seeds", "mask_seeds", "assign_seeds")
"""What notebooks call their seeds; the first that is there counts."""
REPEATABLE = ("resnet_depths", "mixed_z", "mixed_w")
"""Parameters whose lists may name a value twice, such as the blocks of a network's stages, or a law's logits."""
WITHOUT_EFFECT = ("store", "workers", "stack")
"""Parameters that change no result. Two runs that differ in these alone are one run, done twice."""
COUNTS = ("n_disambiguation", "few_counts", "mask_counts")
"""Lists of numbers of samples, the column ``n_disambiguation`` of a table. Means go over all that a run has."""
IN_PARTS = (
    *COUNTS, "conditions", "depth_starts", "check_starts", "check_base_starts", "table_rows", "tasks", "subtasks",
    "shared_tasks", "penalties", "n_layers", "draws", "mask_families", "densities", "objectives", "transplants",
    "transplant_densities", "transplant_families",
)  # fmt: skip
"""Lists whose values have rows of their own, so that a run with some of them does a part of what one with all does."""
LATER = {"base_patience": 0, "discovery_weight_decay": 0.0, "discovery_skip_temperature": False}
"""Parameters that notebooks got after the first runs were kept, and the value that those had."""
WRITTEN_HERE = ("run", "far_off")
"""Columns that are added when a table is read."""


# ---------------------------------------------------------------------------------------
# Writing


def folder(scale: str) -> Path:
    """``results/<scale>`` in the project's folder."""
    return reference_folder() / _checked(scale)


def _checked(scale: Any) -> str:
    if not isinstance(scale, str) or not re.fullmatch(r"[a-z0-9_-]{1,40}", scale):
        raise ValueError(f"scale = {scale!r}: expected a short name of a-z, 0-9, _ and -, such as 'smoke' or 'quick'")
    return scale


def write(
    name: str,
    table: pd.DataFrame,
    *,
    parameters: Mapping[str, Any],
    keys: Sequence[str],
    machine: Machine | None = None,
    dtype: str | None = None,
    figures: Mapping[str, Figure] | None = None,
    began: float | None = None,
    alike: Sequence[str] = (),
    outcome: str = "test_accuracy",
) -> Path:
    """Write a part of the table ``name`` with its record, and return the path of its CSV.

    It goes into ``runs/<scale>/<name>``, or where :func:`companion.lab.project.tables_folder` says. A part of an
    earlier run with the same parameters is then removed, so that repeated runs do not pile up.

    Parameters
    ----------
    name
        The notebook's name, such as ``03_transfer``.
    table
        Tidy: one observation a row.
    parameters
        The notebook's parameters. ``scale`` among them names the folder; the seeds (:data:`SEEDS`) are recorded on
        their own too.
    keys
        Columns that say which rows belong together, such as ``("n_layer", "seed")``: where an earlier part has rows
        with the same values in these, the new ones count in their place. With no keys the latest part is the table.
    machine
        Where the run has computed. Recorded are its device, and the makers of the stored objects that it has given.
    dtype
        Type of the matrix products that was really used; default: what ``machine`` makes of the parameter ``dtype``.
    figures
        Suffix -> figure, saved as ``<name><suffix>.png`` beside the parts; a later run's take their place.
    began
        ``time.monotonic()`` at the start of the notebook, for the wall time.
    alike
        Columns in which runs that differ only in their seed agree. With these a reader can have rows marked whose
        ``outcome`` lies far off the others' (:func:`read`).

    Raises
    ------
    ValueError
        When there is no ``scale``; when a key is no column of ``table``, or not of the parts that are there; when
        ``alike`` or ``outcome`` names no column; when ``alike`` leaves a seed several rows, which are not independent.
    """
    if "scale" not in parameters:
        raise ValueError(f"parameters has no scale; it has {', '.join(parameters) or 'nothing'}")
    scale = _checked(parameters["scale"])
    target = tables_folder() / scale / name
    _check_columns(table, keys, alike, outcome)
    if found := _joined(target):
        for earlier, columns in found.columns.items():
            if missing := [key for key in keys if key not in columns]:
                raise ValueError(
                    f"keys = {list(keys)!r}: {target / earlier}.csv has no column {', '.join(missing)}, so that rows "
                    "cannot be joined to it. Move the folder away, or write to another scale"
                )
    for suffix, figure in (figures or {}).items():
        with written_aside(target / f"{name}{suffix}.png") as temporary:
            figure.savefig(temporary, format="png", dpi=160, metadata={"Software": None})
    if dtype is None and machine is not None and "dtype" in parameters:
        dtype = machine.dtype(parameters["dtype"])
    record: dict[str, Any] = {
        "name": name,
        "scale": scale,
        "keys": list(keys),
        **({"alike": list(alike), "outcome": outcome} if alike else {}),
        **_facts(table, parameters, machine.device if machine else "cpu", dtype, began),
        "makers": origin.makers(machine.objects.values()) if machine else [],
    }
    parameters_hash = hash_of(parameters)
    part = target / f"{_later_than(target)}-{parameters_hash}.csv"
    _write_both(part, table, record)
    # The latest stays, which may by now be another process's.
    latest = max(path.stem for path in target.glob(f"*-{parameters_hash}.json"))
    for ending in ("json", "csv"):  # in this order: a CSV alone is no part
        for old in target.glob(f"*-{parameters_hash}.{ending}"):
            if old.stem < latest:
                with contextlib.suppress(OSError):
                    old.unlink()
    return part


def _check_columns(table: pd.DataFrame, keys: Sequence[str], alike: Sequence[str], outcome: str) -> None:
    columns = f"Columns are {', '.join(map(str, table.columns))}"
    if absent := [key for key in keys if key not in table.columns]:
        raise ValueError(f"keys = {list(keys)!r}: not in the table: {', '.join(absent)}. {columns}")
    if ours := [column for column in WRITTEN_HERE if column in table.columns]:
        raise ValueError(f"the column {ours[0]!r} is added when a table is read: leave it out. {columns}")
    if not alike:
        return
    if absent := [column for column in (*alike, outcome) if column not in table.columns]:
        raise ValueError(
            f"alike = {list(alike)!r}, outcome = {outcome!r}: not in the table: {', '.join(absent)}. {columns}"
        )
    if "seed" in table.columns and table.duplicated([*alike, "seed"]).any():
        raise ValueError(
            f"alike = {list(alike)!r}: several rows of one seed agree in these, such as transfers from "
            "one base model. Add the column in which they differ, so that seeds are compared with other seeds"
        )


def _facts(
    table: pd.DataFrame, parameters: Mapping[str, Any], device: str, dtype: str | None, began: float | None
) -> dict[str, Any]:
    return {
        "parameters": dict(parameters),
        "seeds": next((list(parameters[name]) for name in SEEDS if parameters.get(name)), []),
        "rows": len(table),
        "columns": list(map(str, table.columns)),
        **origin.made_by(device),
        "dtype": dtype,
        "wall_seconds": None if began is None else round(time.monotonic() - began, 1),
        "diverged": int(table["diverged"].notna().sum()) if "diverged" in table else 0,
    }


def write_benchmark(
    name: str, table: pd.DataFrame, *, parameters: Mapping[str, Any], began: float | None = None
) -> None:
    """Write ``results/benchmark/<name>.csv`` with its record: no notebook's, so one file, replaced as a whole."""
    record = {"name": name, "scale": "benchmark", **_facts(table, parameters, "cpu", None, began)}
    _write_both(folder("benchmark") / f"{name}.csv", table, record)


def _write_both(csv: Path, table: pd.DataFrame, record: Mapping[str, Any]) -> None:
    """The record last: without it a reader takes the CSV for none."""
    with written_aside(csv.with_suffix(".json")) as new_record:
        new_record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        with written_aside(csv) as new_csv:
            new_csv.write_text(_as_csv(table), encoding="utf-8")


STAMP = "%Y%m%dT%H%M%S%fZ"
"""How the time stands in a part's name."""


def stamp() -> str:
    """The time (UTC) as the first half of a part's name: later is greater."""
    return datetime.now(UTC).strftime(STAMP)


def _later_than(place: Path) -> str:
    """The time, or just after the latest part where a clock was ahead: the run that is written now is the later one."""
    now, latest = stamp(), max((path.stem.rpartition("-")[0] for path in place.glob("*-????????.json")), default="")
    if now > latest:
        return now
    after = datetime.strptime(latest, STAMP).replace(tzinfo=UTC) + timedelta(microseconds=1)
    return after.strftime(STAMP)


def hash_of(parameters: Mapping[str, Any]) -> str:
    """The second half of a part's name: 8 characters, equal for runs that do the same."""
    effective = {name: value for name, value in parameters.items() if name not in WITHOUT_EFFECT}
    return hashlib.sha256(json.dumps(effective, sort_keys=True).encode()).hexdigest()[:8]


def given(names: Mapping[str, Any]) -> dict[str, Any]:
    """A notebook's parameters, taken from ``globals()`` before anything else is defined there.

    Kept are public names whose values are plain: text, numbers, booleans, None, lists and dictionaries of these.

    Raises
    ------
    ValueError
        When a list names a value twice: two runs of one seed are the same run, and not two seeds.

    Examples
    --------
    >>> given({"seeds": [0, 1], "_private": 2})
    {'seeds': [0, 1]}
    """
    parameters = {
        name: value
        for name, value in names.items()
        if not name.startswith("_")
        and name not in ("In", "Out", "began")
        and isinstance(value, bool | int | float | str | list | dict | None)
    }
    for name, value in parameters.items():
        if isinstance(value, list) and name not in REPEATABLE:
            twice = [one for i, one in enumerate(value) if one in value[:i]]
            if twice:
                raise ValueError(f"{name} = {value!r}: {twice[0]!r} is named twice; expected each value once")
    return parameters


# ---------------------------------------------------------------------------------------
# Reading


def read(name: str, scale: str, *, root: Path | None = None, marks: Callable[..., Any] | None = None) -> pd.DataFrame:
    """The reference: all parts of ``results/<scale>/<name>`` joined.

    Rows are sorted by the keys of the latest part, numbers by size; a column ``run`` says which entry of ``runs`` in
    the :func:`record` a row comes from. A part without keys is the table by itself, as it is.

    Parameters
    ----------
    root
        Another folder than ``results``, with one folder a scale.
    marks
        Computes a column ``far_off`` from the columns ``alike`` and ``outcome`` that the run has named, such as
        :func:`companion.compare.statistics.far_off`. Of all rows, since what is usual changes with every part.

    Raises
    ------
    FileNotFoundError
        When there is no whole part.
    """
    return pd.read_csv(io.StringIO(text(name, scale, root=root, marks=marks)), keep_default_na=False, na_values=["nan"])


def own(name: str, scale: str, *, marks: Callable[..., Any] | None = None) -> pd.DataFrame:
    """:func:`read` for the reader's own runs, where :func:`write` puts them."""
    return read(name, scale, root=tables_folder(), marks=marks)


def beside(name: str, parameters: Mapping[str, Any]) -> pd.DataFrame | None:
    """The reference that a run is shown with: the rows of ``results/<scale>/<name>`` that were made as it was.

    Of the parts of that table those count whose parameters are the run's. Seeds may differ, as may the device and what
    else changes no result (:data:`WITHOUT_EFFECT`). Of a list of :data:`IN_PARTS` the run may have fewer values than
    these parts together; the rows of the others are left in, but those of other numbers of samples (:data:`COUNTS`),
    since means would go over them.

    Parameters
    ----------
    name
        As in :func:`write`.
    parameters
        Those of the run.

    Returns
    -------
    pandas.DataFrame or None
        As :func:`read` gives it. None where the run writes the reference itself, where there is none at this scale, and
        where none was made as this run was: then a printed line says in what the latest one differs.
    """
    scale = _checked(parameters["scale"])
    if writes_reference():
        return None
    table = find(name, scale)
    if table is None:
        return None
    runs = record(name, scale)["runs"]
    others = [_other_settings(parameters, run["parameters"]) for run in runs]
    alike = [i for i, names in enumerate(others) if not names]
    lists = {one: parameters[one] for one in IN_PARTS if one in parameters}
    if alike:
        there = {one: [value for i in alike for value in runs[i]["parameters"].get(one, [])] for one in lists}
        others = [[one for one, values in lists.items() if any(value not in there[one] for value in values)]]
    if others[-1]:
        print(f"{name}: not shown beside the reference, which has another {' and another '.join(others[-1])}")
        return None
    chosen = table["run"].isin(alike) if "run" in table else pd.Series(True, index=table.index)
    for one in COUNTS:
        if one in lists and "n_disambiguation" in table:
            chosen &= table["n_disambiguation"].isin(lists[one])
    return table[chosen].reset_index(drop=True)


def differing(parameters: Mapping[str, Any], reference: Mapping[str, Any]) -> list[str]:
    """The parameters for which a run's numbers are not those of another one: [] where they measure the same.

    As in :func:`beside`; but numbers of samples must be the same.
    """
    lists = [one for one in IN_PARTS if one in parameters]
    more = [one for one in lists if any(value not in reference.get(one, []) for value in parameters[one])]
    fewer = [one for one in COUNTS if one in lists and any(n not in parameters[one] for n in reference.get(one, []))]
    return list(dict.fromkeys([*_other_settings(parameters, reference), *more, *fewer]))


def _other_settings(parameters: Mapping[str, Any], reference: Mapping[str, Any]) -> list[str]:
    """Settings that differ, or that the reference does not know.

    Not the scale's name, seeds, lists in parts, nor what has no effect.
    """
    none = object()
    return [
        name
        for name, value in parameters.items()
        if name not in (*WITHOUT_EFFECT, *IN_PARTS, "device", "scale")
        and not name.endswith("seeds")
        and value != reference.get(name, LATER.get(name, none))
    ]


def find(
    name: str, scale: str, *, root: Path | None = None, marks: Callable[..., Any] | None = None
) -> pd.DataFrame | None:
    """:func:`read`, or None when there is no such table."""
    try:
        return read(name, scale, root=root, marks=marks)
    except FileNotFoundError:
        return None


def text(name: str, scale: str, *, root: Path | None = None, marks: Callable[..., Any] | None = None) -> str:
    """What :func:`read` reads, as one CSV; a cell's text is that of the part that it comes from."""
    joined = _there(name, scale, root)
    return _as_csv(_marked(joined, marks) if marks else joined.cells)


def record(
    name: str, scale: str, *, root: Path | None = None, marks: Callable[..., Any] | None = None
) -> dict[str, Any]:
    """Where a table comes from.

    Returns
    -------
    dict
        The record of the latest part, with ``rows``, ``columns`` and ``diverged`` (rows of runs that diverged) of the
        whole, and with ``marks`` ``far_off``, how many rows those are; ``runs``: of every part of which rows are left,
        oldest first, its name (``part``) and its record; ``makers`` of all of these together, None where no part knows.
    """
    joined = _there(name, scale, root)
    cells = _marked(joined, marks) if marks else joined.cells
    known = [run["makers"] for run in joined.runs if run.get("makers") is not None]
    return {
        **joined.latest,
        "rows": len(cells),
        "columns": list(cells.columns),
        "diverged": int((~cells["diverged"].isin(["", "nan"])).sum()) if "diverged" in cells else 0,
        **({"far_off": int((cells["far_off"] == "True").sum())} if "far_off" in cells else {}),
        "makers": origin.together(maker for makers in known for maker in makers) if known else None,
        # Older runs have left the numbers of the book's prose, too: the latest's are enough.
        "runs": [{name: value for name, value in run.items() if name != "numbers"} for run in joined.runs],
    }


def names(scale: str, *, root: Path | None = None) -> list[str]:
    """The tables that there are at a scale."""
    place = (root or reference_folder()) / _checked(scale)
    return sorted(path.name for path in place.glob("*") if path.is_dir() and _state(path))


def stands(name: str, scale: str, parameters_hash: str) -> bool:
    """Is there a part of a run with these parameters, all of whose rows still count, where :func:`write` puts it?"""
    joined = _joined(tables_folder() / _checked(scale) / name)
    return joined is not None and any(
        run["part"].endswith(f"-{parameters_hash}") and run["rows"] == left
        for run, left in zip(joined.runs, joined.left, strict=True)
    )


def written_since(begun: str, parameters: Mapping[str, Any]) -> dict[str, str]:
    """Table -> hash of the parameters, of the parts that a run has written since :func:`stamp` gave ``begun``."""
    found = {}
    place = tables_folder() / _checked(parameters["scale"])
    for path in sorted(path for path in place.glob("*/*-????????.json") if path.stem >= begun):
        with contextlib.suppress(OSError, ValueError, KeyError):  # gone or not whole: it is none
            told = json.loads(path.read_text(encoding="utf-8"))["parameters"]
            if told == dict(parameters):
                found[path.parent.name] = path.stem.rpartition("-")[2]
    return found


@dataclass(frozen=True)
class _Joined:
    """The parts of a table, joined. Nobody changes it: it is kept for the next reader.

    Attributes
    ----------
    cells
        Texts, with the column ``run`` where there are keys.
    runs
        Records of the parts of which rows are left.
    left
        How many of each.
    latest
        The latest part's record.
    columns
        Part -> its columns, of all parts.
    """

    cells: pd.DataFrame
    runs: list[dict[str, Any]]
    left: list[int]
    latest: dict[str, Any]
    columns: dict[str, list[str]]


def _there(name: str, scale: str, root: Path | None) -> _Joined:
    place = (root or reference_folder()) / _checked(scale) / name
    joined = _joined(place)
    if joined is None:
        raise FileNotFoundError(f"no table {place}: run notebooks/{name}.ipynb at the {scale} scale first")
    return joined


def _joined(place: Path) -> _Joined | None:
    while True:
        try:
            return _join(place, _state(place))
        except FileNotFoundError:  # a part was replaced by a later one between the two: look again
            continue


def _state(place: Path) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Name of every part that has a record and a CSV, in order, and when and how large these are."""
    found = []
    for path in sorted(place.glob("*.json")):
        csv = path.with_suffix(".csv")
        if path.is_file() and csv.is_file():
            files = path.stat(), csv.stat()
            found.append((path.stem, tuple(n for file in files for n in (file.st_mtime_ns, file.st_size))))
    return tuple(found)


@functools.lru_cache(maxsize=128)
def _join(place: Path, state: tuple[tuple[str, tuple[int, ...]], ...]) -> _Joined | None:
    parts: list[tuple[dict[str, Any], pd.DataFrame]] = []
    for name, _ in state:
        path = place / f"{name}.json"
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            cells = _cells(path.with_suffix(".csv"))
            if (len(cells), list(cells.columns)) != (told["rows"], told["columns"]) or "keys" not in told:
                raise ValueError("its CSV has other rows or columns than its record says")
        except (ValueError, KeyError, TypeError) as error:
            warnings.warn(f"{path} is not whole, and left out: {error}", stacklevel=2)
            continue
        parts.append(({"part": name, **told}, cells))
    if not parts:
        return None
    columns = {told["part"]: list(cells.columns) for told, cells in parts}
    latest = {name: value for name, value in parts[-1][0].items() if name != "part"}
    keys = parts[-1][0]["keys"]
    if not keys:
        return _Joined(parts[-1][1], [parts[-1][0]], [len(parts[-1][1])], latest, columns)
    if short := [f"{name}.csv" for name, there in columns.items() if not set(keys) <= set(there)]:
        raise ValueError(
            f"{place / short[0]} lacks some of the columns {', '.join(keys)}, which are the later parts' keys"
        )
    cells = _concatenated(parts, keys)
    there = sorted(set(cells["run"]), key=int)
    left = [int((cells["run"] == i).sum()) for i in there]
    renumbered = cells["run"].map({old: str(new) for new, old in enumerate(there)})
    return _Joined(cells.assign(run=renumbered), [parts[int(i)][0] for i in there], left, latest, columns)


def _concatenated(parts: Sequence[tuple[Mapping[str, Any], pd.DataFrame]], keys: Sequence[str]) -> pd.DataFrame:
    """Rows of all parts without those that a later one has anew, sorted; ``run`` numbers all parts."""
    kept: list[pd.DataFrame] = []
    order: list[Any] = []
    columns: list[str] = []
    again: set[Any] = set()
    for i, (_, cells) in reversed(list(enumerate(parts))):
        columns += [column for column in cells.columns if column not in columns]
        own_keys = _sort_keys(cells, keys)
        new = [key not in again for key in own_keys]
        kept.append(cells.loc[np.array(new, dtype=bool)].assign(run=str(i)))
        order += [key for key, is_new in zip(own_keys, new, strict=True) if is_new]
        again.update(own_keys)
    whole = pd.concat(kept, ignore_index=True)
    whole = whole.iloc[sorted(range(len(whole)), key=order.__getitem__)].reset_index(drop=True)
    filled = {column: whole[column].fillna(_missing(whole[column].dropna())) for column in columns}
    return pd.DataFrame({**filled, "run": whole["run"]})


def _marked(joined: _Joined, marks: Callable[..., Any]) -> pd.DataFrame:
    """The cells with the column ``far_off``, where the latest run has said what is alike."""
    cells, alike = joined.cells, joined.latest.get("alike")
    if not alike:
        return cells
    outcome = joined.latest["outcome"]
    values = cells.assign(**{outcome: pd.to_numeric(cells[outcome], errors="coerce")})
    found = cells.assign(far_off=[str(bool(mark)) for mark in marks(values, alike, outcome)])
    return found[[*(name for name in found if name != "run"), *(["run"] if "run" in found else [])]]


def _as_csv(table: pd.DataFrame) -> str:
    file = io.StringIO()
    table.to_csv(file, index=False, float_format="%.6g", lineterminator="\n", na_rep="nan")
    return file.getvalue()


def _cells(source: Path | io.StringIO) -> pd.DataFrame:
    """A CSV's cells as the text they are: joining parts changes no digit and turns no integer into a float."""
    return pd.read_csv(source, dtype=str, keep_default_na=False, na_filter=False)


def _sort_keys(cells: pd.DataFrame, keys: Sequence[str]) -> list[tuple[tuple[int, Any], ...]]:
    """One key for each row, equal for equal values: numbers first by size, then text, then what is missing."""
    return [tuple(map(_sort_key, row)) for row in cells[list(keys)].itertuples(index=False, name=None)]


def _sort_key(cell: str) -> tuple[int, Any]:
    """
    >>> sorted(["b", "nan", "", "10", "9", "1e-06"], key=_sort_key)
    ['1e-06', '9', '10', '', 'b', 'nan']
    """
    if cell == "nan":
        return (2, "")
    if re.fullmatch(r"[+-]?\d+", cell):
        return (0, int(cell))
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf", cell):
        return (0, float(cell))
    return (1, cell)


def _missing(cells: pd.Series[str]) -> str:
    """What stands in a column where a row has no value: ``nan`` among numbers and truth values, no text among texts."""
    return "nan" if all(cell in ("True", "False", "nan") or _sort_key(cell)[0] == 0 for cell in cells) else ""
