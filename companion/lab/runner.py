"""Run a notebook with other parameters, checked first: a thin layer over papermill.

papermill only warns about a parameter that the notebook does not have, and takes
whatever type it is given. Here names and types are compared with the notebook's
``parameters`` cell before anything runs; the executed copy appears under its name only
when the run has succeeded.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import functools
import hashlib
import importlib.util
import io
import json
import math
import os
import tokenize
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from companion.lab.project import project_root, reference_folder, tables_folder

MAX_YAML = 100_000
"""Longest parameter file or list of runs, in bytes."""
MAX_DEPTH = 20
"""Levels of lists and mappings in one."""

_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
    "list": (list,),
}


class NotebookError(ValueError):
    """A notebook, a parameter file or a parameter that cannot be used."""


def parameters_of(notebook: str | Path) -> dict[str, dict[str, str]]:
    """Parameters of a notebook: name -> ``{"type", "default", "help"}``, all text.

    Read from the cell's text, which is not executed. Raises ``NotebookError`` when there is
    no notebook, not exactly one cell tagged ``parameters``, or another kind of line in it.
    """
    path = Path(notebook)
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except OSError as error:
        raise NotebookError(f"no notebook {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise NotebookError(f"{path} is not a notebook") from error
    tagged = [cell for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", [])]
    if len(tagged) != 1:
        raise NotebookError(f"{path} has {len(tagged)} cells tagged 'parameters'; it needs exactly one")
    source = "".join(tagged[0]["source"])
    comments = _comments(source)
    found = {}
    for node in ast.parse(source).body:
        try:
            ast.literal_eval(node.value)  # type: ignore[attr-defined]
            name = node.target.id  # type: ignore[attr-defined]
            kind = ast.unparse(node.annotation)  # type: ignore[attr-defined]
        except (AttributeError, ValueError) as error:
            line = source.splitlines()[node.lineno - 1]
            raise NotebookError(f"{path}: {line!r} is not of the form 'name: type = literal  # meaning'") from error
        found[name] = {
            "type": kind,
            "default": ast.unparse(node.value),  # type: ignore[attr-defined]
            "help": comments.get(node.end_lineno or node.lineno, ""),
        }
    return found


def _comments(source: str) -> dict[int, str]:
    """Line number -> its comment, without the sign."""
    words = tokenize.generate_tokens(io.StringIO(source).readline)
    return {word.start[0]: word.string.lstrip("# ") for word in words if word.type == tokenize.COMMENT}


def check(name: str, value: Any, kind: str) -> Any:
    """The value as type ``kind`` (``int``, ``float``, ``str``, ``bool``, ``list`` or ``list[...]``).

    YAML reads ``1e-8`` as text; where a number is expected it is read as one. Raises
    ``NotebookError`` naming the parameter, the value and the type.

    >>> check("lr", "1e-3", "float"), check("seeds", [0, 1], "list[int]")
    (0.001, [0, 1])
    """
    outer, _, inner = kind.partition("[")
    if outer not in _TYPES:
        return value  # a type that has no plain form; the notebook's own code checks it
    if outer == "float" and isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    good = isinstance(value, _TYPES[outer]) and (outer == "bool" or not isinstance(value, bool))
    if good and outer == "int" and not -(2**63) <= value < 2**63:
        raise NotebookError(f"parameter {name}: expected {kind} of at most 64 bits, got one of {value.bit_length()}")
    if good and outer == "float":
        good = _is_finite(value)
    if good and outer == "str" and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise NotebookError(f"parameter {name} = {_short(value)}: text with half a character (a lone surrogate)")
    if not good:
        raise NotebookError(f"parameter {name} = {_short(value)}: expected {kind}, got {type(value).__name__}")
    if outer == "list" and inner:
        return [check(f"{name}[{i}]", item, inner.removesuffix("]")) for i, item in enumerate(value)]
    return float(value) if outer == "float" else value


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False


def _short(value: Any) -> str:
    """A value for a message, cut where it is long; of an integer too long to be written, its size."""
    try:
        return shown if len(shown := repr(value)) <= 200 else f"{shown[:200]}..."
    except ValueError:
        return "(a number of more than 4,300 digits)"


def read_yaml(path: str | Path, what: str) -> Any:
    """A YAML file of the user's, called ``what`` in messages; see :func:`parse_yaml`.

    Raises ``NotebookError`` when there is no such file, it is longer than 100,000 bytes, or it is no plain YAML.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_YAML + 1)
    except OSError as error:
        raise NotebookError(f"no {what} {path}: {error.strerror}") from error
    if len(data) > MAX_YAML:
        raise NotebookError(f"{path} is longer than {MAX_YAML:,} bytes; it cannot be a {what}")
    try:
        return parse_yaml(data.decode())
    except ValueError as error:
        raise NotebookError(f"{path} is not YAML: {error}") from error


