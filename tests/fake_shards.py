"""Replicas in this process, behind handles that fail when they are told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from concepthash.cluster.replica import Replica


class FakeReply:
    """Fake: what a handle of Ray Serve returns for a call."""

    def __init__(self, work: Any) -> None:
        self._task = asyncio.ensure_future(work)
        self.cancelled = False

    def __await__(self) -> Any:
        return asyncio.shield(self._task).__await__()

    def cancel(self) -> None:
        self.cancelled = True
        self._task.cancel()


class FakeMethod:
    """Fake: a method of a handle."""

    def __init__(self, handle: FakeHandle, name: str) -> None:
        self._handle, self._name = handle, name

    def remote(self, *args: Any) -> FakeReply:
        reply = FakeReply(self._handle._work(self._name, args))
        self._handle.replies.append(reply)
        return reply


class FakeHandle:
    """Fake: the handle of a deployment, whose replicas are one object in this process.

    Args:
        replica: what answers; anything with the methods that are called.
    """

    def __init__(self, replica: Replica | Any) -> None:
        self.replica = replica
        self.calls: list[str] = []
        self.replies: list[FakeReply] = []
        self.plan: list[Callable[[], None] | str] = []
        """What the next calls do instead: raise, or "hang"."""
        self.lost = False
        """As long as it is set every call waits, as it does while Ray Serve has no replica."""

    def __getattr__(self, name: str) -> FakeMethod:
        return FakeMethod(self, name)

    async def _work(self, name: str, args: tuple[Any, ...]) -> Any:
        self.calls.append(name)
        if self.plan:
            step = self.plan.pop(0)
            if step == "hang":
                await asyncio.Event().wait()
            step()  # type: ignore[operator]
        while self.lost:
            await asyncio.sleep(0.005)
        return await asyncio.to_thread(getattr(self.replica, name), *args)
