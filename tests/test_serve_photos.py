"""Photos from strangers: judged by their headers, decoded within bounds."""

import asyncio
import io
import os
import struct
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from colour_bundle import SIDE
from PIL import ExifTags, Image
from serve_gallery import encoded

from concepthash.bounds import MOST_SCANS, Room
from concepthash.errors import ImageError
from concepthash.images import Preprocess
from concepthash.serve import photos
from concepthash.serve.photos import Decoder, TooLarge
from concepthash.serve.thumbnails import Thumbnails

SPEC = Preprocess(SIDE, SIDE)


TURNED = Image.Exif()
TURNED[ExifTags.Base.Orientation] = 6


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def saved(image: Image.Image, form: str, **how: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **how)
    return file.getvalue()


def upload(image: bytes, *, pixels: int = 100_000) -> np.ndarray:
    async def run() -> np.ndarray:
        decoder = Decoder(SPEC, threads=1, pixels=pixels)
        try:
            return await decoder.upload(image)
        finally:
            decoder.close()

    return asyncio.run(run())


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" * 1000))]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IEND", b"")])


@pytest.mark.parametrize(
    "image",
    [
        saved(Image.fromarray(noise(90, 70, 3)), "JPEG", exif=TURNED),
        saved(Image.fromarray(noise(300, 260, 3)), "JPEG", quality=95),
        saved(Image.fromarray(noise(90, 70, 3)).convert("CMYK"), "JPEG"),
        saved(Image.fromarray(noise(40, 70, 4)), "PNG"),
        saved(Image.fromarray(noise(40, 70).astype(np.uint16) * 257), "PNG"),
        saved(Image.fromarray(noise(40, 70, 3)).quantize(16), "GIF"),
        saved(Image.fromarray(noise(40, 70, 4)), "WEBP", lossless=True),
        saved(Image.fromarray(noise(40, 70, 3)), "BMP"),
        saved(Image.fromarray(noise(40, 70).astype(np.float32)), "TIFF"),
    ],
    ids=["jpeg", "large-jpeg", "cmyk", "alpha", "16-bit", "gif", "webp", "bmp", "float"],
)
def test_upload__has_the_pixels_of_a_query_by_file(image: bytes) -> None:
    assert np.array_equal(upload(image), SPEC(image))


def test_upload__of_an_animation_is_its_first_frame() -> None:
    frames = [Image.fromarray(np.full((SIDE, SIDE, 3), v, np.uint8)) for v in (10, 200)]
    image = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert upload(image).max() < 20


@pytest.mark.parametrize(
    ("image", "weight"),
    [
        (encoded(noise(50, 40, 3)), 1),
        (encoded(noise(50, 40, 4)), 2),
        (saved(Image.fromarray(noise(50, 40)).convert("P"), "PNG", transparency=0), 2),
        (saved(Image.fromarray(noise(50, 40).astype(np.uint16) * 257), "PNG"), 4),
        (saved(Image.fromarray(noise(50, 40).astype(np.float32)), "TIFF"), 4),
    ],
    ids=["rgb", "alpha", "transparency", "16-bit", "float"],
)
def test_upload__counts_pixels_by_the_memory_they_take(image: bytes, weight: int) -> None:
    assert upload(image, pixels=2000 * weight).shape == (SIDE, SIDE, 3)
    with pytest.raises(TooLarge, match="40x50"):
        upload(image, pixels=2000 * weight - 1)


@pytest.mark.parametrize("size", [(1000, 1000), (13_000, 13_000), (60_000, 60_000), (2**31 - 1, 1)])
def test_upload__refuses_a_bomb_before_it_is_decoded(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Preprocess, source: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Preprocess, "__call__", fail)
    with pytest.raises(TooLarge):
        upload(bomb(*size))


def test_upload__refuses_a_jpeg_of_endless_scans() -> None:
    image = saved(Image.fromarray(noise(64, 64, 3)), "JPEG", progressive=True)
    at = image.rindex(b"\xff\xda")
    scan, end = image[at:-2], image[-2:]
    assert upload(image).shape == (SIDE, SIDE, 3)
    with pytest.raises(ImageError, match="scans"):
        upload(image[:at] + scan * MOST_SCANS + end)


@pytest.mark.parametrize(
    "image",
    [
        b"",
        b"\0",
        b"GIF89a",
        b"not an image at all" * 100,
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n",
        b"P6 32 32 255\n" + bytes(3 * 32 * 32),
        saved(Image.fromarray(noise(32, 32, 4)), "ICO"),
        encoded(noise(40, 40, 3), "JPEG")[:-400],
        encoded(noise(40, 40, 3), "PNG")[:-400],
        encoded(noise(40, 40, 3), "WEBP")[:-400],
        encoded(noise(40, 40, 3), "TIFF")[:-400],
        bomb(100, 100),
        b"\xff\xd8" + os.urandom(2000),
        b"RIFF\xff\xff\xff\x7fWEBPVP8X" + bytes(200),
        b"II*\0\x08\0\0\0\xff\xff" + bytes(200),
    ],
    ids=[
        *("empty", "zero", "gif-head", "text", "eps", "ppm", "ico", "jpeg-cut", "png-cut"),
        *("webp-cut", "tiff-cut", "png-short", "jpeg-noise", "webp-zeros", "tiff-tags"),
    ],
)
def test_upload__answers_what_is_no_image_with_an_image_error(image: bytes) -> None:
    with pytest.raises(ImageError):
        upload(image)


