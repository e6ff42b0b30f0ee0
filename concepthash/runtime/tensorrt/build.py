"""``build_engine``: from an ONNX graph to a TensorRT or TensorRT-RTX engine and its record.

The network is always strongly typed: precision is what the graph says, and TF32, which would
round fp32 products to 10 bits of fraction and is on by default, is turned off.

Engines of TensorRT-RTX were built and tested without a GPU. With TensorRT: Not run on hardware.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from concepthash.encoder import INPUT
from concepthash.errors import BackendError, BundleError, UsageError
from concepthash.files import list_command, reason, write_bytes
from concepthash.formats import Precision
from concepthash.runtime.tensorrt.cuda import Cuda, Gpu
from concepthash.runtime.tensorrt.library import check_ports, is_rtx, logger_of
from concepthash.runtime.tensorrt.monitor import Progress, monitor_of
from concepthash.runtime.tensorrt.provenance import PORTABLE, Provenance, host, sidecar

ERRORS_SHOWN = 10


@dataclass(frozen=True)
class BuildOptions:
    """How to build an engine.

    Args:
        usual: the batch it is made fastest for, images.
        most: the largest batch it takes; larger ones are cut. The smallest is always 1.
        workspace: GPU memory that a layer may use for itself, bytes.
        capabilities: compute capabilities such as ``8.6`` that a TensorRT-RTX engine is for; empty
            for 8.0 and every later one.
        timing_cache: file that keeps TensorRT's measurements of kernels for the next build.

    Raises:
        UsageError: for a batch or memory that cannot be.
    """

    usual: int = 8
    most: int = 32
    workspace: int = 1 << 30
    capabilities: tuple[str, ...] = ()
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.usual <= self.most:
            raise UsageError(
                f"batches of 1, usually {self.usual}, at most {self.most} cannot be",
                where="batch sizes of the engine",
                hint="1 <= usual <= most, such as 8 and 32",
            )
        if self.workspace < 1:
            raise UsageError(
                f"{self.workspace} bytes of memory to build with cannot be",
                where="workspace",
                hint=f"{1 << 30} is the default",
            )

    @property
    def profile(self) -> tuple[int, int, int]:
        """Smallest, usual and largest batch."""
        return 1, self.usual, self.most


Note = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Built:
    """An engine and the record that goes beside it."""

    engine: bytes
    provenance: Provenance

    def files(self, name: str) -> dict[str, bytes]:
        """Engine and record under their names in a bundle; ``name`` is the engine's."""
        return {name: self.engine, sidecar(name): self.provenance.to_bytes()}


