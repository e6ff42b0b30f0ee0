"""A gallery in shards held elsewhere answers as one gallery does, or says what it leaves out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli_entry import Chash
from fake_shards import FakeHandle
from shard_gallery import (
    COMMON,
    FINGERPRINT,
    LATE,
    RARE,
    Oracle,
    asked_at_random,
    commit,
    drawn,
    make_gallery,
    make_sharded,
)

from concepthash.cluster.fanout import Patience
from concepthash.cluster.replica import Place, Replica
from concepthash.cluster.serving import Served
from concepthash.errors import (
    BackendError,
    GalleryError,
    MismatchError,
    NothingFound,
    UsageError,
)
from concepthash.runtime.galleries import open_gallery
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.shardfile import Manifest
from concepthash.runtime.shards import split
from concepthash.serve.held import AnyHeld, Asked, Held

NAMES = ("shard-0001.chg", "shard-0002.chg", "shard-0003.chg")


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    return make_sharded(tmp_path)


@pytest.fixture
def replica() -> Iterator[Callable[..., Replica]]:
    opened = []

    def make(gallery: Path, shard: str | None) -> Replica:
        opened.append(Replica(Place(str(gallery), shard), FINGERPRINT, reload_seconds=3600))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def serve(
    replica: Callable[..., Replica],
) -> Iterator[Callable[..., tuple[Served, list[FakeHandle]]]]:
    opened = []

    def make(gallery: Path, **patience: float) -> tuple[Served, list[FakeHandle]]:
        shards = Manifest.read(gallery).shards
        handles = [FakeHandle(replica(gallery, shard.name)) for shard in shards]
        waits = Patience(**{"seconds": 20, "look": 0.02, **patience})  # type: ignore[arg-type]
        opened.append(Served(list(zip(shards, handles, strict=True)), waits, lambda _: None))
        return opened[-1], handles

    yield make
    for one in opened:
        one.close()


def answers(held: AnyHeld, queries: list) -> list:
    found = [None] * len(queries)
    for places, some in held.search(queries):
        for place, one in zip(places, some, strict=True):
            assert found[place] is None
            found[place] = one
    return found


def one(held: AnyHeld, code: np.ndarray, asked: Asked) -> object:
    (answer,) = answers(held, [(code, asked)])
    if isinstance(answer, Exception):
        raise answer
    return answer


# ---- complete answers


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_search__equals_one_index_in_every_row(
    gallery: Path, serve: Callable[..., tuple[Served, list[FakeHandle]]], where: str
) -> None:
    oracle, queries = Oracle.of(gallery), asked_at_random(2000, seed=11)
    wanted = [oracle.hits(code, asked) for code, asked in queries]
    assert sum(map(len, wanted)) > 20 * len(queries)
    if where == "here":
        held: AnyHeld = Held(gallery, FINGERPRINT, threads=1)
    else:
        held, handles = serve(gallery)
    for answer, hits in zip(answers(held, queries), wanted, strict=True):
        assert answer.hits == hits
        assert answer.missing == ()
    assert answers(held, []) == []
    if where == "here":
        held.close()
    else:  # batches stay batches
        assert handles[0].calls.count("search") < len(queries) / 20


def test_search__of_queries_that_ask_alike_is_one_call_a_shard(
    gallery: Path, serve: Callable[..., tuple[Served, list[FakeHandle]]]
) -> None:
    held, handles = serve(gallery)
    answers(held, [(code, Asked()) for code in drawn(64, 5)])
    assert [handle.calls.count("search") for handle in handles] == [1, 1, 1]


def test_search__of_a_gallery_with_empty_shards(
    tmp_path: Path, serve: Callable[..., tuple[Served, list[FakeHandle]]]
) -> None:
    gallery = make_sharded(tmp_path)
    held, _ = serve(gallery)
    with open_gallery(gallery, write=True) as opened:
        opened.remove([entry.id for entry in opened.entries() if entry.id % 3])
        opened.remove([entry.id for entry in opened.shards[1].entries()])  # type: ignore[union-attr]
    held.close()
    held, _ = serve(gallery)
    oracle, queries = Oracle.of(gallery), asked_at_random(200, seed=3)
    for answer, (code, asked) in zip(answers(held, queries), queries, strict=True):
        assert answer.hits == oracle.hits(code, asked)


def test_search__refuses_as_one_gallery_does(
    gallery: Path, serve: Callable[..., tuple[Served, list[FakeHandle]]]
) -> None:
    held, _ = serve(gallery)
    alone = Held(gallery, FINGERPRINT, threads=1)
    code = drawn(1, 1)[0]
    wrong = [
        (code, Asked(concepts=(4,))), (code, Asked(weights=(1, 2))), (code, Asked(radius=-1)),
        (code, Asked(labels=("nowhere", COMMON))), (code[:1], Asked(k=2)),
    ]  # fmt: skip
    for query in wrong:
        for got, want in zip(answers(held, [query]), answers(alone, [query]), strict=True):
            assert isinstance(want, UsageError | MismatchError)
            assert (type(got), got.what, got.where) == (type(want), want.what, want.where)
    alone.close()
    fine, refused, other = answers(held, [(code, Asked()), wrong[0], (code, Asked(k=2))])
    assert len(fine.hits) == 10
    assert isinstance(refused, UsageError)
    assert len(other.hits) == 2
    assert held.missing == ()


def test_items__pages_through_all_shards_as_one_gallery(
    gallery: Path, serve: Callable[..., tuple[Served, list[FakeHandle]]]
) -> None:
    held, _ = serve(gallery)
    alone = Held(gallery, FINGERPRINT, threads=1)
    for label in (None, "", COMMON, RARE, LATE):
        after, pages = -1, 0
        while True:
            page = held.items(label, after, 7)
            assert page == alone.items(label, after, 7)
            pages += 1
            if page.next is None:
                break
            after = page.next
        assert pages > 1
    with pytest.raises(UsageError, match="nowhere"):
        held.items("nowhere", -1, 7)
    assert (held.images, held.counts) == (alone.images, alone.counts)
    for id in (1, 2, *[entry.id for entry in alone.items(LATE, 0, 9).entries]):
        entry, code = held.item(id)
        assert entry == alone.entry(id) == held.entry(id)
        np.testing.assert_array_equal(code, alone.item(id)[1])
    for id in (0, 3, 10**9, 2**62):
        with pytest.raises(NothingFound):
            held.entry(id)
        with pytest.raises(NothingFound):
            alone.entry(id)
    alone.close()


def test_paths__read_as_in_the_folder_of_the_user(
    gallery: Path, serve: Callable[..., tuple[Served, list[FakeHandle]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(gallery.parent)
    held, handles = serve(gallery)
    whole = gallery.parent / "00000.jpg"  # for a replica is in another folder than who asks
    assert handles[0].replica.entry(1).path == whole
    (part,) = handles[0].replica.search([(drawn(1, 1), Asked(k=1))])
    assert part.rows.names == {1: (str(whole), COMMON)}
    assert [hit.path for hit in one(held, drawn(1, 1)[0], Asked(k=1)).hits] == ["00000.jpg"]
    assert held.entry(1).path == held.items(None, 0, 1).entries[0].path == Path("00000.jpg")


# ---- partial answers


def test_search__names_the_shard_that_is_lost_and_answers_from_the_others(
    gallery: Path, serve: Callable[..., tuple[Served, list[FakeHandle]]]
) -> None:
    held, handles = serve(gallery, seconds=0.3)
    oracle = Oracle.of(gallery)
    owner = {id: name for name, ids in zip(NAMES, ids_of(gallery), strict=True) for id in ids}
    queries = [(code, Asked(k=1000)) for code in drawn(20, 4)]
    handles[1].lost = True
    for answer, (code, asked) in zip(answers(held, queries), queries, strict=True):
        assert answer.missing == (NAMES[1],)
        rest = [hit for hit in oracle.hits(code, asked) if owner[hit.id] != NAMES[1]]
        assert [replace(hit, rank=0) for hit in answer.hits] == [replace(h, rank=0) for h in rest]
        assert [hit.rank for hit in answer.hits] == list(range(1, len(rest) + 1))
    assert held.missing == (NAMES[1],)
    items = held.items(None, 0, 1000)
    assert items.missing == (NAMES[1],)
    assert {owner[entry.id] for entry in items.entries} == {NAMES[0], NAMES[2]}
    lost, kept = (next(i for i, own in owner.items() if own == name) for name in NAMES[1::-1])
    with pytest.raises(BackendError, match=r"shard-0002.chg does not answer"):
        held.entry(lost)
    assert held.entry(kept).id == kept
    handles[1].lost = False
    wait_until(lambda: not held.missing)
    for answer, (code, asked) in zip(answers(held, queries), queries, strict=True):
        assert answer.hits == oracle.hits(code, asked)
        assert answer.missing == ()


def test_search__by_a_label_that_only_a_lost_shard_may_have_is_partial_and_no_error(
    gallery: Path, serve: Callable[..., tuple[Served, list[FakeHandle]]]
) -> None:
    held, handles = serve(gallery, seconds=0.3)
    handles[2].lost = True
    code = drawn(1, 1)[0]
    answer = one(held, code, Asked(labels=(RARE,)))
    assert (answer.hits, answer.missing) == ((), (NAMES[2],))
    assert held.items(RARE, -1, 5).missing == (NAMES[2],)


def test_search__says_that_no_shard_answers(
    gallery: Path, serve: Callable[..., tuple[Served, list[FakeHandle]]]
) -> None:
    held, handles = serve(gallery, seconds=0.2)
    for handle in handles:
        handle.lost = True
    with pytest.raises(BackendError, match="no shard of the gallery answers"):
        one(held, drawn(1, 1)[0], Asked())
    with pytest.raises(BackendError):
        held.items(None, 0, 5)
    assert held.missing == NAMES


def test_search__leaves_out_a_shard_that_cannot_be_read(
    gallery: Path, serve: Callable[..., tuple[Served, list[FakeHandle]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    held, handles = serve(gallery)

    def damaged(groups: object) -> None:
        raise GalleryError("a segment is truncated")

    monkeypatch.setattr(handles[0].replica, "search", damaged)
    assert one(held, drawn(1, 1)[0], Asked()).missing == (NAMES[0],)


# ---- in one process


def test_held__of_shards_takes_up_the_commits_of_any(gallery: Path) -> None:
    held = Held(gallery, FINGERPRINT, threads=1)
    assert not held.outdated()
    for number in range(3):
        with open_gallery(gallery, write=True) as opened:
            shard = opened.shards[number]  # type: ignore[union-attr]
            assert opened.remove([int(shard.codes()[0][0])]) == 1
        assert held.outdated()
        held.close()
        held = Held(gallery, FINGERPRINT, threads=1)
        assert not held.outdated()
    oracle = Oracle.of(gallery)
    code = drawn(1, 1)[0]
    assert one(held, code, Asked(k=None)).hits == oracle.hits(code, Asked(k=None))
    (gallery / "shards.json").rename(gallery / "away")
    (gallery / NAMES[0]).rename(gallery.parent / "gone.chg")
    assert held.outdated()  # then opening it says what is wrong
    held.close()


def test_chash__finds_in_shards_what_it_finds_in_one_gallery(chash: Chash, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    from serve_gallery import Place as Painted

    place = Painted(tmp_path)
    split(place.gallery, 3, tmp_path / "shards.chg")
    photos = [place.photos / "one/3.png", place.photos / "two/9.png"]
    for options in (["-k", "20"], ["--radius", "6", "-k", "all"], ["--weights", "2,0,1"]):
        query = ["query", *photos, "--json", *options, "--gallery"]
        alone = chash(*query, place.gallery).json("chash.query/1")
        sharded = chash(*query, "shards.chg").json("chash.query/1")
        assert sharded["queries"] == alone["queries"]
        assert "missing_shards" not in sharded


# ---- what a replica does


def test_replica__takes_up_commits_between_two_answers(
    gallery: Path, replica: Callable[..., Replica]
) -> None:
    held = replica(gallery, NAMES[0])
    before = held.state()
    assert held.state(before.tag) is None
    with open_gallery(gallery, write=True) as opened:
        commit(opened, range(1000, 1040))
    assert held.state() == before
    held.look()
    after = held.state(before.tag)
    assert after is not None
    assert after.images > before.images
    assert after.trouble is None


def test_replica__answers_from_an_earlier_state_and_says_so(
    tmp_path: Path, replica: Callable[..., Replica]
) -> None:
    path = make_gallery(tmp_path)
    held = replica(path, None)
    before = held.state()
    path.rename(tmp_path / "moved.chg")
    held.look()
    state = held.state(before.tag)
    assert "the gallery is gone" in state.trouble
    (part,) = held.search([(drawn(1, 1), Asked(k=3))])
    assert part.rows.ids.shape == (1, 3)
    (tmp_path / "moved.chg").rename(path)
    held.look()
    assert held.state().trouble is None


def test_replica__refuses_the_gallery_of_another_model(tmp_path: Path) -> None:
    with pytest.raises(MismatchError):
        Replica(Place(str(make_gallery(tmp_path))), "00" * 32)


def test_replica__answers_each_call_from_one_moment(
    gallery: Path, replica: Callable[..., Replica]
) -> None:
    held = replica(gallery, NAMES[1])
    oracle = Oracle.of(gallery / NAMES[1])
    with Gallery.open(gallery / NAMES[1], write=True) as opened:
        assert opened.remove(opened.index().ids[::2].tolist()) > 30
    codes = drawn(4, 9)
    parts = held.search([(codes, Asked(k=None)), (codes, Asked(k=None, labels=(COMMON,)))])
    for part, labels in zip(parts, (None, (COMMON,)), strict=True):
        for row, hits in zip(codes, part.rows.hits(), strict=True):
            assert hits == oracle.hits(row, Asked(k=None, labels=labels))


def ids_of(gallery: Path) -> list[list[int]]:
    with open_gallery(gallery) as opened:
        return [shard.codes()[0].tolist() for shard in opened.shards]  # type: ignore[union-attr]


def wait_until(true: Callable[[], bool]) -> None:
    import time

    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)
