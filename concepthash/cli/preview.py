"""Pictures in a terminal: as one of three protocols has them, or as blocks of colour or shade."""

from __future__ import annotations

import base64
import io
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, TextIO, cast, get_args

from concepthash.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

Way = Literal["kitty", "iterm", "sixel", "truecolour", "256", "shades", "none"]
WAYS: tuple[str, ...] = ("auto", *get_args(Way))

_CHUNK = 4096
"""Characters of base64 that kitty takes in one sequence."""

_ANSWER_SECONDS = 0.3
_COLOURS = 256
_SHADES, _PLAIN_SHADES = " ░▒▓█", " .:-=+*#%@"
_CUBE = (0, 95, 135, 175, 215, 255)
_MULTIPLEXERS = ("screen", "tmux")


def check_way(name: str) -> None:
    """Refuse a way of showing pictures that there is not.

    Raises:
        UsageError: naming those there are.
    """
    if name not in WAYS:
        raise UsageError(
            f"unknown preview {name!r}", where="--preview", hint=f"--preview {', '.join(WAYS)}"
        )


def choose_way(asked: str, stdout: TextIO, environment: Mapping[str, str] = os.environ) -> Way:
    """How to show pictures on stdout: as asked, or for "auto" what this terminal can do.

    Only a terminal gets pictures unasked. One that sets no sign of its own is asked for sixel.
    """
    if asked != "auto":
        return cast("Way", asked)
    kind = environment.get("TERM", "")
    if not stdout.isatty() or kind == "dumb":
        return "none"
    if environment.get("NO_COLOR"):
        return "shades"
    program = environment.get("LC_TERMINAL") or environment.get("TERM_PROGRAM", "")
    # Within a multiplexer these sequences would not reach the terminal they are meant for.
    if "TMUX" not in environment and not kind.startswith(_MULTIPLEXERS):
        if "KITTY_WINDOW_ID" in environment or kind in ("xterm-kitty", "xterm-ghostty"):
            return "kitty"
        if program in ("iTerm.app", "iTerm2", "WezTerm"):
            return "iterm"
    if _has_sixel(stdout):
        return "sixel"
    if environment.get("COLORTERM") in ("truecolor", "24bit"):
        return "truecolour"
    return "256" if "256color" in kind else "shades"


