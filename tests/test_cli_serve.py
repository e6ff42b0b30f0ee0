"""``chash serve`` as a process: what it says, how it ends, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from cli_entry import Chash

pytest.importorskip("onnx")
pytest.importorskip("msgspec")
pytest.importorskip("uvicorn")
from serve_gallery import Place, paint

TOKEN = "a-token-of-the-tests"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("served"))


@contextmanager
def serve(
    place: Place, *options: object, stdin: int = subprocess.DEVNULL, **variables: str
) -> Iterator[tuple[Any, str]]:
    """The process and the address of a server, which is killed if the block fails."""
    environment = {n: value for n, value in os.environ.items() if not n.startswith("CHASH_")}
    command = [sys.executable, "-m", "concepthash", "serve", "--port", "0", "--json"]
    process = subprocess.Popen(
        [*command, "--threads", "1", *map(str, options)],
        cwd=place.gallery.parent,
        env={**environment, **variables},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        said = json.loads(line)
        assert said["schema"] == "chash.serve/1"
        yield process, said["url"]
    finally:
        process.kill()
        process.communicate()


def model(place: Place) -> tuple[object, ...]:
    return "--model", place.bundle.path


def read(url: str, **headers: str) -> tuple[int, bytes]:
    try:
        with urlopen(Request(url, headers=headers), timeout=30) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("ending", ["SIGTERM", "SIGINT"])
def test_serve__the_newest_gallery_until_it_is_told_to_end(place: Place, ending: str) -> None:
    with serve(place, "--verbose") as (process, url):
        assert read(f"{url}/healthz")[0] == 200
        process.send_signal(getattr(signal, ending))
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    lines = errors.splitlines()
    assert "gallery: colour.chg (the newest here)" in lines
    assert f"serving colour.chg on {url} (Ctrl-C ends it)" in lines
    assert any(line.startswith("GET /healthz 200 ") for line in lines)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP here")
def test_serve__takes_up_commits_at_once_on_sighup(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with serve(place, place.gallery) as (process, url):
        paint(place.photos, range(20, 23), "three")
        place.index()
        process.send_signal(signal.SIGHUP)
        while json.loads(read(f"{url}/v1/info")[1])["images"] < 23:
            assert process.poll() is None


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP here")
def test_serve__ends_with_its_terminal(place: Place) -> None:
    ends = os.openpty()
    try:
        with serve(place, place.gallery, stdin=ends[1]) as (process, _):
            process.send_signal(signal.SIGHUP)
            process.communicate(timeout=60)
            assert process.returncode == 0
    finally:
        for end in ends:
            os.close(end)


def test_serve__takes_its_token_from_the_environment_or_a_file(
    place: Place, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    for options, variables in (((), {"CHASH_TOKEN": TOKEN}), (("--token-file", file), {})):
        with serve(place, *options, **variables) as (_, url):
            assert read(f"{url}/v1/info")[0] == 401
            status, body = read(f"{url}/v1/info", Authorization=f"Bearer {TOKEN}")
            assert (status, json.loads(body)["token"]) == (200, True)


def test_serve__with_a_token_listens_beyond_loopback(place: Place) -> None:
    with serve(place, "--host", "0.0.0.0", CHASH_TOKEN=TOKEN) as (process, url):
        assert url.startswith("http://127.0.0.1:")
        assert read(f"{url}/healthz", Host="birds.example")[0] == 200
        process.terminate()
        said = process.communicate(timeout=60)[1]
    port = url.rpartition(":")[2]
    assert f"others can reach it too, at every address of this machine, port {port}: they " in said


def test_serve__beyond_loopback_without_a_token_is_refused(chash: Chash, place: Place) -> None:
    refused = chash("serve", place.gallery, *model(place), "--host", "0.0.0.0", "--json")
    assert refused.code == 2
    error = refused.json("chash.error/1")["error"]
    assert "--host 0.0.0.0" in error["where"]
    assert "secrets.token_urlsafe" in error["try"]


@pytest.mark.parametrize("token", ["", "short", "with a space in it", "é" * 20])
def test_serve__refuses_a_token_that_is_none(chash: Chash, token: str) -> None:
    refused = chash("serve", "--token", token)
    assert refused.code == 2
    assert "16 characters" in refused.err


def test_serve__refuses_two_tokens_and_a_file_that_is_not_there(chash: Chash) -> None:
    both = chash("serve", "--token", TOKEN, "--token-file", "token")
    assert both.code == 2
    assert "give one of them" in both.err
    gone = chash("serve", "--token-file", "token")
    assert gone.code == 2
    assert "ls -l token" in gone.err


@pytest.mark.parametrize(
    "option",
    ["--port=65536", "--port=-1", "--max-upload=0", "--max-pixels=0", "--queue=0", "--timeout=0"],
)
def test_serve__refuses_what_cannot_be_a_limit(chash: Chash, option: str) -> None:
    refused = chash("serve", option)
    assert refused.code == 2
    assert f"where: {option.partition('=')[0]}" in refused.err


def test_serve__of_a_port_in_use_names_another(chash: Chash, place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = chash("serve", place.gallery, *model(place), "--port", port)
        missing = chash("serve", "none.chg", "--port", port)
    assert "no such gallery" in missing.err  # first: another port would not help
    assert refused.code == 1
    assert f"port {port} already" in refused.err
    assert "--port 0" in refused.err


def test_serve__without_a_gallery_says_how_to_make_one(chash: Chash) -> None:
    nothing = chash("serve", "--port", 0)
    assert nothing.code == 2
    assert "chash index FOLDER" in nothing.err
    missing = chash("serve", "none.chg", "--port", 0)
    assert missing.code == 1
    assert "no such gallery" in missing.err


def test_serve__of_another_model_is_refused(chash: Chash, place: Place, tmp_path: Path) -> None:
    away = tmp_path / "away"
    away.mkdir()
    place.gallery.rename(away / "colour.chg")
    try:
        refused = chash("serve", away / "colour.chg", "--port", 0)
    finally:
        (away / "colour.chg").rename(place.gallery)
    assert refused.code == 5
    assert "--model" in refused.err


def test_serve__without_its_extra_says_what_to_install(
    chash: Chash, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("concepthash.serve.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    refused = chash("serve")
    assert refused.code == 6
    assert "pip install 'concepthash[serve]'" in refused.err


def test_serve__opens_the_browser_once_it_listens(
    chash: Chash, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def browse(url: str) -> None:
        opened.append(url)
        opened.append(str(read(f"{url}/healthz")[0]))
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("webbrowser.open", browse)
    done = chash(
        "serve", place.gallery, "--model", place.bundle.path, "--port", 0, "--open", "--threads", 1
    )
    assert done.code == 0, done.err
    assert opened[1] == "200"
    assert f"on {opened[0]} (" in done.err
