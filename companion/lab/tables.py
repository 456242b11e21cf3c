"""Result tables as data: a tidy CSV, and beside it a JSON that says where it comes from.

The book reads both: figures and tables come from the CSV, every number in its prose
from ``numbers`` in the JSON.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import platform
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock
from matplotlib.figure import Figure

from companion.lab.project import project_root, tables_folder
from sicore.files import cannot_write, written_aside

_RECORDED = ("sicore", "torch", "transformers", "numpy", "pandas", "scipy")
_OF_A_RUN = (
    "parameters",
    "seeds",
    "commit",
    "changed_since_commit",
    "versions",
    "device",
    "dtype",
    "wall_seconds",
    "rows",
)


SEEDS = ("seeds", "few_seeds", "vision_seeds", "scene_seeds")
"""What notebooks call their seeds; the first that is there counts."""
REPEATABLE = ("resnet_depths",)
"""Parameters whose lists may name a value twice, such as the blocks of a network's stages."""


def folder(scale: str) -> Path:
    """``results/<scale>`` in the project's folder."""
    _check_scale(scale)
    return project_root() / "results" / scale


def _check_scale(scale: str) -> None:
    if not isinstance(scale, str) or not re.fullmatch(r"[a-z0-9_-]{1,40}", scale):
        raise ValueError(f"scale = {scale!r}: expected a short name of a-z, 0-9, _ and -, such as 'smoke' or 'quick'")


def write(
    name: str,
    scale: str,
    table: pd.DataFrame,
    *,
    parameters: Mapping[str, Any],
    numbers: Mapping[str, str] | None = None,
    figures: Mapping[str, Figure] | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    began: float | None = None,
    keys: Sequence[str] = (),
    alike: Sequence[str] = (),
    outcome: str = "test_accuracy",
) -> Path:
    """Write ``results/<scale>/<name>.csv`` with its provenance, and return the CSV's path.

    With the environment variable ``SICORE_TABLES`` the files go into that folder instead
    (see :func:`companion.lab.project.tables_folder`).

    With ``keys`` the table is added to the one that is there: old rows whose keys are not
    in ``table`` stay, those with equal keys are replaced, and all are sorted by the keys. A
    column ``run`` says which entry of ``runs`` in the provenance a row comes from; what the
    provenance holds beside ``runs`` is the latest run's, apart from ``rows`` and ``columns``,
    which are the file's.

    Parameters
    ----------
    name
        The notebook's name, such as ``03_transfer``.
    table
        Tidy: one observation a row.
    parameters
        The notebook's parameters. The seeds among them (:data:`SEEDS`) are recorded on their own too.
    numbers
        Key -> formatted text, for the ``{num}`` role of the book's pages.
    figures
        Suffix -> figure, saved as ``<name><suffix>.png`` beside the table.
    dtype
        Type of the matrix products that was really used (see :meth:`companion.lab.make.Machine.dtype`).
    began
        ``time.monotonic()`` at the start of the notebook, for the wall time.
    keys
        Columns that say which rows belong together, such as ``("n_layer", "seed")``: a run
        replaces all rows of an old combination that it has itself, and no others.
    alike
        Columns in which runs that differ only in their seed agree. With them a column ``far_off`` marks the rows whose
        ``outcome`` lies far off the others' (:func:`companion.compare.statistics.far_off`);
        they stay in every average, and the record says how many they are.

    Raises
    ------
    ValueError
        When a key is no column of ``table``, or none of the table that is there; when ``alike`` or
        ``outcome`` names no column, or ``alike`` leaves a seed several rows, which would not be independent.
    """
    _check_scale(scale)
    target = tables_folder(scale)
    missing = [key for key in keys if key not in table.columns]
    if missing or (keys and "run" in table.columns):
        problem = f"not in the table: {', '.join(missing)}" if missing else "the column 'run' is written here, leave it"
        raise ValueError(f"keys = {list(keys)!r}: {problem}. Columns are {', '.join(map(str, table.columns))}")
    if alike:
        if absent := [column for column in (*alike, outcome) if column not in table.columns]:
            raise ValueError(
                f"alike = {list(alike)!r}, outcome = {outcome!r}: not in the table: {', '.join(absent)}. "
                f"Columns are {', '.join(map(str, table.columns))}"
            )
        if "seed" in table.columns and table.duplicated([*alike, "seed"]).any():
            raise ValueError(
                f"alike = {list(alike)!r}: several rows of one seed agree in these, such as transfers from "
                "one base model. Add the column in which they differ, so that seeds are compared with other seeds"
            )
        table = _marked(table, alike, outcome)
    for suffix, figure in (figures or {}).items():
        with written_aside(target / f"{name}{suffix}.png") as temporary:
            figure.savefig(temporary, format="png", dpi=160, metadata={"Software": None})
    provenance: dict[str, Any] = {
        "name": name,
        "scale": scale,
        "parameters": dict(parameters),
        "seeds": next((list(parameters[name]) for name in SEEDS if parameters.get(name)), []),
        "rows": len(table),
        "columns": list(table.columns),
        "numbers": dict(numbers or {}),
        **_commit(),
        "versions": {"python": platform.python_version(), **{package: version(package) for package in _RECORDED}},
        "device": _device(device),
        "dtype": dtype,
        "wall_seconds": None if began is None else round(time.monotonic() - began, 1),
        "diverged": int(table["diverged"].notna().sum()) if "diverged" in table else 0,
        **({"far_off": int(table["far_off"].sum())} if alike else {}),
    }
    csv, record = target / f"{name}.csv", target / f"{name}.json"
    if not keys:
        _write_both(csv, table, record, provenance)
        return csv
    with _locked(name, scale):
        cells, runs = _merged(csv, _cells(io.StringIO(_as_csv(table))), provenance, keys)
        if alike:  # of the whole table: what is usual may have changed with the new rows
            cells = _marked(cells, alike, outcome)
            provenance["far_off"] = int(cells["far_off"].sum())
        lost = int((cells["diverged"] != "").sum()) if "diverged" in cells else 0
        provenance |= {"rows": len(cells), "columns": list(cells.columns), "runs": runs, "diverged": lost}
        _write_both(csv, cells, record, provenance)
    return csv


