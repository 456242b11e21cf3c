"""Real images: layouts, lists, odd files, segmenters, cue conflicts; on small files in the true formats."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from companion.vision import imagenet as im
from companion.vision import reading
from companion.vision.scenes import mean_pool
from sicore.seeding import generator

GROUPS = {"b": ("n02", "n03"), "a": ("n01",)}


def picture(seed: int = 0, size: tuple[int, int] = (24, 18), mode: str = "RGB") -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = torch.randint(0, 256, (size[1], size[0], bands), dtype=torch.uint8, generator=generator(seed))
    return Image.fromarray(pixels.squeeze(-1).numpy(), mode)


def put(path: Path, *args: object, **kwargs: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(*args, **kwargs).save(path, format="PNG")  # type: ignore[arg-type]
    return path


@pytest.fixture
def local(tmp_path):
    """Torchvision's layout, with a synset that no group asks for."""
    for number, count in {"n03": 2, "n01": 3, "n02": 4, "n99": 1}.items():
        for k in range(count):
            put(tmp_path / "train" / number / f"{number}_{k}.JPEG", k)
    return tmp_path


# ---------------------------------------------------------------------------------------
# Which files, which classes


def test_the_sixteen_classes():
    groups = im.sixteen_classes()
    assert list(groups) == sorted(groups)
    assert set(groups) == {
        "airplane", "bear", "bicycle", "bird", "boat", "bottle", "car", "cat", "chair", "clock", "dog", "elephant",
        "keyboard", "knife", "oven", "truck",
    }  # fmt: skip
    numbers = [number for group in groups.values() for number in group]
    assert len(set(numbers)) == len(numbers)
    assert all(len(number) == 9 and number[0] == "n" and number[1:].isdigit() for number in numbers)
    assert groups["knife"] == ("n03041632",)
    assert len(groups["dog"]) == 109


def test_torchvisions_layout(local):
    images = im.imagenet(local, groups=GROUPS)
    assert images.classes == ("a", "b")
    assert images.labels.tolist() == [0] * 3 + [1] * 6
    assert [path.name for path in images.paths] == [
        *(f"n01_{k}.JPEG" for k in range(3)), *(f"n02_{k}.JPEG" for k in range(4)), "n03_0.JPEG", "n03_1.JPEG",
    ]  # fmt: skip
    assert images.counts() == {"a": 3, "b": 6}
    assert images[images.labels == 0].counts() == {"a": 3, "b": 0}
    assert images[torch.tensor([8, 0])].paths == (images.paths[8], images.paths[0])


def test_kaggles_layout_with_its_flat_validation_images(local, tmp_path):
    data = tmp_path / "k" / "ILSVRC" / "Data" / "CLS-LOC"
    data.mkdir(parents=True)
    (local / "train").rename(data / "train")
    for k, _ in enumerate(["n02", "n01", "n99"]):
        put(data / "val" / f"ILSVRC2012_val_{k:08}.JPEG", k)
    lines = ["ImageId,PredictionString", *(f"ILSVRC2012_val_{k:08},{n} 1 2 3 4 {n} 5 6 7 8" for k, n in
             enumerate(["n02", "n01", "n99"]))]  # fmt: skip
    (tmp_path / "k" / "LOC_val_solution.csv").write_text("\n".join(lines))
    assert im.imagenet(tmp_path / "k", groups=GROUPS).counts() == {"a": 3, "b": 6}
    val = im.imagenet(tmp_path / "k", "val", GROUPS)
    assert [path.stem[-1] for path in val.paths] == ["1", "0"]
    assert val.labels.tolist() == [0, 1]


def test_classes_do_not_follow_the_order_of_the_file_system(tmp_path, monkeypatch):
    for name in ("z", "a", "M"):
        put(tmp_path / name / "1.png")
    listing = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: sorted(listing(self), reverse=True))
    images = im.class_folders(tmp_path)
    assert images.classes == ("M", "a", "z")
    assert [path.parent.name for path in images.paths] == ["M", "a", "z"]


def test_class_lists(local, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "two.txt").write_text("n02/n02_1.JPEG\n\nn03/n03_0.JPEG\n")
    (lists / "one.txt").write_text("n01/n01_2.JPEG\n")
    images = im.class_lists(lists, local / "train")
    assert images.classes == ("one", "two")
    assert images.counts() == {"one": 1, "two": 2}
    (lists / "one.txt").write_text("n01/n01_2.JPEG\nn01/gone.JPEG\nn01/gone2.JPEG\n")
    with pytest.raises(ValueError, match=r"one.txt: 2 of 3 files are missing, the first is 'n01/gone.JPEG'"):
        im.class_lists(lists, local / "train")
    (lists / "one.txt").write_text("n02/n02_1.JPEG\n")
    with pytest.raises(ValueError, match=r"two.txt: 'n02_1.JPEG' stands in the list of 'one' too"):
        im.class_lists(lists, local / "train")
    put(tmp_path / "secret.png")
    (lists / "one.txt").write_text("../secret.png\n")
    with pytest.raises(ValueError, match="is outside of root"):
        im.class_lists(lists, local / "train")


