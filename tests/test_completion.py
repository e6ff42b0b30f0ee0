"""What the shell completes: words of ``chash`` by themselves, then through real shells."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from cli_entry import Chash

from concepthash.cli.app import PARTS, VERBS, app
from concepthash.cli.completion import FILES, SCRIPTS, complete
from concepthash.formats import FORMATS, PRECISIONS
from concepthash.runtime.backends import BACKENDS

PATIENCE = 60.0
HEAVY = ("torch", "numpy", "onnxruntime", "PIL")


def words(*line: str) -> list[str]:
    found, files = complete(line)
    return [candidate.word for candidate in found] + [FILES] * files


def test_complete__offers_verbs_first() -> None:
    assert words("") == list(VERBS)
    assert words("ex") == ["export", "explain"]
    assert words("--") == ["--version", "--help"]


def test_complete__offers_parts_beside_files() -> None:
    assert words("index", "") == [*PARTS["index"], FILES]
    assert words("index", "verify", "") == [FILES]
    assert words("index", "verify", "--js") == ["--json"]


@pytest.mark.parametrize("verb", VERBS)
def test_complete__offers_every_option_with_its_help(verb: str) -> None:
    group = typer.main.get_command(app)
    context = group.make_context("chash", [verb], resilient_parsing=True)
    command = group.get_command(context, verb)
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    wanted = {name for p in options for name in p.opts if name.startswith("--")}
    found, _ = complete([verb, "--"])
    assert {candidate.word for candidate in found} == wanted | {"--help"}
    assert all(candidate.text for candidate in found)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (["query", "--device", "c"], ["cpu", "cuda"]),
        (["query", "--device=c"], ["cpu", "cuda"]),
        (["query", "--device", "=", "c"], ["cpu", "cuda"]),  # as bash hands it over
        (["query", "--device", "="], ["auto", "cpu", "cuda"]),
        (["query", "a.jpg", "--backend", ""], ["auto", *BACKENDS]),
        (["export", "--format", ""], list(FORMATS)),
        (["export", "--precision", "fp32,i"], ["fp32,int8"]),
        (["bench", "--precision", ""], list(PRECISIONS)),
        (["query", "--radius", ""], []),
        (["query", "--model", ""], [FILES]),
        (["query", "--json", ""], [FILES]),
        (["query", "--", "--"], [FILES]),
        (["inspect", "a", ""], []),
        (["doctor", ""], []),
        (["completion", ""], list(SCRIPTS)),
        (["quary", ""], []),
        (["query", "--nope", ""], [FILES]),
    ],
    ids=" ".join,
)
def test_complete__offers_what_can_stand_there(line: list[str], wanted: list[str]) -> None:
    assert words(*line) == wanted


def test_complete__offers_an_option_once_unless_it_may_be_repeated() -> None:
    assert "--json" not in words("query", "--json", "--")
    assert "--gallery" not in words("query", "-g", "x.chg", "--")
    assert "--set" in words("train", "--set", "train.lr=1", "--")


def test_complete__offers_the_layouts_and_levels_that_are_read() -> None:
    from concepthash.datasets.load import LAYOUTS

    assert set(words("train", "--layout", "")) == {"auto", *LAYOUTS}


def test_completion__of_an_unknown_shell_says_which_there_are(chash: Chash) -> None:
    result = chash("completion", "csh")
    assert (result.code, result.out) == (2, "")
    assert result.err.endswith("try: chash completion bash, zsh or fish\n")


def test_completion__loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from concepthash.cli.completion import complete\n"
        "for verb in sys.argv[1:]: assert complete([verb, '--'])[0]\n"
        f"print([n for n in {HEAVY} if n in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", code, *VERBS], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with ``chash`` in ``bin``, and a photo to complete."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "chash"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m concepthash "$@"\n')
    program.chmod(0o755)
    (tmp_path / "my photo.jpg").touch()
    return tmp_path


def environment(home: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("CHASH_")}
    path = f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": path, "HOME": str(home), "TERM": "dumb", "LC_ALL": "C.UTF-8"}


class Terminal:
    """An interactive shell behind a pseudo-terminal."""

    def __init__(self, argv: list[str], home: Path) -> None:
        master, slave = pty.openpty()
        self._process = subprocess.Popen(
            argv, stdin=slave, stdout=slave, stderr=slave, cwd=home, env=environment(home),
            start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self._master = master
        self._seen = ""

    def type(self, text: str, until: str) -> None:
        """Type, then read until ``until`` is on the screen; bells and steps back left out."""
        os.write(self._master, text.encode())
        end = time.monotonic() + PATIENCE
        while until not in self._seen:
            left = end - time.monotonic()
            assert left > 0, f"no {until!r} in {self._seen!r}"
            if select.select([self._master], [], [], left)[0]:
                piece = os.read(self._master, 1 << 16).decode(errors="replace")
                self._seen += piece.replace("\x07", "").replace(" \x08", "")
        self._seen = ""

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._master)


_STARTED = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], ""),
    "zsh": (["zsh", "-f", "-i"], "autoload -U compinit; compinit -u -D; "),
}


@pytest.fixture
def terminal(home: Path) -> Iterator[Callable[[str], Terminal]]:
    opened: list[Terminal] = []

    def start(shell: str) -> Terminal:
        if shutil.which(shell) is None:
            pytest.skip(f"no {shell} here")
        argv, before = _STARTED[shell]
        found = Terminal(argv, home)
        opened.append(found)
        found.type(f"{before}source <(chash completion {shell}); echo rea''dy\n", "\nready")
        return found

    yield start
    for one in opened:
        one.close()


@pytest.mark.parametrize("shell", _STARTED)
def test_shell__completes_verb_part_option_value_and_file(
    terminal: Callable[[str], Terminal], shell: str
) -> None:
    line = terminal(shell)
    line.type("chash conce\t", "chash concepts ")
    line.type("na\t", "name ")
    line.type("--spl\t", "--split ")
    line.type("tr\t", "train ")
    line.type("\x15chash query --device=cp\t", "--device=cpu")
    line.type(" my\t", r"my\ photo.jpg")


def test_fish__completes_verb_part_option_value_and_file(home: Path) -> None:
    if shutil.which("fish") is None:
        pytest.skip("no fish here")

    def after(line: str) -> list[str]:
        code = f"chash completion fish | source; complete -C '{line}'"
        result = subprocess.run(
            ["fish", "--no-config", "-c", code], cwd=home, env=environment(home),
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return [row.partition("\t")[0] for row in result.stdout.splitlines()]

    assert after("chash conce") == ["concepts"]
    assert after("chash index ver") == ["verify"]
    assert after("chash concepts name --spl") == ["--split"]
    assert after("chash query --device=cp") == ["--device=cpu"]
    assert after("chash query my") == ["my photo.jpg"]
    assert after("chash query --radius ") == []
