import pytest
import torch

from companion.arithmetic import task as ar
from companion.arithmetic.gpt2 import Dropout, gpt2
from sicore import Start, Subnetwork, Watch, maskable, parameter_groups, stack, start, train, transfer


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
    watch = Watch(every=5, keep_best=True)
    settings = {**HARSH, "steps": 10, "watch": watch, "accuracy": accuracy, "dtype": dtype}
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
        ar.losses(n_head=2), [start(fresh(), sub)], batches(1), accuracy=accuracy,
        watch=Watch(every=10, keep_best=True), **HARSH,
    )  # fmt: skip
    assert [round(row["accuracy"], 3) for row in result.history] == [0.1, 0.8, 0.3, 0.8]
    assert all(torch.equal(result.params[name][0], record[1][name]) for name in record[1])
    assert all(torch.equal(result.params[name][0][mask], sub.weights[name][mask]) for name, mask in sub.masks.items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_pinned_entries_are_exact_get_no_gradient_and_let_nothing_through(rng, dtype):
    mask = torch.rand(3, 40, generator=rng) < 0.5
    pinned, free = torch.randn(3, 40, generator=rng), torch.randn(3, 40, generator=rng)
    pinned[:, :2] = torch.tensor([-0.0, 0.0])
    mask[:, :2] = True
    away = torch.randn(3, 40, generator=rng)
    seen = []

    def losses(params, context, batch, step):
        w = params["w"]
        seen.append(w.detach().clone())
        spoiled = 0 * (w[:, 0] - w[:, 0].detach()).sqrt()  # 0, and its gradient by a frozen entry is no number
        return ((w * away.to(dtype)).sum(1) + spoiled).float()

    starts = [Start({"w": torch.where(mask[k], pinned[k], free[k])}, {"w": mask[k]}) for k in range(3)]
    begin = torch.where(mask, pinned, free).to(dtype)
    result = transfer(losses, starts, lambda step, active: None, steps=3, lr=0.1, dtype=dtype, weight_decay=0.5)
    for values in seen:
        assert values.dtype == dtype
        assert torch.equal(values[mask], begin[mask])
        assert torch.equal(values.signbit()[mask], begin.signbit()[mask])
    assert torch.equal(seen[0], begin)
    assert torch.equal(result.params["w"][mask], pinned[mask])
    assert bool(result.params["w"].isfinite().all())
    # Adam's first step has the length of the learning rate, against the gradient; decay shrinks what it moves.
    if dtype == torch.float32:
        moved = seen[1] - begin * (1 - 0.1 * 0.5)
        torch.testing.assert_close(moved[~mask], -0.1 * away[~mask].sign(), atol=1e-5, rtol=0)


def test_clipping_sees_the_free_entries_alone(rng):
    """A frozen entry with an enormous gradient does not shorten the step of a free one."""
    mask = torch.tensor([True, False])
    slope = torch.tensor([1e6, 0.5])
    losses = lambda params, context, batch, step: (params["w"] * slope).sum(1)  # noqa: E731
    begin = Start({"w": torch.zeros(2)}, {"w": mask})
    settings = {"steps": 1, "lr": 0.1, "momentum": 0.0, "clip": 1.0}
    result = transfer(losses, [begin], lambda step, active: None, **settings)
    assert result.params["w"].tolist() == [[0.0, pytest.approx(-0.05)]]


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


# Settings


def test_evaluations_see_effective_parameters():
    seen = []

    def evaluate(params, context, step, active):
        seen.append(params["w"].tolist())
        return {"score": torch.zeros(len(active))}

    begin = Start({"w": torch.tensor([1.0, 9.0])}, {"w": torch.tensor([True, False])})
    losses = lambda params, context, batch, step: params["w"].sum(1)  # noqa: E731
    settings = {"steps": 1, "lr": 0.5, "weight_decay": 0.5, "watch": Watch(evaluate)}
    transfer(losses, [begin], lambda step, active: None, **settings)
    assert seen == [[[1.0, pytest.approx(9 * 0.75 - 0.5)]]]
    with pytest.raises(ValueError, match=r"accuracy and watch\.evaluate"):
        transfer(losses, [begin], lambda step, active: None, accuracy=lambda *_: None, **settings)


def test_several_accuracies_by_name_and_the_metric_among_them():
    scores = iter([0.1, 0.9, 0.2])
    accuracy = lambda params, active: {"one": torch.tensor([next(scores)]), "other": torch.zeros(1)}  # noqa: E731
    losses = lambda params, context, batch, step: params["w"].square().sum(1)  # noqa: E731
    result = transfer(
        losses, [Start({"w": torch.ones(2)}, {})], lambda step, active: None, steps=3, lr=0.1, accuracy=accuracy,
        watch=Watch(every=1, metric="one", target=0.8),
    )  # fmt: skip
    assert [row["one"] for row in result.history] == pytest.approx([0.1, 0.9])
    assert set(result.history[0]) == {"model", "step", "loss", "one", "other"}
    assert result.steps == [2]


def test_nothing_to_train_and_an_impossible_type_are_errors():
    with pytest.raises(ValueError, match="starts is empty"):
        transfer(ar.losses(n_head=2), [], batches(1), **HARSH)
    with pytest.raises(ValueError, match=r"dtype = torch\.int8: expected one of torch\.float32"):
        transfer(ar.losses(n_head=2), [start(fresh())], batches(1), dtype=torch.int8, **HARSH)


@pytest.mark.parametrize(
    "frozen", [{"v": torch.ones(2, dtype=torch.bool)}, {"w": torch.ones(3, dtype=torch.bool)}, {"w": torch.ones(2)}]
)
def test_a_start_whose_frozen_entries_are_none_of_its_parameters_is_an_error(frozen):
    with pytest.raises(ValueError, match=f"frozen: {next(iter(frozen))!r} is no boolean tensor"):
        Start({"w": torch.zeros(2)}, frozen)


def test_networks_of_two_sizes_cannot_be_trained_together():
    small = {"w": torch.zeros(2)}, {"w": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"'w' has shape \(3,\) in model 1, \(2,\) in model 0"):
        transfer(ar.losses(n_head=2), [Start(params, {}) for params in small], batches(2), **HARSH)
