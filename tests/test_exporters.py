"""Folders for databases: read again by readers of our own here, and by PostgreSQL where it is."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_entry import Chash

from concepthash.codes import CodeLayout, Codes, hamming, per_concept, unpack
from concepthash.errors import BackendError, GalleryError, UsageError
from concepthash.runtime import items
from concepthash.runtime.entries import Entry
from concepthash.runtime.exporters import DATABASES, export_to, milvus, opensearch, pgvector
from concepthash.runtime.galleries import create_gallery, open_gallery
from concepthash.runtime.index import HammingIndex

FINGERPRINT = "0f" * 32
NAMES = [
    *("plain.jpg", "tab\there.jpg", "back\\slash\\N.jpg", "new\nline.jpg", "quo'te\".jpg"),
    *("car\rret.jpg", "bad\udcff.jpg", "\\N", "\\.", "Füße 鳥.jpg", "nul.jpg", "last.jpg"),
]
LABELS = [None, "", "\\N", "a\tb", "wing'", "x\ny", None, "c\\", "{}", "ü", "nu\0l", "z"]
SEEN = [None if label is None else label.replace("\0", "?") for label in LABELS]


def make_gallery(
    folder: Path, bits: int = 64, concepts: int = 4, shards: int | None = None
) -> tuple[Path, dict[int, tuple[str, str | None, Codes]]]:
    """A gallery of all names but one that was removed, and its images as databases see them."""
    layout = CodeLayout(bits, concepts)
    rng = np.random.default_rng(bits + concepts)
    codes = rng.integers(0, 256, (len(NAMES), layout.nbytes), dtype=np.uint8)
    path = folder / "Bird's 1.chg"
    entries = [
        Entry(folder / name, label=label, sha256=rng.bytes(32).hex())
        for name, label in zip(NAMES, LABELS, strict=True)
    ]
    with create_gallery(
        path, layout=layout, fingerprint=FINGERPRINT, model="mo'del", shards=shards
    ) as gallery:
        ids = list(gallery.add(entries, codes))
        gallery.remove([ids[4]])
    rows = {
        ids[n]: (str(folder / NAMES[n]).replace("\udcff", "?"), SEEN[n], codes[n])
        for n in range(len(NAMES))
        if n != 4
    }
    return path, rows


def export(gallery: Path, out: Path, database: str, **options: Any) -> Any:
    with open_gallery(gallery) as opened:
        return export_to(opened, out, database, name=gallery.stem, **options)


def read_copy(file: Path) -> list[list[str | None]]:
    """PostgreSQL's text form: a line a row, tabs between fields, backslash escapes."""
    escapes = {"t": "\t", "n": "\n", "r": "\r", "\\": "\\"}

    def field(text: str) -> str | None:
        if text == "\\N":
            return None
        return re.sub(r"\\(.)", lambda found: escapes[found[1]], text)

    text = file.read_bytes().decode("utf-8")
    assert text.endswith("\n")
    assert "\r" not in text
    assert "\0" not in text
    return [[field(part) for part in line.split("\t")] for line in text[:-1].split("\n")]


def read_bulk(folder: Path) -> dict[int, dict[str, Any]]:
    documents = {}
    for file in sorted(folder.glob("bulk-*.ndjson")):
        lines = file.read_text(encoding="ascii").split("\n")
        assert lines.pop() == ""
        for action, body in zip(lines[::2], lines[1::2], strict=True):
            values = json.loads(body)
            assert json.loads(action) == {"index": {"_id": str(values["id"])}}
            documents[values["id"]] = values
    return documents


@pytest.mark.parametrize("shards", [None, 3])
def test_pgvector__rows_are_those_of_the_gallery(tmp_path: Path, shards: int | None) -> None:
    gallery, rows = make_gallery(tmp_path, shards=shards)
    done = export(gallery, tmp_path / "out", "pgvector")
    found = read_copy(tmp_path / "out/images.copy")
    assert {int(id or 0): (path, label) for id, _, path, label in found} == {
        id: (path, label) for id, (path, label, _) in rows.items()
    }
    for id, code, _, _ in found:
        bits = unpack(rows[int(id or 0)][2])
        assert code == "".join(map(str, bits.astype(int)))
    assert (done.images, done.altered) == (11, 2)  # the name that is no Unicode, the label with NUL


