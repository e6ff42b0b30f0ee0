"""Who hashes for ``chash index``: this process, or a pool of workers on a Ray cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concepthash.cli.group import end
from concepthash.cli.hashing import open_hasher
from concepthash.cli.output import Output
from concepthash.errors import UsageError

if TYPE_CHECKING:
    from concepthash.bundle import Bundle
    from concepthash.cluster.hashing import RayEngine
    from concepthash.runtime.entries import IndexReport
    from concepthash.runtime.hasher import Hasher


@dataclass(frozen=True)
class Pool:
    """The options of a pool; None: as the cluster suggests."""

    address: str | None = None
    workers: int | None = None
    cpus: float | None = None
    gpus: float | None = None

    def check(self, engine: str) -> None:
        """Refuse what cannot be, before anything is started.

        Raises:
            UsageError: naming the option.
        """
        if (self.address or "").startswith("ray://"):
            raise UsageError(
                "photos cannot be handed over through Ray's client",
                where=f"--address {self.address}",
                hint="run chash index on a machine of the cluster, with --address auto",
            )
        for option, value in (
            ("--workers", self.workers),
            ("--cpus-per-worker", self.cpus),
            ("--gpus-per-worker", self.gpus),
        ):
            if value is not None and engine != "ray":
                raise UsageError("only a cluster has workers", where=option, hint="--engine ray")
            if value is not None and (value < 0 or (value == 0 and option != "--gpus-per-worker")):
                raise UsageError(f"{value:g} cannot work", where=option, hint=f"{option} 1")


@dataclass(frozen=True)
class Hashing:
    """How a bundle is run, as the options that verbs share say; by default as it suits."""

    device: str | None = None
    threads: int | None = None
    batch_size: int | None = None
    backend: str | None = None
    precision: str | None = None


class Hands:
    """Who hashes.

    Args:
        engine: to be given to :func:`concepthash.runtime.indexing.index_images`.
        bundle: of the model.
    """

    name = "local"

    def __init__(self, engine: Hasher | RayEngine, bundle: Bundle) -> None:
        self.engine = engine
        self.bundle = bundle

    @property
    def backend(self) -> str:
        """What computes, in one line; of a cluster, once it has."""
        return self.engine.backend

    def about(self) -> dict[str, Any]:
        """What JSON says of it, once the work is done."""
        return {"engine": self.name}

    def pace(self, report: IndexReport) -> str | None:
        """How fast the run was and what bounded it; None if nothing was hashed."""
        return report.pace


class ClusterHands(Hands):
    """Workers that hash.

    Args:
        engine: the pool.
        start_seconds: until the cluster was there; None in a dry run, which needs none.
    """

    name = "ray"

    def __init__(self, engine: RayEngine, bundle: Bundle, start_seconds: float | None) -> None:
        super().__init__(engine, bundle)
        self._pool = engine
        self._start_seconds = start_seconds

    def about(self) -> dict[str, Any]:
        """As :meth:`Hands.about`; ``overhead`` is in seconds."""
        return {
            "engine": self.name,
            "workers": self._pool.workers.count,
            "cpus_per_worker": self._pool.workers.cpus,
            "gpus_per_worker": self._pool.workers.gpus,
            "overhead": {
                "start": self._start_seconds,
                "first_photo": self._pool.first_photo_seconds,
            },
        }

    def pace(self, report: IndexReport) -> str | None:
        """As :meth:`Hands.pace`; what the workers took to begin is none of their waits."""
        first = self._pool.first_photo_seconds
        if report.pace is None or report.bound_by is None or first is None:
            return report.pace
        if first > getattr(report.waits, report.bound_by):
            return (
                f"{report.photos_per_second:.3g} photos/s, bound by Ray's start: "
                f"the first photos were back after {first:.1f} of {report.seconds:.1f} s"
            )
        return f"{report.pace}, {first:.1f} s for Ray's workers to begin"


@contextmanager
def local(model: Path, hashing: Hashing, output: Output) -> Iterator[Hands]:
    """A hasher of this process; it stays open, for what comes after indexing.

    Raises:
        ConceptHashError: as :func:`concepthash.cli.hashing.open_hasher`.
    """
    hasher = open_hasher(
        model,
        output,
        device=hashing.device,
        threads=hashing.threads,
        batch_size=hashing.batch_size,
        backend=hashing.backend,
        precision=hashing.precision,
    )
    output.note(f"backend: {hasher.backend}")
    yield Hands(hasher, hasher.bundle)


@contextmanager
def cluster(
    model: Path, hashing: Hashing, pool: Pool, output: Output, *, dry_run: bool
) -> Iterator[Hands]:
    """Workers on a Ray cluster, for as long as the block runs; a dry run needs none.

    Raises:
        BackendError: if Ray is missing or does not answer.
        UsageError: if no machine of the cluster has room for a worker.
        BundleError: if the bundle cannot be read.
    """
    from concepthash.bundle import Bundle
    from concepthash.cluster.hashing import RayEngine, Workers, plan
    from concepthash.cluster.start import connected
    from concepthash.cluster.worker import Settings

    bundle = Bundle.open(model)
    settings = Settings(
        device=hashing.device or ("cuda" if pool.gpus else "auto"),
        threads=hashing.threads,
        batch_size=hashing.batch_size,
        backend=hashing.backend or "auto",
        precision=hashing.precision,
    )
    if settings.device.startswith("cuda") and not pool.gpus:
        raise UsageError("workers have no GPU", where="--device", hint="--gpus-per-worker 1")
    if dry_run:
        output.note("a dry run hashes nothing: no cluster is started")
        yield ClusterHands(RayEngine(bundle, Workers(pool.workers or 1), settings), bundle, None)
        return
    started = time.perf_counter()
    with connected(pool.address, lost=end):
        workers = plan(pool.workers, pool.cpus, pool.gpus)
        seconds = time.perf_counter() - started
        output.note(f"ray: {workers}, ready after {seconds:.1f} s")
        hands = ClusterHands(RayEngine(bundle, workers, settings), bundle, seconds)
        yield hands
        if hands.backend:
            output.note(f"backend: {hands.backend}")
