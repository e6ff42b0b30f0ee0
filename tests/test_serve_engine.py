"""The engine of the server: answers under load, bounds, reloads, the end."""

import asyncio
import io
import itertools
import threading
from pathlib import Path

import numpy as np
import pytest
from colour_bundle import SIDE, colour_logits
from PIL import Image
from serve_gallery import Place, encoded, paint, shade, until

from concepthash.bundle import rename_concepts
from concepthash.encoder import Encoded
from concepthash.errors import BackendError, ImageError, MismatchError, NothingFound, UsageError
from concepthash.runtime.answers import name_hits
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.hasher import Hasher
from concepthash.serve.engine import Asked, Busy, Engine, Limits, TooLarge


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


CODE = np.zeros(3, np.uint8)


class FakeModel:
    """In the place of ``Hasher.encode``: computes when it is let, and remembers batch sizes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.sizes: list[int] = []
        self._encode = Hasher.encode
        self._patch = monkeypatch

    def close_behind(self, engine: Engine) -> None:
        """From now on this engine's model waits."""

        def encode(hasher: Hasher, pixels: np.ndarray) -> Encoded:
            self.sizes.append(len(pixels))
            self.entered.set()
            assert self.open.wait(30)
            return self._encode(hasher, pixels)

        self._patch.setattr(Hasher, "encode", encode)


def test_engine__answers_as_the_index_does_whatever_is_asked_at_once(place: Place) -> None:
    with Gallery.open(place.gallery) as gallery:
        index, (ids, codes) = gallery.index(), gallery.codes()
        labels = {entry.id: entry.label for entry in gallery.entries()}
        options = itertools.product(
            (1, 3, 1000), (None, 4), (None, (0,), (1, 2)), (None, (2, 0, 1)), (None, ("two",))
        )
        asked = [Asked(*some) for some in options]
        expected = {}
        for one, code in itertools.product(asked, codes[::4]):
            where = None
            if one.labels is not None:
                where = np.array([labels[id] in one.labels for id in ids.tolist()])
            hits = index.search(
                code, one.k, radius=one.radius, concepts=one.concepts, weights=one.weights,
                where=where,
            )  # fmt: skip
            (named,) = name_hits(gallery, hits.ids, hits.distances, hits.per_concept)
            expected[one, code.tobytes()] = named

        async def work(engine: Engine) -> None:
            jobs = [(one, code) for (one, code) in expected]
            found = await asyncio.gather(
                *(engine.search(np.frombuffer(code, np.uint8), one) for one, code in jobs)
            )
            hits = [one.hits for one in found]
            assert dict(zip(jobs, hits, strict=True)) == expected
            assert engine.stats().searched.batches < len(jobs) / 4

        place.serve(work, limits=Limits(queue=len(expected)))


def test_engine__refuses_what_cannot_be_searched(place: Place) -> None:
    async def work(engine: Engine) -> None:
        for wrong in (np.zeros(4, np.uint8), np.zeros((1, 3), np.uint8), np.zeros(3, np.int64)):
            with pytest.raises(MismatchError):
                await engine.search(wrong, Asked())
        fine, *refused = await asyncio.gather(
            engine.search(CODE, Asked(k=2)),
            engine.search(CODE, Asked(concepts=(3,))),
            engine.search(CODE, Asked(weights=(1, 2))),
            engine.search(CODE, Asked(k=1001)),
            return_exceptions=True,
        )
        assert [hit.rank for hit in fine.hits] == [1, 2]
        assert all(isinstance(error, UsageError) for error in refused)

    place.serve(work)


def test_engine__hashes_uploads_as_the_hasher_hashes_files(place: Place) -> None:
    generator = np.random.default_rng(3)
    crops = [shade(number) for number in range(30)]
    crops += [generator.integers(0, 30, (50, 70, 3), dtype=np.uint8) for _ in range(10)]
    images = [encoded(pixels, form) for pixels in crops for form in ("PNG", "JPEG")]
    images[7] = b"not an image"
    images[20] = images[20][:50]

    async def work(engine: Engine) -> None:
        found = await asyncio.gather(*map(engine.hash, images), return_exceptions=True)
        for number, (hashed, one) in enumerate(zip(place.hasher.hash(images), found, strict=True)):
            if number in (7, 20):
                assert isinstance(one, ImageError)
                continue
            assert not isinstance(one, BaseException)
            assert np.array_equal(one.code, hashed.code)
            assert np.array_equal(one.logits, colour_logits(one.pixels[None])[0])
            assert one.maps.shape == (3, 4, 4)
        assert max(engine.stats().encoded.sizes) > 1

    place.serve(work)


