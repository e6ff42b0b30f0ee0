"""``chash train``: from labelled photos to a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import concepthash
from concepthash.cli import options
from concepthash.cli.extras import needs
from concepthash.cli.group import INTERRUPTED
from concepthash.cli.locate import check_run, newest_run, next_run
from concepthash.cli.options import check_threads, setting, switch
from concepthash.cli.output import Output, display, skipped_json
from concepthash.cli.settings import as_toml, by_origin, run_config
from concepthash.errors import ConceptHashError, UsageError
from concepthash.learn.launcher import place

if TYPE_CHECKING:
    from concepthash.learn.config import Config
    from concepthash.learn.train import TrainResult

EXAMPLES = (
    "chash train photos/",
    "chash train CUB_200_2011/ --bits 64 --concepts 4 --out runs/cub",
    "chash train birds.csv --label-column species --weights vit.safetensors --offline",
    "chash train photos/ --set train.views=4 --set data.cache_mb=512",
    "chash train --resume",
    "torchrun --nproc-per-node 2 -m concepthash train photos/",
)

# Option -> where it goes in the configuration. Everything else is reached with --set.
_HOMES = {
    "data": ("data", "root"),
    "layout": ("data", "layout"),
    "path_column": ("data", "path_column"),
    "label_column": ("data", "label_column"),
    "split_column": ("data", "split_column"),
    "test_share": ("data", "test_share"),
    "level": ("data", "level"),
    "val": ("data", "val_share"),
    "strict": ("data", "strict"),
    "backbone": ("model", "backbone"),
    "weights": ("model", "weights"),
    "bits": ("model", "bits"),
    "concepts": ("model", "concepts"),
    "concept_mode": ("model", "concept_mode"),
    "guidance": ("guidance", "source"),
    "prompt": ("guidance", "prompt"),
    "epochs": ("train", "epochs"),
    "batch_size": ("train", "batch_size"),
    "lr": ("train", "lr"),
    "precision": ("train", "precision"),
    "device": ("train", "device"),
    "seed": ("train", "seed"),
    "tracker": ("train", "trackers"),
}


def command(
    ctx: typer.Context,
    data: Annotated[
        str | None, typer.Argument(help="Folder or CSV file of labelled photos.", metavar="DATA")
    ] = None,
    bits: Annotated[int | None, setting("--bits", text="Bits of a code (64).")] = None,
    concepts: Annotated[
        int | None, setting("--concepts", text="Concepts that share them (4).")
    ] = None,
    concept_mode: Annotated[
        str | None,
        setting(
            "--concept-mode",
            text="parts (found in the photos), or paper (as published).",
            values=("parts", "paper"),
        ),
    ] = None,
    epochs: Annotated[int | None, setting("--epochs", text="Passes over the photos (30).")] = None,
    batch_size: options.BatchSize = None,
    lr: Annotated[float | None, setting("--lr", text="Peak learning rate (0.001).")] = None,
    seed: Annotated[int | None, setting("--seed", text="Of everything random (0).")] = None,
    backbone: Annotated[str | None, setting("--backbone", text="timm name of a ViT.")] = None,
    weights: Annotated[
        str | None,
        setting(
            "--weights", text="safetensors file of the backbone, or none to start from scratch."
        ),
    ] = None,
    guidance: Annotated[
        str | None,
        setting(
            "--guidance",
            text="auto, clip, clip:ARCH:TAG, sentence:FOLDER-or-package, file:X.npy or none.",
            values=("auto", "clip", "sentence:", "file:", "none"),
        ),
    ] = None,
    prompt: Annotated[
        str | None, setting("--prompt", text="What the text encoder reads, with {class}.")
    ] = None,
    layout: options.Layout = None,
    path_column: options.PathColumn = None,
    label_column: options.LabelColumn = None,
    split_column: options.SplitColumn = None,
    level: options.Level = None,
    test_share: options.TestShare = None,
    val: Annotated[
        float | None,
        setting("--val", text="Share of the train split that chooses the best epoch (0.1)."),
    ] = None,
    device: Annotated[
        str | None, setting("--device", text="auto, cpu or cuda.", values=("auto", "cpu", "cuda"))
    ] = None,
    precision: Annotated[
        str | None,
        setting(
            "--precision", text="auto, fp32, bf16 or fp16.", values=("auto", "fp32", "bf16", "fp16")
        ),
    ] = None,
    threads: options.Threads = None,
    tracker: Annotated[
        list[str] | None,
        setting(
            "--tracker",
            text="tensorboard or wandb; may be repeated.",
            values=("tensorboard", "wandb"),
        ),
    ] = None,
    strict: Annotated[
        bool | None,
        setting("--strict", text="A photo that cannot be read is an error, not skipped."),
    ] = None,
    offline: Annotated[bool, setting("--offline", text="Never use the network.")] = False,
    out: Annotated[
        Path | None, switch("--out", "-o", text="The run; by default a new one in runs/.")
    ] = None,
    resume: Annotated[
        bool, switch("--resume", text="Go on with --out, or with the newest run.")
    ] = False,
    assignments: Annotated[
        list[str] | None,
        switch("--set", text="section.key=value, for every other setting; may be repeated."),
    ] = None,
    config: options.RunConfig = None,
    dry_run: Annotated[
        bool, switch("--dry-run", text="Print the resolved settings as TOML, read the data, stop.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Train a model on labelled photos and evaluate it."""
    rank, processes = place()
    if rank:
        if not dry_run:
            _follow(threads)
        return
    output = Output(as_json=as_json)
    output.note(f"chash {concepthash.__version__} train")
    check_threads(threads)
    if resume and out is None:
        out = newest_run()
        output.choice("run", out, "the newest under runs/")
    with output.only_results():
        base = _recorded(check_run(out)) if resume and out is not None else None
        settings = _resolve(ctx, base, config, assignments or [])
        if dry_run:
            _preview(settings, output)
            return
        if base is None:
            _read_once(settings)
        if out is None:
            out = next_run(settings.data.root, settings.model.bits)
            output.choice("run", out, "the next free name")
        result = _train(settings, out, resume, offline, threads, output)
    try:
        _report(result, output)
    except typer.Exit:
        # A launcher takes any other code than 0 for a crash, and skipped photos are none.
        if processes == 1:
            raise


