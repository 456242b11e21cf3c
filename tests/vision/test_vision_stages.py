"""The chain of the vision experiment, on very small networks and pictures."""

import copy
import dataclasses
import functools
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from companion.lab.make import Machine
from companion.lab.store import Store
from companion.vision import classifiers, imagenet, pictures
from companion.vision import scenes as vision
from companion.vision import stages as ve
from companion.vision.specs import build, masked
from companion.vision.starts import CONDITIONS
from sicore.masking import maskable
from sicore.seeding import derive
from sicore.stacks import state_of

DATA = pictures.scenes(size=16, pretraining=64, training=96, discovery=32, evaluation=32)
RESNET = {"resnet": {"width": 8, "depths": [1, 1]}}
VIT = {"vit": {"size": 16, "patch": 4, "width": 16, "layers": 1, "heads": 2}}


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    return Machine(Store(tmp_path_factory.mktemp("store")), workers=1)


def chain(machine, model=RESNET, seeds=(0,), random=False, **settings):
    """Bases, their heads, their subnetworks."""
    bases = ve.base_models(
        machine, seeds, data=DATA, model=model, steps=0 if random else 6, batch=16, every=3, **settings
    )
    headed = ve.heads(machine, bases, steps=30, batch=32)
    return bases, headed, ve.subnetworks(machine, headed, steps=6, batch=16, every=3)


def rows(machine, names, model=RESNET, seeds=(0,), **settings):
    _, _, found = chain(machine, model, seeds)
    _, _, other = chain(machine, model, seeds, random=True)
    given = {"rates": [1e-3], "steps": 4, "batch": 16, "every": 2}
    return {
        row.spec.name: row for row in ve.transfers(machine, found, other, conditions=names, **{**given, **settings})
    }


def final(row):
    return {name.removeprefix("params/"): x for name, x in row.tensors.items() if name.startswith("params/")}


def begun(machine, name, model=RESNET):
    """What a condition starts from, the base with its head, and a fresh network."""
    row = rows(machine, [name], model)[name]
    _, (headed,), _ = chain(machine, model)
    fresh = state_of(headed.spec.base.headed(derive(0, "transfer")))
    return ve.start_of(row.spec, machine), ve.headed_params(headed.spec, machine), fresh


@pytest.mark.parametrize("model", [RESNET, VIT], ids=["resnet", "vit"])
def test_every_row_of_the_table_runs(machine, model):
    found = rows(machine, list(CONDITIONS), model)
    table = ve.table(list(found.values()))
    assert table["condition"].tolist() == list(CONDITIONS)
    assert table[["accuracy_ordinary", "accuracy_mean_pooled", "accuracy_silhouette"]].notna().all(axis=None)
    assert (table["shape"] + table["texture"] + table["neither"] == 64).all()
    by = table.set_index("condition")
    assert by.loc["new_head", "seen"] == 0
    assert (by.drop("new_head")["seen"] == 4 * 16).all(), "one budget for all that train, in two halves too"
    held = [name for name, row in CONDITIONS.items() if row.freeze]
    assert (by.loc[held, "frozen"] > 0).all()
    assert (by.drop(held)["frozen"] == 0).all()
    assert by.loc["scratch", "inherited"] == by.loc["subnetwork_alone", "inherited"] == 0
    assert by.loc["sampled", "frozen"] == by.loc["subnetwork", "frozen"]


def test_what_each_condition_starts_from(machine):
    names = ve.groups_of(chain(machine)[0][0].spec.headed())
    assert names["head"]
    assert names["norms"]
    assert not names["tokens"]

    def same(a, b, which):
        return all(torch.equal(a[name], b[name]) for name in which)

    for condition in ("scratch", "fine_tuning", "lp_ft", "inherited_only", "subnetwork", "subnetwork_fresh_norms"):
        begin, headed, fresh = begun(machine, condition)
        kernels = [name for name in fresh if name.endswith("convolution.weight")]
        assert same(begin.params, fresh if condition in ("scratch", "fine_tuning") else headed, names["head"]), (
            condition
        )
        from_base = condition not in ("scratch", "subnetwork_fresh_norms")
        assert same(begin.params, headed if from_base else fresh, names["norms"]), condition
        if condition in ("scratch", "inherited_only"):
            assert same(begin.params, fresh, kernels), condition
        if condition in ("fine_tuning", "lp_ft"):
            assert same(begin.params, headed, kernels), condition
        if condition == "subnetwork":
            for name in kernels:
                expected = torch.where(begin.frozen[name], headed[name], fresh[name])
                assert torch.equal(begin.params[name], expected), name
            assert set(begin.frozen) == set(kernels), "every kernel is masked, the head is not"


