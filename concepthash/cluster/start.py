"""Ray, started on this machine or found on a cluster, and told to be quiet."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from concepthash.decode import usable_cpus
from concepthash.errors import BackendError

_ANSWERS_WITHIN = 5.0
"""Seconds; Ray alone tries for many minutes to reach an address where nothing is."""

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's C++ half writes to stderr whatever its Python half was told.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # Or Ray warns that it will leave the GPUs visible to workers that ask for none.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Ray, ready to be used within the block.

    A Ray that this process has already is used as it is, and left running.

    Args:
        address: ``host:port``, ``ray://host:port`` or ``auto`` (the cluster this machine is a part
            of); None starts a cluster of this machine alone, which ends with the block and leaves
            no file behind.

    Raises:
        BackendError: if Ray is missing, no cluster answers, or none can be started here.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield
        return
    folder = None if address else Path(tempfile.mkdtemp(prefix="chash-ray-", dir=_short_folder()))
    try:
        _init(address, folder)
        yield
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


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
        if address:
            _knock(address)
        with quiet(), _mute():
            ray.init(address or "local", log_to_driver=False, logging_level=logging.CRITICAL, **own)
        # Or what becomes of workers is printed to stdout, among results.
        ray._private.worker._worker_logs_enabled = False
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


def _knock(address: str) -> None:
    """Make sure that something listens at ``host:port``, with or without ``ray://``."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_ANSWERS_WITHIN).close()


def _short_folder() -> str | None:
    # Ray's sockets lie below it, and the system limits their paths to about 100 characters.
    return "/tmp" if Path("/tmp").is_dir() else None
