"""GPT-2 from scratch, and K of them at once.

:func:`gpt2` builds Hugging Face's model; it is the reference. :func:`stacked_gpt2`
computes the same function for K sets of parameters with one batched matrix product
per layer, under the same parameter names, and only at the positions that matter. The
tests hold the two against each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from companion.arithmetic.compiled import operations
from companion.arithmetic.operations import Embedding, Kept
from sicore.masking import Params
from sicore.seeding import derive, seeded
from sicore.training import check_counts

EMBEDDING = "transformer.wte.weight"


def gpt2(
    *, vocab: int, n_layer: int, n_embd: int = 128, n_head: int = 4, n_positions: int = 4,
    dropout: float = 0.0, seed: int = 0,
) -> nn.Module:  # fmt: skip
    """A randomly initialised Hugging Face ``GPT2LMHeadModel`` (paper, appendix B).

    ``seed`` fixes the initialisation. Raises ``ValueError`` naming the parameter when
    the sizes do not fit together.
    """
    check_counts(vocab=vocab)
    check_sizes(n_layer=n_layer, n_embd=n_embd, n_head=n_head)
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout = {dropout!r}: expected 0 <= dropout < 1")
    from transformers import GPT2Config, GPT2LMHeadModel  # slow to import, so only here

    config = GPT2Config(
        vocab_size=vocab, n_layer=n_layer, n_embd=n_embd, n_head=n_head, n_positions=n_positions,
        resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout,
        bos_token_id=None, eos_token_id=None, use_cache=False,
        attn_implementation="eager",  # the other one has no batching rule for vmap
    )  # fmt: skip
    with seeded(seed, "initialisation"):
        return GPT2LMHeadModel(config)


def check_sizes(*, n_layer: int, n_embd: int, n_head: int) -> None:
    """``ValueError`` naming the first size that is no integer of 1 or more, or that does not fit the others."""
    check_counts(n_layer=n_layer, n_embd=n_embd, n_head=n_head)
    if n_embd % n_head:
        raise ValueError(f"n_embd = {n_embd} is not a multiple of n_head = {n_head}")


class Dropout:
    """Dropout for a stack, with one stream of random bits per model.

    On a CPU a model's bits depend on its own seed and on the step, never on which other
    models share its stack. Bits are drawn 64 at a time and cut into 16-bit pieces, four
    decisions from one draw; the probability is exact to 2^-16. On a GPU one stream
    serves the whole stack: a launch for every model would cost more than the training.
    """

    def __init__(self, p: float, seeds: Sequence[int], device: str | torch.device = "cpu") -> None:
        if not 0 <= p < 1:
            raise ValueError(f"dropout = {p!r}: expected 0 <= dropout < 1")
        self.p, self.seeds = p, list(seeds)
        self.shared = torch.device(device).type != "cpu"
        count = min(1, len(self.seeds)) if self.shared else len(self.seeds)
        self.generators = [torch.Generator(device=device) for _ in range(count)]
        for generator, seed in zip(self.generators, self.seeds, strict=False):
            generator.manual_seed(derive(seed, "dropout"))
        self.active = list(range(len(self.seeds)))

    def start(self, step: int, active: Tensor) -> None:
        """Begin a training step of the active models: restart their streams at this step."""
        if self.shared:
            return  # the stream runs on
        self.active = active.tolist()
        if self.p:
            for index in self.active:
                self.generators[index].manual_seed(derive(self.seeds[index], "dropout", step))

    def keep(self, shape: Sequence[int], device: str | torch.device = "cpu") -> Kept | None:
        """Draw for a tensor [K, ...] of this shape; None without dropout."""
        if not self.p:
            return None
        scale = 1 / (1 - self.p)
        if self.shared:
            return Kept(torch.rand(shape, device=device, generator=self.generators[0]), self.p, scale)
        count = math.prod(shape[1:])
        bits = torch.empty(shape[0], -(-count // 4), dtype=torch.int64)
        for row, index in zip(bits, self.active, strict=True):
            row.random_(-(2**63), None, generator=self.generators[index])
        least = min(round(self.p * 65536) - 32768, 32767)
        return Kept(bits.view(torch.int16)[:, :count].reshape(shape), least, scale)


def stacked_gpt2(
    params: Params,
    tokens: Tensor,
    *,
    n_head: int,
    all_positions: bool = False,
    dropout: Dropout | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Logits of K GPT-2 models, each on its own batch.

    Parameters
    ----------
    params
        Hugging Face's names (without ``lm_head.weight``, which is the embedding), each
        tensor with a leading axis K.
    tokens
        [K, B, T] token numbers.
    all_positions
        Return logits at every position, [K, B, T, V]; otherwise only at the last,
        [K, B, V], and the last layer's projection and MLP are computed only there.
    dropout
        Active dropout, or None for evaluation.
    dtype
        Type of the matrix products and of the activations between them. Attention, the
        activation function and normalisation compute in float32 either way.
    """
    h, embedding = _hidden(params, tokens, n_head, all_positions, dropout, dtype)
    logits = embedding.logits(h)
    return logits.view(*tokens.shape, -1) if all_positions else logits


