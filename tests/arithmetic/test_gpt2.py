import math

import pytest
import torch
import torch.nn.functional as F

from companion.arithmetic.gpt2 import EMBEDDING, Dropout, gpt2, stacked_gpt2, stacked_gpt2_loss
from companion.arithmetic.operations import dropped
from sicore.stacks import stack

NUMBERS = 13


def tokens(rng, K, B=5, T=3, vocab=NUMBERS):
    return torch.randint(vocab, (K, B, T), generator=rng)


def models(build, K, **sizes):
    built = [build(seed, **sizes).eval() for seed in range(K)]
    for seed, model in enumerate(built):  # initialised biases and scales would hide mistakes
        noise = torch.Generator().manual_seed(100 + seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=noise))
    return built


@pytest.mark.parametrize(("K", "n_layer"), [(1, 1), (3, 1), (2, 2), (5, 3)])
@pytest.mark.parametrize("all_positions", [False, True])
def test_stack_computes_what_hugging_face_computes(tiny_gpt2, rng, K, n_layer, all_positions):
    nets = models(tiny_gpt2, K, n_layer=n_layer)
    inputs = tokens(rng, K)
    logits = stacked_gpt2(stack(nets), inputs, n_head=2, all_positions=all_positions)
    for k, net in enumerate(nets):
        expected = net(inputs[k]).logits
        torch.testing.assert_close(logits[k], expected if all_positions else expected[:, -1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("T", [1, 2, 4])
def test_stack_agrees_at_other_lengths_and_head_counts(tiny_gpt2, rng, T):
    nets = models(tiny_gpt2, 2, n_embd=9, n_head=3, n_layer=2)
    inputs = tokens(rng, 2, T=T)
    logits = stacked_gpt2(stack(nets), inputs, n_head=3)
    for k, net in enumerate(nets):
        torch.testing.assert_close(logits[k], net(inputs[k]).logits[:, -1], atol=1e-5, rtol=0)


def test_stack_is_causal(tiny_gpt2, rng):
    params = stack(models(tiny_gpt2, 1, n_layer=2))
    inputs = tokens(rng, 1)
    changed = inputs.clone()
    changed[..., 2] = (changed[..., 2] + 1) % NUMBERS
    before, after = (stacked_gpt2(params, x, n_head=2, all_positions=True) for x in (inputs, changed))
    assert torch.equal(before[:, :, :2], after[:, :, :2])
    assert not torch.allclose(before[:, :, 2], after[:, :, 2])


def test_bfloat16_stays_near_float32(tiny_gpt2, rng):
    params, inputs = stack(models(tiny_gpt2, 3, n_layer=2)), tokens(rng, 3, B=20)
    exact = stacked_gpt2(params, inputs, n_head=2)
    rough = stacked_gpt2(params, inputs, n_head=2, dtype=torch.bfloat16)
    assert rough.dtype == torch.bfloat16
    error = (rough.float() - exact).abs().mean() / exact.abs().mean()
    assert 0 < float(error) < 0.03


@pytest.mark.parametrize("all_positions", [False, True])
def test_gradients_of_the_stack_are_those_of_the_separate_models(tiny_gpt2, rng, all_positions):
    nets = models(tiny_gpt2, 3, n_layer=2)
    inputs, targets = tokens(rng, 3), tokens(rng, 3)
    params = {name: tensor.requires_grad_() for name, tensor in stack(nets).items()}
    logits = stacked_gpt2(params, inputs, n_head=2, all_positions=all_positions)
    wanted = targets if all_positions else targets[..., -1]
    F.cross_entropy(logits.flatten(0, -2), wanted.flatten(), reduction="sum").backward()
    for k, net in enumerate(nets):
        out = net(inputs[k]).logits
        out = out if all_positions else out[:, -1]
        F.cross_entropy(out.flatten(0, -2), wanted[k].flatten(), reduction="sum").backward()
        for name, parameter in net.named_parameters():
            grad = params[name].grad[k]
            torch.testing.assert_close(grad, parameter.grad, atol=2e-5, rtol=1e-4, msg=name)


def loss_and_gradients(params, loss):
    params = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    value = loss(params)
    value.sum().backward()
    return value.detach(), {name: tensor.grad for name, tensor in params.items()}


@pytest.mark.parametrize("all_positions", [False, True])
def test_the_loss_is_the_cross_entropy_of_the_logits(tiny_gpt2, rng, all_positions):
    params, inputs = stack(models(tiny_gpt2, 3, n_layer=2)), tokens(rng, 3)
    targets = tokens(rng, 3) if all_positions else tokens(rng, 3)[..., 0]

    def expected(params):
        logits = stacked_gpt2(params, inputs, n_head=2, all_positions=all_positions)
        each = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none")
        return each.view(3, -1).mean(1)

    value, gradients = loss_and_gradients(params, expected)
    ours, of_ours = loss_and_gradients(params, lambda params: stacked_gpt2_loss(params, inputs, targets, n_head=2))
    torch.testing.assert_close(ours, value)
    for name, gradient in gradients.items():
        torch.testing.assert_close(of_ours[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_the_loss_in_bfloat16_stays_near_float32(tiny_gpt2, rng):
    params, inputs, targets = stack(models(tiny_gpt2, 2, n_layer=2)), tokens(rng, 2, B=20), tokens(rng, 2, B=20)
    exact, gradients = loss_and_gradients(params, lambda params: stacked_gpt2_loss(params, inputs, targets, n_head=2))
    rough, of_rough = loss_and_gradients(
        params, lambda params: stacked_gpt2_loss(params, inputs, targets, n_head=2, dtype=torch.bfloat16)
    )
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0, rtol=0.02)
    error = (of_rough[EMBEDDING] - gradients[EMBEDDING]).norm() / gradients[EMBEDDING].norm()
    assert 0 < float(error) < 0.05


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_the_loss_of_logits_known_by_hand(tiny_gpt2, scale):
    # With the last norm's shift as its only output, every token's logit is its embedding times that shift.
    params = {name: torch.zeros_like(tensor) for name, tensor in stack([tiny_gpt2(0)]).items()}
    params["transformer.ln_f.bias"][:, 0] = 1.0
    params[EMBEDDING][0, :3, 0] = scale * torch.tensor([1.0, 2.0, 3.0])  # the other logits are 0
    logits = [scale * k for k in (1, 2, 3)] + [0.0] * (NUMBERS - 3)
    total = max(logits) + math.log(sum(math.exp(logit - max(logits)) for logit in logits))
    for target in (0, 2, 5):
        loss = stacked_gpt2_loss(params, torch.zeros(1, 1, 1, dtype=torch.long), torch.tensor([[target]]), n_head=2)
        assert float(loss) == pytest.approx(total - logits[target], rel=1e-5, abs=1e-5)


def test_a_constant_embedding_gets_no_gradient_from_the_loss(tiny_gpt2, rng):
    params, inputs, targets = stack(models(tiny_gpt2, 2)), tokens(rng, 2), tokens(rng, 2)
    _, whole = loss_and_gradients(params, lambda params: stacked_gpt2_loss(params, inputs, targets, n_head=2))
    name = "transformer.h.0.mlp.c_fc.weight"
    params[name].requires_grad_()
    stacked_gpt2_loss(params, inputs, targets, n_head=2).sum().backward()
    assert torch.equal(params[name].grad, whole[name])
    assert params[EMBEDDING].grad is None


def test_a_models_logits_do_not_depend_on_its_place_in_the_stack(tiny_gpt2, rng):
    nets, inputs = models(tiny_gpt2, 4, n_layer=2), tokens(rng, 4)
    together = stacked_gpt2(stack(nets), inputs, n_head=2)
    for order in ([2], [3, 0], [1, 3, 2, 0]):
        part = stacked_gpt2(stack([nets[k] for k in order]), inputs[order], n_head=2)
        assert torch.equal(part, together[order])


def test_gpt2_has_the_asked_sizes_and_tied_head():
    model = gpt2(vocab=7, n_layer=3, n_embd=8, n_head=4, n_positions=5, dropout=0.25)
    config = model.config
    assert (config.vocab_size, config.n_layer, config.n_embd, config.n_head, config.n_positions) == (7, 3, 8, 4, 5)
    assert (config.resid_pdrop, config.embd_pdrop, config.attn_pdrop) == (0.25, 0.25, 0.25)
    assert model.lm_head.weight is model.transformer.wte.weight


def test_gpt2_is_determined_by_its_seed_and_leaves_the_global_stream_alone(tiny_gpt2):
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    a, b, c = tiny_gpt2(1), tiny_gpt2(1), tiny_gpt2(2)
    assert torch.equal(torch.rand(2), expected)
    weight = lambda model: model.transformer.h[0].mlp.c_fc.weight  # noqa: E731
    assert torch.equal(weight(a), weight(b))
    assert not torch.equal(weight(a), weight(c))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vocab", 0), ("n_layer", 0), ("n_layer", 1.0), ("n_embd", -4), ("n_head", 0), ("n_head", True),
        ("n_head", 5), ("dropout", 1.0), ("dropout", -0.1),
    ],
)  # fmt: skip
def test_gpt2_sizes_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name} = {value!r}"):
        gpt2(**{"vocab": 5, "n_layer": 1, "n_embd": 8, "n_head": 2, name: value})


