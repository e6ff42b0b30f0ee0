"""The process of one artefact on one back end: asked in lines of JSON, answers in lines of JSON.

Requests have a ``do``: ``open``, ``time`` or ``codes``. A line with a ``note`` may come before the
answer. Pixels come through a file both sides map.
It ends when its input does, so it never outlives the process that started it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concepthash.encoder import Encoder
    from concepthash.images import Pixels

_STATUS = Path("/proc/self/status")


class _Served:
    """The encoder of this process and the pixels it is fed."""

    encoder: Encoder
    pixels: Pixels

    def __init__(self, write: Callable[[dict[str, Any]], None]) -> None:
        self._write = write

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """What was asked for, and the most memory this process ever had."""
        requests: dict[str, Callable[..., dict[str, Any]]]
        requests = {"open": self._open, "time": self._time, "codes": self._codes}
        return {**requests[request.pop("do")](**request), "peak": peak_memory()}

    # Imports are a part of a cold start, so they happen in here.
    def _open(self, *, bundle: str, pixels: str, shape: list[int], **how: Any) -> dict[str, Any]:
        import numpy as np

        from concepthash.bundle import Bundle
        from concepthash.runtime.backends import open_encoder

        self.encoder = open_encoder(
            Bundle.open(bundle), **how, tell=lambda text: self._write({"note": text})
        )
        self.pixels = np.memmap(pixels, np.uint8, mode="r", shape=tuple(shape))
        self.encoder.codes(np.asarray(self.pixels[:1]))
        return {"ran": self.encoder.backend, "device": self.encoder.device}

    def _time(self, *, batch: int, runs: int) -> dict[str, Any]:
        """Milliseconds of each run; the first, which finds cold caches, is left out."""
        from time import perf_counter

        times = []
        for run in range(runs + 1):
            first = run * batch % (len(self.pixels) - batch + 1)
            pixels = self.pixels[first : first + batch]
            began = perf_counter()
            self.encoder.codes(pixels)
            times.append(1000 * (perf_counter() - began))
        return {"ms": times[1:]}

    def _codes(self, *, rows: int, batch: int, logits: bool) -> dict[str, Any]:
        """Codes of the first ``rows`` images in batches, as hexadecimal digits; logits too."""
        found = [self.pixels[n : min(n + batch, rows)] for n in range(0, rows, batch)]
        if not logits:
            return {"codes": b"".join(self.encoder.codes(p).tobytes() for p in found).hex()}
        outputs = [self.encoder.run(pixels) for pixels in found]
        return {
            "codes": b"".join(output.codes.tobytes() for output in outputs).hex(),
            "logits": b"".join(output.logits.tobytes() for output in outputs).hex(),
        }


def peak_memory() -> int | None:
    """The most resident memory this process ever had, bytes; None where the system does not say."""
    try:
        # Not getrusage: on Linux its figure is inherited from the process that started this one.
        for line in _STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


def main() -> None:
    """Answer until the input ends."""
    from concepthash.errors import BackendError, ConceptHashError

    # What libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def write(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    served = _Served(write)
    for line in sys.stdin:
        try:
            answer = served.answer(json.loads(line))
        except ConceptHashError as error:
            answer = {"error": error.what, "hint": error.hint, "code": error.exit_code}
        except Exception as error:  # whatever a library raises is the answer, not the end
            first = next(iter(str(error).splitlines()), "")
            what = f"{type(error).__name__}: {first}"
            answer = {"error": what, "hint": None, "code": BackendError.exit_code}
        write(answer)


if __name__ == "__main__":
    main()
