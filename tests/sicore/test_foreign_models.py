"""Models as other people build them: each is masked right, or refused by name, and given back as it was."""

import copy
import math
from collections import UserDict
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torchvision.models import VisionTransformer
from transformers import LlamaConfig, LlamaForCausalLM

import sicore as si

# Searches here are a few steps long, and torch tells of what it computes slowly under vmap.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in ("the mask of model", "There is a performance drop", "the model writes to its buffer")
]

MAKE = pytest.mark.parametrize("make", [si.vmapped, si.looped])


def batches(step, active):
    x = torch.rand(len(active), 8, 3, generator=torch.Generator().manual_seed(step))
    return x, x.sum(-1, keepdim=True)


def loss(call, batch):
    return nn.functional.mse_loss(call(batch[0]), batch[1])


def search(losses, params, names, **settings):
    settings = {
        "steps": 3,
        "lr": 0.1,
        "family": si.ContinuousSparsification(initial_logit=0.1, initial=10.0),
        **settings,
    }
    return si.discover(losses, params, names, batches, **settings)


class Twice(nn.Module):
    """One layer under two names, a buffer that is written to, one that is put anew, and two attributes."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = self.first
        self.out = nn.Linear(3, 1)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(3))
        self.count, self.seen = 0, None

    def forward(self, x):
        self.count += 1
        self.seen = x
        self.calls += 1
        self.mean = x.mean(0)
        return self.out(self.second(torch.relu(self.first(x))))


def everything(model):
    """All that a model is, by every name: tensors with their identity and bits, and plain attributes."""
    tensors = {
        name: (id(tensor), tensor.detach().clone(), tensor.requires_grad, tensor.grad)
        for part in (model.named_parameters, model.named_buffers)
        for name, tensor in part(remove_duplicate=False)
    }
    plain = {
        f"{prefix}.{name}": value
        for prefix, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, int | str | torch.Tensor | None)
    }
    return tensors, plain


def assert_untouched(model, before):
    tensors, plain = everything(model)
    assert tensors.keys() == before[0].keys()
    for name, (identity, values, requires_grad, grad) in tensors.items():
        assert (identity, requires_grad, grad) == (before[0][name][0], before[0][name][2], before[0][name][3]), name
        assert torch.equal(values, before[0][name][1]), name
    assert plain.keys() == before[1].keys()
    assert all(value is before[1][name] or value == before[1][name] for name, value in plain.items())


# ---------------------------------------------------------------------------------------
# The model is given back as it was


@MAKE
@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_untouched_by_a_search_and_a_training(make, training):
    model = Twice().train(training)
    before = everything(model)
    losses, names = make(model, loss), si.maskable(model, tied=True)
    assert names == ("first.weight", "out.weight")
    search(losses, si.stack([model, model]), names)
    si.train(losses, si.stack([model]), batches, steps=2, lr=0.1)
    assert_untouched(model, before)
    copy.deepcopy(model)  # holds no tensor of a computation


@MAKE
def test_a_model_is_untouched_after_an_exception_in_the_middle(make):
    model = Twice()
    before = everything(model)

    def failing(call, batch):
        call(batch[0])
        raise KeyError("in the middle")

    with pytest.raises(KeyError, match="in the middle"):
        search(make(model, failing), si.stack([model]), ["first.weight"])
    assert_untouched(model, before)

    def inside(module, inputs):
        raise KeyError("in a layer")

    model.out.register_forward_pre_hook(inside)
    before = everything(model)
    with pytest.raises(KeyError, match="in a layer"):
        search(make(model, loss), si.stack([model]), ["first.weight"])
    assert_untouched(model, before)


@MAKE
def test_a_layer_under_two_names_computes_with_the_given_weights_in_both_places(make):
    model = Twice().eval()
    params = si.stack([model]) | {"first.weight": torch.eye(3)[None] * 2, "first.bias": torch.zeros(1, 3)}
    x, y = batches(0, [0])
    expected = (nn.functional.linear(4 * x[0], model.out.weight, model.out.bias) - y[0]).square().mean()
    torch.testing.assert_close(make(model, loss)(params, {}, (x, y), 0)[0], expected)


@MAKE
def test_a_tensor_given_under_two_names_is_refused_and_one_under_its_second_name_is_used(make):
    model = Twice()
    params = si.stack([model])
    losses = make(model, loss)
    with pytest.raises(ValueError, match=r"'second.weight' is another name of 'first.weight'"):
        losses(params | {"second.weight": params["first.weight"]}, {}, batches(0, [0]), 0)
    second = {name.replace("first", "second"): tensor for name, tensor in params.items()}
    assert torch.equal(losses(second, {}, batches(0, [0]), 0), losses(params, {}, batches(0, [0]), 0))


@MAKE
def test_no_gradient_reaches_a_parameter_that_the_stack_leaves_to_the_model(make):
    model = Twice()
    params = {"out.weight": si.stack([model])["out.weight"].requires_grad_()}
    make(model, loss)(params, {}, batches(0, [0]), 0).sum().backward()
    assert params["out.weight"].grad is not None
    assert all(parameter.grad is None for parameter in model.parameters())


def test_batchnorm_in_training_mode_changes_neither_the_model_nor_the_source_of_a_search():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).train()
    before, source = everything(model), si.stack([si.state_of(model)])
    kept = {name: tensor.clone() for name, tensor in source.items()}
    search(si.looped(model, loss), source, ["0.weight"])
    assert_untouched(model, before)  # the number of batches too
    assert all(torch.equal(tensor, source[name]) for name, tensor in kept.items())


def test_a_recurrent_network_is_searched_by_looped_and_refused_by_vmapped():
    class Net(nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.body, self.out = kind(3, 4, batch_first=True), nn.Linear(4, 1)

        def forward(self, x):
            return self.out(self.body(x[:, None])[0][:, -1])

    x = batches(0, [0])
    for kind in (nn.LSTM, nn.GRU, nn.RNN):
        model = Net(kind).eval()
        assert si.maskable(model) == ("body.weight_ih_l0", "body.weight_hh_l0", "out.weight")
        with pytest.raises(ValueError, match=rf"'body' is a {kind.__name__}.*si.looped"):
            si.vmapped(model, loss)
        losses, before, output = si.looped(model, loss), everything(model), model(x[0][0])
        search(losses, si.stack([model]), si.maskable(model))
        assert_untouched(model, before)
        assert torch.equal(model(x[0][0]), output)
        zeros = {name: torch.zeros_like(tensor) for name, tensor in si.stack([model]).items()}
        torch.testing.assert_close(losses(zeros, {}, x, 0)[0], x[1].square().mean())


def test_what_torch_func_cannot_compute_is_refused_with_the_way_out():
    class Asks(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, x):
            y = self.layer(x)
            return y if y.sum().item() > 0 else -y

    model = Asks()
    with pytest.raises(RuntimeError, match=r"Asks at once(.|\n)*si\.looped"):
        si.vmapped(model, loss)(si.stack([model]), {}, batches(0, [0]), 0)
    assert si.looped(model, loss)(si.stack([model]), {}, batches(0, [0]), 0).shape == (1,)


# ---------------------------------------------------------------------------------------
# What can be masked


def vision_transformer():
    torch.manual_seed(0)
    model = VisionTransformer(
        image_size=16, patch_size=8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=3
    )
    nn.init.normal_(model.heads.head.weight)  # torchvision begins with zeros
    return model.eval()


def test_the_fused_projections_of_torchs_attention_are_masked():
    model = vision_transformer()
    attention = "encoder.layers.encoder_layer_0.self_attention"
    names = si.maskable(model)
    assert {f"{attention}.in_proj_weight", f"{attention}.out_proj.weight"} <= set(names)
    groups = si.parameter_groups(model)
    assert groups["tokens"] == ("class_token", "encoder.pos_embedding")
    assert f"{attention}.in_proj_bias" in groups["biases"]
    assert groups["others"] == ()
    rows = si.left_out(model, names)
    by_hand = sum(tensor.numel() for name, tensor in model.named_parameters() if name not in names)
    assert sum(row["size"] for row in rows) == by_hand
    assert rows[0] == {
        "parameter": "encoder.pos_embedding", "kind": "tokens", "shape": (1, 5, 16), "size": 80,
        "share": 80 / sum(tensor.numel() for tensor in model.parameters()),
    }  # fmt: skip


def test_attention_has_the_same_losses_and_gradients_in_both_ways_in_evaluation_mode():
    model = vision_transformer()

    def cross_entropy(call, batch):
        return nn.functional.cross_entropy(call(batch[0]), batch[1])

    pictures = torch.rand(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    batch, found = (pictures, torch.tensor([[0, 1, 2, 0]] * 2)), {}
    fast = torch.backends.mha.get_fastpath_enabled()
    for make in (si.vmapped, si.looped):
        params = {name: tensor.requires_grad_() for name, tensor in si.stack([model, model]).items()}
        values = make(model, cross_entropy)(params, {}, batch, 0)
        values.sum().backward()
        found[make] = values, {name: tensor.grad for name, tensor in params.items()}
    torch.testing.assert_close(found[si.vmapped], found[si.looped])
    assert torch.backends.mha.get_fastpath_enabled() == fast
    key = "encoder.layers.encoder_layer_0.self_attention.in_proj_weight"
    assert float(found[si.vmapped][1][key].abs().max()) > 0


def test_every_matrix_of_torchs_layers_is_masked():
    layers = {
        "linear": nn.Linear(4, 2), "bilinear": nn.Bilinear(2, 3, 4), "grouped": nn.Conv2d(4, 4, 3, groups=4),
        "volume": nn.Conv3d(1, 1, 2), "transposed": nn.ConvTranspose2d(2, 3, 2), "lstm": nn.LSTM(3, 4, proj_size=2),
        "cell": nn.GRUCell(3, 4), "attention": nn.MultiheadAttention(8, 2, kdim=3, vdim=5, add_bias_kv=True),
    }  # fmt: skip
    model = nn.ModuleDict(layers)
    vectors = {"attention.bias_k", "attention.bias_v"}  # [1, 1, 8], added as a key and a value
    assert set(si.maskable(model)) == {name for name, t in model.named_parameters() if t.dim() > 1} - vectors
    assert set(si.parameter_groups(model)["tokens"]) == vectors


def test_layers_are_known_by_what_they_hold_and_not_by_their_names():
    class Conv1D(nn.Module):  # the name of a linear layer of transformers
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.zeros(5, 3))

    class Anything(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.zeros(5, 3)), nn.Parameter(torch.zeros(3))

    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.g = nn.Parameter(torch.ones(3))

    model = nn.ModuleDict({"table": Conv1D(), "linear": Anything(), "scale": Scale()})
    with pytest.warns(UserWarning, match=r"not known here: table.table \[5, 3\].*others=.*exclude="):
        assert si.maskable(model) == ("linear.weight",)
    groups = si.parameter_groups(model)
    assert (groups["norms"], groups["others"], groups["biases"]) == (("scale.g",), ("table.table",), ("linear.bias",))


def test_a_matrix_of_rank_one_is_no_token():
    class Adapted(nn.Module):
        def __init__(self):
            super().__init__()
            self.base = nn.Linear(3, 4)
            self.down, self.up = nn.Parameter(torch.zeros(1, 3)), nn.Parameter(torch.zeros(4, 1))
            self.token, self.scale = nn.Parameter(torch.zeros(1, 1, 3)), nn.Parameter(torch.ones(4, 1, 1))

    model = Adapted()
    with pytest.warns(UserWarning, match=r"down \[1, 3\], up \[4, 1\]"):
        si.maskable(model)
    assert si.parameter_groups(model)["tokens"] == ("token", "scale")


@pytest.mark.filterwarnings("error")
def test_a_matrix_that_is_not_known_is_masked_or_left_out_on_request_without_a_warning():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.router, self.up = nn.Linear(3, 2), nn.Parameter(torch.zeros(2, 3, 4))

    model = Experts()
    assert si.maskable(model, others="up") == ("up", "router.weight")
    assert si.maskable(model, exclude="up") == ("router.weight",)
    assert si.maskable(model, include="router.*") == ("router.weight",)
    assert [row["kind"] for row in si.left_out(model, ["router.weight"])] == ["others", "biases"]
    with pytest.raises(ValueError, match="names: the model has no down"):
        si.left_out(model, ["down"])


def test_the_norms_of_a_llama_are_norms_and_its_projections_are_masked():
    config = LlamaConfig(
        vocab_size=11, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    groups = si.parameter_groups(model)
    assert len(groups["norms"]) == 2 * 2 + 1
    assert groups["tokens"] == groups["others"] == ()
    assert len(si.maskable(model, exclude="lm_head.weight")) == 2 * 7
    begin = si.start(model, si.Subnetwork.from_model(model, {"lm_head.weight": torch.ones(11, 8, dtype=torch.bool)}),
                     inherit=groups["norms"])  # fmt: skip
    assert begin.inherited == 5 * 8


def layers():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))


@pytest.mark.parametrize(
    ("change", "parts", "remedy", "undo"),
    [
        (
            lambda layer: prune.l1_unstructured(layer, "weight", 0.5), {"0.weight_orig"}, "prune.remove",
            lambda layer: prune.remove(layer, "weight"),
        ),
        (
            parametrizations.weight_norm, {f"0.parametrizations.weight.original{k}" for k in (0, 1)},
            "parametrize.remove_parametrizations", lambda layer: parametrize.remove_parametrizations(layer, "weight"),
        ),
        (
            parametrizations.spectral_norm, {"0.parametrizations.weight.original"},
            "parametrize.remove_parametrizations", lambda layer: parametrize.remove_parametrizations(layer, "weight"),
        ),
        (nn.utils.spectral_norm, {"0.weight_orig"}, "remove_spectral_norm", nn.utils.remove_spectral_norm),
        pytest.param(
            nn.utils.weight_norm, {"0.weight_g", "0.weight_v"}, "remove_weight_norm", nn.utils.remove_weight_norm,
            marks=pytest.mark.filterwarnings("ignore::FutureWarning"),
        ),
    ],
)  # fmt: skip
def test_a_weight_that_is_computed_from_others_is_refused_with_what_makes_it_permanent(change, parts, remedy, undo):
    model = layers()
    change(model[0])
    with pytest.raises(ValueError, match=rf"'0.weight' is no parameter, but computed from 0\..*{remedy}\(layer"):
        si.maskable(model)
    assert si.maskable(model, exclude="0.weight") == ("2.weight",)
    assert parts <= set(si.parameter_groups(model)["others"])
    losses = si.looped(model, loss)
    before = everything(model)
    search(losses, si.stack([model]), ["2.weight"])
    assert_untouched(model, before)
    undo(model[0])
    assert set(si.maskable(model)) == {"0.weight", "2.weight"}


# ---------------------------------------------------------------------------------------
# Types, and parameters that are not to be trained


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_search_in_a_network_of_another_type_moves_its_logits_at_a_small_learning_rate(dtype):
    model = layers().to(dtype)

    def in_its_type(call, batch):
        return nn.functional.mse_loss(call(batch[0].to(dtype)), batch[1].to(dtype))

    class Own(si.ContinuousSparsification):
        def start(self, weight):  # as one writes it: in the weight's own type
            return torch.full_like(weight, 0.5)

    _, found = search(si.vmapped(model, in_its_type), si.stack([model]), si.maskable(model), lr=1e-4, family=Own())
    for name, logits in found.params.items():
        assert logits.dtype == torch.float32, name
        assert 1e-5 < float((logits - 0.5).abs().max()) < 1e-3, name


def test_training_in_half_precision_and_of_integers_is_refused_by_name():
    for dtype in (torch.bfloat16, torch.float16):
        model = layers().to(dtype)
        with pytest.raises(ValueError, match=rf"params: '0.weight' has type {dtype}.*model.float\(\).*autocast"):
            si.train(si.vmapped(model, loss), si.stack([model]), batches, steps=1, lr=1e-3)
    for dtype in (torch.int64, torch.complex64):
        with pytest.raises(ValueError, match=rf"params: 'w' has type {dtype}. Only float32 and float64"):
            si.train(lambda *given: given[0]["w"], {"w": torch.ones(2, dtype=dtype)}, batches, steps=1, lr=1e-3)
        with pytest.raises(ValueError, match=rf"names: 'w' has type {dtype}"):
            search(lambda *given: given[0]["w"], {"w": torch.ones(2, dtype=dtype)}, ["w"])


class WithFrozen(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.table = nn.Parameter(torch.tensor([2, 0, 1]), requires_grad=False)  # an order of the inputs
        self.position = nn.Parameter(torch.sin(torch.arange(3.0)), requires_grad=False)
        self.body, self.out = nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, x):
        return self.out(torch.relu(self.body(x[..., self.table] + self.position)))


@MAKE
@pytest.mark.parametrize("settings", [{}, {"momentum": 0.9, "weight_decay": 0.1}, {"weight_decay": 0.1, "clip": 0.1}])
def test_frozen_parameters_are_not_trained_and_the_others_are(make, settings):
    model = WithFrozen()
    model.body.requires_grad_(False)
    frozen = ("table", "position", "body.weight", "body.bias")
    params = si.stack([model, model])
    for _ in range(2):  # the second training goes on from what the first returns
        trained = si.train(make(model, loss), params, batches, steps=3, lr=0.1, **settings)
        for name, tensor in trained.params.items():
            assert torch.equal(tensor, params[name]) == (name in frozen), name
            assert tensor.dtype == params[name].dtype
        params = trained.params
    one = si.unstack(trained.params, 1)
    assert {name for name, tensor in one.items() if isinstance(tensor, nn.Parameter)} == set(frozen)
    model.load_state_dict(one)


@MAKE
def test_frozen_parameters_of_the_new_network_are_held_in_a_transfer(make):
    source, fresh = WithFrozen(0), WithFrozen(1)
    fresh.body.bias.requires_grad_(False)
    source.requires_grad_(False)  # of the source it does not matter
    masks = {"body.weight": torch.rand(4, 3) < 0.5}
    found = si.Subnetwork.from_model(source, masks)
    starts = [si.start(fresh, found, inherit="out.*"), si.start(fresh)]
    trained = si.transfer(make(fresh, loss), starts, batches, steps=3, lr=0.1, weight_decay=0.1)
    for name in ("table", "position", "body.bias"):
        assert torch.equal(trained.params[name][0], dict(fresh.named_parameters())[name]), name
    for name in ("out.weight", "out.bias"):
        assert not torch.equal(trained.params[name][0], starts[0].params[name]), name
    weight, mask = trained.params["body.weight"][0], masks["body.weight"]
    assert torch.equal(weight[mask], source.body.weight[mask])
    assert not (weight[~mask] == starts[0].params["body.weight"][~mask]).any()


def test_a_parameter_that_only_one_model_of_a_stack_holds_is_refused():
    one, other = layers(), layers()
    other[2].requires_grad_(False)
    with pytest.raises(ValueError, match=r"'2\.weight' has requires_grad=False in model 1 and not in model 0"):
        si.stack([one, other])
    one.requires_grad_(False)
    with pytest.raises(ValueError, match="every tensor has requires_grad=False"):
        si.train(si.vmapped(one, loss), si.stack([one]), batches, steps=1, lr=0.1)


@MAKE
def test_running_statistics_are_no_gradients_to_change(make):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).eval()
    state = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    for params in (si.stack([si.state_of(model)]), si.stack([state])):
        trained = si.train(make(model, loss), params, batches, steps=3, lr=0.1, weight_decay=0.1)
        for name in ("1.running_mean", "1.running_var"):
            assert torch.equal(trained.params[name], params[name])
        assert not torch.equal(trained.params["1.weight"], params["1.weight"])


def test_a_killed_training_with_frozen_parameters_resumes_to_the_same_bits(tmp_path):
    model = WithFrozen()
    losses, params = si.vmapped(model, loss), si.stack([model])
    whole = si.train(losses, params, batches, steps=6, lr=0.1)

    def killed(step, active):
        if step == 4:
            raise KeyboardInterrupt
        return batches(step, active)

    resume = si.Resume(checkpoint=tmp_path / "state", seconds=0)
    with pytest.raises(KeyboardInterrupt):
        si.train(losses, params, killed, steps=6, lr=0.1, resume=resume)
    again = si.train(losses, params, batches, steps=6, lr=0.1, resume=resume)
    assert all(torch.equal(tensor, again.params[name]) for name, tensor in whole.params.items())


@MAKE
def test_what_is_held_stays_so_after_a_transfer_that_masks_it(make):
    fresh = WithFrozen()
    fresh.body.weight.requires_grad_(False)
    found = si.Subnetwork.from_model(WithFrozen(1), {"body.weight": torch.rand(4, 3) < 0.5})
    params = [si.start(fresh, found)]
    for _ in range(2):
        trained = si.transfer(make(fresh, loss), params, batches, steps=2, lr=0.1)
        assert torch.equal(trained.params["body.weight"][0], params[0].params["body.weight"])
        params = [si.start(si.unstack(trained.params, 0), found)]


@MAKE
def test_what_is_trained_though_the_model_says_otherwise_is_refused(make):
    model = WithFrozen()
    moved = {name: tensor.clone() for name, tensor in si.stack([model]).items() if name != "table"}
    with pytest.raises(ValueError, match=r"'position' is trained, but has requires_grad=False in the model.*Hold it"):
        si.train(make(model, loss), moved, batches, steps=1, lr=0.1)


def test_a_checkpoint_of_another_training_is_not_resumed(tmp_path):
    model = layers()
    losses, names, source = si.vmapped(model, loss), si.maskable(model), si.stack([model])
    resume = si.Resume(checkpoint=tmp_path / "state", seconds=0)

    def killed(step, active):
        if step == 4:
            raise KeyboardInterrupt
        return batches(step, active)

    def find(batches=batches, resume=None, source=source, steps=6, **settings):
        _, trained = si.discover(losses, source, names, batches, steps=steps, lr=0.1, resume=resume, **settings)
        return trained.params

    other = {name: tensor + 0.1 for name, tensor in source.items()}
    others = (
        {"penalty": 1.0}, {"family": si.ContinuousSparsification(final=50.0)}, {"steps": 8}, {"source": other},
        {"family": si.ContinuousSparsification(initial_logit=0.2)},
    )  # fmt: skip
    for settings in ({}, *others):
        with pytest.raises(KeyboardInterrupt):
            find(killed, resume)
        seen = []
        told = si.Resume(checkpoint=resume.checkpoint, progress=seen.append)
        again, plain = find(resume=told, **settings), find(**settings)
        assert seen[0] == (0 if settings else 4), settings
        assert all(torch.equal(tensor, again[name]) for name, tensor in plain.items()), settings


def test_a_context_that_is_not_finite_passes_through_a_checkpoint(tmp_path):
    def run(batches, resume=None):
        return si.train(
            lambda params, context, batch, step: (params["w"] - context["aim"][:, :2]).square().sum(1),
            {"w": torch.zeros(1, 2)}, batches, steps=6, lr=0.1, resume=resume,
            context={"aim": torch.tensor([[1.0, 2.0, math.nan, math.inf]])},
        ).params["w"]  # fmt: skip

    def killed(step, active):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(killed, si.Resume(checkpoint=tmp_path / "state", seconds=0))
    seen = []
    again = run(lambda step, active: None, si.Resume(checkpoint=tmp_path / "state", progress=seen.append))
    assert seen[0] == 3
    assert torch.equal(again, run(lambda step, active: None))


# ---------------------------------------------------------------------------------------
# Losses that compute with something else


class Recomputed(nn.Module):
    def __init__(self, use_reentrant):
        super().__init__()
        self.first, self.out, self.use_reentrant = nn.Linear(3, 3), nn.Linear(3, 1), use_reentrant

    def forward(self, x):
        x = x.clone().requires_grad_()  # the older way needs it
        hidden = torch.utils.checkpoint.checkpoint(self.first, x, use_reentrant=self.use_reentrant)
        return self.out(hidden)


@MAKE
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_is_refused(make, use_reentrant):
    model = Recomputed(use_reentrant)
    before = everything(model)
    with pytest.raises((ValueError, RuntimeError), match=r"gradient checkpointing|si\.looped"):
        si.train(make(model, loss), si.stack([model]), batches, steps=1, lr=0.1)
    assert_untouched(model, before)


class Hides(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.hidden = nn.Linear(3, 3), [nn.Linear(3, 1)]

    def forward(self, x):
        return self.hidden[0](torch.relu(self.first(x)))


@MAKE
def test_losses_that_depend_on_tensors_that_are_not_trained_are_refused(make):
    plain, hides = layers(), Hides()
    weights = list(plain.parameters())

    def direct(call, batch):
        return nn.functional.mse_loss(plain(batch[0]), batch[1]) + 0 * call(batch[0]).sum()

    def penalised(call, batch):
        return loss(call, batch) + sum(weight.abs().sum() for weight in weights)

    for model, one in ((plain, direct), (plain, penalised), (hides, loss)):
        with pytest.raises(ValueError, match=r"a tensor of shape \[.*\] that needs a gradient and is not trained here"):
            si.train(make(model, one), si.stack([model]), batches, steps=1, lr=0.1)
        assert all(parameter.grad is None for parameter in [*model.parameters(), *hides.hidden[0].parameters()])
    outside = nn.Parameter(torch.zeros(1, 4, 3))
    with pytest.raises(ValueError, match=r"of shape \[1, 4, 3\] that needs a gradient"):
        search(make(plain, loss), si.stack([plain]), ["0.weight"], outside=lambda step, active: {"0.weight": outside})


def test_without_gradients_a_training_is_refused_by_the_reason():
    model = layers()
    for off in (torch.no_grad(), torch.inference_mode()):
        with off, pytest.raises(ValueError, match=r"gradients are off here.*torch.no_grad"):
            si.train(si.vmapped(model, loss), si.stack([model]), batches, steps=1, lr=0.1)


def test_batchnorm_that_trains_needs_a_place_for_its_statistics():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).train()
    with pytest.raises(ValueError, match=r"'1' is a BatchNorm in training mode, and the stack has no place.*state_of"):
        si.train(si.looped(model, loss), si.stack([model]), batches, steps=1, lr=0.1)
    model[1].momentum = None
    with pytest.raises(ValueError, match="'1' has momentum=None"):
        si.train(si.looped(model, loss), si.stack([si.state_of(model)]), batches, steps=1, lr=0.1)
    losses = si.vmapped(model.eval(), loss)
    model.train()
    with pytest.raises(ValueError, match="'1' is a BatchNorm in training mode"):
        losses(si.stack([si.state_of(model)]), {}, batches(0, [0]), 0)


@MAKE
def test_a_buffer_that_is_written_to_is_kept_in_the_stack_or_said_to_be_lost(make):
    model = Twice()
    x, y = batches(0, [0, 1])
    params = si.stack([si.state_of(model)] * 2)
    make(model, loss)(params, {}, (x, y), 0)
    torch.testing.assert_close(params["mean"], x.mean(1))
    assert params["calls"].tolist() == [1.0, 1.0]
    with pytest.warns(UserWarning, match="writes to its buffer 'mean', which is not in the stack"):
        make(model, loss)(si.stack([model, model]), {}, (x, y), 0)


# ---------------------------------------------------------------------------------------
# Batches and what is measured


@MAKE
def test_batches_and_metrics_have_one_entry_for_each_model(make):
    model = layers()
    losses, params = make(model, loss), si.stack([model, model])
    for wrong in ((torch.rand(8, 3), torch.rand(8, 1)), (torch.rand(2, 8, 3), torch.tensor(1.0))):
        with pytest.raises(ValueError, match=r"batch: a tensor of shape \[.*\] for 2 models"):
            losses(params, {}, wrong, 0)
    with pytest.raises(TypeError, match="a batch holds a NoneType"):
        losses(params, {}, (torch.rand(2, 8, 3), None), 0)
    for metric in (torch.zeros(3), torch.zeros(2, 1), torch.tensor(0.0)):
        watch = si.Watch(lambda *given, metric=metric: {"score": metric}, every=1)
        with pytest.raises(ValueError, match=r"evaluate: 'score' has another shape than \(2,\)"):
            si.train(losses, params, batches, steps=1, lr=0.1, watch=watch)


class Pair(NamedTuple):
    inputs: torch.Tensor
    answers: torch.Tensor


@MAKE
def test_batches_may_be_named_tuples_and_mappings(make):
    model = layers()
    x, y = batches(0, [0])
    for batch, one in (
        (Pair(x, y), lambda call, batch: nn.functional.mse_loss(call(batch.inputs), batch.answers)),
        (UserDict(x=x, y=y), lambda call, batch: nn.functional.mse_loss(call(batch["x"]), batch["y"])),
        (UserDict(x=x, y=y), lambda call, batch: nn.functional.mse_loss(call(input=batch["x"]), batch["y"])),
    ):
        value = make(model, one)(si.stack([model]), {}, batch, 0)
        torch.testing.assert_close(value[0], loss(model, (x[0], y[0])))


def test_pieces_of_a_batch_whose_entries_are_not_of_one_size_are_refused():
    model = layers()

    def weighted(step, active):
        return (*batches(step, active), torch.ones(len(active), 2))

    def one(call, batch):
        return (nn.functional.mse_loss(call(batch[0]), batch[1], reduction="none") * batch[2].mean()).mean()

    with pytest.raises(ValueError, match=r"pieces = 2: the second axes of a batch, \[2, 8\], are not all of one size"):
        si.train(si.vmapped(model, one), si.stack([model]), weighted, steps=1, lr=0.1, run=si.Run(pieces=2))


# ---------------------------------------------------------------------------------------
# Names and kinds of arguments


@pytest.mark.parametrize(("prefix", "who"), [("module.", " (of DataParallel)"), ("_orig_mod.", " (of torch.compile)")])
def test_names_that_differ_by_a_prefix_are_one_line_that_names_it(prefix, who, tmp_path):
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(40)))
    wrapped = {prefix + name: tensor for name, tensor in model.named_parameters()}
    strip = rf"begin with '{prefix}'{who}, which the model's names do not: strip it"
    strip, add = strip.replace("(", r"\(").replace(")", r"\)"), rf"The model's names begin with '{prefix}'"
    with pytest.raises(ValueError, match=strip) as error:
        si.vmapped(model, loss)(si.stack([wrapped]), {}, None, 0)
    messages = [str(error.value)]
    with pytest.raises(ValueError, match=strip) as error:
        si.stack([model, wrapped])
    messages.append(str(error.value))
    weights = {name: tensor for name, tensor in wrapped.items() if name.endswith("weight")}
    found = si.Subnetwork({name: torch.ones(3, 3, dtype=torch.bool) for name in weights}, weights)
    found.save(tmp_path / "found.safetensors")
    for call in (found.check_fits, lambda model: si.Subnetwork.load(tmp_path / "found.safetensors", model)):
        with pytest.raises(ValueError, match=strip) as error:
            call(model)
        messages.append(str(error.value))
    with pytest.raises(ValueError, match=add) as error:
        search(None, si.stack([wrapped]), si.maskable(model))
    messages.append(str(error.value))
    assert max(map(len, messages)) < 800


def test_a_wrong_kind_of_argument_is_named_before_the_search():
    model = layers()
    losses, names = si.vmapped(model, loss), si.maskable(model)
    for family in (si.ContinuousSparsification, "hard concrete", 0):
        with pytest.raises(TypeError, match=r"family is .*ContinuousSparsification\(\)"):
            search(losses, si.stack([model]), names, family=family)
    with pytest.raises(TypeError, match=r"source is a Sequential, not its parameters: si.stack\(\[model\]\)"):
        search(losses, model, names)
    with pytest.raises(TypeError, match=r"params is a Sequential"):
        si.train(losses, model, batches, steps=1, lr=0.1)
    with pytest.raises(TypeError, match=r"model 0: 'state_dict' is a dict, with the tensors inside of it perhaps"):
        si.stack([{"state_dict": dict(model.named_parameters()), "epoch": 3}])
    with pytest.raises(ValueError, match="leading axes"):
        si.train(losses, {"w": torch.tensor(1.0)}, batches, steps=1, lr=0.1)
    with pytest.raises(TypeError, match=r"'0\.weight' has no shape yet, as its layer is lazy: run the model once"):
        si.stack([nn.Sequential(nn.LazyLinear(3))])
    with pytest.raises(ValueError, match=r"is compiled by torch\.jit"):
        si.maskable(torch.jit.script(nn.Linear(3, 1)))
