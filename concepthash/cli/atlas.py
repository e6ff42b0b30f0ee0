"""``chash atlas``: a page that shows what the concepts of a model sort a gallery into."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from concepthash.cli import options
from concepthash.cli.explain_files import check_pages, write_file
from concepthash.cli.explain_parts import SPLITS
from concepthash.cli.hashing import open_hasher
from concepthash.cli.locate import newest_gallery
from concepthash.cli.options import check_threads, setting, switch
from concepthash.cli.output import Output, display, skipped_json
from concepthash.cli.query import bundle_of
from concepthash.cli.stores import open_gallery
from concepthash.errors import Skipped, UsageError

if TYPE_CHECKING:
    from concepthash.explain.atlasdata import Atlas
    from concepthash.explain.partscores import PartScores
    from concepthash.runtime.hasher import Hasher

EXAMPLES = (
    "chash atlas                         of the newest gallery here",
    "chash atlas birds.chg --out birds.html --rooms 24",
    "chash atlas birds.chg --parts part_locs.csv   with what concepts follow",
    "chash atlas birds.chg --radius 0    rooms of exact sub-codes",
)


def command(
    gallery: Annotated[
        Path | None,
        options.gallery_argument("A gallery; by default the newest here."),
    ] = None,
    out: Annotated[
        Path | None, switch("--out", "-o", text="The page; by default NAME-atlas.html here.")
    ] = None,
    model: options.Model = None,
    title: Annotated[str | None, switch("--title", text="Of the page.")] = None,
    rooms: Annotated[int, switch("--rooms", text="Rooms a concept, the fullest.")] = 12,
    examples: Annotated[int, switch("--examples", text="Photos a room.")] = 6,
    radius: Annotated[
        int | None,
        switch(
            "--radius",
            text="Bits round the value of a room; by default 0 if all values have a room, else a "
            "fifth of the sub-code.",
        ),
    ] = None,
    sample: Annotated[int, switch("--sample", text="Images on the map.")] = 1500,
    parts: Annotated[
        Path | None,
        switch("--parts", text="Part annotations: part_locs.csv, or the folder that has it."),
    ] = None,
    data: Annotated[
        Path | None,
        setting("--data", text="Folder of the annotated photos; by default found."),
    ] = None,
    split: Annotated[
        str, switch("--split", text="Of the annotations: test, train or all.", values=SPLITS)
    ] = "test",
    threads: options.Threads = None,
    device: options.Device = None,
    backend: options.Backend = None,
    precision: options.Precision = None,
    config: options.VerbConfig = None,
    as_json: options.Json = False,
) -> None:
    """Show what each concept sorts a gallery into, as one page."""
    output = Output(as_json=as_json)
    check_threads(threads)
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}", where="--split", hint=", ".join(SPLITS))
    if gallery is None:
        gallery = newest_gallery("chash atlas NAME.chg")
        output.choice("gallery", gallery, "the newest here")
    skipped = Skipped()
    with open_gallery(gallery) as opened:
        if out is None:
            out = Path(f"{gallery.resolve().stem}-atlas.html")
            output.choice("page", out, "named after the gallery")
        _check_page(out)

        from concepthash.explain.atlasbuild import atlas

        hasher = open_hasher(
            bundle_of(opened, output, named=model), output, device=device, threads=threads,
            batch_size=None, backend=backend, precision=precision,
        )  # fmt: skip
        with output.only_results():
            scores = None if parts is None else _scores(hasher, parts, data, split, skipped, output)
            made = atlas(
                opened, hasher, rooms=rooms, examples=examples, radius=radius, sample=sample,
                title=title, parts=scores, skipped=skipped,
                progress=lambda done, total: output.progress("reading photos", done, total),
            )  # fmt: skip
    page = made.html()
    write_file(out.parent, out.name, page)
    output.result(
        f"{out}: {_summary(made)}, {out.stat().st_size / 1e6:.1f} MB",
        lambda: {
            **made.to_json(),
            "file": str(out),
            "bytes": out.stat().st_size,
            "backend": hasher.backend,
            "skipped": skipped_json(skipped),
        },
    )
    if not len(made):
        output.hint(f"chash index FOLDER --out {display(gallery)}")
    elif made.map is None:
        output.note("the map of codes is left out: it needs scikit-learn")
        output.hint("pip install 'concepthash[atlas]'")
    output.skips(skipped, record="the --json report")


def _check_page(out: Path) -> None:
    """Refuse what the page cannot be written to.

    Raises:
        UsageError: with another name.
    """
    if out.is_dir():
        raise UsageError(
            "a folder, not a file", where=out, hint=f"--out {display(out / 'atlas.html')}"
        )
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(
            "the atlas is an HTML page, and its name does not say so",
            where=out,
            hint=f"--out {display(out.with_suffix('.html'))}",
        )
    another = f"--out {display(out.with_name(f'{out.stem}-2.html'))}"
    check_pages(out.parent, [out.name], "--out", another=another, atlas=True)


def _scores(
    hasher: Hasher, parts: Path, data: Path | None, split: str, skipped: Skipped, output: Output
) -> PartScores:
    from concepthash.explain import read_annotations, score_parts

    return score_parts(
        hasher,
        read_annotations(parts, data=data),
        split=split,
        skipped=skipped,
        progress=lambda done, total: output.progress("reading maps", done, total),
    )


def _summary(made: Atlas) -> str:
    if not len(made):
        return "an empty gallery, nothing to show yet"
    from concepthash.explain.tables import counted

    rooms = sum(len(concept.rooms.rooms) for concept in made.concepts)
    crops = sum(len(some) for concept in made.concepts for some in concept.crops)
    return (
        f"{counted(rooms, 'room')} of {counted(made.layout.concepts, 'concept')} with "
        f"{counted(crops, 'crop')}, {counted(len(made), 'image')}"
    )
