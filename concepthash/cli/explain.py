"""``chash explain``: why a photo has its code, and what concepts stand for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from concepthash.cli import options
from concepthash.cli.explain_parts import SPLITS, Measures, measure_parts
from concepthash.cli.explain_photos import explain_photos
from concepthash.cli.hashing import chosen_model, open_hasher
from concepthash.cli.options import check_threads, setting, switch
from concepthash.cli.output import Output
from concepthash.cli.preview import WAYS, check_way
from concepthash.errors import UsageError

if TYPE_CHECKING:
    from concepthash.runtime.hasher import Hasher

EXAMPLES = (
    "chash explain img.jpg               its bits, and where each concept looks",
    "chash explain img.jpg other.jpg --out why   in what they differ: PNG and HTML",
    "chash explain --parts cub20/part_locs.csv",
    "chash explain --parts CUB_200_2011 --model cub.chb --causality",
    "chash explain --parts demo/data --masks --curves --sample 20 --json",
)


def command(
    images: Annotated[
        list[str] | None,
        typer.Argument(help="A photo, or two to compare.", metavar="[IMG [OTHER]]"),
    ] = None,
    out: Annotated[
        Path | None,
        setting(
            "--out", "-o", text="Folder for explanation.png and .html.", env="CHASH_EXPLAIN_OUT"
        ),
    ] = None,
    preview: Annotated[
        str,
        setting(
            "--preview",
            text="How the terminal shows photos: auto, none, kitty, iterm, "
            "sixel, truecolour, 256 or shades.",
            values=WAYS,
        ),
    ] = "auto",
    parts: Annotated[
        Path | None,
        switch("--parts", text="Part annotations: part_locs.csv, or the folder that has it."),
    ] = None,
    data: Annotated[
        Path | None,
        setting("--data", text="Folder the photos' paths are relative to; by default found."),
    ] = None,
    model: options.Model = None,
    split: Annotated[str, switch("--split", text="test, train or all.", values=SPLITS)] = "test",
    masks: Annotated[
        bool, switch("--masks", text="Use part masks too: to agree with, and to cover.")
    ] = False,
    causality: Annotated[
        bool, switch("--causality", text="Cover each part, and see which concepts change.")
    ] = False,
    curves: Annotated[
        bool, switch("--curves", text="Cover cells in the order of the maps: are maps faithful?")
    ] = False,
    sample: Annotated[
        int, switch("--sample", text="Photos --causality and --curves cover, evenly spread.")
    ] = 100,
    batch_size: options.BatchSize = None,
    threads: options.Threads = None,
    device: options.Device = None,
    backend: options.Backend = None,
    precision: options.Precision = None,
    config: options.VerbConfig = None,
    as_json: options.Json = False,
) -> None:
    """Show why a photo has its code, or measure what the concepts of a model stand for."""
    output = Output(as_json=as_json)
    check_threads(threads)
    check_way(preview)
    images = images or []

    def hasher() -> Hasher:
        return open_hasher(
            chosen_model(model, output), output, device=device, threads=threads,
            batch_size=batch_size, backend=backend, precision=precision,
        )  # fmt: skip

    if parts is None:
        _check_images(images, masks or causality or curves)
        explain_photos(images, hasher, output, out=out, preview=preview)
        return
    if images:
        raise UsageError(
            "photos are explained, or concepts are measured on annotated parts: not both at once",
            where=f"{images[0]} and --parts",
            hint="chash explain IMG, or chash explain --parts part_locs.csv",
        )
    asked = Measures(parts, data, split, masks, causality, curves, sample)
    measure_parts(asked, hasher, output)


def _check_images(images: list[str], measured: bool) -> None:
    """Refuse what is neither one photo nor two.

    Raises:
        UsageError: with what to give.
    """
    if measured or not images:
        raise UsageError(
            "nothing to measure on was named: give part annotations"
            if measured
            else "nothing to explain was named: give a photo, or part annotations",
            where="--parts",
            hint="chash explain IMG, or chash explain --parts part_locs.csv",
        )
    if len(images) > 2:
        raise UsageError(
            f"{len(images)} photos cannot be compared at once: one is explained, or two",
            where=images[2],
            hint="chash explain IMG OTHER; or index a folder, and chash query IMG --explain DIR",
        )