def test_engine__bounds_the_searches_that_wait(place: Place) -> None:
    gate = threading.Event()

    async def work(engine: Engine) -> None:
        engine._call(lambda: gate.wait(30))
        held = [asyncio.ensure_future(engine.search(CODE, Asked())) for _ in range(4)]
        await asyncio.sleep(0)
        assert engine.stats().searches == 5
        for refused in (engine.search(CODE, Asked()), engine.item(1), engine.items()):
            with pytest.raises(Busy):
                await refused
        gate.set()
        assert all(len(found.hits) == 10 for found in await asyncio.gather(*held))
        assert engine.stats().searched.refused == 3

    place.serve(work, limits=Limits(queue=5))


def test_engine__bounds_the_photos_that_wait_in_number_and_bytes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = encoded(shade(1))
    model = FakeModel(monkeypatch)

    async def work(engine: Engine) -> None:
        model.close_behind(engine)
        tasks = [asyncio.ensure_future(engine.hash(image)) for _ in range(4)]
        await until(model.entered.is_set)
        assert (engine.stats().photos, engine.stats().photo_bytes) == (4, 4 * len(image))
        for refused in (engine.hash(image), engine.thumbnail(1), engine.explain_item(1)):
            with pytest.raises(Busy):
                await refused
        tasks[3].cancel()
        await asyncio.wait([tasks[3]])
        with pytest.raises(Busy):
            await engine.hash(image + bytes(2 * len(image)))
        assert engine.stats().refused == 4
        assert len((await engine.search(CODE, Asked())).hits) == 10  # goes on meanwhile
        model.open.set()
        await asyncio.gather(*tasks[:3])
        assert (engine.stats().photos, engine.stats().photo_bytes) == (0, 0)

    place.serve(work, limits=Limits(queue=4, waiting_bytes=5 * len(image)))


