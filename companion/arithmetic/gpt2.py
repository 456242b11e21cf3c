"""GPT-2 from scratch, and K of them at once.

:func:`gpt2` builds Hugging Face's model; it is the reference. :func:`stacked_gpt2`
computes the same function for K sets of parameters with one batched matrix product
per layer, under the same parameter names, and only at the positions that matter. The
tests hold the two against each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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

    def __call__(self, x: Tensor) -> Tensor:
        """Zero a share p of ``x`` [K, ...] and scale the rest by 1 / (1 - p)."""
        if not self.p:
            return x
        if self.shared:
            drawn = torch.rand(x.shape, device=x.device, generator=self.generators[0])
            return x * (drawn >= self.p).to(x.dtype).mul_(1 / (1 - self.p))
        count = x[0].numel()
        bits = torch.empty(len(x), -(-count // 4), dtype=torch.int64, device=x.device)
        for row, index in zip(bits, self.active, strict=True):
            row.random_(-(2**63), None, generator=self.generators[index])
        threshold = min(round(self.p * 65536) - 32768, 32767)
        keep = bits.view(torch.int16)[:, :count].reshape(x.shape) >= threshold
        return x * keep.to(x.dtype).mul_(1 / (1 - self.p))


class _GELU(torch.autograd.Function):
    """GPT-2's ``gelu_new``, through a sigmoid: ``x * sigmoid(x (c + d x^2))``.

    The same function as ``gelu(x, approximate="tanh")``, since 1 + tanh(u) = 2 sigmoid(2u).
    On a CPU torch's tanh takes several times as long as its sigmoid.
    """

    C = 2 * math.sqrt(2 / math.pi)
    D = 0.044715 * C

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        wide = x.float()
        gate = torch.mul(wide, wide).mul_(_GELU.D).add_(_GELU.C).mul_(wide).sigmoid_()
        ctx.save_for_backward(x, gate)
        return (wide * gate).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, gate = ctx.saved_tensors
        wide = x.float()
        slope = torch.mul(wide, wide).mul_(3 * _GELU.D).add_(_GELU.C).mul_(wide)
        return torch.ops.aten.sigmoid_backward(slope, gate).add_(gate).mul_(grad).to(x.dtype)


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
        [K, B, V], and the last layer's queries and MLP are computed only there.
    dropout
        Active dropout, or None for evaluation.
    dtype
        Type of the matrix products and of the activations between them. Attention, the
        activation function and normalisation compute in float32 either way.
    """
    h = _hidden(params, tokens, n_head, all_positions, dropout, dtype)  # [K, B * S, D]
    logits = torch.bmm(h, params[EMBEDDING].to(dtype).transpose(1, 2))
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

    The same as ``F.cross_entropy`` of the logits of :func:`stacked_gpt2`, in fewer passes over them.

    Parameters
    ----------
    targets
        [K, B, T] for a loss at every position, [K, B] for one at the last.
    params, tokens, n_head, dropout, dtype
        As for :func:`stacked_gpt2`.
    """
    h = _hidden(params, tokens, n_head, targets.dim() == 3, dropout, dtype)  # [K, N, D]
    return _CrossEntropy.apply(h, params[EMBEDDING], targets.flatten(1)).mean(1)


class _CrossEntropy(torch.autograd.Function):
    """Cross-entropy of ``h`` [K, N, D] times the embedding [K, V, D], at targets [K, N]: one loss a row, [K, N].

    The logits are the largest tensor of a step. With them, torch's own functions write four tensors of
    their size in float32 (logits, their log-softmax, and a gradient of each), this one two; and the embedding's
    gradient needs no transposing.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, embedding: Tensor, targets: Tensor) -> Tensor:
        weight, places = embedding.to(h.dtype), targets[..., None]
        logits = torch.bmm(h, weight.transpose(1, 2)).float()  # [K, N, V]
        largest = logits.amax(-1, keepdim=True)
        wanted = logits.gather(-1, places) - largest
        exponentials = logits.sub_(largest).exp_()
        total = exponentials.sum(-1, keepdim=True)
        ctx.save_for_backward(h, weight, places, exponentials, total)
        ctx.dtype = embedding.dtype
        return (total.log() - wanted).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        h, weight, places, exponentials, total = ctx.saved_tensors
        grad = grad[..., None]
        of_logits = (exponentials * (grad / total)).scatter_add_(-1, places, -grad).to(h.dtype)  # softmax minus target
        of_embedding = None
        if ctx.needs_input_grad[1]:  # not in a search, where it is constant
            of_embedding = torch.bmm(of_logits.transpose(1, 2), h).to(ctx.dtype)
        return torch.bmm(of_logits, weight), of_embedding, None


