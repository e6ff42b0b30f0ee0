"""The bundle: an exported model as one folder ``NAME.chb/`` that every command accepts.

::

    NAME.chb/
      manifest.json     what the model is, how to feed it, and the sha256 of every other file
      model.onnx        the graph of design section 4: image -> codes, logits, attention
      model.int8.onnx   the same in other precisions, or for other back ends: concepthash.formats
      parity.json       how each of these was checked against the checkpoint

An ONNX file of a bundle carries the manifest too, so it can be used alone. The fingerprint names
the code space: weights, preprocessing and code layout. Galleries carry it, so codes of different
models are never compared.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from concepthash.codes import CodeLayout
from concepthash.errors import BundleError, UsageError
from concepthash.files import (
    list_command,
    new_folder,
    reason,
    replacing,
    sha256,
    sync,
    sync_folder,
    write_json,
)
from concepthash.formats import FORMATS, Precision
from concepthash.images import Preprocess
from concepthash.names import check_names
from concepthash.onnxmeta import LARGEST_ONNX, read_metadata

FORMAT_VERSION = 1
BIT_ORDER = "numpy.packbits"
SUFFIX = ".chb"
MANIFEST = "manifest.json"
MODEL = FORMATS["onnx"].files["fp32"]
PARITY = "parity.json"
METADATA_KEY = "concepthash.manifest"
"""Under which an ONNX file carries the manifest."""

LARGEST_FILE = 1 << 34
"""Bytes of any file of a bundle."""

_LARGEST_MANIFEST = 1 << 26  # bytes; class names and protocol of a large run take one million
_LONGEST_NAME = 255
_SHA256 = re.compile("[0-9a-f]{64}")


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
class Artifact:
    """One way in which a bundle can be run.

    Args:
        format, precision: of :data:`concepthash.formats.FORMATS`.
        file: of the bundle; formats that read ONNX share theirs.
    """

    format: str
    precision: Precision
    file: str

    def __post_init__(self) -> None:
        form = FORMATS.get(self.format)
        if form is None or form.files.get(self.precision) != self.file:
            raise UsageError(
                f"no artefact of this version: {self.format} {self.precision} in {self.file}",
                where="artifacts",
            )

    def __str__(self) -> str:
        return f"{self.format} {self.precision}"


FIRST_ARTIFACT = Artifact("onnx", "fp32", MODEL)


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
        artifacts: the ways in which it can be run, each of which passed the parity gate.
        files: name of each other file -> its sha256.
        weights: sha256 of the checkpoint, with which the fingerprint is checked; None in bundles
            that were exported before it was kept.

    Raises:
        UsageError: naming a field that cannot be so, or that does not fit the fingerprint.
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
    artifacts: tuple[Artifact, ...] = (FIRST_ARTIFACT,)
    files: dict[str, str] = field(default_factory=dict)
    bit_order: str = BIT_ORDER
    format_version: int = FORMAT_VERSION
    weights: str | None = None

    def __post_init__(self) -> None:
        self._check_kinds()
        if len(self.concept_names) != self.layout.concepts:
            raise UsageError(
                f"{len(self.concept_names)} concept names for {self.concepts} concepts",
                where="concept_names",
            )
        if not all(isinstance(name, str) and name.isprintable() for name in self.concept_names):
            raise UsageError("a concept name is no text on one line", where="concept_names")
        made = self.weights and fingerprint(self.weights, self.preprocess, self.layout)
        if made not in (None, self.fingerprint):  # other pixels would give other codes
            raise UsageError(
                "weights, preprocessing and layout are not those of its fingerprint",
                where="fingerprint",
            )

    def _check_kinds(self) -> None:
        """Refuse what a file may hold and these fields may not."""
        texts = (self.name, self.backbone, *self.class_names, *self.files, *self.files.values())
        digests = (self.fingerprint, *filter(None, [self.weights]))
        for what, true in (
            ("a whole number", all(type(n) is int for n in (self.bits, self.concepts))),
            ("text", all(isinstance(text, str) for text in texts)),
            ("64 hexadecimal digits", all(map(_is_sha256, digests))),
            ("an object", all(isinstance(v, dict) for v in (self.training, self.metrics))),
        ):
            if not true:
                raise UsageError(f"a field is not {what}")
        Preprocess.from_json(self.preprocessing)

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
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**values, "artifacts": [asdict(artifact) for artifact in self.artifacts]}

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
            if "artifacts" in chosen:
                listed = [a for a in chosen["artifacts"] if _known(a)]
                chosen["artifacts"] = tuple(Artifact(**artifact) for artifact in listed)
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


def _is_sha256(text: object) -> bool:
    return isinstance(text, str) and _SHA256.fullmatch(text) is not None


def _known(artifact: dict[str, Any]) -> bool:
    """Whether this version has the format and the precision; later ones may have more."""
    form = FORMATS.get(artifact.get("format", ""))
    return form is not None and artifact.get("precision") in form.files


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk; also a lone ONNX file of one, whose ``path`` is then that file."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Read a bundle's manifest and check that its files are there; contents: :meth:`verify`.

        Args:
            path: the folder, or an ONNX file that was taken out of one.

        Raises:
            BundleError: if it is missing, incomplete or of an unknown format.
        """
        folder = Path(path)
        if folder.is_file():
            return cls._lone(folder)
        file = folder / MANIFEST
        bundle = cls(folder, Manifest.from_json(_manifest(folder), file))
        for name in bundle.manifest.files:
            if Path(name).name != name or len(name) > _LONGEST_NAME:
                raise BundleError(
                    f"the manifest names a file outside the bundle: {name}",
                    where=file,
                    hint="chash export RUN --force makes the bundle anew",
                )
            if not (folder / name).is_file():
                raise BundleError(
                    f"the bundle lacks {name}", where=folder, hint="chash export RUN --force"
                )
        return bundle

    @classmethod
    def _lone(cls, file: Path) -> Bundle:
        """A bundle of one file, from the manifest it carries."""
        text = read_metadata(file).get(METADATA_KEY)
        if text is None:
            raise BundleError(
                "this ONNX file does not carry a manifest, so it is not one of a bundle",
                where=file,
                hint="chash export RUN makes a bundle",
            )
        try:
            manifest = Manifest.from_json(dict(json.loads(text)), file)
        except (ValueError, TypeError, RecursionError) as error:
            raise BundleError(
                f"the manifest in it is damaged: {error}",
                where=file,
                hint="give the bundle it was taken from: --model NAME.chb",
            ) from None
        return cls(file, manifest)

    @property
    def alone(self) -> bool:
        """Whether this is a lone ONNX file."""
        return not self.manifest.files and self.path.is_file()

    def file(self, name: str) -> Path:
        """The path of one of the bundle's files.

        Raises:
            BundleError: if the manifest does not list it.
        """
        if self.alone and name in [artifact.file for artifact in self.manifest.artifacts]:
            return self.path
        if name not in self.manifest.files:
            raise BundleError(
                f"the bundle has no {name}; it has {', '.join(self.manifest.files)}",
                where=self.path,
                hint="chash export RUN --force makes the bundle anew",
            )
        return self.path / name

    def verify(self, *names: str) -> None:
        """Compare files with their sha256: those that are named, else every one.

        Raises:
            BundleError: naming the first file that differs.
        """
        for name in names or self.manifest.files:
            file = self.file(name)
            # Reading what is far larger than it can be would take for ever.
            most = LARGEST_ONNX if file.suffix == ".onnx" else LARGEST_FILE
            if file.stat().st_size > most or sha256(file) != self.manifest.files[name]:
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


