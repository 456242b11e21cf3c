"""Figures in one house style. Every function takes a tidy table and returns a ``Figure``.

What a start is called, and its colour, marker and dash, are those of the two tables of starts.
"""

from matplotlib.figure import Figure

from companion.figures.arithmetic import (
    against_paper,
    bases_and_draws,
    by_density,
    density_by_matrix,
    depth_curves,
    discovery_curves,
    learning_curves,
    mask_forming,
    mask_images,
    named_curves,
    solutions,
    tradeoff,
    transfer_curves,
)
from companion.figures.mixed import gate_densities, gate_entropies, gradient_noise, triangle_draws
from companion.figures.style import close, dots, house_style, label, picture_grid, pretty
from companion.figures.vision import (
    answers_grid,
    decisions,
    decisions_by_class,
    density_by_layer,
    filter_shares,
    search_curves,
    vision_curves,
)

__all__ = [
    "Figure", "against_paper", "answers_grid", "bases_and_draws", "by_density", "close", "decisions",
    "decisions_by_class", "density_by_layer", "density_by_matrix", "depth_curves", "discovery_curves", "dots",
    "filter_shares", "gate_densities", "gate_entropies", "gradient_noise", "house_style", "label",
    "learning_curves", "mask_forming", "mask_images", "named_curves", "picture_grid", "pretty", "search_curves",
    "solutions", "tradeoff", "transfer_curves", "triangle_draws", "vision_curves",
]  # fmt: skip
