"""One moment of a gallery as the server holds it: filters, pages of items, what is newer."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from serve_gallery import Place, paint

from concepthash.errors import GalleryError, MismatchError, NothingFound, UsageError
from concepthash.runtime import schema
from concepthash.runtime.gallery import Gallery
from concepthash.serve import held as held_module
from concepthash.serve.held import Asked, Held


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def held(place: Place) -> Iterator[Held]:
    opened = Held(place.gallery, place.hasher.fingerprint, threads=2)
    yield opened
    opened.close()


def found(held: Held, code: np.ndarray, asked: Asked) -> list[tuple[int, int]]:
    ((places, (answer,)),) = held.search([(code, asked)])
    assert places == [0]
    if isinstance(answer, Exception):
        raise answer
    return [(hit.id, hit.distance) for hit in answer.hits]


@pytest.mark.parametrize("labels", [("one",), ("two",), ("one", "two"), (None,), (None, "two")])
@pytest.mark.parametrize("removed", [False, True])
def test_held__filters_by_label_as_the_index_does_by_ids(
    place: Place, labels: tuple[str | None, ...], removed: bool
) -> None:
    paint(place.photos.parent / "loose", range(20, 23), ".")
    with Gallery.open(place.gallery, write=True) as gallery:
        entries = list(gallery.entries())
        gallery.update([e.__class__(e.path, None, e.size, e.mtime_ns, e.sha256, e.id)
                        for e in entries[::5]])  # fmt: skip
        if removed:
            gallery.remove([entries[3].id, entries[12].id])
        by_label = {entry.id: entry.label for entry in gallery.entries()}
        index = gallery.index()
        codes = gallery.codes()[1]
    held = Held(place.gallery, place.hasher.fingerprint, threads=2)
    ids = np.array([id for id, label in by_label.items() if label in labels], np.int64)
    for code in codes:
        for k in (3, 100):
            expected = index.search(code, k, where=ids)
            answer = found(held, code, Asked(k=k, labels=labels))
            kept = expected.ids[0] >= 0
            assert [id for id, _ in answer] == expected.ids[0][kept].tolist()
            assert [d for _, d in answer] == expected.distances[0][kept].tolist()
    held.close()


def test_held__refuses_a_label_no_image_has_for_those_who_asked_only(held: Held) -> None:
    code = held.index[1]
    answers = dict[int, object]()
    for places, results in held.search(
        [(code, Asked()), (code, Asked(labels=("three",))), (code, Asked(k=2))]
    ):
        answers.update(zip(places, results, strict=True))
    assert isinstance(answers[1], UsageError)
    assert "three" in str(answers[1])
    assert len(answers[0].hits) == 10  # type: ignore[attr-defined]
    assert len(answers[2].hits) == 2  # type: ignore[attr-defined]


def test_held__keeps_filters_in_bounded_memory(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [("one",), ("two",), ("one", "two"), ("two", "one"), ("one", "one")]
    for labels in asked:
        found(held, held.index[1], Asked(labels=labels))
    assert len(held._filters) == 3
    monkeypatch.setattr(held_module, "FILTER_BYTES", 1)
    found(held, held.index[1], Asked(labels=("one",)))
    found(held, held.index[1], Asked(labels=("two", None)))
    assert [len(index) for index in held._filters.values()] == [12]


def test_held__keeps_few_filters_however_small_they_are(held: Held) -> None:
    code = held.index[1]
    with Gallery.open(held.gallery.path, write=True) as gallery:
        for number, entry in enumerate(list(gallery.entries())):
            gallery.update([replace(entry, label=f"{number}")])
    many = Held(held.gallery.path, held.gallery.fingerprint, threads=1)
    pairs = itertools.islice(itertools.combinations(range(20), 2), 2 * held_module.FILTERS)
    for first, second in pairs:
        assert len(found(many, code, Asked(labels=(f"{first}", f"{second}")))) == 2
    assert len(many._filters) == held_module.FILTERS
    many.close()


def test_held__pages_through_items_in_id_order(place: Place, held: Held) -> None:
    names, after = [], 0
    while True:
        page = held.items("two", after, 5)
        assert page.total == 12
        names += [entry.path.stem for entry in page.entries]
        if page.next is None:
            break
        after = page.next
    assert sorted(names, key=int) == [str(number) for number in range(8, 20)]
    everything = held.items(None, 0, 100)
    assert [e.id for e in everything.entries] == sorted(place.ids().values())
    assert (everything.total, everything.next) == (20, None)
    assert held.items("", 0, 5).total == 0
    assert held.items(None, 2**80, 5).entries == ()
    with pytest.raises(UsageError):
        held.items("three", 0, 5)


def test_held__counts_labels(held: Held) -> None:
    assert held.counts == (("one", 8), ("two", 12))


@pytest.mark.parametrize("id", [0, -1, 21, 2**63 - 1, 2**63, 2**200])
def test_held__has_no_item_of_another_id(held: Held, id: int) -> None:
    with pytest.raises(NothingFound):
        held.item(id)


def test_held__gives_items_with_their_codes(place: Place, held: Held) -> None:
    for name, id in place.ids().items():
        entry, code = held.item(id)
        (hashed,) = place.hasher.hash([entry.path])
        assert entry.path.stem == name
        assert np.array_equal(code, hashed.code)


def test_held__is_outdated_by_a_commit_and_by_another_gallery(place: Place, held: Held) -> None:
    assert not held.outdated()
    paint(place.photos, range(20, 21), "one")
    place.index()
    assert held.outdated()
    newer = Held(place.gallery, place.hasher.fingerprint, threads=2)
    assert not newer.outdated()
    place.gallery.rename(place.gallery.with_suffix(".old"))
    with pytest.raises(GalleryError, match="gone"):
        newer.outdated()
    place.index()
    assert newer.outdated()
    newer.close()


def test_held__sees_commits_where_sqlite_cannot_write(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:  # as a gallery in a read-only folder is opened
        connect = schema._connect
        patch.setattr(schema, "_connect", lambda file, _: connect(file, "mode=ro&immutable=1"))
        held = Held(place.gallery, place.hasher.fingerprint, threads=1)
    assert not held.outdated()
    paint(place.photos, range(20, 21), "one")
    place.index()
    assert held.outdated()
    held.close()


def test_held__refuses_codes_of_another_model(place: Place) -> None:
    with pytest.raises(MismatchError):
        Held(place.gallery, "0" * 64, threads=1)
