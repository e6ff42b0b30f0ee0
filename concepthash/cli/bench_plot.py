"""The plot of ``chash bench``: accuracy over latency."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from concepthash.cli.bench_report import BenchReport
from concepthash.plots import new_figure, save_figure
from concepthash.runtime.bench.targets import Target


def check_plot(path: Path) -> None:
    """Refuse a plot that cannot be drawn, before anything is measured.

    Raises:
        BackendError: if matplotlib is not installed.
        UsageError: if the file name ends in no known picture format.
    """
    _figure(path)


def draw(report: BenchReport, path: Path) -> None:
    """Draw accuracy over latency into ``path``: mAP if there is one, else the share of equal bits.

    Raises:
        BackendError, UsageError: as :func:`check_plot`.
    """
    figure = _figure(path)
    axes = figure.subplots()
    agreed = [(row, row.agreement) for row in report.benched.rows if row.agreement is not None]
    scored = any(found.map is not None for _, found in agreed)
    lines: dict[Target, list[tuple[float, float, int]]] = {}
    for row, found in agreed:
        height = found.map if found.map is not None else 1 - found.bits_flipped
        lines.setdefault(row.target, []).append((row.ms_p50, height, row.batch))
    for target, points in lines.items():
        milliseconds, heights, batches = zip(*points, strict=True)
        axes.plot(milliseconds, heights, marker="o", label=str(target))
        for at in zip(milliseconds, heights, batches, strict=True):
            axes.annotate(f" {at[2]}", at[:2], fontsize="small")
    axes.set(
        xlabel="milliseconds an image, median (beside each point: images a run)",
        ylabel="mAP" if scored else "share of bits equal to fp32 on the CPU",
        title=f"{report.about.values['model']['name']}, {report.about.values['threads']} threads",
    )
    axes.set_xlim(left=0)
    if lines:
        axes.legend(fontsize="small")
    save_figure(figure, path)


def _figure(path: Path) -> Any:
    return new_figure(path, size=(7, 4.5), example="--plot bench.png")
