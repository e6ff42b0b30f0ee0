"""The machine this runs on: what its processor can do, and what limits its threads and memory.

Everything is read from files of the system below ``root``, and nothing is run.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SYSTEM = Path("/")

FEATURES = (
    "avx2",
    "avx512f",
    "avx512_vpopcntdq",
    "avx512_vnni",
    "avx_vnni",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
)
"""Vector instructions that matter here, as Linux names them; ``asimddp`` is Arm's dot product."""

_DOT_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})


@dataclass(frozen=True)
class Processor:
    """A processor: its name, and which of :data:`FEATURES` it has; none where none are listed."""

    name: str
    features: tuple[str, ...]

    @property
    def int8(self) -> str:
        """What 8-bit integers gain on it, in one sentence."""
        found = [name for name in self.features if name in _DOT_PRODUCTS]
        if found:
            return f"int8 is worth it here ({', '.join(found)})"
        if not self.features:
            return "the system does not say what int8 gains here: chash bench measures it"
        return "int8 is hardly faster here: no VNNI, AMX or dot product instructions; smaller only"


@dataclass(frozen=True)
class Memory:
    """Main memory in bytes: all, what may be used of it, what is free now; None where unknown."""

    total: int | None
    limit: int | None
    available: int | None


@dataclass(frozen=True)
class Jetson:
    """An NVIDIA Jetson: its Jetson Linux, the JetPack of that, and that one's TensorRT (major)."""

    linux: str
    jetpack: str
    tensorrt: int


def processor(root: Path = SYSTEM) -> Processor:
    """The processor of this machine."""
    names: dict[str, str] = {}
    for line in _text(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        names.setdefault(key.strip().lower(), value.strip())
    present = set((names.get("flags") or names.get("features") or "").split())
    board = _text(root / "proc/device-tree/model").strip("\0\n ")
    name = names.get("model name") or names.get("model") or board
    return Processor(
        name or platform.processor() or platform.machine(),
        tuple(feature for feature in FEATURES if feature in present),
    )


def cpu_quota(root: Path = SYSTEM) -> float | None:
    """How many CPUs' worth of time the control groups of this process allow; None for any."""
    found = []
    for folder in _control_groups(root, "cpu"):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if not quota:
            quota = _text(folder / "cpu.cfs_quota_us")
            period = _text(folder / "cpu.cfs_period_us")
        if (allowed := _number(quota)) and (each := _number(period)):
            found.append(allowed / each)
    return min(found, default=None)


def memory(root: Path = SYSTEM) -> Memory:
    """The memory of this machine, and how much of it the control groups of this process allow."""
    listed = {}
    for line in _text(root / "proc/meminfo").splitlines():
        key, _, value = line.partition(":")
        listed[key] = _number(value.removesuffix("kB").strip())
    total, free = (
        kibibytes and kibibytes * 1024
        for kibibytes in (listed.get("MemTotal"), listed.get("MemAvailable"))
    )
    limits = [
        limit
        for folder in _control_groups(root, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        if (limit := _number(_text(folder / name))) and (total is None or limit < total)
    ]
    limit = min(limits, default=None)
    return Memory(total, limit, min((x for x in (free, limit) if x is not None), default=None))


def jetson(root: Path = SYSTEM) -> Jetson | None:
    """The Jetson this is; None if it is none.

    Which TensorRT a JetPack has: NVIDIA's release notes, and "Migrating TensorRT from 10.x to 11.x
    on Jetson" (11.4.1), by which version 11 begins with JetPack 7.2.2.
    """
    head = _text(root / "etc/nv_tegra_release").partition("\n")[0]
    found = re.match(r"# R(\d+) \(release\), REVISION: (\d+)(?:\.(\d+))?", head)
    if found is None:
        return None
    major, minor, patch = (int(part or 0) for part in found.groups())
    release = f"R{major}.{minor}.{patch}"
    if major < 36:
        return Jetson(release, "5 or older", 8)
    if major == 36:
        return Jetson(release, "6", 10)
    if major == 38:
        return Jetson(release, "7.0 or 7.1", 10)
    if (major, minor, patch) < (39, 2, 2):
        return Jetson(release, "7.2", 10)
    return Jetson(release, "7.2.2 or newer", 11)


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """The folder of each control group this process is in, from its own up to the outermost.

    In a container the path may be that of the host; the outermost folder is then its own.
    """
    base = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        mounted = base / controllers if controllers else base
        own = Path(path.lstrip("/"))
        for folder in (own, *own.parents):
            yield mounted / folder


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(text: str) -> int | None:
    """A positive whole number; None for ``max``, -1 and all else."""
    return int(text) if text.strip().isdecimal() else None
