"""The tables of ``scale.md``, written into it from ``benchmarks/results/billion.json``.

The prose around them is written by hand: a table stands between ``<!-- its name -->`` and
``<!-- end -->``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("scale.md")
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
SIZES = (10**8, 10**9, 10**10)
DAY = 86_400
TARGET = 0.1  # seconds a query


def page() -> str:
    """The page as it is, with the tables as the results have them."""
    data, pace = (
        json.loads((RESULTS / f"{n}.json").read_text("utf-8")) for n in ("billion", "index")
    )
    text = PAGE.read_text("utf-8")
    tables = {
        "machine": _machine(data),
        "constants": _constants(data),
        "lengths": _lengths(data),
        "billion": _billion(data),
        "to buy": _to_buy(data, pace),
    }
    for name, lines in tables.items():
        block = "\n".join(lines)
        text, count = re.subn(
            rf"(<!-- {name} -->\n).*?(?=<!-- end -->)",
            lambda found, block=block: f"{found[1]}{block}\n",
            text,
            flags=re.DOTALL,
        )
        if count != 1:
            raise SystemExit(f"scale.md has the mark <!-- {name} --> {count} times")
    return text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for cells in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(cells)} |"


def _machine(data: Any) -> Iterator[str]:
    machine = data["machine"]
    yield f"Measured on {machine['cpus']} CPUs of {machine['processor']},"
    yield f"{machine['memory_gib']} GiB: `{data['command']}`, `benchmarks/results/billion.json`."


def _constants(data: Any) -> Iterator[str]:
    found = data["random"]["constants"]
    pair, two = found["pair_ns"], found["speedup_of_two_threads"]
    yield from _table(
        ["asked together, q", *pair],
        [
            ["p(q), ns", *(f"{value:.3f}" for value in pair.values())],
            ["speed of two threads", *(f"{value:.2f}" for value in two.values())],
        ],
    )
    deep = found["one_query_ms_by_k"]
    yield ""
    yield f"Measured at {found['codes']:,} codes. c = {found['a_term']:.2f}. A thousand hits cost"
    yield f"{deep['1000'] / deep['10']:.2f} times what ten do. Told by these constants, searches of"
    yield "other sizes are wrong by:"
    yield ""
    errors: dict[int, dict[int, float]] = {}
    for row in data["random"]["predictions"]:
        errors.setdefault(row["codes"], {})[row["batch"]] = row["error"]
    batches = [*map(int, pair)]
    yield from _table(
        ["codes", *(f"q = {batch}" for batch in batches)],
        [
            [f"{codes:,}", *(f"{row[b]:+.0%}" if b in row else "" for b in batches)]
            for codes, row in errors.items()
        ],
    )


def _lengths(data: Any) -> Iterator[str]:
    yield from _table(
        ["K", "bytes a code", "ns a code, alone", "ns a code and query, 64 together",
         "bytes a code of tables", "µs a code to build them"],
        [
            [
                str(row["bits"]),
                str(row["bytes_a_code"]),
                f"{row['one_query_ns_a_code']:.2f}",
                f"{row['of_64_ns_a_code']:.3f}",
                f"{row['table_bytes_a_code']:.1f}",
                f"{row['table_build_ns_a_code'] / 1000:.2f}",
            ]
            for row in data["by_bits"]
        ],
    )  # fmt: skip


def _billion(data: Any) -> Iterator[str]:
    kinds = [kind for kind in ("random", "clustered") if kind in data]
    steps = [
        ("build: bytes on disk", lambda of: f"{of['build']['bytes'] / 1e9:.2f} GB"),
        ("build: saving, with checksum and flush", lambda of: _s(of["build"]["saving_seconds"])),
        ("open", lambda of: f"{of['open_ms']:.1f} ms"),
        (
            "first query, files not in memory",
            lambda of: _s(of["files"]["cold_first_query_ms"] / 1e3),
        ),
        ("the same bytes read from this disk", lambda of: _s(of["files"]["cold_reading_ms"] / 1e3)),
        ("tables of all: building", lambda of: _of_all(of, "build_seconds")),
        (
            "tables of all: first query, nothing in memory",
            lambda of: _of_all(of, "cold_first_query_ms"),
        ),
    ]
    yield from _table(
        ["", *(f"{kind} codes" for kind in kinds)],
        [[name, *(show(data[kind]) for kind in kinds)] for name, show in steps],
    )
    yield ""
    rows = [row for row in data["rows"] if row["count"] == data["codes"]]
    beside = [row for row in data["rows"] if "ratio_to_faiss" in row]
    yield from _table(
        ["codes", "search", "asked together", "ms a query, 1 thread", "2 threads", "speed"],
        [*_pairs(rows), *_pairs(beside)],
    )


def _of_all(of: Any, key: str) -> str:
    tables = of["tables_of_all"]
    if isinstance(tables, str):
        return "left out"
    return _s(tables[key] / (1e3 if key.endswith("_ms") else 1))


def _pairs(rows: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """One line for what one and two threads took."""
    for one in (row for row in rows if row["threads"] == 1):
        key = ("codes", "count", "search", "batch")
        (two,) = (r for r in rows if r["threads"] == 2 and all(r[k] == one[k] for k in key))
        beside = ""
        for name, what in (("faiss", "of faiss"), ("scan", "of the scan"), ("reading_memory", "")):
            ratio = one.get(f"ratio_to_{name}")
            if ratio is not None:
                beside = f"{ratio:.3g} {what}" if what else f"{1 / ratio:.2f} of reading memory"
        size = f"{one['count']:,} {one['codes']}"
        yield [size, one["search"], str(one["batch"]), _ms(one), _ms(two), beside]


def _ms(row: Mapping[str, Any]) -> str:
    value = row["ms_a_query"]
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _s(seconds: float) -> str:
    return f"{seconds:.1f} s"


def _to_buy(data: Any, pace: Any) -> Iterator[str]:
    pair = data["random"]["constants"]["pair_ns"]
    image = data["gallery"]["database_bytes_an_image"]
    tables = next(row["table_bytes_a_code"] for row in data["by_bits"] if row["bits"] == 64)
    given, large = (
        next(
            row["photos_per_second"]["index"]
            for row in pace["rows"]
            if row["photos"] == kind and row["threads"] == 1
        )
        for kind in ("as given", "12 megapixels")
    )
    lines = {
        "codes of 64 bits, in memory": lambda n: _bytes(8 * n),
        "their tables, in memory, if wanted": lambda n: _bytes(tables * n),
        f"**database**, {image:.0f} bytes an image, on disk": lambda n: f"**{_bytes(image * n)}**",
        f"hashing small photos, {given:.0f} a second a core": lambda n: _core_days(n / given),
        f"hashing 12-megapixel photos, {large:.0f} a second a core": lambda n: _core_days(
            n / large
        ),
        "one query by scan, one core": lambda n: f"{n * pair['1'] / 1e9:.2g} s",
        "cores for a query in 0.1 s, if memory keeps up": lambda n: _cores(n * pair["1"] / 1e9),
        "memory to read a second for that": lambda n: f"{_bytes(8 * n / TARGET)}/s",
        "queries a second a core, 64 together": lambda n: _round(1e9 / (n * pair["64"])),
    }
    yield from _table(
        ["images", *(f"10^{len(str(n)) - 1}" for n in SIZES)],
        [[name, *map(show, SIZES)] for name, show in lines.items()],
    )


def _bytes(count: float) -> str:
    value, unit = (count / 1e12, "TB") if count >= 1e12 else (count / 1e9, "GB")
    return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"


def _core_days(seconds: float) -> str:
    return f"{seconds / DAY:,.0f} core-days"


def _cores(seconds: float) -> str:
    return f"{max(1, round(seconds / TARGET)):,}"


def _round(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
