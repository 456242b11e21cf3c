import pytest
import torch

from companion.arithmetic import task as ar
from companion.arithmetic.gpt2 import Dropout, gpt2
from sicore.masking import maskable, parameter_groups
from sicore.stacks import stack
from sicore.subnetwork import Subnetwork
from sicore.training import train
from sicore.transfer import _BITS, Start, _Pinned, complement, sampled, start, transfer


def build(seed=0):
    return gpt2(vocab=13, n_layer=1, n_embd=16, n_head=2, seed=seed)


def found(share=0.3, seed=0):
    model = build(seed)
    rng = torch.Generator().manual_seed(50 + seed)
    names = maskable(model, "transformer.h.*")
    params = dict(model.named_parameters())
    with torch.no_grad():
        for parameter in params.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng))
    masks = {name: torch.rand(params[name].shape, generator=rng) < share for name in names}
    return Subnetwork.from_model(model, masks)


def fresh(seed=7):
    return {name: tensor.detach().clone() for name, tensor in build(seed).named_parameters()}


def batches(K, batch=8, steps=60):
    return ar.samples(
        [ar.all_pairs(12) for _ in range(K)], ar.Computation.parse("a + b"), p=5, numbers=12, batch=batch,
        steps=steps, generators=[torch.Generator().manual_seed(k) for k in range(K)],
    )  # fmt: skip


HARSH = {"steps": 40, "lr": 0.02, "weight_decay": 0.5, "clip": 0.1}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frozen_entries_keep_their_bits_and_free_ones_move(dtype):
    sub = found()
    begin = start(fresh(), sub, inherit=["*.bias"])
    losses = ar.losses(n_head=2, dropout=Dropout(0.2, [1]), dtype=dtype)
    result = transfer(losses, [begin], batches(1), dtype=dtype, **HARSH)
    for name, mask in sub.masks.items():
        final = result.params[name][0]
        assert torch.equal(final[mask], sub.weights[name][mask])
        assert torch.equal(begin.params[name][mask], sub.weights[name][mask])
        moved = final[~mask] != begin.params[name][~mask]
        assert float(moved.float().mean()) > 0.99
    for name in begin.params.keys() - sub.masks.keys():
        assert not torch.equal(result.params[name][0], begin.params[name])


def test_frozen_entries_are_what_the_network_computes_with_at_every_step():
    sub = found()
    seen = []

    def losses(params, context, batch, step):
        seen.append(all(torch.equal(params[n][0][m], sub.weights[n][m]) for n, m in sub.masks.items()))
        return ar.losses(n_head=2)(params, context, batch, step)

    transfer(losses, [start(fresh(), sub)], batches(1), **{**HARSH, "steps": 10})
    assert seen == [True] * 10


def test_unfrozen_subnetwork_is_only_the_starting_point():
    sub = found()
    begin = start(fresh(), sub, freeze=False)
    assert begin.frozen == {}
    result = transfer(ar.losses(n_head=2), [begin], batches(1), **HARSH)
    for name, mask in sub.masks.items():
        assert torch.equal(begin.params[name][mask], sub.weights[name][mask])
        assert bool((result.params[name][0][mask] != sub.weights[name][mask]).float().mean() > 0.99)


def test_transfer_without_frozen_entries_is_plain_training():
    begin = start(fresh())
    result = transfer(ar.losses(n_head=2), [begin], batches(1), **HARSH)
    plain = train(ar.losses(n_head=2), stack([begin.params]), batches(1), **HARSH)
    assert all(torch.equal(result.params[name], plain.params[name]) for name in plain.params)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_starts_of_different_kinds_train_together_as_they_train_alone(dtype):
    sub = found()
    starts = [start(fresh(), sub), start(fresh()), start(fresh(), sub, freeze=False), Start(fresh(0), {})]
    accuracy = lambda params, active: active.float()  # noqa: E731
    settings = {**HARSH, "steps": 10, "every": 5, "accuracy": accuracy, "keep_best": True, "dtype": dtype}
    together = transfer(ar.losses(n_head=2, dtype=dtype), starts, batches(4), **settings)
    for k, one in enumerate(starts):
        data = batches(4)
        alone = transfer(
            ar.losses(n_head=2, dtype=dtype),
            [one],
            lambda step, active, k=k, data=data: data(step, active + k),
            **settings,
        )
        assert all(torch.equal(alone.params[name][0], together.params[name][k]) for name in alone.params)


