"""The images made by code, and mean pooling."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest
import torch

from companion.lab.make import peak_memory
from companion.vision import scenes as vision
from sicore.seeding import generator


def scenes(n: int = 64, seed: int = 0, **settings: object) -> vision.Scenes:
    classes = torch.arange(n) % vision.CLASSES
    return vision.draw_scenes(classes, classes, generator(seed, "scenes"), **settings)  # type: ignore[arg-type]


def test_there_is_a_name_for_every_class():
    assert len(vision.SHAPES) == len(vision.TEXTURES) == vision.CLASSES == len(set(vision.SHAPES + vision.TEXTURES)) / 2


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not():
    first, again, other = (vision.images(scenes(seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_image_does_not_depend_on_its_neighbours():
    many = scenes(vision._CHUNK + 40)
    rows = torch.tensor([3, vision._CHUNK + 7])
    assert torch.equal(vision.images(many)[rows], vision.images(many[rows]))


def test_nothing_but_shape_and_texture_depends_on_the_class():
    classes = torch.zeros(20, dtype=torch.int64)
    one = vision.draw_scenes(classes, classes, generator(0, "x"))
    other = vision.draw_scenes(classes + 5, classes + 9, generator(0, "x"))
    for name, tensor in vars(one).items():
        assert name in ("shape", "texture") or torch.equal(tensor, getattr(other, name)), name


def test_cue_conflict_changes_the_object_alone():
    ordinary = scenes()
    conflict = ordinary.retextured((ordinary.texture + 5) % 16)
    changed = ((vision.images(ordinary).int() - vision.images(conflict).int()).abs() > 1).any(1)
    assert torch.equal(vision.segments(ordinary), vision.segments(conflict))
    assert torch.equal(vision.silhouettes(ordinary), vision.silhouettes(conflict))
    black = vision.silhouettes(ordinary)[:, 0] < 255
    assert not (changed & ~black).any()
    assert changed.flatten(1).any(1).all()


def test_the_named_objects_are_flat_and_no_others():
    named = torch.arange(64) % 3 == 0
    one = scenes(flat=named)
    changed = (vision.images(one) != vision.images(one.retextured((one.texture + 5) % 16))).flatten(1).any(1)
    assert torch.equal(changed, ~named)


def test_a_silhouette_is_the_true_segment():
    ordinary = scenes()
    assert torch.equal(vision.silhouettes(ordinary)[:, 0] <= 127, vision.segments(ordinary) == 0)


def test_mean_pooled_is_flat_in_every_segment_and_keeps_its_mean():
    ordinary = scenes()
    pictures, pooled, where = vision.images(ordinary), vision.mean_pooled(ordinary), vision.segments(ordinary)
    for image, flat, segment in zip(pictures.double(), pooled.double(), where, strict=True):
        for number in segment.unique():
            inside = segment == number
            assert (flat[:, inside] == flat[:, inside][:, :1]).all()
            assert (flat[:, inside][:, 0] - image[:, inside].mean(1)).abs().max() <= 1.0  # two roundings


def test_all_shapes_have_the_same_area_and_lie_in_the_middle():
    templates = vision._templates()
    areas = templates.mean((1, 2)) * vision._BOX**2
    assert (areas - vision._AREA).abs().max() < 0.003
    x, y = vision._centres(vision._RESOLUTION)
    for axis in (x, y):
        assert ((templates * axis).sum((1, 2)) / templates.sum((1, 2))).abs().max() < 0.01
    border = torch.ones_like(templates, dtype=torch.bool)
    border[:, 1:-1, 1:-1] = False
    assert (templates[border] == 0).all(), "a template is not cut off"


def test_the_area_setting_is_the_share_of_the_image():
    plain = vision.Difficulty(area=0.1, size=(1, 1), shift=0, aspect=0, warp=0)
    inside = vision.segments(scenes(160, difficulty=plain), 64) == 0
    assert inside.float().mean((1, 2)).sub(0.1).abs().max() < 0.008


def test_every_texture_has_half_of_each_colour_and_no_two_are_alike():
    black_white = torch.tensor([[0.0, 0, 0], [1, 1, 1]]).expand(16, 2, 3)
    plain = replace(scenes(16, difficulty=vision.Difficulty(texture_turn=0)), colours=black_white)
    large = vision.texture_only(plain, 96)[:, 0] / 255.0
    assert (large.mean((1, 2)) - 0.5).abs().max() < 0.12
    spectra = torch.fft.rfft2(large - large.mean((1, 2), keepdim=True)).abs().flatten(1)
    alike = torch.nn.functional.normalize(spectra, dim=1)
    alike = alike @ alike.T - torch.eye(16)
    assert alike.max() < 0.8, "the spectrum has no phase: equal textures would have equal ones"


def test_a_flat_object_has_the_mean_of_its_two_colours():
    flat = scenes(flat=1.0)
    expected = (flat.colours.mean(1) * 255).round()
    assert torch.equal(vision.texture_only(flat, 8)[:, :, 3, 3].float(), expected)
    share = scenes(4000, flat=0.25).flat.float().mean()
    assert abs(share - 0.25) < 0.03


def test_a_larger_image_shows_the_same_scene():
    ordinary = scenes(32, difficulty=vision.Difficulty(period=(8, 8)))
    small = vision.images(ordinary, 32).float()
    large = torch.nn.functional.avg_pool2d(vision.images(ordinary, 128).float(), 4)
    assert (small - large).abs().mean() < 4


def test_both_colours_are_as_far_apart_as_asked():
    looked = scenes(500, difficulty=vision.Difficulty(contrast=(0.6, 0.8))).colours
    apart = (looked[:, 1] - looked[:, 0]).norm(dim=1)
    assert looked.min() >= 0
    assert looked.max() <= 1
    assert apart.min() > 0.6 - 1e-6
    assert apart.max() < 0.8 + 1e-6


def test_no_cheap_cue_gives_the_class_away():
    found = vision.cue_accuracies(0, 2000, 32)
    for name in ("mean colour", "colour of the object", "area of the object"):
        assert found[name] < 0.15, found
    assert found["orientations"] < 0.6, found
    # The check can fail: a cue that holds the class is found.
    classes = torch.randint(0, 16, (1500,), generator=generator(0, "classes"))
    given = classes[:, None].float()
    assert vision.neighbours_accuracy(given[:1000], classes[:1000], given[1000:], classes[1000:]) > 0.95


def test_cues_of_an_image_that_one_can_compute():
    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    image[..., 4:] = 255  # one upright edge: its gradient points along x
    segments = torch.ones(1, 8, 8, dtype=torch.int64)
    segments[..., 4:] = 0
    cues = vision.cheap_cues(image, segments)
    assert cues["mean colour"].tolist() == [[0.5, 0.5, 0.5]]
    assert cues["colour of the object"].tolist() == [[1, 1, 1]]
    assert cues["area of the object"].tolist() == [[0.5]]
    assert cues["orientations"].tolist() == [[1, 0, 0, 0, 0, 0, 0, 0]]
    cues = vision.cheap_cues(image.mT, segments.mT)
    assert cues["orientations"].tolist() == [[0, 0, 0, 0, 1, 0, 0, 0]]


# ---------------------------------------------------------------------------------------
# Mean pooling


def painted(image: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Region by region, as it is usually written."""
    result, free = image.clone().float(), torch.ones(image.shape[1:], dtype=torch.bool)
    for mask in masks[masks.flatten(1).sum(1).argsort(descending=True, stable=True)]:
        if mask.any():
            result[:, mask] = image[:, mask].double().mean(1, keepdim=True).round().float()
            free &= ~mask
    if free.any():
        result[:, free] = image[:, free].double().mean(1, keepdim=True).round().float()
    return result.to(torch.uint8)


