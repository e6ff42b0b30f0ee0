"""What every measurement shares: the machine's description, interleaved medians, the JSON file."""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from concepthash.decode import usable_cpus

RESULTS = Path(__file__).parent / "results"
SHARED = Path(__file__).parents[2] / "shared"
"""Photos and weights that are not part of the project; measurements that need them say so."""


def machine() -> dict[str, object]:
    """The processor, its threads, and the versions that matter."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
            if line.startswith("flags"):
                flags = set(line.split())
                wanted = ("avx2", "avx512f", "avx512_vpopcntdq", "avx512_bf16", "amx_tile")
                model += " (" + ", ".join(f for f in wanted if f in flags) + ")"
                break
    versions = {}
    for package in ("numpy", "Pillow", "torch", "timm", "onnxruntime", "faiss-cpu", "usearch"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "processor": model,
        "cpus": usable_cpus(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": versions,
    }


def interleaved(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each, taken in turns so that a disturbance meets all of them alike."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in taken.items()}


def write(name: str, values: dict[str, object]) -> None:
    """Write ``results/NAME.json`` with the command and the machine, and print it."""
    RESULTS.mkdir(exist_ok=True)
    module = sys.modules["__main__"].__spec__
    arguments = " ".join(sys.argv[1:])
    called = (module.name if module else name).removesuffix(".__main__")
    record = {
        "command": f"python -m {called} {arguments}".strip(),
        "date": date.today().isoformat(),
        "machine": machine(),
        **values,
    }
    text = json.dumps(record, indent=2)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(text, flush=True)