def test_best_evaluation_is_returned_with_its_frozen_entries():
    sub = found()
    record = {}

    def accuracy(params, active):
        record[len(record)] = {name: tensor[0].clone() for name, tensor in params.items()}
        return torch.tensor([[0.1, 0.8, 0.3, 0.8][len(record) - 1]])

    result = transfer(
        ar.losses(n_head=2), [start(fresh(), sub)], batches(1), accuracy=accuracy, keep_best=True,
        **{**HARSH, "every": 10},
    )  # fmt: skip
    assert [round(row["accuracy"], 3) for row in result.history] == [0.1, 0.8, 0.3, 0.8]
    assert all(torch.equal(result.params[name][0], record[1][name]) for name in record[1])
    assert all(torch.equal(result.params[name][0][mask], sub.weights[name][mask]) for name, mask in sub.masks.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pinned_entries_are_exact_get_no_gradient_and_let_nothing_through(rng, dtype):
    frozen = torch.rand(3, 40, generator=rng) < 0.5
    pinned, free = torch.randn(3, 40, generator=rng), torch.randn(3, 40, generator=rng)
    free[:, :3] = torch.tensor([torch.nan, torch.inf, -0.0])
    pinned[:, 3:5] = torch.tensor([-0.0, 0.0])
    frozen[:, :4] = True
    free.requires_grad_()
    keep = (~frozen).to(_BITS[dtype]).neg()
    held = pinned.to(dtype).view(_BITS[dtype]) & ~keep
    values = _Pinned.apply(free, keep, held, dtype)
    expected = torch.where(frozen, pinned, free).to(dtype)
    assert torch.equal(values, expected)
    assert torch.equal(values.signbit(), expected.signbit())
    away = torch.randn(3, 40, generator=rng)
    away[:, 0] = torch.nan
    (values * away.to(dtype)).sum().backward()
    assert free.grad.dtype == torch.float32
    assert torch.equal(free.grad, torch.where(frozen, torch.tensor(0.0), away.to(dtype).float()))


def test_what_is_not_finite_in_the_source_outside_of_the_mask_does_not_leak():
    sub = found()
    spoiled = {name: torch.where(mask, sub.weights[name], torch.nan) for name, mask in sub.masks.items()}
    begin = start(fresh(), Subnetwork(sub.masks, {**sub.weights, **spoiled}))
    assert all(bool(tensor.isfinite().all()) for tensor in begin.params.values())


# Starts


def test_start_holds_source_inside_the_mask_and_fresh_weights_outside():
    sub, new = found(), fresh()
    begin = start(new, sub)
    for name, tensor in begin.params.items():
        if name in sub.masks:
            mask = sub.masks[name]
            assert torch.equal(tensor[mask], sub.weights[name][mask])
            assert torch.equal(tensor[~mask], new[name][~mask])
            assert torch.equal(begin.frozen[name], mask)
        else:
            assert torch.equal(tensor, new[name])
    assert begin.frozen.keys() == sub.masks.keys()
    assert begin.inherited == 0


def test_start_leaves_its_arguments_alone():
    sub, new = found(), fresh()
    begin = start(new, sub, inherit="*")
    for tensor in [*begin.params.values(), *begin.frozen.values()]:
        tensor.zero_()
    assert all(torch.equal(new[name], tensor) for name, tensor in fresh().items())
    assert sub == found()


def test_exactly_the_named_tensors_are_inherited():
    sub, new = found(), fresh()
    begin = start(new, sub, inherit=["transformer.wte.weight", "*ln_1.*", "*.ln_1.bias"])
    inherited = {"transformer.wte.weight", "transformer.h.0.ln_1.weight", "transformer.h.0.ln_1.bias"}
    for name in begin.params.keys() - sub.masks.keys():
        assert torch.equal(begin.params[name], (sub.weights if name in inherited else new)[name])
        assert not torch.equal(sub.weights[name], new[name])
        assert name not in begin.frozen
    assert begin.inherited == 13 * 16 + 16 + 16


def test_inheriting_every_group_leaves_only_free_masked_entries_fresh():
    sub, new = found(), fresh()
    groups = parameter_groups(build())
    begin = start(new, sub, inherit=[name for names in groups.values() for name in names])
    total = sum(tensor.numel() for tensor in new.values())
    assert begin.inherited == total - sub.total
    different = sum(int((begin.params[name] != sub.weights[name]).sum()) for name in new)
    assert different == sub.total - sub.size


def test_start_without_subnetwork_is_the_fresh_network():
    begin = start(fresh())
    assert all(torch.equal(begin.params[name], tensor) for name, tensor in fresh().items())
    assert (begin.frozen, begin.inherited) == ({}, 0)


def test_norms_with_running_statistics_can_be_inherited():
    make = lambda: torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))  # noqa: E731
    model = make()
    sub = Subnetwork.from_model(model, {"0.weight": torch.ones(2, 1, 3, 3, dtype=torch.bool)})
    begin = start(make(), sub, inherit=parameter_groups(model)["norms"])
    assert torch.equal(begin.params["1.weight"], model[1].weight)