@pytest.mark.parametrize(("regions", "size"), [(0, (7, 9)), (1, (7, 9)), (40, (61, 83)), (300, (20, 31))])
def test_mean_pooling_is_painting_region_by_region(regions, size):
    rng = generator(0, "masks", regions)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=rng)
    masks = torch.rand(regions, *size, generator=rng) < torch.rand(regions, 1, 1, generator=rng) ** 3
    difference = vision.mean_pool(image, masks).int() - painted(image, masks).int()
    assert difference.abs().max() <= 1


@pytest.mark.parametrize("values", [range(40), range(-20, 20), [k**5 for k in range(40)]])
def test_a_label_image_is_pooled_as_its_masks_are(values):
    rng = generator(0, "labels")
    image = torch.randint(0, 256, (3, 61, 83), dtype=torch.uint8, generator=rng)
    labels = torch.tensor(list(values))[torch.randint(0, 40, (61, 83), generator=rng)]
    masks = labels == labels.unique()[:, None, None]
    assert torch.equal(vision.mean_pool(image, labels), painted(image, masks)), "exactly: sums of labels are exact"
    assert torch.equal(vision.mean_pool(image, labels), vision.mean_pool(image, masks))


def test_the_memory_of_a_label_image_grows_with_its_pixels_alone():
    image = torch.randint(0, 256, (3, 2048, 2048), dtype=torch.uint8, generator=generator(0, "large"))
    labels = torch.arange(2048 * 2048).view(2048, 2048) // 2100  # 1,998 regions: their masks would take 7.8 GiB
    before = peak_memory()
    tracemalloc.start()
    pooled = vision.mean_pool(image, labels)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 24 * labels.numel(), "of NumPy"
    assert peak_memory() - before < 2**30, "of torch too"
    first = image.flatten(1)[:, :2100].double().mean(1).round().to(torch.uint8)
    assert torch.equal(pooled.flatten(1)[:, :2100], first[:, None].expand(-1, 2100))


