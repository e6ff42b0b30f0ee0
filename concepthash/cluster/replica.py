"""What a replica does: it holds one shard of a gallery, follows its commits and answers for it.

It knows nothing of the other shards. Paths leave it whole, for it is not where the user is.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from concepthash.codes import Codes
from concepthash.decode import usable_cpus
from concepthash.errors import ConceptHashError, MismatchError, NothingFound, UsageError
from concepthash.runtime.answers import Rows
from concepthash.runtime.entries import Entry
from concepthash.serve.held import Asked, Counts, Held, Items

OWNERS = "chash"
"""The namespace of the actors that stand for the processes which want replicas."""


@dataclass(frozen=True)
class Place:
    """Where a shard lies.

    Args:
        gallery: its folder, as every machine sees it; or a URL.
        shard: the folder in it; None if the gallery is no sharded one.
        fetched: whether it is a URL, of which each machine makes a copy.
    """

    gallery: str
    shard: str | None = None
    fetched: bool = False

    def folder(self) -> Path:
        """The shard on this machine, fetched if need be.

        Raises:
            GalleryError: if a URL cannot be read.
        """
        folder = Path(self.gallery)
        if self.fetched:
            from concepthash.runtime.remote import fetch

            folder = fetch(self.gallery)
        return folder if self.shard is None else folder / self.shard


@dataclass(frozen=True)
class Part:
    """What one shard has to say to queries that ask alike.

    Args:
        rows: its hits; None if what was asked for cannot be.
        unknown: labels that were asked for and that none of its images has.
        error: why it cannot be, which is so in every shard.
    """

    rows: Rows | None = None
    unknown: tuple[str | None, ...] = ()
    error: ConceptHashError | None = None


@dataclass(frozen=True)
class State:
    """A shard in numbers.

    Args:
        images: in it.
        counts: of its labels.
        trouble: why its commits cannot be followed; None if they are.
        tag: differs from that of any other state.
    """

    images: int
    counts: Counts
    trouble: str | None
    tag: bytes = b""


class Replica:
    """One shard, open to be asked by many; each answer is of one moment.

    Args:
        place: of the shard.
        fingerprint: of the model that made it.
        threads: of a search; None for all cores.
        reload_seconds: between two looks for commits.
        owner: the name of an actor that lives as long as the process that wants this replica.
        owner_seconds: between two looks whether it does.
        others: the shards deployed with this one, which does not use them.

    Raises:
        GalleryError, MismatchError: as :class:`concepthash.serve.held.Held`.
    """

    def __init__(
        self,
        place: Place,
        fingerprint: str,
        *,
        threads: int | None = None,
        reload_seconds: float = 2.0,
        owner: str | None = None,
        owner_seconds: float = 15.0,
        others: Sequence[Any] = (),
    ) -> None:
        self._place = place
        self._fingerprint = fingerprint
        self._threads = threads or usable_cpus()
        self._held = self._open()
        self._here = Path.cwd()
        self._lock = threading.Lock()  # for what is held, which one thread at a time may use
        self._trouble: str | None = None
        self._state: State | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._follow, args=(reload_seconds,), daemon=True).start()
        if owner is not None:
            minding = (owner, owner_seconds)
            threading.Thread(target=self._mind, args=minding, daemon=True).start()

    def _open(self) -> Held:
        return Held(self._place.folder(), self._fingerprint, threads=self._threads)

    def search(self, groups: Sequence[tuple[Codes, Asked]]) -> list[Part]:
        """The hits of queries, all of one moment; those of a group ask alike."""
        with self._lock:
            return [self._search(codes, asked) for codes, asked in groups]

    def _search(self, codes: Codes, asked: Asked) -> Part:
        held, unknown = self._held, tuple[str | None, ...]()
        if asked.labels is not None:
            known = held.known(asked.labels)
            unknown = tuple(label for label in asked.labels if label not in known)
            # Asked for no hits, an index still refuses what cannot be.
            asked = replace(asked, labels=known or None, k=asked.k if known else 0)
        try:
            rows = held.rows(codes, asked)
        except (UsageError, MismatchError) as error:
            return Part(error=error)
        names = {id: (self._whole(path), label) for id, (path, label) in rows.names.items()}
        return Part(replace(rows, names=names), unknown)

    def items(self, label: str | None, after: int, limit: int) -> Items | None:
        """Images in id order, as :meth:`Held.items`; None if none has the label."""
        with self._lock, suppress(UsageError):
            items = self._held.items(label, after, limit)
            return replace(items, entries=tuple(map(self._entry, items.entries)))
        return None

    def entry(self, id: int) -> Entry | None:
        """The image with an id; None if there is none."""
        with self._lock, suppress(NothingFound):
            return self._entry(self._held.entry(id))
        return None

    def item(self, id: int) -> tuple[Entry, Codes] | None:
        """The image with an id, and its code; None if there is none."""
        with self._lock, suppress(NothingFound):
            entry, code = self._held.item(id)
            return self._entry(entry), np.array(code)
        return None

    def state(self, tag: bytes = b"") -> State | None:
        """The shard in numbers; None if ``tag`` is that of its state now."""
        with self._lock:
            known = self._state
            if known is None or known.trouble != self._trouble:
                values = (self._held.images, self._held.counts, self._trouble)
                known = State(*values, tag=blake2b(repr(values).encode()).digest())
                self._state = known
        return None if known.tag == tag else known

    def close(self) -> None:
        """Stop following, and let go of the files."""
        self._ended.set()
        with self._lock:
            self._held.close()

    def _entry(self, entry: Entry) -> Entry:
        return replace(entry, path=Path(self._whole(str(entry.path))))

    def _whole(self, path: str) -> str:
        return str(self._here / path)

    def _follow(self, seconds: float) -> None:
        while not self._ended.wait(seconds):
            self.look()

    def look(self) -> None:
        """Take up what was committed since; if that fails, the earlier state answers."""
        try:
            with self._lock:
                newer = not self._ended.is_set() and self._held.outdated()
            if newer:
                fresh = self._open()
                with self._lock:
                    self._held, old = fresh, self._held
                    self._state = None
                    old.close()
            self._trouble = None
        except Exception as error:  # whatever became of the gallery
            what = error.what if isinstance(error, ConceptHashError) else repr(error)
            self._trouble = f"answering from an earlier state of the gallery: {what}"

    def _mind(self, owner: str, seconds: float) -> None:
        """Delete the application when the process that deployed it is gone without doing so."""
        import ray
        from ray import serve

        while not self._ended.wait(seconds):
            try:
                kept = ray.get_actor(owner, namespace=OWNERS)
                ray.get(kept.alive.remote(), timeout=seconds)
            except ValueError:  # nobody has the name any more: it is not begun anew elsewhere
                serve.delete(serve.get_replica_context().app_name, _blocking=False)
                return
            except Exception:  # of the network: it may come back
                continue


class Owner:
    """An actor that ends with the process that made it."""

    def alive(self) -> bool:
        """Whether it does, by answering at all."""
        return True