@pytest.mark.parametrize("pattern", ["transformer.wtf.weight", "transformer.h.0.mlp.c_fc.weight"])
def test_inherited_name_that_matches_no_free_tensor_is_an_error(pattern):
    with pytest.raises(ValueError, match="matches no unmasked parameter") as error:
        start(fresh(), found(), inherit=[pattern])
    assert repr(pattern) in str(error.value)


def test_inherited_name_that_the_source_lacks_is_an_error():
    sub = found()
    poor = Subnetwork(sub.masks, {name: sub.weights[name] for name in sub.masks})
    with pytest.raises(ValueError, match=r"no weights for 'transformer\.wte\.weight'"):
        start(fresh(), poor, inherit="transformer.wte.weight")


def test_inherited_tensor_of_another_shape_is_an_error_with_both_shapes():
    new = {**fresh(), "transformer.wte.weight": torch.zeros(9, 16)}
    with pytest.raises(ValueError, match=r"\(13, 16\) in the source, \(9, 16\) in the model"):
        start(new, found(), inherit="transformer.wte.weight")


def test_inheriting_without_a_subnetwork_is_an_error():
    with pytest.raises(ValueError, match="needs a subnetwork"):
        start(fresh(), inherit="*")


def test_subnetwork_that_does_not_fit_is_an_error_with_both_shapes():
    new = {**fresh(), "transformer.h.0.mlp.c_fc.weight": torch.zeros(16, 32)}
    with pytest.raises(ValueError, match=r"c_fc\.weight: \(16, 64\) in the subnetwork, \(16, 32\) in the model"):
        start(new, found())


# Controls


@pytest.mark.parametrize("control", [sampled, complement])
@pytest.mark.parametrize(
    ("behaviour", "kept"), [("as_described", lambda n, all: n), ("as_released", lambda n, all: all - n)]
)
def test_sizes_of_the_controls_in_every_layer(rng, control, behaviour, kept):
    sub = found()
    table = control(sub, rng, behaviour).table()
    expected = [kept(size, total) for size, total in zip(sub.table()["size"], sub.table().total, strict=True)]
    assert table["size"].tolist() == expected
    density = 1 - sub.density if behaviour == "as_released" else sub.density
    assert table["size"].sum() / table.total.sum() == pytest.approx(density)


def test_complement_as_described_is_disjoint_and_as_released_contains_the_subnetwork(rng):
    sub = found()
    assert (complement(sub, rng) & sub).size == 0
    released = complement(sub, rng, "as_released")
    assert released & sub == sub


def test_sampled_overlaps_the_subnetwork_as_chance_has_it(rng):
    sub = found()
    both = sum((sampled(sub, rng) & sub).size for _ in range(20)) / 20
    chance = float(sub.overlap(sub).by_chance.iloc[-1])
    assert both == pytest.approx(chance, rel=0.05)


def test_released_control_is_the_inversion_of_the_same_draw():
    sub = found()
    for control in (sampled, complement):
        draw = lambda behaviour, control=control: control(sub, torch.Generator().manual_seed(1), behaviour)  # noqa: E731
        assert draw("as_released") == ~draw("as_described")


@pytest.mark.parametrize("control", [sampled, complement])
def test_unknown_behaviour_lists_what_there_is(rng, control):
    with pytest.raises(ValueError, match=r"'as_published'.*as_described, as_released"):
        control(found(), rng, "as_published")


def test_complement_of_a_dense_subnetwork_names_the_tensor(rng):
    with pytest.raises(ValueError, match=r"c_attn\.weight has .* weights outside"):
        complement(found(share=0.7), rng)
