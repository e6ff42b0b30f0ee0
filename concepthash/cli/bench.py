"""``chash bench``: every artefact of a bundle on this machine: speed, memory, size, exactness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from concepthash.cli import options
from concepthash.cli.locate import newest_bundle
from concepthash.cli.options import check_threads, setting, switch
from concepthash.cli.outfile import check_file
from concepthash.cli.output import Output, display
from concepthash.errors import BackendError, BundleError, GateError, UsageError
from concepthash.formats import PRECISIONS

if TYPE_CHECKING:
    from concepthash.bundle import Bundle
    from concepthash.cli.bench_report import BenchReport, VerifyReport
    from concepthash.runtime.bench.accuracy import Images

EXAMPLES = (
    "chash bench cub.chb                 on birds that it draws",
    "chash bench cub.chb --data CUB_200_2011/ --plot bench.png",
    "chash bench cub.chb --backend openvino --precision fp32,int8 --batch 1,4,16 --threads 1",
    "chash bench cub.chb --verify        is it still the model, on this machine?",
)

LARGEST_BATCH = 1024
RESULTS = ("chash.bench/1", "chash.verify/1")


def command(
    bundle: Annotated[
        Path | None, typer.Argument(help="A bundle; by default the newest.", metavar="BUNDLE")
    ] = None,
    data: Annotated[
        str | None, setting("--data", text="Labelled photos; by default drawn birds, and no mAP.")
    ] = None,
    layout: options.Layout = None,
    path_column: options.PathColumn = None,
    label_column: options.LabelColumn = None,
    split_column: options.SplitColumn = None,
    level: options.Level = None,
    test_share: options.TestShare = None,
    backend: Annotated[
        str | None,
        setting(
            "--backend", text="Only these, as onnxruntime,openvino.", values=options.BACKEND_NAMES
        ),
    ] = None,
    precision: Annotated[
        str | None, setting("--precision", text="Only these, as fp32,int8.", values=PRECISIONS)
    ] = None,
    batch: Annotated[
        str, setting("--batch", text="Images a run, as 1,8.", env="CHASH_BENCH_BATCH")
    ] = "1,8",
    repeats: Annotated[
        int,
        setting("--repeats", text="Turns of each row.", env="CHASH_BENCH_REPEATS"),
    ] = 10,
    threads: options.Threads = None,
    device: options.Device = None,
    verify: Annotated[
        bool, switch("--verify", text="Check codes against the bundle's limits, and time nothing.")
    ] = False,
    out: Annotated[
        Path | None, switch("--out", "-o", text="Write the result here, as JSON.")
    ] = None,
    plot: Annotated[
        Path | None, switch("--plot", text="Draw accuracy over latency here (.png, .svg, .pdf).")
    ] = None,
    force: Annotated[
        bool, switch("--force", text="Let --out replace a file that is no result of this verb.")
    ] = False,
    config: options.VerbConfig = None,
    as_json: options.Json = False,
) -> None:
    """Measure a bundle here: speed, memory, size, exactness."""
    output = Output(as_json=as_json)
    batches = _batches(batch)
    _check(repeats, threads, out, plot, verify, force)
    if bundle is None:
        bundle = newest_bundle("chash bench NAME.chb")
        output.choice("bundle", bundle, "the newest here")
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
    with output.only_results():
        from concepthash.bundle import Bundle
        from concepthash.cli.bench_plot import check_plot, draw
        from concepthash.cli.bench_report import About, BenchReport, VerifyReport
        from concepthash.runtime.bench.targets import list_targets

        if plot is not None:
            check_plot(plot)
        opened = Bundle.open(bundle)
        targets, lacking = list_targets(
            opened, backends=_words(backend), precisions=_words(precision), device=device or "auto"
        )
        images = _images(opened, given, output)
        about = About.of(opened, str(bundle), images.text, threads)
        result: BenchReport | VerifyReport
        if verify:
            from concepthash.cli.bench_search import check_search
            from concepthash.runtime.bench.verify import verify as check

            checked = check(
                opened, targets, images, threads=threads, progress=output.progress, tell=output.note
            )
            search = check_search(checked.reference, opened.manifest.layout, device or "auto")
            result = VerifyReport(about, checked, tuple(lacking), search)
        else:
            from concepthash.runtime.bench.measure import bench

            measured = bench(
                opened,
                targets,
                images,
                batches=batches,
                threads=threads,
                repeats=repeats,
                progress=output.progress,
                tell=output.note,
            )
            result = BenchReport(about, measured, tuple(lacking), repeats)
            if plot is not None:
                draw(result, plot)
        if out is not None:
            from concepthash.files import write_json

            write_json(out, result.to_json())
    output.result(result, result.to_json)
    for path in (out, plot):
        if path is not None:
            output.note(f"wrote {path}")
    _judge(result, bundle, drawn=data is None)
    output.skips(result.skipped, record="the --json report")


def _batches(text: str) -> list[int]:
    """The batch sizes, as they were typed.

    Raises:
        UsageError: if one is no whole number from 1 to :data:`LARGEST_BATCH`.
    """
    words = _words(text)
    if not words or not all(w.isdecimal() and 1 <= int(w) <= LARGEST_BATCH for w in words):
        raise UsageError(
            f"batch sizes are whole numbers from 1 to {LARGEST_BATCH}, not {text!r}",
            where="--batch",
            hint="--batch 1,8",
        )
    return [int(word) for word in words]


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _check(
    repeats: int,
    threads: int | None,
    out: Path | None,
    plot: Path | None,
    verify: bool,
    force: bool,
) -> None:
    """Refuse what cannot work before minutes are spent on measuring."""
    check_threads(threads)
    if repeats < 1:
        raise UsageError(f"{repeats} turns measure nothing", where="--repeats", hint="--repeats 10")
    if verify and plot is not None:
        raise UsageError(
            "--verify times nothing, so there is nothing to draw",
            where="--plot",
            hint="chash bench BUNDLE --plot bench.png",
        )
    check_file(out, "--out")
    check_file(plot, "--plot")
    if out is not None and out.exists() and not force and not _is_result(out):
        raise UsageError(
            "a file that chash bench did not write is there",
            where=out,
            hint="another --out; --force replaces it",
        )


def _is_result(path: Path) -> bool:
    """Whether a file is what an earlier call wrote: that may be replaced."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(value, dict) and value.get("schema") in RESULTS


