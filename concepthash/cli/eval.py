"""``chash eval``: how well a run, a bundle or codes on disk retrieve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from concepthash.cli import baselines as table
from concepthash.cli import options
from concepthash.cli.hashing import open_hasher
from concepthash.cli.kinds import kind_of
from concepthash.cli.options import check_checkpoint, check_threads, setting, switch
from concepthash.cli.outfile import check_file, check_folder
from concepthash.cli.output import Output
from concepthash.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from concepthash.cli.measure import Measured
    from concepthash.evaluation import ClassScore

EXAMPLES = (
    "chash eval runs/cub                 a run, on the data it was trained on",
    "chash eval cub.chb --data CUB_200_2011/",
    "chash eval database.npz queries.npz  codes, whatever made them",
    "chash eval runs/cub --baselines      published methods on the same backbone",
    "chash eval runs/cub --pr-curve pr.png --csv classes.csv --save-codes codes/",
)


def command(
    ctx: typer.Context,
    target: Annotated[
        Path,
        typer.Argument(
            help="A run, a bundle or its ONNX file, or the codes of a database.", metavar="TARGET"
        ),
    ],
    queries: Annotated[
        Path | None,
        typer.Argument(help="With codes: those of the queries.", metavar="QUERIES.npz"),
    ] = None,
    data: Annotated[
        str | None, setting("--data", text="Photos; for a run, by default those of its training.")
    ] = None,
    layout: options.Layout = None,
    path_column: options.PathColumn = None,
    label_column: options.LabelColumn = None,
    split_column: options.SplitColumn = None,
    level: options.Level = None,
    test_share: options.TestShare = None,
    checkpoint: Annotated[
        str | None, setting("--checkpoint", text="Of a run: best or last.", values=("best", "last"))
    ] = None,
    pr_curve: Annotated[
        Path | None,
        switch("--pr-curve", text="Draw precision over recall here (.png, .svg, .pdf)."),
    ] = None,
    csv: Annotated[
        Path | None, switch("--csv", text="Write the table per class, or of baselines, here.")
    ] = None,
    save_codes: Annotated[
        Path | None,
        switch("--save-codes", text="Keep database.npz and queries.npz in this folder."),
    ] = None,
    baselines: table.Baselines = False,
    methods: table.Methods = None,
    bits: table.Bits = None,
    seeds: table.Seeds = None,
    views: table.Views = None,
    backbone: table.Backbone = None,
    weights: table.Weights = None,
    runs: table.Runs = None,
    batch_size: options.BatchSize = None,
    threads: options.Threads = None,
    device: options.Device = None,
    backend: options.Backend = None,
    precision: options.Precision = None,
    config: options.VerbConfig = None,
    as_json: options.Json = False,
) -> None:
    """Measure retrieval: mAP, per class and per concept."""
    output = Output(as_json=as_json)
    changes = {
        "root": data,
        "layout": layout,
        "path_column": path_column,
        "label_column": label_column,
        "split_column": split_column,
        "level": level,
        "test_share": test_share,
    }
    given = {key: value for key, value in changes.items() if value is not None}
    check_checkpoint(checkpoint)
    _check_outputs(pr_curve, csv, save_codes)
    asked = table.Options(methods, bits, seeds, views, backbone, weights, runs)
    if baselines:
        check_threads(threads)
        table.refuse_unfit({"QUERIES": queries, "--pr-curve": pr_curve, "--save-codes": save_codes})
        _refuse_ways(ctx, "a table of baselines")
        table.show_table(
            target,
            given,
            asked,
            csv=csv,
            checkpoint=checkpoint,
            threads=threads,
            device=device,
            named=config,
            output=output,
        )
        return
    asked.refuse(ctx)
    kind = kind_of(target)
    if queries is not None and kind != "codes":
        raise UsageError(
            f"only codes have a second file; {target} is a {kind}",
            where=queries,
            hint="chash eval database.npz queries.npz",
        )
    if kind not in ("bundle", "model"):
        _refuse_ways(ctx, f"a {kind}" if kind != "codes" else kind)
    check_threads(threads)
    if data is not None and not Path(data).exists():
        raise UsageError("no such folder or file", where=data, hint=f"ls {Path(data).parent}")
    with output.only_results():
        from concepthash.cli import measure

        if kind == "run":
            measured = measure.run(target, given, checkpoint, threads, device, output)
        elif kind in ("bundle", "model"):
            hasher = open_hasher(
                target, output, device=device, threads=threads, batch_size=batch_size,
                backend=backend, precision=precision,
            )  # fmt: skip
            measured = measure.bundle(hasher, given, output)
        elif kind == "codes":
            measured = measure.codes(target, queries, output)
        else:
            raise UsageError(
                f"a {kind} cannot be evaluated",
                where=target,
                hint="give a run, a bundle (.chb) or two code files (.npz)",
            )
        _keep(measured, pr_curve, csv, save_codes, output)
    output.result(measured.evaluation, lambda: measured.to_json(str(target)))
    output.skips(measured.skipped, record="the --json report")


def _refuse_ways(ctx: typer.Context, what: str) -> None:
    """Only what was exported can be run in several ways; the environment may say so in advance."""
    for name in ("backend", "precision"):
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(
                f"only a bundle can be run in several ways, not {what}",
                where=f"--{name}",
                hint="chash export RUN, then chash eval NAME.chb --data FOLDER",
            )


def _check_outputs(pr_curve: Path | None, csv: Path | None, codes: Path | None) -> None:
    """Refuse what could not be written before anything is computed."""
    check_file(csv, "--csv")
    check_file(pr_curve, "--pr-curve")
    check_folder(codes, "--save-codes")
    if pr_curve is not None:
        from concepthash.evaluation import check_plot

        check_plot(pr_curve)


def _keep(
    measured: Measured, pr_curve: Path | None, csv: Path | None, codes: Path | None, output: Output
) -> None:
    if codes is not None:
        from concepthash.codesets import save_codes

        codes.mkdir(parents=True, exist_ok=True)
        for name, items in (("database", measured.database), ("queries", measured.queries)):
            path = save_codes(codes / f"{name}.npz", items.codes, items.labels, items.layout)
            output.note(f"wrote {path}")
    if csv is not None:
        from concepthash.files import write_bytes

        write_bytes(csv, _class_table(measured.evaluation.per_class).encode())
        output.note(f"wrote {csv}")
    if pr_curve is not None:
        from concepthash.evaluation import plot_pr

        output.note(f"wrote {plot_pr(measured.evaluation, pr_curve)}")


def _class_table(scores: Iterable[ClassScore]) -> str:
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", "queries", "database", "map", "map_low", "map_high"])
    for score in scores:
        found = score.map
        bounds = ("", "", "") if found is None else (found.expected, found.low, found.high)
        writer.writerow([score.name, score.queries, score.database, *bounds])
    return text.getvalue()
