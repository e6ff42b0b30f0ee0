"""``chash concepts``, and the names of concepts wherever other verbs show them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from cli_entry import Chash, photos
from colour_bundle import colour_bundle, painted
from tiny_bundle import tiny_bundle
from tiny_clip import tiny_clip

from concepthash.bundle import MANIFEST, Bundle
from concepthash.codes import CodeLayout
from concepthash.explain.prototypes import gallery_prototypes
from concepthash.runtime.gallery import Gallery


@pytest.fixture
def chash(chash: Chash, tmp_path: Path) -> Chash:
    tiny_bundle(tmp_path)
    photos(tmp_path / "shop")
    return chash


@pytest.fixture
def gallery(chash: Chash) -> Path:
    assert chash("index", "shop").code == 0
    return Path("shop.chg")


@pytest.fixture
def named(chash: Chash, gallery: Path) -> Chash:
    assert (
        chash("concepts", "name", "tiny-0.chb", "--set", "0=head", "--set", "1=left wing").code == 0
    )
    return chash


def names_of(path: str = "tiny-0.chb") -> tuple[str, ...]:
    bundle = Bundle.open(path)
    bundle.verify()
    return bundle.manifest.concept_names


def edit(**changes: object) -> None:
    file = Path("tiny-0.chb") / MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# The verb


def test_concepts__shows_names_bits_and_map(chash: Chash) -> None:
    edit(concept_names=["head", "concept 1"], metrics={"per_concept_map": [0.51239, 0.25]})
    for words in (("concepts",), ("concepts", "show"), ("concepts", "show", "tiny-0.chb")):
        result = chash(*words)
        assert result.code == 0
        assert ("model: tiny-0.chb (the newest bundle here)" in result.err) == (len(words) < 3)
        assert [line.split() for line in result.out.splitlines()] == [
            ["tiny-0:", "16", "bits", "of", "2", "concepts"],
            ["concept", "name", "bits", "mAP", "alone"],
            ["0", "head", "0-7", "0.5124"],
            ["1", "concept", "1", "8-15", "0.2500"],
        ]
    value = chash("concepts", "tiny-0.chb", "--json").json("chash.concepts/1")
    assert (value["bundle"], value["bits"], value["gallery"]) == ("tiny-0.chb", 16, None)
    assert value["concepts"] == [
        {"concept": 0, "name": "head", "bits": [0, 8], "map": 0.51239, "values": None},
        {"concept": 1, "name": "concept 1", "bits": [8, 16], "map": 0.25, "values": None},
    ]


@pytest.mark.parametrize("metrics", [{}, {"per_concept_map": [0.5]}, {"per_concept_map": None}])
def test_concepts__without_a_measured_map(chash: Chash, metrics: dict[str, object]) -> None:
    edit(metrics=metrics)
    value = chash("concepts", "--json").json("chash.concepts/1")
    assert [own["map"] for own in value["concepts"]] == [None, None]
    assert chash("concepts").out.splitlines()[2].split() == ["0", "concept", "0", "0-7", "-"]


def test_concepts__of_a_gallery_shows_prototypes(named: Chash) -> None:
    tiny_bundle(Path(), seed=1)  # newer, and not the one
    with Gallery.open("shop.chg") as opened:
        truth = gallery_prototypes(opened, top=2, examples=1)
    arguments = ("concepts", "--gallery", "shop.chg", "--top", 2, "--examples", 1)
    result = named(*arguments, "--json")
    value = result.json("chash.concepts/1")
    assert value["choices"] == {"model": "tiny-0.chb"}
    assert [own["values"] for own in value["concepts"]] == [
        json.loads(json.dumps(own.to_json())) for own in truth
    ]
    assert sum(p["count"] for p in value["concepts"][0]["values"]["prototypes"]) >= 2
    lines = named(*arguments).out.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("1 left wing: "))
    assert lines[at] == (
        f"1 left wing: {truth[1].used} of 256 sub-codes in use, "
        f"entropy {truth[1].entropy:.2f} of 8 bits"
    )
    first = truth[1].prototypes[0]
    mixture = ", ".join(f"{label} {count}" for label, count in first.labels.items())
    assert lines[at + 2].split() == [
        first.bits,
        str(first.count),
        f"{first.share:.2f}",
        f"{first.purity:.2f}",
        *mixture.split(),
        first.images[0],
    ]


def test_concepts__of_wide_sub_codes_and_odd_names(chash: Chash, tmp_path: Path) -> None:
    from concepthash.runtime.entries import Entry

    layout = CodeLayout(128, 1)
    bundle = tiny_bundle(tmp_path / "wide", bits=128, concepts=1)
    codes = np.zeros((5, 16), np.uint8)
    codes[:, 0], codes[4, 15] = 128, 1
    entries = [Entry(tmp_path / f"a\n{n}.png", f"class {n}", sha256=f"{n:064x}") for n in range(5)]
    with Gallery.create(
        "wide.chg", layout=layout, fingerprint=bundle.manifest.fingerprint, model="tiny-0"
    ) as opened:
        opened.add(entries, codes)
    result = chash("concepts", "wide/tiny-0.chb", "-g", "wide.chg")
    assert result.code == 0
    _, _, row, _, title, _, first, second = result.out.splitlines()
    assert row.split() == ["0", "concept", "0", "0-127", "-"]
    assert title.startswith("0 concept 0: 2 of 2^128 sub-codes in use, entropy 0.72")
    assert first.split()[:2] == ["0x80" + "0" * 30, "4"]
    assert "class 0 1, class 1 1, class 2 1, and 1 more" in first
    assert first.endswith("a\\n0.png")
    assert second.split()[0] == "0x80" + "0" * 29 + "1"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["gone.chb"], 1, "no such bundle"),
        (["shop/a/0.png"], 1, "a file, not a bundle"),
        (["--gallery", "gone.chg"], 1, "no such gallery"),
        (["other/tiny-1.chb", "--gallery", "shop.chg"], 5, "was made with model"),
        (["--top", "0"], 2, "try: --top"),
        (["--examples", "0"], 2, "try: --examples"),
    ],
)
def test_concepts__refuses_what_cannot_be(
    chash: Chash, gallery: Path, arguments: list[str], code: int, words: str
) -> None:
    tiny_bundle(Path("other"), seed=1)
    result = chash("concepts", *arguments)
    assert (result.code, result.out) == (code, "")
    assert words in result.err


# Names by hand


def test_name__sets_and_resets(chash: Chash) -> None:
    before = Bundle.open("tiny-0.chb").manifest
    result = chash("concepts", "name", "tiny-0.chb", "--set", "1= left wing", "--dry-run")
    assert (result.code, names_of()) == (0, ("concept 0", "concept 1"))
    assert result.out.splitlines()[0] == "tiny-0.chb: not written"
    assert result.out.splitlines()[3].split() == ["1", "concept", "1", "left", "wing"]
    value = chash("concepts", "name", "tiny-0.chb", "--set", "1=wing", "--json").json(
        "chash.names/1"
    )
    assert value["before"] == ["concept 0", "concept 1"]
    assert value["after"] == ["concept 0", "wing"]
    assert (value["written"], value["proposal"]) == (True, None)
    assert names_of() == ("concept 0", "wing")
    assert (
        chash("concepts", "name", "tiny-0.chb", "--set", "Wing=head", "--set", "0=wing").code == 0
    )
    assert names_of() == ("wing", "head")
    assert Bundle.open("tiny-0.chb").manifest.fingerprint == before.fingerprint
    assert chash("concepts", "name", "tiny-0.chb", "--reset").out.startswith("tiny-0.chb: written")
    assert Bundle.open("tiny-0.chb").manifest == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no name was given"),
        (["--set", "0=a", "--reset"], "--set and --reset exclude each other"),
        (["--parts", "x", "--clip", "y"], "--parts and --clip exclude each other"),
        (["--set", "2=a"], "there is no concept 2"),
        (["--set", "wing=a"], "no concepts are called 'wing'"),
        (["--set", "head"], "'head' is not NUMBER=NAME"),
        (["--set", "0=a", "--set", "0=b"], "concept 0 is named twice"),
        (["--set", "0=a", "--set", "1=A"], "the name of concept 0 too"),
        (["--set", "0=concept 1"], "reads as the number"),
        (["--set", "0="], "is no name"),
        (["--set", "0=" + "x" * 41], "41 characters"),
        (["--set", "0=a\nb"], "cannot be printed"),
        (["--set", "0=a=b"], "equals sign"),
        (["--parts", "set", "--split", "val"], "unknown split 'val'"),
        (["--parts", "set", "--apply", "--dry-run"], "--apply writes"),
        (["--clip", "auto"], "CLIP needs photos"),
        (["--clip", "auto", "--photos", "shop", "--sample", "0"], "no sample"),
        (["--clip", "auto", "--photos", "gone"], "no such file or folder"),
        (["--clip", "auto", "--photos", "shop"], "the backbone tiny is no CLIP image tower"),
        (["--set", "0=a", "--threads", "0"], "0 threads"),
    ],
)
def test_name__refuses_what_cannot_be(chash: Chash, arguments: list[str], words: str) -> None:
    result = chash("concepts", "name", "tiny-0.chb", *arguments)
    assert (result.code, result.out) == (2, "")
    assert words in result.err
    assert names_of() == ("concept 0", "concept 1")


def test_name__of_no_bundle(chash: Chash) -> None:
    for path in ("gone.chb", "shop"):
        result = chash("concepts", "name", path, "--set", "0=a")
        assert (result.code, result.out) == (1, "")
        assert "bundle" in result.err
    assert chash("concepts", "name").code == 2


# Names from evidence


def test_name__from_parts_is_proposed_and_kept_only_when_asked(
    chash: Chash, tmp_path: Path
) -> None:
    colour_bundle(tmp_path)
    painted(tmp_path / "set", 4)
    arguments = ("concepts", "name", "colour.chb", "--parts", "set/part_locs.csv", "--threads", 1)
    result = chash(*arguments)
    assert result.code == 0
    assert "--apply keeps it" in result.err
    assert "less than half" not in result.err
    lines = result.out.splitlines()
    assert lines[0] == "colour.chb: not written"
    assert lines[3].split() == ["1", "green", "wing", "wing", "1.00", "1.00"]
    assert names_of("colour.chb") == ("red", "green", "blue")
    value = chash(*arguments, "--apply", "--split", "all", "--json").json("chash.names/1")
    assert value["written"]
    assert value["after"] == ["head", "wing", "tail"]
    assert value["proposal"][0] == {
        "concept": 0,
        "name": "head",
        "confidence": 1.0,
        "evidence": {"head": 1.0},
    }
    assert names_of("colour.chb") == ("head", "wing", "tail")


def test_name__from_parts_says_what_is_weak_and_skips_broken_photos(
    chash: Chash, tmp_path: Path
) -> None:
    painted(tmp_path / "set", 9, seed=2)
    Path("set/images/2.png").write_bytes(b"no photo")
    # Both maps of the tiny bundle are that of the brightness, so its concepts have one place.
    result = chash("concepts", "name", "tiny-0.chb", "--parts", "set", "--json", "--apply")
    assert result.code == 3
    value = result.json("chash.names/1")
    assert [item["path"] for item in value["skipped"]] == ["set/images/2.png"]
    assert names_of() == tuple(value["after"]) == ("tail", "tail 2")
    assert [own["confidence"] for own in value["proposal"]] == pytest.approx([3 / 7, 3 / 7])
    assert "less than half of the evidence speaks for the names of: 0, 1" in result.err


def test_name__from_clip_words(
    chash: Chash, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concepthash.errors import Skipped
    from concepthash.explain.naming import looked_at, names_from_words
    from concepthash.runtime.hasher import Hasher

    clip = tiny_clip(tmp_path / "clip", monkeypatch)
    from concepthash.learn.naming import word_fit

    colour_bundle(tmp_path)
    file = tmp_path / "colour.chb" / MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | {"backbone": "tiny_clip.x"}))
    painted(tmp_path / "set", 5)
    Path("words.txt").write_text("head\nwing\ntail\nleg\n")
    arguments = (
        *("concepts", "name", "colour.chb", "--clip", clip, "--photos", "set/images"),
        *("--vocabulary", "words.txt", "--sample", 2, "--apply", "--json"),
    )
    result = chash(*arguments)
    assert result.code == 0
    value = result.json("chash.names/1")
    chosen = [Path("set/images") / f"{n}.png" for n in (0, 2)]
    shown = looked_at(Hasher("colour.chb"), chosen, skipped=Skipped())
    words = ("head", "wing", "tail", "leg")
    fit = word_fit(shown, words, backbone="tiny_clip", weights=str(clip))
    truth = names_from_words(fit, words)
    assert value["after"] == [own.name for own in truth]
    assert [own["confidence"] for own in value["proposal"]] == pytest.approx(
        [own.confidence for own in truth]
    )
    assert names_of("colour.chb") == tuple(value["after"])
    Path("empty").mkdir()
    result = chash("concepts", "name", "colour.chb", "--clip", clip, "--photos", "empty")
    assert (result.code, result.out) == (4, "")


# Names in other verbs


def test_query__shows_names_in_every_form(named: Chash) -> None:
    asked = ("query", "shop/a/0.png", "--top", 2, "--format")
    assert "rank  dist  head  left wing  label" in named(*asked, "table").out
    value = named(*asked, "json").json("chash.query/1")
    assert value["concept_names"] == ["head", "left wing"]
    lines = [json.loads(line) for line in named(*asked, "jsonl").out.splitlines()]
    assert lines == value["queries"]
    assert lines[0]["concept_names"] == ["head", "left wing"]
    rows = list(csv.DictReader(io.StringIO(named(*asked, "tsv").out), delimiter="\t"))
    assert [[int(row["concept_0:head"]), int(row["concept_1:left wing"])] for row in rows] == [
        hit["per_concept"] for hit in lines[0]["hits"]
    ]


def test_query__by_names_is_by_numbers(named: Chash) -> None:
    def hits(*arguments: str) -> object:
        value = named("query", "shop/a/0.png", "--json", *arguments).json("chash.query/1")
        return value["queries"]

    plain = hits()
    for names, numbers in (
        (("--concepts", "head"), ("--concepts", "0")),
        (("--concepts", "Left Wing,head"), ("--concepts", "1,0")),
        (("--weights", "left wing=3"), ("--weights", "1,3")),
        (("--weights", "head=0,1=2"), ("--weights", "0,2")),
    ):
        assert hits(*names) == hits(*numbers)
        assert names[1] == "Left Wing,head" or hits(*names) != plain


@pytest.mark.parametrize(
    ("arguments", "words", "hint"),
    [
        (["--concepts", "beak"], "there are head, left wing", "--concepts 'head,left wing'"),
        (["--concepts", "0,"], "no concepts are called ''", "--concepts 'head,left wing'"),
        (["--weights", "beak=2"], "no concepts are called 'beak'", "--weights 2,1"),
        (["--weights", "head=2,1"], "'1' is the weight of no concept", "--weights 2,1"),
        (["--weights", "head=2,0=1"], "concept 0 has two weights", "--weights 2,1"),
        (["--weights", "head=x"], "'x' is not a whole number", "--weights 2,1"),
        (["--weights", "head=-1"], "weights go from 0 to 255", "--weights 2,1"),
        (["--weights", "head=0", "--concepts", "head"], "no concept that counts", "--weights 2,1"),
    ],
)
def test_query__of_wrong_names_says_which_there_are(
    named: Chash, arguments: list[str], words: str, hint: str
) -> None:
    result = named("query", "shop/a/0.png", *arguments)
    assert (result.code, result.out) == (2, "")
    assert words in result.err
    assert f"try: {hint}" in result.err.splitlines()


def test_inspect_and_eval__show_names(named: Chash, tmp_path: Path) -> None:
    value = named("inspect", "tiny-0.chb", "--json").json("chash.inspect/1")
    assert value["concept_names"] == ["head", "left wing"]
    data = tmp_path / "data"
    photos(data / "train", each=4, first_seed=20)
    photos(data / "test", each=2, first_seed=40)
    arguments = ("eval", "tiny-0.chb", "--data", data)
    value = named(*arguments, "--json").json("chash.eval/1")
    assert value["concept_names"] == ["head", "left wing"]
    lines = named(*arguments).out.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("concept "))
    assert [line.split()[:-2] for line in lines[at + 1 : at + 3]] == [["head"], ["left", "wing"]]
    alone = value["per_concept_map"]
    assert [line.split()[-2] for line in lines[at + 1 : at + 3]] == [f"{v:.4f}" for v in alone]


def test_eval__of_codes_without_a_model_numbers_concepts(chash: Chash) -> None:
    from concepthash.codesets import save_codes

    codes = np.random.default_rng(0).integers(0, 256, size=(6, 2), dtype=np.uint8)
    save_codes("codes.npz", codes, [0, 1] * 3, CodeLayout(16, 2))
    assert chash("eval", "codes.npz", "--json").json("chash.eval/1")["concept_names"] == []
    Path("loop.npz").symlink_to("loop.npz")
    looped = chash("eval", "codes.npz", "loop.npz")
    assert (looped.code, looped.out) == (1, "") or looped.code == 2
    assert "where: loop.npz" in looped.err
    lines = chash("eval", "codes.npz").out.splitlines()
    at = lines.index("concept    mAP alone  left out")
    assert [line.split()[0] for line in lines[at + 1 : at + 3]] == ["0", "1"]


def test_export__keeps_the_names_of_the_model_it_replaces(chash: Chash, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from tiny_run import drawn_birds, tiny_config

    from concepthash.learn.train import train

    data = drawn_birds(tmp_path / "birds")
    train(tiny_config(data, epochs=1), Path("run"))
    assert chash("export", "run").code == 0
    assert names_of("run.chb") == ("concept 0", "concept 1")
    assert chash("concepts", "name", "run.chb", "--set", "1=wing").code == 0
    assert chash("export", "run", "--force").code == 0
    assert names_of("run.chb") == ("concept 0", "wing")
    assert chash("export", "run", "--out", "other.chb").code == 0
    assert names_of("other.chb") == ("concept 0", "concept 1")
    (Path("run.chb") / MANIFEST).write_text("{")
    assert chash("export", "run", "--force").code == 0
    assert names_of("run.chb") == ("concept 0", "concept 1")
    assert chash("concepts", "name", "run.chb", "--set", "1=wing").code == 0
    train(tiny_config(data, epochs=1, seed=1), Path("run2"))
    result = chash("export", "run2", "--out", "run.chb", "--force")
    assert result.code == 0
    assert "chash concepts name run.chb --set 1=wing\n" in result.err
    assert names_of("run.chb") == ("concept 0", "concept 1")  # of another model
