"""Search on a GPU: the answers of ``HammingIndex``, computed by torch or Triton. Needs torch."""

from concepthash.gpu.handover import codes_on_device
from concepthash.gpu.searcher import TorchSearcher

__all__ = ["TorchSearcher", "codes_on_device"]
