"""``chash demo``: the whole road on drawn birds, without a network or a GPU."""

from __future__ import annotations

import json
import shutil
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from concepthash.cli import options
from concepthash.cli.extras import needs
from concepthash.cli.options import check_threads, setting, switch
from concepthash.cli.output import Output, display
from concepthash.errors import UsageError

if TYPE_CHECKING:
    from concepthash.cli.answers import Answers
    from concepthash.demo import DemoSummary
    from concepthash.export.bundle import ExportResult
    from concepthash.learn.train import TrainResult
    from concepthash.runtime.entries import IndexReport

EXAMPLES = (
    "chash demo",
    "chash demo --open                   and then look at it in the browser",
    "chash demo --out birds --species 6 --epochs 5",
)

SCHEMA = "chash.demo/1"
QUERIES = 3

# A ViT behind one convolution: small enough to learn from random numbers in minutes on two cores.
DEMO_CONFIG: dict[str, dict[str, Any]] = {
    "data": {"resize": 96, "crop": 96, "val_share": 0.0},
    "model": {
        "backbone": "vit_tiny_r_s16_p8_224",
        "weights": "none",
        "concept_mode": "paper",  # parts are found in pretrained features
        "freeze": False,
        "backbone_args": {"patch_size": 2, "depth": 4, "embed_dim": 128, "num_heads": 4},
        "adapter_ratio": 0.0,
        "bits": 32,
        "concepts": 4,
        "concept_dim": 64,
        "concept_heads": 4,
        "concept_spread": 1.0,  # or the sub-codes become copies of each other
    },
    "guidance": {"source": "none"},
    "train": {"epochs": 25, "lr": 0.002, "crop_scale": 0.6, "augment": "flip"},
}

_MARKER = "demo.json"


def command(
    out: Annotated[
        Path, switch("--out", "-o", text="Folder; one of an earlier demo is renewed.")
    ] = Path("demo"),
    species: Annotated[
        int, setting("--species", text="Kinds of birds.", env="CHASH_DEMO_SPECIES")
    ] = 12,
    images: Annotated[
        int, setting("--images", text="Pictures of each.", env="CHASH_DEMO_IMAGES")
    ] = 40,
    epochs: Annotated[
        int | None, setting("--epochs", text="Passes over them.", env="CHASH_DEMO_EPOCHS")
    ] = None,
    open_page: Annotated[
        bool, switch("--open", text="Then show the gallery in the browser, until Ctrl-C.")
    ] = False,
    threads: options.Threads = None,
    as_json: options.Json = False,
) -> None:
    """The main job end to end, on drawn birds."""
    output = Output(as_json=as_json)
    started = time.monotonic()
    _check(out, species, images, epochs, threads)
    with output.only_results():
        with needs("export"):
            torch = import_module("torch")
            import_module("concepthash.export.bundle")  # missed now, not after the training
        if threads is not None:
            torch.set_num_threads(threads)
        _claim(out)
        data = _draw(out, species, images, output)
        trained = _train(out, epochs, output)
        exported = _export(out, output)
        report, answers = _search(out, data, threads, output)
    output.note(f"took {time.monotonic() - started:.0f} s")
    _tell(out, trained, exported, report, answers, output)
    if open_page:
        from concepthash.cli.demo_open import show

        sys.stdout.flush()  # whoever reads the result need not wait for the end of the page
        show(out / "birds.chg", threads=threads, output=output)
    else:
        gallery = display(out / "birds.chg")
        output.hint(f"chash serve {gallery} --open (chash demo --open does so by itself)")


def _check(out: Path, species: int, images: int, epochs: int | None, threads: int | None) -> None:
    """Refuse what cannot work before torch is loaded.

    Raises:
        UsageError: for a number that cannot work, or a folder with anything but an earlier demo.
    """
    from concepthash.demo.species import species as list_species

    if species < 2:
        what = f"{species} species cannot be told apart"
        raise UsageError(what, where="--species", hint="--species 12")
    try:
        list_species(species, 0)
    except UsageError as error:
        raise UsageError(error.what, where="--species", hint="--species 12") from None
    if images < 2:
        what = f"{images} pictures of a species do not make a train and a test split"
        raise UsageError(what, where="--images", hint="--images 40")
    if epochs is not None and epochs < 1:
        raise UsageError(f"{epochs} epochs cannot be run", where="--epochs", hint="--epochs 25")
    check_threads(threads)
    _refuse(out)


