"""``chash index``: photos into a gallery, only what is new."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

import typer

from concepthash.cli import options
from concepthash.cli.hashing import chosen_model
from concepthash.cli.index_parts.accelerate import build
from concepthash.cli.locate import bundles
from concepthash.cli.options import check_engine, check_threads, setting, switch
from concepthash.cli.outfile import check_file
from concepthash.cli.output import Output, display
from concepthash.cli.pool import Hands, Hashing, Pool, cluster, local
from concepthash.cli.stores import check_gallery
from concepthash.errors import NothingFound, UsageError

if TYPE_CHECKING:
    from concepthash.runtime.entries import IndexReport
    from concepthash.runtime.sources import PhotoSource

EXAMPLES = (
    "chash index ./gallery               the newest bundle, into gallery.chg",
    "chash index ./gallery --model bird.chb --out birds.chg",
    "chash index ./gallery --rebuild     for another model",
    "chash index ./verify                a folder that is named like a part",
    "chash index s3://bucket/photos --engine ray --shards 8",
)

_PRUNE: dict[str, bool | Literal["all"]] = {"gone": True, "all": "all", "none": False}


def command(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Photos, folders and patterns of them, URLs, Parquet files.", metavar="SOURCE..."
        ),
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
    shards: Annotated[
        int | None,
        switch("--shards", text="How many a new gallery has; by default it is a single one."),
    ] = None,
    failed: Annotated[
        Path | None,
        switch("--failed", text="Write the photos that were left out, and why: .csv or .parquet."),
    ] = None,
    image_column: Annotated[
        str | None,
        setting("--image-column", text="Parquet column of the photos, or of their paths."),
    ] = None,
    label_column: options.LabelColumn = None,
    engine: options.Engine = "local",
    address: options.Address = None,
    workers: Annotated[
        int | None,
        setting("--workers", text="With ray: how many; by default as the cluster has room for."),
    ] = None,
    cpus_per_worker: Annotated[
        float | None,
        setting("--cpus-per-worker", text="With ray: and as many threads; by default up to 4."),
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        setting("--gpus-per-worker", text="With ray: 1, or a part of one; by default none."),
    ] = None,
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
        check_gallery(out, write=True)
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
    if shards is not None and shards < 1:
        raise UsageError(f"{shards} shards hold nothing", where="--shards", hint="--shards 4")
    check_threads(threads)
    check_engine(engine, address)
    check_file(failed, "--failed")
    pool = Pool(address, workers, cpus_per_worker, gpus_per_worker)
    pool.check(engine)
    if failed is not None:
        from concepthash.runtime.failed import check_table

        check_table(failed)
    model = chosen_model(model, output)
    opened, total = _open_sources(sources, image_column, label_column, output)
    if out is None:
        out = _gallery_of(opened[0].given)
        output.choice("gallery", out, "named after the source")
    if not total and not out.exists():
        from concepthash.runtime.sources import unreadable

        given = [str(source.given) for source in opened]  # without passwords
        raise unreadable(opened) or NothingFound(
            "no photos there",
            where=", ".join(given),
            hint="look at the address" if "://" in given[0] else f"ls {display(given[0])}",
        )
    hashing = Hashing(device, threads, batch_size, backend, precision)
    with (
        local(model, hashing, output)
        if engine == "local"
        else cluster(model, hashing, pool, output, dry_run=dry_run)
    ) as hands:
        report = _index(
            opened, out, hands, label=label, rebuild=rebuild, dry_run=dry_run, shards=shards,
            prune=_PRUNE["none" if no_prune else prune], total=total, output=output,
        )  # fmt: skip
    if failed is not None:
        from concepthash.runtime.failed import write_table

        write_table(failed, report.skipped)
    covered = None
    if accelerate and not dry_run:
        covered = build(out, output, copy_codes=copy_codes, threads=threads)
        output.note(f"tables: {covered} codes")
    _tell(report, out, hands, dry_run, covered, output)
    output.skips(report.skipped, record="" if failed is None else display(failed))


def _open_sources(
    names: list[str], image: str | None, label: str | None, output: Output
) -> tuple[list[PhotoSource], int]:
    """The sources, and how many photos there are to look at.

    Raises:
        UsageError: if one is not there.
    """
    from concepthash.runtime.sources import Columns, open_sources, table_beside

    opened = open_sources(names, Columns(image, label))
    table = table_beside(opened)
    if table is not None:
        output.note(f"not read, as photos lie beside it: {display(table)}; name it as a source too")
    return opened, sum(source.count() for source in opened)


def _gallery_of(source: Path) -> Path:
    """The gallery of a source, in this folder: named after it."""
    from concepthash.runtime.entries import Url

    if isinstance(source, Url):
        parts = urlsplit(str(source))
        name = Path(parts.path).name or parts.netloc
    else:
        name = source.resolve().name or "root"
    return Path(f"{name.removesuffix('.parquet')}.chg")


def _index(
    sources: list[PhotoSource],
    gallery: Path,
    hands: Hands,
    *,
    label: str,
    rebuild: bool,
    prune: bool | Literal["all"],
    dry_run: bool,
    shards: int | None,
    total: int,
    output: Output,
) -> IndexReport:
    from concepthash.runtime.indexing import index_images

    return index_images(
        sources,
        gallery,
        hands.engine,
        label_from="folder" if label == "folder" else None,
        rebuild=rebuild,
        prune=prune,
        dry_run=dry_run,
        shards=shards,
        progress=lambda report: output.progress("indexing", report.seen, total),
    )


def _tell(
    report: IndexReport,
    gallery: Path,
    hands: Hands,
    dry_run: bool,
    covered: int | None,
    output: Output,
) -> None:
    def data() -> dict[str, Any]:
        return {
            "schema": "chash.index/1",
            "gallery": str(gallery),
            "model": str(hands.bundle.path),
            "backend": hands.backend,
            **hands.about(),
            "dry_run": dry_run,
            "accelerated": covered,
            **report.to_json(),
        }

    output.result(f"{gallery}: {report}" + (" (dry run)" if dry_run else ""), data)
    if pace := hands.pace(report):
        output.note(pace)
    if not dry_run and report.seen > len(report.skipped):
        output.hint(f"chash query IMAGE --gallery {display(gallery)}{_model(hands, gallery)}")


def _model(hands: Hands, gallery: Path) -> str:
    """The option that names the bundle, where ``chash query`` would not find it."""
    path = hands.bundle.path
    found = {manifest.parent.resolve() for manifest in bundles([Path(), gallery.parent])}
    return "" if path.resolve() in found else f" --model {display(path)}"