def parse_yaml(text: str) -> Any:
    """YAML of plain values, of at most 20 levels: no name twice in a mapping, no anchors (a few can mean gigabytes).

    Raises ``ValueError`` for all else.
    """
    try:
        return yaml.load(text, _PlainLoader)
    except Exception as error:  # beside its own errors: KeyError, AttributeError ... of malformed dates and tags
        raise ValueError(str(error)) from error


class _PlainLoader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError(f"line {self.peek_event().start_mark.line + 1}: anchors and aliases are not read")
        if self.depth == MAX_DEPTH:  # the parser's time grows with the square of the depth
            line = self.peek_event().start_mark.line + 1
            raise ValueError(f"line {line}: it is nested too deeply, more than {MAX_DEPTH} levels")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise ValueError(f"line {key.start_mark.line + 1}: {name!r} stands twice")
            seen.add(name)
        return super().construct_mapping(node, deep)


def read_parameter_file(path: str | Path, notebook: str | Path) -> dict[str, Any]:
    """The part of a parameter file that concerns ``notebook``.

    One file serves all notebooks of a folder: a name that this notebook does not have,
    but another one beside it does, is passed over; a name that none has is an error.
    """
    content = read_yaml(path, "parameter file") or {}
    if not isinstance(content, dict):
        raise NotebookError(f"{path} must hold lines of the form 'name: value'")
    own = parameters_of(notebook)
    others: set[str] = set()
    if any(name not in own for name in content):
        for neighbour in Path(notebook).parent.glob("*.ipynb"):
            others |= set(parameters_of(neighbour))
    for name in content:
        if name not in own and name not in others:
            raise NotebookError(_unknown(str(name), sorted(others | set(own)), f"{path}"))
    return {name: value for name, value in content.items() if name in own}


def _unknown(name: str, known: Sequence[str], where: str) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    return f"{where}: unknown parameter {name}{hint} Known are {', '.join(known)}"


