"""What there is to measure: each artefact of a bundle on each back end and device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from concepthash.bundle import FIRST_ARTIFACT, Artifact, Bundle
from concepthash.errors import UsageError
from concepthash.formats import FORMATS, PRECISIONS, Precision
from concepthash.runtime.backends import BACKENDS, Backend


@dataclass(frozen=True)
class Target:
    """An artefact on a back end of :data:`BACKENDS` and a device, ``cpu`` or ``cuda[:N]``."""

    artifact: Artifact
    backend: str
    device: str

    def __str__(self) -> str:
        return f"{self.artifact}, {self.backend} on {self.device}"

    @property
    def file(self) -> str:
        """The file of the bundle that is read: the artefact's, or the graph it was built from."""
        if BACKENDS[self.backend].engine:
            return self.artifact.file
        return FORMATS[self.artifact.format].graphs[self.artifact.precision]


@dataclass(frozen=True)
class NotRun:
    """A target, or one batch size of it, that cannot run here; ``hint`` says what would help.

    ``damaged`` is the file at fault, if it is that and not this machine.
    """

    target: Target
    reason: str
    hint: str | None
    batch: int | None = None
    damaged: Path | None = None


REFERENCE = Target(FIRST_ARTIFACT, "onnxruntime", "cpu")
"""What every other is compared with."""


def list_targets(
    bundle: Bundle,
    *,
    backends: Sequence[str] = (),
    precisions: Sequence[str] = (),
    device: str = "auto",
) -> tuple[list[Target], list[NotRun]]:
    """What a bundle offers, and of what was asked for by name, what it lacks.

    Args:
        bundle: to be measured.
        backends: those that count; none means all.
        precisions: those that count; none means all.
        device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto`` for every kind a back end can use.

    Raises:
        UsageError: for a name that is not known, or if nothing is left.
    """
    _check(backends, tuple(BACKENDS), "--backend")
    _check(precisions, PRECISIONS, "--precision")
    _check([device.partition(":")[0]], ("auto", "cpu", "cuda"), "--device")
    found, lacking = [], []
    for entry in BACKENDS.values():
        for precision in PRECISIONS:
            if precisions and precision not in precisions:
                continue
            artifact = entry.artifact(bundle, precision)
            for kind in _devices(entry, device) if entry.name in (backends or BACKENDS) else ():
                if artifact is not None:
                    found.append(Target(artifact, entry.name, kind))
                elif backends or precisions:
                    lacking.append(_lacking(entry, precision, kind))
    lacking = [gap for gap in lacking if _named(gap.target, backends, precisions, found)]
    if not found and not lacking:
        raise UsageError(
            "nothing of this bundle can be run that way",
            where=f"--backend {','.join(backends) or 'any'} --device {device}",
            hint="--device auto",
        )
    return found, lacking


def _devices(entry: Backend, asked: str) -> Iterable[str]:
    if asked == "auto":
        return entry.devices
    return [asked] if asked.partition(":")[0] in entry.devices else []


def _lacking(entry: Backend, precision: Precision, device: str) -> NotRun:
    form = FORMATS[entry.formats[0]]
    artifact = Artifact(form.name, precision, form.files[precision])
    return NotRun(
        Target(artifact, entry.name, device),
        f"the bundle has no {artifact}",
        f"chash export RUN --format {form.name} --precision {precision}",
    )


def _named(
    target: Target, backends: Sequence[str], precisions: Sequence[str], found: Sequence[Target]
) -> bool:
    """Whether the user named what only this target, or its like, would have served."""
    if backends and precisions:
        return True
    if backends:
        return target.backend not in {other.backend for other in found}
    return target.artifact.precision not in {other.artifact.precision for other in found}


def _check(given: Iterable[str], known: Sequence[str], where: str) -> None:
    for name in given:
        if name not in known:
            raise UsageError(
                f"{name!r} is none there is", where=where, hint=f"one of {', '.join(known)}"
            )
