"""What ``chash bench`` tells: tables, ``chash.bench/1`` and ``chash.verify/1`` JSON."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import concepthash
from concepthash.bundle import Bundle
from concepthash.cli.output import skipped_json
from concepthash.decode import usable_cpus
from concepthash.errors import Skipped
from concepthash.explain.tables import aligned
from concepthash.runtime import machine
from concepthash.runtime.bench.measure import STARTS, Benched, Row
from concepthash.runtime.bench.targets import NotRun, Target
from concepthash.runtime.bench.verify import Check, Verified

_PACKAGES = (
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "torch",
)
_MEGA = 1e6
_AGREES = "bits equal"


@dataclass(frozen=True)
class About:
    """What was measured, on what machine, with what images; nothing that names the machine."""

    values: dict[str, Any]

    @classmethod
    def of(cls, bundle: Bundle, given: str, images: str, threads: int | None) -> About:
        """The bundle as it was ``given``, and this machine."""
        manifest = bundle.manifest
        processor, memory = machine.processor(), machine.memory()
        return cls(
            {
                "bundle": given,
                "model": {
                    "name": manifest.name,
                    "backbone": manifest.backbone,
                    "bits": manifest.bits,
                    "concepts": manifest.concepts,
                    "fingerprint": manifest.fingerprint,
                },
                "machine": {
                    "processor": processor.name,
                    "features": list(processor.features),
                    "architecture": platform.machine(),
                    "system": platform.system(),
                    "cpus": usable_cpus(),
                    "cpu_quota": machine.cpu_quota(),
                    "memory_bytes": memory.limit or memory.total,
                    "versions": _versions(),
                },
                "threads": threads or usable_cpus(),
                "images": {"source": images},
            }
        )

    def __str__(self) -> str:
        model, machine_ = self.values["model"], self.values["machine"]
        return (
            f"{model['name']}: {model['backbone']}, {model['bits']} bits, {model['concepts']} "
            f"concepts\n{machine_['processor']}, {self.values['threads']} of {machine_['cpus']} "
            f"CPUs; {self.values['images']['source']}"
        )


@dataclass(frozen=True)
class BenchReport:
    """The rows of a measurement, and what could not be measured. Prints as a table."""

    about: About
    benched: Benched
    lacking: tuple[NotRun, ...]
    repeats: int

    failures = ()

    @property
    def empty(self) -> bool:
        """Whether nothing could be measured."""
        return not self.benched.rows

    @property
    def skipped(self) -> Skipped:
        """The files of artefacts that are damaged, and the images that could not be read."""
        found = Skipped()
        for entry in self.not_run:
            if entry.damaged is not None:
                found.add(entry.damaged, entry.reason)
        for item in self.benched.skipped.items:
            found.add(item.path, item.reason)
        return found

    @property
    def not_run(self) -> tuple[NotRun, ...]:
        """What could not be measured, each with its reason."""
        return (*self.benched.not_run, *self.lacking)

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values, schema ``chash.bench/1``."""
        about = self.about.values
        return {
            "schema": "chash.bench/1",
            **about,
            "images": {**about["images"], "count": self.benched.images},
            "protocol": {
                "repeats": self.repeats,
                "starts": STARTS,
                "turns": "one row after the other, in turns; a warm-up run in each is not counted",
                "cold_start": "a new process, to its first code; the files are in memory",
                "reference": "fp32 on ONNX Runtime, CPU",
            },
            "rows": [
                *(_row_json(row) for row in self.benched.rows),
                *(_not_run_json(entry) for entry in self.not_run),
            ],
            "skipped": skipped_json(self.skipped),
        }

    def __str__(self) -> str:
        heads = ["artefact", "back end", "batch", "ms/image", "p95", "images/s", "start ms"]
        heads += ["peak MB", "file MB", _AGREES, "mAP", "change"]
        rows = [_cells(row) for row in self.benched.rows]
        lines = aligned([heads, *rows], left=2) if rows else []
        return "\n".join([str(self.about), *lines, *_missed(self.not_run)])


