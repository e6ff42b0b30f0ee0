"""Reduced-scale decoding of large JPEGs: what it saves and what it changes in the pixels."""

import io
import statistics

import numpy as np
from PIL import Image

from benchmarks.report import interleaved, write
from concepthash.demo import draw_bird, species
from concepthash.images import Preprocess, open_rgb, square

SPEC = Preprocess()


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


def main() -> None:
    rows = []
    for side in (600, 1200, 2400, 3600):
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
    write(
        "decode",
        {
            "what": "drawn birds as camera JPEGs to 224 x 224; difference in 8-bit levels",
            "rows": rows,
            "median_speed_up": statistics.median(row["speed_up"] for row in rows),
        },
    )


if __name__ == "__main__":
    main()
