import pytest
import torch
from torch import nn

from sicore import Subnetwork
from sicore.files import save_tensors

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(4.0) + 10, "bias": torch.tensor([1.0, 2.0])}
A = {"a": torch.tensor([[True, True, False], [False, False, True]]), "b": torch.tensor([False, False, False, True])}
B = {"a": torch.tensor([[True, False, False], [False, True, True]]), "b": torch.tensor([False, False, False, False])}


@pytest.fixture
def first():
    return Subnetwork(A, WEIGHTS, {"task": "ab", "seed": 3})


@pytest.fixture
def second():
    return Subnetwork(B, WEIGHTS)


def random_pair(rng, weights=None):
    weights = weights or {"x": torch.randn(7, 5, generator=rng), "y": torch.randn(2, 3, 4, generator=rng)}
    draw = lambda: {name: torch.rand(w.shape, generator=rng) < 0.4 for name, w in weights.items()}  # noqa: E731
    return Subnetwork(draw(), weights), Subnetwork(draw(), weights)


def test_size_total_density_by_hand(first, second):
    assert (first.size, first.total, first.density) == (4, 10, 0.4)
    assert (second.size, second.density) == (3, 0.3)
    assert repr(first) == "Subnetwork(4 of 10 weights, 40.0%, 2 tensors)"


def test_table_by_hand(first):
    assert first.table() == [
        {"parameter": "a", "size": 3, "total": 6, "density": 0.5},
        {"parameter": "b", "size": 1, "total": 4, "density": 0.25},
    ]


def test_empty_dictionary_of_masks_is_an_error():
    with pytest.raises(ValueError, match="masks is empty"):
        Subnetwork({}, WEIGHTS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int64])
def test_mask_that_is_not_boolean_is_an_error_naming_it(dtype):
    with pytest.raises(TypeError, match=r"'a'.*" + str(dtype)):
        Subnetwork({"a": A["a"].to(dtype)}, WEIGHTS)


def test_mask_without_weight_is_an_error_naming_it():
    with pytest.raises(ValueError, match=r"'c'.*a, b, bias"):
        Subnetwork({"c": A["a"]}, WEIGHTS)


def test_mask_of_another_shape_is_an_error_with_both_shapes():
    with pytest.raises(ValueError, match=r"'a'.*\(3, 2\).*\(2, 3\)"):
        Subnetwork({"a": A["a"].T}, WEIGHTS)


def test_value_cannot_be_changed(first):
    with pytest.raises(AttributeError):
        first.masks = {}
    for mapping in (first.masks, first.weights, first.meta):
        with pytest.raises(TypeError):
            mapping["new"] = torch.ones(1)
        with pytest.raises(TypeError):
            del mapping[next(iter(mapping))]


def test_later_changes_of_the_callers_dictionaries_do_not_reach_the_value():
    masks, weights, meta = dict(A), dict(WEIGHTS), {"seed": 1}
    sub = Subnetwork(masks, weights, meta)
    masks.clear(), weights.clear(), meta.clear()
    assert sub.size == 4
    assert set(sub.weights) == {"a", "b", "bias"}
    assert sub.meta == {"seed": 1}


def test_set_operations_leave_their_operands_alone(first, second):
    before = {name: mask.clone() for name, mask in first.masks.items()}
    _ = first | second, first & second, first - second, ~first
    assert all(torch.equal(first.masks[name], before[name]) for name in before)


def test_set_operations_by_hand(first, second):
    assert (first | second).masks["a"].tolist() == [[True, True, False], [False, True, True]]
    assert (first & second).masks["a"].tolist() == [[True, False, False], [False, False, True]]
    assert (first - second).masks["a"].tolist() == [[False, True, False], [False, False, False]]
    assert (~first).masks["b"].tolist() == [True, True, True, False]


