"""The table of starts of the arithmetic experiment: what a transfer starts from, and how figures show it.

The one place where a start is added: code, figures, comparisons and pages read it from here.
"""

from __future__ import annotations

from dataclasses import dataclass

from companion.palette import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY


@dataclass(frozen=True)
class Condition:
    """What a transfer starts from.

    Parameters
    ----------
    name
        In tables, the column ``start``.
    label, colour, marker, dash
        In figures, as Matplotlib takes them. No two starts have the same label.
    copied
        Which weights of the masked layers come from the base: ``subnetwork`` (the
        discovered one), ``sampled`` or ``complement`` (the random controls),
        ``full_model`` (all, and all else too), or ``nothing``.
    behaviour
        Of a random control: ``as_described`` in the paper, ``as_released`` in its code.
    inherit
        Groups of further parameters to copy; None for what the settings of the transfer say.
    freeze
        Hold the copied weights; None for what the settings say.
    complete
        Of a complete search, which masks the embeddings too.
    published
        The paper's name, in ``results/published``; "" where it has no such curve.
    """

    name: str
    label: str
    colour: str
    marker: str
    dash: str
    copied: str
    behaviour: str = ""
    inherit: tuple[str, ...] | None = None
    freeze: bool | None = None
    complete: bool = False
    published: str = ""

    @property
    def pair(self) -> tuple[str, str]:
        """The name in two parts, as tables have it in the columns ``condition`` and ``behaviour``.

        >>> CONDITIONS["sampled_as_released"].pair, CONDITIONS["inherited_only"].pair
        (('sampled', 'as_released'), ('inherited_only', ''))
        """
        condition, _, behaviour = self.name.removeprefix("complete_").partition("_as_")
        return condition, f"as_{behaviour}" if behaviour else ""


_SUBSET, _OUTSIDE = "random subset", "outside the subnetwork"

_ALL = (
    Condition("subnetwork", "subnetwork", RED, "o", "-", "subnetwork", published="subnetwork"),
    Condition("full_model", "full model", BLUE, "s", "-", "full_model", freeze=False, published="full_model"),
    Condition("sampled_as_described", f"{_SUBSET} (as described)", GREEN, "^", "-", "sampled", "as_described"),
    # The released code made the controls of the paper's figures.
    Condition(
        "sampled_as_released", f"{_SUBSET} (as released)", GREEN, "v", "--", "sampled", "as_released",
        published="sampled",
    ),
    Condition("complement_as_described", f"{_OUTSIDE} (as described)", PURPLE, "D", "-", "complement", "as_described"),
    Condition(
        "complement_as_released", f"{_OUTSIDE} (as released)", PURPLE, "d", "--", "complement", "as_released",
        published="sampled_complement",
    ),
    Condition("inherited_only", "only embeddings, norms, biases", ORANGE, "P", "-", "nothing"),
    Condition(
        "random_initialisation", "random initialisation", BLACK, "x", ":", "nothing", inherit=(),
        published="random_init",
    ),
    # Appendix B.3: the same weights as a starting point, not held.
    Condition("subnetwork_trainable", "subnetwork, trained on", RED, "h", "-.", "subnetwork", freeze=False),
    Condition(
        "sampled_as_described_trainable", f"{_SUBSET} (as described), trained on", GREEN, "<", "-.", "sampled",
        "as_described", freeze=False,
    ),
    Condition(
        "sampled_as_released_trainable", f"{_SUBSET} (as released), trained on", GREEN, ">", ":", "sampled",
        "as_released", freeze=False,
    ),
    # Which inherited part brings what.
    Condition("subnetwork_alone", "subnetwork alone (as described)", RED, "*", ":", "subnetwork", inherit=()),
    Condition(
        "subnetwork_with_embeddings", "subnetwork + embeddings", RED, "^", "--", "subnetwork",
        inherit=("embeddings",),
    ),
    Condition("subnetwork_with_norms", "subnetwork + norms", RED, "v", "--", "subnetwork", inherit=("norms",)),
    Condition("subnetwork_with_biases", "subnetwork + biases", RED, "s", "--", "subnetwork", inherit=("biases",)),
    Condition("sampled_alone", f"{_SUBSET} alone", GREEN, "*", ":", "sampled", "as_described", inherit=()),
    Condition("embeddings_only", "only embeddings", ORANGE, "X", "--", "nothing", inherit=("embeddings",)),
    # A subnetwork that needs nothing beside itself.
    Condition(
        "complete_subnetwork_alone", "complete subnetwork alone", SKY, "*", "-", "subnetwork", inherit=(),
        complete=True,
    ),
    Condition(
        "complete_sampled_alone", f"{_SUBSET} of its size alone", SKY, "x", ":", "sampled", "as_described", inherit=(),
        complete=True,
    ),
)  # fmt: skip

CONDITIONS: dict[str, Condition] = {one.name: one for one in _ALL}
"""Every start by its name."""

MAIN: tuple[str, ...] = (
    "subnetwork",
    "full_model",
    "sampled_as_described",
    "sampled_as_released",
    "complement_as_described",
    "complement_as_released",
    "inherited_only",
    "random_initialisation",
)
"""Names of the starts of the main figure, in its order."""


def of(condition: str, behaviour: str = "") -> Condition:
    """The start that a table names by the columns ``condition`` and ``behaviour``; ``KeyError`` where there is none.

    >>> of("complement", "as_released").label
    'outside the subnetwork (as released)'
    """
    for one in _ALL:
        if one.pair == (condition, behaviour):
            return one
    raise KeyError(f"condition = {condition!r} with behaviour = {behaviour!r}: no start in the table has this pair")
