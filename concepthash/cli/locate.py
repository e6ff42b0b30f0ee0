"""What a verb works on when the user names nothing: the newest run, bundle or gallery near here."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from concepthash.cli.kinds import folder_kind
from concepthash.errors import BundleError, CheckpointError, UsageError

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


def check_run(path: Path) -> Path:
    """The run that was named; what is none is refused before torch is loaded.

    Raises:
        CheckpointError: if it is missing, a bundle, or anything else.
    """
    if (path / "run.json").is_file():
        return path
    if (path / "manifest.json").is_file():
        raise CheckpointError(
            "a bundle, which is exported already",
            where=path,
            hint=f"chash index FOLDER --model {shlex.quote(str(path))}",
        )
    what = "not a training run: no run.json in it" if path.exists() else "no such run"
    raise CheckpointError(what, where=path, hint="chash train DATA makes one; ls runs")


def next_run(data: str, bits: int) -> Path:
    """The folder of a new run: ``runs/<data name>-<bits>b-<n>``, n the next free number."""
    source = Path(data).resolve()
    name = f"{source.stem if source.is_file() else source.name}-{bits}b-"
    taken = [p.name[len(name) :].partition(".")[0] for p in RUNS.glob(f"{_literal(name)}*")]
    return RUNS / f"{name}{max((int(t) for t in taken if t.isdecimal()), default=0) + 1}"


def newest_bundle(named_by: str = "--model NAME.chb") -> Path:
    """The bundle in this folder, ``./runs`` or a run that was written last.

    Args:
        named_by: how the verb is told of another one.

    Raises:
        UsageError: if there is none.
    """
    found = _newest(bundles([Path()]))
    if found is None:
        raise UsageError(
            "no bundle was named, and there is none here",
            where="*.chb, runs/*.chb, runs/*/*.chb",
            hint=f"{named_by}, or make one: chash export RUN",
        )
    return found.parent


def check_bundle(path: Path) -> Path:
    """The bundle that was named; what is none is refused with what to give.

    Raises:
        BundleError: if it is a file, a gallery or a run.
    """
    if path.is_file():
        raise BundleError(
            "a file, not a bundle: a bundle is a folder NAME.chb",
            where=path,
            hint="chash export RUN makes one",
        )
    kind = folder_kind(path)
    name = shlex.quote(str(path))
    if kind == "gallery":
        raise BundleError(
            "a gallery, not a bundle",
            where=path,
            hint=f"chash inspect {name} names the model that made it: give that NAME.chb",
        )
    if kind == "run":
        made = bundle_of_run(path)
        hint = f"give its bundle: {shlex.quote(str(made))}" if made else f"chash export {name}"
        raise BundleError("a training run, not a bundle", where=path, hint=hint)
    return path


def bundle_of_run(run: Path) -> Path | None:
    """The bundle that lies beside a run, where ``chash export`` puts it; None if there is none."""
    run = run if run.name else run.absolute()  # the current folder
    beside = run.with_name(f"{run.name}.chb")
    return beside if folder_kind(beside) == "bundle" else None


def check_model(path: Path) -> Path:
    """What was named as a model: a bundle, or an ONNX file that was taken out of one.

    Raises:
        BundleError: if it is another file.
    """
    return path if path.suffix == ".onnx" else check_bundle(path)


def bundles(folders: Iterable[Path]) -> Iterator[Path]:
    """The manifests of the bundles in ``folders``, in their ``runs/`` and in each run."""
    for folder in folders:
        for pattern in ("*.chb", "runs/*.chb", "runs/*/*.chb"):
            for path in sorted(folder.glob(f"{pattern}/manifest.json")):
                if _visible(path.parent):
                    yield path


def newest_gallery(named_by: str = "--gallery NAME.chg") -> Path:
    """The gallery in this folder that was written last.

    Args:
        named_by: how the verb is told of another one.

    Raises:
        UsageError: if there is none.
    """
    # A commit to a sharded gallery changes a shard of it, and not its list of them.
    patterns = ("*.chg/gallery.sqlite", "*.chg/shards.json", "*.chg/*.chg/gallery.sqlite")
    marks = (mark for pattern in patterns for mark in Path().glob(pattern))
    found = _newest(mark for mark in marks if _visible(Path(mark.parts[0])))
    if found is None:
        raise UsageError(
            "no gallery was named, and there is none here",
            where="*.chg",
            hint=f"{named_by}, or make one: chash index FOLDER",
        )
    return Path(found.parts[0])


def _newest(paths: Iterable[Path]) -> Path | None:
    return max(paths, key=lambda path: path.stat().st_mtime, default=None)


def _visible(path: Path) -> bool:
    return not path.name.startswith(".")


def _literal(text: str) -> str:
    """``text`` as a glob pattern that matches itself."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)