def _marked(table: pd.DataFrame, alike: Sequence[str], outcome: str) -> pd.DataFrame:
    """The table with its column ``far_off``; its cells may be text."""
    from companion.compare.statistics import far_off

    values = table.assign(**{outcome: pd.to_numeric(table[outcome], errors="coerce")})
    marks = far_off(values, alike, outcome)
    return table.assign(far_off=marks)


def _write_both(csv: Path, table: pd.DataFrame, record: Path, provenance: Mapping[str, Any]) -> None:
    """Renamed one right after the other: no reader finds a new table beside an old record for long."""
    with written_aside(csv) as new_csv, written_aside(record) as new_record:
        new_csv.write_text(_as_csv(table), encoding="utf-8")
        new_record.write_text(json.dumps(provenance, indent=1) + "\n", encoding="utf-8")


def _as_csv(table: pd.DataFrame) -> str:
    text = io.StringIO()
    table.to_csv(text, index=False, float_format="%.6g", lineterminator="\n", na_rep="nan")
    return text.getvalue()


def _cells(source: Path | io.StringIO) -> pd.DataFrame:
    """A CSV's cells as the text they are: merging tables changes no digit and turns no integer into a float."""
    return pd.read_csv(source, dtype=str, keep_default_na=False, na_filter=False)


