"""Mixed distributions: random values in a simplex that may lie on its corners and edges, with positive probability.

Two ways (a value in [0, 1], such as a mask's): :class:`HardConcrete`, :class:`GaussianGate`. K ways (K values that
add up to 1): :class:`GaussianSparsemax`, :class:`HardConcreteK`, :class:`MixedDirichlet`. A *face* says which values
are above 0: one of them on a corner, two on an edge, all in the interior.

A face has a probability, and within it there is a density, over all of its coordinates but one. Entropies and
divergences are those of both together, in nats; like those of densities, an entropy can be below 0.
Source: Farinhas, Aziz, Niculae & Martins (2022), "Sparse communication via mixed distributions".

What cannot be used raises ``ValueError`` with its name, its value and what is allowed, when a law is made. A gate does
not look at the values of its tensor, which are trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn.functional import logsigmoid
from torch.special import log_ndtr


def _check_tensor(name: str, value: Tensor, ways: int = 0) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else repr(value)
        raise ValueError(f"{name} = {kind}: expected a tensor of floating-point numbers")
    if ways and (value.dim() == 0 or value.shape[-1] < ways):
        raise ValueError(f"{name} has shape {list(value.shape)}: expected {ways} or more values on the last axis")


def _check_number(name: str, value: float, allowed: str, right: Callable[[float], bool]) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not right(value):
        raise ValueError(f"{name} = {value!r}: expected a finite number {allowed}")


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} = {value!r}: expected a whole number of 1 or more")


def _nodes(low: float, high: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """256 points of an interval and their weights in an integral over it: Gauss and Legendre's, in 16 equal panels."""
    points, weights = np.polynomial.legendre.leggauss(16)
    half = (high - low) / 32
    starts = low + 2 * half * np.arange(16)
    places, widths = (starts[:, None] + half * (points + 1)).ravel(), np.tile(half * weights, 16)
    return torch.from_numpy(places).to(like), torch.from_numpy(widths).to(like)


def _drawn(draw: Callable[..., Tensor], count: int, like: Tensor, generator: Generator) -> Tensor:
    """``count`` tensors of a shape, drawn with ``torch.rand`` or ``torch.randn`` where the generator is."""
    _check_count("count", count)
    return draw(count, *like.shape, generator=generator, dtype=like.dtype, device=generator.device).to(like.device)


def _log_normal(x: Tensor) -> Tensor:
    return -0.5 * x.square() - 0.5 * math.log(2 * math.pi)


# ---------------------------------------------------------------------------------------
# Two ways


