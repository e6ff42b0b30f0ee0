"""What a training run tells the outside while it goes on: the caller decides how it is shown."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Receives notes, progress and metrics."""

    def note(self, text: str) -> None:
        """One line that says a choice or an event."""

    def progress(self, stage: str, done: int, total: int) -> None:
        """``done`` of ``total`` images of a stage such as ``epoch 3/40``; called often."""

    def metrics(self, values: dict[str, float]) -> None:
        """The figures of one epoch."""


class Silent:
    """A reporter that tells nothing."""

    def note(self, text: str) -> None:
        """Ignore."""

    def progress(self, stage: str, done: int, total: int) -> None:
        """Ignore."""

    def metrics(self, values: dict[str, float]) -> None:
        """Ignore."""