def test_folders_that_cannot_be_used(local, tmp_path):
    with pytest.raises(ValueError, match="found no ImageNet there; looked for"):
        im.imagenet(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="split = 'test'"):
        im.imagenet(local, "test")
    with pytest.raises(ValueError, match="n01 belongs to 'a' and to 'c'"):
        im.imagenet(local, groups=GROUPS | {"c": ("n01",)})
    (local / "train" / "n77").mkdir()
    with pytest.raises(ValueError, match=r"no image of c \(1 of 3 classes are empty\)"):
        im.imagenet(local, groups=GROUPS | {"c": ("n77",)})
    with pytest.raises(ValueError, match="one folder a class"):
        im.class_folders(local / "train" / "n01")
    with pytest.raises(ValueError, match="one text file a class"):
        im.class_lists(local / "train", local)


def test_a_folder_of_the_system_is_no_class_and_what_is_passed_over_is_said(tmp_path):
    for name in ("cat/1.png", "cat/2.tif", "dog/1.JPE", "dog/._1.png", "dog/.ipynb_checkpoints/1-checkpoint.png"):
        put(tmp_path / name)
    for name in (".ipynb_checkpoints/1.png", "__MACOSX/1.png", "stray.png"):
        put(tmp_path / name)
    (tmp_path / "cat" / "notes.txt").write_text("x")
    images = im.class_folders(tmp_path)
    assert images.counts() == {"cat": 2, "dog": 1}
    assert dict(images.passed_over) == {"outside of the class folders": 1, ".txt": 1, reading.HIDDEN: 4}
    assert images.about() == (
        "3 pictures in 2 classes (cat 2, dog 1); passed over: 4 hidden or of the system, 1 .txt, "
        "1 outside of the class folders"
    )
    put(tmp_path / "cat" / "3.heic")
    put(tmp_path / "dog" / "4.HEIC")
    with pytest.raises(ValueError, match=r"2 \.heic are pictures that are not read; convert them"):
        im.class_folders(tmp_path)


@pytest.mark.parametrize("other", ["Cat", "CAT"])
def test_classes_that_differ_in_case_only_are_refused(tmp_path, other):
    put(tmp_path / "cat" / "1.png")
    put(tmp_path / other / "1.png")
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("a file system that knows no case")
    with pytest.raises(ValueError, match=f"the classes '{other}' and 'cat' have one name"):
        im.class_folders(tmp_path)


def test_a_list_that_names_a_file_in_two_spellings_is_refused(local, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "one.txt").write_bytes(b"n01/n01_2.JPEG\r\n")
    (lists / "two.txt").write_bytes(b"./n01/../n01/n01_2.JPEG\r\n")
    (lists / "._two.txt").write_bytes(b"\0\1")
    with pytest.raises(ValueError, match="stands in the list of 'one' too"):
        im.class_lists(lists, local / "train")


def test_a_split_shares_no_image_and_is_even_over_classes(local):
    images = im.imagenet(local, groups=GROUPS)
    training, evaluation = im.split(images, 2, generator(0))
    assert not set(training.paths) & set(evaluation.paths)
    assert sorted(training.paths + evaluation.paths) == sorted(images.paths)
    assert evaluation.counts() == {"a": 2, "b": 2}
    again, other = (im.split(images, 2, generator(seed))[1].paths for seed in (0, 1))
    assert again == evaluation.paths != other
    few, _ = im.split(images, 1, generator(0), most=3)
    assert few.counts() == {"a": 2, "b": 2}
    with pytest.raises(ValueError, match="class 'a' has only 3 images"):
        im.split(images, 3, generator(0))
    with pytest.raises(ValueError, match="evaluation = 2, most = 2"):
        im.split(images, 2, generator(0), most=2)


# ---------------------------------------------------------------------------------------
# Odd files


