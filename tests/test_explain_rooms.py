"""Rooms, bit statistics and the map of codes against slow ones written another way."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concepthash.codes import CodeLayout, Codes, hamming, unpack
from concepthash.errors import UsageError
from concepthash.explain import rooms
from concepthash.explain.bitstats import bit_statistics
from concepthash.explain.layout2d import map_codes, stress
from concepthash.explain.rooms import default_radius, find_rooms
from concepthash.runtime.entries import Labels

LAYOUTS = [
    (8, 1),
    (8, 4),
    (16, 2),
    (24, 3),
    (24, 8),
    (64, 4),
    (64, 1),
    (96, 1),
    (512, 2),
    (512, 512),
]


def skewed(layout: CodeLayout, count: int, seed: int = 0) -> Codes:
    """Codes of which many are the same, and many a bit or two from another."""
    generator = np.random.default_rng(seed)
    pool = generator.integers(0, 256, (5, layout.nbytes), dtype=np.uint8)
    noise = np.packbits(generator.random((count, layout.bits)) < 0.04, axis=1)
    return pool[generator.integers(0, 5, count)] ^ noise


def labels_of(count: int, classes: int = 3) -> Labels:
    numbers = np.arange(count, dtype=np.int32) % (classes + 1) - 1
    return Labels(np.arange(count) + 1, numbers, tuple(f"class {n}" for n in range(classes)))


def texts(codes: Codes, layout: CodeLayout, concept: int) -> list[str]:
    rows = unpack(codes)[:, layout.concept_slice(concept)]
    return ["".join("01"[bit] for bit in row) for row in rows.astype(int)]


def apart(a: str, b: str) -> int:
    return sum(x != y for x, y in zip(a, b, strict=True))


def naive_middles(words: list[str], radius: int, limit: int) -> list[str]:
    """The values rooms are built round: greedily, by counting."""
    counts = Counter(words)
    values = sorted(counts, key=lambda value: (-counts[value], value))
    if not radius:
        return values[:limit]
    left, chosen = set(values), []
    while left and len(chosen) < limit:
        best = max(values, key=lambda v: sum(counts[o] for o in left if apart(v, o) <= radius))
        chosen.append(best)
        left -= {other for other in left if apart(best, other) <= radius}
    return chosen


@pytest.mark.parametrize(("bits", "concepts"), LAYOUTS)
@pytest.mark.parametrize("radius", [None, 0, 2])
def test_find_rooms__is_what_counting_by_hand_finds(
    bits: int, concepts: int, radius: int | None
) -> None:
    layout, limit, count = CodeLayout(bits, concepts), 4, 60
    if radius and radius >= layout.sub_bits:
        pytest.skip("wider than the sub-code")
    codes, labels = skewed(layout, count), labels_of(count)
    for concept in range(min(concepts, 3)):
        found = find_rooms(codes, layout, concept, labels=labels, limit=limit, radius=radius)
        words = texts(codes, layout, concept)
        reach = default_radius(layout.sub_bits, limit) if radius is None else radius
        assert (found.radius, found.used) == (reach, len(set(words)))
        middles = naive_middles(words, reach, limit)
        assert sorted(r.bits for r in found.rooms if r.images) == sorted(middles)
        for row, word in enumerate(words):
            room = found.of[row]
            distances = [apart(word, own.bits) for own in found.rooms if own.images]
            if min(distances) > reach:
                assert room == -1
                continue
            assert distances[room] == min(distances) == found.distances[row]
        sizes = [room.images for room in found.rooms]
        assert sizes == sorted(sizes, reverse=True)
        assert sum(sizes) + found.elsewhere == count
        for number, room in enumerate(found.rooms):
            own = [word for word, place in zip(words, found.of, strict=True) if place == number]
            assert (room.images, room.share) == (len(own), len(own) / count)
            assert room.exact == own.count(room.bits)
            assert room.values == len(set(own))
            names = Counter(
                labels.names[labels.numbers[row]]
                for row in range(count)
                if found.of[row] == number and labels.numbers[row] >= 0
            )
            assert room.labels == dict(names)
            assert list(room.labels.values()) == sorted(names.values(), reverse=True)
            others = sorted(
                (apart(room.bits, other.bits), n)
                for n, other in enumerate(found.rooms)
                if n != number
            )
            assert room.near == tuple((n, distance) for distance, n in others[:3])


def test_find_rooms__of_a_narrow_sub_code_has_every_value() -> None:
    layout = CodeLayout(8, 4)
    codes = np.array([[0b01_00_11_00], [0b01_00_10_00], [0b10_00_11_00]], np.uint8)
    found = find_rooms(codes, layout, 0, labels=labels_of(3), limit=4)
    assert [(room.bits, room.images) for room in found.rooms] == [
        ("01", 2),
        ("10", 1),
        ("00", 0),
        ("11", 0),
    ]
    assert found.rooms[2].labels == {}
    assert found.rooms[2].purity is None
    assert len(find_rooms(codes, layout, 0, labels=labels_of(3), limit=3).rooms) == 2


def test_find_rooms__merges_what_is_near_and_keeps_what_is_far() -> None:
    codes = np.array([[0], [0], [0], [1], [3], [255], [254], [0x3C]], np.uint8)
    found = find_rooms(codes, CodeLayout(8, 1), 0, labels=labels_of(8), limit=2, radius=1)
    assert [(room.bits, room.images, room.exact) for room in found.rooms] == [
        ("00000001", 5, 1),
        ("11111110", 2, 1),
    ]
    assert found.of.tolist() == [0, 0, 0, 0, 0, 1, 1, -1]
    assert found.elsewhere == 1


@given(
    st.lists(st.integers(0, 255), max_size=40),
    st.integers(1, 6),
    st.integers(0, 7),
)
@settings(max_examples=60, deadline=None)
def test_find_rooms__every_image_is_in_one_room_or_far_from_all(
    values: list[int], limit: int, radius: int
) -> None:
    codes = np.array(values, np.uint8).reshape(-1, 1)
    labels = labels_of(len(values))
    found = find_rooms(codes, CodeLayout(8, 1), 0, labels=labels, limit=limit, radius=radius)
    middles = [int(room.bits, 2) for room in found.rooms]
    assert len(middles) <= limit
    assert len(set(middles)) == len(middles)
    for value, room in zip(values, found.of.tolist(), strict=True):
        distances = [(value ^ middle).bit_count() for middle in middles]
        if room < 0:
            assert not distances or min(distances) > radius
        else:
            assert distances[room] == min(distances) <= radius
    assert all(room.images for room in found.rooms)


def test_find_rooms__holds_little_of_values_that_are_all_different(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layout = CodeLayout(64, 1)
    codes = skewed(layout, 200, seed=1)
    labels = labels_of(200)
    whole = find_rooms(codes, layout, 0, labels=labels, limit=5)
    monkeypatch.setattr(rooms, "_CANDIDATES", 40)
    monkeypatch.setattr(rooms, "_VALUES", 150)
    part = find_rooms(codes, layout, 0, labels=labels, limit=5)
    assert sum(room.images for room in part.rooms) > 150
    assert sum(room.images for room in whole.rooms) == 200


@pytest.mark.parametrize(
    ("limit", "radius", "where"), [(0, None, "--rooms"), (4, -1, "--radius"), (4, 8, "--radius")]
)
def test_find_rooms__refuses_what_cannot_be(limit: int, radius: int | None, where: str) -> None:
    with pytest.raises(UsageError) as refused:
        find_rooms(
            np.zeros((1, 2), np.uint8), CodeLayout(16, 2), 0,
            labels=labels_of(1), limit=limit, radius=radius,
        )  # fmt: skip
    assert refused.value.where == where


@pytest.mark.parametrize(("bits", "concepts"), LAYOUTS)
def test_bit_statistics__are_what_numpy_says(
    bits: int, concepts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("concepthash.explain.bitstats._ROWS", 16)
    layout = CodeLayout(bits, concepts)
    codes = skewed(layout, 50)
    found = bit_statistics(codes, layout)
    assert [bit.bit for own in found for bit in own] == list(range(bits))
    values = unpack(codes).astype(float)
    for own in found[:4]:
        for bit in own:
            column = values[:, bit.bit]
            assert bit.ones == pytest.approx(column.mean())
            parts = [p for p in (column.mean(), 1 - column.mean()) if p > 0]
            assert bit.entropy == pytest.approx(-sum(p * math.log2(p) for p in parts))
            others = [o.bit for o in own if o.bit != bit.bit and values[:, o.bit].std() > 0]
            if not others or column.std() == 0:
                assert (bit.partner, bit.correlation) == (None, None)
                continue
            related = {o: np.corrcoef(column, values[:, o])[0, 1] for o in others}
            assert bit.partner is not None
            assert bit.correlation == pytest.approx(related[bit.partner])
            assert abs(related[bit.partner]) == pytest.approx(max(map(abs, related.values())))


def test_bit_statistics__of_no_codes() -> None:
    found = bit_statistics(np.empty((0, 2), np.uint8), CodeLayout(16, 2))
    assert {(b.ones, b.entropy, b.partner) for own in found for b in own} == {(0.0, 0.0, None)}


# The map


def test_map_codes__places_codes_that_fit_a_plane_exactly() -> None:
    pytest.importorskip("sklearn")
    codes = np.array([[0b1111], [0], [0b0011], [0], [0b0001]], np.uint8)  # on a line: 4, 0, 2, 0, 1
    found = map_codes(codes)
    assert found.rows.tolist() == [0, 1, 2, 3, 4]
    assert found.points[1] == found.points[3]
    assert len(found.places) == 4
    gaps = np.linalg.norm(found.places[found.points] - found.places[found.points[1]], axis=1)
    assert gaps == pytest.approx([4, 0, 2, 0, 1], abs=0.05)
    assert found.stress < 0.02


def test_map_codes__is_the_same_each_time_and_says_its_stress() -> None:
    pytest.importorskip("sklearn")
    codes = skewed(CodeLayout(64, 4), 300)
    found, again = map_codes(codes, sample=80), map_codes(codes, sample=80)
    assert np.array_equal(found.places, again.places)
    assert np.array_equal(found.rows, again.rows)
    assert len(found.rows) == 80
    assert sorted(set(found.rows.tolist())) == found.rows.tolist()
    distinct = np.unique(codes[found.rows], axis=0)
    assert np.array_equal(distinct[found.points], codes[found.rows])
    wanted = hamming(distinct, distinct)
    total = off = 0.0
    for a in range(len(distinct)):
        for b in range(a):
            length = math.dist(found.places[a], found.places[b])
            total += length**2
            off += (length - wanted[a, b]) ** 2
    assert found.stress == pytest.approx(math.sqrt(off / total))
    assert 0 < found.stress < 0.5
    assert not np.array_equal(map_codes(codes, sample=80, seed=1).rows, found.rows)


@pytest.mark.parametrize("codes", [[[7]], [[7], [7]]])
def test_map_codes__of_one_code_is_a_point(codes: list[list[int]]) -> None:
    pytest.importorskip("sklearn")
    found = map_codes(np.array(codes, np.uint8))
    assert found.places.tolist() == [[0.0, 0.0]]
    assert found.stress == 0.0


def test_stress__is_zero_for_exact_places() -> None:
    places = np.array([[0.0, 0.0], [3.0, 4.0]])
    wanted = np.array([[0.0, 5.0], [5.0, 0.0]])
    assert stress(wanted, places) == 0.0
    assert stress(2 * wanted, places) == 1.0