def test_upload__turns_any_other_failure_into_an_image_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(self: Preprocess, source: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Preprocess, "__call__", fail)
    with pytest.raises(ImageError, match="MemoryError"):
        upload(encoded(noise(40, 40, 3)))


def test_decoder__lets_go_of_the_photo_of_a_cancelled_request() -> None:
    class FakeUpload(bytes):
        """Bytes whose end can be seen."""

        gone = threading.Event()

        def __del__(self) -> None:
            self.gone.set()

    async def run() -> None:
        decoder = Decoder(SPEC, threads=1, pixels=100)
        blocked = threading.Event()
        first = asyncio.ensure_future(decoder.file(Path(), lambda _: blocked.wait(30)))
        second = asyncio.ensure_future(decoder.upload(FakeUpload(b"x")))
        await asyncio.sleep(0.05)
        second.cancel()
        await asyncio.wait([second])
        assert second.cancelled()
        del second
        try:
            assert FakeUpload.gone.is_set()
        finally:
            blocked.set()
            await first
            decoder.close()

    asyncio.run(run())


def test_room__is_never_taken_twice_and_lets_the_largest_in_alone() -> None:
    room = Room(10)
    most, now, lock = 0, 0, threading.Lock()

    def take(count: int) -> None:
        nonlocal most, now
        with room.taking(count):
            with lock:
                now += min(count, 10)
                most = max(most, now)
            time.sleep(0.001)
            with lock:
                now -= min(count, 10)

    threads = [threading.Thread(target=take, args=(n,)) for n in [3, 4, 5, 6, 99, 7, 1] * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert most <= 10
    assert now == 0


class TestThumbnails:
    def make(self, most: int = 1 << 20) -> tuple[Thumbnails, Decoder]:
        return Thumbnails(SPEC, most=most), Decoder(SPEC, threads=1, pixels=10_000)

    def test_thumbnail__of_the_crop_is_the_square_that_the_model_sees(self, tmp_path: Path) -> None:
        file, pixels = tmp_path / "a.png", np.zeros((64, 200, 3), np.uint8)
        pixels[:, 66:134] = 250  # the centre, and what the filter takes from beside it
        file.write_bytes(encoded(pixels))
        thumbnails, decoder = self.make()
        for size in (16, 48, 224):
            jpeg = thumbnails.get(file, size, "crop", decoder.make)
            shown = np.asarray(Image.open(io.BytesIO(jpeg)))
            assert shown.shape == (size, size, 3)
            assert shown.min() > 200

    def test_thumbnail__of_the_whole_keeps_the_sides_and_never_grows(self, tmp_path: Path) -> None:
        file = tmp_path / "a.png"
        file.write_bytes(encoded(noise(50, 200, 3)))
        thumbnails, decoder = self.make()
        for size, expected in ((100, (100, 25)), (1000, (200, 50))):
            jpeg = thumbnails.get(file, size, "whole", decoder.make)
            with Image.open(io.BytesIO(jpeg)) as image:
                assert image.format == "JPEG"
                assert image.size == expected

    def test_thumbnail__follows_its_file(self, tmp_path: Path) -> None:
        file = tmp_path / "a.png"
        file.write_bytes(encoded(noise(40, 40, 3)))
        thumbnails, decoder = self.make()
        first = thumbnails.get(file, 32, "crop", decoder.make)
        assert thumbnails.get(file, 32, "crop", decoder.make) == first
        assert thumbnails.drawn == 1
        file.write_bytes(encoded(noise(40, 41, 3)))
        assert thumbnails.get(file, 32, "crop", decoder.make) != first
        file.write_bytes(b"no image")
        with pytest.raises(ImageError):
            thumbnails.get(file, 32, "crop", decoder.make)
        file.unlink()
        with pytest.raises(ImageError):
            thumbnails.get(file, 32, "crop", decoder.make)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
    def test_thumbnail__does_not_wait_for_a_pipe(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "a.png")
        thumbnails, decoder = self.make()
        with pytest.raises(ImageError, match="regular"):
            thumbnails.get(tmp_path / "a.png", 32, "crop", decoder.make)

    def test_thumbnails__are_kept_in_bounded_memory(self, tmp_path: Path) -> None:
        thumbnails, decoder = self.make(most=4000)
        files = [tmp_path / f"{number}.png" for number in range(8)]
        for file in files:
            file.write_bytes(encoded(noise(40, 40, 3)))
            thumbnails.get(file, 32, "crop", decoder.make)
            assert thumbnails.bytes == sum(map(len, thumbnails._kept.values())) <= 4000
        drawn = thumbnails.drawn
        thumbnails.get(files[-1], 32, "crop", decoder.make)
        assert thumbnails.drawn == drawn
        thumbnails.get(files[0], 32, "crop", decoder.make)
        assert thumbnails.drawn == drawn + 1


def test_formats__leave_out_what_runs_programs() -> None:
    assert not {"EPS", "ICO", "ICNS", "PDF"} & set(photos.FORMATS)