def test_laws_of_sets(rng):
    for _ in range(5):
        x, y = random_pair(rng)
        assert ~(x | y) == ~x & ~y
        assert ~(x & y) == ~x | ~y
        assert x - y == x & ~y
        assert (x | ~x).size == x.total
        assert (x & ~x).size == 0
        assert ~~x == x
        assert (x | y).size + (x & y).size == x.size + y.size
        assert x | y == y | x
        assert x - x != x


def test_operations_keep_source_and_description(first, second):
    joined = first | second
    assert joined.meta == first.meta
    assert torch.equal(joined.weights["bias"], WEIGHTS["bias"])


@pytest.mark.parametrize("operation", ["__or__", "__and__", "__sub__"])
def test_subnetworks_of_two_networks_cannot_be_combined(first, operation):
    changed = {**WEIGHTS, "b": WEIGHTS["b"] + 1e-6}
    with pytest.raises(ValueError, match=r"'b' differs between the two sources"):
        getattr(first, operation)(Subnetwork(A, changed))


@pytest.mark.parametrize("operation", ["__or__", "__and__", "__sub__", "overlap"])
def test_subnetworks_over_different_tensors_cannot_be_combined(first, operation):
    with pytest.raises(ValueError, match=r"different tensors.*\bb\b"):
        getattr(first, operation)(Subnetwork({"a": A["a"]}, WEIGHTS))


@pytest.mark.parametrize("operation", ["__or__", "__and__", "__sub__", "overlap"])
def test_subnetworks_of_different_shapes_cannot_be_combined(first, operation):
    other = Subnetwork({**A, "a": A["a"].T}, {**WEIGHTS, "a": WEIGHTS["a"].T})
    with pytest.raises(ValueError, match=r"'a'.*\(2, 3\).*\(3, 2\)"):
        getattr(first, operation)(other)


def test_equality_compares_masks_and_weights(first):
    assert first == Subnetwork(dict(A), {name: w.clone() for name, w in WEIGHTS.items()})
    assert first != Subnetwork(B, WEIGHTS)
    assert first != Subnetwork(A, {**WEIGHTS, "bias": WEIGHTS["bias"] + 1})
    assert first != Subnetwork(A, {name: WEIGHTS[name] for name in ("a", "b")})
    assert first != "subnetwork"
    with pytest.raises(TypeError):
        hash(first)


def test_overlap_by_hand(first, second):
    assert first.overlap(second) == [
        {"parameter": "a", "both": 2, "either": 4, "by_chance": 3 * 3 / 6, "jaccard": 0.5},
        {"parameter": "b", "both": 0, "either": 1, "by_chance": 0.0, "jaccard": 0.0},
        {"parameter": "all", "both": 2, "either": 5, "by_chance": 1.5, "jaccard": 0.4},
    ]


def test_overlap_of_two_empty_tensors_is_complete(second):
    _, b, whole = second.overlap(second)
    assert (b["parameter"], b["jaccard"]) == ("b", 1.0)
    assert (whole["parameter"], whole["both"]) == ("all", second.size)


def test_overlap_of_random_masks_agrees_with_chance(rng):
    mask = torch.zeros(4000, dtype=torch.bool)
    mask[:1000] = True
    sub = Subnetwork({"w": mask}, {"w": torch.zeros(4000)})
    shared = [sub.random(rng).overlap(sub.random(rng)) for _ in range(40)]
    mean = sum(rows[0]["both"] for rows in shared) / 40
    assert shared[0][0]["by_chance"] == 250
    assert abs(mean - 250) < 10  # standard error about 2


@pytest.mark.parametrize("outside", [False, True])
def test_random_control_has_the_size_of_every_layer(rng, outside):
    sub = random_pair(rng)[0]
    control = sub.random(rng, outside=outside)
    assert control.table() == sub.table()
    assert control != sub


@pytest.mark.parametrize("outside", [False, True])
def test_random_control_over_the_whole_has_the_same_size_but_other_layers(rng, outside):
    masks = {"x": torch.arange(100) < 40, "y": torch.arange(100) < 0}
    sub = Subnetwork(masks, {name: torch.zeros(100) for name in masks})
    control = sub.random(rng, per_layer=False, outside=outside)
    assert control.size == sub.size
    assert int(control.masks["y"].sum()) > 5


