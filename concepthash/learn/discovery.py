"""Parts found in the training photos without part annotations, in closed form.

Three steps on the frozen patch tokens, smoothed (what each is worth: ``benchmarks/discovery.py``):

1. **Object against background.** A ridge discriminant (Fisher 1936) of the photo's centre against
   its border, then of what it found against the rest, a few rounds. Only a prior is given: objects
   are near the centre and cover about ``area`` of a photo.
2. **A metric of parts.** Tokens of two photos that are each other's nearest neighbours show the
   same part of two objects. Directions in which such pairs differ little and tokens differ much:
   the generalised eigenvectors of total against pair scatter, a discriminant analysis whose
   classes are the pairs ("best buddies" of Dekel et al., CVPR 2015).
3. **Prototypes** by spherical k-means (Dhillon & Modha 2001) on the object's tokens in that space.

Everything follows from the seed and the photos.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional as F

from concepthash.datasets import Split
from concepthash.decode import decode_batches
from concepthash.errors import DataError
from concepthash.files import list_command
from concepthash.images import Preprocess
from concepthash.learn.model import ConceptHash
from concepthash.learn.parts import ClassTokens, PartEncoder, PartMaps, less_common
from concepthash.learn.report import Reporter
from concepthash.learn.team import ALONE, Team

BATCH = 32

ROUNDS = 10
"""Of the discriminant, for it to settle."""

PRIOR_ROUNDS = 4
"""Rounds that hold the object to its prior area; the rest take the two groups that the score shows,
so that data whose objects are larger or smaller find their own area."""

SHARPNESS = 5.0
"""Slope of the foreground's sigmoid, per standard deviation of the score."""

RIDGE = 0.1
"""Added to the variances of tokens scaled to a mean square of about 1."""

SPREAD = 0.22
"""Standard deviation of the centre prior, in sides of the photo."""

PARTNERS = 8
"""Photos each photo is compared with for the metric."""

RESTARTS = 10
"""Of k-means; the best is kept."""

MOST_VALUES = 2**26
"""Token values looked at: 1,300 photos of a ViT-Ti/16 at 256 pixels. Memory peaks at about 1.5 GB,
since the steps keep several copies."""

TOKEN_NOISE = 0.02
"""Standard deviation by which the M class tokens differ at first."""


@dataclass(frozen=True)
class Found:
    """What was found, for the report.

    Args:
        photos: how many were looked at.
        area: mean share of a photo that is object.
        shares: of the object's area, one a concept.
    """

    photos: int
    area: float
    shares: tuple[float, ...]

    def __str__(self) -> str:
        shares = ", ".join(f"{share:.0%}" for share in self.shares)
        return f"{self.photos} photos, object {self.area:.0%} of a photo, concepts {shares} of it"


def discover_parts(
    model: ConceptHash,
    root: Path,
    split: Split,
    preprocess: Preprocess,
    *,
    area: float,
    seed: int,
    reporter: Reporter,
    team: Team = ALONE,
) -> Found:
    """Set the maps and the class tokens of an untrained model of mode ``parts``.

    Processes share the photos to encode; the main one finds the parts.

    Args:
        model: changed in place, in every process; on the CPU.
        root: folder of the photos.
        split: training photos; a seeded sample is looked at if there are many.
        preprocess: how the runtime prepares a photo.
        area, seed: see :func:`discover`.
        reporter: told how far it is.
        team: the processes.

    Raises:
        DataError: if no photo can be read.
    """
    encoder = model.encoder
    assert isinstance(encoder, PartEncoder)
    size = MOST_VALUES // (encoder.grid[0] * encoder.grid[1] * encoder.dim)
    order = np.random.default_rng(seed).permutation(len(split))[: max(size, 2)]
    mine = split.select(sorted(order)[i] for i in team.stretch(len(order), BATCH))
    tokens: list[Tensor] = []
    with torch.inference_mode():
        sources = (root / path for path in mine.paths)
        for batch in decode_batches(sources, preprocess, batch_size=BATCH):
            if batch.positions:
                tokens.append(encoder.tokens(torch.from_numpy(batch.pixels)))
            reporter.progress("finding parts", sum(map(len, tokens)), len(mine))
    stretches = team.collect(tokens)

    def find() -> Found:
        together = [some for stretch in stretches for some in stretch]
        if not together:
            hint = list_command(root / split.paths[0])
            raise DataError("no training photo can be read", where=root, hint=hint)
        return _settle(model, encoder, torch.cat(together), area=area, seed=seed)

    found = team.lead(find)
    team.share_module(model)
    return found


@torch.no_grad()
def _settle(
    model: ConceptHash, encoder: PartEncoder, tokens: Tensor, *, area: float, seed: int
) -> Found:
    """Set maps and class tokens from the tokens ``(n, P + N, D)`` of n photos."""
    prefix = encoder.prefix_tokens
    result = discover(encoder.part_maps, tokens[:, prefix:], area=area, seed=seed)
    start = tokens[:, 0] if encoder.has_class_token else tokens[:, prefix:].mean(dim=1)
    noise = torch.randn(model.concepts().shape, generator=torch.Generator().manual_seed(seed))
    assert isinstance(model.concepts, ClassTokens)
    model.concepts.tokens.copy_(start.mean(dim=0) + TOKEN_NOISE * noise)
    return result


