"""The parity gate: is the exported model the model, in bits and in ranks?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from concepthash.codes import CodeLayout, Codes, hamming, pack, unpack
from concepthash.encoder import Encoded
from concepthash.errors import GateError
from concepthash.evaluation import evaluate
from concepthash.learn.model import Output
from concepthash.rankings import Labels

ZERO_MARGIN = 1e-4
"""A logit this near 0 may fall on either side by rounding alone; larger flips are errors."""

MOST_FLIPS = 1e-3
LEAST_OVERLAP = 0.99
"""What rounding at zero margin can do at most, of all bits and of the first hits."""

OUTPUT_TOLERANCE = 1e-2
"""Largest difference of a logit or map value between network and graph, both in fp32."""

TOP = 10

_REPORT = "chash doctor shows the versions of torch, onnx and onnxruntime to report"


@dataclass(frozen=True)
class Parity:
    """How an artefact compares with the network it was made from.

    Args:
        images: how many were compared.
        bits_flipped: share of all bits that differ.
        per_concept: the same, of each concept's bits.
        largest_margin: largest \\|logit\\| of a flipped bit in the network; 0 without flips.
        top10_overlap: mean share of common ids among the first 10 hits, each image against the
            others, ties by id.
        map_delta: expected mAP of the artefact's codes minus that of the network's.
        backend: what ran the artefact.
    """

    images: int
    bits_flipped: float
    per_concept: tuple[float, ...]
    largest_margin: float
    top10_overlap: float
    map_delta: float
    backend: str

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"parity on {self.images} photos, {self.backend}: bits flipped "
            f"{self.bits_flipped:.4%}, top-10 overlap {self.top10_overlap:.4f}, "
            f"mAP {self.map_delta:+.5f}"
        )


def compare(
    codes: Codes,
    reference_logits: npt.NDArray[np.float32],
    labels: Labels,
    *,
    layout: CodeLayout,
    backend: str,
) -> Parity:
    """Compare an artefact's codes with the network's on the same ``n`` photos.

    Args:
        codes: of the artefact, ``(n, K/8)``.
        reference_logits: of the network, ``(n, K)``; its codes follow from them.
        labels: ``(n,)``, for the mAP, each photo searching the others.
    """
    reference = pack(reference_logits)
    flipped = unpack(codes) != unpack(reference)
    margins = np.abs(reference_logits)[flipped]
    shares = [float(flipped[:, layout.concept_slice(m)].mean()) for m in range(layout.concepts)]
    return Parity(
        images=len(codes),
        bits_flipped=float(flipped.mean()),
        per_concept=tuple(shares),
        largest_margin=float(margins.max(initial=0.0)),
        top10_overlap=_overlap(_top(reference), _top(codes)),
        map_delta=_map_delta(codes, reference, labels, layout),
        backend=backend,
    )


def _top(codes: Codes) -> npt.NDArray[np.intp]:
    """The first hits of each code among the others, by (distance, id)."""
    distances = hamming(codes, codes)
    np.fill_diagonal(distances, codes.shape[1] * 8 + 1)
    return np.argsort(distances, axis=1, kind="stable")[:, : min(TOP, len(codes) - 1)]


def _overlap(a: npt.NDArray[np.intp], b: npt.NDArray[np.intp]) -> float:
    common = [len(np.intersect1d(x, y)) / len(x) for x, y in zip(a, b, strict=True)]
    return float(np.mean(common))


def _map_delta(codes: Codes, reference: Codes, labels: Labels, layout: CodeLayout) -> float:
    if len(np.unique(labels)) == len(labels):
        return 0.0  # one photo a class: nothing can be found, by either
    after, before = (
        evaluate(c, labels, c, labels, layout=layout, exclude_self=True).map.expected
        for c in (codes, reference)
    )
    return after - before


def check_outputs(expected: Output, found: Encoded, *, where: object) -> None:
    """Compare the logits and maps of one batch, which the codes alone do not show.

    Args:
        expected: of the network.
        found: of the exported graph, for the same photos.

    Raises:
        GateError: if they differ by more than rounding, or are not finite.
    """
    pairs = {"logits": (found.logits, expected.logits), "maps": (found.attention, expected.maps)}
    if found.background is not None and expected.background is not None:
        pairs["background"] = (found.background, expected.background)
    for name, (ours, theirs) in pairs.items():
        difference = float(np.abs(ours - theirs.numpy()).max(initial=0.0))
        if not difference <= OUTPUT_TOLERANCE:  # also if it is not a number
            raise GateError(
                f"the {name} of the exported graph differ by {difference:.2g}; nothing was written",
                where=where,
                hint=_REPORT,
            )


def gate(parity: Parity, *, where: object) -> None:
    """Let only an artefact pass whose flips are rounding at zero margin.

    Raises:
        GateError: with the figures.
    """
    passed = (
        parity.largest_margin <= ZERO_MARGIN
        and parity.bits_flipped <= MOST_FLIPS
        and parity.top10_overlap >= LEAST_OVERLAP
    )
    if not passed:
        raise GateError(
            f"the exported model is not the model: {parity.bits_flipped:.3%} of the bits flipped, "
            f"up to |logit| {parity.largest_margin:.2g}, top-10 overlap "
            f"{parity.top10_overlap:.3f}; nothing was written",
            where=where,
            hint=_REPORT,
        )
