"""What an artefact may do to codes and ranks, when it is exported and wherever it is verified."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from concepthash.codes import CodeLayout, Codes, unpack
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
            UsageError: for a name or number that is none, or a share above 1.
        """
        changes = {}
        known = [f.name for f in fields(self)]
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            name, _, value = part.partition("=")
            try:
                number = float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
            except ValueError:
                number = -1.0
            what = None
            if name not in known or not 0 <= number < float("inf"):
                what = f"no limit can be read from {part!r}; there are {', '.join(known)}"
            elif number > 1 and name != "margin":
                what = f"{part!r} is no limit: a share is at most 1, which is 100%"
            if what is not None:
                raise UsageError(what, where="--gate", hint="--gate bits=0.5%,map=0.01")
            changes[name] = number
        return replace(self, **changes)


LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(bits=1e-3, margin=ZERO_MARGIN, overlap=0.99),
    "fp16": Limits(bits=1e-3),
    "int8": Limits(bits=1e-2),
}
"""The strict ones, which are the defaults."""


@dataclass(frozen=True, eq=False)
class Flips:
    """The bits in which codes differ from those of a reference.

    Args:
        share: of all bits.
        per_concept: the same, of each concept's bits.
        margins: \\|logit\\| of each such bit in the reference.
    """

    share: float
    per_concept: tuple[float, ...]
    margins: npt.NDArray[np.float32]

    @classmethod
    def between(
        cls,
        codes: Codes,
        reference: Codes,
        logits: npt.NDArray[np.float32],
        layout: CodeLayout,
    ) -> Flips:
        """Compare ``(n, K/8)`` codes with the reference's, whose logits are ``(n, K)``."""
        flipped = unpack(codes) != unpack(reference)
        shares = (flipped[:, layout.concept_slice(m)].mean() for m in range(layout.concepts))
        return cls(float(flipped.mean()), tuple(map(float, shares)), np.abs(logits)[flipped])

    @property
    def largest_margin(self) -> float:
        """The largest of the margins; 0 without flips."""
        return float(self.margins.max(initial=0.0))
