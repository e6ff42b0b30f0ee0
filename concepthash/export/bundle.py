"""``export_bundle``: from a training run to a bundle that has proved to be the same model.

A bundle can be exported again, to have more artefacts: an engine on the machine that will run it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from concepthash.bundle import (
    FIRST_ARTIFACT,
    MANIFEST,
    MODEL,
    PARITY,
    SUFFIX,
    Artifact,
    Bundle,
    check_target,
    extend_bundle,
    write_bundle,
)
from concepthash.encoder import Encoder
from concepthash.errors import BackendError, BundleError, Skipped, UsageError
from concepthash.export.engines import check_ready, make_engine
from concepthash.export.parity import (
    SCHEMA,
    Checked,
    Reference,
    check,
    check_outputs,
    faults,
    gate,
)
from concepthash.export.photos import PhotoSource
from concepthash.export.source import Source, open_bundle
from concepthash.files import list_command, reason, scratch_folder, told_where
from concepthash.formats import FORMATS, check_format, check_precision
from concepthash.images import Pixels
from concepthash.learn.report import Reporter, Silent
from concepthash.limits import LIMITS
from concepthash.names import default_names
from concepthash.runtime.openvino import open_openvino
from concepthash.runtime.session import open_session

if TYPE_CHECKING:
    from concepthash.export.blame import Blame
    from concepthash.export.graphs import Graphs

SAMPLE = 256
"""Photos on which an artefact is compared with the network."""


@dataclass(frozen=True)
class ExportResult:
    """A bundle of which every artefact passed its gate.

    Args:
        bundle: its folder.
        checked: what was made now, and how each compares with the network.
        skipped: photos that could not be read.
    """

    bundle: Path
    checked: tuple[Checked, ...]
    skipped: Skipped

    @property
    def artifacts(self) -> tuple[str, ...]:
        """The model files that were made or checked."""
        return tuple(dict.fromkeys(found.artifact.file for found in self.checked))

    def to_json(self) -> dict[str, Any]:
        """The result as plain values, schema ``chash.export/1``; ``parity`` is the worst one."""
        worst = max(self.checked, key=lambda found: found.parity.bits_flipped)
        return {
            "schema": "chash.export/1",
            "bundle": str(self.bundle),
            "artifacts": list(self.artifacts),
            "parity": worst.parity.to_json(),
            "checked": [found.to_json() for found in self.checked],
        }

    def __str__(self) -> str:
        lines = [str(found) for found in self.checked]
        return "\n".join([*lines, f"{self.bundle}: {', '.join(self.artifacts)}"])


@dataclass(frozen=True)
class Options:
    """How artefacts are made and judged.

    Args:
        sample: photos they are compared on.
        calibrate: a folder of photos to use instead of those of the training.
        calibration: photos that int8 is calibrated on.
        gate: limits laid over the usual ones, such as ``bits=0.5%,map=0.01``.
        keep: layers that int8 leaves in fp32; by default those that spoil much and save little.
        capabilities: compute capabilities of a TensorRT-RTX engine, such as ``8.6``.
    """

    sample: int = SAMPLE
    calibrate: Path | None = None
    calibration: int = 512
    gate: str = ""
    keep: int | None = None
    capabilities: tuple[str, ...] = ()


def export_bundle(
    source: Path,
    out: Path | None = None,
    *,
    formats: Sequence[str] = ("onnx",),
    precisions: Sequence[str] = ("fp32",),
    checkpoint: str | None = None,
    force: bool = False,
    options: Options | None = None,
    reporter: Reporter | None = None,
) -> ExportResult:
    """Export a run, or give a bundle more artefacts; each is checked against the network.

    Args:
        source: a run folder of :func:`concepthash.learn.train.train`, or a bundle.
        out: of a run, the bundle to write; by default ``RUN.chb`` beside the run.
        formats, precisions: names in :data:`concepthash.formats.FORMATS`; each of the one in each
            of the other. The fp32 graph of ONNX is always made.
        checkpoint: of a run, best or last; by default best where a validation chose one.
        force: replace an existing bundle; of a bundle, artefacts that are there already.
        options: how artefacts are made and judged.
        reporter: told what goes on.

    Raises:
        CheckpointError, BundleError: if the source cannot be read.
        UsageError: if ``out`` exists and not ``force``, or something asked for does not exist.
        DataError: if the photos are gone.
        BackendError: if a library or a GPU is missing.
        GateError: if an artefact gives other codes; nothing is written.
    """
    tell, chosen = reporter or Silent(), options or Options()
    wanted = _artifacts(formats, precisions)
    for name in formats:
        check_ready(FORMATS[name], precisions)
    for limits in LIMITS.values():
        limits.updated(chosen.gate)
    if (source / MANIFEST).is_file():
        return _extend(source, out, wanted, force, chosen, tell)
    home = source.resolve()
    target = out or (source if source.name else home).with_name(home.name + SUFFIX)
    check_target(target, replace=force)
    _refuse_loss(target, wanted)
    open_run = import_module("concepthash.export.run").open_run  # it loads torch
    run: Source = open_run(source, name=target.name.removesuffix(SUFFIX), checkpoint=checkpoint)
    run = _with_names(run, target, tell)
    tell.note(f"export: {source}, {run.manifest.training['checkpoint']} checkpoint")
    with _inside(target.parent) as folder:
        work = _Work(run, folder, chosen, tell)
        work.make(list(dict.fromkeys([FIRST_ARTIFACT, *wanted])))
        manifest = replace(run.manifest, artifacts=tuple(c.artifact for c in work.checked))
        files = {**work.files, PARITY: _report([], work.checked)}
        bundle = write_bundle(target, manifest, files, replace=force)
    return ExportResult(bundle.path, tuple(work.checked), work.skipped)


def _artifacts(formats: Sequence[str], precisions: Sequence[str]) -> list[Artifact]:
    """Every precision of every format, the most exact first.

    Raises:
        UsageError: for a name that is not known.
    """
    forms = [check_format(name) for name in formats]
    names = {form.name: [check_precision(p, form) for p in precisions] for form in forms}
    return [Artifact(f.name, p, f.files[p]) for f in forms for p in f.files if p in names[f.name]]


def _refuse_loss(target: Path, wanted: Sequence[Artifact]) -> None:
    """Refuse to replace a bundle by one with less in it.

    Raises:
        UsageError: naming what would be gone.
    """
    try:
        there = Bundle.open(target).manifest.artifacts if target.exists() else ()
    except BundleError:
        return  # nothing in it can be used
    lost = [a for a in there if a not in wanted and a != FIRST_ARTIFACT]
    if lost:
        every = [*wanted, *lost]
        formats = ",".join(dict.fromkeys(a.format for a in every))
        precisions = ",".join(dict.fromkeys(a.precision for a in every))
        raise UsageError(
            f"the bundle also has {', '.join(map(str, lost))}, which would be gone",
            where=target,
            hint=f"--format {formats} --precision {precisions} makes them again; "
            f"or move the bundle away: mv {target} {target}.old",
        )


def _extend(
    path: Path,
    out: Path | None,
    wanted: list[Artifact],
    force: bool,
    options: Options,
    tell: Reporter,
) -> ExportResult:
    if out is not None and out.resolve() != path.resolve():
        raise UsageError(
            "a bundle gets its artefacts where it is", where=out, hint=f"cp -r {path} {out}"
        )
    source = open_bundle(path)
    assert source.bundle is not None
    there = source.manifest.artifacts
    todo = [a for a in wanted if a not in there or (force and a != FIRST_ARTIFACT)]
    if not todo:
        again = "the fp32 graph is made from the run: chash export RUN --force"
        raise UsageError(
            f"the bundle has {', '.join(map(str, wanted))} already",
            where=path,
            hint=again if wanted == [FIRST_ARTIFACT] else "--force makes them again",
        )
    with _inside(path) as folder:
        work = _Work(source, folder, options, tell, anew=force)
        work.make(todo)
        entries = {**work.files, PARITY: _report(_recorded(path), work.checked)}
        extend_bundle(source.bundle, entries, [c.artifact for c in work.checked])
    return ExportResult(path, tuple(work.checked), work.skipped)


@contextmanager
def _inside(path: Path) -> Iterator[Path]:
    """A folder in another, so that files can be moved up out of it wherever that one is mounted.

    Raises:
        BundleError: if nothing can be written there.
    """
    with ExitStack() as stack:
        try:
            path.mkdir(parents=True, exist_ok=True)
            folder = stack.enter_context(scratch_folder(path / "export"))
        except OSError as error:
            raise BundleError(
                f"nothing can be written there: {reason(error)}",
                where=path,
                hint=list_command(path),
            ) from None
        stack.enter_context(told_where(path))
        yield folder


class _Work:
    """The making and checking of artefacts, in a folder of its own."""

    def __init__(
        self,
        source: Source,
        folder: Path,
        options: Options,
        tell: Reporter,
        *,
        anew: bool = False,
    ) -> None:
        self.files: dict[str, Path | bytes] = {}
        self.checked: list[Checked] = []
        self.skipped = Skipped()
        self._source, self._folder = source, folder
        self._options, self._tell = options, tell
        self._force = anew
        self._anew: set[str] = set()  # graphs to be made though the bundle has them
        data = source.data() if source.data is not None and options.calibrate is None else None
        self._photos = PhotoSource(
            source.preprocess, self.skipped, tell, data=data, folder=options.calibrate
        )
        if self._photos.drawn:
            tell.note("export: compared on drawn birds; --calibrate FOLDER takes photos of yours")

    def make(self, artifacts: Sequence[Artifact]) -> None:
        """Each artefact in turn; the first that fails its gate stops all."""
        sample = self._photos.sample(self._options.sample)
        self._reference = Reference.of(
            self._source.network,
            sample.pixels,
            sample.labels,
            unseen=self._photos.unseen(),
            drawn=self._photos.birds(),
            layout=self._source.layout,
        )
        if self._force:
            own = [a.file for a in artifacts if not FORMATS[a.format].engine]
            self._anew = {file for file in own if file != MODEL}
        for artifact in artifacts:
            self._tell.note(f"export: {artifact}")
            graph = self._graph(FORMATS[artifact.format].graphs[artifact.precision])
            self.checked.append(self._checked(artifact, graph))

    def _checked(self, artifact: Artifact, graph: Path) -> Checked:
        encoder = self._encoder(artifact, graph)
        ran = encoder is not None
        encoder = encoder or open_session(graph, device="cpu", precision=artifact.precision)
        try:
            if artifact.precision == "fp32":
                check_outputs(encoder, self._reference, where=self._source.path)
            parity = check(encoder, self._reference)
        finally:
            encoder.close()
        limits = LIMITS[artifact.precision].updated(self._options.gate)
        lower = artifact.precision != "fp32"
        kept = tuple(self._graphs.kept(graph.name)) if lower and graph.name in self.files else ()
        worst: tuple[Blame, ...] = ()
        if lower and (kept or faults(parity, limits)):
            with suppress(BackendError, UsageError, BundleError):  # the figures count for more
                worst = tuple(self._graphs.worst(graph.name))
        gate(artifact, parity, limits, where=self._source.path, worst=worst)
        found = Checked(artifact, parity, limits, worst, kept, ran)
        self._tell.note(f"export: {found}")
        return found

    def _encoder(self, artifact: Artifact, graph: Path) -> Encoder | None:
        """What will run the artefact, running it; None if that takes a GPU that is not here."""
        form = FORMATS[artifact.format]
        if form.engine:
            files, encoder = make_engine(
                form,
                artifact.precision,
                graph,
                capabilities=self._options.capabilities,
                tell=self._tell,
            )
            self.files.update(files)
            return encoder
        if artifact.format == "openvino":
            return open_openvino(graph, precision=artifact.precision)
        return open_session(graph, device="cpu", precision=artifact.precision)

    def _graph(self, name: str) -> Path:
        """The graph a bundle calls ``name``: the one it has, or one made now."""
        path = self._folder / name
        bundle = self._source.bundle
        if bundle is not None and name in bundle.manifest.files and name not in self._anew:
            bundle.verify(name)
            return bundle.file(name)
        if path.exists():
            return path
        onnx_tools = _onnx_tools()
        if name == MODEL:
            assert self._source.write_graph is not None
            self._source.write_graph(path)
            self._tell.note(f"export: wrote {name}, {path.stat().st_size / 2**20:.1f} MiB")
        else:
            self._graphs.make(name, path)
        onnx_tools.carry_manifest(path, name, self._source.manifest)
        self.files[name] = path
        return path

    @cached_property
    def _graphs(self) -> Graphs:
        photos, options = self._photos, self._options

        def calibration(count: int) -> Pixels:
            return photos.calibration(count, besides=options.sample)

        graphs: Graphs = _onnx_tools().Graphs(
            self._graph(MODEL),
            photos=None if photos.drawn else calibration,
            sample=self._reference.pixels,
            count=options.calibration,
            keep=options.keep,
            tell=self._tell,
        )
        return graphs


def _onnx_tools() -> Any:
    """:mod:`concepthash.export.graphs`, which loads onnx.

    Raises:
        BackendError: if onnx is not installed.
    """
    try:
        return import_module("concepthash.export.graphs")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("concepthash"):
            raise
        raise BackendError(
            f"making a graph of lower precision needs {error.name}",
            where=error.name,
            hint="pip install 'concepthash[export]', or export it on the machine of the training",
        ) from None


def _report(before: list[dict[str, Any]], checked: Sequence[Checked]) -> bytes:
    """``parity.json``: of each artefact the last comparison."""
    entries = {(e["format"], e["precision"]): e for e in before}
    for found in checked:
        entries[found.artifact.format, found.artifact.precision] = found.to_json()
    report = {"schema": SCHEMA, "artifacts": list(entries.values())}
    return (json.dumps(report, indent=2) + "\n").encode()


def _recorded(path: Path) -> list[dict[str, Any]]:
    """The comparisons a bundle has; one of an earlier version has one, without its name."""
    try:
        report = json.loads((path / PARITY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    if "artifacts" in report:
        return list(report["artifacts"])
    return [{"format": "onnx", "precision": "fp32", "file": MODEL, **report}]


def _with_names(source: Source, target: Path, tell: Reporter) -> Source:
    """With what a person called the concepts of the bundle to be replaced, if it is the same."""
    if not target.exists():
        return source
    try:
        replaced = Bundle.open(target).manifest
    except BundleError:
        return source
    names = replaced.concept_names
    if replaced.fingerprint == source.manifest.fingerprint:
        return replace(source, manifest=replace(source.manifest, concept_names=names))
    pairs = zip(names, default_names(len(names)), strict=True)
    given = [f"--set {m}={quote(own)}" for m, (own, default) in enumerate(pairs) if own != default]
    if given:
        tell.note(
            "export: the bundle replaced was of another model; if its names fit this one too: "
            f"chash concepts name {quote(str(target))} {' '.join(given)}"
        )
    return source
