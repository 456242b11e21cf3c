import json
import math

import pytest
import torch
from safetensors.torch import save_file

from sicore.files import canonical_json, load_tensors, save_tensors, write_text, written_aside

TENSORS = {
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "mask": torch.tensor([[True, False, True]]),
    "number": torch.tensor(7),
    "nothing": torch.empty(0, 3),
    "weights": torch.arange(6.0).reshape(2, 3),
}
META = {"seed": 3, "name": "é, „quoted“", "list": [1, 2.5, None]}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "object.safetensors"
    save_tensors(path, TENSORS, META)
    return path


def test_round_trip_keeps_values_types_shapes_and_metadata(saved):
    tensors, meta = load_tensors(saved)
    assert meta == META
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert tensors[name].shape == tensor.shape
        assert torch.equal(tensors[name], tensor)


def test_views_and_gradients_are_saved_as_their_values(tmp_path):
    base = torch.arange(12.0).reshape(3, 4).requires_grad_()
    save_tensors(tmp_path / "x", {"transposed": base.T, "row": base[1], "expanded": base[:1].expand(2, 4)}, {})
    tensors, _ = load_tensors(tmp_path / "x")
    assert torch.equal(tensors["transposed"], base.T)
    assert torch.equal(tensors["row"], torch.tensor([4.0, 5.0, 6.0, 7.0]))
    assert torch.equal(tensors["expanded"], torch.arange(4.0).repeat(2, 1))


def test_one_tensor_under_two_names_can_be_saved(tmp_path):
    one = torch.arange(4.0)
    save_tensors(tmp_path / "x", {"a": one, "b": one}, {})
    tensors, _ = load_tensors(tmp_path / "x")
    assert torch.equal(tensors["a"], one)
    assert torch.equal(tensors["b"], one)


def test_no_pickle_inside(saved):
    import zipfile

    assert not zipfile.is_zipfile(saved)
    length = int.from_bytes(saved.read_bytes()[:8], "little")
    assert set(json.loads(saved.read_bytes()[8 : 8 + length])) == {"__metadata__", *TENSORS}


def test_file_cut_at_any_length_is_refused(saved):
    whole = saved.read_bytes()
    for length in [*range(0, 12), *range(12, len(whole), 29), len(whole) - 1]:
        saved.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"object\.safetensors"):
            load_tensors(saved)


def test_file_with_bytes_appended_is_refused(saved):
    saved.write_bytes(saved.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="damaged"):
        load_tensors(saved)


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_any_single_altered_byte_is_refused(saved, flip):
    whole = saved.read_bytes()
    for place in range(len(whole)):
        altered = bytearray(whole)
        altered[place] ^= flip
        saved.write_bytes(altered)
        with pytest.raises(ValueError, match=r"object\.safetensors"):
            load_tensors(saved)


def test_tensors_that_swapped_names_are_refused(tmp_path, saved):
    from safetensors import safe_open

    with safe_open(str(saved), "pt") as file:
        header = file.metadata()
    swapped = {**TENSORS, "a": TENSORS["weights"]}
    swapped.pop("weights")
    save_file(swapped, str(tmp_path / "y"), metadata=header)
    with pytest.raises(ValueError, match="checksum"):
        load_tensors(tmp_path / "y")


def test_other_format_version_is_named(saved):
    from safetensors import safe_open

    with safe_open(str(saved), "pt") as file:
        header = file.metadata()
    save_file(TENSORS, str(saved), metadata={**header, "format": "99"})
    with pytest.raises(ValueError, match="'99'"):
        load_tensors(saved)


def test_plain_safetensors_file_of_somebody_else_is_refused(tmp_path):
    save_file({"w": torch.ones(2)}, str(tmp_path / "theirs"))
    with pytest.raises(ValueError, match="format version"):
        load_tensors(tmp_path / "theirs")


def test_missing_file_is_told_apart_from_a_damaged_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        load_tensors(tmp_path / "absent")


@pytest.mark.parametrize(
    ("value", "kind"), [(math.nan, ValueError), (-math.inf, ValueError), (torch.tensor(0.5), TypeError)]
)
def test_metadata_that_is_not_json_is_refused_before_writing(tmp_path, value, kind):
    with pytest.raises(kind, match="JSON"):
        save_tensors(tmp_path / "x", TENSORS, {"accuracy": value})
    assert list(tmp_path.iterdir()) == []


def test_canonical_json_refuses_what_has_no_equal():
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"lr": math.nan})


def write_half(path):
    with written_aside(path) as temporary:
        temporary.write_text("half of the ne")
        assert path.read_text() == "old"
        raise RuntimeError


def test_failed_write_leaves_the_old_file_and_no_temporary(tmp_path):
    path = tmp_path / "sub" / "note.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError):
        write_half(path)
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["note.txt"]


def test_written_file_is_readable_by_others(tmp_path):
    write_text(tmp_path / "x", "é")
    assert (tmp_path / "x").read_text(encoding="utf-8") == "é"
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/below") as error:
        write_text(tmp_path / "file" / "below" / "x", "text")
    assert "cannot write x" in str(error.value)


def test_canonical_json_ignores_order_but_not_values_or_nesting():
    assert canonical_json({"b": 1, "a": {"d": 2, "c": 3}}) == '{"a":{"c":3,"d":2},"b":1}'
    assert canonical_json([1, 2]) != canonical_json([2, 1])


def test_tensors_come_in_the_order_of_their_names(tmp_path):
    names = [f"t{i}" for i in range(50)]
    save_tensors(tmp_path / "x", {name: torch.zeros(1) for name in reversed(names)}, {})
    assert list(load_tensors(tmp_path / "x")[0]) == sorted(names)
