"""What is deployed of a gallery, what is waited for, and what the options of it may be."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cli_entry import Chash
from shard_gallery import FINGERPRINT, make_gallery, make_sharded

from concepthash.cluster import deploying
from concepthash.cluster.deploying import Gallery
from concepthash.cluster.replica import Place
from concepthash.errors import BackendError, UsageError


@dataclass
class FakeDeployment:
    """Fake: what Ray Serve says of a shard."""

    status: str = "HEALTHY"
    message: str = ""
    replica_states: dict[str, int] = field(default_factory=lambda: {"RUNNING": 1})


class FakeServe:
    """Fake: ``ray.serve``, where an application has what it is given."""

    def __init__(self, name: str, status: str = "RUNNING", **shards: FakeDeployment) -> None:
        self.name, self.app_status = name, status
        self.shards = {f"{key}.chg": value for key, value in shards.items()}

    def status(self) -> Any:
        app = type("App", (), {"status": self.app_status, "deployments": self.shards})
        return type("Status", (), {"applications": {self.name: app}})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploying, "_POLL_SECONDS", 0.001)
    monkeypatch.setattr(deploying, "_START_SECONDS", 0.05)
    monkeypatch.setattr(deploying, "_TELL_SECONDS", 0.01)


def test_gallery__of_shards_or_not_tells_where_each_lies(tmp_path: Path) -> None:
    sharded = Gallery(make_sharded(tmp_path), FINGERPRINT)
    assert [shard.name for shard in sharded.shards] == [f"shard-000{n}.chg" for n in (1, 2, 3)]
    assert sharded.place(sharded.shards[1]) == Place(str(tmp_path / "shards.chg"), "shard-0002.chg")
    alone = Gallery(tmp_path / "drawn.chg", FINGERPRINT)
    (shard,) = alone.shards
    assert shard.name == "drawn.chg"
    assert shard.owns(1)
    assert alone.place(shard) == Place(str(tmp_path / "drawn.chg"))
    assert alone.place(shard).folder() == tmp_path / "drawn.chg"
    published = Gallery(tmp_path / "drawn.chg", FINGERPRINT, "https://x.example/drawn.chg")
    assert published.place(shard) == Place("https://x.example/drawn.chg", None, fetched=True)


def test_prefix__is_of_one_gallery_and_its_model(tmp_path: Path) -> None:
    path = make_gallery(tmp_path)
    names = {
        Gallery(path, FINGERPRINT).prefix,
        Gallery(path, "00" * 32).prefix,
        Gallery(path, FINGERPRINT, "https://x.example/drawn.chg").prefix,
        Gallery(make_gallery(tmp_path / "other"), FINGERPRINT).prefix,
    }
    assert len(names) == 4
    assert all(name.startswith("chash-drawn-") for name in names)
    assert Gallery(path, FINGERPRINT).prefix in names


def test_wait__ends_when_each_shard_has_a_replica() -> None:
    deploying._wait(FakeServe("x", a=FakeDeployment()), "x", ["a.chg"], lambda _: None)


def test_wait__gives_up_and_names_the_shards_without_one() -> None:
    starting = FakeDeployment("UPDATING", replica_states={"STARTING": 1})
    told: list[str] = []
    with pytest.raises(BackendError, match=r"b\.chg, c\.chg") as refused:
        deploying._wait(
            FakeServe("x", a=FakeDeployment(), b=starting),
            "x",
            ["a.chg", "b.chg", "c.chg"],
            told.append,
        )
    assert "a.chg" not in str(refused.value)
    assert "ray status" in str(refused.value)
    assert told[0] == "waiting for b.chg, c.chg"


def test_wait__says_why_a_shard_cannot_be_served() -> None:
    failed = FakeDeployment("DEPLOY_FAILED", "Traceback\n  ...\nGalleryError: truncated\n")
    with pytest.raises(BackendError, match=r"a\.chg cannot be served: GalleryError: truncated"):
        deploying._wait(FakeServe("x", a=failed), "x", ["a.chg"], lambda _: None)


@pytest.mark.parametrize(
    ("name", "status", "found"),
    [("serve-1", "RUNNING", True), ("serve-1", "DEPLOYING", False), ("query-1", "RUNNING", False)],
)
def test_running__is_only_what_others_may_use(
    tmp_path: Path, name: str, status: str, found: bool
) -> None:
    gallery = Gallery(make_gallery(tmp_path), FINGERPRINT)
    two = FakeDeployment(replica_states={"RUNNING": 2})
    fake = FakeServe(gallery.prefix + name, status, a=two, b=two)
    expected = (gallery.prefix + name, 2) if found else None
    assert deploying._running(fake, gallery) == expected


def test_room__is_refused_at_once_where_no_machine_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    nodes = [
        {"Alive": True, "Resources": {"CPU": 2.0}},
        {"Alive": True, "Resources": {}},
        {"Alive": False, "Resources": {"CPU": 64.0}},
    ]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    deploying._check_room(2)
    deploying._check_room(0)
    with pytest.raises(UsageError, match="16 CPUs for a replica: the largest has 2") as refused:
        deploying._check_room(16)
    assert "--cpus-per-replica 2" in str(refused.value)


@pytest.mark.parametrize("verb", ["query", "serve"])
@pytest.mark.parametrize(
    ("options", "where"),
    [
        (["--replicas", "2"], "--replicas"),
        (["--shard-timeout", "2"], "--shard-timeout"),
        (["--address", "auto"], "--address"),
        (["--engine", "dask"], "--engine"),
        (["--engine", "ray", "--replicas", "0"], "--replicas"),
        (["--engine", "ray", "--cpus-per-replica", "-1"], "--cpus-per-replica"),
        (["--engine", "ray", "--shard-timeout", "0"], "--shard-timeout"),
    ],
)
def test_chash__refuses_replicas_that_cannot_be(
    chash: Chash, verb: str, options: list[str], where: str
) -> None:
    outcome = chash(verb, "x.png" if verb == "query" else "x.chg", *options)
    assert outcome.code == 2
    assert f"where: {where}" in outcome.err


def test_query__with_ray_searches_on_no_gpu(chash: Chash) -> None:
    outcome = chash("query", "x.png", "--engine", "ray", "--search-on", "cuda")
    assert outcome.code == 2
    assert "--search-on" in outcome.err


def test_query__without_ray_says_what_to_install(
    chash: Chash, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    from serve_gallery import Place as Painted

    place = Painted(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    photo = place.photos / "one/3.png"
    outcome = chash("query", photo, "--gallery", place.gallery, "--engine", "ray")
    assert outcome.code == 6
    assert "pip install 'concepthash[ray]'" in outcome.err
