import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from tiny_run import drawn_birds, tiny_config  # noqa: E402

from concepthash.errors import (  # noqa: E402
    BackendError,
    CheckpointError,
    DataError,
    UsageError,
)
from concepthash.learn.checkpoint import Run  # noqa: E402
from concepthash.learn.config import Config, TrainConfig  # noqa: E402
from concepthash.learn.optimise import learning_rate  # noqa: E402
from concepthash.learn.photos import EpochSampler, TrainingPhotos, augmentation  # noqa: E402
from concepthash.learn.report import Silent  # noqa: E402
from concepthash.learn.setup import without_effect  # noqa: E402
from concepthash.learn.train import train  # noqa: E402


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    return drawn_birds(tmp_path_factory.mktemp("birds") / "drawn")


@pytest.fixture(scope="module")
def run(birds, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "a"
    return train(tiny_config(birds), out)


def weights(path):
    return Run.open(path).load("last").state_dict()


def test_train__writes_a_whole_run(run):
    names = {p.name for p in run.run.iterdir()}
    assert names >= {
        "config.json",
        "run.json",
        "embeddings.npy",
        "frozen.safetensors",
        "best.safetensors",
        "last.safetensors",
        "state.safetensors",
        "metrics.jsonl",
        "skipped.json",
        "eval.json",
    }
    assert not any(name.endswith((".pt", ".pkl", ".bin", ".tmp")) for name in names)
    lines = [json.loads(line) for line in (run.run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert {"total", "classification", "val_map", "images_per_s", "lr"} <= set(lines[0])
    report = json.loads((run.run / "eval.json").read_text())
    assert report["schema"] == "chash.eval/1"
    assert report["protocol"]["query_size"] == 12
    assert run.evaluation is not None
    assert report["map"]["expected"] == run.evaluation.map.expected


def test_train__two_runs_with_one_seed_are_equal(run, birds, tmp_path):
    again = train(tiny_config(birds), tmp_path / "b")
    one, two = weights(run.run), weights(again.run)
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = train(tiny_config(birds, seed=1), tmp_path / "c")
    assert not torch.equal(one["head.hash.weight"], weights(other.run)["head.hash.weight"])


def test_train__workers_do_not_change_the_result(run, birds, tmp_path):
    config = tiny_config(birds)
    config = config.updated({"data": {"workers": 1}}, where="test")
    one, two = weights(run.run), weights(train(config, tmp_path / "b").run)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_resume__after_an_interruption_equals_an_unbroken_run(run, birds, tmp_path):
    class Interrupt:
        def note(self, text):
            pass

        def progress(self, stage, done, total):
            if stage.startswith("epoch 2/"):
                raise KeyboardInterrupt

        def metrics(self, values):
            pass

    out = tmp_path / "b"
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(birds), out, reporter=Interrupt())
    assert json.loads((out / "last.json").read_text())["epoch"] == 1
    with (out / "metrics.jsonl").open("a") as file:  # as a pulled plug may leave it
        file.write('{"epo')
    train(tiny_config(birds), out, resume=True)
    one, two = weights(run.run), weights(out)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2


class StopsAt(Silent):
    """Interrupts when a stage begins, and keeps the notes."""

    def __init__(self, stage):
        self.stage = stage
        self.notes = []

    def note(self, text):
        self.notes.append(text)

    def progress(self, stage, done, total):
        if stage.startswith(self.stage):
            raise KeyboardInterrupt


def test_train__names_the_settings_its_concept_mode_does_not_read(birds, tmp_path):
    config = tiny_config(birds)
    assert without_effect(config) == []
    changes = {"model": {"object_area": 0.3, "part_dim": 64}, "loss": {"diversity": 1.0}}
    stop = StopsAt("reading photos")
    with pytest.raises(KeyboardInterrupt):
        train(config.updated(changes, where="test"), tmp_path / "run", reporter=stop)
    said = "settings without effect in mode paper: model.object_area, model.part_dim"
    assert said in stop.notes
    parts = Config().updated(
        {**changes, "model": {"object_area": 0.3, "freeze": False, "concept_dim": 64}}, where="test"
    )
    assert without_effect(parts) == ["model.freeze", "model.concept_dim", "loss.diversity"]


def test_train__interrupted_in_the_first_epoch_says_what_begins_it_again(run, birds, tmp_path):
    out, stop = tmp_path / "a run", StopsAt("epoch 1/")
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(birds), out, reporter=stop)
    assert stop.notes[-1].endswith(f"begins again: chash train --resume --out '{out}'")
    assert "before an epoch was finished" in stop.notes[-1]
    with pytest.raises(UsageError, match="exists") as refused:
        train(tiny_config(birds), out)
    assert "--resume" in (refused.value.hint or "")
    train(tiny_config(birds), out, resume=True)
    one, two = weights(run.run), weights(out)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_train__interrupted_before_it_is_recorded_begins_again_with_the_same_command(
    birds, tmp_path
):
    out, stop = tmp_path / "run", StopsAt("reading photos")
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(birds), out, reporter=stop)
    assert stop.notes[-1].endswith("the same command begins again")
    train(tiny_config(birds, epochs=1), out)


