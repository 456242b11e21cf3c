"""A training step that is captured once and replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Replay:
    """A training step on a GPU, captured as a CUDA graph: one launch in place of thousands.

    The first calls run the step as it is, on a side stream, so that what is set up once
    is set up; then it is recorded, and every further call plays the recording.

    Parameters
    ----------
    run
        ``step (a tensor) -> losses``; changes parameters in place.
    streams
        Generators that it draws from.
    capture
        ``(run, step, streams) -> (replay, losses)``; another one in tests.
    """

    WARM_UP = 3

    def __init__(
        self, run: Callable[[Tensor], Tensor], device: torch.device, streams: Sequence[torch.Generator] = (),
        capture: Callable[..., tuple[Callable[[], None], Tensor]] | None = None,
    ) -> None:  # fmt: skip
        self.run, self.streams, self.capture = run, streams, capture or _capture
        self.step = torch.zeros((), dtype=torch.int64, device=device)
        self.side = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.calls = 0
        self.replay: Callable[[], None] | None = None
        self.value = self.step

    def __call__(self, step: int) -> Tensor:
        self.step.fill_(step)
        self.calls += 1
        if self.calls <= self.WARM_UP:
            if self.side is None:
                return self.run(self.step)
            self.side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.side):
                value = self.run(self.step)
            torch.cuda.current_stream().wait_stream(self.side)
            return value
        if self.replay is None:
            self.replay, self.value = self.capture(self.run, self.step, self.streams)
        self.replay()
        return self.value


def _capture(
    run: Callable[[Tensor], Tensor], step: Tensor, streams: Sequence[torch.Generator]
) -> tuple[Callable[[], None], Tensor]:
    graph = torch.cuda.CUDAGraph()
    for stream in streams:
        graph.register_generator_state(stream)
    with torch.cuda.graph(graph):
        value = run(step)
    return graph.replay, value
