"""Run every measurement that this machine has the data for; each writes its own JSON.

Each is a process of its own, so that its peak of memory is its own too. ``gallery`` needs 15 GB of
disk and ``billion`` 28, ``search`` and ``tables`` 8 GB of memory, ``concepts`` hours; run a smaller
one by its name: ``python -m benchmarks.search --codes 10000000``.
"""

import subprocess
import sys

from benchmarks.report import SHARED

ANYWHERE = (
    "decode", "start", "training", "search", "tables", "peers", "dedupe", "gallery", "gpu_search",
    "billion", "sharded",
)  # fmt: skip
ON_PHOTOS = (
    "cub20", "ddp", "atlas", "export", "index", "discovery", "baselines", "concepts",
    "faithfulness",
)  # fmt: skip

for name in (*ANYWHERE, *(ON_PHOTOS if SHARED.exists() else ())):
    print(f"== {name}", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