@contextlib.contextmanager
def _locked(name: str, scale: str) -> Iterator[None]:
    """Hold the right to change this table. The empty lock file stays, in the store, which git ignores."""
    path = project_root() / ".store" / "locks" / f"{scale}.{name}.lock"
    lock = FileLock(str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield
    finally:
        lock.release()


def _merged(
    csv: Path, new: pd.DataFrame, provenance: Mapping[str, Any], keys: Sequence[str]
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """The old table with the new rows in it, and the runs that its rows come from, oldest first."""
    columns = list(new.columns)
    runs = [{field: provenance[field] for field in _OF_A_RUN}]
    new = new.assign(run="0")
    if csv.is_file():
        old = _cells(csv)
        if missing := [key for key in keys if key not in old.columns]:
            raise ValueError(
                f"keys = {list(keys)!r}: {csv} has no column {', '.join(missing)}, so that rows cannot be added to it. "
                "Move it away, or write to another scale"
            )
        old, before = _with_runs(old, csv.with_suffix(".json"))
        again = set(_sort_keys(new, keys))
        old = old[[key not in again for key in _sort_keys(old, keys)]]
        runs = before + runs
        new = pd.concat([old, new.assign(run=str(len(before)))], ignore_index=True)
        columns += [column for column in old.columns if column not in columns]
    order = _sort_keys(new, keys)
    new = new.iloc[sorted(range(len(new)), key=order.__getitem__)]
    left = sorted(set(new["run"]), key=int)
    columns = [column for column in columns if column != "run"]
    filled = {column: new[column].fillna(_missing(new[column].dropna())) for column in columns}
    run = new["run"].map({index: str(i) for i, index in enumerate(left)})
    return pd.DataFrame({**filled, "run": run}), [runs[int(index)] for index in left]


def _with_runs(old: pd.DataFrame, record: Path) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """A table with its column ``run``, and its runs; one run for all where it was written without keys."""
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if runs := known.get("runs"):
        if set(old.get("run", [""])) <= {str(i) for i in range(len(runs))}:
            return old, runs
        known = {}  # table and record are not of one write: nothing is known of the rows
    return old.assign(run="0"), [{**{field: known.get(field) for field in _OF_A_RUN}, "rows": len(old)}]


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


def collect(
    tables: Sequence[str | Path], keys: Mapping[str, Sequence[Any]], output: str | Path | None = None
) -> pd.DataFrame:
    """Put the tables of several jobs together, one below the other, and check that the whole is complete.

    Parameters
    ----------
    tables
        CSV files with the same columns, each with the record that :func:`write` put beside it.
    keys
        Column -> all values that it must have. Every combination must be there exactly once.
    output
        A CSV for the whole, with the record of every job beside it; a column ``run`` says which
        one a row comes from, as in :func:`write`.

    Returns
    -------
    pandas.DataFrame
        All rows, sorted by the keys. Cells are text, as in the files: no digit changes.

    Raises
    ------
    ValueError
        Naming the files, columns or combinations: when columns differ, a key is no column, or
        a combination is missing, twice there, or not asked for.
    FileNotFoundError
        For a table that is not there.
    """
    if not tables or not keys:
        raise ValueError(f"{len(tables)} tables, keys = {dict(keys)}: expected at least one of each")
    parts = [_part(Path(path)) for path in tables]
    columns = list(parts[0].columns)
    for path, part in zip(tables, parts, strict=True):
        if list(part.columns) != columns:
            differing = ", ".join(sorted(set(columns) ^ set(part.columns))) or "their order"
            raise ValueError(f"{path} and {tables[0]} have other columns: {differing}")
    if unknown := [key for key in keys if key not in columns]:
        raise ValueError(f"keys: {', '.join(unknown)} not in {tables[0]}. Columns are {', '.join(columns)}")
    cells = pd.concat([part.assign(run=str(i)) for i, part in enumerate(parts)], ignore_index=True)
    found = _sort_keys(cells, list(keys))
    where: dict[tuple[Any, ...], list[int]] = {}
    for i, key in enumerate(found):
        where.setdefault(key, []).append(i)
    wanted = set(itertools.product(*([_sort_key(_as_cell(value)) for value in values] for values in keys.values())))

    def described(problem: str, combinations: Iterable[tuple[Any, ...]]) -> str:
        some = sorted(combinations)
        lines = [
            ", ".join(f"{name} = {value}" for name, (_, value) in zip(keys, key, strict=True))
            + "".join(f" in {tables[int(cells['run'][i])]}" for i in where.get(key, []))
            for key in some[:5]
        ]
        return f"{len(some)} rows {problem}: " + "; ".join(lines) + ("; ..." if len(some) > 5 else "")

    wrong = {
        "missing": wanted - where.keys(),
        "double": [key for key, rows in where.items() if len(rows) > 1],
        "not asked for": where.keys() - wanted,
    }
    if any(wrong.values()):
        raise ValueError(". ".join(described(problem, some) for problem, some in wrong.items() if some))
    cells = cells.iloc[sorted(range(len(cells)), key=found.__getitem__)].reset_index(drop=True)
    if output is not None:
        runs = [
            _with_runs(part, Path(path).with_suffix(".json"))[1][0] for path, part in zip(tables, parts, strict=True)
        ]
        record = {"name": Path(output).stem, "rows": len(cells), "columns": list(cells.columns), "runs": runs}
        with written_aside(output) as new_csv, written_aside(Path(output).with_suffix(".json")) as new_record:
            new_csv.write_text(_as_csv(cells), encoding="utf-8")
            new_record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return cells


def check_holds(table: str | Path, part: str | Path) -> int:
    """How many rows ``part`` has, all of which must stand in ``table``; ``ValueError`` names the first that does not.

    The column ``run`` does not count, nor does the order of rows and columns.
    """
    whole, rows = _part(Path(table)), _part(Path(part))
    columns = list(rows.columns)
    if absent := [column for column in columns if column not in whole.columns]:
        raise ValueError(f"{table} has no column {', '.join(absent)}, which {part} has")
    there = set(whole[columns].itertuples(index=False, name=None))
    if lost := [row for row in rows.itertuples(index=False, name=None) if row not in there]:
        example = ", ".join(f"{name} = {value}" for name, value in zip(columns, lost[0], strict=True))
        raise ValueError(f"{len(lost)} of {len(rows)} rows of {part} are not in {table}: {example}")
    return len(rows)


def _part(path: Path) -> pd.DataFrame:
    """The cells of a table, without the column ``run``."""
    if not path.is_file():
        raise FileNotFoundError(f"no table {path}")
    return _cells(path).drop(columns="run", errors="ignore")


def _as_cell(value: Any) -> str:
    """A value as :func:`write` writes it."""
    return _as_csv(pd.DataFrame({"value": [value]})).splitlines()[1].strip('"')


def given(names: Mapping[str, Any]) -> dict[str, Any]:
    """A notebook's parameters, taken from ``globals()`` before anything else is defined there.

    Kept are public names whose values are plain: text, numbers, booleans, lists of these.

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
        and isinstance(value, bool | int | float | str | list)
    }
    for name, value in parameters.items():
        if isinstance(value, list) and name not in REPEATABLE:
            twice = [one for i, one in enumerate(value) if one in value[:i]]
            if twice:
                raise ValueError(f"{name} = {value!r}: {twice[0]!r} is named twice; expected each value once")
    return parameters


def read(name: str, scale: str) -> pd.DataFrame:
    """The table that notebook ``name`` wrote at ``scale``."""
    path = folder(scale) / f"{name}.csv"
    if not path.is_file():
        raise FileNotFoundError(f"no table {path}: run notebooks/{name}.ipynb at the {scale} scale first")
    return pd.read_csv(path, keep_default_na=False, na_values=["nan"])


def find(name: str, scale: str) -> pd.DataFrame | None:
    """The table that notebook ``name`` wrote at ``scale``, or None when it is not there."""
    try:
        return read(name, scale)
    except FileNotFoundError:
        return None


def plus_minus(mean: float, half_width: float, digits: int = 2) -> str:
    """``0.93 ± 0.02``, the mean alone where there is no interval, a dash where a run without a value is among them."""
    if mean != mean:
        return "–"
    if half_width != half_width:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {half_width:.{digits}f}"


def with_sign(mean: float, half_width: float, digits: int = 3) -> str:
    """:func:`plus_minus` of a difference.

    >>> with_sign(0.1234, 0.05), with_sign(-0.1234, 0.05), with_sign(0.1234, math.nan)
    ('+0.123 ± 0.050', '-0.123 ± 0.050', '+0.123')
    """
    return ("+" if mean >= 0 else "") + plus_minus(mean, half_width, digits)


def over_seeds(values: Sequence[float], digits: int = 2) -> str:
    """Mean and half of the 95 % interval over seeds; of one or two seeds, whose interval says nothing, the values.

    >>> over_seeds([0.5, 0.75]), over_seeds([0.5, 0.5, 0.5]), over_seeds([])
    ('0.50 and 0.75', '0.50 ± 0.00', '–')
    """
    if not values:
        return "–"
    if len(values) < 3:
        return " and ".join(plus_minus(value, math.nan, digits) for value in values)
    from companion.compare.statistics import mean_interval

    return plus_minus(*mean_interval(values), digits)


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