def _refuse(out: Path) -> None:
    marker = out / _MARKER
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        try:
            ours = json.loads(marker.read_text(encoding="utf-8"))["schema"] == SCHEMA
        except (OSError, ValueError, KeyError, TypeError):
            ours = False
        if not ours:
            raise UsageError(
                "the folder is not empty and not that of a demo",
                where=out,
                hint="chash demo --out NEW_FOLDER",
            )


def _claim(out: Path) -> None:
    """Make ``out``, which is new or an earlier demo's, a fresh demo folder."""
    for name in ("run", "birds.chb", "birds.chg"):
        if (out / name).exists():
            shutil.rmtree(out / name)
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARKER).write_text(json.dumps({"schema": SCHEMA}) + "\n", encoding="utf-8")


def _draw(out: Path, species: int, images: int, output: Output) -> DemoSummary:
    from concepthash.demo import write_dataset

    output.note(f"1/5 draw: {species} species, {images} pictures each")
    summary = write_dataset(out / "data", species=species, images=images, queries=QUERIES)
    output.note(f"data: {summary}")
    return summary


def _train(out: Path, epochs: int | None, output: Output) -> TrainResult:
    from concepthash.learn.config import Config
    from concepthash.learn.train import train

    config = Config().updated(DEMO_CONFIG, where="demo")
    changes: dict[str, dict[str, Any]] = {"data": {"root": str(out / "data")}}
    if epochs is not None:
        changes["train"] = {"epochs": epochs}
    output.note("2/5 train")
    return train(
        config.updated(changes, where="--epochs"), out / "run", offline=True, reporter=output
    )


def _export(out: Path, output: Output) -> ExportResult:
    from concepthash.export.bundle import export_bundle

    output.note("3/5 export")
    return export_bundle(out / "run", out / "birds.chb", reporter=output)


def _search(
    out: Path, data: DemoSummary, threads: int | None, output: Output
) -> tuple[IndexReport, Answers]:
    from concepthash.cli.answers import answer
    from concepthash.cli.asked import Asked
    from concepthash.runtime.gallery import Gallery
    from concepthash.runtime.hasher import Hasher
    from concepthash.runtime.indexing import index_images

    output.note("4/5 index")
    hasher = Hasher(out / "birds.chb", threads=threads)
    total = data.train + data.test
    report = index_images(
        [data.folder / "train", data.folder / "test"],
        out / "birds.chg",
        hasher,
        progress=lambda report: output.progress("indexing", report.seen, total),
    )
    output.note(f"5/5 query: {len(data.queries)} pictures the model has never seen")
    with Gallery.open(out / "birds.chg") as gallery:
        answers = answer(gallery, hasher, data.queries, Asked(5), progress=lambda done: None)
    return report, answers


def _tell(
    out: Path,
    trained: TrainResult,
    exported: ExportResult,
    report: IndexReport,
    answers: Answers,
    output: Output,
) -> None:
    places = {
        "data": out / "data",
        "run": out / "run",
        "bundle": out / "birds.chb",
        "gallery": out / "birds.chg",
        "queries": out / "data" / "queries",
    }
    unicode = output.encoding.lower().startswith("utf")
    lines = [str(trained.evaluation), "", str(exported), "", f"index: {report}", ""]
    lines += [*answers.lines("table", unicode=unicode), ""]
    lines += [f"{name:<8} {path}" for name, path in places.items()]
    output.note(
        "this model learned from random numbers, so its concepts follow no parts: "
        "chash train with a pretrained --backbone finds those"
    )

    def data() -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "evaluation": trained.evaluation.to_json() if trained.evaluation else None,
            "export": exported.to_json(),
            "index": report.to_json(),
            "query": answers.to_json(),
            "places": {name: str(path) for name, path in places.items()},
        }

    output.result("\n".join(lines), data)
    first = answers.queries[0].path
    output.hint(f"chash query {display(first)} --gallery {display(places['gallery'])}")