@pytest.mark.parametrize("workers", [1, 2])
def test_unreadable_files_are_left_out_up_to_a_share(local, workers):
    broken = local / "train" / "n02" / "n02_1.JPEG"
    broken.write_bytes(b"broken")
    images = im.imagenet(local, groups=GROUPS)
    good, bad = im.drop_unreadable(images, most=0.2, workers=workers)
    assert bad == [broken]
    assert len(good) == len(images) - 1
    assert broken not in good.paths
    assert good.counts() == {"a": 3, "b": 5}
    with pytest.raises(
        ValueError, match=r"1 of 9 images cannot be read, more than most = 0.1; the first is .*n02_1.JPEG"
    ):
        im.drop_unreadable(images, most=0.1)


# ---------------------------------------------------------------------------------------
# Segmenters


@pytest.mark.parametrize("segmenter", [im.felzenszwalb, im.slic])
def test_segmenters_find_two_halves(segmenter):
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[:, 30:] = (200, 100, 0)
    labels = segmenter(Image.fromarray(pixels), **({"segments": 2} if segmenter is im.slic else {}))
    assert labels.shape == (40, 60), "labels, whose memory does not grow with the regions"
    left, right = labels[:, :30].unique().tolist(), labels[:, 30:].unique().tolist()
    assert len(left) == len(right) == 1
    assert left != right
    assert torch.equal(
        mean_pool(torch.from_numpy(pixels).permute(2, 0, 1), labels).permute(1, 2, 0), torch.from_numpy(pixels)
    )


@pytest.mark.parametrize("segmenter", [im.felzenszwalb, im.slic])
def test_segmenters_take_an_image_of_one_pixel(segmenter):
    assert segmenter(picture(0, (1, 1))).shape == (1, 1)


def test_tidying_by_hand():
    mask = torch.zeros(9, 9, dtype=torch.bool)
    mask[:5, :5], mask[2, 2], mask[8, 8] = True, False, True  # a hole of one pixel, an island of one
    whole = torch.zeros_like(mask)
    whole[:5, :5] = True
    assert torch.equal(im.tidy(mask, 2), whole)
    assert torch.equal(im.tidy(mask, 1), mask)
    assert not im.tidy(mask, 26).any()
    assert not im.tidy(torch.zeros_like(mask), 5).any()


def test_given_masks(tmp_path):
    segmenter, image, path = im.GivenMasks(str(tmp_path)), picture(0, (5, 4)), Path("x/n01/p.JPEG")
    (tmp_path / "n01").mkdir()
    labels = np.arange(20).reshape(4, 5) // 7
    np.save(tmp_path / "n01" / "p.npy", labels)
    assert torch.equal(segmenter(image, path), torch.from_numpy(labels))
    overlapping = np.stack([labels > 0, labels < 2])
    np.save(tmp_path / "n01" / "p.npy", overlapping)
    assert torch.equal(segmenter(image, path), torch.from_numpy(overlapping))
    np.save(tmp_path / "n01" / "p.npy", labels.T)
    with pytest.raises(ValueError, match=r"has shape \(5, 4\), its image \(4, 5\)"):
        segmenter(image, path)
    np.save(tmp_path / "n01" / "p.npy", labels * 0.5)
    with pytest.raises(ValueError, match=r"holds float64 \(4, 5\): expected integers"):
        segmenter(image, path)
    (tmp_path / "n01" / "p.npy").write_bytes(pickle.dumps(labels))
    with pytest.raises(ValueError, match=r"no masks for x/n01/p.JPEG"):
        segmenter(image, path)


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    """A tiny, randomly initialised Segment Anything, saved as transformers saves one."""
    from transformers import (  # fmt: skip
        SamConfig,
        SamImageProcessor,
        SamMaskDecoderConfig,
        SamModel,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )

    config = SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=16, output_channels=8, num_hidden_layers=1, num_attention_heads=2, image_size=64, patch_size=8,
            window_size=2, global_attn_indexes=[0], mlp_dim=16, num_pos_feats=4,
        ).to_dict(),
        prompt_encoder_config=SamPromptEncoderConfig(
            hidden_size=8, image_size=64, patch_size=8, mask_input_channels=4
        ).to_dict(),
        mask_decoder_config=SamMaskDecoderConfig(
            hidden_size=8, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=8
        ).to_dict(),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("sam")
    torch.manual_seed(0)
    SamModel(config).save_pretrained(folder)
    SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def test_crops_cover_the_image_and_overlap_as_segment_anythings_do():
    found = im.crops(500, 375, 2)
    assert [layer for _, layer in found] == [0] + [1] * 4 + [2] * 16
    for layer in (1, 2):
        covered = torch.zeros(375, 500, dtype=torch.int64)
        for (x0, y0, x1, y1), own in found:
            if own == layer:
                covered[y0:y1, x0:x1] += 1
        assert covered.min() == 1
        assert covered.max() == 4
    (left, right) = found[1][0], found[2][0]
    assert left[2] - right[0] == int(512 / 1500 * 375)
    assert right[2] == 500