def extend_bundle(
    bundle: Bundle, files: dict[str, Path | bytes], artifacts: Sequence[Artifact]
) -> Bundle:
    """The bundle with more files, or newer ones; a crash leaves it as it was before or after.

    Each file is whole before the manifest names it. Of a file that is replaced, as the parity
    record always is, a crash in between leaves the new content and the old digest:
    :meth:`Bundle.verify` tells, and the next call mends it.

    Args:
        bundle: a folder on disk.
        files: names to content or files to move in.
        artifacts: those that the files make possible; the ones there are stay.

    Raises:
        BundleError: if the folder cannot be written to.
    """
    values = _manifest(bundle.path)
    digests = dict(values.get("files", {}))
    try:
        for name, content in files.items():
            target = bundle.path / name
            if isinstance(content, bytes):
                with replacing(target) as file:
                    file.write(content)
            else:
                sync(content)
                content.replace(target)
            digests[name] = sha256(target)
        sync_folder(bundle.path)
        listed = values.get("artifacts", [asdict(a) for a in bundle.manifest.artifacts])
        listed = [*listed, *(new for new in map(asdict, artifacts) if new not in listed)]
        values.update(files=digests, artifacts=listed)  # those of later versions stay
        write_json(bundle.path / MANIFEST, values)
    except OSError as error:
        raise BundleError(
            f"cannot write into the bundle: {reason(error)}",
            where=bundle.path,
            hint=list_command(bundle.path),
        ) from None
    return Bundle.open(bundle.path)


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
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise _no_manifest("it is not a regular file", file)  # a pipe would be waited for
        with file.open("rb") as opened:
            text = opened.read(_LARGEST_MANIFEST + 1)
        if len(text) > _LARGEST_MANIFEST:
            raise _no_manifest(f"it is larger than {_LARGEST_MANIFEST >> 20} MiB", file)
        values = json.loads(text.decode())
    except FileNotFoundError:
        what = "no such bundle" if not folder.exists() else f"not a bundle: no {MANIFEST} in it"
        raise BundleError(what, where=folder, hint="chash export RUN") from None
    except OSError as error:
        raise BundleError(
            f"cannot read the manifest: {reason(error)}", where=file, hint=list_command(file)
        ) from None
    except (ValueError, RecursionError) as error:
        raise _no_manifest(str(error), file) from None
    if not isinstance(values, dict):
        raise _no_manifest("it is not a JSON object", file)
    return values


def _no_manifest(what: str, file: Path) -> BundleError:
    return BundleError(
        f"the manifest is damaged: {what}",
        where=file,
        hint="copy the bundle again, or chash export RUN --force",
    )


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
