"""The codes that searches are measured on."""

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint8]

CENTRES = 200
FLIPPED = (0.02, 0.10)
WHAT = "clustered: 200 random centres, in each code 2 to 10 % of the bits flipped; random: all bits"


def random_codes(count: int, bits: int = 64, *, seed: int = 0) -> Codes:
    return np.random.default_rng(seed).integers(0, 256, (count, bits // 8), dtype=np.uint8)


def clustered_codes(count: int, bits: int = 64, *, seed: int = 0) -> Codes:
    """The centres are the same for every seed, so queries and codes share them."""
    centres = random_codes(CENTRES, bits, seed=12345)
    rng = np.random.default_rng(seed)
    out = np.empty((count, bits // 8), dtype=np.uint8)
    for first in range(0, count, 1 << 16):
        here = out[first : first + (1 << 16)]
        rate = rng.uniform(*FLIPPED, size=(len(here), 1))
        flips = np.packbits(rng.random((len(here), bits), dtype=np.float32) < rate, axis=1)
        np.bitwise_xor(centres[rng.integers(0, CENTRES, len(here))], flips, out=here)
    return out


KINDS = {"random": random_codes, "clustered": clustered_codes}
