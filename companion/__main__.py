"""``python -m companion run NOTEBOOK [-f FILE] [-p NAME VALUE] ...``, ``store ls|verify|gc`` and ``reproduced``"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections import Counter
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from companion.lab.project import project_root
from companion.lab.runner import NotebookError, run, tables_of

if TYPE_CHECKING:
    from companion.lab.store import File, Store


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m companion", description="Subtask Induction, executable.")
    parser.add_argument("--version", action="version", version=version("sicore"))
    commands = parser.add_subparsers(dest="command", required=True)
    _add_run(commands)
    _add_store(commands)
    _add_reproduced(commands)
    words, typed = _parameters_among(sys.argv[1:] if words is None else words)
    given = parser.parse_args(words)
    given.typed = typed
    return {"run": _run, "store": _store, "reproduced": _reproduced}[given.command](given)


def _complain(line: object) -> None:
    print(f"companion: {line}", file=sys.stderr)


# ---------------------------------------------------------------------------------------
# run


def _parameters_among(words: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """The words without ``-p NAME VALUE``, and these pairs: argparse takes a value of -1e-5 for an option."""
    rest, pairs, i = [], [], 0
    while i < len(words):
        if words[i] in ("-p", "--parameter") and i + 2 < len(words):
            pairs.append((words[i + 1], words[i + 2]))
            i += 3
        else:
            rest.append(words[i])
            i += 1
    return rest, pairs


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
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
    one.add_argument(
        "--reference",
        action="store_true",
        help="write the tables into results/, which is committed, and not into runs/",
    )


def _run(given: argparse.Namespace) -> int:
    typed = [*given.typed, *map(tuple, given.parameter)]
    for notebook in given.notebooks:
        try:
            with tables_of(given.reference):
                path, now = run(
                    notebook, given.file, typed=typed, output=given.output, if_changed=given.if_changed,
                    progress=sys.stderr.isatty(),
                )  # fmt: skip
        except NotebookError as error:
            _complain(error)
            return 2
        except Exception as error:
            _explain(notebook, error)
            return 1
        print(f"{path}: {'executed' if now else 'up to date'}")
    return 0


def _explain(notebook: str, error: Exception) -> None:
    """What has stopped a run. The last line is the error itself; papermill's stack comes first, unless we refused."""
    name = getattr(error, "ename", type(error).__name__)  # of an error in a cell, or of one outside: a dead kernel
    message = str(getattr(error, "evalue", error)).strip()
    refused = name == "ValueError" and _is_raised_here("\n".join(getattr(error, "traceback", [])))
    if not refused and hasattr(error, "evalue"):
        print(error, file=sys.stderr)
    _complain("; ".join([f"{notebook} failed", *getattr(error, "__notes__", [])]))
    _complain(message if refused else f"{name}: {message}")


def _is_raised_here(stack: str) -> bool:
    """Was the error at the end of a notebook's stack raised by a line of the project, and not within a library?"""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", stack)
    frames = re.findall(r"^(?:File (.+?):\d+, in |Cell (In)\[)", plain, re.MULTILINE)
    lines = re.findall(r"^-+> ?\d+ (.*)$", plain, re.MULTILINE)
    if not frames or not lines or not lines[-1].strip().startswith("raise "):
        return False
    folders = [Path(str(find_spec(package).origin)).parent for package in ("companion", "sicore")]  # type: ignore[union-attr]
    file, cell = frames[-1]
    return bool(cell) or any(Path(file).expanduser().is_relative_to(folder) for folder in folders)


# ---------------------------------------------------------------------------------------
# store


def _add_store(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    one = commands.add_parser("store", help="what trained models are kept, are they whole, remove what is of no use")
    actions = one.add_subparsers(dest="action", required=True)
    helps = {
        "ls": "list what is kept, by kind and state",
        "verify": "read every object and compare its checksum; changes nothing",
        "gc": "remove what is of use to nobody, such as what a killed process has left; asks first",
    }
    for name, help_ in helps.items():
        action = actions.add_parser(name, help=help_)
        action.add_argument("--store", type=Path, help="folder (default: .store in the project's folder)")
        if name == "ls":
            action.add_argument("--all", action="store_true", help="every file, not one line a kind")
        if name == "gc":
            action.add_argument("--yes", action="store_true", help="remove without asking")
            action.add_argument(
                "--older", action="store_true",
                help="also whole objects of another recipe, or another version of torch or transformers",
            )  # fmt: skip
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
        _complain(f"store = {str(store.root)!r}: there is no such folder")
        return 2
    try:
        return {"ls": _ls, "verify": _verify, "gc": _gc}[given.action](store, given)
    except OSError as error:
        _complain(error)
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
    print(f"{_total(files)}, in {store.root}")
    return 0


def _verify(store: Store, given: argparse.Namespace) -> int:
    from companion.lab.store import verify

    found = list(verify(store))
    wrong = [problem for _, problem in found if problem]
    for problem in wrong:
        _complain(problem)
    print(f"{len(found) - len(wrong)} of {len(found)} objects and checkpoints are whole in {store.root}")
    if wrong:
        print("what is damaged is set aside and computed again when it is asked for", file=sys.stderr)
    return 1 if wrong else 0


def _gc(store: Store, given: argparse.Namespace) -> int:
    from companion.lab.store import contents, garbage, remove

    files = garbage(store, given.older_than, older=given.older)
    for file in files:
        print(_line(store, file))
    older = [file for file in contents(store) if file.state == "older"]
    if older and not given.older:
        print(f"kept: {_total(older)}, of another recipe, or another version of torch or transformers (--older)")
    if not files:
        print(f"nothing to remove in {store.root}")
        return 0
    if not given.yes:
        costs = "A training whose checkpoint goes starts again."
        if whole := [file for file in files if file.state == "older"]:
            costs += f" {_total(whole)}, are whole objects, which older code may still look for."
        print(f"Remove {_total(files)}, from {store.root}? {costs} [y/N] ", end="")
        sys.stdout.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print("nothing was removed (without a question: --yes)")
            return 1
    gone = remove(store, files)
    print(f"removed {_total(gone)}")
    if len(gone) < len(files):
        print(f"{len(files) - len(gone)} files are in use or gone by now, and were left")
    return 0


def _line(store: Store, file: File) -> str:
    name = file.path.relative_to(store.root)
    return f"{_size(file.size):>9}  {file.age / 86400:6.1f} days  {file.state:10}  {name}  {file.about[:60]}".rstrip()


def _total(files: list[File]) -> str:
    return f"{len(files)} files, {_size(sum(file.size for file in files))}"


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


# ---------------------------------------------------------------------------------------
# reproduced


def _add_reproduced(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    one = commands.add_parser(
        "reproduced",
        help="the book's headline numbers from your own runs, beside where one more run of the reference should lie",
        description="Exit code 0 where your run reproduced, 1 where it did not, 2 where it could not be said.",
    )
    one.add_argument("--scale", default="quick", help="folder of your tables in runs/ (default: quick)")


def _reproduced(given: argparse.Namespace) -> int:
    from companion.compare import reproduction

    try:
        found = reproduction.answer(scale=given.scale)
    except (ValueError, OSError) as error:
        _complain(error)
        return 2
    print(reproduction.report(found))
    return {True: 0, False: 1, None: 2}[found.reproduced]


if __name__ == "__main__":
    sys.exit(main())
