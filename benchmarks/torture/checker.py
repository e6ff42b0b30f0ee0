"""A model of a gallery that many write and read, and whether a recorded history fits it.

Events are dicts, times seconds of the monotonic clock, which all processes of a machine share. A
shard is an ordinary gallery: a sharded one has several, each with commits and moments of its own.

Of writers, who hold the lock while they say it::

    opened  at, shard, token                  a writer looks at what was committed last
    intent  at, shard, base, token, remove, update, add      it will commit this on top of base
    done    at, shard, token                  the commit returned

``add`` and ``update`` are rows ``[id, name, label, sha256, code]``, ``remove`` are ids. Every
commit sets the label of the shard's marker image to its ``token``, so that any reader sees which
state it has. A killed writer may leave an intent without ``done``: the next one says if it counts.

Of readers::

    read    from, to, reader, shard, token, digest, kind, late    a moment was taken in between

``digest`` is that of all rows, :func:`digest`, or, of kind ``hits``, of what a server tells of
them. ``late`` allows a reader to be behind what was acknowledged before it asked.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Event = Mapping[str, Any]
Row = tuple[int, str, str, str, str]
"""Id, name, label, digest of the content and code, both hexadecimal."""

_MODULUS = 1 << 128


def digest(rows: Iterable[Sequence[object]]) -> int:
    """A number for a set of rows in any order; a sum, so that it can be kept up to date."""
    return sum(map(_one, rows)) % _MODULUS


def _one(row: Sequence[object]) -> int:
    text = "\0".join(map(str, row)).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(text).digest()[:16], "big")


def hit(row: Row, code: str) -> tuple[int, str, str, int]:
    """What a server tells of an image to who searches for a code: id, name, label, distance."""
    distance = (int(row[4], 16) ^ int(code, 16)).bit_count()
    return row[0], row[1], row[2], distance


@dataclass(frozen=True)
class State:
    """One committed state of a shard.

    Args:
        token: its name.
        begun: when its commit may have begun to be seen.
        done: when it had to be seen.
        digests: by kind of read.
        images: how many.
    """

    token: str
    begun: float
    done: float
    digests: Mapping[str, int]
    images: int


@dataclass
class Verdict:
    """What is wrong with a history, and how much of it there was."""

    wrong: list[str] = field(default_factory=list)
    commits: int = 0
    unacknowledged: int = 0
    reads: int = 0
    images: int = 0


class Model:
    """One shard, as its writers say it must be.

    Args:
        shard: its name.
        rows: that it begins with.
        marker: the id of the image whose label is the token.
        sought: the code that servers are asked for.
    """

    def __init__(self, shard: str, rows: Iterable[Row], marker: int, sought: str) -> None:
        self.shard = shard
        self.wrong: list[str] = []
        self.unacknowledged = 0
        self._marker = marker
        self._sought = sought
        self._rows = {row[0]: row for row in rows}
        self._sums = {kind: digest(self._shown(kind, self._rows.values())) for kind in _KINDS}
        self._pending: Event | None = None
        self._known: dict[str, str] = {}
        self.states = [self._state(self._rows[marker][2], 0.0, 0.0)]

    def event(self, event: Event) -> None:
        """Take in what a writer said; in the order of time."""
        kind, at = event["event"], event["at"]
        if kind == "done":
            if self._pending is None or self._pending["token"] != event["token"]:
                self.wrong.append(f"{self.shard}: {event['token']} was done, and not begun")
            else:
                self._commit(at)
            return
        found = event["token"] if kind == "opened" else event["base"]
        if self._pending is not None:
            self.unacknowledged += 1
            if found == self._pending["token"]:
                self._commit(at)
            else:
                self._pending = None
        last = self.states[-1].token
        if found != last:
            self.wrong.append(f"{self.shard}: lost write: a writer found {found} after {last}")
        if kind == "intent":
            self._pending = event

    def _commit(self, at: float) -> None:
        event = self._pending
        assert event is not None
        self._pending = None
        for id in event["remove"]:
            if self._rows.get(id) is not None:
                self._put(id, None)
        for row in (*event["update"], *event["add"]):
            if row in event["add"] and row[0] in self._rows:
                self.wrong.append(f"{self.shard}: the id {row[0]} was given twice")
            if self._known.setdefault(row[3], row[4]) != row[4]:
                self.wrong.append(f"{self.shard}: two codes of the content {row[3]}")
            self._put(row[0], tuple(row))
        self.states.append(self._state(event["token"], event["at"], at))

    def _put(self, id: int, row: Row | None) -> None:
        for kind in _KINDS:
            old = self._shown(kind, [self._rows[id]] if id in self._rows else [])
            new = self._shown(kind, [] if row is None else [row])
            self._sums[kind] = (self._sums[kind] - digest(old) + digest(new)) % _MODULUS
        if row is None:
            del self._rows[id]
        else:
            self._rows[id] = row

    def _shown(self, kind: str, rows: Iterable[Row]) -> list[Sequence[object]]:
        return [hit(row, self._sought) if kind == "hits" else row for row in rows]

    def _state(self, token: str, begun: float, done: float) -> State:
        return State(token, begun, done, dict(self._sums), len(self._rows))


_KINDS = ("rows", "hits")


def check(models: Mapping[str, Model], events: Iterable[Event]) -> Verdict:
    """Whether a history is one that a gallery may have.

    Every commit follows the last acknowledged one. Every read is exactly one committed state: not
    older than what was acknowledged before it began, not newer than what had begun when it ended,
    and no older than the reader's read before.

    Args:
        models: of each shard, by name, as they were at the beginning.
        events: as the module's docstring says, in any order.
    """
    reads: list[Event] = []
    writes: list[Event] = []
    for event in events:
        (reads if event["event"] == "read" else writes).append(event)
    for event in sorted(writes, key=lambda event: float(event["at"])):
        models[event["shard"]].event(event)
    verdict = Verdict()
    for model in models.values():
        verdict.wrong += model.wrong
        verdict.commits += len(model.states) - 1
        verdict.unacknowledged += model.unacknowledged
        verdict.images += model.states[-1].images
        mine = [read for read in reads if read["shard"] == model.shard]
        verdict.reads += len(mine)
        verdict.wrong += _reads(model, mine)
    return verdict


def _reads(model: Model, reads: Iterable[Event]) -> list[str]:
    wrong = []
    numbers = {state.token: number for number, state in enumerate(model.states)}
    done = [state.done for state in model.states]
    seen: dict[str, int] = {}
    for read in sorted(reads, key=lambda read: float(read["to"])):
        who = f"{model.shard}: {read['reader']} at {read['to']:.3f}"
        number = numbers.get(read["token"])
        if number is None:
            wrong.append(f"{who}: phantom: {read['token']} was never committed")
            continue
        state = model.states[number]
        if read["digest"] != state.digests[read["kind"]]:
            wrong.append(f"{who}: torn: not the {state.images} rows of {state.token}")
        # The last state that was acknowledged before the read began.
        least = bisect.bisect_left(done, read["from"]) - 1
        if number < least and not read["late"]:
            wrong.append(f"{who}: stale: {state.token} after {model.states[least].token}")
        if state.begun > read["to"]:
            wrong.append(f"{who}: {state.token} before its commit began")
        if number < seen.get(read["reader"], 0):
            before = model.states[seen[read["reader"]]].token
            wrong.append(f"{who}: back in time: {state.token} after {before}")
        seen[read["reader"]] = number
    return wrong
