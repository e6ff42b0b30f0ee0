"""What a launcher (torchrun, accelerate launch) tells each process it starts; needs no torch."""

from __future__ import annotations

import os

from concepthash.errors import UsageError


def place() -> tuple[int, int]:
    """Number of this process, from 0, and how many the launcher started; (0, 1) without one.

    Raises:
        UsageError: if the environment names one without the other.
    """
    size, rank = os.environ.get("WORLD_SIZE", "1"), os.environ.get("RANK", "")
    if size == "1":
        return 0, 1
    if not (size.isdecimal() and rank.isdecimal() and int(rank) < int(size)):
        raise UsageError(
            f"WORLD_SIZE={size} without a RANK below it: no launcher that we know started this",
            where="environment",
            hint="torchrun --nproc-per-node N -m concepthash train DATA, or unset WORLD_SIZE",
        )
    return int(rank), int(size)


def refuse_launcher(verb: str) -> None:
    """Refuse a launcher where each of its processes would compute the same.

    Raises:
        UsageError: if there is one.
    """
    _, size = place()
    if size > 1:
        raise UsageError(
            f"{verb} runs in one process; all {size} of the launcher would do the same work",
            where="WORLD_SIZE",
            hint=f"{verb} without the launcher; chash train is what it is for",
        )
