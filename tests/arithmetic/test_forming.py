"""A mask on its way: the search that is repeated is the one that was stored."""

import numpy as np
import pytest
import torch
from test_arithmetic_stages import BASE, FIND, open_machine

from companion.arithmetic import forming
from companion.arithmetic import stages as experiments


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    machine = open_machine(tmp_path_factory.mktemp("store"))
    bases = experiments.base_models(machine, [4], **BASE)
    return machine, bases[0], experiments.subnetworks(machine, bases, **FIND)[0]


def test_the_frames_are_those_of_the_stored_search(one):
    frames = forming.frames(*one, size=4)
    history = one[2].history.set_index("step")
    weights = frames["inputs"] * frames["outputs"]
    for column in ("density", "soft_mean"):
        whole = (frames[column] * weights).groupby(frames["step"]).sum() / weights.groupby(frames["step"]).sum()
        assert whole.drop(0).to_dict() == pytest.approx(history[column].to_dict(), abs=1e-6)
    assert sorted(frames["step"].unique()) == [0, 10, 20]
    last = frames[frames["step"] == 20].set_index("parameter")
    for name, mask in one[2].subnetwork.masks.items():
        assert last["density"][name] == pytest.approx(float(mask.double().mean()), abs=1e-12)
        assert (last["inputs"][name], last["outputs"][name]) == tuple(mask.shape)


def test_at_the_start_every_weight_is_at_half_and_none_is_kept(one):
    first = forming.frames(*one, size=4).query("step == 0")
    assert (first["density"] == 0).all()
    assert first["soft_mean"].to_numpy() == pytest.approx(1 / (1 + np.exp(0.1)))
    assert (first["picture"] == "hhhh/hhhh/hhhh/hhhh").all()  # 35 * 0.475 = 16.6, the 17th after 0
    assert (first["temperature"] == 1).all()


def test_a_picture_has_the_mean_of_each_block():
    share = torch.zeros(4, 6)
    share[0, 0] = share[0, 1] = share[1, 0] = share[1, 1] = 1
    share[2:, 3:] = 0.5
    assert forming.picture(share, 2) == "n0/0i"  # 4 of 6 weights: 23.3 of 35; 17.5 is even, so 18
    assert forming.picture(torch.eye(2), 32) == "z0/0z"
