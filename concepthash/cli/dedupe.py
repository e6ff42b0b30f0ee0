"""``chash dedupe``: groups of images that look alike; nothing is deleted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from concepthash.cli import options
from concepthash.cli.asked import check_radius
from concepthash.cli.options import check_threads, setting, switch
from concepthash.cli.output import Output, printable
from concepthash.cli.stores import Store
from concepthash.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

EXAMPLES = (
    "chash dedupe birds.chg --radius 2",
    "chash dedupe birds.chg --format paths   a path a line, an empty line between groups",
    "chash dedupe birds.chg --format paths -0 | xargs -0 ls",
)
FORMATS = ("table", "json", "paths")


def command(
    gallery: Annotated[Path, options.gallery_argument("A gallery, or a file of codes.")],
    radius: Annotated[
        int,
        setting(
            "--radius",
            text="Bits in which neighbours of a group may differ.",
            env="CHASH_DEDUPE_RADIUS",
        ),
    ] = 0,
    format: Annotated[
        str,
        setting(
            "--format", text="table, json or paths.", env="CHASH_DEDUPE_FORMAT", values=FORMATS
        ),
    ] = "table",
    null: Annotated[
        bool, switch("-0", "--null", text="In --format paths, end each path with NUL.")
    ] = False,
    threads: options.Threads = None,
    config: options.VerbConfig = None,
    as_json: Annotated[bool, switch("--json", text="The same as --format json.")] = False,
) -> None:
    """List groups of images whose codes hang together by steps of the radius; deletes nothing."""
    if format not in FORMATS:
        raise UsageError(f"unknown format {format!r}", where="--format", hint=", ".join(FORMATS))
    output = Output(as_json=as_json or format == "json")
    check_radius(radius)
    check_threads(threads)

    from concepthash.runtime.join import groups

    with Store(gallery) as store:
        found = [group.tolist() for group in groups(store.index, radius, threads=threads)]
        inside = sum(map(len, found))
        if output.as_json:
            output.result("", lambda: _json(gallery, store, radius, found))
        else:
            lines = _paths(store, found, null) if format == "paths" else _table(store, found)
            for line in lines:
                output.line(line, end="\0" if null and format == "paths" else "\n")
    output.note(
        f"{options.named(gallery)}: {len(found)} groups within radius {radius}, {inside} of "
        f"{len(store.index)} images are in one"
    )


def _json(
    gallery: Path, store: Store, radius: int, found: Sequence[list[int]]
) -> dict[str, object]:
    groups = [[{"id": id, "path": store.path(id)} for id in group] for group in found]
    return {
        "schema": "chash.dedupe/1",
        "gallery": options.named(gallery),
        "radius": radius,
        "codes": len(store.index),
        "groups": groups,
    }


def _table(store: Store, found: Sequence[list[int]]) -> Iterator[str]:
    for number, group in enumerate(found, 1):
        yield f"group {number}: {len(group)}"
        for id in group:
            yield f"  {id:>8}  {printable(store.path(id) or '-')}".rstrip()


def _paths(store: Store, found: Sequence[list[int]], null: bool) -> Iterator[str]:
    """A name a line, an empty one between groups; with NUL no separator, for xargs."""
    for number, group in enumerate(found):
        if number and not null:
            yield ""
        yield from (store.path(id) or str(id) for id in group)
