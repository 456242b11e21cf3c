"""What the package asks for, and what it shows."""

import ast
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import sicore as si

ROOT = Path(si.__file__).parents[1]
NEEDED = {"torch", "numpy", "safetensors", "tqdm"}


def loaded_by(statement):
    """Top-level packages beside Python's own that a fresh process has after one statement."""
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split()) - set(sys.stdlib_module_names)


def test_importing_it_loads_nothing_but_the_four_packages_and_what_they_load():
    loaded = loaded_by("import sicore")
    assert loaded - loaded_by("import torch, numpy, safetensors.torch, tqdm") == {"sicore"}
    assert not loaded & {"companion", "pandas", "transformers", "torchvision", "scipy", "matplotlib", "PIL", "yaml"}


def test_no_file_of_it_imports_anything_else_later():
    for path in sorted((ROOT / "sicore").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) <= NEEDED | {"sicore"}, path


def test_installing_it_asks_for_the_four_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {line.split(">")[0] for line in project["dependencies"]} == NEEDED
    assert project["version"] == si.__version__


def test_every_public_name_is_there_and_explained():
    assert si.__all__ == sorted(si.__all__)
    for name in si.__all__:
        thing = getattr(si, name)
        if inspect.isfunction(thing) or inspect.isclass(thing):
            assert thing.__doc__, name
            assert thing.__module__.startswith("sicore."), name


def test_the_functions_that_one_begins_with_have_examples():
    for thing in (si.maskable, si.vmapped, si.discover, si.Subnetwork, si.start, si.transfer, si.train):
        assert ">>> " in thing.__doc__, thing
