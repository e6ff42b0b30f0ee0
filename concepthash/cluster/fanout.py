"""One shard as those who ask it see it: a call ends in time, whatever becomes of its replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from concepthash.cluster.replica import State
from concepthash.runtime.shardfile import Shard

# When the tries begin where the one before takes long, as shares of the time there is: soon, for
# one that hangs; but not so that slow searches are done over and over.
_TRIES = (0.0, 0.1, 0.4)
# Between two tries that failed at once, while Ray Serve learns that a replica is gone.
_PAUSE = 0.05
# For a replica to be there again; then it is asked anew, in case the call itself was lost.
_PROBE_SECONDS = 30.0


class Lost(Exception):
    """A shard gave no answer in time."""


@dataclass(frozen=True)
class Patience:
    """How long a shard is waited for.

    Args:
        seconds: for an answer, all tries together.
        look: between two looks at its state.
        hedged: whether another replica is asked too when one takes long: there are several.
    """

    seconds: float = 10.0
    look: float = 2.0
    hedged: bool = False


class Line:
    """Calls to one shard; all of it is used on one event loop.

    A shard that gave no answer counts as missing, and is not asked any more, until it tells its
    state again: so only the first answers without it are late.

    Args:
        shard: its name, and the ids it owns.
        handle: of its deployment.
        patience: how long to wait.
        tell: told a line when it goes missing, and when it is back.
    """

    def __init__(
        self, shard: Shard, handle: Any, patience: Patience, tell: Callable[[str], None]
    ) -> None:
        self.shard = shard
        self.name = shard.name
        self.missing = False
        self.state: State | None = None
        self._handle = handle
        self._patience = patience
        self._tell = tell
        self._lost = asyncio.Event()

    async def call(self, method: str, *args: Any) -> Any:
        """What a replica returns.

        Raises:
            Lost: if none does in time.
        """
        if self.missing:
            raise Lost(f"{self.name} does not answer")
        try:
            return await self._tried(method, args)
        except Lost as lost:
            if not self.missing:
                self.missing = True
                self._lost.set()
                self._tell(f"{lost}: answers are partial until it does")
            raise

    async def _tried(self, method: str, args: tuple[Any, ...]) -> Any:
        """The first answer of a few calls: the next begins when the last failed, or takes long."""
        loop = asyncio.get_running_loop()
        begun, seconds = loop.time(), self._patience.seconds
        ends = [begun + seconds * share for share in (*_TRIES[1:], 1.0)]
        running: set[asyncio.Task[Any]] = set()
        why = f"no answer within {seconds:g} s"
        try:
            for end in ends:
                running.add(loop.create_task(self._once(method, args)))
                until = end if self._patience.hedged else ends[-1]
                while running and loop.time() < until:
                    done, running = await asyncio.wait(
                        running,
                        timeout=until - loop.time(),
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    for task in done:
                        error = task.exception()
                        if error is None:
                            return task.result()
                        why = _reason(error)
                if loop.time() >= ends[-1]:
                    break
                if not running:
                    await asyncio.sleep(_PAUSE)
            raise Lost(f"{self.name} does not answer ({why})")
        finally:
            for task in running:
                task.cancel()

    async def _once(self, method: str, args: tuple[Any, ...]) -> Any:
        response = getattr(self._handle, method).remote(*args)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise

    async def follow(self) -> None:
        """Keep the state that of the shard, and find out when a lost one is back, for ever."""
        while True:
            try:  # wait_for of Python 3.11 may lose a cancellation
                async with asyncio.timeout(self._patience.look):
                    await self._lost.wait()
            except TimeoutError:
                await self.look()
            while self.missing:
                await self._probe()
            self._lost.clear()

    async def look(self) -> None:
        """Ask for the state."""
        try:
            self._take(await self.call("state", self._tag))
        except Lost:
            return

    async def _probe(self) -> None:
        """Wait for the shard to be back, for a while."""
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                state = await self._once("state", (self._tag,))
        except Exception:  # it is not
            await asyncio.sleep(_PAUSE)
            return
        self._take(state)
        self.missing = False
        self._tell(f"{self.name} answers again")

    @property
    def _tag(self) -> bytes:
        return b"" if self.state is None else self.state.tag

    def _take(self, state: State | None) -> None:
        if state is not None:
            self.state = state


def _reason(error: BaseException) -> str:
    """Why a call failed, in a few words: Ray adds its own pages to them."""
    cause = getattr(error, "cause", None) or error
    lines = [line for line in str(getattr(cause, "what", cause)).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0][:200]}" if lines else type(cause).__name__
