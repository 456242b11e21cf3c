"""Mixed distributions against numbers worked out by hand, integrals of SciPy's, and frequencies."""

import itertools
import math

import pytest
import torch
from scipy import integrate, stats

from companion.beyond.mixed import (
    GaussianGate,
    GaussianSparsemax,
    HardConcrete,
    HardConcreteK,
    MixedDirichlet,
    every_face,
    faces,
    most_entropy,
    sparsemax,
)

ZS = (-1.2, -0.2, 0.0, 0.3, 0.5, 0.8, 1.0, 1.9)
SDS = (0.05, 0.3, 1.0, 4.0)
ALPHAS = (-6.0, -2.0, 0.0, 0.5, 3.0)
TEMPERATURES = (0.1, 2 / 3, 3.0)


def tensor(*values):
    found = torch.tensor(values, dtype=torch.float64)
    return found[0] if len(values) == 1 else found


def gaussian(z, sd):
    return GaussianGate(tensor(z), sd)


def concrete(log_alpha, temperature=2 / 3, **ends):
    return HardConcrete(tensor(log_alpha), temperature, **ends)


GATES = [
    *(gaussian(z, sd) for z, sd in itertools.product(ZS, SDS)),
    *(concrete(alpha, temperature) for alpha, temperature in itertools.product(ALPHAS, TEMPERATURES)),
    concrete(0.7, 0.5, low=-0.5, high=1.05),
]


def shown(gate):
    return f"{type(gate).__name__}-{vars(gate)}"


each_gate = pytest.mark.parametrize("gate", GATES, ids=shown)


def law_of(gate):
    """Masses of 0 and 1 and the density between, from SciPy's distributions and a change of variables."""
    if isinstance(gate, GaussianGate):
        one = stats.norm(float(gate.z), gate.sd)
        return one.cdf(0), one.sf(1), one.pdf, float(gate.z)
    low, width = gate.low, gate.high - gate.low
    noise = stats.logistic(float(gate.log_alpha))

    def place(y):
        """The noise that is stretched to y."""
        share = (y - low) / width
        return gate.temperature * math.log(share / (1 - share))

    def density(y):
        share = (y - low) / width
        return noise.pdf(place(y)) * gate.temperature / (share * (1 - share)) / width

    middle = low + width / (1 + math.exp(-float(gate.log_alpha) / gate.temperature))
    return noise.cdf(place(0)), noise.sf(place(1)), density, middle


def integral(function, middle):
    """Over (0, 1), by pieces that are narrow around the middle."""
    edges = sorted({0.0, 1.0, *(min(max(middle + step, 0.0), 1.0) for step in (-0.3, -0.1, 0, 0.1, 0.3))})
    return sum(
        integrate.quad(function, *ends, epsabs=1e-12, epsrel=1e-11, limit=200)[0] for ends in itertools.pairwise(edges)
    )


def surprise(p, q=None):
    """p log p, or p log (p / q)."""
    return p * math.log(p if q is None else p / q) if p > 0 else 0.0


def frequency_fits(hits, probability, count):
    """Within 4 standard deviations of a binomial's share."""
    return abs(hits / count - probability) <= 4 * math.sqrt(probability * (1 - probability) / count)


# ---------------------------------------------------------------------------------------
# Two ways: masses and densities


@each_gate
def test_masses_are_those_of_the_clipped_variable_and_add_up_to_1(gate):
    zero, one, density, middle = law_of(gate)
    assert float(gate.zero) == pytest.approx(zero, rel=1e-12, abs=1e-300)
    assert float(gate.one) == pytest.approx(one, rel=1e-12, abs=1e-300)
    assert float(gate.between) == pytest.approx(integral(density, middle), rel=1e-9, abs=1e-12)
    assert float(gate.zero + gate.one + gate.between) == pytest.approx(1, abs=1e-14)
    assert float(gate.expected_l0) == pytest.approx(1 - zero, abs=1e-14)


@each_gate
def test_the_density_is_that_of_a_change_of_variables(gate):
    zero, one, density, _ = law_of(gate)
    places = (1e-4, 0.2, 0.5, 0.77, 1 - 1e-4)
    found = gate.log_density(tensor(*places)).exp().tolist()
    assert found == pytest.approx([density(place) for place in places], rel=1e-9, abs=1e-250)
    assert gate.log_density(tensor(0.0, 1.0)).exp().tolist() == pytest.approx([zero, one], rel=1e-12, abs=1e-300)
    assert gate.log_density(tensor(-0.01, 1.01)).tolist() == [-math.inf] * 2


