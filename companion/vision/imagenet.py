"""Real images: 16-class ImageNet from a local copy, mean pooling by a segmenter, cue conflicts.

Nothing is downloaded. :mod:`companion.vision.reading` says what is read, and how. Sources: Geirhos et al. (2018) for
the 16 classes, Geirhos et al. (2019) for the cue-conflict images, Zhang, Lepori & Pavlick (2023), section 5 and
appendix C, for mean pooling.
"""

from __future__ import annotations

import csv
import functools
import inspect
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from tqdm import tqdm

from companion.vision import reading
from companion.vision.scenes import mean_pool
from sicore.files import canonical_json, checksum, written_aside

Segmenter = Callable[[Image.Image, Path], Tensor]
"""(RGB image, its file) -> a label image [H, W] of integers, or boolean masks [R, H, W], which may overlap.

It must be picklable, to go to other processes. What it is, :func:`made_by` says in every copy that is made with it.
"""


@dataclass(frozen=True)
class Images:
    """Image files and their classes.

    Attributes
    ----------
    paths
        N files.
    labels
        [N], int64, numbers of ``classes``.
    classes
        Names, in alphabetical order whatever the file system's is.
    passed_over
        What lay there beside the pictures: how many files of each ending (see
        :func:`companion.vision.reading.listed`).
    """

    paths: tuple[Path, ...]
    labels: Tensor
    classes: tuple[str, ...]
    passed_over: tuple[tuple[str, int], ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: Tensor) -> Images:
        """Some of the images, by their numbers or by a boolean [N]."""
        numbers = rows.nonzero().flatten() if rows.dtype == torch.bool else rows
        return replace(self, paths=tuple(self.paths[i] for i in numbers.tolist()), labels=self.labels[numbers])

    def counts(self) -> dict[str, int]:
        """Images of each class."""
        numbers = torch.bincount(self.labels, minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, numbers, strict=True))

    def about(self) -> str:
        """What was read, and what was passed over, in one line."""
        counts = ", ".join(f"{name} {number:,}" for name, number in self.counts().items())
        passed = f"; passed over: {reading.counted(self.passed_over)}" if self.passed_over else ""
        return f"{len(self):,} pictures in {len(self.classes)} classes ({counts}){passed}"


# ---------------------------------------------------------------------------------------
# Which files, which classes


def sixteen_classes() -> dict[str, tuple[str, ...]]:
    """The 16 classes of Geirhos et al. (2018), each with the WordNet numbers that belong to it.

    >>> sixteen_classes()["elephant"], len(sixteen_classes())
    (('n02504013', 'n02504458'), 16)
    """
    groups: dict[str, list[str]] = {}
    with (resources.files("companion.vision") / "sixteen_classes.csv").open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            groups.setdefault(row["class"], []).append(row["wordnet_id"])
    return {name: tuple(groups[name]) for name in sorted(groups)}


def imagenet(
    root: str | Path, split: str = "train", groups: Mapping[str, Sequence[str]] | None = None
) -> Images:  # fmt: skip
    """Images of a local ImageNet, in classes that are groups of its own.

    Three layouts are known: ``root/train/n01440764/*.JPEG`` (torchvision's; ``val`` likewise),
    ``root/ILSVRC/Data/CLS-LOC/train/n01440764/*.JPEG`` (Kaggle's), and Kaggle's flat
    ``.../val/*.JPEG`` with ``root/LOC_val_solution.csv``.

    Parameters
    ----------
    split
        ``train`` or ``val``.
    groups
        Class -> WordNet numbers; :func:`sixteen_classes` by default.

    Raises
    ------
    ValueError
        When no layout is found, a WordNet number stands in two groups, a class has no image, or there are pictures
        that are not read.
    """
    if split not in ("train", "val"):
        raise ValueError(f"split = {split!r}: expected 'train' or 'val'")
    groups = sixteen_classes() if groups is None else groups
    owner: dict[str, str] = {}
    for name, numbers in groups.items():
        for number in numbers:
            if number in owner:
                raise ValueError(f"groups: {number} belongs to {owner[number]!r} and to {name!r}")
            owner[number] = name
    root = Path(root)
    candidates = [root / split, root / "ILSVRC" / "Data" / "CLS-LOC" / split]
    folder = next((place for place in candidates if place.is_dir()), None)
    if folder is None:
        raise ValueError(
            f"root = {str(root)!r}: found no ImageNet there; looked for {' and '.join(map(str, candidates))}"
        )
    solution, passed = root / "LOC_val_solution.csv", Counter[str]()
    if split == "val" and solution.is_file() and not any(place.is_dir() for place in folder.iterdir()):
        with solution.open(encoding="utf-8", newline="") as stream:
            numbers_of = {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(stream)}
        found = [(path, owner.get(numbers_of.get(path.stem, ""))) for path in _images_in(folder, passed)]
    else:
        found = [(path, name) for number, name in owner.items() for path in _images_in(folder / number, passed)]
    known = [(path, name) for path, name in found if name is not None]
    return _labelled(known, tuple(sorted(groups)), folder, passed)


