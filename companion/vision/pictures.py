"""Labelled pictures for the vision experiment: drawn by code, or read from files.

Both come as the same value, :class:`Pictures`, so that the experiment has one code path.
Which pictures they are is said by a *data spec*, a dictionary that goes into every object's
spec: :func:`scenes` or :func:`photographs` makes it, :func:`pictures` gives the pictures of a *role*.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from companion.vision import imagenet
from companion.vision import scenes as vision
from sicore.files import canonical_json
from sicore.seeding import generator

TRAINING = ("training", "discovery")
"""Roles for training, ordinary pictures and mean-pooled ones."""

KINDS = ("ordinary", "mean_pooled", "silhouette", "conflict")
"""Kinds of evaluation pictures; as roles ``validation_KIND`` (the first two) and ``test_KIND``."""

PAIRS = (0, 3, 7, 12)
"""Pretraining class 16 i + k shows shape k with texture k + PAIRS[i] (modulo 16), every shape with four textures."""

_MEAN, _SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which pretrained models expect


@dataclass(frozen=True)
class Pictures:
    """N labelled pictures.

    Attributes
    ----------
    labels
        [N], int64: the class, for cue conflicts that of the shape.
    take
        ``(numbers [B], places [B, 3] or None) -> uint8 [B, 3, S, S]``. With places, from 0 to 1, the pictures
        are augmented as for training: the crop's x and y, and a flip above 0.5. Drawn ones never are (a flip
        exchanges diagonal textures).
    classes
        Their names.
    texture
        Class of the texture, [N], where it is known.
    from_files
        ``take`` reads files, which takes time.
    """

    labels: Tensor
    take: Callable[[Tensor, Tensor | None], Tensor]
    classes: tuple[str, ...]
    texture: Tensor | None = None
    from_files: bool = False

    def __len__(self) -> int:
        return len(self.labels)


def pair(label: Tensor) -> tuple[Tensor, Tensor]:
    """Shape and texture of pretraining classes."""
    shape = label % vision.CLASSES
    return shape, (shape + torch.tensor(PAIRS)[label // vision.CLASSES]) % vision.CLASSES


def normalised(pictures: Tensor) -> Tensor:
    """uint8 [..., 3, H, W] as floats, standardised by ImageNet's mean and deviation."""
    mean, spread = (torch.tensor(x, device=pictures.device).view(3, 1, 1) for x in (_MEAN, _SPREAD))
    return (pictures / 255 - mean) / spread


def as_png(picture: Tensor) -> str:
    """A picture, [3, S, S] and uint8, as the text of a PNG file, in base 64."""
    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


# ---------------------------------------------------------------------------------------
# Which pictures


def scenes(
    *, size: int = 32, pretraining: int = 16_000, training: int = 8000, discovery: int = 4000, evaluation: int = 1000,
    flat: float = 0.15, imbalance: float = 4.0,
) -> dict[str, Any]:  # fmt: skip
    """Data spec of drawn scenes (see :mod:`companion.vision.scenes`); every seed draws its own.

    Parameters
    ----------
    pretraining
        Pictures of 64 pairs of shape and texture (:data:`PAIRS`), as the richer labelled set that ImageNet is
        in the paper.
    flat
        Share of these whose object has a plain colour instead of a texture.
    training
        Ordinary pictures of 16 classes.
    discovery
        Of the first so many of them there are mean-pooled versions.
    evaluation
        Pictures for validation, and twice as many for the test; every class equally often.
    imbalance
        How often the most frequent class of the training pictures is there for every picture of the rarest.
    """
    counts = {"pretraining": pretraining, "training": training, "discovery": discovery, "evaluation": evaluation}
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < vision.CLASSES:
            raise ValueError(f"{name} = {value!r}: expected an integer of {vision.CLASSES} or more")
    if discovery > training:
        raise ValueError(f"discovery = {discovery}: expected at most training = {training}, whose pictures are pooled")
    if not 0 <= flat <= 1:
        raise ValueError(f"flat = {flat!r}: expected a share from 0 to 1")
    if not 1 <= imbalance < math.inf:
        raise ValueError(f"imbalance = {imbalance!r}: expected 1 or more")
    if isinstance(size, bool) or not isinstance(size, int) or size < 8:
        raise ValueError(f"size = {size!r}: a picture has a side of 8 pixels or more")
    return {"size": size, **counts, "flat": flat, "imbalance": imbalance}


