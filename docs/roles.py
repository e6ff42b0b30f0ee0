"""Docstrings as Markdown: Sphinx roles become code spans. An extension of Griffe, for mkdocs."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Roles(griffe.Extension):
    """Rewrites docstrings as they are read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring; the leading dots and tilde of a role's target go too."""
        if obj.docstring is not None:
            text = re.sub(r":\w+:`[~.]*([^`]+)`", r"`\1`", obj.docstring.value)
            obj.docstring.value = re.sub(r"^::$\n|:(?=:$)", "", text, flags=re.MULTILINE)
