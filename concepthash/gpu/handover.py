"""Codes that stay on the device: from ONNX Runtime to a torch tensor without a copy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from concepthash.codes import CodeLayout
from concepthash.encoder import INPUT
from concepthash.errors import BackendError, UsageError
from concepthash.images import Pixels
from concepthash.runtime.session import Session


def codes_on_device(session: Session, pixels: Pixels | Tensor, layout: CodeLayout) -> Tensor:
    """The codes of a batch where the session computes, ready for :meth:`TorchSearcher.search`.

    By ONNX Runtime's IO binding: the graph writes them into memory of torch. On CUDA not run on
    hardware.

    Args:
        session: of :func:`concepthash.runtime.session.open_session`.
        pixels: ``(B, H, W, 3)`` uint8; a tensor on the session's device is not copied.
        layout: of the bundle's codes.

    Returns:
        ``(B, K / 8)`` uint8 on the session's device.

    Raises:
        UsageError: if a tensor of pixels is not uint8.
        BackendError: if ONNX Runtime cannot compute it.
    """
    kind, _, number = session.device.partition(":")
    device_id = int(number or 0)
    codes = torch.empty((len(pixels), layout.nbytes), dtype=torch.uint8, device=session.device)
    binding = session.native.io_binding()
    if isinstance(pixels, Tensor):
        if pixels.dtype != torch.uint8:
            raise UsageError(
                f"pixels are uint8, not {pixels.dtype}", where="pixels", hint="pixels.byte()"
            )
        pixels = pixels.to(session.device).contiguous()
        binding.bind_input(INPUT, kind, device_id, np.uint8, tuple(pixels.shape), pixels.data_ptr())
    else:
        binding.bind_cpu_input(INPUT, np.ascontiguousarray(pixels))
    binding.bind_output("codes", kind, device_id, np.uint8, tuple(codes.shape), codes.data_ptr())
    if codes.is_cuda:
        # ONNX Runtime has a stream of its own, and would not wait for what torch still writes.
        torch.cuda.current_stream(codes.device).synchronize()
    try:
        session.native.run_with_iobinding(binding)
        binding.synchronize_outputs()
    except Exception as error:  # ONNX Runtime's own classes share no base but this
        raise BackendError(
            f"inference failed: {str(error).strip().splitlines()[0]}",
            where=session.backend,
            hint="fewer images at once, or --device cpu",
        ) from error
    return codes