@pytest.mark.parametrize(
    ("log_alpha", "zero", "one", "kept"),
    [(-2.0, 0.599, 0.027, 0.401), (0.0, 0.168, 0.168, 0.832), (2.0, 0.027, 0.599, 0.973)],
)
def test_masses_of_the_hard_concrete_by_hand(log_alpha, zero, one, kept):
    gate = concrete(log_alpha)
    assert [float(gate.zero), float(gate.one), float(gate.expected_l0)] == pytest.approx([zero, one, kept], abs=5e-4)
    # The odds of 0 are exp(2/3 log(0.1 / 1.1) - log alpha).
    assert float(gate.zero / (1 - gate.zero)) == pytest.approx((1 / 11) ** (2 / 3) * math.exp(-log_alpha))


def test_the_gaussian_gate_by_hand():
    gate = gaussian(0.3, 1.0)
    assert [float(gate.zero), float(gate.one), float(gate.entropy())] == pytest.approx(
        [0.3821, 0.2420, 1.0779], abs=5e-5
    )
    # A price of one standard deviation: the share of a normal below 1.
    assert float(gaussian(0.5, 0.5).expected_l0) == pytest.approx(0.8413, abs=5e-5)


def test_entropies_that_a_wrong_factor_or_a_wrong_spread_would_change():
    assert float(gaussian(0.3, 0.5).entropy()) == pytest.approx(0.821, abs=5e-4)
    assert float(gaussian(0.3, 2.0).entropy()) == pytest.approx(1.0487, abs=5e-5)


def test_small_masses_are_not_cut():
    def exactly(value):
        return pytest.approx(value, rel=1e-9, abs=0)

    # The normal's tail beyond 10 is 7.62e-24; the logistic's beyond 40, exp(-40).
    assert float(gaussian(10.0, 1.0).zero) == exactly(stats.norm.sf(10))
    assert float(gaussian(-10.0, 1.0).expected_l0) == exactly(stats.norm.sf(10))
    assert float(gaussian(-9.0, 1.0).one) == exactly(stats.norm.sf(10))
    for z in (-9.0, 10.0):  # the same by symmetry
        assert float(gaussian(z, 1.0).between) == exactly(stats.norm.sf(9) - stats.norm.sf(10))
    ratio = (1 / 11) ** (2 / 3)
    assert float(concrete(40.0).zero) == exactly(ratio * math.exp(-40))
    assert float(concrete(-40.0).one) == exactly(ratio * math.exp(-40))
    assert float(concrete(-40.0).expected_l0) == exactly(math.exp(-40) / ratio)
    between = math.exp(-40) * (1 / ratio - ratio)
    assert [float(concrete(sign * 40.0).between) for sign in (-1, 1)] == exactly([between] * 2)


def test_the_hard_concrete_is_symmetric():
    for alpha, temperature in itertools.product(ALPHAS, TEMPERATURES):
        there, back = concrete(alpha, temperature), concrete(-alpha, temperature)
        assert float(there.zero) == pytest.approx(float(back.one), rel=1e-12, abs=0)
        places = tensor(0.0, 0.1, 0.4, 1.0)
        assert torch.allclose(there.log_density(places), back.log_density(1 - places), atol=1e-12)
        assert float(there.entropy()) == pytest.approx(float(back.entropy()), abs=1e-12)


def test_gates_of_any_shape_are_computed_one_by_one():
    grid = tensor(*ZS).view(2, 4)
    for whole, single in ((GaussianGate(grid, 0.4), gaussian), (HardConcrete(grid, 0.4), concrete)):
        for name in ("zero", "one", "between", "expected_l0"):
            alone = [float(getattr(single(z, 0.4), name)) for z in ZS]
            assert getattr(whole, name).flatten().tolist() == pytest.approx(alone, rel=1e-12, abs=0)
        assert whole.entropy().shape == grid.shape
        assert whole.entropy().flatten().tolist() == pytest.approx([float(single(z, 0.4).entropy()) for z in ZS])
        other = type(whole)(grid.flip(0), 0.7)
        alone = [float(single(z, 0.4).kl(single(w, 0.7))) for z, w in zip(ZS, grid.flip(0).flatten(), strict=True)]
        assert whole.kl(other).flatten().tolist() == pytest.approx(alone)
        assert whole.sample(5, torch.Generator().manual_seed(0)).shape == (5, 2, 4)


# ---------------------------------------------------------------------------------------
# Two ways: entropy and divergence


@each_gate
def test_the_entropy_is_an_integral(gate):
    zero, one, density, middle = law_of(gate)
    expected = -surprise(zero) - surprise(one) - integral(lambda y: surprise(density(y)), middle)
    assert float(gate.entropy()) == pytest.approx(expected, abs=1e-9)


