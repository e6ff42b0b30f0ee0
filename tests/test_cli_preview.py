"""Pictures in a terminal, decoded back by small decoders."""

from __future__ import annotations

import base64
import io
import os
import re
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from concepthash.cli.preview import blocks, choose_way, iterm, kitty, show, sixel
from concepthash.errors import UsageError


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture that PNG cannot make smaller."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def same(data: bytes, image: Image.Image) -> bool:
    return np.array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(image))


class FakeTerminal(io.StringIO):
    """Says that it is a terminal, and keeps what is written to it."""

    def __init__(self, *, terminal: bool = True) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def decode_sixel(text: str) -> np.ndarray:
    """The pixels of a sixel picture ``(height, width, 3)``; -1 where nothing was painted."""
    whole = re.fullmatch(r'\x1bPq"1;1;(\d+);(\d+)(.*)\x1b\\', text, re.DOTALL)
    assert whole
    width, height = int(whole[1]), int(whole[2])
    pixels = np.full((height + 6, width, 3), -1)
    palette: dict[int, list[int]] = {}
    x = y = colour = 0
    for token in re.findall(r"#\d+;2;\d+;\d+;\d+|#\d+|!\d+[?-~]|[?-~]|[$-]", whole[3]):
        if token[0] == "#":
            number, *definition = map(int, token[1:].split(";"))
            colour = number
            if definition:
                palette[number] = [round(2.55 * share) for share in definition[1:]]
        elif token in "$-":
            x, y = 0, y + 6 * (token == "-")
        else:
            count, character = (int(token[1:-1]), token[-1]) if token[0] == "!" else (1, token)
            for bit in range(6):
                if (ord(character) - 63) >> bit & 1:
                    pixels[y + bit, x : x + count] = palette[colour]
            x += count
            assert x <= width
    assert (pixels[height:] == -1).all()
    return pixels[:height]


@pytest.mark.parametrize("size", [(40, 30), (1, 1), (100, 60)])
def test_kitty__is_png_in_pieces(size: tuple[int, int]) -> None:
    image = noise(*size)
    sequences = list(kitty(image, 20))
    parts = [re.fullmatch(r"\x1b_G([^;]*);([A-Za-z0-9+/=]*)\x1b\\", s) for s in sequences]
    keys = [dict(key.split("=") for key in part[1].split(",")) for part in parts if part]
    assert len(keys) == len(sequences)
    assert keys[0]["a"] == "T"
    assert (keys[0]["f"], keys[0]["c"]) == ("100", "20")
    assert [key["m"] for key in keys] == ["1"] * (len(keys) - 1) + ["0"]
    assert {key["q"] for key in keys} == {"2"}
    content = [part[2] for part in parts if part]
    assert max(map(len, content)) <= 4096
    assert all(len(piece) % 4 == 0 for piece in content)
    assert same(base64.b64decode("".join(content)), image)


def test_iterm__holds_the_file_and_its_size() -> None:
    image = noise(40, 30)
    found = re.fullmatch(r"\x1b]1337;File=([^:]*):([A-Za-z0-9+/=]*)\x07", iterm(image, 33))
    assert found
    keys = dict(key.split("=") for key in found[1].split(";"))
    data = base64.b64decode(found[2])
    assert (keys["inline"], keys["size"], keys["width"]) == ("1", str(len(data)), "33")
    assert same(data, image)