@pytest.mark.parametrize("classes", ["pairs", "pairs and shapes", "cues"])
def test_shape_and_texture_are_told_where_a_class_stands_for_them(machine, classes):
    data = pictures.scenes(
        size=16, pretraining=64, training=32, discovery=32, evaluation=64, flat=0.5, classes=classes, textures=2
    )
    (base,) = ve.base_models(machine, [0], data=data, model=RESNET, steps=40, batch=32, every=40)
    asked = pictures.pictures(base.data, "validation_pretraining")
    answered = ve.Call(base.spec.build(), base.spec, machine).predict(base.tensors, asked)
    hits = {"shape": [], "texture": [], "": []}
    for found, expected in zip(answered.tolist(), asked.labels.tolist(), strict=True):
        one, other = asked.classes[found].split(" in "), asked.classes[expected].split(" in ")
        hits[""].append(one == other)
        for kind, names in {"shape": vision.SHAPES, "texture": vision.TEXTURES}.items():
            if wanted := set(other) & set(names):
                hits[kind].append(wanted <= set(one))
    for kind, some in hits.items():
        assert base.meta[f"{kind}_accuracy".removeprefix("_")] == pytest.approx(sum(some) / len(some)), kind
    assert 0 < sum(hits["texture"]) < len(hits["texture"])


def test_the_head_is_what_a_plain_model_computes(machine):
    (base,), (headed,), _ = chain(machine)
    model = classifiers.resnet(64, width=8, depths=(1, 1))
    classifiers.renew_head(model, 16)
    model.load_state_dict(ve.headed_params(headed.spec, machine), strict=False)
    asked = pictures.pictures(base.data, "test_ordinary")
    model.eval()
    with torch.no_grad():
        scores = model(pictures.normalised(asked.take(torch.arange(len(asked)), None))).logits
    new_head = rows(machine, ["new_head"])["new_head"]
    assert new_head.tensors["test_ordinary"].tolist() == scores.argmax(1).tolist()
    assert headed.meta["accuracy_ordinary"] == pytest.approx(float((scores.argmax(1) == asked.labels).float().mean()))
    assert all(
        torch.equal(final(new_head)[name], x) for name, x in base.tensors.items() if not name.startswith("classifier")
    )


def test_a_full_subnetwork_is_the_base_itself(machine):
    _, (headed,), (found,) = chain(machine)
    everything = {name: torch.ones_like(mask) for name, mask in found.tensors.items()}
    spec = dataclasses.replace(found.spec, every=1)  # another object, with masks of ones
    machine.store.put("vision_mask", spec.json(), everything, {"density": 1.0})
    (row,) = ve.transfers(
        machine,
        [dataclasses.replace(found, spec=spec)],
        conditions=["subnetwork"],
        rates=[1e-2],
        steps=2,
        batch=16,
        every=2,
    )
    begin, whole = ve.start_of(row.spec, machine), ve.headed_params(headed.spec, machine)
    assert all(torch.equal(begin.params[name], whole[name]) for name in whole)
    assert sum(mask.numel() for mask in begin.frozen.values()) == row.meta["frozen"]


# ---------------------------------------------------------------------------------------
# Frozen weights, running statistics


def test_frozen_weights_stay_to_the_bit_under_weight_decay(machine):
    row = rows(machine, ["subnetwork"], steps=6, weight_decay=0.5, rates=[1e-2])["subnetwork"]
    begin = ve.start_of(row.spec, machine)
    moved = 0
    for name, mask in begin.frozen.items():
        assert torch.equal(final(row)[name][mask], begin.params[name][mask]), name
        moved += int((final(row)[name][~mask] != begin.params[name][~mask]).sum())
    assert moved > 0.9 * sum(int((~mask).sum()) for mask in begin.frozen.values())


def running(params):
    return {name: tensor for name, tensor in params.items() if "running" in name}


