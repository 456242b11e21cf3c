"""Pictures of the vision experiment: drawn ones, files in the true layouts, the order of training."""

import base64
import io
import os
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from companion.vision import imagenet, reading
from companion.vision import pictures as pics
from companion.vision import scenes as vision
from companion.vision.pictures import Batches, Pictures, meanings, photographs, pictures, roles, scenes
from sicore.seeding import generator

SMALL = {"size": 16, "pretraining": 64, "training": 96, "discovery": 32, "evaluation": 32}


def drawn(seed=0, **changes):
    return {**scenes(**{**SMALL, **changes}), "seed": seed}


def all_of(asked, augment=None):
    return asked.take(torch.arange(len(asked)), augment)


def test_every_role_has_its_pictures_and_equal_seeds_equal_bits():
    data = drawn()
    for role in roles(data):
        asked = pictures(data, role)
        images = all_of(asked)
        assert images.dtype == torch.uint8
        assert images.shape == (len(asked), 3, 16, 16)
        pics._pictures.cache_clear()
        assert torch.equal(images, all_of(pictures(data, role)))
        assert not torch.equal(images, all_of(pictures(drawn(1), role))), role
    assert len(pictures(data, "pretraining").classes) == 64
    assert len(pictures(data, "test_conflict")) == 64, "twice as many as for validation"


def test_no_two_roles_share_a_picture():
    data = drawn()
    seen = {}
    for role in ("pretraining", "training", "validation_ordinary", "test_ordinary", "test_conflict"):
        for image in all_of(pictures(data, role)):
            assert seen.setdefault(image.numpy().tobytes(), role) == role


def test_mean_pooled_pictures_for_the_search_are_those_of_the_first_training_pictures():
    data = drawn()
    ordinary, pooled = pictures(data, "training"), pictures(data, "discovery")
    assert torch.equal(pooled.labels, ordinary.labels[:32])
    rows = torch.arange(32)
    a, b = ordinary.take(rows, None).float(), pooled.take(rows, None).float()
    assert torch.allclose(a.mean((2, 3)), b.mean((2, 3)), atol=1.0), "pooling keeps the mean of a picture"
    assert not torch.equal(a, b)


def test_a_pretraining_class_is_a_pair_of_shape_and_texture():
    known = meanings(drawn())
    assert set(map(tuple, known.tolist())) == {(k, (k + step) % 16) for k in range(16) for step in (0, 3, 7, 12)}
    data = drawn(evaluation=64)
    asked = pictures(data, "validation_pretraining")
    assert torch.equal(known[asked.labels, 1], asked.texture)


@pytest.mark.parametrize(
    ("classes", "textures", "count"), [("cues", 1, 32), ("cues", 16, 32), ("pairs and shapes", 3, 64)]
)
def test_a_plain_object_is_told_by_its_shape_where_asked(classes, textures, count):
    data = drawn(pretraining=2000, evaluation=500, flat=0.25, classes=classes, textures=textures)
    known = meanings(data)
    assert len(known) == count == len({tuple(row) for row in known.tolist()})
    for role in ("pretraining", "validation_pretraining"):
        asked = pictures(data, role)
        assert asked.classes[-16:] == vision.SHAPES
        assert asked.classes[0] == ("rows" if classes == "cues" else "disc in rows")
        assert set(asked.labels.tolist()) == set(range(count))
        shape, texture = known[asked.labels].unbind(1)
        assert torch.equal(texture[texture >= 0], asked.texture[texture >= 0])
        assert float((texture < 0).float().mean()) == pytest.approx(0.25, abs=0.05)
        # A plain object leaves far fewer colours in a picture: those of its regions, and the mixtures at its edge.
        colours = torch.tensor([len(one.flatten(1).unique(dim=1)[0]) for one in all_of(asked)[:400]]).float()
        plain = texture[:400] < 0
        assert colours[plain].quantile(0.9) < colours[~plain].quantile(0.1)
        if classes == "pairs and shapes":
            assert set(((texture - shape) % 16)[texture >= 0].tolist()) == set(pics.OFFSETS[:textures])


