"""What lies between the matrix products of K stacked GPT-2s, in torch's own operations, for any device.

compiled.cpp has the same for a processor, in one pass each; :func:`companion.arithmetic.compiled.operations`
chooses. Arithmetic is in float32, whatever the activations' type.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Kept(NamedTuple):
    """A draw of dropout: entries whose bits are at least ``least`` stay, and are multiplied by ``scale``.

    ``bits`` has the shape of what is dropped: integers on a processor, numbers from 0 to 1 on a GPU.
    """

    bits: Tensor
    least: float
    scale: float


def dropped(x: Tensor, kept: Kept | None) -> Tensor:
    """``x`` with the entries that do not stay set to 0, and the others scaled."""
    return x if kept is None else x * (kept.bits >= kept.least).to(x.dtype).mul_(kept.scale)


def numbered(tokens: Tensor, weight: Tensor) -> Tensor:
    """Rows of K embeddings [K, V, D] laid one below the other, for tokens [K, ...]."""
    first = torch.arange(len(weight), device=tokens.device) * weight.shape[1]
    return tokens + first.view(-1, *[1] * (tokens.dim() - 1))


def gelu(x: Tensor) -> Tensor:
    """GPT-2's GELU, with the tanh."""
    return F.gelu(x, approximate="tanh")


def add_norm(x: Tensor, delta: Tensor, kept: Kept | None, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """``x + dropped(delta)``, and its layer norm: x, delta [K, N, D], weight, bias [K, D] in float32."""
    x = x + dropped(delta, kept)
    wide = F.layer_norm(x.float(), x.shape[-1:])
    return x, torch.addcmul(bias[:, None], wide, weight[:, None]).to(x.dtype)


def attention(rows: Tensor, positions: int, n_head: int, kept: Kept | None) -> Tensor:
    """Causal attention at the last ``positions``, S, of T.

    Parameters
    ----------
    rows
        [K, B, T, 3 D]: queries, keys and values.
    kept
        Of the weights, [K, B, S, T, n_head].

    Returns
    -------
    Tensor
        The mixed values, [K, B, S, D].
    """
    K, B, T, width = rows.shape
    q, k, v = rows.float().view(K, B, T, 3, n_head, width // 3 // n_head).unbind(3)
    # By sums: with three positions batched products are too small for a matrix kernel.
    scores = (q[:, :, -positions:, None] * k[:, :, None]).sum(-1) / math.sqrt(q.shape[-1])  # [K, B, S, T, H]
    future = torch.ones(positions, T, dtype=torch.bool, device=q.device).triu(T - positions + 1)
    weights = dropped(scores.masked_fill(future[..., None], -math.inf).softmax(3), kept)
    return (weights[..., None] * v[:, :, None]).sum(3).flatten(3).to(rows.dtype)


class Embedding:
    """The embeddings of K models, ``weight`` [K, V, D], in their two uses: for the tokens read, and as the head."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def rows(self, tokens: Tensor) -> Tensor:
        """Looked up, tokens [K, B, T] -> [K, B, T, D]: in float32, as the gradient of a row is a sum over the batch."""
        return F.embedding(numbered(tokens, self.weight), self.weight.flatten(0, 1))

    def logits(self, h: Tensor) -> Tensor:
        """[K, N, D] -> [K, N, V]."""
        return torch.bmm(h, self.weight.to(h.dtype).transpose(1, 2))

    def cross_entropy(self, h: Tensor, targets: Tensor) -> Tensor:
        """Of the logits of ``h`` [K, N, D] at targets [K, N]: one loss a row, [K, N]."""
        logits = self.logits(h).float()
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