@each_gate
def test_the_divergence_is_an_integral(gate):
    zero, one, density, middle = law_of(gate)
    assert float(gate.kl(gate)) == pytest.approx(0, abs=1e-13)
    others = (
        [gaussian(0.2, 0.5), gaussian(1.1, 1.5)] if isinstance(gate, GaussianGate)
        else [concrete(-1.0, 1.0), concrete(1.0, 0.5, low=-0.3, high=1.2)]
    )  # fmt: skip
    for other in others:
        its_zero, its_one, its_density, _ = law_of(other)
        expected = surprise(zero, its_zero) + surprise(one, its_one)
        expected += integral(lambda y, its=its_density: surprise(density(y), its(y)), middle)
        assert float(gate.kl(other)) == pytest.approx(expected, rel=1e-9, abs=1e-9)
        assert float(gate.kl(other)) > 0


def test_the_closed_form_is_the_quadrature_of_the_log_density():
    gate, other = GaussianGate(tensor(*ZS), 0.3), GaussianGate(tensor(*ZS[::-1]), 0.6)
    assert torch.allclose(gate.entropy(), -gate.expectation(gate.log_density), atol=1e-12)
    by_points = gate.expectation(lambda y: gate.log_density(y) - other.log_density(y))
    assert torch.allclose(gate.kl(other), by_points, atol=1e-10)


@each_gate
def test_no_gate_has_more_entropy_than_log_3(gate):
    assert float(gate.entropy()) < most_entropy(2) == pytest.approx(math.log(3))


def test_the_bound_is_sharp():
    # A gate with masses of nearly 1/3 that is nearly flat between comes near; one far from that does not.
    best = max(float(gaussian(0.5, sd).entropy()) for sd in (1.0, 1.1, 1.16, 1.2, 1.3))
    assert 0 < math.log(3) - best < 0.002
    assert float(gaussian(0.5, 0.05).entropy()) < 0


def test_expectations_are_integrals():
    for gate in (gaussian(0.2, 0.6), concrete(-1.0)):
        zero, one, density, middle = law_of(gate)
        expected = zero * 0.16 + one * 0.36 + integral(lambda y, density=density: density(y) * (y - 0.4) ** 2, middle)
        assert float(gate.expectation(lambda y: (y - 0.4) ** 2)) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("make", [gaussian, concrete])
def test_gradients_are_those_of_finite_differences(make):
    for place in (-1.5, 0.2, 0.5, 1.3):
        for ask in (
            lambda gate: gate.expected_l0, lambda gate: gate.zero, lambda gate: gate.one, lambda gate: gate.between,
            lambda gate: gate.entropy(), lambda gate: gate.kl(make(0.4, 0.9)),
            lambda gate: gate.expectation(lambda y: (y - 0.3) ** 2),
        ):  # fmt: skip
            at = tensor(place).requires_grad_()
            (slope,) = torch.autograd.grad(ask(type(make(0.0, 1.0))(at, 0.5)), at)
            step = 1e-5
            difference = float(ask(make(place + step, 0.5)) - ask(make(place - step, 0.5))) / (2 * step)
            assert float(slope) == pytest.approx(difference, rel=1e-5, abs=1e-8)


def test_the_price_of_the_gaussian_gate_has_a_gradient_where_its_draws_have_none(rng):
    z = tensor(-1.5).requires_grad_()
    gate = GaussianGate(z, 0.25)
    (through_draws,) = torch.autograd.grad(gate.sample(1000, rng).sum(), z)
    (of_the_price,) = torch.autograd.grad(gate.expected_l0, z)
    assert float(through_draws) == 0
    assert float(of_the_price) == pytest.approx(stats.norm.pdf(-6) / 0.25, rel=1e-9, abs=0)


# ---------------------------------------------------------------------------------------
# Two ways: draws


@pytest.mark.parametrize(
    "gate", [gaussian(0.3, 1.0), gaussian(0.7, 0.4), concrete(-2.0), concrete(0.5, 0.3)], ids=shown
)
def test_draws_have_the_masses_and_the_distribution_between(gate, rng):
    count = 40_000
    draws = gate.sample(count, rng)
    zero, one, density, _ = law_of(gate)
    assert draws.shape == (count,)
    assert frequency_fits(int((draws == 0).sum()), zero, count)
    assert frequency_fits(int((draws == 1).sum()), one, count)
    for ends in ((0, 0.3), (0.3, 0.6), (0.6, 1)):
        hits = int(((draws > ends[0]) & (draws < ends[1])).sum())
        assert frequency_fits(hits, integrate.quad(density, *ends)[0], count), ends
    logs = -gate.log_density(draws)
    assert abs(float(logs.mean() - gate.entropy())) < 4 * float(logs.std()) / math.sqrt(count)


