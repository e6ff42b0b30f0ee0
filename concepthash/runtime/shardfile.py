"""The manifest of a sharded gallery: its shards, and the ids each of them may hold.

::

    NAME.chg/shards.json
      {"schema": "chash.shards/1", "bits": 64, "concepts": 4, "bit_order": "numpy.packbits",
       "fingerprint": "...", "model": "birds",
       "shards": [{"name": "shard-0001.chg", "ids": [[1000000001, 2000000000]]}, ...]}

The ranges of ids are closed and share no id; a shard gives new ids from its last one. It is written
when shards come, go or change their model, and by no commit of images.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

from concepthash.bundle import BIT_ORDER
from concepthash.codes import CodeLayout
from concepthash.errors import GalleryError, UsageError
from concepthash.files import write_json
from concepthash.runtime.place import DATABASE, SUFFIX
from concepthash.runtime.storage import SHARDS, damaged, storage_errors

SCHEMA = "chash.shards/1"
SPAN = 10**9
"""New ids a shard can give, so that a person reads image 17 of shard 3 in 3000000017."""
MOST = 9999
"""Shards of one gallery."""

NUMBERED = re.compile(r"shard-([0-9]{4})\.chg")
"""How the shards are called that are made here."""

_LARGEST = 1 << 48  # as of records: no gallery has an id above
_BYTES = 16 * 2**20  # a manifest of the most shards takes less
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,199}\.chg")

Ids: TypeAlias = tuple[int, int]
"""The first and the last id of a range."""


@dataclass(frozen=True)
class Shard:
    """One shard: its folder's name, and the ranges of ids it owns, ascending."""

    name: str
    ids: tuple[Ids, ...]

    @property
    def fresh(self) -> Ids:
        """The range its new ids come from."""
        return self.ids[-1]

    def owns(self, id: int) -> bool:
        """Whether an image with this id can only be here."""
        return any(first <= id <= last for first, last in self.ids)