def test_a_row_that_diverges_is_marked_and_has_no_values(machine):
    found = rows(machine, ["scratch"], rates=[1e30])["scratch"]
    line = ve.table([found]).iloc[0]
    assert line["diverged"] >= 1
    assert line[["accuracy_ordinary", "accuracy_mean_pooled", "shape_bias", "validation_accuracy"]].isna().all()
    assert line["seen"] == 4 * 16
    good = rows(machine, ["scratch"])["scratch"]
    assert ve.best_rates([found, good]) == {"scratch": 1e-3}
    assert "diverged" not in ve.table([good])


def test_running_statistics_move_in_training_and_stay_in_head_and_search(machine):
    (base,), (headed,), _ = chain(machine)
    fresh = state_of(build(base.spec.model, 64, derive(0, "base")))
    assert all(not torch.equal(base.tensors[name], x) for name, x in running(fresh).items()), "the base's have moved"
    assert all(torch.equal(ve.headed_params(headed.spec, machine)[name], base.tensors[name]) for name in running(fresh))
    found = rows(machine, ["scratch", "subnetwork", "new_head"])
    for name in ("scratch", "subnetwork"):
        begin = ve.start_of(found[name].spec, machine)
        assert all(not torch.equal(final(found[name])[key], x) for key, x in running(begin.params).items()), name
    assert all(torch.equal(running(final(found["new_head"]))[key], x) for key, x in running(base.tensors).items())
    # A search computes with the source's statistics, and does not move those of the stack.
    call = ve.Call(base.spec.headed(), base.spec, machine)
    stack = {name: tensor[None].clone() for name, tensor in ve.headed_params(headed.spec, machine).items()}
    before = {name: tensor.clone() for name, tensor in running(stack).items()}
    asked = pictures.pictures(base.data, "discovery")
    batch = asked.take(torch.arange(8), None)[None], asked.labels[:8][None]
    search = call.losses(training=False)(stack, {}, batch, 0)
    assert all(torch.equal(stack[name], tensor) for name, tensor in before.items())
    moves = call.losses(training=True)(stack, {}, batch, 0)
    assert all(not torch.equal(stack[name], tensor) for name, tensor in before.items())
    assert not torch.allclose(search, moves)


def test_an_untrained_base_has_the_statistics_of_pictures(machine):
    (base,), _, _ = chain(machine, random=True)
    fresh = state_of(build(RESNET, 64, derive(0, "base")))
    assert all(torch.equal(base.tensors[name], x) for name, x in fresh.items() if "running" not in name)
    asked = pictures.pictures(base.data, "pretraining")
    images = pictures.normalised(asked.take(torch.arange(64), None))
    first = "resnet.embedder.embedder"
    seen = F.conv2d(images, fresh[f"{first}.convolution.weight"], padding=1)
    mean, variance = seen.mean((0, 2, 3)), seen.var((0, 2, 3))
    assert torch.allclose(base.tensors[f"{first}.normalization.running_mean"], mean, atol=1e-5)
    assert torch.allclose(base.tensors[f"{first}.normalization.running_var"], variance, rtol=1e-4)


def test_an_evaluation_uses_the_statistics_that_the_training_ended_with(machine):
    row = rows(machine, ["subnetwork"])["subnetwork"]
    model = row.spec.base.headed()
    model.load_state_dict(final(row), strict=False)
    asked = pictures.pictures(row.data, "test_ordinary")
    images = pictures.normalised(asked.take(torch.arange(len(asked)), None))

    def predicted(one):
        with torch.no_grad():
            return one.eval()(images).logits.argmax(1).tolist()

    assert row.tensors["test_ordinary"].tolist() == predicted(model)
    other = copy.deepcopy(model)
    for module in other.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    assert row.tensors["test_ordinary"].tolist() != predicted(other)


def test_a_row_trains_as_a_plain_loop_does(machine):
    row = rows(machine, ["scratch"], weight_decay=0.1, momentum=0.9, rates=[0.05])["scratch"]
    model = row.spec.base.headed()
    model.load_state_dict(ve.start_of(row.spec, machine).params, strict=False)
    known = pictures.pictures(row.data, "training")
    weights = len(known) / (16 * torch.bincount(known.labels, minlength=16))
    batches = ve.batches(row.spec, {"training": 1.0}, machine)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    for step in range(4):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 4)
        images, labels = batches(step, torch.arange(1))
        optimizer.zero_grad()
        loss = F.cross_entropy(model.train()(pictures.normalised(images[0])).logits, labels[0], weight=weights)
        loss.backward()
        optimizer.step()
    for name, tensor in state_of(model).items():
        assert torch.allclose(final(row)[name], tensor, atol=1e-4), name


