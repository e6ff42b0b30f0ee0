"""``chash eval --baselines``: published methods on the features of a run's backbone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from concepthash.cli.extras import needs
from concepthash.cli.kinds import kind_of
from concepthash.cli.options import switch
from concepthash.cli.output import Output, display, skipped_json
from concepthash.cli.settings import run_config
from concepthash.errors import BackendError, DataError, Skipped, UsageError

if TYPE_CHECKING:
    from concepthash.datasets import Dataset
    from concepthash.learn.baselines.compare import Asked
    from concepthash.learn.checkpoint import Run
    from concepthash.learn.config import Config

Baselines = Annotated[
    bool,
    switch(
        "--baselines",
        text="Compare published methods on the frozen backbone of a run, or of photos.",
    ),
]
Methods = Annotated[str | None, switch("--methods", text="Baselines, such as lsh,itq,csq (all).")]
Bits = Annotated[str | None, switch("--bits", text="Code lengths of the baselines (16,32,64).")]
Seeds = Annotated[str | None, switch("--seeds", text="Seeds of the baselines (0,1,2).")]
Views = Annotated[
    int | None, switch("--views", text="Augmented views of a training photo, for hash layers (0).")
]
Backbone = Annotated[
    str | None, switch("--backbone", text="With --baselines: timm name; by default the run's.")
]
Weights = Annotated[
    str | None, switch("--weights", text="With --baselines: safetensors file; the run's.")
]
Runs = Annotated[
    list[Path] | None,
    switch("--runs", text="With --baselines: a further trained run; may be repeated."),
]


@dataclass(frozen=True)
class Options:
    """What belongs to the table alone, as typed; the names are those of the options."""

    methods: str | None
    bits: str | None
    seeds: str | None
    views: int | None
    backbone: str | None
    weights: str | None
    runs: list[Path] | None

    def asked(self) -> Asked:
        """The same, read, with the defaults in place of what was not given.

        Raises:
            UsageError: for what cannot be read or does not exist.
        """
        from concepthash.learn.baselines.compare import Asked

        default = Asked()
        return Asked(
            _words(self.methods) or default.methods,
            _numbers(self.bits, "--bits", default.bits),
            _numbers(self.seeds, "--seeds", default.seeds),
            default.views if self.views is None else self.views,
        )

    def refuse(self, ctx: typer.Context) -> None:
        """Refuse these options on the line of a call that makes no table.

        Raises:
            UsageError: naming the first.
        """
        for name in vars(self):
            source = ctx.get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE":
                raise UsageError(
                    f"--{name} belongs to --baselines", where=f"--{name}", hint="add --baselines"
                )


def show_table(
    target: Path,
    changes: dict[str, Any],
    options: Options,
    *,
    csv: Path | None,
    checkpoint: str | None,
    threads: int | None,
    device: str | None,
    named: Path | None,
    output: Output,
) -> None:
    """Compute the table of a run, or of photos, and print it.

    Args:
        target: a run, or photos.
        changes: to the settings of the data.
        options: of the table.
        csv: where to write it too.
        checkpoint: of the runs: best or last.
        threads: CPU threads.
        device: auto, cpu, cuda or cuda:N.
        named: the file of ``--config``.
        output: told of everything.

    Raises:
        UsageError: for options that do not fit, or a target that is neither.
    """
    skipped = Skipped()
    with output.only_results():
        with needs("train"):
            import torch

            from concepthash.learn.baselines.compare import compare
            from concepthash.learn.checkpoint import Run
        asked = options.asked()
        own = _own_run(target)
        runs = [Run.open(path) for path in [*own, *(options.runs or [])]]
        config = _config(target, runs[0] if own else None, changes, options, named)
        data = _data(target, config, output, own=bool(own), recorded="root" not in changes)
        if threads is not None:
            torch.set_num_threads(threads)
        table = compare(
            config,
            data,
            asked,
            runs=runs,
            checkpoint=checkpoint,
            device=_device(device),
            skipped=skipped,
            tell=output,
        )
        if csv is not None:
            from concepthash.files import write_bytes

            write_bytes(csv, table.to_csv().encode())
            output.note(f"wrote {csv}")
    output.result(
        table,
        lambda: {**table.to_json(), "target": str(target), "skipped": skipped_json(skipped)},
    )
    output.skips(skipped, record="the --json report")


def refuse_unfit(options: dict[str, object]) -> None:
    """Refuse what a table cannot serve.

    Args:
        options: the value of each, None where it was not given.

    Raises:
        UsageError: naming the first.
    """
    for name, value in options.items():
        if value is not None:
            raise UsageError("this does not go with --baselines", where=name, hint="leave it out")


def _own_run(target: Path) -> list[Path]:
    """The target if it is a run; nothing if it is photos.

    Raises:
        UsageError: if it is neither.
    """
    try:
        kind = kind_of(target)
    except UsageError:
        if not target.exists():
            raise
        return []
    if kind != "run":
        raise UsageError(
            f"baselines need photos and a backbone; a {kind} has neither",
            where=target,
            hint="chash eval RUN --baselines, or chash eval PHOTOS --baselines --weights FILE",
        )
    return [target]


def _config(
    target: Path, run: Run | None, changes: dict[str, Any], options: Options, named: Path | None
) -> Config:
    """The settings of the run, or those a training of these photos would begin with."""
    from concepthash.learn.config import Config

    given = {"backbone": options.backbone, "weights": options.weights}
    model = {key: value for key, value in given.items() if value is not None}
    if run is not None:
        base = replace(run.config, data=run.data_config())
        return base.updated({"data": changes, "model": model}, where="command line")
    if "root" in changes:
        where = f"{target} and --data"
        raise UsageError("the photos are named twice", where=where, hint="leave --data out")
    flags = {"data": {**changes, "root": str(target)}, "model": model}
    return run_config(Config(), named=named, environment={}, assignments=(), flags=flags)


def _data(target: Path, config: Config, output: Output, *, own: bool, recorded: bool) -> Dataset:
    from concepthash.cli.data import read_data

    data = read_data(
        config.data,
        seed=config.train.seed,
        output=output,
        command=f"chash eval {display(target)} --baselines --data"
        if own
        else "chash eval --baselines",
        recorded=own and recorded,
    )
    if not len(data.test):
        other = "chash eval PHOTOS --baselines --backbone NAME --weights FILE"
        hint = other if own else "--test-share 0.2 holds one out"
        raise DataError("the data have no test split", where=data.root, hint=hint)
    return data


def _device(name: str | None) -> str:
    import torch

    wanted = name or "auto"
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise BackendError("torch sees no CUDA device", where="--device", hint="--device cpu")
    return wanted


def _words(text: str | None) -> tuple[str, ...]:
    return () if text is None else tuple(dict.fromkeys(text.split(",")))


def _numbers(text: str | None, option: str, default: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in _words(text)) or default
    except ValueError:
        example = ",".join(map(str, default))
        raise UsageError(
            f"{text!r} is not a list of whole numbers", where=option, hint=f"{option} {example}"
        ) from None
