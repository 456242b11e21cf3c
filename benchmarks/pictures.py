"""Mean pooling beside painting region by region, and how fast scenes are drawn. One thread.

Photographs of 500 x 375 pixels with 100 regions, of the sizes that a segmenter gives: a
few large, many small, overlapping. Both ways take turns on the same images. A label image of
2,048 x 2,048 pixels with 2,000 regions beside them: as masks it would take 7.8 GiB.

    python benchmarks/pictures.py
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from companion.lab import tables as results
from companion.vision import scenes as vision
from sicore.seeding import generator

WIDTH, HEIGHT, REGIONS = 500, 375, 100


def photograph(seed: int) -> tuple[Tensor, Tensor]:
    """A random image and overlapping discs, from 10 to 250 pixels wide, evenly over the logarithm."""
    rng = generator(seed, "benchmark")
    image = torch.randint(0, 256, (3, HEIGHT, WIDTH), dtype=torch.uint8, generator=rng)
    middle = torch.rand(REGIONS, 2, generator=rng) * torch.tensor([WIDTH, HEIGHT])
    radius = 5 * 25 ** torch.rand(REGIONS, 1, 1, generator=rng)
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    masks = (x - middle[:, :1, None]) ** 2 + (y - middle[:, 1:, None]) ** 2 < radius**2
    return image, masks


def painted(image: Tensor, masks: Tensor) -> Tensor:
    """Region by region with NumPy, largest first, as it is usually written."""
    pixels, regions = image.permute(1, 2, 0).numpy(), masks.numpy()
    result, free = pixels.copy(), np.ones((HEIGHT, WIDTH), dtype=bool)
    for region in regions[np.argsort(-regions.reshape(REGIONS, -1).sum(1), kind="stable")]:
        result[region] = pixels[region].mean(0).round()
        free &= ~region
    if free.any():
        result[free] = pixels[free].mean(0).round()
    return torch.from_numpy(result).permute(2, 0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--scenes", type=int, default=5000)
    parser.add_argument("--write", action="store_true", help="write the table to results/benchmark/")
    given = parser.parse_args()
    torch.set_num_threads(1)
    start = time.monotonic()
    times: dict[str, list[float]] = {"painting region by region": [], "one product a region and one gather": []}
    worst = 0
    for seed in range(given.images + 1):
        image, masks = photograph(seed)
        found = []
        for name, pool in zip(times, (painted, vision.mean_pool), strict=True):
            began = time.perf_counter()
            found.append(pool(image, masks).int())
            if seed:  # the first one warms up
                times[name].append(time.perf_counter() - began)
        worst = max(worst, int((found[0] - found[1]).abs().max()))
    slow, fast = times.values()
    ratio = statistics.median(a / b for a, b in zip(slow, fast, strict=True))
    rows = [
        (name, round(1e3 * statistics.median(values), 1), round(1 / statistics.median(values), 1), round(faster, 1))
        for (name, values), faster in zip(times.items(), (1.0, ratio), strict=True)
    ]
    large = torch.randint(0, 256, (3, 2048, 2048), dtype=torch.uint8, generator=generator(0, "benchmark", "large"))
    labels = torch.arange(2048 * 2048).view(2048, 2048) // (2048 * 2048 // 2000)
    vision.mean_pool(large, labels)
    began = time.perf_counter()
    vision.mean_pool(large, labels)
    each = time.perf_counter() - began
    rows.append(("a label image of 2,048 x 2,048 pixels", round(1e3 * each, 1), round(1 / each, 1), ""))
    classes = torch.randint(0, vision.CLASSES, (given.scenes,), generator=generator(0, "benchmark"))
    began = time.perf_counter()
    vision.images(vision.draw_scenes(classes, classes, generator(0, "benchmark", "scenes")))
    each = (time.perf_counter() - began) / given.scenes
    rows.append(("drawing a scene of 32 x 32 pixels", round(1e3 * each, 2), round(1 / each), ""))
    table = pd.DataFrame(rows, columns=["what", "ms an image", "images a second", "times faster"])
    print(table.to_string(index=False), f"\nlargest difference: {worst} grey levels")
    if given.write:
        parameters = vars(given) | {"largest_difference": worst}
        results.write_benchmark("pictures", table, parameters=parameters, began=start)


if __name__ == "__main__":
    main()
