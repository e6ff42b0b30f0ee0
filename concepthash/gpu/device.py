"""The device that was asked for, or an error that says why not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from concepthash.errors import BackendError, UsageError

# The rest is for the work of a search, and for whatever else runs there.
_SHARE = 0.7


def open_device(name: str) -> torch.device:
    """The device of a name, tried.

    Args:
        name: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UsageError: for another name.
        BackendError: if torch cannot use it.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UsageError(
            f"no device is called '{name}'", where="device", hint="--device cpu|cuda|cuda:N"
        )
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # a torch without CUDA asserts
        raise BackendError(
            f"CUDA was asked for and cannot be used: {str(error).strip().splitlines()[0]}",
            where=f"device {name}, torch {torch.__version__}",
            hint="chash doctor, or --device cpu",
        ) from None


def memory_for_codes(device: torch.device) -> int:
    """Bytes that codes may take: 0.7 of what is free on a GPU; on the CPU as much as they need."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * _SHARE)
    return 2**63 - 1


@contextmanager
def memory_told(device: torch.device) -> Iterator[None]:
    """Turn an exhausted device into an error that says what to try.

    Raises:
        BackendError: instead of torch's own.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise BackendError(
            f"the device is out of memory: {str(error).splitlines()[0]}",
            where=f"device {device}",
            hint="a smaller memory=, fewer queries at once, or a smaller k",
        ) from None
