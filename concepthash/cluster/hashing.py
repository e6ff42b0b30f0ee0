"""Indexing on a cluster: Ray Data hands photos to a pool of workers and streams back what they say.

The driver lists, looks up and commits; a worker (:mod:`concepthash.cluster.worker`) reads, digests
and hashes, with a hasher of its own. A worker or a machine that is lost is Ray's to replace, and
its photos are given to another; nothing of a photo counts before the driver has its row.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from concepthash import errors
from concepthash.bundle import Bundle
from concepthash.cluster.start import quiet, ray_errors
from concepthash.cluster.worker import Contents, Settings, Shipped, Worker
from concepthash.codes import CodeLayout
from concepthash.decode import usable_cpus
from concepthash.errors import BackendError, ConceptHashError, UsageError
from concepthash.runtime.engine import Desk, Outcome, Photo, digest_only
from concepthash.runtime.sources import Place

if TYPE_CHECKING:
    import pyarrow

WINDOW = 2**18
"""Photos handed to Ray at once: so many are in the driver's memory, about a kilobyte each."""
TOGETHER = 256
"""Photos a worker is given at once; fewer where that would leave others without."""
TRIES = 4
"""How often a photo is tried whose worker dies over it."""
_RESTARTS = 50
_CPUS = 4


@dataclass(frozen=True)
class Workers:
    """The pool.

    Args:
        count: how many; each has a hasher of its own.
        cpus: of each, and the threads of its hasher.
        gpus: of each; a part of one is shared with others.
        room: how many the cluster can run at once; None if that was not looked up.
    """

    count: int
    cpus: float = 1
    gpus: float = 0
    room: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        each = f"{self.cpus:g} CPUs" + (f" and {self.gpus:g} GPUs" if self.gpus else "")
        fewer = self.room is not None and self.room < self.count
        workers = "worker" if self.count == 1 else "workers"
        return f"{self.count} {workers} of {each}" + (f", {self.room} at once" if fewer else "")


def _raised(fatal: dict[str, Any]) -> ConceptHashError:
    """The error that a row tells of."""
    kind: type[ConceptHashError] = getattr(errors, fatal["kind"], BackendError)
    return kind(fatal["what"], where=fatal["where"], hint=fatal["hint"])


