"""Ray, started on this machine or found on a cluster, and told to be quiet."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from concepthash.decode import usable_cpus
from concepthash.errors import BackendError

_ANSWERS_WITHIN = 5.0
"""Seconds; Ray alone tries for many minutes to reach an address where nothing is."""

_LOST_AFTER = 45.0
"""Seconds without the head; after 60 Ray ends the process, without a word."""
_LOOK_SECONDS = 2.0
_AGAIN = "ray status; then run it again: what was committed is kept"
_PRIVATE = "chash-ray-"
"""Begins the name of the folder of a cluster that is of one command alone."""

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's C++ half writes to stderr whatever its Python half was told.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # Or Ray warns that it will leave the GPUs visible to workers that ask for none.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}


@contextmanager
def connected(
    address: str | None, lost: Callable[[BackendError], None] = lambda _: None
) -> Iterator[None]:
    """Ray, ready to be used within the block.

    A Ray that this process has already is used as it is, and left running.

    Args:
        address: ``host:port``, ``ray://host:port`` or ``auto`` (the cluster this machine is a part
            of, never one that another command started for itself); None starts a cluster of this
            machine alone, which ends with the block and leaves no file behind.
        lost: called, in a thread of its own, if the cluster is gone for good while the block runs.
            Ray does not raise then: it ends the process a little later. So end it, with a word.

    Raises:
        BackendError: if Ray is missing, no cluster answers, none can be started here, or Ray fails
            within the block.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield
        return
    folder = None if address else Path(tempfile.mkdtemp(prefix=_PRIVATE, dir=_short_folder()))
    ended = threading.Event()
    try:
        _init(address, folder)
        if not (address or "").startswith("ray://"):
            head = ray.get_runtime_context().gcs_address
            threading.Thread(target=_watch, args=(head, lost, ended), daemon=True).start()
        with ray_errors():
            yield
    finally:
        ended.set()
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def ray_errors() -> Iterator[None]:
    """Tell of Ray's own errors in our words.

    Raises:
        BackendError: with the last of theirs.
    """
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise BackendError(
            f"Ray cannot go on: {lines[-1].strip() if lines else type(error).__name__}",
            where="--engine ray",
            hint=f"{_AGAIN}. Every machine of the cluster needs "
            "pip install 'concepthash[ray]' of the same version",
        ) from error


def _watch(head: str, lost: Callable[[BackendError], None], ended: threading.Event) -> None:
    """Knock at the head of the cluster, and tell when it has not answered for long."""
    gone = 0.0
    while not ended.wait(_LOOK_SECONDS):
        begun = time.monotonic()
        try:
            _knock(head)
            gone = 0.0
        except OSError:
            gone += _LOOK_SECONDS + time.monotonic() - begun
        if gone >= _LOST_AFTER and not ended.is_set():
            lost(BackendError("the Ray cluster is gone", where=head, hint=_AGAIN))
            return


def import_ray() -> ModuleType:
    """The module ``ray``.

    Raises:
        BackendError: if it is not installed.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)  # read when Ray is imported
    try:
        with quiet():
            import ray
    except ImportError as error:
        raise BackendError(
            f"Ray is not installed: {error}",
            where="--engine ray",
            hint="pip install 'concepthash[ray]'",
        ) from None
    return ray


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Ray's warnings about its own future from the user, who can change nothing there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _mute() -> Iterator[None]:
    """Keep off the terminal what Ray's C++ half says before it heeds the level of its log."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _init(address: str | None, folder: Path | None) -> None:
    import ray

    own: dict[str, Any] = {}
    if folder is not None:
        own = {"num_cpus": usable_cpus(), "include_dashboard": False, "_temp_dir": str(folder)}
    try:
        head, members = _head(address)
        _knock(head)
        with quiet(), _mute(), _token(members, head):
            ray.init(head, log_to_driver=False, logging_level=logging.CRITICAL, **own)
        # Or what becomes of workers is printed to stdout, among results.
        ray._private.worker._worker_logs_enabled = False
    except BackendError:
        raise
    except Exception as error:  # of many kinds, by what does not answer
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        if address:
            raise BackendError(
                f"no Ray cluster answers: {reason}",
                where=f"--address {address}",
                hint="ray status, on a machine of the cluster; ray start --head starts one; if it "
                "wants a token: RAY_AUTH_MODE=token and the head's ~/.ray/auth_token",
            ) from None
        raise BackendError(
            f"Ray does not start here: {reason}", where="--engine ray", hint="--engine local"
        ) from None


@dataclass(frozen=True)
class _Member:
    """What makes this machine a part of a cluster: a process of Ray.

    Args:
        head: the address of the cluster.
        private: whether it is that of one command alone.
        token: whether it asks for a token; None if we are not told.
    """

    head: str
    private: bool
    token: bool | None


def _members() -> Iterator[_Member]:
    """Those on this machine."""
    from ray._private import services

    psutil: Any = services.psutil  # type: ignore[attr-defined]
    for process in psutil.process_iter(["cmdline", "environ"]):
        line = process.info["cmdline"] or []
        if not services._is_raylet_process(line):
            continue
        words = " ".join(line).split()
        private = any(f"/{_PRIVATE}" in word for word in words)
        known = process.info["environ"]
        token = None if not known else known.get("RAY_AUTH_MODE", "").lower() == "token"
        for word in words:
            if word.startswith("--gcs-address="):
                yield _Member(word.partition("=")[2], private, token)


def _head(address: str | None) -> tuple[str, list[_Member]]:
    """What Ray is given as an address, and what runs here of clusters.

    Raises:
        BackendError: as :func:`_found`.
    """
    from ray._private import services, utils

    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address
    if address is None or address.startswith("ray://"):
        return address or "local", []
    members = list(_members())
    if address == "auto":
        address = _found(members, utils.read_ray_address())
    if address != "auto":
        address = services.canonicalize_bootstrap_address(address) or address
    return address, members


def _found(members: Sequence[_Member], latest: str | None) -> str:
    """The address of the cluster that this machine is a part of; ``auto`` if Ray has to find it.

    Args:
        members: of clusters, on this machine.
        latest: that ``ray start`` began or joined.

    Raises:
        BackendError: if there are several, or only such as other commands have for themselves.
    """
    others = sorted({member.head for member in members if not member.private})
    if latest in others:
        return str(latest)
    if len(others) > 1:
        raise BackendError(
            f"this machine is a part of {len(others)} clusters: {', '.join(others)}",
            where="--address auto",
            hint=f"--address {others[0]}",
        )
    if members and not others:
        raise BackendError(
            "the only cluster here is that of another command, and ends with it",
            where="--address auto",
            hint="ray start --head starts one; without --address this command starts its own",
        )
    return others[0] if others else "auto"


@contextmanager
def _token(members: Sequence[_Member], head: str) -> Iterator[None]:
    """Bring the token of this machine if the cluster asks for it.

    Ray does so for ``auto`` only, and then even where none is asked for, which its workers refuse.
    """
    asked = {member.token for member in members if member.head == head}
    if "RAY_AUTH_MODE" in os.environ or not asked & {True, None}:
        yield
        return
    from ray._private.authentication import authentication_token_setup as setup

    setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    try:
        yield
    finally:
        os.environ.pop("RAY_AUTH_MODE", None)  # it is of this cluster, not of the next


def _knock(address: str) -> None:
    """Make sure that something listens at ``host:port``, with or without ``ray://``."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_ANSWERS_WITHIN).close()


def _short_folder() -> str | None:
    # Ray's sockets lie below it, and the system limits their paths to about 100 characters.
    return "/tmp" if Path("/tmp").is_dir() else None
