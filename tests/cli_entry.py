"""``chash`` through its real entry point, in this process, with stdout and stderr apart."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from concepthash.cli.main import run


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    def json(self, schema: str) -> dict[str, Any]:
        value = json.loads(self.out)
        assert value["schema"] == schema
        return value


@dataclass(frozen=True)
class Chash:
    """Runs the command line in a folder of its own, without the settings of this machine."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: object) -> Outcome:
        self.monkeypatch.setattr(sys, "argv", ["chash", *map(str, arguments)])
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run()
        captured = self.capsys.readouterr()
        return Outcome(int(ended.value.code or 0), captured.out, captured.err)


def photo(path: Path, seed: int, side: int = 32) -> Path:
    """A photo of random blocks, saved without loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 256, size=(8, 8, 3), dtype=np.uint8)
    Image.fromarray(blocks).resize((side, side), Image.Resampling.NEAREST).save(path)
    return path


def photos(folder: Path, *, classes: int = 2, each: int = 3, first_seed: int = 0) -> Path:
    """Class folders ``a``, ``b``, ... of photos, all different."""
    for c in range(classes):
        for n in range(each):
            photo(folder / chr(ord("a") + c) / f"{n}.png", first_seed + c * each + n)
    return folder