class RayEngine:
    """What reads and hashes the photos of a run on the Ray this process is connected to.

    An :class:`concepthash.runtime.engine.Engine`. A content that photos of one run share may be
    hashed more than once, by workers that do not know of each other; the gallery keeps the first.

    Args:
        bundle: of the model.
        workers: the pool; see :func:`plan`.
        settings: of each worker's hasher.
    """

    def __init__(self, bundle: Bundle, workers: Workers, settings: Settings) -> None:
        self.workers = workers
        self.backend = ""
        """What computes on a worker, once the first has said so."""
        self.first_photo_seconds: float | None = None
        """From the first photo handed over to the first that came back."""
        self._bundle = bundle
        threads = settings.threads or max(1, int(workers.cpus))
        self._settings = replace(settings, threads=threads)

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self._bundle.manifest.name

    @property
    def layout(self) -> CodeLayout:
        """How a code's bits are shared."""
        return self._bundle.manifest.layout

    @property
    def fingerprint(self) -> str:
        """The name of the code space."""
        return self._bundle.manifest.fingerprint

    def process(self, photos: Iterable[Photo], desk: Desk) -> None:
        """As :meth:`concepthash.runtime.engine.Engine.process`; a dry run is done here.

        Raises:
            ConceptHashError: as a worker's hasher raises it.
            BackendError: if Ray cannot go on.
        """
        if desk.dry:
            digest_only(photos, desk, threads=usable_cpus())
            return
        import ray

        with ray_errors():
            shipped = ray.put(Shipped.of(self._bundle))
            known = ray.put(Contents.of(desk.contents()))
            none = ray.put(Contents.of(np.empty((0, 32), np.uint8)))
            coming = iter(photos)
            while window := dict(enumerate(islice(coming, WINDOW))):
                again = self._pass(window, [shipped, known], desk, TOGETHER)
                lost = dict(window)  # their worker died again and again: which one is to blame?
                self._pass(again, [shipped, none], desk, TOGETHER)
                lost.update(again)
                self._pass(lost, [shipped, none], desk, 1)
                for photo in lost.values():
                    desk.take(Outcome(photo, None, reason="its worker died whenever it was read"))

    def _pass(
        self, waiting: dict[int, Photo], refs: list[Any], desk: Desk, together: int
    ) -> dict[int, Photo]:
        """Settle photos and take them out of ``waiting``; those that are to be hashed after all."""
        again: dict[int, Photo] = {}
        started = time.perf_counter()
        for table in self._tables(waiting, refs, together):
            if self.first_photo_seconds is None:
                self.first_photo_seconds = time.perf_counter() - started
            columns = [table.column(name).to_pylist() for name in table.column_names]
            node = self._heed(columns[-1], desk)
            for number, digest, code, reason, _ in zip(*columns, strict=True):
                photo = waiting.pop(number, None)
                if photo is None:
                    continue
                if digest is None:
                    reason = _blame(reason, photo.place, node)
                bits = None if code is None else np.frombuffer(code, np.uint8)
                if not desk.take(Outcome(photo, digest, bits, reason)):
                    again[number] = photo
        return again

    def _heed(self, told: list[str | None], desk: Desk) -> str:
        """Note what a worker says of its rows; the machine it runs on."""
        node = ""
        for about in (json.loads(text) for text in told if text):
            if "fatal" in about:
                raise _raised(about["fatal"])
            node = about["node"]
            self.backend = about["backend"]
            desk.report.hashed += about["hashed"]
            for stage, seconds in about["waits"].items():
                mean = seconds / self.workers.count  # they wait beside each other
                setattr(desk.report.waits, stage, getattr(desk.report.waits, stage) + mean)
        return node

    def _tables(
        self, photos: Mapping[int, Photo], refs: list[Any], together: int
    ) -> Iterator[pyarrow.Table]:
        """The workers' rows for photos, as they come."""
        if not photos:
            return
        import pyarrow
        import ray.data

        fair = -(-len(photos) // (4 * self.workers.count))
        together = min(together, fair)
        jobs = iter(photos.items())
        tables = []
        while some := list(islice(jobs, together)):
            places = [photo.place for _, photo in some]
            tables.append(
                pyarrow.table(
                    {
                        "number": [number for number, _ in some],
                        "file": [os.fsencode(place.file) for place in places],
                        "row": [place.row for place in places],
                        "column": [place.column for place in places],
                    }
                )
            )
        with quiet():  # the first look at its settings warns of old ones
            rows = ray.data.from_arrow(tables).map_batches(
                Worker,
                batch_size=together,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(
                    size=min(self.workers.count, len(tables)), max_tasks_in_flight_per_actor=2
                ),
                fn_constructor_args=(refs, self._settings),
                num_cpus=self.workers.cpus,
                num_gpus=self.workers.gpus or None,
                max_restarts=_RESTARTS,
                max_task_retries=TRIES - 1,
            )
        rows.context.enable_progress_bars = False
        rows.context.max_errored_blocks = -1  # what they were is told by the rows that do not come
        for handler in logging.getLogger("ray.data").handlers:
            if type(handler).__name__ == "PlainRayHandler":  # that of the terminal
                handler.setLevel(logging.CRITICAL + 1)
        yield from rows.iter_batches(batch_size=None, batch_format="pyarrow")


def plan(count: int | None, cpus: float | None, gpus: float | None) -> Workers:
    """The pool that fills the cluster, as far as it was not said otherwise.

    Args:
        count: workers.
        cpus: of each; by default four, or what the smallest machine has; on machines with GPUs
            their fair share.
        gpus: of each; by default none.

    Raises:
        UsageError: if no machine of the cluster has room for one worker.
    """
    import ray

    gpus = gpus or 0
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    nodes = [node for node in nodes if node.get("CPU") and node.get("GPU", 0) >= gpus]
    most = [node["GPU"] // gpus if gpus else math.inf for node in nodes]
    if cpus is None:
        shares = [
            node["CPU"] // (1 if limit == math.inf else limit)
            for node, limit in zip(nodes, most, strict=True)
        ]
        cpus = max(1.0, min([_CPUS, *shares]))
    room = sum(min(node["CPU"] // cpus, limit) for node, limit in zip(nodes, most, strict=True))
    if not room:
        raise UsageError(
            f"no machine of the cluster has {cpus:g} CPUs and {gpus:g} GPUs for a worker",
            where="--engine ray",
            hint="--cpus-per-worker 1, or --gpus-per-worker 0; ray status says what there is",
        )
    return Workers(count or int(room), cpus, gpus, int(room))


def _blame(why: str | None, place: Place, node: str) -> str:
    """Why a worker could not read a photo; of a file that is here, where it was missed."""
    if why == os.strerror(errno.ENOENT) and place.row < 0 and Path(place.file).exists():
        return f"not there on {node}, as it is here: the machines have to share the disk"
    return why or "unknown"
