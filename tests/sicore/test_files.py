import errno
import hashlib
import json
import math
import os
import struct
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sicore.files import canonical_json, load_meta, load_tensors, save_tensors, write_text, written_aside

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


def test_conjugated_and_negated_views_are_saved_as_their_values(tmp_path):
    tensors = {"conjugated": torch.tensor([1 + 2j]).conj(), "negated": torch._neg_view(torch.tensor([3.0]))}
    save_tensors(tmp_path / "views.safetensors", tensors, {})
    loaded, _ = load_tensors(tmp_path / "views.safetensors")
    assert loaded["conjugated"].tolist() == [1 - 2j]
    assert loaded["negated"].tolist() == [-3.0]


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        (torch.zeros(2, dtype=torch.complex128), r"'odd' has type torch.complex128"),
        (torch.eye(2).to_sparse(), r"'odd' is sparse: call .to_dense\(\) first"),
        (torch.zeros(2, device="meta"), r"'odd' has no values"),
    ],
)
def test_a_tensor_that_the_format_cannot_hold_is_refused_by_name_before_writing(tmp_path, tensor, told):
    path = tmp_path / "object.safetensors"
    with pytest.raises(ValueError, match=told):
        save_tensors(path, TENSORS | {"odd": tensor}, {})
    assert not list(tmp_path.iterdir())


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
        for load in (load_tensors, load_meta):
            with pytest.raises(ValueError, match=r"object\.safetensors"):
                load(saved)


def test_file_with_bytes_appended_is_refused(saved):
    saved.write_bytes(saved.read_bytes() + b"\0")
    for load in (load_tensors, load_meta):
        with pytest.raises(ValueError, match=r"object\.safetensors is damaged"):
            load(saved)


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
    for load in (load_tensors, load_meta):
        with pytest.raises(ValueError, match="'99'"):
            load(saved)


def test_plain_safetensors_file_of_somebody_else_is_refused(tmp_path):
    save_file({"w": torch.ones(2)}, str(tmp_path / "theirs"))
    for load in (load_tensors, load_meta):
        with pytest.raises(ValueError, match="format version"):
            load(tmp_path / "theirs")


def test_missing_file_is_told_apart_from_a_damaged_one(tmp_path):
    for load in (load_tensors, load_meta):
        for path in (tmp_path / "absent", tmp_path, tmp_path / "absent" / "below"):
            with pytest.raises(FileNotFoundError, match=f"no file {path}"):
                load(path)


def test_file_that_the_disk_does_not_give_is_told_apart_from_both(saved, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "open", fail)
    for load in (load_tensors, load_meta):
        with pytest.raises(OSError, match=r"cannot read .*object\.safetensors: its disk or network mount") as error:
            load(saved)
        assert not isinstance(error.value, FileNotFoundError)


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


# ---------------------------------------------------------------------------------------
# Files from strangers: the checksum fits, and something else is wrong


def crafted(path, entries, meta='{"a":1}', **texts):
    """A file of ``(name, type, shape, bytes)`` each, with the checksum that our own code would give it."""
    header, body, digest = {}, b"", hashlib.sha256(meta.encode())
    for name, kind, shape, content in entries:
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(body), len(body) + len(content)]}
        body += content
        kind = {"F32": "float32", "BOOL": "bool"}.get(kind, kind)
        digest.update(f"|{name}|torch.{kind}|{tuple(shape)}|".encode() + content)
    header["__metadata__"] = {"format": "1", "meta": meta, "sha256": digest.hexdigest()} | texts
    return packed(path, json.dumps(header).encode(), body)


def packed(path, header, body=b""):
    path.write_bytes(struct.pack("<Q", len(header)) + header + body)
    return path


