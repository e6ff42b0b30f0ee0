"""What each step of part discovery is worth, on CUB-20's train split; nothing is trained.

Needs ``../shared`` (20 classes of CUB-200-2011, a ViT-Ti/16); a few minutes. The first rows cluster
frozen patch tokens inside the annotated box, one step more each; the others are what mode ``parts``
does, which knows no box, with one setting changed each. The settings in the code were chosen by
these figures; the test split is only in ``results/concepts.json``.
"""

from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn import functional as F

from benchmarks.report import SHARED, write
from concepthash.decode import decode_batches
from concepthash.explain.keypoints import Annotations, read_annotations
from concepthash.explain.parts import PartTally, in_box
from concepthash.explain.photos import SeenPhoto
from concepthash.explain.placing import Placed, place
from concepthash.images import Preprocess
from concepthash.learn import discovery
from concepthash.learn.backbone import create_vit
from concepthash.learn.parts import PartEncoder, PartMaps
from concepthash.learn.weights import load_vit
from concepthash.names import default_names

DATA = SHARED / "data" / "cub20"
WEIGHTS = SHARED / "weights" / "vit_tiny_patch16_224.safetensors"
STEPS = ("k-means in the box", "+ smoothing", "+ less the object's mean", "+ metric", "+ weights")
CROP, BLOCK, AREA = 256, 9, 0.4


class Photos:
    """The train split at one crop: annotations, and the tokens after each block asked for."""

    def __init__(self, annotations: Annotations, crop: int, blocks: tuple[int, ...]) -> None:
        self.annotations, self.crop = annotations, crop
        spec = Preprocess(max(256, crop), crop)
        images = annotations.of_split("train")
        self.placed: list[Placed] = [place(image, annotations, spec) for image in images]
        vit = create_vit("vit_tiny_patch16_224", crop=crop, arguments={})
        load_vit(vit, WEIGHTS)
        self.grid = tuple(vit.patch_embed.grid_size)
        half = (0.5, 0.5, 0.5)
        encoder = PartEncoder(vit, mean=half, std=half, concepts=1, part_dim=1, tuned=1)
        paths = [annotations.root / image.path for image in images]
        self.tokens = tokens_after(blocks, encoder.eval(), paths, spec)

    def boxes(self) -> Tensor:
        """Which patch centres lie in the box: ``(n, N)`` bool."""
        across = (np.arange(self.grid[1]) + 0.5) * self.crop / self.grid[1]
        down = (np.arange(self.grid[0]) + 0.5) * self.crop / self.grid[0]
        centres = np.stack(np.meshgrid(across, down), axis=-1).reshape(-1, 2)
        rows = [in_box(centres, p.box) for p in self.placed if p.box is not None]
        return torch.from_numpy(np.stack(rows))

    def scores(self, maps: Tensor) -> dict[str, object]:
        """Agreement of maps ``(n, M, N)`` with key points, and where their peaks are."""
        count = maps.shape[1]
        tally = PartTally(count, self.annotations)
        nothing = np.empty((self.crop, self.crop, 3), np.uint8), np.empty(0, np.float32)
        for placed, flat in zip(self.placed, maps.numpy(), strict=True):
            cells = flat.reshape(count, *self.grid)
            tally.add(SeenPhoto(placed, *nothing, cells))
        scores = tally.scores(default_names(count)).to_json()
        return {
            "nmi": round(scores["nmi"], 4),
            "ari": round(scores["ari"], 4),
            "leading_share": round(scores["leading_share"], 4),
            "peaks_in_box": [round(share, 3) for share in scores["peaks_in_box"]],
        }