def photographs(
    ordinary: str | Path, mean_pooled: str | Path, conflict: str | Path, *, silhouette: str | Path = "",
    skip: str | Path = "", size: int = 224, evaluation: int = 100,
) -> dict[str, Any]:  # fmt: skip
    """Data spec of picture files: one folder a class each, or a local ImageNet for ``ordinary``.

    Parameters
    ----------
    ordinary
        An ImageNet (its training part in 16 classes is taken, see :func:`companion.vision.imagenet.imagenet`), or a
        folder with one folder a class.
    mean_pooled
        Made from these by :func:`companion.vision.imagenet.mean_pooled_copy`; it may hold fewer pictures.
    conflict
        As :func:`companion.vision.imagenet.cue_conflicts` reads them.
    silhouette
        One folder a class; left out if empty.
    skip
        Text file with ordinary pictures to leave out, one path a line: those that cannot be read
        (see :func:`companion.vision.imagenet.drop_unreadable`).
    size
        Side of a picture: the shorter side is resized to 8 / 7 of it, then it is cropped (paper: 256 and 224).
    evaluation
        Pictures of every class for validation, and as many for the test.

    Returns
    -------
    dict
        These, and ``contents``, a checksum of what the folders hold (:func:`contents`).

    Raises
    ------
    ValueError
        When a folder, a class or an original is missing. Nothing is computed by then.
    """
    data = {
        "ordinary": str(ordinary), "mean_pooled": str(mean_pooled), "conflict": str(conflict),
        "silhouette": str(silhouette), "skip": str(skip), "size": size, "evaluation": evaluation,
    }  # fmt: skip
    data["contents"] = contents([folder for folder in (ordinary, mean_pooled, conflict, silhouette, skip) if folder])
    for role in roles({**data, "seed": 0}):
        pictures({**data, "seed": 0}, role)
    return data


def contents(places: Sequence[str | Path]) -> str:
    """A checksum over picture folders and files, so that other pictures under the same names are other data.

    It takes the name and the length of every file, and its first 4,096 bytes: all of a small one, and as much of
    a photograph as tells it from another in practice, without reading them whole.
    """
    digest = hashlib.sha256()
    for place in map(Path, places):
        files = sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]
        for path in files:
            with contextlib.suppress(OSError), path.open("rb") as file:  # who reads it next says what is wrong
                begin, size = file.read(4096), os.fstat(file.fileno()).st_size
                digest.update(f"|{path.relative_to(place)}|{size}|".encode() + begin)
        digest.update(b"||")
    return digest.hexdigest()[:16]


def roles(data: dict[str, Any]) -> tuple[str, ...]:
    """The roles in which a data spec has pictures."""
    drawn = "ordinary" not in data
    kinds = [kind for kind in KINDS if drawn or data[kind]]
    return (
        *(("pretraining", "validation_pretraining") if drawn else ()), *TRAINING,
        "validation_ordinary", "validation_mean_pooled", *(f"test_{kind}" for kind in kinds),
    )  # fmt: skip


def pictures(data: dict[str, Any], role: str) -> Pictures:
    """The pictures of a data spec, to which ``seed`` was added, in one of its :func:`roles`."""
    if role not in roles(data):
        raise ValueError(f"role = {role!r}: expected one of {', '.join(roles(data))}")
    return _pictures(canonical_json(data), role)


@functools.lru_cache(maxsize=24)  # a process asks for them again with every object that it makes
def _pictures(text: str, role: str) -> Pictures:
    data = json.loads(text)
    return _filed(data, role) if "ordinary" in data else _drawn(data, role)


# ---------------------------------------------------------------------------------------
# Drawn


def _drawn(data: dict[str, Any], role: str) -> Pictures:
    seed, size = data["seed"], data["size"]
    if role.endswith("pretraining"):
        flat, count = (
            (0.0, data["evaluation"]) if role.startswith("validation") else (data["flat"], data["pretraining"])
        )
        classes = vision.CLASSES * len(PAIRS)
        labels = torch.randint(0, classes, (count,), generator=generator(seed, role, "classes"))
        shape, texture = pair(labels)
        drawn = vision.draw_scenes(shape, texture, generator(seed, role, "scenes"), flat=flat)
        names = [
            f"{vision.SHAPES[a]} in {vision.TEXTURES[b]}"
            for a, b in torch.stack(pair(torch.arange(classes)), 1).tolist()
        ]
        return _in_memory(vision.images(drawn, size), labels, names, texture)
    if role in TRAINING:
        share = data["imbalance"] ** -torch.linspace(0, 1, vision.CLASSES)
        labels = torch.multinomial(share, data["training"], True, generator=generator(seed, "training", "classes"))
        drawn = vision.draw_scenes(labels, labels, generator(seed, "training", "scenes"))
        if role == "training":
            return _in_memory(vision.images(drawn, size), labels, vision.SHAPES)
        first = data["discovery"]
        return _in_memory(vision.mean_pooled(drawn[:first], size), labels[:first], vision.SHAPES)
    part, kind = role.split("_", 1)
    count = data["evaluation"] * (2 if part == "test" else 1)
    labels = torch.arange(count) % vision.CLASSES
    drawn = vision.draw_scenes(labels, labels, generator(seed, part, "scenes"))
    if kind == "conflict":
        away = torch.randint(1, vision.CLASSES, (count,), generator=generator(seed, part, "textures"))
        texture = (labels + away) % vision.CLASSES
        return _in_memory(vision.images(drawn.retextured(texture), size), labels, vision.SHAPES, texture)
    paint = {"ordinary": vision.images, "mean_pooled": vision.mean_pooled, "silhouette": vision.silhouettes}[kind]
    return _in_memory(paint(drawn, size), labels, vision.SHAPES)