def build_engine(
    trt: Any,
    graph: Path,
    *,
    precision: Precision,
    cuda: Cuda | None,
    options: BuildOptions | None = None,
    note: Note | None = None,
    progress: Progress | None = None,
) -> Built:
    """An engine of a graph of this project, ready to be stored.

    Args:
        trt: the module, from :func:`concepthash.runtime.tensorrt.library.import_library`.
        graph: the ONNX file.
        precision: of the graph, for the record.
        cuda: the GPU that will run it; None for TensorRT-RTX, which needs none.
        options: batches, memory, compute capabilities, timing cache.
        note: told, before it starts, that it takes a while.
        progress: told each step; what it raises stops the build and comes out of this function.

    Raises:
        UsageError: for compute capabilities that cannot be.
        BackendError: if there is no GPU, or the library cannot build the graph.
        BundleError: if the file is not a graph of this project, or the library cannot read it.
    """
    chosen, tell = options or BuildOptions(), note or _silent
    targets = _capabilities(trt, chosen.capabilities)
    if cuda is None and not is_rtx(trt):
        raise BackendError(
            "a TensorRT engine is built on the GPU that will run it, and none was given",
            where=graph,
            hint="copy the bundle to the machine with the GPU and run there: chash bench BUNDLE; "
            "or --format trt-rtx, which builds anywhere",
        )
    try:
        content = graph.read_bytes()
    except OSError as error:
        raise BundleError(
            f"cannot read the graph: {reason(error)}", where=graph, hint=list_command(graph)
        ) from None
    gpu = None if is_rtx(trt) or cuda is None else cuda.gpu()
    log = logger_of(trt)
    log.clear()
    builder = _create_builder(trt, log)
    network, parser = _parse(trt, builder, content, log, graph)
    config = _configure(trt, builder, network, chosen, targets)
    # TensorRT-RTX has no use for a timing cache: it would make the build ask for a GPU.
    cache = None if is_rtx(trt) else chosen.timing_cache
    if cache is not None:
        _load_timings(config, cache, tell)
    monitor = monitor_of(trt, progress)
    config.progress_monitor = monitor
    where, long = (f" for {gpu}", "minutes") if gpu else ("", "up to a minute")
    tell(f"building a {trt.__name__} engine of {graph.name}{where}: this takes {long}")
    memory = _serialize(builder, network, config, monitor, cuda)
    if memory is None:
        raise BackendError(
            f"the engine cannot be built: {log.last('the library gives no reason')}",
            where=graph,
            hint="other compute capabilities, a smaller largest batch, or --format onnx",
        )
    engine = bytes(memory)
    del parser  # it must outlive the build: the network reads the weights it holds
    if cache is not None:
        _save_timings(config, cache, tell)
    made = Provenance(
        module=trt.__name__,
        version=trt.__version__,
        gpu=gpu.name if gpu else None,
        capabilities=(gpu.capability,) if gpu else tuple(targets) or (PORTABLE,),
        precision=precision,
        graph=graph.name,
        graph_sha256=hashlib.sha256(content).hexdigest(),
        profile=chosen.profile,
        flags={"strongly_typed": True, "tf32": False, "workspace_bytes": chosen.workspace},
        engine_sha256=hashlib.sha256(engine).hexdigest(),
        host=host(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return Built(engine, made)


def timing_cache_file(trt: Any, gpu: Gpu) -> Path:
    """Where the measurements of one version on one kind of GPU are kept, in the user's cache."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    kind = "-".join(gpu.name.split()).replace("/", "-")
    return home / "concepthash" / f"{trt.__name__}-{trt.__version__}-{kind}.timings"


def _create_builder(trt: Any, log: Any) -> Any:
    try:
        return trt.Builder(log)
    except (TypeError, RuntimeError) as error:  # TypeError: pybind11 was handed no object
        raise BackendError(
            f"{trt.__name__} {trt.__version__} does not start: {log.last(str(error))}",
            where=trt.__name__,
            hint="nvidia-smi shows the GPU and its driver; a newer TensorRT may want a newer one",
        ) from None


def _parse(trt: Any, builder: Any, content: bytes, log: Any, graph: Path) -> tuple[Any, Any]:
    """The network, and the parser that holds its weights."""
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(content):
        errors = [parser.get_error(position) for position in range(parser.num_errors)]
        shown = "; ".join(_named(error) for error in errors[:ERRORS_SHOWN])
        more = f"; and {len(errors) - ERRORS_SHOWN} more" if len(errors) > ERRORS_SHOWN else ""
        raise BundleError(
            f"{trt.__name__} {trt.__version__} cannot read the graph: "
            f"{shown or log.last('it gives no reason')}{more}",
            where=graph,
            hint=f"pip install --upgrade 'concepthash[{'trt-rtx' if is_rtx(trt) else 'trt'}]', "
            "or export again: chash export RUN --force",
        )
    # Bytes that are no ONNX at all are parsed without an error, to a network without ports.
    inputs = [network.get_input(position) for position in range(network.num_inputs)]
    outputs = [network.get_output(position) for position in range(network.num_outputs)]
    check_ports(
        trt,
        {port.name: port.dtype for port in inputs},
        {port.name: port.dtype for port in outputs},
        graph,
    )
    return network, parser


def _named(error: Any) -> str:
    node = f"{error.node_operator()} {error.node_name()}".strip()
    return f"{error.desc()} (node {error.node()}, {node})"


def _configure(
    trt: Any, builder: Any, network: Any, options: BuildOptions, targets: dict[str, Any]
) -> Any:
    config = builder.create_builder_config()
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    tail = tuple(network.get_input(0).shape)[1:]
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT, *[(count, *tail) for count in options.profile])
    config.add_optimization_profile(profile)
    if targets:
        config.num_compute_capabilities = len(targets)
    for position, target in enumerate(targets.values()):
        config.set_compute_capability(target, position)
    return config


def _capabilities(trt: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """``8.6`` to ``ComputeCapability.SM86``, each once."""
    if not names:
        return {}
    if not is_rtx(trt):
        raise UsageError(
            "TensorRT builds for the GPU it runs on; compute capabilities are for TensorRT-RTX",
            where=", ".join(names),
            hint="--format trt-rtx",
        )
    members = trt.ComputeCapability.__members__
    known = {f"{n[2:-1]}.{n[-1]}": kind for n, kind in members.items() if n.startswith("SM")}
    for name in names:
        if name not in known:
            raise UsageError(
                f"{trt.__name__} {trt.__version__} does not build for compute capability {name!r}",
                where="compute capabilities",
                hint=f"one or more of {', '.join(known)}",
            )
    return {name: known[name] for name in names}


def _load_timings(config: Any, file: Path, tell: Note) -> None:
    """Hand over the timing cache; one that is of no use is as good as none."""
    try:
        kept = file.read_bytes() if file.is_file() else b""
        cache = config.create_timing_cache(kept)
        if cache is not None and config.set_timing_cache(cache, False):
            return
        problem = "it is of another version or GPU"
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        problem = reason(error)
    tell(f"the timing cache {file} is not used: {problem}")
    config.set_timing_cache(config.create_timing_cache(b""), False)


def _save_timings(config: Any, file: Path, tell: Note) -> None:
    cache = config.get_timing_cache()
    if cache is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, bytes(cache.serialize()))
    except OSError as error:
        tell(f"the timing cache {file} is not kept: {reason(error)}")


def _serialize(builder: Any, network: Any, config: Any, monitor: Any, cuda: Cuda | None) -> Any:
    """The engine's memory, or None if it cannot be built.

    In a thread, because Python delivers Ctrl-C to the main one: there it would land in the
    library's next call of the logger, which swallows it, and the build would go on.
    """

    def build() -> Any:
        if cuda is not None:
            cuda.activate()  # the GPU is a thread's own choice
        return builder.build_serialized_network(network, config)

    with ThreadPoolExecutor(1, thread_name_prefix="build-engine") as pool:
        try:
            memory = pool.submit(build).result()
        except BaseException as error:
            monitor.error = error
            raise
    if monitor.error is not None:
        raise monitor.error
    return memory


def _silent(text: str) -> None:
    """For callers who want no notes."""
