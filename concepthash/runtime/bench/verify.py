"""``chash bench --verify``: is every artefact, on this machine, the model it was exported as?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from concepthash.bundle import PARITY, Artifact, Bundle
from concepthash.codes import Codes, unpack
from concepthash.errors import BackendError, BundleError, ConceptHashError, GateError, Skipped
from concepthash.limits import LIMITS, Limits
from concepthash.runtime.bench.accuracy import (
    CHUNK,
    Agreement,
    Images,
    Logits,
    Maps,
    Progress,
    compare,
    first_pixels,
    hash_images,
)
from concepthash.runtime.bench.process import Board, Tell, Worker
from concepthash.runtime.bench.targets import REFERENCE, NotRun, Target

BATCHES = range(1, 9)
"""Batch sizes in which an image must have one and the same code."""
MATES = 32
"""Images whose codes are compared between them."""
MOST_BATCH_FLIPS = 1e-3
"""Share of the bits that may change between them. Measured: none, in fp32 and in static int8."""


@dataclass(frozen=True)
class Check:
    """One target and what was found.

    Args:
        target: what was checked.
        ran: what computed, in the words of the back end; empty if nothing did.
        agreement: with the reference; None if the file is damaged.
        batch_flips: share of the bits that change with the size of the batch.
        limits: that apply.
        failures: each limit that is exceeded, with the figure; none means it passed.
    """

    target: Target
    ran: str
    agreement: Agreement | None
    batch_flips: float
    limits: Limits
    failures: tuple[str, ...]


@dataclass(frozen=True)
class Verified:
    """The checks, what could not run here, and the images that could not be read.

    ``reference`` has the codes of the reference, ``(n, K / 8)``.
    """

    checks: tuple[Check, ...]
    not_run: tuple[NotRun, ...]
    skipped: Skipped
    reference: Codes

    @property
    def failed(self) -> list[Check]:
        """The checks that did not pass."""
        return [check for check in self.checks if check.failures]


def verify(
    bundle: Bundle,
    targets: Sequence[Target],
    images: Images,
    *,
    threads: int | None = None,
    progress: Progress = lambda stage, done, total: None,
    tell: Tell = lambda text: None,
) -> Verified:
    """Check ``targets`` against the reference, one process at a time.

    Args:
        bundle: as it was copied here; each file that is run is compared with its sha256.
        targets: of :func:`concepthash.runtime.bench.targets.list_targets`.
        images: whose codes are compared.
        threads: CPU threads; None for all.
        progress: told how far it is.
        tell: told of what takes long, before it does.

    Raises:
        BundleError: if there is nothing to compare with.
        GateError: if the reference itself is damaged.
        DataError: if not one image can be read.
    """
    checker = _Checker(bundle, images, threads, progress, tell)
    checker.refer()
    checks, not_run = [], []
    for target in targets:
        try:
            checks.append(checker.check(target))
        except BackendError as error:
            not_run.append(NotRun(target, error.what, error.hint))
        except BundleError as error:  # its file is there, and is damaged or no model
            limits = limits_of(bundle, target.artifact)
            checks.append(Check(target, "", None, 0.0, limits, (error.what,)))
    return Verified(tuple(checks), tuple(not_run), checker.skipped, checker.reference)


def limits_of(bundle: Bundle, artifact: Artifact, *, drawn: bool = False) -> Limits:
    """The limits in the bundle's parity record; the strict ones where it has none.

    Args:
        bundle: on disk.
        artifact: of it.
        drawn: for drawn birds; else for photos, which may be new to the model. Of either as many
            bits may flip as flipped when it was exported, and half as many again.

    Raises:
        BundleError: if the record cannot be understood.
    """
    usual = LIMITS[artifact.precision]
    if PARITY not in bundle.manifest.files:
        return usual
    file = bundle.file(PARITY)
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        for entry in record.get("artifacts", ()):
            if (entry["format"], entry["precision"]) == (artifact.format, artifact.precision):
                limits = entry["limits"]
                bits = limits["bits"]
                if limits.get("margin") is None:
                    known = "drawn_bits_flipped" if drawn else "unseen_bits_flipped"
                    bits = max(bits, 1.5 * (entry.get(known) or 0.0))
                return Limits(bits, limits.get("margin"), map=limits.get("map", usual.map))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"the parity record is damaged: {error}", where=file, hint="copy the bundle again"
        ) from None
    return usual


class _Checker:
    """The reference's codes, and the check of one target after the other."""

    reference: Codes
    logits: Logits

    def __init__(
        self,
        bundle: Bundle,
        images: Images,
        threads: int | None,
        progress: Progress,
        tell: Tell,
    ) -> None:
        self.bundle, self.images, self.threads = bundle, images, threads
        self.progress, self.tell = progress, tell
        self.spec = bundle.manifest.preprocess
        self.skipped = Skipped()
        self.shown = first_pixels(images, self.spec, MATES)

    def refer(self) -> None:
        """Hash everything with the reference."""
        listed = {artifact.file for artifact in self.bundle.manifest.artifacts}
        if REFERENCE.artifact.file not in listed:
            raise BundleError(
                f"there is no {REFERENCE.artifact.file} to compare with",
                where=self.bundle.path,
                hint="chash export RUN --format onnx",
            )
        with Board(max(CHUNK, MATES), self.spec.crop) as board:
            try:
                worker = Worker(self.bundle, REFERENCE, self.threads, board, self.tell)
            except BundleError as error:
                raise GateError(error.what, where=self.bundle.path, hint=error.hint) from None
            with worker:
                self.reference, logits = self._hashed(worker, board, reference=True)
        assert logits is not None
        self.logits = logits

    def check(self, target: Target) -> Check:
        """Compare a target with the reference, and with itself in other batches."""
        limits = limits_of(self.bundle, target.artifact, drawn=self.images.labels is None)
        with (
            Board(max(CHUNK, MATES), self.spec.crop) as board,
            Worker(self.bundle, target, self.threads, board, self.tell) as worker,
        ):
            codes, _ = self._hashed(worker, board, reference=False)
            agreement = compare(
                codes, self.reference, self.logits, self.bundle.manifest.layout, self.maps
            )
            board.show(self.shown)
            flips, margin = _batch_flips(worker, len(self.shown))
        failures = (*_exceeded(agreement, limits), *_mates(flips, margin, limits))
        return Check(target, worker.ran, agreement, flips, limits, failures)

    def _hashed(
        self, worker: Worker, board: Board, *, reference: bool
    ) -> tuple[Codes, Logits | None]:
        errors: list[ConceptHashError] = []
        hashes = hash_images(
            [worker],
            worker if reference else None,
            self.images,
            self.spec,
            board,
            failed=lambda _, error: errors.append(error),
            progress=lambda _, done, total: self.progress(str(worker.target), done, total),
        )
        if errors:
            raise errors[0]
        self.skipped = hashes.skipped
        self.maps = Maps(self.images, hashes.positions)
        return hashes.codes[worker], hashes.logits