def test_engine__does_not_encode_for_those_who_left(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = FakeModel(monkeypatch)

    async def work(engine: Engine) -> None:
        model.close_behind(engine)
        first = asyncio.ensure_future(engine.hash(encoded(shade(0))))
        await until(model.entered.is_set)
        others = [asyncio.ensure_future(engine.hash(encoded(shade(n)))) for n in range(1, 6)]
        await until(lambda: engine._encodes.waiting == 6)
        for task in others[1:]:
            task.cancel()
        model.open.set()
        await asyncio.gather(first, others[0])
        assert model.sizes == [1, 1]
        assert engine.stats().encoded.abandoned == 4

    place.serve(work)


def test_engine__gives_up_a_photo_whose_time_is_over(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = FakeModel(monkeypatch)

    async def work(engine: Engine) -> None:
        model.close_behind(engine)
        with pytest.raises(TimeoutError):
            await engine.hash(encoded(shade(0)))
        assert engine.stats().photos == 0
        model.open.set()

    place.serve(work, limits=Limits(seconds=0.2))


def test_engine__refuses_too_large_uploads(place: Place) -> None:
    image = encoded(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))

    async def work(engine: Engine) -> None:
        with pytest.raises(TooLarge, match="40x40"):
            await engine.hash(image)
        with pytest.raises(TooLarge, match="bytes"):
            await engine.hash(image + bytes(10_000))
        assert len((await engine.hash(encoded(shade(0)))).code) == 3

    place.serve(work, limits=Limits(pixels=SIDE * SIDE, upload_bytes=10_000))


def test_engine__says_that_its_model_fails_until_it_works_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(hasher: Hasher, pixels: np.ndarray) -> Encoded:
        raise BackendError("the device is gone")

    async def work(engine: Engine) -> None:
        assert engine.health() == ("ok", None)
        with monkeypatch.context() as patch:
            patch.setattr(Hasher, "encode", fail)
            with pytest.raises(BackendError):
                await engine.hash(encoded(shade(0)))
            engine.reload()
            await asyncio.sleep(0.05)
            assert engine.health() == ("failing", "the device is gone")
        engine.reload()  # nobody sends photos to a server that says so: it tries by itself
        await until(lambda: engine.health() == ("ok", None))

    place.serve(work)


def test_engine__takes_up_commits_under_load_and_drops_nothing(place: Place) -> None:
    first, seen = {*place.ids()}, set[int]()

    async def work(engine: Engine) -> None:
        stop = False

        async def client(number: int) -> None:
            for turn in itertools.count():
                labels = ("one",) if (turn + number) % 3 == 0 else None
                hits = (await engine.search(CODE, Asked(k=100, labels=labels))).hits
                names = {Path(hit.path).stem for hit in hits}
                assert len(names) == len(hits)
                if labels is None:
                    seen.add(len(hits))
                    # Every answer is of one commit: photos come four at a time.
                    assert len(hits) % 4 == 0
                if stop:
                    return
                await asyncio.sleep(0)

        clients = [asyncio.ensure_future(client(number)) for number in range(8)]
        images = 20
        for start in range(20, 40, 4):
            paint(place.photos, range(start, start + 4), "two")
            await asyncio.to_thread(place.index)
            images += 4
            await until(lambda images=images: engine.info()["images"] == images)
        for number in (0, 1, 2, 3):
            (place.photos / f"one/{number}.png").unlink()
        await asyncio.to_thread(place.index)
        await until(lambda: engine.info()["images"] == 36)
        stop = True
        await asyncio.gather(*clients)
        assert engine.stats().reloads >= 6
        assert await engine.labels() == (("one", 4), ("two", 32))
        hits = (await engine.search(CODE, Asked(k=100))).hits
        assert {Path(hit.path).stem for hit in hits} == (
            first - {"0", "1", "2", "3"} | {str(number) for number in range(20, 40)}
        )

    place.serve(work, reload_seconds=0.01, limits=Limits(queue=16))
    assert {20, 24} <= seen


def test_engine__looks_for_commits_when_told(place: Place) -> None:
    async def work(engine: Engine) -> None:
        paint(place.photos, range(20, 21), "one")
        await asyncio.to_thread(place.index)
        engine.reload()
        await until(lambda: engine.info()["images"] == 21)

    place.serve(work)


def test_engine__takes_up_the_names_of_concepts(place: Place) -> None:
    async def work(engine: Engine) -> None:
        before = engine.info()["concepts"]
        after = ["beak", *before[1:]]
        assert after != before
        rename_concepts(place.bundle, after)
        engine.reload()
        await until(lambda: engine.info()["concepts"] == after)
        explained = await engine.hash(encoded(shade(1)))
        assert list(explained.concept_names) == after

    place.serve(work)


def test_engine__goes_on_without_its_gallery_and_takes_up_the_next(place: Place) -> None:
    said: list[str] = []

    async def work(engine: Engine) -> None:
        hits = (await engine.search(CODE, Asked(k=5))).hits
        place.gallery.rename(place.gallery.with_suffix(".old"))
        await until(lambda: engine.health()[0] == "degraded")
        assert "gone" in str(engine.health()[1])
        assert (await engine.search(CODE, Asked(k=5))).hits == hits
        assert (await engine.item(hits[0].id))[0].id == hits[0].id
        paint(place.photos, range(20, 25), "three")
        await asyncio.to_thread(place.index)
        await until(lambda: engine.info()["images"] == 25)
        await until(lambda: engine.health() == ("ok", None))
        assert len((await engine.search(CODE, Asked(labels=("three",)))).hits) == 5

    place.serve(work, reload_seconds=0.01, tell=said.append)
    assert "gone" in said[0]
    assert said[-1] == "colour.chg is followed again"
    assert len(said) == len(set(said))  # once each, however often it looked


def test_engine__keeps_to_its_model_when_the_gallery_does_not(place: Place) -> None:
    async def work(engine: Engine) -> None:
        hits = (await engine.search(CODE, Asked())).hits
        with Gallery.open(place.gallery, write=True) as gallery:
            gallery.reset(layout=gallery.layout, fingerprint="d" * 64, model="other")
        await until(lambda: engine.health()[0] == "degraded")
        assert "other" in str(engine.health()[1])
        assert (await engine.search(CODE, Asked())).hits == hits
        assert await engine.thumbnail(hits[0].id)
        await asyncio.to_thread(place.index, rebuild=True)
        await until(lambda: engine.info()["images"] == 20 and engine.health() == ("ok", None))
        found = await engine.search(CODE, Asked())
        assert [hit.path for hit in found.hits] == [h.path for h in hits]

    place.serve(work, reload_seconds=0.01)


def test_engine__does_not_start_with_the_gallery_of_another_model(place: Place) -> None:
    with Gallery.open(place.gallery, write=True) as gallery:
        gallery.reset(layout=gallery.layout, fingerprint="d" * 64, model="other")

    async def work(engine: Engine) -> None: ...

    with pytest.raises(MismatchError):
        place.serve(work)


def test_engine__finishes_what_it_accepted_when_it_stops(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = FakeModel(monkeypatch)

    async def work(engine: Engine) -> None:
        model.close_behind(engine)
        photos = [asyncio.ensure_future(engine.hash(encoded(shade(n)))) for n in range(20)]
        searches = [asyncio.ensure_future(engine.search(CODE, Asked())) for _ in range(50)]
        await until(model.entered.is_set)
        stopping = asyncio.ensure_future(engine.stop())
        await asyncio.sleep(0.05)
        assert engine.health()[0] == "stopping"
        with pytest.raises(Busy, match="stopping"):
            await engine.hash(encoded(shade(0)))
        model.open.set()
        await stopping
        assert all(len(found.hits) == 10 for found in await asyncio.gather(*searches))
        for number, explained in enumerate(await asyncio.gather(*photos)):
            assert np.array_equal(explained.pixels, shade(number))
        with pytest.raises(Busy, match="stopping"):
            await engine.search(CODE, Asked())

    async def run() -> None:
        engine = Engine(place.gallery, place.bundle, threads=2)
        await engine.start()
        await work(engine)

    asyncio.run(run())


def test_engine__shows_photos_of_the_gallery_only_while_their_files_can_be_read(
    place: Place,
) -> None:
    ids = place.ids()
    gone, broken = place.photos / "one/3.png", place.photos / "one/4.png"
    gone.unlink()
    broken.write_bytes(b"no image any more")

    async def work(engine: Engine) -> None:
        for name in ("0", "19"):
            jpeg = await engine.thumbnail(ids[name], 64)
            with Image.open(io.BytesIO(jpeg)) as image:
                assert image.size == (64, 64)
            explained = await engine.explain_item(ids[name])
            _, code = await engine.item(ids[name])
            assert np.array_equal(explained.code, code)
            assert explained.name.endswith(f"{name}.png")
        for name in ("3", "4"):
            with pytest.raises(ImageError):
                await engine.thumbnail(ids[name])
            with pytest.raises(ImageError):
                await engine.explain_item(ids[name])
        for id in (0, 10**6, 2**70):
            with pytest.raises(NothingFound):
                await engine.thumbnail(id)
            with pytest.raises(NothingFound):
                await engine.explain_item(id)

    place.serve(work)


def test_engine__gives_back_what_its_model_holds_when_it_stops(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Hasher] = []
    close = Hasher.close
    monkeypatch.setattr(Hasher, "close", lambda hasher: (closed.append(hasher), close(hasher)))

    async def work(engine: Engine) -> None:
        await engine.hash(encoded(shade(0)))
        assert not closed

    place.serve(work)
    assert len(closed) == 1


def test_engine__serves_an_empty_gallery(place: Place) -> None:
    with Gallery.open(place.gallery, write=True) as gallery:
        gallery.remove([entry.id for entry in gallery.entries()])

    async def work(engine: Engine) -> None:
        assert (await engine.search(CODE, Asked())).hits == ()
        assert (await engine.search(CODE, Asked(radius=3, labels=(None,)))).hits == ()
        assert await engine.labels() == ()
        assert (await engine.items()).total == 0
        assert engine.info()["images"] == 0

    place.serve(work)


def test_engine__says_what_it_serves(place: Place) -> None:
    async def work(engine: Engine) -> None:
        info = engine.info()
        assert info["gallery"] == "colour.chg"
        assert info["model"] == "colour"
        assert (info["bits"], info["sub_bits"], info["side"]) == (24, 8, SIDE)
        assert info["concepts"] == ["red", "green", "blue"]
        assert len(info["colours"]) == 3
        assert "onnxruntime" in info["backend"]

    place.serve(work)
