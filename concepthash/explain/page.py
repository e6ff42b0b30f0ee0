"""The frame of every HTML page that is written as one file: nothing in it is loaded from elsewhere.

Pages of ``chash explain``, ``chash query --explain`` and ``chash atlas`` share it; a notebook shows
their bodies.
"""

from __future__ import annotations

import base64
import html
import io

from PIL import Image

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --card: #f6f6f4; --text: #1c1c1a;
  --muted: #5d5d58; --line: #dcdcd6; --accent: #0b5f94; --track: #e4e4de; }
@media (prefers-color-scheme: dark) { :root { --ground: #161614; --card: #20201e; --text: #ecece6;
  --muted: #a6a69e; --line: #3a3a36; --accent: #7cc4f0; --track: #363632; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 75rem; background: var(--ground);
  color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere;
  text-wrap: balance; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
p { margin: .25rem 0; max-width: 48rem; overflow-wrap: anywhere; }
.muted { color: var(--muted); }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: .75rem; min-width: 0; }
.card img, figure img { display: block; width: 100%; height: auto; border-radius: .25rem; }
figure { margin: 0; } figcaption { font-size: .85rem; color: var(--muted); }
.bits { font: .85rem/1.4 ui-monospace, monospace; overflow-wrap: anywhere; }
.bits b { background: var(--text); color: var(--ground); }
.bar { display: block; height: .5rem; background: var(--track); border-radius: .25rem;
  overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--accent); }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: .2em;
  margin-right: .4em; border: 1px solid var(--line); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .75rem .2rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
a { color: var(--accent); } :focus-visible { outline: 2px solid var(--accent); }
"""
"""Shared by all pages: light and dark, one column on a phone."""

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page(title: str, body: str, *, script: str = "", style: str = "") -> str:
    """One whole HTML document.

    Args:
        title: plain text.
        body: HTML; every text in it went through :func:`text`.
        script: JavaScript without ``</script``; the page must say the same without it.
        style: CSS that only this page needs.
    """
    scripts = f"<script>{script}</script>\n" if script else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n"
        f"<body>\n{body}\n{scripts}</body>\n</html>\n"
    )


def text(value: object) -> str:
    """Any text as HTML, for between tags and in quoted attributes; control characters visible.

    Names of files are text of whoever made them, and need not be valid Unicode.
    """
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(value))
    return html.escape(shown)


def data_uri(image: Image.Image, *, quality: int = 85) -> str:
    """A picture as text that a page can hold: JPEG of a quality from 1 to 95; 0 for PNG."""
    file = io.BytesIO()
    if quality:
        image.save(file, "JPEG", quality=quality)
    else:
        image.save(file, "PNG", optimize=True)
    kind = "jpeg" if quality else "png"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
