"""Indexing on a real Ray cluster gives what it gives here; its machines are all this one.

Workers, machines and drivers are killed on the way.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli_entry import photo, photos
from photo_server import serving
from ray_photos import Content, processes, slow_photos, start
from tiny_bundle import tiny_bundle

ray = pytest.importorskip("ray")
pytest.importorskip("onnx")

from concepthash.bundle import Bundle  # noqa: E402
from concepthash.cluster import hashing  # noqa: E402
from concepthash.cluster import start as start_module  # noqa: E402
from concepthash.cluster.hashing import RayEngine, Workers, plan  # noqa: E402
from concepthash.cluster.start import connected, quiet  # noqa: E402
from concepthash.cluster.worker import Contents, Settings, Shipped, Worker  # noqa: E402
from concepthash.errors import BackendError, BundleError, MismatchError, UsageError  # noqa: E402
from concepthash.runtime.engine import Outcome  # noqa: E402
from concepthash.runtime.entries import IndexReport  # noqa: E402
from concepthash.runtime.hasher import Hasher  # noqa: E402
from concepthash.runtime.indexing import index_images  # noqa: E402
from concepthash.runtime.reconcile import Reconciler  # noqa: E402

WORKER = "MapBatches(Worker)"

# Ray leaves sockets and files to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


@pytest.fixture(scope="module")
def machines() -> Iterator[object]:
    """A cluster of two machines with a CPU each, this process connected to it."""
    from concepthash.cluster.start import import_ray

    import_ray()
    folder = tempfile.mkdtemp(prefix="chash-ray-", dir="/tmp")  # short: Ray's sockets lie in it
    with quiet():
        from ray.cluster_utils import Cluster

        room = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args={**room, "temp_dir": folder})
        cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    try:
        with connected(cluster.address):
            yield cluster
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return slow_photos(tmp_path_factory.mktemp("slow") / "photos")


@pytest.fixture(scope="module")
def expected(slow: Path, bundle: Bundle) -> tuple[Content, IndexReport]:
    """What the plain command makes of the slow photos."""
    gallery = slow.parent / "plain.chg"
    report = index_images(slow, gallery, Hasher(bundle, threads=2))
    return Content.of(gallery), report


def engine(bundle: Bundle, count: int = 2) -> RayEngine:
    return RayEngine(bundle, Workers(count), Settings())


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 10**18))


def once(act: Callable[[], None]) -> Callable[[IndexReport], None]:
    """A progress that acts when the first photo is settled, with the others on their way."""
    acts = [act]

    def progress(report: IndexReport) -> None:
        if acts:
            acts.pop()()

    return progress


def test_connected__says_at_once_that_nothing_answers() -> None:
    assert not ray.is_initialized()
    with (
        pytest.raises(BackendError, match="no Ray cluster answers") as told,
        connected("127.0.0.1:1"),
    ):
        pass
    assert "ray start --head" in str(told.value)


def test_ray__survives_workers_and_machines_that_are_killed(
    machines, slow: Path, bundle: Bundle, expected: tuple[Content, IndexReport], tmp_path: Path
) -> None:
    node = machines.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    killed: list[int] = []

    def disaster() -> None:
        killed.extend(processes(WORKER)[:1])
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        machines.remove_node(node, allow_graceful=False)

    gallery = slow.parent / "killed.chg"
    report = index_images(
        slow, gallery, engine(bundle, 3), shards=2, commit_every=5, progress=once(disaster)
    )
    assert killed
    assert Content.of(gallery) == expected[0]
    assert report.skipped.items == expected[1].skipped.items
    assert (report.added, report.hashed) == (expected[1].added, expected[1].hashed)
    again = index_images(slow, gallery, engine(bundle))
    assert (again.unchanged, again.hashed) == (report.added, 1)  # the broken one is tried again


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_ray__a_driver_that_ends_loses_and_repeats_nothing_committed(
    machines, slow: Path, bundle: Bundle, expected: tuple[Content, IndexReport], how: signal.Signals
) -> None:
    gallery = slow.parent / f"ended{how}.chg"
    driver = start(
        slow, "--model", bundle.path, "--out", gallery, "--engine", "ray",
        "--address", machines.address, "--workers", 2, "--cpus-per-worker", 1,
        cwd=slow.parent,
    )  # fmt: skip
    assert driver.stdout is not None
    for line in driver.stdout:
        if int(line) == 12:
            os.killpg(driver.pid, how)
            break
    _, told = driver.communicate()
    assert driver.returncode == (-9 if how == signal.SIGKILL else 130), told
    if how == signal.SIGINT:
        assert told.splitlines()[-1] == "interrupted"
        assert "Traceback" not in told
    kept = Content.of(gallery)
    assert 10 <= len(kept.images) < len(expected[0].images)
    report = index_images(slow, gallery, engine(bundle))
    assert Content.of(gallery) == expected[0]
    assert report.unchanged == len(kept.images)
    assert report.hashed == expected[1].hashed - len(kept.images)


def test_ray__does_only_what_is_left(
    machines, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = photos(tmp_path / "photos", each=4)
    galleries = {name: tmp_path / f"{name}.chg" for name in ("plain", "ray")}
    hasher, pool = Hasher(bundle, threads=1), engine(bundle, 1)
    index_images(folder, galleries["plain"], hasher)
    index_images(folder, galleries["ray"], pool)
    a, b = folder / "a", folder / "b"
    (a / "0.png").rename(b / "moved.png")
    # The gallery has this content when the run begins, and no more when its new file is settled.
    (a / "1.png").rename(b / "z.png")
    photo(a / "1.png", 98)
    touch(a / "2.png")
    (a / "3.png").unlink()
    photo(b / "new.png", 99)
    shutil.copy(b / "new.png", b / "twin.png")
    reports = [index_images(folder, galleries["plain"], hasher, commit_every=1)]
    late: list[bool] = []
    take = Reconciler.take

    def watched(self: Reconciler, outcome: Outcome) -> bool:
        late.append(not take(self, outcome))
        return not late[-1]

    monkeypatch.setattr(Reconciler, "take", watched)
    reports.append(index_images(folder, galleries["ray"], pool, commit_every=1))
    assert late.count(True) == 1
    assert Content.of(galleries["ray"]) == Content.of(galleries["plain"])
    plain, other = (report.to_json() for report in reports)
    for name in ("added", "changed", "moved", "removed", "unchanged", "skipped"):
        assert plain[name] == other[name]


def test_ray__reads_rows_and_urls_as_the_plain_command_does(
    machines, bundle: Bundle, tmp_path: Path
) -> None:
    pytest.importorskip("aiohttp")
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = photos(tmp_path / "photos", each=3)
    data = [photo(tmp_path / f"{n}.png", 40 + n).read_bytes() for n in range(9)]
    rows = arrow.table({"image": [*data, b"broken", None], "label": list("aabbccddeef")})
    parquet.write_table(rows, tmp_path / "rows.parquet", row_group_size=4)
    with serving(folder) as base:
        sources = [f"{base}/", str(tmp_path / "rows.parquet")]
        reports = [
            index_images(sources, tmp_path / "plain.chg", Hasher(bundle, threads=1)),
            index_images(sources, tmp_path / "ray.chg", engine(bundle)),
        ]
    assert Content.of(tmp_path / "ray.chg") == Content.of(tmp_path / "plain.chg")
    assert [report.added for report in reports] == [15, 15]
    plain, other = ({(s.path, s.reason) for s in report.skipped.items} for report in reports)
    assert plain == other
    assert len(plain) == 2


def test_ray__a_photo_that_kills_its_worker_is_the_only_one_left_out(
    machines, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FakeDyingWorker(Worker):
        """A fake: it dies of one photo, as of a fault in a decoder."""

        def __call__(self, table):  # type: ignore[no-untyped-def]
            if any(b"deadly" in file for file in table.column("file").to_pylist()):
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(table)

    monkeypatch.setattr(hashing, "Worker", FakeDyingWorker)
    monkeypatch.setattr(hashing, "TRIES", 1)
    folder = photos(tmp_path / "photos", each=4)
    photo(folder / "b" / "deadly.png", 50)
    report = index_images(folder, tmp_path / "g.chg", engine(bundle, 1))
    assert report.added == 8
    (left,) = report.skipped.items
    assert (Path(left.path).name, left.reason) == (
        "deadly.png",
        "its worker died whenever it was read",
    )


def test_ray__tells_a_worker_s_own_error_in_its_words(
    machines, bundle: Bundle, tmp_path: Path
) -> None:
    folder = photos(tmp_path / "photos", each=1)
    pool = RayEngine(bundle, Workers(1), Settings(device="cuda"))
    with pytest.raises(BackendError, match=r"CUDA|cuda"):
        index_images(folder, tmp_path / "g.chg", pool)


def test_members__are_found_among_what_runs_here(machines) -> None:
    members = [each for each in start_module._members() if each.head == machines.address]
    assert len(members) >= 2
    assert all(each.private for each in members)  # by the name of its folder
    assert any(each.token is not None for each in members)


def test_plan__fills_the_cluster_and_refuses_what_has_no_room(machines) -> None:
    assert plan(None, None, None) == Workers(2, 1.0, 0)
    assert plan(5, 0.5, None) == Workers(5, 0.5, 0)
    assert str(plan(5, 0.5, None)) == "5 workers of 0.5 CPUs, 4 at once"
    assert str(plan(None, None, None)) == "2 workers of 1 CPUs"
    for asked in ((None, 8, None), (None, None, 1)):
        with pytest.raises(UsageError, match="no machine of the cluster has"):
            plan(*asked)


def test_contents__are_looked_up_exactly() -> None:
    np = pytest.importorskip("numpy")
    digests = np.random.default_rng(0).integers(0, 256, (50, 32), dtype=np.uint8)
    digests[1] = digests[0]
    digests[1, 31] ^= 1  # alike but for the last bit
    contents = Contents.of(digests)
    assert all(digest.tobytes().hex() in contents for digest in digests)
    for place in (0, 7, 8, 31):
        other = digests[2].copy()
        other[place] ^= 1
        assert other.tobytes().hex() not in contents
    assert "00" * 32 not in Contents.of(np.empty((0, 32), np.uint8))


def test_shipped__is_the_bundle_or_refused(bundle: Bundle, tmp_path: Path) -> None:
    shipped = Shipped.of(bundle)
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    assert shipped.unpack(tmp_path / "a").manifest == bundle.manifest
    broken = {**shipped.files, "model.onnx": shipped.files["model.onnx"][:-1]}
    with pytest.raises(BundleError):
        Shipped(shipped.name, broken, shipped.fingerprint).unpack(tmp_path / "b")
    with pytest.raises(MismatchError):
        Shipped(shipped.name, shipped.files, "0" * 64).unpack(tmp_path / "c")