def _batch_flips(worker: Worker, rows: int) -> tuple[float, float]:
    """Share of bits that differ from those of batches of one, at worst, and their \\|logit\\|."""
    alone, logits = worker.logits(rows, 1)
    share = margin = 0.0
    for batch in BATCHES:
        flipped = unpack(worker.codes(rows, batch)) != unpack(alone)
        share = max(share, float(flipped.mean()))
        margin = max(margin, float(np.abs(logits)[flipped].max(initial=0.0)))
    return share, margin


def _exceeded(found: Agreement, limits: Limits) -> Iterator[str]:
    if found.bits_flipped > limits.bits:
        yield f"{found.bits_flipped:.3%} of the bits flipped, at most {limits.bits:.3%} may"
    if limits.margin is not None and found.largest_margin > limits.margin:
        yield f"a bit flipped at |logit| {found.largest_margin:.2g}, at most {limits.margin:.2g}"
    if found.map_delta is not None and -found.map_delta > limits.map:
        yield f"mAP fell by {-found.map_delta:.4f}, at most {limits.map:.4f} may be lost"


def _mates(share: float, margin: float, limits: Limits) -> Iterator[str]:
    """A code may not depend on the other images of its batch, rounding at zero margin aside."""
    if share > MOST_BATCH_FLIPS or (limits.margin is not None and margin > limits.margin):
        yield (
            f"codes depend on the batch: {share:.3%} of the bits change with its size, "
            f"up to |logit| {margin:.2g}"
        )
