"""The network of ConceptHash, and mode ``paper``'s tokens and head (arXiv 2406.08457, section 3).

``ConceptHash(encoder, concepts, head)`` is the model that is trained and exported; what training
alone needs (class centres, losses) is in :mod:`concepthash.learn.losses`. Mode ``parts`` has an
encoder, tokens and head of its own in :mod:`concepthash.learn.parts`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from concepthash.codes import CodeLayout
from concepthash.learn.backbone import Encoder
from concepthash.learn.parts import ClassTokens, PartEncoder, PartHashHead


@dataclass
class Output:
    """What one pass gives.

    Args:
        logits: ``(B, K)``; bit = logit > 0.
        features: Z, ``(B, M, D)``, the concept tokens after the last block.
        maps: ``(B, M, h, w)``, where each concept looks.
        background: ``(B, h, w)``, where none does; None in mode ``paper``.
    """

    logits: Tensor
    features: Tensor
    maps: Tensor
    background: Tensor | None = None


class ConceptTokens(nn.Module):
    """M learned queries, one attention among them and a feed-forward, projected to D.

    Unified prompt tuning: the queries see each other, so that they can share out the object.
    They do not depend on the image, hence are constant once trained.

    Args:
        count: M.
        width: D', of the queries.
        dim: D, of the backbone.
        spread: standard deviation of the initial queries; near 0 all concepts begin as one.
    """

    def __init__(
        self,
        count: int,
        *,
        width: int,
        dim: int,
        heads: int = 8,
        dropout: float = 0.1,
        spread: float = 0.02,
    ) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, count, width) * spread)
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.project = nn.Linear(width, dim)

    def forward(self) -> Tensor:
        """The concept tokens ``(1, M, D)``."""
        x = self.norm1(self.queries)
        x = self.queries + self.attention(x, x, x, need_weights=False)[0]
        x = x + self.feed_forward(self.norm2(x))
        tokens: Tensor = self.project(x)
        return tokens


class HashHead(nn.Module):
    """``BatchNorm(concat_m(h(Z_m + E_m)))``, h one Linear(D, K/M) without bias for all concepts."""

    def __init__(self, layout: CodeLayout, dim: int, *, spread: float = 0.02) -> None:
        super().__init__()
        self.layout = layout
        self.embedding = nn.Parameter(torch.randn(layout.concepts, dim) * spread)
        self.hash = nn.Linear(dim, layout.sub_bits, bias=False)
        self.norm = nn.BatchNorm1d(layout.bits)

    def forward(self, features: Tensor) -> Tensor:
        """Z ``(B, M, D)`` to logits ``(B, K)``, concept m in bits ``[m K/M, (m+1) K/M)``."""
        logits: Tensor = self.norm(self.hash(features + self.embedding).flatten(1))
        return logits


class ConceptHash(nn.Module):
    """Photos to logits, concept features and concept maps.

    Args:
        encoder: :class:`concepthash.learn.backbone.Encoder` (mode ``paper``) or
            :class:`concepthash.learn.parts.PartEncoder`.
        concepts: gives the concept tokens ``(1, M, D)``.
        head: features ``(B, M, D)`` to logits ``(B, K)``.
    """

    def __init__(
        self,
        encoder: Encoder | PartEncoder,
        concepts: ConceptTokens | ClassTokens,
        head: HashHead | PartHashHead,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.concepts = concepts
        self.head = head

    def forward(self, image: Tensor) -> Output:
        """``image`` is ``(B, H, W, 3)`` uint8, prepared by concepthash.images.Preprocess."""
        encoded = self.encoder(image, self.concepts())
        return Output(self.head(encoded.features), *encoded)

    def of_patches(self, patches: Tensor, weights: Tensor) -> Output:
        """Mode ``parts``: logits and features from what :meth:`PartEncoder.read` takes.

        Args:
            patches: ``(B, N, D)``.
            weights: ``(B, M, N)``, which stand for the maps.
        """
        assert isinstance(self.encoder, PartEncoder)
        features = self.encoder.read(patches, weights, self.concepts())
        return Output(self.head(features), features, weights)
