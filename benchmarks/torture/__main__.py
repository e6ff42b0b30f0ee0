"""``make torture``: every part in turn, a table of what broke, and benchmarks/results/torture.json.

The exit code is 1 if anything broke. A run of some parts only does not write the file.
"""

from __future__ import annotations

import argparse
import secrets
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context

from benchmarks.report import write
from benchmarks.torture.report import SHOWN, Part, figures, run_part, say

SECONDS = 1500.0
PARTS = {
    "kills": 0.2,
    "disk": 0.08,
    "clock": 0.04,
    "images": 0.13,
    "artefacts": 0.06,
    "paths": 0.02,
    "memory": 0.07,
    "history": 0.4,
}
"""The modules of this package, and the share of the time each is given."""


def apart(name: str, seconds: float, seed: int) -> tuple[Part, float]:
    """One part in a process of its own, and the seconds it took."""
    started = time.monotonic()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            part = pool.submit(run_part, name, seconds, seed).result()
        except Exception as error:
            part = Part(name, failures=[f"its process died: {type(error).__name__}: {error}"])
    return part, time.monotonic() - started


def table(parts: list[tuple[Part, float]]) -> str:
    """What each part did, and what broke."""
    rows = []
    for part, seconds in parts:
        broke = f"{len(part.failures)} broke" if part.failures else "nothing broke"
        rows.append(f"{part.name:10} {seconds:6.0f} s  {broke:14} {figures(part.figures)}")
        rows += [f"{'':12}left out: {reason}" for reason in part.skipped]
        rows += [f"{'':12}BROKEN: {failure}" for failure in part.failures[:SHOWN]]
        if len(part.failures) > SHOWN:
            rows.append(f"{'':12}and {len(part.failures) - SHOWN} more")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torture", description=__doc__)
    parser.add_argument("--seconds", type=float, help=f"in all; {SECONDS:.0f} for all parts")
    parser.add_argument(
        "--only", action="append", choices=PARTS, metavar="NAME", help=f"of {', '.join(PARTS)}"
    )
    parser.add_argument("--seed", type=int, help="of a run to repeat")
    asked = parser.parse_args()
    seed = secrets.randbelow(2**31) if asked.seed is None else asked.seed
    names = asked.only or list(PARTS)
    shares = sum(PARTS[name] for name in names)
    budget = asked.seconds or SECONDS * shares
    say("torture", f"{budget:.0f} s, seed {seed}: {', '.join(names)}")
    done = []
    for name in names:
        part, seconds = apart(name, budget * PARTS[name] / shares, seed)
        done.append((part, seconds))
        say(name, f"{len(part.failures)} broke in {seconds:.0f} s: {figures(part.figures)}")
    broke = sum(len(part.failures) for part, _ in done)
    if not asked.only:
        write(
            "torture",
            {
                "what": "killed, filled, fuzzed and overloaded on purpose, on drawn birds",
                "seed": seed,
                "seconds": budget,
                "broke": broke,
                "parts": {
                    part.name: {"took_seconds": round(seconds, 1), **asdict(part)}
                    for part, seconds in done
                },
            },
        )
    print(table(done), flush=True)
    return 1 if broke else 0


if __name__ == "__main__":
    raise SystemExit(main())
