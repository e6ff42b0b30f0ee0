"""Stanford Cars (Krause et al. 2013): MATLAB files, either one for all or one a split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from concepthash.datasets.records import Entry, Listing, Part
from concepthash.errors import BackendError, DataError
from concepthash.files import relative_path

_JOINT = ("cars_annos.mat",)
_TRAIN = ("cars_train_annos.mat",)
# The test file of the development kit has no classes; the one with classes was published apart.
_TEST = ("cars_test_annos_withlabels.mat", "cars_test_annos.mat")


def detect_cars(root: Path) -> bool:
    """Whether the annotation files are in ``root`` or ``root/devkit``."""
    return _first(root, _JOINT) is not None or _first(root, _TRAIN) is not None


def read_cars(root: Path) -> Listing:
    """The photos of ``car_ims/``, or of ``cars_train/`` and ``cars_test/``, official split.

    Where the annotations of both forms are present, the image folder decides; without one,
    ``cars_annos.mat`` does.

    Raises:
        BackendError: if SciPy is not installed.
        DataError: if a file is missing or damaged, or lacks the classes.
    """
    joint = _first(root, _JOINT)
    apart = (root / "cars_train").is_dir() and not (root / "car_ims").is_dir()
    if joint is not None and not (apart and _first(root, _TRAIN)):
        data = _load(joint)
        names = _names(data, joint)
        entries = _entries(data, joint, names, "relative_im_path", "", None)
        return Listing(root, "cars", joint, tuple(entries), names)
    meta = _need(root, ("cars_meta.mat",))
    names = _names(_load(meta), meta)
    entries = []
    halves: tuple[tuple[tuple[str, ...], Part], ...] = ((_TRAIN, "train"), (_TEST, "test"))
    for candidates, part in halves:
        file = _need(root, candidates)
        entries += _entries(_load(file), file, names, "fname", f"cars_{part}/", part)
    return Listing(root, "cars", _need(root, _TRAIN), tuple(entries), names)


def _first(root: Path, names: tuple[str, ...]) -> Path | None:
    places = [folder / name for name in names for folder in (root, root / "devkit")]
    return next((place for place in places if place.is_file()), None)


def _need(root: Path, names: tuple[str, ...]) -> Path:
    file = _first(root, names)
    if file is None:
        raise DataError(
            f"{' or '.join(names)} is missing", where=root, hint="add it here or in devkit/"
        )
    return file


def _load(file: Path) -> dict[str, Any]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise BackendError(
            "reading the .mat files of Stanford Cars needs SciPy",
            where=file,
            hint="pip install 'concepthash[train]'",
        ) from error
    try:
        return dict(loadmat(file, squeeze_me=True))
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        raise DataError(
            f"{file.name} cannot be read as a MATLAB file", where=file, hint="download it again"
        ) from error


def _entries(
    data: dict[str, Any],
    file: Path,
    names: dict[str, str],
    path_field: str,
    prefix: str,
    part: Part | None,
) -> list[Entry]:
    """The entries of one file; ``part`` None: its ``test`` field tells the split."""
    records = np.atleast_1d(_field(data, "annotations", file))
    needed = [path_field, "class", *(["test"] if part is None else [])]
    missing = [name for name in needed if name not in (records.dtype.names or ())]
    if missing:
        raise DataError(
            f"the annotations have no {' or '.join(missing)}",
            where=file,
            hint="the test file with classes is cars_test_annos_withlabels.mat",
        )
    tests = records["test"] if part is None else np.full(len(records), part == "test")
    rows = zip(records[path_field], records["class"], tests, strict=True)
    entries = []
    for number, (path, label, test) in enumerate(rows, start=1):
        where = f"{file}, entry {number}"
        if str(label) not in names:
            raise DataError(
                f"class {label} has no name among {len(names)}", where=where, hint="check the files"
            )
        place = relative_path(f"{prefix}{path}", where)
        entries.append(Entry(place, str(label), "test" if test else "train", where))
    return entries


def _names(data: dict[str, Any], file: Path) -> dict[str, str]:
    names = np.atleast_1d(_field(data, "class_names", file))
    return {str(number): str(name) for number, name in enumerate(names, start=1)}


def _field(data: dict[str, Any], name: str, file: Path) -> Any:
    if name not in data:
        raise DataError(f"{file.name} has no {name!r}", where=file, hint="download it again")
    return data[name]
