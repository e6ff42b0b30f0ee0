"""The numbers of static int8: ranges of activations, and weights rounded with their errors in mind.

A layer ``y = x W + b`` becomes ``y = x' W' + b'`` with ``x' = (x - shift) / scale`` channel by
channel, which is the same function, but lets one range serve all channels of ``x'``:
SmoothQuant (Xiao et al., ICML 2023, eq. 3) with all of the range moved to the weights, and
Outlier Suppression+ (Wei et al., EMNLP 2023, eq. 2) for the shift. The weights, harder to round
now, are rounded as GPTQ does (Frantar et al., ICLR 2023, algorithm 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_FRACTIONS = np.linspace(1.0, 0.4, 13)
"""Of the full range, tried as the range that is kept."""

_SHORT_SIDE = 4.0
"""How many times further up than down a range may reach that is not centred."""

_VALUES = 100_000
"""Values that a choice of range looks at."""

_DAMPING = 0.01
"""Of the mean diagonal, added to it, so that channels that are seldom used can be inverted."""

_BLOCK = 64
"""Rows of a weight between two updates of the rows below."""


@dataclass(frozen=True)
class Range:
    """A tensor-wide int8 grid: ``q = round(x / step) + zero``, cut to its type.

    Args:
        step: the value of one unit.
        zero: the q of 0; always 0 if symmetric.
        symmetric: int8 in -127..127 instead of uint8 in 0..255.
    """

    step: float
    zero: int
    symmetric: bool

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and the largest q."""
        return (-127, 127) if self.symmetric else (0, 255)

    def round(self, x: Floats) -> Floats:
        """What is left of ``x`` after it went through the grid."""
        q = np.clip(np.round(x / self.step) + self.zero, *self.limits)
        rounded: Floats = ((q - self.zero) * self.step).astype(np.float32)
        return rounded


def choose_range(x: Floats, *, symmetric: bool) -> Range:
    """The grid with the least squared error on ``x``; rare large values may be cut."""
    flat = x.ravel()
    flat = flat[:: max(1, flat.size // _VALUES)]
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    if low == high:
        return Range(1.0, 0, symmetric)
    if symmetric:
        far = max(-low, high)
        candidates = [Range(far * f / 127, 0, True) for f in _FRACTIONS]
    else:
        candidates = [_asymmetric(low * a, high * b) for a in _FRACTIONS for b in _FRACTIONS]
    return min(candidates, key=lambda grid: float(np.square(grid.round(flat) - flat).sum()))


def _asymmetric(low: float, high: float) -> Range:
    step = (high - low) / 255
    return Range(step, int(np.clip(round(-low / step), 0, 255)), False)


@dataclass(frozen=True)
class Equaliser:
    """``x' = (x - shift) / scale``, one number a channel each."""

    shift: Floats
    scale: Floats

    def __call__(self, x: Floats) -> Floats:
        """``(n, D)`` to the same, every channel of about one range."""
        equal: Floats = ((x - self.shift) / self.scale).astype(np.float32)
        return equal

    @classmethod
    def of(cls, low: Floats, high: Floats, *, shift: bool) -> Equaliser:
        """The one that gives channels with these ends one range.

        Args:
            low, high: ``(D,)``, the least and the largest value of each channel.
            shift: centre channels too; else 0 stays 0, and the negative side, short after a GELU,
                is let reach a quarter of the positive one at most, lest it take half of the range.
        """
        centre = (low + high) / 2 if shift else np.zeros_like(low)
        reach = (high - low) / 2 if shift else np.maximum(high, -_SHORT_SIDE * low)
        reach = np.maximum(reach, max(1e-4 * float(reach.max()), 1e-12))
        scale = reach / np.exp(np.log(reach).mean())
        return cls(centre.astype(np.float32), scale.astype(np.float32))


def round_weights(
    weights: Floats, inputs: Floats
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Weights ``(D, E)`` as int8 and a step for each of the E outputs.

    Each row is rounded in turn, the one whose input has the most energy first, and what rounding
    changed is taken up by the rows that are still to come, as the inputs' correlations tell.

    Args:
        weights: ``(D, E)``.
        inputs: ``(n, D)``, as the layer will see them, rounded.
    """
    steps = np.abs(weights).max(axis=0) / 127
    steps[steps == 0] = 1.0
    correlation = inputs.T.astype(np.float64) @ inputs / len(inputs)
    diagonal = np.diag(correlation)
    correlation += np.eye(len(correlation)) * max(_DAMPING * float(diagonal.mean()), 1e-12)
    order = np.argsort(-diagonal, kind="stable")
    inverse = np.linalg.inv(correlation[np.ix_(order, order)])
    factor = np.linalg.cholesky(inverse).T  # upper
    left = weights[order].astype(np.float64)
    rounded = np.empty_like(left)
    for first in range(0, len(left), _BLOCK):
        last = min(first + _BLOCK, len(left))
        errors = np.empty((last - first, left.shape[1]))
        for row in range(first, last):
            rounded[row] = np.clip(np.round(left[row] / steps), -127, 127)
            errors[row - first] = (left[row] - rounded[row] * steps) / factor[row, row]
            left[row:last] -= np.outer(factor[row, row:last], errors[row - first])
        left[last:] -= factor[first:last, last:].T @ errors
    out = np.empty(weights.shape, np.int8)
    out[order] = rounded.astype(np.int8)
    return out, steps.astype(np.float32)