@pytest.mark.parametrize("textures", [1, 4, 16])
def test_every_shape_comes_with_as_many_textures_as_asked(textures):
    shape, texture = meanings(drawn(textures=textures)).unbind(1)
    for one, other in ((shape, texture), (texture, shape)):
        for k in range(16):
            assert len(set(other[one == k].tolist())) == textures == int((one == k).sum())
    assert bool(((shape - texture) % 16 == 0).any()), "its own texture among them"


def test_pictures_of_the_other_stages_do_not_depend_on_the_pretraining():
    one, other = drawn(), drawn(textures=1, classes="cues", flat=0.5)
    for role in roles(one)[2:]:
        assert torch.equal(all_of(pictures(one, role)), all_of(pictures(other, role))), role


def test_objects_are_turned_as_far_as_asked_in_every_role():
    upright = drawn(turn=0)
    labels = torch.arange(64) % 16
    asked = vision.draw_scenes(labels, labels, generator(0, "test", "scenes"), difficulty=vision.Difficulty(turn=0.0))
    assert torch.equal(all_of(pictures(upright, "test_silhouette")), vision.silhouettes(asked, 16))
    for role in roles(upright):
        assert not torch.equal(all_of(pictures(upright, role)), all_of(pictures(drawn(), role))), role


def test_a_later_setting_of_scenes_is_left_out_where_it_changes_nothing():
    assert scenes(classes="pairs", textures=4, turn=180) == scenes()
    assert set(scenes()) == {"size", "pretraining", "training", "discovery", "evaluation", "flat", "imbalance"}
    said = {"classes": "cues", "textures": 1, "turn": 45.0}
    assert scenes(**said) == scenes() | said


def test_test_classes_are_equally_frequent_and_training_classes_as_asked():
    data = drawn(training=16_000, discovery=16, imbalance=4.0)
    counts = torch.bincount(pictures(data, "training").labels, minlength=16)
    assert float(counts[0] / counts[15]) == pytest.approx(4.0, rel=0.2)
    assert torch.bincount(pictures(data, "test_ordinary").labels).tolist() == [4] * 16
    conflicts = pictures(data, "test_conflict")
    assert bool((conflicts.labels != conflicts.texture).all())


@pytest.mark.parametrize(
    ("name", "value"),
    [("size", 4), ("pretraining", 0), ("training", True), ("discovery", 97), ("flat", 1.5), ("imbalance", 0.5),
     ("textures", 0), ("textures", 17), ("textures", True), ("textures", 1.0), ("classes", "shapes"), ("turn", -1),
     ("turn", 181.0), ("turn", float("nan")), ("turn", True)],
)  # fmt: skip
def test_settings_of_scenes_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name} = {value!r}"):
        scenes(**{**SMALL, name: value})
    with pytest.raises(ValueError, match="role = 'nonsense'"):
        pictures(drawn(), "nonsense")


# ---------------------------------------------------------------------------------------
# Files


@pytest.fixture
def folders(tmp_path):
    """Ten pictures of each of three classes, mean-pooled copies, cue conflicts with Geirhos' names."""
    rng = np.random.default_rng(0)
    for name in ("bear", "cat", "dog"):
        for k in range(10):
            folder = tmp_path / "ordinary" / name
            folder.mkdir(parents=True, exist_ok=True)
            size = (40, 60) if k % 2 else (70, 50)
            Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / f"{name}_{k}.JPEG")
        folder = tmp_path / "conflict" / name
        folder.mkdir(parents=True)
        for other in ("bear", "cat", "dog"):
            Image.fromarray(rng.integers(0, 255, (30, 30, 3), dtype=np.uint8)).save(folder / f"{name}1-{other}2.png")
    whole = imagenet.class_folders(tmp_path / "ordinary")
    imagenet.mean_pooled_copy(whole, tmp_path / "pooled", imagenet.slic)
    return tmp_path


