"""Which files are pictures, what one of them shows, and whether it has changed; on small files in the true formats."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from companion.vision import reading

WHITE = [255, 255, 255]


def png(path, depth, kind, *rows, transparent=None):
    """A PNG by hand: kind 0 is grey, 2 is RGB, 4 is grey and alpha, 6 is RGBA; ``rows`` are the bytes of each row."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    bands = {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    width = len(rows[0]) * 8 // (depth * bands)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0))
        + (chunk(b"tRNS", transparent) if transparent else b"")
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))) + chunk(b"IEND", b"")
    )  # fmt: skip
    return path


def words(*numbers):
    return struct.pack(f">{len(numbers)}H", *numbers)


def shown(path):
    image = reading.read(path)
    assert image.mode == "RGB"
    return np.asarray(image)[0].tolist()


def grey(*values):
    return [[value] * 3 for value in values]


# ---------------------------------------------------------------------------------------
# 16 bits


def test_sixteen_bits_of_grey_are_scaled_and_not_cut_off(tmp_path):
    values = [0, 257, 300, 32768, 65278, 65535]
    expected = grey(*(round(value / 257) for value in values))
    assert expected[3] == [128] * 3
    assert shown(png(tmp_path / "x.png", 16, 0, words(*values))) == expected
    array = np.array([values], dtype=np.uint16)
    Image.fromarray(array).save(tmp_path / "x.tif")
    assert shown(tmp_path / "x.tif") == expected
    Image.frombytes("I;16B", (6, 1), array.astype(">u2").tobytes()).save(tmp_path / "b.tif")
    assert shown(tmp_path / "b.tif") == expected
    (tmp_path / "x.pgm").write_bytes(b"P5 6 1 65535\n" + words(*values))
    assert shown(tmp_path / "x.pgm") == expected


def test_sixteen_bits_of_each_channel_are_eight_to_a_grey_level(tmp_path):
    values = [0, 300, 32768, 65535, 40000, 1]
    found = np.array(shown(png(tmp_path / "x.png", 16, 2, words(*values)))).ravel()
    assert np.abs(found - np.array(values) / 257).max() <= 1


def test_in_a_tiff_whose_white_is_zero_it_is_white(tmp_path):
    array = np.array([[0, 65535]], dtype=np.uint16)
    Image.fromarray(array).save(tmp_path / "x.tif", tiffinfo={262: 0})
    with Image.open(tmp_path / "x.tif") as image:
        assert image.tag_v2[262] == 0
    assert shown(tmp_path / "x.tif") == grey(255, 0)


@pytest.mark.parametrize(("mode", "kind"), [("I", np.int32), ("F", np.float32)])
def test_numbers_without_a_white_are_refused_by_name(tmp_path, mode, kind):
    Image.fromarray(np.array([[0, 70000]], dtype=kind)).save(tmp_path / "x.tif")
    with pytest.raises(OSError, match=rf"x\.tif cannot be read as an image: it holds 32 bits a pixel \(mode {mode}\)"):
        reading.read(tmp_path / "x.tif")


# ---------------------------------------------------------------------------------------
# What is transparent


def silhouette(mode):
    """Black in the middle of a ground that is transparent, and red below that."""
    image = Image.new("RGBA", (3, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    if mode == "P":
        image = Image.new("P", (3, 1), 1)
        image.putpalette([0, 0, 0, 255, 0, 0])
        image.putpixel((1, 0), 0)
        image.info["transparency"] = 1
        return image
    return image if mode == "RGBA" else image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "ending"), [("RGBA", "png"), ("RGBA", "webp"), ("RGBA", "tif"), ("LA", "png"), ("P", "png"), ("P", "gif")]
)
def test_a_silhouette_on_transparent_ground_stands_on_white(tmp_path, mode, ending):
    image, path = silhouette(mode), tmp_path / f"x.{ending}"
    image.save(path, **({"lossless": True} if ending == "webp" else {}))
    assert shown(path) == [WHITE, [0, 0, 0], WHITE]


def test_what_is_half_transparent_is_half_white(tmp_path):
    Image.new("RGBA", (1, 1), (0, 100, 200, 51)).save(tmp_path / "x.png")
    expected = [round(255 * 0.8 + 0.2 * value) for value in (0, 100, 200)]
    assert np.abs(np.array(shown(tmp_path / "x.png")[0]) - expected).max() <= 1


