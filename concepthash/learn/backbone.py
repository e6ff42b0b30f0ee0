"""A timm vision transformer taken apart, and mode ``paper``'s encoder made of its pieces.

Only public attributes of timm's ``VisionTransformer`` are used: ``patch_embed``, ``norm_pre``,
``blocks``, ``norm`` and ``forward_features``, which with the blocks taken out is the stem.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import timm
import torch
from timm.models import VisionTransformer
from timm.models.vision_transformer import Attention, Block
from torch import Tensor, nn
from torch.nn import functional as F

from concepthash.errors import UsageError
from concepthash.learn.lookup import check_backbone


class Adapter(nn.Module):
    """Bottleneck beside a block's MLP: LayerNorm, down, GELU, up (zero at first), learned scale."""

    def __init__(self, dim: int, bottleneck: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.down = nn.Linear(dim, bottleneck)
        self.up = nn.Linear(bottleneck, dim)
        self.scale = nn.Parameter(torch.ones(1))
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, N, D)`` to ``(B, N, D)``; zero before the first update."""
        out: Tensor = self.scale * self.up(F.gelu(self.down(self.norm(x))))
        return out


class AdaptedMlp(nn.Module):
    """A block's norm and MLP with an adapter in parallel: ``mlp(norm(x)) + adapter(x)``."""

    def __init__(self, norm: nn.Module, mlp: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.norm = norm
        self.mlp = mlp
        self.adapter = adapter

    def forward(self, x: Tensor) -> Tensor:
        """``(B, N, D)`` to ``(B, N, D)``."""
        out: Tensor = self.mlp(self.norm(x)) + self.adapter(x)
        return out


class TakenApart(nn.Module):
    """A vision transformer as stem, blocks and input normalisation.

    Args:
        vit: a timm VisionTransformer with ``num_classes=0``; its parts are moved here.
        mean, std: of the input normalisation, three numbers each, for pixels in 0..1.

    Raises:
        UsageError: if the backbone has no plain qkv attention to build on.
    """

    def __init__(
        self, vit: VisionTransformer, *, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        blocks = list(vit.blocks)
        if not all(type(b) is Block and _plain(b.attn) for b in blocks):
            raise UsageError(
                f"{type(vit).__name__} has not the plain blocks that concept maps are read from",
                where="model.backbone",
                hint="choose a vit_* model of timm",
            )
        self.dim: int = vit.embed_dim
        self.grid: tuple[int, int] = tuple(vit.patch_embed.grid_size)
        self.prefix_tokens: int = vit.num_prefix_tokens
        self.has_class_token: bool = vit.has_class_token  # else all prefix tokens are registers
        self.norm_pre = vit.norm_pre
        vit.norm_pre = nn.Identity()
        vit.blocks = nn.Identity()
        vit.norm = nn.Identity()  # concept features are taken before the final norm
        self.stem = vit
        self.blocks = nn.ModuleList(blocks)
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def embed(self, image: Tensor) -> Tensor:
        """``(B, H, W, 3)`` uint8 to tokens ``(B, P + N, D)``, P of them prefix tokens."""
        pixels = image.to(self.mean.dtype).permute(0, 3, 1, 2)
        tokens: Tensor = self.stem.forward_features((pixels - self.mean) / self.std)
        return tokens


def _plain(attention: Any) -> bool:
    """Whether queries, keys and values are all there is to it."""
    return type(attention) is Attention and getattr(attention, "gate", None) is None


class Encoder(TakenApart):
    """Mode ``paper``: concept tokens pass through every block beside the patches.

    Args:
        vit, mean, std: see :class:`TakenApart`.
        adapter_ratio: adapter bottleneck as a share of D; 0 for none.
        freeze: keep the pretrained parameters fixed.
    """

    def __init__(
        self,
        vit: VisionTransformer,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        adapter_ratio: float = 0.5,
        freeze: bool = True,
    ) -> None:
        if freeze:
            vit.requires_grad_(False)
        super().__init__(vit, mean=mean, std=std)
        if adapter_ratio > 0:
            bottleneck = max(1, round(self.dim * adapter_ratio))
            block: Any
            for block in self.blocks:
                block.mlp = AdaptedMlp(block.norm2, block.mlp, Adapter(self.dim, bottleneck))
                block.norm2 = nn.Identity()

    def forward(self, image: Tensor, concepts: Tensor) -> Encoded:
        """Concept features and maps of a batch.

        The maps are the attention each concept pays to every patch in the last block, heads
        averaged, rows of sum <= 1.

        Args:
            image: ``(B, H, W, 3)`` uint8.
            concepts: concept tokens ``(1, M, D)``.
        """
        count = concepts.shape[1]
        x = self.embed(image)
        x = self.norm_pre(torch.cat([x, concepts.expand(x.shape[0], -1, -1)], dim=1))
        for block in self.blocks[:-1]:
            x = block(x)
        last: Any = self.blocks[-1]
        rows = attention_rows(last.attn, last.norm1(x), count)
        maps = rows[:, :, self.prefix_tokens : -count]
        return Encoded(last(x)[:, -count:], maps.unflatten(-1, self.grid))


class Encoded(NamedTuple):
    """What an encoder gives.

    Args:
        features: Z, ``(B, M, D)``, the concept tokens after the last block.
        maps: ``(B, M, h, w)``, one a concept.
        background: ``(B, h, w)``, where no concept looks; None in mode ``paper``.
    """

    features: Tensor
    maps: Tensor
    background: Tensor | None = None


def attention_rows(attention: Any, x: Tensor, count: int) -> Tensor:
    """Attention of the last ``count`` tokens to all tokens, heads averaged.

    The fused kernel of the block keeps its weights to itself, so these rows are computed again.

    Args:
        attention: a timm ``Attention``.
        x: its input ``(B, N, D)``.

    Returns:
        ``(B, count, N)``, rows of sum 1.
    """
    q, k, _ = project(attention, x[:, -count:], x)
    weights = (q * attention.scale @ k.transpose(-2, -1)).softmax(dim=-1)
    rows: Tensor = weights.mean(dim=1)
    return rows


def project(attention: Any, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a timm ``Attention``, each ``(B, heads, tokens, D / heads)``.

    Args:
        attention: its parameters.
        queries: ``(B, Q, D)`` tokens that look.
        keys: ``(B, N, D)`` tokens that are looked at.
    """
    weight, bias = attention.qkv.weight, attention.qkv.bias
    width = len(weight) // 3
    thirds = [slice(i * width, (i + 1) * width) for i in range(3)]  # slices are folded by exporters
    weights = [weight[third] for third in thirds]
    biases = [None if bias is None else bias[third] for third in thirds]
    heads = (attention.num_heads, -1)
    q, k, v = (
        F.linear(x, w, b).unflatten(-1, heads).transpose(1, 2)
        for x, w, b in zip((queries, keys, keys), weights, biases, strict=True)
    )
    return attention.q_norm(q), attention.k_norm(k), v


def create_vit(name: str, *, crop: int, arguments: dict[str, int]) -> VisionTransformer:
    """An untrained timm vision transformer without a classifier.

    Args:
        name: timm's model name, with or without a pretrained tag.
        crop: input side, pixels.
        arguments: further integer arguments of ``timm.create_model``, such as ``depth``.

    Raises:
        UsageError: if timm does not know the model, or it is no vision transformer.
    """
    check_backbone(name, timm.list_models())
    pool = "token" if "distilled" in name else ""  # the former have no other, and none is used
    try:
        vit = timm.create_model(
            name, pretrained=False, num_classes=0, img_size=crop, global_pool=pool, **arguments
        )
    except (RuntimeError, TypeError, AssertionError) as error:
        stem = name.partition(".")[0].partition("_patch")[0]
        near = [known for known in timm.list_models(f"*{stem}*") if known != name][:5]
        why = str(error) or type(error).__name__
        raise UsageError(
            f"timm cannot create {name!r} for photos of {crop} pixels: {why}",
            where="model.backbone",
            hint=f"--backbone with one of {', '.join(near or ['vit_tiny_patch16_224'])}",
        ) from None
    if not isinstance(vit, VisionTransformer):
        raise UsageError(
            f"{name!r} is a {type(vit).__name__}; concept tokens need a plain vision transformer",
            where="model.backbone",
            hint="--backbone vit_tiny_patch16_224",
        )
    side = vit.patch_embed.patch_size[0]
    if crop % side:  # timm would drop the rest, and maps would not lie where the photo is
        raise UsageError(
            f"{name} sees patches of {side} pixels, which do not fill a side of {crop}",
            where="data.crop",
            hint=f"--set data.crop={crop // side * side or side}",
        )
    return vit
