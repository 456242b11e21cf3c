"""Labelled pictures for the vision experiment: drawn by code, or read from files.

Both come as the same value, :class:`Pictures`, so that the experiment has one code path.
Which pictures they are is said by a *data spec*, a dictionary that goes into every object's
spec: :func:`scenes` or :func:`photographs` makes it, :func:`pictures` gives the pictures of a *role*.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from companion.lab.recipes import without_neutral
from companion.vision import imagenet, reading
from companion.vision import scenes as vision
from companion.vision.classifiers import IMAGENET, Normalisation
from sicore.files import canonical_json
from sicore.seeding import generator

TRAINING = ("training", "discovery")
"""Roles for training, ordinary pictures and mean-pooled ones."""

KINDS = ("ordinary", "mean_pooled", "silhouette", "conflict")
"""Kinds of evaluation pictures; as roles ``validation_KIND`` (the first two) and ``test_KIND``."""

OFFSETS = (0, 3, 7, 12, 1, 5, 9, 14, 2, 6, 10, 15, 4, 8, 11, 13)
"""Pretraining shows shape k with texture k + OFFSETS[i] (modulo 16), for the first few i."""

NEUTRAL: dict[str, Any] = {"classes": "pairs", "textures": 4, "turn": 180.0}
"""Settings of drawn scenes that came later, where they change nothing."""


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


def meanings(data: Mapping[str, Any]) -> Tensor:
    """Shape and texture for which the pretraining classes of drawn scenes stand, [classes, 2]; -1 where it is neither.

    Examples
    --------
    >>> meanings(scenes())[[0, 17, 63]].tolist()
    [[0, 0], [1, 4], [15, 11]]
    >>> meanings(scenes(classes="cues"))[[0, 17]].tolist()
    [[-1, 0], [1, -1]]
    """
    later, every = _later(data), torch.arange(vision.CLASSES)
    none = torch.full_like(every, -1)
    shape, offsets = every.repeat(later["textures"]), torch.tensor(OFFSETS[: later["textures"]])
    pairs = torch.stack([shape, (shape + offsets.repeat_interleave(vision.CLASSES)) % vision.CLASSES], 1)
    plain = torch.stack([every, none], 1)
    if later["classes"] == "cues":
        return torch.cat([torch.stack([none, every], 1), plain])
    return torch.cat([pairs, plain]) if later["classes"] == "pairs and shapes" else pairs


def _later(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: data.get(name, value) for name, value in NEUTRAL.items()}


def normalised(pictures: Tensor, by: Normalisation = IMAGENET) -> Tensor:
    """uint8 [..., 3, H, W] as floats, standardised by a mean and a spread of the channels: ImageNet's by default."""
    mean, spread = (torch.tensor(x, device=pictures.device).view(3, 1, 1) for x in by)
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
    flat: float = 0.15, imbalance: float = 4.0, classes: str = "pairs", textures: int = 4,
    turn: float = 180.0,
) -> dict[str, Any]:  # fmt: skip
    """Data spec of drawn scenes (see :mod:`companion.vision.scenes`); every seed draws its own.

    Parameters
    ----------
    pretraining
        Pictures of pairs of shape and texture, as the richer labelled set that ImageNet is in the paper.
    flat
        Share of these whose object has a plain colour instead of a texture.
    classes
        What a pretraining class is. ``pairs``: a pair, also of a plain object, which does not show its texture.
        ``pairs and shapes``: a pair; of plain objects the shape. ``cues``: of textured objects the texture, whatever
        their shape; of plain ones the shape.
    textures
        With which a shape comes in pretraining, 1 to 16 (:data:`OFFSETS`).
    training
        Ordinary pictures of 16 classes.
    discovery
        Of the first so many of them there are mean-pooled versions.
    evaluation
        Pictures for validation, and twice as many for the test; every class equally often.
    imbalance
        How often the most frequent class of the training pictures is there for every picture of the rarest.
    turn
        Largest rotation of an object, degrees.
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
    if classes not in ("pairs", "pairs and shapes", "cues"):
        raise ValueError(f"classes = {classes!r}: expected pairs, pairs and shapes, or cues")
    if isinstance(textures, bool) or not isinstance(textures, int) or not 1 <= textures <= len(OFFSETS):
        raise ValueError(f"textures = {textures!r}: expected an integer from 1 to {len(OFFSETS)}")
    if isinstance(turn, bool) or not 0 <= turn <= 180:
        raise ValueError(f"turn = {turn!r}: expected degrees from 0 to 180")
    said = {"size": size, **counts, "flat": flat, "imbalance": imbalance}
    later = {"classes": classes, "textures": textures, "turn": float(turn)}
    return without_neutral(said | later, **NEUTRAL)


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
        (see :func:`companion.vision.imagenet.drop_unreadable`). A path is absolute, or relative to the working folder,
        to this file's folder, or to ``ordinary``; however it is spelled, it has to name a picture.
    size
        Side of a picture: the shorter side is resized to 8 / 7 of it, smaller ones too, then it is cropped (paper: 256
        and 224).
    evaluation
        Pictures of every class for validation, and as many for the test.

    Returns
    -------
    dict
        These, and ``contents``, a checksum of the pictures (:func:`contents`): other pictures are other data.

    Warns
    -----
    UserWarning
        Of files that were passed over, with their number and endings, and of pictures that are there twice.

    Raises
    ------
    ValueError
        When a folder, a class or an original is missing, there are pictures that are not read, a line of ``skip`` names
        none, or a mean-pooled copy was made from another picture than is there now. Nothing is computed by then.
    """
    data = {
        "ordinary": str(ordinary), "mean_pooled": str(mean_pooled), "conflict": str(conflict),
        "silhouette": str(silhouette), "skip": str(skip), "size": size, "evaluation": evaluation,
    }  # fmt: skip
    if missing := [name for name in ("ordinary", "mean_pooled", "conflict") if not data[name]]:
        raise ValueError(f"{missing[0]} = '': expected a folder of pictures")
    found = _list_folders(data)
    data["contents"] = contents(found)
    for text in _odd(found):
        warnings.warn(text, stacklevel=2)
    for role in roles({**data, "seed": 0}):
        pictures({**data, "seed": 0}, role)
    return data


