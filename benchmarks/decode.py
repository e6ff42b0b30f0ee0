"""Decoding of JPEGs: what a reduced scale saves, what it changes in pixels and in bits, and whether
another decoder than Pillow's would be faster. ``python -m benchmarks.decode [BUNDLE]``."""

import importlib
import io
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image, features

import concepthash.images
from benchmarks.report import SHARED, interleaved, write
from concepthash.demo import draw_bird, species
from concepthash.images import Preprocess, find_images, open_rgb, square
from concepthash.runtime.hasher import Hasher

SPEC = Preprocess()
ENLARGED = 96
"""Real photos that margins are compared on."""


def camera_photo(seed: int, side: int, noise: float) -> bytes:
    """A drawn bird as a camera file: large, JPEG quality 92, with sensor noise."""
    bird = draw_bird(species(8)[seed % 8], seed=seed, size=1024).image
    large = bird.resize((side * 4 // 3, side), Image.Resampling.BICUBIC)
    grain = np.random.default_rng(seed).normal(0, noise, (side, side * 4 // 3, 3))
    pixels = np.clip(np.asarray(large) + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def difference(data: bytes) -> np.ndarray:
    full = square(open_rgb(data), SPEC).astype(int)
    return np.abs(SPEC(data).astype(int) - full)


def reduced_rows() -> list[dict]:
    rows = []
    for side in (600, 1200, 2400, 2401, 3600):
        photos = [camera_photo(seed, side, noise=4.0) for seed in range(4)]
        changed = [difference(data) for data in photos]
        seconds = interleaved(
            {
                "reduced": lambda photos=photos: [SPEC(data) for data in photos],
                "full": lambda photos=photos: [square(open_rgb(data), SPEC) for data in photos],
            },
            repeats=5,
        )
        rows.append(
            {
                "short_side": side,
                "reduced_ms": seconds["reduced"] / len(photos) * 1e3,
                "full_ms": seconds["full"] / len(photos) * 1e3,
                "speed_up": seconds["full"] / seconds["reduced"],
                "mean_difference": float(np.mean([d.mean() for d in changed])),
                "p99_difference": float(np.mean([np.percentile(d, 99) for d in changed])),
                "largest_difference": int(max(d.max() for d in changed)),
            }
        )
    return rows


def enlarged(photo: Path, short_side: int, odd: int) -> bytes:
    """A small photo as a large camera file, with grain; both sides even, plus ``odd``."""
    image = open_rgb(photo)
    scale = short_side / min(image.size)
    size = tuple(16 * round(side * scale / 16) + odd for side in image.size)
    large = np.asarray(image.resize(size, Image.Resampling.LANCZOS), np.float32)
    grain = np.random.default_rng(0).normal(0, 3, (*large.shape[:2], 1)).astype(np.float32)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(large + grain, 0, 255).astype(np.uint8)).save(
        buffer, "JPEG", quality=92
    )
    return buffer.getvalue()


def margin_rows(bundle: str) -> list[dict]:
    """What margins change in pixels and in codes of a real model, beside noise of one level."""
    hasher, rows = Hasher(bundle), []
    spec, kept = hasher.preprocess, concepthash.images.DRAFT_MARGIN
    photos = list(find_images([SHARED / "data" / "cub20" / "images"]))
    photos = photos[:: len(photos) // ENLARGED][:ENLARGED]

    def codes(pixels: np.ndarray) -> np.ndarray:
        return np.stack([hasher.encode(one[None]).codes[0] for one in pixels])

    def compare(what: str, short_side: int, odd: int, pixels: np.ndarray) -> None:
        change = np.abs(pixels.astype(int) - full)
        rows.append(
            {
                "what": what,
                "short_side": short_side + odd,
                "mean_difference": float(change.mean()),
                "p99_difference": float(np.percentile(change, 99)),
                "largest_difference": int(change.max()),
                "flipped_bits": int(np.unpackbits(codes(pixels) ^ right).sum()),
                "bits": right.size * 8,
            }
        )

    for short_side, odd in ((2112, 0), (2112, 1), (3008, 0), (3008, 1)):
        files = [enlarged(photo, short_side, odd) for photo in photos]
        full = np.stack([square(open_rgb(data), spec) for data in files])
        right = codes(full)
        for margin in (4.0, 2.0, 1.0):
            concepthash.images.DRAFT_MARGIN = margin
            pixels = np.stack([spec(data) for data in files])
            compare(f"margin {margin}", short_side, odd, pixels)
        concepthash.images.DRAFT_MARGIN = kept
        off = np.random.default_rng(0).choice([-1, 0, 1], full.shape, p=[0.075, 0.85, 0.075])
        noisy = np.clip(full + off, 0, 255).astype(np.uint8)
        compare("15 % of the values one level off", short_side, odd, noisy)
    return rows


def scale(data: bytes) -> tuple[int, int, int]:
    """Width, height and the scale that Pillow takes; any decoder needs its header for the EXIF."""
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        wanted = round(SPEC.resize * concepthash.images.DRAFT_MARGIN)
        image.draft(None, (wanted, wanted))
        return width, height, round(width / image.width)


def by_simplejpeg(simplejpeg: ModuleType, data: bytes) -> np.ndarray:
    width, height, by = scale(data)
    least = {"min_height": -(-height // by), "min_width": -(-width // by)} if by > 1 else {}
    return square(Image.fromarray(simplejpeg.decode_jpeg(data, "RGB", **least)), SPEC)


def by_opencv(cv2: ModuleType, data: bytes) -> np.ndarray:
    by = scale(data)[2]
    flag = cv2.IMREAD_COLOR if by == 1 else getattr(cv2, f"IMREAD_REDUCED_COLOR_{by}")
    array = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    return square(Image.fromarray(cv2.cvtColor(array, cv2.COLOR_BGR2RGB)), SPEC)


def decoders() -> dict[str, Callable[[bytes], np.ndarray]]:
    """Whole paths from a file to the square, by each decoder that is installed."""
    found: dict[str, Callable[[bytes], np.ndarray]] = {"Pillow": SPEC}
    for name, path in (("simplejpeg", by_simplejpeg), ("cv2", by_opencv)):
        try:
            found[name] = partial(path, importlib.import_module(name))
        except ImportError:
            continue
    return found


def decoder_rows() -> list[dict]:
    """Each decoder on small and on large files, resize included."""
    rows, paths = [], decoders()
    large = [camera_photo(seed, 3000, noise=4.0) for seed in range(4)]
    small = [camera_photo(seed, 256, noise=4.0) for seed in range(4)] * 50
    for kind, files in (("256 px", small), ("12 megapixels", large * 3)):
        expected = [SPEC(data) for data in files[:4]]
        for threads in (1, 2):
            with ThreadPoolExecutor(threads) as pool:
                seconds = interleaved(
                    {
                        name: lambda path=path, files=files, pool=pool: list(pool.map(path, files))
                        for name, path in paths.items()
                    },
                    repeats=5,
                )
            for name, path in paths.items():
                pairs = zip(map(path, files[:4]), expected, strict=True)
                rows.append(
                    {
                        "photos": kind,
                        "threads": threads,
                        "decoder": name,
                        "ms": seconds[name] / len(files) * 1e3,
                        "speed_up_over_pillow": seconds["Pillow"] / seconds[name],
                        "largest_difference": max(
                            int(np.abs(got.astype(int) - want).max()) for got, want in pairs
                        ),
                    }
                )
    return rows


def main(bundle: str = "runs/cub20.chb") -> None:
    rows = reduced_rows()
    margins = SHARED.exists() and Path(bundle).exists()
    write(
        "decode",
        {
            "what": "drawn birds as camera JPEGs to 224 x 224; difference in 8-bit levels",
            "libjpeg_turbo": features.version_feature("libjpeg_turbo"),
            "rows": rows,
            "median_speed_up": statistics.median(row["speed_up"] for row in rows),
            "decoders": decoder_rows(),
            "margins": margin_rows(bundle) if margins else "skipped: no photos or no bundle here",
        },
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
