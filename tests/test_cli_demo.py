"""``chash demo --open``: what is shown once the demo has run."""

from __future__ import annotations

import json
import os
import signal
import sys
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from cli_entry import Chash
from serve_gallery import Place

from concepthash.cli import demo, demo_open
from concepthash.cli.output import Output


class FakeBrowser:
    """Stands for the user's browser: it reads what it is told to open, then presses Ctrl-C."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: list[str] = []
        self.read = ""
        monkeypatch.setattr("webbrowser.open", self.open)

    def open(self, url: str) -> bool:
        self.opened.append(url)
        if url.startswith("file:"):
            self.read = Path(unquote(urlsplit(url).path)).read_text("utf-8")
            return True
        try:
            with urllib.request.urlopen(f"{url.rstrip('/')}/v1/info", timeout=30) as answer:
                self.read = answer.read().decode()
        finally:
            os.kill(os.getpid(), signal.SIGINT)
        return True


def test_show__serves_the_gallery_and_opens_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("uvicorn")
    place, browser = Place(tmp_path), FakeBrowser(monkeypatch)
    demo_open.show(place.gallery, threads=1, output=Output())
    (url,) = browser.opened
    assert url.startswith("http://127.0.0.1:")
    assert json.loads(browser.read)["images"] == 20
    told = capsys.readouterr()
    assert (told.out, url in told.err) == ("", True)


def test_show__opens_the_atlas_without_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place, browser = Place(tmp_path), FakeBrowser(monkeypatch)
    for name in [name for name in sys.modules if name.startswith("concepthash.serve.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    demo_open.show(place.gallery, threads=1, output=Output())
    assert browser.opened == [(tmp_path / "atlas.html").as_uri()]
    assert browser.read.startswith("<!DOCTYPE html>")
    told = capsys.readouterr()
    assert told.out == ""
    assert "page: the atlas, not a server; " in told.err
    assert "pip install 'concepthash[serve]'" in told.err


def test_demo__open_shows_the_gallery_that_it_made(
    chash: Chash, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    for stage in ("_draw", "_train", "_export", "_tell"):
        monkeypatch.setattr(demo, stage, lambda *_: None)
    monkeypatch.setattr(demo, "_search", lambda *_: (None, None))
    shown: list[tuple[Path, int | None]] = []
    monkeypatch.setattr(demo_open, "show", lambda g, *, threads, output: shown.append((g, threads)))
    assert chash("demo", "--out", "d", "--threads", 1).code == 0
    assert shown == []
    assert chash("demo", "--out", "d", "--threads", 1, "--open").code == 0
    assert shown == [(Path("d/birds.chg"), 1)]
