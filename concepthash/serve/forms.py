"""Forms (``multipart/form-data``): their fields and files, from a body that is whole."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from concepthash.serve.replies import Refused

FIELD_BYTES = 2**13
LONGEST_NAME = 255
_LONGEST_BOUNDARY = 200

# The parser warns of every malformed form; whoever sent it hears of it, and the terminal need not.
logging.getLogger("python_multipart").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Upload:
    """A file that came with a request.

    Args:
        name: what the client calls it, without folders; None if it gives no name.
        content: its bytes.
    """

    name: str | None
    content: bytes


def read_form(
    body: bytes, content_type: bytes, files: Collection[str], *, upload: int, fields: int
) -> tuple[list[tuple[str, str]], dict[str, Upload]]:
    """The fields of a form in their order, and its files by name.

    A part is a file if it has a file name, or if it is the first of ``files``. A file without name
    and content, as browsers send it for an empty choice, is left out.

    Args:
        body: all of it.
        content_type: of the request, with the boundary.
        files: names that files may have.
        upload: bytes of a file at most.
        fields: parts at most.

    Raises:
        Refused: 400 if it is no form, or one that is not wanted; 413 if a file is too large.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not 0 < len(boundary) <= _LONGEST_BOUNDARY:
        raise Refused(400, "the form has no usable boundary", where="Content-Type")
    found = _Parts(body, boundary, fields)
    pairs: list[tuple[str, str]] = []
    uploads: dict[str, Upload] = {}
    first = next(iter(files), None)
    for name, file, content in found.parts:
        if file is None and name != first:
            if len(content) > FIELD_BYTES:
                raise Refused(400, "a field is too long", where=name)
            pairs.append((name, _text(content, name)))
        elif file or content:
            if name not in files or name in uploads:
                what = "was given twice" if name in uploads else "is no file of this request"
                hint = f"files may be called {' or '.join(files)}" if files else None
                raise Refused(400, f"{name!r} {what}", where=name, hint=hint)
            if len(content) > upload:
                raise Refused(413, f"a file is larger than {upload} bytes", where=name)
            uploads[name] = Upload(_base_name(file), content)
    return pairs, uploads


class _Parts:
    """Gathers the parts of a form: name, file name and content of each."""

    def __init__(self, body: bytes, boundary: bytes, limit: int) -> None:
        self.parts: list[tuple[str, str | None, bytes]] = []
        self._limit = limit
        self._header = self._value = b""
        self._disposition = b""
        self._content = bytearray()
        self._ended = False
        calls: Any = {
            "on_part_begin": self._begin,
            "on_header_begin": self._begin_header,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._end_header,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }
        parser = MultipartParser(boundary, calls)
        try:
            parser.write(body)
        except FormParserError:
            raise Refused(400, "the form is malformed", where="body") from None
        if not self._ended:
            raise Refused(400, "the form ends too early", where="body")

    def _begin(self) -> None:
        if len(self.parts) == self._limit:
            raise Refused(400, f"the form has more than {self._limit} parts", where="body")
        self._disposition = b""
        self._content = bytearray()

    def _begin_header(self) -> None:
        self._header = self._value = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._content += memoryview(data)[start:end]

    def _end(self) -> None:
        values = parse_options_header(self._disposition)[1]
        if b"name" not in values:
            raise Refused(400, "a part of the form has no name", where="body")
        file = values.get(b"filename")
        shown = None if file is None else file.decode(errors="replace")
        name = values[b"name"].decode(errors="replace")
        self.parts.append((name, shown, bytes(self._content)))

    def _finish(self) -> None:
        self._ended = True


def _text(content: bytes, name: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise Refused(400, "a field is not UTF-8", where=name) from None


def _base_name(file: str | None) -> str | None:
    if not file:
        return None
    return file.replace("\\", "/").rpartition("/")[2][-LONGEST_NAME:] or None