def test_without_noise_a_draw_is_the_clipped_mean(rng):
    z = tensor(-0.5, 0.0, 0.3, 0.999, 1.0, 2.0)
    assert torch.allclose(GaussianGate(z, 1e-12).sample(3, rng), z.clamp(0, 1).expand(3, -1), atol=1e-10)


@pytest.mark.parametrize(("make", "slope"), [(gaussian, 1.0), (concrete, None)])
def test_a_draw_moves_with_its_parameter_unless_it_is_clipped(make, slope):
    at, step = tensor(0.4).requires_grad_(), 1e-6

    def draws(value):
        return type(make(0.0, 1.0))(value, 0.5).sample(200, torch.Generator().manual_seed(1))

    here = draws(at)
    found = torch.stack([torch.autograd.grad(draw, at, retain_graph=True)[0] for draw in here.unbind()])
    differences = (draws(at.detach() + step) - draws(at.detach() - step)) / (2 * step)
    assert torch.allclose(found, differences, atol=1e-4)
    clipped = (here == 0) | (here == 1)
    assert 0 < int(clipped.sum()) < 200
    assert (found[clipped] == 0).all()
    assert (found[~clipped] > 0).all()
    if slope is not None:
        assert torch.allclose(found[~clipped], tensor(slope))


def test_draws_come_from_the_generator_alone():
    laws = (
        gaussian(0.3, 1.0), concrete(0.0), GaussianSparsemax(tensor(0.0, 0.1), 1.0),
        HardConcreteK(tensor(0.0, 0.1), 1.0, 1.2), MixedDirichlet(tensor(0.0, 0.1), tensor(1.0, 2.0)),
    )  # fmt: skip
    for law in laws:
        torch.manual_seed(0)
        before = torch.get_rng_state()
        first, again, other = (law.sample(20, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert first.dtype == torch.float64
        assert torch.equal(torch.get_rng_state(), before)


# ---------------------------------------------------------------------------------------
# K ways: the simplex


def test_sparsemax_by_hand():
    # Threshold of (0.5, 0.4, -1): ((0.5 + 0.4) - 1) / 2 = -0.05.
    assert sparsemax(tensor(0.5, 0.4, -1.0)).tolist() == pytest.approx([0.55, 0.45, 0.0])
    assert sparsemax(tensor(-3.0, 2.0, 0.9)).tolist() == [0.0, 1.0, 0.0]
    assert sparsemax(tensor(7.0, 7.0, 7.0, 7.0)).tolist() == [0.25] * 4
    assert sparsemax(tensor(5.0).view(1)).tolist() == [1.0]
    assert sparsemax(torch.tensor([1e9, 1e9, -1e9])).tolist() == [0.5, 0.5, 0.0], "in 32 bits, 1e9 - 1 is 1e9"


@pytest.mark.parametrize("ways", [2, 3, 7])
def test_sparsemax_is_the_nearest_point_of_the_simplex(ways, rng):
    z = torch.randn(4, 50, ways, generator=rng, dtype=torch.float64) * tensor(0.1, 0.3, 1.0, 2.0).view(4, 1, 1)
    found = sparsemax(z)
    assert (found >= 0).all()
    assert torch.allclose(found.sum(-1), torch.ones(4, 50, dtype=torch.float64))
    # Nearest to z in a convex set: no corner, and so no point, lies in the direction of z from it.
    corners = torch.eye(ways, dtype=torch.float64) - found[..., None, :]
    assert ((corners * (z - found)[..., None, :]).sum(-1) < 1e-12).all()
    assert 0 < int(faces(found).all(-1).sum()) < 200, "points on the border and inside of it"


def test_sparsemax_of_two_is_the_clipped_value():
    z = torch.linspace(-2, 3, 101, dtype=torch.float64)
    assert torch.allclose(sparsemax(torch.stack([z, 1 - z], -1))[..., 0], z.clamp(0, 1))


def test_the_gradient_of_sparsemax():
    z = tensor(0.5, 0.4, -1.0, 0.45)
    assert torch.autograd.gradcheck(sparsemax, z.requires_grad_())
    jacobian = torch.autograd.functional.jacobian(sparsemax, z)
    assert jacobian[0].tolist() == pytest.approx([2 / 3, -1 / 3, 0, -1 / 3]), "the mean over the support is taken off"


def test_faces_and_their_list():
    y = tensor(0.0, 0.4, 0.6, 1.0, 0.0, 0.0).view(2, 3)
    assert faces(y).tolist() == [[False, True, True], [True, False, False]]
    for ways in (1, 2, 3, 5):
        every = every_face(ways)
        assert every.dtype == torch.bool
        assert every.shape == (2**ways - 1, ways)
        assert len({tuple(face) for face in every.tolist()}) == 2**ways - 1
        assert every.any(1).all()
        sizes = every.sum(1).tolist()
        assert sizes == sorted(sizes)


def test_the_most_entropy_by_hand():
    # K = 3: three corners, three edges of length 1, a triangle of area 1/2. K = 4: 4 + 6 + 4/2 + 1/6.
    assert [math.exp(most_entropy(ways)) for ways in (1, 2, 3, 4)] == pytest.approx([1, 3, 6.5, 12 + 1 / 6])
    assert [most_entropy(ways) for ways in (2, 3, 4)] == pytest.approx([1.0986, 1.8718, 2.4987], abs=5e-5)


# ---------------------------------------------------------------------------------------
# K ways: extrinsic


def test_of_two_values_the_gaussian_sparsemax_has_the_spread_of_two_noises(rng):
    z, sd, count = 0.3, 1.0, 40_000
    law = GaussianSparsemax(tensor(z, 1 - z), sd)
    draws = law.sample(count, rng)[:, 0]
    gate, of_one_noise = gaussian(z, sd / math.sqrt(2)), gaussian(z, sd)
    assert float(gate.zero) == pytest.approx(0.3357, abs=5e-5)
    assert frequency_fits(int((draws == 0).sum()), float(gate.zero), count)
    assert not frequency_fits(int((draws == 0).sum()), float(of_one_noise.zero), count)
    expected = [float(gate.one), float(gate.zero), float(gate.between)]
    assert law.face_probabilities().tolist() == pytest.approx(expected, abs=1e-12)


def test_of_two_values_the_hard_concrete_is_the_binary_one(rng):
    count = 40_000
    draws = HardConcreteK(tensor(0.4, -0.5), 0.7, 1.2).sample(count, rng)[:, 0]
    gate = concrete(0.9, 0.7, low=-0.1, high=1.1)
    zero, one, density, _ = law_of(gate)
    near = int((draws < 0.001).sum()), int((draws > 0.999).sum())  # the projection rounds
    assert frequency_fits(near[0], zero + integrate.quad(density, 0, 0.001)[0], count)
    assert frequency_fits(near[1], one + integrate.quad(density, 0.999, 1)[0], count)
    half = int(((draws > 0.001) & (draws < 0.5)).sum())
    assert frequency_fits(half, integrate.quad(density, 0.001, 0.5)[0], count)


def test_a_hard_concrete_that_is_not_stretched_stays_inside(rng):
    z = tensor(0.5, 0.0, -0.5)
    inside, hard = HardConcreteK(z, 1.0, 1.0), HardConcreteK(z, 1.0, 1.5)
    assert faces(inside.sample(2000, rng)).all()
    assert not faces(hard.sample(2000, rng)).all()
    # Cold, the highest of z + Gumbel is all: with the probabilities of a softmax.
    best = HardConcreteK(z, 0.01, 1.0).sample(40_000, rng).argmax(-1).bincount()
    assert all(frequency_fits(int(best[k]), float(z.softmax(0)[k]), 40_000) for k in range(3))


def shares(draws):
    """How many draws lie on each face, in the order of ``every_face``."""
    every = every_face(draws.shape[-1])
    return [int((faces(draws) == face).all(-1).sum()) for face in every]


@pytest.mark.parametrize(("z", "sd"), [((0.3, 0.7), 0.6), ((0.0, 0.0, 0.0), 0.5), ((0.6, 0.1, -0.4), 0.8)])
def test_faces_of_the_gaussian_sparsemax_are_as_frequent_as_said(z, sd, rng):
    law, count = GaussianSparsemax(tensor(*z), sd), 40_000
    expected = law.face_probabilities()
    assert float(expected.sum()) == pytest.approx(1, abs=1e-13)
    found = shares(law.sample(count, rng))
    assert all(frequency_fits(hits, float(p), count) for hits, p in zip(found, expected, strict=True)), found


def test_faces_of_the_gaussian_sparsemax_are_orthants_of_a_normal():
    z, sd = (0.6, 0.1, -0.4), 0.8
    found = GaussianSparsemax(tensor(*z), sd).face_probabilities().tolist()
    for i, (j, k) in enumerate([(1, 2), (0, 2), (0, 1)]):  # a corner: it lies 1 above both others
        gaps = stats.multivariate_normal(
            [z[j] - z[i], z[k] - z[i]], [[2 * sd**2, sd**2], [sd**2, 2 * sd**2]], maxpts=200_000, abseps=1e-8, seed=0
        )  # fmt: skip
        assert found[i] == pytest.approx(gaps.cdf([-1, -1]), abs=1e-6)
    # An edge: the two lie within 1 of each other, and the third 1/2 below their mean. The two events are independent.
    close = stats.norm(z[0] - z[1], sd * math.sqrt(2))
    low = stats.norm(z[2] - (z[0] + z[1]) / 2, sd * math.sqrt(1.5)).cdf(-0.5)
    assert every_face(3)[3].tolist() == [True, True, False]
    assert found[3] == pytest.approx((close.cdf(1) - close.cdf(-1)) * low, abs=1e-10)


def test_draws_move_with_z(rng):
    for make in (lambda z: GaussianSparsemax(z, 0.5), lambda z: HardConcreteK(z, 0.7, 1.2)):
        z = tensor(0.2, 0.0, -0.1)
        weights = tensor(1.0, -2.0, 0.5)

        def value(z, make=make, weights=weights):
            return (make(z).sample(500, torch.Generator().manual_seed(2)) @ weights).mean()

        (slope,) = torch.autograd.grad(value(at := z.clone().requires_grad_()), at)
        step = 1e-6 * torch.eye(3, dtype=torch.float64)
        differences = torch.stack([value(z + one) - value(z - one) for one in step]) / 2e-6
        assert torch.allclose(slope, differences, atol=1e-4)


# ---------------------------------------------------------------------------------------
# K ways: intrinsic


def gibbs(w):
    """Probabilities of all faces by their definition."""
    weights = [math.exp(sum((2 * bit - 1) * one for bit, one in zip(face, w, strict=True)))
               for face in every_face(len(w)).int().tolist()]  # fmt: skip
    return [weight / sum(weights) for weight in weights], sum(weights)


W3, A3 = (-1.0, 0.3, 0.6), (0.5, 2.0, 3.0)


def test_faces_of_two_values_without_preference_are_equally_probable():
    law = MixedDirichlet(tensor(0.0, 0.0), tensor(1.0, 1.0))
    assert law.face_probabilities().tolist() == pytest.approx([1 / 3] * 3)
    assert float(law.log_normaliser()) == pytest.approx(math.log(3)), "of the product 2 * 2, minus the empty face"


@pytest.mark.parametrize(
    "w", [W3, (0.0,), (-3.0, 4.0), (-9.0,) * 4, (-30.0, -30.0), (12.0, 11.5), (0.2, -0.4, 1.5, -2.0, 0.0)]
)
def test_face_probabilities_are_the_gibbs_law(w):
    law = MixedDirichlet(tensor(*w).view(-1), torch.ones(len(w), dtype=torch.float64))
    expected, normaliser = gibbs(w)
    assert law.face_probabilities().tolist() == pytest.approx(expected, rel=1e-12, abs=1e-300)
    assert float(law.log_normaliser()) == pytest.approx(math.log(normaliser), rel=1e-13, abs=1e-12)


@pytest.mark.parametrize("w", [W3, (-2.0, -2.0, -2.0), (-3.0, 1.0), (0.2, -0.4, 0.5, -1.0)])
def test_the_sampler_takes_faces_as_often_as_their_probabilities(w, rng):
    law, count = MixedDirichlet(tensor(*w), torch.ones(len(w), dtype=torch.float64)), 40_000
    found = shares(law.sample(count, rng))
    assert sum(found) == count, "no draw is empty"
    assert all(frequency_fits(hits, p, count) for hits, p in zip(found, gibbs(w)[0], strict=True)), found


def test_where_everything_is_rare_one_value_is_drawn(rng):
    draws = MixedDirichlet(tensor(-40.0, -40.0, -40.0), torch.ones(3, dtype=torch.float64)).sample(3000, rng)
    assert (draws.sort(-1).values == tensor(0.0, 0.0, 1.0)).all()
    assert all(frequency_fits(int(hits), 1 / 3, 3000) for hits in draws.sum(0))


def test_no_draw_is_empty_even_where_the_uniform_is_at_its_largest(monkeypatch, rng):
    largest = 1 - 2**-24
    monkeypatch.setattr(torch, "rand", lambda *shape, dtype, **_: torch.full(shape, largest, dtype=dtype))
    for w in torch.linspace(-3, 3, 400):
        law = MixedDirichlet(torch.stack([w, -w, w / 3]), torch.ones(3))
        assert faces(law.sample(1, rng)).any(), float(w)


def test_points_on_a_face_are_those_of_a_dirichlet(rng):
    draws = MixedDirichlet(tensor(*W3), tensor(*A3)).sample(60_000, rng)
    assert torch.allclose(draws.sum(-1), torch.ones(60_000, dtype=torch.float64))
    edge = draws[(faces(draws) == torch.tensor([False, True, True])).all(-1)][:, 1]
    beta = stats.beta(2.0, 3.0)
    assert len(edge) > 5000
    assert stats.kstest(edge.numpy(), beta.cdf).pvalue > 1e-4
    inside = draws[faces(draws).all(-1)]
    mean = tensor(*A3) / sum(A3)
    assert torch.allclose(inside.mean(0), mean, atol=4 * 0.5 / math.sqrt(len(inside)))
    assert stats.kstest(inside[:, 0].numpy(), stats.beta(0.5, 5.0).cdf).pvalue > 1e-4


def test_a_small_concentration_leaves_a_face_as_it_is(rng):
    draws = MixedDirichlet(tensor(9.0, 9.0), tensor(1e-3, 1e-3)).sample(2000, rng)
    assert faces(draws).all(-1).float().mean() > 0.99
    assert torch.isfinite(draws).all()


def dirichlet(alpha):
    return stats.dirichlet(alpha).entropy() if len(alpha) > 1 else 0.0


def chosen(values, face):
    return [value for value, bit in zip(values, face, strict=True) if bit]


@pytest.mark.parametrize(
    ("w", "alpha"), [(W3, A3), ((0.0, 0.0), (1.0, 1.0)), ((-1.0, 0.2, 0.0, 0.7), (0.3, 1.0, 4.0, 2.0))]
)
def test_the_entropy_is_that_of_the_face_and_of_the_point_on_it(w, alpha):
    expected = sum(
        p * (dirichlet(chosen(alpha, face)) - math.log(p))
        for p, face in zip(gibbs(w)[0], every_face(len(w)).tolist(), strict=True)
    )
    found = float(MixedDirichlet(tensor(*w), tensor(*alpha)).entropy())
    assert found == pytest.approx(expected, abs=1e-10)
    assert found <= most_entropy(len(w)) + 1e-12


def test_two_flat_values_have_the_most_entropy_there_is():
    flat = MixedDirichlet(tensor(0.0, 0.0), tensor(1.0, 1.0))
    assert float(flat.entropy()) == pytest.approx(math.log(3), abs=1e-12)
    for w, alpha in (((0.2, 0.0), (1.0, 1.0)), ((0.0, 0.0), (1.0, 1.2)), ((-0.3, -0.3), (1.0, 1.0))):
        assert float(MixedDirichlet(tensor(*w), tensor(*alpha)).entropy()) < math.log(3) - 1e-4


def test_three_values_come_near_to_the_most_entropy_and_not_to_it():
    # That law has faces in proportion 1 : 1 : 1/2 by their size, and exp(2 w k) has no such proportions.
    sizes, weights = every_face(3).sum(1).tolist(), {1: 1.0, 2: 1.0, 3: 0.5}
    best = [weights[size] / 6.5 for size in sizes]
    entropy = sum(p * (-math.log(math.factorial(size - 1)) - math.log(p)) for p, size in zip(best, sizes, strict=True))
    assert entropy == pytest.approx(most_entropy(3), abs=1e-12)
    flat = torch.ones(3, dtype=torch.float64)
    found = max(
        float(MixedDirichlet(torch.full((3,), w, dtype=torch.float64), flat).entropy())
        for w in torch.linspace(-1, 1, 201).tolist()
    )
    assert 0.001 < most_entropy(3) - found < 0.03


def test_the_divergence_of_mixed_dirichlets_by_parts(rng):
    (w, a), (v, b) = (W3, A3), ((0.5, -0.2, 0.0), (1.0, 1.5, 0.7))
    p, q = MixedDirichlet(tensor(*w), tensor(*a)), MixedDirichlet(tensor(*v), tensor(*b))
    assert float(p.kl(p)) == pytest.approx(0, abs=1e-13)
    expected = 0.0
    for mass, its, face in zip(gibbs(w)[0], gibbs(v)[0], every_face(3).tolist(), strict=True):
        own, others = (torch.distributions.Dirichlet(tensor(*chosen(values, face)).view(-1)) for values in (a, b))
        expected += mass * math.log(mass / its)
        if sum(face) > 1:
            expected += mass * float(torch.distributions.kl_divergence(own, others))
    assert float(p.kl(q)) == pytest.approx(expected, abs=1e-10)
    assert float(p.kl(q)) > 0
    assert float(q.kl(p)) > 0
    # Of two values, as an integral.
    p, q = MixedDirichlet(tensor(0.1, -0.4), tensor(2.0, 3.0)), MixedDirichlet(tensor(0.0, 0.6), tensor(1.5, 1.2))
    own, its = stats.beta(2.0, 3.0), stats.beta(1.5, 1.2)
    on_edge = integrate.quad(lambda y: surprise(own.pdf(y), its.pdf(y)), 0, 1)[0]
    (one, two, edge), (its_one, its_two, its_edge) = gibbs((0.1, -0.4))[0], gibbs((0.0, 0.6))[0]
    expected = surprise(one, its_one) + surprise(two, its_two) + surprise(edge, its_edge) + edge * on_edge
    assert float(p.kl(q)) == pytest.approx(expected, abs=1e-9)


def test_the_entropy_of_a_mixed_dirichlet_has_a_gradient():
    w, alpha = tensor(*W3).requires_grad_(), tensor(*A3).requires_grad_()
    assert torch.autograd.gradcheck(lambda w, alpha: MixedDirichlet(w, alpha).entropy(), (w, alpha))


# ---------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: GaussianGate(0.3, 1.0), r"z = 0\.3: expected a tensor of floating-point"),
        (lambda: GaussianGate(torch.tensor(1), 1.0), r"z = a tensor of torch\.int64"),
        (lambda: gaussian(0.3, 0.0), r"sd = 0\.0: expected a finite number above 0"),
        (lambda: gaussian(0.3, math.nan), "sd = nan: expected a finite number above 0"),
        (lambda: gaussian(0.3, True), "sd = True"),
        (lambda: HardConcrete(None, 1.0), "log_alpha = None"),
        (lambda: concrete(0.0, -1.0), r"temperature = -1\.0: expected a finite number above 0"),
        (lambda: concrete(0.0, 1.0, low=0.0), r"low = 0\.0: expected a finite number below 0"),
        (lambda: concrete(0.0, 1.0, high=1.0), r"high = 1\.0: expected a finite number above 1"),
        (lambda: gaussian(0.3, 1.0).kl(concrete(0.0)), "other = a HardConcrete: expected a GaussianGate"),
        (lambda: concrete(0.0).kl(gaussian(0.3, 1.0)), "other = a GaussianGate: expected a HardConcrete"),
        (lambda: sparsemax(tensor(1.0)), r"z has shape \[\]: expected 1 or more values on the last axis"),
        (lambda: faces([1.0]), r"y = \[1\.0\]"),
        (lambda: every_face(0), "ways = 0: expected a whole number of 1 or more"),
        (lambda: most_entropy(2.0), r"ways = 2\.0"),
        (lambda: GaussianSparsemax(torch.ones(3, 1), 1.0), r"z has shape \[3, 1\]: expected 2 or more values"),
        (lambda: GaussianSparsemax(torch.ones(3), -1.0), r"sd = -1\.0"),
        (lambda: GaussianSparsemax(torch.ones(4), 1.0).face_probabilities(), "z has 4 values on the last axis"),
        (lambda: HardConcreteK(torch.ones(3), 0.0, 1.2), r"temperature = 0\.0"),
        (lambda: HardConcreteK(torch.ones(3), 1.0, 0.9), r"stretch = 0\.9: expected a finite number of 1 or more"),
        (lambda: HardConcreteK(torch.tensor(1.0), 1.0, 1.2), r"z has shape \[\]: expected 2 or more"),
        (lambda: MixedDirichlet(torch.ones(2, 2), torch.ones(2, 2)), r"w has shape \[2, 2\]: expected \[K\]"),
        (lambda: MixedDirichlet(torch.ones(2), torch.ones(3)), r"alpha is torch\.float32 \[3\]: expected .* \[2\]"),
        (lambda: MixedDirichlet(torch.ones(2), tensor(1.0, 1.0)), r"alpha is torch\.float64 \[2\]: expected "),
        (lambda: MixedDirichlet(torch.ones(2), torch.tensor([1.0, 0.0])), r"alpha = \[1\.0, 0\.0\]: .* above 0"),
        (lambda: MixedDirichlet(tensor(0.0, math.inf), tensor(1.0, 1.0)), r"w = \[0\.0, inf\]: expected finite"),
        (
            lambda: MixedDirichlet(torch.ones(2), torch.ones(2)).kl(MixedDirichlet(torch.ones(3), torch.ones(3))),
            r"other = w \[3\]: expected a MixedDirichlet with w \[2\]",
        ),
        (lambda: MixedDirichlet(torch.ones(2), torch.ones(2)).kl(gaussian(0.3, 1.0)), "other = a GaussianGate"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_by_name(make, told):
    with pytest.raises(ValueError, match=told):
        make()


@pytest.mark.parametrize("count", [0, -1, 2.0, True])
def test_a_number_of_draws_is_a_whole_one(count, rng):
    for law in (
        gaussian(0.3, 1.0), concrete(0.0), GaussianSparsemax(tensor(0.0, 0.1), 1.0),
        HardConcreteK(tensor(0.0, 0.1), 1.0, 1.2), MixedDirichlet(tensor(0.0, 0.1), tensor(1.0, 2.0)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"count = {count}"):
            law.sample(count, rng)
