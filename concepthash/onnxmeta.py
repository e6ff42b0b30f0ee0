"""The texts an ONNX file carries, and whether it is whole, read without a library.

The edge install has none for it. An ONNX file is a protobuf message ``ModelProto`` whose field 14,
repeated, is a key and a value. Every other field is stepped over, so that the weights are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from concepthash.errors import BundleError
from concepthash.files import list_command, reason

_METADATA_PROPS = 14
_KEY, _VALUE = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LOCATION = b"location"  # the key under which a tensor names its file
_EXTERNAL_DATA = 13
_WITHIN = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""The messages that may hold tensors, and the fields in which they do."""

LARGEST_ONNX = (1 << 31) - 1
"""Bytes of an ONNX file: no message of protobuf is larger."""

_LONGEST = 1 << 26
"""A text longer than this is none of ours."""


def read_metadata(path: Path) -> dict[str, str]:
    """The ``metadata_props`` of an ONNX file.

    Raises:
        BundleError: if it cannot be read, or is no ONNX file.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size > LARGEST_ONNX:
                raise ValueError("too large")
            return dict(_pair(value) for value in _texts(file, _METADATA_PROPS, size))
    except OSError as error:
        raise BundleError(
            f"cannot be read: {reason(error)}", where=path, hint=list_command(path)
        ) from None
    except (ValueError, KeyError):
        raise BundleError(
            "not an ONNX file", where=path, hint="give a bundle (NAME.chb) or its model.onnx"
        ) from None


def _pair(entry: bytes) -> tuple[str, str]:
    fields = {}
    for number in (_KEY, _VALUE):
        found = list(_texts(BytesIO(entry), number, len(entry)))
        fields[number] = found[-1].decode() if found else ""
    return fields[_KEY], fields[_VALUE]


def refuse_external(path: Path) -> None:
    """Make sure that a graph's weights are in its own file, which alone the checksums cover.

    Raises:
        BundleError: if some lie elsewhere, be it beside it; or if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            if path.stat().st_size > LARGEST_ONNX or not _mentions(file, _LOCATION):
                return  # the first is refused by what loads it
            file.seek(0)
            external = _external(file, path.stat().st_size, "model")
    except OSError as error:
        raise BundleError(
            f"cannot be read: {reason(error)}", where=path, hint=list_command(path)
        ) from None
    except (ValueError, RecursionError):
        external = True  # nor is it known what a more patient reader would make of it
    if external:
        raise BundleError(
            "weights of this graph lie in another file, which no checksum covers",
            where=path,
            hint="export again, as one file: chash export RUN --force",
        )


def _mentions(file: BinaryIO, text: bytes) -> bool:
    last = b""
    while part := file.read(1 << 20):
        if text in last + part:
            return True
        last = part[1 - len(text) :]
    return False


def _external(file: BinaryIO, end: int, kind: str) -> bool:
    """Whether a message of this kind, up to ``end``, has weights in another file."""
    for number, after in _fields(file, end):
        if kind == "tensor":
            if number == _EXTERNAL_DATA:
                return True
        elif (inner := _WITHIN[kind].get(number)) and _external(file, after, inner):
            return True
    return False


def _texts(file: BinaryIO, wanted: int, size: int) -> Iterator[bytes]:
    """The values of one field, of the kind that has a length; all else is stepped over."""
    for number, after in _fields(file, size):
        if number == wanted:
            if after - file.tell() > _LONGEST:
                raise ValueError("too long")
            yield file.read(after - file.tell())


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int]]:
    """Number and end of each field that has a length; the file is where its value begins."""
    while file.tell() < end:
        tag = _varint(file)
        kind, number = tag & 7, tag >> 3
        if not number:
            raise ValueError("no field has the number 0")
        if kind == _VARINT:
            _varint(file)
            continue
        length = {_FIXED64: 8, _FIXED32: 4}.get(kind)
        if length is None:
            if kind != _BYTES:
                raise ValueError(f"wire type {kind}")
            length = _varint(file)
        after = file.tell() + length
        if after > end:
            raise ValueError("truncated")
        if kind == _BYTES:
            yield number, after
        file.seek(after)


def _varint(file: BinaryIO) -> int:
    value = shift = 0
    while True:
        byte = file.read(1)
        if not byte or shift > 63:
            raise ValueError("truncated")
        value |= (byte[0] & 127) << shift
        shift += 7
        if byte[0] < 128:
            return value