def test_of_regions_the_smaller_one_is_on_top_and_of_equal_ones_the_later():
    image = torch.tensor([[[0, 10, 20, 60, 200]]], dtype=torch.uint8)
    large, small, later = (torch.zeros(1, 5, dtype=torch.bool) for _ in range(3))
    large[0, :4], small[0, 1:3], later[0, 2:4] = True, True, True
    for masks in (torch.stack([large, small, later]), torch.stack([small, later, large])):
        assert vision.mean_pool(image, masks).tolist() == [[[22, 15, 40, 40, 200]]]
    assert vision.mean_pool(image, torch.stack([later, small, large])).tolist() == [[[22, 15, 15, 40, 200]]]


def test_regions_that_cover_all_or_nothing():
    image = torch.randint(0, 256, (3, 4, 5), dtype=torch.uint8, generator=generator(0, "image"))
    mean = image.float().mean((1, 2)).round().to(torch.uint8)[:, None, None].expand_as(image)
    everything, nothing = torch.ones(2, 4, 5, dtype=torch.bool), torch.zeros(3, 4, 5, dtype=torch.bool)
    for masks in (everything, nothing, nothing[:0], torch.cat([nothing, everything])):
        assert torch.equal(vision.mean_pool(image, masks), mean)
    pixel = image[:, :1, :1]
    assert torch.equal(vision.mean_pool(pixel, torch.ones(1, 1, 1, dtype=torch.bool)), pixel)


def test_wrong_arguments_are_named():
    image, masks = torch.zeros(3, 4, 5, dtype=torch.uint8), torch.zeros(1, 4, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"image is torch.float32 \(3, 4, 5\): expected uint8"):
        vision.mean_pool(image.float(), masks)
    for regions in (masks.mT, masks.float(), masks[0], torch.zeros(4, 5), torch.zeros(5, 4, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"expected labels, integers \[4, 5\], or masks, boolean \[R, 4, 5\]"):
            vision.mean_pool(image, regions)
    with pytest.raises(ValueError, match="size = 4"):
        vision.images(scenes(), 4)
    with pytest.raises(ValueError, match="texture: expected one class of 0 to 15"):
        vision.draw_scenes(torch.zeros(2).long(), torch.tensor([0, 16]), generator(0))
    with pytest.raises(ValueError, match="shape has 2 classes, texture 1"):
        vision.draw_scenes(torch.zeros(2).long(), torch.zeros(1).long(), generator(0))
    with pytest.raises(ValueError, match="flat = 2"):
        scenes(flat=2.0)
    for flat in (torch.ones(64), torch.ones(63, dtype=torch.bool)):
        with pytest.raises(ValueError, match=r"flat is torch.*: expected boolean \[64\], or a share"):
            scenes(flat=flat)
    with pytest.raises(ValueError, match="the scenes"):
        scenes().retextured(torch.zeros(3).long())
    with pytest.raises(ValueError, match="segments has shape"):
        vision.segment_means(torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 5).long(), 1)
    with pytest.raises(ValueError, match="k = 9"):
        vision.neighbours_accuracy(torch.zeros(3, 1), torch.zeros(3).long(), torch.zeros(1, 1), torch.zeros(1), k=9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"area": 0}, "area = 0"),
        ({"size": (1, 0.5)}, "size = "),
        ({"contrast": (0.5, 1.5)}, "contrast = "),
        ({"turn": -1}, "turn = -1"),
        ({"cells": 0}, "cells = 0"),
    ],
)
def test_difficulties_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        vision.Difficulty(**settings)