def discover(maps: PartMaps, patches: Tensor, *, area: float, seed: int) -> Found:
    """Set the parameters of ``maps`` from the patch tokens of training photos.

    Args:
        maps: changed in place; on the CPU.
        patches: ``(n, N, D)`` float32, tokens of n photos after the frozen blocks.
        area: prior share of a photo that the object covers, 0..1.
        seed: of partners and k-means.

    Raises:
        DataError: if fewer patches than concepts look like an object.
    """
    generator = torch.Generator().manual_seed(seed)
    smooth = maps.smooth @ patches
    score = _find_object(maps, smooth, area)
    inside = score > 0
    if int(inside.sum()) < len(maps.prototypes):
        raise DataError(
            f"the photos show too few patches of objects to find {len(maps.prototypes)} parts",
            hint="fewer --concepts, more photos, or --concept-mode paper",
        )
    centred = less_common(smooth, score.sigmoid()[..., None])
    if not centred[inside].square().mean() > 1e-9 * smooth.square().mean():
        raise DataError(
            "the patches of the photos are all the same, so there are no parts to find",
            hint="photos of objects, or --concept-mode paper",
        )
    pairs = _pair_scatter(centred, inside, generator)
    maps.projection.copy_(_metric(centred[inside], pairs, maps.projection.shape[1]))
    places = centred[inside] @ maps.projection
    weights = places.norm(dim=-1)
    # The squared norm as weight: patches that are much like the whole object say little of a part.
    means = KMeans(len(maps.prototypes), n_init=RESTARTS, random_state=seed)
    with threadpool_limits(1):  # more threads add in an order of their own, and bits differ
        means.fit((places / weights[:, None]).numpy(), sample_weight=weights.square().numpy())
    maps.prototypes.copy_(F.normalize(torch.from_numpy(means.cluster_centers_), dim=-1))
    found, background = maps(patches)
    shares = tuple(float(s) for s in found.sum(dim=(0, 2)) / found.sum())
    return Found(len(patches), float(1 - background.mean()), shares)


def _find_object(maps: PartMaps, smooth: Tensor, area: float) -> Tensor:
    """Set foreground and threshold; the score ``(n, N)``, above 0 on the object."""
    tokens = F.normalize(smooth, dim=-1)
    scale = tokens.std()
    flat = (tokens / scale).flatten(0, 1)
    mean = flat.mean(dim=0)
    flat = flat - mean
    covariance = flat.T @ flat / len(flat) + RIDGE * torch.eye(flat.shape[1])
    centre, border = _priors(maps.grid)
    centre, border = centre.repeat(len(smooth)), border.repeat(len(smooth))
    inside, outside = centre, border
    for round_ in range(ROUNDS):
        difference = inside @ flat / inside.sum() - outside @ flat / outside.sum()
        direction = torch.linalg.solve(covariance, difference)
        score = flat @ direction
        if round_ < PRIOR_ROUNDS:
            threshold = score.kthvalue(max(1, round((1 - area) * len(score)))).values
        else:
            threshold = _two_groups(score)
        slope = SHARPNESS / score.std()
        likely = (slope * (score - threshold)).sigmoid()
        inside, outside = likely * centre.sqrt(), 1 - likely
    maps.foreground.copy_(direction * slope / scale)
    maps.threshold.copy_(-slope * (mean @ direction + threshold))
    return tokens @ maps.foreground + maps.threshold


def _two_groups(values: Tensor) -> Tensor:
    """The threshold that parts values best in two (Otsu 1979: largest variance between them)."""
    ordered = values.double().sort().values
    below = torch.arange(1, len(ordered), dtype=torch.float64)
    sums = ordered.cumsum(0)
    gap = sums[:-1] / below - (sums[-1] - sums[:-1]) / (len(ordered) - below)
    return ordered[(below * (len(ordered) - below) * gap**2).argmax()].to(values.dtype)


def _priors(grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Weights ``(N,)`` of each patch as object (a Gaussian) and as background (the border)."""
    rows, columns = ((torch.arange(side) + 0.5) / side - 0.5 for side in grid)
    centre = torch.exp(-(rows[:, None] ** 2 + columns[None] ** 2) / (2 * SPREAD**2))
    border = torch.ones(grid)
    border[1:-1, 1:-1] = 0
    return centre.flatten(), border.flatten()


def _pair_scatter(centred: Tensor, inside: Tensor, generator: torch.Generator) -> Tensor:
    """Mean ``(D, D)`` scatter of the differences of tokens that are mutual nearest neighbours."""
    photos = [centred[i][inside[i]] for i in range(len(centred))]
    photos = [tokens for tokens in photos if len(tokens)]
    units = [F.normalize(tokens, dim=-1) for tokens in photos]
    scatter = torch.zeros(centred.shape[-1], centred.shape[-1])
    pairs = 0
    for _ in range(PARTNERS):
        for i, j in enumerate(torch.randperm(len(photos), generator=generator).tolist()):
            if i == j:
                continue
            similarity = units[i] @ units[j].T
            nearest, back = similarity.argmax(dim=1), similarity.argmax(dim=0)
            mutual = (back[nearest] == torch.arange(len(nearest))).nonzero()[:, 0]
            difference = photos[i][mutual] - photos[j][nearest[mutual]]
            scatter += difference.T @ difference
            pairs += len(mutual)
    return scatter / max(pairs, 1)


def _metric(tokens: Tensor, pairs: Tensor, width: int) -> Tensor:
    """Directions ``(D, width)`` with the largest ratio of total to pair scatter."""
    total = (tokens.T @ tokens / len(tokens)).double()
    ridge = (1e-3 * pairs.trace() + 1e-6 * total.trace()) / len(pairs)
    within = pairs.double() + ridge * torch.eye(len(pairs))
    root = torch.linalg.cholesky(within)
    whitened = torch.linalg.solve_triangular(root, total, upper=False)
    whitened = torch.linalg.solve_triangular(root, whitened.T, upper=False)
    vectors = torch.linalg.eigh(whitened).eigenvectors.flip(1)[:, :width]
    directions: Tensor = torch.linalg.solve_triangular(root.T, vectors, upper=True)
    return directions.float()