@dataclass(frozen=True)
class Found:
    """What the folders of a data spec hold.

    Attributes
    ----------
    ordinary, mean_pooled, conflict, silhouette
        Files and classes; ``ordinary`` without those that the skip file names.
    places
        The four folders.
    """

    ordinary: imagenet.Images
    mean_pooled: imagenet.Images
    conflict: imagenet.CueConflicts
    silhouette: imagenet.Images | None
    places: tuple[str, ...]

    def sets(self) -> list[tuple[str, imagenet.Images | imagenet.CueConflicts]]:
        """Kind and pictures, without what is not there."""
        every = (self.ordinary, self.mean_pooled, self.silhouette, self.conflict)
        return [(kind, one) for kind, one in zip(KINDS, every, strict=True) if one is not None]


def contents(found: Found) -> str:
    """A checksum over pictures, so that other pictures under the same names are other data.

    The first half is of their names, classes and lengths, which a later stage compares with what is there. The second
    is of all their bytes: every file is read once in a process, and again only when its length or times have changed.
    """
    return _listing(found) + _hash(line for _, some in found.sets() for line in reading.digests(some.paths))


def _listing(found: Found) -> str:
    lines = [f"reading {imagenet.READING}"]
    for (kind, some), place in zip(found.sets(), filter(None, found.places), strict=True):
        labels = some.shape if isinstance(some, imagenet.CueConflicts) else some.labels
        lines += [kind, *some.classes]
        for path, label in zip(some.paths, labels.tolist(), strict=True):
            lines.append(f"{label} {path.stat().st_size} {os.fspath(path.relative_to(place))}")
    return _hash(lines)


