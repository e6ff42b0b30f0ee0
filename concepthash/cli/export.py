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
from concepthash.errors import UsageError
from concepthash.formats import FORMATS, PRECISIONS, check_format, check_precision

EXAMPLES = (
    "chash export                        the newest run under runs/",
    "chash export runs/cub --out cub.chb",
    "chash export runs/cub --precision fp32,int8",
    "chash export runs/cub --format onnx,openvino --precision int8 --force",
    "chash export cub.chb --format trt --precision fp16    on the machine with the GPU",
    "chash export cub.chb --precision int8 --calibrate photos/",
)

_FORMATS = "; ".join(f"{form.name}: {form.text}" for form in FORMATS.values())


def command(
    ctx: typer.Context,
    source: Annotated[
        Path | None,
        typer.Argument(
            help="A run, by default the newest; or a bundle, to add to it.", metavar="SOURCE"
        ),
    ] = None,
    format: Annotated[
        str,
        setting(
            "--format",
            text=f"One or more of {_FORMATS}.",
            env="CHASH_EXPORT_FORMAT",
            values=tuple(FORMATS),
        ),
    ] = "onnx",
    precision: Annotated[
        str,
        setting(
            "--precision",
            text=f"One or more of {', '.join(PRECISIONS)}; fp32 is always made too.",
            env="CHASH_EXPORT_PRECISION",
            values=PRECISIONS,
        ),
    ] = "fp32",
    out: Annotated[
        Path | None, switch("--out", "-o", text="The bundle; by default RUN.chb beside the run.")
    ] = None,
    checkpoint: Annotated[
        str | None,
        setting(
            "--checkpoint",
            text="best or last; by default best if there is one.",
            values=("best", "last"),
        ),
    ] = None,
    sample: Annotated[
        int, setting("--sample", text="Training photos on which artefacts are checked.")
    ] = 256,
    calibrate: Annotated[
        Path | None,
        setting("--calibrate", text="Photos to calibrate and check on, not those of the training."),
    ] = None,
    calibration: Annotated[
        int, setting("--calibrate-n", text="Photos that int8 is calibrated on.")
    ] = 512,
    gate: Annotated[
        str,
        setting(
            "--gate", text="Limits other than the strict ones: bits=0.5%,map=0.01,margin=1e-4."
        ),
    ] = "",
    keep: Annotated[
        int | None,
        setting(
            "--keep-fp32",
            text="Layers that int8 computes in fp32, the worst first; by default those that spoil "
            "much and save little.",
        ),
    ] = None,
    capability: Annotated[
        str | None,
        setting(
            "--capability",
            text="GPUs of a trt-rtx engine, as 8.6,8.9; by default 8.0 and later.",
        ),
    ] = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    config: options.VerbConfig = None,
    as_json: options.Json = False,
) -> None:
    """Export a run as a bundle, checked in bits and ranks."""
    output = Output(as_json=as_json)
    formats, precisions = _listed(format), _listed(precision)
    _check(formats, precisions, checkpoint, sample, calibrate, calibration, keep, gate)
    if capability and "trt-rtx" not in formats:
        raise UsageError(
            "only engines of TensorRT-RTX are built for GPUs that are not here",
            where="--capability",
            hint="--format trt-rtx",
        )

    from concepthash.bundle import MANIFEST, check_target
    from concepthash.export.engines import check_ready

    if not dry_run:
        for name in formats:
            check_ready(FORMATS[name], precisions)
    if source is None:
        source = newest_run()
        output.choice("run", source, "the newest under runs/")
    extends = (source / MANIFEST).is_file()
    if extends:
        _refuse_checkpoint(ctx, source)
    else:
        check_run(source)
        if out is not None:
            check_target(out, replace=force)
    if dry_run:
        _plan(source, out, formats, precisions, output, extends=extends)
        return
    with output.only_results(), needs("export"):
        from concepthash.export.bundle import Options, export_bundle

        result = export_bundle(
            source,
            out,
            formats=formats,
            precisions=precisions,
            checkpoint=checkpoint,
            force=force,
            options=Options(
                sample=sample,
                calibrate=calibrate,
                calibration=calibration,
                gate=gate,
                keep=keep,
                capabilities=tuple(_listed(capability or "")),
            ),
            reporter=output,
        )
    output.result(result, lambda: {**result.to_json(), "skipped": skipped_json(result.skipped)})
    output.hint(f"chash index FOLDER --model {display(result.bundle)}")
    output.skips(result.skipped)


def _refuse_checkpoint(ctx: typer.Context, bundle: Path) -> None:
    """A bundle is of one checkpoint; the environment may name another one for the next run."""
    given = ctx.get_parameter_source("checkpoint")
    if given is not None and given.name == "COMMANDLINE":
        raise UsageError(
            f"only a run has checkpoints; {bundle} is a bundle, and stays what it is",
            where="--checkpoint",
            hint="leave it out, or export the run: chash export RUN --checkpoint best",
        )


def _listed(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _check(
    formats: list[str],
    precisions: list[str],
    checkpoint: str | None,
    sample: int,
    calibrate: Path | None,
    calibration: int,
    keep: int | None,
    gate: str,
) -> None:
    """Refuse what cannot be exported before anything heavy is imported."""
    from concepthash.limits import LIMITS

    for name, given, hint in (
        ("--format", formats, "onnx"),
        ("--precision", precisions, "fp32"),
    ):
        if not given:
            raise UsageError("nothing was named", where=name, hint=f"{name} {hint}")
    for name in formats:
        for precision in precisions:
            check_precision(precision, check_format(name))
    check_checkpoint(checkpoint)
    LIMITS["fp32"].updated(gate)
    if sample < 2:
        raise UsageError("a check needs two photos at least", where="--sample", hint="--sample 256")
    if calibration < 1:
        raise UsageError(
            "int8 is calibrated on one photo at least",
            where="--calibrate-n",
            hint="--calibrate-n 512",
        )
    if keep is not None and keep < 0:
        raise UsageError(
            f"{keep} layers cannot be kept", where="--keep-fp32", hint="--keep-fp32 0 keeps none"
        )
    if calibrate is not None and not calibrate.is_dir():
        raise UsageError(
            "no such folder of photos", where=calibrate, hint=f"ls {display(calibrate.parent)}"
        )


def _plan(
    source: Path,
    out: Path | None,
    formats: list[str],
    precisions: list[str],
    output: Output,
    *,
    extends: bool,
) -> None:
    """Say what would be made; ``extends`` if the source is a bundle."""
    from concepthash.bundle import Bundle

    pairs = [(name, p) for name in formats for p in FORMATS[name].files if p in precisions]
    if extends:
        there = {(a.format, a.precision) for a in Bundle.open(source).manifest.artifacts}
        pairs = [pair for pair in pairs if pair not in there]
    else:
        pairs = list(dict.fromkeys([("onnx", "fp32"), *pairs]))
    rows = [(f"{name} {p}", FORMATS[name].files[p], FORMATS[name].where) for name, p in pairs]
    width = max((len(row[0]) for row in rows), default=0)
    lines = [f"{what:<{width}}  {file}  (made on {where})" for what, file, where in rows]
    output.result(
        "\n".join(lines) or "nothing: the bundle has all of it",
        lambda: {
            "schema": "chash.export/1",
            "dry_run": True,
            "source": str(source),
            "bundle": None if out is None else str(out),
            "artifacts": [file for _, file, _ in rows],
        },
    )