def stacked_gpt2_loss(
    params: Params,
    tokens: Tensor,
    targets: Tensor,
    *,
    n_head: int,
    dropout: Dropout | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Cross-entropy of K GPT-2 models, [K]: the mean over a model's targets.

    The same as ``F.cross_entropy`` of the logits of :func:`stacked_gpt2`.

    Parameters
    ----------
    targets
        [K, B, T] for a loss at every position, [K, B] for one at the last.
    params, tokens, n_head, dropout, dtype
        As for :func:`stacked_gpt2`.
    """
    h, embedding = _hidden(params, tokens, n_head, targets.dim() == 3, dropout, dtype)
    return embedding.cross_entropy(h, targets.flatten(1)).mean(1)


def _hidden(
    params: Params, tokens: Tensor, n_head: int, all_positions: bool, dropout: Dropout | None, dtype: torch.dtype
) -> tuple[Tensor, Embedding]:
    """What the head reads, after the last norm, [K, B * T, D], or [K, B, D] at the last position; and the head."""
    K, B, T = tokens.shape
    w = {name.removeprefix("transformer."): tensor for name, tensor in params.items()}
    n_layer = 1 + max(int(name.split(".")[1]) for name in w if name.startswith("h."))
    D = w["wte.weight"].shape[2]
    op = operations(w["wte.weight"], dtype)
    embedding = op.Embedding(w["wte.weight"])

    def linear(x: Tensor, name: str) -> Tensor:  # [K, N, in] -> [K, N, out]
        return torch.baddbmm(w[f"{name}.bias"][:, None].to(dtype), x, w[f"{name}.weight"].to(dtype))

    def kept(*shape: int) -> Kept | None:
        return dropout.keep(shape, tokens.device) if dropout is not None else None

    def add_norm(x: Tensor, delta: Tensor, name: str) -> tuple[Tensor, Tensor]:  # [K, N, D] each
        return op.add_norm(x, delta, kept(*x.shape), w[f"{name}.weight"], w[f"{name}.bias"])

    x = (embedding.rows(tokens) + w["wpe.weight"][:, None, :T]).to(dtype).view(K, B * T, D)
    x, h = add_norm(torch.zeros_like(x), x, "h.0.ln_1")
    for layer in range(n_layer):
        rows = linear(h, f"h.{layer}.attn.c_attn").view(K, B, T, 3 * D)
        S = T
        if layer == n_layer - 1 and not all_positions:  # from here on, only the last position
            S, x = 1, x.view(K, B, T, D)[:, :, -1]
        mixed = op.attention(rows, S, n_head, kept(K, B, S, T, n_head)).view(K, B * S, D)
        x, h = add_norm(x, linear(mixed, f"h.{layer}.attn.c_proj"), f"h.{layer}.ln_2")
        h = op.gelu(linear(h, f"h.{layer}.mlp.c_fc"))
        next_norm = f"h.{layer + 1}.ln_1" if layer + 1 < n_layer else "ln_f"
        x, h = add_norm(x, linear(h, f"h.{layer}.mlp.c_proj"), next_norm)
    return h, embedding
