"""The direction of imports: the method knows nothing of the paper, and no arrow runs up or in a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {  # room -> what it may import
    "sicore": {"sicore"},
    "companion.lab": {"sicore", "companion.lab"},
    "companion.palette": set(),
    "companion.arithmetic": {"sicore", "companion.lab", "companion.palette", "companion.arithmetic"},
    "companion.vision": {"sicore", "companion.lab", "companion.palette", "companion.vision"},
    "companion.beyond": {"sicore", "companion.beyond"},
    "companion.compare": {
        "companion.lab", "companion.arithmetic.starts", "companion.vision.starts", "companion.compare",
    },
    "companion.figures": {
        "companion.compare", "companion.palette", "companion.arithmetic.starts", "companion.vision.starts",
        "companion.figures",
    },
    "companion.__main__": {"sicore", "companion.lab", "companion.compare"},
}  # fmt: skip
WITHOUT_TORCH = ("companion.compare", "companion.arithmetic.starts", "companion.vision.starts")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for top in ("sicore", "companion")
    for path in sorted((ROOT / top).rglob("*.py"))
}


def within(name, room):
    return name == room or name.startswith(f"{room}.")


def imports(path):
    """Names of the modules that a file imports, wherever in it, but for what only a type checker reads."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= submodules or {node.module}
    return found


GRAPH = {name: imports(path) for name, path in MODULES.items()}


def test_every_module_stands_in_a_room():
    homeless = [name for name in MODULES if name != "companion" and not any(within(name, room) for room in ROOMS)]
    assert homeless == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_lies_below_it(room):
    for name in GRAPH:
        if within(name, room):
            ours = {other for other in GRAPH[name] if other.split(".")[0] in ("sicore", "companion")}
            up = {other for other in ours if not any(within(other, allowed) for allowed in ROOMS[room])}
            assert up == set(), name


def test_there_is_no_circle():
    order = TopologicalSorter({name: found & MODULES.keys() for name, found in GRAPH.items()})
    assert len(list(order.static_order())) == len(MODULES)


@pytest.mark.parametrize("part", WITHOUT_TORCH)
def test_what_compares_numbers_imports_no_torch(part):
    assert all("torch" not in {other.split(".")[0] for other in GRAPH[name]} for name in GRAPH if within(name, part))


def test_the_check_sees_an_import_wherever_it_stands(tmp_path):
    text = "if True:\n    from companion.lab import store\ndef f():\n    import torch.nn as nn\n"
    (tmp_path / "x.py").write_text(text)
    assert imports(tmp_path / "x.py") == {"companion.lab.store", "torch.nn"}
