"""Names of concepts: which are fit, how a bundle keeps them, and what is proposed from evidence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from colour_bundle import CELL, LAYOUT, SIDE, colour_bundle, colour_maps, painted
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_bundle import tiny_bundle
from tiny_clip import tiny_clip

from concepthash.bundle import MANIFEST, Bundle, rename_concepts
from concepthash.errors import BundleError, DataError, Skipped, UsageError, WeightsError
from concepthash.explain.covering import border_colour
from concepthash.explain.naming import (
    VOCABULARY,
    distinct,
    looked_at,
    names_from_parts,
    names_from_words,
    read_words,
    windows,
)
from concepthash.explain.partscores import PartScores
from concepthash.names import check_names, default_names, find_concept, numbered
from concepthash.runtime.hasher import Hasher

ODD_PARTS = ("beak", "nape", "left eye", "wing", "c1", "1", "TAIL", "tail", "ß", "x" * 50)
BIRD = ("beak", "nape", "left eye", "left wing", "right wing", "tail")


def scores(nearest: list[list[int]], part_names: tuple[str, ...] = BIRD) -> PartScores:
    rows = tuple(map(tuple, nearest))
    return PartScores(
        concept_names=default_names(len(rows)),
        part_names=part_names,
        nmi=0.0,
        ari=0.0,
        assigned=rows,
        nearest=rows,
        peaks_in_box=(None,) * len(rows),
        images=sum(rows[0]),
        boxes=0,
    )


# Which names are fit


def test_check_names__keeps_what_can_be_shown_and_typed() -> None:
    names = ("head", " left wing ", "Flügel", "head: beak", "concept 4", "x" * 40, "2 eyes")
    assert check_names(names) == (*names[:1], "left wing", *names[2:])
    black_bird = "\U0001f426\u200d\u2b1b"
    assert check_names(["cafe\u0301", black_bird]) == ("caf\u00e9", black_bird)
    assert check_names(default_names(12)) == tuple(f"concept {m}" for m in range(12))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "is no name"),
        ("  ", "is no name"),
        ("\u200d", "is no name"),
        ("x" * 41, "41 characters"),
        ("a\tb", "cannot be printed"),
        ("a\u2028b", "cannot be printed"),
        ("\u202eab", "cannot be printed"),
        ("head, left", "comma"),
        ("a=b", "equals"),
        ("3", "reads as the number"),
        ("C3", "reads as the number"),
        ("concept 3", "reads as the number"),
        ("Concept3", "reads as the number"),
        ("HEAD", "name of concept 0 too"),
        ("head ", "name of concept 0 too"),
    ],
)
def test_check_names__refuses(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        check_names(["head", name], where="--set")
    assert error.value.where == "--set"
    assert error.value.what.startswith("concept 1: ")


def test_numbered__tells_numbers_from_names() -> None:
    assert all(map(numbered, ("0", "c12", "concept 3", "Concept 3", "concept3", "c 1")))
    assert not any(map(numbered, ("head", "c", "concept", "wing 2", "2 wings", "c1x", "")))


def test_find_concept__by_number_and_by_name() -> None:
    names = ("head", "concept 1", "Tail", "tail")

    def find(word: str) -> int:
        return find_concept(word, names, where="--x", hint="--x 0")

    assert [find(word) for word in ("0", " 3 ", "head", "HEAD", "concept 1", "Tail", "tail")] == [
        *(0, 3, 0, 0, 1, 2, 3)
    ]
    wrongs = ("4", "-1", "", "wing", "TAIL", "1.0", "9" * 5000)
    reasons = ("no concept 4", "no concept -1", "no concepts", "no concepts", "2 concepts",
               "no concepts", "no concepts")  # fmt: skip
    for word, reason in zip(wrongs, reasons, strict=True):
        with pytest.raises(UsageError, match=reason):
            find(word)


# How a bundle keeps them


def test_rename_concepts__changes_the_names_and_nothing_else(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    file = bundle.path / MANIFEST
    values = json.loads(file.read_text()) | {"of a later version": [1, {"a": None}]}
    file.write_text(json.dumps(values))
    before = {p.name: p.read_bytes() for p in bundle.path.iterdir() if p.name != MANIFEST}
    renamed = rename_concepts(bundle, ["head", "Flügel "])
    assert renamed.manifest.concept_names == ("head", "Flügel")
    assert renamed.manifest.fingerprint == bundle.manifest.fingerprint
    Bundle.open(bundle.path).verify()
    assert json.loads(file.read_text()) == values | {"concept_names": ["head", "Flügel"]}
    assert before == {p.name: p.read_bytes() for p in bundle.path.iterdir() if p.name != MANIFEST}
    again = rename_concepts(renamed, default_names(2))
    assert again.manifest == bundle.manifest


def test_rename_concepts__refuses_what_is_unfit(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    text = (bundle.path / MANIFEST).read_text()
    for names in (["head"], ["a", "b", "c"], ["a", "A"], ["a", ""]):
        with pytest.raises(UsageError):
            rename_concepts(bundle, names)
    assert (bundle.path / MANIFEST).read_text() == text


def test_rename_concepts__leaves_the_old_manifest_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The full disk is injected where the new manifest is flushed."""
    bundle = tiny_bundle(tmp_path)
    text = (bundle.path / MANIFEST).read_text()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BundleError, match="No space left"):
        rename_concepts(bundle, ["a", "b"])
    assert (bundle.path / MANIFEST).read_text() == text
    assert sorted(p.name for p in bundle.path.iterdir()) == [MANIFEST, "model.onnx"]


