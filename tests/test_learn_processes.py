"""One training on several processes: real ones, started by torchrun, over gloo on loopback."""

import json
import os
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from launched_trainings import TRAININGS, normalised, run  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tiny_run import drawn_birds, parts_config, tiny_config  # noqa: E402

from concepthash.cli.settings import as_toml  # noqa: E402
from concepthash.errors import DataError, TrainingError, UsageError  # noqa: E402
from concepthash.learn.claim import Claim  # noqa: E402
from concepthash.learn.launcher import place, refuse_launcher  # noqa: E402
from concepthash.learn.photos import EpochSampler, SharedBatches  # noqa: E402
from concepthash.learn.setup import make_accelerator  # noqa: E402
from concepthash.learn.team import Team  # noqa: E402

TESTS = Path(__file__).parent
LAUNCHER = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def launch(*arguments: object) -> subprocess.Popen[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("CHASH_")}
    return subprocess.Popen(
        [*LAUNCHER, *map(str, arguments)],
        env={**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Trainings of one process, each beside the same one of two, ``NAME-shared``."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # parts depend on rounding, and each of the two has one thread
    folder = tmp_path_factory.mktemp("processes")
    drawn_birds(folder / "birds")
    parts_config(folder / "birds", folder / "vit.safetensors")
    run("paper", folder, folder / "paper")
    launched = launch(TESTS / "launched_trainings.py", folder)
    for name in set(TRAININGS) - {"paper"}:
        run(name, folder, folder / name)
    _, said = launched.communicate(timeout=300)
    assert launched.returncode == 0, said
    yield folder
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def found(folder):
    return json.loads((folder / "found.json").read_text())


@pytest.fixture(scope="module")
def single(folder):
    """The training of the command line by one process."""
    from concepthash.learn.train import train

    config = parts_config(folder / "birds", folder / "vit.safetensors", epochs=3)
    (folder / "cli.toml").write_text(as_toml(config.to_json()))
    return train(config, folder / "single").run


@pytest.fixture(scope="module")
def killed(folder, single):
    """What is said, and the run, where the second process is killed after an epoch."""
    out = folder / "killed"
    launched = launch(
        TESTS / "killed_training.py", 1, "train", folder / "birds", "--out", out,
        "--config", folder / "cli.toml",
    )  # fmt: skip
    said = launched.communicate(timeout=300)[1]
    assert launched.returncode != 0
    return said, out


def assert_same(one: Path, two: Path, *, within: float) -> None:
    for name in ("last", "best"):
        first, second = (
            load_file(one / f"{name}.safetensors"),
            load_file(two / f"{name}.safetensors"),
        )
        assert first.keys() == second.keys()
        for key, value in first.items():
            torch.testing.assert_close(second[key], value, rtol=within, atol=within, msg=key)
    lines = [(run / "metrics.jsonl").read_text().splitlines() for run in (one, two)]
    for ours, theirs in zip(*lines, strict=True):
        first, second = json.loads(ours), json.loads(theirs)
        for measured in (first, second):
            del measured["images_per_s"]
        assert second == pytest.approx(first, rel=within, abs=within)
    evaluations = [json.loads((run / "eval.json").read_text()) for run in (one, two)]
    assert evaluations[0] == evaluations[1]


@pytest.mark.parametrize("name", TRAININGS)
def test_train__two_processes_train_what_one_does(name, folder):
    assert_same(folder / name, folder / f"{name}-shared", within=1e-9)
    trained = load_file(folder / name / "last.safetensors")
    begun = load_file(folder / f"{name}-after-1" / "last.safetensors")
    assert not torch.allclose(trained["head.norm.weight"], begun["head.norm.weight"], atol=1e-6)


def test_resume__goes_from_one_process_to_two_and_back(folder):
    assert_same(folder / "paper", folder / "resumed", within=1e-9)
    back = folder / "back"
    shutil.copytree(folder / "resumed-after-2", back)
    run("paper", folder, back, resume=True)
    assert_same(folder / "paper", back, within=1e-9)


def test_shared_batch_norm__is_that_of_the_whole_batch_with_its_gradients(found):
    alone = normalised(Team())
    assert found["normalised"].keys() == alone.keys()
    for name, values in alone.items():
        np.testing.assert_allclose(found["normalised"][name], values, rtol=1e-10, err_msg=name)


def test_team__an_error_of_one_process_ends_all_and_the_main_one_tells_it(found):
    main, other = found["failures"]["one"]
    assert main == "TrainingError: in process 1 of the training: no such file\nwhere: vit\ntry: ls"
    assert other.startswith("ToldByMain")
    main, other = found["failures"]["photos"]
    assert "process 1 cannot read the same training photos" in main
    assert "train/a.jpg" in main
    assert other.startswith("DataError")


def test_train__a_killed_process_ends_the_other_which_says_how_to_go_on(killed):
    said, out = killed
    assert "finished epochs are kept: chash train --resume --out" in said
    assert json.loads((out / "last.json").read_text())["epoch"] == 1
    assert not [file for file in out.iterdir() if file.suffix == ".tmp"]


def test_train__the_command_goes_on_under_a_launcher_and_only_the_main_process_talks(
    killed, folder, single
):
    victim = next(iter(sorted((folder / "birds" / "test").rglob("*.jpg"))))
    whole = victim.read_bytes()
    victim.write_bytes(
        whole[:100]
    )  # listed and skipped, which a launcher must not take for a crash
    out = killed[1]
    launched = launch("-m", "concepthash", "train", "--resume", "--out", out, "--json")
    printed, said = launched.communicate(timeout=300)
    victim.write_bytes(whole)
    assert launched.returncode == 0, said
    assert [skip["path"] for skip in json.loads(printed)["skipped"]] == [
        victim.relative_to(folder / "birds").as_posix()
    ]
    assert said.count("chash 0") == said.count("epoch 3 ") == 1
    assert "processes: 2, each batch of 4 photos shared out as 2 + 2" in said
    one, two = (load_file(run / "last.safetensors") for run in (single, out))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=0, atol=1e-4, msg=key)


@pytest.mark.parametrize(
    ("photos", "batch", "size"), [(10, 4, 1), (11, 5, 2), (9, 8, 3), (3, 32, 2)]
)
def test_shared_batches__are_those_of_one_process_shared_out_evenly(photos, batch, size):
    sampler = EpochSampler(photos, seed=1)
    whole = list(SharedBatches(sampler, batch))
    shares = [SharedBatches(sampler, batch, Team(rank, size)) for rank in range(size)]
    together = [list(chain.from_iterable(parts)) for parts in zip(*shares, strict=True)]
    assert together == whole
    assert len(whole) == len(shares[0]) == photos // min(batch, photos)
    sizes = {s.share for s in shares}
    assert max(sizes) - min(sizes) <= 1
    assert sum(s.share for s in shares) == shares[0].size


def test_train__refuses_more_processes_than_photos_of_a_batch(tmp_path):
    with pytest.raises(UsageError, match="3 processes cannot share a batch of 2") as refused:
        make_accelerator(tiny_config(tmp_path, batch_size=2), tmp_path, Team(0, 3))
    assert "--batch-size 3" in (refused.value.hint or "")


def test_shared_batches__refuse_more_processes_than_photos():
    with pytest.raises(DataError, match="cannot share 2 training photos"):
        SharedBatches(EpochSampler(2, seed=0), 32, Team(0, 3))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_team__stretches_are_whole_units_in_order(size):
    for count in (0, 1, 63, 64, 65, 1000):
        stretches = [Team(rank, size).stretch(count, 64) for rank in range(size)]
        assert [i for stretch in stretches for i in stretch] == list(range(count))
        assert all(s.start % 64 == 0 for s in stretches if len(s))


def test_place__is_what_the_launcher_says(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert place() == (0, 1)
    refuse_launcher("chash eval --baselines")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="WORLD_SIZE=2"):
        place()
    monkeypatch.setenv("RANK", "1")
    assert place() == (1, 2)
    with pytest.raises(UsageError, match="runs in one process"):
        refuse_launcher("chash eval --baselines")


def test_claim__lets_one_training_at_a_time_write_a_run(tmp_path):
    out = tmp_path / "runs" / "a"
    with Claim(out) as first:
        first.new()
        with Claim(out) as second, pytest.raises(TrainingError, match="another training"):
            second.new()
        (out / "run.json").write_text("{}")
        with Claim(out) as second, pytest.raises(TrainingError, match="another training"):
            second.old()
    with Claim(out) as later:
        later.old()
        with Claim(out) as other, pytest.raises(UsageError, match="the run exists"):
            other.new()