@dataclass(frozen=True)
class Manifest:
    """What a sharded gallery holds, and where.

    Args:
        layout: of its codes.
        fingerprint: of the model that made them, 64 hexadecimal digits.
        model: the bundle's name, for people.
        shards: in order; the first is number 1.
    """

    layout: CodeLayout
    fingerprint: str
    model: str
    shards: tuple[Shard, ...]

    def write(self, folder: Path) -> None:
        """Put it into a gallery's folder, whole or not at all."""
        values = {
            "schema": SCHEMA,
            "bits": self.layout.bits,
            "concepts": self.layout.concepts,
            "bit_order": BIT_ORDER,
            "fingerprint": self.fingerprint,
            "model": self.model,
            "shards": [{"name": shard.name, "ids": shard.ids} for shard in self.shards],
        }
        with storage_errors(folder / SHARDS):
            write_json(folder / SHARDS, values)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest in a gallery's folder.

        Raises:
            GalleryDamaged: if it is missing, or not what is written here.
            GalleryError: if it is of a newer format.
        """
        file = folder / SHARDS
        if not file.is_file():
            raise damaged(f"the gallery's list of shards is missing: no {SHARDS} in it", file)
        with storage_errors(file, reading=True), file.open("rb") as opened:
            text = opened.read(_BYTES + 1)
        try:
            if len(text) > _BYTES:
                raise ValueError(f"it is larger than {_BYTES >> 20} MiB")
            values = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
            _check_schema(values, file)
            manifest = _manifest(values)
            _check_listed(folder, manifest)
            return manifest
        except (ValueError, TypeError, RecursionError, UsageError) as error:
            what = error.what if isinstance(error, UsageError) else str(error)
            raise damaged(f"the gallery's list of shards is damaged: {what}", file) from None


def shard_name(number: int) -> str:
    """What the shard of a number, from 1 on, is called."""
    return f"shard-{number:04d}{SUFFIX}"


def fresh_ids(number: int, after: int = 0) -> Ids:
    """The range of new ids of a shard, number from 1 on.

    Args:
        after: the largest id ever given.
    """
    base = after // SPAN
    return (base + number) * SPAN + 1, (base + number + 1) * SPAN


def new_shards(count: int, old: Sequence[Sequence[Ids]] = (), after: int = 0) -> tuple[Shard, ...]:
    """So many shards with a range of new ids each.

    Args:
        old: the ranges of ids that each has already.
        after: the largest id ever given.

    Raises:
        UsageError: if there cannot be so many.
    """
    if not 1 <= count <= MOST:
        raise UsageError(
            f"a gallery has from 1 to {MOST} shards, not {count}", where="shards", hint="4 shards"
        )
    held = [*old, *[()] * (count - len(old))]
    return tuple(
        Shard(shard_name(number), (*ids, fresh_ids(number, after)))
        for number, ids in enumerate(held, 1)
    )


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"{_shown(key)} stands there twice")
        values[key] = value
    return values


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _check_schema(values: object, file: Path) -> None:
    """Tell a newer manifest from a damaged one."""
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    schema = values.get("schema")
    newer = re.fullmatch(r"chash\.shards/([0-9]{1,9})", str(schema))
    if newer is not None and int(newer[1]) > 1:
        raise GalleryError(
            f"sharded galleries of the form {schema} are newer than this version reads ({SCHEMA})",
            where=file,
            hint="pip install --upgrade concepthash",
        )
    if schema != SCHEMA:
        raise ValueError(f"its schema is {_shown(schema)}, not {SCHEMA}")


def _manifest(values: dict[str, Any]) -> Manifest:
    """The manifest that the values make; keys this version does not know are passed over."""
    if values.get("bit_order") != BIT_ORDER:
        raise ValueError(f"unknown bit order {_shown(values.get('bit_order'))}")
    layout = CodeLayout(_whole(values, "bits"), _whole(values, "concepts"))
    fingerprint, model = _text(values, "fingerprint"), _text(values, "model")
    if not re.fullmatch("[0-9a-f]{64}", fingerprint):
        raise ValueError("the fingerprint is not 64 hexadecimal digits")
    listed = values.get("shards")
    if not isinstance(listed, list) or not 1 <= len(listed) <= MOST:
        raise ValueError(f"it does not list from 1 to {MOST} shards")
    shards = tuple(_shard(each) for each in listed)
    names: set[str] = set()
    for shard in shards:
        if shard.name.lower() in names:  # one folder, where case does not count
            raise ValueError(f"two shards have the name {shard.name}")
        names.add(shard.name.lower())
    ranges = sorted((ids, shard.name) for shard in shards for ids in shard.ids)
    for ((_, last), name), ((first, _), other) in pairwise(ranges):
        if first <= last:
            raise ValueError(f"{name} and {other} both own the id {first}")
    return Manifest(layout, fingerprint, model, shards)


def _check_listed(folder: Path, manifest: Manifest) -> None:
    """Refuse a list that lacks a shard: without it answers would be smaller, and nobody would know.

    No shard is made before it is listed.
    """
    listed = {shard.name for shard in manifest.shards}
    if not all((folder / name).is_dir() for name in listed):
        return  # opening it names the one that is missing
    for path in sorted(folder.glob(f"shard-*{SUFFIX}/{DATABASE}")):
        if NUMBERED.fullmatch(path.parent.name) and path.parent.name not in listed:
            raise ValueError(f"{path.parent.name} lies there and is not listed")


def _shard(values: object) -> Shard:
    if not isinstance(values, dict):
        raise ValueError("a shard is not a JSON object")
    name = _text(values, "name")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{_shown(name)} is not the plain name of a folder NAME{SUFFIX}")
    listed = values.get("ids")
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"{name} owns no range of ids")
    ids = []
    for pair in listed:
        if not isinstance(pair, list) or [type(id) for id in pair] != [int, int]:
            raise ValueError(f"the ids of {name} are not pairs of numbers")
        first, last = pair
        if not 1 <= first <= last < _LARGEST:
            raise ValueError(f"{name} owns a range of ids that cannot be")
        ids.append((first, last))
    return Shard(name, tuple(sorted(ids)))


def _whole(values: dict[str, Any], key: str) -> int:
    value = values.get(key)
    if type(value) is not int:
        raise ValueError(f"{key} is not a whole number")
    return value


def _text(values: dict[str, Any], key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"{key} is not a line of text")
    return value


def _shown(value: object) -> str:
    """A value of a damaged file, short and on one line."""
    return f"{value!r:.80}"
