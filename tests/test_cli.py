"""The shell around the verbs: help, start-up, settings, errors and exit codes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from cli_entry import Chash, photos
from tiny_bundle import tiny_bundle

import concepthash
from concepthash.cli import group
from concepthash.cli.app import VERBS
from concepthash.errors import GateError

HEAVY = ("torch", "numpy", "onnxruntime", "PIL", "pydantic", "rich.console")


@pytest.fixture
def gallery(tmp_path: Path, chash: Chash) -> Path:
    tiny_bundle(tmp_path)
    assert chash("index", photos(tmp_path / "shop")).code == 0
    return tmp_path / "shop.chg"


def test_help__loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from concepthash.cli.main import run\n"
        "for verb in sys.argv[1:]:\n"
        "    sys.argv = ['chash', *verb.split(), '--help']\n"
        "    try: run()\n"
        "    except SystemExit as end: assert end.code == 0\n"
        f"print([n for n in {HEAVY} if n in sys.modules], file=sys.stderr)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "", *VERBS], capture_output=True, text=True, check=True
    )
    assert result.stderr.strip() == "[]"
    assert result.stdout.count("Usage: chash") == 1 + len(VERBS)


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help__examples_come_before_options(chash: Chash, verb: str) -> None:
    result = chash(*verb.split(), "-h")
    assert result.code == 0
    assert result.err == ""
    assert 0 < result.out.index("Examples:") < result.out.index("Options:")
    assert "[default: False]" not in result.out


def test_help__names_every_verb_and_exit_code(chash: Chash) -> None:
    out = chash("--help").out
    for verb, summary in VERBS.items():
        assert f"  {verb:<{max(map(len, VERBS))}}  {summary}" in out
    for code in (0, 1, 2, 3, 4, 5, 6, 7, 130):
        assert f" {code} " in out.replace("\n", " ")


def test_version__is_that_of_the_package(chash: Chash) -> None:
    result = chash("--version")
    assert (result.code, result.out) == (0, f"chash {concepthash.__version__}\n")


def test_module__is_the_same_program() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "concepthash", "quary"], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == "error: no such verb: quary\nwhere: chash\ntry: chash query\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Usage: chash"),
        (["frobnicate"], "no such verb"),
        (["--nope"], "no such option"),
        (["query", "x.png", "--nope"], "no such option"),
        (["query"], "missing argument"),
        (["query", "x.png", "--top", "many"], "--top"),
        (["train"], "no photos were named"),
        (["train", "x", "--dry-run"], "no such folder or file"),
        (["train", "x", "--set", "loss=1", "--dry-run"], "section.key=value"),
        (["train", "x", "--device", "tpu", "--dry-run"], "'tpu' is not one of"),
        (["index", "x"], "no bundle was named"),
        (["query", "x.png"], "no gallery was named"),
        (["query", "x.png", "--format", "xml"], "unknown format"),
        (["export"], "no run was named"),
        (["export", "--format", "gguf"], "unknown format"),
        (["eval", "nothing.npz"], "no such file or folder"),
        (["inspect", "."], "neither a run"),
    ],
)
def test_usage__exits_2_and_leaves_stdout_empty(
    chash: Chash, arguments: list[str], words: str
) -> None:
    result = chash(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert words in result.err


def test_error__is_three_lines(chash: Chash) -> None:
    result = chash("query", "x.png", "--gallery", "gone.chg")
    assert result.code == 1
    assert result.err.splitlines() == [
        "error: no such gallery",
        "where: gone.chg",
        "try: chash index PHOTOS --out gone.chg",
    ]


def test_error__has_a_traceback_only_when_asked(
    chash: Chash, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Traceback" not in chash("inspect", "gone").err
    monkeypatch.setenv("CHASH_DEBUG", "1")
    assert "Traceback" in chash("inspect", "gone").err


def test_error__unexpected_is_one_line_and_exits_1(
    chash: Chash, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: object) -> None:
        raise RuntimeError("of no kind we know")

    monkeypatch.setattr("concepthash.cli.inspect.kind_of", fails)
    result = chash("inspect", "run")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "error: RuntimeError: of no kind we know (CHASH_DEBUG=1 shows the traceback)\n"
    )
    monkeypatch.setenv("CHASH_DEBUG", "1")
    assert "Traceback" in chash("inspect", "run").err


def test_error__of_a_folder_that_is_missing_names_it(chash: Chash, tmp_path: Path) -> None:
    tiny_bundle(tmp_path)
    data = photos(tmp_path / "data", each=3)
    result = chash("eval", "tiny-0.chb", "--data", data, "--csv", "no folder/x.csv")
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines() == [
        "error: no such folder",
        "where: no folder",
        "try: mkdir -p 'no folder'",
    ]


@pytest.mark.parametrize(
    ("number", "lines"),
    [
        (
            errno.ENOENT,
            ["error: no such file or directory", "where: a b/x.csv", "try: mkdir -p 'a b'"],
        ),
        (errno.EACCES, ["error: permission denied", "where: a b/x.csv", "try: ls -la 'a b'"]),
        (errno.ENOSPC, ["error: no space left on device", "where: a b/x.csv", "try: df -h 'a b'"]),
    ],
)
def test_error__of_the_system_names_the_next_command(
    chash: Chash, monkeypatch: pytest.MonkeyPatch, number: int, lines: list[str]
) -> None:
    def fails(path: object) -> None:
        raise OSError(number, os.strerror(number), "a b/x.csv")

    monkeypatch.setattr("concepthash.cli.inspect.kind_of", fails)
    result = chash("inspect", "run")
    assert (result.code, result.out, result.err.splitlines()) == (1, "", lines)


def test_error__carries_the_code_of_its_class(
    chash: Chash, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: object) -> None:
        raise GateError("bits differ", where=path)

    monkeypatch.setattr("concepthash.cli.inspect.kind_of", fails)
    result = chash("inspect", "run")
    assert (result.code, result.err) == (7, "error: bits differ\nwhere: run\n")


def test_error__is_red_on_a_terminal_unless_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert group._red("error:") == "\x1b[31merror:\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert group._red("error:") == "error:"


def test_interrupt__exits_130(gallery: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background ignore it
    process = subprocess.Popen(
        [sys.executable, "-m", "concepthash", "query", "-"],
        cwd=gallery.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("gallery: shop.chg")  # now it reads stdin
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")


def test_pipe__whose_reader_left_is_no_noise(gallery: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "concepthash", "query", "shop", "--format", "paths"]
    with os.fdopen(writer, "w") as closed:
        result = subprocess.run(
            command, cwd=gallery.parent, stdout=closed, stderr=subprocess.PIPE, text=True
        )
    assert result.returncode == 141
    assert "Broken" not in result.stderr
    assert "error" not in result.stderr


def test_query__never_loads_torch(gallery: Path) -> None:
    code = (
        "import sys\n"
        "from concepthash.cli.main import run\n"
        "try: run()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print(sorted({'torch', 'timm', 'onnx', 'matplotlib'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", code, "query", "shop/a/0.png", "--format", "paths", "-k", "1"]
    result = subprocess.run(command, cwd=gallery.parent, capture_output=True, text=True, check=True)
    assert result.stdout == "shop/a/0.png\n[]\n"


def test_extra__that_is_missing_exits_6_with_the_command(
    chash: Chash, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.startswith("concepthash.learn.train")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    result = chash("train", photos(tmp_path / "data"))
    assert (result.code, result.out) == (6, "")
    assert "try: pip install 'concepthash[train]'" in result.err


@pytest.mark.parametrize("package", ["torch", "onnx"])
def test_extra__that_export_lacks_exits_6_with_the_command(
    chash: Chash, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    for name in ("concepthash.export.run", "concepthash.export.graph"):  # these import it
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "run.json").write_text("{}")
    result = chash("export", "runs/a")
    assert (result.code, result.out) == (6, "")
    assert "try: pip install 'concepthash[export]'" in result.err


def test_export__format_whose_library_is_missing_exits_6_with_the_command(
    chash: Chash, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    result = chash("export", "--format", "trt")
    assert (result.code, result.out) == (6, "")
    assert "where: --format trt" in result.err
    assert "concepthash[trt]" in result.err.splitlines()[-1]
    assert "chash export NAME.chb --format trt" in result.err.splitlines()[-1]


def resolved(chash: Chash, *arguments: object) -> dict[str, dict[str, object]]:
    result = chash("train", *arguments, "--dry-run")
    assert result.code == 0, result.err
    return tomllib.loads(result.out)


def test_train__dry_run_prints_settings_that_can_be_read_again(
    chash: Chash, tmp_path: Path
) -> None:
    data = photos(tmp_path / 'od"d')
    arguments = (data, "--bits", 32, "--tracker", "tensorboard", "--strict", "--val", 0)
    extra = ("--set", "model.backbone_args={depth=2}", "--set", "train.optimizer=sgd")
    first = resolved(chash, *arguments, *extra)
    assert first["data"]["root"] == str(data)
    assert first["data"]["strict"] is True
    assert first["data"]["val_share"] == 0.0
    assert first["model"]["bits"] == 32
    assert first["model"]["backbone_args"] == {"depth": 2}
    assert first["train"]["trackers"] == ["tensorboard"]
    assert first["train"]["optimizer"] == "sgd"
    Path("again.toml").write_text(chash("train", *arguments, *extra, "--dry-run").out)
    assert resolved(chash, "--config", "again.toml") == first
    assert not Path("runs").exists()


def test_train__dry_run_as_json(chash: Chash, tmp_path: Path) -> None:
    result = chash("train", photos(tmp_path / "data"), "--bits", 16, "--dry-run", "--json")
    value = result.json("chash.config/1")
    assert value["config"]["model"]["bits"] == 16
    assert value["data"] == {"classes": 2, "train": 4, "test": 2}


def test_train__a_concept_mode_brings_its_own_defaults(chash: Chash, tmp_path: Path) -> None:
    data = photos(tmp_path / "data")

    def config(*arguments: str) -> dict[str, dict[str, object]]:
        result = chash("train", data, "--dry-run", "--json", *arguments)
        return result.json("chash.config/1")["config"]

    ours = config()
    assert (ours["model"]["concept_mode"], ours["data"]["crop"]) == ("parts", 256)
    paper = config("--concept-mode", "paper")
    assert (paper["data"]["crop"], paper["train"]["epochs"]) == (224, 100)
    chosen = config("--set", "model.concept_mode='paper'", "--epochs", "7")
    assert (chosen["data"]["crop"], chosen["train"]["epochs"]) == (224, 7)
    assert chash("train", data, "--concept-mode", "papers", "--dry-run").code == 2


@pytest.mark.parametrize("order", [("resize", "crop"), ("crop", "resize")])
def test_train__assignments_are_checked_together(
    chash: Chash, tmp_path: Path, order: tuple[str, ...]
) -> None:
    data = photos(tmp_path / "data")
    given = [word for key in order for word in ("--set", f"data.{key}=96")]
    config = chash("train", data, "--dry-run", "--json", *given).json("chash.config/1")["config"]
    assert (config["data"]["resize"], config["data"]["crop"]) == (96, 96)
    alone = chash("train", data, "--dry-run", "--set", "data.resize=96")
    assert (alone.code, "resize is at least 256" in alone.err) == (2, True)


def test_settings__flag_then_environment_then_file_then_project(
    chash: Chash, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = photos(tmp_path / "data")

    def bits(*arguments: object) -> object:
        return resolved(chash, data, *arguments)["model"]["bits"]

    assert bits() == 64
    Path("chash.toml").write_text("[model]\nbits = 8\nconcepts = 2\n[index]\nlabel = 'none'\n")
    assert bits() == 8
    Path("more.toml").write_text("[model]\nbits = 16\n")
    assert bits("--config", "more.toml") == 16
    monkeypatch.setenv("CHASH_CONFIG", "more.toml")
    assert bits() == 16
    monkeypatch.setenv("CHASH_BITS", "24")
    assert bits() == 24
    assert bits("--set", "model.bits=32") == 32
    assert bits("--set", "model.bits=32", "--bits", 40) == 40
    assert resolved(chash, data)["model"]["concepts"] == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[model]\nbitz = 8\n", "did you mean 'bits'?"),
        ("[modle]\nbits = 8\n", "did you mean 'model'?"),
        ("model = 8\n", "is a table"),
        ("[model]\nbits = 'many'\n", "not of type int"),
        ("[model\n", "cannot read the configuration"),
    ],
)
def test_settings__wrong_ones_are_refused(
    chash: Chash, tmp_path: Path, text: str, words: str
) -> None:
    data = photos(tmp_path / "data")
    Path("chash.toml").write_text(text)
    result = chash("train", data, "--dry-run")
    assert (result.code, result.out) == (2, "")
    assert words in result.err
    assert "where: chash.toml" in result.err


def test_settings__verb_table_stands_in_for_options(
    chash: Chash, gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hits(*arguments: object) -> int:
        result = chash("query", gallery.parent / "shop/a/0.png", "--format", "paths", *arguments)
        assert result.code == 0, result.err
        return len(result.out.splitlines())

    assert hits() == 6  # all there are
    Path("chash.toml").write_text("[query]\ntop = 2\n")
    assert hits() == 2
    Path("more.toml").write_text("[query]\ntop = 3\n")
    assert hits("--config", "more.toml") == 3
    monkeypatch.setenv("CHASH_TOP", "4")
    assert hits("--config", "more.toml") == 4
    assert hits("--config", "more.toml", "--top", 5) == 5
    assert Path("chash.toml").write_text("[query]\ntopp = 2\n")
    result = chash("query", "x.png")
    assert result.code == 2
    assert "did you mean 'top'?" in result.err


def test_config__that_is_missing_is_a_usage_error(chash: Chash) -> None:
    for verb in (["query", "x.png"], ["train", "x"]):
        result = chash(*verb, "--config", "gone.toml")
        assert result.code == 2
        assert "where: gone.toml" in result.err
