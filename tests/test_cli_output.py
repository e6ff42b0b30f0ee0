"""The output object: what goes where, and how progress is paced."""

from __future__ import annotations

import io
import json

import pytest
import typer

from concepthash.cli.output import Output, display
from concepthash.errors import Skipped


class Terminal(io.StringIO):
    """A stream that calls itself a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def output(stderr: io.StringIO, *, as_json: bool = False) -> tuple[Output, io.StringIO, Clock]:
    stdout, clock = io.StringIO(), Clock()
    return Output(as_json=as_json, stdout=stdout, stderr=stderr, clock=clock), stdout, clock


def test_result__is_text_or_json_with_the_choices() -> None:
    err = io.StringIO()
    text, out, _ = output(err)
    text.choice("model", "a.chb", "the newest here")
    text.result("fine", lambda: {"schema": "x/1"})
    assert out.getvalue() == "fine\n"
    assert err.getvalue() == "model: a.chb (the newest here)\n"
    machine, out, _ = output(io.StringIO(), as_json=True)
    machine.choice("model", "a.chb", "the newest here")
    machine.result("fine", lambda: {"schema": "x/1"})
    assert json.loads(out.getvalue()) == {"schema": "x/1", "choices": {"model": "a.chb"}}


def test_only_results__keeps_library_prints_off_stdout(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = Output()
    with out.only_results():
        print("a library talks")
        out.result("the result", dict)
    assert capsys.readouterr() == ("the result\n", "a library talks\n")


def test_progress__off_a_terminal_is_a_line_each_ten_seconds() -> None:
    err = io.StringIO()
    tell, out, clock = output(err)
    for second in range(26):
        clock.now = 100.0 + second
        tell.progress("hashing", second * 4, 200)
    assert err.getvalue().splitlines() == [
        "hashing: 40/200  4 images/s  0:40 left",
        "hashing: 80/200  4 images/s  0:30 left",
    ]
    assert out.getvalue() == ""


def test_progress__on_a_terminal_is_one_line_that_is_cleared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    err = Terminal()
    tell, _, clock = output(err)
    tell.progress("epoch 1/2", 0, 100)
    clock.now += 0.05
    tell.progress("epoch 1/2", 1, 100)  # too soon to draw
    clock.now += 1.95
    tell.progress("epoch 1/2", 50, 100)
    tell.note("done")
    bar = "#" * 12 + "." * 12
    assert err.getvalue() == (
        f"\r\x1b[Kepoch 1/2  [{'.' * 24}]  0/100"
        f"\r\x1b[Kepoch 1/2  [{bar}]  50/100  25 images/s  0:02 left"
        "\r\x1b[Kdone\n"
    )


def test_progress__of_a_new_stage_starts_its_own_clock() -> None:
    err = io.StringIO()
    tell, _, clock = output(err)
    tell.progress("one", 0, 10)
    clock.now += 9
    tell.progress("two", 0, 10)
    clock.now += 9
    tell.progress("two", 5, 10)
    assert err.getvalue() == ""
    clock.now += 1
    tell.progress("two", 5, 10)
    assert err.getvalue() == "two: 5/10  0.5 images/s  0:10 left\n"


def test_progress__of_nothing_draws_an_empty_bar() -> None:
    err = Terminal()
    output(err)[0].progress("hashing", 0, 0)
    assert f"[{'.' * 24}]  0/0" in err.getvalue()


def test_metrics__are_one_line() -> None:
    err = io.StringIO()
    output(err)[0].metrics({"epoch": 3, "total": 1.23456, "images_per_s": 123.4, "val_map": 0.5})
    assert err.getvalue() == "epoch 3  total 1.235  images_per_s 123  val_map 0.5\n"


def test_skips__lists_ten_and_exits_3() -> None:
    err = io.StringIO()
    tell, out, _ = output(err)
    tell.skips(Skipped())
    skipped = Skipped()
    for n in range(12):
        skipped.add(f"{n}.jpg", "truncated\nsecond line")
    with pytest.raises(typer.Exit) as ended:
        tell.skips(skipped, record="skipped.json")
    assert ended.value.exit_code == 3
    lines = err.getvalue().splitlines()
    assert lines[0] == "skipped 12:"
    assert lines[1:11] == [f"  {n}.jpg: truncated" for n in range(10)]
    assert lines[11:] == ["  and 2 more (all in skipped.json)"]
    assert out.getvalue() == ""


def test_display__quotes_what_a_shell_would_split() -> None:
    assert display("a b.chg") == "'a b.chg'"
    assert display("a.chg") == "a.chg"
