"""The bundle: an exported model as one folder ``NAME.chb/`` that every command accepts.

::

    NAME.chb/
      manifest.json     what the model is, how to feed it, and the sha256 of every other file
      model.onnx        the graph of design section 4: image -> codes, logits, attention
      parity.json       how the export was checked against its checkpoint

The fingerprint names the code space: weights, preprocessing and code layout. Galleries carry it, so
codes of different models are never compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from concepthash.codes import CodeLayout
from concepthash.errors import BundleError, UsageError
from concepthash.files import list_command, new_folder, reason, sha256, write_json
from concepthash.images import Preprocess
from concepthash.names import check_names

FORMAT_VERSION = 1
BIT_ORDER = "numpy.packbits"
SUFFIX = ".chb"
MANIFEST = "manifest.json"
MODEL = "model.onnx"


def fingerprint(weights_sha256: str, preprocess: Preprocess, layout: CodeLayout) -> str:
    """The name of a code space: 64 hexadecimal digits over weights, preprocessing and layout."""
    identity = {
        "weights": weights_sha256,
        "preprocessing": preprocess.to_json(),
        "bits": layout.bits,
        "concepts": layout.concepts,
        "bit_order": BIT_ORDER,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself.

    Args:
        name: the bundle's name, without suffix.
        bits: K.
        concepts: M.
        preprocessing: see :class:`concepthash.images.Preprocess`.
        fingerprint: see :func:`fingerprint`.
        backbone: timm's name of the vision transformer.
        class_names: the training classes, in label order.
        concept_names: one name a concept.
        training: protocol: data set, configuration, guidance, epochs.
        metrics: the evaluation at the end of training.
        files: name of each other file -> its sha256.
    """

    name: str
    bits: int
    concepts: int
    preprocessing: dict[str, Any]
    fingerprint: str
    backbone: str
    class_names: tuple[str, ...]
    concept_names: tuple[str, ...]
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    bit_order: str = BIT_ORDER
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        Preprocess.from_json(self.preprocessing)
        if len(self.concept_names) != self.layout.concepts:
            raise UsageError(
                f"{len(self.concept_names)} concept names for {self.concepts} concepts",
                where="concept_names",
            )
        if not all(isinstance(name, str) and name.isprintable() for name in self.concept_names):
            raise UsageError("a concept name is no text on one line", where="concept_names")

    @property
    def layout(self) -> CodeLayout:
        """How the code's bits are shared."""
        return CodeLayout(self.bits, self.concepts)

    @property
    def preprocess(self) -> Preprocess:
        """How to prepare an image for this model."""
        return Preprocess.from_json(self.preprocessing)

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_json(cls, values: dict[str, Any], where: Path) -> Manifest:
        """Check and rebuild a manifest; fields this version does not know are left out.

        Raises:
            BundleError: naming the file, if it is of a newer format or incomplete.
        """
        version = values.get("format_version")
        if version != FORMAT_VERSION:
            raise BundleError(
                f"bundle format {version!r} is not the one this version reads ({FORMAT_VERSION})",
                where=where,
                hint="pip install --upgrade concepthash, or export the run again: chash export RUN",
            )
        known = {f.name for f in fields(cls)}
        try:
            chosen = {key: value for key, value in values.items() if key in known}
            for key in ("class_names", "concept_names"):
                chosen[key] = tuple(chosen[key])
            manifest = cls(**chosen)
            if manifest.bit_order != BIT_ORDER:
                raise UsageError(f"unknown bit order {manifest.bit_order!r}")
            return manifest
        except (TypeError, KeyError, AttributeError, UsageError) as error:
            what = error.what if isinstance(error, UsageError) else error
            raise BundleError(
                f"not a complete bundle manifest: {what}",
                where=where,
                hint="export the run again: chash export RUN --force",
            ) from None


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Read a bundle's manifest and check that its files are there; contents: :meth:`verify`.

        Raises:
            BundleError: if it is missing, incomplete or of an unknown format.
        """
        folder = Path(path)
        file = folder / MANIFEST
        bundle = cls(folder, Manifest.from_json(_manifest(folder), file))
        for name in bundle.manifest.files:
            if Path(name).name != name:
                raise BundleError(
                    f"the manifest names a file outside the bundle: {name}", where=file
                )
            if not (folder / name).is_file():
                raise BundleError(
                    f"the bundle lacks {name}", where=folder, hint="chash export RUN --force"
                )
        return bundle

    def file(self, name: str) -> Path:
        """The path of one of the bundle's files.

        Raises:
            BundleError: if the manifest does not list it.
        """
        if name not in self.manifest.files:
            raise BundleError(
                f"the bundle has no {name}; it has {', '.join(self.manifest.files)}",
                where=self.path,
            )
        return self.path / name

    def verify(self) -> None:
        """Compare every file with its sha256.

        Raises:
            BundleError: naming the first file that differs.
        """
        for name, expected in self.manifest.files.items():
            if sha256(self.path / name) != expected:
                raise BundleError(
                    "the file is not the one that was exported (sha256 differs)",
                    where=self.path / name,
                    hint="copy the bundle again, or chash export RUN --force",
                )


def write_bundle(
    path: Path, manifest: Manifest, files: dict[str, Path | bytes], *, replace: bool = False
) -> Bundle:
    """Write a bundle whole or not at all; ``files`` maps names to content or files to move in.

    Raises:
        UsageError: if ``path`` exists and is no bundle, or is not to be replaced.
    """
    check_target(path, replace=replace)
    with new_folder(path, replace=replace) as folder:
        digests = {}
        for name, content in files.items():
            target = folder / name
            if isinstance(content, bytes):
                target.write_bytes(content)
            else:
                content.rename(target)
            digests[name] = sha256(target)
        write_json(folder / MANIFEST, {**manifest.to_json(), "files": digests})
    return Bundle.open(path)


def rename_concepts(bundle: Bundle, names: Sequence[str]) -> Bundle:
    """The bundle with other concept names; its files and its fingerprint stay as they are.

    Galleries take the names from their bundle, so they show the new ones. The manifest is replaced
    whole or not at all, and fields in it that this version does not know are kept.

    Args:
        bundle: on disk.
        names: one a concept, as :func:`concepthash.names.check_names` wants them.

    Raises:
        UsageError: if the names are unfit, or not as many as the concepts.
        BundleError: if the manifest cannot be read or written.
    """
    file = bundle.path / MANIFEST
    checked = check_names(names, where=file)
    replace(bundle.manifest, concept_names=checked)  # refuses too few and too many
    values = {**_manifest(bundle.path), "concept_names": list(checked)}
    try:
        write_json(file, values)
    except OSError as error:
        raise BundleError(
            f"cannot write the manifest: {reason(error)}",
            where=file,
            hint=list_command(bundle.path),
        ) from None
    return Bundle.open(bundle.path)


def _manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        what = "no such bundle" if not folder.exists() else f"not a bundle: no {MANIFEST} in it"
        raise BundleError(what, where=folder, hint="chash export RUN") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"cannot read the manifest: {error}", where=file) from None
    if not isinstance(values, dict):
        raise BundleError("the manifest is not a JSON object", where=file)
    return values


def check_target(path: Path, *, replace: bool) -> None:
    """Refuse a place where a bundle must not be written.

    Raises:
        UsageError: if ``path`` is a bundle and not to be replaced, or is anything else.
    """
    if path.exists() and not (path / MANIFEST).is_file():
        raise UsageError(
            "something else is there, and is not replaced", where=path, hint="another --out"
        )
    if path.exists() and not replace:
        raise UsageError("the bundle exists already", where=path, hint="--force replaces it")


def newest(parent: Path, pattern: str) -> Path | None:
    """The most recently changed path below ``parent`` that matches, hidden ones left out."""
    found = [p for p in parent.glob(pattern) if not p.name.startswith(".")]
    return max(found, key=lambda p: p.stat().st_mtime, default=None)
