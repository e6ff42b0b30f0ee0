"""What an engine was built from and for: the JSON file beside it, and whether it still fits."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from concepthash.errors import BundleError
from concepthash.files import reason, refuse_pipe
from concepthash.formats import Precision
from concepthash.runtime.tensorrt.cuda import Gpu

SCHEMA = "chash.engine/1"
PORTABLE = "8.0+"
"""Compute capability 8.0 and every later one: what TensorRT-RTX builds for when not told."""

_LARGEST = 1 << 20  # bytes that are read of a record
_NAMES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}


def sidecar(engine: str) -> str:
    """The name of the file that says what an engine is, beside the engine."""
    return f"{engine}.json"


def host() -> str:
    """System and processor of this machine, such as ``linux-x86_64``."""
    return f"{platform.system()}-{platform.machine()}".lower()


@dataclass(frozen=True)
class Target:
    """What would run an engine.

    Args:
        module: ``tensorrt`` or ``tensorrt_rtx``.
        version: of that module.
        gpu: the GPU.
        host: see :func:`host`.
    """

    module: str
    version: str
    gpu: Gpu
    host: str = field(default_factory=host)


@dataclass(frozen=True)
class Provenance:
    """What an engine was built from and for.

    Args:
        module, version: the library that built it; it alone can run it.
        gpu: the name of the GPU; None if TensorRT-RTX built it, for several.
        capabilities: compute capabilities it runs on; ``8.0+`` means that one and later ones.
        precision: of the graph.
        graph, graph_sha256: name and content of the ONNX file.
        profile: smallest, usual and largest batch.
        flags: what the build was told.
        engine_sha256: of the engine.
        host: the machine it was built on; see :func:`host`.
        created: date and time, ISO 8601, UTC.
    """

    module: str
    version: str
    gpu: str | None
    capabilities: tuple[str, ...]
    precision: Precision
    graph: str
    graph_sha256: str
    profile: tuple[int, int, int]
    flags: dict[str, Any]
    engine_sha256: str
    host: str
    created: str

    def to_bytes(self) -> bytes:
        """The content of the file beside the engine."""
        return (json.dumps({"schema": SCHEMA, **asdict(self)}, indent=2) + "\n").encode()

    @classmethod
    def from_bytes(cls, content: bytes, where: Path) -> Provenance:
        """Read what :meth:`to_bytes` wrote; fields this version does not know are left out.

        Raises:
            BundleError: if it is damaged or of another schema.
        """
        try:
            values = json.loads(content)
            schema = values.get("schema")
        except (ValueError, AttributeError, RecursionError):
            raise _damaged(where) from None
        if schema != SCHEMA:
            raise BundleError(
                f"the record of this engine is of schema {schema!r}, and this version reads "
                f"{SCHEMA!r}",
                where=where,
                hint="pip install --upgrade concepthash, or build the engine again with this one",
            )
        try:
            chosen = {f.name: values[f.name] for f in fields(cls)}
            for key in ("capabilities", "profile"):
                chosen[key] = tuple(chosen[key])
        except (KeyError, TypeError):
            raise _damaged(where) from None
        made = cls(**chosen)
        texts = (made.module, made.version, made.host, made.graph, *made.capabilities)
        sizes = [size for size in made.profile if isinstance(size, int)]
        if not all(isinstance(text, str) for text in texts) or len(sizes) != 3:
            raise _damaged(where)
        return made


def read_provenance(engine: Path) -> Provenance:
    """The record beside an engine.

    Raises:
        BundleError: if it is missing, damaged or of another schema.
    """
    file = engine.with_name(sidecar(engine.name))
    try:
        refuse_pipe(file)
        with file.open("rb") as opened:
            content = opened.read(_LARGEST)
    except OSError as error:
        raise BundleError(
            f"nothing says what this engine was built for: {reason(error)}",
            where=file,
            hint="build the engine again",
        ) from None
    return Provenance.from_bytes(content, file)


def stale(made: Provenance, now: Target, *, graph_sha256: str, engine_sha256: str) -> str | None:
    """Why an engine cannot be used, in one sentence; None if it fits.

    Args:
        made: the record beside the engine.
        now: the library and the GPU that would run it.
        graph_sha256: of the graph in the bundle.
        engine_sha256: of the engine as it is on disk.
    """
    built = f"{_NAMES.get(made.module, made.module)} {_release(made.version)}"
    here = f"{_NAMES.get(now.module, now.module)} {_release(now.version)}"
    portable = made.gpu is None
    if engine_sha256 != made.engine_sha256:
        return "the engine is damaged: it is not the file that was built (sha256 differs)"
    if graph_sha256 != made.graph_sha256:
        return f"the engine was built from another {made.graph} than the bundle has now"
    if built != here:
        return f"the engine was built by {built}, and here is {here}"
    # TensorRT-RTX engines run on Windows and Linux alike, those of TensorRT where they were built.
    if not portable and made.host != now.host:
        return f"the engine was built on {made.host}, and this is {now.host}"
    if not any(_covers(capability, now.gpu.capability) for capability in made.capabilities):
        kinds = ", ".join(made.capabilities)
        return f"the engine was built for compute capability {kinds}, and this GPU is a {now.gpu}"
    if not portable and made.gpu != now.gpu.name:
        return f"the engine was built for {made.gpu}, and this GPU is a {now.gpu}"
    return None


def _release(version: str) -> str:
    """``10.16.1.11`` as ``10.16.1``: the build number does not matter to engines."""
    return ".".join(version.split(".")[:3])


def _covers(listed: str, capability: str) -> bool:
    if not listed.endswith("+"):
        return listed == capability
    return _number(capability) >= _number(listed[:-1])


def _number(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split(".") if part.isdigit())


def _damaged(where: Path) -> BundleError:
    return BundleError(
        "the record of this engine is damaged", where=where, hint="build the engine again"
    )