def test_frozen_then_free_goes_on_from_the_frozen_half(machine):
    found = rows(machine, ["subnetwork_then_free"])["subnetwork_then_free"]
    before = found.spec.before
    assert (before.name, before.steps, found.spec.steps) == ("subnetwork", 2, 2)
    stored, meta = machine.store.get("vision_row", before.json())
    begin = ve.start_of(found.spec, machine)
    assert all(torch.equal(begin.params[name], stored[f"params/{name}"]) for name in begin.params)
    held = ve.start_of(before, machine).frozen
    name = next(iter(held))
    assert torch.equal(begin.params[name][held[name]], ve.start_of(before, machine).params[name][held[name]])
    assert not torch.equal(final(found)[name][held[name]], begin.params[name][held[name]]), "free now"
    assert found.meta["inherited"] == meta["inherited"]


# ---------------------------------------------------------------------------------------
# The store


@pytest.mark.parametrize(
    ("stage", "kind", "at"),
    [
        ("_train_base", "vision_base", 4), ("_train_head", "", 20), ("_find_subnetwork", "vision_mask", 4),
        ("_train_row", "vision_row", 4),
    ],
)  # fmt: skip
def test_a_killed_training_resumes_to_the_same_bits(machine, tmp_path, monkeypatch, stage, kind, at):
    whole = rows(machine, ["subnetwork"], steps=6)["subnetwork"]
    other = Machine(Store(tmp_path), workers=1)
    monkeypatch.setattr(ve, "Resume", functools.partial(ve.Resume, seconds=0.0))
    count, original = [0], getattr(ve, stage)

    def killed(specs, machine, progress):
        def stop(steps):
            count[0] += steps
            if count[0] == at:
                raise KeyboardInterrupt

        original(specs, machine, stop)

    monkeypatch.setattr(ve, stage, killed)
    with pytest.raises(KeyboardInterrupt):
        rows(other, ["subnetwork"], steps=6)
    assert not kind or list((tmp_path / kind).glob("*.checkpoint")), "something was saved"
    begun = []
    monkeypatch.setattr(ve, stage, lambda specs, machine, progress: original(specs, machine, begun.append))
    resumed = rows(other, ["subnetwork"], steps=6)["subnetwork"]
    assert not kind or begun[0] == at - 1, "it went on from its checkpoint"
    assert all(torch.equal(resumed.tensors[name], tensor) for name, tensor in whole.tensors.items())
    assert resumed.history.equals(whole.history)
    assert not list(tmp_path.glob("*/*.checkpoint"))


def test_a_second_run_trains_nothing(machine, monkeypatch):
    rows(machine, ["scratch", "subnetwork"])
    monkeypatch.setattr(ve, "_train_row", lambda *_: pytest.fail("trained again"))
    rows(machine, ["scratch", "subnetwork"])


def test_processes_change_no_bit(machine, tmp_path, monkeypatch):
    from companion.lab import make as jobs

    monkeypatch.setattr(jobs, "free_memory", lambda device: 2**34)
    monkeypatch.setattr(
        ve, "COST", dataclasses.replace(ve.COST, operations=lambda spec: 1e15)
    )  # enough to start processes for
    two = Machine(Store(tmp_path), workers=2)
    seeds = (0, 1)
    bases = ve.base_models(two, seeds, data=DATA, model=RESNET, steps=6, batch=16, every=3)
    for one, other in zip(bases, chain(machine, seeds=seeds)[0], strict=True):
        assert all(torch.equal(one.tensors[name], tensor) for name, tensor in other.tensors.items())


# ---------------------------------------------------------------------------------------
# Numbers by hand


def stage(name, lr, score, seed=0, **tensors):
    base = ve.Base(data={**DATA, "seed": seed}, model=RESNET)
    source = ve.Search(headed=ve.Head(base=base))
    return ve.Stage(ve.Row(condition=CONDITIONS[name], source=source, lr=lr), tensors, {"validation_ordinary": score})


