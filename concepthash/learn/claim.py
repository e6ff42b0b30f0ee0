"""Who may write a run folder: one training at a time, and never over another run."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Self

from concepthash.errors import TrainingError, UsageError
from concepthash.files import half_written
from concepthash.learn.setup import TRACKERS
from concepthash.locks import lock_now

LOCK = "lock"


class Claim:
    """A run folder that this process writes alone, from :meth:`new` or :meth:`old` to the end.

    The system lets go when the process ends, however it ends.

    Args:
        out: the folder.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def new(self) -> None:
        """Begin a run here, or begin again one that was claimed as old.

        Raises:
            UsageError: if the folder has a run, or something else.
            TrainingError: if another process begins one.
        """
        if self._descriptor is not None:
            return
        refuse_taken(self.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.old()
        refuse_taken(self.out)  # one may have begun, and ended, before this process had the lock

    def old(self) -> None:
        """Go on with a run that is here.

        Raises:
            TrainingError: if another process does.
        """
        file = self.out / LOCK
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            lock_now(descriptor)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                raise
            raise TrainingError(
                "another training is writing this run",
                where=file,
                hint="wait until it has finished, or another --out; "
                "several processes of one training need a launcher: torchrun",
            ) from None
        self._descriptor = descriptor


def refuse_taken(out: Path) -> None:
    """Refuse a folder in which no run can begin.

    Raises:
        UsageError: if it has a run, or files of something else.
    """
    if (out / "run.json").exists():
        raise UsageError("the run exists", where=out, hint="--resume, or another --out")
    # A run that was killed before it was recorded is begun again; anything else is not ours.
    ours = {"config.json", "embeddings.npy", "frozen.safetensors", LOCK, *TRACKERS}
    found = [file.name for file in out.iterdir()] if out.exists() else []
    if not all(name in ours or half_written(name) for name in found):
        raise UsageError("the folder is not empty and no run", where=out, hint="another --out")