class _Gate:
    """What the two gates share. All results have the shape of the gate's tensor, and are differentiable in it."""

    def _log_masses(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logs of the probabilities of 0, of 1, and of anything but 0."""
        raise NotImplementedError

    def _log_inside(self, y: Tensor) -> Tensor:
        """Log of the density in (0, 1), and finite at its ends."""
        raise NotImplementedError

    def _points(self) -> tuple[Tensor, Tensor]:
        """Points in (0, 1) and their weights in an integral over it."""
        raise NotImplementedError

    @property
    def zero(self) -> Tensor:
        """The probability of 0. Small probabilities are as precise as large ones, here and in the next three."""
        return self._log_masses()[0].exp()

    @property
    def one(self) -> Tensor:
        """The probability of 1."""
        return self._log_masses()[1].exp()

    @property
    def expected_l0(self) -> Tensor:
        """The probability of anything but 0. Its sum over gates is the expected number of weights that are kept."""
        return self._log_masses()[2].exp()

    def log_density(self, y: Tensor) -> Tensor:
        """Log of the density for y in (0, 1), log of the probability for 0 and 1, else minus infinity; broadcasts."""
        zero, one, _ = self._log_masses()
        inside = torch.where((y > 0) & (y < 1), self._log_inside(y), -math.inf)
        return torch.where(y == 0, zero, torch.where(y == 1, one, inside))

    def expectation(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """The mean of ``function(y)``, by quadrature with 256 points in (0, 1).

        ``function`` takes values [n, 1, ...], or one, and is smooth between 0 and 1; at the ends it may jump.
        """
        zero, one, _ = self._log_masses()
        y, weights = (side.view(-1, *[1] * zero.dim()) for side in self._points())
        ends = zero.exp() * function(y.new_zeros(())) + one.exp() * function(y.new_ones(()))
        return ends + (weights * self._log_inside(y).exp() * function(y)).sum(0)

    def entropy(self) -> Tensor:
        """The entropy, in nats, at most log 3."""
        return -self.expectation(self.log_density)

    def kl(self, other: Self) -> Tensor:
        """The divergence KL(this || ``other``), in nats; ``ValueError`` for another kind of gate."""
        self._check_kind(other)
        return self.expectation(lambda y: self.log_density(y) - other.log_density(y))

    def _check_kind(self, other: Self) -> None:
        if type(other) is not type(self):
            raise ValueError(f"other = a {type(other).__name__}: expected a {type(self).__name__}, as this gate is")


@dataclass(frozen=True, eq=False)
class HardConcrete(_Gate):
    """A logistic variable through a sigmoid, stretched to [low, high] and clipped to [0, 1].

    ``clip(low + (high - low) * sigmoid((log_alpha + L) / temperature))``, L standard logistic. Entropy and divergence
    have no simple closed form: they are by quadrature, to 1e-10 for temperatures up to 20.
    Sources: Louizos, Welling & Kingma (2018), "Learning sparse neural networks through L0 regularization"; as a mixed
    distribution, Farinhas et al. (2022).

    Parameters
    ----------
    log_alpha
        A tensor of any shape, one gate an entry. Above 0 the gate leans to 1.
    temperature
        Above 0; 2/3 is usual.
    low, high
        Ends of the stretched interval, below 0 and above 1.

    Examples
    --------
    >>> gate = HardConcrete(torch.tensor([-2.0, 0.0, 2.0]), temperature=2 / 3)
    >>> [round(value, 3) for value in gate.zero.tolist()], [round(value, 3) for value in gate.expected_l0.tolist()]
    ([0.599, 0.168, 0.027], [0.401, 0.832, 0.973])
    """

    log_alpha: Tensor
    temperature: float
    low: float = -0.1
    high: float = 1.1

    def __post_init__(self) -> None:
        _check_tensor("log_alpha", self.log_alpha)
        _check_number("temperature", self.temperature, "above 0", lambda value: value > 0)
        _check_number("low", self.low, "below 0", lambda value: value < 0)
        _check_number("high", self.high, "above 1", lambda value: value > 1)

    def _ends(self) -> tuple[float, float]:
        """Where the logit of the sigmoid makes the stretched value 0, and 1."""
        return math.log(-self.low / self.high), math.log((1 - self.low) / (self.high - 1))

    def _log_masses(self) -> tuple[Tensor, Tensor, Tensor]:
        zero, one = (self.temperature * end - self.log_alpha for end in self._ends())
        return logsigmoid(zero), logsigmoid(-one), logsigmoid(-zero)

    def _log_inside(self, y: Tensor) -> Tensor:
        width = self.high - self.low
        left, right = (y - self.low) / width, (self.high - y) / width  # they add up to 1
        noise = self.temperature * (left.log() - right.log()) - self.log_alpha
        return logsigmoid(noise) + logsigmoid(-noise) - left.log() - right.log() + math.log(self.temperature / width)

    def _points(self) -> tuple[Tensor, Tensor]:
        x, weights = _nodes(*self._ends(), like=self.log_alpha)
        slope = (self.high - self.low) * x.sigmoid() * (-x).sigmoid()
        return self.low + (self.high - self.low) * x.sigmoid(), weights * slope

    @property
    def between(self) -> Tensor:
        """The probability of a value in (0, 1)."""
        zero, one = (self.temperature * end - self.log_alpha for end in self._ends())
        return -one.sigmoid() * (-zero).sigmoid() * torch.expm1(zero - one)

    def sample(self, count: int, generator: Generator) -> Tensor:
        """``count`` draws of every gate, [count, ...], differentiable in ``log_alpha``."""
        noise = torch.logit(_drawn(torch.rand, count, self.log_alpha, generator))
        soft = torch.sigmoid((self.log_alpha + noise) / self.temperature)
        return (self.low + (self.high - self.low) * soft).clamp(0, 1)


@dataclass(frozen=True, eq=False)
class GaussianGate(_Gate):
    """A normal variable clipped to [0, 1]: ``clip(z + sd * N(0, 1))``. All of it in closed form.

    It is the Gaussian-Sparsemax of two values with one noise: :class:`GaussianSparsemax` of (z, 1 - z), which has two,
    is the gate with ``sd / sqrt(2)``. Its price ``expected_l0`` still has a gradient where nearly every draw is 0.
    Source: Farinhas et al. (2022).

    Parameters
    ----------
    z
        Mean before clipping, a tensor of any shape, one gate an entry.
    sd
        Standard deviation before clipping, above 0.

    Examples
    --------
    >>> gate = GaussianGate(torch.tensor(0.3), sd=1.0)
    >>> [round(float(value), 4) for value in (gate.zero, gate.one, gate.entropy())]
    [0.3821, 0.242, 1.0779]
    """

    z: Tensor
    sd: float

    def __post_init__(self) -> None:
        _check_tensor("z", self.z)
        _check_number("sd", self.sd, "above 0", lambda value: value > 0)

    def _log_masses(self) -> tuple[Tensor, Tensor, Tensor]:
        return log_ndtr(-self.z / self.sd), log_ndtr((self.z - 1) / self.sd), log_ndtr(self.z / self.sd)

    def _log_inside(self, y: Tensor) -> Tensor:
        return _log_normal((y - self.z) / self.sd) - math.log(self.sd)

    def _points(self) -> tuple[Tensor, Tensor]:
        return _nodes(0.0, 1.0, like=self.z)

    @property
    def between(self) -> Tensor:
        """The probability of a value in (0, 1)."""
        near = torch.where(self.z < 0.5, self.z, 1 - self.z)  # the same by symmetry, of two small numbers
        return log_ndtr(near / self.sd).exp() - log_ndtr((near - 1) / self.sd).exp()

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Integrals over (0, 1) of the density times the noise, and times its square."""
        left, right = -self.z / self.sd, (1 - self.z) / self.sd
        at_left, at_right = _log_normal(left).exp(), _log_normal(right).exp()
        return at_left - at_right, self.between - right * at_right + left * at_left

    def entropy(self) -> Tensor:
        """The entropy, in nats, at most log 3. Closed form."""
        ends = torch.stack([log.exp() * log for log in self._log_masses()[:2]]).sum(0)
        return -ends + self.between * math.log(self.sd * math.sqrt(2 * math.pi)) + self._moments()[1] / 2

    def kl(self, other: Self) -> Tensor:
        """The divergence KL(this || ``other``), in nats; ``ValueError`` for another kind of gate. Closed form."""
        self._check_kind(other)
        assert isinstance(other, GaussianGate)
        pairs = zip(self._log_masses()[:2], other._log_masses()[:2], strict=True)
        ends = torch.stack([log.exp() * (log - its) for log, its in pairs]).sum(0)
        first, second = self._moments()
        shift, ratio = (self.z - other.z) / other.sd, self.sd / other.sd  # the other's noise at y: shift + ratio * own
        its_square = shift.square() * self.between + 2 * shift * ratio * first + ratio**2 * second
        return ends - self.between * math.log(ratio) + (its_square - second) / 2

    def sample(self, count: int, generator: Generator) -> Tensor:
        """``count`` draws of every gate, [count, ...], differentiable in ``z``."""
        return (self.z + self.sd * _drawn(torch.randn, count, self.z, generator)).clamp(0, 1)


# ---------------------------------------------------------------------------------------
# K ways


def sparsemax(z: Tensor) -> Tensor:
    """The point of the simplex that lies nearest to z, by the last axis; differentiable.

    Source: Martins & Astudillo (2016), "From softmax to sparsemax".

    >>> sparsemax(torch.tensor([[0.3, 0.7], [2.0, 0.5]]))
    tensor([[0.3000, 0.7000],
            [1.0000, 0.0000]])
    """
    _check_tensor("z", z, ways=1)
    z = z - z.detach().amax(-1, keepdim=True)  # changes nothing but the rounding
    ordered = z.sort(-1, descending=True).values
    sums = ordered.cumsum(-1) - 1
    sizes = torch.arange(1, z.shape[-1] + 1, device=z.device)
    support = (sizes * ordered > sums).sum(-1, keepdim=True).clamp(min=1)  # of nan none is
    return (z - sums.gather(-1, support - 1) / support).clamp(min=0)


def faces(y: Tensor) -> Tensor:
    """The face on which each point of the simplex lies: which of its values are above 0, boolean, of y's shape.

    >>> faces(torch.tensor([0.0, 0.4, 0.6]))
    tensor([False,  True,  True])
    """
    _check_tensor("y", y, ways=1)
    return y > 0


def every_face(ways: int) -> Tensor:
    """The 2^K - 1 faces of the simplex of K values, boolean, [2^K - 1, K]; corners first, the interior last.

    >>> every_face(2).int().tolist()
    [[1, 0], [0, 1], [1, 1]]
    """
    _check_count("ways", ways)
    numbers = sorted(range(1, 2**ways), key=lambda number: (number.bit_count(), number))
    return torch.tensor([[bool(number >> k & 1) for k in range(ways)] for number in numbers])


def most_entropy(ways: int) -> float:
    """The highest entropy of a mixed distribution over K values, in nats: log of the sum of C(K, k) / (k - 1)!.

    A face of k values is then as probable as its volume 1 / (k - 1)! says, and flat.
    Source: Farinhas et al. (2022).

    >>> [round(math.exp(most_entropy(ways)), 3) for ways in (1, 2, 3)]
    [1.0, 3.0, 6.5]
    """
    _check_count("ways", ways)
    return math.log(sum(math.comb(ways, k) / math.factorial(k - 1) for k in range(1, ways + 1)))


@dataclass(frozen=True, eq=False)
class GaussianSparsemax:
    """``sparsemax(z + sd * N(0, 1))``, with a noise of its own for each of the K values.

    Source: Farinhas et al. (2022).

    Parameters
    ----------
    z
        Tensor [..., K], K of 2 or more.
    sd
        Standard deviation of every noise, above 0.

    Examples
    --------
    >>> law = GaussianSparsemax(torch.zeros(3), sd=0.5)
    >>> faces(law.sample(2, torch.Generator().manual_seed(0))).shape
    torch.Size([2, 3])
    """

    z: Tensor
    sd: float

    def __post_init__(self) -> None:
        _check_tensor("z", self.z, ways=2)
        _check_number("sd", self.sd, "above 0", lambda value: value > 0)

    def sample(self, count: int, generator: Generator) -> Tensor:
        """``count`` draws, [count, ..., K], differentiable in ``z``."""
        return sparsemax(self.z + self.sd * _drawn(torch.randn, count, self.z, generator))

    def face_probabilities(self) -> Tensor:
        """Probabilities of :func:`every_face`, [..., 2^K - 1], for K of 2 and 3; ``ValueError`` for more.

        A face of k values has them all above its threshold, and all others below it. Its mean minus 1/k is that
        threshold, and independent of their differences, so that two integrals in one dimension are enough for k < 3.
        """
        ways = self.z.shape[-1]
        if ways > 3:
            raise ValueError(f"z has {ways} values on the last axis: face probabilities are known for 2 and 3 alone")
        noise, weights = _nodes(-9.0, 9.0, like=self.z)
        found = []
        for face in every_face(ways).to(self.z.device)[:-1]:
            k, inside = int(face.sum()), self.z[..., face]
            threshold = (inside.mean(-1) - 1 / k)[..., None] + self.sd / math.sqrt(k) * noise
            below = log_ndtr((threshold[..., None, :] - self.z[..., ~face, None]) / self.sd).sum(-2)
            mass = (weights * (_log_normal(noise) + below).exp()).sum(-1)
            if k == 2:  # that neither lies 1 or more above the other
                gap, spread = inside[..., 0] - inside[..., 1], self.sd * math.sqrt(2)
                mass = mass * (log_ndtr((1 - gap) / spread).exp() - log_ndtr((-1 - gap) / spread).exp())
            found.append(mass)
        return torch.stack([*found, (1 - torch.stack(found).sum(0)).clamp(min=0)], -1)


@dataclass(frozen=True, eq=False)
class HardConcreteK:
    """The Hard Concrete for K values: ``sparsemax(stretch * softmax((z + Gumbel) / temperature))``.

    With K = 2 it is the :class:`HardConcrete` with log_alpha = z[0] - z[1] from (1 - stretch) / 2 to (1 + stretch) / 2.
    Source: Farinhas et al. (2022), "K-D Hard Concrete".

    Parameters
    ----------
    z
        Tensor [..., K], K of 2 or more.
    temperature
        Above 0.
    stretch
        1 or more. With 1 all values stay above 0, and the law is the Concrete (Gumbel-Softmax).

    Examples
    --------
    >>> law = HardConcreteK(torch.zeros(3), temperature=0.5, stretch=1.2)
    >>> torch.allclose(law.sample(4, torch.Generator().manual_seed(0)).sum(-1), torch.ones(4))
    True
    """

    z: Tensor
    temperature: float
    stretch: float

    def __post_init__(self) -> None:
        _check_tensor("z", self.z, ways=2)
        _check_number("temperature", self.temperature, "above 0", lambda value: value > 0)
        _check_number("stretch", self.stretch, "of 1 or more", lambda value: value >= 1)

    def sample(self, count: int, generator: Generator) -> Tensor:
        """``count`` draws, [count, ..., K], differentiable in ``z``."""
        gumbel = -(-_drawn(torch.rand, count, self.z, generator).log()).log()
        return sparsemax(self.stretch * ((self.z + gumbel) / self.temperature).softmax(-1))


@dataclass(frozen=True, eq=False)
class MixedDirichlet:
    """First a face, then a point on it: P(face) in proportion to exp of the sum of (2 f_k - 1) w_k, then a Dirichlet.

    Source: Farinhas et al. (2022), "Mixed Dirichlet".

    Parameters
    ----------
    w
        Tensor [K]: the higher, the more often is this value above 0.
    alpha
        Tensor [K], all above 0: concentrations. A face takes those of its values.

    Examples
    --------
    >>> law = MixedDirichlet(torch.zeros(2), torch.ones(2))
    >>> law.face_probabilities(), round(float(law.entropy().exp()), 4)
    (tensor([0.3333, 0.3333, 0.3333]), 3.0)
    """

    w: Tensor
    alpha: Tensor

    def __post_init__(self) -> None:
        _check_tensor("w", self.w, ways=1)
        _check_tensor("alpha", self.alpha, ways=1)
        if self.w.dim() != 1:
            raise ValueError(f"w has shape {list(self.w.shape)}: expected [K]")
        if (self.alpha.shape, self.alpha.dtype) != (self.w.shape, self.w.dtype):
            alpha, w = (f"{one.dtype} {list(one.shape)}" for one in (self.alpha, self.w))
            raise ValueError(f"alpha is {alpha}: expected {w}, as w is")
        if not bool(self.w.isfinite().all()):
            raise ValueError(f"w = {self.w.tolist()}: expected finite numbers")
        if not bool((self.alpha.isfinite() & (self.alpha > 0)).all()):
            raise ValueError(f"alpha = {self.alpha.tolist()}: expected finite numbers above 0")

    def log_normaliser(self) -> Tensor:
        """Log of what the weights of all faces add up to: of the product of 2 cosh(w_k), minus exp of -(sum of w)."""
        none = -logsigmoid(
            -2 * self.w
        ).sum()  # minus the log of the share of the empty face, which is none of the simplex
        return none - self.w.sum() + torch.log(-torch.expm1(-none))

    def face_probabilities(self) -> Tensor:
        """Probabilities of :func:`every_face`, [2^K - 1]."""
        return self._log_faces()[1].exp()

    def _log_faces(self) -> tuple[Tensor, Tensor]:
        """Every face [2^K - 1, K], as 0 and 1, and the logs of their probabilities."""
        every = every_face(len(self.w)).to(self.w)
        return every, (2 * every - 1) @ self.w - self.log_normaliser()

    def sample(self, count: int, generator: Generator) -> Tensor:
        """``count`` draws, [count, K], not differentiable. Takes K steps, and lists no faces.

        A value is above 0 with odds exp(2 w_k). As long as none has been, the rest may not all be 0 either, which
        makes it more probable.
        """
        uniform = _drawn(torch.rand, count, self.w, generator)
        some = -torch.expm1(logsigmoid(-2 * self.w).flip(0).cumsum(0).flip(0))  # P(any from k on is above 0)
        free = (2 * self.w).sigmoid()
        face = torch.zeros_like(uniform, dtype=torch.bool)
        for k in range(len(self.w)):
            face[:, k] = uniform[:, k] < torch.where(face.any(1), free[k], free[k] / some[k])
        face[:, -1] |= ~face.any(1)  # the last one's probability is 1 then, but for rounding
        shapes = self.alpha.detach().to(generator.device).expand(count, -1).contiguous()
        sizes = torch._standard_gamma(shapes, generator=generator).to(face.device) * face  # above 0, however small
        return sizes / sizes.sum(-1, keepdim=True)

    def entropy(self) -> Tensor:
        """The entropy, in nats, over all 2^K - 1 faces: that of the face, and the mean of the Dirichlets'."""
        every, log = self._log_faces()
        total, digamma = every @ self.alpha, self.alpha.digamma()
        point = every @ (self.alpha.lgamma() - (self.alpha - 1) * digamma) - total.lgamma()
        point = point + (total - every.sum(1)) * total.digamma()  # 0 on a corner
        return (log.exp() * (point - log)).sum()

    def kl(self, other: MixedDirichlet) -> Tensor:
        """The divergence KL(this || ``other``), in nats, over all faces; ``ValueError`` where K differs."""
        if not isinstance(other, MixedDirichlet) or other.w.shape != self.w.shape:
            what = f"w {list(other.w.shape)}" if isinstance(other, MixedDirichlet) else f"a {type(other).__name__}"
            raise ValueError(f"other = {what}: expected a MixedDirichlet with w {list(self.w.shape)}")
        every, log = self._log_faces()
        total, its_total = every @ self.alpha, every @ other.alpha
        shift = other.alpha.lgamma() - self.alpha.lgamma() + (self.alpha - other.alpha) * self.alpha.digamma()
        point = every @ shift + total.lgamma() - its_total.lgamma() - (total - its_total) * total.digamma()
        return (log.exp() * (log - other._log_faces()[1] + point)).sum()
