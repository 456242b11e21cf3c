"""Files of pictures: which files of a folder are pictures, what one of them shows, and whether it has changed.

What is read may be odd: ImageNet holds CMYK and grey JPEGs and a PNG with a JPEG's name. So a file's content decides
what it is, and what cannot be shown right is refused by name.
"""

from __future__ import annotations

import functools
import hashlib
import os
import struct
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

Image.init()
FORMATS = tuple(
    kind
    for kind in ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
    if kind in Image.OPEN
)
"""What is read. Other formats that Pillow knows are no photographs, or are programs (EPS)."""

ENDINGS = frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS)
"""Endings of files that are taken as pictures, in small letters."""

UNREAD = frozenset((
    ".ai", ".arw", ".cr2", ".cr3", ".dcm", ".dds", ".dng", ".eps", ".exr", ".hdr", ".heic", ".heif", ".ico", ".jxl",
    ".nef", ".orf", ".pcx", ".psd", ".qoi", ".raf", ".raw", ".rw2", ".svg", ".svgz", ".tga", ".xcf",
))  # fmt: skip
"""Endings of pictures that are not read."""

HIDDEN = "hidden or of the system"
"""How such files and folders are counted."""

_SYSTEM = frozenset(
    name.casefold()
    for name in (
        "__MACOSX", "__pycache__", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found", "System Volume Information",
        "Thumbs.db", "desktop.ini",
    )
)  # fmt: skip


def hidden(name: str) -> bool:
    """Is a file or folder of this name the system's or an editor's, and no picture and no class?

    >>> [hidden(name) for name in (".ipynb_checkpoints", "._cat.jpg", "__MACOSX", "Thumbs.db", "cat")]
    [True, True, True, True, False]
    """
    return name.startswith(".") or name.casefold() in _SYSTEM


def listed(folder: str | Path) -> tuple[list[Path], Counter[str]]:
    """Every picture below a folder, sorted, links followed; and what else lies there.

    Returns
    -------
    tuple
        The files whose ending is one of :data:`ENDINGS`, and how many others there are of every ending. Those that
        are hidden or of the system count as :data:`HIDDEN`; a hidden folder counts as one, and is not entered.
    """
    found: list[Path] = []
    passed: Counter[str] = Counter()
    entered: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in entered:  # a link back: its pictures are here already
            folders.clear()
            passed["linked twice"] += 1
            continue
        entered.add(real)
        passed[HIDDEN] += sum(map(hidden, (*folders, *files)))
        folders[:] = sorted(name for name in folders if not hidden(name))
        for name in files:
            ending = os.path.splitext(name)[1].lower()
            if hidden(name):
                continue
            if ending in ENDINGS:
                found.append(Path(place, name))
            else:
                passed[ending or "without an ending"] += 1
    return sorted(found), +passed


def counted(passed: Iterable[tuple[str, int]]) -> str:
    """What was passed over, in words.

    >>> counted({".txt": 2, "hidden or of the system": 1}.items())
    '2 .txt, 1 hidden or of the system'
    """
    return ", ".join(f"{number} {what}" for what, number in sorted(passed, key=lambda one: (-one[1], one[0])))


# ---------------------------------------------------------------------------------------
# One file


