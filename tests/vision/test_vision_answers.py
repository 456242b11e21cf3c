import math

import pytest
import torch

from companion.compare.statistics import wilson
from companion.vision.answers import mirror_agreement, shape_bias, symmetry
from sicore.subnetwork import Subnetwork


def test_shape_bias_by_hand():
    shape, texture = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([1, 1, 2, 2, 0, 0])
    found = shape_bias(torch.tensor([0, 1, 1, 1, 1, 1]), shape, texture)
    assert (found["shape"], found["texture"], found["neither"], found["images"]) == (3, 1, 2, 6)
    assert found["shape_bias"] == 0.75
    assert (found["low"], found["high"]) == wilson(3, 4)
    only = shape_bias(shape, shape, texture)
    assert (only["shape_bias"], only["high"]) == (1.0, 1.0)
    swapped = shape_bias(torch.tensor([0, 1, 1, 1, 1, 1]), texture, shape)
    assert swapped["shape_bias"] == 0.25


def test_shape_bias_without_a_decision_is_no_number():
    found = shape_bias(torch.tensor([5, 5]), torch.tensor([0, 1]), torch.tensor([1, 0]))
    assert found["neither"] == 2
    assert all(math.isnan(found[name]) for name in ("shape_bias", "low", "high"))


def test_shape_bias_needs_conflicts():
    with pytest.raises(ValueError, match="1 images have shape and texture of one class"):
        shape_bias(torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="have 1, 2 and 2 entries"):
        shape_bias(torch.tensor([0]), torch.tensor([0, 1]), torch.tensor([1, 2]))


def test_mirror_agreement_by_hand():
    # Rows of a kernel: 1 0 1 / 1 1 0 / 0 1 0
    kernel = torch.tensor([[[[1, 0, 1], [1, 1, 0], [0, 1, 0]]]], dtype=torch.bool)
    found = mirror_agreement([kernel])
    assert found == pytest.approx({"left-right": 4 / 6, "up-down": 0 / 6, "both": 0 / 8})
    full = torch.ones(2, 3, 5, 5, dtype=torch.bool)
    assert mirror_agreement([full]) == {"left-right": 1, "up-down": 1, "both": 1}
    # Pooled over entries, not over tensors: 6 and 2 * 3 * 20 pairs off the axis.
    assert mirror_agreement([kernel, full])["left-right"] == pytest.approx((4 + 120) / 126)


def test_mirror_agreement_of_random_masks_is_chance():
    masks = torch.rand(200, 50, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.3
    for value in mirror_agreement([masks]).values():
        assert value == pytest.approx(0.3**2 + 0.7**2, abs=0.01)
    with pytest.raises(ValueError, match="expected kernels"):
        mirror_agreement([torch.ones(3, 3, dtype=torch.bool)])


def test_symmetry_of_what_was_found_beside_random_masks_of_its_size():
    kernel = torch.zeros(40, 30, 3, 3, dtype=torch.bool)
    kernel[..., 1] = True  # its own mirror image from left to right
    masks = {"a": kernel, "b": torch.ones(4, 4, 1, 1, dtype=torch.bool), "c": torch.ones(5, 5, dtype=torch.bool)}
    one = Subnetwork(masks, {name: torch.randn(mask.shape) for name, mask in masks.items()})
    found = symmetry({3: one, 5: one}, torch.Generator().manual_seed(0))
    assert found[["masks", "seed"]].values.tolist() == [["found", 3], ["random", 3], ["found", 5], ["random", 5]]
    assert found["left-right"].tolist()[::2] == [1.0, 1.0]
    for value in found["left-right"].tolist()[1::2]:
        assert value == pytest.approx((1 / 3) ** 2 + (2 / 3) ** 2, abs=0.02)
    small = Subnetwork({"b": masks["b"]}, {"b": torch.randn(4, 4, 1, 1)})
    none = symmetry({0: small}, torch.Generator().manual_seed(0))
    assert none.empty
    assert "left-right" in none
