"""``chash index``: photos into a gallery, only what is new."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from concepthash.cli import options
from concepthash.cli.hashing import chosen_model, open_hasher
from concepthash.cli.index_parts.accelerate import build
from concepthash.cli.options import check_threads, setting, switch
from concepthash.cli.output import Output, display
from concepthash.cli.stores import check_gallery
from concepthash.errors import NothingFound, UsageError

if TYPE_CHECKING:
    from concepthash.runtime.entries import IndexReport
    from concepthash.runtime.hasher import Hasher

EXAMPLES = (
    "chash index ./gallery               the newest bundle, into gallery.chg",
    "chash index ./gallery --model bird.chb --out birds.chg",
    "chash index ./gallery --rebuild     for another model",
    "chash index ./verify                a folder that is named like a part",
)

_PRUNE: dict[str, bool | Literal["all"]] = {"gone": True, "all": "all", "none": False}


def command(
    sources: Annotated[
        list[Path], typer.Argument(help="Photos and folders of photos.", metavar="SOURCE...")
    ],
    model: options.Model = None,
    out: Annotated[
        Path | None,
        switch("--out", "-o", text="The gallery; by default SOURCE.chg in this folder."),
    ] = None,
    label: Annotated[
        str,
        setting(
            "--label",
            text="Where labels come from: folder (its name) or none.",
            values=("folder", "none"),
        ),
    ] = "folder",
    rebuild: Annotated[
        bool, switch("--rebuild", text="Forget what the gallery holds and index anew.")
    ] = False,
    prune: Annotated[
        str,
        switch(
            "--prune",
            text="Remove images whose file is gone: gone, all (also where a folder holds no "
            "photo any more) or none.",
            values=tuple(_PRUNE),
        ),
    ] = "gone",
    no_prune: Annotated[bool, switch("--no-prune", text="The same as --prune none.")] = False,
    accelerate: Annotated[
        bool, switch("--accelerate", text="Then build or extend the tables for fast search.")
    ] = False,
    copy_codes: options.CopyCodes = False,
    dry_run: options.DryRun = False,
    batch_size: options.BatchSize = None,
    threads: options.Threads = None,
    device: options.Device = None,
    backend: options.Backend = None,
    precision: options.Precision = None,
    config: options.VerbConfig = None,
    as_json: options.Json = False,
) -> None:
    """Bring a gallery up to date with folders of photos."""
    output = Output(as_json=as_json)
    if out is not None:
        check_gallery(out)
    if label not in ("folder", "none"):
        raise UsageError(
            f"unknown label source {label!r}", where="--label", hint="--label folder, or none"
        )
    if prune not in _PRUNE:
        raise UsageError(f"{prune!r} cannot be removed", where="--prune", hint="--prune gone")
    if copy_codes and not accelerate:
        raise UsageError(
            "codes are copied into tables only", where="--copy-codes", hint="--accelerate"
        )
    check_threads(threads)
    model = chosen_model(model, output)
    if out is None:
        out = Path(f"{sources[0].resolve().name or 'root'}.chg")
        output.choice("gallery", out, "named after the source")
    total = _count(sources, out)

    hasher = open_hasher(
        model, output, device=device, threads=threads, batch_size=batch_size,
        backend=backend, precision=precision,
    )  # fmt: skip
    output.note(f"backend: {hasher.backend}")
    report = _index(
        sources, out, hasher, label=label, rebuild=rebuild, dry_run=dry_run,
        prune=_PRUNE["none" if no_prune else prune], total=total, output=output,
    )  # fmt: skip
    covered = None
    if accelerate and not dry_run:
        covered = build(out, copy_codes=copy_codes, threads=threads)
        output.note(f"tables: {covered} codes")
    _tell(report, out, hasher, dry_run, covered, output)


def _count(sources: list[Path], gallery: Path) -> int:
    """How many files there are to look at.

    Raises:
        NothingFound: if none, and no gallery whose images might be gone.
    """
    from concepthash.images import find_images

    total = sum(1 for _ in find_images(sources))
    if not total and not gallery.exists():
        raise NothingFound(
            "no photos there",
            where=", ".join(map(str, sources)),
            hint=f"ls {display(sources[0])}",
        )
    return total


def _index(
    sources: list[Path],
    gallery: Path,
    hasher: Hasher,
    *,
    label: str,
    rebuild: bool,
    prune: bool | Literal["all"],
    dry_run: bool,
    total: int,
    output: Output,
) -> IndexReport:
    from concepthash.runtime.indexing import index_images

    label_from: Literal["folder"] | None = "folder" if label == "folder" else None
    return index_images(
        sources,
        gallery,
        hasher,
        label_from=label_from,
        rebuild=rebuild,
        prune=prune,
        dry_run=dry_run,
        progress=lambda report: output.progress("indexing", report.seen, total),
    )


def _tell(
    report: IndexReport,
    gallery: Path,
    hasher: Hasher,
    dry_run: bool,
    covered: int | None,
    output: Output,
) -> None:
    def data() -> dict[str, Any]:
        return {
            "schema": "chash.index/1",
            "gallery": str(gallery),
            "model": str(hasher.bundle.path),
            "backend": hasher.backend,
            "dry_run": dry_run,
            "accelerated": covered,
            **report.to_json(),
        }

    output.result(f"{gallery}: {report}" + (" (dry run)" if dry_run else ""), data)
    if report.pace:
        output.note(report.pace)
    if not dry_run and report.seen > len(report.skipped):
        output.hint(f"chash query IMAGE --gallery {display(gallery)}")
    output.skips(report.skipped)