def test_pgvector__makes_a_table_whose_sub_codes_follow_from_the_code(tmp_path: Path) -> None:
    gallery, _ = make_gallery(tmp_path, 48, 2)
    assert export(gallery, tmp_path / "out", "pgvector").next == "psql DATABASE -f load.sql"
    facts = {
        "name": "Bird''s 1", "images": 11, "bits": 48, "concepts": 2,
        "bit_order": "numpy.packbits", "fingerprint": FINGERPRINT, "model": "mo''del",
    }  # fmt: skip
    part = "bit(24) GENERATED ALWAYS AS"
    assert (tmp_path / "out/load.sql").read_text().splitlines() == [
        "\\set ON_ERROR_STOP on",
        "BEGIN;",
        "CREATE EXTENSION IF NOT EXISTS vector; -- pgvector 0.7 or later",
        'CREATE TABLE "bird_s_1" (',
        "    id bigint PRIMARY KEY,",
        "    code bit(48) NOT NULL,",
        f"    concept_0 {part} (substring(code FROM 1 FOR 24)::bit(24)) STORED,",
        f"    concept_1 {part} (substring(code FROM 25 FOR 24)::bit(24)) STORED,",
        "    path text,",
        "    label text",
        ");",
        f"COMMENT ON TABLE \"bird_s_1\" IS '{json.dumps(facts)}';",
        "\\copy \"bird_s_1\" (id, code, path, label) FROM 'images.copy' WITH (ENCODING 'UTF8')",
        "COMMIT;",
        'ANALYZE "bird_s_1";',
    ]


def test_pgvector__of_one_concept_has_no_sub_codes(tmp_path: Path) -> None:
    gallery, _ = make_gallery(tmp_path, 64, 1)
    export(gallery, tmp_path / "out", "pgvector")
    assert not (tmp_path / "out/weighted.sql").exists()
    assert "concept_0" not in (tmp_path / "out/load.sql").read_text()


def binaries() -> Path | None:
    """Where a PostgreSQL server of 14 or later is; None if there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: p.parts[-3])
    if not found and (named := shutil.which("initdb")):
        found = [Path(named).resolve()]
    return found[-1].parent if found and shutil.which("psql") else None


@pytest.fixture
def psql() -> Iterator[Callable[..., str]]:
    """Runs psql on an empty database, whose server ends with the test."""
    pwd = pytest.importorskip("pwd")  # not on Windows
    server = binaries()
    if server is None:
        pytest.skip("no PostgreSQL here")
    root = os.geteuid() == 0
    if root and "postgres" not in {known.pw_name for known in pwd.getpwall()}:
        pytest.skip("PostgreSQL does not run as root")
    user: dict[str, Any] = {"user": "postgres", "group": "postgres"} if root else {}
    home = Path(tempfile.mkdtemp(prefix="chash-pg-"))
    try:
        if root:
            shutil.chown(home, "postgres")
        log = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": home}
        setup = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run([server / "initdb", "-D", home / "data", *setup], check=True, **log, **user)
        options = f"-k {home} -c listen_addresses= -c fsync=off"
        control = [server / "pg_ctl", "-D", home / "data", "-w", "-o", options]
        subprocess.run([*control, "-l", home / "log", "start"], check=True, **log, **user)
        try:
            client = ["psql", "-h", home, "-U", "postgres", "-d", "postgres", "-X", "-qAt"]

            def run(*words: str, cwd: Path | None = None) -> str:
                done = subprocess.run(
                    [*client, *words], cwd=cwd, capture_output=True, text=True, check=False
                )
                assert done.returncode == 0, done.stderr
                return done.stdout

            yield run
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], check=True, **log, **user)
    finally:
        shutil.rmtree(home, ignore_errors=True)


FAKE_PGVECTOR = """
CREATE FUNCTION fake_hamming(bit, bit) RETURNS float8 IMMUTABLE LANGUAGE sql
    AS 'SELECT bit_count($1 # $2)::float8';
