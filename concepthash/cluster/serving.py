"""A gallery whose shards are held elsewhere: asked all at once, their answers made one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from concepthash.cluster.deploying import Gallery, deployed, import_serve
from concepthash.cluster.fanout import Line, Lost, Patience
from concepthash.cluster.merging import merge_counts, merge_items, merge_rows
from concepthash.cluster.replica import Part
from concepthash.codes import Codes
from concepthash.errors import BackendError, ConceptHashError
from concepthash.runtime.answers import Found
from concepthash.runtime.entries import Anchor, Entry
from concepthash.runtime.shardfile import Shard
from concepthash.serve.held import (
    Answers,
    Asked,
    Counts,
    Items,
    alike,
    no_image,
    no_label,
)

# Hits of one call, which come back together.
_HITS_A_CALL = 1 << 14

Made = TypeVar("Made")
_Group = tuple[Asked, list[int]]


@contextmanager
def serving(
    gallery: Gallery,
    *,
    lasting: bool,
    replicas: int = 1,
    cpus: float = 0.0,
    seconds: float = 10.0,
    reload_seconds: float = 2.0,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[Served]:
    """A gallery held by replicas on a Ray cluster, which this process is connected to.

    Args:
        gallery: to serve.
        lasting: whether other processes may use these replicas, as long as the block lasts; if not,
            those of such a process are used, if there is one.
        replicas: of each shard.
        cpus: that Ray reserves for a replica.
        seconds: a shard has to answer, all tries together.
        reload_seconds: between two looks for commits.
        tell: told a line while it takes long to start, and when a shard is lost and back.

    Raises:
        BackendError: if a shard is not there in time, or cannot be opened.
    """
    serve = import_serve()
    with deployed(
        gallery,
        replicas=replicas,
        cpus=cpus,
        reload_seconds=reload_seconds,
        lasting=lasting,
        tell=tell,
    ) as (name, count):
        shards = [(s, serve.get_deployment_handle(s.name, name)) for s in gallery.shards]
        patience = Patience(seconds, reload_seconds, hedged=count > 1)
        served = Served(shards, patience, tell)
        try:
            yield served
        finally:
            served.close()


class Served:
    """The shards of a gallery, asked as one; a :class:`concepthash.serve.held.AnyHeld`.

    Its methods may be called in any thread but one with an event loop. Each of them ends in time: a
    shard that does not answer is left out and named, until it does again.

    Args:
        shards: each with the handle of its deployment.
        patience: how long to wait for one.
        tell: told a line when one is lost, and when it is back.
    """

    where = "ray"

    def __init__(
        self, shards: Sequence[tuple[Shard, Any]], patience: Patience, tell: Callable[[str], None]
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="shards", daemon=True)
        self._thread.start()
        self._lines = self._do(self._begin(shards, patience, tell))
        # As text, so that a path of a replica reads as one of this process would.
        self._name = Anchor(Path("/")).names(Path.cwd())

    async def _begin(
        self, shards: Sequence[tuple[Shard, Any]], patience: Patience, tell: Callable[[str], None]
    ) -> list[Line]:
        lines = [Line(shard, handle, patience, tell) for shard, handle in shards]
        await asyncio.gather(*(line.look() for line in lines))
        self._tasks = [self._loop.create_task(line.follow()) for line in lines]
        return lines

    def _do(self, work: Coroutine[Any, Any, Made]) -> Made:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    @property
    def images(self) -> int:
        """In all shards, as each told last."""
        return sum(line.state.images for line in self._lines if line.state is not None)

    @property
    def counts(self) -> Counts:
        """Each label and its images, as each shard told last."""
        return merge_counts([line.state.counts for line in self._lines if line.state is not None])

    @property
    def missing(self) -> tuple[str, ...]:
        """Shards that do not answer now."""
        return tuple(line.name for line in self._lines if line.missing)

    @property
    def answering(self) -> bool:
        """Whether any shard does."""
        return not all(line.missing for line in self._lines)

    @property
    def trouble(self) -> str | None:
        """Why replicas cannot follow their shards; None if they can."""
        told = [
            f"{line.name}: {line.state.trouble}"
            for line in self._lines
            if line.state is not None and line.state.trouble is not None
        ]
        return "; ".join(told) or None

    def outdated(self) -> bool:
        """Never: the replicas follow what is committed."""
        return False

    def search(self, queries: Sequence[tuple[Codes, Asked]]) -> Answers:
        """The hits of each query, as :meth:`concepthash.serve.held.Held.search`.

        All shards are asked at once. What a shard has to say to a query is of one moment of it.
        """
        calls = [
            (call, asyncio.run_coroutine_threadsafe(self._search(queries, call), self._loop))
            for call in _calls(queries, self.images)
        ]
        for call, work in calls:
            yield from zip((places for _, places in call), work.result(), strict=True)

    async def _search(
        self, queries: Sequence[tuple[Codes, Asked]], call: list[_Group]
    ) -> list[Sequence[Found | Exception]]:
        groups = [
            (np.stack([queries[place][0] for place in places]), asked) for asked, places in call
        ]
        try:
            parts, missing = await self._all("search", groups)
        except BackendError as error:
            return [[error] * len(places) for _, places in call]
        found: list[Sequence[Found | Exception]] = []
        for number, (asked, places) in enumerate(call):
            try:
                found.append(self._merged([part[number] for part in parts], asked, missing))
            except ConceptHashError as error:
                found.append([error] * len(places))
        return found

    def _merged(self, parts: list[Part], asked: Asked, missing: tuple[str, ...]) -> list[Found]:
        for part in parts:
            if part.error is not None:
                raise part.error
        unknown = [label for label in asked.labels or () if all(label in p.unknown for p in parts)]
        if unknown and not missing:  # an image of a missing shard may have it
            raise no_label(unknown)
        rows = merge_rows([part.rows for part in parts if part.rows is not None], asked.k)
        names = {id: (self._name(path), label) for id, (path, label) in rows.names.items()}
        return [Found(hits, missing) for hits in replace(rows, names=names).hits()]

    def items(self, label: str | None, after: int, limit: int) -> Items:
        """Images in id order, as :meth:`concepthash.serve.held.Held.items`.

        Raises:
            UsageError: if no image of any shard has the label.
            BackendError: if no shard answers.
        """
        answers, missing = self._do(self._all("items", label, after, limit))
        parts = [part for part in answers if part is not None]
        if not parts and not missing:
            raise no_label([label])
        items = merge_items(parts, limit, missing)
        return replace(items, entries=tuple(map(self._entry, items.entries)))

    def entry(self, id: int) -> Entry:
        """The image with an id.

        Raises:
            NothingFound: if there is none.
            BackendError: if the shard that would have it does not answer.
        """
        return self._entry(self._one("entry", id))

    def item(self, id: int) -> tuple[Entry, Codes]:
        """The image with an id, and its code ``(K / 8,)`` uint8; errors as :meth:`entry`."""
        entry, code = self._one("item", id)
        return self._entry(entry), code

    def close(self) -> None:
        """Ask no more."""
        if self._loop.is_closed():
            return
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _all(self, method: str, *args: Any) -> tuple[list[Any], tuple[str, ...]]:
        """What all shards that answer say, and the names of the others.

        Raises:
            BackendError: if none answers.
        """
        calls = [line.call(method, *args) for line in self._lines]
        said = await asyncio.gather(*calls, return_exceptions=True)
        parts, missing = [], []
        for line, answer in zip(self._lines, said, strict=True):
            if isinstance(answer, Lost):
                missing.append(line.name)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                parts.append(answer)
        if not parts:
            raise BackendError(
                "no shard of the gallery answers", where=", ".join(missing), hint="ray status"
            )
        return parts, tuple(missing)

    def _one(self, method: str, id: int) -> Any:
        """What the shard says that an id belongs to."""
        for line in self._lines:
            if line.shard.owns(id):
                try:
                    answer = self._do(line.call(method, id))
                except Lost as lost:
                    raise BackendError(str(lost), where="id", hint="ray status") from None
                if answer is not None:
                    return answer
        raise no_image(id)

    def _entry(self, entry: Entry) -> Entry:
        return replace(entry, path=Path(self._name(str(entry.path))))


def _calls(queries: Sequence[tuple[Codes, Asked]], images: int) -> Iterator[list[_Group]]:
    """Queries put together to calls of a bounded number of hits each."""
    call: list[_Group] = []
    hits = 0
    for asked, places in alike(queries, images):
        more = len(places) * (images if asked.k is None else asked.k)
        if call and hits + more > _HITS_A_CALL:
            yield call
            call, hits = [], 0
        call.append((asked, places))
        hits += more
    if call:
        yield call