@dataclass(frozen=True)
class VerifyReport:
    """The checks of a bundle on this machine. Prints as a table."""

    about: About
    verified: Verified
    lacking: tuple[NotRun, ...]
    search: dict[str, str]

    @property
    def failures(self) -> list[str]:
        """Each limit that is exceeded, with what and how far."""
        found = [f"{c.target}: {text}" for c in self.verified.checks for text in c.failures]
        if self.search["status"] == "failed":
            found.append(f"search on the GPU: {self.search['reason']}")
        return found

    @property
    def empty(self) -> bool:
        """Whether nothing could be checked."""
        return not self.verified.checks

    @property
    def skipped(self) -> Skipped:
        """The images that could not be read."""
        return self.verified.skipped

    @property
    def not_run(self) -> tuple[NotRun, ...]:
        """What could not be checked, each with its reason."""
        return (*self.verified.not_run, *self.lacking)

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values, schema ``chash.verify/1``."""
        about = self.about.values
        return {
            "schema": "chash.verify/1",
            **about,
            "images": {**about["images"], "count": len(self.verified.reference)},
            "passed": not self.failures,
            "checks": [
                *(_check_json(check) for check in self.verified.checks),
                *(_not_run_json(entry) for entry in self.not_run),
            ],
            "gpu_search": self.search,
            "skipped": skipped_json(self.skipped),
        }

    def __str__(self) -> str:
        heads = ["artefact", "back end", "check", "bits flipped", "limit", "largest |logit|"]
        heads += ["limit", "by batch size", "mAP change", "limit"]
        rows = [_check_cells(check) for check in self.verified.checks]
        lines = aligned([heads, *rows], left=3) if rows else []
        search = f"search on the GPU: {self.search['status']}, {self.search['reason']}"
        failed = [f"FAILED {text}" for text in self.failures]
        return "\n".join([str(self.about), *lines, *_missed(self.not_run), search, *failed])


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "concepthash": concepthash.__version__}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _target_json(target: Target) -> dict[str, Any]:
    return {"artifact": asdict(target.artifact), "backend": target.backend, "device": target.device}


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "status": "measured",
        **_target_json(row.target),
        "ran": row.ran,
        "batch": row.batch,
        "ms_per_image": {"p50": row.ms_p50, "p95": row.ms_p95},
        "images_per_second": row.images_per_second,
        "runs": row.runs,
        "cold_start_ms": row.cold_start_ms,
        "peak_memory_bytes": row.peak_bytes,
        "file_bytes": row.file_bytes,
        "agreement": None if row.agreement is None else asdict(row.agreement),
    }


def _check_json(check: Check) -> dict[str, Any]:
    return {
        "status": "failed" if check.failures else "passed",
        **_target_json(check.target),
        "ran": check.ran,
        "agreement": None if check.agreement is None else asdict(check.agreement),
        "batch_flips": check.batch_flips,
        "limits": asdict(check.limits),
        "failures": list(check.failures),
    }


def _not_run_json(entry: NotRun) -> dict[str, Any]:
    batch = {} if entry.batch is None else {"batch": entry.batch}
    values = {"status": "skipped", **_target_json(entry.target), **batch}
    return {**values, "reason": entry.reason, "try": entry.hint}


def _cells(row: Row) -> list[str]:
    found = row.agreement
    return [
        str(row.target.artifact),
        f"{row.target.backend} {row.target.device}",
        str(row.batch),
        f"{row.ms_p50:.2f}",
        f"{row.ms_p95:.2f}",
        f"{row.images_per_second:.1f}",
        f"{row.cold_start_ms:.0f}",
        "-" if row.peak_bytes is None else f"{row.peak_bytes / _MEGA:.0f}",
        f"{row.file_bytes / _MEGA:.1f}",
        "-" if found is None else f"{1 - found.bits_flipped:.3%}",
        "-" if found is None or found.map is None else f"{found.map:.4f}",
        "-" if found is None or found.map_delta is None else f"{found.map_delta:+.4f}",
    ]


def _check_cells(check: Check) -> list[str]:
    found, limits = check.agreement, check.limits
    measured = ["-"] * 4
    if found is not None:
        change = "-" if found.map_delta is None else f"{found.map_delta:+.4f}"
        measured = [
            f"{found.bits_flipped:.3%}",
            f"{found.largest_margin:.2g}",
            f"{check.batch_flips:.3%}",
            change,
        ]
    flips, margin, mates, change = measured
    return [
        str(check.target.artifact),
        f"{check.target.backend} {check.target.device}",
        "FAILED" if check.failures else "passed",
        flips,
        f"{limits.bits:.3%}",
        margin,
        "any" if limits.margin is None else f"{limits.margin:.2g}",
        mates,
        change,
        "any" if limits.map is None else f"{-abs(limits.map):+.4f}",
    ]


def _missed(entries: Sequence[NotRun]) -> Iterator[str]:
    """What was skipped, those with one reason on one line."""
    grouped: dict[tuple[str, str | None], list[str]] = {}
    for entry in entries:
        name = str(entry.target) + ("" if entry.batch is None else f", batch {entry.batch}")
        grouped.setdefault((entry.reason, entry.hint), []).append(name)
    for (reason, hint), names in grouped.items():
        yield f"skipped {'; '.join(names)}: {reason}"
        if hint is not None:
            yield f"  try: {hint}"
