"""``python -m sicore run NOTEBOOK [-f FILE] [-p NAME VALUE] ...``; ``sweep``, ``collect`` and ``holds``"""

from __future__ import annotations

import argparse
import sys

import yaml

from sicore import __version__
from sicore.runner import NotebookError, check, run
from sicore.sweep import sweep


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sicore", description="Subtask Induction, executable.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run", help="execute notebooks with checked parameters")
    one.add_argument("notebooks", nargs="+", metavar="NOTEBOOK", help="one or several, executed in this order")
    one.add_argument(
        "-f", "--file", action="append", default=[], help="parameter file (YAML), such as params/quick.yaml"
    )
    one.add_argument("-p", "--parameter", action="append", nargs=2, default=[], metavar=("NAME", "VALUE"))
    one.add_argument("-o", "--output", help="folder of the executed copies (default: runs/<scale>)")
    one.add_argument(
        "--if-changed", action="store_true", help="skip what has already run with this notebook, parameters and code"
    )
    many = commands.add_parser("sweep", help="execute the runs that a file lists; what is done already is skipped")
    many.add_argument("file", metavar="FILE", help="the list (YAML), such as params/sweep.yaml")
    many.add_argument("--only", nargs="+", action="extend", default=[], metavar="NAME", help="these runs, not all")
    many.add_argument(
        "--dry-run", action="store_true", help="check all parameters, list what is up to date, run nothing"
    )
    whole = commands.add_parser(
        "collect", help="put the tables of jobs together; what is missing or double is an error"
    )
    whole.add_argument("tables", nargs="+", metavar="TABLE", help="CSV files with the same columns")
    whole.add_argument(
        "-k", "--key", action="append", nargs=2, required=True, metavar=("NAME", "VALUES"),
        help='a column and all values that it must have, such as -k seed "[0, 1]"',
    )  # fmt: skip
    whole.add_argument("-o", "--output", metavar="CSV", help="write the whole, with the record of every job beside it")
    inside = commands.add_parser("holds", help="an error when a table lacks a row that one of its parts has")
    inside.add_argument("table", metavar="TABLE", help="the CSV file of the whole")
    inside.add_argument("parts", nargs="+", metavar="PART", help="CSV files whose rows must stand in it")
    given = parser.parse_args(words)
    if given.command in ("collect", "holds"):
        return _tables(given)
    if given.command == "sweep":
        try:
            return sweep(given.file, given.only, dry_run=given.dry_run)
        except NotebookError as error:
            print(f"sicore: {error}", file=sys.stderr)
            return 2
    for notebook in given.notebooks:
        try:
            path, now = run(
                notebook, given.file, dict(given.parameter), output=given.output, if_changed=given.if_changed
            )
        except NotebookError as error:
            print(f"sicore: {error}", file=sys.stderr)
            return 2
        except Exception as error:  # a failed cell, a dead kernel: one clear line, not papermill's stack
            print(
                f"{error}\nsicore: {notebook} failed ({type(error).__name__}); its executed copy is not complete",
                file=sys.stderr,
            )
            return 1
        print(f"{path}: {'executed' if now else 'up to date'}")
    return 0


def _tables(given: argparse.Namespace) -> int:
    from sicore import results  # slow to import, so only here

    try:
        if given.command == "holds":
            count = sum(results.check_holds(given.table, part) for part in given.parts)
            print(f"{given.table} has all {count} rows of {len(given.parts)} tables")
        else:
            keys = {name: check(name, yaml.safe_load(values), "list") for name, values in given.key}
            rows = results.collect(given.tables, keys, given.output)
            print(f"{len(rows)} rows of {len(given.tables)} tables, none missing and none double")
    except (ValueError, OSError, yaml.YAMLError) as error:
        print(f"sicore: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
