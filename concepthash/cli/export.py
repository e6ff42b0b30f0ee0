"""``chash export``: from a run to a bundle that proved to be the same model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from concepthash.cli import options
from concepthash.cli.extras import needs
from concepthash.cli.locate import check_run, newest_run
from concepthash.cli.options import check_checkpoint, setting, switch
from concepthash.cli.output import Output, display, skipped_json
from concepthash.errors import BackendError, UsageError

EXAMPLES = (
    "chash export                        the newest run under runs/",
    "chash export runs/cub --out cub.chb",
    "chash export runs/cub --checkpoint last --force",
)

_LATER = ("trt", "trt-rtx", "openvino")


def command(
    run: Annotated[
        Path | None, typer.Argument(help="A run; by default the newest.", metavar="RUN")
    ] = None,
    format: Annotated[str, setting("--format", text="onnx.", env="CHASH_EXPORT_FORMAT")] = "onnx",
    out: Annotated[
        Path | None, switch("--out", "-o", text="The bundle; by default RUN.chb beside the run.")
    ] = None,
    checkpoint: Annotated[
        str | None, setting("--checkpoint", text="best or last; by default best if there is one.")
    ] = None,
    sample: Annotated[
        int, setting("--sample", text="Training photos on which the bundle is checked.")
    ] = 256,
    force: options.Force = False,
    config: options.VerbConfig = None,
    as_json: options.Json = False,
) -> None:
    """Export a run as a bundle, checked in bits and ranks."""
    output = Output(as_json=as_json)
    _check(format, checkpoint, sample)

    from concepthash.bundle import check_target

    if run is None:
        run = newest_run()
        output.choice("run", run, "the newest under runs/")
    check_run(run)
    if out is not None:
        check_target(out, replace=force)
    with output.only_results():
        with needs("export"):
            from concepthash.export.bundle import export_bundle
        result = export_bundle(
            run, out, checkpoint=checkpoint, force=force, sample=sample, reporter=output
        )
    output.result(result, lambda: {**result.to_json(), "skipped": skipped_json(result.skipped)})
    output.hint(f"chash index FOLDER --model {display(result.bundle)}")
    output.skips(result.skipped)


def _check(format: str, checkpoint: str | None, sample: int) -> None:
    """Refuse what cannot be exported before anything heavy is imported."""
    if format in _LATER:
        raise BackendError(
            f"this version does not export {format}; ONNX runs everywhere the runtime does",
            where=f"--format {format}",
            hint="chash export --format onnx",
        )
    if format != "onnx":
        raise UsageError(
            f"unknown format {format!r}", where="--format", hint="chash export --format onnx"
        )
    check_checkpoint(checkpoint)
    if sample < 2:
        raise UsageError("a check needs two photos at least", where="--sample", hint="--sample 256")
