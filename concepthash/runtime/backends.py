"""Which back end runs a bundle, in which precision, on which device."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING

from concepthash.bundle import Artifact, Bundle, extend_bundle
from concepthash.encoder import Encoder
from concepthash.errors import BackendError, ConceptHashError, UsageError
from concepthash.formats import FORMATS, PRECISIONS, Precision, check_precision
from concepthash.onnxmeta import refuse_external
from concepthash.runtime import session
from concepthash.runtime.session import PACKAGES, Session, open_session, parse_device

if TYPE_CHECKING:
    from concepthash.runtime.openvino import OpenVino

Note = Callable[[str], None]


@dataclass(frozen=True)
class Backend:
    """One way to run a bundle.

    Args:
        name: of ``--backend``.
        module: what it is imported from.
        install: the command that installs it.
        formats: of :data:`concepthash.formats.FORMATS`, whose artefacts it runs. Where there are
            several they share a graph, and of each precision it runs that of the first.
        devices: ``cpu``, ``cuda`` or both.
        provider: that of ONNX Runtime; None if it is a library of its own, or left to the device.
    """

    name: str
    module: str
    install: str
    formats: tuple[str, ...]
    devices: tuple[str, ...]
    provider: str | None = None

    @property
    def engine(self) -> bool:
        """Whether it runs what was built for one kind of GPU."""
        return FORMATS[self.formats[0]].engine and self.provider is None

    def artifact(self, bundle: Bundle, precision: Precision) -> Artifact | None:
        """What it would run of a bundle; None if the bundle does not have it."""
        graph = FORMATS[self.formats[0]].graphs.get(precision)
        for artifact in bundle.manifest.artifacts:
            same = FORMATS[artifact.format].graphs[artifact.precision] == graph
            if artifact.format in self.formats and artifact.precision == precision and same:
                return artifact
        return None


BACKENDS: dict[str, Backend] = {
    entry.name: entry
    for entry in (
        Backend(
            "onnxruntime",
            module="onnxruntime",
            install="pip install onnxruntime",
            formats=("onnx",),
            devices=("cpu", "cuda"),
        ),
        Backend(
            "onnxruntime-tensorrt",
            module="onnxruntime",
            install=PACKAGES[session.TENSORRT],
            formats=("trt", "openvino", "onnx"),
            devices=("cuda",),
            provider=session.TENSORRT,
        ),
        Backend(
            "onnxruntime-openvino",
            module="onnxruntime",
            install=PACKAGES[session.OPENVINO],
            formats=("openvino",),
            devices=("cpu",),
            provider=session.OPENVINO,
        ),
        Backend(
            "openvino",
            module="openvino",
            install="pip install 'concepthash[openvino]'",
            formats=("openvino",),
            devices=("cpu",),
        ),
        Backend(
            "tensorrt",
            module="tensorrt",
            install="pip install 'concepthash[trt]'",
            formats=("trt",),
            devices=("cuda",),
        ),
        Backend(
            "tensorrt-rtx",
            module="tensorrt_rtx",
            install="pip install 'concepthash[trt-rtx]'",
            formats=("trt-rtx",),
            devices=("cuda",),
        ),
    )
}

# On CPUs ONNX Runtime comes first: every bundle was compared with the network in it.
_AUTO = ("tensorrt", "tensorrt-rtx", "onnxruntime", "openvino")


def usable_backends() -> list[str]:
    """The names of the table whose libraries are installed here; GPUs are not looked for."""
    providers: list[str] = []
    with suppress(BackendError):
        providers = session.available_providers()
    usable = []
    for entry in BACKENDS.values():
        if entry.module == "onnxruntime":
            there = (entry.provider or session.CPU) in providers
        else:
            there = _installed(entry.module)
        usable += [entry.name] * there
    return usable


def open_encoder(
    bundle: Bundle,
    *,
    backend: str = "auto",
    precision: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    tell: Note | None = None,
) -> Encoder:
    """A bundle's model, ready to run, its file compared with its sha256.

    Args:
        bundle: a folder or a lone ONNX file.
        backend: a name of :data:`BACKENDS`, which runs or is an error; or ``auto``: with CUDA an
            engine of the bundle that fits the GPU, else ONNX Runtime.
        precision: ``fp32``, ``fp16`` or ``int8``; by default fp32 if the bundle has it, so that
            queries and gallery are hashed alike everywhere.
        device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``: CUDA where it works, else the CPU.
        threads: CPU threads; by default every CPU this process may use.
        tell: told before an engine that does not fit is built anew, which takes minutes; only a
            back end that was asked for by name does that.

    Raises:
        UsageError: for a name that is not known, or a device that the back end cannot use.
        BackendError: if the back end or the device is not to be had, or the bundle lacks the file.
        BundleError: if the file cannot be loaded, is damaged or is not a graph of this project.
    """
    kind, _ = parse_device(device)
    if backend == "auto":
        return _open_best(bundle, precision, device, threads)
    if backend not in BACKENDS:
        raise UsageError(
            f"no back end is called {backend!r}",
            where="backend",
            hint=f"--backend auto, or one of {', '.join(BACKENDS)}",
        )
    entry = BACKENDS[backend]
    if kind != "auto" and kind not in entry.devices:
        raise UsageError(
            f"{backend} does not run on {kind}",
            where=f"device {device}",
            hint=f"--device {entry.devices[0]}, or --backend auto",
        )
    artifact = _artifact(bundle, [entry], precision)
    try:
        if entry.engine:
            return _open_engine(bundle, artifact, device, rebuild=True, tell=tell)
        return _open_graph(bundle, entry, artifact, device, threads)
    except BackendError as error:
        others = ", ".join(name for name in usable_backends() if name != backend)
        raise BackendError(
            f"{error.what}; usable here: {others or 'no other back end'}",
            where=error.where,
            hint=error.hint or entry.install,
        ) from None


def _open_best(bundle: Bundle, precision: str | None, device: str, threads: int | None) -> Encoder:
    """The first of the usual back ends that works, and why those before it did not."""
    kind, _ = parse_device(device)
    usual = [BACKENDS[name] for name in _AUTO]
    usual = [entry for entry in usual if kind == "auto" or kind in entry.devices]
    wanted = _artifact(bundle, usual, precision).precision
    reasons: list[str] = []
    failed: BackendError | None = None
    for entry in usual:
        artifact = entry.artifact(bundle, wanted)
        if artifact is None:
            continue
        if entry.engine and kind == "auto" and not _installed(entry.module):
            continue  # most machines have no such GPU: not worth a word
        try:
            if entry.engine:
                return _open_engine(bundle, artifact, device)
            return _open_graph(bundle, entry, artifact, device, threads, reasons)
        except BackendError as error:
            failed = error
            reasons.append(f"not {entry.name}: {error.what}")
    raise failed or BackendError(
        f"nothing here runs this bundle in {wanted}; it has "
        f"{', '.join(map(str, bundle.manifest.artifacts))}",
        where=bundle.path,
        hint=_making(bundle, "onnx", wanted),
    )


def _artifact(bundle: Bundle, entries: Sequence[Backend], precision: str | None) -> Artifact:
    """What to run: the precision that was asked for, else the most exact there is.

    Raises:
        UsageError: if there is no such precision.
        BackendError: if the bundle does not have it.
    """
    form = entries[0].formats[0] if len(entries) == 1 else "onnx"
    choices = PRECISIONS if precision is None else (check_precision(precision, FORMATS[form]),)
    for choice in choices:
        for entry in entries:
            artifact = entry.artifact(bundle, choice)
            if artifact is not None:
                return artifact
    whom = f" for {entries[0].name}" if len(entries) == 1 else ""
    raise BackendError(
        f"the bundle has no {precision or 'artefact'}{whom}; "
        f"it has {', '.join(map(str, bundle.manifest.artifacts)) or 'nothing that can be run'}",
        where=bundle.path,
        hint=_making(bundle, form, choices[0]),
    )


def _making(bundle: Bundle, form: str, precision: Precision) -> str:
    """The command that gives the bundle an artefact."""
    if bundle.alone:
        return "give the bundle it was taken from: --model NAME.chb"
    photos = " --calibrate FOLDER" * (precision == "int8")
    return f"chash export {quote(str(bundle.path))} --format {form} --precision {precision}{photos}"


def _open_graph(
    bundle: Bundle,
    entry: Backend,
    artifact: Artifact,
    device: str,
    threads: int | None,
    reasons: Sequence[str] = (),
) -> Encoder:
    """An ONNX file on a CPU or on CUDA; ``reasons`` go before its own note."""
    graph, precision = FORMATS[artifact.format].graphs[artifact.precision], artifact.precision
    file = bundle.file(graph)

    def load() -> Encoder:
        refuse_external(file)
        encoder: OpenVino | Session
        if entry.name == "openvino":
            from concepthash.runtime.openvino import open_openvino

            encoder = open_openvino(file, threads=threads, precision=precision)
        else:
            encoder = open_session(
                file, provider=entry.provider, device=device, threads=threads, precision=precision
            )
        notes = [*reasons, *([encoder.note] if encoder.note else [])]
        encoder.note = "; ".join(notes) or None
        return encoder

    return _verified(bundle, [graph], load)


def _open_engine(
    bundle: Bundle,
    artifact: Artifact,
    device: str,
    *,
    rebuild: bool = False,
    tell: Note | None = None,
) -> Encoder:
    """An engine; one that does not fit is built anew, and kept in the bundle. Not run on hardware.

    Raises:
        BackendError: if it does not fit and is not to be built.
    """
    from concepthash.runtime.tensorrt import load_engine

    engine, graph = artifact.file, FORMATS[artifact.format].graphs[artifact.precision]

    def load() -> Encoder:
        refuse_external(bundle.file(graph))
        return load_engine(
            bundle.file(engine),
            bundle.file(graph),
            form=artifact.format,
            precision=artifact.precision,
            device=parse_device(device)[1],
            rebuild=rebuild,
            store=lambda files: extend_bundle(bundle, {**files}, [artifact]),
            note=tell,
        )

    return _verified(bundle, [graph], load)  # an engine is compared with its own record


def _verified(bundle: Bundle, names: Sequence[str], load: Callable[[], Encoder]) -> Encoder:
    """Load, and meanwhile compare files with their sha256: both let go of Python.

    A damaged graph would give other codes, not an error.
    """
    if bundle.alone:  # it carries no sha256 of itself
        return load()
    with ThreadPoolExecutor(1, thread_name_prefix="verify") as pool:
        intact = pool.submit(bundle.verify, *names)
        try:
            encoder = load()
        except ConceptHashError:
            intact.result()  # damage is the better reason
            raise
        try:
            intact.result()
        except ConceptHashError:
            encoder.close()
            raise
    return encoder


def _installed(module: str) -> bool:
    if module in sys.modules:
        return sys.modules[module] is not None  # None is how an import is forbidden
    return importlib.util.find_spec(module) is not None
