"""The table of a comparison: as text, JSON and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np

from concepthash.learn.baselines.method import Kind

SCHEMA = "chash.baselines/1"


@dataclass(frozen=True)
class Row:
    """One method at one code length.

    Args:
        method: its name.
        kind: what it learned.
        bits: K; None for real numbers ranked by cosine.
        map: expected mAP, one a seed.
        bounds: lowest and highest mAP that the order of ties can give, means over seeds.
        precision_1: expected precision of the first rank, one a seed.
        seconds: to fit and to encode both splits, the median over seeds; None if not measured.
        source: its paper, or its run.
        constant_bits: bits that are equal for the whole database, the most over seeds.
        settings: what was chosen on folds of the train split.
    """

    method: str
    kind: Kind
    bits: int | None
    map: tuple[float, ...]
    bounds: tuple[float, float]
    precision_1: tuple[float, ...]
    seconds: float | None
    source: str
    constant_bits: int = 0
    settings: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Plain values; ``sd`` is the standard deviation of a sample, over seeds."""
        low, high = self.bounds
        return {
            "method": self.method,
            "kind": self.kind,
            "bits": self.bits,
            "map": {**_spread(self.map), "low": low, "high": high},
            "precision_1": _spread(self.precision_1),
            "seconds": self.seconds,
            "constant_bits": self.constant_bits,
            "settings": dict(self.settings),
            "source": self.source,
        }


@dataclass(frozen=True)
class Comparison:
    """A table of methods. Prints itself; :meth:`to_json` is the machine's version.

    Args:
        rows: in the order they are shown.
        seeds: of each baseline; a trained network has its own.
        protocol: what was compared with what, and how.
    """

    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    protocol: Mapping[str, str | int | float]

    def to_json(self) -> dict[str, object]:
        """The table as plain values, schema ``chash.baselines/1``."""
        return {
            "schema": SCHEMA,
            "seeds": list(self.seeds),
            "rows": [row.to_json() for row in self.rows],
            "protocol": dict(self.protocol),
        }

    def to_csv(self) -> str:
        """One line a row."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        names = ("map", "map_sd", "map_low", "map_high", "precision_1", "precision_1_sd")
        writer.writerow(["method", "kind", "bits", *names, "seconds", "constant_bits", "source"])
        for row in self.rows:
            score, first = _spread(row.map), _spread(row.precision_1)
            figures = (score["mean"], score["sd"], *row.bounds, first["mean"], first["sd"])
            bits, seconds = row.bits or "float", "" if row.seconds is None else row.seconds
            writer.writerow(
                [row.method, row.kind, bits, *figures, seconds, row.constant_bits, row.source]
            )
        return text.getvalue()

    def __str__(self) -> str:
        """Methods down, code lengths across."""
        lengths = sorted({row.bits for row in self.rows if row.bits is not None})
        columns: list[int | None] = [*lengths, None]
        names = list(dict.fromkeys(row.method for row in self.rows))
        heads = [*(f"{bits} bits" for bits in lengths), "float", "P@1", "seconds", "what learned"]
        table = [["mAP", *heads], *(self._line(name, columns) for name in names)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in table
        ]
        width = max(map(len, self.protocol))
        seeds = len(self.seeds)
        spread = f"; in brackets the standard deviation over {seeds} seeds" if seeds > 1 else ""
        legend = [
            f"Expected over ties{spread}.",
            "P@1 and seconds are those of the longest code.",
        ]
        block = [f"  {key:<{width}}  {value}" for key, value in self.protocol.items()]
        return "\n".join([*lines, "", *legend, "", "protocol", *block])

    def _line(self, name: str, columns: Sequence[int | None]) -> list[str]:
        rows = {row.bits: row for row in self.rows if row.method == name}
        cells = [_cell(rows[bits].map) if bits in rows else "" for bits in columns]
        last = rows[max(rows, key=lambda bits: bits or 0)]
        seconds = "-" if last.seconds is None else f"{last.seconds:.2f}"
        return [name, *cells, _cell(last.precision_1), seconds, last.kind]


def _spread(values: Sequence[float]) -> dict[str, float | list[float]]:
    return {"mean": fmean(values), "sd": _deviation(values), "seeds": list(values)}


def _deviation(values: Sequence[float]) -> float:
    """Standard deviation of a sample; 0 for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _cell(values: Sequence[float]) -> str:
    spread = f" ({_deviation(values):.3f})" if len(values) > 1 else ""
    return f"{fmean(values):.4f}{spread}"
