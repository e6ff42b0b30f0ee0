"""What ``chash eval`` measures: a run, a bundle, or codes; imported only when it does."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from os.path import realpath
from pathlib import Path
from typing import Any

from concepthash.cli.data import read_data
from concepthash.cli.extras import needs
from concepthash.cli.output import Output, display, skipped_json
from concepthash.codesets import CodeSet, load_codes
from concepthash.datasets import Dataset, evaluate_splits
from concepthash.datasets.assemble import DEFAULT_TEST_SHARE
from concepthash.errors import BackendError, DataError, MismatchError, Skipped, UsageError
from concepthash.evaluation import Evaluation, evaluate
from concepthash.learn.config import Config, DataConfig
from concepthash.runtime.hasher import Hasher


@dataclass(frozen=True)
class Measured:
    """A report, the codes it is about, and the photos it lacks."""

    evaluation: Evaluation
    database: CodeSet
    queries: CodeSet
    backend: str = ""
    skipped: Skipped = field(default_factory=Skipped)

    def to_json(self, target: str) -> dict[str, Any]:
        """``chash.eval/1`` with what was evaluated."""
        return {
            **self.evaluation.to_json(),
            "target": target,
            "backend": self.backend,
            "skipped": skipped_json(self.skipped),
        }


def run(
    path: Path,
    changes: dict[str, Any],
    checkpoint: str | None,
    threads: int | None,
    device: str | None,
    output: Output,
) -> Measured:
    """Evaluate a run with torch on the data of its training, or on ``--data``.

    Raises:
        CheckpointError: if the run cannot be read.
        BackendError: without torch, or without the device.
    """
    with needs("train"):
        import torch

        from concepthash.learn.checkpoint import Run
        from concepthash.learn.hashing import hash_split
    opened = Run.open(path)
    which = checkpoint or opened.which()
    seed, names = opened.config.train.seed, opened.class_names
    data = _data(path, opened.data_config(), changes, seed, names, output)
    usual, asked = opened.config.data.test_share, changes.get("test_share")
    usual = DEFAULT_TEST_SHARE if usual is None else usual
    if "root" not in changes and asked not in (None, usual):
        output.note(
            f"test share: the run was trained with {usual:g}, so queries at {asked:g} may be "
            "photos that it was trained on; such scores flatter"
        )
    if threads is not None:
        torch.set_num_threads(threads)
    wanted = device or "auto"
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise BackendError("torch sees no CUDA device", where="--device", hint="--device cpu")
    model = opened.load(which).to(wanted)
    skipped = Skipped()
    sets = []
    for split, stage in ((data.train, "hashing the database"), (data.test, "hashing the queries")):
        hashed = hash_split(
            model,
            data.root,
            split,
            opened.preprocess,
            opened.layout,
            device=wanted,
            skipped=skipped,
            reporter=output,
            stage=stage,
        )
        sets.append(hashed)
    backend = f"torch {torch.__version__}, {wanted}"
    return _evaluated(sets[0], sets[1], data, backend, skipped, {"checkpoint": which})


def bundle(hasher: Hasher, changes: dict[str, Any], output: Output) -> Measured:
    """Evaluate a bundle on ``--data``; needs no torch.

    Raises:
        UsageError: without ``--data``.
    """
    from concepthash.runtime.evaluate import hash_labelled

    path, manifest = hasher.bundle.path, hasher.bundle.manifest
    if "root" not in changes:
        raise UsageError(
            "a bundle does not carry photos",
            where=path,
            hint=f"chash eval {display(path)} --data FOLDER",
        )
    recorded = Config().updated(manifest.training.get("config", {}), where=path)
    data = _data(path, recorded.data, changes, recorded.train.seed, manifest.class_names, output)
    skipped = Skipped()
    sets = [
        hash_labelled(
            hasher,
            data,
            split,
            skipped=skipped,
            progress=lambda done, total, stage=stage: output.progress(stage, done, total),  # type: ignore[misc]
        )
        for split, stage in (
            (data.train, "hashing the database"),
            (data.test, "hashing the queries"),
        )
    ]
    measured = _evaluated(sets[0], sets[1], data, hasher.backend, skipped, {"bundle": hasher.name})
    named = replace(measured.evaluation, concept_names=manifest.concept_names)
    return replace(measured, evaluation=named)


def codes(database: Path, queries: Path | None, output: Output) -> Measured:
    """Evaluate codes on disk; one file alone is searched with its own codes, each left out.

    Raises:
        MismatchError: if the two files do not have one layout.
    """
    known = load_codes(database)
    same = queries is None or realpath(queries) == realpath(database)  # of a loop too
    if same:
        output.choice("queries", database, "the database itself, no item finding itself")
    asked = known if queries is None or same else load_codes(queries)
    if asked.layout != known.layout:
        raise MismatchError(
            f"{known.layout.bits} bits of {known.layout.concepts} concepts against "
            f"{asked.layout.bits} bits of {asked.layout.concepts}",
            where=f"{database} and {queries}",
            hint="chash inspect FILE shows the layout of each",
        )
    evaluation = evaluate(
        asked.codes,
        asked.labels,
        known.codes,
        known.labels,
        layout=known.layout,
        exclude_self=same,
        protocol={"database": database.name, "queries": (queries or database).name},
    )
    return Measured(evaluation, known, asked, backend="numpy")


def _data(
    target: Path,
    recorded: DataConfig,
    changes: dict[str, Any],
    seed: int,
    class_names: tuple[str, ...],
    output: Output,
) -> Dataset:
    where = "command line"
    config = Config(data=recorded).updated({"data": changes}, where=where).data
    own = "root" not in changes
    command = f"chash eval {display(target)} --data"
    data = read_data(config, seed=seed, output=output, command=command, recorded=own)
    if not len(data.test):
        # What would be held out of a run's own photos was trained on.
        hint = f"{command} FOLDER, with other photos" if own else "--test-share 0.2 holds one out"
        raise DataError("the data have no test split", where=data.root, hint=hint)
    if data.class_names != class_names:
        output.note("data: the classes are not those of the training")
    return data


def _evaluated(
    database: CodeSet,
    queries: CodeSet,
    data: Dataset,
    backend: str,
    skipped: Skipped,
    protocol: dict[str, str],
) -> Measured:
    evaluation = evaluate_splits(queries, database, data, {"backend": backend, **protocol})
    return Measured(evaluation, database, queries, backend, skipped)