def test_crafted_file_is_one_that_can_be_loaded(tmp_path):
    path = crafted(tmp_path / "x", [("w", "F32", [2], b"\0" * 8), ("z", "BOOL", [2], b"\0\1")], "{}")
    tensors, meta = load_tensors(path)
    assert torch.equal(tensors["w"], torch.zeros(2))
    assert tensors["z"].tolist() == [False, True]
    assert meta == load_meta(path) == {}


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (("w", "F4", [2], b"\0"), "damaged"),
        (("w", "F8_E8M0", [1], b"\0"), "damaged"),
        (("w", "NO", [1], b"\0"), "damaged"),
        (("w", "F32", [0, 2**63], b""), "damaged"),
        (("w", "F32", [2**31, 2**31], b"\0" * 4), "damaged"),
        (("w", "F32", [2**62, 4], b""), "damaged"),
        (("w", "F32", [1] * 65, b"\0" * 4), "'w' has 65 axes"),
        (("w", "F32", [-1], b""), "damaged"),
        (("w", "F32", [True], b"\0" * 4), "damaged"),
        (("w", "F32", [1.0], b"\0" * 4), "damaged"),
        (("w", "F32", "2", b"\0" * 8), "damaged"),
        (("w", "BOOL", [2], b"\1\2"), "truth values that are neither 0 nor 1"),
    ],
)
def test_tensor_that_cannot_be_one_is_refused(tmp_path, entry, told):
    with pytest.raises(ValueError, match=told) as error:
        load_tensors(crafted(tmp_path / "x", [entry]))
    assert str(tmp_path / "x") in str(error.value)


@pytest.mark.parametrize(
    ("meta", "told"),
    [
        ("[" * 100_000, "nested"),
        ('{"a":' * 101 + "1" + "}" * 101, "deeper than 100"), ('{"a":1,"a":2}', "stands twice"),
        ('{"a":NaN}', "NaN"), ('{"a":-Infinity}', "Infinity"), ('{"a":1e999}', "too large"), ("9" * 5000, "digit"),
        ('{"a":"\\ud800"}', "surrogate"), ("[1]", "not a JSON object"), ("null", "not a JSON object"), ("", "not JSON"),
    ],
)  # fmt: skip
def test_metadata_that_are_no_plain_json_object_are_refused(tmp_path, meta, told):
    path = crafted(tmp_path / "x", [], meta)
    for load in (load_tensors, load_meta):
        with pytest.raises(ValueError, match=told) as error:
            load(path)
        assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "header",
    [
        b'{"__metadata__":null}', b"[]", b"null", b'{"__metadata__":{"format":1}}', b'{"__metadata__":{"format":"1"}}',
        b'{"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}',
        b'{"w":null}', b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', b"[" * 100_000, b"\xff", b"",
    ],
)  # fmt: skip
def test_header_that_is_none_is_refused(tmp_path, header):
    with pytest.raises(ValueError, match=str(tmp_path / "x")):
        load_tensors(packed(tmp_path / "x", header, b"\0" * 8))


@pytest.mark.parametrize("length", [0, 1, 2**25, 2**31, 2**62, 2**63, 2**64 - 1])
def test_length_of_a_header_that_is_not_there_is_refused_and_takes_no_memory(saved, length):
    saved.write_bytes(struct.pack("<Q", length) + saved.read_bytes()[8:])
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"object\.safetensors"):
        load_tensors(saved)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_large_file_that_is_none_of_ours_is_not_read(tmp_path):
    with (tmp_path / "x").open("wb") as file:
        file.write(struct.pack("<Q", 2) + b"{}")
        file.truncate(2**36)  # takes no room on the disk
    tracemalloc.start()
    for load in (load_tensors, load_meta):
        with pytest.raises(ValueError, match="damaged or not a safetensors file"):
            load(tmp_path / "x")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_metadata_alone_are_those_of_the_whole_file_and_need_its_header_only(saved):
    assert load_meta(saved) == META
    altered = saved.read_bytes()[:-4] + b"????"
    saved.write_bytes(altered)
    assert load_meta(saved) == META, "what stands behind the header is not read"
    with pytest.raises(ValueError, match="checksum"):
        load_tensors(saved)
    saved.write_bytes(altered[:-1])
    with pytest.raises(ValueError, match="damaged"):
        load_meta(saved)


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"x cannot be written: .*header too large"):
        save_tensors(tmp_path / "x", {}, {"a": "a" * 100_000_001})
    assert list(tmp_path.iterdir()) == []