def test_train__interrupted_at_the_evaluation_keeps_the_epochs(birds, tmp_path):
    out, stop = tmp_path / "run", StopsAt("hashing")
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(birds, epochs=1), out, reporter=stop)
    assert "finished epochs are kept: chash train --resume --out" in stop.notes[-1]
    assert train(tiny_config(birds, epochs=1), out, resume=True).evaluation is not None


@pytest.mark.parametrize("settings", [{"optimizer": "sgd"}, {"accumulate": 2}])
def test_resume__is_exact_with_other_optimisation_too(settings, birds, tmp_path):
    whole = train(tiny_config(birds, epochs=3, **settings), tmp_path / "a").run
    config = tiny_config(birds, epochs=3, **settings)

    class Stop(Silent):
        def metrics(self, values):
            if values["epoch"] == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "b", reporter=Stop())
    train(config, tmp_path / "b", resume=True)
    one, two = weights(whole), weights(tmp_path / "b")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_train__begins_again_where_a_run_was_killed_before_it_was_recorded(birds, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.json").write_text("{}")
    (out / ".frozen.safetensors.4711.tmp").write_bytes(b"half")  # killed while it was written
    train(tiny_config(birds, epochs=1), out)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(UsageError, match="not empty"):
        train(tiny_config(birds), tmp_path / "other")


def test_train__evaluates_the_best_checkpoint_not_the_last(birds, tmp_path):
    result = train(tiny_config(birds, epochs=6, lr=0.05), tmp_path / "a")
    lines = [json.loads(line) for line in (result.run / "metrics.jsonl").read_text().splitlines()]
    best = max(lines, key=lambda line: line["val_map"])
    assert json.loads((result.run / "best.json").read_text())["epoch"] == best["epoch"]
    report = json.loads((result.run / "eval.json").read_text())
    assert report["protocol"]["checkpoint"] == f"best, epoch {best['epoch']}"


def test_train__validates_every_few_epochs_and_at_the_end(birds, tmp_path):
    result = train(tiny_config(birds, epochs=5, eval_every=2), tmp_path / "a")
    lines = [json.loads(line) for line in (result.run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if "val_map" in line] == [2, 4, 5]


def test_train__without_a_test_split_there_is_no_evaluation(birds, tmp_path):
    config = tiny_config(birds / "train", epochs=1)
    config = config.updated({"data": {"test_share": 0.0}}, where="test")
    result = train(config, tmp_path / "a")
    assert result.evaluation is None
    assert not (tmp_path / "a" / "eval.json").exists()


def test_train__strict_covers_the_test_photos(birds, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(birds, data)
    victim = next(iter(sorted(data.glob("test/*/*.jpg"))))
    victim.write_bytes(victim.read_bytes()[:100])
    config = tiny_config(data, epochs=1).updated({"data": {"strict": True}}, where="test")
    with pytest.raises(DataError, match="decode"):
        train(config, tmp_path / "a")


def test_train__notes_test_photos_that_are_in_the_train_split(birds, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(birds, data)
    photo = next(iter(sorted(data.glob("train/*/*.jpg"))))
    shutil.copy(photo, data / "test" / photo.parent.name / "copy.jpg")
    notes = []

    class Notes(Silent):
        def note(self, text):
            notes.append(text)

    train(tiny_config(data, epochs=1), tmp_path / "a", reporter=Notes())
    assert any("1 test photos are also in the train split" in note for note in notes)


def test_train__bf16_trains_on_the_cpu_and_fp16_is_refused(birds, tmp_path):
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        train(tiny_config(birds, precision="fp16"), tmp_path / "a")


def test_resume__refuses_a_changed_configuration(run, birds):
    with pytest.raises(UsageError, match=r"train\.lr: 0\.001 -> 0\.5"):
        train(tiny_config(birds, lr=0.5), run.run, resume=True)


def test_train__never_overwrites_a_run(run, birds):
    with pytest.raises(UsageError, match="exists"):
        train(tiny_config(birds), run.run)


def test_resume__needs_a_run(birds, tmp_path):
    with pytest.raises(CheckpointError, match="not a training run"):
        train(tiny_config(birds), tmp_path / "none", resume=True)


def test_train__stops_early(birds, tmp_path):
    result = train(tiny_config(birds, epochs=30, lr=0.0, patience=2), tmp_path / "a")
    best = json.loads((result.run / "best.json").read_text())["epoch"]
    assert result.epochs == best + 2


def test_train__lists_and_skips_a_corrupt_photo(birds, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(birds, data)
    victim = next(iter(sorted(data.glob("train/*/*.jpg"))))
    victim.write_bytes(victim.read_bytes()[:100])
    config = tiny_config(data, epochs=1).updated({"data": {"val_share": 0.0}}, where="test")
    result = train(config, tmp_path / "a")
    assert [item.path for item in result.skipped.items] == [victim.relative_to(data).as_posix()]
    assert json.loads((tmp_path / "a" / "skipped.json").read_text())
    strict = config.updated({"data": {"strict": True}}, where="test")
    with pytest.raises(DataError, match="decode"):
        train(strict, tmp_path / "b")


def test_train__refuses_one_photo_under_two_labels(birds, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(birds, data)
    first, second, *_ = sorted((data / "train").iterdir())
    shutil.copy(next(first.glob("*.jpg")), second / "copy.jpg")
    with pytest.raises(DataError, match="two labels"):
        train(tiny_config(data), tmp_path / "a")


def test_train__refuses_cuda_where_there_is_none(birds, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    with pytest.raises(BackendError, match="CUDA"):
        train(tiny_config(birds, device="cuda"), tmp_path / "a")


def test_run__names_a_damaged_file(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run.run, copy)
    (copy / "last.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(CheckpointError, match="damaged"):
        Run.open(copy).load("last")
    (copy / "run.json").write_text("{}")
    with pytest.raises(CheckpointError, match="format None"):
        Run.open(copy)


def test_sampler_and_photos__depend_on_seed_epoch_and_position_alone():
    sampler = EpochSampler(10, seed=3)
    first = list(sampler)
    sampler.epoch = 1
    assert sorted(i for _, i in first) == list(range(10))
    assert [i for _, i in first] != [i for _, i in sampler]
    assert {view for view, _ in sampler} == {1}
    in_turn = EpochSampler(10, seed=3, views=2)
    in_turn.epoch = 3
    assert {view for view, _ in in_turn} == {1}
    in_turn.epoch = 4
    assert {view for view, _ in in_turn} == {0}
    photo = torch.randint(0, 256, (3, 60, 80), dtype=torch.uint8)
    photos = TrainingPhotos(
        [photo, photo],
        np.array([0, 1]),
        transform=augmentation(TrainConfig(augment="trivial"), 32),
        short_side=64,
        seed=0,
    )
    state = torch.get_rng_state()
    a, label = photos[(0, 1)]
    assert a.shape == (32, 32, 3)
    assert a.dtype == torch.uint8
    assert int(label) == 1
    assert torch.equal(a, photos[(0, 1)][0])
    assert not torch.equal(a, photos[(1, 1)][0])
    assert not torch.equal(a, photos[(0, 0)][0])
    assert torch.equal(state, torch.get_rng_state())


def test_learning_rate__warms_up_and_falls_to_0():
    config = TrainConfig(epochs=10, warmup_epochs=2)
    rates = [learning_rate(e / 10, config) for e in range(101)]
    assert rates[0] < 0.01
    assert max(rates) == pytest.approx(1, abs=0.01)
    assert rates[-1] == pytest.approx(0)
    assert rates[20:] == sorted(rates[20:], reverse=True)


def test_train__decodes_photos_beyond_the_cache_each_epoch(run, birds, tmp_path):
    config = tiny_config(birds).updated({"data": {"cache_mb": 0}}, where="test")
    one, two = weights(run.run), weights(train(config, tmp_path / "b").run)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_train__names_the_class_that_lost_all_its_photos(birds, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(birds, data)
    victim = sorted((data / "train").iterdir())[1]
    for photo in victim.iterdir():
        photo.write_bytes(photo.read_bytes()[:100])
    with pytest.raises(DataError, match=victim.name.replace("_", " ")):
        train(tiny_config(data), tmp_path / "run")


def test_train__writes_tensorboard_when_asked(birds, tmp_path):
    pytest.importorskip("tensorboard")
    train(tiny_config(birds, epochs=1, trackers=["tensorboard"]), tmp_path / "run")
    assert list((tmp_path / "run").rglob("events.out.tfevents.*"))
    with pytest.raises(UsageError, match="unknown tracker 'excel'"):
        train(tiny_config(birds, trackers=["excel"]), tmp_path / "other")
