"""The compiled operations beside torch's own."""

import pytest
import torch

from companion.arithmetic import compiled, gpt2, operations
from companion.arithmetic.operations import Kept
from sicore import stack

pytestmark = pytest.mark.skipif(not compiled.built(), reason="no compiler")

TYPES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
TYPE = pytest.mark.parametrize("dtype", TYPES, ids=str)
KEPT = pytest.mark.parametrize("share", [None, 0.6], ids=["whole", "dropout"])


def drawn(rng, share, *shape):
    if share is None:
        return None
    bits = torch.randint(-32768, 32768, shape, generator=rng).to(torch.int16)
    return Kept(bits, round((1 - share) * 65536) - 32768, 1 / share)


def values(rng, dtype, *shape):
    return torch.randn(shape, generator=rng).to(dtype).requires_grad_()


def assert_alike(operation, arguments, dtype):
    """Values and gradients of an operation, here and there: their difference beside their size."""
    found = []
    for module in (operations, compiled):
        own = [x.detach().clone().requires_grad_(x.requires_grad) if torch.is_tensor(x) else x for x in arguments]
        out = operation(module, *own)
        out = out if isinstance(out, tuple) else (out,)
        ups = [torch.randn(x.shape, generator=torch.Generator().manual_seed(3)).to(x.dtype) for x in out]
        torch.autograd.backward(out, ups)
        grads = [x.grad for x in own if torch.is_tensor(x) and x.requires_grad]
        assert all(grad is not None for grad in grads)
        found.append([*(x.detach() for x in out), *grads])
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert float((one - other).float().norm() / one.float().norm()) < TYPES[dtype]


@TYPE
def test_gelu_is_torchs(rng, dtype):
    assert_alike(lambda module, *given: module.gelu(*given), [values(rng, dtype, 3, 7, 33)], dtype)


def test_gelu_far_out_and_of_no_number():
    x = torch.tensor([[-30.0, -9.0, 0.0, 9.0, 30.0, 1e30, float("nan")]])
    out = compiled.gelu(x)[0]
    assert torch.allclose(out[:-1], torch.tensor([0.0, 0.0, 0.0, 9.0, 30.0, 1e30]))
    assert out[-1].isnan()
    assert compiled.gelu(x.bfloat16())[0, -1].isnan()


@TYPE
@KEPT
def test_a_sum_and_its_norm_are_torchs(rng, dtype, share):
    x, delta = values(rng, dtype, 3, 5, 40), values(rng, dtype, 3, 5, 40)
    weight, bias = values(rng, torch.float32, 3, 40), values(rng, torch.float32, 3, 40)
    assert_alike(
        lambda module, *given: module.add_norm(*given), [x, delta, drawn(rng, share, 3, 5, 40), weight, bias], dtype
    )


