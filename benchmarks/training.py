"""Does the loader starve the network? Images/s of training against the bare forward + backward."""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.report import write
from concepthash.codes import CodeLayout
from concepthash.demo import write_dataset
from concepthash.errors import Skipped
from concepthash.learn.checkpoint import build_model
from concepthash.learn.config import Config
from concepthash.learn.data import read_dataset
from concepthash.learn.loop import Trainee
from concepthash.learn.losses import ClassCentres, Objective
from concepthash.learn.optimise import make_optimizer
from concepthash.learn.photos import EpochSampler, SharedBatches, read_photos, training_loader
from concepthash.learn.report import Silent

ROUNDS = 3
STEPS = 4


def step(trainee: Trainee, optimizer: torch.optim.Optimizer, images, labels) -> None:
    trainee(images, labels)["total"].backward()
    optimizer.step()
    optimizer.zero_grad()


def main() -> None:
    backbone = sys.argv[1] if len(sys.argv) > 1 else "vit_tiny_patch16_224"
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder) / "birds", species=8, images=24, test_share=0.2, size=288)
        changes = {"data": {"root": f"{folder}/birds"}, "model": {"backbone": backbone}}
        config = Config().updated(changes, where="benchmark")
        data = read_dataset(config.data, seed=0)
        photos = read_photos(
            data.root,
            data.train.paths,
            data.train.labels,
            data=config.data,
            train=config.train,
            skipped=Skipped(),
            reporter=Silent(),
        )
        torch.manual_seed(0)
        model = build_model(config.model, crop=config.data.crop)
        layout = CodeLayout(config.model.bits, config.model.concepts)
        centres = ClassCentres(torch.randn(len(data.class_names), 384), layout.bits)
        objective = Objective(
            centres, concepts=4, dim=model.encoder.dim, shared=False, config=config.loss
        )
        trainee = Trainee(model, objective).train()
        optimizer = make_optimizer(trainee, config.train)
        rates: dict[str, list[float]] = {
            "network": [], "network in bf16": [], "0 workers": [], "1 worker": []
        }  # fmt: skip
        batch = config.train.batch_size
        fixed = (
            torch.randint(0, 256, (batch, *2 * (config.data.crop,), 3), dtype=torch.uint8),
            torch.randint(0, len(data.class_names), (batch,)),
        )
        step(trainee, optimizer, *fixed)
        loaders = {
            name: training_loader(
                photos, SharedBatches(EpochSampler(len(photos), 0), batch), workers=workers, seed=0
            )
            for name, workers in (("0 workers", 0), ("1 worker", 1))
        }
        for _ in range(ROUNDS):
            started = time.perf_counter()
            for _ in range(STEPS):
                step(trainee, optimizer, *fixed)
            rates["network"].append(STEPS * batch / (time.perf_counter() - started))
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16):
                step(trainee, optimizer, *fixed)
            rates["network in bf16"].append(batch / (time.perf_counter() - started))
            for name, loader in loaders.items():
                started = time.perf_counter()
                for images, labels in loader:
                    step(trainee, optimizer, images, labels)
                rates[name].append(len(loader) * batch / (time.perf_counter() - started))
    medians = {name: float(np.median(values)) for name, values in rates.items()}
    write(
        "training",
        {
            "what": f"{backbone}, mode parts; images/s, and the share of the network's own",
            "images_per_s": medians,
            "share": {n: r / medians["network"] for n, r in medians.items() if n != "network"},
        },
    )


if __name__ == "__main__":
    main()
