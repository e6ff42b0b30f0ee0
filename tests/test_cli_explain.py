"""``chash explain IMG [OTHER]`` and ``chash query --explain``, where maps are known."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_entry import Chash
from colour_bundle import CELL, SIDE, colour_bundle, lone_file
from PIL import Image
from shown_html import Shown

from concepthash.bundle import Bundle
from concepthash.cli.main import run
from concepthash.explain import explain_image
from concepthash.explain import hits as explained
from concepthash.explain.hits import SHOWN, HitExplainer
from concepthash.explain.hitspage import hits_page
from concepthash.runtime.answers import name_hits
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.hasher import Hasher

HOSTILE = "<img src=x>\x1b[31m.png"


def coloured(path: Path, red: int, green: int, blue: int) -> Path:
    """A photo with a cell of each colour, so that its mean is a sixteenth of each."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    for channel, value in enumerate((red, green, blue)):
        place = slice(channel * CELL, (channel + 1) * CELL)
        pixels[place, place, channel] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def chash(chash: Chash, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chash:
    for name in ("NO_COLOR", "COLORTERM", "TERM", "TMUX", "KITTY_WINDOW_ID"):
        monkeypatch.delenv(name, raising=False)
    colour_bundle(tmp_path)
    coloured(tmp_path / "a.png", 250, 100, 50)
    coloured(tmp_path / "b.png", 250, 100, 250)  # another blue only
    return chash


@pytest.fixture
def gallery(chash: Chash) -> Path:
    for number in range(4):
        coloured(Path(f"shop/x/{number}.png"), 250, 100, 50 + 64 * number)
    assert chash("index", "shop").code == 0
    return Path("shop.chg")


def test_explain__prints_a_table_of_one_photo(chash: Chash) -> None:
    result = chash("explain", "a.png")
    assert result.code == 0
    rows = [line.split() for line in result.out.splitlines()]
    assert rows[0][0] == "a.png"
    assert rows[2:] == [
        ["0", "red", "11111111", "0.62", "7"],
        ["1", "green", "11100000", "0.75", "3"],
        ["2", "blue", "11000000", "0.12", "1"],
    ]
    assert "model: colour.chb (the newest bundle here)" in result.err
    assert "\x1b" not in result.out


def test_explain__marks_the_bits_in_which_two_photos_differ(chash: Chash) -> None:
    lines = chash("explain", "a.png", "b.png").out.splitlines()
    assert lines[:2] == ["A  a.png", "B  b.png"]
    assert lines[2] == (
        "distance 6 of 24: alike in red (0 of 8) and green (0 of 8), differ in blue (6 of 8)"
    )
    at = next(n for n, line in enumerate(lines) if line.split()[:1] == ["blue"])
    column = lines[at].index("11000000")
    assert lines[at + 1][column:] == "11111111"
    assert lines[at + 2] == " " * (column + 2) + "^" * 6
    assert at == len(lines) - 3  # the most different comes last


def test_explain__reports_json(chash: Chash) -> None:
    value = chash("explain", "a.png", "b.png", "--json", "--out", "why").json("chash.explain/1")
    assert value["image"]["concepts"][0]["peak"] == [0.125, 0.125]
    assert value["other"]["name"] == "b.png"
    assert value["comparison"]["per_concept"] == [0, 0, 6]
    assert "images" not in value["comparison"]
    assert value["files"] == ["why/explanation.png", "why/explanation.html"]
    assert value["choices"] == {"model": "colour.chb"}
    assert "other" not in chash("explain", "a.png", "--json").json("chash.explain/1")


def test_explain__replaces_its_own_files_and_no_other(chash: Chash) -> None:
    Path("why").mkdir()
    Path("why/notes.txt").write_text("mine")
    assert chash("explain", "a.png", "--out", "why").code == 0
    first = Path("why/explanation.png").read_bytes()
    assert len(Shown(Path("why/explanation.html").read_text()).pictures) == 4
    result = chash("explain", "a.png", "b.png", "--out", "why")
    assert (result.code, result.err.count("written: ")) == (0, 1)
    assert Path("why/explanation.png").read_bytes() != first
    with Image.open("why/explanation.png") as figure:
        assert figure.width > 800
    assert len(Shown(Path("why/explanation.html").read_text()).pictures) == 8
    assert Path("why/notes.txt").read_text() == "mine"
    Path("why/explanation.html").write_text("<p>not yours</p>")
    result = chash("explain", "a.png", "--out", "why")
    assert (result.code, result.out) == (2, "")
    assert "did not write" in result.err
    assert Path("why/explanation.html").read_text() == "<p>not yours</p>"
    assert sorted(path.name for path in Path("why").iterdir()) == [
        "explanation.html",
        "explanation.png",
        "notes.txt",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["a.png", "b.png", "a.png"], 2, "3 photos cannot be compared at once"),
        (["a.png", "--parts", "set"], 2, "not both at once"),
        (["a.png", "--masks"], 2, "give part annotations"),
        (["gone.png"], 1, "no such file\nwhere: gone.png\ntry: ls -l gone.png\n"),
        (["a.png", "."], 1, "a folder, not a photo\nwhere: .\ntry: name one photo of it: ls .\n"),
        (["http://x/y.jpg"], 1, "files only\nwhere: http://x/y.jpg\ntry: curl -O http://x/y.jpg\n"),
        (["broken.png"], 1, "Pillow can read\nwhere: broken.png\ntry: file broken.png\n"),
        (["a.png", "--out", "broken.png"], 2, "--out is a folder, and a file is there"),
        (["a.png", "--out", ""], 2, "without a name\nwhere: --out\ntry: --out NAME\n"),
        (["a.png", "--out="], 2, "without a name\nwhere: --out\ntry: --out NAME\n"),
        (["a.png", "--preview", "gif"], 2, "unknown preview 'gif'"),
        (["a.png", "--model", "gone.chb"], 1, "no such bundle"),
        (["a.png", "--precision", "int8"], 6, "int8"),
        (["a.png", "--threads", "0"], 2, "0 threads"),
    ],
)
def test_explain__refuses_what_cannot_be(
    chash: Chash, arguments: list[str], code: int, words: str
) -> None:
    Path("broken.png").write_bytes(b"no photo")
    result = chash("explain", *arguments)
    assert (result.code, result.out) == (code, "")
    assert words in result.err


