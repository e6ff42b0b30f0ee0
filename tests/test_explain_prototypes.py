"""Prototypes against counting by hand: values as text, a Counter, and sorted rows."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from concepthash.codes import CodeLayout, unpack
from concepthash.errors import MismatchError
from concepthash.explain import prototypes
from concepthash.explain.prototypes import find_prototypes, gallery_prototypes, sub_codes
from concepthash.runtime.entries import Entry
from concepthash.runtime.gallery import Gallery

LAYOUTS = [(8, 1), (16, 2), (24, 8), (24, 3), (64, 32), (64, 4), (64, 1), (96, 1), (512, 2)]


def texts(codes: np.ndarray, layout: CodeLayout, concept: int) -> list[str]:
    """The sub-codes of a concept, bit by bit."""
    rows = unpack(codes)[:, layout.concept_slice(concept)]
    return ["".join("01"[bit] for bit in row) for row in rows.astype(int)]


def skewed(layout: CodeLayout, count: int, seed: int = 0) -> np.ndarray:
    """Codes of which many are the same."""
    generator = np.random.default_rng(seed)
    pool = generator.integers(0, 256, (12, layout.nbytes), dtype=np.uint8)
    return pool[generator.integers(0, 12, count) * generator.integers(0, 2, count)]


@pytest.mark.parametrize(("bits", "concepts"), LAYOUTS)
def test_sub_codes__are_the_bits_of_the_concept_as_a_number(bits: int, concepts: int) -> None:
    layout = CodeLayout(bits, concepts)
    codes = np.random.default_rng(bits).integers(0, 256, (40, layout.nbytes), dtype=np.uint8)
    for concept in range(concepts):
        values = sub_codes(codes, layout, concept).tolist()
        found = [sum(word << 64 * n for n, word in enumerate(reversed(row))) for row in values]
        assert found == [int(text, 2) for text in texts(codes, layout, concept)]


def test_sub_codes__of_many_codes_are_unpacked_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = CodeLayout(24, 3)
    codes = np.random.default_rng(0).integers(0, 256, (10, 3), dtype=np.uint8)
    monkeypatch.setattr(prototypes, "_ROWS", 4)
    assert sub_codes(codes, layout, 1)[:, 0].tolist() == codes[:, 1].tolist()


@pytest.mark.parametrize(("bits", "concepts"), LAYOUTS)
def test_find_prototypes__counts_as_a_counter_does(bits: int, concepts: int) -> None:
    layout = CodeLayout(bits, concepts)
    codes = skewed(layout, 60)
    labels = [None if n % 7 == 0 else f"class {n % 3}" for n in range(60)]
    found = find_prototypes(codes, layout, labels=labels, top=4, examples=2)
    assert [own.concept for own in found] == list(range(concepts))
    for own in found:
        words = texts(codes, layout, own.concept)
        counts = Counter(words)
        assert own.used == len(counts)
        shares = [n / 60 for n in counts.values()]
        assert own.entropy == pytest.approx(-sum(p * math.log2(p) for p in shares))
        wanted = sorted(counts, key=lambda word: (-counts[word], word))[:4]
        listed = [prototype for prototype in own.prototypes if prototype.count]
        assert [prototype.bits for prototype in listed] == wanted
        for prototype in listed:
            rows = [n for n, word in enumerate(words) if word == prototype.bits]
            assert prototype.concept == own.concept
            assert prototype.value == int(prototype.bits, 2)
            assert (prototype.count, prototype.share) == (len(rows), len(rows) / 60)
            mixture = Counter(labels[n] for n in rows if labels[n] is not None)
            assert prototype.labels == dict(mixture)
            assert list(prototype.labels.values()) == sorted(mixture.values(), reverse=True)
            assert prototype.purity == pytest.approx(
                max(mixture.values()) / sum(mixture.values()) if mixture else None
            )
            assert prototype.images == tuple(map(str, rows[:2]))


def test_find_prototypes__lists_every_value_of_a_small_sub_code() -> None:
    layout = CodeLayout(8, 4)
    codes = np.array([[0b01_00_11_00], [0b01_00_10_00], [0b10_00_11_00]], np.uint8)
    found = find_prototypes(codes, layout)
    assert [p.bits for p in found[0].prototypes] == ["01", "10", "00", "11"]
    assert [p.count for p in found[0].prototypes] == [2, 1, 0, 0]
    assert found[0].prototypes[2].images == ()
    assert (found[0].used, found[1].used, found[1].entropy) == (2, 1, 0.0)
    assert [p.bits for p in find_prototypes(codes, layout, top=3)[0].prototypes] == ["01", "10"]


def test_find_prototypes__typical_images_have_the_largest_margin() -> None:
    layout = CodeLayout(16, 2)
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(200, 16)).astype(np.float32)
    logits[:, :6] = np.abs(logits[:, :6])  # so that images share a value
    logits[:, 8:14] = -np.abs(logits[:, 8:14])
    codes = np.packbits(logits > 0, axis=1)
    for own in find_prototypes(codes, layout, logits=logits, examples=3):
        part = logits[:, layout.concept_slice(own.concept)]
        words = texts(codes, layout, own.concept)
        for prototype in own.prototypes:
            rows = [n for n, word in enumerate(words) if word == prototype.bits]
            rows.sort(key=lambda n: -min(abs(float(x)) for x in part[n]))
            assert prototype.images == tuple(map(str, rows[:3]))
        assert own.prototypes[0].images != tuple(map(str, sorted(rows)[:3]))


def test_find_prototypes__of_no_codes_and_no_labels() -> None:
    empty = find_prototypes(np.empty((0, 2), np.uint8), CodeLayout(16, 8))
    assert [(own.used, own.entropy) for own in empty] == [(0, 0.0)] * 8
    assert [p.count for p in empty[0].prototypes] == [0, 0, 0, 0]
    assert [p.share for p in empty[0].prototypes] == [0, 0, 0, 0]
    assert find_prototypes(np.empty((0, 2), np.uint8), CodeLayout(16, 1))[0].prototypes == ()
    (alone,) = find_prototypes(np.zeros((2, 2), np.uint8), CodeLayout(16, 1))
    assert (alone.prototypes[0].purity, alone.prototypes[0].labels) == (None, {})


def test_find_prototypes__takes_numbers_as_labels() -> None:
    (own,) = find_prototypes(np.zeros((3, 2), np.uint8), CodeLayout(16, 1), labels=[4, 0, 4])
    assert own.prototypes[0].labels == {"4": 2, "0": 1}


def test_find_prototypes__refuses_what_does_not_belong_together() -> None:
    codes, layout = np.zeros((3, 2), np.uint8), CodeLayout(16, 2)
    with pytest.raises(MismatchError, match="2 labels for 3 codes"):
        find_prototypes(codes, layout, labels=["a", "b"])
    with pytest.raises(MismatchError, match="2 logits for 3 codes"):
        find_prototypes(codes, layout, logits=np.zeros((2, 16), np.float32))
    with pytest.raises(MismatchError, match="8 logits for 16 bits"):
        find_prototypes(codes, layout, logits=np.zeros((3, 8), np.float32))
    with pytest.raises(MismatchError, match="uint8"):
        find_prototypes(codes, CodeLayout(32, 2))


def test_gallery_prototypes__are_of_the_images_there_are(tmp_path: Path) -> None:
    layout = CodeLayout(16, 2)
    codes = skewed(layout, 30)
    entries = [
        Entry(tmp_path / f"{n}.png", None if n == 4 else f"c{n % 2}", sha256=f"{n:064x}")
        for n in range(30)
    ]
    with Gallery.create(
        tmp_path / "g.chg", layout=layout, fingerprint="f" * 64, model="m"
    ) as gallery:
        ids = list(gallery.add(entries[:20], codes[:20])) + list(
            gallery.add(entries[20:], codes[20:])
        )
        gallery.remove([ids[n] for n in (0, 3, 21)])
        found = gallery_prototypes(gallery, top=5, examples=2)
    kept = [n for n in range(30) if n not in (0, 3, 21)]
    assert found == find_prototypes(
        codes[kept],
        layout,
        labels=[entries[n].label for n in kept],
        path_of=lambda row: str(tmp_path / f"{kept[row]}.png"),
        top=5,
        examples=2,
    )
    value = json.loads(json.dumps(found[0].to_json()))
    assert value["used"] == found[0].used
    first = found[0].prototypes[0]
    assert value["prototypes"][0] == {
        "concept": 0,
        "value": first.value,
        "bits": first.bits,
        "count": first.count,
        "share": first.share,
        "labels": dict(first.labels),
        "purity": first.purity,
        "images": list(first.images),
    }