@pytest.mark.parametrize("names", [["head", 3], ["head", None], ["head", "a\nb"]])
def test_manifest__refuses_names_that_are_no_text_on_one_line(
    tmp_path: Path, names: list[object]
) -> None:
    file = tiny_bundle(tmp_path).path / MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | {"concept_names": names}))
    with pytest.raises(BundleError, match="concept name"):
        Bundle.open(file.parent)


# What is proposed from annotated parts


def test_names_from_parts__are_the_leading_groups() -> None:
    found = names_from_parts(scores([[6, 1, 0, 2, 1, 0], [0, 0, 1, 4, 3, 2], [1, 0, 0, 0, 0, 9]]))
    assert [(own.concept, own.name) for own in found] == [(0, "head"), (1, "wing"), (2, "tail")]
    assert [own.confidence for own in found] == pytest.approx([0.7, 0.7, 0.9])
    assert found[0].evidence == pytest.approx({"head": 0.7, "wing": 0.3})
    assert found[0].to_json() == {
        "concept": 0,
        "name": "head",
        "confidence": found[0].confidence,
        "evidence": dict(found[0].evidence),
    }


def test_names_from_parts__tell_concepts_of_one_group_apart_by_points() -> None:
    found = names_from_parts(
        scores(
            [
                [6, 4, 0, 0, 0, 0],
                [7, 1, 2, 0, 0, 0],  # points at the beak more often than concept 0
                [0, 0, 0, 9, 1, 0],
                [0, 0, 0, 8, 2, 0],
            ]
        )
    )
    assert [own.name for own in found] == ["head: nape", "head: beak", "left wing", "right wing"]
    assert [own.confidence for own in found] == pytest.approx([1.0] * 4)
    assert list(found[0].evidence.items()) == [("nape", 0.4), ("beak", 0.6)]


def test_names_from_parts__number_what_points_cannot_tell_apart() -> None:
    found = names_from_parts(scores([[4, 0, 0, 0, 0, 6], [1, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 8]]))
    assert [own.name for own in found] == ["tail 3", "tail", "tail 2"]


