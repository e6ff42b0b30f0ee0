"""One line of ``chash doctor``, and how it looks for packages: no network, nothing heavy here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Literal

_PATIENCE = 30.0
"""Seconds an import may take."""


@dataclass(frozen=True)
class Check:
    """One line of the report; ``hint`` says what to do about it."""

    name: str
    status: Literal["ok", "missing", "warning"]
    value: str
    hint: str = ""


@dataclass(frozen=True)
class Imported:
    """What became of an import: what its code printed, or why it failed."""

    text: str
    error: str | None = None


# What reports to its makers when it is imported plainly.
_IMPORTS = {"openvino": "from concepthash.quiet import import_openvino\nm = import_openvino()"}


def version(package: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def try_imports(codes: Mapping[str, str]) -> dict[str, Imported]:
    """Import modules, each in a process of its own, all at once; a native crash harms nothing.

    Args:
        codes: module -> what to run once it is imported as ``m``; its words are what is printed.

    Returns:
        One entry for each module that is to be found.
    """
    started = {
        name: subprocess.Popen(
            [sys.executable, "-P", "-c", f"{_IMPORTS.get(name, f'import {name} as m')}\n{code}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, code in codes.items()
        if find_spec(name) is not None
    }
    return {name: _outcome(process) for name, process in started.items()}


def _outcome(process: subprocess.Popen[str]) -> Imported:
    try:
        out, errors = process.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Imported("", f"takes longer than {_PATIENCE:.0f} s")
    if process.returncode == 0:
        return Imported(out.strip())
    lines = errors.strip().splitlines()
    return Imported("", lines[-1] if lines else f"exit code {process.returncode}")
