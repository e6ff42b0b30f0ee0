"""Which cluster is meant, and what is said when it is gone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from concepthash.cli.pool import ClusterHands
from concepthash.cluster import start
from concepthash.cluster.start import _Member
from concepthash.errors import BackendError
from concepthash.runtime.entries import IndexReport

ONE, TWO, OWN = (
    _Member("10.0.0.1:6379", private=False, token=None),
    _Member("10.0.0.2:6379", private=False, token=None),
    _Member("10.0.0.3:1234", private=True, token=None),
)


@pytest.mark.parametrize(
    ("members", "latest", "found"),
    [
        ([], None, "auto"),
        ([], ONE.head, "auto"),
        ([ONE, ONE, OWN], None, ONE.head),
        ([ONE, TWO], TWO.head, TWO.head),
        ([OWN, ONE], OWN.head, ONE.head),
    ],
)
def test_auto__is_what_this_machine_is_a_part_of(
    members: list[_Member], latest: str | None, found: str
) -> None:
    assert start._found(members, latest) == found


@pytest.mark.parametrize(
    ("members", "what"),
    [([OWN], "that of another command"), ([ONE, TWO], "a part of 2 clusters")],
)
def test_auto__is_never_the_cluster_of_another_command_nor_a_guess(
    members: list[_Member], what: str
) -> None:
    with pytest.raises(BackendError, match=what) as refused:
        start._found(members, OWN.head)
    assert refused.value.where == "--address auto"
    assert refused.value.hint is not None


@pytest.mark.parametrize(
    ("token", "mode", "brought"),
    [(True, None, True), (None, None, True), (False, None, False), (True, "disabled", False)],
)
def test_token__is_brought_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, token: bool | None, mode: str | None, brought: bool
) -> None:
    pytest.importorskip("ray")
    from ray._private.authentication import authentication_token_setup as setup

    def bring(**_: Any) -> None:
        os.environ["RAY_AUTH_MODE"] = "token"

    monkeypatch.setattr(setup, "maybe_enable_token_auth_if_token_available", bring)
    if mode is None:
        monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    else:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with start._token([_Member("h:1", False, token), _Member("h:2", False, not token)], "h:1"):
        assert os.environ.get("RAY_AUTH_MODE") == ("token" if brought else mode)
    assert os.environ.get("RAY_AUTH_MODE") == mode


def test_watch__tells_of_a_head_that_is_gone_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(start, "_LOST_AFTER", 0.05)
    told: list[BackendError] = []
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        ended = threading.Event()
        watching = threading.Thread(target=start._watch, args=(address, told.append, ended))
        watching.start()
        for _ in range(3):
            head.accept()[0].close()
        assert not told
    watching.join(60)
    assert [(error.what, error.where) for error in told] == [("the Ray cluster is gone", address)]
    assert "run it again" in str(told[0].hint)


def test_watch__ends_with_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "_LOST_AFTER", 0.0)
    told: list[BackendError] = []
    ended = threading.Event()
    ended.set()
    start._watch("127.0.0.1:1", told.append, ended)
    assert not told


def test_ray_errors__are_told_in_our_words() -> None:
    ray = pytest.importorskip("ray")
    cannot = pytest.raises(BackendError, match="Ray cannot go on: The actor")
    with cannot as told, start.ray_errors():
        raise ray.exceptions.ActorDiedError
    assert told.value.exit_code == 6
    assert "run it again" in str(told.value.hint)


ENDING = """
import contextlib, io, threading, time
from concepthash.cli.group import end
from concepthash.cli.output import Output
from concepthash.errors import BackendError
Output(as_json=True)
with contextlib.redirect_stdout(io.StringIO()):
    error = BackendError("the cluster is gone", where="10.0.0.1:6379", hint="run it again")
    threading.Thread(target=end, args=(error,)).start()
    time.sleep(60)
"""


def test_end__says_why_from_any_thread() -> None:
    done = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True)
    assert done.returncode == 6
    told = json.loads(done.stdout)
    assert told["schema"] == "chash.error/1"
    assert told["error"]["what"] == "the cluster is gone"
    assert done.stderr.splitlines()[1:] == ["where: 10.0.0.1:6379", "try: run it again"]


class FakePool:
    """Fake: a pool whose first photos were back after a time."""

    def __init__(self, first: float | None) -> None:
        self.first_photo_seconds = first


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (7.2, "bound by Ray's start: the first photos were back after 7.2 of 12.0 s"),
        (2.0, "bound by the model: of 12.0 s waited 5.0 s for the model, "),
        (None, "bound by the model"),
    ],
)
def test_pace__of_workers_tells_of_their_start(first: float | None, said: str) -> None:
    report = IndexReport(hashed=24, seconds=12.0)
    report.waits.model = 5.0
    hands: Any = ClusterHands(FakePool(first), Path(), 1.0)  # type: ignore[arg-type]
    assert said in hands.pace(report)
    assert hands.pace(IndexReport(seconds=12.0)) is None
