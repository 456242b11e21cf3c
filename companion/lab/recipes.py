"""The recipe of every kind of object: a word that stands for the numbers that its making gives.

It is part of the key under which an object is stored. Code may be renamed, moved, reworded or sped up: the recipe
stays, and so does everything that is stored. When the numbers of a kind change beyond rounding, give it a word that no
kind has had before; the kinds that are made from it change with it, and what was stored before is *older*, not garbage.
Golden numbers in the tests fail when a change was forgotten.

The other part of the key is the spec, all settings of an object. A new setting would move every object; so it is left
out where it has the value that leaves all as it was before (:func:`without_neutral`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FIRST = "08b6a1d0f8b41665"
"""The word of all kinds at first, which stood in the key when that was made from the code's text."""


@dataclass(frozen=True)
class Recipe:
    """Of one kind of object.

    Parameters
    ----------
    word
        Changed by hand when the numbers of this kind change.
    made_from
        The kind whose objects this one's are made from, or "".
    """

    word: str = FIRST
    made_from: str = ""


RECIPES: dict[str, Recipe] = {
    "base": Recipe(),
    "subnetwork": Recipe(made_from="base"),
    "transfer": Recipe(made_from="subnetwork"),
    "vision_base": Recipe(),
    "vision_head": Recipe(made_from="vision_base"),
    "vision_mask": Recipe(made_from="vision_head"),
    "vision_row": Recipe(made_from="vision_mask"),
}

PICTURES = "3c2b2d0dff95e086"
"""The recipe of the pictures and networks of the vision experiment, part of every spec of it."""


def recipe(kind: str, recipes: Mapping[str, Recipe] = RECIPES) -> str:
    """The word of a kind and, where they differ, of all that it is made from, nearest last.

    Raises ``ValueError`` for a kind without a recipe.

    >>> recipe("transfer") == FIRST
    True
    >>> recipe("mask", {"base": Recipe("b"), "mask": Recipe("m", "base")})
    'b+m'
    """
    words: list[str] = []
    while kind:
        if kind not in recipes:
            raise ValueError(f"kind = {kind!r} has no recipe; there are {', '.join(recipes)}")
        words.insert(0, recipes[kind].word)
        kind = recipes[kind].made_from
    return words[0] if len(set(words)) == 1 else "+".join(words)


def without_neutral(settings: Mapping[str, Any], **neutral: Any) -> dict[str, Any]:
    """The settings, without those that have their neutral value: the one with which all is as it was before them.

    Raises ``ValueError`` for a name that is none of the settings.

    >>> without_neutral({"steps": 5, "pieces": 1}, pieces=1)
    {'steps': 5}
    >>> without_neutral({"steps": 5, "pieces": 2}, pieces=1)
    {'steps': 5, 'pieces': 2}
    """
    if unknown := [name for name in neutral if name not in settings]:
        raise ValueError(f"neutral: {unknown[0]!r} is no setting; there are {', '.join(settings)}")
    return {
        name: value
        for name, value in settings.items()
        # True is 1 in Python, but not in a spec.
        if name not in neutral or (value, isinstance(value, bool)) != (neutral[name], isinstance(neutral[name], bool))
    }