@pytest.mark.parametrize("per_layer", [False, True])
def test_control_outside_is_disjoint(rng, per_layer):
    for _ in range(10):
        sub = random_pair(rng)[0]
        if max(row["density"] for row in sub.table()) <= 0.5:
            assert (sub & sub.random(rng, per_layer=per_layer, outside=True)).size == 0


def test_control_outside_of_exactly_half_is_the_complement(rng):
    sub = Subnetwork({"w": torch.arange(8) < 4}, {"w": torch.zeros(8)})
    assert sub.random(rng, outside=True) == ~sub


def test_complement_of_a_random_control_is_random_and_of_the_complements_size(rng):
    """The paper's released controls keep what a draw of the same size leaves."""
    sub = random_pair(rng)[0]
    released = ~sub.random(torch.Generator().manual_seed(1), outside=True)
    assert released & sub == sub
    assert [row["size"] for row in released.table()] == [row["total"] - row["size"] for row in sub.table()]


def test_control_is_determined_by_its_generator(rng):
    sub = random_pair(rng)[0]
    draw = lambda seed: sub.random(torch.Generator().manual_seed(seed))  # noqa: E731
    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("outside", [False, True])
def test_control_is_uniform(rng, per_layer, outside):
    masks = {"w": torch.tensor([[True, True, False, False], [False, False, True, False]]), "v": torch.arange(8) < 3}
    sub = Subnetwork(masks, {name: torch.zeros(mask.shape) for name, mask in masks.items()})
    draws = 1500
    counts = torch.zeros(16, dtype=torch.float64)
    for _ in range(draws):
        drawn = sub.random(rng, per_layer=per_layer, outside=outside).masks
        counts += torch.cat([drawn[name].reshape(-1).double() for name in masks])
    inside = torch.cat([mask.reshape(-1) for mask in masks.values()])
    pool = ~inside if outside else torch.ones_like(inside)
    assert bool((counts[~pool] == 0).all())
    expected = draws * 6 / int(pool.sum())
    chi2 = float(((counts[pool] - expected) ** 2 / (expected * (1 - expected / draws))).sum())
    assert chi2 < 3 * int(pool.sum())


def test_control_outside_of_a_dense_layer_is_an_error_naming_the_tensor(rng):
    masks = {"thin": torch.arange(8) < 2, "dense": torch.arange(8) < 5}
    sub = Subnetwork(masks, {name: torch.zeros(8) for name in masks})
    with pytest.raises(ValueError, match=r"dense has 3 weights outside.*5 are to be drawn"):
        sub.random(rng, outside=True)
    assert sub.random(rng, per_layer=False, outside=True).size == 7


def test_from_model_copies_parameters_and_buffers():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    sub = Subnetwork.from_model(net, {"0.weight": torch.ones(3, 2, dtype=torch.bool)}, {"seed": 0})
    assert set(sub.weights) == set(net.state_dict())
    with torch.no_grad():
        net[0].weight.zero_()
    assert bool(sub.weights["0.weight"].abs().sum() > 0)
    assert not sub.weights["0.weight"].requires_grad


def test_save_and_load_round_trip(first, tmp_path):
    first.save(tmp_path / "s.safetensors")
    loaded = Subnetwork.load(tmp_path / "s.safetensors")
    assert loaded == first
    assert dict(loaded.meta) == {"task": "ab", "seed": 3}
    assert all(mask.dtype == torch.bool for mask in loaded.masks.values())


def test_round_trip_of_names_with_slashes_and_of_masks_that_share_memory(tmp_path):
    one = torch.ones(3, dtype=torch.bool)
    weights = {"mask/w": torch.ones(3), "weight/w": torch.zeros(3)}
    sub = Subnetwork({"mask/w": one, "weight/w": one}, weights)
    sub.save(tmp_path / "s")
    assert Subnetwork.load(tmp_path / "s") == sub