def test_names_from_parts__make_odd_part_names_fit() -> None:
    odd = ("a,b\t=c", "7", "x" * 60, "")
    found = names_from_parts(scores(np.eye(4, dtype=int).tolist(), odd))
    assert [own.name for own in found] == ["a b c", "part 7", "x" * 40, "part"]
    check_names([own.name for own in found])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_names_from_parts__can_always_be_kept(data: st.DataObject) -> None:
    text = st.sampled_from(ODD_PARTS)
    parts = tuple(data.draw(st.lists(text, min_size=1, max_size=6, unique=True)))
    row = st.lists(st.integers(0, 5), min_size=len(parts), max_size=len(parts))
    rows = data.draw(st.lists(row.filter(any), min_size=1, max_size=8))
    found = names_from_parts(scores(rows, parts))
    assert [own.concept for own in found] == list(range(len(rows)))
    assert check_names([own.name for own in found]) == tuple(own.name for own in found)
    assert all(0 < own.confidence <= 1 and own.evidence for own in found)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_distinct__takes_the_highest_pair_again_and_again(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    numbers = data.draw(st.permutations(range(rows * columns)))
    table = np.array(numbers, float).reshape(rows, columns)
    pairs = sorted(np.ndindex(rows, columns), key=lambda place: -table[place])
    expected: dict[int, int] = {}
    for row, column in pairs:
        if table[row, column] and row not in expected and column not in expected.values():
            expected[row] = column
    before = table.copy()
    assert distinct(table) == [expected.get(row) for row in range(rows)]
    assert np.array_equal(table, before)


# What is proposed from words


def test_names_from_words__gives_no_word_twice() -> None:
    table = np.array([[0.6, 0.3, 0.1], [0.7, 0.2, 0.1]])
    found = names_from_words(table, ("head", "wing", "tail"))
    assert [(own.name, own.confidence) for own in found] == [("wing", 0.3), ("head", 0.7)]
    assert list(found[0].evidence.items()) == [("wing", 0.3), ("head", 0.6), ("tail", 0.1)]
    fewer = names_from_words(table[:, :1], ("head",))
    assert [own.name for own in fewer] == ["head 2", "head"]


def test_vocabulary__can_be_kept() -> None:
    assert check_names(VOCABULARY) == VOCABULARY


def test_read_words__one_a_line(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("head\n\n  left wing \nhead\n")
    assert read_words(file) == ("head", "left wing")
    file.write_text("\n")
    with pytest.raises(DataError, match="empty"):
        read_words(file)
    file.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match="cannot be read"):
        read_words(file)
    with pytest.raises(DataError, match="cannot be read"):
        read_words(tmp_path / "none.txt")


def test_windows__show_what_a_concept_looks_at_and_hide_the_rest() -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    maps = np.zeros((3, 4, 4), np.float32)
    maps[0, 1, 2], maps[0, 1, 1], maps[0, 2, 2] = 4, 3, 2  # 2 is half of the maximum: not above
    maps[1, 0, 3] = 1  # the window would leave the crop
    found = windows(pixels, maps)
    assert found.shape == (3, SIDE // 2, SIDE // 2, 3)
    assert found.dtype == np.uint8
    hidden = np.broadcast_to(border_colour(pixels), pixels.shape)
    shown = [np.array(hidden) for _ in range(3)]
    shown[0][CELL : 2 * CELL, CELL : 3 * CELL] = pixels[CELL : 2 * CELL, CELL : 3 * CELL]
    shown[1][:CELL, 3 * CELL :] = pixels[:CELL, 3 * CELL :]
    # Peaks at (20, 12), (28, 4) and, of the map that is nowhere, (4, 4); half a window is 8.
    assert np.array_equal(found[0], shown[0][4:20, 12:28])
    assert np.array_equal(found[1], shown[1][:16, 16:])
    assert np.array_equal(found[2], hidden[:16, :16])


def test_looked_at__streams_photos_and_records_what_cannot_be_read(tmp_path: Path) -> None:
    hasher = Hasher(colour_bundle(tmp_path), batch_size=2, threads=1)
    photos = sorted((painted(tmp_path / "set", 5) / "images").iterdir())
    photos[3].write_bytes(b"no photo")
    skipped, steps = Skipped(), []
    found = list(
        looked_at(hasher, photos, skipped=skipped, progress=lambda *step: steps.append(step))
    )
    assert [item.path for item in skipped.items] == [str(photos[3])]
    assert len(found) == 4
    assert steps[-1] == (5, 5)
    for photo, own in zip([*photos[:3], photos[4]], found, strict=True):
        pixels = np.asarray(Image.open(photo))
        maps = colour_maps(pixels[None])[0].astype(np.float32)
        assert np.array_equal(own, windows(pixels, maps))
        # Each concept sees its own colour alone.
        for channel in range(LAYOUT.concepts):
            seen = own[channel].reshape(-1, 3).any(axis=0)
            assert seen.tolist() == [other == channel for other in range(3)]
    with pytest.raises(DataError, match="not one photo"):
        list(looked_at(hasher, photos[3:4], skipped=Skipped()))


# CLIP


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return tiny_clip(tmp_path / "clip", monkeypatch)


def shown(count: int, concepts: int = 3) -> list[np.ndarray]:
    generator = np.random.default_rng(count)
    return [generator.integers(0, 256, (concepts, 20, 20, 3), dtype=np.uint8) for _ in range(count)]


def test_word_fit__is_the_softmax_of_centred_mean_cosines(clip: Path) -> None:
    import open_clip
    import torch
    from torchvision.transforms.functional import normalize, to_tensor

    from concepthash.learn.naming import word_fit

    words = ("head", "wing", "tail", "wheel")
    own = shown(4)
    found = word_fit(iter(own), words, backbone="tiny_clip", weights=str(clip))
    model = open_clip.create_model(
        "tiny-clip", pretrained=str(clip / "open_clip_model.safetensors")
    ).eval()
    cosines = np.zeros((3, 4))
    with torch.inference_mode():
        for photo in own:
            for m, window in enumerate(photo):
                image = Image.fromarray(window).resize((32, 32), Image.Resampling.BICUBIC)
                pixels = normalize(
                    to_tensor(image),
                    [0.48145466, 0.4578275, 0.40821073],
                    [0.26862954, 0.26130258, 0.27577711],
                )
                for n, word in enumerate(words):
                    text = open_clip.get_tokenizer("tiny-clip")([f"a photo of the {word}"])
                    a, b = model.encode_image(pixels[None])[0], model.encode_text(text)[0]
                    cosines[m, n] += float(a @ b / a.norm() / b.norm()) / 4
        scale = float(model.logit_scale.exp())
    powers = np.exp(scale * (cosines - cosines.mean(axis=0)))
    assert np.allclose(found, powers / powers.sum(axis=1, keepdims=True), atol=1e-4)
    assert found.shape == (3, 4)
    assert np.ptp(found) > 1e-3  # random towers prefer something: not all equal
    alone = word_fit([photo[:1] for photo in own], words, backbone="tiny_clip.x",
                     weights=str(clip / "open_clip_model.safetensors"))  # fmt: skip
    lone = np.exp(scale * cosines[:1])
    assert np.allclose(alone, lone / lone.sum(), atol=1e-4)


def test_word_fit__finds_tags_on_this_machine_only(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concepthash.learn.naming import word_fit

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHASH_WEIGHTS_PATH", str(tmp_path / "mine"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/tiny-clip-some_tag.safetensors").symlink_to(
        clip / "open_clip_model.safetensors"
    )
    words = ("head", "wing")

    def fit(backbone: str, weights: str) -> np.ndarray:
        return word_fit(shown(2), words, backbone=backbone, weights=weights)

    expected = fit("tiny_clip", str(clip))
    assert np.array_equal(fit("tiny_clip", "some_tag"), expected)
    assert np.array_equal(fit("tiny_clip.some_tag", "auto"), expected)
    with pytest.raises(WeightsError, match="offline") as error:
        fit("tiny_clip.other", "auto")
    assert "tiny-clip-other.safetensors" in (error.value.where or "")
    assert (error.value.hint or "").startswith("--clip FILE")


def test_word_fit__refuses_other_backbones_and_other_weights(clip: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from concepthash.learn.naming import word_fit

    def fit(backbone: str, weights: Path) -> None:
        word_fit(shown(1), ("head",), backbone=backbone, weights=str(weights))

    with pytest.raises(UsageError, match="no CLIP image tower") as error:
        fit("vit_tiny_patch16_224", clip)
    assert "--parts" in (error.value.hint or "")
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="not those of tiny-clip"):
        fit("tiny_clip", tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="not those of tiny-clip"):
        fit("tiny_clip", tmp_path / "b.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="no such weights file"):
        fit("tiny_clip", tmp_path / "empty")
    (tmp_path / "c.pt").touch()
    with pytest.raises(WeightsError, match="pickle"):
        fit("tiny_clip", tmp_path / "c.pt")