def class_folders(root: str | Path) -> Images:
    """Images in one folder a class, ``root/CLASS/...``; hidden folders and those of the system are none.

    Raises ``ValueError`` for a class without an image, two classes whose names differ in case only, or pictures that
    are not read (:data:`companion.vision.reading.UNREAD`).
    """
    root, passed = Path(root), Counter[str]()
    every = list(root.iterdir()) if root.is_dir() else []
    inside = [place for place in every if not reading.hidden(place.name)]
    classes = sorted(place.name for place in inside if place.is_dir())
    if not classes:
        raise ValueError(f"root = {str(root)!r}: expected a folder with one folder a class")
    passed[reading.HIDDEN] = len(every) - len(inside)
    passed["outside of the class folders"] = sum(not place.is_dir() for place in inside)
    found = [(path, name) for name in classes for path in _images_in(root / name, passed)]
    return _labelled(found, tuple(classes), root, passed)


def class_lists(lists: str | Path, root: str | Path) -> Images:
    """Images named in one text file a class, ``lists/CLASS.txt``, a path below ``root`` in every line.

    The line ends of any system are read; a file name need not be UTF-8.

    Raises ``ValueError`` for a list that names missing files (the first of them is named),
    paths that leave ``root``, or a file that stands in two lists.
    """
    lists, root = Path(lists), Path(root)
    files = sorted(file for file in lists.glob("*.txt") if not reading.hidden(file.name))
    if not files:
        raise ValueError(f"lists = {str(lists)!r}: expected one text file a class")
    found: list[tuple[Path, str]] = []
    seen: dict[Path, str] = {}
    for file in files:
        names = [line if (root / line).is_file() else line.strip() for line in reading.read_paths(file)]
        paths = [root / name for name in names]
        outside = [
            name for name, path in zip(names, paths, strict=True) if not path.resolve().is_relative_to(root.resolve())
        ]
        if outside:
            raise ValueError(f"{file.name}: {outside[0]!r} is outside of root = {str(root)!r}")
        missing = [name for name, path in zip(names, paths, strict=True) if not path.is_file()]
        if missing:
            raise ValueError(
                f"{file.name}: {len(missing)} of {len(names)} files are missing, the first is {missing[0]!r}"
            )
        for path in paths:
            if (real := path.resolve()) in seen:
                raise ValueError(f"{file.name}: {path.name!r} stands in the list of {seen[real]!r} too")
            seen[real] = file.stem
            found.append((path, file.stem))
    return _labelled(found, tuple(file.stem for file in files), lists, Counter())


def _images_in(folder: Path, passed: Counter[str]) -> list[Path]:
    """Every image below a folder, sorted; none where there is no folder. What is passed over is counted."""
    found, others = reading.listed(folder)
    passed.update(others)
    return found


def _check_passed(passed: Mapping[str, int], place: Path) -> None:
    unread = {ending: number for ending, number in passed.items() if ending in reading.UNREAD}
    if unread:
        raise ValueError(
            f"{place}: {reading.counted(unread.items())} are pictures that are not read; convert them, to PNG for "
            "instance, or take them away"
        )


def _labelled(
    found: Iterable[tuple[Path, str]], classes: tuple[str, ...], place: Path, passed: Counter[str]
) -> Images:  # fmt: skip
    passed, alike = +passed, dict[str, str]()
    for name in classes:
        if (other := alike.setdefault(unicodedata.normalize("NFC", name).casefold(), name)) != name:
            raise ValueError(f"{place}: the classes {other!r} and {name!r} have one name, but for its case or accents")
    _check_passed(passed, place)
    found = sorted(found, key=lambda one: (one[1], one[0]))
    number = {name: k for k, name in enumerate(classes)}
    labels = torch.tensor([number[name] for _, name in found], dtype=torch.int64)
    images = Images(tuple(path for path, _ in found), labels, classes, tuple(sorted(passed.items())))
    empty = [name for name, count in images.counts().items() if not count]
    if empty:
        said = f"; passed over: {reading.counted(passed.items())}" if passed else ""
        raise ValueError(
            f"{place}: no image of {', '.join(empty)} ({len(empty)} of {len(classes)} classes are empty){said}"
        )
    return images