def spec(folders, **changes):
    given = {"ordinary": folders / "ordinary", "mean_pooled": folders / "pooled", "conflict": folders / "conflict"}
    return photographs(**{**given, "size": 28, "evaluation": 2, **changes})


def test_files_become_pictures_without_a_leak(folders):
    data = {**spec(folders), "seed": 3}
    parts = {role: pictures(data, role) for role in roles(data)}
    assert {role: len(part) for role, part in parts.items()} == {
        "training": 18, "discovery": 18, "validation_ordinary": 6, "validation_mean_pooled": 6,
        "test_ordinary": 6, "test_mean_pooled": 6, "test_conflict": 6,
    }  # fmt: skip
    assert all_of(parts["test_conflict"]).shape == (6, 3, 28, 28)
    ordinary = {
        row.numpy().tobytes()
        for role in parts
        if "pooled" not in role and role != "discovery"
        for row in all_of(parts[role])
    }
    assert len(ordinary) == 18 + 6 + 6 + 6, "no picture stands in two parts"
    training, validation, _ = pics._split_of({**data, "seed": 3})
    assert not set(training.paths) & set(validation.paths)
    assert pictures({**data, "seed": 4}, "training").labels.tolist() == parts["training"].labels.tolist()


def test_a_mean_pooled_copy_belongs_where_its_original_is(folders):
    for path in sorted((folders / "pooled").rglob("*.png"))[::2]:
        path.unlink()
    data = {**spec(folders), "seed": 0}
    for role, own in zip(
        ("discovery", "validation_mean_pooled", "test_mean_pooled"),
        pics._split_of({**data, "seed": 0}),
        strict=True,
    ):
        there = {path.stem for path in (folders / "pooled").rglob("*.png")}
        assert len(pictures(data, role)) == sum(path.stem in there for path in own.paths)


def test_unreadable_pictures_are_left_out_by_a_list(folders):
    bad = folders / "ordinary" / "cat" / "cat_3.JPEG"
    bad.write_bytes(b"no picture")
    kept, found = imagenet.drop_unreadable(imagenet.class_folders(folders / "ordinary"), most=0.1)
    assert (found, len(kept)) == ([bad], 29)
    (folders / "skip.txt").write_text("".join(f"{path}\n" for path in found))
    data = {**spec(folders, skip=folders / "skip.txt"), "seed": 0}
    parts = pics._split_of(data)
    assert sum(map(len, parts)) == 29
    assert all(bad not in part.paths for part in parts)
    for role in roles(data):
        all_of(pictures(data, role))
    with pytest.raises(ValueError, match="skip = 'nowhere'"):
        spec(folders, skip="nowhere")


def noise(seed, size=(40, 60)):
    file, rng = io.BytesIO(), np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


CHANGES = {
    "one more": lambda root: written(root / "ordinary" / "cat" / "new.png", noise(7)),
    "one fewer": lambda root: (root / "ordinary" / "cat" / "cat_3.JPEG").unlink(),
    "another name": lambda root: (root / "conflict" / "cat" / "cat1-dog2.png").rename(
        root / "conflict" / "cat" / "cat3-dog2.png"
    ),
    "a byte near the end": lambda root: flipped(root / "ordinary" / "cat" / "cat_3.JPEG", 5000),
    "a byte of a conflict": lambda root: flipped(root / "conflict" / "cat" / "cat1-dog2.png", -20),
    "a byte of a silhouette": lambda root: flipped(root / "silhouette" / "cat" / "1.png", -20),
    "a byte behind a link": lambda root: flipped(root / "elsewhere" / "1.png", -20),
    "one more behind a link": lambda root: written(root / "elsewhere" / "2.png", noise(8)),
    "the skip file": lambda root: (root / "skip.txt").write_text("dog/dog_2.JPEG\n"),
}


