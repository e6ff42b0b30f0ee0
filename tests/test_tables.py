"""Tables: that they hold each row where it belongs, grow, and are never of other codes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from concepthash.codes import CodeLayout
from concepthash.errors import BackendError, GalleryError, UsageError
from concepthash.runtime import native, planner
from concepthash.runtime.planes import Part, Plan, to_words
from concepthash.runtime.planner import find
from concepthash.runtime.tables import WIDEST, Tables, cuts

pytestmark = pytest.mark.skipif(native.paths() == ("numpy",), reason="no native kernel")
LAYOUT = CodeLayout(64, 4)


def parts_of(n: int, layout: CodeLayout = LAYOUT, seed: int = 0) -> list[Part]:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 256, (n, layout.nbytes), dtype=np.uint8)
    return [Part(to_words(codes, layout), range(n))]


def first(parts: list[Part], rows: int) -> list[Part]:
    return [Part(parts[0].planes[:, :rows], range(rows))]


@pytest.mark.parametrize("bits", range(8, 513, 8))
def test_cuts__share_out_every_bit_once(bits: int) -> None:
    for concepts in (m for m in range(1, bits + 1) if bits % m == 0):
        masks = cuts(CodeLayout(bits, concepts))
        widths = np.bitwise_count(masks).sum(axis=1)
        assert widths.max() <= WIDEST
        assert 2 * widths.min() >= min(WIDEST // 2, bits)
        assert len(masks) <= 64
        together = np.bitwise_or.reduce(masks, axis=0)
        assert int(np.bitwise_count(together).sum()) == int(widths.sum()) == bits


def test_cuts__one_table_a_concept_where_it_has_the_size() -> None:
    for layout in (CodeLayout(64, 4), CodeLayout(48, 4), CodeLayout(128, 8)):
        assert np.array_equal(cuts(layout), to_words(layout.masks(), layout).T)


@pytest.mark.parametrize("copy_codes", [False, True])
def test_build__orders_all_rows_by_each_sub_code(copy_codes: bool) -> None:
    n = 5000
    parts = parts_of(n)
    codes = parts[0].planes[0]
    (run,) = Tables.build(parts, LAYOUT, copy_codes=copy_codes, threads=2).runs
    words = run.block.view("<u4")
    at = 0
    for table in range(4):
        sub = codes >> np.uint64(16 * table) & np.uint64(0xFFFF)
        offsets = words[at : at + 65537]
        np.testing.assert_array_equal(
            np.diff(offsets), np.bincount(sub.astype(int), minlength=65536)
        )
        at += -(-65537 // 16) * 16
        rows = words[at : at + n] & 0x1FFF  # 13 bits number 5,000 rows
        np.testing.assert_array_equal(rows, np.argsort(sub, kind="stable"))
        padded = -(-n // 16) * 16
        at += padded
        if copy_codes:  # the next two sub-codes, 16 by 16, then the third
            copied = codes[rows][:, None] >> np.uint64(16) * (
                (np.arange(1, 4, dtype=np.uint64) + np.uint64(table)) % np.uint64(4)
            ) & np.uint64(0xFFFF)
            pairs = words[at : at + padded].view("<u2").reshape(-1, 2, 16)
            np.testing.assert_array_equal(pairs[:, 0].ravel()[:n], copied[:, 0])
            np.testing.assert_array_equal(pairs[:, 1].ravel()[:n], copied[:, 1])
            at += padded
            np.testing.assert_array_equal(words[at:].view("<u2")[:n], copied[:, 2])
            at += -(-padded // 32) * 16
    assert at == len(words)


@pytest.mark.parametrize(("copy_codes", "most"), [(False, 2.3), (True, 5.3)])
def test_nbytes__is_a_small_multiple_of_the_codes(copy_codes: bool, most: float) -> None:
    n = 1_000_000
    tables = Tables.build(
        [Part(np.zeros((1, n), np.uint64), range(n))], LAYOUT, copy_codes=copy_codes
    )
    assert tables.nbytes < most * 8 * n


def test_extend__keeps_few_runs_each_twice_the_next() -> None:
    parts = parts_of(3000)
    tables, most = Tables(LAYOUT), 0
    for rows in range(100, 3001, 100):
        tables = tables.extend(first(parts, rows))
        assert tables.rows == rows
        lengths = [run.rows for run in tables.runs]
        assert all(a >= 2 * b for a, b in pairwise(lengths))
        most = max(most, len(lengths))
    assert 1 < most <= 6


def test_extend__without_new_rows_changes_nothing() -> None:
    parts = parts_of(100)
    tables = Tables.build(parts, LAYOUT)
    assert tables.extend(parts).runs == tables.runs
    assert Tables(LAYOUT).extend([]).runs == ()


def test_extend__refuses_fewer_rows() -> None:
    parts = parts_of(100)
    with pytest.raises(UsageError, match="100 rows"):
        Tables.build(parts, LAYOUT).extend(first(parts, 99))


def test_build__without_a_kernel_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.VARIABLE, "numpy")
    with pytest.raises(BackendError, match="native kernel"):
        Tables.build(parts_of(10), LAYOUT)


@pytest.mark.parametrize("copy_codes", [False, True])
@pytest.mark.parametrize("rows", [(), (300,), (200, 300)])
def test_open__gives_what_was_saved(
    tmp_path: Path, rows: tuple[int, ...], copy_codes: bool
) -> None:
    tables = Tables(LAYOUT, copy_codes)
    for count in rows:
        tables = tables.extend(first(parts_of(300), count))
    path = tmp_path / "a.mih"
    tables.save(path, "key")
    opened = Tables.open(path, key=b"key")
    assert opened.intact
    assert (opened.layout, opened.copy_codes, opened.rows) == (LAYOUT, copy_codes, tables.rows)
    for a, b in zip(opened.runs, tables.runs, strict=True):
        assert (a.first, a.rows) == (b.first, b.rows)
        np.testing.assert_array_equal(a.block, b.block)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "a.mih"
    Tables.build(parts_of(300, CodeLayout(24, 3)), CodeLayout(24, 3)).save(path, "key")
    return path


def test_open__refuses_another_key(saved: Path) -> None:
    with pytest.raises(GalleryError, match="other codes"):
        Tables.open(saved, key="yek")


def test_open__refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="accelerate"):
        Tables.open(tmp_path / "none.mih", key="key")


@pytest.mark.parametrize("size", [0, 1, 8, 100, 127, 128, 150, 192, 5000, -1])
def test_open__refuses_a_truncated_file(saved: Path, size: int) -> None:
    saved.write_bytes(saved.read_bytes()[:size])
    with pytest.raises(GalleryError):
        Tables.open(saved, key="key")


def test_open__refuses_a_longer_file(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes() + bytes(64))
    with pytest.raises(GalleryError, match="instead of"):
        Tables.open(saved, key="key")


def test_open__refuses_any_change_of_the_header(saved: Path) -> None:
    data = saved.read_bytes()
    for at in range(192):
        saved.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        with pytest.raises(GalleryError):
            Tables.open(saved, key="key")


def test_intact__finds_a_changed_byte(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[-100] ^= 1
    saved.write_bytes(data)
    assert not Tables.open(saved, key="key").intact


def test_intact__of_a_file_that_was_replaced_since(saved: Path) -> None:
    tables = Tables.open(saved, key="key")
    saved.unlink()  # as a writer that accelerates leaves it
    assert tables.intact


@pytest.mark.parametrize("copy_codes", [False, True])
@pytest.mark.parametrize("path", [path for path in native.paths() if path != "numpy"])
def test_search__of_damaged_tables_ends(
    monkeypatch: pytest.MonkeyPatch, path: str, copy_codes: bool
) -> None:
    """Wrong hits perhaps, until verify is run, but never a row that is not there."""
    monkeypatch.setenv(native.VARIABLE, path)
    monkeypatch.setattr(planner, "_WORTH_IT", 0)
    monkeypatch.setattr(planner, "_TRIAL", 1e30)
    layout = CodeLayout(24, 2)
    parts = parts_of(70_000, layout)
    tables = Tables.build(parts, layout, copy_codes=copy_codes)
    rng = np.random.default_rng(1)
    queries = to_words(rng.integers(0, 256, (3, 3), dtype=np.uint8), layout)
    for _ in range(40):
        (run,) = tables.runs
        block = run.block.copy()
        room = np.zeros(len(block) + 64, dtype=np.uint8)
        damaged = room[-room.ctypes.data % 64 :][: len(block)]
        damaged[:] = block
        damaged[rng.integers(0, len(block), 2000)] ^= rng.integers(1, 256, 2000, dtype=np.uint8)
        found = find(
            parts, [Tables(layout, copy_codes, (run._replace(block=damaged),))], queries,
            Plan.of(layout, [1, 1]), k=20, ordered=True, threads=1,
        )  # fmt: skip
        assert found.rows.max() < 70_000


@pytest.mark.parametrize(
    "change",
    [
        {"block": np.zeros(64, np.uint8)},
        {"first": -1},
        {"first": 5},
        {"rows": 0},
        {"rows": 9_999},
        {"table": 9},
        {"masks": np.zeros((4, 1), np.uint64)},
        {"masks": np.full((4, 1), 0x1FFFF, np.uint64)},
        {"masks": np.ones(4, np.uint64)},
    ],
)
def test_kernel__refuses_arguments_that_do_not_fit(change: dict[str, object]) -> None:
    parts = parts_of(100)
    (run,) = Tables.build(parts, LAYOUT).runs
    kernel = native.kernel()
    assert kernel is not None
    call = {
        "masks": cuts(LAYOUT),
        "block": run.block,
        "first": 0,
        "rows": 100,
        "table": 0,
        **change,
    }
    with pytest.raises(ValueError, match=r"tables|block|table"):
        kernel.tables_build(
            [(parts[0].planes, None, 0, None)],
            call["masks"],
            call["block"],
            call["first"],
            call["rows"],
            False,
            call["table"],
        )