CREATE OPERATOR <~> (LEFTARG = bit, RIGHTARG = bit, FUNCTION = fake_hamming);
"""
"""The one operator we use of the extension, for servers without it."""


def load(psql: Callable[..., str], out: Path) -> None:
    """Run load.sql, where there is no extension with the fake one."""
    real = psql("-c", "SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'")
    if real.strip() == "0":
        if psql("-c", "SELECT to_regproc('fake_hamming')").strip() == "":
            psql("-c", FAKE_PGVECTOR)
        text = (out / "load.sql").read_text()
        (out / "load.sql").write_text(re.sub("CREATE EXTENSION.*", "", text))
    psql("-f", "load.sql", cwd=out)


def test_pgvector__loads_and_answers_as_we_do(tmp_path: Path, psql: Callable[..., str]) -> None:
    gallery, rows = make_gallery(tmp_path, 64, 4)
    out = tmp_path / "out"
    export(gallery, out, "pgvector")
    load(psql, out)
    listed = psql("-c", "SELECT json_agg(json_build_array(id, path, label)) FROM bird_s_1")
    assert {id: (path, label) for id, path, label in json.loads(listed)} == {
        id: (path, label) for id, (path, label, _) in rows.items()
    }
    comment = psql("-c", "SELECT obj_description('bird_s_1'::regclass)")
    assert json.loads(comment)["model"] == "mo'del"
    with open_gallery(gallery) as opened:
        index = opened.index()
    code = rows[min(rows)][2]
    weights = [2, 0, 1, 3]
    for file, hits in (
        ("query.sql", index.search(code, k=5)),
        ("weighted.sql", index.search(code, k=5, weights=weights)),
    ):
        given = [f"--set=w{m}={weight}" for m, weight in enumerate(weights)]
        answer = psql("--set=top=5", f"--set=code={code.tobytes().hex()}", *given,
                      "-R", "\x02", "-f", file, cwd=out)  # fmt: skip
        pairs = [row.split("|")[:2] for row in answer.strip("\n").split("\x02")]
        assert [int(id) for id, _ in pairs] == hits.ids[0].tolist()
        assert [int(distance) for _, distance in pairs] == hits.distances[0].tolist()


def test_pgvector__takes_names_that_sql_reserves(tmp_path: Path, psql: Callable[..., str]) -> None:
    index = HammingIndex(64, 4)
    index.add(np.arange(24, dtype=np.uint8).reshape(3, 8), [5, 70, 900])
    for name in ("order", "user"):
        out = tmp_path / name
        export_to(index, out, "pgvector", name=name)
        load(psql, out)
        for file in ("query.sql", "weighted.sql"):
            found = psql(f"--set=code={'00' * 8}", "-f", file, cwd=out)
            assert len(found.splitlines()) == 3
        (asked,) = re.findall("SELECT obj_description.*;", (out / "README.md").read_text())
        assert json.loads(psql("-c", asked))["name"] == name


@pytest.mark.parametrize("shards", [None, 2])
def test_milvus__rows_are_those_of_the_gallery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: int | None
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(milvus, "ROWS", 7)
    monkeypatch.setattr(items, "STEP", 3)
    gallery, rows = make_gallery(tmp_path, shards=shards)
    export(gallery, tmp_path / "out", "milvus")
    files = sorted((tmp_path / "out").glob("*.parquet"))
    found = {}
    for file in files:
        table = parquet.read_table(file)
        assert table.num_rows <= 7
        kinds = {field.name: str(field.type) for field in table.schema}
        assert kinds["id"] == "int64"
        assert kinds["code"].startswith("list<")
        assert "uint8" in kinds["code"]
        assert kinds["path"] == kinds["label"] == "string"
        found.update({row.pop("id"): row for row in table.to_pylist()})
    assert found == {
        id: {"code": code.tolist(), "path": path, "label": label or ""}
        for id, (path, label, code) in rows.items()
    }
    assert json.loads((tmp_path / "out/import.json").read_text()) == {
        "collectionName": "bird_s_1",
        "files": [[f"bird_s_1/{file.name}"] for file in files],
    }


def test_milvus__makes_a_collection_with_a_binary_vector(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    gallery, _ = make_gallery(tmp_path, 128, 4)
    export(gallery, tmp_path / "out", "milvus")
    wanted = json.loads((tmp_path / "out/collection.json").read_text())
    assert wanted["collectionName"] == "bird_s_1"
    assert json.loads(wanted["description"])["fingerprint"] == FINGERPRINT
    assert [field["fieldName"] for field in wanted["schema"]["fields"]] == [
        *("id", "code", "path", "label")
    ]
    assert wanted["schema"]["fields"][0] == {
        "fieldName": "id", "dataType": "Int64", "isPrimary": True,
    }  # fmt: skip
    assert wanted["schema"]["fields"][1] == {
        "fieldName": "code", "dataType": "BinaryVector", "elementTypeParams": {"dim": "128"},
    }  # fmt: skip
    assert wanted["indexParams"] == [
        {"fieldName": "code", "indexName": "code", "metricType": "HAMMING", "indexType": "BIN_FLAT"}
    ]


def test_milvus__the_script_of_its_readme_is_python(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    gallery, _ = make_gallery(tmp_path)
    export(gallery, tmp_path / "out", "milvus")
    scripts = re.findall("```python\n(.*?)```", (tmp_path / "out/README.md").read_text(), re.DOTALL)
    assert len(scripts) == 2
    for script in scripts:
        compile(script, "README.md", "exec")


def test_milvus__without_pyarrow_names_the_extra_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery, _ = make_gallery(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(BackendError, match=r"concepthash\[parquet\]"):
        export(gallery, tmp_path / "out", "milvus")
    assert [path.name for path in tmp_path.iterdir()] == [gallery.name]


@pytest.mark.parametrize("shards", [None, 2])
@pytest.mark.parametrize(("bits", "concepts"), [(8, 1), (24, 3), (64, 4), (512, 4)])
def test_opensearch__documents_are_those_of_the_gallery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int, concepts: int, shards: int | None
) -> None:
    monkeypatch.setattr(opensearch, "PART_BYTES", 700)
    monkeypatch.setattr(items, "STEP", 4)
    gallery, rows = make_gallery(tmp_path, bits, concepts, shards)
    export(gallery, tmp_path / "out", "opensearch")
    assert len(list((tmp_path / "out").glob("bulk-*"))) > 1
    found = read_bulk(tmp_path / "out")
    assert found.keys() == rows.keys()
    mapped = json.loads((tmp_path / "out/index.json").read_text())["mappings"]["properties"]
    for id, (path, label, code) in rows.items():
        assert np.array_equal(np.array(found[id]["code"], np.int8).view(np.uint8), code)
        assert found[id]["path"] == path
        assert found[id].get("label") == label
        assert found[id].keys() <= mapped.keys()
    assert mapped["code"] == {
        "type": "knn_vector", "dimension": bits, "data_type": "binary", "space_type": "hamming",
        "method": {"name": "hnsw", "engine": "faiss"},
    }  # fmt: skip


@pytest.mark.parametrize(("bits", "concepts"), [(24, 3), (64, 4), (512, 4)])
def test_opensearch__its_script_gives_the_weighted_distance(
    tmp_path: Path, bits: int, concepts: int
) -> None:
    gallery, rows = make_gallery(tmp_path, bits, concepts)
    export(gallery, tmp_path / "out", "opensearch")
    asked = json.loads((tmp_path / "out/weighted.json").read_text())
    script = asked["query"]["script_score"]["script"]
    terms = re.findall(
        r"params\.weights\[(\d+)\] \* Long\.bitCount\(doc\['(\w+)'\]\.value \^ "
        r"params\.words\[(\d+)\]\)",
        script["source"],
    )
    assert script["source"].count("bitCount") == len(terms)
    words = script["params"]["words"]
    assert script["params"]["weights"] == [1] * concepts
    weights = np.arange(concepts) + 1
    query = rows[min(rows)][2]  # the queries ask for the first image
    for document in read_bulk(tmp_path / "out").values():
        distance = sum(
            weights[int(m)] * ((document[name] ^ words[int(place)]) % 2**64).bit_count()
            for m, name, place in terms
        )
        code = rows[document["id"]][2]
        assert distance == (per_concept(query, code, CodeLayout(bits, concepts)) * weights).sum()
    exact = json.loads((tmp_path / "out/exact.json").read_text())
    value = exact["query"]["script_score"]["script"]["params"]["query_value"]
    assert np.array(value, np.int8).tobytes() == query.tobytes()


@pytest.mark.parametrize("sub_bits", [1, 8, 24, 63, 64, 65, 128, 512])
def test_sub_code_words__are_as_far_apart_as_the_sub_codes(sub_bits: int) -> None:
    layout = CodeLayout(sub_bits * 8, 8) if sub_bits < 65 else CodeLayout(512, 512 // 128)
    if sub_bits == 512:
        layout = CodeLayout(512, 1)
    codes = np.random.default_rng(sub_bits).integers(0, 256, (6, layout.nbytes), dtype=np.uint8)
    words = items.sub_code_words(codes, layout)
    assert words.shape == (6, layout.concepts, -(-layout.sub_bits // 64))
    apart = np.bitwise_count((words[:3] ^ words[3:]).view(np.uint64)).sum(axis=-1)
    assert np.array_equal(apart, per_concept(codes[:3], codes[3:], layout))
    assert apart.sum() == np.diagonal(hamming(codes[:3], codes[3:])).sum()


@pytest.mark.parametrize("database", DATABASES)
def test_export__of_an_index_has_no_paths(tmp_path: Path, database: str) -> None:
    if database == "milvus":
        pytest.importorskip("pyarrow")
    index = HammingIndex(64, 4)
    index.add(np.arange(24, dtype=np.uint8).reshape(3, 8), [5, 70, 900])
    assert export_to(index, tmp_path / "out", database, name="9").images == 3
    said = json.loads((tmp_path / "out/export.json").read_text())
    assert said["fingerprint"] is None
    assert (said["to"], said["images"], said["schema"]) == (database, 3, "chash.exported/1")
    if database == "pgvector":
        rows = read_copy(tmp_path / "out/images.copy")
        assert [row[0] for row in rows] == ["5", "70", "900"]
        assert [row[2:] for row in rows] == [[None, None]] * 3
        assert 'CREATE TABLE "images_9" (' in (tmp_path / "out/load.sql").read_text()


@pytest.mark.parametrize("database", DATABASES)
def test_export__of_an_empty_gallery_is_whole(tmp_path: Path, database: str) -> None:
    if database == "milvus":
        pytest.importorskip("pyarrow")
    index = HammingIndex(64, 4)
    assert export_to(index, tmp_path / "out", database, name="none").images == 0
    assert (tmp_path / "out/README.md").is_file()


def test_export__replaces_an_export_by_force_and_nothing_else(tmp_path: Path) -> None:
    gallery, _ = make_gallery(tmp_path)
    export(gallery, tmp_path / "out", "pgvector")
    with pytest.raises(UsageError, match="exists"):
        export(gallery, tmp_path / "out", "opensearch")
    assert (tmp_path / "out/load.sql").is_file()
    export(gallery, tmp_path / "out", "opensearch", force=True)
    assert not (tmp_path / "out/load.sql").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/work.txt").write_text("kept")
    (tmp_path / "file").write_text("kept")
    for other in (tmp_path / "mine", tmp_path / "file", gallery):
        with pytest.raises(UsageError, match="not replaced"):
            export(gallery, other, "pgvector", force=True)
    assert (tmp_path / "mine/work.txt").read_text() == (tmp_path / "file").read_text() == "kept"


def test_export__to_an_unknown_database_is_refused(tmp_path: Path) -> None:
    gallery, _ = make_gallery(tmp_path)
    with pytest.raises(UsageError, match="'oracle'"):
        export(gallery, tmp_path / "out", "oracle")


def test_export__that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery, _ = make_gallery(tmp_path)
    export(gallery, tmp_path / "out", "pgvector")
    before = sorted(path.name for path in (tmp_path / "out").iterdir())

    def full(_: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pgvector, "_readme", full)
    with pytest.raises(GalleryError, match="No space left"):
        export(gallery, tmp_path / "out", "pgvector", force=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [gallery.name, "out"]


def test_cli__export_to_a_database_says_how_to_load_it(tmp_path: Path, chash: Chash) -> None:
    gallery, _ = make_gallery(tmp_path)
    done = chash("index", "export", gallery, "pg", "--to", "pgvector")
    assert done.code == 0
    assert done.out == "pg: 11 codes of 64 bits\n"
    assert "2 paths or labels" in done.err
    assert "next: cd pg && psql DATABASE -f load.sql" in done.err
    assert chash("index", "export", gallery, "pg", "--to", "pgvector").code == 2
    again = chash("index", "export", gallery, "pg", "--to", "opensearch", "--force", "--json")
    values = again.json("chash.index-export/1")
    assert (values["to"], values["codes"], values["altered"]) == ("opensearch", 11, 2)
    refused = chash("index", "export", gallery, "other", "--to", "redis")
    assert refused.code == 2
    assert "--to" in refused.err


def test_cli__offers_the_databases_there_are() -> None:
    from concepthash.cli.index_parts import export as verb

    assert verb.DATABASES == DATABASES
