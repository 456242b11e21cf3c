"""Where the project's folders are, and a fingerprint of the code. Imports nothing heavy."""

from __future__ import annotations

import ast
import functools
import hashlib
import os
from pathlib import Path

NUMERIC = (
    "seeding",
    "masking",
    "subnetwork",
    "training",
    "models",
    "arithmetic",
    "discovery",
    "transfer",
    "measure",
    "jobs",
    "experiments",
)
"""Modules whose code decides what a trained object is."""


def project_root() -> Path:
    """Where notebooks, results and the store live.

    The folder in the environment variable ``SICORE_HOME``; else the first folder with a
    ``_toc.yml`` from the working directory upwards, so that a notebook finds the same
    place from the shell's folder and from its own; else the working directory.
    """
    if home := os.environ.get("SICORE_HOME"):
        return Path(home)
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "_toc.yml").is_file()), here)


def tables_folder(scale: str) -> Path:
    """Where a run at ``scale`` writes its result tables.

    ``results/<scale>`` in the project's folder, or the folder in the environment variable
    ``SICORE_TABLES``: a job that computes a part of a table must not write into the whole one.
    """
    if folder := os.environ.get("SICORE_TABLES"):
        return Path(folder)
    return project_root() / "results" / scale


def fingerprint(source: str) -> str:
    """Hash of Python code; comments, docstrings and layout do not count."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            documented = [
                item for item in body if not (isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant))
            ]
            node.body = documented  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


@functools.cache
def code_fingerprint(modules: tuple[str, ...] = NUMERIC) -> str:
    """Hash of the code of some of the package's modules."""
    folder = Path(__file__).parent
    parts = [fingerprint((folder / f"{name}.py").read_text(encoding="utf-8")) for name in modules]
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]
