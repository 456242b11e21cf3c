"""Draw the three pictures of book/method.md: ``python book/figures/method.py`` writes book/_static/method_*.svg.

Orange against blue and grey can be told apart with every common colour vision, and line
width says the same as colour. The white card makes them legible on a dark page.
"""

from pathlib import Path

COLUMNS = [[90, 160, 230], [55, 125, 195, 265], [55, 125, 195, 265], [110, 210]]  # y of the nodes, by layer
X = [45, 135, 225, 315]
SUBNETWORK = {(0, 0, 1), (0, 1, 1), (0, 1, 2), (1, 1, 0), (1, 1, 2), (1, 2, 2), (2, 0, 0), (2, 2, 0)}
ORANGE, BLUE, GREY, INK = "#d55e00", "#0072b2", "#8a8a8a", "#222222"


def picture(title: str, inside: str, outside: str, note: str) -> str:
    """One network: SVG attributes of the edges inside and outside of the subnetwork."""
    edges = [
        (layer, i, j) for layer in range(3) for i in range(len(COLUMNS[layer])) for j in range(len(COLUMNS[layer + 1]))
    ]
    lines = [
        f'<line x1="{X[layer]}" y1="{COLUMNS[layer][i]}" x2="{X[layer + 1]}" y2="{COLUMNS[layer + 1][j]}" '
        f"{inside if (layer, i, j) in SUBNETWORK else outside}/>"
        for layer, i, j in sorted(edges, key=lambda edge: edge in SUBNETWORK)  # the subnetwork on top
    ]
    dots = [
        f'<circle cx="{x}" cy="{y}" r="11" fill="#ffffff" stroke="{INK}" stroke-width="1.8"/>'
        for x, column in zip(X, COLUMNS, strict=True)
        for y in column
    ]
    return "\n".join([
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 360 340" font-family="sans-serif" text-anchor="middle">',
        f"<title>{title}</title>",
        '<rect width="360" height="340" rx="10" fill="#ffffff"/>',
        f'<text x="180" y="28" font-size="20" font-weight="bold" fill="{INK}">{title}</text>',
        *lines,
        *dots,
        f'<text x="180" y="318" font-size="18" fill="{INK}">{note}</text>',
        "</svg>",
        "",
    ])  # fmt: skip


def main() -> None:
    """Write the three files."""
    folder = Path(__file__).parents[1] / "_static"
    kept = f'stroke="{ORANGE}" stroke-width="5"'
    trained = f'stroke="{BLUE}" stroke-width="2"'
    off = f'stroke="{BLUE}" stroke-width="1" stroke-dasharray="3 5" opacity="0.6"'
    fresh = f'stroke="{GREY}" stroke-width="1.6"'
    pictures = [
        ("Base", trained, trained, "all weights trained on a + ab"),
        ("Discovery", kept, off, "orange alone computes ab"),
        ("Transfer", kept, fresh, "orange frozen, grey learns a² + ab"),
    ]
    for number, parts in enumerate(pictures, start=1):
        (folder / f"method_{number}.svg").write_text(picture(*parts), encoding="utf-8")


if __name__ == "__main__":
    main()
