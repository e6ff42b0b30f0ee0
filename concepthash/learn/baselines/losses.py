"""What the learned hash layers minimise, a module each, with its formula and its source.

Letters: v ``(B, K)`` is the output of the layer, y the labels ``(B,)``, ``c_y`` the binary centre
of a class in -1 and 1. Each is the mean over the batch and, where bits have terms of their own,
over the bits. Under Adam the scale of a loss does not matter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from concepthash.learn.baselines.method import Labels, Vectors
from concepthash.learn.losses import cosine_margin_loss


class HashLoss(nn.Module, ABC):
    """A loss of a batch; what it learns itself (a classifier) is trained along."""

    @abstractmethod
    def forward(self, logits: Tensor, labels: Tensor, progress: float) -> Tensor:
        """The loss, a scalar.

        Args:
            logits: v, ``(B, K)``.
            labels: ``(B,)`` int64.
            progress: share of the training that is over, in 0..1.
        """


class CentralSimilarity(HashLoss):
    """CSQ: ``BCE(h, (c_y + 1) / 2) + lambda log cosh(|2 h - 1| - 1)``, ``h = (tanh(v) + 1) / 2``.

    Yuan et al., CVPR 2020, section 3.3. ``lambda = 0.05`` is the default of the authors' code
    (their commands for AlexNet have 0.001 and 0.0001).
    """

    def __init__(self, centres: Vectors, *, quantisation: float = 0.05) -> None:
        super().__init__()
        self.register_buffer("centres", torch.from_numpy(centres))
        self.centres: Tensor
        self.quantisation = quantisation

    def forward(self, logits: Tensor, labels: Tensor, progress: float) -> Tensor:
        """See :class:`HashLoss`."""
        # (tanh(v) + 1) / 2 = sigmoid(2 v): this form has no logarithm of a rounded 0.
        similarity = F.binary_cross_entropy_with_logits(2 * logits, (self.centres[labels] + 1) / 2)
        distance = logits.tanh().abs() - 1
        return similarity + self.quantisation * distance.cosh().log().mean()


class Polarisation(HashLoss):
    """DPN: ``max(m - v c_y, 0)``, random centres, m = 1.

    Fan et al., IJCAI 2020, the polarisation loss; m is the default of the authors' code.
    """

    def __init__(self, centres: Vectors, *, margin: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("centres", torch.from_numpy(centres))
        self.centres: Tensor
        self.margin = margin

    def forward(self, logits: Tensor, labels: Tensor, progress: float) -> Tensor:
        """See :class:`HashLoss`."""
        return (self.margin - logits * self.centres[labels]).clamp(min=0).mean()


class WeightedPairs(HashLoss):
    """HashNet: ``w_ij (log(1 + exp(a <g_i, g_j>)) - a s_ij <g_i, g_j>)``, ``g = tanh(beta v)``.

    Mean over the pairs of a batch; ``s_ij = 1`` for one class, else 0. ``w_ij`` is the number of
    all pairs over the number of similar, or of dissimilar, ones in the train split. Cao et al.,
    ICCV 2017, section 3.1 (weighted maximum likelihood) and 3.2 (continuation). From the authors'
    code: ``a = 10 / K``, and ``beta = sqrt(1 + 0.005 i)``, raised every 200 of 10,000 steps: here
    ``sqrt(1 + 50 p)``, raised at each fiftieth of the training.
    """

    def __init__(self, counts: Labels, bits: int) -> None:
        """``counts`` are the photos of each class, ``(C,)``."""
        super().__init__()
        pairs = float(counts.sum()) ** 2
        similar = float((counts.astype(float) ** 2).sum())
        self.similar_weight = pairs / similar
        self.other_weight = pairs / max(pairs - similar, 1.0)
        self.sharpness = 10 / bits

    def forward(self, logits: Tensor, labels: Tensor, progress: float) -> Tensor:
        """See :class:`HashLoss`."""
        beta = (1 + 50 * (int(progress * 50) / 50)) ** 0.5
        codes = (beta * logits).tanh()
        product = self.sharpness * codes @ codes.T
        same = (labels[:, None] == labels).to(product.dtype)
        weight = torch.where(same > 0, self.similar_weight, self.other_weight)
        terms = weight * (F.softplus(product) - same * product)
        others = ~torch.eye(len(labels), dtype=torch.bool, device=product.device)
        loss: Tensor = terms[others].mean()
        return loss


class GreedyHash(HashLoss):
    """GreedyHash: ``CE(W sgn(v), y) + alpha | |v| - 1 |^3``, the gradient passing sgn unchanged.

    Su et al., NeurIPS 2018, section 3; W ``(C, K)`` is learned along, without bias. alpha is 0.1
    in the authors' code for CIFAR-10 and 1 for ImageNet; 0.1 here.
    """

    def __init__(self, classes: int, bits: int, *, penalty: float = 0.1) -> None:
        super().__init__()
        self.classify = nn.Linear(bits, classes, bias=False)
        self.penalty = penalty

    def forward(self, logits: Tensor, labels: Tensor, progress: float) -> Tensor:
        """See :class:`HashLoss`."""
        signs = torch.where(logits > 0, 1.0, -1.0)
        passed = logits + (signs - logits).detach()
        distance = (logits.abs() - 1).abs().pow(3).mean()
        return F.cross_entropy(self.classify(passed), labels) + self.penalty * distance


class OrthoHash(HashLoss):
    """OrthoHash: cross-entropy over ``s (cos(v, c_k) - m [k = y])``, orthogonal centres.

    Hoe et al., NeurIPS 2021, section 3.2; the layer ends in a BatchNorm, which balances the bits.
    s = 8 and m = 0.2 are the defaults of the authors' code.
    """

    def __init__(self, centres: Vectors, *, scale: float = 8.0, margin: float = 0.2) -> None:
        super().__init__()
        self.register_buffer("centres", torch.from_numpy(centres))
        self.centres: Tensor
        self.scale = scale
        self.margin = margin

    def forward(self, logits: Tensor, labels: Tensor, progress: float) -> Tensor:
        """See :class:`HashLoss`."""
        return cosine_margin_loss(
            logits, self.centres, labels, scale=self.scale, margin=self.margin
        )
