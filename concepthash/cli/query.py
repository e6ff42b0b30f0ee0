"""``chash query``: the nearest images of a gallery, with the distance of every concept."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from concepthash.cli import options, replicas
from concepthash.cli.asked import Asked
from concepthash.cli.explain_files import check_pages
from concepthash.cli.explain_hits import INDEX, page_names, write_pages
from concepthash.cli.hashing import open_hasher
from concepthash.cli.locate import bundles, check_model, newest_gallery
from concepthash.cli.options import check_threads, setting, switch
from concepthash.cli.output import Output, display, printable
from concepthash.cli.stores import open_gallery
from concepthash.errors import (
    BundleError,
    ImageError,
    MismatchError,
    NothingFound,
    UsageError,
)

if TYPE_CHECKING:
    from concepthash.bundle import Bundle
    from concepthash.cli.answers import Answers
    from concepthash.runtime.galleries import AnyGallery

EXAMPLES = (
    "chash query img.jpg --top 10        in the newest gallery here",
    "chash query img.jpg --gallery birds.chg --radius 8",
    "chash query img.jpg --concepts 0,2  by two of its concepts only",
    "chash query img.jpg --weights 2,1,0,1",
    "chash query img.jpg --weights wing=2   a concept named by chash concepts name",
    "chash query img.jpg --radius 4 --top all",
    "chash query img.jpg --engine ray --address auto --replicas 2",
    "chash query img.jpg --explain why   pages with heat maps: same head, other wing?",
    "find new/ -name '*.jpg' -print0 | chash query - -0 --format paths",
)
PARTIAL = 3
"""The exit code where shards gave no answer."""
FORMATS = ("table", "tsv", "jsonl", "paths", "json")


def command(
    images: Annotated[
        list[str],
        typer.Argument(help="Photos or folders; - reads paths from stdin.", metavar="IMAGE..."),
    ],
    gallery: Annotated[
        Path | None,
        setting(
            "--gallery",
            "-g",
            text="Gallery, or its URL; by default the newest *.chg in this folder.",
            parser=options.path,
        ),
    ] = None,
    model: options.Model = None,
    top: Annotated[str, setting("--top", "-k", text="Hits an image, or all.")] = "10",
    radius: Annotated[
        int | None, setting("--radius", text="Only hits at this distance or nearer.")
    ] = None,
    concepts: Annotated[
        str | None,
        setting(
            "--concepts", text="Concepts that count, as 0,2 or wing.", env="CHASH_QUERY_CONCEPTS"
        ),
    ] = None,
    weights: Annotated[
        str | None,
        setting(
            "--weights",
            text="A weight a concept, as 2,1,0,1, or of some: wing=2.",
            env="CHASH_QUERY_WEIGHTS",
        ),
    ] = None,
    format: Annotated[
        str,
        setting(
            "--format",
            text="table, tsv, jsonl, paths or json.",
            env="CHASH_QUERY_FORMAT",
            values=FORMATS,
        ),
    ] = "table",
    null: Annotated[
        bool,
        switch("-0", "--null", text="Paths end with NUL: on stdin, and in --format paths."),
    ] = False,
    search_on: Annotated[
        str,
        setting(
            "--search-on",
            text="Where codes are compared: cpu, cuda or cuda:N.",
            values=("cpu", "cuda"),
        ),
    ] = "cpu",
    explain: Annotated[
        Path | None,
        switch("--explain", text="Folder for pages and pictures of why: hits.html, hits.png."),
    ] = None,
    engine: options.Engine = "local",
    address: options.Address = None,
    count: replicas.Count = None,
    cpus_per_replica: replicas.Cpus = None,
    shard_timeout: replicas.Timeout = None,
    threads: options.Threads = None,
    device: options.Device = None,
    backend: options.Backend = None,
    precision: options.Precision = None,
    config: options.VerbConfig = None,
    as_json: Annotated[bool, switch("--json", text="The same as --format json.")] = False,
) -> None:
    """Find the images that look like these, and say in what."""
    if format not in FORMATS:
        raise UsageError(f"unknown format {format!r}", where="--format", hint=", ".join(FORMATS))
    as_json = as_json or format == "json"
    output = Output(as_json=as_json)
    asked = Asked.parse(top, radius)
    check_threads(threads)
    check_search_device(search_on)
    elsewhere = replicas.Replicas(address, count, cpus_per_replica, shard_timeout)
    elsewhere.check(engine)
    if engine == "ray" and search_on != "cpu":
        raise UsageError("replicas search on CPUs", where="--search-on", hint="--engine local")
    if gallery is None:
        gallery = newest_gallery()
        output.choice("gallery", gallery, "the newest here")
    sources = _sources(images, "\0" if null else "\n")

    if explain is not None:
        check_pages(explain, page_names(len(sources)), "--explain")

    from concepthash.cli.answers import answer

    pages: list[Path] = []
    with open_gallery(gallery) as opened:
        bundle = bundle_of(opened, output, named=model)
        asked = asked.by(concepts, weights, bundle.manifest.concept_names)
        hasher = open_hasher(
            bundle, output, device=device, threads=threads, batch_size=None,
            backend=backend, precision=precision,
        )  # fmt: skip
        held = nullcontext() if engine == "local" else elsewhere.serving(
            gallery, opened, lasting=False, tell=lambda line: output.note(printable(line))
        )  # fmt: skip
        with output.only_results(), held as shards:
            answers = answer(
                opened, hasher, sources, asked, search_on=search_on, held=shards,
                progress=lambda done: output.progress("querying", done, len(sources)),
            )  # fmt: skip
        if explain is not None:
            pages = write_pages(explain, answers, opened, hasher, asked, output)
    if not answers.queries:
        from concepthash.images import elsewhere as far

        first = answers.skipped.items[0]
        in_no_file = far(first.path) is not None
        raise ImageError(
            "no image could be read",
            where=f"{first.path}: {first.reason}",
            hint="chash query FILE.jpg" if in_no_file else f"ls -l {display(first.path)}",
        )
    if as_json:
        output.result("", lambda: {**answers.to_json(), "pages": list(map(str, pages))})
    else:
        end = "\0" if null and format == "paths" else "\n"
        for line in answers.lines(format, unicode=output.encoding.lower().startswith("utf")):
            output.line(line, end=end)
    if pages:
        output.note(f"written: {_written(pages)}")
    _end(answers, gallery, radius, output)


def _written(pages: list[Path]) -> str:
    """The page and the picture of one query, or the index of many."""
    first = pages[0]
    if first.name != INDEX:
        return f"{display(first)}, {display(first.with_suffix('.png'))}"
    return f"{display(first)}, which lists the pages; beside each is its picture, a .png"


def check_search_device(name: str) -> None:
    """Refuse a place where codes cannot be compared.

    Raises:
        UsageError: if it is neither the CPU nor a CUDA device.
    """
    kind, colon, number = name.partition(":")
    if name != "cpu" and (kind != "cuda" or (colon and not number.isdecimal())):
        raise UsageError(
            f"codes cannot be compared on {name!r}",
            where="--search-on",
            hint="--search-on cpu, cuda or cuda:N",
        )


def _end(answers: Answers, gallery: Path, radius: int | None, output: Output) -> None:
    if answers.missing_shards:
        named = ", ".join(map(printable, answers.missing_shards))
        output.note(f"the answer is partial: nothing from {named}, whose images are left out")
    if answers.found or answers.missing_shards:
        output.skips(answers.skipped, record="the --json report")
        if answers.missing_shards:
            raise typer.Exit(PARTIAL)
        return
    if radius is None:
        hint = f"chash index FOLDER --out {display(gallery)}"
        raise NothingFound("no hit in an empty gallery", where=gallery, hint=hint)
    hint = f"--radius {2 * radius + 1}"
    raise NothingFound(f"no hit within radius {radius}", where=gallery, hint=hint)


def _sources(images: Iterable[str], end: str) -> list[Path]:
    """The photos that were named, those of folders and of stdin, where each ends with ``end``.

    A name that does not exist stays in the list: it is one query that cannot be answered.

    Raises:
        UsageError: for a URL.
        NothingFound: if there are none.
    """
    from concepthash.images import find_images

    sources: list[Path] = []
    for name in images:
        if name == "-":
            sources += map(_local, _names(end))
        elif Path(name).is_dir():
            sources += find_images([name])
        else:
            sources.append(_local(name))
    if not sources:
        folders = [display(name) for name in images if name != "-"]
        hint = f"ls {' '.join(folders)}" if folders else "find FOLDER -name '*.jpg' | chash query -"
        raise NothingFound("no photos to query with", where=" ".join(images), hint=hint)
    return sources


def _local(name: str) -> Path:
    if "://" not in name:
        return Path(name)
    from concepthash.runtime.remote import is_url, shown

    if is_url(name):
        raise UsageError(
            "a photo behind a URL is not read here",
            where=shown(name),
            hint=f"curl -o photo.jpg {display(shown(name))} && chash query photo.jpg",
        )
    return Path(name)


def _names(end: str) -> Iterator[str]:
    lines = sys.stdin.read().split(end) if end == "\0" else sys.stdin
    for line in lines:
        name = line if end == "\0" else line.rstrip("\r\n")
        if name:
            yield name


def bundle_of(gallery: AnyGallery, output: Output, *, named: Path | None = None) -> Bundle:
    """The bundle a gallery was made with: the one that was named, or one found by fingerprint.

    Raises:
        MismatchError: if the named one is another, or it is not found.
    """
    from concepthash.bundle import Bundle

    if named is not None:
        bundle = Bundle.open(check_model(named))
        gallery.check_model(bundle.manifest.fingerprint)
        return bundle
    beside = gallery.path.resolve().parent
    places = [Path()] if beside == Path.cwd() else [Path(), gallery.path.parent]
    found = []
    for manifest in bundles(places):
        try:
            bundle = Bundle.open(manifest.parent)
        except BundleError:
            continue
        if bundle.manifest.fingerprint == gallery.fingerprint:
            found.append(bundle)
    found.sort(key=lambda bundle: bundle.manifest.name != gallery.model)
    if found:
        chosen = found[0] if len(found) == 1 else next(filter(_is_intact, found), found[0])
        others = f"; {len(found) - 1} more here" if len(found) > 1 else ""
        output.choice("model", chosen.path, f"of the model that made the gallery{others}")
        return chosen
    raise MismatchError(
        f"no bundle here made this gallery: it is of model {gallery.fingerprint[:8]} "
        f"({gallery.model})",
        where=gallery.path,
        hint=f"--model PATH/{gallery.model}.chb",
    )


def _is_intact(bundle: Bundle) -> bool:
    try:
        bundle.verify()
    except BundleError:
        return False
    return True
