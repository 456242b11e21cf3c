"""The operations of :mod:`companion.arithmetic.operations` in C++, for a processor where there is a compiler.

compiled.cpp is built at its first use by torch's own loader, and kept among the user's caches. The two kinds agree but
for rounding. Without a compiler, and on a GPU, torch's own operations are used.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from companion.arithmetic import operations as plain
from companion.arithmetic.operations import Kept

SOURCE = Path(__file__).with_name("compiled.cpp")
NAME = "sicore_gpt2"  # the namespace in the source
_WHOLE = (None, 0, 1.0)  # a draw of no dropout
FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-fopenmp"]


def operations(params: Tensor, dtype: torch.dtype) -> ModuleType:
    """The module with the operations for such parameters and activations: this one where it can, or the plain one."""
    able = params.device.type == "cpu" and params.dtype == torch.float32 and dtype in (torch.float32, torch.bfloat16)
    return sys.modules[__name__] if able and built() else plain


@functools.cache
def built() -> bool:
    """Are the compiled operations there? Builds them when they are not: a quarter of a minute, once a machine."""
    try:
        library = folder() / f"{NAME}.so"
        if library.is_file():
            torch.ops.load_library(library)
        else:
            build(library)
    except (ImportError, OSError, RuntimeError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        reason = next((line for line in lines if "error:" in line), lines[0])
        print(f"Training is slower without its compiled operations: {reason}", file=sys.stderr)
        return False
    return True


def folder() -> Path:
    """Where the library of this source, this torch and this processor is kept."""
    processor = platform.processor()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line for line in lines if line.startswith(("flags", "Features")))
    what = repr([SOURCE.read_text(), FLAGS, torch.__version__, platform.platform(), processor])
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches, "sicore", hashlib.sha256(what.encode()).hexdigest()[:16])


def build(library: Path) -> None:
    """Compile the source, load it, and put the library in its place, whole."""
    import ninja

    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns where a machine has no GPU
    from torch.utils import cpp_extension

    if shutil.which(compiler := cpp_extension.get_cxx_compiler()) is None:
        raise OSError(f"there is no C++ compiler {compiler!r}")
    library.parent.mkdir(parents=True, exist_ok=True)
    path = os.environ.get("PATH", "")
    with tempfile.TemporaryDirectory(dir=library.parent) as place:
        try:
            os.environ["PATH"] = os.pathsep.join([path, ninja.BIN_DIR])
            cpp_extension.load(
                NAME, [str(SOURCE)], extra_cflags=FLAGS, extra_ldflags=["-fopenmp"], build_directory=place,
                is_python_module=False,
            )  # fmt: skip
        finally:
            os.environ["PATH"] = path
        os.replace(Path(place, library.name), library)


def gelu(x: Tensor) -> Tensor:
    return _GELU.apply(x)


def add_norm(x: Tensor, delta: Tensor, kept: Kept | None, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return _AddNorm.apply(x, delta, *(kept or _WHOLE), weight, bias)


def attention(rows: Tensor, positions: int, n_head: int, kept: Kept | None) -> Tensor:
    return _Attention.apply(rows, positions, n_head, *(kept or _WHOLE))


class Embedding(plain.Embedding):
    """One gradient for the two uses, the head's, to which the rows' is added."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight)
        self.of_head: list[Tensor] | None = None  # with rows: the head's gradient, until theirs comes, which is later

    def rows(self, tokens: Tensor) -> Tensor:
        self.of_head = []
        return _Rows.apply(self.weight, tokens, self.of_head)

    def cross_entropy(self, h: Tensor, targets: Tensor) -> Tensor:
        return _CrossEntropy.apply(h, self.weight, targets, self.of_head)


class _GELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.ops.sicore_gpt2.gelu(x.contiguous(), None)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.ops.sicore_gpt2.gelu(x.contiguous(), grad.contiguous())


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, delta: Tensor, bits: Tensor | None, least: int, scale: float, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        weight = weight.contiguous()
        total, normed = torch.ops.sicore_gpt2.add_norm(
            x.contiguous(), delta.contiguous(), bits, least, scale, weight, bias.contiguous()
        )
        ctx.save_for_backward(total, bits, weight)
        ctx.settings = least, scale
        return total, normed

    @staticmethod
    def backward(ctx: Any, of_sum: Tensor, of_normed: Tensor) -> tuple[Tensor | None, ...]:
        total, bits, weight = ctx.saved_tensors
        of_x, of_delta, of_weight, of_bias = torch.ops.sicore_gpt2.add_norm_back(
            total, bits, *ctx.settings, weight, of_sum.contiguous(), of_normed.contiguous()
        )
        return of_x, of_delta, None, None, None, of_weight, of_bias


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, positions: int, n_head: int, bits: Tensor | None, least: int, scale: float
    ) -> Tensor:
        rows = rows.contiguous()
        ctx.save_for_backward(rows, bits)
        ctx.settings = positions, n_head, least, scale
        return torch.ops.sicore_gpt2.attention(rows, positions, n_head, bits, least, scale, None)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (rows, bits), (positions, n_head, least, scale) = ctx.saved_tensors, ctx.settings
        of_rows = torch.ops.sicore_gpt2.attention(rows, positions, n_head, bits, least, scale, grad.contiguous())
        return of_rows, None, None, None, None, None


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, tokens: Tensor, of_head: list[Tensor]) -> Tensor:
        rows = plain.numbered(tokens, weight)
        ctx.save_for_backward(weight, rows)
        ctx.of_head = of_head
        return F.embedding(rows, weight.flatten(0, 1))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None]:
        weight, rows = ctx.saved_tensors
        if not ctx.needs_input_grad[0]:
            return None, None, None
        whole = ctx.of_head.pop() if ctx.of_head else torch.zeros_like(weight)
        whole.flatten(0, 1).index_add_(0, rows.flatten(), grad.flatten(0, -2))
        return whole, None, None


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, targets: Tensor, of_head: list[Tensor] | None) -> Tensor:
        short = weight.to(h.dtype)
        logits = torch.bmm(h, short.transpose(1, 2))  # [K, N, V]
        loss = torch.ops.sicore_gpt2.cross_entropy(logits, targets.contiguous())  # and their gradient in place of them
        ctx.save_for_backward(h, short, logits)
        ctx.of_head = of_head
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        h, short, of_logits = ctx.saved_tensors
        grad = grad[..., None].to(h.dtype)
        of_weight = None
        if ctx.needs_input_grad[1]:  # not in a search, where it is constant
            of_weight = torch.bmm(of_logits.transpose(1, 2), h * grad).float()
        if of_weight is not None and ctx.of_head is not None:
            ctx.of_head.append(of_weight)
            of_weight = None
        return torch.bmm(of_logits, short) * grad, of_weight, None, None
