"""``chash serve``: a gallery that answers over HTTP, with a page to look at it."""

from __future__ import annotations

import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

from concepthash.bounds import MAX_PIXELS
from concepthash.cli import options, replicas
from concepthash.cli.extras import needs
from concepthash.cli.locate import newest_gallery
from concepthash.cli.options import check_threads, setting, switch
from concepthash.cli.output import Output, display, printable
from concepthash.cli.query import bundle_of
from concepthash.cli.stores import open_gallery
from concepthash.errors import UsageError

SCHEMA = "chash.serve/1"
EXAMPLES = (
    "chash serve --open                  the newest gallery here, in the browser",
    "chash serve birds.chg --port 0      on a free port",
    "CHASH_TOKEN=... chash serve birds.chg --host 0.0.0.0",
    "chash serve birds.chg --engine ray --address auto --replicas 2",
)
SHORTEST_TOKEN = 16


def command(
    gallery: Annotated[
        Path | None,
        options.gallery_argument(
            "Gallery, or its URL; by default the newest *.chg in this folder.", "[GALLERY]"
        ),
    ] = None,
    host: Annotated[
        str, setting("--host", text="Where to listen; beyond this machine only with a token.")
    ] = "127.0.0.1",
    port: Annotated[int, setting("--port", text="0 takes a free one.")] = 8000,
    token: Annotated[
        str | None,
        setting(
            "--token",
            text="What clients must bring. Others see it in the list of processes: rather set the "
            "variable, or give --token-file.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None, setting("--token-file", text="File that holds the token, and nothing else.")
    ] = None,
    model: options.Model = None,
    max_upload: Annotated[
        int, setting("--max-upload", text="Megabytes of an image that is sent.")
    ] = 16,
    max_pixels: Annotated[
        int, setting("--max-pixels", text="Pixels of an image that is sent.")
    ] = 50_000_000,
    queue: Annotated[int, setting("--queue", text="Requests that may wait for the model.")] = 256,
    timeout: Annotated[
        float, setting("--timeout", text="Seconds for a body to come, and for its answer.")
    ] = 30.0,
    engine: options.Engine = "local",
    address: options.Address = None,
    count: replicas.Count = None,
    cpus_per_replica: replicas.Cpus = None,
    shard_timeout: replicas.Timeout = None,
    threads: options.Threads = None,
    device: options.Device = None,
    backend: options.Backend = None,
    precision: options.Precision = None,
    open_page: Annotated[bool, switch("--open", text="Open the page in the browser.")] = False,
    verbose: Annotated[
        bool, switch("--verbose", "-v", text="One line a request, on stderr.")
    ] = False,
    config: options.VerbConfig = None,
    as_json: Annotated[
        bool, switch("--json", text="Print the address as JSON, once it listens.")
    ] = False,
) -> None:
    """Answer queries over HTTP, and show a page."""
    output = Output(as_json=as_json)
    check_threads(threads)
    _check("--port", port, 0, 65535)
    _check("--max-upload", max_upload, 1, 1024)
    _check("--max-pixels", max_pixels, 1, MAX_PIXELS)
    _check("--queue", queue, 1, 65536)
    _check("--timeout", timeout, 1, 3600)
    token = _token(token, token_file)
    elsewhere = replicas.Replicas(address, count, cpus_per_replica, shard_timeout)
    elsewhere.check(engine)
    with needs("serve"):
        from concepthash.serve.engine import Engine, Limits
        from concepthash.serve.server import listening, reach, serve, url_of
    if gallery is None:
        gallery = newest_gallery("chash serve NAME.chg")
        output.choice("gallery", gallery, "the newest here")
    with open_gallery(gallery) as opened:
        bundle = bundle_of(opened, output, named=model)
        images = len(opened)

    def tell(line: str) -> None:
        output.note(printable(line))

    bound = listening(host, port, token=token is not None)
    held = nullcontext() if engine == "local" else elsewhere.serving(
        gallery, opened, lasting=True, tell=tell
    )  # fmt: skip
    with bound, held as shards:
        limits = Limits(upload_bytes=max_upload << 20, pixels=max_pixels, queue=queue)
        answers = Engine(
            opened.path, bundle, device=device or "auto", threads=threads,
            backend=backend or "auto", precision=precision, limits=limits, tell=tell,
            held=None if shards is None else lambda *_: shards,
        )  # fmt: skip
        if not images:
            command = f"chash index FOLDER --out {display(gallery)}"
            output.note(f"the gallery is empty; images appear once they are indexed: {command}")
        url, name = url_of(bound, host), options.named(gallery)

        def ready(_: object) -> None:
            if as_json:
                output.result("", lambda: {"schema": SCHEMA, "url": url, "gallery": name})
                sys.stdout.flush()
            output.note(f"serving {printable(name)} on {url} (Ctrl-C ends it)")
            if others := reach(bound, token=token is not None):
                output.note(others)
            if open_page:
                import webbrowser

                threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()

        serve(
            answers, bound, host=host, token=token, limits=limits, seconds=timeout, ready=ready,
            log=(lambda line: output.note(printable(line))) if verbose else None,
        )  # fmt: skip


def _check(option: str, value: float, least: int, most: int) -> None:
    if not least <= value <= most:
        raise UsageError(
            f"{value:g} is not between {least} and {most}", where=option, hint="chash serve --help"
        )


def _token(given: str | None, file: Path | None) -> str | None:
    """The token of a flag, the variable or a file; None for none.

    Raises:
        UsageError: if there are two, the file cannot be read, or it would be easy to guess.
    """
    if given is not None and file is not None:
        raise UsageError(
            "a token and a file of one", where="--token and --token-file", hint="give one of them"
        )
    where = "--token or CHASH_TOKEN"
    if file is not None:
        where = f"--token-file {file}"
        try:
            given = file.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"no token can be read: {error}", where=where, hint=f"ls -l {display(file)}"
            ) from None
    if given is None:
        return None
    if (
        len(given) < SHORTEST_TOKEN
        or not given.isascii()
        or not given.isprintable()
        or " " in given
    ):
        raise UsageError(
            f"a token has {SHORTEST_TOKEN} characters or more, of ASCII and without spaces",
            where=where,
            hint='python -c "import secrets; print(secrets.token_urlsafe(32))"',
        )
    return given
