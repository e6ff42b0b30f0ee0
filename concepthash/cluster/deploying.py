"""A gallery's shards as an application of Ray Serve: deployed, found again, taken away."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from concepthash.cluster.replica import OWNERS, Owner, Place, Replica
from concepthash.cluster.start import quiet
from concepthash.errors import BackendError, UsageError
from concepthash.runtime.galleries import is_sharded
from concepthash.runtime.shardfile import Manifest, Shard

_START_SECONDS = 300.0
_TELL_SECONDS = 10.0
_POLL_SECONDS = 0.1
_OWNER_SECONDS = 15.0
# Calls a replica has at once: one is worked on while the next come in.
_CALLS = 16
_EVERY_ID = ((0, 2**63 - 1),)
_CONTROLLER = {"name": "SERVE_CONTROLLER_ACTOR", "namespace": "serve"}


@dataclass(frozen=True)
class Gallery:
    """A gallery to be served.

    Args:
        folder: where this machine has it.
        fingerprint: of its model.
        url: where every machine of the cluster fetches it from; None if all see the folder.
    """

    folder: Path
    fingerprint: str
    url: str | None = None

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """Its shards; one of them all if it is no sharded gallery.

        Raises:
            GalleryError: if their list cannot be read.
        """
        if is_sharded(self.folder):
            return Manifest.read(self.folder).shards
        return (Shard(self.folder.resolve().name, _EVERY_ID),)

    def place(self, shard: Shard) -> Place:
        """Where a replica finds a shard."""
        name = shard.name if is_sharded(self.folder) else None
        return Place(self.url or str(self.folder.resolve()), name, fetched=self.url is not None)

    @property
    def prefix(self) -> str:
        """Begins the name of every application that serves it."""
        names = [shard.name for shard in self.shards]
        key = hashlib.sha256(
            repr((self.url or self.folder.resolve(), self.fingerprint, names)).encode()
        )
        stem = re.sub(r"[^A-Za-z0-9]+", "-", self.folder.resolve().stem).strip("-")
        return f"chash-{stem[:40]}-{key.hexdigest()[:12]}-"


def import_serve() -> Any:
    """The module ``ray.serve``, quiet, and quick to leave a replica that hangs."""
    # It is chosen again as long as what it said of its queue counts.
    os.environ.setdefault("RAY_SERVE_QUEUE_LENGTH_CACHE_TIMEOUT_S", "0.5")
    with quiet():
        from ray import serve
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    return serve


@contextmanager
def deployed(
    gallery: Gallery,
    *,
    replicas: int,
    cpus: float,
    reload_seconds: float,
    lasting: bool,
    tell: Callable[[str], None],
) -> Iterator[tuple[str, int]]:
    """An application that serves a gallery within the block: its name, and replicas of a shard.

    Nothing is left of it afterwards, nor of Ray Serve if it was started for it.

    Args:
        gallery: to serve.
        replicas: of each shard.
        cpus: that Ray reserves for a replica.
        reload_seconds: between two looks of a replica for commits.
        lasting: deploy one that others may use as long as it is there; if not, use such a one, and
            deploy another only if there is none.
        tell: told a line while it takes long, and whose replicas are used.

    Raises:
        UsageError: if no machine of the cluster has the CPUs of a replica.
        BackendError: if a shard is not there in time, or cannot be opened.
    """
    serve = import_serve()
    with _serve(serve):
        if not lasting and (known := _running(serve, gallery)) is not None:
            tell(f"asking the replicas of {known[0]}")
            yield known
            return
        name = f"{gallery.prefix}{'serve' if lasting else 'query'}-{secrets.token_hex(4)}"
        import ray

        _check_room(cpus)
        begun = time.monotonic()
        # By its name: a handle that Ray's client made is of no use elsewhere.
        # It goes with this process, not with the machine that it happens to run on.
        kept: Any = ray.remote(num_cpus=0, max_restarts=-1)(Owner)
        kept = kept.options(name=name, namespace=OWNERS)
        owner = kept.remote()
        try:
            ray.get(owner.alive.remote())  # or a replica may look for it before it is there
            _deploy(serve, gallery, name, replicas, cpus, reload_seconds)
            _wait(serve, name, [shard.name for shard in gallery.shards], tell)
            seconds = time.monotonic() - begun
            count = len(gallery.shards)
            tell(f"ray: shards {count}, replicas of each {replicas}, ready after {seconds:.1f} s")
            yield name, replicas
        finally:
            with suppress(Exception):  # the cluster may be gone
                serve.delete(name)
                ray.kill(owner)


def _check_room(cpus: float) -> None:
    """Refuse replicas that would be waited for in vain.

    Raises:
        UsageError: if no machine has as many CPUs.
    """
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    most = max((node["Resources"].get("CPU", 0) for node in nodes if node["Alive"]), default=0)
    if cpus > most:
        raise UsageError(
            f"no machine of the cluster has {cpus:g} CPUs for a replica: the largest has {most:g}",
            where="--cpus-per-replica",
            hint=f"--cpus-per-replica {most:g}, or 0; ray status says what there is",
        )


@contextmanager
def _serve(serve: Any) -> Iterator[None]:
    """Ray Serve, ended afterwards if it was not there and nobody else uses it."""
    import ray

    try:
        ray.get_actor(**_CONTROLLER)
    except ValueError:
        ours = True
        serve.start(proxy_location="Disabled", logging_config=_logging())
    else:
        ours = False
    try:
        yield
    finally:
        if ours:
            with suppress(Exception):  # the cluster may be gone
                if not serve.status().applications:
                    serve.shutdown()


def _logging() -> Any:
    from ray.serve.schema import LoggingConfig

    return LoggingConfig(log_level="ERROR", enable_access_log=False)


def _running(serve: Any, gallery: Gallery) -> tuple[str, int] | None:
    """The lasting application of a gallery, and its replicas of a shard; None if there is none."""
    for name, found in sorted(serve.status().applications.items()):
        # Unhealthy: replicas were lost and come back; meanwhile those of other shards answer.
        there = found.status in ("RUNNING", "UNHEALTHY")
        if there and name.startswith(f"{gallery.prefix}serve-"):
            counts = [sum(each.replica_states.values()) for each in found.deployments.values()]
            return name, min(counts, default=1)
    return None


def _deploy(
    serve: Any,
    gallery: Gallery,
    name: str,
    replicas: int,
    cpus: float,
    reload_seconds: float,
) -> None:
    deployment = serve.deployment(Replica).options(
        num_replicas=replicas,
        ray_actor_options={"num_cpus": cpus},
        max_ongoing_requests=_CALLS,
        health_check_period_s=5,
        health_check_timeout_s=15,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=2,
        logging_config=_logging(),
    )
    bound: list[Any] = []
    # An application is what its first deployment was given: so that gets the others.
    for shard in reversed(gallery.shards):
        bound.append(
            deployment.options(name=shard.name).bind(
                gallery.place(shard),
                gallery.fingerprint,
                threads=max(1, round(cpus)) if cpus else None,
                reload_seconds=reload_seconds,
                owner=name,
                owner_seconds=_OWNER_SECONDS,
                others=tuple(bound) if shard is gallery.shards[0] else (),
            )
        )
    target = serve.RunTarget(target=bound[-1], name=name, route_prefix=None)
    serve.run_many([target], wait_for_applications_running=False)


def _wait(serve: Any, name: str, shards: Sequence[str], tell: Callable[[str], None]) -> None:
    """Wait until each shard has a replica.

    Raises:
        BackendError: if one cannot be opened, or is not there in time.
    """
    begun = told = time.monotonic()
    while True:
        found = serve.status().applications.get(name)
        deployments = found.deployments if found is not None else {}
        for shard, each in deployments.items():
            if each.status == "DEPLOY_FAILED":
                raise BackendError(
                    f"{shard} cannot be served: {_last_line(each.message)}",
                    where=name,
                    hint="chash index verify GALLERY, on the machines of the cluster",
                )
        waited = [
            shard
            for shard in shards
            if shard not in deployments or not deployments[shard].replica_states.get("RUNNING")
        ]
        if not waited:
            return
        now = time.monotonic()
        if now - begun > _START_SECONDS:
            raise BackendError(
                f"no replica within {_START_SECONDS:g} s: {', '.join(waited)}",
                where=name,
                hint="ray status says what the cluster has no room for; --cpus-per-replica 0",
            )
        if now - told > _TELL_SECONDS:
            told = now
            tell(f"waiting for {', '.join(waited)}")
        time.sleep(_POLL_SECONDS)


def _last_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "Ray does not say why"
