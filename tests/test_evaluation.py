"""The report: what it adds to the metrics, its JSON, its text, its plot, and code files."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from concepthash import codesets, metrics
from concepthash import evaluation as ev
from concepthash.codes import CodeLayout, Codes, pack, unpack
from concepthash.errors import BackendError, ConceptHashError, DataError, MismatchError, UsageError
from concepthash.rankings import rank

LAYOUT = CodeLayout(32, 4)
NAMES = ["jay", "wren", "tit"]


def some_codes(n: int, seed: int, layout: CodeLayout = LAYOUT) -> tuple[Codes, np.ndarray]:
    """Noisy codes around one random centre a class."""
    centres = np.random.default_rng(0).integers(0, 2, (3, layout.bits))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    return pack(centres[labels] ^ (rng.random((n, layout.bits)) < 0.3)), labels


@pytest.fixture(scope="module")
def report() -> ev.Evaluation:
    queries, query_labels = some_codes(20, 1)
    database, labels = some_codes(30, 2)
    return ev.evaluate(
        np.vstack([queries, queries[:1]]),
        [*query_labels, 99],
        database,
        labels,
        layout=LAYOUT,
        class_names=[*NAMES, *(f"bird {i}" for i in range(3, 100))],
        ks=(3,),
        protocol={"split": "test"},
    )


def expected_map(queries: Codes, ql: object, database: Codes, dl: object) -> float:
    rankings = rank(queries, ql, database, dl)  # type: ignore[arg-type]
    return rankings.mean(metrics.average_precision(rankings).expected)


@pytest.mark.parametrize("layout", [LAYOUT, CodeLayout(48, 4), CodeLayout(64, 8)])
def test_per_concept_map__equals_evaluation_on_sliced_codes(layout: CodeLayout) -> None:
    (queries, ql), (database, dl) = some_codes(12, 1, layout), some_codes(15, 2, layout)
    report = ev.evaluate(queries, ql, database, dl, layout=layout)
    q_bits, d_bits = unpack(queries), unpack(database)
    for m in range(layout.concepts):
        own = layout.concept_slice(m)
        # Constant bits fill a sub-code up to whole bytes without changing a distance.
        alone = [np.pad(b[:, own], ((0, 0), (0, -layout.sub_bits % 8))) for b in (q_bits, d_bits)]
        assert report.per_concept_map[m] == pytest.approx(
            expected_map(pack(alone[0]), ql, pack(alone[1]), dl), abs=1e-13
        )
        rest = [np.delete(b, own, axis=1) for b in (q_bits, d_bits)]
        rest = [np.pad(b, ((0, 0), (0, -b.shape[1] % 8))) for b in rest]
        assert report.without_concept_map[m] == pytest.approx(
            expected_map(pack(rest[0]), ql, pack(rest[1]), dl), abs=1e-13
        )
    assert len(set(report.per_concept_map)) == layout.concepts


def test_evaluate__of_one_concept_is_that_concept_alone_and_chance_without_it() -> None:
    (queries, ql), (database, dl) = some_codes(12, 1), some_codes(15, 2)
    report = ev.evaluate(queries, ql, database, dl, layout=CodeLayout(32))
    assert report.per_concept_map == (report.map.expected,)
    assert report.without_concept_map == pytest.approx((report.chance_map,))
    assert report.chance_map < report.map.expected


def test_evaluate__counts_queries_without_relevant_and_keeps_them_out(
    report: ev.Evaluation,
) -> None:
    queries, query_labels = some_codes(20, 1)
    database, labels = some_codes(30, 2)
    assert report.queries_without_relevant == 1
    assert report.map.expected == expected_map(queries, query_labels, database, labels)
    assert report.per_class[-1] == ev.ClassScore(99, "bird 99", 1, 0, None)


def test_evaluate__per_class_means_add_up_to_the_whole(report: ev.Evaluation) -> None:
    scored = [score for score in report.per_class if score.map is not None]
    assert [score.name for score in scored] == NAMES
    assert sum(score.queries for score in scored) == 20
    assert sum(score.database for score in scored) == 30
    for part in ("expected", "low", "high"):
        total = sum(score.queries * getattr(score.map, part) for score in scored) / 20
        assert total == pytest.approx(getattr(report.map, part))


def test_evaluate__excluding_self_matches_changes_the_figures_and_the_protocol() -> None:
    codes, labels = some_codes(20, 1)
    with_self = ev.evaluate(codes, labels, codes, labels, layout=LAYOUT)
    without = ev.evaluate(codes, labels, codes, labels, layout=LAYOUT, exclude_self=True)
    assert with_self.precision[1] == 1
    assert without.precision[1] < 1
    assert (with_self.protocol["self_match"], without.protocol["self_match"]) == (
        "included",
        "excluded",
    )


def test_evaluate__string_labels_give_the_same_figures_as_numbers() -> None:
    (queries, ql), (database, dl) = some_codes(12, 1), some_codes(15, 2)
    by_number = ev.evaluate(queries, ql, database, dl, layout=LAYOUT, class_names=NAMES)
    by_name = ev.evaluate(queries, np.take(NAMES, ql), database, np.take(NAMES, dl), layout=LAYOUT)
    assert by_number.map == by_name.map
    assert {s.name: s.map for s in by_number.per_class} == {
        s.name: s.map for s in by_name.per_class
    }


def test_to_json__keeps_the_promised_fields(report: ev.Evaluation) -> None:
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["schema"] == "chash.eval/1"
    assert set(data["map"]) == {"expected", "low", "high"}
    assert list(data["precision"]) == list(data["recall"]) == ["1", "3", "5", "10"]
    assert len(data["per_concept_map"]) == len(data["without_concept_map"]) == 4
    assert len(data["bit_entropy"]) == 32
    assert len(data["radius"]["precision"]) == 33
    assert data["per_class"][-1]["map"] is None
    protocol = data["protocol"]
    assert (protocol["database_size"], protocol["query_size"]) == (30, 21)
    assert (protocol["bits"], protocol["concepts"], protocol["split"]) == (32, 4, "test")
    assert (protocol["tie_rule"], protocol["ranking_depth"]) == ("expected over ties", "full")


def test_protocol__digest_follows_codes_and_labels() -> None:
    codes, labels = some_codes(10, 1)
    changed = codes.copy()
    changed[0, 0] ^= 1

    def digest(codes: Codes, labels: object) -> object:
        report = ev.evaluate(codes, labels, codes, labels, layout=LAYOUT)  # type: ignore[arg-type]
        assert report.protocol["query_sha256"] == report.protocol["database_sha256"]
        return report.protocol["query_sha256"]

    digests = {digest(codes, labels), digest(changed, labels), digest(codes, labels[::-1])}
    assert len(digests) == 3
    assert digest(codes, labels) == digest(codes, labels.astype(np.int8))


def test_protocol__own_keys_cannot_be_overwritten() -> None:
    codes, labels = some_codes(5, 1)
    with pytest.raises(UsageError, match="tie_rule"):
        ev.evaluate(codes, labels, codes, labels, layout=LAYOUT, protocol={"tie_rule": "none"})


def test_str__prints_figures_and_protocol(report: ev.Evaluation) -> None:
    text = str(report)
    assert f"mAP        {report.map.expected:.4f}" in text
    assert f"@10 {report.precision[10]:.4f}" in text
    assert "wren" in text
    assert "queries without a relevant item: 1, left out" in text
    for key, value in report.protocol.items():
        assert any(line.split(maxsplit=1) == [key, str(value)] for line in text.splitlines())


def test_evaluate__refuses_a_label_without_a_name_and_codes_of_another_layout() -> None:
    codes, labels = some_codes(5, 1)
    with pytest.raises(DataError, match="none of the 1 named classes"):
        ev.evaluate(codes, labels, codes, labels, layout=LAYOUT, class_names=["jay"])
    with pytest.raises(MismatchError, match="query codes must be uint8"):
        ev.evaluate(codes, labels, codes, labels, layout=CodeLayout(64, 4))
    with pytest.raises(DataError, match="none of the 5 queries"):
        ev.evaluate(codes, labels, codes, labels + 3, layout=LAYOUT)


def test_plot_pr__writes_a_picture(report: ev.Evaluation, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = ev.plot_pr(report, tmp_path / "pr.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="no plot can be written"):
        ev.plot_pr(report, tmp_path / "pr.docx")


def test_plot_pr__on_a_fake_full_disk_leaves_the_old_picture(
    report: ev.Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "pr.svg"
    path.write_text("old")

    def fails(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("concepthash.files.os.fsync", fails)
    with pytest.raises(OSError, match="No space"):
        ev.plot_pr(report, path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("pr.svg", "old")]


def test_plot_pr__names_the_extra_when_matplotlib_is_missing(
    report: ev.Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BackendError) as caught:
        ev.plot_pr(report, tmp_path / "pr.png")
    assert caught.value.hint == "pip install 'concepthash[plot]'"


def test_evaluation__imports_no_matplotlib() -> None:
    program = "import sys, concepthash.evaluation; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("names", [None, NAMES])
def test_save_codes__load_codes_gives_back_what_was_saved(
    names: list[str] | None, tmp_path: Path
) -> None:
    codes, labels = some_codes(7, 3)
    stored = labels if names is None else np.take(names, labels)
    loaded = codesets.load_codes(codesets.save_codes(tmp_path / "db.npz", codes, stored, LAYOUT))
    assert loaded.layout == LAYOUT
    assert loaded.codes.tolist() == codes.tolist()
    assert loaded.labels.tolist() == stored.tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["db.npz"]


def test_save_codes__refuses_labels_of_another_number_and_writes_nothing(tmp_path: Path) -> None:
    codes, labels = some_codes(7, 3)
    with pytest.raises(MismatchError, match="7 codes have 6 labels"):
        codesets.save_codes(tmp_path / "db.npz", codes, labels[:6], LAYOUT)
    assert list(tmp_path.iterdir()) == []


GOOD: dict[str, object] = {
    "codes": np.zeros((2, 4), np.uint8),
    "labels": np.array(["jay", "tit"]),
    "bits": 32,
    "concepts": 4,
}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"codes": np.zeros((2, 3), np.uint8)}, MismatchError),
        ({"codes": np.zeros((2, 4), np.int8)}, MismatchError),
        ({"codes": np.zeros(4, np.uint8)}, MismatchError),
        ({"labels": np.array(["jay"])}, MismatchError),
        ({"labels": np.array([0.5, 1.0])}, DataError),
        ({"labels": np.array([{}, {}])}, DataError),
        ({"bits": 31}, DataError),
        ({"bits": 32.0}, DataError),
        ({"bits": np.array([32, 32])}, DataError),
        ({"concepts": 5}, DataError),
        ({"concepts": None}, DataError),
    ],
)
def test_load_codes__refuses_a_malformed_file_and_names_it(
    change: dict[str, object], error: type[ConceptHashError], tmp_path: Path
) -> None:
    path = tmp_path / "db.npz"
    np.savez(path, **GOOD)  # type: ignore[arg-type]
    codesets.load_codes(path)
    np.savez(path, **(GOOD | change))  # type: ignore[arg-type]
    with pytest.raises(error) as caught:
        codesets.load_codes(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("missing", sorted(GOOD))
def test_load_codes__refuses_a_file_that_lacks_an_array(missing: str, tmp_path: Path) -> None:
    path = tmp_path / "db.npz"
    np.savez(path, **{key: value for key, value in GOOD.items() if key != missing})  # type: ignore[arg-type]
    with pytest.raises(DataError, match=missing):
        codesets.load_codes(path)


def test_load_codes__refuses_what_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "db.npz"
    with pytest.raises(DataError, match="no such file"):
        codesets.load_codes(path)
    with pytest.raises(DataError, match="not a file of codes"):
        codesets.load_codes(tmp_path)
    for content in (b"", b"PK\x03\x04", b"text"):
        path.write_bytes(content)
        with pytest.raises(DataError, match="not a file of codes"):
            codesets.load_codes(path)
    with path.open("wb") as file:
        np.save(file, np.zeros((2, 4), np.uint8))
    with pytest.raises(DataError, match="not a file of codes"):
        codesets.load_codes(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_load_codes__never_fails_otherwise_on_a_damaged_file(
    data: st.DataObject, tmp_path: Path
) -> None:
    path = tmp_path / "db.npz"
    np.savez(path, **GOOD)  # type: ignore[arg-type]
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    end = data.draw(st.just(len(content)) | st.integers(0, len(content)))
    path.write_bytes(content[:end])
    try:
        loaded = codesets.load_codes(path)
    except (DataError, MismatchError):
        return
    assert loaded.codes.tolist() == GOOD["codes"].tolist()  # type: ignore[attr-defined]