@pytest.mark.parametrize("size", [(17, 13), (5, 6), (1, 1), (300, 7)])
def test_sixel__paints_every_pixel_once(size: tuple[int, int]) -> None:
    generator = np.random.default_rng(1)
    few = generator.integers(0, 256, (20, 3), np.uint8)
    pixels = few[generator.integers(0, 20, (size[1], size[0]))]
    pixels[:, : size[0] // 2] = few[0]  # runs
    decoded = decode_sixel(sixel(Image.fromarray(pixels)))
    assert np.abs(decoded - pixels).max() <= 2  # sixel has colours in percent


def test_sixel__counts_runs() -> None:
    flat = sixel(Image.new("RGB", (200, 6), (255, 0, 0)))
    assert "!200~" in flat
    assert np.array_equal(decode_sixel(flat), np.full((6, 200, 3), (255, 0, 0)))


def test_blocks__are_two_pixels_each_in_true_colour() -> None:
    image = noise(7, 6)
    lines = list(blocks(image, 80, "truecolour", unicode=True))
    cells = [
        re.findall(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m▀", line) for line in lines
    ]
    found = np.array(cells, int).reshape(3, 7, 2, 3).transpose(0, 2, 1, 3).reshape(6, 7, 3)
    assert np.array_equal(found, np.asarray(image))
    assert all(line.endswith("\x1b[0m") for line in lines)
    assert "".join(blocks(image, 80, "truecolour", unicode=False)).isascii()


def test_blocks__take_the_nearest_of_256_colours() -> None:
    image = noise(5, 4)
    line = "".join(blocks(image, 80, "256", unicode=True))
    numbers = [int(n) - 16 for n in re.findall(r"[34]8;5;(\d+)", line)]
    levels = np.array([0, 95, 135, 175, 215, 255])
    found = np.array([[levels[n // 36], levels[n // 6 % 6], levels[n % 6]] for n in numbers])
    found = found.reshape(2, 5, 2, 3).transpose(0, 2, 1, 3).reshape(4, 5, 3)
    pixels = np.asarray(image).astype(int)
    nearest = levels[np.abs(pixels[..., None] - levels).argmin(axis=-1)]
    assert np.array_equal(found, nearest)


@pytest.mark.parametrize(("unicode", "scale"), [(True, " ░▒▓█"), (False, " .:-=+*#%@")])
def test_blocks__are_shades_without_colour(unicode: bool, scale: str) -> None:
    ramp = np.linspace(0, 255, 40).astype(np.uint8)[None, :, None].repeat(4, 0).repeat(3, 2)
    lines = list(blocks(Image.fromarray(ramp), 40, "shades", unicode=unicode))
    assert len(lines) == 2
    assert "".join(dict.fromkeys(lines[0])) == scale
    assert "\x1b" not in "".join(lines)


def test_show__fits_the_terminal() -> None:
    wide = noise(400, 20)
    assert decode_sixel(show(wide, "sixel", columns=20, unicode=True)).shape == (8, 160, 3)
    assert ",c=20," in show(wide, "kitty", columns=20, unicode=True)
    assert ";width=50;" in show(wide, "iterm", columns=80, unicode=True)
    line = show(wide, "256", columns=20, unicode=True).split("\n")[0]
    assert line.count("▀") == 20
    assert show(wide, "none", unicode=True) == ""


@pytest.mark.parametrize(
    ("environment", "way"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm"),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1", "TMUX": "x"}, "256"),
        ({"TERM": "screen", "TERM_PROGRAM": "iTerm.app"}, "shades"),
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, "truecolour"),
        ({"TERM": "xterm-256color"}, "256"),
        ({"TERM": "vt100"}, "shades"),
        ({"TERM": "xterm-kitty", "NO_COLOR": "1"}, "shades"),
        ({"TERM": "xterm-kitty", "NO_COLOR": ""}, "kitty"),
        ({"TERM": "dumb", "COLORTERM": "truecolor"}, "none"),
    ],
)
def test_choose_way__reads_the_environment(environment: dict[str, str], way: str) -> None:
    assert choose_way("auto", FakeTerminal(), environment) == way
    assert choose_way("auto", FakeTerminal(terminal=False), environment) == "none"
    assert choose_way("sixel", FakeTerminal(terminal=False), environment) == "sixel"


@pytest.mark.parametrize(
    ("answer", "way"),
    [("\x1b[?62;4;22c", "sixel"), ("\x1b[?62;22c", "256"), ("\x1b[?64c", "256"), ("", "256")],
)
def test_choose_way__asks_a_terminal_for_sixel(
    answer: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    termios = pytest.importorskip("termios")
    master, slave = os.openpty()
    copies = os.dup(slave), os.dup(slave)
    with (
        os.fdopen(slave, "rb", buffering=0) as raw,
        os.fdopen(copies[0], "w") as out,
        os.fdopen(copies[1]) as stdin,
    ):
        monkeypatch.setattr(sys, "stdin", stdin)
        before = termios.tcgetattr(raw.fileno())

        def reply() -> None:
            asked = b""
            while not asked.endswith(b"\x1b[c"):
                asked += os.read(master, 16)
            os.write(master, answer.encode())

        terminal = threading.Thread(target=reply)
        terminal.start()
        assert choose_way("auto", out, {"TERM": "xterm-256color"}) == way
        terminal.join()
        assert termios.tcgetattr(raw.fileno()) == before
    os.close(master)


def test_check_way__lists_what_there_is() -> None:
    from concepthash.cli.preview import check_way

    check_way("auto")
    with pytest.raises(UsageError, match="kitty, iterm, sixel"):
        check_way("vga")
