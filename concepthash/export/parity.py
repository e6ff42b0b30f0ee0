"""The parity gate: is the exported model the model, in bits and in ranks?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from concepthash.bundle import Artifact
from concepthash.codes import CodeLayout, Codes, hamming, pack, unpack
from concepthash.encoder import Encoded, Encoder
from concepthash.errors import GateError
from concepthash.evaluation import evaluate
from concepthash.images import Pixels
from concepthash.limits import ZERO_MARGIN, Flips, Limits
from concepthash.rankings import Labels

if TYPE_CHECKING:
    from concepthash.export.blame import Blame

SCHEMA = "chash.parity/1"

OUTPUT_TOLERANCE = 1e-2
"""Largest difference of a logit or map value between network and graph, both in fp32."""

TOP = 10
BATCH = 16
MATES = 8
"""Photos that are encoded alone and together: a code must not depend on its batch mates."""

_EDGES = (0.0, 1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0)
_LAYERS_NAMED = 5


@dataclass(frozen=True)
class Parity:
    """How an artefact compares with the network it was made from.

    Args:
        images: how many were compared.
        bits_flipped: share of all bits that differ.
        per_concept: the same, of each concept's bits.
        largest_margin: largest \\|logit\\| of a flipped bit in the network; 0 without flips.
        margins: how many flipped bits have a \\|logit\\| up to each of some bounds, and beyond.
        top10_overlap: mean share of common ids among the first 10 hits, each image against the
            others, ties by id.
        map_delta: expected mAP of the artefact's codes minus that of the network's.
        backend: what ran the artefact.
        mates: bits that depend on what else is in the batch, away from zero margin.
        unseen_bits_flipped: share of bits that differ on photos of the test split, on which
            logits lie nearer to 0; for information, and None without such photos.
        drawn_bits_flipped: the same on drawn birds: what ``chash bench --verify`` expects to find
            again on another machine that has no photos.
    """

    images: int
    bits_flipped: float
    per_concept: tuple[float, ...]
    largest_margin: float
    top10_overlap: float
    map_delta: float
    backend: str
    margins: dict[str, int] = field(default_factory=dict)
    mates: int = 0
    unseen_bits_flipped: float | None = None
    drawn_bits_flipped: float | None = None

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self)

    def __str__(self) -> str:
        unseen = self.unseen_bits_flipped
        beside = "" if unseen is None else f" ({unseen:.4%} on test photos)"
        return (
            f"parity on {self.images} photos, {self.backend}: bits flipped "
            f"{self.bits_flipped:.4%}{beside}, top-10 overlap {self.top10_overlap:.4f}, "
            f"mAP {self.map_delta:+.5f}"
        )


@dataclass(frozen=True)
class Checked:
    """An artefact that passed its gate.

    Args:
        artifact: what it is.
        parity: how it compares.
        limits: what it was held to.
        blame: the layers that change the logits most, the worst first; empty if none was asked.
        kept: layers that compute in fp32 all the same.
        ran: whether the artefact itself was run; else the graph it was built from.
    """

    artifact: Artifact
    parity: Parity
    limits: Limits
    blame: tuple[Blame, ...] = ()
    kept: tuple[str, ...] = ()
    ran: bool = True

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values, flat but for the limits and the layers."""
        return {
            **asdict(self.artifact),
            **self.parity.to_json(),
            "limits": asdict(self.limits),
            "worst_layers": [asdict(found) for found in self.blame[:_LAYERS_NAMED]],
            "kept_in_fp32": list(self.kept),
            "ran": self.ran,
        }

    def __str__(self) -> str:
        verdict = "PASS" if self.ran else "PASS for its graph; the engine itself was not run"
        kept = [layer.removeprefix("encoder.") for layer in self.kept]
        beside = f"; in fp32: {', '.join(kept)}" if kept else ""
        return f"{self.artifact}: {self.parity}{beside}, {verdict}"


@dataclass(frozen=True)
class Reference:
    """What the network says of a sample of photos.

    Args:
        pixels: ``(n, H, W, 3)`` uint8, prepared.
        labels: ``(n,)``, for the mAP, each photo searching the others.
        logits: ``(n, K)``.
        layout: of the codes.
        encoded: all outputs for the first photos, to compare maps.
        unseen, unseen_logits: the same of test photos; empty if there are none.
        drawn, drawn_logits: the same of drawn birds.
    """

    pixels: Pixels
    labels: Labels
    logits: npt.NDArray[np.float32]
    layout: CodeLayout
    encoded: Encoded
    unseen: Pixels
    unseen_logits: npt.NDArray[np.float32]
    drawn: Pixels
    drawn_logits: npt.NDArray[np.float32]

    @classmethod
    def of(
        cls,
        network: Encoder,
        pixels: Pixels,
        labels: Labels,
        *,
        unseen: Pixels,
        drawn: Pixels,
        layout: CodeLayout,
    ) -> Reference:
        """Ask ``network``."""
        logits, new, birds = (
            _logits(network, photos, layout) for photos in (pixels, unseen, drawn)
        )
        first = network.run(pixels[:BATCH])
        return cls(pixels, labels, logits, layout, first, unseen, new, drawn, birds)


def check(encoder: Encoder, reference: Reference) -> Parity:
    """Run an artefact over the sample and compare it, bit by bit and rank by rank."""
    codes = _codes(encoder, reference.pixels)
    parity = compare(
        codes,
        reference.logits,
        reference.labels,
        layout=reference.layout,
        backend=encoder.backend,
    )
    return replace(
        parity,
        mates=_mates(encoder, reference),
        unseen_bits_flipped=_flipped(encoder, reference.unseen, reference.unseen_logits),
        drawn_bits_flipped=_flipped(encoder, reference.drawn, reference.drawn_logits),
    )


