"""Draw the pictures of book/try.md: ``python book/figures/try_pictures.py`` writes book/_static/try_*.

``try_pictures.png`` has the pictures, 8 a row, at 32 x 32 pixels as the networks see them;
``try_classes.png`` the silhouettes of the 16 classes above their textures; ``try_pictures.json``
says what each picture is. The seed belongs to no run of the experiments, so no network was
trained on these pictures.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from companion.vision.scenes import CLASSES, SHAPES, TEXTURES, Difficulty, draw_scenes, images, mean_pooled, silhouettes
from companion.vision.scenes import texture_only as textures

SEED = 1999
COUNTS = {"mean_pooled": 20, "ordinary": 20, "cue_conflict": 16}
SIDE, ROW, ICON = 32, 8, 48  # pixels, pictures, pixels
TURN = math.radians(45)  # as the networks' pictures: params/quick.yaml, object_turn
TARGET = Path(__file__).parents[1] / "_static"


def balanced(count: int, rng: torch.Generator) -> Tensor:
    """Classes in random order, each as often as any other or once more."""
    rounds = [torch.randperm(CLASSES, generator=rng) for _ in range(-(-count // CLASSES))]
    return torch.cat(rounds)[:count]


def sprite(pictures: Tensor, columns: int) -> Image.Image:
    """Pictures [N, 3, H, W], uint8, side by side; N is a multiple of ``columns``."""
    _, channels, height, width = pictures.shape
    grid = pictures.view(-1, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    return Image.fromarray(grid.reshape(-1, columns * width, channels).numpy())


def main() -> None:
    rng = torch.Generator().manual_seed(SEED)
    drawn, told = [], []
    for kind, count in COUNTS.items():
        shape = balanced(count, rng)
        # The texture of a cue conflict is that of another class.
        other = (shape + torch.randint(1, CLASSES, (count,), generator=rng)) % CLASSES
        texture = other if kind == "cue_conflict" else shape
        scenes = draw_scenes(shape, texture, rng, difficulty=Difficulty(turn=TURN))
        drawn.append(mean_pooled(scenes, SIDE) if kind == "mean_pooled" else images(scenes, SIDE))
        told += [
            {"kind": kind, "shape": s, "texture": t} for s, t in zip(shape.tolist(), texture.tolist(), strict=True)
        ]
    sprite(torch.cat(drawn), ROW).save(TARGET / "try_pictures.png", optimize=True)
    # Icons: upright, in the middle, black on white; the textures as wide as in a picture.
    still = Difficulty(size=(0.85, 0.85), shift=0, aspect=0, turn=0, warp=0, texture_turn=0, period=(4, 4))
    classes = torch.arange(CLASSES)
    scenes = draw_scenes(classes, classes, rng, difficulty=still)
    scenes.colours[:, 0], scenes.colours[:, 1] = 1, 0
    icons = torch.cat([silhouettes(scenes, ICON), textures(scenes, ICON)])
    sprite(icons, CLASSES).convert("L").save(TARGET / "try_classes.png", optimize=True)
    data = {"side": SIDE, "row": ROW, "shapes": SHAPES, "textures": TEXTURES, "pictures": told}
    (TARGET / "try_pictures.json").write_text(json.dumps(data) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
