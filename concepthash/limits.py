"""What an artefact may do to codes and ranks, when it is exported and wherever it is verified."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from concepthash.errors import UsageError
from concepthash.formats import Precision

ZERO_MARGIN = 1e-4
"""A logit this near 0 may fall on either side by rounding alone."""


@dataclass(frozen=True)
class Limits:
    """What an artefact may do to codes and ranks.

    Args:
        bits: largest share of all bits that may differ.
        margin: largest \\|logit\\| that a differing bit may have in the network; None for any.
        overlap: least share of common ids among the first 10 hits.
        map: largest loss of mAP.
    """

    bits: float
    margin: float | None = None
    overlap: float = 0.0
    map: float = 0.005

    def updated(self, text: str) -> Limits:
        """These limits with those of a text such as ``bits=0.5%,map=0.01`` laid over them.

        Raises:
            UsageError: for a name or number that is none.
        """
        changes = {}
        known = [f.name for f in fields(self)]
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            name, _, value = part.partition("=")
            try:
                number = float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
            except ValueError:
                number = -1.0
            if name not in known or not 0 <= number < float("inf"):
                raise UsageError(
                    f"no limit can be read from {part!r}; there are {', '.join(known)}",
                    where="--gate",
                    hint="--gate bits=0.5%,map=0.01",
                )
            changes[name] = number
        return replace(self, **changes)


LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(bits=1e-3, margin=ZERO_MARGIN, overlap=0.99),
    "fp16": Limits(bits=1e-3),
    "int8": Limits(bits=1e-2),
}
"""The strict ones, which are the defaults."""