def _follow(threads: int | None) -> None:
    """Do what the main process of a launcher was asked for, and leave talking to it."""
    with needs("train"):
        import torch

        from concepthash.learn.team import ProcessLost
        from concepthash.learn.train import follow
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        follow()
    except ProcessLost:
        raise
    except ConceptHashError as error:
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _recorded(run: Path) -> Config:
    """The configuration a run was started with."""
    with needs("train"):
        from concepthash.learn.checkpoint import Run
    return Run.open(run).config


def _resolve(
    ctx: typer.Context, recorded: Config | None, named: Path | None, assignments: list[str]
) -> Config:
    from concepthash.learn.config import Config

    environment, flags = by_origin(ctx, _HOMES)
    if recorded is not None and _same_place(flags.get("data", {}).get("root"), recorded.data.root):
        flags["data"].pop("root")

    def over(base: Config) -> Config:
        return run_config(
            base, named=named, environment=environment, assignments=assignments, flags=flags
        )

    config = over(recorded or Config())
    if recorded is None:  # the mode that was asked for brings its own defaults
        config = over(Config.recipe(config.model.concept_mode))
    if not config.data.root:
        raise UsageError("no photos were named", where="DATA", hint="chash train FOLDER")
    return config


def _same_place(given: str | None, recorded: str) -> bool:
    """Whether another spelling of the recorded path was given."""
    return given is not None and Path(given).resolve() == Path(recorded).resolve()


def _preview(config: Config, output: Output) -> None:
    from concepthash.cli.data import read_data

    data = read_data(config.data, seed=config.train.seed, output=output)
    sizes = {"classes": len(data.class_names), "train": len(data.train), "test": len(data.test)}
    output.note(f"data: {data.layout}, " + ", ".join(f"{n} {name}" for name, n in sizes.items()))
    output.result(
        as_toml(config.to_json()),
        lambda: {"schema": "chash.config/1", "config": config.to_json(), "data": sizes},
    )


def _read_once(config: Config) -> None:
    """Miss the data before torch is loaded; reading a list of photos again costs little."""
    from concepthash.learn.data import read_dataset

    read_dataset(config.data, seed=config.train.seed)


def _train(
    config: Config, out: Path, resume: bool, offline: bool, threads: int | None, output: Output
) -> TrainResult:
    with needs("train"):
        from concepthash.learn.lookup import check_wanted

        if not resume:
            check_wanted(config.model, offline=offline)
        import torch

        from concepthash.learn.train import train
    if threads is not None:
        torch.set_num_threads(threads)
    output.note(
        f"{config.data.root} -> {out}: {config.model.bits} bits, {config.model.concepts} concepts, "
        f"{config.model.backbone}, {config.train.epochs} epochs, seed {config.train.seed}"
    )
    return train(config, out, resume=resume, offline=offline, reporter=output)


def _report(result: TrainResult, output: Output) -> None:
    def data() -> dict[str, Any]:
        return {
            "schema": "chash.train/1",
            "run": str(result.run),
            "epochs": result.epochs,
            "evaluation": result.evaluation.to_json() if result.evaluation else None,
            "skipped": skipped_json(result.skipped),
        }

    output.result(result.evaluation or "no test split, so nothing was evaluated", data)
    output.note(f"run: {result.run}")
    output.hint(f"chash export {display(result.run)}")
    output.skips(result.skipped, record=str(result.run / "skipped.json"))
