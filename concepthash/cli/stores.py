"""Where codes are, as a user names it: a gallery, or a file of codes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from concepthash.cli.kinds import folder_kind
from concepthash.cli.locate import bundle_of_run
from concepthash.cli.output import display
from concepthash.errors import GalleryError, UsageError

if TYPE_CHECKING:
    from concepthash.runtime.galleries import AnyGallery
    from concepthash.runtime.index import HammingIndex


def open_gallery(path: Path, *, write: bool = False) -> AnyGallery:
    """The gallery that was named.

    Raises:
        GalleryError: if it is a file, is missing or cannot be opened.
        GalleryLocked: to write, while another process does.
    """
    from concepthash.runtime import galleries

    return galleries.open_gallery(check_gallery(path, write=write), write=write)


def check_gallery(path: Path, *, write: bool = False) -> Path:
    """The gallery that was named; a file, a bundle or a run is refused with what to give.

    Raises:
        GalleryError: if it is one of them.
        UsageError: to write, behind a URL.
    """
    if write:
        from concepthash.runtime.galleries import local_gallery

        local_gallery(path, write=True)
    if path.is_file():
        raise GalleryError(
            "a file, not a gallery: a gallery is a folder NAME.chg",
            where=path,
            hint=f"chash inspect {path} says what it is; chash index FOLDER makes a gallery",
        )
    kind = folder_kind(path)
    if kind in ("bundle", "run"):
        bundle = path if kind == "bundle" else bundle_of_run(path)
        makes = "" if bundle else f"chash export {display(path)}, then "
        raise GalleryError(
            f"a {'bundle' if kind == 'bundle' else 'training run'}, not a gallery",
            where=path,
            hint=f"{makes}chash index FOLDER --model {display(bundle or 'NAME.chb')}",
        )
    return path


class Store:
    """Codes by id, and the paths of their images if a gallery has them; use in a ``with`` block.

    Args:
        path: a gallery, or a file of codes of a known suffix.
        concepts: of a file that does not say how many; 1 by default.

    Raises:
        UsageError: if nothing is there, or the suffix is unknown.
        GalleryError: if it cannot be read.
    """

    def __init__(self, path: Path, concepts: int | None = None) -> None:
        from concepthash.runtime.interchange import load_index

        if not path.exists():
            raise UsageError("no such gallery or file", where=path, hint=f"ls {path.parent}")
        self.gallery: AnyGallery | None = None
        if path.is_dir():
            self.gallery = open_gallery(path)
            self.index: HammingIndex = self.gallery.index()
        else:
            self.index = load_index(path, concepts=concepts)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        if self.gallery is not None:
            self.gallery.close()

    def path(self, id: int) -> str | None:
        """Where the image of an id lies; None in a file of codes."""
        return None if self.gallery is None else str(self.gallery.entry(id).path)