@pytest.mark.parametrize(
    ("depth", "kind", "row", "transparent", "expected"),
    [
        (8, 0, bytes([5, 7]), words(5), [WHITE, [7] * 3]),
        (8, 2, bytes([5, 5, 5, 7, 8, 9]), words(5, 5, 5), [WHITE, [7, 8, 9]]),
        (4, 0, bytes([0x5A]), words(5), [WHITE, [0xAA] * 3]),
        (2, 0, bytes([0b01100000]), words(1), [WHITE, [170] * 3, [0] * 3, [0] * 3]),
        (1, 0, bytes([0b01111111]), words(0), [WHITE] * 8),
        (16, 0, words(300, 257), words(300), [WHITE, [1] * 3]),
        (16, 2, words(300, 300, 300, 65535, 0, 0), words(300, 300, 300), [WHITE, [255, 0, 0]]),
        (16, 4, words(300, 0, 300, 65535), None, [WHITE, [1] * 3]),
    ],
)
def test_a_transparent_colour_is_found_at_every_depth(tmp_path, depth, kind, row, transparent, expected):
    assert shown(png(tmp_path / "x.png", depth, kind, row, transparent=transparent)) == expected


# ---------------------------------------------------------------------------------------
# Which way up, which frame, which format


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_a_picture_stands_upright(tmp_path, ending, turn):
    """Three flat quarters and a white one; where the first row and column of the file belong is EXIF's definition."""
    upright = np.zeros((32, 48, 3), dtype=np.uint8)
    upright[:16, :24], upright[:16, 24:], upright[16:, :24] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    sideways = upright.transpose(1, 0, 2)
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: sideways,
        6: sideways[::-1], 7: sideways[::-1, ::-1], 8: sideways[:, ::-1],
    }[turn]  # fmt: skip
    note = Image.Exif()
    note[0x0112] = turn
    path = tmp_path / f"x.{ending}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=note, quality=95)
    found = np.asarray(reading.read(path)).astype(int)
    assert found.shape == upright.shape
    assert np.abs(found - upright)[4:12, 4:20].max() < 30, "upper left is red"
    assert np.abs(found - upright)[20:28, 4:20].max() < 30, "lower left is blue"


@pytest.mark.parametrize("ending", ["gif", "png", "tif", "webp"])
def test_a_file_of_several_pictures_is_refused_and_one_of_one_is_read(tmp_path, ending):
    one, other = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    path = tmp_path / f"x.{ending}"
    one.save(path)
    assert np.abs(np.array(shown(path)[0]) - [255, 0, 0]).max() < 5
    one.save(path, save_all=True, append_images=[other])
    with pytest.raises(OSError, match="it has 2 frames or pages; save the one that is meant"):
        reading.read(path)


def test_of_a_cameras_file_with_a_preview_the_picture_is_read(tmp_path):
    one, other = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (4, 4), "blue")
    one.save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=[other])
    assert reading.read(tmp_path / "x.jpg").size == (8, 8)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB", "P", "1"])
def test_every_kind_of_image_is_read_as_rgb(tmp_path, mode):
    path = tmp_path / "x.JPEG"  # a PNG named JPEG, too
    Image.new("RGB", (5, 4), "red").convert(mode).save(path, format="JPEG" if mode in ("L", "CMYK", "RGB") else "PNG")
    found = reading.read(path)
    assert (found.mode, found.size) == ("RGB", (5, 4))


def test_an_unreadable_file_is_named(tmp_path):
    path, whole = tmp_path / "x.JPEG", io.BytesIO()
    Image.new("RGB", (9, 9)).save(whole, format="JPEG")
    for content in (b"", b"no image", whole.getvalue()[:40], whole.getvalue()[:-60], b"%!PS-Adobe-3.0 EPSF-3.0\n"):
        path.write_bytes(content)
        with pytest.raises(OSError, match=r"x\.JPEG cannot be read as an image"):
            reading.read(path)


