"""Cut the committed tables, one CSV and one record each, into parts, and prove that their join is the committed file.

    .venv/bin/python cut_tables.py

A table's parts are its runs, by its column ``run``: 000, 001, ... Each has its rows as they were, text for text, and
its run's record. The proof reads the committed files from git and the parts from the disk: the join must have the same
text, ``run`` and ``far_off`` included, give the same table of numbers, and have the same record. Run again, it proves
again.
"""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd

from companion.compare.statistics import far_off
from companion.lab import tables

BEFORE = "59fe9e2"
ROOT = Path(__file__).parent
SCALES = ("quick", "paper", "vit")
SHOWN = ("04_verdicts", "04_five_runs", "04_over_depths", "04_leads", "04_runs")
GONE = {(scale, name) for scale in ("quick", "paper") for name in SHOWN}
"""Made from 04_depths where they are shown (:mod:`companion.compare.shown`); at quick they were the paper's."""
POINT = ["start", "n_layer", "n_disambiguation", "seed"]
KEYS = {
    "04_depths": POINT, "04_depths_masks": ["n_layer", "seed"], "05_causes": POINT,
    "06_variants": ["start", "task", "n_layer", "n_disambiguation", "seed"],
    "07_checks": ["check", "start", "n_layer", "n_disambiguation", "seed", "draw"],
}  # fmt: skip
"""What the notebooks give."""
ALIKE = {
    "03_transfer": (["start", "n_disambiguation"], "test_accuracy"),
    "10_shape_transfer": (["condition"], "accuracy_ordinary"),
    **{name: ([key for key in keys if key != "seed"], "test_accuracy") for name, keys in KEYS.items()},
}
OF_A_RUN = ("parameters", "seeds", "commit", "changed_since_commit", "versions", "device", "dtype", "wall_seconds")


def committed(path: str) -> str:
    return subprocess.run(
        ["git", "show", f"{BEFORE}:{path}"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


def old_tables() -> list[tuple[str, str]]:
    listed = subprocess.run(
        ["git", "ls-tree", "-r", "--name-only", BEFORE, "results/"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    found = [Path(path) for path in listed if path.endswith(".csv")]
    return [(path.parent.name, path.stem) for path in found if path.parent.name in SCALES]


def cut(scale: str, name: str) -> None:
    """Write the parts, move the figures, remove the old files."""
    text, record = (committed(f"results/{scale}/{name}.{end}") for end in ("csv", "json"))
    cells, told = tables._cells(io.StringIO(text)), json.loads(record)
    runs = told.get("runs")
    columns = [column for column in cells if column not in tables.WRITTEN_HERE]
    alike, outcome = ALIKE.get(name, ([], "")) if "far_off" in cells else ([], "")
    for i, run in enumerate(runs or [told]):
        rows = cells[cells["run"] == str(i)] if runs else cells
        rows = rows[columns]
        part = {
            "name": name, "scale": scale, "keys": KEYS[name] if runs else [],
            **({"alike": alike, "outcome": outcome} if alike else {}),
            "parameters": run["parameters"], "seeds": run["seeds"], "rows": len(rows), "columns": columns,
            **{field: run[field] for field in OF_A_RUN[2:]},
            "diverged": 0,
            "numbers": told["numbers"] if not runs or i == len(runs) - 1 else {},
            "makers": None,  # not known: the record says who read the objects
        }  # fmt: skip
        if "diverged" in cells:
            raise NotImplementedError(f"{name}: none has diverged so far")
        tables._write_both(tables.folder(scale) / name / f"{i:03d}.csv", rows, part)
    for end in ("csv", "json"):
        (tables.folder(scale) / f"{name}.{end}").unlink(missing_ok=True)


def move_figures() -> None:
    """Each beside the parts of the table whose name it begins with; of several such tables the longest."""
    for scale in SCALES:
        names = tables.names(scale)
        for path in tables.folder(scale).glob("*.png"):
            name = max((name for name in names if path.stem.startswith(name)), key=len)
            path.rename(path.parent / name / path.name)


def rows_of(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def proof(scale: str, name: str) -> str:
    """What is equal, in a line; ``AssertionError`` where something is not."""
    text, told = committed(f"results/{scale}/{name}.csv"), json.loads(committed(f"results/{scale}/{name}.json"))
    joined, record = tables.text(name, scale, marks=far_off), tables.record(name, scale, marks=far_off)
    assert rows_of(joined) == rows_of(text), f"{scale}/{name}: cells"
    assert joined == text, f"{scale}/{name}: text"
    before = pd.read_csv(io.StringIO(text), keep_default_na=False, na_values=["nan"])
    pd.testing.assert_frame_equal(tables.read(name, scale, marks=far_off), before, check_exact=True)
    unmarked = before.drop(columns="far_off", errors="ignore")
    pd.testing.assert_frame_equal(tables.read(name, scale), unmarked, check_exact=True)
    for field, value in told.items():
        if field != "runs":
            assert record.get(field) == value, f"{scale}/{name}: {field} {value} {record.get(field)}"
    runs = told.get("runs") or [told]
    assert len(runs) == len(record["runs"])
    replaced = 0
    for i, (old, new) in enumerate(zip(runs, record["runs"], strict=True)):
        assert new["part"] == f"{i:03d}"
        for field in OF_A_RUN:
            assert new.get(field) == old[field], f"{scale}/{name}, run {i}: {field}"
        replaced += old["rows"] - new["rows"]  # rows that a later run had anew: in no file for long
    lost = f", {replaced} rows of runs that later runs replaced are not counted any more" if replaced else ""
    extra = " ".join(column for column in tables.WRITTEN_HERE if column in before)
    said = f"{scale}/{name}: {len(runs)} parts, {len(before)} rows x {len(before.columns)} columns"
    return f"{said}, text, numbers and record equal{f' ({extra})' if extra else ''}{lost}"


def main() -> int:
    found = old_tables()
    for scale, name in found:
        if (scale, name) in GONE:
            for end in ("csv", "json"):
                assert committed(f"results/{scale}/{name}.csv") == committed(f"results/paper/{name}.csv")
                (tables.folder(scale) / f"{name}.{end}").unlink(missing_ok=True)
        elif not (tables.folder(scale) / name).is_dir():
            cut(scale, name)
    move_figures()
    lines = [proof(scale, name) for scale, name in found if (scale, name) not in GONE]
    print("\n".join(lines))
    print(f"{len(lines)} tables: all equal. {len(GONE)} tables that are made from 04_depths are gone.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
