"""What the command line says when something is wrong: as text, as JSON, and soon enough."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_entry import Chash, Outcome, photo, photos
from tiny_bundle import tiny_bundle

from concepthash.runtime import native

FULL = Path("/dev/full")


@pytest.fixture
def gallery(tmp_path: Path, chash: Chash) -> Path:
    tiny_bundle(tmp_path)
    assert chash("index", photos(tmp_path / "shop")).code == 0
    return Path("shop.chg")


def error_of(result: Outcome) -> dict[str, object]:
    value: dict[str, object] = result.json("chash.error/1")["error"]
    assert set(value) == {"what", "where", "try", "exit_code"}
    assert value["exit_code"] == result.code
    assert result.code != 0
    return value


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["frobnicate"], 2),
        (["--nope"], 2),
        (["query"], 2),
        (["query", "x.png", "--nope"], 2),
        (["query", "x.png", "--threads", "many"], 2),
        (["query", "x.png", "--format", "xml"], 2),
        (["query", "x.png"], 2),
        (["query", "x.png", "--gallery", "gone.chg"], 1),
        (["train", "gone"], 2),
        (["export", "gone"], 1),
        (["export", "--format", "trt"], 6),
        (["eval", "gone"], 2),
        (["inspect", "gone"], 2),
        (["index", "gone"], 2),
        (["index", "verify", "gone"], 1),
        (["index", "merge", "gone", "--out", "x"], 1),
        (["index", "merge"], 2),
        (["dedupe", "gone"], 2),
        (["demo", "--images", "0"], 2),
    ],
)
def test_json__an_error_is_one_object_on_stdout(
    chash: Chash, arguments: list[str], code: int
) -> None:
    result = chash(*arguments, "--json")
    assert result.code == code
    error = error_of(result)
    assert error["what"]
    assert str(error["what"]) in result.err.replace("\n", " ")
    plain = chash(*arguments)
    assert (plain.code, plain.out) == (code, "")


@pytest.mark.parametrize(
    ("arguments", "what", "where", "hint"),
    [
        (["frobnicate"], "no such verb: frobnicate", "chash", "chash -h lists the verbs"),
        (["quary", "x"], "no such verb: quary", "chash", "chash query"),
        (["--nope"], "no such option: --nope", "chash --nope", "chash -h"),
        (
            ["query", "x", "--nope"],
            "no such option: --nope",
            "chash query --nope",
            "chash query -h",
        ),
        (
            ["query", "x", "--wieghts", "1"],
            "no such option: --wieghts",
            "chash query",
            "--weights; chash query -h lists all",
        ),
        (
            ["index", "verify", "--js"],
            "no such option: --js",
            "chash index verify",
            "--json; chash index verify -h lists all",
        ),
        (["query"], "missing argument 'IMAGE...'", "chash query", "chash query -h"),
        (["query", "x", "--threads", "many"], "'many' ", "chash query --threads", "chash query -h"),
        (["query", "x", "--threads=many"], "'many' ", "chash query --threads", "chash query -h"),
        (["query", "x", "--top"], "option '--top' ", "chash query --top", "chash query -h"),
        (["doctor", "x"], "got unexpected extra argument", "chash doctor", "chash doctor -h"),
    ],
)
def test_usage__of_a_wrong_line_has_our_three_lines(
    chash: Chash, arguments: list[str], what: str, where: str, hint: str
) -> None:
    result = chash(*arguments)
    assert (result.code, result.out) == (2, "")
    first, *others = result.err.splitlines()
    assert first.startswith(f"error: {what}")
    assert others == [f"where: {where}", f"try: {hint}"]


def test_usage__suggests_no_option_that_is_another(chash: Chash) -> None:
    assert chash("explain", "x", "--explain", "why").err.endswith("try: chash explain -h\n")


def test_json__of_unreadable_photos_is_the_error(chash: Chash, gallery: Path) -> None:
    for form in (["--json"], ["--format", "json"], ["--format=json"]):
        result = chash("query", "gone.jpg", *form)
        error = error_of(result)
        assert error["what"] == "no image could be read"
        assert error["where"] == "gone.jpg: no such file"
        assert error["try"] == "ls -l gone.jpg"


def test_json__that_a_file_or_variable_asks_for_is_told_too(
    chash: Chash, gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHASH_QUERY_FORMAT", "json")
    error_of(chash("query", "gone.jpg"))
    monkeypatch.delenv("CHASH_QUERY_FORMAT")
    Path("chash.toml").write_text("[query]\nformat = 'json'\n")
    error_of(chash("query", "gone.jpg"))
    assert chash("inspect", "gone").out == ""


def test_json__an_unexpected_error_and_an_interrupt_are_told_too(
    chash: Chash, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: object) -> None:
        raise ZeroDivisionError("by\nzero")

    def interrupts(path: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("concepthash.cli.inspect.kind_of", fails)
    assert error_of(chash("inspect", "x", "--json"))["what"] == "ZeroDivisionError: by\nzero"
    monkeypatch.setattr("concepthash.cli.inspect.kind_of", interrupts)
    assert error_of(chash("inspect", "x", "--json"))["exit_code"] == 130


def test_json__a_result_is_not_followed_by_an_error(chash: Chash, gallery: Path) -> None:
    Path("shop.chg/segments/000001.codes").write_bytes(b"")
    result = chash("index", "verify", "shop.chg", "--json")
    assert result.code == 1
    assert len(result.json("chash.verify/1")["damage"]) == 1
    assert "try: chash index repair shop.chg" in result.err


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
@pytest.mark.parametrize("form", ["table", "json", "paths"])
def test_stdout__that_is_full_is_a_clear_error(gallery: Path, tmp_path: Path, form: str) -> None:
    command = [sys.executable, "-m", "concepthash", "query", "shop", "--format", form]
    with FULL.open("w") as full:
        result = subprocess.run(
            command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert result.returncode == 1
    assert "error: the result cannot be written: No space left on device" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--concepts", "9"], "try: --concepts 0,1"),
        (["--concepts", "0,-1"], "try: --concepts 0,1"),
        (["--concepts", "a"], "try: --concepts 0,1"),
        (["--radius", "-1"], "try: --radius 8"),
        (["--weights", "0,0"], "try: --weights 2,1"),
        (["--weights", "5,0", "--concepts", "1"], "try: --weights 2,1"),
        (["--weights", "1"], "try: --weights 2,1"),
        (["--weights", "1,256"], "try: --weights 2,1"),
        (["--weights", "1,-1"], "try: --weights 2,1"),
        (["--top", "0"], "try: --top 10, or all"),
        (["--top", "-3"], "try: --top 10, or all"),
        (["--top", "many"], "try: --top 10, or all"),
        (["--threads", "0"], "try: --threads 1"),
    ],
)
def test_query__of_wrong_numbers_hints_as_they_are_typed(
    chash: Chash, gallery: Path, arguments: list[str], hint: str
) -> None:
    result = chash("query", "shop/a/0.png", *arguments)
    assert (result.code, result.out) == (2, "")
    assert hint in result.err.splitlines()
    assert f"where: {hint.split()[1]}" in result.err.splitlines()


def test_query__of_more_hits_than_there_are_gives_all(chash: Chash, gallery: Path) -> None:
    for top in ("1000000000000", "9" * 40, "all"):
        result = chash("query", "shop/a/0.png", "--top", top, "--format", "paths")
        assert result.code == 0
        assert len(result.out.splitlines()) == 6


def test_query__of_a_radius_and_all_gives_every_hit_within(chash: Chash, gallery: Path) -> None:
    def hits(*arguments: object) -> list[list[tuple[int, int]]]:
        value = chash("query", "shop", "--json", *arguments).json("chash.query/1")
        return [[(hit["distance"], hit["id"]) for hit in q["hits"]] for q in value["queries"]]

    every = hits("--top", "all")
    assert [len(found) for found in every] == [6] * 6
    for radius in (0, 5, 7, 16):
        within = [[hit for hit in found if hit[0] <= radius] for found in every]
        assert hits("--top", "all", "--radius", radius) == within


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (["query", "x", "--gallery", "file"], "file"),
        (["query", "shop/a/0.png", "--model", "file"], "file"),
        (["index", "shop", "--model", "file"], "file"),
        (["index", "shop", "--out", "file"], "file"),
        (["index", "repair", "file"], "file"),
        (["export", "file"], "file"),
    ],
)
def test_path__of_another_kind_has_a_try(
    chash: Chash, gallery: Path, arguments: list[str], where: str
) -> None:
    Path("file").write_text("hello")
    result = chash(*arguments)
    assert (result.code, result.out) == (1, "")
    lines = result.err.splitlines()[-3:]
    assert lines[1] == f"where: {where}"
    assert lines[2].startswith("try: ")


@pytest.mark.parametrize(
    ("arguments", "what", "hint"),
    [
        (["atlas", "tiny-0.chb"], "a bundle, not a", "chash index FOLDER --model tiny-0.chb"),
        (
            ["query", "x", "-g", "run"],
            "a training run, not a",
            "chash index FOLDER --model run.chb",
        ),
        (
            ["atlas", "lone"],
            "a training run, not a",
            "chash export lone, then chash index FOLDER --model NAME.chb",
        ),
        (
            ["explain", "shop/a/0.png", "-m", "run"],
            "a training run, not a",
            "give its bundle: run.chb",
        ),
        (["explain", "shop/a/0.png", "-m", "lone"], "a training run, not a", "chash export lone"),
        (
            ["explain", "shop/a/0.png", "-m", "shop.chg"],
            "a gallery, not a",
            "chash inspect shop.chg",
        ),
    ],
)
def test_path__of_a_gallery_a_bundle_or_a_run_is_known_for_what_it_is(
    chash: Chash, gallery: Path, arguments: list[str], what: str, hint: str
) -> None:
    Path("tiny-0.chb").rename("run.chb")
    tiny_bundle(Path())
    for name in ("run", "lone"):
        Path(name).mkdir()
        Path(name, "run.json").write_text("{}")
    result = chash(*arguments)
    assert (result.code, result.out) == (1, "")
    error, _, tried = result.err.splitlines()
    assert what in error
    assert tried.startswith(f"try: {hint}")


def test_eval__of_data_without_photos_names_its_own_command(chash: Chash, gallery: Path) -> None:
    Path("empty").mkdir()
    result = chash("eval", "tiny-0.chb", "--data", "empty")
    assert result.code == 1
    assert "try: chash eval tiny-0.chb --data FOLDER_OF_CLASS_FOLDERS" in result.err


OUTPUTS = {"--csv": "x.csv", "--pr-curve": "x.svg", "--save-codes": "codes"}


def eval_outputs(chash: Chash, place: str, option: str) -> Outcome:
    """What evaluating to a file in a folder says, and that it computes and leaves nothing."""
    before = sorted(Path().rglob("*"))
    result = chash("eval", "tiny-0.chb", "--data", "shop", option, f"{place}/{OUTPUTS[option]}")
    assert (result.code, result.out) == (2, "")
    assert [line.split(":")[0] for line in result.err.splitlines()] == ["error", "where", "try"]
    assert sorted(Path().rglob("*")) == before
    return result


@pytest.mark.parametrize("option", OUTPUTS)
def test_eval__refuses_an_output_it_could_not_write_before_it_computes(
    chash: Chash, gallery: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if option == "--pr-curve":
        pytest.importorskip("matplotlib")
    Path("file").write_text("mine")
    eval_outputs(chash, "file", option)
    if option == "--save-codes":
        assert chash("eval", "tiny-0.chb", "--data", "shop", option, "new/codes").code == 0
        assert Path("new/codes/database.npz").is_file()
    else:
        assert "try: mkdir -p new" in eval_outputs(chash, "new", option).err
        Path("x.csv").mkdir()
        Path("x.svg").mkdir()
        assert "something else is there" in eval_outputs(chash, ".", option).err
    Path("closed").mkdir()
    monkeypatch.setattr("concepthash.cli.outfile.os.access", lambda place, how: how == os.R_OK)
    assert "permission denied" in eval_outputs(chash, "closed", option).err


@pytest.mark.parametrize("option", OUTPUTS)
def test_eval__refuses_a_folder_this_user_may_not_write_to(
    chash: Chash, gallery: Path, option: str
) -> None:
    if option == "--pr-curve":
        pytest.importorskip("matplotlib")
    Path("closed").mkdir(mode=0o555)
    if os.access("closed", os.W_OK):
        pytest.skip("this user may write anywhere")
    assert "permission denied" in eval_outputs(chash, "closed", option).err


def test_eval__refuses_a_plot_it_cannot_draw_before_it_computes(
    chash: Chash, gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = chash("eval", "tiny-0.chb", "--data", "shop", "--pr-curve", "x.png")
    assert (result.code, result.out) == (6, "")
    assert result.err.splitlines()[0] == "error: plots need matplotlib"


def test_query__of_a_folder_without_photos_hints_at_that_folder(
    chash: Chash, gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("no photos").mkdir()
    result = chash("query", "no photos")
    assert result.code == 4
    assert result.err.splitlines()[-1] == "try: ls 'no photos'"
    monkeypatch.setattr(sys, "stdin", __import__("io").StringIO(""))
    assert "try: find FOLDER -name '*.jpg' | chash query -" in chash("query", "-").err


def test_index__of_nothing_but_skipped_photos_suggests_no_query(
    chash: Chash, gallery: Path
) -> None:
    Path("broken").mkdir()
    Path("broken/0.png").write_bytes(b"no photo")
    result = chash("index", "broken")
    assert result.code == 3
    assert "chash query" not in result.err
    photo(Path("broken/1.png"), 7)
    result = chash("index", "broken")
    assert result.code == 3
    assert "next: chash query IMAGE --gallery broken.chg" in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "gone"],
        ["train", "empty"],
        ["train", "shop", "--threads", "0"],
        ["train", "--resume"],
        ["train", "--resume", "--out", "gone"],
        ["export", "gone"],
        ["export", "empty"],
        ["export", "run", "--out", "empty"],
        ["demo", "--images", "0"],
        ["demo", "--species", "1"],
        ["demo", "--species", "100000"],
        ["demo", "--epochs", "0"],
        ["demo", "--threads", "0"],
        ["demo", "--out", "shop"],
        ["eval", "run", "--data", "gone"],
    ],
)
def test_verb__misses_what_it_needs_before_torch_is_loaded(
    chash: Chash, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    photos(Path("shop"))
    Path("empty").mkdir()
    Path("run").mkdir()
    Path("run/run.json").write_text("{}")
    for name in [n for n in sys.modules if n.startswith(("concepthash.learn", "concepthash.ex"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it would be exit code 6
    result = chash(*arguments)
    assert result.code in (1, 2), result.err
    assert result.err.splitlines()[-1].startswith(("try: ", "where: "))


NAMES = ["new\nline.png", "tab\tstop.png", "bell\x07.png", "esc\x1b[31m.png"]


@pytest.fixture
def odd(chash: Chash, gallery: Path) -> list[str]:
    folder = Path("odd")
    for seed, name in enumerate(NAMES):
        photo(folder / name, seed + 200)
    assert chash("index", "odd", "--out", "odd.chg").code == 0
    return sorted(f"odd/{name}" for name in NAMES)


def test_names__with_control_characters_cannot_break_lines(chash: Chash, odd: list[str]) -> None:
    for form in ("table", "tsv"):
        result = chash("query", "odd", "-g", "odd.chg", "--top", 1, "--format", form)
        assert result.code == 0
        lines = result.out.splitlines()
        assert len([line for line in lines if line.rstrip().endswith(".png")]) == len(odd)
        assert all(line.isprintable() for line in result.out.replace("\t", " ").split("\n"))
        assert "new\\nline.png" in result.out
    result = chash("query", "odd", "-g", "odd.chg", "--top", 1, "--format", "jsonl")
    assert sorted(json.loads(line)["path"] for line in result.out.splitlines()) == odd


def test_names__end_with_nul_when_asked(
    chash: Chash, odd: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for option in ("-0", "--null"):
        result = chash("query", "odd", "-g", "odd.chg", "-k", 1, "--format", "paths", option)
        assert sorted(result.out.split("\0")) == ["", *odd]
    monkeypatch.setattr(sys, "stdin", __import__("io").StringIO("\0".join([*odd, ""])))
    result = chash("query", "-", "-0", "-g", "odd.chg", "-k", 1, "--format", "paths")
    assert result.out.split("\0") == [*odd, ""]


def test_error__with_a_newline_in_a_name_stays_three_lines(chash: Chash) -> None:
    result = chash("inspect", "no\nsuch")
    assert [line.split(":")[0] for line in result.err.splitlines()] == ["error", "where", "try"]


def doctor_kernel(chash: Chash) -> dict[str, str]:
    checks = chash("doctor", "--json").json("chash.doctor/1")["checks"]
    (check,) = [check for check in checks if check["name"] == "kernel"]
    return check


def test_doctor__says_which_kernel_serves(chash: Chash, monkeypatch: pytest.MonkeyPatch) -> None:
    check = doctor_kernel(chash)
    assert check["value"].startswith(native.path()) or check["status"] == "warning"
    monkeypatch.setenv("CHASH_KERNEL", "numpy")
    assert doctor_kernel(chash)["value"].startswith("numpy")
    monkeypatch.setenv("CHASH_KERNEL", "abacus")
    check = doctor_kernel(chash)
    assert check["status"] == "warning"
    assert "CHASH_KERNEL=abacus" in check["value"]
    monkeypatch.delenv("CHASH_KERNEL")
    monkeypatch.setattr(native, "paths", lambda: ("numpy",))
    check = doctor_kernel(chash)
    assert (check["status"], check["value"].split(",")[0]) == ("warning", "not built")
    assert "C compiler" in check["hint"]
    assert os.environ.get("CHASH_KERNEL") is None
