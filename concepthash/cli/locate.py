"""What a verb works on when the user names nothing: the newest run, bundle or gallery near here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from concepthash.errors import UsageError

RUNS = Path("runs")


def newest_run() -> Path:
    """The run under ``./runs`` that was started last.

    Raises:
        UsageError: if there is none.
    """
    found = _newest(p for p in RUNS.glob("*/run.json") if _visible(p.parent))
    if found is None:
        raise UsageError(
            "no run was named, and there is none here", where=RUNS, hint="chash train DATA"
        )
    return found.parent


def next_run(data: str, bits: int) -> Path:
    """The folder of a new run: ``runs/<data name>-<bits>b-<n>``, n the next free number."""
    source = Path(data).resolve()
    name = f"{source.stem if source.is_file() else source.name}-{bits}b-"
    taken = [p.name[len(name) :].partition(".")[0] for p in RUNS.glob(f"{_literal(name)}*")]
    return RUNS / f"{name}{max((int(t) for t in taken if t.isdecimal()), default=0) + 1}"


def newest_bundle() -> Path:
    """The bundle in this folder, ``./runs`` or a run that was written last.

    Raises:
        UsageError: if there is none.
    """
    found = _newest(bundles([Path()]))
    if found is None:
        raise UsageError(
            "no bundle was named, and there is none here",
            where="*.chb, runs/*.chb, runs/*/*.chb",
            hint="--model NAME.chb, or make one: chash export RUN",
        )
    return found.parent


def bundles(folders: Iterable[Path]) -> Iterator[Path]:
    """The manifests of the bundles in ``folders``, in their ``runs/`` and in each run."""
    for folder in folders:
        for pattern in ("*.chb", "runs/*.chb", "runs/*/*.chb"):
            for path in sorted(folder.glob(f"{pattern}/manifest.json")):
                if _visible(path.parent):
                    yield path


def newest_gallery() -> Path:
    """The gallery in this folder that was written last.

    Raises:
        UsageError: if there is none.
    """
    found = _newest(p for p in Path().glob("*.chg/gallery.sqlite") if _visible(p.parent))
    if found is None:
        raise UsageError(
            "no gallery was named, and there is none here",
            where="*.chg",
            hint="--gallery NAME.chg, or make one: chash index FOLDER",
        )
    return found.parent


def _newest(paths: Iterable[Path]) -> Path | None:
    return max(paths, key=lambda path: path.stat().st_mtime, default=None)


def _visible(path: Path) -> bool:
    return not path.name.startswith(".")


def _literal(text: str) -> str:
    """``text`` as a glob pattern that matches itself."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)