def tokens_after(
    blocks: tuple[int, ...], encoder: PartEncoder, paths: list[Path], spec: Preprocess
) -> dict[int, Tensor]:
    """Patch tokens ``(n, N, D)`` after each of some blocks, counted from 1."""
    found: dict[int, list[Tensor]] = {block: [] for block in blocks}
    with torch.inference_mode():
        for batch in decode_batches(paths, spec):
            x = encoder.norm_pre(encoder.embed(torch.from_numpy(batch.pixels)))
            for number, block in enumerate(encoder.blocks, start=1):
                x = block(x)
                if number in found:
                    found[number].append(x[:, encoder.prefix_tokens :])
    return {block: torch.cat(parts) for block, parts in found.items()}


def clustered(photos: Photos, steps: int, concepts: int, *, block: int = BLOCK) -> Tensor:
    """Maps ``(n, M, N)`` by the first ``steps`` further steps, within the annotated box.

    A patch is of its nearest centre alone, by its similarity to it: the peak is the most typical.
    """
    x, inside = photos.tokens[block], photos.boxes()
    if steps >= 1:
        x = PartMaps(concepts, dim=x.shape[-1], part_dim=1, grid=photos.grid).smooth @ x
    if steps >= 2:
        weight = inside[..., None].float()
        x = x - (x * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp_min(1)
    if steps >= 3:
        pairs = discovery._pair_scatter(x, inside, torch.Generator().manual_seed(0))
        x = x @ discovery._metric(x[inside], pairs, 128)
    norms = x.norm(dim=-1)
    weights = norms[inside].square().numpy() if steps >= 4 else None
    x = F.normalize(x, dim=-1)
    means = KMeans(concepts, n_init=discovery.RESTARTS, random_state=0)
    means.fit(x[inside].numpy(), sample_weight=weights)
    centres = F.normalize(torch.from_numpy(means.cluster_centers_), dim=-1)
    near, nearest = (x @ centres.T).max(dim=-1)
    likeness = near.clamp_min(1e-3) * inside
    return (F.one_hot(nearest, concepts) * likeness[..., None]).transpose(1, 2)


def found(
    photos: Photos, concepts: int, *, block: int = BLOCK, area: float = AREA, seed: int = 0
) -> tuple[Tensor, float]:
    """The maps of mode ``parts`` and the object's share of a photo."""
    x = photos.tokens[block]
    maps = PartMaps(concepts, dim=x.shape[-1], part_dim=128, grid=photos.grid)
    with torch.no_grad():
        share = discovery.discover(maps, x, area=area, seed=seed).area
        return maps(x)[0], round(share, 3)


def main() -> None:
    annotations = read_annotations(DATA / "part_locs.csv")
    photos = Photos(annotations, CROP, (6, 7, 8, 9, 10, 12))
    rows: dict[str, object] = {}

    def add(name: str, maps: Tensor, of: Photos = photos, **more: object) -> None:
        rows[name] = {**of.scores(maps), **more}
        print(name, rows[name], flush=True)

    for concepts in (4, 8):
        for steps, step in enumerate(STEPS):
            add(f"{concepts}: {step}", clustered(photos, steps, concepts))
        for block in (6, 7, 8, 10, 12):
            maps = clustered(photos, 0, concepts, block=block)
            add(f"{concepts}: {STEPS[0]}, after block {block}", maps)
        for seed in (0, 1, 2):
            maps, share = found(photos, concepts, seed=seed)
            add(f"{concepts}: found object (mode parts), seed {seed}", maps, object=share)
        for block in (6, 7, 8, 10, 12):
            maps, share = found(photos, concepts, block=block)
            add(f"{concepts}: after block {block}", maps, object=share)
        for area in (0.2, 0.3, 0.5, 0.6):
            maps, share = found(photos, concepts, area=area)
            add(f"{concepts}: prior area {area}", maps, object=share)
    for crop in (224, 288, 320):
        other = Photos(annotations, crop, (BLOCK,))
        for concepts in (4, 8):
            maps, share = found(other, concepts)
            add(f"{concepts}: crop {crop}", maps, other, object=share)
    write("discovery", {"what": "NMI and ARI with key points, CUB-20 train split", "rows": rows})


if __name__ == "__main__":
    main()
