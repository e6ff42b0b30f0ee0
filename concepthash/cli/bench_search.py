"""Search on the GPU against search on the CPU: the part of ``--verify`` that needs CUDA."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from concepthash.codes import CodeLayout, Codes
from concepthash.errors import ConceptHashError
from concepthash.runtime.index import HammingIndex
from concepthash.runtime.searcher import Searcher

GALLERY = 200_000
"""Codes that are searched."""
QUERIES = 64
TOP = 100

_TORCH = "pip install 'concepthash[train]'"


def check_search(codes: Codes, layout: CodeLayout, device: str) -> dict[str, str]:
    """Whether the GPU finds what the CPU finds: every id, distance and place.

    Args:
        codes: of a model ``(n, K / 8)``; the gallery is made of them, with bits flipped at random,
            so that it has near hits and ties.
        layout: of the codes.
        device: ``cuda`` or ``cuda:N``, or ``auto`` for the first GPU; ``cpu`` checks nothing.

    Returns:
        ``status`` passed, failed or skipped; ``reason``; and ``try`` where there is something to.
    """
    if device == "cpu":
        return _skipped("--device cpu", "chash bench BUNDLE --verify --device cuda")
    if find_spec("torch") is None:
        return _skipped("torch is not installed", _TORCH)
    import torch

    if not torch.cuda.is_available():
        return _skipped(
            f"torch {torch.__version__} sees no CUDA device",
            "run it on a machine with an NVIDIA GPU; chash doctor",
        )
    from concepthash.gpu import TorchSearcher

    index = HammingIndex(layout.bits, layout.concepts)
    index.add(_gallery(codes))
    try:
        on_gpu = TorchSearcher.of(index, device="cuda" if device == "auto" else device)
        return compare_searchers(index, on_gpu, codes[:QUERIES], on_gpu.backend)
    except ConceptHashError as error:
        return _skipped(error.what, error.hint or "chash doctor")


def compare_searchers(
    index: HammingIndex, other: Searcher, queries: Codes, backend: str
) -> dict[str, str]:
    """Whether another searcher over the same codes, run by ``backend``, gives equal answers."""
    import numpy as np

    layout = index.layout
    asked: dict[str, dict[str, Any]] = {
        "all bits": {},
        "one concept": {"concepts": [0]},
        "weights": {"weights": [2, *[1] * (layout.concepts - 1)]},
        "a radius": {"radius": layout.bits // 8},
    }
    for name, options in asked.items():
        ours, theirs = (s.search(queries, TOP, **options) for s in (index, other))
        for field in ("ids", "distances", "per_concept"):
            if not np.array_equal(getattr(ours, field), getattr(theirs, field)):
                reason = f"{field} differ from those of the CPU when searching by {name}"
                return {"status": "failed", "reason": f"{reason} ({backend})"}
    found = f"{len(queries)} queries over {len(index)} codes, equal to the CPU"
    return {"status": "passed", "reason": f"{found} ({backend})"}


def _gallery(codes: Codes) -> Codes:
    import numpy as np

    random = np.random.default_rng(0)
    copies = codes[random.integers(len(codes), size=GALLERY)]
    noise = [random.integers(256, size=copies.shape, dtype=np.uint8) for _ in range(3)]
    flips: Codes = noise[0] & noise[1] & noise[2]  # one bit in eight
    return copies ^ flips


def _skipped(reason: str, hint: str) -> dict[str, str]:
    return {"status": "skipped", "reason": reason, "try": hint}