def split(
    images: Images, evaluation: int, generator: torch.Generator, *, most: int | None = None
) -> tuple[Images, Images]:  # fmt: skip
    """Two disjoint parts, drawn class by class: for training and for evaluation.

    Parameters
    ----------
    evaluation
        Images of every class in the second part.
    most
        At most so many of every class in both parts together (the paper takes 1,000), or all.

    Raises
    ------
    ValueError
        For a class that has too few to leave one for training.
    """
    if evaluation < 1 or (most is not None and most <= evaluation):
        raise ValueError(
            f"evaluation = {evaluation}, most = {most}: expected evaluation of 1 or more, and a larger most"
        )
    first, second = [], []
    for number, name in enumerate(images.classes):
        own = (images.labels == number).nonzero().flatten()
        own = own[torch.randperm(len(own), generator=generator)][:most]
        if len(own) <= evaluation:
            raise ValueError(f"evaluation = {evaluation}: class {name!r} has only {len(own)} images")
        second.append(own[:evaluation])
        first.append(own[evaluation:])
    return images[torch.cat(first).sort().values], images[torch.cat(second).sort().values]


# ---------------------------------------------------------------------------------------
# Reading all of them


def _readable(path: Path) -> bool:
    try:
        reading.read(path)
    except OSError:
        return False
    return True


def drop_unreadable(images: Images, *, most: float = 0.001, workers: int = 1) -> tuple[Images, list[Path]]:
    """Read every file once, and leave out those that cannot be read (:func:`companion.vision.reading.read`).

    Parameters
    ----------
    most
        Largest share of files that may be left out.

    Returns
    -------
    tuple
        The readable images, and the files that were left out.

    Raises
    ------
    ValueError
        When more are unreadable; it names the first of them.
    """
    good = torch.tensor(_map(_readable, images.paths, workers, "reading"), dtype=torch.bool)
    bad = [path for path, fine in zip(images.paths, good.tolist(), strict=True) if not fine]
    if len(bad) > most * len(images):
        raise ValueError(
            f"{len(bad)} of {len(images)} images cannot be read, more than most = {most:g}; the first is {bad[0]}"
        )
    return images[good], bad