def read(path: str | Path) -> Image.Image:
    """The picture in a file as RGB, 8 bits a channel.

    - 16 bits a channel are scaled to 8: 65,535 becomes 255, whatever the brightest pixel is.
    - What is transparent is laid on white, the ground of silhouettes.
    - It stands upright, as the camera's note in the file (EXIF orientation) says.
    - Colour profiles are not applied.

    Raises
    ------
    OSError
        Naming the file, when it cannot be read; or when what it shows is not settled: several frames or pages (of a
        camera's MPO the first is taken), or numbers of 32 bits a pixel, which have no white.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format != "MPO":
                raise ValueError(f"it has {frames} frames or pages; save the one that is meant by itself")
            raw = image.tile[0].args if image.tile else ""
            image.load()
            turn = _TURNS.get(image.getexif().get(0x0112, 1))
            shown = _on_white(image, raw[0] if isinstance(raw, tuple) and raw else raw)
        return shown if turn is None else shown.transpose(turn)
    except _UNREADABLE as error:
        raise OSError(f"{path} cannot be read as an image: {error}") from error


# What damaged files have made Pillow raise.
_UNREADABLE = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error,
    Image.DecompressionBombError,
)  # fmt: skip

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


def _on_white(image: Image.Image, raw: Any) -> Image.Image:
    key = image.info.get("transparency")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        most = 4095 if raw == "I;12" else 65535
        values = np.asarray(image).astype(np.int64)
        if image.format == "TIFF" and image.tag_v2.get(262) == 0:  # type: ignore[attr-defined]
            values = most - values  # "white is zero"
        grey = Image.fromarray(np.rint(values * (255 / most)).astype(np.uint8))
        image = Image.merge("LA", (grey, Image.fromarray(np.uint8(255) * (values != key))))
    elif image.mode in ("I", "F"):
        raise ValueError(f"it holds 32 bits a pixel (mode {image.mode}), which have no white; save 8 or 16 bits")
    # Pillow keeps a transparent colour as the file has it, while it scales the pixels to 8 bits.
    elif isinstance(key, int) and raw in ("L;2", "L;4"):
        image.info["transparency"] = key * {"L;2": 85, "L;4": 17}[raw]
    elif isinstance(key, tuple) and raw == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in key)
    if not image.has_transparency_data:
        return image.convert("RGB")
    ground = Image.new("RGBA", image.size, "white")
    ground.alpha_composite(image.convert("RGBA"))
    return ground.convert("RGB")


# ---------------------------------------------------------------------------------------
# Has it changed?


def digest(path: str | Path) -> str:
    """A checksum of a whole file. Read once in a process, and again when its length, place or times have changed."""
    state = os.stat(path)
    times = state.st_mtime_ns, state.st_ctime_ns
    if time.time_ns() - max(times) < 2e9:  # so new that another change could leave the times as they are
        return _digest(os.fspath(path))
    return _known(os.fspath(path), state.st_size, state.st_dev, state.st_ino, *times)


@functools.lru_cache(maxsize=2**21)
def _known(path: str, *state: int) -> str:
    return _digest(path)


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def digests(paths: Sequence[Path]) -> list[str]:
    """:func:`digest` of each of many files, several at a time."""
    with ThreadPoolExecutor(8) as pool:
        bar = tqdm(pool.map(digest, paths), total=len(paths), desc="checksums", unit="image", delay=3)
        return list(bar)


# ---------------------------------------------------------------------------------------
# Lists of files


def write_paths(file: str | Path, paths: Iterable[Path]) -> None:
    """Write a list of files, one path a line, as the file system has their names, UTF-8 or not.

    Raises ``ValueError`` for a name that holds a line break.
    """
    lines = [os.fsencode(path) for path in paths]
    if broken := [line for line in lines if b"\n" in line or b"\r" in line]:
        raise ValueError(f"paths: {os.fsdecode(broken[0])!r} holds a line break, so no list can name it")
    Path(file).write_bytes(b"".join(line + b"\n" for line in lines))


def read_paths(file: str | Path) -> list[str]:
    """The lines of a list of files, without empty ones; the line ends of any system."""
    content = Path(file).read_bytes().removeprefix(b"\xef\xbb\xbf")
    lines = [os.fsdecode(line.removesuffix(b"\r")) for line in content.split(b"\n")]
    return [line for line in lines if line.strip()]


def named(lines: Sequence[str], paths: Sequence[Path], places: Sequence[Path], root: Path) -> list[bool]:
    """Which of the files ``paths`` are named by a line, however their path is spelled.

    Parameters
    ----------
    lines
        Paths: absolute, or below one of ``places``.
    root
        A line may name another file below it too, which changes nothing.

    Raises
    ------
    ValueError
        For a line that names no file below ``root``, or one file in one place and another in another.
    """
    there: dict[tuple[Any, ...], list[int]] = {}
    for k, path in enumerate(paths):
        there.setdefault(_identity(path), []).append(k)
    left_out = [False] * len(paths)
    for line in lines:
        spelled = [Path(place, text) for text in dict.fromkeys((line, line.strip())) for place in places]
        files = {_identity(path): path for path in spelled if path.is_file() or path.is_symlink()}
        ours = [there[identity] for identity in files if identity in there]
        if len(ours) > 1:
            raise ValueError(f"{line!r} names {' and '.join(str(paths[k[0]]) for k in ours)}: write absolute paths")
        for k in (k for links in ours for k in links):
            left_out[k] = True
        real = os.path.realpath(root)
        if not ours and not any(Path(os.path.realpath(path)).is_relative_to(real) for path in files.values()):
            looked = ", ".join(repr(str(place)) for place in dict.fromkeys(places))
            raise ValueError(f"{line!r} names no picture below {str(root)!r}; looked for it from {looked}")
    return left_out


def _identity(path: Path) -> tuple[Any, ...]:
    """The same for every spelling of one file, and for every link to it."""
    try:
        state = path.stat()
    except OSError:  # a link to nothing
        return (os.path.abspath(path),)
    return state.st_dev, state.st_ino
