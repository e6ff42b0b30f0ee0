"""The measurement: cold starts, then turns of timed runs, then the codes of all images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from concepthash.bundle import Bundle
from concepthash.codes import Codes
from concepthash.errors import BundleError, ConceptHashError, Skipped
from concepthash.runtime import machine
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

STARTS = 3
"""Processes started of each target for the cold start."""

_TURN_MS = 250.0
"""How long one turn of one row lasts, about."""
_MOST_RUNS = 100
_MEMORY_SHARE = 0.5
"""Of the free memory, what all workers together may take; more of them work one group later."""


@dataclass(frozen=True)
class Row:
    """One target with one batch size.

    Args:
        ran: what computed, in the words of the back end.
        ms_p50, ms_p95: milliseconds an image, median and 95th percentile over all timed runs.
        images_per_second: at the median.
        runs: how many were timed.
        cold_start_ms: from the start of a process to its first code, median of :data:`STARTS`.
        peak_bytes: most resident memory of a process that ran this batch size and the smaller
            ones; None where the system does not say. Not that of a GPU.
        file_bytes: size of the artefact.
        agreement: with the reference; None if that could not be computed.
    """

    target: Target
    batch: int
    ran: str
    ms_p50: float
    ms_p95: float
    images_per_second: float
    runs: int
    cold_start_ms: float
    peak_bytes: int | None
    file_bytes: int
    agreement: Agreement | None


@dataclass(frozen=True)
class Benched:
    """What was measured, what could not be, and the images that could not be read."""

    rows: tuple[Row, ...]
    not_run: tuple[NotRun, ...]
    images: int
    skipped: Skipped


@dataclass(eq=False)
class _Timed:
    """A worker with one batch size, and its times so far."""

    worker: Worker
    batch: int
    runs: int
    ms: list[float] = field(default_factory=list)
    peak: int | None = None


def bench(
    bundle: Bundle,
    targets: Sequence[Target],
    images: Images,
    *,
    batches: Sequence[int] = (1, 8),
    threads: int | None = None,
    repeats: int = 10,
    progress: Progress = lambda stage, done, total: None,
    tell: Tell = lambda text: None,
) -> Benched:
    """Measure ``targets`` of a bundle side by side.

    Args:
        bundle: on disk; a file that is not what its manifest says costs its rows only.
        targets: of :func:`concepthash.runtime.bench.targets.list_targets`.
        images: what is hashed; all of them for the codes, the first ones for the time.
        batches: images a run, each at least 1.
        threads: CPU threads of each; None for all.
        repeats: turns of each row.
        progress: told how far it is.
        tell: told of what takes long, before it does.

    Raises:
        DataError: if not one image can be read.
    """
    spec = bundle.manifest.preprocess
    shown = first_pixels(images, spec, max(CHUNK, *batches))
    with Board(max(CHUNK, *batches), spec.crop) as board:
        board.fill(shown)
        job = _Job(bundle, images, sorted({*batches}), threads, repeats, board, progress, tell)
        starts = job.cold_starts(dict.fromkeys([*_reference(bundle), *targets]))
        for group in _groups({target: peak for target, (_, peak) in starts.items()}):
            board.fill(shown)
            job.measure([t for t in group if t in targets], group)
        return job.result(targets, {target: ms for target, (ms, _) in starts.items()})


def _reference(bundle: Bundle) -> list[Target]:
    listed = {artifact.file for artifact in bundle.manifest.artifacts}
    return [REFERENCE] if REFERENCE.artifact.file in listed else []


def _groups(peaks: Mapping[Target, int | None]) -> Iterator[list[Target]]:
    """Targets that fit into the memory together, in order."""
    free = machine.memory().available
    room = float("inf") if free is None else _MEMORY_SHARE * free
    group: list[Target] = []
    taken = 0
    for target, peak in peaks.items():
        if group and taken + (peak or 0) > room:
            yield group
            group, taken = [], 0
        group.append(target)
        taken += peak or 0
    if group:
        yield group


@dataclass(eq=False)
class _Job:
    """What the stages of a measurement share, and what they have found so far."""

    bundle: Bundle
    images: Images
    batches: list[int]
    threads: int | None
    repeats: int
    board: Board
    progress: Progress
    tell: Tell
    timed: list[_Timed] = field(default_factory=list)
    not_run: list[NotRun] = field(default_factory=list)
    agreements: dict[Target, Agreement] = field(default_factory=dict)
    skipped: Skipped = field(default_factory=Skipped)
    reference: tuple[Codes, Logits] | None = None
    read: int = 0

    def cold_starts(self, targets: Mapping[Target, None]) -> dict[Target, tuple[float, int | None]]:
        """Median milliseconds, and peak memory, of those that start; one process at a time."""
        times: dict[Target, list[float]] = {target: [] for target in targets}
        peaks: dict[Target, int | None] = {}
        self.tell(f"cold starts: {STARTS} of each of {len(times)}, one at a time")
        for _ in range(STARTS):
            for target in list(times):
                try:
                    with self._started(target) as worker:
                        times[target].append(1000 * worker.seconds)
                        peaks[target] = worker.peak
                except ConceptHashError as error:
                    del times[target]
                    self._cannot(target, error)
        return {target: (float(np.median(ms)), peaks[target]) for target, ms in times.items()}

    def _started(self, target: Target) -> Worker:
        return Worker(self.bundle, target, self.threads, self.board, self.tell)

    def measure(self, timed: Sequence[Target], group: Sequence[Target]) -> None:
        """Time some targets of a group, and hash all images with the group."""
        with ExitStack() as stack:
            workers = []
            for target in group:
                try:
                    worker = self._started(target)
                except ConceptHashError as error:
                    self._cannot(target, error)
                else:
                    workers.append(stack.enter_context(worker))
            self._turns([w for w in workers if w.target in timed])
            self._compare([worker for worker in workers if worker.alive])

    def _turns(self, workers: Sequence[Worker]) -> None:
        rows = [row for worker in workers for row in self._warmed(worker)]
        turns = [row for n in range(self.repeats) for row in (rows if n % 2 == 0 else rows[::-1])]
        total = sum(row.batch * row.runs for row in turns)
        done = 0
        for row in turns:
            if not row.runs:
                continue
            try:
                row.ms += row.worker.time(row.batch, row.runs)
            except ConceptHashError as error:
                self._cannot(row.worker.target, error, row.batch)
                row.runs = 0
            done += row.batch * row.runs
            self.progress("timing", done, total)
        self.timed += [row for row in rows if row.runs]

    def _warmed(self, worker: Worker) -> Iterator[_Timed]:
        """The batch sizes that run, smallest first, so that each peak is that of its size."""
        for batch in self.batches:
            try:
                usual = float(np.median(worker.time(batch, 3)))
            except ConceptHashError as error:
                self._cannot(worker.target, error, batch)
            else:
                runs = round(_TURN_MS / max(usual, _TURN_MS / _MOST_RUNS))
                yield _Timed(worker, batch, max(1, runs), peak=worker.peak)

    def _compare(self, workers: Sequence[Worker]) -> None:
        reference = next((w for w in workers if w.target == REFERENCE), None)
        hashes = hash_images(
            workers,
            reference,
            self.images,
            self.bundle.manifest.preprocess,
            self.board,
            failed=lambda worker, error: self._cannot(worker.target, error),
            progress=self.progress,
        )
        self.skipped, self.read = hashes.skipped, len(hashes.positions)
        if reference is not None and hashes.logits is not None:
            self.reference = hashes.codes[reference], hashes.logits
        if self.reference is not None:
            maps = Maps(self.images, hashes.positions)
            for worker, codes in hashes.codes.items():
                self.agreements[worker.target] = compare(
                    codes, *self.reference, self.bundle.manifest.layout, maps
                )

    def _cannot(self, target: Target, error: ConceptHashError, batch: int | None = None) -> None:
        home, damaged = self.bundle.path, None
        if isinstance(error, BundleError):
            damaged = home if self.bundle.alone else home / target.file
        self.not_run.append(NotRun(target, error.what, error.hint, batch, damaged))

    def result(self, targets: Sequence[Target], cold: Mapping[Target, float]) -> Benched:
        """Everything found, in the order of ``targets``."""
        place = {target: number for number, target in enumerate(targets)}
        rows = [
            self._row(timed, cold[timed.worker.target])
            for timed in sorted(self.timed, key=lambda t: (place[t.worker.target], t.batch))
        ]
        missed = tuple(entry for entry in self.not_run if entry.target in place)
        return Benched(tuple(rows), missed, self.read, self.skipped)

    def _row(self, timed: _Timed, cold_ms: float) -> Row:
        target = timed.worker.target
        p50, p95 = np.percentile(timed.ms, (50, 95)) / timed.batch
        return Row(
            target=target,
            batch=timed.batch,
            ran=timed.worker.ran,
            ms_p50=float(p50),
            ms_p95=float(p95),
            images_per_second=float(1000 / p50),
            runs=len(timed.ms),
            cold_start_ms=cold_ms,
            peak_bytes=timed.peak,
            file_bytes=self.bundle.file(target.file).stat().st_size,
            agreement=self.agreements.get(target),
        )
