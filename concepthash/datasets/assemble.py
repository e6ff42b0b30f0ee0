"""From what a layout lists to a checked data set; the stratified hold-out."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from concepthash.datasets.records import Dataset, Entry, Listing, Split
from concepthash.datasets.text import some
from concepthash.errors import DataError, UsageError

DEFAULT_TEST_SHARE = 0.2
_NUMBER = re.compile(r"\d+\.(?=\D)")


def human_name(raw: str) -> str:
    """A class name as people write it: ``"004.Groove_billed_Ani"`` gives ``"Groove billed Ani"``.

    A number followed by a full stop and no further digit is dropped from the front, underscores
    become spaces, runs of spaces one space.
    """
    return " ".join(_NUMBER.sub("", raw, count=1).replace("_", " ").split()) or raw


def holdout(split: Split, share: float = 0.2, seed: int = 0) -> tuple[Split, Split]:
    """What stays and what is held out, stratified by class, both in the order of ``split``.

    Of a class with n photos, ``share * n`` are held out, rounded, but at least one and at most
    n - 1 (none of a class with a single photo). Which ones follows from the seed and the paths
    alone, so the choice does not depend on the order or on library versions, a larger share
    contains a smaller one, and a new photo moves at most one other.

    Raises:
        UsageError: if ``share`` is not in [0, 1).
    """
    if not 0 <= share < 1:
        raise UsageError(
            f"a share is at least 0 and below 1, not {share}", where="share", hint="use 0.2"
        )
    held = np.zeros(len(split), dtype=bool)
    if share > 0:
        for label in np.unique(split.labels):
            members = np.flatnonzero(split.labels == label).tolist()
            members.sort(key=lambda row: _rank(seed, split.paths[row]))
            count = min(max(int(share * len(members) + 0.5), 1), len(members) - 1)
            held[members[:count]] = True
    return split.select(np.flatnonzero(~held)), split.select(np.flatnonzero(held))


def _rank(seed: int, path: str) -> bytes:
    return hashlib.sha256(f"{seed}\n{path}".encode(errors="surrogateescape")).digest()


def assemble(listing: Listing, *, test_share: float | None, seed: int) -> Dataset:
    """The data set a layout lists, after the checks that need all entries.

    ``test_share`` None means 0.2 where the layout has no test split.

    Raises:
        DataError: nothing listed, a photo listed twice, one class only, names that differ in
            case only, or classes without a photo in the train split.
        UsageError: a ``test_share`` for a data set that has its own test split.
    """
    _refuse_repeats(listing)
    entries, notes = _settle_val(listing.entries)
    notes = [*listing.notes, *notes]
    keys = _class_order(listing, entries, notes)
    raw = [key if listing.names is None else listing.names[key] for key in keys]
    _refuse_ambiguous(raw, listing)
    label = {key: number for number, key in enumerate(keys)}
    train = _split([e for e in entries if e.split != "test"], label)
    test = _split([e for e in entries if e.split == "test"], label)
    if not len(test):
        train, test = _hold_out_test(train, test_share, seed, notes)
    elif test_share is not None:
        raise UsageError(
            f"a test share of {test_share} was asked for, but the data set has its own test split",
            where=listing.source,
            hint="leave out --test-share",
        )
    names = _class_names(raw, notes)
    _compare(train, test, names, listing, notes)
    return Dataset(listing.root, listing.layout, names, train, test, tuple(notes))


def _refuse_repeats(listing: Listing) -> None:
    if not listing.entries:
        raise DataError("no image is listed", where=listing.source, hint="add images and labels")
    seen: dict[str, Entry] = {}
    for entry in listing.entries:
        first = seen.setdefault(entry.path, entry)
        if first is not entry:
            raise DataError(
                f"{entry.path} is listed twice, as {first.label!r} and as {entry.label!r}",
                where=f"{first.where} and {entry.where}",
                hint="keep one of the two entries",
            )


def _settle_val(entries: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    count = Counter(entry.split for entry in entries)
    if not count["val"]:
        return list(entries), []
    if count["test"]:
        note = f"{count['val']:,} val images are left out: train and test are used"
        return [entry for entry in entries if entry.split != "val"], [note]
    note = f"no test split: the {count['val']:,} val images are used as test"
    return [e._replace(split="test") if e.split == "val" else e for e in entries], [note]


def _class_order(listing: Listing, entries: Sequence[Entry], notes: list[str]) -> list[str]:
    used = {entry.label for entry in entries}
    if listing.names is None:
        if all(key.isdecimal() for key in used):
            return sorted(used, key=lambda key: (int(key), key))
        return sorted(used)
    keys = [key for key in listing.names if key in used]
    if len(keys) < len(listing.names):
        notes.append(f"{len(keys):,} of the {len(listing.names):,} listed classes have images")
    return keys


def _refuse_ambiguous(raw: Sequence[str], listing: Listing) -> None:
    if len(raw) == 1:
        raise DataError(
            f"there is only one class, {raw[0]!r}: nothing can be told apart",
            where=listing.source,
            hint="give a folder with at least two class folders, or a CSV with two labels",
        )
    seen: dict[str, str] = {}
    for name in raw:
        other = seen.setdefault(name.casefold(), name)
        if other is not name:
            raise DataError(
                f"two classes have one name, up to upper and lower case: {other!r} and {name!r}",
                where=listing.source,
                hint="rename one, or merge the two",
            )


def _class_names(raw: Sequence[str], notes: list[str]) -> tuple[str, ...]:
    clean = [human_name(name) for name in raw]
    count = Counter(name.casefold() for name in clean)
    names = [
        given if count[name.casefold()] > 1 else name
        for given, name in zip(raw, clean, strict=True)
    ]
    kept = [name for name in clean if count[name.casefold()] > 1]
    if kept:
        notes.append(f"{len(kept)} class names stay as written, to be told apart: {some(kept)}")
    return tuple(names)


def _split(entries: Sequence[Entry], label: dict[str, int]) -> Split:
    labels = np.array([label[entry.label] for entry in entries], dtype=np.int64)
    return Split(tuple(entry.path for entry in entries), labels)


def _hold_out_test(
    everything: Split, test_share: float | None, seed: int, notes: list[str]
) -> tuple[Split, Split]:
    share = DEFAULT_TEST_SHARE if test_share is None else test_share
    if share:
        notes.append(f"no test split: {share * 100:g} % of each class held out, seed {seed}")
    else:
        notes.append("no test split: all images are used to train")
    return holdout(everything, share, seed)


def _compare(
    train: Split, test: Split, names: Sequence[str], listing: Listing, notes: list[str]
) -> None:
    in_train, in_test = set(train.labels.tolist()), set(test.labels.tolist())
    only_test = sorted(in_test - in_train)
    if only_test:
        raise DataError(
            f"{len(only_test)} of {len(names)} classes have test images but no train images: "
            + some(names[label] for label in only_test),
            where=listing.source,
            hint="add train images of them, or remove them from the test split",
        )
    only_train = sorted(in_train - in_test)
    if only_train and in_test:
        notes.append(
            f"{len(only_train)} classes have no test image: "
            + some(names[label] for label in only_train)
        )