@pytest.mark.parametrize("alone", [0, 1], ids=["the sum", "the norm"])
def test_one_of_the_two_may_be_all_that_is_used(rng, alone):
    x, delta = values(rng, torch.float32, 2, 3, 8), values(rng, torch.float32, 2, 3, 8)
    weight, bias = torch.ones(2, 8), torch.zeros(2, 8)
    grads = [
        torch.autograd.grad(module.add_norm(x, delta, None, weight, bias)[alone].square().sum(), [x, delta])
        for module in (operations, compiled)
    ]
    for one, other in zip(*grads, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@TYPE
@KEPT
@pytest.mark.parametrize(("positions", "length"), [(3, 3), (1, 3), (2, 5), (1, 1)])
def test_attention_is_torchs(rng, dtype, share, positions, length):
    rows = values(rng, dtype, 2, 4, length, 3 * 24)
    kept = drawn(rng, share, 2, 4, positions, length, 3)
    assert_alike(lambda module, *given: module.attention(*given), [rows, positions, 3, kept], dtype)


@TYPE
def test_cross_entropy_is_torchs(rng, dtype):
    h, weight = values(rng, dtype, 2, 6, 16), values(rng, torch.float32, 2, 51, 16)
    targets = torch.randint(51, (2, 6), generator=rng)
    assert_alike(lambda module, *given: module.Embedding(given[1]).cross_entropy(given[0], targets), [h, weight], dtype)


@pytest.mark.parametrize("target", [-1, 5])
def test_a_target_that_is_no_token_is_refused_and_nothing_is_read_there(target):
    for module in (operations, compiled):
        with pytest.raises(IndexError, match=f"Target {target} is out of bounds"):
            module.Embedding(torch.zeros(1, 5, 4)).cross_entropy(torch.zeros(1, 1, 4), torch.tensor([[target]]))


def both_uses(module, weight, tokens):
    embedding = module.Embedding(weight)
    return embedding.cross_entropy(embedding.rows(tokens) * 2, tokens)


def test_an_embeddings_gradient_is_of_both_its_uses(rng):
    weight, tokens = values(rng, torch.float32, 2, 11, 8), torch.tensor([[0, 3, 3, 10], [1, 3, 0, 0]])
    assert_alike(lambda module, weight: both_uses(module, weight, tokens), [weight], torch.float32)
    assert_alike(lambda module, weight: module.Embedding(weight).rows(tokens), [weight], torch.float32)
    assert_alike(lambda module, weight: torch.stack([both_uses(module, weight, tokens)] * 2), [weight], torch.float32)


def test_the_slope_of_an_answer_that_is_nearly_sure_is_not_rounded_away():
    h = torch.tensor([[[9.0, 0.0]]], dtype=torch.bfloat16, requires_grad=True)
    loss = compiled.Embedding(torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])).cross_entropy(h, torch.tensor([[0]]))
    loss.sum().backward()
    wrong = 1 / (1 + torch.tensor(9.0).exp())  # the other token's probability
    assert float(h.grad[0, 0, 0]) == pytest.approx(-float(wrong), rel=1e-2)
    assert float(loss) == pytest.approx(float(wrong), rel=1e-2)


@TYPE
@pytest.mark.parametrize("all_positions", [True, False])
def test_the_whole_model_is_the_plain_one(tiny_gpt2, rng, monkeypatch, dtype, all_positions):
    first = stack([tiny_gpt2(seed=seed) for seed in range(2)])
    tokens = torch.randint(5, (2, 4, 3), generator=rng)
    targets = torch.randint(5, (2, 4, 3) if all_positions else (2, 4), generator=rng)
    found = []
    for module in (operations, compiled):
        monkeypatch.setattr(gpt2, "operations", lambda params, dtype, module=module: module)
        params = {name: tensor.clone().requires_grad_() for name, tensor in first.items()}
        drop = gpt2.Dropout(0.2, [3, 4])
        drop.start(0, torch.arange(2))
        loss = gpt2.stacked_gpt2_loss(params, tokens, targets, n_head=2, dropout=drop, dtype=dtype)
        loss.sum().backward()
        found.append(torch.cat([loss.detach(), *(tensor.grad.flatten() for tensor in params.values())]))
    assert float((found[0] - found[1]).norm() / found[0].norm()) < TYPES[dtype]


@pytest.mark.parametrize(
    ("device", "own", "dtype"),
    [("meta", torch.float32, torch.float32), ("cpu", torch.float64, torch.float64), ("cpu", torch.float32, torch.half)],
)
def test_other_types_and_devices_are_left_to_torch(device, own, dtype):
    assert compiled.operations(torch.zeros(1, dtype=own, device=device), dtype) is operations
    assert compiled.operations(torch.zeros(1), torch.bfloat16) is compiled


@pytest.mark.parametrize("error", [RuntimeError("no g++\nand more"), ImportError("no ninja"), OSError("no room")])
def test_without_a_compiler_torch_computes_and_one_line_says_so(monkeypatch, tmp_path, capsys, error):
    def fail(library):
        raise error

    monkeypatch.setattr(compiled, "folder", lambda: tmp_path / "new")
    monkeypatch.setattr(compiled, "build", fail)
    compiled.built.cache_clear()
    try:
        assert compiled.operations(torch.zeros(1), torch.float32) is operations
        assert compiled.operations(torch.zeros(1), torch.float32) is operations
    finally:
        compiled.built.cache_clear()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(error).splitlines()[0] in said


def test_another_source_is_kept_elsewhere(monkeypatch, tmp_path):
    other = tmp_path / "compiled.cpp"
    other.write_text(compiled.SOURCE.read_text() + "\n")
    before = compiled.folder()
    assert compiled.folder() == before
    monkeypatch.setattr(compiled, "SOURCE", other)
    assert compiled.folder() != before
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiled.folder().is_relative_to(tmp_path)