def test_explain__of_a_photo_that_is_closed_names_it(
    chash: Chash, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("concepthash.cli.explain_photos.os.access", lambda path, how: False)
    result = chash("explain", "a.png")
    assert (result.code, result.out) == (1, "")
    assert result.err.endswith("permission denied\nwhere: a.png\ntry: ls -l a.png\n")


def test_explain__of_a_folder_it_cannot_make_names_the_one_that_is_closed(
    chash: Chash, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("closed").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("concepthash.cli.outfile.os.access", lambda path, how: False)
        result = chash("explain", "a.png", "--out", "closed/y")
    assert (result.code, result.out) == (2, "")
    assert "try: ls -ld closed, or another folder" in result.err

    def fails(*given: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", fails)
    result = chash("explain", "a.png", "--out", "closed/y")
    assert result.code == 1
    assert "try: ls -ld closed, or another folder" in result.err


def test_explain__says_of_a_tiny_photo_that_there_is_little_to_see(chash: Chash) -> None:
    Image.new("RGB", (40, 2)).save("tiny.png")
    result = chash("explain", "a.png", "tiny.png", "--preview", "none")
    assert result.code == 0
    assert f"tiny.png has 40 x 2 pixels and is enlarged {SIDE // 2} times" in result.err
    assert "a.png has" not in result.err


def test_explain__takes_a_lone_onnx_file_as_concepts_does(chash: Chash) -> None:
    whole = chash("explain", "a.png").out
    model = lone_file(Bundle.open("colour.chb"), Path("alone.onnx"))
    shutil.rmtree("colour.chb")
    assert chash("explain", "a.png", "--model", model).out == whole
    shown = chash("concepts", model)
    assert (shown.code, shown.out.splitlines()[0]) == (0, "colour: 24 bits of 3 concepts")
    named = chash("concepts", "name", model, "--set", "0=head")
    assert named.code == 1
    assert "a bundle is a folder" in named.err


def test_explain__shows_a_preview_that_was_asked_for(chash: Chash) -> None:
    result = chash("explain", "a.png", "--preview", "truecolour")
    head, *lines = result.out.splitlines()
    assert head.split() == ["photo", "red", "green", "blue"]
    assert lines[0].count("▀") == len(lines[0].split("▀")) - 1 > 40
    shades = chash("explain", "a.png", "--preview", "shades").out
    assert "\x1b" not in shades
    assert "█" in shades
    sequence = chash("explain", "a.png", "--preview", "kitty", "--out", "why").out
    assert sequence.startswith("\x1b_Ga=T")


def test_explain__shows_hostile_names_as_text(chash: Chash) -> None:
    Path("a.png").rename(HOSTILE)
    result = chash("explain", HOSTILE, "b.png", "--out", "why")
    assert "\x1b" not in result.out
    assert "A  <img src=x>\\x1b[31m.png" in result.out
    page = Shown(Path("why/explanation.html").read_text())
    assert "<img src=x>\\x1b[31m.png" in page.words


def test_explain__escapes_letters_that_the_output_has_not(
    chash: Chash, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("a.png").rename("\u9ce5.png")
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    monkeypatch.setattr(sys, "argv", ["chash", "explain", "\u9ce5.png"])
    with pytest.raises(SystemExit) as ended:
        run()
    sys.stdout.flush()
    assert not ended.value.code
    assert written.getvalue().startswith(b"\\u9ce5.png  ")


def test_query__explains_its_hits(chash: Chash, gallery: Path) -> None:
    Path("shop/x/3.png").unlink()
    coloured(Path("shop/x/2.png"), 250, 255, 50)  # green is another now
    plain = chash("query", "a.png", "--gallery", gallery)
    result = chash("query", "a.png", "--gallery", gallery, "--explain", "why")
    assert (result.code, result.out) == (0, plain.out)
    assert "a photo cannot be shown: shop/x/3.png: no such file" in result.err
    assert "written: why/hits.html, why/hits.png\n" in result.err
    page = Shown(Path("why/hits.html").read_text())
    assert page.tags.count("tr") == 1 + 1 + 4
    assert len(page.pictures) == 4 * 4  # the query and three hits, each with three maps
    assert "cannot be shown: no such file" in page.words
    assert "differs from the gallery's in 9 bits" in page.words
    said = page.words.replace("\xa0", " ")
    assert "Alike in red (0 of 8) and green (0 of 8), differ in blue (4 of 8)." in said
    assert "Alike in every concept." in page.words
    with Image.open("why/hits.png") as sheet:
        assert sheet.height > 5 * 128


def test_query__shows_concepts_that_do_not_count(chash: Chash, gallery: Path) -> None:
    asked = ("query", "a.png", "--gallery", gallery, "--explain", "why")
    assert chash(*asked, "--concepts", "red,green").code == 0
    html = Path("why/hits.html").read_text()
    assert Shown(html).words.count("not counted") == 1
    assert html.count('<td class="off">') == 1 + 4
    with Image.open("why/hits.png") as sheet:
        assert np.asarray(sheet)[60:188, -142:-14].min() > 100  # faint there too
    assert "Alike in every concept that counts." in Shown(html).words
    assert chash(*asked, "--weights", "blue=3", "--radius", "20").code == 0
    assert "counts 3 times" in Shown(Path("why/hits.html").read_text()).words


def test_query__explains_many_queries_on_a_page_each(chash: Chash, gallery: Path) -> None:
    Path("broken.png").write_bytes(b"no photo")
    asked = ("query", "a.png", "broken.png", "b.png", "--gallery", gallery, "--explain", "why")
    result = chash(*asked, "--json")
    assert result.code == 3  # as without --explain: a query was skipped
    pages = result.json("chash.query/1")["pages"]
    assert pages == ["why/index.html", "why/hits-001.html", "why/hits-002.html"]
    index = Shown(Path("why/index.html").read_text())
    assert index.links == ["hits-001.html", "hits-002.html"]
    assert "b.png" in index.words
    assert "b.png" in Shown(Path("why/hits-002.html").read_text()).words
    Path("why/hits-002.png").write_bytes(b"mine")
    assert chash(*asked).code == 2
    assert Path("why/hits-002.png").read_bytes() == b"mine"


def test_query__without_a_hit_writes_no_hit(chash: Chash, gallery: Path) -> None:
    coloured(Path("far.png"), 0, 255, 0)
    result = chash("query", "far.png", "-g", gallery, "--radius", 0, "--explain", "why")
    assert result.code == 4
    assert Shown(Path("why/hits.html").read_text()).tags.count("tr") == 2


def test_hits__a_page_is_bounded_and_the_next_query_remembers(chash: Chash, gallery: Path) -> None:
    hasher = Hasher("colour.chb", device="cpu", threads=1)
    query = explain_image(hasher, "a.png")
    with Gallery.open(gallery) as opened:
        found = opened.index().search(query.code[None], 4)
        [hits] = name_hits(opened, found.ids, found.distances, found.per_concept)
        explainer = HitExplainer(hasher, opened)
        some = explainer.explain(query, hits, shown=2)
        assert (len(some.hits), some.found) == (2, 4)
        assert "The nearest 2 of 4 hits are shown." in Shown(hits_page(some)).words
        shutil.rmtree("shop")
        later = explainer.explain(query, hits)
    assert [one.photo is None for one in later.hits] == [False, False, True, True]
    assert len(later.hits) <= SHOWN
    assert later.weights == (1, 1, 1)
    cell = Shown(later._repr_html_())
    assert not {"style", "script"} & set(cell.tags)
    assert cell.tags.count("tr") == 5


def test_hits__of_many_concepts_are_fewer(
    chash: Chash, gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explained, "_MAPS", 7)
    assert chash("query", "a.png", "--gallery", gallery, "--explain", "why").code == 0
    words = Shown(Path("why/hits.html").read_text()).words
    assert "The nearest 2 of 4 hits are shown." in words  # of three concepts


def test_query__explains_nothing_where_nothing_could_be_read(chash: Chash, gallery: Path) -> None:
    Path("broken.png").write_bytes(b"no photo")
    result = chash("query", "broken.png", "-g", gallery, "--explain", "why")
    assert result.code == 1
    assert not Path("why").exists()
