"""``chash doctor``: what works on this machine, and what to install for the rest."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import concepthash
from concepthash.cli import options
from concepthash.cli.output import Output
from concepthash.errors import BackendError

EXAMPLES = ("chash doctor", "chash doctor --json")

_FEATURES = ("avx2", "avx512f", "avx512_vpopcntdq", "avx512_vnni", "amx_int8", "asimd", "asimddp")
_TRAINING = ("torch", "torchvision", "timm", "open_clip_torch", "accelerate", "safetensors")
_EXPORT = ("onnx", "onnxscript")
_LOW_DISK_GB = 2.0


@dataclass(frozen=True)
class Check:
    """One line of the report; ``hint`` says what to do about it."""

    name: str
    status: Literal["ok", "missing", "warning"]
    value: str
    hint: str = ""


def command(as_json: options.Json = False) -> None:
    """Say what works here and what to install next; never goes online."""
    output = Output(as_json=as_json)
    checks = list(_checks())
    width = max(len(check.value) for check in checks)
    head = (
        f"chash {concepthash.__version__} · Python {platform.python_version()} · "
        f"{platform.system()} {platform.machine()}"
    )
    lines = [f"  {c.name:<9} {c.status:<8} {c.value:<{width}}  {c.hint}".rstrip() for c in checks]
    output.result(
        "\n".join([head, *lines, _verdict(checks)]),
        lambda: {
            "schema": "chash.doctor/1",
            "version": concepthash.__version__,
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}",
            "checks": [asdict(check) for check in checks],
            "ready": _ready(checks),
        },
    )


def _checks() -> Iterator[Check]:
    yield _cpu()
    yield from _runtime()
    yield _kernel()
    yield _group("train", _TRAINING)
    yield _group("export", _EXPORT)
    yield _gpu()
    yield _tensorrt()
    yield _disk()
    yield Check("network", "ok", "not checked: only train may use it, --offline forbids it")


def _cpu() -> Check:
    from concepthash.decode import usable_cpus

    features = _cpu_features()
    return Check("cpu", "ok", ", ".join([f"{usable_cpus()} usable", *features]))


def _cpu_features() -> list[str]:
    """The vector instructions that matter here; none where the system does not list them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            present = set(value.split())
            return [feature for feature in _FEATURES if feature in present]
    return []


def _runtime() -> Iterator[Check]:
    """ONNX Runtime: its providers, and whether two packages overwrite each other."""
    installed = {n: v for n in ("onnxruntime", "onnxruntime-gpu") if (v := _version(n))}
    if len(installed) > 1:
        yield Check(
            "runtime",
            "warning",
            "onnxruntime and onnxruntime-gpu overwrite each other",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime",
        )
    try:
        import onnxruntime
    except ImportError as error:
        yield Check("runtime", "missing", f"onnxruntime: {error}", "pip install onnxruntime")
        return
    providers = [
        name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()
    ]
    yield Check("runtime", "ok", f"onnxruntime {onnxruntime.__version__} ({', '.join(providers)})")


def _kernel() -> Check:
    """What computes Hamming distances: the native kernel, or numpy in its place."""
    from concepthash.runtime import native

    forced = f"CHASH_KERNEL={os.environ[native.VARIABLE]}" if _forced() else ""
    try:
        path = native.path()
    except BackendError as error:
        return Check("kernel", "warning", f"{forced}: {error.what}", f"unset it, or {error.hint}")
    if native.paths() == ("numpy",):
        return Check(
            "kernel",
            "warning",
            "not built, numpy serves: exact, and slower",
            "install a C compiler, then in the clone: pip install --force-reinstall --no-deps .",
        )
    others = ", ".join(other for other in native.paths() if other != path)
    value = f"{path}, forced by {forced}" if forced else f"{path} (CHASH_KERNEL can force {others})"
    return Check("kernel", "warning" if path == "numpy" else "ok", value)


def _forced() -> bool:
    from concepthash.runtime import native

    return bool(os.environ.get(native.VARIABLE))


def _group(extra: str, packages: tuple[str, ...]) -> Check:
    found = {name: _version(name) for name in packages}
    lacking = [name for name, version in found.items() if version is None]
    if lacking:
        value = f"not installed: {', '.join(lacking)}"
        return Check(extra, "missing", value, f"pip install 'concepthash[{extra}]'")
    shown = [f"{name} {found[name]}" for name in packages[:4] if name != "torchvision"]
    return Check(extra, "ok", ", ".join(shown))


def _gpu() -> Check:
    if Path("/etc/nv_tegra_release").is_file():
        return Check("gpu", "ok", "NVIDIA Jetson", "onnxruntime-gpu comes from NVIDIA's own index")
    import subprocess

    program = shutil.which("nvidia-smi")
    if program is None:
        return Check("gpu", "missing", "no NVIDIA driver", "not needed: the CPU will be used")
    try:
        query = [program, "--query-gpu=name", "--format=csv,noheader"]
        found = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Check("gpu", "warning", f"nvidia-smi fails: {error}", "nvidia-smi")
    return Check("gpu", "ok", ", ".join(found.stdout.split("\n")).strip(", "))


def _tensorrt() -> Check:
    version = _version("tensorrt")
    if version is None:
        return Check("tensorrt", "missing", "not installed", "not needed by this version")
    return Check("tensorrt", "ok", version)


def _disk() -> Check:
    free = shutil.disk_usage(Path()).free / 1e9
    low = free < _LOW_DISK_GB
    hint = "a run with checkpoints takes up to 1 GB" if low else ""
    return Check("disk", "warning" if low else "ok", f"{free:.1f} GB free here", hint)


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _ready(checks: list[Check]) -> list[str]:
    """The verbs that work with what is installed."""
    works = {check.name for check in checks if check.status == "ok"}
    ready = ["index", "query", "eval"] if "runtime" in works else []
    if "train" in works:
        ready.append("train")
    if {"train", "export", "runtime"} <= works:
        ready += ["export", "demo"]
    return ready


def _verdict(checks: list[Check]) -> str:
    ready = _ready(checks)
    return f"Ready: {', '.join(ready)}." if ready else "Ready: nothing yet; see above."
