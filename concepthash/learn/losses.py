"""The training objective of ConceptHash, one unit a term (arXiv 2406.08457, section 3.3).

L = w_clf L_clf + w_quan L_quan + w_cd L_cd + w_csd L_csd
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from concepthash.learn.config import LossConfig
from concepthash.learn.model import Output


def cosine_margin_loss(
    x: Tensor, centres: Tensor, labels: Tensor, *, scale: float, margin: float
) -> Tensor:
    """Cross-entropy over ``s (cos(x, o_c) - margin [c = y])``, a scalar.

    Args:
        x: ``(B, D)``.
        centres: ``(C, D)``.
        labels: ``(B,)`` in 0..C-1.
    """
    with torch.autocast(x.device.type, enabled=False):  # half precision blurs scaled cosines
        cosine = F.normalize(x.float(), dim=-1) @ F.normalize(centres.float(), dim=-1).T
    target = F.one_hot(labels, len(centres)).to(cosine.dtype)
    return F.cross_entropy(scale * (cosine - margin * target), labels)


def classification_loss(
    logits: Tensor, centres: Tensor, labels: Tensor, *, scale: float, margin: float
) -> Tensor:
    """L_clf: the logits ``(B, K)`` against the class centres o_c ``(C, K)``."""
    return cosine_margin_loss(logits, centres, labels, scale=scale, margin=margin)


def quantisation_loss(
    logits: Tensor, centres: Tensor, labels: Tensor, *, scale: float, margin: float
) -> Tensor:
    """L_quan: the logits against the binarised centres ``sign(o_c) / sqrt(K)``.

    The sign passes no gradient: the logits are drawn to a corner of the cube, not the centres.
    """
    binary = torch.where(centres.detach() > 0, 1.0, -1.0) / centres.shape[-1] ** 0.5
    return cosine_margin_loss(logits, binary, labels, scale=scale, margin=margin)


def concept_loss(
    features: Tensor, centroids: Tensor, labels: Tensor, *, scale: float, margin: float
) -> Tensor:
    """L_cd: each concept's feature ``(B, M, D)`` alone against learned class centroids.

    Averaged over concepts, so every sub-code has to tell the classes apart by itself.

    Args:
        centroids: ``(C, D)`` that all concepts share (mode ``paper``), or ``(M, C, D)``.
    """
    shared = centroids.expand(features.shape[1], *centroids.shape[-2:])
    losses = [
        cosine_margin_loss(features[:, m], shared[m], labels, scale=scale, margin=margin)
        for m in range(features.shape[1])
    ]
    return torch.stack(losses).mean()


def diversity_loss(maps: Tensor) -> Tensor:
    """L_csd: mean cosine similarity of pairs of concept maps ``(B, M, h, w)``; 0 if M = 1."""
    flat = F.normalize(maps.flatten(2), dim=-1)
    count = flat.shape[1]
    if count == 1:
        return flat.new_zeros(())
    similarity = flat @ flat.transpose(1, 2)
    pairs = similarity.sum(dim=(1, 2)) - similarity.diagonal(dim1=1, dim2=2).sum(dim=1)
    return (pairs / (count * (count - 1))).mean()


class ClassCentres(nn.Module):
    """o_c = t(e_c): class embeddings to K dimensions by Linear-ReLU-Linear.

    Args:
        embeddings: e_c, ``(C, E)``.
        bits: K.
        learned: train the embeddings too (guidance ``none``).
    """

    def __init__(self, embeddings: Tensor, bits: int, *, learned: bool = False) -> None:
        super().__init__()
        width = embeddings.shape[1]
        self.embeddings = nn.Parameter(embeddings.clone(), requires_grad=learned)
        self.transform = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, bits))

    def forward(self) -> Tensor:
        """The centres ``(C, K)``."""
        centres: Tensor = self.transform(self.embeddings)
        return centres


class Objective(nn.Module):
    """The weighted sum of all terms, with the parameters only training needs.

    Args:
        centres: gives o_c ``(C, K)``.
        concepts: M.
        dim: D, width of the concept features.
        shared: one class centroid for all concepts (mode ``paper``) instead of one for each.
        config: weights, scale and margin.
    """

    def __init__(
        self,
        centres: ClassCentres,
        *,
        concepts: int,
        dim: int,
        shared: bool = True,
        config: LossConfig,
    ) -> None:
        super().__init__()
        self.centres = centres
        self.config = config
        self.embedding = nn.Parameter(torch.randn(concepts, dim) * 0.02)  # E'
        each = () if shared else (concepts,)
        self.centroids = nn.Parameter(torch.randn(*each, len(centres.embeddings), dim) * 0.02)
        if not config.concept:  # a term that is left out trains nothing
            self.embedding.requires_grad_(False)
            self.centroids.requires_grad_(False)
        if not config.classification:  # L_quan alone does not move the centres
            self.centres.requires_grad_(False)

    def forward(self, output: Output, labels: Tensor) -> dict[str, Tensor]:
        """Scalars: ``total`` and each term, before its weight; terms of weight 0 are left out."""
        weights = self.config
        cosine = {"scale": weights.scale, "margin": weights.margin}
        centres = self.centres()
        terms: dict[str, Tensor] = {}
        if weights.classification:
            terms["classification"] = classification_loss(output.logits, centres, labels, **cosine)
        if weights.quantisation:
            terms["quantisation"] = quantisation_loss(output.logits, centres, labels, **cosine)
        if weights.concept:
            features = output.features + self.embedding
            terms["concept"] = concept_loss(features, self.centroids, labels, **cosine)
        if weights.diversity:
            terms["diversity"] = diversity_loss(output.maps)
        total = sum(
            (getattr(weights, name) * value for name, value in terms.items()),
            start=output.logits.new_zeros(()),
        )
        return {"total": total, **terms}