def test_the_learning_rate_is_chosen_on_validation_pictures_over_all_seeds():
    runs = [stage("scratch", 0.1, 0.9), stage("scratch", 0.1, 0.3, 1)]
    runs += [stage("scratch", 0.2, 0.7), stage("scratch", 0.2, 0.8, 1), stage("sampled", 0.1, 0.2)]
    assert ve.best_rates(runs) == {"scratch": 0.2, "sampled": 0.1}


def test_every_condition_may_have_its_own_rate(machine):
    rates = {"scratch": 1e-3, "subnetwork": 2e-3, "new_head": 5e-3}
    found = rows(machine, list(rates), rates=rates)
    assert {name: row.spec.lr for name, row in found.items()} == {**rates, "new_head": 0.0}
    with pytest.raises(ValueError, match="there is none for sampled"):
        rows(machine, ["scratch", "sampled"], rates=rates)


def test_decisions_by_class_are_counted_by_hand():
    conflicts = pictures.pictures({**DATA, "seed": 0}, "test_conflict")
    answers = conflicts.labels.clone()
    answers[conflicts.labels == 3] = conflicts.texture[conflicts.labels == 3]
    counted = ve.bias_by_class([stage("scratch", 0.1, 0.5, test_conflict=answers)]).set_index("class")
    assert (counted["neither"] == 0).all()
    assert counted["texture"].tolist() == [4 if k == 3 else 0 for k in range(16)]
    assert counted["shape"].tolist() == [0 if k == 3 else 4 for k in range(16)]


def test_answers_to_the_first_conflicts_by_hand():
    conflicts = pictures.pictures({**DATA, "seed": 0}, "test_conflict")
    answers = conflicts.labels.clone()
    answers[1] = conflicts.texture[1]
    answers[2] = next(k for k in range(16) if k not in (conflicts.labels[2], conflicts.texture[2]))
    runs = [stage("scratch", 0.1, 0.5, test_conflict=answers), stage("sampled", 0.1, 0.5, test_conflict=answers)]
    found = ve.answers_table(runs, 3)
    assert found["condition"].tolist() == ["scratch"] * 3 + ["sampled"] * 3
    assert found["picture"].tolist() == [0, 1, 2] * 2
    assert found["follows"].tolist() == ["shape", "texture", "neither"] * 2
    first = found.iloc[0]
    assert first["answer"] == first["shape"] == conflicts.classes[int(conflicts.labels[0])]


def test_the_table_of_a_search_has_what_every_stage_has_measured(machine):
    parts = [chain(machine, seeds=(0, 1), random=random) for random in (False, True)]
    trained, fresh = (
        ve.search_table(bases, headed, ve.heads(machine, bases, on="discovery", steps=30, batch=32), found)
        for bases, headed, found in parts
    )
    assert trained["seed"].tolist() == [0, 1]
    assert fresh[["pretraining", "pretraining_shape", "pretraining_texture"]].isna().all(axis=None)
    for name in ("pretraining", "head_ordinary", "probe_mean_pooled", "subnetwork_mean_pooled", "density"):
        assert trained[name].between(0, 1).all(), name
    _, headed, found = parts[0]
    assert trained["head_mean_pooled"].tolist() == [one.meta["accuracy_mean_pooled"] for one in headed]
    assert trained["density"].tolist() == [ve.subnetwork_of(one, machine).density for one in found]
    assert (trained["steps"] == 6).all()


def test_class_weights_and_shares_by_hand():
    data = {**DATA, "seed": 0}
    assert ve.shares_of(0.0, data) == {"training": 1.0}
    assert ve.shares_of(None, data) == {"training": 1.0, "discovery": 1.0}
    assert ve.shares_of(0.25, data) == {"training": 1.0, "discovery": 0.75}, "24 of 32 pooled to 96 ordinary pictures"
    counts = torch.bincount(pictures.pictures(data, "training").labels, minlength=16)
    weights = ve.class_weights({"training": 1.0}, data)
    there = counts > 0
    assert torch.allclose((weights * counts)[there], torch.full((int(there.sum()),), 96 / 16))


