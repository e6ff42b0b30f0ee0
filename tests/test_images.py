import io
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from concepthash.decode import Waits, decode_batches
from concepthash.errors import ImageError, Skipped, UsageError
from concepthash.images import Preprocess, find_images, open_rgb, square

SPEC = Preprocess(resize=32, crop=24)


def photo(width=60, height=40, seed=0):
    """A smooth colourful image, the same on every machine."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_preprocess__resizes_the_short_side_and_crops_the_centre():
    image = photo(80, 40)
    expected = image.resize((64, 32), Image.Resampling.BICUBIC).crop((20, 4, 44, 28))
    assert np.array_equal(SPEC(image), np.asarray(expected))


def test_preprocess__is_the_same_from_path_bytes_array_and_image(tmp_path):
    image = photo()
    (tmp_path / "a.png").write_bytes(encoded(image))
    expected = SPEC(image)
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), encoded(image), np.asarray(image)):
        assert np.array_equal(SPEC(source), expected)


def test_open_rgb__turns_by_exif_orientation():
    image = photo()
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = open_rgb(encoded(image, exif=exif))
    assert turned.size == (40, 60)
    assert np.array_equal(np.asarray(turned), np.rot90(np.asarray(image), -1))


def test_open_rgb__lays_alpha_over_white():
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert np.asarray(open_rgb(encoded(clear))).min() == 255
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([0, 0, 255] * 256)
    assert np.asarray(open_rgb(encoded(palette, transparency=0))).min() == 255
    half = Image.new("LA", (8, 8), (0, 128))
    assert np.asarray(open_rgb(encoded(half)))[0, 0].tolist() == [127] * 3


def test_open_rgb__scales_16_bit_grey():
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    rgb = np.asarray(open_rgb(encoded(Image.fromarray(values))))
    assert np.array_equal(rgb[..., 0], np.rint(values / 257).astype(np.uint8))


def test_open_rgb__converts_cmyk_grey_and_palette():
    image = photo()
    grey = np.asarray(open_rgb(encoded(image.convert("L"))))
    assert np.array_equal(grey[..., 0], np.asarray(image.convert("L")))
    cmyk = np.asarray(open_rgb(encoded(image.convert("CMYK"), "JPEG", quality=95)), dtype=int)
    assert np.abs(cmyk - np.asarray(image, dtype=int)).mean() < 6


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an image"),
        (b"hello", "not an image"),
        (encoded(photo())[:200], "decode"),
        (encoded(photo(), "JPEG")[:300], "decode"),
    ],
)
def test_open_rgb__says_why_a_file_cannot_be_decoded(data, reason):
    with pytest.raises(ImageError, match=reason):
        open_rgb(data)


def test_open_rgb__refuses_a_decompression_bomb(monkeypatch):
    monkeypatch.setattr("concepthash.images.MAX_PIXELS", 100)
    with pytest.raises(ImageError, match="more than 100 pixels"):
        open_rgb(encoded(photo()))


def test_open_rgb__says_so_too_where_pillow_refuses_first(monkeypatch):
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="more than 178,956,970 pixels"):
        open_rgb(encoded(photo()))


def test_open_rgb__missing_file_and_wrong_array(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        open_rgb(tmp_path / "none.jpg")
    with pytest.raises(ImageError, match="float"):
        open_rgb(np.zeros((4, 4, 3)))


def test_draft__changes_a_large_jpeg_by_rounding_only():
    data = encoded(photo(1600, 1200), "JPEG", quality=95)
    spec = Preprocess(resize=128, crop=112)
    full = square(open_rgb(data), spec).astype(int)
    with Image.open(io.BytesIO(data)) as image:
        image.draft(None, (512, 512))
        assert image.size == (800, 600)  # the reduced path is really taken
    assert np.abs(spec(data).astype(int) - full).max() <= 3


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("size", [(1601, 1203), (1202, 1601), (4099, 2605)])
def test_draft__keeps_the_place_of_a_photo_whose_sides_are_odd(turn, size):
    """A side that is rounded up to the reduced scale must not shift or stretch what is cropped."""
    exif = Image.Exif()
    exif[0x0112] = turn
    cells = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    image = Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)
    data = encoded(image, "JPEG", quality=95, exif=exif)
    spec = Preprocess(resize=128, crop=128)
    difference = np.abs(spec(data).astype(int) - square(open_rgb(data), spec))
    assert difference.max() <= 2
    assert difference.any()  # the reduced path is really taken


def test_preprocess__refuses_a_crop_that_does_not_fit():
    with pytest.raises(UsageError, match="crop"):
        Preprocess(resize=100, crop=120)


def test_find_images__walks_in_order_and_leaves_hidden_files_out(tmp_path):
    for name in ("b/2.jpg", "a/1.PNG", ".hidden/3.jpg", "a/.4.jpg", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    found = [p.relative_to(tmp_path).as_posix() for p in find_images([tmp_path])]
    assert [name for name in found if "loop" not in name] == ["a/1.PNG", "b/2.jpg"]
    assert len({Path(p).name for p in found}) == 2
    with pytest.raises(UsageError, match="no such"):
        list(find_images([tmp_path / "none"]))


def test_decode_batches__keeps_order_and_reports_failures():
    good = encoded(photo(seed=1))
    sources = [good, b"broken", *[encoded(photo(seed=i)) for i in range(5)]]
    batches = list(decode_batches(sources, SPEC, batch_size=3, threads=2))
    assert [b.positions for b in batches] == [[0, 2], [3, 4, 5], [6]]
    assert [[p for p, _ in b.failed] for b in batches] == [[1], [], []]
    assert np.array_equal(batches[2].pixels[0], SPEC(sources[6]))


def test_decode_batches__reads_an_endless_source_only_a_little_ahead():
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield np.zeros((40, 40, 3), np.uint8)

    stream = decode_batches(endless(), SPEC, batch_size=4, threads=1)
    next(stream)
    next(stream)
    stream.close()
    assert taken <= 16


def test_decode_batches__holds_no_more_bytes_than_allowed(monkeypatch):
    """Of sources in memory and of prepared pixels, and yet every photo comes."""
    taken = 0

    def large(count):
        nonlocal taken
        for _ in range(count):
            taken += 1
            yield np.zeros((100, 100, 3), np.uint8)

    each = 100 * 100 * 3 + 24 * 24 * 3
    monkeypatch.setattr("concepthash.decode.BYTES_AHEAD", 5 * each)
    for batch_size, first in ((2, 2), (100, 5)):
        taken = 0
        stream = decode_batches(large(10**9), SPEC, batch_size=batch_size, threads=1)
        assert len(next(stream).positions) == first
        assert taken == 5
        next(stream)
        stream.close()
        assert taken <= 5 + first
    monkeypatch.setattr("concepthash.decode.BYTES_AHEAD", 1)
    batches = list(decode_batches(large(3), SPEC, batch_size=2, threads=1))
    assert [batch.positions for batch in batches] == [[0], [1], [2]]


def test_decode_batches__says_what_was_waited_for():
    class FakePreprocess(Preprocess):
        """A fake that takes its time over each photo."""

        def __call__(self, source):
            time.sleep(0.02)
            return super().__call__(source)

    def slow(count):
        for _ in range(count):
            time.sleep(0.02)
            yield photo()

    slow_spec, waits = FakePreprocess(32, 24), Waits()
    list(decode_batches([photo()] * 6, slow_spec, batch_size=2, threads=1, waits=waits))
    assert waits.longest == "decoding"
    assert waits.model == 0
    waits = Waits()
    list(decode_batches(slow(6), SPEC, batch_size=2, threads=1, waits=waits))
    assert waits.longest == "files"


def test_open_rgb__does_not_wait_for_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="regular"):
        open_rgb(tmp_path / "pipe.jpg")
    skipped = Skipped()
    assert list(find_images([tmp_path], skipped)) == []
    assert [item.reason for item in skipped.items] == ["not a regular file"]
