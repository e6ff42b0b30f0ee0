"""TensorRT and TensorRT-RTX: engines built from a bundle's graph, what they fit, and running them.

The library is a module that is passed in or imported when it is needed, 10.x, 11.x or
``tensorrt_rtx``; networks are strongly typed, so the graph alone decides the precision.
"""

from concepthash.runtime.tensorrt.build import BuildOptions, Built, build_engine, timing_cache_file
from concepthash.runtime.tensorrt.cuda import Cuda, Gpu, open_cuda
from concepthash.runtime.tensorrt.library import import_library
from concepthash.runtime.tensorrt.load import load_engine
from concepthash.runtime.tensorrt.monitor import Step
from concepthash.runtime.tensorrt.provenance import (
    Provenance,
    Target,
    read_provenance,
    sidecar,
    stale,
)
from concepthash.runtime.tensorrt.run import DeviceCodes, EngineEncoder, open_engine

__all__ = [
    "BuildOptions",
    "Built",
    "Cuda",
    "DeviceCodes",
    "EngineEncoder",
    "Gpu",
    "Provenance",
    "Step",
    "Target",
    "build_engine",
    "import_library",
    "load_engine",
    "open_cuda",
    "open_engine",
    "read_provenance",
    "sidecar",
    "stale",
    "timing_cache_file",
]
