"""Training of a classifier of the vision experiment beside a plain loop with a DataLoader. One thread.

The same network (ResNet-18's layout at width 16, 5 x 5 stem with stride 2), the same drawn
pictures, the same optimiser. Both take turns, so that a change of the machine's speed hits both.

    python benchmarks/vision.py            # prints; --write: to results/benchmark/
    python benchmarks/vision.py --device cuda
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import pandas as pd
import torch
import torch.nn.functional as F
from step import matmul_rate
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from companion.lab import tables as results
from companion.lab.make import Machine
from companion.vision import classifiers, pictures
from companion.vision import stages as ve
from companion.vision.specs import Base
from sicore.files import canonical_json
from sicore.masking import maskable
from sicore.stacks import stack, state_of
from sicore.training import Run, Watch, keep_freed_memory, train
from sicore.transfer import Start, transfer

MODEL = {"resnet": {"width": 16, "stem": 5, "stride": 2}}


class Shelf(Dataset):  # type: ignore[type-arg]
    """Pictures one at a time, transformed as torchvision's examples do."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels
        self.transform = v2.Compose(
            [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.transform(self.images[row]), self.labels[row]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=15, help="in a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="write the table to results/benchmark/")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    start, device = time.monotonic(), torch.device(given.device)
    data = {
        **pictures.scenes(pretraining=16, training=given.batch * given.steps, discovery=16, evaluation=16),
        "seed": 0,
    }
    known = pictures.pictures(data, "training")
    base = Base(data=data, model=MODEL)
    model = base.headed().to(device)
    call = ve.Call(base.headed(), base, Machine.open(device=given.device))
    losses = call.losses(training=True)
    begin = {name: tensor.to(device) for name, tensor in state_of(model).items()}
    held = {name: torch.rand(begin[name].shape, device=device) < 0.25 for name in maskable(model)}
    shelf = Shelf(known.take(torch.arange(len(known)), None), known.labels)
    order = torch.Generator().manual_seed(0)
    watch, run = Watch(every=given.steps), Run(capture=False)

    def plain() -> None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for images, labels in DataLoader(shelf, given.batch, shuffle=True, generator=order):
            optimizer.zero_grad()
            F.cross_entropy(classifiers.scores(model.train(), images.to(device)), labels.to(device)).backward()
            optimizer.step()

    def batches() -> pictures.Batches:
        return pictures.Batches([(known, 1.0)], batch=given.batch, steps=given.steps, seed=0, device=device)

    ways: dict[str, Callable[[], object]] = {
        "plain loop with a DataLoader": plain,
        "training": lambda: train(losses, stack([begin]), batches(), steps=given.steps, lr=1e-3, watch=watch, run=run),
        "transfer, a quarter of the weights held": lambda: transfer(
            losses, [Start(begin, held)], batches(), steps=given.steps, lr=1e-3, watch=watch, run=run
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(given.rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first one warms up
                times[name].append((time.perf_counter() - began) / given.steps)
    first = next(iter(times.values()))
    products = 3 * ve.forward_operations(canonical_json(MODEL), data["size"]) * given.batch
    floor = products / matmul_rate(torch.float32) if device.type == "cpu" else float("nan")
    rows = [
        (
            name, round(1e3 * statistics.median(values), 1), round(given.batch / statistics.median(values)),
            round(statistics.median(a / b for a, b in zip(first, values, strict=True)), 2),
            round(floor / statistics.median(values), 2),
        ) for name, values in times.items()
    ]  # fmt: skip
    table = pd.DataFrame(
        rows, columns=["what", "ms a step", "images a second", "times faster", "share of the matmul peak"]
    )
    print(table.to_string(index=False), f"\n{products / 1e9:.2f} GFLOP a step, floor {1e3 * floor:.1f} ms")
    if given.write:
        results.write_benchmark("vision", table, parameters=vars(given), began=start)


if __name__ == "__main__":
    main()
