"""Run a notebook with other parameters, checked first: a thin layer over papermill.

papermill only warns about a parameter that the notebook does not have, and takes
whatever type it is given. Here names and types are compared with the notebook's
``parameters`` cell before anything runs; the executed copy appears under its name only
when the run has succeeded.

Values are YAML, but nothing that its versions or Python read in different ways: see :func:`parse_yaml`.
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
import re
import tempfile
import tokenize
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from companion.lab.project import project_root, reference_folder, tables_folder, writes_reference

MAX_YAML = 100_000
"""Longest parameter file or list of runs, in bytes."""
MAX_DEPTH = 20
"""Levels of lists and mappings in one."""

KINDS = "int, float, str, bool, list[...] and dict[str, ...] of these, and any of them with | None"
"""What a parameter may be annotated as."""
_PLAIN: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}


class NotebookError(ValueError):
    """A notebook, a parameter file or a parameter that cannot be used."""


def parameters_of(notebook: str | Path) -> dict[str, dict[str, str]]:
    """Parameters of a notebook: name -> ``{"type", "default", "help"}``, all text.

    Read from the cell's text, which is not executed. Raises ``NotebookError`` when there is
    no notebook, not exactly one cell tagged ``parameters``, another kind of line in it, a type
    that :func:`check` does not know, or a default that is not of its type.
    """
    path = Path(notebook)
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    except OSError as error:
        raise NotebookError(f"no notebook {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise NotebookError(f"{path} is not a notebook, or only half of one") from error
    if len(sources) != 1:
        raise NotebookError(f"{path} has {len(sources)} cells tagged 'parameters'; it needs exactly one")
    return _parameters_in(sources[0], path)


def _parameters_in(source: str, path: Path) -> dict[str, dict[str, str]]:
    """What :func:`parameters_of` returns, from the text of the cell."""

    def refused(number: int | None) -> NotebookError:
        lines = source.splitlines()
        line = lines[number - 1] if number and number <= len(lines) else source
        form = "is not of the form 'name: type = literal  # meaning', the only one in the cell tagged 'parameters'"
        return NotebookError(f"{path}: {_short(line)} {form}")

    try:
        nodes = ast.parse(source).body
    except (SyntaxError, ValueError) as error:  # a magic (%matplotlib, %%time, !ls), a null byte
        raise refused(getattr(error, "lineno", None)) from error
    comments, found = _comments(source), {}
    for node in nodes:
        try:
            default = ast.literal_eval(node.value)  # type: ignore[attr-defined]
            name = node.target.id  # type: ignore[attr-defined]
            kind = ast.unparse(node.annotation)  # type: ignore[attr-defined]
        except (AttributeError, ValueError) as error:
            raise refused(node.lineno) from error
        if name in found:
            raise NotebookError(f"{path}: the parameter {name} stands twice")
        try:
            check(name, default, kind)
        except NotebookError as error:
            raise NotebookError(f"{path}: {error}") from error
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
    """The value, if it is of type ``kind``; a whole number becomes a float where one is expected.

    Kinds are ``int``, ``float``, ``str``, ``bool``, ``list[...]`` and ``dict[str, ...]`` of these, and any of them with
    ``| None``. Floats are finite, integers have at most 64 bits. Raises ``NotebookError`` naming the parameter, the
    value and the type, or a kind that is none of these.

    >>> check("lr", 1, "float"), check("seeds", [[0], [1, 2]], "list[list[int]]"), check("limit", None, "int | None")
    (1.0, [[0], [1, 2]], None)
    """
    try:
        node = ast.parse(kind, mode="eval").body
    except (SyntaxError, ValueError):
        node = ast.Constant(kind)  # no kind
    return _checked(name, value, node)


def _checked(name: str, value: Any, kind: ast.expr) -> Any:
    match kind:
        case ast.Name(id=plain) if plain in _PLAIN:
            return _checked_plain(name, value, plain)
        case ast.Subscript(value=ast.Name(id="list"), slice=inner):
            _checked_kind(name, inner)
            if isinstance(value, list):
                return [_checked(f"{name}[{i}]", item, inner) for i, item in enumerate(value)]
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[ast.Name(id="str"), inner])):
            _checked_kind(name, inner)
            if isinstance(value, dict):
                return {
                    _checked_plain(f"a name in {name}", key, "str"): _checked(f"{name}[{_short(key)}]", item, inner)
                    for key, item in value.items()
                }
        case ast.BinOp(left=inner, op=ast.BitOr(), right=ast.Constant(value=None)):
            _checked_kind(name, inner)
            if value is None:
                return None
            try:
                return _checked(name, value, inner)
            except NotebookError as error:
                raise NotebookError(f"{error}, or null for None") from error
        case _:
            raise NotebookError(f"parameter {name}: its type {ast.unparse(kind)} is none of {KINDS}")
    raise NotebookError(f"parameter {name} = {_short(value)}: expected {ast.unparse(kind)}, got {_of_type(value)}")


def _checked_kind(name: str, kind: ast.expr) -> None:
    """``NotebookError`` when the kind is unknown, whatever the value is: an empty list has nothing to compare."""
    match kind:
        case ast.Name(id=plain) if plain in _PLAIN:
            return
        case ast.Subscript(value=ast.Name(id="list")):
            _checked(name, [], kind)
        case ast.Subscript(value=ast.Name(id="dict")):
            _checked(name, {}, kind)
        case _:
            _checked(name, None, kind)


def _checked_plain(name: str, value: Any, kind: str) -> Any:
    told = f"parameter {name} = {_short(value)}"
    fits = isinstance(value, _PLAIN[kind])
    if not fits or (kind != "bool" and isinstance(value, bool)):
        hint = ""
        if kind == "int" and isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
            hint = f"; write {int(value)}"
        if kind == "str" and (value is None or isinstance(value, bool | int | float)):
            hint = "; put it in quotes for text"
        raise NotebookError(f"{told}: expected {kind}, got {_of_type(value)}{hint}")
    if kind == "int" and not -(2**63) <= value < 2**63:
        raise NotebookError(f"parameter {name}: expected int of at most 64 bits, got one of {value.bit_length()}")
    if kind == "float" and not _is_finite(value):
        raise NotebookError(f"{told}: expected a finite number")
    if kind == "str" and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise NotebookError(f"{told}: text with half a character (a lone surrogate)")
    return float(value) if kind == "float" else value


def _of_type(value: Any) -> str:
    return "null" if value is None else type(value).__name__


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
        raise NotebookError(f"{path}: {error}") from error


def parse_yaml(text: str) -> Any:
    """YAML of plain values, of at most 20 levels: no name twice in a mapping, no anchors (a few can mean gigabytes), no
    tags.

    What YAML 1.1, YAML 1.2 and Python do not read alike is refused with what to write in its place: 010 is 8, 10 or an
    error, 1:30 is 90 or text, ``no`` is false or text. Numbers are decimal and finite, ``1e-8`` is one; there are
    ``true``, ``false`` and ``null``; all else is text. Names in a mapping are text as they stand.

    Raises ``ValueError`` with the line for all else.

    >>> parse_yaml("{lr: 1e-3, seeds: [0, 1], text: '010'}")
    {'lr': 0.001, 'seeds': [0, 1], 'text': '010'}
    >>> parse_yaml("010")
    Traceback (most recent call last):
    ValueError: line 1: '010' can be read in several ways; write 8 or 10, or "010" for text
    """
    try:
        return yaml.load(text, _PlainLoader)
    except _Refused as error:
        raise ValueError(str(error)) from error
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"not YAML: {line}{error.problem}") from error
    except Exception as error:  # beside its own errors: of characters that it does not take
        raise ValueError(f"not YAML: {error}") from error


class _Refused(Exception):
    """YAML, but not of the kind that is read."""


_STR = "tag:yaml.org,2002:str"
_ALIKE = {  # what all readers take for the same, but for floats such as 1e-8, which are text to YAML 1.1
    "tag:yaml.org,2002:null": re.compile("null"),
    "tag:yaml.org,2002:bool": re.compile("true|True|TRUE|false|False|FALSE"),
    "tag:yaml.org,2002:int": re.compile("[-+]?(0|[1-9][0-9]*)"),
    "tag:yaml.org,2002:float": re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?"),
}
_MAX_DIGITS = 1000


class _PlainLoader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        where = f"line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent):
            raise _Refused(f"{where}: anchors and aliases are not read")
        if getattr(event, "tag", None) is not None:
            raise _Refused(f"{where}: tags such as {event.tag[:40]} are not read")
        if self.depth == MAX_DEPTH:  # the parser's time grows with the square of the depth
            raise _Refused(f"{where}: it is nested too deeply, more than {MAX_DEPTH} levels")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(node, yaml.ScalarNode) and node.style is None:
            is_name = isinstance(parent, yaml.MappingNode) and index is None
            node.tag = _STR if is_name else self._tag(node, where)
        return node

    def _tag(self, node: yaml.ScalarNode, where: str) -> str:
        """What a text without quotes is; ``_Refused`` where that depends on who reads it."""
        text, older = node.value, node.tag
        tag = next((tag for tag, form in _ALIKE.items() if form.fullmatch(text)), _STR)
        if tag != _STR and len(text) > _MAX_DIGITS:
            raise _Refused(f"{where}: a number of more than {_MAX_DIGITS:,} digits")
        in_python = _python_number(text)
        if tag == _STR and older == _STR and in_python is None and text.lower() not in ("y", "n"):
            return _STR
        if tag != _STR and older in (tag, _STR):
            return tag
        readings = {"y": ["true"], "n": ["false"]}.get(text.lower(), [])
        with contextlib.suppress(ValueError, yaml.YAMLError):
            readings += _spelled(self.construct_object(yaml.ScalarNode(older, text), deep=True))
        if in_python is not None:
            with contextlib.suppress(ValueError):
                readings += _spelled(in_python)
        advice = "".join(f"{one} or " for one in dict.fromkeys(readings)).removesuffix(" or ")
        quoted = f"{json.dumps(text, ensure_ascii=False)} for text"
        write = f"write {advice}, or {quoted}" if advice else f"write {quoted}"
        if re.fullmatch(r"[-+]?(\.?inf|\.?nan|infinity)", text, re.IGNORECASE):
            raise _Refused(f"{where}: {text!r} is no finite number; {write}")
        told = f"{_short(text)} can be read in several ways" if text else "there is no value"
        raise _Refused(f"{where}: {told}; {write if len(write) < 200 else 'write a decimal number'}")

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key, _ in node.value:
            where = f"line {key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise _Refused(f"{where}: a name in a mapping must be text")
            if key.value in seen:
                raise _Refused(f"{where}: {key.value!r} stands twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _python_number(text: str) -> float | None:
    """What Python takes a text for, where that is a number: also 0o10, 0x10, 1_000, 08, nan."""
    for read in (lambda: int(text, 0), lambda: float(text)):
        with contextlib.suppress(ValueError):
            return read()
    return None


def _spelled(value: Any) -> list[str]:
    """A plain value as every reader takes it; nothing for a date, or where it has no such form."""
    if isinstance(value, float) and not math.isfinite(value):
        return []
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return [json.dumps(value)] if value is None or isinstance(value, bool | int | float) else []


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
    passed_over = []
    if any(name not in own for name in content):
        for neighbour in sorted(Path(notebook).parent.glob("[!.]*.ipynb")):
            try:
                others |= set(parameters_of(neighbour))
            except NotebookError as error:  # somebody's scratch notebook: it has no parameters
                passed_over.append(str(error))
    for name in content:
        if name not in own and name not in others:
            unread = "".join(f". Passed over: {error}" for error in passed_over)
            raise NotebookError(_unknown(str(name), sorted(others | set(own)), f"{path}") + unread)
    return {name: value for name, value in content.items() if name in own}


def _unknown(name: str, known: Sequence[str], where: str) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    return f"{where}: unknown parameter {name}{hint} Known are {', '.join(known)}"


def resolve(
    notebook: str | Path,
    files: Sequence[str | Path] = (),
    given: Mapping[str, Any] | None = None,
    typed: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """All parameters that differ from the notebook's defaults, checked by name and type.

    Parameters
    ----------
    files
        Parameter files; later ones win over earlier ones.
    given
        Values; they win over the files.
    typed
        Names and texts of a command line; they win over the others. Where the parameter is a ``str``
        the text is the value as it stands, elsewhere it is read by :func:`parse_yaml`.

    Raises
    ------
    NotebookError
        For anything wrong with a file, a name, a value, or a name that is typed twice.
    """
    own = parameters_of(notebook)
    values: dict[str, Any] = {}
    for path in files:
        values |= read_parameter_file(path, notebook)
    for name in [*(given or {}), *(name for name, _ in typed)]:
        if name not in own:
            raise NotebookError(_unknown(name, sorted(own), str(notebook)))
    values |= given or {}
    twice = [name for name, count in Counter(name for name, _ in typed).items() if count > 1]
    if twice:
        raise NotebookError(f"parameter {twice[0]} is given twice on the command line; give it once")
    for name, text in typed:
        try:
            values[name] = text if own[name]["type"] == "str" else parse_yaml(text)
        except ValueError as error:
            told = str(error).removeprefix("line 1: ")
            raise NotebookError(f"parameter {name} = {_short(text)}: expected {own[name]['type']}; {told}") from error
    return {name: check(name, value, own[name]["type"]) for name, value in values.items()}


def as_typed(notebook: str | Path, values: Mapping[str, Any]) -> list[str]:
    """The words ``-p NAME TEXT ...`` of a command line that gives these values; the other way round of ``typed``."""
    own, words = parameters_of(notebook), []
    for name, value in values.items():
        plain = name in own and own[name]["type"] == "str" and isinstance(value, str)
        words += ["-p", name, value if plain else json.dumps(value)]
    return words


def with_defaults(notebook: str | Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """All of a notebook's parameters: its defaults, and ``values`` over them."""
    return {name: ast.literal_eval(entry["default"]) for name, entry in parameters_of(notebook).items()} | dict(values)


