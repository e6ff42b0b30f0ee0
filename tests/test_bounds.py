"""What a hostile image may cost: passes of a JPEG, memory on the way to RGB, other programs."""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from concepthash import images, rgb
from concepthash.bounds import MOST_SCANS, too_many_scans
from concepthash.errors import ImageError, UsageError
from concepthash.images import Preprocess, open_rgb


def saved(image: Image.Image, form: str = "JPEG", **how: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **how)
    return file.getvalue()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


PHOTO = Image.fromarray(noise(64, 48, 3))
PROGRESSIVE = saved(PHOTO, progressive=True)


def repeated(times: int) -> bytes:
    """A progressive JPEG whose last scan comes again."""
    at = PROGRESSIVE.rindex(b"\xff\xda")
    return PROGRESSIVE[:-2] + PROGRESSIVE[at:-2] * times + PROGRESSIVE[-2:]


def test_scans__a_bomb_is_refused_as_a_file_and_as_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(repeated(MOST_SCANS))
    for source in (repeated(MOST_SCANS), tmp_path / "a.jpg"):
        with pytest.raises(ImageError, match="scans"):
            open_rgb(source)
    assert open_rgb(repeated(5)).size == (48, 64)


def test_scans__what_follows_the_photo_does_not_count() -> None:
    """Phones put a film there, and hundreds of its bytes look like the start of a scan."""
    film = b"\xff\xda" * 1000
    for photo in (PROGRESSIVE, saved(PHOTO), saved(PHOTO.convert("CMYK"))):
        assert open_rgb(photo + film).size == (48, 64)


def test_scans__of_a_usual_jpeg_only_the_header_is_read() -> None:
    file = io.BytesIO(saved(PHOTO) + bytes(1 << 20))
    assert not too_many_scans(file)
    assert file.tell() == 0


def test_scans__segments_longer_than_what_is_read_at_once() -> None:
    exif = b"\xff\xe1" + struct.pack(">H", 65000) + b"\xff\xda" * 32499
    data = repeated(MOST_SCANS)
    assert too_many_scans(io.BytesIO(data[:2] + exif * 5 + data[2:]))
    assert not too_many_scans(io.BytesIO(PROGRESSIVE[:2] + exif * 5 + PROGRESSIVE[2:]))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16", "I", "F"])
def test_to_rgb__by_bands_is_the_same(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if mode in ("RGBA", "LA"):
        image = Image.fromarray(noise(50, 30, 4), "RGBA").convert(mode)
    else:
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray((noise(50, 30).astype(np.int64) * 257).astype(kind))
    assert image.mode == mode
    whole = np.asarray(rgb.to_rgb(image))
    monkeypatch.setattr(rgb, "_BAND", 7 * 30)
    np.testing.assert_array_equal(np.asarray(rgb.to_rgb(image)), whole)


def test_to_rgb__numbers_that_are_none_are_no_warning() -> None:
    values = np.full((8, 8), 0.5, np.float32)
    values.view(np.uint32)[0, 0] = 0x7F800001  # a signalling NaN
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.asarray(rgb.to_rgb(Image.fromarray(values)))[1, 1].tolist() == [128] * 3


def test_open_rgb__starts_no_other_program() -> None:
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n"
    with pytest.raises(ImageError, match="other programs"):
        open_rgb(text)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, which images.py turns off
@pytest.mark.parametrize("kind", [3, 4, 99])
def test_open_rgb__turns_a_photo_whose_other_metadata_are_broken(kind: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    whole = saved(PHOTO, quality=95, exif=exif)
    at = whole.index(b"Exif\0\0")
    entries = struct.pack("<HHIHH", 274, 3, 1, 6, 0) + struct.pack("<HHII", 40_000, kind, 9, 2**31)
    body = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + bytes(4)
    length = struct.unpack(">H", whole[at - 2 : at])[0]
    broken = whole[: at - 2] + struct.pack(">H", len(body) + 2) + body + whole[at - 2 + length :]
    assert open_rgb(broken).size == (64, 48)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_open_rgb__unreadable_metadata_leave_a_photo_upright() -> None:
    data = saved(PHOTO)
    body = b"Exif\0\0" + os.urandom(60)
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    assert open_rgb(data).size == (48, 64)


def test_large_images__wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    most = now = 0
    lock = threading.Lock()
    real = images.square

    def square(*arguments: object) -> np.ndarray:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        try:
            threading.Event().wait(0.02)
            return real(*arguments)
        finally:
            with lock:
                now -= 1

    monkeypatch.setattr(images, "square", square)
    monkeypatch.setattr(images, "_LARGE", 1000)
    monkeypatch.setattr(images, "_large_ones", images.Room(64 * 48))
    data = saved(PHOTO, "PNG")
    threads = [threading.Thread(target=Preprocess(32, 32), args=(data,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


@pytest.mark.parametrize("side", [32.5, True, "32", 2**40, None])
def test_preprocess__refuses_sides_that_cannot_be(side: object) -> None:
    with pytest.raises(UsageError):
        Preprocess.from_json({"resize": side, "crop": 16})
