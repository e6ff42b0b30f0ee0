"""Options that more than one verb has, declared once; every setting has an environment twin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from concepthash.cli.settings import use_verb_table
from concepthash.errors import UsageError
from concepthash.formats import PRECISIONS

BACKEND_NAMES = (
    "onnxruntime",
    "onnxruntime-tensorrt",
    "onnxruntime-openvino",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
)
"""Those of :data:`concepthash.runtime.backends.BACKENDS`, which is not loaded to print help."""


_copies: dict[str, str] = {}
"""The URLs of the copies that this command reads."""


def path(text: str) -> Path:
    """A path as it is named; for the URL of a published gallery, its copy on this machine.

    Raises:
        GalleryError: if the gallery cannot be fetched.
    """
    if "://" not in text:
        return Path(text)
    from concepthash.runtime.remote import fetch, is_url

    try:
        if not is_url(text):
            return Path(text)
        copy = fetch(text)
    except ValueError as error:  # of what takes URLs apart; it may have a password in it
        raise UsageError(
            f"no such URL: {error}", where="GALLERY", hint="https://HOST/NAME.chg"
        ) from None
    _copies[str(copy)] = text
    return copy


def url_of(path: object) -> str | None:
    """The URL that a path is the copy of, with what is secret in it; None if it is none."""
    return _copies.get(str(path))


def named(path: object) -> str:
    """What a user knows a path by: of the copy of a published gallery, its URL."""
    url = url_of(path)
    if url is None:
        return str(path)
    from concepthash.runtime.remote import shown

    return shown(url)


def gallery_argument(text: str, metavar: str = "GALLERY") -> Any:
    """An argument that names a gallery to read, here or behind a URL."""
    return typer.Argument(help=text, metavar=metavar, parser=path)


def setting(
    *names: str,
    text: str,
    env: str | None = None,
    values: Sequence[str] = (),
    parser: Callable[[str], Any] | None = None,
) -> Any:
    """An option that can also be set as ``CHASH_<NAME>``.

    Args:
        names: flags; the first gives the variable its name.
        text: its help.
        env: the variable, where the name alone would have two meanings.
        values: what the shell offers to complete.
        parser: makes the value of what was typed.
    """
    variable = env or "CHASH_" + names[0].lstrip("-").replace("-", "_").upper()
    offer = _offer(values)
    return typer.Option(*names, help=text, envvar=variable, autocompletion=offer, parser=parser)


def switch(*names: str, text: str, values: Sequence[str] = ()) -> Any:
    """An option of one call, without an environment twin; ``values`` as those of a setting."""
    return typer.Option(*names, help=text, autocompletion=_offer(values))


def _offer(values: Sequence[str]) -> Callable[[], list[str]] | None:
    return (lambda: list(values)) if values else None


def check_threads(threads: int | None) -> None:
    """Refuse a number of threads that cannot work.

    Raises:
        UsageError: if it is below 1.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads cannot work", where="--threads", hint="--threads 1")


def check_engine(engine: str, address: str | None) -> None:
    """Refuse an engine that is none, and an address for the one that needs none.

    Raises:
        UsageError: for either.
    """
    if engine not in _ENGINES:
        raise UsageError(
            f"unknown engine {engine!r}", where="--engine", hint="--engine ray, or local"
        )
    if address is not None and engine != "ray":
        raise UsageError(
            "an address is that of a Ray cluster", where="--address", hint="--engine ray"
        )


def check_checkpoint(name: str | None) -> None:
    """Refuse a checkpoint no run has.

    Raises:
        UsageError: if it is neither best nor last.
    """
    if name not in (None, "best", "last"):
        raise UsageError(
            f"unknown checkpoint {name!r}",
            where="--checkpoint",
            hint="--checkpoint best, or last",
        )


def _config(callback: Callable[..., Any] | None = None) -> Any:
    return typer.Option(
        "--config",
        envvar="CHASH_CONFIG",
        metavar="FILE.toml",
        help="Settings; they go before those of chash.toml in this folder.",
        callback=callback,
        is_eager=True,
    )


Json = Annotated[bool, switch("--json", text="Print the result as JSON.")]
Force = Annotated[bool, switch("--force", text="Replace what exists.")]
CopyCodes = Annotated[
    bool, switch("--copy-codes", text="Keep codes in the tables too: faster, and larger.")
]
DryRun = Annotated[bool, switch("--dry-run", text="Say what would be done, and do nothing.")]

RunConfig = Annotated[Path | None, _config()]
VerbConfig = Annotated[Path | None, _config(use_verb_table)]

Model = Annotated[
    Path | None,
    setting(
        "--model",
        "-m",
        text="Bundle, or an ONNX file of one; by default one found here or below runs/.",
    ),
]
Device = Annotated[
    str | None,
    setting("--device", text="auto, cpu, cuda or cuda:N.", values=("auto", "cpu", "cuda")),
]
Backend = Annotated[
    str | None,
    setting(
        "--backend",
        text="auto, onnxruntime, onnxruntime-openvino, onnxruntime-tensorrt, openvino, tensorrt "
        "or tensorrt-rtx.",
        values=("auto", *BACKEND_NAMES),
    ),
]
Precision = Annotated[
    str | None,
    setting(
        "--precision",
        text="fp32, fp16 or int8; by default fp32 if the bundle has it.",
        env="CHASH_MODEL_PRECISION",  # CHASH_PRECISION is that of a training
        values=PRECISIONS,
    ),
]
_ENGINES = ("local", "ray")
Engine = Annotated[
    str,
    setting(
        "--engine",
        text="What does the work: local, this process; or ray, workers of a Ray cluster.",
        values=_ENGINES,
    ),
]
Address = Annotated[
    str | None,
    setting(
        "--address",
        text="The Ray cluster: host:port, or auto for the one this machine is a part of; by "
        "default one of this machine alone, for as long as the command runs.",
    ),
]
Threads = Annotated[int | None, setting("--threads", text="CPU threads; by default all.")]
BatchSize = Annotated[int | None, setting("--batch-size", "--batch", text="Images a step.")]

Layout = Annotated[
    str | None,
    setting(
        "--layout",
        text="auto, folder, csv, cub, nabirds, aircraft or cars.",
        values=("auto", "folder", "csv", "cub", "nabirds", "aircraft", "cars"),
    ),
]
PathColumn = Annotated[str | None, setting("--path-column", text="CSV column of the photo.")]
LabelColumn = Annotated[
    str | None, setting("--label-column", text="Column of the class, in a CSV or Parquet file.")
]
SplitColumn = Annotated[str | None, setting("--split-column", text="CSV column of the split.")]
Level = Annotated[
    str | None,
    setting(
        "--level",
        text="FGVC-Aircraft only: variant, family or manufacturer.",
        values=("variant", "family", "manufacturer"),
    ),
]
TestShare = Annotated[
    float | None,
    setting("--test-share", text="Share held out where the data have no test split."),
]
