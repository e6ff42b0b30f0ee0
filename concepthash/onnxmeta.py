"""The texts an ONNX file carries, read without a library: the edge install has none for it.

An ONNX file is a protobuf message ``ModelProto`` whose field 14, repeated, is a key and a value.
Every other field is stepped over, so that the weights are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from concepthash.errors import BundleError

_METADATA_PROPS = 14
_KEY, _VALUE = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
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
            return dict(_pair(value) for value in _texts(file, _METADATA_PROPS, size))
    except OSError as error:
        raise BundleError(f"cannot be read: {error.strerror}", where=path) from None
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


def _texts(file: BinaryIO, wanted: int, size: int) -> Iterator[bytes]:
    """The values of one field, of the kind that has a length; all else is stepped over."""
    while file.tell() < size:
        tag = _varint(file)
        kind = tag & 7
        if kind == _VARINT:
            _varint(file)
            continue
        length = {_FIXED64: 8, _FIXED32: 4}.get(kind)
        if length is None:
            if kind != _BYTES:
                raise ValueError(f"wire type {kind}")
            length = _varint(file)
        if file.tell() + length > size:
            raise ValueError("truncated")
        if kind == _BYTES and tag >> 3 == wanted:
            if length > _LONGEST:
                raise ValueError("too long")
            yield file.read(length)
        else:
            file.seek(length, 1)


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
