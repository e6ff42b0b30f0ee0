"""What ``chash demo --open`` shows: the gallery in its page, or the atlas without a server."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from concepthash.cli.extras import needs
from concepthash.cli.output import Output
from concepthash.errors import BackendError


def show(gallery: Path, *, threads: int | None, output: Output) -> None:
    """Serve a gallery and open its page, until interrupted; or write its atlas and open that.

    Args:
        gallery: to show.
        threads: of the model; None for all.
        output: told which of both it is.
    """
    try:
        with needs("serve"):
            import_module("concepthash.serve.server")
    except BackendError as missing:
        output.note(f"page: the atlas, not a server; {missing.what} ({missing.hint})")
        _show_atlas(gallery, threads, output)
        return
    from concepthash.cli import serve

    serve.command(gallery=gallery, port=0, threads=threads, open_page=True)


def _show_atlas(gallery: Path, threads: int | None, output: Output) -> None:
    import webbrowser

    from concepthash.cli import atlas

    page = gallery.with_name("atlas.html")
    with output.only_results():  # stdout holds the result of the demo
        atlas.command(gallery=gallery, out=page, threads=threads)
    webbrowser.open(page.resolve().as_uri())
