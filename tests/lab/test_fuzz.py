"""Files and texts from strangers: each is loaded right or refused with one clear error.

A few inputs of each format by default, 10,000 with ``SICORE_FUZZ=10000``. As a script it writes the table of
the book's page, and where atheris is installed it also searches for inputs that reach new lines:

    python tests/lab/test_fuzz.py --examples 10000 --write
"""

import argparse
import contextlib
import hashlib
import json
import math
import os
import re
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from companion.arithmetic import task as arithmetic
from companion.lab import runner, runs
from sicore import Subnetwork
from sicore.files import canonical_json, checksum, load_meta, save_tensors

EXAMPLES = int(os.environ.get("SICORE_FUZZ", "60"))
FUZZ = settings(
    max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
ROOM = 2**28  # bytes that all inputs of a format together may take at most

_home = tempfile.TemporaryDirectory(prefix="fuzz-")
HOME = Path(_home.name)
(HOME / "files").mkdir()
FILE = HOME / "files" / "input"

COUNTS: Counter[tuple[str, str]] = Counter()


# ---------------------------------------------------------------------------------------
# Nothing is written, started or executed while a file is read

_WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
_FORBIDDEN = (*_WRITES, "subprocess.Popen", "os.system", "os.exec", "os.fork", "pickle.find_class", "exec", "socket")
_watching = False
_seen: list[str] = []


def _hook(event, args):
    if not _watching:
        return
    if event == "open":
        mode, flags = args[1], args[2]
        if (isinstance(mode, str) and set(mode) & set("wax+")) or (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            _seen.append(f"{event} {args}")
    elif event.startswith(_FORBIDDEN):
        _seen.append(f"{event} {args}")


sys.addaudithook(_hook)


@contextlib.contextmanager
def watched():
    global _watching
    _seen.clear()
    _watching = True
    try:
        yield
    finally:
        _watching = False
    assert _seen == []


def used():
    """Most memory that this process has had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# ---------------------------------------------------------------------------------------
# What is done with an input of each format: True if it was loaded, False if it was refused


def read(how, kind):
    """What ``how()`` returns, and what it says when it refuses: an error of ``kind`` and of no other."""
    try:
        with watched():
            return how(), ""
    except kind as error:
        str(error).encode()  # can be printed
        return None, str(error) or "nothing"


def try_subnetwork(data):
    FILE.write_bytes(data)
    loaded, refusal = read(lambda: Subnetwork.load(FILE), ValueError)
    if refusal:
        assert str(FILE) in refusal
        return False
    assert sum(tensor.nbytes for tensor in [*loaded.masks.values(), *loaded.weights.values()]) <= len(data)
    assert 0 <= loaded.size <= loaded.total
    assert canonical_json(load_meta(FILE).get("meta", {})) == canonical_json(dict(loaded.meta))
    loaded.save(HOME / "again")
    again = Subnetwork.load(HOME / "again")
    assert canonical_json(dict(again.meta)) == canonical_json(dict(loaded.meta))
    for one, other in ((loaded.masks, again.masks), (loaded.weights, again.weights)):
        assert checksum(one, "") == checksum(other, "")
    return True


def write_notebook():
    cell = (
        'scale: str = "smoke"  # folder\nn: int = 2  # a count\nrate: float = 1.0e-3  # a rate\n'
        'seeds: list[int] = [0]  # seeds\nnames: list[str] = ["a"]  # names\nflag: bool = False  # a switch\n'
    )
    path = HOME / "a.ipynb"
    path.write_text(
        json.dumps({"cells": [{"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": [cell]}]})
    )
    return path


KINDS = {"scale": str, "n": int, "rate": float, "seeds": list, "names": list, "flag": bool}
NOTEBOOK = write_notebook()


def try_parameters(data):
    FILE.write_bytes(data)
    values, refusal = read(lambda: runner.resolve(NOTEBOOK, [FILE]), runner.NotebookError)
    assert len(refusal) < 2000 + 4 * len(data)
    for name, value in (values or {}).items():
        assert type(value) is KINDS[name]
        inner = {"seeds": int, "names": str}.get(name)
        assert inner is None or all(type(item) is inner for item in value)
    json.dumps(values, allow_nan=False, ensure_ascii=False).encode()
    read(lambda: runs.read(FILE), runner.NotebookError)
    read(lambda: runner.resolve(NOTEBOOK, typed=[("seeds", data.decode("utf-8", "replace"))]), runner.NotebookError)
    return values is not None


def try_computation(data):
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    found, refusal = read(lambda: arithmetic.Computation.parse(text), ValueError)
    if refusal:
        assert refusal.startswith("computation = ")
        return False
    assert all(0 <= power <= arithmetic.MAX_EXPONENT for powers, _ in found.terms for power in powers)
    assert all(0 < abs(factor) <= arithmetic.MAX_COEFFICIENT for _, factor in found.terms)
    again = str(found)
    assert len(again) > 200 or arithmetic.Computation.parse(again) == found
    for a, b, p in ((2, 3, 7), (5, 5, 101), (10**6, 3, 2**31 - 1)):
        assert int(found(torch.tensor(a), torch.tensor(b), p)) == by_python(text, a, b) % p
    return True


def by_python(text, a, b):
    """The value of a text that was accepted, worked out another way."""
    digits = "".join(str(int(letter)) if letter.isdecimal() else letter for letter in text.replace("**", "^"))
    plain = re.sub(r"\d+", lambda number: str(int(number[0])), digits.replace(" ", ""))
    products = re.sub(r"(?<=[0-9ab])(?=[ab])", "*", plain)
    return eval(products.replace("^", "**"), {"__builtins__": {}}, {"a": a, "b": b})


TRIES = {"subnetwork": try_subnetwork, "parameters": try_parameters, "computation": try_computation}


def attempt(format_, data):
    loaded = TRIES[format_](data)
    COUNTS[format_, "loaded" if loaded else "refused"] += 1


# ---------------------------------------------------------------------------------------
# Inputs: anything, what was valid before it was altered, and what is odd but has a fitting checksum


def valid_file(names=("w", "layer/1"), meta=None):
    weights = {name: torch.arange(6.0).reshape(2, 3) + i for i, name in enumerate(names)} | {"bias": torch.ones(3)}
    Subnetwork({name: weights[name] > 2 for name in names}, weights, meta or {"task": "ab", "seed": 3}).save(
        HOME / "valid"
    )
    return (HOME / "valid").read_bytes()


def packed(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


_WIDTH = {"BOOL": 1, "U8": 1, "F8_E4M3": 1, "F8_E8M0": 1, "F4": 0.5, "F16": 2, "BF16": 2, "F32": 4, "F64": 8, "C64": 8}
_TORCH = {"BOOL": "bool", "U8": "uint8", "F8_E4M3": "float8_e4m3fn", "F16": "float16", "BF16": "bfloat16"}
_TORCH |= {"F32": "float32", "F64": "float64", "C64": "complex64"}


def crafted(entries, meta, extra=None):
    """A file as a stranger would make it: ``(name, type, shape, bytes)`` each, and a checksum that fits if any can."""
    header, body, digest = {}, b"", hashlib.sha256(meta.encode("utf-8", "replace"))
    for name, kind, shape, content in sorted(entries, key=lambda entry: entry[0].encode("utf-8", "replace")):
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(body), len(body) + len(content)]}
        body += content
        told = f"|{name}|torch.{_TORCH.get(kind, kind)}|{tuple(shape) if isinstance(shape, list) else shape}|"
        digest.update(told.encode("utf-8", "replace") + content)
    header["__metadata__"] = {"format": "1", "meta": meta, "sha256": digest.hexdigest()}
    return packed(header | (extra or {}), body)


def repaired(data):
    """The same file with the length and the checksum that it ought to have, as far as it can be read."""
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
        entries = [
            (name, entry["dtype"], entry["shape"], data[8 + length :][slice(*entry["data_offsets"])])
            for name, entry in header.items() if name != "__metadata__"
        ]  # fmt: skip
        return crafted(entries, header["__metadata__"]["meta"])
    except Exception:
        return data


def among(items):
    """One of the items; they do not appear in what is printed of a failure, as some are very long."""
    return st.integers(0, len(items) - 1).map(lambda i: items[i])


ODD = among([
    None, True, -1, 0, 1, 2**31, 2**63 - 1, 2**63, 2**64, 10**400, 0.5, 1e308, math.nan, math.inf, "", "NaN", "\ud800",
    [], {}, [[]], "mask/w", "../../etc/passwd", "é\0",
])  # fmt: skip
JSON = st.recursive(
    ODD, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
NAMES = among(["mask/w", "weight/w", "mask/", "weight/", "w", "", "../../x", "mask/../x", "/etc/x", "\0", "é"])


@st.composite
def odd_shapes(draw):
    plain = draw(st.lists(st.integers(0, 4), max_size=3))
    return draw(among([
        plain, plain, plain, [2**40, 2**40], [0, 2**62], [0, 2**63], [1] * 65, [1] * 3000, [-1], [math.nan], [1.0],
        [True], None, "6", [[1]],
    ]))  # fmt: skip


@st.composite
def odd_entries(draw):
    kind = draw(among(["BOOL", "BOOL", "F32", "F32", *_WIDTH, "I4", ""]))
    shape = draw(odd_shapes())
    size = 0
    if isinstance(shape, list) and all(isinstance(n, int) and 0 <= n < 10 for n in shape):
        size = int(math.prod(shape) * _WIDTH.get(kind, 1))
    content = draw(among([0, 0, 0, 1])) * b"?" + draw(st.binary(min_size=size, max_size=size))
    if kind == "BOOL" and draw(st.booleans()):
        content = bytes(byte % 2 for byte in content)
    return draw(NAMES), kind, shape, content


METAS = st.one_of(
    st.just('{"kind":"subnetwork","meta":{}}'),
    JSON.map(lambda value: json.dumps({"kind": "subnetwork", "meta": value})),
    JSON.map(json.dumps),
    among([
        "", "{", '{"kind":"subnetwork","kind":"subnetwork"}', "[" * 100_000, '{"a":' * 5000, "9" * 5000, "1e999",
        '{"kind":"subnetwork","meta":{"a":NaN}}', '{"kind":"subnetwork","meta":"ab"}', '{"a":"\\ud800"}',
        '{"kind":"subnetwork","meta":' + "[" * 200 + "]" * 200 + "}", '{"kind":"subnetwork","meta":[["a",1]]}',
    ]),
)  # fmt: skip


@st.composite
def good_pairs(draw):
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    count = math.prod(shape)
    mask = bytes(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))
    weight = draw(st.binary(min_size=4 * count, max_size=4 * count))
    return [("mask/w", "BOOL", shape, mask), ("weight/w", "F32", shape, weight)]


@st.composite
def altered(draw, originals):
    data = bytearray(draw(originals))
    for _ in range(draw(st.integers(0, 4))):
        how, place = draw(st.integers(0, 4)), draw(st.integers(0, max(len(data) - 1, 0)))
        if how == 0 and data:
            data[place] ^= draw(st.integers(1, 255))
        elif how == 1:
            del data[place:]
        elif how == 2:
            data[place:place] = draw(st.binary(max_size=20))
        elif how == 3:
            data[:8] = struct.pack("<Q", draw(among([0, 1, 2**31, 2**63, 2**64 - 1, len(data), max(len(data) - 8, 0)])))
        else:
            del data[place : place + draw(st.integers(1, 20))]
    return bytes(data)


VALID = among([valid_file(), valid_file(("w",), {"accuracy": [0.5, None], "é": {"a": "b"}})])
SUBNETWORKS = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=200).map(packed),
    JSON.map(lambda value: packed(json.dumps(value).encode())),
    altered(VALID),
    altered(VALID).map(repaired),
    st.builds(crafted, st.lists(odd_entries(), max_size=4), METAS),
    st.builds(crafted, good_pairs(), METAS),
    st.builds(crafted, good_pairs(), METAS, st.dictionaries(among(["__metadata__", "x", "mask/w"]), JSON)),
)

LINES = among([
    "n: 3", "rate: 1e-8", "rate: 1", "seeds: [1, 2]", "flag: true", "scale: 12", 'names: ["é", b]', "n: 3", "",
    "n: 0x" + "f" * 9000, "n: " + "9" * 5000, "rate: " + "9" * 400, "rate: .nan", "rate: 1e999", "n: 1_000", "n: 1:30",
    "seeds: &a [1]", "names: *a", "seeds: &a [*a]", "<<: {n: 2}", "? [1]\n: 2", "n: !!int ''", "n: !!float x",
    "n: !!timestamp x", "n: 2001-99-99", "n: !!bool x", "n: !!binary x", "n: !!python/object/apply:os.system [ls]",
    "n: !!python/name:os.system", "n: !!set {a, b}", "names: !!omap [a: 1]", r'scale: "\ud800"', r'scale: "\0"',
    "seeds: " + "[" * 3000, "seeds: " + "[" * 50 + "]" * 50, "{", "- 1", "---", "%YAML 9.9", "\t", "é: 1", "1: 2",
    "null: 1", "n: 3 n: 4", "scale: ../../x", "names: [" + "a, " * 200 + "a]", "runs: [{name: a, notebook: b.ipynb}]",
    "runs: [{name: a, notebook: b.ipynb, files: " + "9" * 400 + "}]", "files: [&x /etc/passwd]", "? n\n: 3",
])  # fmt: skip
BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
PARAMETERS = st.one_of(
    st.binary(max_size=100),
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(LINES, max_size=5).map(lambda lines: "\n".join(lines).encode()),
    altered(st.lists(LINES, max_size=4).map(lambda lines: "\n".join(lines).encode())),
    among([BOMB.encode(), BOMB.encode() + b"seeds: *a11\n", b"n: 3\n" * 30_000, b"\xff\xfe", b"# " * 70_000]),
)

PIECES = among([
    *"ab+-*^ 0123456789", "a^2", "ab", "2a", " + ", " - ", "**", "^64", "^65", "^999", "^" + "9" * 30, "9" * 15,
    "9" * 25, "(", ")", "__import__('os')", "a.b", "0x1", "1e9", "٣", "²", "\ud800", "\0", "a" * 70, "  ", "\n", "c",
])  # fmt: skip
COMPUTATIONS = st.one_of(
    st.text(max_size=30),
    st.text("ab+-^*0123456789 ", max_size=40),
    st.lists(PIECES, max_size=12).map("".join),
    among([*arithmetic.PAPER_COMPUTATIONS, "9" * 10_000, "a" * 201, "a+" * 100, "+".join(["a^64b^64"] * 20)]),
)

INPUTS = {"subnetwork": SUBNETWORKS, "parameters": PARAMETERS, "computation": COMPUTATIONS}


def run_all(format_):
    """Try :data:`EXAMPLES` inputs of a format, and return by how many bytes the process has grown."""

    @FUZZ
    @given(INPUTS[format_])
    def one(data):
        attempt(format_, data)

    TRIES[format_](b"")  # imports what is imported late
    before = used()
    one()
    return used() - before


@pytest.mark.parametrize("format_", TRIES)
def test_every_input_is_loaded_right_or_refused_with_one_clear_error(format_, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_all(format_) < ROOM
    assert COUNTS[format_, "loaded"] > 0
    assert COUNTS[format_, "refused"] > 0
    assert list(tmp_path.iterdir()) == [], "nothing was written to the working folder"
    assert {path.name for path in HOME.iterdir()} <= {"files", "a.ipynb", "valid", "again"}


def test_watch_sees_what_it_is_to_see(tmp_path):
    def write():
        (tmp_path / "x").write_text("x")

    for act in (write, lambda: eval("1"), lambda: os.system("true")):
        with pytest.raises(AssertionError), watched():
            act()


def test_crafted_files_have_the_checksum_of_our_own(tmp_path):
    for name, kind in (("F32", torch.float32), ("BOOL", torch.bool), ("BF16", torch.bfloat16)):
        tensor = torch.tensor([[0, 1], [1, 0]]).to(kind)
        save_tensors(tmp_path / "x", {"mask/w": tensor}, {"a": 1})
        own = (tmp_path / "x").read_bytes()
        length = int.from_bytes(own[:8], "little")
        made = crafted([("mask/w", name, [2, 2], own[8 + length :])], '{"a":1}')
        digests = [
            json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["sha256"]
            for data in (own, made)
        ]
        assert digests[0] == digests[1]


# ---------------------------------------------------------------------------------------
# As a script


def search(format_, count, seed):
    """Inputs that atheris finds by the lines that they reach; ends the process."""
    import atheris

    for function in (runner.resolve, runner.check, runner.read_yaml, runner.parse_yaml, runs.read):
        atheris.instrument_func(function)
    for function in (Subnetwork.load, arithmetic.Computation.parse):
        atheris.instrument_func(function.__func__)
    import sicore.files

    for function in (sicore.files.load_tensors, sicore.files.strict_json):
        atheris.instrument_func(function)
    corpus = HOME / "corpus"
    corpus.mkdir()
    seeds = {
        "subnetwork": [valid_file(), crafted([], "{}")],
        "parameters": [b"n: 3\nseeds: [1, 2]\nrate: 1e-8\n", b'names: ["a", b]\nflag: true\n'],
        "computation": [text.encode() for text in arithmetic.PAPER_COMPUTATIONS],
    }[format_]
    for i, data in enumerate(seeds):
        (corpus / str(i)).write_bytes(data)
    before = used()

    def one(data):
        if format_ == "subnetwork" and len(data) % 2:
            data = repaired(data)
        attempt(format_, data)
        if COUNTS.total() == count:
            told = [COUNTS[format_, "loaded"], COUNTS[format_, "refused"], used() - before]
            print("counted", json.dumps(told), flush=True)

    words = [sys.argv[0], str(corpus), f"-atheris_runs={count}", f"-seed={seed}", "-max_len=2000", "-rss_limit_mb=4096"]
    atheris.Setup(words, one)
    atheris.Fuzz()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=10_000, help="inputs of each format, in each way")
    parser.add_argument("--seed", type=int, default=1, help="of atheris")
    parser.add_argument("--search", choices=TRIES, help="by atheris, one format")
    parser.add_argument("--write", action="store_true", help="write the table to results/benchmark/")
    words = parser.parse_args()
    if words.search:
        search(words.search, words.examples, words.seed)
        return
    import pandas as pd

    from companion.lab import tables as results

    global FUZZ
    FUZZ = settings(FUZZ, max_examples=words.examples)
    began, rows = time.monotonic(), []
    for format_ in TRIES:
        start = time.monotonic()
        grown = run_all(format_)
        counts = [COUNTS[format_, "loaded"], COUNTS[format_, "refused"]]
        rows.append((format_, "hypothesis", sum(counts), *counts, round(time.monotonic() - start), grown >> 20))
        print(rows[-1], flush=True)
    with contextlib.suppress(ImportError):
        import atheris  # noqa: F401

        for format_ in TRIES:
            start = time.monotonic()
            asked = ["--search", format_, "--examples", str(words.examples), "--seed", str(words.seed)]
            done = subprocess.run([sys.executable, __file__, *asked], capture_output=True, text=True)
            told = re.search(r"^counted (.*)$", done.stdout, re.MULTILINE)
            if done.returncode or told is None:
                sys.exit(f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}\natheris: {format_} failed")
            loaded, refused, grown = json.loads(told[1])
            rows.append(
                (format_, "atheris", loaded + refused, loaded, refused, round(time.monotonic() - start), grown >> 20)
            )
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows, columns=["format", "inputs from", "inputs", "loaded", "refused", "seconds", "MiB more"])
    if words.write:
        results.write_benchmark("fuzz", table, parameters=vars(words), began=began)


if __name__ == "__main__":
    main()