def _hash(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(os.fsencode(line) + b"\n")
    return digest.hexdigest()[:16]


def _odd(found: Found) -> list[str]:
    """What a reader should know of the pictures. ``ValueError`` for copies that are not of their originals."""
    said = []
    for kind, some in found.sets():
        if any(what != reading.HIDDEN for what, _ in some.passed_over):
            said.append(f"{kind}: passed over {reading.counted(some.passed_over)}")
    own, copies = found.ordinary, found.mean_pooled
    sums = reading.digests(own.paths)
    first: dict[str, Path] = {}
    twice = [
        (path, first[one]) for path, one in zip(own.paths, sums, strict=True) if first.setdefault(one, path) != path
    ]
    if twice:
        said.append(
            f"ordinary: {len(twice)} pictures are there twice, {twice[0][0]} as {twice[0][1]}, so one may be trained "
            "on and the other asked for; the skip file can leave them out"
        )
    originals: dict[tuple[int, str], list[str]] = {}
    for path, label, one in zip(own.paths, own.labels.tolist(), sums, strict=True):
        originals.setdefault((label, path.stem), []).append(one)
    for path, label in zip(copies.paths, copies.labels.tolist(), strict=True):
        candidates = originals.get((label, path.stem), [])
        if len(candidates) > 1:
            raise ValueError(f"mean_pooled: {path} has {len(candidates)} originals of its name; give them other names")
        if candidates and (noted := imagenet.note_of(path)) and imagenet.copied_from(path) != candidates[0]:
            raise ValueError(
                f"mean_pooled: {path} was made from another picture than its original is now, or one that was read in "
                f"another way ({noted['original'][:8]} ...). Run mean_pooled_copy again"
            )
    return said


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
    seed, size, later = data["seed"], data["size"], _later(data)
    difficulty = vision.Difficulty(turn=math.radians(later["turn"]))
    if role.endswith("pretraining"):
        validation = role.startswith("validation")
        count = data["evaluation" if validation else "pretraining"]
        labels = torch.randint(
            0, vision.CLASSES * later["textures"], (count,), generator=generator(seed, role, "classes")
        )
        shape, texture = meanings({"textures": later["textures"]})[labels].unbind(1)
        flat: float | Tensor = 0.0 if validation else data["flat"]
        if later["classes"] != "pairs":  # a plain object is recognisable as such
            plain = torch.rand(count, generator=generator(seed, role, "flat")) < data["flat"]
            own, other = (labels, later["textures"]) if later["classes"] != "cues" else (texture, 1)
            flat, labels = plain, torch.where(plain, vision.CLASSES * other + shape, own)
        drawn = vision.draw_scenes(shape, texture, generator(seed, role, "scenes"), difficulty=difficulty, flat=flat)
        names = [
            " in ".join(known[k] for known, k in zip((vision.SHAPES, vision.TEXTURES), both, strict=True) if k >= 0)
            for both in meanings(data).tolist()
        ]
        return _in_memory(vision.images(drawn, size), labels, names, texture)
    if role in TRAINING:
        share = data["imbalance"] ** -torch.linspace(0, 1, vision.CLASSES)
        labels = torch.multinomial(share, data["training"], True, generator=generator(seed, "training", "classes"))
        drawn = vision.draw_scenes(labels, labels, generator(seed, "training", "scenes"), difficulty=difficulty)
        if role == "training":
            return _in_memory(vision.images(drawn, size), labels, vision.SHAPES)
        first = data["discovery"]
        return _in_memory(vision.mean_pooled(drawn[:first], size), labels[:first], vision.SHAPES)
    part, kind = role.split("_", 1)
    count = data["evaluation"] * (2 if part == "test" else 1)
    labels = torch.arange(count) % vision.CLASSES
    drawn = vision.draw_scenes(labels, labels, generator(seed, part, "scenes"), difficulty=difficulty)
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
    size, found = data["size"], _found(data)
    part, _, kind = role.partition("_")
    if kind == "silhouette":
        assert found.silhouette is not None
        return _read_on_demand(found.silhouette.paths, found.silhouette.labels, found.silhouette.classes, size)
    if kind == "conflict":
        conflicts = found.conflict
        return _read_on_demand(conflicts.paths, conflicts.shape, conflicts.classes, size, conflicts.texture)
    training, validation, test = _split_of(data)
    own = {"training": training, "discovery": training, "validation": validation, "test": test}[part]
    if kind == "mean_pooled" or part == "discovery":
        pooled = found.mean_pooled
        # A mean-pooled picture belongs where its original is, so that no evaluation picture is trained on.
        originals = {(label, path.stem) for path, label in zip(own.paths, own.labels.tolist(), strict=True)}
        kept = [
            (label, path.stem) in originals for path, label in zip(pooled.paths, pooled.labels.tolist(), strict=True)
        ]
        own = pooled[torch.tensor(kept)]
        if not len(own):
            raise ValueError(f"mean_pooled = {data['mean_pooled']!r}: none of its pictures has its original in {role}")
    return _read_on_demand(own.paths, own.labels, own.classes, size)


def _list_folders(data: Mapping[str, Any]) -> Found:
    """The files of a data spec, as the folders have them now."""
    ordinary = _ordinary(data["ordinary"])
    classes = ordinary.classes
    if skip := data["skip"]:
        ordinary = ordinary[~_skipped(Path(skip), ordinary.paths, Path(data["ordinary"]))]
    others = {name: imagenet.class_folders(data[name]) for name in ("mean_pooled", "silhouette") if data[name]}
    for name, one in others.items():
        if one.classes != classes:
            raise ValueError(
                f"{name} = {data[name]!r} has the classes {', '.join(one.classes)}; expected {', '.join(classes)}"
            )
    conflict = imagenet.cue_conflicts(data["conflict"], classes)
    places = tuple(data[name] for name in KINDS)
    return Found(ordinary, others["mean_pooled"], conflict, others.get("silhouette"), places)


def _ordinary(folder: str) -> imagenet.Images:
    try:
        return imagenet.imagenet(folder)
    except ValueError as no_imagenet:
        inside = {place.name for place in Path(folder).iterdir() if place.is_dir()} if Path(folder).is_dir() else set()
        if inside and inside <= {"train", "val", "test", "ILSVRC"}:  # parts, not classes
            raise ValueError(f"ordinary = {folder!r}: {no_imagenet}") from no_imagenet
        try:
            return imagenet.class_folders(folder)
        except ValueError as error:
            raise ValueError(f"ordinary = {folder!r}: {no_imagenet}; and {error}") from error


def _skipped(skip: Path, paths: Sequence[Path], root: Path) -> Tensor:
    if not skip.is_file():
        raise ValueError(f"skip = {str(skip)!r}: expected a text file with one path a line")
    try:
        return torch.tensor(reading.named(reading.read_paths(skip), paths, (Path(), skip.parent, root), root))
    except ValueError as error:
        raise ValueError(f"skip = {str(skip)!r}: {error}") from error


def _found(data: Mapping[str, Any]) -> Found:
    """The files of a data spec; ``ValueError`` when the folders no longer hold what they held when it was made."""
    return _found_once(canonical_json({name: data[name] for name in (*KINDS, "skip", "contents")}))


@functools.lru_cache(maxsize=4)
def _found_once(text: str) -> Found:
    data = json.loads(text)
    found = _list_folders(data)
    if not data["contents"].startswith(_listing(found)):
        raise ValueError(
            f"ordinary = {data['ordinary']!r} or another folder of pictures holds other files now than when this data "
            "spec was made of it (contents). Run again"
        )
    return found


def _split_of(data: dict[str, Any]) -> tuple[imagenet.Images, imagenet.Images, imagenet.Images]:
    """Training, validation and test pictures."""
    found, evaluation, seed = _found(data).ordinary, data["evaluation"], data["seed"]
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
            return _cropped(reading.read(paths[int(numbers[row])]), size, place)

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