def test_saving_does_not_depend_on_what_the_path_held(first, second, tmp_path):
    first.save(tmp_path / "s")
    second.save(tmp_path / "s")
    assert Subnetwork.load(tmp_path / "s") == second


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_file_cut_short_is_a_value_error(first, tmp_path, share):
    path = tmp_path / "s"
    first.save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match="damaged"):
        Subnetwork.load(path)


def test_one_flipped_byte_anywhere_is_a_value_error(first, tmp_path):
    path = tmp_path / "s"
    first.save(path)
    whole = path.read_bytes()
    places = [0, 7, *range(8, len(whole), 17), len(whole) - 1]
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=str(path)):
            Subnetwork.load(path)


@pytest.mark.parametrize("meta", [{"kind": "checkpoint"}, {}])
def test_file_of_another_kind_is_a_value_error(tmp_path, meta):
    save_tensors(tmp_path / "s", {"mask/a": A["a"], "weight/a": WEIGHTS["a"]}, meta)
    with pytest.raises(ValueError, match="holds no subnetwork"):
        Subnetwork.load(tmp_path / "s")


def test_other_format_version_is_a_value_error(first, tmp_path, monkeypatch):
    monkeypatch.setattr("sicore.files.FORMAT", 2)
    first.save(tmp_path / "s")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="format version '2'"):
        Subnetwork.load(tmp_path / "s")


class Other(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.a = nn.Parameter(torch.zeros(shape))


def test_load_lists_every_tensor_that_does_not_fit_the_model(first, tmp_path):
    first.save(tmp_path / "s")
    with pytest.raises(ValueError, match="does not fit the model in 2 tensors") as error:
        Subnetwork.load(tmp_path / "s", Other((4, 3)))
    assert "a: (2, 3) in the subnetwork, (4, 3) in the model" in str(error.value)
    assert "b: missing" in str(error.value)


def test_load_accepts_a_model_that_fits(tmp_path):
    sub = Subnetwork({"a": A["a"]}, WEIGHTS)
    sub.save(tmp_path / "s")
    assert Subnetwork.load(tmp_path / "s", Other((2, 3))) == sub


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Subnetwork.load(tmp_path / "nowhere")


def test_a_random_draw_does_not_depend_on_the_order_of_the_tensors():
    masks = {name: torch.arange(40) % 4 == 0 for name in "abc"}
    weights = {name: torch.ones(40) for name in "abc"}
    turned = {name: masks[name] for name in "cab"}
    one, other = (Subnetwork(each, weights).random(torch.Generator().manual_seed(0)) for each in (masks, turned))
    assert all(torch.equal(one.masks[name], other.masks[name]) for name in "abc")


@pytest.mark.parametrize(
    ("tensors", "meta", "told"),
    [
        ({"mask/a": A["a"]}, {}, "no source weight"),
        ({"mask/a": A["a"], "weight/a": WEIGHTS["a"][:1]}, {}, "has shape"),
        ({"weight/a": WEIGHTS["a"]}, {}, "at least one masked tensor"),
        ({"mask/a": WEIGHTS["a"], "weight/a": WEIGHTS["a"]}, {}, "masks are torch.bool"),
        ({"mask/a": A["a"], "weight/a": WEIGHTS["a"], "x": A["a"]}, {}, "'x' is neither a mask nor a weight"),
        ({"mask/a": A["a"], "weight/a": WEIGHTS["a"]}, [["task", "ab"]], "no JSON object"),
        ({"mask/a": A["a"], "weight/a": WEIGHTS["a"]}, "ab", "no JSON object"),
    ],
)
def test_file_that_is_whole_but_no_subnetwork_is_refused_by_its_name(tmp_path, tensors, meta, told):
    save_tensors(tmp_path / "s", tensors, {"kind": "subnetwork", "meta": meta})
    with pytest.raises(ValueError, match=told) as error:
        Subnetwork.load(tmp_path / "s")
    assert str(tmp_path / "s") in str(error.value)