def apply(drop, x):
    return dropped(x, drop.keep(x.shape))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_its_share_and_scales_the_rest(p):
    drop = Dropout(p, [11, 12])
    drop.start(0, torch.arange(2))
    out = apply(drop, torch.ones(2, 40_000))
    kept = out != 0
    assert torch.allclose(out[kept], torch.tensor(1 / (1 - p)))
    for share in kept.float().mean(1):
        assert abs(float(share) - (1 - p)) < 5 * (p * (1 - p) / 40_000) ** 0.5


def test_dropout_rate_is_even_over_positions_and_neighbours_are_independent():
    drop = Dropout(0.5, list(range(400)))
    drop.start(3, torch.arange(400))
    kept = (apply(drop, torch.ones(400, 7, 3)) != 0).reshape(400, 21).float()
    assert float((kept.mean(0) - 0.5).abs().max()) < 0.12
    correlation = torch.corrcoef(kept.T) - torch.eye(21)
    assert float(correlation.abs().max()) < 0.25


def drawn(seeds, active, step, p=0.3, calls=2):
    drop = Dropout(p, seeds)
    drop.start(step, torch.tensor(active))
    return torch.stack([apply(drop, torch.ones(len(active), 5, 9)) for _ in range(calls)], dim=1)


def test_dropout_depends_on_seed_and_step_only():
    first = drawn([1, 2, 3], [0, 1, 2], step=4)
    assert torch.equal(drawn([1, 2, 3], [0, 1, 2], step=4), first)
    assert torch.equal(drawn([2], [0], step=4)[0], first[1])
    assert torch.equal(drawn([3, 9, 1], [0, 1, 2], step=4)[2], first[0])
    assert torch.equal(drawn([1, 2, 3], [0, 2], step=4), first[[0, 2]])
    assert not torch.equal(drawn([1, 2, 3], [0, 1, 2], step=5), first)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0, 0], first[0, 1])