def _hidden(
    params: Params, tokens: Tensor, n_head: int, all_positions: bool, dropout: Dropout | None, dtype: torch.dtype
) -> Tensor:
    """What the head reads, after the last norm: [K, B * T, D], or [K, B, D] at the last position."""
    K, B, T = tokens.shape
    drop: Callable[[Tensor], Tensor] = dropout if dropout is not None else lambda x: x
    w = {name.removeprefix("transformer."): tensor for name, tensor in params.items()}
    n_layer = 1 + max(int(name.split(".")[1]) for name in w if name.startswith("h."))
    V, D = w["wte.weight"].shape[1:]
    dh = D // n_head

    def matrix(name: str) -> tuple[Tensor, Tensor]:  # [K, in, out], [K, 1, out]
        return w[f"{name}.weight"].to(dtype), w[f"{name}.bias"][:, None].to(dtype)

    def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # [K, N, in] -> [K, N, out]
        return torch.baddbmm(bias, x, weight)

    def norm(x: Tensor, name: str) -> Tensor:  # [K, N, D] -> [K, N, D]
        scale, shift = w[f"{name}.weight"][:, None].to(dtype), w[f"{name}.bias"][:, None].to(dtype)
        return torch.addcmul(shift, F.layer_norm(x, (D,)), scale)

    # Looked up in float32: the gradient of a token's row is a sum over the batch.
    offsets = torch.arange(K, device=tokens.device)[:, None, None] * V
    x = F.embedding(tokens + offsets, w["wte.weight"].reshape(K * V, D))  # [K, B, T, D]
    x = drop((x + w["wpe.weight"][:, None, :T]).to(dtype)).reshape(K, B * T, D)
    for layer in range(n_layer):
        last = layer == n_layer - 1 and not all_positions
        h = norm(x, f"h.{layer}.ln_1")
        weight, bias = matrix(f"h.{layer}.attn.c_attn")
        if last:  # keys and values everywhere, the query only at the last position
            S, x, top = 1, x.view(K, B, T, D)[:, :, -1], h.view(K, B, T, D)[:, :, -1]
            (wq, wkv), (bq, bkv) = weight.split((D, 2 * D), dim=-1), bias.split((D, 2 * D), dim=-1)
            q = linear(top, wq, bq).float().view(K, B, 1, n_head, dh)
            k, v = linear(h, wkv, bkv).float().view(K, B, T, 2, n_head, dh).unbind(3)
        else:
            S = T
            q, k, v = linear(h, weight, bias).float().view(K, B, T, 3, n_head, dh).unbind(3)
        mixed = attention(q, k, v, drop).to(dtype)
        x = x + drop(linear(mixed.reshape(K, B * S, D), *matrix(f"h.{layer}.attn.c_proj")))
        h = linear(norm(x, f"h.{layer}.ln_2"), *matrix(f"h.{layer}.mlp.c_fc"))
        h = _GELU.apply(h)
        x = x + drop(linear(h, *matrix(f"h.{layer}.mlp.c_proj")))
    return norm(x, "ln_f")


def attention(q: Tensor, k: Tensor, v: Tensor, drop: Callable[[Tensor], Tensor]) -> Tensor:
    """Causal attention: q [K, B, S, H, d] at the last S of T positions, k and v [K, B, T, H, d].

    By sums instead of batched products: with three positions the products are too small for a matrix kernel.
    """
    S, T = q.shape[2], k.shape[2]
    scores = (q[:, :, :, None] * k[:, :, None]).sum(-1) / math.sqrt(q.shape[-1])  # [K, B, S, T, H]
    future = torch.ones(S, T, dtype=torch.bool, device=q.device).triu(T - S + 1)
    weights = drop(scores.masked_fill(future[..., None], -math.inf).softmax(3))
    return (weights[..., None] * v[:, :, None]).sum(3)  # [K, B, S, H, d]