def scale_of(parameters: Mapping[str, Any]) -> str:
    """The scale that a notebook's parameters name; ``smoke`` where it has no such parameter.

    Raises ``NotebookError`` where it is no name for a folder of tables.
    """
    from companion.lab import tables  # slow to import

    scale = parameters.get("scale", "smoke")
    try:
        tables.folder(scale)
    except ValueError as error:
        raise NotebookError(f"parameter {error}") from error
    return str(scale)


@contextlib.contextmanager
def tables_of(reference: bool) -> Iterator[None]:
    """Within it the tables of this process, and of those that it starts, go to the reference if that is asked for."""
    before = os.environ.get("COMPANION_TABLES")
    if reference:
        os.environ["COMPANION_TABLES"] = str(reference_folder())  # the notebooks' kernels read it
    try:
        yield
    finally:
        if reference:
            os.environ.pop("COMPANION_TABLES")
            if before is not None:
                os.environ["COMPANION_TABLES"] = before


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

    scale = scale_of(with_defaults(notebook, values))
    return all(tables.stands(name, scale, parameters_hash) for name, parameters_hash in told["tables"].items())


def run(
    notebook: str | Path,
    files: Sequence[str | Path] = (),
    given: Mapping[str, Any] | None = None,
    *,
    typed: Sequence[tuple[str, str]] = (),
    output: str | Path | None = None,
    if_changed: bool = False,
    progress: bool = True,
) -> tuple[Path, bool]:
    """Execute a notebook and return the path of the executed copy, and whether it was run now.

    Parameters
    ----------
    files, given, typed
        See :func:`resolve`.
    output
        Folder of the executed copy; default ``runs/<scale>`` in the project's folder.
    if_changed
        Do nothing when :func:`is_up_to_date`.

    Raises
    ------
    NotebookError
        Before the run, for anything wrong with names, types or the scale.
    OSError
        When the executed copy cannot be written: it says whether the disk is full, read-only or gone.
    papermill.PapermillExecutionError
        When a cell fails. What had been executed is left as ``NAME.failed``, which no
        reader takes for a notebook; a note of the error (``__notes__``) names the file.
    """
    notebook = Path(notebook)
    values = resolve(notebook, files, given, typed)
    parameters = with_defaults(notebook, values)
    scale = scale_of(parameters)
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
    from traitlets.config import Config

    from companion.lab import tables  # slow to import, as these are

    begun = tables.stamp()
    # Not .ipynb: a run that is killed leaves this behind, and no reader may take it for a notebook.
    temporary = folder / f".{notebook.stem}.{os.getpid()}.json"
    try:
        # Its kernel is spoken to through files: two runs that begin at once on one machine might take the same port.
        with tempfile.TemporaryDirectory(prefix="kernel-") as sockets:
            papermill.execute_notebook(
                _no_fields(notebook), _no_fields(temporary), parameters=values, cwd=str(project_root()),
                progress_bar=progress, log_output=False, kernel_name="python3", language="python",
                config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/at"}}),
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
                error.add_note(f"what was executed is in {partial}")
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, str(temporary)):
            from sicore.files import cannot_write

            raise cannot_write(final, error) from error
        raise
    partial.unlink(missing_ok=True)
    return final, True


def _no_fields(path: Path) -> str:
    """A path for papermill, which takes braces for fields to be filled in."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _mark(notebook: Path, values: Mapping[str, Any]) -> str:
    """Hash of all that an executed copy depends on: notebook, parameters, where its tables go, code, versions.

    Any change of the code counts. The notebook then runs again, and finds its models in the store. Where the notebook
    reads committed tables, any change of these counts too. A run that writes them reads none of its own scale.
    """
    packages = [version(package) for package in ("torch", "transformers", "matplotlib", "pandas")]
    text = notebook.read_text(encoding="utf-8")
    reads = "tables.read(" in text or ("tables.beside(" in text and not writes_reference())
    parts = [
        text,
        json.dumps(values, sort_keys=True),
        os.path.relpath(tables_folder(), project_root()),
        _code(),
        *packages,
        *([_reference()] if reads else []),
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
