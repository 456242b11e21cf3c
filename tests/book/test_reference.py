"""The reference has everything that is public."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "book" / "api.md").read_text(encoding="utf-8")
WHOLE = set(re.findall(r"^\.\. automodule:: (\S+)\n   :members:$", PAGE, re.MULTILINE))
SINGLE = set(re.findall(r"^\.\. auto(?:function|class|data):: (\S+)$", PAGE, re.MULTILINE))
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for room in ("sicore", "companion")
    for path in sorted((ROOT / room).rglob("[!_]*.py"))
}


@pytest.mark.parametrize("module", MODULES)
def test_every_public_function_and_class_is_in_the_reference(module):
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    kinds = ast.FunctionDef | ast.ClassDef
    public = {node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")}
    missing = [name for name in sorted(public) if module not in WHOLE and f"{module}.{name}" not in SINGLE]
    assert missing == []


def test_the_reference_names_nothing_that_has_gone():
    assert MODULES.keys() >= WHOLE | {name.rpartition(".")[0] for name in SINGLE}
