"""Fixtures that more than one test file uses."""

import os
from pathlib import Path

import pytest
from cli_entry import Chash


@pytest.fixture
def chash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Chash:
    for name in [name for name in os.environ if name.startswith("CHASH_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return Chash(monkeypatch, capsys)