def test_operations_of_a_convolution_by_hand():
    model = '{"resnet": {"width": 8, "depths": [1]}}'
    # stem 3 -> 8, two 3 x 3 layers 8 -> 8, a head 8 -> 16; 2 operations for a product and its sum
    expected = 2 * (16 * 16 * 9 * (3 * 8 + 2 * 8 * 8) + 8 * 16)
    assert ve.forward_operations(model, 16) == expected


# ---------------------------------------------------------------------------------------
# Errors, and the other front door


def test_errors_come_before_any_training(machine, monkeypatch):
    monkeypatch.setattr(ve, "make", lambda *_: pytest.fail("began"))
    given = {"data": DATA, "model": RESNET}
    with pytest.raises(ValueError, match="batch = 0"):
        ve.base_models(machine, [0], **given, batch=0)
    with pytest.raises(ValueError, match="dtype = 'float8'"):
        ve.base_models(machine, [0], **given, dtype="float8")
    with pytest.raises(ValueError, match="expected resnet, vit"):
        ve.base_models(machine, [0], data=DATA, model={"mlp": {}})
    with pytest.raises(ValueError, match="'sorcery' does not exist"):
        ve.transfers(machine, [], conditions=["sorcery"])
    with pytest.raises(ValueError, match="'random_network' needs random_found"):
        ve.transfers(machine, [], conditions=["random_network"])
    with pytest.raises(ValueError, match="rates is empty"):
        ve.transfers(machine, [], conditions=["scratch"], rates=[])


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for name in ("bear", "cat"):
        (root / "ordinary" / name).mkdir(parents=True)
        (root / "conflict" / name).mkdir(parents=True)
        for k in range(8):
            picture = Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8))
            picture.save(root / "ordinary" / name / f"{name}_{k}.JPEG")
        for other in ("bear", "cat"):
            picture.save(root / "conflict" / name / f"{name}1-{other}1.png")
    imagenet.mean_pooled_copy(imagenet.class_folders(root / "ordinary"), root / "pooled", imagenet.slic)
    return pictures.photographs(root / "ordinary", root / "pooled", root / "conflict", size=32, evaluation=2)


def test_photographs_and_a_pretrained_model_take_the_same_way(machine, photographs, tmp_path):
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=7)
    saved = ResNetForImageClassification(config)
    saved.save_pretrained(tmp_path / "model")
    model = {"pretrained": {"source": str(tmp_path / "model")}}
    bases = ve.base_models(machine, [0], data=photographs, model=model, steps=0)
    assert all(torch.equal(bases[0].tensors[name], tensor) for name, tensor in state_of(saved).items())
    untrained = ve.base_models(machine, [0], data=photographs, model={"untrained": model["pretrained"]}, steps=0)
    assert not torch.equal(bases[0].tensors["classifier.1.weight"], untrained[0].tensors["classifier.1.weight"])
    found, other = (
        ve.subnetworks(machine, ve.heads(machine, some, steps=5, batch=4), steps=2, batch=4, every=2)
        for some in (bases, untrained)
    )
    table = ve.table(
        ve.transfers(
            machine, found, other, conditions=["scratch", "mixture_1_to_1", "subnetwork", "random_network"],
            rates=[1e-3], steps=2, batch=4, every=2, momentum=0.9,
        )
    )  # fmt: skip
    assert len(table) == 4
    assert "accuracy_silhouette" not in table
    assert (table["images"] == 2).all(), "the two pictures of a shape with its own texture are left out"
    with pytest.raises(ValueError, match="a pretrained model is taken as it is"):
        ve.base_models(machine, [0], data=photographs, model=model, steps=5)
    with pytest.raises(ValueError, match="without a set for pretraining"):
        ve.base_models(machine, [0], data=photographs, model=RESNET, steps=5)
    saved.classifier[1].weight.data += 1
    saved.save_pretrained(tmp_path / "model")
    (changed,) = ve.base_models(machine, [0], data=photographs, model=model, steps=0)
    assert not torch.equal(changed.tensors["classifier.1.weight"], bases[0].tensors["classifier.1.weight"])


def saved(folder, **preprocessor):
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=7)
    ResNetForImageClassification(config).save_pretrained(folder)
    known = {"image_processor_type": "ViTImageProcessor", "do_resize": True, "size": 32}
    (folder / "preprocessor_config.json").write_text(json.dumps(known | preprocessor))
    return {"pretrained": {"source": str(folder)}}


