"""``python -m sicore run NOTEBOOK [-f FILE] [-p NAME VALUE] ...`` and ``python -m sicore sweep FILE``"""

from __future__ import annotations

import argparse
import sys

from sicore import __version__
from sicore.runner import NotebookError, run
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
    given = parser.parse_args(words)
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


if __name__ == "__main__":
    sys.exit(main())
