"""``python -m companion run NOTEBOOK [-f FILE] [-p NAME VALUE] ...``; ``sweep``, ``store``, ``collect`` and ``holds``"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from companion.lab.project import project_root
from companion.lab.runner import NotebookError, check, parse_yaml, run
from companion.lab.sweep import sweep
from sicore import __version__

if TYPE_CHECKING:
    from companion.lab.store import File, Store


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m companion", description="Subtask Induction, executable.")
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
    _add_store(commands)
    given = parser.parse_args(words)
    if given.command == "store":
        return _store(given)
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


def _add_store(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    one = commands.add_parser("store", help="what trained models are kept, are they whole, remove what is outdated")
    actions = one.add_subparsers(dest="action", required=True)
    helps = {
        "ls": "list what is kept, by kind and state",
        "verify": "read every object and compare its checksum; changes nothing",
        "gc": "remove what today's code has no use for; asks first",
    }
    for name, help_ in helps.items():
        action = actions.add_parser(name, help=help_)
        action.add_argument("--store", type=Path, help="folder (default: .store in the project's folder)")
        if name == "ls":
            action.add_argument("--all", action="store_true", help="every file, not one line a kind")
        if name == "gc":
            action.add_argument("--yes", action="store_true", help="remove without asking")
            action.add_argument(
                "--older-than", type=_days, default=0.0, metavar="DAYS", help="only what has not changed for so long"
            )


def _days(text: str) -> float:
    days = float(text)
    if not (math.isfinite(days) and days >= 0):
        raise ValueError
    return days


def _store(given: argparse.Namespace) -> int:
    from companion.lab.store import Store

    store = Store(given.store or project_root() / ".store")
    if not store.root.is_dir():
        print(f"sicore: store = {str(store.root)!r}: there is no such folder", file=sys.stderr)
        return 2
    try:
        return {"ls": _ls, "verify": _verify, "gc": _gc}[given.action](store, given)
    except OSError as error:
        print(f"sicore: {error}", file=sys.stderr)
        return 1


def _ls(store: Store, given: argparse.Namespace) -> int:
    from companion.lab.store import contents

    files = contents(store)
    if given.all:
        for file in files:
            print(_line(store, file))
    else:
        count = Counter((file.path.parent.name, file.state) for file in files)
        for kind, state in sorted(count):
            bytes_ = sum(file.size for file in files if (file.path.parent.name, file.state) == (kind, state))
            print(f"{kind:15} {state:12} {count[kind, state]:6}  {_size(bytes_):>9}")
    print(f"{len(files)} files, {_size(sum(file.size for file in files))} in {store.root}")
    return 0


def _verify(store: Store, given: argparse.Namespace) -> int:
    from companion.lab.store import verify

    found = list(verify(store))
    wrong = [problem for _, problem in found if problem]
    for problem in wrong:
        print(f"sicore: {problem}", file=sys.stderr)
    print(f"{len(found) - len(wrong)} of {len(found)} objects and checkpoints are whole in {store.root}")
    if wrong:
        print("what is damaged is set aside and computed again when it is asked for", file=sys.stderr)
    return 1 if wrong else 0


def _gc(store: Store, given: argparse.Namespace) -> int:
    from companion.lab.store import garbage, remove

    files = garbage(store, given.older_than)
    if not files:
        print(f"nothing to remove in {store.root}")
        return 0
    for file in files:
        print(_line(store, file))
    total = f"{len(files)} files, {_size(sum(file.size for file in files))}"
    if not given.yes:
        print(f"Remove {total} from {store.root}? A training whose checkpoint goes starts again. [y/N] ", end="")
        sys.stdout.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print("nothing was removed (without a question: --yes)")
            return 1
    gone = remove(store, files)
    print(f"removed {len(gone)} files, {_size(sum(file.size for file in gone))}")
    if len(gone) < len(files):
        print(f"{len(files) - len(gone)} files are in use or gone by now, and were left")
    return 0


def _line(store: Store, file: File) -> str:
    name = file.path.relative_to(store.root)
    return f"{_size(file.size):>9}  {file.age / 86400:6.1f} days  {file.state:10}  {name}  {file.about[:60]}".rstrip()


def _size(count: float) -> str:
    """
    >>> _size(0), _size(2048), _size(3.5 * 2**30)
    ('0 B', '2.0 KiB', '3.5 GiB')
    """
    if count < 1024:
        return f"{count} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024 or unit == "GiB":
            break
    return f"{count:.1f} {unit}"


def _tables(given: argparse.Namespace) -> int:
    from companion.lab import tables as results

    try:
        if given.command == "holds":
            count = sum(results.check_holds(given.table, part) for part in given.parts)
            print(f"{given.table} has all {count} rows of {len(given.parts)} tables")
        else:
            keys = {name: check(name, parse_yaml(values), "list") for name, values in given.key}
            rows = results.collect(given.tables, keys, given.output)
            print(f"{len(rows)} rows of {len(given.tables)} tables, none missing and none double")
    except (ValueError, OSError) as error:
        print(f"sicore: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
