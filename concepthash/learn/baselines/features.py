"""Features of a frozen backbone: the class token of photos as indexed, and of augmented views."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from timm.data import resolve_model_data_config
from timm.models import VisionTransformer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from concepthash.datasets import Dataset, Split
from concepthash.decode import decode_batches
from concepthash.errors import DataError, Skipped
from concepthash.files import list_command
from concepthash.images import Preprocess
from concepthash.learn.backbone import create_vit
from concepthash.learn.baselines.method import Labels, Training, Vectors
from concepthash.learn.config import Config
from concepthash.learn.photos import read_photos
from concepthash.learn.report import Reporter
from concepthash.learn.weights import load_pretrained

BATCH = 64


@dataclass(frozen=True)
class Features:
    """What the baselines see of a data set.

    Args:
        training: the train split, plain and augmented; its plain view is the database.
        queries: the test split, ``(q, D)``.
        query_labels: ``(q,)``.
    """

    training: Training
    queries: Vectors
    query_labels: Labels


class ClassToken(nn.Module):
    """A frozen vision transformer: photos to the class token after the final norm.

    Without a class token it is the mean of the patch tokens.
    """

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        known = resolve_model_data_config(vit)
        self.vit = vit.eval()
        self.register_buffer("mean", 255 * torch.tensor(known["mean"]).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(known["std"]).view(1, 3, 1, 1))
        self.mean: Tensor
        self.std: Tensor

    @torch.inference_mode()
    def forward(self, image: Tensor) -> Tensor:
        """``(B, H, W, 3)`` uint8 to ``(B, D)``."""
        pixels = image.to(self.mean.device, self.mean.dtype).permute(0, 3, 1, 2)
        tokens: Tensor = self.vit.forward_features((pixels - self.mean) / self.std)
        if self.vit.has_class_token:
            return tokens[:, 0]
        return tokens[:, self.vit.num_prefix_tokens :].mean(dim=1)


def read_backbone(config: Config, *, offline: bool, tell: Reporter) -> ClassToken:
    """The backbone of a configuration with its pretrained weights, as training starts from them.

    Raises:
        UsageError: for an unknown backbone.
        WeightsError: if weights are missing or do not fit.
    """
    settings = config.model
    with torch.random.fork_rng(devices=[]):  # what "none" draws follows from the seed alone
        torch.default_generator.manual_seed(config.train.seed)
        vit = create_vit(settings.backbone, crop=config.data.crop, arguments=settings.backbone_args)
    if settings.weights != "none":
        load_pretrained(vit, settings, offline=offline, note=tell.note)
    return ClassToken(vit)


def read_features(
    config: Config,
    data: Dataset,
    backbone: ClassToken,
    *,
    views: int = 0,
    skipped: Skipped,
    tell: Reporter,
) -> Features:
    """The features of both splits, photos that cannot be read left out.

    Plain views are prepared as the runtime prepares photos, at the resize and crop of ``config``;
    the augmented ones as ``chash train`` augments them. They depend on the seed, the view and the
    place of the photo alone.

    Raises:
        DataError: if a split has no photo that can be read.
    """
    train, kept = _plain(backbone, data, data.train, config, skipped, tell, "train")
    queries, found = _plain(backbone, data, data.test, config, skipped, tell, "test")
    readable = data.train.select(kept)
    training = Training(
        np.concatenate(
            [train[:, None], _augmented(backbone, data, readable, config, views, tell)], axis=1
        ),
        readable.labels,
        len(data.class_names),
    )
    return Features(training, queries, data.test.labels[found])


def _plain(
    backbone: ClassToken,
    data: Dataset,
    split: Split,
    config: Config,
    skipped: Skipped,
    tell: Reporter,
    name: str,
) -> tuple[Vectors, list[int]]:
    """Features ``(n, D)`` of the photos of a split that can be read, and which they are."""
    preprocess = Preprocess(config.data.resize, config.data.crop)
    sources = (data.root / path for path in split.paths)
    kept: list[int] = []
    rows: list[Vectors] = []
    for batch in decode_batches(sources, preprocess, batch_size=BATCH):
        for position, error in batch.failed:
            skipped.add(split.paths[position], error.what)
        if batch.positions:
            kept.extend(batch.positions)
            rows.append(backbone(torch.from_numpy(batch.pixels)).float().cpu().numpy())
        tell.progress(f"features of the {name} split", len(kept), len(split))
    if not kept:
        raise DataError(
            f"not one photo of the {name} split can be read",
            where=data.root,
            hint=list_command(data.root / split.paths[0]),
        )
    return np.concatenate(rows), kept


def _augmented(
    backbone: ClassToken,
    data: Dataset,
    split: Split,
    config: Config,
    views: int,
    tell: Reporter,
) -> Vectors:
    """Features ``(n, views, D)`` of augmented views of readable photos."""
    dim = backbone.vit.embed_dim
    if not views:
        return np.empty((len(split), 0, dim), np.float32)
    photos = read_photos(
        data.root,
        split.paths,
        split.labels,
        data=replace(config.data, strict=True),  # what was read once can be read again
        train=config.train,
        skipped=Skipped(),
        reporter=tell,
    )
    loader = DataLoader(
        photos,
        sampler=[(view, n) for n in range(len(split)) for view in range(1, views + 1)],
        batch_size=BATCH,
        num_workers=config.data.workers,
        generator=torch.Generator(),  # not the random state of the caller
    )
    rows: list[Vectors] = []
    for images, _ in loader:
        rows.append(backbone(images).float().cpu().numpy())
        tell.progress(f"features of {views} views", sum(map(len, rows)), len(split) * views)
    return np.concatenate(rows).reshape(len(split), views, dim)