def show(image: Image.Image, way: Way, *, columns: int | None = None, unicode: bool) -> str:
    """A picture as text for a terminal, without the last line's end; "" for "none".

    Args:
        image: RGB.
        way: how.
        columns: width at most; by default the terminal's.
        unicode: whether it can show more than ASCII.
    """
    columns = columns or shutil.get_terminal_size().columns
    if way == "kitty":
        return "".join(kitty(image, min(columns, -(-image.width // 8))))
    if way == "iterm":
        return iterm(image, min(columns, -(-image.width // 8)))
    if way == "sixel":
        widest = 8 * columns  # a cell is hardly ever narrower
        if image.width > widest:
            image = image.resize((widest, max(1, image.height * widest // image.width)))
        return sixel(image)
    if way == "none":
        return ""
    return "\n".join(blocks(image, columns, way, unicode=unicode))


def kitty(image: Image.Image, columns: int) -> Iterator[str]:
    """The sequences of kitty's graphics protocol: PNG in pieces, shown at once, never answered."""
    data = base64.b64encode(_png(image)).decode()
    pieces = [data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK)]
    for number, piece in enumerate(pieces):
        first = f"a=T,f=100,c={columns}," if number == 0 else ""
        yield f"\x1b_G{first}q=2,m={int(number < len(pieces) - 1)};{piece}\x1b\\"


def iterm(image: Image.Image, columns: int) -> str:
    """The sequence of iTerm2's inline images, which WezTerm and others know too."""
    data = _png(image)
    head = f"inline=1;size={len(data)};width={columns};preserveAspectRatio=1"
    return f"\x1b]1337;File={head}:{base64.b64encode(data).decode()}\x07"


def sixel(image: Image.Image) -> str:
    """The picture as sixel: 256 colours, bands of six rows, equal columns counted."""
    import numpy as np

    reduced = image.convert("RGB").quantize(_COLOURS)
    palette = np.array(reduced.getpalette() or [], np.int64).reshape(-1, 3)
    pixels = np.asarray(reduced)
    parts = [f'\x1bPq"1;1;{image.width};{image.height}']
    for number in np.unique(pixels).tolist():
        red, green, blue = (round(value / 2.55) for value in palette[number].tolist())
        parts.append(f"#{number};2;{red};{green};{blue}")
    for top in range(0, image.height, 6):
        band = pixels[top : top + 6]
        weights = 1 << np.arange(len(band))[:, None]
        lines = []
        for number in np.unique(band).tolist():
            columns = ((band == number) * weights).sum(axis=0)
            lines.append(f"#{number}{''.join(_counted(columns.tolist()))}")
        parts.append("$".join(lines) + "-")
    return "".join(parts) + "\x1b\\"


def blocks(image: Image.Image, columns: int, way: Way, *, unicode: bool) -> Iterator[str]:
    """Lines of characters: half blocks in colour, two pixels each, or shades of grey.

    A terminal without Unicode gets spaces in colour. Shades have no escape sequences.
    """
    import numpy as np

    width = max(1, min(columns, image.width))
    height = max(2, round(image.height * width / image.width))
    if way == "shades":
        shades = _SHADES if unicode else _PLAIN_SHADES
        grey = np.asarray(image.convert("L").resize((width, -(-height // 2))), int)
        for row in (grey * len(shades) // 256).tolist():
            yield "".join(shades[value] for value in row).rstrip()
        return
    paint = _true_colour if way == "truecolour" else _of_256
    rows = height + height % 2 if unicode else -(-height // 2)
    pixels = np.asarray(image.convert("RGB").resize((width, rows)), int).tolist()
    if not unicode:
        for row in pixels:
            yield "".join(f"\x1b[48;{paint(*pixel)}m " for pixel in row) + "\x1b[0m"
        return
    for above, below in zip(pixels[::2], pixels[1::2], strict=True):
        cells = (
            f"\x1b[38;{paint(*top)};48;{paint(*bottom)}m▀"
            for top, bottom in zip(above, below, strict=True)
        )
        yield "".join(cells) + "\x1b[0m"


def _true_colour(red: int, green: int, blue: int) -> str:
    return f"2;{red};{green};{blue}"


def _of_256(red: int, green: int, blue: int) -> str:
    """The nearest colour of the cube of 6 x 6 x 6 that terminals of 256 colours have."""
    r, g, b = (min(range(6), key=lambda n: abs(_CUBE[n] - value)) for value in (red, green, blue))
    return f"5;{16 + 36 * r + 6 * g + b}"


def _counted(columns: list[int]) -> Iterator[str]:
    """Sixel characters, runs of the same as a count and one of them."""
    start = 0
    for end in range(1, len(columns) + 1):
        if end == len(columns) or columns[end] != columns[start]:
            character = chr(63 + columns[start])
            yield f"!{end - start}{character}" if end - start > 3 else character * (end - start)
            start = end


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _has_sixel(stdout: TextIO) -> bool:
    """Ask the terminal what it is (device attributes); 4 among its answers is sixel."""
    with suppress(ImportError, OSError, ValueError):  # Windows, or a stdin that is no terminal
        import termios
        import tty

        stdin = sys.stdin.fileno()
        if not os.isatty(stdin):
            return False
        before = termios.tcgetattr(stdin)
        try:
            tty.setcbreak(stdin)
            stdout.write("\x1b[c")
            stdout.flush()
            answer = _answer(stdin)
        finally:
            termios.tcsetattr(stdin, termios.TCSADRAIN, before)
        return "4" in answer.removeprefix("\x1b[?").removesuffix("c").split(";")
    return False


def _answer(stdin: int) -> str:
    """What the terminal says up to the "c" that ends it; as much as comes in time."""
    import select

    answer = ""
    while not answer.endswith("c") and select.select([stdin], [], [], _ANSWER_SECONDS)[0]:
        answer += os.read(stdin, 1).decode(errors="replace")
    return answer