def _in_memory(
    painted: Tensor, labels: Tensor, classes: Sequence[str], texture: Tensor | None = None
) -> Pictures:  # fmt: skip
    return Pictures(labels, lambda numbers, places: painted[numbers], tuple(classes), texture)


# ---------------------------------------------------------------------------------------
# Read from files


def _filed(data: dict[str, Any], role: str) -> Pictures:
    size = data["size"]
    part, _, kind = role.partition("_")
    if kind == "silhouette":
        found = imagenet.class_folders(data["silhouette"])
        _same_classes(found.classes, data, "silhouette")
        return _read_on_demand(found.paths, found.labels, found.classes, size)
    if kind == "conflict":
        conflicts = imagenet.cue_conflicts(data["conflict"], _classes(data))
        return _read_on_demand(conflicts.paths, conflicts.shape, conflicts.classes, size, conflicts.texture)
    training, validation, test = _split_of(data)
    own = {"training": training, "discovery": training, "validation": validation, "test": test}[part]
    if kind == "mean_pooled" or part == "discovery":
        pooled = imagenet.class_folders(data["mean_pooled"])
        _same_classes(pooled.classes, data, "mean_pooled")
        # A mean-pooled picture belongs where its original is, so that no evaluation picture is trained on.
        originals = {(label, path.stem) for path, label in zip(own.paths, own.labels.tolist(), strict=True)}
        kept = [
            (label, path.stem) in originals for path, label in zip(pooled.paths, pooled.labels.tolist(), strict=True)
        ]
        own = pooled[torch.tensor(kept)]
        if not len(own):
            raise ValueError(f"mean_pooled = {data['mean_pooled']!r}: none of its pictures has its original in {role}")
    return _read_on_demand(own.paths, own.labels, own.classes, size)


def _same_classes(classes: tuple[str, ...], data: dict[str, Any], name: str) -> None:
    expected = _classes(data)
    if classes != expected:
        raise ValueError(
            f"{name} = {data[name]!r} has the classes {', '.join(classes)}; expected {', '.join(expected)}"
        )


def _classes(data: dict[str, Any]) -> tuple[str, ...]:
    return _split_of({**data, "seed": 0})[0].classes


def _split_of(data: dict[str, Any]) -> tuple[imagenet.Images, imagenet.Images, imagenet.Images]:
    """Training, validation and test pictures."""
    return _split(*(data[name] for name in ("ordinary", "skip", "evaluation", "seed", "contents")))


@functools.lru_cache(maxsize=4)
def _split(
    folder: str, skip: str, evaluation: int, seed: int, contents: str
) -> tuple[imagenet.Images, imagenet.Images, imagenet.Images]:  # fmt: skip
    try:
        found = imagenet.imagenet(folder)
    except ValueError as no_imagenet:
        try:
            found = imagenet.class_folders(folder)
        except ValueError as error:
            raise ValueError(f"ordinary = {folder!r}: {no_imagenet}; and {error}") from error
    if skip:
        if not Path(skip).is_file():
            raise ValueError(f"skip = {skip!r}: expected a text file with one path a line")
        left_out = {Path(line) for line in Path(skip).read_text(encoding="utf-8").splitlines() if line}
        found = found[torch.tensor([path not in left_out for path in found.paths])]
    rest, test = imagenet.split(found, evaluation, generator(seed, "split", "test"))
    training, validation = imagenet.split(rest, evaluation, generator(seed, "split", "validation"))
    return training, validation, test


