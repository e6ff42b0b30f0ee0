"""Shards served by Ray on two nodes, whose replicas and nodes are killed while they are asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from cli_entry import Chash
from serve_gallery import Place
from shard_gallery import FINGERPRINT, Oracle, asked_at_random, commit, drawn, make_sharded

from concepthash.cluster.deploying import Gallery, import_serve
from concepthash.cluster.serving import Served, serving
from concepthash.cluster.start import import_ray, quiet
from concepthash.runtime.galleries import open_gallery
from concepthash.runtime.shards import split
from concepthash.serve.held import Asked

pytest.importorskip("ray", reason="the extra ray is not installed")
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc"),
    # Ray leaves pipes and sockets of the processes it ends to the collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

NAMES = tuple(f"shard-000{number}.chg" for number in (1, 2, 3))
LOST = NAMES[1]
WAIT = 120


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Ray on a head and one more node, both of this machine."""
    ray = import_ray()
    import_serve()  # before the tests import it with its warnings
    with quiet():
        from ray.cluster_utils import Cluster

        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
        ray.init(address=made.address, log_to_driver=False, logging_level="CRITICAL")
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def node(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=2)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sharded(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def served(cluster: Any, node: Any, gallery: Path) -> Iterator[Served]:
    place = Gallery(gallery, FINGERPRINT)
    with serving(place, lasting=True, replicas=2, seconds=20, reload_seconds=0.3) as held:
        settle()
        yield held


def processes(shard: str = "") -> dict[int, int]:
    """The replicas of a shard, or all: their processes, and the node of each by its parent."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            name = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            state = (entry / "stat").read_text().rpartition(")")[2].split() if name else []
        except OSError:  # it ended meanwhile
            continue
        if name.startswith(b"ray::ServeReplica:chash-shards-") and shard.encode() in name:
            found[int(entry.name)] = int(state[1])
    return {pid: node for pid, node in found.items() if _is_ours(node)}


def _is_ours(node: int) -> bool:
    """Whether a Ray daemon was started by this process: others may test here at the same time."""
    return int(Path(f"/proc/{node}/stat").read_text().rpartition(")")[2].split()[1]) == os.getpid()


def settle(count: int = 6) -> None:
    """Wait until all replicas are there."""
    from ray import serve

    def ready() -> bool:
        (app,) = serve.status().applications.values()
        states = [each.replica_states for each in app.deployments.values()]
        return sum(each.get("RUNNING", 0) for each in states) == count

    until(ready)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def answers(held: Served, queries: list) -> list:
    found: list = [None] * len(queries)
    for places, some in held.search(queries):
        for place, one in zip(places, some, strict=True):
            found[place] = one
    return found


@contextmanager
def asking(held: Served, gallery: Path) -> Iterator[list]:
    """Ask without end inside the block; the answers, each beside its query."""
    queries, told, ended = asked_at_random(40, seed=5), [], threading.Event()

    def work() -> None:
        while not ended.is_set():
            told.extend(zip(queries, answers(held, queries), strict=True))
            time.sleep(0.05)  # or those that start anew have no processor

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: len(told) >= 40)
    try:
        yield told
        seen = len(told)
        until(lambda: len(told) >= seen + 80)
    finally:
        ended.set()
        thread.join(WAIT)
        assert not thread.is_alive()


def check(told: list, gallery: Path, *, may_miss: Collection[str] = ()) -> int:
    """Each answer is that of all shards, or of those that it does not name; counts the latter."""
    oracle = Oracle.of(gallery)
    with open_gallery(gallery) as opened:
        pairs = zip(opened.names, opened.shards, strict=True)  # type: ignore[union-attr]
        owned = {name: set(shard.codes()[0].tolist()) for name, shard in pairs}
    partial = 0
    for (code, asked), answer in told:
        if not answer.missing:
            assert answer.hits == oracle.hits(code, asked)
            continue
        partial += 1
        assert set(answer.missing) <= set(may_miss)
        lost = set().union(*(owned[name] for name in answer.missing))
        rest = [hit for hit in oracle.hits(code, replace(asked, k=None)) if hit.id not in lost]
        rest = rest if asked.k is None else rest[: asked.k]
        assert [replace(hit, rank=0) for hit in answer.hits] == [replace(h, rank=0) for h in rest]
    return partial


def test_served__equals_one_gallery_in_every_row(served: Served, gallery: Path) -> None:
    queries = asked_at_random(2000, seed=21)
    check(list(zip(queries, answers(served, queries), strict=True)), gallery)


def test_served__takes_up_commits_of_its_shards(served: Served, gallery: Path) -> None:
    before = served.images
    with open_gallery(gallery, write=True) as opened:
        commit(opened, range(5000, 5030))
    oracle = Oracle.of(gallery)
    code = drawn(1, 1)[0]
    wanted = oracle.hits(code, Asked(k=None))
    until(lambda: served.images == before + 30)
    # Each replica follows for itself: another one may answer with the moment before.
    until(lambda: all(a.hits == wanted for a in answers(served, [(code, Asked(k=None))] * 8)))


def test_served__is_answered_by_other_replicas_when_some_are_killed(
    served: Served, gallery: Path
) -> None:
    with asking(served, gallery) as told:
        for name in NAMES:
            os.kill(next(iter(processes(name))), signal.SIGKILL)
    check(told, gallery)
    settle()
    assert served.missing == ()


def test_served__is_answered_by_other_replicas_when_one_hangs(
    served: Served, gallery: Path, cluster: Any
) -> None:
    hung = next(iter(processes(NAMES[0])))
    settle()
    os.kill(hung, signal.SIGSTOP)
    try:
        queries = asked_at_random(20, seed=8)
        told = [(query, answers(served, [query])[0]) for query in queries]
    finally:
        os.kill(hung, signal.SIGKILL)
    check(told, gallery)
    settle()


def test_served__is_answered_by_other_nodes_when_one_is_lost(
    served: Served, gallery: Path, cluster: Any, node: Any
) -> None:
    ((raylet,),) = [node.all_processes["raylet"]]
    gone = raylet.process.pid
    alone: list[str] = []

    def spread() -> bool:
        """Whether Ray has put them on both nodes; it does where it can, but not after kills."""
        nodes = {name: set(processes(name).values()) for name in NAMES}
        alone[:] = [name for name, some in nodes.items() if some == {gone}]
        if len(alone) < len(NAMES) and any(gone in some for some in nodes.values()):
            return True
        if len(processes()) == 2 * len(NAMES):  # or those that were killed are not back yet
            os.kill(next(iter(processes(NAMES[0]))), signal.SIGKILL)
        return False

    until(spread)
    settle()
    with asking(served, gallery) as told:
        cluster.remove_node(node, allow_graceful=False)
        until(lambda: gone not in processes().values())
    check(told, gallery, may_miss=alone)
    settle()
    until(lambda: served.missing == ())
    late = asked_at_random(100, seed=4)
    assert not check(list(zip(late, answers(served, late), strict=True)), gallery)


def test_served__names_a_shard_without_replicas_until_it_is_back(
    served: Served, gallery: Path
) -> None:
    (line,) = (line for line in served._lines if line.name == LOST)
    line._patience = replace(line._patience, seconds=1.0)
    with asking(served, gallery) as told:
        for pid in processes(LOST):
            os.kill(pid, signal.SIGKILL)
        until(lambda: served.missing == (LOST,))
        until(lambda: served.missing == ())
    assert check(told, gallery, may_miss=[LOST])
    late = asked_at_random(200, seed=9)
    check(list(zip(late, answers(served, late), strict=True)), gallery)


def test_query__uses_what_is_served_and_takes_away_what_it_deployed(
    served: Served, gallery: Path, cluster: Any
) -> None:
    from ray import serve

    apps = set(serve.status().applications)
    told: list[str] = []
    with serving(Gallery(gallery, FINGERPRINT), lasting=False, tell=told.append) as held:
        assert set(serve.status().applications) == apps
        assert told == [f"asking the replicas of {next(iter(apps))}"]
        query = (drawn(1, 1)[0], Asked())
        assert answers(held, [query]) == answers(served, [query])
    shard = gallery / "shard-0003.chg"  # a gallery of its own that nobody serves
    with serving(Gallery(shard, FINGERPRINT), lasting=False) as held:
        (own,) = set(serve.status().applications) - apps
        assert "-query-" in own
        check_alone = Oracle.of(shard).hits(drawn(1, 1)[0], Asked())
        assert answers(held, [(drawn(1, 1)[0], Asked())])[0].hits == check_alone
    assert set(serve.status().applications) == apps


ABANDONED = """
import sys, time
from pathlib import Path
from concepthash.cluster import deploying, start
deploying._OWNER_SECONDS = 0.5
with start.connected(sys.argv[1]), deploying.deployed(
    deploying.Gallery(Path(sys.argv[2]), sys.argv[3]), replicas=1, cpus=0.0, reload_seconds=9,
    lasting=True, tell=lambda _: None,
):
    print("deployed", flush=True)
    time.sleep(600)
"""


def test_replicas__go_when_the_process_that_wanted_them_is_killed(
    served: Served, gallery: Path, cluster: Any
) -> None:
    from ray import serve

    apps = set(serve.status().applications)
    arguments = [cluster.address, str(gallery / LOST), FINGERPRINT]
    with subprocess.Popen(
        [sys.executable, "-c", ABANDONED, *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "deployed\n"
        assert len(set(serve.status().applications) - apps) == 1
        process.kill()
    until(lambda: set(serve.status().applications) == apps)


def test_chash__answers_from_replicas_and_says_which_shards_are_missing(
    cluster: Any, chash: Chash, tmp_path: Path
) -> None:
    from ray import serve

    place = Place(tmp_path)
    split(place.gallery, 2, tmp_path / "shards.chg")
    serve.start(proxy_location="Disabled")  # what the command starts ends with it
    apps = set(serve.status().applications)
    photos = [str(place.photos / "one/3.png"), str(place.photos / "two/9.png")]
    ray = ["--engine", "ray", "--address", cluster.address]
    query = ["query", *photos, "--json", "-k", "20", "--gallery"]
    alone = chash(*query, place.gallery).json("chash.query/1")["queries"]
    environment = {n: value for n, value in os.environ.items() if not n.startswith("CHASH_")}
    with subprocess.Popen(
        [sys.executable, "-m", "concepthash", "serve", "shards.chg", "--port", "0", "--json",
         "--shard-timeout", "0.2", *ray],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        assert server.stdout is not None
        try:
            line = server.stdout.readline()
            assert line, server.communicate()[1]
            url = json.loads(line)["url"]
            answer = chash(*query, "shards.chg", *ray)
            told = answer.json("chash.query/1")
            assert (answer.code, told["queries"], told["search"]) == (0, alone, "ray")
            assert "missing_shards" not in told
            assert "asking the replicas of" in answer.err
            partial: dict[str, Any] = {}

            def lost() -> bool:
                for pid in processes(LOST):
                    os.kill(pid, signal.SIGKILL)
                partial.clear()
                with urlopen(f"{url}/v1/query?id=1&k=20") as response:
                    partial.update(json.load(response), header=response.headers)
                # On a busy machine the other may be late too.
                return partial.get("missing_shards") == [LOST]

            until(lost)
            assert partial["header"]["chash-missing-shards"] == LOST
            kept = {hit["id"] for hit in partial["queries"][0]["hits"]}
            assert kept == set(range(1, 11))

            def left_out() -> bool:
                for pid in processes(LOST):
                    os.kill(pid, signal.SIGKILL)
                outcome = chash(*query, "shards.chg", "--shard-timeout", "0.2", *ray)
                partial["outcome"] = outcome
                return outcome.code == 3 and f"nothing from {LOST}, whose" in outcome.err

            until(left_out)
            outcome = partial["outcome"]
            assert f"the answer is partial: nothing from {LOST}" in outcome.err
            assert outcome.json("chash.query/1")["missing_shards"] == [LOST]
            server.send_signal(signal.SIGTERM)
            _, complaints = server.communicate(timeout=WAIT)
            assert server.returncode == 0
            assert f"{LOST} does not answer" in complaints
        finally:
            server.kill()
    assert set(serve.status().applications) == apps