def test_the_models_own_normalisation_reaches_its_pictures_and_the_key(machine, photographs, tmp_path):
    mean, spread = map(list, classifiers.IMAGENET)
    own = saved(tmp_path, image_mean=mean, image_std=spread)
    (usual,) = ve.base_models(machine, [0], data=photographs, model=own, steps=0)
    assert "normalisation" not in usual.spec.json()["model"], "left out where it is the default"
    saved(tmp_path, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    (other,) = ve.base_models(machine, [0], data=photographs, model=own, steps=0)
    assert other.spec.json()["model"] == {**usual.spec.json()["model"], "normalisation": [[0.5] * 3, [0.25] * 3]}
    assert machine.store.path("vision_base", other.spec.json()) != machine.store.path("vision_base", usual.spec.json())
    asked = pictures.pictures(other.data, "test_ordinary")
    images = asked.take(torch.arange(len(asked)), None)
    for base, by in ((usual, classifiers.IMAGENET), (other, ([0.5] * 3, [0.25] * 3))):
        model = classifiers.pretrained(str(tmp_path)).eval()
        by = [torch.tensor(numbers).view(3, 1, 1) for numbers in by]
        with torch.no_grad():
            expected = model((images / 255 - by[0]) / by[1]).logits
        found = ve.Call(base.spec.build(), base.spec, machine).scores(base.tensors, asked)
        assert torch.allclose(found, expected, atol=1e-4)
    # An untrained one of the same architecture sees the same pictures.
    untrained = {"untrained": own["pretrained"]}
    (fresh,) = ve.base_models(machine, [0], data=photographs, model=untrained, steps=0)
    assert fresh.spec.normalisation == ((0.5,) * 3, (0.25,) * 3)
    first = "resnet.embedder.embedder"
    training = pictures.pictures(fresh.data, "training")
    seen = (training.take(torch.arange(len(training)), None) / 255 - 0.5) / 0.25
    mean = F.conv2d(seen, fresh.tensors[f"{first}.convolution.weight"], stride=2, padding=3).mean((0, 2, 3))
    assert torch.allclose(fresh.tensors[f"{first}.normalization.running_mean"], mean, atol=1e-4)


@pytest.mark.parametrize("kind", ["pretrained", "untrained"])
def test_a_model_that_is_set_otherwise_under_the_same_name_is_another_one(machine, photographs, tmp_path, kind):
    model = {kind: saved(tmp_path)["pretrained"]}
    (before,) = ve.base_models(machine, [0], data=photographs, model=model, steps=0)
    file = tmp_path / "config.json"
    assert ve.base_models(machine, [0], data=photographs, model=model, steps=0)[0].spec == before.spec
    file.write_text(json.dumps(json.loads(file.read_text()) | {"hidden_act": "gelu"}))
    (after,) = ve.base_models(machine, [0], data=photographs, model=model, steps=0)
    assert after.spec.model["bytes"] != before.spec.model["bytes"]


def test_a_model_whose_files_change_during_a_run_is_refused(machine, photographs, tmp_path):
    spec = ve.Base(data={**photographs, "seed": 0}, model={**saved(tmp_path), "bytes": "of before"}, steps=0)
    with pytest.raises(ValueError, match="its files have changed since the run began"):
        ve._train_base([spec.json()], machine, None)


def test_a_size_or_a_head_that_does_not_do_is_refused_before_anything_is_trained(machine, photographs, monkeypatch):
    monkeypatch.setattr(ve, "make", lambda *_: pytest.fail("began"))
    with pytest.raises(ValueError, match=r"size = 16: ViT.* it is for 24 x 24"):
        ve.base_models(machine, [0], data=DATA, model={"vit": {**VIT["vit"], "size": 24}})
    for name in ("squeezenet1_1", "googlenet"):
        with pytest.raises(ValueError, match=r"SqueezeNet has no head|GoogLeNet: \d+ kernels, 'aux1.* take no part"):
            ve.base_models(
                machine, [0], data=photographs, model={"untrained": {"source": f"torchvision:{name}"}}, steps=0
            )


def test_masks_cover_every_kernel_and_not_the_head():
    for model in (RESNET, VIT):
        built = build(model, 16)
        names = masked(built)
        assert set(names) == set(maskable(built)) - {f"{classifiers.head(built)}.weight"}
        assert any("patch" in name for name in names) == (model is VIT)