def test_dropout_restarts_its_stream_at_every_step():
    drop, active, x = Dropout(0.5, [1]), torch.arange(1), torch.ones(1, 64)
    drop.start(0, active)
    first = apply(drop, x)
    drop.start(1, active)
    apply(drop, x), apply(drop, x)
    drop.start(0, active)
    assert torch.equal(apply(drop, x), first)


def test_dropout_gradient_is_its_mask():
    drop = Dropout(0.4, [1])
    drop.start(0, torch.arange(1))
    x = torch.randn(1, 50).requires_grad_()
    out = apply(drop, x)
    out.sum().backward()
    assert torch.allclose(x.grad, torch.where(out != 0, 1 / 0.6, 0.0))


def test_dropout_of_zero_is_the_identity():
    drop = Dropout(0.0, [1])
    drop.start(0, torch.arange(1))
    x = torch.randn(1, 5)
    assert apply(drop, x) is x


@pytest.mark.parametrize("p", [1.0, -0.1, 2, float("nan")])
def test_dropout_out_of_range_is_named(p):
    with pytest.raises(ValueError, match=f"dropout = {p!r}"):
        Dropout(p, [0])


def test_dropout_close_to_one_drops_nearly_everything():
    drop = Dropout(1 - 1e-7, [0])
    drop.start(0, torch.arange(1))
    assert int((apply(drop, torch.ones(1, 10_000)) != 0).sum()) < 10


def test_dropout_acts_inside_the_stacked_model(tiny_gpt2, rng):
    params, inputs = stack(models(tiny_gpt2, 2)), tokens(rng, 2)
    drop = Dropout(0.3, [5, 6])
    plain = stacked_gpt2(params, inputs, n_head=2)
    outputs = []
    for step in range(300):
        drop.start(step, torch.arange(2))
        outputs.append(stacked_gpt2(params, inputs, n_head=2, dropout=drop))
    assert not torch.allclose(outputs[0], plain, atol=1e-2)
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-2)
