"""``chash index push``: a gallery behind a URL, where every verb that reads takes it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from concepthash.cli import options
from concepthash.cli.options import switch
from concepthash.cli.output import Output, display
from concepthash.cli.stores import check_gallery

EXAMPLES = (
    "chash index push birds.chg file:///srv/www/birds.chg   a folder that a web server shows",
    "chash index push birds.chg s3://bucket/birds.chg       needs concepthash[url] and s3fs",
    "chash query IMG --gallery https://HOST/birds.chg --model birds.chb",
)


def command(
    gallery: Annotated[Path, options.gallery_argument("A gallery.")],
    url: Annotated[str, typer.Argument(help="Where to; a folder of its own.", metavar="URL")],
    verify: Annotated[
        bool,
        switch("--verify", text="Read all that is there, to send again what is damaged."),
    ] = False,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Publish a gallery, or bring what was published up to date: only what changed is sent."""
    output = Output(as_json=as_json)

    from concepthash.runtime.remote import push

    done = push(check_gallery(gallery), url, verify=verify, force=force)
    sent = f"{done.uploaded} sent, {done.uploaded_bytes} of {done.bytes} bytes"
    output.result(
        f"{done.url}: {done.files} files, {sent}",
        lambda: {"schema": "chash.push/1", "gallery": options.named(gallery), **asdict(done)},
    )
    output.hint(f"chash query IMAGE --gallery {display(done.url)}")
