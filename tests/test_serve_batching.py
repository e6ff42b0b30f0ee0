"""The bounded queue before a thread: batches, bounds, deadlines, cancelled items."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from concepthash.serve.batching import Batcher, Busy


class Gate:
    """Work that stops until it is let on, and remembers its batches: doubles every item."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.batches: list[list[int]] = []

    def __call__(self, batch: list[int]) -> Iterator[tuple[range, list[int]]]:
        self.batches.append(batch)
        self.entered.release()
        assert self.open.wait(30)
        yield range(len(batch)), [2 * item for item in batch]

    async def reached(self) -> None:
        """Wait until the thread is in a batch."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=30)


def run(
    work: Callable[[list[int]], Any],
    body: Callable[[Batcher[int, int]], Coroutine[Any, Any, None]],
    *,
    bound: int = 100,
    most: int = 8,
    seconds: float = 60,
) -> None:
    async def main() -> None:
        batcher: Batcher[int, int] = Batcher("t", work, bound=bound, most=most, seconds=seconds)
        batcher.start()
        try:
            await body(batcher)
        finally:
            if isinstance(work, Gate):
                work.open.set()
            await batcher.stop()

    asyncio.run(main())


def test_batcher__takes_what_waits_at_once_up_to_its_most() -> None:
    gate = Gate()

    async def body(batcher: Batcher[int, int]) -> None:
        first = batcher.submit(0)
        await gate.reached()
        others = [batcher.submit(item) for item in range(1, 12)]
        gate.open.set()
        assert await first == 0
        assert await asyncio.gather(*others) == [2 * item for item in range(1, 12)]
        assert batcher.waiting == 0
        while batcher.counters.batches < 3:  # counted by the thread, after it has answered
            await asyncio.sleep(0.001)
        assert batcher.counters.sizes == {1: 1, 8: 1, 3: 1}
        assert (batcher.counters.batches, batcher.counters.served) == (3, 12)

    run(gate, body)
    assert gate.batches == [[0], list(range(1, 9)), [9, 10, 11]]


def test_batcher__refuses_beyond_its_bound_and_accepts_again_afterwards() -> None:
    gate = Gate()

    async def body(batcher: Batcher[int, int]) -> None:
        held = [batcher.submit(item) for item in range(3)]
        with pytest.raises(Busy) as busy:
            batcher.submit(3)
        assert busy.value.retry_after >= 1
        counted_elsewhere = batcher.submit(4, accepted=True)
        gate.open.set()
        assert await asyncio.gather(*held, counted_elsewhere) == [0, 2, 4, 8]
        assert await batcher.submit(5) == 10
        assert batcher.counters.refused == 1

    run(gate, body, bound=3)
    assert all(3 not in batch for batch in gate.batches)


def test_batcher__does_no_work_for_cancelled_items() -> None:
    gate = Gate()

    async def body(batcher: Batcher[int, int]) -> None:
        under_way = batcher.submit(0)
        await gate.reached()
        tasks = [asyncio.ensure_future(batcher.submit(item)) for item in (1, 2, 3)]
        tasks[1].cancel()
        under_way.cancel()  # too late to save its work, but nobody is told
        gate.open.set()
        assert await tasks[0] == 2
        assert await tasks[2] == 6
        assert batcher.counters.abandoned == 1
        assert batcher.waiting == 0

    run(gate, body)
    assert gate.batches == [[0], [1, 3]]


def test_batcher__drops_what_waited_too_long() -> None:
    gate = Gate()

    async def body(batcher: Batcher[int, int]) -> None:
        first = batcher.submit(0, accepted=True)
        await gate.reached()
        late = batcher.submit(1)
        patient = batcher.submit(2, accepted=True)
        await asyncio.sleep(0.05)
        gate.open.set()
        with pytest.raises(TimeoutError):
            await late
        assert (await first, await patient) == (0, 4)
        assert batcher.counters.late == 1

    run(gate, body, seconds=0.01)
    assert gate.batches == [[0], [2]]


def test_batcher__gives_an_error_to_those_without_an_answer_and_lives_on() -> None:
    def work(batch: list[int]) -> Iterator[tuple[list[int], list[int]]]:
        if batch[0]:
            yield [0], [2 * batch[0]]
        raise ValueError("broken")

    async def body(batcher: Batcher[int, int]) -> None:
        results = await asyncio.gather(batcher.submit(7), batcher.submit(8), return_exceptions=True)
        assert 14 in results
        with pytest.raises(ValueError, match="broken"):
            await batcher.submit(0)
        assert await batcher.submit(5) == 10

    run(work, body)


def test_batcher__finishes_what_it_accepted_when_it_stops() -> None:
    gate = Gate()

    async def body(batcher: Batcher[int, int]) -> None:
        held = [batcher.submit(item) for item in range(20)]
        stopping = asyncio.ensure_future(batcher.stop())
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="stopping"):
            batcher.submit(99)
        gate.open.set()
        await stopping
        assert [future.result() for future in held] == [2 * item for item in range(20)]

    run(gate, body)