def written(path, content):
    path.write_bytes(content)


def flipped(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.fixture
def linked(folders):
    """With silhouettes, one class of which is a link to another folder, and a skip file."""
    for name in ("bear", "cat", "elsewhere"):
        place = folders / "elsewhere" if name == "elsewhere" else folders / "silhouette" / name
        place.mkdir(parents=True)
        (place / "1.png").write_bytes(noise(3))
    (folders / "pooled" / "cat" / "cat_3.png").unlink()
    (folders / "ordinary" / "cat" / "cat_3.JPEG").write_bytes(noise(2))
    (folders / "silhouette" / "dog").symlink_to(folders / "elsewhere")
    (folders / "skip.txt").write_text("dog/dog_1.JPEG\n")
    return folders


@pytest.mark.parametrize("change", CHANGES)
def test_other_pictures_under_the_same_paths_are_other_data(linked, change):
    named = {"silhouette": linked / "silhouette", "skip": linked / "skip.txt"}
    before = spec(linked, **named)
    assert spec(linked, **named) == before
    CHANGES[change](linked)
    after = spec(linked, **named)
    assert {name for name in after if after[name] != before[name]} == {"contents"}


def test_a_list_of_files_is_not_kept_when_the_folder_changes(folders):
    before = spec(folders)
    assert len(pictures({**before, "seed": 0}, "training")) == 18
    (folders / "ordinary" / "cat" / "new.png").write_bytes(noise(9))
    assert len(pictures({**spec(folders), "seed": 0}, "training")) == 19


def test_a_data_spec_of_pictures_that_have_gone_is_refused(folders):
    before = spec(folders)
    (folders / "ordinary" / "cat" / "cat_3.JPEG").unlink()
    pics._found_once.cache_clear()  # as another process, or a later stage, has it
    pics._pictures.cache_clear()
    with pytest.raises(ValueError, match=r"holds other files now than when this data spec was made"):
        pictures({**before, "seed": 0}, "training")


def test_a_copy_of_an_original_that_has_changed_is_refused(folders):
    written(folders / "ordinary" / "cat" / "cat_3.JPEG", noise(4))
    with pytest.raises(ValueError, match=r"cat_3.png was made from another picture than its original is now"):
        spec(folders)
    imagenet.mean_pooled_copy(imagenet.class_folders(folders / "ordinary"), folders / "pooled", imagenet.slic)
    spec(folders)
    written(folders / "ordinary" / "cat" / "cat_3.png", noise(5))
    with pytest.raises(ValueError, match=r"cat_3.png has 2 originals of its name"):
        spec(folders)


def test_what_is_passed_over_and_what_is_there_twice_is_said(folders):
    (folders / "ordinary" / ".ipynb_checkpoints").mkdir()
    (folders / "ordinary" / "cat" / ".ipynb_checkpoints").mkdir()
    (folders / "ordinary" / "cat" / ".ipynb_checkpoints" / "cat_1.JPEG").write_bytes(noise(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(pictures({**spec(folders), "seed": 0}, "training")) == 18, "checkpoints are no pictures, no class"
    (folders / "ordinary" / "cat" / "notes.txt").write_text("x")
    with pytest.warns(UserWarning, match=r"ordinary: passed over 2 hidden or of the system, 1 .txt"):
        spec(folders)
    first = folders / "ordinary" / "bear" / "bear_0.JPEG"
    (folders / "ordinary" / "cat" / "again.jpg").write_bytes(first.read_bytes())
    with pytest.warns(UserWarning, match=r"ordinary: 1 pictures are there twice, .*again.jpg as .*bear_0.JPEG"):
        spec(folders)


def test_parts_of_a_data_set_are_no_classes(tmp_path):
    for part in ("train", "val"):
        (tmp_path / part / "cat").mkdir(parents=True)
        (tmp_path / part / "cat" / "1.png").write_bytes(noise(1))
    with pytest.raises(ValueError, match="no image of airplane"):
        photographs(tmp_path, tmp_path, tmp_path)


@pytest.mark.parametrize("line", ["ordinary/cat/cat_3.JPEG", "cat/cat_3.JPEG", "../{name}/ordinary/./cat/cat_3.JPEG  "])
def test_a_skip_file_matches_however_its_paths_are_spelled(folders, monkeypatch, line):
    monkeypatch.chdir(folders.parent)
    (folders / "skip.txt").write_bytes(line.format(name=folders.name).encode() + b"\r\n")
    data = {**spec(folders, skip=folders / "skip.txt"), "seed": 0}
    assert {path.stem for part in pics._split_of(data) for path in part.paths} == {
        f"{name}_{k}" for name in ("bear", "cat", "dog") for k in range(10)
    } - {"cat_3"}
    (folders / "skip.txt").write_text("cat/cat_33.JPEG\n")
    with pytest.raises(ValueError, match=r"skip = '.*skip.txt': 'cat/cat_33.JPEG' names no picture below"):
        spec(folders, skip=folders / "skip.txt")


def test_a_name_that_is_no_utf8_goes_all_the_way(folders):
    bad = folders / "ordinary" / "cat" / os.fsdecode(b"caf\xe9.jpg")
    bad.write_bytes(b"no picture")
    good = folders / "ordinary" / "dog" / os.fsdecode(b"na\xefve.png")
    good.write_bytes(noise(6))
    kept, unreadable = imagenet.drop_unreadable(imagenet.class_folders(folders / "ordinary"), most=0.1)
    reading.write_paths(folders / "skip.txt", unreadable)
    imagenet.mean_pooled_copy(kept, folders / "pooled", imagenet.slic)
    data = {**spec(folders, skip=folders / "skip.txt"), "seed": 0}
    paths = [path for part in pics._split_of(data) for path in part.paths]
    assert bad not in paths
    assert good in paths


def test_training_crops_are_where_they_are_asked_and_evaluation_crops_are_fixed(folders):
    asked = pictures({**spec(folders), "seed": 0}, "training")
    rows = torch.arange(4)
    places = torch.rand(4, 3, generator=torch.Generator().manual_seed(1))
    one, other = (asked.take(rows, given) for given in (places, 1 - places))
    assert torch.equal(one, asked.take(rows, places))
    assert torch.equal(one[2:], asked.take(rows[2:], places[2:])), "every picture has its own place"
    assert not torch.equal(one, other)
    assert torch.equal(asked.take(rows, None), asked.take(rows, None))


def test_a_crop_by_hand():
    # 16 x 14 pixels, columns numbered: the shorter side is resized to 16 = 8 / 7 of 14.
    columns = np.repeat(np.arange(20, dtype=np.uint8)[None, :, None], 16, 0).repeat(3, 2)
    image = Image.fromarray(columns)
    middle = pics._cropped(image, 14, None)
    assert middle[0, 0].tolist() == list(range(3, 17))
    left, flipped = (pics._cropped(image, 14, [0.0, 0.0, flip]) for flip in (0.0, 0.9))
    assert left[0, 0].tolist() == list(range(14))
    assert flipped[0, 0].tolist() == list(range(14))[::-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ordinary": "nowhere"}, "ordinary = 'nowhere'"),
        ({"mean_pooled": "nowhere"}, "root = 'nowhere'"),
        ({"conflict": "nowhere"}, "root = 'nowhere'"),
        ({"mean_pooled": ""}, "mean_pooled = '': expected a folder of pictures"),
        ({"conflict": ""}, "conflict = '': expected a folder of pictures"),
        ({"evaluation": 5}, "has only 5 images"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_computed(folders, change, message):
    with pytest.raises(ValueError, match=message):
        spec(folders, **change)


def test_mean_pooled_classes_must_be_those_of_the_ordinary_pictures(folders):
    (folders / "pooled" / "dog").rename(folders / "pooled" / "wolf")
    with pytest.raises(ValueError, match="has the classes bear, cat, wolf; expected bear, cat, dog"):
        spec(folders)


# ---------------------------------------------------------------------------------------
# Order


def numbered(labels, first=0):
    labels = torch.tensor(labels)
    content = torch.arange(first, first + len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    return Pictures(labels, lambda rows, augment: content[rows], ("a", "b"))


def shown(batches, steps):
    return torch.stack([batches(step, torch.arange(1))[0][0, :, 0, 0, 0] for step in range(steps)]).flatten().tolist()


def test_every_pass_shows_every_picture_once():
    batches = Batches([(numbered([0, 1, 0, 1, 0, 1]), 1.0)], batch=3, steps=4, seed=0)
    order = shown(batches, 4)
    assert sorted(order[:6]) == sorted(order[6:]) == list(range(6))
    assert order[:6] != order[6:]
    images, labels = batches(1, torch.arange(1))
    assert images.shape == (1, 3, 3, 2, 2)
    assert labels[0].tolist() == [int(x) % 2 for x in order[3:6]], "labels belong to their pictures"
    assert shown(Batches([(numbered([0, 1, 0, 1, 0, 1]), 1.0)], batch=3, steps=4, seed=0), 4) == order


def test_a_mixture_has_the_asked_share():
    few, many = numbered([0, 1], 100), numbered([0, 1] * 4)
    order = shown(Batches([(many, 1.0), (few, 4.0)], batch=4, steps=4, seed=1), 4)
    assert sum(value >= 100 for value in order) == 8, "one to one"
    assert order.count(100) == order.count(101) == 4
    order = shown(Batches([(many, 1.0), (few, 0.5)], batch=3, steps=3, seed=1), 3)
    assert sum(value >= 100 for value in order) == 1


def test_balanced_batches_show_every_class_equally_often():
    parts = [(numbered([0] * 9 + [1]), 1.0), (numbered([1, 1], 100), 2.0)]
    batches = Batches(parts, batch=100, steps=20, seed=0, balanced=True)
    labels = torch.cat([batches(step, torch.arange(1))[1][0] for step in range(20)])
    assert float(labels.float().mean()) == pytest.approx(0.5, abs=0.05)
    drawn_ones = torch.tensor(shown(batches, 20))
    pooled = (drawn_ones >= 100).float().sum() / (labels == 1).sum()
    assert float(pooled) == pytest.approx(0.8, abs=0.05), "within a class by share: 2 * 2 of 5"


def test_reading_ahead_gives_the_same_batches(folders):
    data = {**spec(folders), "seed": 0}
    asked = pictures(data, "training")
    first, second = (Batches([(asked, 1.0)], batch=4, steps=5, seed=7) for _ in range(2))
    forward = [first(step, torch.arange(1)) for step in range(5)]
    for step in (3, 0, 4):
        images, labels = second(step, torch.arange(1))
        assert torch.equal(images, forward[step][0])
        assert torch.equal(labels, forward[step][1])


def test_normalised_is_imagenets_or_as_asked():
    from torchvision.transforms.v2.functional import normalize

    image = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    expected = normalize(image.float() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert torch.allclose(pics.normalised(image), expected, atol=1e-6)
    other = normalize(image.float() / 255, [0.5, 0.4, 0.3], [0.5, 0.6, 0.7])
    assert torch.allclose(pics.normalised(image, ((0.5, 0.4, 0.3), (0.5, 0.6, 0.7))), other, atol=1e-6)
    assert vision.CLASSES == 16


def test_a_picture_is_the_same_after_its_way_through_a_png():
    picture = torch.randint(0, 256, (3, 6, 6), dtype=torch.uint8)
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(pics.as_png(picture)))))
    assert torch.equal(torch.tensor(read).permute(2, 0, 1), picture)