def resolve(
    notebook: str | Path, files: Sequence[str | Path] = (), given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """All parameters that differ from the notebook's defaults, checked by name and type.

    Later files win over earlier ones, ``given`` over the files. A value in ``given`` may
    be text as typed on a command line.
    """
    own = parameters_of(notebook)
    values: dict[str, Any] = {}
    for path in files:
        values |= read_parameter_file(path, notebook)
    for name, value in (given or {}).items():
        if name not in own:
            raise NotebookError(_unknown(name, sorted(own), str(notebook)))
        if isinstance(value, str) and own[name]["type"] != "str":
            try:
                value = parse_yaml(value)
            except ValueError as error:
                raise NotebookError(f"parameter {name} = {_short(value)}: not understood") from error
        values[name] = value
    return {name: check(name, value, own[name]["type"]) for name, value in values.items()}


def with_defaults(notebook: str | Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """All of a notebook's parameters: its defaults, and ``values`` over them."""
    return {name: ast.literal_eval(entry["default"]) for name, entry in parameters_of(notebook).items()} | dict(values)


def is_up_to_date(notebook: str | Path, values: Mapping[str, Any], output: str | Path) -> bool:
    """Would :func:`run` with ``if_changed`` do nothing? ``values`` as :func:`resolve` gives them.

    Then the copy in ``output`` is of this notebook, these parameters and this code, and all rows that its run has
    written into tables still count there.
    """
    notebook = Path(notebook)
    told = _told_by(Path(output) / notebook.name)
    if told.get("mark") != _mark(notebook, values):
        return False
    from companion.lab import tables  # slow to import

    scale = str(with_defaults(notebook, values).get("scale", "smoke"))
    return all(tables.stands(name, scale, parameters_hash) for name, parameters_hash in told["tables"].items())


def run(
    notebook: str | Path,
    files: Sequence[str | Path] = (),
    given: Mapping[str, Any] | None = None,
    *,
    output: str | Path | None = None,
    if_changed: bool = False,
    progress: bool = True,
) -> tuple[Path, bool]:
    """Execute a notebook and return the path of the executed copy, and whether it was run now.

    Parameters
    ----------
    files, given
        See :func:`resolve`.
    output
        Folder of the executed copy; default ``runs/<scale>`` in the project's folder.
    if_changed
        Do nothing when :func:`is_up_to_date`.

    Raises
    ------
    NotebookError
        Before the run, for anything wrong with names or types.
    OSError
        When the executed copy cannot be written: it says whether the disk is full, read-only or gone.
    papermill.PapermillExecutionError
        When a cell fails. What had been executed is left as ``NAME.failed``, which no
        reader takes for a notebook.
    """
    notebook = Path(notebook)
    values = resolve(notebook, files, given)
    parameters = with_defaults(notebook, values)
    scale = str(parameters.get("scale", "smoke"))
    folder = Path(output) if output else project_root() / "runs" / scale
    final, partial = folder / notebook.name, folder / f"{notebook.stem}.failed"
    if if_changed and is_up_to_date(notebook, values, folder):
        return final, False
    mark = _mark(notebook, values)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotebookError(f"output = {str(folder)!r} cannot be created: {error.strerror}") from error

    import nbformat
    import papermill

    from companion.lab import tables  # slow to import, as these are

    begun = tables.stamp()
    # Not .ipynb: a run that is killed leaves this behind, and no reader may take it for a notebook.
    temporary = folder / f".{notebook.stem}.{os.getpid()}.json"
    try:
        papermill.execute_notebook(
            str(notebook), str(temporary), parameters=values, cwd=str(project_root()),
            progress_bar=progress, log_output=False, kernel_name="python3", language="python",
        )  # fmt: skip
        executed = nbformat.read(temporary, as_version=4)
        written = tables.written_since(begun, parameters) if "scale" in parameters else {}
        executed.metadata["companion"] = {"mark": mark, "tables": written}
        nbformat.write(executed, temporary)
        os.replace(temporary, final)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the disk may be what has failed: that is the error to be seen
            if temporary.exists():
                os.replace(temporary, partial)
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, str(temporary)):
            from sicore.files import cannot_write

            raise cannot_write(final, error) from error
        raise
    partial.unlink(missing_ok=True)
    return final, True


def _mark(notebook: Path, values: Mapping[str, Any]) -> str:
    """Hash of all that an executed copy depends on: notebook, parameters, where its tables go, code, versions.

    Any change of the code counts. The notebook then runs again, and finds its models in the store. Where the notebook
    reads committed tables, any change of these counts too.
    """
    packages = [version(package) for package in ("torch", "transformers", "matplotlib", "pandas")]
    text = notebook.read_text(encoding="utf-8")
    parts = [
        text,
        json.dumps(values, sort_keys=True),
        os.path.relpath(tables_folder(), project_root()),
        _code(),
        *packages,
        *([_reference()] if "tables.read(" in text else []),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _reference() -> str:
    """Hash of the text of all committed tables."""
    found = hashlib.sha256()
    for path in sorted(reference_folder().rglob("*.csv")):
        found.update(f"{path.relative_to(reference_folder())}\n{path.read_text(encoding='utf-8')}\n".encode())
    return found.hexdigest()


@functools.cache
def _code() -> str:
    """Hash of the text of both packages."""
    found = hashlib.sha256()
    for package in ("companion", "sicore"):
        folder = Path(str(importlib.util.find_spec(package).origin)).parent  # type: ignore[union-attr]
        for path in sorted(folder.rglob("*.py")):
            found.update(f"{path.relative_to(folder.parent)}\n{path.read_text(encoding='utf-8')}\n".encode())
    return found.hexdigest()


def _told_by(copy: Path) -> dict[str, Any]:
    """What :func:`run` has written into an executed copy: ``mark``, and ``tables`` with the hash of its parameters."""
    try:
        told = json.loads(copy.read_text(encoding="utf-8"))["metadata"]["companion"]
        return {"mark": told["mark"], "tables": dict(told["tables"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