def test_masks_that_a_crop_cuts_off_and_repeated_ones_are_left_out(monkeypatch):
    # One square is whole in the image and in a crop; a strip goes through the whole image.
    pixels = torch.zeros(120, 120, dtype=torch.bool)
    pixels[30:50, 25:45], pixels[100:105] = True, True
    image = Image.fromarray((pixels.numpy() * 255).astype(np.uint8)).convert("RGB")
    asked = []

    def generate(part: Image.Image, points_per_crop: int, **_: object) -> dict[str, object]:
        asked.append((part.size, points_per_crop))
        labels = torch.from_numpy(np.array(part.convert("L")) > 0)
        upper, lower = labels.clone(), labels.clone()
        upper[len(labels) // 2 + 15 :], lower[: len(labels) // 2 + 15] = False, False
        return {"masks": [mask.numpy() for mask in (upper, lower)]}

    monkeypatch.setattr(im, "_mask_generation", lambda *_: generate)
    masks = im.SegmentAnything("anywhere", least=1)(image)
    assert asked == [((120, 120), 16)] + [((80, 80), 8)] * 4
    square, strip = torch.zeros_like(pixels), torch.zeros_like(pixels)
    square[30:50, 25:45], strip[100:105] = True, True
    assert sorted(mask.sum().item() for mask in masks) == [400, 600]
    assert any(torch.equal(mask, square) for mask in masks)
    assert any(torch.equal(mask, strip) for mask in masks)


ANYTHING = (("pred_iou_thresh", -10.0), ("stability_score_thresh", 0.0))


def test_segment_anything_from_a_local_folder(sam):
    segmenter = im.SegmentAnything(str(sam), points_per_side=3, least=1, thresholds=ANYTHING)
    masks = segmenter(picture(0, (40, 30)))
    assert masks.dtype == torch.bool
    assert masks.shape[1:] == (30, 40)
    assert len(masks)
    nothing = im.SegmentAnything(str(sam), points_per_side=3, thresholds=(("pred_iou_thresh", 1e9),))
    assert nothing(picture(0, (40, 30))).shape == (0, 30, 40)


def test_a_folder_that_holds_no_segmenter(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    with pytest.raises(ValueError, match="is no Segment Anything model on this machine"):
        im.SegmentAnything(str(tmp_path / "nowhere"))
    GPT2LMHeadModel(GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=10, n_positions=4)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="it is a model of type 'gpt2'"):
        im.SegmentAnything(str(tmp_path))


# ---------------------------------------------------------------------------------------
# Mean-pooled copies


@pytest.mark.parametrize("workers", [1, 2])
def test_mean_pooled_copies(local, tmp_path, workers):
    images = im.imagenet(local, groups=GROUPS)
    segmenter = partial(im.felzenszwalb, min_size=20)
    copies = im.mean_pooled_copy(images, tmp_path / "pooled", segmenter, workers=workers)
    assert copies.labels.equal(images.labels)
    assert im.class_folders(tmp_path / "pooled").paths == copies.paths
    for source, copy in zip(images.paths, copies.paths, strict=True):
        pixels = torch.from_numpy(np.array(reading.read(source))).permute(2, 0, 1)
        expected = mean_pool(pixels, segmenter(reading.read(source)))
        assert torch.equal(torch.from_numpy(np.array(Image.open(copy))).permute(2, 0, 1), expected)


def test_copies_that_are_there_are_not_made_again(local, tmp_path):
    images, calls = im.imagenet(local, groups=GROUPS), []

    def once(image: Image.Image, path: Path) -> torch.Tensor:
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return torch.ones(1, image.height, image.width, dtype=torch.bool)

    with pytest.raises(KeyboardInterrupt):
        im.mean_pooled_copy(images, tmp_path / "pooled", once)
    assert len(list((tmp_path / "pooled").rglob("*"))) == 1 + 2, "one folder, two whole files, nothing half-written"
    im.mean_pooled_copy(images, tmp_path / "pooled", once)
    assert len(calls) == len(images) + 1
    im.mean_pooled_copy(images, tmp_path / "pooled", once)
    assert len(calls) == len(images) + 1


def halves(image: Image.Image, path: Path, *, at: float = 0.5) -> torch.Tensor:
    return (torch.arange(image.width) >= at * image.width).long().expand(image.height, -1)


def test_a_copy_is_not_taken_for_another_segmenters(local, tmp_path):
    images, folder = im.imagenet(local, groups=GROUPS), tmp_path / "pooled"
    im.mean_pooled_copy(images, folder, halves)
    before = {path: path.read_bytes() for path in folder.rglob("*.png")}
    for other in (partial(halves, at=0.3), im.slic, im.GivenMasks(str(tmp_path))):
        with pytest.raises(ValueError, match=r"was made otherwise: by .*halves.*Name another folder"):
            im.mean_pooled_copy(images, folder, other)
    im.mean_pooled_copy(images, folder, partial(halves, at=0.5))
    assert before == {path: path.read_bytes() for path in folder.rglob("*.png")}
    target = next(iter(before))
    Image.open(target).save(target)  # by another program, without a note
    with pytest.raises(ValueError, match="by nobody who says so"):
        im.mean_pooled_copy(images, folder, halves)


def test_a_copy_of_an_original_that_has_changed_is_made_again_and_no_other(local, tmp_path):
    images, folder = im.imagenet(local, groups=GROUPS), tmp_path / "pooled"
    copies = im.mean_pooled_copy(images, folder, halves)
    before = [path.read_bytes() for path in copies.paths]
    put(images.paths[4], 99)
    im.mean_pooled_copy(images, folder, halves)
    assert [k for k, path in enumerate(copies.paths) if path.read_bytes() != before[k]] == [4]
    assert im.copied_from(copies.paths[4]) == reading.digest(images.paths[4])


def test_given_masks_that_have_changed_are_another_segmenters(local, tmp_path):
    images = im.imagenet(local, groups=GROUPS)
    for path in images.paths:
        file = tmp_path / "masks" / path.parent.name / f"{path.stem}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, np.zeros((18, 24), dtype=int))
    given = im.GivenMasks(str(tmp_path / "masks"))
    im.mean_pooled_copy(images, tmp_path / "pooled", given)
    im.mean_pooled_copy(images, tmp_path / "pooled", given)
    np.save(file, np.eye(18, 24, dtype=int))
    with pytest.raises(ValueError, match="was made otherwise"):
        im.mean_pooled_copy(images, tmp_path / "pooled", given)


def test_segment_anything_is_known_by_its_weights_and_not_by_its_folder(sam, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(sam, tmp_path / "same")
    shutil.copytree(sam, tmp_path / "other")
    file = tmp_path / "other" / "model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values())).add_(1)
    save_file(tensors, file, metadata={"format": "pt"})
    first, same, other = (
        im.made_by(im.SegmentAnything(str(x)), Path("x")) for x in (sam, *map(tmp_path.joinpath, ("same", "other")))
    )
    assert first == same != other
    assert first != im.made_by(im.SegmentAnything(str(sam), least=7), Path("x"))


def test_two_images_of_one_name_are_refused(tmp_path):
    for name in ("x.png", "x.jpg"):
        put(tmp_path / "in" / "a" / name)
    with pytest.raises(ValueError, match=r"two of them would be written to .*a.x.png"):
        im.mean_pooled_copy(im.class_folders(tmp_path / "in"), tmp_path / "out")


# ---------------------------------------------------------------------------------------
# Cue conflicts


def test_cue_conflicts_without_the_images_that_are_none(tmp_path):
    for name in ("cat3-dog1", "cat3-cat7", "dog12-airplane2"):
        put(tmp_path / name.rstrip("0123456789").split("-")[0].rstrip("0123456789") / f"{name}.png")
    found = im.cue_conflicts(tmp_path)
    assert [path.stem for path in found.paths] == ["cat3-dog1", "dog12-airplane2"]
    assert [found.classes[k] for k in found.shape] == ["cat", "dog"]
    assert [found.classes[k] for k in found.texture] == ["dog", "airplane"]
    assert len(found.classes) == 16
    put(tmp_path / "cat" / "cat1-fish2.png")
    with pytest.raises(ValueError, match="class 'fish' is none of airplane"):
        im.cue_conflicts(tmp_path)
    (tmp_path / "cat" / "cat1-fish2.png").rename(tmp_path / "cat" / "dog1-cat2.png")
    with pytest.raises(ValueError, match="its name says 'dog', its folder 'cat'"):
        im.cue_conflicts(tmp_path)
    (tmp_path / "cat" / "dog1-cat2.png").rename(tmp_path / "cat" / "odd.png")
    with pytest.raises(ValueError, match=r"expected a name such as airplane1-bicycle2\.png"):
        im.cue_conflicts(tmp_path)
    with pytest.raises(ValueError, match="found no cue-conflict image"):
        im.cue_conflicts(tmp_path / "nowhere")
