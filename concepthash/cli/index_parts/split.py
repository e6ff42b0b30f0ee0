"""``chash index split``: a gallery as a sharded one, or a file of codes as several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from concepthash.cli import options
from concepthash.cli.options import switch
from concepthash.cli.output import Output, display
from concepthash.cli.stores import Store, check_gallery
from concepthash.errors import UsageError

EXAMPLES = (
    "chash index split birds.chg --shards 4 --out many.chg",
    "chash index split birds.chx --shards 4 --out parts   files birds-1.chx and so on",
)


def command(
    gallery: Annotated[Path, options.gallery_argument("A gallery, or a file of codes.")],
    shards: Annotated[int, switch("--shards", "-n", text="How many.")],
    out: Annotated[Path, switch("--out", "-o", text="The new gallery, or a folder of files.")],
    as_json: options.Json = False,
) -> None:
    """Share a gallery among shards that together hold the same images under the same ids."""
    output = Output(as_json=as_json)
    if shards < 1:
        raise UsageError(f"{shards} shards cannot be made", where="--shards", hint="--shards 4")
    if gallery.is_file():
        made = _files(gallery, shards, out)
    else:
        from concepthash.runtime.shards import split

        made = split(check_gallery(gallery), shards, out)
    output.result(
        "\n".join(map(str, made)),
        lambda: {
            "schema": "chash.split/1",
            "out": str(out),
            "shards": [str(shard) for shard in made],
        },
    )
    if not gallery.is_file():
        output.hint(f"chash query IMAGE --gallery {display(out)}")


def _files(source: Path, shards: int, out: Path) -> list[Path]:
    from concepthash.files import new_folder
    from concepthash.runtime.interchange import save_index
    from concepthash.runtime.resharding import split

    if out.exists():
        raise UsageError("the folder exists", where=out, hint="--out NEW_FOLDER")
    with Store(source) as store, new_folder(out) as folder:
        names = [f"{source.stem}-{number}{source.suffix}" for number in range(1, shards + 1)]
        for name, shard in zip(names, split(store.index, shards), strict=True):
            save_index(shard, folder / name)
    return [out / name for name in names]