def _read_on_demand(
    paths: Sequence[Path], labels: Tensor, classes: tuple[str, ...], size: int, texture: Tensor | None = None
) -> Pictures:  # fmt: skip
    pool = ThreadPoolExecutor(4)  # decoding and resizing leave Python's lock

    def take(numbers: Tensor, places: Tensor | None) -> Tensor:
        def one(row: int) -> Tensor:
            place = None if places is None else places[row].tolist()
            return _cropped(imagenet.read(paths[int(numbers[row])]), size, place)

        return torch.stack(list(pool.map(one, range(len(numbers)))))

    return Pictures(labels, take, classes, texture, from_files=True)


def _cropped(image: Image.Image, size: int, place: list[float] | None) -> Tensor:
    """Shorter side to 8/7 of ``size``, then a crop: of the middle, or where ``place`` (x, y, flip) says."""
    scale = round(size * 8 / 7) / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    x, y, flip = place or (0.5, 0.5, 0.0)
    left, top = round((width - size) * x), round((height - size) * y)
    pixels = torch.from_numpy(np.array(image.crop((left, top, left + size, top + size)))).permute(2, 0, 1)
    return pixels.flip(-1) if flip > 0.5 else pixels


# ---------------------------------------------------------------------------------------
# In which order they are trained on


class Batches:
    """Training batches ``(pictures [1, B, 3, S, S], labels [1, B])`` of a step, a pure function of it.

    Parameters
    ----------
    parts
        Pictures, and how many times each set is seen in one pass: 1 for all once, 0.5 for one half of them.
    balanced
        Draw every class equally often, with replacement, in place of passes.
    seed
        Fixes the order and the augmentation.
    weights
        Of the classes in the loss, [classes]. A third tensor, [1, B], then has the weight of every picture
        beside the batch's mean.
    """

    def __init__(
        self, parts: Sequence[tuple[Pictures, float]], *, batch: int, steps: int, seed: int, balanced: bool = False,
        device: str | torch.device = "cpu", weights: Tensor | None = None
    ) -> None:  # fmt: skip
        self.weights = weights
        self.parts, self.batch, self.seed, self.device = [part for part, _ in parts], batch, seed, device
        labels = torch.cat([part.labels for part in self.parts])
        rng, need = generator(seed, "order"), batch * steps
        begins = torch.tensor([0, *(len(part) for part in self.parts)]).cumsum(0)
        if balanced:
            weight = torch.cat([
                torch.full((len(part),), share) for part, share in parts
            ])  # fmt: skip
            total = torch.zeros(int(labels.max()) + 1).index_add_(0, labels, weight)
            self.order = torch.multinomial(weight / total[labels], need, True, generator=rng)
        else:
            order: list[Tensor] = []
            while sum(map(len, order)) < need:
                one_pass = [
                    begin
                    + torch.randperm(len(part), generator=rng).repeat(math.ceil(share))[: round(len(part) * share)]
                    for begin, (part, share) in zip(begins.tolist(), parts, strict=False)
                ]
                mixed = torch.cat(one_pass)
                order.append(mixed[torch.randperm(len(mixed), generator=rng)])
            self.order = torch.cat(order)[:need]
        self.labels, self.begins = labels, begins
        self.pool = ThreadPoolExecutor(1) if any(part.from_files for part in self.parts) else None
        self.ahead: tuple[int, Future[tuple[Tensor, ...]]] | None = None

    def __call__(self, step: int, active: Tensor) -> tuple[Tensor, ...]:
        ready = self.ahead[1].result() if self.ahead and self.ahead[0] == step else self._load(step)
        if self.pool and (step + 2) * self.batch <= len(
            self.order
        ):  # the next batch is read while this one is trained on
            self.ahead = step + 1, self.pool.submit(self._load, step + 1)
        return tuple(part.to(self.device)[None] for part in ready)

    def _load(self, step: int) -> tuple[Tensor, ...]:
        rows = self.order[step * self.batch : (step + 1) * self.batch]
        places = torch.rand(len(rows), 3, generator=generator(self.seed, "augment", step))
        loaded: Tensor | None = None
        for begin, part in zip(self.begins.tolist(), self.parts, strict=False):
            mine = (rows >= begin) & (rows < begin + len(part))
            if mine.any():
                taken = part.take(rows[mine] - begin, places[mine])
                loaded = torch.empty(len(rows), *taken.shape[1:], dtype=taken.dtype) if loaded is None else loaded
                loaded[mine] = taken
        assert loaded is not None
        labels = self.labels[rows]
        if self.weights is None:
            return loaded, labels
        return loaded, labels, self.weights[labels] / self.weights[labels].mean()