def _images(bundle: Bundle, given: dict[str, Any], output: Output) -> Images:
    """The photos of ``--data``, or birds as large as the model takes them."""
    import numpy as np

    from concepthash.runtime.bench.accuracy import Images

    manifest = bundle.manifest
    if "root" in given:
        from concepthash.cli.data import read_data
        from concepthash.learn.config import Config

        recorded = Config().updated(manifest.training.get("config", {}), where=bundle.path)
        asked = recorded.updated({"data": given}, where="command line")
        command = f"chash bench {display(bundle.path)} --data"
        data = read_data(asked.data, seed=asked.train.seed, output=output, command=command)
        return Images(
            sources=[data.root / path for path in (*data.train.paths, *data.test.paths)],
            labels=np.concatenate([data.train.labels, data.test.labels]),
            database=len(data.train),
            text=str(given["root"]),
        )
    if given:  # perhaps by variables that are there for other verbs
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        output.note(f"not used without --data: {names}")
    from concepthash.demo import sample_birds

    birds, _ = sample_birds(manifest.preprocess.resize)
    output.note(f"images: {len(birds)} drawn birds, so there is no mAP (--data takes photos)")
    return Images([*birds], None, 0, f"{len(birds)} drawn birds")


def _judge(result: BenchReport | VerifyReport, bundle: Path, *, drawn: bool) -> None:
    """End as the result deserves.

    Raises:
        GateError: if an artefact is not the model it was exported as.
        BundleError: if nothing at all could run, and a file is damaged.
        BackendError: if nothing at all could run otherwise.
    """
    if result.failures:
        more = f", and {len(result.failures) - 1} more" if len(result.failures) > 1 else ""
        hint = "copy the bundle again, or export it again: chash export RUN --force"
        if drawn:  # unlike all that an int8 artefact was calibrated on
            hint = f"photos decide: chash bench {display(bundle)} --verify --data FOLDER; or {hint}"
        raise GateError(result.failures[0] + more, where=bundle, hint=hint)
    if result.empty:
        for entry in result.not_run:
            if entry.damaged is not None:
                raise BundleError(entry.reason, where=entry.damaged, hint=entry.hint)
        raise BackendError("nothing of this bundle runs here", where=bundle, hint="chash doctor")
