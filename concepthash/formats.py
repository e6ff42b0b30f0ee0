"""What a model can be exported to: the one table behind help, validation, runtime and docs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from concepthash.errors import UsageError

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Format:
    """One export format.

    Args:
        name: of ``--format``.
        files: the model file in the bundle, of each precision there is.
        graphs: the ONNX file that each is, or is built from.
        backends: what can run it, best first; see :mod:`concepthash.runtime.backends`.
        extra: the extra of the package that making it needs, besides ``export``; empty for none.
        where: the machine it is made on.
        text: what it is for, in a few words.
    """

    name: str
    files: dict[Precision, str]
    graphs: dict[Precision, str]
    backends: tuple[str, ...]
    extra: str
    where: str
    text: str

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Those there are, the most exact first."""
        return tuple(self.files)

    @property
    def engine(self) -> bool:
        """Whether it is built for one kind of GPU, by TensorRT."""
        return self.files != self.graphs


_ONNX: dict[Precision, str] = {
    "fp32": "model.onnx",
    "fp16": "model.fp16.onnx",
    "int8": "model.int8.onnx",
}
# Integers as OpenVINO and TensorRT want them: QDQ pairs, symmetric int8 on both sides.
_SYMMETRIC: dict[Precision, str] = {**_ONNX, "int8": "model.int8.qdq.onnx"}


def _engines(kind: str) -> dict[Precision, str]:
    return {precision: f"model.{kind}.{precision}.engine" for precision in PRECISIONS}


FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        Format(
            "onnx",
            files=_ONNX,
            graphs=_ONNX,
            backends=("onnxruntime",),
            extra="",
            where="any machine",
            text="ONNX Runtime, on any CPU or on CUDA",
        ),
        Format(
            "openvino",
            files=_SYMMETRIC,
            graphs=_SYMMETRIC,
            backends=("openvino", "onnxruntime-openvino"),
            extra="openvino",
            where="any machine",
            text="OpenVINO, fastest in int8 on x86 CPUs",
        ),
        Format(
            "trt",
            files=_engines("trt"),
            graphs=_SYMMETRIC,
            backends=("tensorrt",),
            extra="trt",
            where="the GPU that will run it",
            text="a TensorRT engine, for one kind of NVIDIA GPU and one version of TensorRT",
        ),
        Format(
            "trt-rtx",
            files=_engines("rtx"),
            graphs=_SYMMETRIC,
            backends=("tensorrt-rtx",),
            extra="trt-rtx",
            where="any machine",
            text="a TensorRT-RTX engine, finished on the user's GPU when it is first loaded",
        ),
    )
}


def check_format(name: str) -> Format:
    """The format of this name.

    Raises:
        UsageError: if there is none.
    """
    if name not in FORMATS:
        raise UsageError(
            f"unknown format {name!r}", where="--format", hint=f"one of {', '.join(FORMATS)}"
        )
    return FORMATS[name]


def check_precision(name: str, form: Format) -> Precision:
    """The precision of this name, if the format has it.

    Raises:
        UsageError: if not; of dynamic quantisation with the reason.
    """
    if name in ("dynamic", "int8-dynamic", "dynamic-int8"):
        raise UsageError(
            "dynamic int8 is refused: its scales come from the whole batch, so the code of a photo "
            "would depend on the photos beside it (measured: 72 % of codes change)",
            where=f"--precision {name}",
            hint="--precision int8, which is calibrated once",
        )
    for precision in form.precisions:
        if precision == name:
            return precision
    raise UsageError(
        f"{form.name} has no precision {name!r}",
        where="--precision",
        hint=f"one of {', '.join(form.precisions)}",
    )
