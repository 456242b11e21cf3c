import itertools

import pytest
import torch

from sicore import derive, generator, seeded


def test_derived_seeds_differ_between_seeds_and_purposes_and_fit_63_bits():
    purposes = [(), ("data",), ("data", 0), ("data", 1), ("order",), ("order", 0)]
    values = [derive(seed, *purpose) for seed, purpose in itertools.product(range(20), purposes)]
    assert len(set(values)) == len(values)
    assert all(0 <= value < 2**63 for value in values)
    assert max(values) > 2**60


def test_derived_seed_is_the_same_in_every_process_and_version():
    # First 8 bytes of the SHA-256 of "7/dropout/3", big-endian, without the last bit.
    assert derive(7, "dropout", 3) == int("98f921f2e8b6a547", 16) >> 1


@pytest.mark.parametrize("seed", [-1, 1.0, "0", None, True])
def test_seed_that_is_no_natural_number_is_an_error_that_shows_it(seed):
    with pytest.raises(ValueError, match="seed = ") as error:
        derive(seed)
    assert repr(seed) in str(error.value)


def test_generator_repeats_and_depends_on_its_purpose():
    draw = lambda *purpose: torch.rand(8, generator=generator(3, *purpose))  # noqa: E731
    assert torch.equal(draw("a"), draw("a"))
    assert not torch.equal(draw("a"), draw("b"))


def test_generator_leaves_the_global_stream_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    torch.rand(5, generator=generator(0, "x"))
    assert torch.equal(torch.rand(3), expected)


def test_seeded_block_repeats_and_restores_the_global_stream():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with seeded(1, "init"):
        first = torch.rand(4)
    assert torch.equal(torch.rand(3), expected)
    with seeded(1, "init"):
        assert torch.equal(torch.rand(4), first)
    with seeded(1, "other"):
        assert not torch.equal(torch.rand(4), first)


def test_seeded_block_restores_the_stream_after_an_error():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with pytest.raises(KeyError), seeded(1):
        {}[torch.rand(4)]
    assert torch.equal(torch.rand(3), expected)
