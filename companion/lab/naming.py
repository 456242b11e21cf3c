"""Settings and the parameters of a notebook that say them, by a table: setting -> parameter.

Of several parameters with spaces between them it is the first that the notebook has.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any


def sayers(names: Mapping[str, str], parameters: Mapping[str, Any]) -> dict[str, str]:
    """Setting -> the one parameter that says it here; without those that none says.

    >>> sayers({"lr": "base_lr", "seeds": "few_seeds seeds"}, {"seeds": [0]})
    {'seeds': 'seeds'}
    """
    found = {setting: [one for one in name.split() if one in parameters] for setting, name in names.items()}
    return {setting: some[0] for setting, some in found.items() if some}


def settings(names: Mapping[str, str], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The settings; ``ValueError`` naming the parameters that are missing."""
    found = sayers(names, parameters)
    if missing := sorted({names[setting].replace(" ", " or ") for setting in names if setting not in found}):
        raise ValueError(f"parameters: {', '.join(missing)} are missing; a notebook of this chain has all of them")
    return {setting: parameters[found[setting]] for setting in names}


def changed(
    parameters: Mapping[str, Any], changes: Mapping[str, Any], names: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The parameters with ``changes`` in their places; ``ValueError`` for a name that is none, nor one of ``names``."""
    known = {*parameters, *" ".join((names or {}).values()).split()}
    if unknown := [name for name in changes if name not in known]:
        raise ValueError(f"changes: {unknown[0]!r} is no parameter; expected some of {', '.join(sorted(known))}")
    return {**parameters, **changes}


@contextlib.contextmanager
def told_by(names: Mapping[str, str]) -> Iterator[None]:
    """In the text of a ``ValueError`` the parameters' names in place of the settings'.

    >>> with told_by({"lr": "row_rates"}):
    ...     raise ValueError("lr = -1: expected a number above 0")
    Traceback (most recent call last):
    ValueError: row_rates = -1: expected a number above 0
    """
    try:
        yield
    except ValueError as error:
        said = re.sub(r"\b[a-z_]+(?= = |: | is empty)", lambda word: names.get(word[0], word[0]), str(error))
        raise ValueError(said) from error
