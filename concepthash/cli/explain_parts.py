"""``chash explain --parts``: how well concepts agree with annotated parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from concepthash.cli.output import Output, skipped_json
from concepthash.errors import Skipped, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from concepthash.runtime.hasher import Hasher

SPLITS = ("test", "train", "all")


@dataclass(frozen=True)
class Measures:
    """What is measured.

    Args:
        parts: the annotations.
        data: the folder of their photos; None to look for it.
        split: of them.
        masks: use part masks too.
        causality: cover parts.
        curves: cover cells.
        sample: photos that are covered.
    """

    parts: Path
    data: Path | None
    split: str
    masks: bool
    causality: bool
    curves: bool
    sample: int

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise UsageError(
                f"unknown split {self.split!r}", where="--split", hint=", ".join(SPLITS)
            )
        if self.sample < (2 if self.causality else 1):
            raise UsageError(
                f"{self.sample} photos are too few", where="--sample", hint="--sample 100"
            )


def measure_parts(asked: Measures, open_hasher: Callable[[], Hasher], output: Output) -> None:
    """Measure, and print what was found.

    Args:
        asked: what to measure.
        open_hasher: called once the annotations are read, which is faster.
        output: where to.

    Raises:
        DataError: if the annotations cannot be used.
    """
    from concepthash.explain import concept_curves, cover_parts, read_annotations, score_parts

    annotations = read_annotations(asked.parts, data=asked.data)
    hasher = open_hasher()
    skipped = Skipped()
    split, sample = asked.split, asked.sample
    with output.only_results():
        scores = score_parts(
            hasher, annotations, split=split, masks=asked.masks, skipped=skipped,
            progress=_watch(output, "reading maps"),
        )  # fmt: skip
        effects = cover_parts(
            hasher, annotations, scores.leading_parts, split=split, sample=sample,
            masks=asked.masks, skipped=skipped, progress=_watch(output, "covering parts"),
        ) if asked.causality else None  # fmt: skip
        curve = concept_curves(
            hasher, annotations, split=split, sample=sample, skipped=skipped,
            progress=_watch(output, "covering cells"),
        ) if asked.curves else None  # fmt: skip
    output.result(
        "\n\n".join(str(found) for found in (scores, effects, curve) if found is not None),
        lambda: {
            **scores.to_json(),
            "causality": None if effects is None else effects.to_json(),
            "curves": None if curve is None else curve.to_json(),
            "split": split,
            "annotations": str(annotations.source),
            "model": str(hasher.bundle.path),
            "backend": hasher.backend,
            "skipped": skipped_json(skipped),
        },
    )
    output.skips(skipped, record="the --json report")


def _watch(output: Output, stage: str) -> Callable[[int, int], None]:
    return lambda done, total: output.progress(stage, done, total)
