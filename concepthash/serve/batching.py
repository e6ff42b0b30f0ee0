"""A bounded queue before one thread, which takes what waits at once.

Nothing is held back to make a batch larger: while one is worked on, the next gathers by itself. A
lone request is served at once, and under load the batches grow until they keep up.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil, inf
from queue import SimpleQueue
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Results = Iterable[tuple[Sequence[int], Sequence[Result | Exception]]]
"""Results as they come: which items of a batch, and what became of each."""

_LONGEST_WAIT = 30


class Busy(Exception):
    """No more is accepted now.

    Args:
        retry_after: seconds after which asking again may help.
    """

    def __init__(self, what: str, retry_after: int = 1) -> None:
        super().__init__(what)
        self.retry_after = retry_after


@dataclass
class Counters:
    """What a queue has done since it was started.

    Args:
        batches, served: batches worked on, and items in them; each got an answer or an error.
        refused: turned away because the queue was full or is stopping.
        late: dropped before work because their time was over.
        abandoned: dropped before work because nobody waited any more.
        seconds: worked.
        sizes: batches by their number of items.
    """

    batches: int = 0
    served: int = 0
    refused: int = 0
    late: int = 0
    abandoned: int = 0
    seconds: float = 0.0
    sizes: dict[int, int] = field(default_factory=dict)


class _Job(Generic[Item, Result]):
    __slots__ = ("deadline", "future", "item")

    def __init__(self, item: Item, future: asyncio.Future[Result], deadline: float) -> None:
        self.item = item
        self.future = future
        self.deadline = deadline


class Batcher(Generic[Item, Result]):
    """One thread and the queue before it; its methods are called on the event loop.

    Args:
        name: of the thread.
        work: called in the thread with a batch; what it raises is the answer of the items it gave
            none for.
        bound: items that may wait or be worked on.
        most: items of one batch.
        seconds: an item not begun by then is dropped: its future raises TimeoutError.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[list[Item]], Results[Result]],
        *,
        bound: int,
        most: int,
        seconds: float,
    ) -> None:
        self._work = work
        self._bound = bound
        self._most = most
        self._seconds = seconds
        self._queue: SimpleQueue[_Job[Item, Result] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._stopping = False
        self.waiting = 0
        self.counters = Counters()

    def start(self) -> None:
        """Start the thread."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Refuse what comes, finish what was accepted, end the thread."""
        self._stopping = True
        if self._thread.is_alive():
            self._queue.put(None)
            await self._loop.run_in_executor(None, self._thread.join)

    def submit(self, item: Item, *, accepted: bool = False) -> asyncio.Future[Result]:
        """The result to come of an item; cancelled before work on it begins, none is done.

        Args:
            item: one of the next batch's.
            accepted: it was counted elsewhere: neither bound nor time limit is its own.

        Raises:
            Busy: if as many wait as may, or the queue is stopping.
        """
        if not accepted and (self.waiting >= self._bound or self._stopping):
            self.counters.refused += 1
            what = "the server is stopping" if self._stopping else "too many requests wait"
            raise Busy(what, self.retry_after)
        future: asyncio.Future[Result] = self._loop.create_future()
        self.waiting += 1
        deadline = inf if accepted else time.monotonic() + self._seconds
        self._queue.put(_Job(item, future, deadline))
        return future

    @property
    def retry_after(self) -> int:
        """Seconds after which what waits now should be done."""
        done = self.counters
        each = done.seconds / done.served if done.served else 0.0
        return min(max(1, ceil(self.waiting * each)), _LONGEST_WAIT)

    def _run(self) -> None:
        queue = self._queue
        while (job := queue.get()) is not None:
            jobs: list[_Job[Item, Result]] = []
            last = False
            while job is not None:
                jobs.append(job)
                if len(jobs) == self._most or not queue.qsize():
                    break
                job = queue.get()
                last = job is None
            self._serve(jobs)
            if last:
                return

    def _serve(self, jobs: list[_Job[Item, Result]]) -> None:
        started = time.monotonic()
        wanted, dropped = [], []
        for job in jobs:
            if job.future.cancelled():
                self.counters.abandoned += 1
                dropped.append(job)
            elif job.deadline < started:
                self.counters.late += 1
                dropped.append(job)
            else:
                wanted.append(job)
        if dropped:
            late = TimeoutError("it waited too long for its turn")
            self._post(dropped, [late] * len(dropped))
        if not wanted:
            return
        open_places = dict.fromkeys(range(len(wanted)))
        try:
            for places, results in self._work([job.item for job in wanted]):
                for place in places:
                    del open_places[place]
                self._post([wanted[place] for place in places], results)
        except Exception as error:  # whoever waits has to hear of it, and the thread lives on
            self._post([wanted[place] for place in open_places], [error] * len(open_places))
        counters = self.counters
        counters.batches += 1
        counters.served += len(wanted)
        counters.sizes[len(wanted)] = counters.sizes.get(len(wanted), 0) + 1
        counters.seconds += time.monotonic() - started

    def _post(self, jobs: list[_Job[Item, Result]], results: Sequence[Result | Exception]) -> None:
        self._loop.call_soon_threadsafe(self._deliver, jobs, results)

    def _deliver(
        self, jobs: list[_Job[Item, Result]], results: Sequence[Result | Exception]
    ) -> None:
        self.waiting -= len(jobs)
        for job, result in zip(jobs, results, strict=True):
            if job.future.done():  # cancelled meanwhile
                continue
            if isinstance(result, Exception):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)
