"""A folder of class folders, optionally below ``train/`` and ``test/`` (or ``val/``)."""

from __future__ import annotations

from pathlib import Path

from concepthash.datasets.records import Entry, Listing, Part
from concepthash.datasets.text import some
from concepthash.errors import DataError
from concepthash.images import IMAGE_SUFFIXES, find_images, is_image

SPLIT_FOLDERS: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
}
"""Names of split folders, in any case."""


def visible_folders(folder: Path) -> list[Path]:
    """The sub-folders in name order, without hidden ones and ``__MACOSX``.

    Raises:
        DataError: if the folder cannot be read.
    """
    try:
        return sorted(
            entry
            for entry in folder.iterdir()
            if not entry.name.startswith(".") and entry.name != "__MACOSX" and entry.is_dir()
        )
    except OSError as error:
        raise _unreadable(folder, error) from error


def read_folder(root: Path) -> Listing:
    """The photos of each class folder, at any depth below it; hidden files are left out.

    A folder named ``train`` without folders in it is a class, not a split.

    Raises:
        DataError: a class folder without an image, split folders with one meaning, or classes
            one level deeper than expected.
    """
    splits = _split_folders(root)
    if not splits:
        entries, notes = _classes(root, root, None)
        return Listing(root, "folder", root, tuple(entries), notes=tuple(notes))
    entries, notes = [], []
    beside = [f.name for f in visible_folders(root) if f not in splits.values()]
    if beside:
        notes.append(f"folders beside {splits['train'].name}/ are left out: {some(beside)}")
    for part, folder in splits.items():
        found, remarks = _classes(root, folder, part)
        entries += found
        notes += remarks
    return Listing(root, "folder", root, tuple(entries), notes=tuple(notes))


def _split_folders(root: Path) -> dict[Part, Path]:
    splits: dict[Part, Path] = {}
    for folder in visible_folders(root):
        part = SPLIT_FOLDERS.get(folder.name.casefold())
        if part is None or not visible_folders(folder):
            continue
        if part in splits:
            raise DataError(
                f"{splits[part].name}/ and {folder.name}/ are both folders of the {part} split",
                where=root,
                hint="keep or rename one of them",
            )
        splits[part] = folder
    return splits if "train" in splits else {}


def _classes(root: Path, above: Path, part: Part | None) -> tuple[list[Entry], list[str]]:
    entries: list[Entry] = []
    empty = []
    nested = True
    folders = visible_folders(above)
    for folder in folders:
        try:
            images = list(find_images([folder]))
        except OSError as error:
            raise _unreadable(folder, error) from error
        if not images:
            empty.append(folder.name)
        nested = nested and all(image.parent != folder for image in images)
        paths = [image.relative_to(root).as_posix() for image in images]
        entries += [Entry(path, folder.name, part, str(root / path)) for path in paths]
    if empty:
        raise DataError(
            f"class folders without an image: {some(empty)}",
            where=above,
            hint=f"remove them, or add images ({' '.join(sorted(IMAGE_SUFFIXES))})",
        )
    if nested and folders:
        deeper = f"chash train {folders[0]}" if len(folders) == 1 else "name them train/ and test/"
        raise DataError(
            f"no image lies directly in a class folder: {some(f.name for f in folders)} hold "
            "folders only",
            where=above,
            hint=f"give the folder that holds the class folders: {deeper}",
        )
    loose = _loose_images(above)
    note = f"{loose:,} images directly in {above.name}/ have no class and are left out"
    return entries, [note] if loose else []


def _loose_images(folder: Path) -> int:
    return sum(is_image(entry) and entry.is_file() for entry in folder.iterdir())


def _unreadable(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"a folder cannot be read: {error.strerror}",
        where=error.filename or folder,
        hint=f"ls -ld {folder}",
    )
