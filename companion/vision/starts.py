"""The table of starts of the vision experiment: what a network starts from, on what it trains, how figures show it.

The one place where a start is added: code, figures, comparisons and pages read it from here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from companion.palette import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY

INHERITED = ("norms", "biases", "tokens", "head")
"""What the released code copies beside the masked weights, all that is no kernel, the trained head too."""

_BODY = INHERITED[:-1]
_SHOWN = ("name", "label", "colour", "marker", "dash", "published")


@dataclass(frozen=True)
class Condition:
    """A row of the table: what a network starts from, what is trained, on which pictures.

    Parameters
    ----------
    name
        In tables, the column ``condition``.
    label, colour, marker, dash
        In figures, as Matplotlib takes them. No two rows have the same label.
    copied
        Which of the base's maskable weights: ``subnetwork``, ``sampled`` (as many, drawn at random
        layer by layer), ``everything`` or ``nothing``.
    inherit
        Groups of further parameters that are copied.
    freeze
        Hold the copied weights.
    train
        False: evaluated as it is.
    mixture
        Mean-pooled pictures for every ordinary one in a pass; None for as many as there are.
    balanced
        Every class equally often in a batch.
    random_base
        From a network that was never trained, with the subnetwork that was found in it.
    after
        Name of the condition from whose end this one goes on, with all weights trained. Each has half the steps.
    published
        The paper's name, in ``results/published``; "" where it has no such curve.
    """

    name: str
    label: str
    colour: str
    marker: str
    dash: str
    copied: str
    inherit: tuple[str, ...] = INHERITED
    freeze: bool = False
    train: bool = True
    mixture: float | None = 0.0
    balanced: bool = False
    random_base: bool = False
    after: str = ""
    published: str = ""

    def json(self) -> dict[str, Any]:
        """What decides the trained network, as stored specs have it: all but the name and the looks."""
        said = {key: value for key, value in asdict(self).items() if key not in _SHOWN}
        return said | {"inherit": list(self.inherit)}


_ALL = (
    Condition("scratch", "from scratch", BLACK, "x", ":", "nothing", inherit=(), published="random_init"),
    Condition("new_head", "pretrained, new head", ORANGE, "P", "-", "everything", train=False),
    Condition("fine_tuning", "full fine-tuning", BLUE, "s", "-", "everything", inherit=_BODY),
    Condition("lp_ft", "new head, then fine-tuning (LP-FT)", BLUE, "D", "--", "everything"),
    Condition("mixture_as_is", "mixture, as it is", PURPLE, "v", "--", "everything", inherit=_BODY, mixture=None),
    Condition(
        "mixture_1_to_4", "mixture, 1 pooled to 4", PURPLE, "<", "-.", "everything", inherit=_BODY, mixture=0.25
    ),
    Condition("mixture_1_to_1", "mixture, 1 to 1", PURPLE, "d", "-", "everything", inherit=_BODY, mixture=1.0),
    Condition(
        "mixture_1_to_1_balanced", "mixture, 1 to 1, balanced", PURPLE, ">", ":", "everything", inherit=_BODY,
        mixture=1.0, balanced=True,
    ),
    Condition("subnetwork", "subnetwork, held", RED, "o", "-", "subnetwork", freeze=True, published="subnetwork"),
    Condition(
        "subnetwork_fresh_head", "subnetwork, fresh head", RED, "^", "--", "subnetwork", inherit=_BODY, freeze=True
    ),
    Condition(
        "subnetwork_fresh_norms", "subnetwork, fresh norms", RED, "v", "--", "subnetwork", inherit=("head",),
        freeze=True,
    ),
    Condition(
        "subnetwork_alone", "subnetwork alone (as described)", RED, "*", ":", "subnetwork", inherit=(), freeze=True
    ),
    Condition("subnetwork_trainable", "subnetwork, trainable", RED, "h", "-.", "subnetwork"),
    Condition(
        "subnetwork_then_free", "subnetwork, held then trainable", RED, "p", "-.", "subnetwork", after="subnetwork"
    ),
    Condition("sampled", "random subset of its size", GREEN, "^", "-", "sampled", freeze=True),
    Condition("inherited_only", "norms and head, no subnetwork", SKY, "+", "-", "nothing"),
    Condition(
        "random_network", "subnetwork of an untrained network", GREEN, "v", ":", "subnetwork", freeze=True,
        random_base=True,
    ),
)  # fmt: skip

CONDITIONS: dict[str, Condition] = {one.name: one for one in _ALL}
"""Every start by its name, in the order of figures and tables."""
