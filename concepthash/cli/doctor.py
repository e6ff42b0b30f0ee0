"""``chash doctor``: what works on this machine, and what to install for the rest."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import concepthash
from concepthash.cli import options
from concepthash.cli.doctor_check import Check, version
from concepthash.cli.output import Output
from concepthash.errors import BackendError

EXAMPLES = ("chash doctor", "chash doctor --json")

_TRAINING = ("torch", "torchvision", "timm", "open_clip_torch", "accelerate", "safetensors")
_EXPORT = ("onnx", "onnxscript")
_SERVING = ("uvicorn", "msgspec", "python-multipart", "prometheus-client")
_MAPS = ("scikit-learn",)
_CLUSTER = ("ray", "pyarrow")
_LOW_DISK_GB = 2.0
_LOW_MEMORY_GB = 1.0
_GIGA = 1e9


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
    from concepthash.cli import doctor_gpu

    yield _cpu()
    yield _threads()
    yield _memory()
    yield from _runtime()
    yield _kernel()
    yield _group("train", _TRAINING)
    yield _group("export", _EXPORT)
    yield _group("serve", _SERVING)
    yield _group("ray", _CLUSTER, without="only --engine ray needs it")
    yield _group("parquet", ("pyarrow",), without="only Parquet files need it")
    yield _group("url", ("fsspec",), without="only photos behind URLs need it")
    yield _group("atlas", _MAPS, without="only the map of an atlas needs it")
    yield from doctor_gpu.checks()
    yield _disk()
    yield Check("network", "ok", "not checked: only train may use it, --offline forbids it")


def _cpu(root: Path = Path("/")) -> Check:
    from concepthash.runtime import machine

    found = machine.processor(root)
    features = ", ".join(found.features) or "no vector instructions are listed"
    return Check("cpu", "ok", f"{found.name}: {features}", found.int8)


def _threads(
    root: Path = Path("/"), environment: Mapping[str, str] = os.environ, usable: int | None = None
) -> Check:
    """How many threads serve, and what limits them: affinity, a control group, a variable."""
    from concepthash.decode import usable_cpus
    from concepthash.runtime import machine

    cpus = usable_cpus() if usable is None else usable
    total, quota = os.cpu_count() or cpus, machine.cpu_quota(root)
    value = f"{cpus} CPUs" if cpus >= total else f"{cpus} of {total} CPUs may be used"
    if quota is not None and quota < cpus:
        fitting = max(1, int(quota))
        return Check(
            "threads",
            "warning",
            f"{value}, but a control group allows the time of {quota:g}",
            f"export CHASH_THREADS={fitting}: more threads are halted again and again",
        )
    limited = environment.get("OMP_NUM_THREADS", "").partition(",")[0]
    if limited.isdecimal() and int(limited) != cpus:
        return Check(
            "threads",
            "ok",
            f"{value}; OMP_NUM_THREADS={limited} counts for torch and numpy",
            "CHASH_THREADS or --threads sets those of a model",
        )
    return Check("threads", "ok", value)


def _memory(root: Path = Path("/")) -> Check:
    from concepthash.runtime import machine

    found = machine.memory(root)
    if found.available is None:
        return Check("memory", "ok", "the system does not say")
    value = f"{found.available / _GIGA:.1f} GB free"
    if found.total is not None:
        value += f" of {(found.limit or found.total) / _GIGA:.1f} GB"
    value += " that a control group allows" if found.limit else ""
    low = found.available < _LOW_MEMORY_GB * _GIGA
    hint = "--batch-size 1 needs the least; chash bench shows how much" if low else ""
    return Check("memory", "warning" if low else "ok", value, hint)


def _runtime() -> Iterator[Check]:
    """ONNX Runtime: its providers, and whether two packages overwrite each other."""
    installed = {n: v for n in ("onnxruntime", "onnxruntime-gpu") if (v := version(n))}
    if len(installed) > 1:
        yield Check(
            "runtime",
            "warning",
            "onnxruntime and onnxruntime-gpu overwrite each other",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime",
        )
    from concepthash.quiet import import_onnxruntime

    try:
        onnxruntime = import_onnxruntime()
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


def _group(extra: str, packages: tuple[str, ...], *, without: str = "") -> Check:
    """What an extra needs, and the command that brings it.

    Args:
        without: what is missed, where the verb works nevertheless.
    """
    found = {name: version(name) for name in packages}
    lacking = [name for name, version in found.items() if version is None]
    if lacking:
        value = f"not installed: {', '.join(lacking)}" + (f"; {without}" if without else "")
        return Check(extra, "missing", value, f"pip install 'concepthash[{extra}]'")
    shown = [f"{name} {found[name]}" for name in packages[:4] if name != "torchvision"]
    return Check(extra, "ok", ", ".join(shown))


def _disk() -> Check:
    free = shutil.disk_usage(Path()).free / _GIGA
    low = free < _LOW_DISK_GB
    hint = "a run with checkpoints takes up to 1 GB" if low else ""
    return Check("disk", "warning" if low else "ok", f"{free:.1f} GB free here", hint)


def _ready(checks: list[Check]) -> list[str]:
    """The verbs that work with what is installed."""
    works = {check.name for check in checks if check.status == "ok"}
    verbs = ["index", "query", "explain", "atlas", "eval", "bench"]
    ready = verbs if "runtime" in works else []
    if {"serve", "runtime"} <= works:
        ready.append("serve")
    if "train" in works:
        ready.append("train")
    if {"train", "export", "runtime"} <= works:
        ready += ["export", "demo"]
    return ready


def _verdict(checks: list[Check]) -> str:
    ready = _ready(checks)
    return f"Ready: {', '.join(ready)}." if ready else "Ready: nothing yet; see above."