def _map(function: Callable[[Any], Any], items: Sequence[Any], workers: int, label: str) -> list[Any]:
    bar = partial(tqdm, total=len(items), desc=label, unit="image", mininterval=1.0)
    if workers <= 1:
        return list(bar(map(function, items)))
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        return list(bar(pool.map(function, items, chunksize=max(1, min(64, len(items) // (4 * workers))))))


# ---------------------------------------------------------------------------------------
# Segmenters, and mean-pooled copies of images


def felzenszwalb(
    image: Image.Image, path: Path | None = None, *, scale: float = 100, sigma: float = 0.8, min_size: int = 100
) -> Tensor:  # fmt: skip
    """Segments by Felzenszwalb & Huttenlocher (2004), through scikit-image; parameters are its own. Labels [H, W]."""
    from skimage.segmentation import felzenszwalb as segment

    return torch.from_numpy(segment(np.asarray(image), scale=scale, sigma=sigma, min_size=min_size))


def slic(
    image: Image.Image, path: Path | None = None, *, segments: int = 100, compactness: float = 10.0
) -> Tensor:  # fmt: skip
    """Segments by SLIC (Achanta et al., 2012), through scikit-image. Labels [H, W]."""
    from skimage.segmentation import slic as segment

    labels = segment(np.asarray(image), n_segments=segments, compactness=compactness, start_label=0)
    return torch.from_numpy(np.asarray(labels))


@dataclass(frozen=True)
class SegmentAnything:
    """Segment Anything (Kirillov et al., 2023), with the paper's settings, through transformers.

    Parameters
    ----------
    checkpoint
        A folder with a SAM or SAM 2 model (``facebook/sam-vit-huge`` as transformers saves it,
        for instance), or a name that is in the local cache. Only safetensors are read.
    device
        ``cpu``, ``cuda`` or ``cuda:N``.
    points_per_side, points_per_batch, crop_layers, crop_downscale
        Of its mask generation; the paper's 16, 64, 1 and 2.
    least
        Islands and holes of a mask with fewer pixels are removed (the paper's 100).
    thresholds
        Further ones, by transformers' names (``pred_iou_thresh``, ``stability_score_thresh`` ...).

    Raises
    ------
    ValueError
        When there is no such checkpoint, or it is another kind of model.
    """

    checkpoint: str
    device: str = "cpu"
    points_per_side: int = 16
    points_per_batch: int = 64
    crop_layers: int = 1
    crop_downscale: int = 2
    least: int = 100
    thresholds: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        _mask_generation(self.checkpoint, self.device)

    def made_by(self, path: Path) -> dict[str, Any]:
        """What decides its masks: the settings, and the weights rather than the folder's name; not the device."""
        weights = _weights(self.checkpoint, self.device)
        return {**vars(self), "checkpoint": weights, "device": ""}

    def __call__(self, image: Image.Image, path: Path | None = None) -> Tensor:
        """Masks of an RGB image, [R, H, W]; none where nothing is found."""
        generate = _mask_generation(self.checkpoint, self.device)
        whole = torch.tensor([0, 0, image.width, image.height])
        masks, sides, scores = [], [], []
        # Crop by crop here: transformers' own crops fail when the layers have different numbers of points.
        for crop, layer in crops(image.width, image.height, self.crop_layers):
            x0, y0, x1, y1 = crop
            found = generate(
                image.crop(crop), points_per_crop=max(1, self.points_per_side // self.crop_downscale**layer),
                points_per_batch=self.points_per_batch, **dict(self.thresholds),
            )  # fmt: skip
            inner = torch.tensor(crop) != whole  # an edge of the crop that is none of the image
            for mask in found["masks"]:
                full = torch.zeros(image.height, image.width, dtype=torch.bool)
                full[y0:y1, x0:x1] = torch.as_tensor(np.asarray(mask)).bool()
                full = tidy(full, self.least)
                if not full.any():
                    continue
                rows, columns = full.any(1).nonzero(), full.any(0).nonzero()
                box = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                if not (inner & ((box - torch.tensor(crop)).abs() < EDGE)).any():
                    masks.append(full)
                    sides.append(box.float())
                    scores.append(1.0 / ((x1 - x0) * (y1 - y0)))
        from torchvision.ops import nms  # slow to import

        if not masks:
            return torch.zeros(0, image.height, image.width, dtype=torch.bool)
        # Of two masks in nearly the same box, the one from the smaller crop stays.
        return torch.stack(masks)[nms(torch.stack(sides), torch.tensor(scores), 0.7).sort().values]


EDGE = 20
"""A mask so near to the edge of a crop, in pixels, is taken as cut off by it (Segment Anything's value)."""


def crops(width: int, height: int, layers: int) -> list[tuple[tuple[int, int, int, int], int]]:
    """The image and its overlapping crops, as (left, top, right, bottom) and the layer.

    Layer 0 is the image, layer k has 2^k crops a side; neighbours in layer 1 share 512/1500 of
    the shorter side (Kirillov et al., 2023, appendix B).

    >>> crops(100, 100, 1)[:3]
    [((0, 0, 100, 100), 0), ((0, 0, 67, 67), 1), ((33, 0, 100, 67), 1)]
    """
    found = [((0, 0, width, height), 0)]
    for layer in range(1, layers + 1):
        n = 2**layer
        shared = int(512 / 1500 * min(width, height) * 2 / n)
        w, h = (math.ceil((shared * (n - 1) + side) / n) for side in (width, height))
        for top in range(n):
            for left in range(n):
                x, y = left * (w - shared), top * (h - shared)
                found.append(((x, y, min(x + w, width), min(y + h, height)), layer))
    return found


@functools.lru_cache(maxsize=1)  # loaded once in every process
def _mask_generation(checkpoint: str, device: str) -> Any:
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForMaskGeneration, pipeline

    local: dict[str, Any] = {"local_files_only": True}
    try:
        kind = AutoConfig.from_pretrained(checkpoint, **local).model_type
        if not kind.startswith("sam"):
            raise ValueError(f"it is a model of type {kind!r}")
        model = AutoModelForMaskGeneration.from_pretrained(checkpoint, use_safetensors=True, **local)
        processor = AutoImageProcessor.from_pretrained(checkpoint, **local)
        return pipeline("mask-generation", model=model, image_processor=processor, device=device)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"checkpoint = {checkpoint!r} is no Segment Anything model on this machine: {error}"
        ) from error


@functools.lru_cache(maxsize=1)
def _weights(checkpoint: str, device: str) -> str:
    return checksum(_mask_generation(checkpoint, device).model.state_dict(), "")


@dataclass(frozen=True)
class GivenMasks:
    """Masks that were made before: ``folder/PARENT/NAME.npy`` for an image ``.../PARENT/NAME.JPEG``.

    A file holds a label image [H, W] of integers, or boolean masks [R, H, W], of the image as it stands upright
    (:func:`companion.vision.reading.read`).
    """

    folder: str

    def made_by(self, path: Path) -> dict[str, Any]:
        """What decides the masks of the image at ``path``: what its file of masks holds."""
        file = self._file(path)
        return {"masks": reading.digest(file) if file.is_file() else ""}

    def _file(self, path: Path) -> Path:
        return Path(self.folder) / path.parent.name / f"{path.stem}.npy"

    def __call__(self, image: Image.Image, path: Path) -> Tensor:
        """The labels or masks of the image at ``path``; ``ValueError`` when there are none that fit."""
        file = self._file(path)
        try:
            array = np.load(file, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"no masks for {path}: {file} cannot be read ({error})") from error
        if array.shape[-2:] != (image.height, image.width):
            raise ValueError(f"{file} has shape {array.shape}, its image {(image.height, image.width)}")
        if array.ndim == 2 and np.issubdtype(array.dtype, np.integer):
            return torch.from_numpy(array.astype(np.int64))
        if array.ndim == 3 and array.dtype == bool:
            return torch.from_numpy(array)
        raise ValueError(f"{file} holds {array.dtype} {array.shape}: expected integers [H, W] or booleans [R, H, W]")


def tidy(mask: Tensor, least: int) -> Tensor:
    """A mask [H, W] without islands and holes of fewer than ``least`` pixels.

    Pixels are neighbours when they share a side or a corner. Holes are filled first.
    """
    from scipy.ndimage import label

    result = mask.numpy().copy()
    for value in (False, True):  # holes, then islands
        parts, _ = label(result == value, structure=np.ones((3, 3)))
        small = np.bincount(parts.ravel()) < least
        small[0] = False
        result[small[parts]] = not value
    return torch.from_numpy(result)


def made_by(segmenter: Segmenter, path: Path) -> str:
    """What decides the segments of the image at ``path``, as JSON: the segmenter's name and its settings.

    A function is known by its name and its arguments after the second (of ``functools.partial`` the given ones); a
    segmenter that is an object may have a method ``made_by(path)``, whose dictionary stands for its settings.
    """
    if hasattr(segmenter, "made_by"):
        name, settings = type(segmenter).__qualname__, segmenter.made_by(path)
    else:
        function = segmenter.func if isinstance(segmenter, partial) else segmenter
        name = getattr(function, "__qualname__", type(function).__qualname__)
        parameters = list(inspect.signature(segmenter).parameters.values())[2:]
        settings = {one.name: repr(one.default) for one in parameters}
    return canonical_json({"segmenter": name, **settings})


def mean_pooled_copy(
    images: Images, folder: str | Path, segmenter: Segmenter = felzenszwalb, *, workers: int = 1
) -> Images:  # fmt: skip
    """Mean-pooled copies of images, as ``folder/CLASS/NAME.png`` (see :func:`companion.vision.scenes.mean_pool`).

    A copy that is there is not made again, so a run that was killed goes on; each is written
    in one piece. With several workers, every one of them loads the segmenter once.

    Every copy has a note of what it was made from and how (:func:`copied_from`): one whose original has changed since
    is made again.

    Returns
    -------
    Images
        The copies, in the order of ``images``.

    Raises
    ------
    ValueError
        When two images would have one copy, or there are copies by another segmenter, with other settings, or without
        a note. Nothing is made by then.
    """
    folder = Path(folder)
    names = [images.classes[k] for k in images.labels.tolist()]
    targets = [folder / name / f"{path.stem}.png" for name, path in zip(names, images.paths, strict=True)]
    if len(set(targets)) < len(targets):
        twice = next(target for target, number in Counter(targets).items() if number > 1)
        raise ValueError(f"images: two of them would be written to {twice}")
    jobs = list(zip(images.paths, targets, strict=True))
    for path, target in jobs:
        if target.is_file() and (noted := note_of(target).get("by")) != made_by(segmenter, path):
            raise ValueError(
                f"folder = {str(folder)!r}: {target} was made otherwise: by {noted or 'nobody who says so'}, not by "
                f"{made_by(segmenter, path)}. Name another folder, or take the old copies away"
            )
    _map(partial(_pool, segmenter=segmenter), jobs, workers, "mean pooling")
    return replace(images, paths=tuple(targets), passed_over=())


def _pool(job: tuple[Path, Path], segmenter: Segmenter) -> None:
    path, target = job
    original = reading.digest(path)
    if target.is_file() and copied_from(target) == original:
        return
    picture = reading.read(path)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    pooled = mean_pool(pixels, segmenter(picture, path))
    note = PngInfo()
    note.add_text(NOTE, canonical_json({"by": made_by(segmenter, path), "reading": READING, "original": original}))
    with written_aside(target) as temporary:
        Image.fromarray(pooled.permute(1, 2, 0).numpy()).save(temporary, format="PNG", pnginfo=note)


NOTE = "mean-pooled"
"""Keyword of the text in a mean-pooled PNG that says what it was made from."""

READING = 2
"""One more when the same file is read as another picture. Copies and results made before are then not taken."""


def copied_from(copy: Path) -> str:
    """Checksum of the file that a mean-pooled copy was made from; "" where its note says none, or an older reading."""
    note = note_of(copy)
    return str(note.get("original", "")) if note.get("reading") == READING else ""


def note_of(copy: Path) -> dict[str, Any]:
    """What a mean-pooled copy says of itself; nothing if it was made by another program."""
    try:
        with Image.open(copy, formats=("PNG",)) as image:
            return dict(json.loads(image.info.get(NOTE, "{}")))
    except (OSError, ValueError, SyntaxError):
        return {}


# ---------------------------------------------------------------------------------------
# Cue conflicts


@dataclass(frozen=True)
class CueConflicts:
    """Images whose shape is of one class and whose texture of another.

    Attributes
    ----------
    paths
        N files.
    shape, texture
        [N], int64, numbers of ``classes``; they differ in every image.
    classes
        Names, in alphabetical order.
    passed_over
        As :attr:`Images.passed_over`.
    """

    paths: tuple[Path, ...]
    shape: Tensor
    texture: Tensor
    classes: tuple[str, ...]
    passed_over: tuple[tuple[str, int], ...] = ()


def cue_conflicts(root: str | Path, classes: Sequence[str] | None = None) -> CueConflicts:
    """The style-transfer images of Geirhos et al. (2019), ``root/SHAPE/SHAPE1-TEXTURE2.png``.

    Images whose shape and texture are of one class are left out: no conflict, so no decision.

    Parameters
    ----------
    classes
        Their names; those of :func:`sixteen_classes` by default.

    Raises
    ------
    ValueError
        For a name of another form, a class that is not known, a name that contradicts its folder, pictures that are
        not read, or when no image is left.
    """
    root, passed = Path(root), Counter[str]()
    names = tuple(sorted(sixteen_classes() if classes is None else classes))
    number = {name: k for k, name in enumerate(names)}
    kept = []
    for path in _images_in(root, passed):
        match = re.fullmatch(r"([A-Za-z_ ]+)\d+-([A-Za-z_ ]+)\d+", path.stem)
        if match is None:
            raise ValueError(f"{path}: expected a name such as airplane1-bicycle2.png, shape first")
        unknown = [name for name in match.groups() if name not in number]
        if unknown:
            raise ValueError(f"{path}: class {unknown[0]!r} is none of {', '.join(names)}")
        shape, texture = (number[name] for name in match.groups())
        if number.get(path.parent.name, shape) != shape:
            raise ValueError(f"{path}: its name says {match[1]!r}, its folder {path.parent.name!r}")
        if shape != texture:
            kept.append((path, shape, texture))
    _check_passed(passed, root)
    if not kept:
        raise ValueError(f"root = {str(root)!r}: found no cue-conflict image there")
    paths, shapes, textures = zip(*kept, strict=True)
    others = tuple(sorted(passed.items()))
    return CueConflicts(tuple(paths), torch.tensor(shapes), torch.tensor(textures), names, others)
