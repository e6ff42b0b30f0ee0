"""Labelled codes, in memory and on disk: what an evaluation compares."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from concepthash.codes import CodeLayout, Codes
from concepthash.errors import DataError, MismatchError, UsageError
from concepthash.files import list_command, refuse_pipe, replacing
from concepthash.rankings import Labels, as_labels

_WRITE = "write it with concepthash.codesets.save_codes"

# What numpy and zipfile raise on a file that is no archive, a broken one, or one of other arrays.
_DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class CodeSet:
    """Labelled codes: ``codes`` ``(n, K/8)`` uint8, ``labels`` ``(n,)``, and their layout."""

    codes: Codes
    labels: Labels
    layout: CodeLayout


def save_codes(
    path: str | Path, codes: npt.ArrayLike, labels: npt.ArrayLike, layout: CodeLayout
) -> Path:
    """Write labelled codes as one ``.npz`` file, whole or not at all.

    The arrays are ``codes`` ``(n, K/8)`` uint8, ``labels`` ``(n,)`` int64 or unicode, ``bits`` and
    ``concepts`` (numbers).

    Raises:
        MismatchError: if the codes do not have this layout, or are not as many as the labels.
        DataError: if the labels are unusable.
    """
    path = Path(path)
    checked, names = layout.check(codes), as_labels(labels, where=path)
    if len(checked) != len(names):
        raise MismatchError(f"{len(checked)} codes have {len(names)} labels", where=path)
    with replacing(path) as file:
        np.savez(
            file,
            codes=checked,
            labels=names,
            bits=np.int64(layout.bits),
            concepts=np.int64(layout.concepts),
        )
    return path


def load_codes(path: str | Path) -> CodeSet:
    """Labelled codes from a file of :func:`save_codes`; nothing in it is ever unpickled.

    Raises:
        DataError: if the file is missing, damaged or lacks one of its arrays.
        MismatchError: if its codes do not fit its bits, or its labels their number.
    """
    path = Path(path)
    try:
        refuse_pipe(path)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            codes, labels = arrays["codes"], arrays["labels"]
            bits, concepts = arrays["bits"].item(), arrays["concepts"].item()
    except FileNotFoundError as error:
        raise DataError(
            "there is no such file of codes", where=path, hint=list_command(path.parent)
        ) from error
    except _DAMAGE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _not_codes(path, reason) from error
    if not isinstance(bits, int) or not isinstance(concepts, int):
        raise _not_codes(path, f"bits is {bits!r} and concepts is {concepts!r}")
    names = as_labels(labels, where=path)
    try:
        layout = CodeLayout(bits, concepts)
        if codes.ndim != 2:
            raise MismatchError(f"codes must be of shape (n, {layout.nbytes}), got {codes.shape}")
        checked = layout.check(codes)
    except UsageError as error:
        raise _not_codes(path, error.what) from error
    except MismatchError as error:
        raise MismatchError(error.what, where=path, hint=error.hint or _WRITE) from error
    if len(checked) != len(names):
        what = f"{len(checked)} codes have {len(names)} labels"
        raise MismatchError(what, where=path, hint=_WRITE)
    return CodeSet(checked, names, layout)


def _not_codes(path: Path, reason: str) -> DataError:
    return DataError(
        f"this is not a file of codes: {reason}",
        where=path,
        hint=_WRITE,
    )
