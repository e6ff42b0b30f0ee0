"""Under fire, for a moment: each part does each of its kinds once, and its checker can fail."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.torture.checker import Model, Row, Verdict, check, digest
from benchmarks.torture.report import run_part, wrongly_told

pytest.importorskip("onnx")

FIRST: list[Row] = [(1, "marker", "begin", "aa" * 32, "0f"), (2, "b", "", "bb" * 32, "f0")]
ADDED: Row = (3, "c", "", "cc" * 32, "cc")


def rows(token: str, *more: Row) -> list[Row]:
    marker = FIRST[0]
    return [(marker[0], marker[1], token, *marker[3:]), FIRST[1], *more]


def intent(at: float, base: str, token: str, **changes: Any) -> dict[str, Any]:
    update = [rows(token)[0], *changes.pop("update", [])]
    event = {"event": "intent", "at": at, "shard": "a", "base": base, "token": token}
    return {**event, "remove": [], "add": [], "update": update, **changes}


def done(at: float, token: str) -> dict[str, Any]:
    return {"event": "done", "at": at, "shard": "a", "token": token}


def opened(at: float, token: str) -> dict[str, Any]:
    return {"event": "opened", "at": at, "shard": "a", "token": token}


def read(start: float, end: float, held: list[Row], *, reader: str = "other") -> dict[str, Any]:
    event = {"event": "read", "from": start, "to": end, "reader": reader, "shard": "a"}
    return {**event, "token": held[0][2], "digest": digest(held), "kind": "rows", "late": False}


HISTORY = [
    opened(1.0, "begin"),
    intent(1.1, "begin", "one", add=[ADDED]),
    read(1.15, 1.16, rows("begin"), reader="early"),
    done(1.2, "one"),
    read(1.3, 1.4, rows("one", ADDED), reader="same"),
    intent(2.0, "one", "two", remove=[3]),  # its writer is killed
    read(2.1, 2.2, rows("one", ADDED), reader="same"),
    opened(2.5, "two"),  # and yet it was committed
    intent(2.6, "two", "three", add=[(4, *ADDED[1:])]),  # killed before it was
    opened(2.9, "two"),
    read(3.0, 3.1, rows("two"), reader="same"),
]


def judged(history: list[dict[str, Any]]) -> Verdict:
    return check({"a": Model("a", FIRST, 1, FIRST[0][4])}, history)


def test_checker__a_history_that_may_be() -> None:
    verdict = judged(HISTORY)
    assert verdict.wrong == []
    assert (verdict.commits, verdict.unacknowledged, verdict.reads) == (2, 2, 4)


@pytest.mark.parametrize(
    ("what", "event"),
    [
        ("torn", read(1.3, 1.4, rows("one"))),
        ("torn", read(1.3, 1.4, rows("one", (3, "c", "", "cc" * 32, "cd")))),
        ("stale", read(1.3, 1.4, rows("begin"))),
        ("stale", read(2.6, 2.7, rows("one", ADDED), reader="third")),
        ("phantom", read(3.0, 3.1, rows("three", (4, *ADDED[1:])))),
        ("before its commit began", read(1.0, 1.05, rows("one", ADDED))),
        ("back in time", read(0.5, 1.45, rows("begin"), reader="same")),
        ("lost write", intent(3.5, "one", "four")),
        ("lost write", opened(3.5, "begin")),
        ("not begun", done(3.5, "four")),
    ],
)
def test_checker__a_history_that_may_not_be(what: str, event: dict[str, Any]) -> None:
    verdict = judged([*HISTORY, event])
    assert len(verdict.wrong) == 1
    assert what in verdict.wrong[0]


def test_checker__an_id_given_twice_and_a_content_with_two_codes() -> None:
    again = [intent(3.5, "two", "four", add=[(2, "x", "", "dd" * 32, "00")]), done(3.6, "four")]
    assert "given twice" in judged([*HISTORY, *again]).wrong[0]
    other = [intent(3.5, "two", "four", add=[(9, "x", "", "cc" * 32, "00")]), done(3.6, "four")]
    assert "two codes" in judged([*HISTORY, *other]).wrong[0]


def test_checker__what_a_server_shows() -> None:
    seen = [(1, "marker", "one", 0), (2, "b", "", 8), (3, "c", "", 4)]
    event = {**read(9.0, 9.1, rows("one", ADDED), reader="server"), "kind": "hits", "late": True}
    assert judged([*HISTORY, {**event, "digest": digest(seen)}]).wrong == []
    seen[2] = (3, "c", "", 5)
    assert "torn" in judged([*HISTORY, {**event, "digest": digest(seen)}]).wrong[0]


def test_report__an_error_in_three_lines() -> None:
    assert wrongly_told(1, "error: full\nwhere: a.chg\ntry: df -h\n") is None
    assert (
        wrongly_told(1, "error: full\ntry: df -h\n")
        == "exit 1 without where: ['error: full', 'try: df -h']"
    )
    assert wrongly_told(-11, "") == "exit -11: silent"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked, traced and mounted")
@pytest.mark.parametrize("name", ["kills", "disk", "clock", "history"])
def test_torture__for_a_moment(name: str, tmp_path: Path) -> None:
    part = run_part(name, 2.0, random.Random(name).randrange(100))
    assert part.failures == []
    assert part.figures or part.skipped
