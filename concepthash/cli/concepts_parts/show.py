"""``chash concepts show``: the same as ``chash concepts``."""

from concepthash.cli.concepts import EXAMPLES, command

__all__ = ["EXAMPLES", "command"]
