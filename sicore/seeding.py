"""Random streams that depend on a seed and a purpose, and on nothing else.

Adding a condition, a model or a seed to an experiment must not change any other
result, so no two purposes share a stream: each draws from its own generator, made
from a hash of (seed, purpose).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose.

    >>> derive(0, "batches", 1) == derive(0, "batches", 1)
    True
    >>> derive(0, "batches", 1) == derive(0, "batches", 2)
    False

    Raises ``ValueError`` when ``seed`` is not a non-negative integer.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed = {seed!r}: a seed is an integer of 0 or more")
    text = "/".join([str(seed), *(str(part) for part in purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """A ``torch.Generator`` on ``device`` for one purpose."""
    return torch.Generator(device=device).manual_seed(derive(seed, *purpose))


@contextlib.contextmanager
def seeded(seed: int, *purpose: str | int) -> Iterator[None]:
    """Seed torch's global CPU stream inside the block and restore it afterwards.

    For code of other libraries that takes no generator, such as the initialisation
    of a Hugging Face model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, *purpose))
        yield
