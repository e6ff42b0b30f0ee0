"""Every error a user can meet, in one tree.

::

    ConceptHashError            1   what, where, and the command to try next
    ├── UsageError              2   an option, argument or configuration value is wrong
    ├── DataError               1   a data set cannot be used (empty class, one class, ...)
    ├── ImageError              1   one photo cannot be decoded; batch verbs list and skip it
    ├── WeightsError            1   pretrained weights are not where they were looked for
    ├── TrainingError           1   a training cannot go on (the loss is not a number)
    ├── CheckpointError         1   a run folder or checkpoint cannot be read
    ├── BundleError             1   an exported bundle cannot be read or is damaged
    ├── GalleryError            1   a gallery cannot be opened, read or written
    │   ├── GalleryLocked       1   another process is writing to it
    │   ├── GalleryUnreadable   1   the system does not let us read it; that is no damage
    │   ├── GalleryDamaged      1   its files are not what was committed; a repair saves the rest
    │   └── GalleryLost         1   they no longer say what was: no repair can save it
    ├── NothingFound            4   the search was fine and its answer is empty
    ├── MismatchError           5   model and gallery (or codes) do not belong together
    ├── BackendError            6   an execution provider, device or optional package is missing
    └── GateError               7   an accuracy or parity gate failed

The number is the exit code of ``chash``. Two more codes have no exception: 3 (done, some inputs
were skipped: see :class:`Skipped`) and 130 (interrupted).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar


class ConceptHashError(Exception):
    """What went wrong, where, and what to run next.

    Args:
        what: one sentence, no trailing full stop.
        where: the path, key or option concerned.
        hint: a command or an action that mends it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: object = None, hint: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.what]
        if self.where is not None:
            lines.append(f"where: {self.where}")
        if self.hint is not None:
            lines.append(f"try: {self.hint}")
        return "\n".join(lines)


class UsageError(ConceptHashError):
    """An option, argument or configuration value is wrong."""

    exit_code = 2


class DataError(ConceptHashError):
    """A data set cannot be used as it is."""


class ImageError(ConceptHashError):
    """One photo cannot be decoded."""


class WeightsError(ConceptHashError):
    """Pretrained weights are not where they were looked for."""


class TrainingError(ConceptHashError):
    """A training cannot go on."""


class CheckpointError(ConceptHashError):
    """A run folder or checkpoint cannot be read."""


class BundleError(ConceptHashError):
    """An exported bundle cannot be read or is damaged."""


class GalleryError(ConceptHashError):
    """A gallery cannot be opened, read or written."""


class GalleryLocked(GalleryError):
    """Another process is writing to the gallery."""


class GalleryUnreadable(GalleryError):
    """The system does not let files of a gallery be read: they may well be whole."""


class GalleryDamaged(GalleryError):
    """Files of a gallery are not what was committed."""


class GalleryLost(GalleryError):
    """The files of a gallery no longer say what it held."""


class NothingFound(ConceptHashError):
    """The search was fine and its answer is empty."""

    exit_code = 4


class MismatchError(ConceptHashError):
    """Model and gallery (or two sets of codes) do not belong together."""

    exit_code = 5


class BackendError(ConceptHashError):
    """An execution provider, device or optional package is missing."""

    exit_code = 6


class GateError(ConceptHashError):
    """An accuracy or parity gate failed."""

    exit_code = 7


@dataclass(frozen=True)
class Skip:
    """One input that was left out, and why."""

    path: str
    reason: str


@dataclass
class Skipped:
    """The inputs a batch left out, each once: a record that is returned, not printed."""

    items: list[Skip] = field(default_factory=list)
    _paths: set[str] = field(default_factory=set, repr=False)

    def add(self, path: object, reason: object) -> None:
        """Record that ``path`` was skipped because of ``reason`` (first line kept)."""
        if str(path) not in self._paths:
            self._paths.add(str(path))
            self.items.append(Skip(str(path), str(reason).splitlines()[0]))

    def __len__(self) -> int:
        return len(self.items)

    def __bool__(self) -> bool:
        return bool(self.items)
