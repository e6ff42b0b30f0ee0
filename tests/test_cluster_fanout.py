"""Calls to one shard: they end in time, replicas stand in for each other, lost ones come back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest
from fake_shards import FakeHandle

from concepthash.cluster.fanout import Line, Lost, Patience
from concepthash.cluster.replica import State
from concepthash.errors import GalleryError
from concepthash.runtime.shardfile import Shard

SHARD = Shard("shard-0002.chg", ((1, 9),))
WAIT = 20


class FakeShard:
    """Fake: a replica that says what it is told to say."""

    def __init__(self) -> None:
        self.now = State(5, (("a", 5),), None, b"one")

    def search(self, word: str) -> str:
        return word

    def state(self, tag: bytes) -> State | None:
        return None if tag == self.now.tag else self.now


def fail() -> None:
    raise ConnectionError("the actor died")


def play(
    work: Callable[[Line, FakeHandle, list[str]], Awaitable[None]], patience: Patience
) -> None:
    async def run() -> None:
        told: list[str] = []
        handle = FakeHandle(FakeShard())
        line = Line(SHARD, handle, patience, told.append)
        following = asyncio.create_task(line.follow())
        async with asyncio.timeout(WAIT):
            await work(line, handle, told)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    asyncio.run(run())


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.005)


def test_call__is_answered_by_another_replica_when_one_is_lost() -> None:
    async def work(line: Line, handle: FakeHandle, told: list[str]) -> None:
        handle.plan = [fail, fail]
        assert await line.call("search", "x") == "x"
        assert handle.calls.count("search") == 3
        assert not line.missing
        assert told == []

    play(work, Patience(seconds=WAIT, look=WAIT))


def test_call__asks_another_replica_when_one_hangs_and_drops_the_first() -> None:
    async def work(line: Line, handle: FakeHandle, told: list[str]) -> None:
        handle.plan = ["hang"]
        assert await line.call("search", "x") == "x"
        assert handle.calls == ["search", "search"]
        await until(lambda: handle.replies[0].cancelled)

    play(work, Patience(seconds=1.5, look=WAIT, hedged=True))


def test_call__does_not_ask_a_lone_replica_twice_at_once() -> None:
    async def work(line: Line, handle: FakeHandle, told: list[str]) -> None:
        handle.plan = ["hang"]
        with pytest.raises(Lost, match=r"does not answer \(no answer within 0.3 s\)"):
            await line.call("search", "x")
        assert handle.calls.count("search") == 1

    play(work, Patience(seconds=0.3, look=WAIT))


@pytest.mark.parametrize("hedged", [False, True])
def test_call__gives_up_and_says_why(hedged: bool) -> None:
    def damaged() -> None:
        raise GalleryError("a segment is truncated", where="x.codes")

    async def work(line: Line, handle: FakeHandle, told: list[str]) -> None:
        handle.lost = False
        handle.plan = [damaged] * 3 + ["hang"] * 100
        with pytest.raises(Lost, match="GalleryError: a segment is truncated"):
            await line.call("search", "x")
        assert line.missing
        assert len(told) == 1
        assert "answers are partial" in told[0]

    play(work, Patience(seconds=WAIT, look=WAIT, hedged=hedged))


def test_line__is_not_waited_for_again_until_it_is_back() -> None:
    async def work(line: Line, handle: FakeHandle, told: list[str]) -> None:
        handle.lost = True
        with pytest.raises(Lost):
            await line.call("search", "x")
        asked = handle.calls.count("search")
        for _ in range(50):
            with pytest.raises(Lost):
                await line.call("search", "x")
        assert handle.calls.count("search") == asked
        handle.replica.now = State(6, (("a", 6),), None, b"two")
        handle.lost = False
        await until(lambda: not line.missing)
        assert line.state == handle.replica.now
        assert await line.call("search", "y") == "y"
        assert len(told) == 2
        assert told[1] == "shard-0002.chg answers again"

    play(work, Patience(seconds=0.2, look=WAIT))


def test_line__finds_out_by_itself_that_a_shard_is_lost() -> None:
    async def work(line: Line, handle: FakeHandle, told: list[str]) -> None:
        await until(lambda: line.state is not None)
        handle.lost = True
        await until(lambda: line.missing)
        assert line.state is not None
        assert line.state.images == 5

    play(work, Patience(seconds=0.1, look=0.05))


def test_line__keeps_the_state_that_its_shard_tells() -> None:
    async def work(line: Line, handle: FakeHandle, told: list[str]) -> None:
        await line.look()
        assert line.state == handle.replica.now
        handle.replica.now = State(7, (), "gone", b"three")
        await until(lambda: line.state == handle.replica.now)

    play(work, Patience(seconds=WAIT, look=0.02))


def test_line__drops_calls_whose_caller_is_gone() -> None:
    entered = threading.Event()

    async def work(line: Line, handle: FakeHandle, told: list[str]) -> None:
        handle.plan = [lambda: entered.set(), "hang"]
        handle.lost = True
        call = asyncio.create_task(line.call("search", "x"))
        await until(entered.is_set)
        call.cancel()
        await until(lambda: handle.replies[0].cancelled)
        assert not line.missing

    play(work, Patience(seconds=WAIT, look=WAIT))
