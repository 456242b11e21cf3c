"""Images in which shape and texture are drawn apart, and mean pooling.

A scene is a row of numbers: a silhouette and where it lies, a texture and its colours, a
background. Every kind of image is a function of the same scene: ordinary (shape and
texture of one class), cue conflict (of two classes), mean-pooled, silhouette, texture
alone. Sources: Geirhos et al. (2019) for cue conflict, silhouettes and shape bias; Zhang,
Lepori & Pavlick (2023), section 5, for mean-pooled images.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sicore.seeding import generator

CLASSES = 16

SHAPES = (
    "disc", "square", "triangle", "star", "plus", "ring", "crescent", "heart",
    "L", "T", "arrow", "half disc", "Z", "U", "H", "trefoil",
)  # fmt: skip

TEXTURES = (
    "rows", "columns", "rising lines", "falling lines", "checkers", "diamonds", "dots", "grid",
    "bricks", "zigzag rows", "zigzag columns", "thin rows", "rings", "waves", "weave", "pebbles",
)  # fmt: skip

_RESOLUTION = 96  # side of a silhouette's template, pixels
_BOX = 1.3  # half of that side, where an image's is 1
_AREA = 0.28  # share of an image that a silhouette of size 1 covers in its template


@dataclass(frozen=True)
class Difficulty:
    """How much scenes vary. Ranges are (lowest, highest), drawn evenly.

    Parameters
    ----------
    area
        Share of the image that a silhouette of size 1 covers, the same for all shapes.
    size
        Factor on a silhouette's sides.
    shift
        Largest distance of its centre from the image's, in half image sides, along each axis.
    aspect
        Largest logarithm of the ratio of its two sides.
    turn
        Largest rotation of a silhouette, radians.
    warp
        Standard deviation of a smooth displacement of its outline, in half image sides.
    texture_turn
        Largest rotation of a texture, radians.
    period
        Of a texture, in pixels of a 32-pixel image; it grows with the image.
    contrast
        Distance of a texture's two colours, in [0, 1].
    cells
        Regions of flat colour in the background.
    """

    area: float = 0.28
    size: tuple[float, float] = (0.8, 1.1)
    shift: float = 0.22
    aspect: float = 0.3
    turn: float = math.pi
    warp: float = 0.04
    texture_turn: float = 0.2
    period: tuple[float, float] = (3.2, 4.4)
    contrast: tuple[float, float] = (0.7, 1.0)
    cells: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.area <= 0.5:
            raise ValueError(f"area = {self.area}: expected a share above 0 and of 0.5 at most")
        for name in ("size", "period", "contrast"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} = {(low, high)}: expected (lowest, highest), both above 0")
        if self.contrast[1] > 1:
            raise ValueError(f"contrast = {self.contrast}: two colours are at most 1 apart here")
        for name in ("shift", "aspect", "turn", "warp", "texture_turn"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} = {getattr(self, name)}: expected 0 or more")
        if self.cells < 1:
            raise ValueError(f"cells = {self.cells}: expected 1 or more")


@dataclass(frozen=True)
class Scenes:
    """N scenes as numbers; every field has N rows. Made by :func:`draw_scenes`.

    Attributes
    ----------
    shape, texture
        Classes, [N], 0 to 15.
    flat
        [N] boolean: the object has one colour instead of its texture.
    placement
        [N, 2, 3] from image to template coordinates.
    displacement
        [N, 2, 4, 4] of the outline.
    lattice
        [N, 2, 3] from pixels of a 32-pixel image to periods of the texture.
    colours
        [N, 2, 3] of the texture, [0, 1].
    sites, cell_colours
        [N, C, 2] and [N, C, 3] of the background's regions.
    """

    shape: Tensor
    texture: Tensor
    flat: Tensor
    placement: Tensor
    displacement: Tensor
    lattice: Tensor
    colours: Tensor
    sites: Tensor
    cell_colours: Tensor

    def __len__(self) -> int:
        return len(self.shape)

    def __getitem__(self, rows: slice | Tensor) -> Scenes:
        """Some of the scenes."""
        return Scenes(**{name: tensor[rows] for name, tensor in vars(self).items()})

    def retextured(self, texture: Tensor) -> Scenes:
        """The same scenes with other textures, [N]."""
        if texture.shape != self.texture.shape:
            raise ValueError(f"texture has shape {tuple(texture.shape)}, the scenes {tuple(self.texture.shape)}")
        return replace(self, texture=texture)


def draw_scenes(
    shape: Tensor, texture: Tensor, generator: torch.Generator, *, difficulty: Difficulty | None = None,
    flat: float | Tensor = 0.0,
) -> Scenes:  # fmt: skip
    """Draw everything but the classes of N scenes.

    Parameters
    ----------
    shape, texture
        Classes, [N] each. Nothing else depends on them: the same generator gives the same
        places and colours whatever the classes are.
    flat
        Probability that an object has one flat colour instead of its texture, or which objects have, [N] boolean.

    Raises
    ------
    ValueError
        For classes outside 0 to 15, a share outside [0, 1], or a tensor ``flat`` of another shape or kind.

    Examples
    --------
    >>> labels = torch.arange(4)
    >>> scenes = draw_scenes(labels, labels, torch.Generator().manual_seed(0))
    >>> tuple(images(scenes, 32).shape), len(scenes)
    ((4, 3, 32, 32), 4)
    """
    look = difficulty or Difficulty()
    for name, classes in {"shape": shape, "texture": texture}.items():
        if classes.dim() != 1 or (len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < CLASSES):
            raise ValueError(f"{name}: expected one class of 0 to {CLASSES - 1} a scene, a tensor [N]")
    if len(shape) != len(texture):
        raise ValueError(f"shape has {len(shape)} classes, texture {len(texture)}: expected one of each a scene")
    n = len(shape)
    if isinstance(flat, Tensor) and (flat.dtype != torch.bool or flat.shape != shape.shape):
        raise ValueError(f"flat is {flat.dtype} {tuple(flat.shape)}: expected boolean [{n}], or a share")
    if not isinstance(flat, Tensor) and not 0 <= flat <= 1:
        raise ValueError(f"flat = {flat!r}: expected a share from 0 to 1")

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return torch.rand(n, *size, generator=generator) * (high - low) + low

    scale = _BOX * math.sqrt(look.area / _AREA)
    angle, size, aspect = (
        uniform(-look.turn, look.turn),
        uniform(*look.size) * scale,
        uniform(-look.aspect, look.aspect) / 2,
    )
    inverse = torch.stack([1 / (size * aspect.exp()), 1 / (size * (-aspect).exp())], 1)  # [N, 2]
    centre = uniform(-look.shift, look.shift, 2)
    linear = inverse[:, :, None] * _rotation(angle)
    placement = torch.cat([linear, -(linear @ centre[:, :, None])], 2)

    period = uniform(*look.period)
    linear = _rotation(uniform(-look.texture_turn, look.texture_turn)) / period[:, None, None]
    lattice = torch.cat([linear, uniform(0, 8, 2)[:, :, None]], 2)
    apart = F.normalize(uniform(-1, 1, 3), dim=1) * uniform(*look.contrast)[:, None]
    first = apart.neg().clamp(min=0) + uniform(0, 1, 3) * (1 - apart.abs())  # so that both are colours
    colours = torch.stack([first, first + apart], 1)
    return Scenes(
        shape=shape, texture=texture, flat=uniform(0, 1) < flat, placement=placement,
        displacement=torch.randn(n, 2, 4, 4, generator=generator) * look.warp, lattice=lattice, colours=colours,
        sites=uniform(-1, 1, look.cells, 2), cell_colours=uniform(0, 1, look.cells, 3),
    )  # fmt: skip


def _rotation(angle: Tensor) -> Tensor:  # [N] -> [N, 2, 2]
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)


# ---------------------------------------------------------------------------------------
# Images of scenes


def images(scenes: Scenes, size: int = 32) -> Tensor:
    """Scenes as images, [N, 3, size, size], uint8: the ordinary ones, or cue conflicts, as their classes say."""
    return _painted(scenes, size, _ordinary)


def mean_pooled(scenes: Scenes, size: int = 32) -> Tensor:
    """The same scenes with every segment in its mean colour (paper, section 5): shape without texture."""
    return _painted(scenes, size, _pooled)


def silhouettes(scenes: Scenes, size: int = 32) -> Tensor:
    """The same objects in black on white (Geirhos et al., 2019)."""
    return _painted(scenes, size, lambda part, size: 1 - _object(part, size)[:, None].expand(-1, 3, -1, -1))


def texture_only(scenes: Scenes, size: int = 32) -> Tensor:
    """The same textures over the whole image: texture without shape."""
    return _painted(scenes, size, _fill)


def segments(scenes: Scenes, size: int = 32) -> Tensor:
    """True segments of scenes, [N, size, size], int64: 0 the object, 1 and up the cells of the background."""
    parts = [_segments(scenes[i : i + _CHUNK], size) for i in range(0, len(scenes), _CHUNK)]
    return torch.cat(parts) if parts else torch.empty(0, size, size, dtype=torch.int64)


_CHUNK = 500  # images painted at a time; small enough for a processor's cache


def _painted(scenes: Scenes, size: int, paint: Callable[[Scenes, int], Tensor]) -> Tensor:
    if isinstance(size, bool) or not isinstance(size, int) or size < 8:
        raise ValueError(f"size = {size!r}: an image has a side of 8 pixels or more")
    result = torch.empty(len(scenes), 3, size, size, dtype=torch.uint8)
    for i in range(0, len(scenes), _CHUNK):
        result[i : i + _CHUNK] = paint(scenes[i : i + _CHUNK], size).clamp(0, 1).mul(255).round()
    return result


def _centres(size: int) -> tuple[Tensor, Tensor]:
    """x and y of the pixels' centres, [size, size] each; the image's sides are at -1 and 1."""
    line = (torch.arange(size) + 0.5) * (2 / size) - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    return x, y


def _object(scenes: Scenes, size: int) -> Tensor:
    """How much of each pixel the object covers, [N, H, W], 0 to 1."""
    bent = (scenes.displacement.flatten(2) @ _spread(size)).view(len(scenes), 2, size, size)
    x, y = _centres(size)
    at = torch.stack([x + bent[:, 0], y + bent[:, 1]], 1).flatten(2)  # [N, 2, H * W]
    grid = torch.baddbmm(scenes.placement[:, :, 2:], scenes.placement[:, :, :2], at)
    grid = grid.mT.reshape(len(scenes), size, size, 2)
    covered = torch.empty(len(scenes), size, size)
    for shape in scenes.shape.unique():
        rows = scenes.shape == shape
        template = _templates()[shape].expand(int(rows.sum()), 1, -1, -1)
        covered[rows] = F.grid_sample(template, grid[rows], align_corners=False).squeeze(1)
    return covered


def _cells(scenes: Scenes, size: int) -> Tensor:
    """The nearest site of every pixel, [N, H, W]."""
    x, y = _centres(size)
    sites = scenes.sites[..., None, None]  # [N, C, 2, 1, 1]
    nearest = torch.zeros(len(scenes), size, size, dtype=torch.int64)
    least = torch.full((len(scenes), size, size), torch.inf)
    for cell in range(sites.shape[1]):  # argmin over an inner axis takes several times as long
        distance = (x - sites[:, cell, 0]) ** 2 + (y - sites[:, cell, 1]) ** 2
        nearest.masked_fill_(distance < least, cell)
        least = torch.minimum(least, distance)
    return nearest


@functools.lru_cache(maxsize=4)
def _spread(size: int) -> Tensor:
    """Bicubic interpolation from a 4 x 4 grid to size x size pixels, as a matrix [16, size * size]."""
    corners = torch.eye(16).view(16, 1, 4, 4)
    return F.interpolate(corners, (size, size), mode="bicubic", align_corners=True).flatten(1)


def _fill(scenes: Scenes, size: int) -> Tensor:
    """The texture over the whole image, or the flat colour, [N, 3, H, W]."""
    x, y = _centres(size)
    at = torch.stack([x, y]).flatten(1).expand(len(scenes), -1, -1) * 16  # in pixels of a 32-pixel image
    u, v = torch.baddbmm(scenes.lattice[:, :, 2:], scenes.lattice[:, :, :2], at).unbind(1)  # [N, H * W] each
    share = torch.empty_like(u)
    for texture in scenes.texture.unique():
        rows = scenes.texture == texture
        wave, middle = _PATTERNS[texture](u[rows], v[rows]), _medians()[texture]
        share[rows] = torch.sigmoid(6 * (wave - middle))
    share[scenes.flat] = 0.5
    first, second = scenes.colours[:, :, :, None].unbind(1)  # [N, 3, 1] each
    return (first + (second - first) * share[:, None]).view(len(scenes), 3, size, size)


def _ordinary(scenes: Scenes, size: int) -> Tensor:
    ground = scenes.cell_colours.mT.gather(2, _cells(scenes, size).flatten(1)[:, None].expand(-1, 3, -1))
    covered = _object(scenes, size)[:, None]
    return torch.lerp(ground.view(len(scenes), 3, size, size), _fill(scenes, size), covered)


def _segments(scenes: Scenes, size: int) -> Tensor:
    return (_cells(scenes, size) + 1).masked_fill_(_object(scenes, size) > 0.5, 0)


def _pooled(scenes: Scenes, size: int) -> Tensor:
    return segment_means(_ordinary(scenes, size), _segments(scenes, size), 1 + scenes.sites.shape[1])


def segment_means(images: Tensor, segments: Tensor, count: int) -> Tensor:
    """Every pixel in the mean colour of its segment.

    Parameters
    ----------
    images
        [N, C, H, W], floating point.
    segments
        [N, H, W], int64, 0 to ``count`` - 1; segments do not overlap.

    Returns
    -------
    Tensor
        [N, C, H, W].

    Examples
    --------
    >>> segment_means(torch.tensor([[[[0.0, 1.0, 5.0]]]]), torch.tensor([[[0, 0, 1]]]), 2).flatten().tolist()
    [0.5, 0.5, 5.0]
    """
    if segments.shape != images[:, 0].shape:
        raise ValueError(f"segments has shape {tuple(segments.shape)}, the images {tuple(images.shape)}")
    inside = F.one_hot(segments.flatten(1), count).to(images.dtype)  # [N, P, S]
    sums = images.flatten(2) @ inside  # [N, C, S]
    means = sums / inside.sum(1, keepdim=True).clamp(min=1)
    return means.gather(2, segments.flatten(1)[:, None].expand(-1, images.shape[1], -1)).view_as(images)


# ---------------------------------------------------------------------------------------
# Silhouettes and textures


def _polygon(*corners: tuple[float, float]) -> Callable[[Tensor, Tensor], Tensor]:
    """Points inside a polygon, by the number of edges to their right."""

    def inside(x: Tensor, y: Tensor) -> Tensor:
        odd = torch.zeros_like(x, dtype=torch.bool)
        for (x1, y1), (x2, y2) in zip(corners, (*corners[1:], corners[0]), strict=True):
            if y1 != y2:
                odd ^= ((y1 > y) != (y2 > y)) & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
        return odd

    return inside


def _on_circles(radii: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """Corners at even angles, the first one on top."""
    turns = [2 * math.pi * k / len(radii) for k in range(len(radii))]
    return tuple((r * math.sin(t), -r * math.cos(t)) for r, t in zip(radii, turns, strict=True))


_OUTLINES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda x, y: x**2 + y**2 < 1,
    lambda x, y: (x.abs() < 1) & (y.abs() < 1),
    _polygon(*_on_circles([1] * 3)),
    _polygon(*_on_circles([1, 0.42] * 5)),
    lambda x, y: (torch.minimum(x.abs(), y.abs()) < 0.3) & (torch.maximum(x.abs(), y.abs()) < 1),
    lambda x, y: (x**2 + y**2 < 1) & (x**2 + y**2 > 0.3),
    lambda x, y: (x**2 + y**2 < 1) & ((x - 0.55) ** 2 + y**2 > 0.55),
    lambda x, y: (x**2 + y**2 - 0.6) ** 3 + x**2 * y**3 < 0,
    _polygon((-0.8, -1), (-0.2, -1), (-0.2, 0.4), (0.8, 0.4), (0.8, 1), (-0.8, 1)),
    _polygon((-1, -1), (1, -1), (1, -0.4), (0.3, -0.4), (0.3, 1), (-0.3, 1), (-0.3, -0.4), (-1, -0.4)),
    _polygon((0, -1), (0.9, 0), (0.32, 0), (0.32, 1), (-0.32, 1), (-0.32, 0), (-0.9, 0)),
    lambda x, y: (x**2 + y**2 < 1) & (y < 0),
    _polygon((-1, -0.6), (0.25, -0.6), (0.25, 0), (1, 0), (1, 0.6), (-0.25, 0.6), (-0.25, 0), (-1, 0)),
    lambda x, y: (x.abs() < 0.9) & (y.abs() < 1) & ~((x.abs() < 0.35) & (y < 0.45)),
    lambda x, y: (x.abs() < 0.9) & (y.abs() < 1) & ~((x.abs() < 0.35) & (y.abs() > 0.25)),
    lambda x, y: (x**2 + y**2).sqrt() < 0.35 + 0.65 * torch.cos(1.5 * torch.atan2(x, -y)) ** 2,
)
"""For every class, which points (x, y) are inside; y points down, as in an image."""


@functools.cache
def _templates() -> Tensor:
    """Silhouettes of equal area around their centres of mass, [16, side, side], 0 to 1."""
    fine = 6  # each pixel is the mean of 6 x 6 points
    x, y = _centres(_RESOLUTION * fine)
    x, y = x * _BOX, y * _BOX
    templates = []
    for outline in _OUTLINES:
        inside = outline(x, y).float()
        centre = (inside * x).sum() / inside.sum(), (inside * y).sum() / inside.sum()
        scale = (inside.mean() * _BOX**2 / _AREA).sqrt()
        placed = outline(x * scale + centre[0], y * scale + centre[1]).float()
        templates.append(F.avg_pool2d(placed[None], fine)[0])
    return torch.stack(templates)


def _saw(x: Tensor) -> Tensor:
    """A triangle wave of period 1, from -1 to 1."""
    return 4 * (x - (x + 0.5).floor()).abs() - 1


def _cos(x: Tensor) -> Tensor:
    return torch.cos(2 * math.pi * x)


def _bricks(u: Tensor, v: Tensor) -> Tensor:
    row = (v / 2).floor()
    return torch.maximum(_cos(v / 2), _cos(u / 4 + row / 2))


def _weave(u: Tensor, v: Tensor) -> Tensor:
    upright = torch.remainder((u / 4).floor() + (v / 4).floor(), 2) == 0
    return torch.where(upright, _cos(u), _cos(v))


def _pebbles(u: Tensor, v: Tensor) -> Tensor:
    turns = [math.pi * k / 5 for k in range(5)]
    return sum((_cos((u * math.cos(t) + v * math.sin(t)) / 2) for t in turns), torch.zeros_like(u)) / 2


def _dots(u: Tensor, v: Tensor) -> Tensor:
    turns = [math.pi * k / 3 for k in range(3)]
    return sum((_cos((u * math.cos(t) + v * math.sin(t)) / 2) for t in turns), torch.zeros_like(u))


def _rings(u: Tensor, v: Tensor) -> Tensor:
    x, y = u / 4 - (u / 4).round(), v / 4 - (v / 4).round()
    return _cos(4 * (x**2 + y**2).sqrt())


_PATTERNS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda u, v: _cos(v),
    lambda u, v: _cos(u),
    lambda u, v: _cos((u + v) / math.sqrt(2)),
    lambda u, v: _cos((u - v) / math.sqrt(2)),
    lambda u, v: 1.5 * _cos(u / 2) * _cos(v / 2),
    lambda u, v: 0.75 * (_cos(u / 1.5) - _cos(v / 1.5)),
    _dots,
    lambda u, v: torch.maximum(_cos(u / 2), _cos(v / 2)),
    _bricks,
    lambda u, v: _cos(v / 1.5 + 0.35 * _saw(u / 3)),
    lambda u, v: _cos(u / 1.5 + 0.35 * _saw(v / 3)),
    lambda u, v: _cos(v / 2) + 0.8 * _cos(v),
    _rings,
    lambda u, v: _cos(v / 1.5 + 0.4 * _cos(u / 4)),
    _weave,
    _pebbles,
)
"""For every class, a wave over (u, v), in periods; where it is above its median, the second colour."""


@functools.cache
def _medians() -> Tensor:
    """Half of a texture has each of its colours, so that the mean colour says nothing of the class."""
    line = torch.arange(0, 24, 1 / 16)
    v, u = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([pattern(u, v).median() for pattern in _PATTERNS])


# ---------------------------------------------------------------------------------------
# Mean pooling with regions that overlap, as a segmenter gives them


def mean_pool(image: Tensor, regions: Tensor) -> Tensor:
    """Every region of an image in its own mean colour, small regions on top of large ones.

    A region's mean is taken over the whole region in the original image, also where a
    smaller one covers it. What no region covers gets its own mean (paper, section 5.1).

    Parameters
    ----------
    image
        [C, H, W], uint8.
    regions
        A label image [H, W] of integers, one value a region; or masks [R, H, W], boolean, in any order, which may
        overlap. Of two regions of one size the later one is on top. Empty regions count for nothing.
        The memory that is needed grows with the pixels of what is given: labels take as much for 2,000 regions as
        for 2.

    Returns
    -------
    Tensor
        [C, H, W], uint8, rounded to the nearest grey level.

    Examples
    --------
    >>> image = torch.tensor([[[0, 10, 20, 90]]], dtype=torch.uint8)
    >>> masks = torch.tensor([[[True, True, True, False]], [[False, True, False, False]]])
    >>> mean_pool(image, masks).tolist()
    [[[10, 10, 10, 90]]]
    >>> mean_pool(image, torch.tensor([[7, 7, 2, 2]])).tolist()
    [[[5, 5, 55, 55]]]
    """
    if image.dim() != 3 or image.dtype != torch.uint8:
        raise ValueError(f"image is {image.dtype} {tuple(image.shape)}: expected uint8 [C, H, W]")
    labelled = regions.dim() == 2 and not (regions.dtype == torch.bool or regions.is_floating_point())
    if regions.shape[-2:] != image.shape[1:] or not (labelled or (regions.dim() == 3 and regions.dtype == torch.bool)):
        H, W = image.shape[1:]
        raise ValueError(
            f"regions is {regions.dtype} {tuple(regions.shape)}: expected labels, integers [{H}, {W}], or masks, "
            f"boolean [R, {H}, {W}]"
        )
    return _pool_labels(image, regions) if labelled else _pool_masks(image, regions)


def _pool_labels(image: Tensor, labels: Tensor) -> Tensor:
    index = labels.numpy().astype(np.int64).ravel()
    index -= index.min()
    if index.max() >= index.size:  # far apart
        index = np.unique(index, return_inverse=True)[1].ravel()
    counts = np.bincount(index).clip(min=1)
    pooled = torch.empty_like(image)
    for channel, own in zip(image, pooled, strict=True):
        # Sums in float64 are exact.
        means = np.bincount(index, weights=channel.numpy().ravel()) / counts
        own.copy_(torch.from_numpy(np.rint(means).astype(np.uint8)[index]).view(own.shape))
    return pooled


def _pool_masks(image: Tensor, masks: Tensor) -> Tensor:
    C, H, W = image.shape
    covers = masks.flatten(1).numpy()  # [R, H * W]
    pixels = torch.cat([image.flatten(1).float(), torch.ones(1, H * W)])  # [C + 1, H * W], ones to count
    # Most regions are small: of each only the rows of the image that it touches are read.
    touched = masks.view(torch.uint8).amax(2)  # [R, H]
    ends = zip((touched.argmax(1) * W).tolist(), ((H - touched.flip(1).argmax(1)) * W).tolist(), strict=True)
    spans = [slice(first, last) for first, last in ends]
    sums, weight = torch.zeros(len(masks), C + 1), torch.empty(H * W)
    for region, span in enumerate(spans):
        torch.mv(
            pixels[:, span], weight[span].copy_(torch.from_numpy(covers[region, span].view(np.uint8))), out=sums[region]
        )
    # The topmost region of a pixel has the highest rank of those that cover it; rank 0 is none.
    order = sums[:, C].argsort(descending=True, stable=True)
    top = np.zeros(H * W, dtype=np.uint8 if len(masks) < 256 else np.int32)
    for rank, region in enumerate(order.tolist(), 1):
        np.copyto(top[spans[region]], rank, where=covers[region, spans[region]])
    means = torch.cat([(pixels @ torch.from_numpy(top == 0).float())[None], sums[order]])
    colours = (means[:, :C] / means[:, C:].clamp(min=1)).round().to(torch.uint8)  # [R + 1, C]
    index = torch.from_numpy(top).int()
    return torch.stack([channel.index_select(0, index) for channel in colours.mT.contiguous()]).view(image.shape)


# ---------------------------------------------------------------------------------------
# Does a cheap cue give the class away?


def cheap_cues(images: Tensor, segments: Tensor) -> dict[str, Tensor]:
    """Simple properties of images, each of which a lazy classifier might live on.

    Parameters
    ----------
    images
        [N, 3, H, W], uint8.
    segments
        [N, H, W], as of :func:`segments`; segment 0 is the object.

    Returns
    -------
    dict
        ``mean colour`` [N, 3] and ``colour of the object`` [N, 3] in [0, 1], ``area of the object``
        [N, 1], a share of the image, and ``orientations`` [N, 8]: the gradients' directions, without
        their sign, as shares weighted by their strength.
    """
    pictures = images.float() / 255
    inside = (segments == 0).float()[:, None]
    area = inside.mean((1, 2, 3))
    grey = F.pad(pictures.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    dx, dy = grey[:, 0, 1:-1, 2:] - grey[:, 0, 1:-1, :-2], grey[:, 0, 2:, 1:-1] - grey[:, 0, :-2, 1:-1]
    strength = (dx**2 + dy**2).sqrt().flatten(1)
    bin_ = (torch.atan2(dy, dx).flatten(1) / math.pi * 8).round().long() % 8
    histogram = torch.zeros(len(images), 8).scatter_add_(1, bin_, strength)
    return {
        "mean colour": pictures.mean((2, 3)),
        "colour of the object": (pictures * inside).mean((2, 3)) / area.clamp(min=1e-6)[:, None],
        "area of the object": area[:, None],
        "orientations": histogram / histogram.sum(1, keepdim=True).clamp(min=1e-6),
    }


def neighbours_accuracy(known: Tensor, labels: Tensor, asked: Tensor, answers: Tensor, *, k: int = 15) -> float:
    """Accuracy of the vote of the k nearest known examples, on features scaled to unit variance.

    Parameters
    ----------
    known, asked
        Features, [N, F] and [M, F].
    labels, answers
        Their classes, [N] and [M].
    """
    if not 1 <= k <= len(known):
        raise ValueError(f"k = {k}: expected 1 to {len(known)}, the number of known examples")
    middle, spread = known.mean(0), known.std(0).clamp(min=1e-6)
    nearest = torch.cdist((asked - middle) / spread, (known - middle) / spread).topk(k, largest=False).indices
    votes = F.one_hot(labels[nearest], int(max(labels.max(), answers.max())) + 1).sum(1)
    return float((votes.argmax(1) == answers).float().mean())


def cue_accuracies(
    seed: int, pictures: int, size: int, *, neighbours: int = 15, difficulty: Difficulty | None = None
) -> dict[str, float]:
    """How often does each of the :func:`cheap_cues` name the class of an ordinary picture?

    Half of the pictures are known, the others are asked for: see :func:`neighbours_accuracy`.

    Parameters
    ----------
    pictures, size
        How many pictures are drawn, and their side in pixels.
    neighbours
        Known pictures that vote.
    difficulty
        How the pictures are drawn, as in :func:`draw_scenes`.
    """
    classes = torch.randint(0, CLASSES, (pictures,), generator=generator(seed, "cues", "classes"))
    drawn = draw_scenes(classes, classes, generator(seed, "cues", "scenes"), difficulty=difficulty)
    known, asked = slice(None, pictures // 2), slice(pictures // 2, None)
    return {
        cue: neighbours_accuracy(values[known], classes[known], values[asked], classes[asked], k=neighbours)
        for cue, values in cheap_cues(images(drawn, size), segments(drawn, size)).items()
    }
