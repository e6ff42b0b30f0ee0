"""``chash``: its verbs, each in the module of its name, and what it says of itself."""

from __future__ import annotations

from typing import Annotated, ClassVar

import typer

import concepthash
from concepthash.cli.group import VerbGroup, with_examples

VERBS = {
    "train": "Train a model on labelled photos and evaluate it.",
    "eval": "Measure retrieval: mAP, per class and per concept.",
    "export": "Export a run as a bundle, checked in bits and ranks.",
    "bench": "Measure a bundle here: speed, memory, size, exactness.",
    "index": "Bring a gallery up to date with folders of photos.",
    "query": "Find the images that look like these, and say in what.",
    "serve": "Answer queries over HTTP, and show a page.",
    "explain": "Show why a photo has its code; measure what concepts are.",
    "concepts": "Show the concepts of a bundle, and name them.",
    "atlas": "Show what each concept sorts a gallery into, as one page.",
    "dedupe": "List groups of images that look alike; deletes nothing.",
    "knn-graph": "Write the nearest others of every image.",
    "inspect": "Say what a run, bundle, gallery, index file or code file is.",
    "doctor": "Say what works here and what to install next.",
    "demo": "The main job end to end, on drawn birds.",
    "completion": "Print what lets bash, zsh or fish complete chash.",
}
PARTS = {
    "index": {
        "verify": "Compare every byte of a gallery with its checksum.",
        "repair": "Make a damaged gallery whole, with what can be saved.",
        "remove": "Take images out of a gallery.",
        "compact": "Give back the room of removed images.",
        "accelerate": "Build tables for fast search, or extend them.",
        "merge": "Make one gallery of several.",
        "split": "Share a gallery among shards.",
        "import": "Make an index file of other programs' codes.",
        "export": "Write the codes of a gallery as a file, or for a database.",
        "push": "Publish a gallery behind a URL.",
    },
    "concepts": {
        "show": "The same as without a part.",
        "name": "Name concepts by hand, or from annotated parts or CLIP.",
    },
}
EXAMPLES = (
    "chash demo                          the whole road on drawn birds",
    "chash train photos/                 a folder of class folders",
    "chash export                        the newest run, as a bundle",
    "chash index ./gallery               the newest bundle, incremental",
    "chash query img.jpg --top 10        the newest gallery here",
)
CODES = (
    "Exit codes: 0 done, 1 failure, 2 usage, 3 done but some inputs were skipped, 4 nothing found, "
    "5 model and gallery do not match, 6 back end missing, 7 accuracy or parity gate failed, "
    "130 interrupted."
)


class Chash(VerbGroup):
    """The group of these verbs."""

    verbs: ClassVar = VERBS
    parts: ClassVar = PARTS


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"chash {concepthash.__version__}")
        raise typer.Exit


# Without Typer's completion options: they load pydantic, a tenth of a second of every start.
app = typer.Typer(
    cls=Chash,
    help=with_examples(concepthash.__doc__ or "", EXAMPLES),
    epilog=CODES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Options of ``chash`` itself."""
