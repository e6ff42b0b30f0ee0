"""Every baseline at every code length and seed, scored by one protocol."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np
import torch

from concepthash.codes import CodeLayout, pack
from concepthash.codesets import CodeSet
from concepthash.datasets import Dataset, evaluate_splits
from concepthash.errors import Skipped, UsageError
from concepthash.evaluation import Evaluation
from concepthash.learn.baselines.features import (
    Features,
    read_backbone,
    read_features,
)
from concepthash.learn.baselines.folds import cosine_score
from concepthash.learn.baselines.method import Baseline
from concepthash.learn.baselines.network import network_row
from concepthash.learn.baselines.registry import BASELINES
from concepthash.learn.baselines.table import Comparison, Row
from concepthash.learn.checkpoint import Run
from concepthash.learn.config import Config
from concepthash.learn.launcher import refuse_launcher
from concepthash.learn.report import Reporter

Protocol = Mapping[str, str | int | float]


@dataclass(frozen=True)
class Asked:
    """What to compare.

    Args:
        methods: names of baselines.
        bits: code lengths.
        seeds: of everything random.
        views: augmented views of each training photo, beside the plain one, for hash layers. None
            by default: eight lowered the mean of the five on folds of the CUB-20 train split.

    Raises:
        UsageError: for what does not exist, or for nothing.
    """

    methods: tuple[str, ...] = tuple(BASELINES)
    bits: tuple[int, ...] = (16, 32, 64)
    seeds: tuple[int, ...] = (0, 1, 2)
    views: int = 0

    def __post_init__(self) -> None:
        for name in self.methods:
            if name not in BASELINES:
                hint = f"--methods {','.join(BASELINES)}"
                raise UsageError(f"there is no baseline {name!r}", where="--methods", hint=hint)
        for count in self.bits:
            CodeLayout(count)
        if not (self.methods and self.bits and self.seeds):
            raise UsageError("a table has methods, bits and seeds", hint="--bits 64 --seeds 0")
        for option, least in (("seeds", min(self.seeds)), ("views", self.views)):
            if least < 0:
                raise UsageError(f"{least} is below 0", where=f"--{option}", hint=f"--{option} 0")


def compare(
    config: Config,
    data: Dataset,
    asked: Asked,
    *,
    runs: Sequence[Run] = (),
    checkpoint: str | None = None,
    device: str = "cpu",
    skipped: Skipped,
    tell: Reporter,
) -> Comparison:
    """The table of published methods, and of trained runs, on one data set.

    Weights are taken from this machine, never from the network.

    Args:
        config: the backbone and its weights, the size of photos and their augmentation.
        data: train split and test split.
        asked: which baselines.
        runs: trained networks to show beside them.
        checkpoint: of the runs: best or last.
        device: where networks compute; baselines are fitted on the CPU.
        skipped: told of photos that cannot be read.
        tell: told of progress, and of bits that carry nothing.

    Raises:
        WeightsError: if the weights of the backbone are not here.
        UsageError: if a run was trained on other photos, or a launcher started several processes.
        DataError: if a split has no photo that can be read.
    """
    refuse_launcher("chash eval --baselines")
    backbone = read_backbone(config, offline=True, tell=tell).to(device)
    networks = [
        network_row(
            run,
            data,
            config.data.root,
            checkpoint=checkpoint,
            device=device,
            skipped=skipped,
            tell=tell,
        )
        for run in runs
    ]
    features = read_features(config, data, backbone, views=asked.views, skipped=skipped, tell=tell)
    rows, protocol = score(features, data, asked, tell=tell)
    own: Protocol = {
        "backbone": config.model.backbone,
        "features": "class token after the final norm, frozen",
        "views": f"1 plain, {asked.views} augmented",
        "resize": config.data.resize,
        "crop": config.data.crop,
        "backend": f"torch {torch.__version__}, {device}",
    }
    return Comparison((*rows, *networks), asked.seeds, {**own, **protocol})


def score(
    features: Features, data: Dataset, asked: Asked, *, tell: Reporter
) -> tuple[list[Row], Protocol]:
    """The rows of the baselines on features in memory, and the protocol they share.

    A method with a space of its own has a row of real numbers before its codes.
    """
    rows: list[Row] = []
    protocol: Protocol = {}
    for number, name in enumerate(asked.methods):
        tell.progress("baselines", number, len(asked.methods))
        method = BASELINES[name]
        space, spent = features, 0.0
        if method.embed is not None:
            space, row = _embedded(name, method, features)
            rows.append(row)
            spent = row.seconds or 0.0
        for bits in asked.bits:
            runs = [_run(method, space, data, bits, seed) for seed in asked.seeds]
            rows.append(_row(name, method, bits, runs, spent))
            protocol = _shared(runs[0][0])
            if rows[-1].constant_bits:
                tell.note(f"{name}: {rows[-1].constant_bits} of {bits} bits are constant")
    return rows, protocol


def _embedded(name: str, method: Baseline, features: Features) -> tuple[Features, Row]:
    assert method.embed is not None
    started = time.perf_counter()
    embedding = method.embed(features.training)
    space = Features(
        features.training.mapped(embedding.encode),
        embedding.encode(features.queries),
        features.query_labels,
    )
    seconds = time.perf_counter() - started
    found, first = cosine_score(
        space.queries, space.query_labels, space.training.plain, space.training.labels
    )
    row = Row(
        name,
        method.kind,
        None,
        (found,),
        (found, found),
        (first,),
        seconds,
        method.citation,
        settings=embedding.settings,
    )
    return space, row


def _run(
    method: Baseline, space: Features, data: Dataset, bits: int, seed: int
) -> tuple[Evaluation, float]:
    """The scores of one code length and seed, and the seconds to fit and to encode."""
    started = time.perf_counter()
    encode = method.fit(space.training, bits=bits, seed=seed)
    database, queries = (pack(encode(x)) for x in (space.training.plain, space.queries))
    seconds = time.perf_counter() - started
    layout = CodeLayout(bits)
    evaluation = evaluate_splits(
        CodeSet(queries, space.query_labels, layout),
        CodeSet(database, space.training.labels, layout),
        data,
        {},
    )
    return evaluation, seconds


def _row(
    name: str,
    method: Baseline,
    bits: int,
    runs: Sequence[tuple[Evaluation, float]],
    spent: float,
) -> Row:
    found = [evaluation for evaluation, _ in runs]
    return Row(
        name,
        method.kind,
        bits,
        tuple(e.map.expected for e in found),
        (fmean(e.map.low for e in found), fmean(e.map.high for e in found)),
        tuple(e.precision[1] for e in found),
        spent + median(seconds for _, seconds in runs),
        method.citation,
        constant_bits=max(int((np.asarray(e.bit_entropy) == 0).sum()) for e in found),
    )


def _shared(evaluation: Evaluation) -> Protocol:
    """The lines of a protocol that do not depend on the codes."""
    own = {"bits", "concepts", "database_sha256", "query_sha256"}
    return {key: value for key, value in evaluation.protocol.items() if key not in own}