# ---------------------------------------------------------------------------------------
# Which files of a folder


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_what_a_folder_holds(tmp_path):
    kept = ["a.jpg", "b.JPE", "c.tif", "d.ppm", "e.gif", "sub/f.PNG", "sub/g.jp2"]
    others = [
        ".ipynb_checkpoints/a-checkpoint.jpg", ".hidden.jpg", "._a.jpg", "__MACOSX/a.jpg", "@eaDir/a.jpg", "Thumbs.db",
        "lost+found/x.jpg", "notes.txt", "sub/notes.txt", "README", "raw.heic",
    ]  # fmt: skip
    touch(*(tmp_path / name for name in kept + others))
    found, passed = reading.listed(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == kept
    assert passed == {reading.HIDDEN: 7, ".txt": 2, "without an ending": 1, ".heic": 1}
    assert reading.counted(passed.items()) == "7 hidden or of the system, 2 .txt, 1 .heic, 1 without an ending"


def test_links_are_followed_and_a_circle_ends(tmp_path):
    touch(tmp_path / "elsewhere" / "a.jpg", tmp_path / "own" / "b.jpg")
    (tmp_path / "own" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "own" / "linked" / "back").symlink_to(tmp_path / "own")
    (tmp_path / "own" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    found, passed = reading.listed(tmp_path / "own")
    assert [path.name for path in found] == ["b.jpg", "gone.jpg", "a.jpg"], "a link to nothing is an unreadable picture"
    assert passed == {"linked twice": 1}


# ---------------------------------------------------------------------------------------
# Changed?


def test_a_digest_is_of_the_whole_file_and_read_once(tmp_path, monkeypatch):
    path, count, whole = tmp_path / "x", [], reading._digest
    monkeypatch.setattr(reading, "_digest", lambda path: count.append(path) or whole(path))
    content = bytearray(200_000)
    path.write_bytes(content)
    first = reading.digest(path)
    content[-1] = 1
    path.write_bytes(content)
    second = reading.digest(path)
    assert first != second, "rewritten at once, with the same length"
    clock = reading.time.time_ns
    monkeypatch.setattr(reading.time, "time_ns", lambda: clock() + 10**10)  # ten seconds later
    count.clear()
    assert [reading.digest(path) for _ in range(3)] == [second] * 3
    assert len(count) == 1
    content[100_000] = 1
    path.write_bytes(content)
    os.utime(path, ns=(path.stat().st_mtime_ns + 1,) * 2)
    assert reading.digest(path) not in (first, second)


# ---------------------------------------------------------------------------------------
# Lists


def test_a_list_of_files_comes_back_whatever_their_names(tmp_path):
    odd = [tmp_path / os.fsdecode(b"caf\xe9.jpg"), tmp_path / "trailing .jpg", tmp_path / "a\u2028b.jpg"]
    reading.write_paths(tmp_path / "list.txt", odd)
    assert reading.read_paths(tmp_path / "list.txt") == [str(path) for path in odd]
    with pytest.raises(ValueError, match="holds a line break"):
        reading.write_paths(tmp_path / "list.txt", [Path("a\nb.jpg")])
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa.jpg\r\n\r\n  \nb.jpg")
    assert reading.read_paths(tmp_path / "list.txt") == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    "line",
    [
        "{root}/cat/1.jpg", "cat/1.jpg", "./cat/1.jpg", "cat/../cat/1.jpg", "pictures/cat/1.jpg", "  cat/1.jpg ",
        "link/1.jpg", "../pictures/cat/1.jpg",
    ],
)  # fmt: skip
def test_a_line_names_its_file_however_it_is_spelled(tmp_path, monkeypatch, line):
    root = tmp_path / "pictures"
    paths = [root / "cat" / "1.jpg", root / "cat" / "2.jpg", root / "dog" / "1.jpg"]
    touch(*paths)
    (tmp_path / "lists").mkdir()
    (root / "link").symlink_to(root / "cat")
    monkeypatch.chdir(tmp_path)
    places = (Path(), tmp_path / "lists", root)
    assert reading.named([line.format(root=root)], paths, places, root) == [True, False, False]


def test_a_line_that_names_nothing_or_two_files_is_refused(tmp_path, monkeypatch):
    root, elsewhere = tmp_path / "pictures", tmp_path / "copies"
    paths = [root / "cat" / "1.jpg", root / "more" / "cat" / "1.jpg"]
    touch(*paths, root / "val" / "2.jpg", elsewhere / "3.jpg")
    monkeypatch.chdir(tmp_path)
    for line in ("cat/7.jpg", "copies/3.jpg"):
        with pytest.raises(ValueError, match=rf"'{line}' names no picture below .*pictures'; looked for it from"):
            reading.named(["cat/1.jpg", line], paths, (Path(), root), root)
    assert reading.named(["val/2.jpg"], paths, (Path(), root), root) == [False, False], (
        "of no class, so left out already"
    )
    with pytest.raises(ValueError, match="write absolute paths"):
        reading.named(["cat/1.jpg"], paths, (root, root / "more"), root)
