"""The network itself as an :class:`concepthash.encoder.Encoder`, beside what is exported of it."""

from __future__ import annotations

import numpy as np
import torch

from concepthash.codes import Codes, pack
from concepthash.encoder import Encoded, InThread
from concepthash.errors import BackendError
from concepthash.images import Pixels
from concepthash.learn.checkpoint import Run
from concepthash.learn.model import ConceptHash, Output


class TorchEncoder(InThread):
    """A network that hashes, in fp32.

    Args:
        model: a run, of which the usual checkpoint is loaded, or a network, which is put into
            evaluation mode and moved.
        device: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        CheckpointError: if the run cannot be read.
        BackendError: if torch sees no such device.
    """

    def __init__(self, model: Run | ConceptHash, *, device: str = "cpu") -> None:
        super().__init__()
        kind, _, number = device.partition(":")
        if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
            raise BackendError(
                "torch sees no such CUDA device", where=f"device {device}", hint="--device cpu"
            )
        self.image_side = model.preprocess.crop if isinstance(model, Run) else None
        network = model.load(model.which()) if isinstance(model, Run) else model
        self._model = network.eval().to(device)
        self.device = f"cuda:{number or 0}" if kind == "cuda" else kind
        self.note = None
        where = self.device if kind == "cuda" else f"{torch.get_num_threads()} threads"
        self.backend = f"torch {torch.__version__} {kind}, fp32, {where}"
        self.code_bytes = network.head.layout.nbytes

    def run(self, pixels: Pixels) -> Encoded:
        """All outputs for a batch ``(B, H, W, 3)`` uint8.

        Raises:
            BackendError: if torch cannot compute it.
        """
        output = self._compute(pixels)
        logits, maps = output.logits.cpu().numpy(), output.maps.cpu().numpy()
        background = None if output.background is None else output.background.cpu().numpy()
        return Encoded(pack(logits), logits, maps, background)

    def codes(self, pixels: Pixels) -> Codes:
        """Only the codes ``(B, K / 8)`` uint8 of a batch ``(B, H, W, 3)`` uint8.

        Raises:
            BackendError: if torch cannot compute it.
        """
        return pack(self._compute(pixels).logits.cpu().numpy())

    def _compute(self, pixels: Pixels) -> Output:
        try:
            with torch.inference_mode():
                image = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device)
                output: Output = self._model(image)
                return output
        except (RuntimeError, AssertionError) as error:  # timm asserts the size of the image
            raise BackendError(
                f"inference failed: {str(error).splitlines()[0]}",
                where=self.backend,
                hint="a smaller --batch-size, or --device cpu",
            ) from error
