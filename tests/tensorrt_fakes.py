"""Fakes of TensorRT, for tests on machines that have neither a GPU nor the library.

An object of the fake TensorRT has the attributes that the real class has in that version, by
NVIDIA's own listing where it is there, and no others. Its engines run on ``fake_cuda.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from fake_cuda import FakeCudart
from tiny_bundle import MAPS, tiny_weights

LISTING = Path(__file__).parents[2] / "shared" / "reference" / "tensorrt_api.json"
VERSIONS = {"10.16": "10.16.1.11", "11.4": "11.4.0.7"}
BITS, CONCEPTS, CROP = 16, 2, 32


def listing(version: str) -> dict[str, list[str]]:
    """Attributes of each class in ``10.16`` or ``11.4``; empty where the file is not there."""
    if not LISTING.is_file():
        return {}
    classes: dict[str, list[str]] = json.loads(LISTING.read_text(encoding="utf-8"))[version]
    return classes


class FakeObject:
    """A fake of a TensorRT object: ``real`` is the class whose attributes it may have."""

    real = ""

    def __init__(self, trt: FakeTensorRT) -> None:
        self._trt = trt

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name != "real":
            object.__getattribute__(self, "_trt").check(type(self).real, name)
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_"):
            self._trt.check(self.real, name)
        object.__setattr__(self, name, value)


class FakeEnum:
    """A fake of an enumeration: its members are whole numbers."""

    def __init__(self, trt: FakeTensorRT, real: str, names: list[str]) -> None:
        self._trt, self._real = trt, real
        self.__members__ = {name: number for number, name in enumerate(names)}

    def __getattr__(self, name: str) -> int:
        if name.startswith("__"):
            raise AttributeError(name)
        self._trt.check(self._real, name)
        if name not in self.__members__:
            raise AttributeError(name)
        return self.__members__[name]


class FakeTensorRT:
    """A fake ``tensorrt`` module of a version, or a fake ``tensorrt_rtx``."""

    def __init__(self, version: str, *, name: str = "tensorrt", gpu: bool = True) -> None:
        self.__name__ = name
        self.__version__ = VERSIONS[version]
        self.gpu = gpu
        self.listing = listing(version)
        self.used: set[tuple[str, str]] = set()
        self.fail: str | None = None  # which step of a build says no
        self.steps = [("Building", None, 2), ("Timing", "Building", 3)]
        self.memory: FakeCudart | None = None
        self.stopped = False
        self.config: Any = None
        self.contexts: list[FakeContext] = []
        self.ILogger, self.IProgressMonitor = FakeLogger, FakeMonitor
        typed = ["STRONGLY_TYPED"] if version == "11.4" else ["EXPLICIT_BATCH", "STRONGLY_TYPED"]
        enums = {
            "NetworkDefinitionCreationFlag": typed,
            "BuilderFlag": ["DEBUG", "TF32"],
            "MemoryPoolType": ["WORKSPACE"],
            "DataType": ["FLOAT", "HALF", "UINT8"],
            "TensorIOMode": ["NONE", "INPUT", "OUTPUT"],
        }
        if name == "tensorrt_rtx":
            enums["ComputeCapability"] = ["NONE", "CURRENT", "SM75", "SM86", "SM120"]
        for real, names in enums.items():
            setattr(self, real, FakeEnum(self, real, names))

    def check(self, real: str, name: str) -> None:
        self.used.add((real, name))
        if self.__name__ == "tensorrt" and name not in self.listing.get(real, [name]):
            raise AttributeError(f"{real} of TensorRT {self.__version__} has no {name}")

    def Builder(self, log: Any) -> FakeBuilder:
        if not self.gpu:
            log.log(1, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return FakeBuilder(self, log)

    def OnnxParser(self, network: FakeNetwork, log: Any) -> FakeParser:
        return FakeParser(self, network)

    def Runtime(self, log: Any) -> FakeRuntime:
        return FakeRuntime(self, log)


class FakeLogger:
    """A fake of the class that loggers are made from."""


class FakeMonitor:
    """A fake of the class that progress monitors are made from."""


class FakeTensor(FakeObject):
    """A fake input or output of a network."""

    real = "ITensor"

    def __init__(self, trt: FakeTensorRT, name: str, shape: tuple[int, ...], dtype: int) -> None:
        super().__init__(trt)
        self.name, self.shape, self.dtype = name, shape, dtype


def ports(trt: Any) -> tuple[list[FakeTensor], list[FakeTensor]]:
    """Inputs and outputs of the contract."""
    uint8, single = trt.DataType.UINT8, trt.DataType.FLOAT
    return [FakeTensor(trt, "image", (-1, CROP, CROP, 3), uint8)], [
        FakeTensor(trt, "codes", (-1, BITS // 8), uint8),
        FakeTensor(trt, "logits", (-1, BITS), single),
        FakeTensor(trt, "attention", (-1, CONCEPTS, MAPS, MAPS), single),
        FakeTensor(trt, "background", (-1, MAPS, MAPS), single),
    ]


class FakeNetwork(FakeObject):
    """A fake network; the parser fills it."""

    real = "INetworkDefinition"

    def __init__(self, trt: FakeTensorRT, flags: int) -> None:
        super().__init__(trt)
        self._flags = flags
        self.num_inputs = self.num_outputs = 0
        self._inputs: list[FakeTensor] = []
        self._outputs: list[FakeTensor] = []

    def _fill(self) -> None:
        self._inputs, self._outputs = ports(self._trt)
        self.num_inputs, self.num_outputs = len(self._inputs), len(self._outputs)

    def get_input(self, position: int) -> FakeTensor:
        return self._inputs[position]

    def get_output(self, position: int) -> FakeTensor:
        return self._outputs[position]


class FakeParser(FakeObject):
    """A fake parser: content ``errors N`` has N errors, ``empty`` is no graph, all else is ours."""

    real = "OnnxParser"

    def __init__(self, trt: FakeTensorRT, network: FakeNetwork) -> None:
        super().__init__(trt)
        self._network = network
        self.num_errors = 0

    def parse(self, content: bytes) -> bool:
        word, _, number = content.decode().partition(" ")
        if word == "errors":
            self.num_errors = int(number)
            return False
        if word != "empty":
            self._network._fill()
        return True

    def get_error(self, position: int) -> FakeParserError:
        return FakeParserError(self._trt, position)


class FakeParserError(FakeObject):
    """A fake parser error."""

    real = "ParserError"

    def __init__(self, trt: FakeTensorRT, position: int) -> None:
        super().__init__(trt)
        self._position = position

    def desc(self) -> str:
        return f"no such operator {self._position}"

    def node(self) -> int:
        return self._position

    def node_operator(self) -> str:
        return "Strange"

    def node_name(self) -> str:
        return f"node_{self._position}"


class FakeMemory(bytes):
    """A fake of memory that TensorRT owns."""


class FakeTimings(FakeObject):
    """A fake timing cache."""

    real = "ITimingCache"

    def __init__(self, trt: FakeTensorRT, content: bytes) -> None:
        super().__init__(trt)
        self._content = content

    def serialize(self) -> FakeMemory:
        return FakeMemory(self._content + b"+timings")


class FakeConfig(FakeObject):
    """A fake configuration; a timing cache beginning with ``old`` is of another version."""

    real = "IBuilderConfig"

    def __init__(self, trt: FakeTensorRT) -> None:
        super().__init__(trt)
        self._flags = {trt.BuilderFlag.TF32}
        self._limits: dict[int, int] = {}
        self._profiles: list[FakeProfile] = []
        self._cache: FakeTimings | None = None
        self._capabilities: dict[int, int] = {}
        self._monitor: Any = None

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "progress_monitor":
            self._monitor = value

    def clear_flag(self, flag: int) -> None:
        self._flags.discard(flag)

    def set_memory_pool_limit(self, pool: int, nbytes: int) -> None:
        self._limits[pool] = nbytes

    def add_optimization_profile(self, profile: FakeProfile) -> int:
        self._profiles.append(profile)
        return 0

    def set_compute_capability(self, capability: int, position: int) -> bool:
        self._capabilities[position] = capability
        return True

    def create_timing_cache(self, content: bytes) -> FakeTimings | None:
        if content.startswith(b"raise"):
            raise RuntimeError("cannot read the timing cache")
        return None if content.startswith(b"none") else FakeTimings(self._trt, content)

    def set_timing_cache(self, cache: FakeTimings, ignore_mismatch: bool) -> bool:
        if cache._content.startswith(b"old") and not ignore_mismatch:
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> FakeTimings | None:
        return self._cache


class FakeProfile(FakeObject):
    """A fake optimisation profile."""

    real = "IOptimizationProfile"

    def set_shape(self, name: str, least: Any, usual: Any, most: Any) -> None:
        self._shapes = {name: (least, usual, most)}


class FakeBuilder(FakeObject):
    """A fake builder: its engine is the profile as JSON."""

    real = "Builder"

    def __init__(self, trt: FakeTensorRT, log: Any) -> None:
        super().__init__(trt)
        self._log = log

    def create_network(self, flags: int) -> FakeNetwork:
        return FakeNetwork(self._trt, flags)

    def create_builder_config(self) -> FakeConfig:
        self._trt.config = FakeConfig(self._trt)
        return self._trt.config

    def create_optimization_profile(self) -> FakeProfile:
        return FakeProfile(self._trt)

    def build_serialized_network(
        self, network: FakeNetwork, config: FakeConfig
    ) -> FakeMemory | None:
        typed = 1 << self._trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        assert network._flags == typed
        monitor = config._monitor
        for phase, parent, steps in self._trt.steps:
            monitor.phase_start(phase, parent, steps)
            for step in range(steps):
                if not monitor.step_complete(phase, step):
                    self._trt.stopped = True
                    return None
        for phase, _, _ in reversed(self._trt.steps):
            monitor.phase_finish(phase)
        if self._trt.fail == "build":
            self._log.log(4, "chatter")
            self._log.log(1, "no kernel for node_of_logits")
            return None
        (shapes,) = config._profiles[0]._shapes.items()
        return FakeMemory(json.dumps(shapes).encode())


class FakeRuntime(FakeObject):
    """A fake runtime: it takes engines of the fake builder."""

    real = "Runtime"

    def __init__(self, trt: FakeTensorRT, log: Any) -> None:
        super().__init__(trt)
        self._log = log

    def deserialize_cuda_engine(self, content: bytes) -> FakeEngine | None:
        try:
            return FakeEngine(self._trt, *json.loads(content))
        except (ValueError, TypeError):
            self._log.log(1, "magic tag does not match")
            return None


class FakeEngine(FakeObject):
    """A fake engine of the tiny graph."""

    real = "ICudaEngine"

    def __init__(self, trt: FakeTensorRT, name: str, shapes: list[list[int]]) -> None:
        super().__init__(trt)
        self._shapes = {name: [tuple(shape) for shape in shapes]}
        self._inputs, self._outputs = ports(trt)
        self._ports = {port.name: port for port in (*self._inputs, *self._outputs)}
        self.num_io_tensors = len(self._ports)

    def get_tensor_name(self, position: int) -> str:
        return list(self._ports)[position]

    def get_tensor_dtype(self, name: str) -> int:
        return self._ports[name].dtype

    def get_tensor_mode(self, name: str) -> int:
        modes = self._trt.TensorIOMode
        return modes.INPUT if name == "image" else modes.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._ports[name].shape

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert profile == 0
        return self._shapes[name]

    def create_execution_context(self) -> FakeContext | None:
        if self._trt.fail == "context":
            return None
        self._trt.contexts.append(FakeContext(self._trt, self))
        return self._trt.contexts[-1]


class FakeContext(FakeObject):
    """A fake context: it computes the tiny graph when its stream is waited for."""

    real = "IExecutionContext"

    def __init__(self, trt: FakeTensorRT, engine: FakeEngine) -> None:
        super().__init__(trt)
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine._shapes[name]
        fits = all(a <= s <= b for a, s, b in zip(least, shape, most, strict=True))
        self._shape = shape if fits else ()
        return fits

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self._shape[0], *self._engine._ports[name].shape[1:])

    def set_tensor_address(self, name: str, address: int) -> bool:
        if self._trt.fail == f"address {name}":
            return False
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        memory = self._trt.memory
        assert memory is not None
        if self._trt.fail == "enqueue" or not self._shape:
            return False
        if set(self._addresses) != set(self._engine._ports):
            memory.mistakes.append("a tensor without an address")
        memory.queue(stream, "compute", lambda shape=self._shape: self._compute(memory, shape))
        return True

    def _compute(self, memory: FakeCudart, shape: tuple[int, ...]) -> None:
        content = memory.read(self._addresses["image"], int(np.prod(shape)), "device")
        pixels = np.frombuffer(content, np.uint8).reshape(shape)
        for name, values in tiny_outputs(pixels).items():
            memory.write(self._addresses[name], np.ascontiguousarray(values).tobytes(), "device")


def tiny_outputs(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """What the fake engine must answer."""
    rows = pixels.reshape(len(pixels), CROP * CROP * 3).astype(np.float32) - 128
    logits = rows @ tiny_weights(BITS, CROP)  # whole numbers, so exact
    mean = pixels.reshape(-1, MAPS, CROP // MAPS, MAPS, CROP // MAPS, 3).mean((2, 4, 5))
    return {
        "codes": np.packbits(logits > 0, axis=1),
        "logits": logits,
        "attention": np.repeat(mean[:, None], CONCEPTS, axis=1).astype(np.float32),
        "background": (255 - mean).astype(np.float32),
    }
