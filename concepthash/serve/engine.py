"""What `chash serve` answers: codes of photos, hits, explanations, items and thumbnails.

All methods are called on the event loop and return there. The work is done elsewhere: one thread
has the gallery, one the model, a few decode. What waits for them is bounded, in number and bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from concepthash.bundle import MANIFEST, Bundle
from concepthash.codes import Codes
from concepthash.errors import BundleError, ConceptHashError, MismatchError, UsageError
from concepthash.explain.explanation import Explanation, explanation
from concepthash.explain.heat import HEAT_STOPS, concept_colour
from concepthash.images import Pixels
from concepthash.runtime.answers import Found
from concepthash.runtime.entries import Entry
from concepthash.runtime.hasher import Hasher
from concepthash.serve.batching import Batcher, Busy, Results
from concepthash.serve.held import AnyHeld, Asked, Counts, Held, Items
from concepthash.serve.limits import Limits, Stats, Status
from concepthash.serve.photos import Decoder, TooLarge
from concepthash.serve.thumbnails import Thumbnails, View

__all__ = ["Asked", "Busy", "Engine", "Items", "Limits", "Stats", "TooLarge", "View"]


# Times what it took to look for a newer state, and to open it, until the next look.
_REST = 5

_Query = tuple[Codes, Asked]
_Call = Callable[[], Any]


class Engine:
    """A gallery and its model, ready to answer once started.

    Args:
        gallery: its folder.
        bundle: the model that made it.
        device, threads, backend, precision: as :class:`concepthash.runtime.hasher.Hasher` takes
            them.
        limits: of everything.
        reload_seconds: between two looks for what was committed to the gallery.
        tell: told a line for the operator: before an engine is built anew, which takes minutes,
            and when the gallery can no longer be followed, and can again.
        held: what holds the gallery, given the fingerprint of the model and how many threads a
            search may have; by default this process does.
    """

    def __init__(
        self,
        gallery: Path,
        bundle: Bundle,
        *,
        device: str = "auto",
        threads: int | None = None,
        backend: str = "auto",
        precision: str | None = None,
        limits: Limits | None = None,
        reload_seconds: float = 2.0,
        tell: Callable[[str], None] | None = None,
        held: Callable[[str, int], AnyHeld] | None = None,
    ) -> None:
        self.limits = limits = limits or Limits()
        self.bundle = bundle
        self.gallery = gallery
        self._name = gallery.absolute().name
        self._reload_seconds = reload_seconds
        self._open_hasher = lambda: Hasher(
            bundle, device=device, threads=threads, backend=backend, precision=precision, tell=tell
        )
        self._searches: Batcher[_Query | _Call, Any] = Batcher(
            "search", self._search, bound=limits.queue, most=limits.batch, seconds=limits.seconds
        )
        self._open_held = held or (lambda model, count: Held(gallery, model, threads=count))
        self._trouble: dict[str, str] = {}
        self._partial = 0
        self._tell = tell or (lambda _: None)
        self._named = _changed(bundle)
        self._stopping = False
        self._look = asyncio.Event()
        self._photos = self._photo_bytes = self._refused = self._reloads = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self) -> None:
        """Open model and gallery, try both once, begin to look for commits.

        Raises:
            GalleryError, MismatchError: as :class:`concepthash.serve.held.Held`.
            BundleError, BackendError: if the model does not run.
        """
        self._hasher = hasher = await asyncio.to_thread(self._open_hasher)
        self._encodes: Batcher[tuple[Pixels, str], Explanation] = Batcher(
            "encode",
            self._encode,
            bound=self.limits.queue,
            most=hasher.batch_size,
            seconds=self.limits.seconds,
        )
        self._decoder = Decoder(
            hasher.preprocess, threads=hasher.threads, pixels=self.limits.pixels
        )
        self._thumbnails = Thumbnails(hasher.preprocess, most=self.limits.thumbnail_bytes)
        self._held = await asyncio.to_thread(self._open)
        await asyncio.to_thread(self._try)
        self._searches.start()
        self._encodes.start()
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Refuse what comes, finish what was accepted, let go of threads and files."""
        self._stopping = True
        self._look.set()
        await self._watching
        await self._idle.wait()
        await self._encodes.stop()
        await self._searches.stop()
        self._decoder.close()
        self._held.close()
        self._hasher.close()

    def reload(self) -> None:
        """Look for a newer state of the gallery at once."""
        self._look.set()

    async def search(self, code: Codes, asked: Asked) -> Found:
        """The hits of a code ``(K / 8,)`` uint8, nearest first.

        Raises:
            Busy: if too much waits.
            TimeoutError: if it waited too long for its turn.
            MismatchError: if the code does not have the gallery's width.
            UsageError: if something else that was asked for is out of range.
            BackendError: if the gallery is in shards elsewhere, and none answers.
        """
        if code.dtype != np.uint8 or code.shape != (self._hasher.layout.nbytes,):
            raise MismatchError(
                f"a code has {self._hasher.layout.nbytes} bytes, this one {code.nbytes}",
                where="code",
                hint="POST /v1/hash gives one",
            )
        if asked.k is None or asked.k > self.limits.k:
            what = f"{'all' if asked.k is None else asked.k} hits are more than {self.limits.k}"
            raise UsageError(what, where="k", hint=f"k={self.limits.k}")
        found: Found = await self._searches.submit((code, asked))
        self._partial += bool(found.missing)
        return found

    async def hash(self, image: bytes, *, name: str = "photo") -> Explanation:
        """The code of an encoded photo, and why it has it.

        Raises:
            Busy: if too much waits.
            TimeoutError: if it waited too long for its turn.
            TooLarge: if it has more bytes or pixels than a client may send.
            ImageError: if it cannot be decoded.
            BackendError: if the model cannot compute it.
        """
        if len(image) > self.limits.upload_bytes:
            raise TooLarge(
                f"{len(image)} bytes are more than {self.limits.upload_bytes}",
                where="image",
                hint="send a smaller photo",
            )
        async with self._accepted(len(image)):
            pixels = await self._decoder.upload(image)
            return await self._encodes.submit((pixels, name), accepted=True)

    async def explain_item(self, id: int) -> Explanation:
        """The explanation of a photo of the gallery, as its file is now.

        Raises:
            NothingFound: if no image has the id.
            ImageError: if its file is gone or cannot be decoded.
            Busy, TimeoutError, BackendError: as :meth:`hash`.
        """
        entry = await self._call(lambda: self._held.entry(id))
        prepare = self._hasher.preprocess
        async with self._accepted(0):
            pixels = await self._decoder.file(
                entry.path, lambda path: self._decoder.make(path, prepare)
            )
            return await self._encodes.submit((pixels, str(entry.path)), accepted=True)

    async def thumbnail(self, id: int, size: int = 224, view: View = "crop") -> bytes:
        """A photo of the gallery, as its file is now, as a JPEG.

        Args:
            id: of the image.
            size: side of the square, or the longer side of the whole photo, pixels.
            view: ``crop``, the square that the model sees and its maps fit; or ``whole``.

        Raises:
            NothingFound: if no image has the id.
            ImageError: if its file is gone or cannot be decoded.
            Busy, TimeoutError: as :meth:`hash`.
        """
        entry = await self._call(lambda: self._held.entry(id))
        draw = self._thumbnails.get
        async with self._accepted(0):
            return await self._decoder.file(
                entry.path, lambda path: draw(path, size, view, self._decoder.make)
            )

    async def item(self, id: int) -> tuple[Entry, Codes]:
        """An image of the gallery and its code ``(K / 8,)`` uint8.

        Raises:
            NothingFound: if no image has the id.
            Busy, TimeoutError: as :meth:`search`.
        """
        item: tuple[Entry, Codes] = await self._call(lambda: self._held.item(id))
        return item

    async def items(self, label: str | None = None, after: int = 0, limit: int = 100) -> Items:
        """Images of the gallery in id order; arguments and errors as :meth:`Held.items`."""
        items: Items = await self._call(lambda: self._held.items(label, after, limit))
        return items

    async def labels(self) -> Counts:
        """Each label and how many images have it, sorted; None, for those without, is last."""
        return self._held.counts

    @property
    def missing(self) -> tuple[str, ...]:
        """Shards that give no answer at present."""
        return self._held.missing

    @property
    def where(self) -> str:
        """Where codes are compared, as :class:`concepthash.serve.held.AnyHeld`."""
        return self._held.where

    @property
    def concept_names(self) -> tuple[str, ...]:
        """Of all concepts; they may be renamed meanwhile."""
        return self.bundle.manifest.concept_names

    def info(self) -> dict[str, Any]:
        """Gallery, model and how to show them, as plain values."""
        manifest, layout = self.bundle.manifest, self._hasher.layout
        return {
            "gallery": self._name,
            "images": self._held.images,
            "bits": layout.bits,
            "concepts": list(self.concept_names),
            "sub_bits": layout.sub_bits,
            "model": manifest.name,
            "fingerprint": manifest.fingerprint,
            "backend": self._hasher.backend,
            "resize": manifest.preprocess.resize,
            "side": manifest.preprocess.crop,
            "heat": HEAT_STOPS,
            "colours": [concept_colour(m) for m in range(layout.concepts)],
        }

    def health(self) -> tuple[Status, str | None]:
        """Whether it answers, and what is wrong if anything is."""
        status: Status = "ok"
        held = self._held
        trouble = list(self._trouble.values())
        if not held.answering:
            trouble.append("no shard of the gallery answers")
        elif held.missing:
            trouble.append(f"no answer from {', '.join(held.missing)}: answers are partial")
        if held.trouble:
            trouble.append(held.trouble)
        if self._stopping:
            status = "stopping"
        elif trouble:
            failing = "model" in self._trouble or not held.answering
            status = "failing" if failing else "degraded"
        return status, "; ".join(trouble) or None

    def stats(self) -> Stats:
        """What it holds and has done, now."""
        return Stats(
            images=self._held.images,
            searches=self._searches.waiting,
            photos=self._photos,
            photo_bytes=self._photo_bytes,
            searched=self._searches.counters,
            encoded=self._encodes.counters,
            refused=self._refused,
            reloads=self._reloads,
            thumbnails=self._thumbnails.drawn,
            thumbnail_bytes=self._thumbnails.bytes,
            partial=self._partial,
            missing=len(self._held.missing),
        )

    @asynccontextmanager
    async def _accepted(self, size: int) -> AsyncIterator[None]:
        """Count a photo of ``size`` bytes among those that wait, and its time, inside the block."""
        limits = self.limits
        held = self._photo_bytes + size
        full = self._photos >= limits.queue or (self._photos and held > limits.waiting_bytes)
        if full or self._stopping:
            self._refused += 1
            what = "the server is stopping" if self._stopping else "too many photos wait"
            raise Busy(what, self._encodes.retry_after)
        self._photos += 1
        self._photo_bytes += size
        self._idle.clear()
        try:
            async with asyncio.timeout(limits.seconds):
                yield
        finally:
            self._photos -= 1
            self._photo_bytes -= size
            if not self._photos:
                self._idle.set()

    def _call(self, call: _Call) -> asyncio.Future[Any]:
        """What ``call`` returns, called in the thread that has the gallery."""
        return self._searches.submit(call)

    def _search(self, batch: list[_Query | _Call]) -> Results[Any]:
        queries: list[_Query] = []
        places: list[int] = []
        for place, item in enumerate(batch):
            if callable(item):
                try:
                    yield [place], [item()]
                except Exception as error:  # its answer
                    yield [place], [error]
            else:
                places.append(place)
                queries.append(item)
        for some, found in self._held.search(queries):
            yield [places[number] for number in some], found

    def _encode(self, batch: list[tuple[Pixels, str]]) -> Results[Explanation]:
        pixels = np.stack([one for one, _ in batch])
        try:
            encoded = self._hasher.encode(pixels)
        except ConceptHashError as error:
            self._trouble["model"] = error.what
            raise
        self._trouble.pop("model", None)
        yield (
            range(len(batch)),
            [
                explanation(self._hasher, pixels, encoded, row, name)
                for row, (_, name) in enumerate(batch)
            ],
        )

    def _open(self) -> AnyHeld:
        return self._open_held(self._hasher.fingerprint, self._hasher.threads)

    def _try(self) -> None:
        """What is slow the first time, before anybody waits: pages are read, memory is taken."""
        for count in (1, self._hasher.batch_size):
            codes = self._hasher.encode(self._blank(count)).codes
        for _ in self._held.search([(codes[0], Asked())]):
            pass

    def _blank(self, count: int) -> Pixels:
        side = self._hasher.preprocess.crop
        return np.zeros((count, side, side, 3), np.uint8)

    async def _watch(self) -> None:
        """Look for newer states of the gallery, and take them up between two batches.

        A model that failed is tried again: a server that says so may not be sent photos any more.
        """
        loop, pause = asyncio.get_running_loop(), self._reload_seconds
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._look.wait(), pause)
            if self._stopping:
                return
            self._look.clear()
            if "model" in self._trouble:
                with suppress(Exception):  # it still fails
                    await self._encodes.submit((self._blank(1)[0], "trial"), accepted=True)
            started = loop.time()
            try:
                if await self._searches.submit(lambda: self._held.outdated(), accepted=True):
                    fresh = await asyncio.to_thread(self._open)
                    await self._searches.submit(partial(self._swap, fresh), accepted=True)
                    self._reloads += 1
                self._rename()
                if self._trouble.pop("gallery", None):
                    self._tell(f"{self._name} is followed again")
            except Exception as error:  # whatever became of the gallery, the earlier state answers
                what = error.what if isinstance(error, ConceptHashError) else repr(error)
                trouble = f"answering from an earlier state of the gallery: {what}"
                if self._trouble.get("gallery") != trouble:
                    self._tell(f"{self._name}: {trouble}")
                self._trouble["gallery"] = trouble
            # A large gallery that grows by many commits must not be opened all the time.
            pause = max(self._reload_seconds, _REST * (loop.time() - started))

    def _rename(self) -> None:
        """Take up the names that concepts were given since; the rest of the model stays."""
        changed = _changed(self.bundle)
        if changed in (self._named, None):
            return
        with suppress(BundleError):  # of another model, or half gone: what is loaded still answers
            fresh = Bundle.open(self.bundle.path).manifest
            if fresh.fingerprint == self._hasher.fingerprint:
                known = replace(self.bundle.manifest, concept_names=fresh.concept_names)
                self._hasher.bundle = self.bundle = replace(self.bundle, manifest=known)
        self._named = changed

    def _swap(self, fresh: AnyHeld) -> None:
        old, self._held = self._held, fresh
        old.close()


def _changed(bundle: Bundle) -> int | None:
    """When the manifest of a bundle was written, in nanoseconds; None if that is not known."""
    try:
        return (bundle.path / MANIFEST).stat().st_mtime_ns
    except OSError:
        return None