def _flipped(encoder: Encoder, pixels: Pixels, logits: npt.NDArray[np.float32]) -> float | None:
    """Share of bits that differ from those of ``logits``; None without photos."""
    if not len(pixels):
        return None
    return float((unpack(_codes(encoder, pixels)) != unpack(pack(logits))).mean())


def _logits(encoder: Encoder, pixels: Pixels, layout: CodeLayout) -> npt.NDArray[np.float32]:
    found = [encoder.run(pixels[i : i + BATCH]).logits for i in range(0, len(pixels), BATCH)]
    return np.concatenate([np.empty((0, layout.bits), np.float32), *found])


def _codes(encoder: Encoder, pixels: Pixels) -> Codes:
    return np.concatenate(
        [encoder.codes(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)]
    )


def _mates(encoder: Encoder, reference: Reference) -> int:
    """Bits of the first photos that differ between batches of one and one batch of all."""
    few = reference.pixels[:MATES]
    together = unpack(encoder.codes(few))
    alone = unpack(np.concatenate([encoder.codes(few[i : i + 1]) for i in range(len(few))]))
    away = np.abs(encoder.run(few).logits) > ZERO_MARGIN
    return int(((together != alone) & away).sum())


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
    flips = Flips.between(codes, reference, reference_logits, layout)
    counts, _ = np.histogram(flips.margins, bins=[*_EDGES, np.inf])
    names = [f"<={edge:g}" for edge in _EDGES[1:]] + [f">{_EDGES[-1]:g}"]
    return Parity(
        images=len(codes),
        bits_flipped=flips.share,
        per_concept=flips.per_concept,
        largest_margin=flips.largest_margin,
        margins=dict(zip(names, counts.tolist(), strict=True)),
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


def check_outputs(encoder: Encoder, reference: Reference, *, where: object) -> None:
    """Compare the logits and maps of the first photos, which the codes alone do not show.

    Raises:
        GateError: if they differ by more than rounding in fp32, or are not finite.
    """
    expected = reference.encoded
    found = encoder.run(reference.pixels[:BATCH])
    pairs = {
        "logits": (found.logits, expected.logits),
        "maps": (found.attention, expected.attention),
    }
    if found.background is not None and expected.background is not None:
        pairs["background"] = (found.background, expected.background)
    for name, (ours, theirs) in pairs.items():
        difference = float(np.abs(ours - theirs).max(initial=0.0))
        if not difference <= OUTPUT_TOLERANCE:  # also if it is not a number
            raise GateError(
                f"the {name} of the exported graph differ by {difference:.2g}; nothing was written",
                where=where,
                hint=_REPORT,
            )


_REPORT = "chash doctor shows the versions of torch, onnx and onnxruntime to report"


def faults(parity: Parity, limits: Limits) -> list[str]:
    """What of an artefact is beyond its limits, in words; empty if nothing is."""
    found = []
    if not parity.bits_flipped <= limits.bits:
        found.append(f"{parity.bits_flipped:.3%} of the bits flipped (limit {limits.bits:.3%})")
    if limits.margin is not None and not parity.largest_margin <= limits.margin:
        found.append(
            f"a bit flipped at |logit| {parity.largest_margin:.2g} (limit {limits.margin:g})"
        )
    if not parity.top10_overlap >= limits.overlap:
        found.append(f"top-10 overlap {parity.top10_overlap:.3f} (limit {limits.overlap:g})")
    if not parity.map_delta >= -limits.map:
        found.append(f"mAP {parity.map_delta:+.4f} (limit -{limits.map:g})")
    if parity.mates:
        found.append(f"{parity.mates} bits depend on the other photos of the batch")
    return found


def gate(
    artifact: Artifact,
    parity: Parity,
    limits: Limits,
    *,
    where: object,
    worst: Sequence[Blame] = (),
) -> None:
    """Let only an artefact pass that keeps to its limits.

    Raises:
        GateError: with the figures, the layers that hurt most, and what to try.
    """
    found = faults(parity, limits)
    if not found:
        return
    layers = ", ".join(map(str, worst[:_LAYERS_NAMED]))
    blamed = f"; layers by their share of the noise: {layers}" if layers else ""
    raise GateError(
        f"{artifact} is not the model: {', '.join(found)}{blamed}; nothing was written",
        where=where,
        hint=_advice(artifact, parity, limits),
    )


def _advice(artifact: Artifact, parity: Parity, limits: Limits) -> str:
    if artifact.precision == "fp32":
        return _REPORT
    looser = []
    if not parity.bits_flipped <= limits.bits:
        looser.append(f"bits={1.2 * parity.bits_flipped:.2%}")
    if not parity.map_delta >= -limits.map:
        looser.append(f"map={-1.2 * parity.map_delta:.4f}")
    if not parity.top10_overlap >= limits.overlap:
        looser.append(f"overlap={0.98 * parity.top10_overlap:.2f}")
    if limits.margin is not None and not parity.largest_margin <= limits.margin:
        looser.append(f"margin={1.2 * parity.largest_margin:.2g}")
    other = "--precision fp32"
    if artifact.precision == "int8":
        other = "--keep-fp32 8, or --precision fp16"
    if parity.mates or not looser:
        return other
    return f"{other}, or --gate {','.join(looser)} to accept it"
