"""How far the codes of an artefact are those of the reference, in bits and in mAP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from concepthash.codes import CodeLayout, Codes
from concepthash.decode import decode_batches
from concepthash.errors import ConceptHashError, DataError, Skipped
from concepthash.images import Pixels, Preprocess, Source
from concepthash.limits import Flips
from concepthash.metrics import average_precision
from concepthash.rankings import rank
from concepthash.runtime.bench.process import Board, Worker

CHUNK = 32
"""Images that are decoded and shown to the workers at once."""

BATCH = 8
"""Images a run when codes are compared."""

Logits = npt.NDArray[np.float32]
Progress = Callable[[str, int, int], None]
"""Told a stage, how much of it is done, and how much there is."""


@dataclass(frozen=True, eq=False)
class Images:
    """What is hashed: photos, or drawn pictures.

    Args:
        sources: the images, those of the database before those of the queries.
        labels: ``(n,)`` of each; None if there is no class, and so no mAP.
        database: how many of them are the database.
        text: what they are, for the report.
    """

    sources: Sequence[Source]
    labels: npt.NDArray[np.int64] | None
    database: int
    text: str


@dataclass(frozen=True)
class Agreement:
    """How codes compare with those of the reference for the same images.

    Args:
        images: how many were compared.
        bits_flipped: share of all bits that differ.
        per_concept: the same, of each concept's bits.
        largest_margin: largest \\|logit\\| of a flipped bit in the reference; 0 without flips.
        map: expected mAP of the codes; None without labels.
        map_delta: the same minus that of the reference.
    """

    images: int
    bits_flipped: float
    per_concept: tuple[float, ...]
    largest_margin: float
    map: float | None
    map_delta: float | None


@dataclass(eq=False)
class Hashes:
    """The codes of each worker for the images that could be read, in order.

    Args:
        codes: by worker, ``(n, K / 8)``.
        logits: of the reference, ``(n, K)``; None if it was not among the workers.
        positions: which of the sources these are.
        skipped: the others.
    """

    codes: dict[Worker, Codes]
    logits: Logits | None
    positions: list[int]
    skipped: Skipped = field(default_factory=Skipped)


def first_pixels(images: Images, spec: Preprocess, count: int) -> Pixels:
    """The first ``count`` images that can be read, or as many as there are.

    Raises:
        DataError: if there is none.
    """
    found: list[Pixels] = []
    with closing(decode_batches(images.sources, spec, batch_size=CHUNK)) as batches:
        for batch in batches:
            found.extend(batch.pixels)
            if len(found) >= count:
                break
    if not found:
        raise DataError("not one of the images can be read", where=images.text, hint="check --data")
    return np.stack(found[:count])


def hash_images(
    workers: Sequence[Worker],
    reference: Worker | None,
    images: Images,
    spec: Preprocess,
    board: Board,
    *,
    failed: Callable[[Worker, ConceptHashError], None],
    progress: Progress,
) -> Hashes:
    """Show every image to every worker, a chunk at a time, each decoded once.

    Args:
        workers: to hash with.
        reference: the one of them whose logits are kept too.
        images: what to hash.
        spec: how they become pixels.
        board: where the workers look.
        failed: told of a worker that cannot go on; its codes are left out.
        progress: told how far it is.
    """
    parts: dict[Worker, list[Codes]] = {worker: [] for worker in workers}
    logits: list[Logits] = []
    hashes = Hashes({}, None, [])
    done = 0
    with closing(decode_batches(images.sources, spec, batch_size=CHUNK)) as batches:
        for batch in batches:
            for position, unread in batch.failed:
                hashes.skipped.add(images.sources[position], unread.what)
            done += len(batch.positions) + len(batch.failed)
            hashes.positions += batch.positions
            rows = len(batch.positions)
            board.show(batch.pixels)
            for worker in list(parts) if rows else ():
                try:
                    if worker is reference:
                        codes, more = worker.logits(rows, BATCH)
                        logits.append(more)
                    else:
                        codes = worker.codes(rows, BATCH)
                    parts[worker].append(codes)
                except ConceptHashError as error:
                    del parts[worker]
                    failed(worker, error)
            progress("comparing codes", done, len(images.sources))
    hashes.codes = {worker: np.concatenate(found) for worker, found in parts.items() if found}
    if reference in hashes.codes:
        hashes.logits = np.concatenate(logits)
    return hashes


def compare(
    codes: Codes, reference: Codes, logits: Logits, layout: CodeLayout, maps: Maps
) -> Agreement:
    """How ``codes`` ``(n, K / 8)`` compare with the reference's codes and logits."""
    flips = Flips.between(codes, reference, logits, layout)
    score, usual = maps(codes), maps(reference)
    return Agreement(
        images=len(codes),
        bits_flipped=flips.share,
        per_concept=flips.per_concept,
        largest_margin=flips.largest_margin,
        map=score,
        map_delta=None if score is None or usual is None else score - usual,
    )


class Maps:
    """The mAP of codes of the images at some positions: queries against database.

    Args:
        images: with their labels.
        positions: of those whose codes there are.
    """

    def __init__(self, images: Images, positions: Sequence[int]) -> None:
        self._labels = None
        if images.labels is not None:
            self._labels = images.labels[list(positions)]
        self._queries = np.array([p >= images.database for p in positions], dtype=bool)

    def __call__(self, codes: Codes) -> float | None:
        """Expected mAP; None without labels, or where no query has anything to find."""
        labels, asked = self._labels, self._queries
        if labels is None or asked.all() or not asked.any():
            return None
        rankings = rank(codes[asked], labels[asked], codes[~asked], labels[~asked])
        if not rankings.answerable.any():
            return None
        return rankings.mean(average_precision(rankings).expected)
