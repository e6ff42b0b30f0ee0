"""``chash explain IMG [OTHER]``: where concepts look in a photo, its bits, and those of another."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from concepthash.cli.explain_files import check_pages, write_file
from concepthash.cli.output import Output, display, printable
from concepthash.cli.preview import choose_way, show
from concepthash.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from concepthash.cli.preview import Way
    from concepthash.explain.comparison import Comparison
    from concepthash.explain.explanation import Explanation
    from concepthash.runtime.hasher import Hasher

PNG, HTML = "explanation.png", "explanation.html"

_ENLARGED = 4
"""Times that a photo is enlarged from which on it is told: it has no detail to look at."""
_BLOCK_TILE = 24
"""Columns of a tile in blocks, at most."""


def explain_photos(
    images: list[str],
    open_hasher: Callable[[], Hasher],
    output: Output,
    *,
    out: Path | None,
    preview: str,
) -> None:
    """Print a table of one photo, or of two and their difference; write or show their heat maps.

    Args:
        images: one path or two.
        open_hasher: called once the folder is known to be fit.
        output: where to.
        out: the folder of the figure and the page; None to show a preview.
        preview: how; with a folder only where it is not "auto".

    Raises:
        ImageError: if a photo cannot be decoded.
        UsageError: if ``out`` holds other files of these names.
    """
    from concepthash.explain import compare, explain_image
    from concepthash.explain.comparison import to_answer

    if out is not None:
        check_pages(out, (PNG, HTML), "--out")
    for image in images:
        _check_photo(image)
    hasher = open_hasher()
    photos = []
    for image in images:
        try:
            photos.append(explain_image(hasher, image))
        except ImageError as error:
            hint = f"file {display(image)}"
            raise ImageError(error.what, where=error.where, hint=hint) from None
        _note_enlarged(image, hasher, output)
    pair = compare(*photos) if len(photos) == 2 else None
    shown = pair or photos[0]
    files = []
    if out is not None:
        files = [write_file(out, PNG, shown.figure()), write_file(out, HTML, shown.html())]
    unicode = output.encoding.lower().startswith("utf")
    if not output.as_json and (out is None or preview != "auto"):
        way = choose_way(preview, sys.stdout)
        for line in _preview(photos, pair, way, unicode=unicode):
            output.line(line)
    output.result(
        "\n".join(_lines(photos[0]) if pair is None else _pair_lines(pair)),
        lambda: {
            **to_answer(shown),
            "model": str(hasher.bundle.path),
            "backend": hasher.backend,
            "files": list(map(str, files)),
        },
    )
    if files:
        output.note(f"written: {', '.join(map(display, files))}")


def _check_photo(image: str) -> None:
    """Refuse what is no file that can be read, before a model is loaded.

    Raises:
        ImageError: with what to do.
    """
    path, name = Path(image), display(image)
    if path.is_dir():
        what, hint = "a folder, not a photo", f"name one photo of it: ls {name}"
    elif not path.is_file():
        from concepthash.images import elsewhere

        known = path.exists()
        what, hint = "not a regular file" if known else "no such file", f"ls -l {name}"
        if "://" in image:
            what, hint = "an address, not a file: chash reads files only", f"curl -O {name}"
        elif not known and (far := elsewhere(image)):
            what, hint = far, "save the photo of this row as a file, and explain that"
    elif not os.access(path, os.R_OK):
        what, hint = "permission denied", f"ls -l {name}"
    else:
        return
    raise ImageError(what, where=image, hint=hint)


def _note_enlarged(image: str, hasher: Hasher, output: Output) -> None:
    """Say of a photo with few pixels that there is little to see."""
    from PIL import Image

    with Image.open(image) as opened:
        width, height = opened.size
    times = hasher.preprocess.resize / min(width, height)
    if times > _ENLARGED:
        output.note(
            f"{printable(image)} has {width} x {height} pixels and is enlarged {times:.3g} times: "
            "there is little to see for a concept"
        )


def _preview(
    photos: list[Explanation], pair: Comparison | None, way: Way, *, unicode: bool
) -> Iterator[str]:
    """The photos and their heat maps; where letters cannot be drawn, names stand above."""
    from shutil import get_terminal_size

    from concepthash.explain.figure import STRIP_TILE, mosaic, strip

    if way == "none":
        return
    order = range(photos[0].layout.concepts) if pair is None else pair.order
    if way in ("kitty", "iterm", "sixel"):
        yield show(strip(photos, order, STRIP_TILE), way, unicode=unicode)
        return
    columns = get_terminal_size().columns
    side = max(min(_BLOCK_TILE, columns // (len(order) + 1) - 1), 4)
    names = ["photo", *(photos[0].concept_names[m] for m in order)]
    yield " ".join(name[:side].ljust(side) for name in names)[:columns].rstrip()
    yield show(mosaic(photos, order, side, grey=way == "shades"), way, unicode=unicode)


def _lines(photo: Explanation) -> Iterator[str]:
    from concepthash.codes import to_hex
    from concepthash.explain.tables import aligned

    yield f"{printable(photo.name)}  {to_hex(photo.code)}"
    rows = [["concept", "name", "bits", "smallest margin", "weak bits"]]
    for concept, name in enumerate(photo.concept_names):
        margins, weak = photo.margins(concept), photo.weak(concept)
        marks = ",".join(str(bit) for bit, flips in enumerate(weak.tolist()) if flips)
        margin = f"{margins.min():.2g}"
        rows.append([str(concept), name, photo.bits(concept), margin, marks or "-"])
    yield from aligned(rows, left=3)


def _pair_lines(pair: Comparison) -> Iterator[str]:
    from concepthash.explain.tables import aligned

    layout = pair.a.layout
    yield f"A  {printable(pair.a.name)}"
    yield f"B  {printable(pair.b.name)}"
    yield f"distance {pair.distance} of {layout.bits}: {pair.summary}"
    rows = [["name", "distance", "smallest margin", "", "bits"]]
    for concept in pair.order:
        differing = pair.differing(concept)
        marks = "".join("^" if bit in differing else " " for bit in range(layout.sub_bits))
        name, distance = pair.a.concept_names[concept], f"{pair.per_concept[concept]}"
        margins = [f"{one.margins(concept).min():.2g}" for one in (pair.a, pair.b)]
        rows.append(
            [name, f"{distance} of {layout.sub_bits}", margins[0], "A", pair.a.bits(concept)]
        )
        rows.append(["", "", margins[1], "B", pair.b.bits(concept)])
        if differing:
            rows.append(["", "", "", "", marks])
    yield from aligned(rows, left=5)
