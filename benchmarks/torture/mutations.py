"""What is done to files and to the values in them."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.torture.pictures import damaged

DEEP = 100_000
HUGE_FILE = 1 << 40

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 7, 2**31, 2**63, 2**70, -(2**70), 0.5, 1e308, float("nan"),
    float("inf"), "", "x", "1", "\0", "\ud800", "a\nb", "\u202e", "x" * 1_000_000, [], [[]], {},
    {"a": 1}, [None] * 1000, "../../x", "/etc/passwd", ["model.onnx"], list(range(9)),
)  # fmt: skip


def bytes_changed(file: Path, rng: random.Random) -> str:
    """Some bytes of a file, or its length."""
    file.write_bytes(damaged(file.read_bytes(), rng))
    return "bytes changed"


def cut(file: Path, rng: random.Random) -> str:
    """An end of a file."""
    size = rng.randrange(file.stat().st_size + 1)
    os.truncate(file, size)
    return f"cut to {size} bytes"


def swapped(file: Path, rng: random.Random) -> str:
    """A file for another of the same folder."""
    others = [path for path in file.parent.iterdir() if path.is_file() and path != file]
    if not others:
        return cut(file, rng)
    other = rng.choice(sorted(others))
    shutil.copyfile(other, file)
    return f"replaced by {other.name}"


def replaced(file: Path, rng: random.Random) -> str:
    """A file for something that is none, or is not what it seems."""
    how = rng.choice(
        ["folder", "pipe", "dangling", "self", "zero", "null", "empty", "gone", "huge", "elsewhere"]
    )
    aside = file.with_name(f"{file.name}-elsewhere")
    if how == "huge":
        os.truncate(file, HUGE_FILE)  # sparse
        return "grown to 1 TiB"
    if how == "elsewhere":
        file.rename(aside)
        file.symlink_to(aside.name)
        return "behind a link"
    file.unlink()
    if how == "folder":
        file.mkdir()
    elif how == "pipe":
        os.mkfifo(file)
    elif how == "empty":
        file.touch()
    elif how != "gone":
        targets = {
            "dangling": "nowhere", "self": file.name, "zero": "/dev/zero", "null": "/dev/null",
        }  # fmt: skip
        file.symlink_to(targets[how])
    return f"replaced: {how}"


FILE: tuple[Callable[[Path, random.Random], str], ...] = (
    bytes_changed, bytes_changed, bytes_changed, bytes_changed, cut, swapped, replaced,
)  # fmt: skip


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where there is a value in a value."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value[:2]):
            yield from places(inner, (*path, number))


def json_changed(file: Path, rng: random.Random) -> str:
    """A value in a JSON file: taken out, of another type, huge, twice, too deep."""
    values = json.loads(file.read_bytes())
    found = list(places(values))
    if not found:
        return bytes_changed(file, rng)
    place = rng.choice(found)
    holder = values
    for key in place[:-1]:
        holder = holder[key]
    name = ".".join(map(str, place))
    how = rng.choice(["gone", "odd", "odd", "odd", "odd", "twice", "deep", "more", "text"])
    if how == "gone":
        del holder[place[-1]]
    elif how == "odd":
        holder[place[-1]] = rng.choice(ODD)
    elif how == "more" and isinstance(holder, dict):
        holder["unheard of"] = rng.choice(ODD)
    elif how == "deep":
        mark = "a value too deep"
        holder[place[-1]] = mark
        opening, closing = rng.choice([("[", "]"), ('{"a":', "}")])
        deep = opening * DEEP + "1" + closing * DEEP
        file.write_text(json.dumps(values).replace(json.dumps(mark), deep))
        return f"{name}: too deep"
    elif how == "twice":
        again = json.dumps(rng.choice(ODD))
        text = json.dumps(values)
        file.write_text(f"{text[:-1]}, {json.dumps(str(place[0]))}: {again}}}")
        return f"{place[0]}: twice"
    elif how == "text":
        text = rng.choice(["", "null", "[]", "{}", "1", '"x"', "NaN", "[" * DEEP, "\ufeff{}", "\0"])
        file.write_text(text)
        return f"the text {text[:9]!r}"
    file.write_text(json.dumps(values))
    return f"{name}: {how} {holder.get(place[-1]) if isinstance(holder, dict) else ''!r:.40}"


_LAST = "WHERE first_id = (SELECT MAX(first_id) FROM batches)"
SQL = (
    "DELETE FROM images WHERE id = (SELECT MIN(id) FROM images)",
    "DELETE FROM images",
    "UPDATE images SET id = id + 1000000 WHERE id = (SELECT MAX(id) FROM images)",
    "UPDATE images SET id = -id WHERE id = (SELECT MAX(id) FROM images)",
    "UPDATE images SET path = 7 WHERE id = (SELECT MIN(id) FROM images)",
    "UPDATE images SET path = x'00ff00' WHERE id = (SELECT MIN(id) FROM images)",
    "UPDATE images SET path = '' WHERE id = (SELECT MIN(id) FROM images)",
    "UPDATE images SET path = path || char(0) || 'x' WHERE id = (SELECT MIN(id) FROM images)",
    "UPDATE images SET label = x'ff', size = 'x', mtime_ns = 1e300, sha256 = 'x'",
    "UPDATE images SET sha256 = zeroblob(100000000) WHERE id = (SELECT MIN(id) FROM images)",
    "UPDATE images SET sha256 = x''",
    "UPDATE images SET size = -1, mtime_ns = -9223372036854775808",
    "UPDATE batches SET rows = rows + 5",
    "UPDATE batches SET rows = 0",
    "UPDATE batches SET rows = -3",
    "UPDATE batches SET rows = 4611686018427387904",
    "UPDATE batches SET first_row = 1000",
    "UPDATE batches SET first_row = -1",
    "UPDATE batches SET segment = 99",
    "UPDATE batches SET segment = -1",
    "UPDATE batches SET segment = '../../../etc/passwd'",
    "UPDATE batches SET crc32 = crc32 + 1",
    f"UPDATE batches SET first_id = first_id + 1 {_LAST}",
    f"UPDATE batches SET first_id = first_id - 1 {_LAST}",
    "UPDATE batches SET first_id = -first_id",
    "UPDATE batches SET first_id = 9223372036854775000 - first_id",
    "DELETE FROM batches",
    "INSERT INTO batches SELECT first_id + 100000, segment, first_row, rows, crc32 FROM batches",
    "INSERT INTO tombstones SELECT MIN(id) FROM images",
    "INSERT INTO tombstones VALUES (123456789)",
    "INSERT INTO tombstones VALUES (-5)",
    "DELETE FROM tombstones",
    "DROP TABLE images",
    "DROP TABLE batches",
    "DROP TABLE tombstones",
    "DROP TABLE meta",
    "DROP INDEX images_by_content",
    "ALTER TABLE images RENAME COLUMN path TO way",
    "PRAGMA user_version = 9",
    "PRAGMA user_version = -1",
    "PRAGMA application_id = 1",
    "UPDATE meta SET value = ''",
    "UPDATE meta SET value = '9999999999999999999999'",
    "UPDATE meta SET value = '0' WHERE key = 'bits'",
    "UPDATE meta SET value = '72' WHERE key = 'bits'",
    "UPDATE meta SET value = '-64' WHERE key = 'bits'",
    "UPDATE meta SET value = '2' WHERE key = 'concepts'",
    "UPDATE meta SET value = value || 'x' WHERE key = 'fingerprint'",
    "UPDATE meta SET value = 'zz' WHERE key = 'gallery'",
    "UPDATE meta SET value = '../../x' WHERE key = 'last_segment'",
    "DELETE FROM meta WHERE key = 'fingerprint'",
    "DROP TABLE tombstones; CREATE VIEW tombstones AS WITH RECURSIVE c(id) AS "
    "(SELECT 1 UNION ALL SELECT id + 1 FROM c) SELECT id FROM c",
    "CREATE TRIGGER more AFTER INSERT ON images BEGIN DELETE FROM images; END",
    "UPDATE sqlite_sequence SET seq = 9223372036854775807",
    "UPDATE sqlite_sequence SET seq = 0",
    "DELETE FROM sqlite_sequence",
)
"""Changes to the database of a gallery that SQLite itself takes for whole."""


def sql_changed(file: Path, rng: random.Random) -> str:
    """A record in a gallery's database."""
    text = rng.choice(SQL)
    database = sqlite3.connect(file)
    try:
        database.executescript(text)
        database.commit()
    except sqlite3.Error as error:
        return f"{text[:60]}: {error}"
    finally:
        database.close()
    return text[:80]


def page_changed(file: Path, rng: random.Random) -> str:
    """A page of a SQLite file: zeros, noise, or another page of it."""
    data = bytearray(file.read_bytes())
    pages = max(1, len(data) // 4096)
    page, other = rng.randrange(pages), rng.randrange(pages)
    how = rng.choice(["zeros", "noise", "another", "cell"])
    at = page * 4096
    if how == "zeros":
        data[at : at + 4096] = bytes(4096)
    elif how == "noise":
        data[at + (100 if page == 0 else 0) : at + 4096] = rng.randbytes(4096)[:3996]
    elif how == "another":
        data[at : at + 4096] = data[other * 4096 : other * 4096 + 4096]
    else:
        cell = at + rng.randrange(8, 64)
        data[cell : cell + 2] = rng.randbytes(2)
    file.write_bytes(data)
    return f"page {page} of {pages}: {how} {other if how == 'another' else ''}"
