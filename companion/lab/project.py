"""Where the project's folders are. Imports nothing heavy."""

from __future__ import annotations

import os
from pathlib import Path


def project_root() -> Path:
    """Where notebooks, results and the store live.

    The folder in the environment variable ``COMPANION_HOME``; else the first folder with a
    ``_toc.yml`` from the working directory upwards, so that a notebook finds the same
    place from the shell's folder and from its own; else the working directory.
    """
    if home := os.environ.get("COMPANION_HOME"):
        return Path(home)
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "_toc.yml").is_file()), here)


def reference_folder() -> Path:
    """The committed tables, one folder a scale: ``results`` in the project's folder."""
    return project_root() / "results"


def tables_folder() -> Path:
    """Where a run writes its tables, one folder a scale.

    ``runs`` in the project's folder, which git ignores; or the folder in the environment variable
    ``COMPANION_TABLES``, which ``python -m companion run --reference`` sets to :func:`reference_folder`.
    """
    if folder := os.environ.get("COMPANION_TABLES"):
        return Path(folder)
    return project_root() / "runs"


def writes_reference() -> bool:
    """Do runs write their tables into the reference itself?"""
    return tables_folder().resolve() == reference_folder().resolve()
