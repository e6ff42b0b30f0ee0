"""Mode ``parts``: concept maps that share out the object, and are the cause of the bits.

The maps are a fixed function of frozen patch tokens (:class:`PartMaps`, found in the training
photos by :mod:`concepthash.learn.discovery`), so training cannot wash them out. Each concept is a
class token that attends, in the blocks that learn, only to the patches that are its own by the maps
(:func:`own_patches`): masked attention as in Mask2Former (Cheng et al., CVPR 2022, eq. 2). In these
blocks patches see neither each other nor the prefix tokens, so nothing else reaches a sub-code.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from concepthash.codes import CodeLayout
from concepthash.learn.backbone import Encoded, TakenApart, project

SMOOTHING = 0.85
"""Standard deviation of the smoothing of patch tokens, in patches."""

TEMPERATURE = 0.1
"""Of the softmax over concepts, on cosine similarities."""

VISIBLE = 0.1
"""Lead of a concept over all else, in its best patch, below which it counts as hardly visible: its
weights then fade with the lead instead of being scaled to 1."""

UNSEEN = -1e4
"""Attention logit of what a concept must not see: its weight is 0, in half precision too."""


def smoothing_matrix(grid: tuple[int, int], sigma: float) -> Tensor:
    """``(N, N)``: each row the Gaussian neighbourhood of a patch, cut at the border, sum 1."""
    sides = []
    for side in grid:
        place = torch.arange(side, dtype=torch.float64)
        gauss = torch.exp(-((place[:, None] - place[None]) ** 2) / (2 * sigma**2))
        sides.append(gauss / gauss.sum(dim=1, keepdim=True))
    return torch.kron(sides[0], sides[1]).float()


def less_common(smooth: Tensor, object_: Tensor) -> Tensor:
    """Tokens ``(B, N, D)`` less the mean of their photo's object, ``(B, N, 1)`` in 0..1."""
    area = object_.sum(dim=1, keepdim=True).clamp_min(1e-6)
    return smooth - (smooth * object_).sum(dim=1, keepdim=True) / area


