"""``chash explain``: what the concepts of a bundle stand for, measured on annotated parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from concepthash.cli import options
from concepthash.cli.locate import check_bundle, newest_bundle
from concepthash.cli.options import check_threads, setting, switch
from concepthash.cli.output import Output, skipped_json
from concepthash.errors import Skipped, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from concepthash.runtime.hasher import Hasher

EXAMPLES = (
    "chash explain --parts cub20/part_locs.csv",
    "chash explain --parts CUB_200_2011 --model cub.chb --causality",
    "chash explain --parts demo/data --masks --curves --sample 20 --json",
)
SPLITS = ("test", "train", "all")


def command(
    parts: Annotated[
        Path | None,
        switch("--parts", text="Part annotations: part_locs.csv, or the folder that has it."),
    ] = None,
    data: Annotated[
        Path | None,
        setting("--data", text="Folder the photos' paths are relative to; by default found."),
    ] = None,
    model: options.Model = None,
    split: Annotated[str, switch("--split", text="test, train or all.")] = "test",
    masks: Annotated[
        bool, switch("--masks", text="Use part masks too: to agree with, and to cover.")
    ] = False,
    causality: Annotated[
        bool, switch("--causality", text="Cover each part, and see which concepts change.")
    ] = False,
    curves: Annotated[
        bool, switch("--curves", text="Cover cells in the order of the maps: are maps faithful?")
    ] = False,
    sample: Annotated[
        int, switch("--sample", text="Photos --causality and --curves cover, evenly spread.")
    ] = 100,
    batch_size: options.BatchSize = None,
    threads: options.Threads = None,
    device: options.Device = None,
    config: options.VerbConfig = None,
    as_json: options.Json = False,
) -> None:
    """Measure what the concepts of a model stand for."""
    output = Output(as_json=as_json)
    if parts is None:
        raise UsageError(
            "nothing to explain was named: give part annotations",
            where="--parts",
            hint="chash explain --parts part_locs.csv",
        )
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}", where="--split", hint=", ".join(SPLITS))
    if sample < (2 if causality else 1):
        raise UsageError(f"{sample} photos are too few", where="--sample", hint="--sample 100")
    check_threads(threads)

    from concepthash.explain import concept_curves, cover_parts, read_annotations, score_parts

    annotations = read_annotations(parts, data=data)
    hasher = _hasher(model, device, threads, batch_size, output)
    skipped = Skipped()
    with output.only_results():
        scores = score_parts(
            hasher, annotations, split=split, masks=masks, skipped=skipped,
            progress=_watch(output, "reading maps"),
        )  # fmt: skip
        effects = cover_parts(
            hasher, annotations, scores.leading_parts, split=split, sample=sample, masks=masks,
            skipped=skipped, progress=_watch(output, "covering parts"),
        ) if causality else None  # fmt: skip
        curve = concept_curves(
            hasher, annotations, split=split, sample=sample, skipped=skipped,
            progress=_watch(output, "covering cells"),
        ) if curves else None  # fmt: skip
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


def _hasher(
    model: Path | None,
    device: str | None,
    threads: int | None,
    batch_size: int | None,
    output: Output,
) -> Hasher:
    """The bundle that was named, or the newest here, ready to encode."""
    from concepthash.runtime.hasher import Hasher

    if model is None:
        model = newest_bundle()
        output.choice("model", model, "the newest bundle here")
    hasher = Hasher(
        check_bundle(model), device=device or "auto", threads=threads, batch_size=batch_size
    )
    if hasher.note:
        output.note(hasher.note)
    return hasher


def _watch(output: Output, stage: str) -> Callable[[int, int], None]:
    return lambda done, total: output.progress(stage, done, total)
