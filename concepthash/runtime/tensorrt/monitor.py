"""What a build reports while it runs, and how it is stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any


@dataclass(frozen=True)
class Step:
    """How far a phase of a build is.

    Args:
        phase: TensorRT's name of it.
        done, steps: finished and all steps of the phase.
        depth: 0 for the build as a whole, 1 for its phases, and so on.
    """

    phase: str
    done: int
    steps: int
    depth: int


Progress = Callable[[Step], None]


def monitor_of(trt: Any, progress: Progress | None) -> Any:
    """Passes each step on. ``error`` is what ``progress`` raised; the build then stops.

    An exception must not run through the library, so it is kept until the build has returned.
    """

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.error: BaseException | None = None
            self._lock = Lock()  # the library's threads call at once
            self._phases: dict[str, tuple[int, int]] = {}  # steps, depth

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                above = self._phases.get(parent_phase or "", (0, -1))[1]
                self._phases[phase_name] = (num_steps, above + 1)
                self._tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                self._tell(phase_name, step + 1)
                return self.error is None

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._phases.pop(phase_name, None)

        def _tell(self, phase: str, done: int) -> None:
            if progress and self.error is None and phase in self._phases:
                steps, depth = self._phases[phase]
                try:
                    progress(Step(phase, done, steps, depth))
                except BaseException as error:  # KeyboardInterrupt too
                    self.error = error

    return Monitor()