class PartMaps(nn.Module):
    """Patch tokens to maps of M concepts and of the background, in closed form.

    With S the smoothed tokens: foreground ``p_n = sigmoid(w . S_n / |S_n| + b)``; what is common to
    the photo's object, ``mu = sum p_n S_n / sum p_n``, is taken away, so that a part is told from
    the others and not a species from another; ``u_n`` is the direction of ``P^T (S_n - mu)``;
    ``map_m(n) = p_n softmax_m(u_n . c_m / T)``. The maps and the background sum to 1 in each patch.

    Args:
        concepts: M.
        dim: D, of the tokens.
        part_dim: d, of the space in which parts are compared.
        grid: patches down and across, N in all.
    """

    def __init__(self, concepts: int, *, dim: int, part_dim: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.register_buffer("foreground", torch.zeros(dim))  # w
        self.register_buffer("threshold", torch.zeros(()))  # b
        self.register_buffer("projection", torch.zeros(dim, part_dim))  # P
        self.register_buffer("prototypes", torch.zeros(concepts, part_dim))  # c, rows of norm 1
        self.register_buffer("smooth", smoothing_matrix(grid, SMOOTHING), persistent=False)
        self.foreground: Tensor
        self.threshold: Tensor
        self.projection: Tensor
        self.prototypes: Tensor
        self.smooth: Tensor

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, N, D)`` to maps ``(B, M, N)`` and background ``(B, N)``, values in 0..1."""
        with torch.autocast(patches.device.type, enabled=False):  # one function, at any precision
            smooth = self.smooth @ patches.float()
            score = F.normalize(smooth, dim=-1) @ self.foreground + self.threshold
            object_ = score.sigmoid()[..., None]
            direction = F.normalize(less_common(smooth, object_) @ self.projection, dim=-1)
            shares = (direction @ self.prototypes.T / TEMPERATURE).softmax(dim=-1)
            return (shares * object_).transpose(1, 2), (-score).sigmoid()


def own_patches(maps: Tensor, background: Tensor) -> Tensor:
    """How much each concept looks at each patch; a patch is of one concept at most.

    The lead of a concept's share over the largest other share, background included, over the
    largest lead in the photo. It is 0 where another leads, and continuous, so rounding moves no
    patch from one concept to another.

    Args:
        maps: ``(B, M, N)``.
        background: ``(B, N)``.

    Returns:
        ``(B, M, N)`` in 0..1; all 0 for a concept that leads nowhere.
    """
    first, second = torch.cat([maps, background[:, None]], dim=1).topk(2, dim=1).values.unbind(1)
    rivals = torch.where(maps >= first[:, None], second[:, None], first[:, None])
    lead = (maps - rivals).relu()
    return lead / lead.amax(dim=-1, keepdim=True).clamp_min(VISIBLE)


class ClassTokens(nn.Module):
    """M learned copies of the backbone's class token, as it is where the concepts come in.

    Args:
        count: M.
        dim: D.
    """

    def __init__(self, count: int, *, dim: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.zeros(1, count, dim))

    def forward(self) -> Tensor:
        """The concept tokens ``(1, M, D)``."""
        return self.tokens


class PartEncoder(TakenApart):
    """Frozen blocks, maps, then blocks that learn, in which concept m sees its own patches alone.

    Args:
        vit, mean, std: see :class:`TakenApart`.
        concepts: M.
        part_dim: see :class:`PartMaps`.
        tuned: how many of the last blocks learn; the others and the stem are frozen.
    """

    def __init__(
        self,
        vit: VisionTransformer,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        concepts: int,
        part_dim: int,
        tuned: int,
    ) -> None:
        vit.requires_grad_(False)
        super().__init__(vit, mean=mean, std=std)
        self.frozen_blocks = len(self.blocks) - tuned
        for block in self.blocks[self.frozen_blocks :]:
            block.requires_grad_(True)
        self.part_maps = PartMaps(concepts, dim=self.dim, part_dim=part_dim, grid=self.grid)

    def tokens(self, image: Tensor) -> Tensor:
        """``(B, H, W, 3)`` uint8 to the tokens after the frozen blocks ``(B, P + N, D)``."""
        x: Tensor = self.norm_pre(self.embed(image))
        for block in self.blocks[: self.frozen_blocks]:
            x = block(x)
        return x

    def forward(self, image: Tensor, concepts: Tensor) -> Encoded:
        """Concept features, maps and background of a batch.

        Args:
            image: ``(B, H, W, 3)`` uint8.
            concepts: concept tokens ``(1, M, D)``.
        """
        patches = self.tokens(image)[:, self.prefix_tokens :]
        maps, background = self.part_maps(patches)
        z = self.read(patches, own_patches(maps, background), concepts)
        return Encoded(z, maps.unflatten(-1, self.grid), background.unflatten(-1, self.grid))

    def read(self, patches: Tensor, weights: Tensor, concepts: Tensor) -> Tensor:
        """The blocks that learn: concept features ``(B, M, D)``, each of its own patches alone.

        Args:
            patches: ``(B, N, D)``, after the frozen blocks; in any order, and those that no concept
                looks at may be left out.
            weights: ``(B, M, N)`` in 0..1, how much a concept looks at a patch.
            concepts: concept tokens ``(1, M, D)``.
        """
        bias = torch.where(weights > 0, weights.log(), UNSEEN)
        z = concepts.expand(patches.shape[0], -1, -1)
        tuned: list[Any] = list(self.blocks[self.frozen_blocks :])
        for position, block in enumerate(tuned):
            z = attend(block, z, block.norm1(patches), bias)
            if position + 1 < len(tuned):  # nothing looks at the patches after the last block
                patches = alone(block, patches)
        return z


def attend(block: Any, concepts: Tensor, patches: Tensor, bias: Tensor) -> Tensor:
    """One block applied to concept tokens that see themselves and, weighted, the patches.

    Args:
        block: a timm ``Block``.
        concepts: ``(B, M, D)``.
        patches: ``(B, N, D)``, normalised by ``block.norm1``.
        bias: ``(B, M, N)``, log of the weight of each patch, added to the attention logits.

    Returns:
        ``(B, M, D)``.
    """
    attention = block.attn
    own = block.norm1(concepts)
    count = own.shape[1]
    q, k, v = project(attention, own, torch.cat([patches, own], dim=1))
    others = 1 - torch.eye(count, dtype=bias.dtype, device=bias.device)
    itself = (UNSEEN * others).expand(bias.shape[0], -1, -1)
    mask = torch.cat([bias, itself], dim=-1)[:, None]
    weights = (q * attention.scale @ k.transpose(-2, -1) + mask).softmax(dim=-1)
    seen = attention.norm((weights @ v).transpose(1, 2).flatten(2))
    return _rest(block, concepts, seen)


def alone(block: Any, patches: Tensor) -> Tensor:
    """One block applied to patches that each see themselves alone, ``(B, N, D)`` to the same."""
    values = project(block.attn, patches[:, :0], block.norm1(patches))[2]
    return _rest(block, patches, block.attn.norm(values.transpose(1, 2).flatten(2)))


def _rest(block: Any, x: Tensor, seen: Tensor) -> Tensor:
    """A block after its attention: projection and MLP, each added to what came in."""
    x = x + block.drop_path1(block.ls1(block.attn.proj(seen)))
    out: Tensor = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
    return out


class PartHashHead(nn.Module):
    """``BatchNorm(concat_m(W_m Z_m))``: each concept has its own projection.

    Mode ``paper`` shares one h among concepts, which lets all sub-codes say the same (99.7 % of
    equal bits on CUB-20); with W_m they agree no more than chance.
    """

    def __init__(self, layout: CodeLayout, dim: int) -> None:
        super().__init__()
        self.layout = layout
        shape = (layout.concepts, dim, layout.sub_bits)
        self.hash = nn.Parameter(torch.randn(shape) / dim**0.5)
        self.norm = nn.BatchNorm1d(layout.bits)

    def forward(self, features: Tensor) -> Tensor:
        """Z ``(B, M, D)`` to logits ``(B, K)``, concept m in bits ``[m K/M, (m+1) K/M)``."""
        sub_codes = (features.transpose(0, 1) @ self.hash).transpose(0, 1)
        logits: Tensor = self.norm(sub_codes.flatten(1))
        return logits
