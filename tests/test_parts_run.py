"""Mode parts from photos to a bundle: a real training at the smallest size."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file  # noqa: E402
from tiny_run import drawn_birds, parts_config, tiny_config  # noqa: E402

from concepthash.decode import decode_batches  # noqa: E402
from concepthash.errors import DataError, UsageError  # noqa: E402
from concepthash.images import Preprocess  # noqa: E402
from concepthash.learn.checkpoint import Run  # noqa: E402
from concepthash.learn.config import TrainConfig  # noqa: E402
from concepthash.learn.data import read_dataset  # noqa: E402
from concepthash.learn.discovery import discover_parts  # noqa: E402
from concepthash.learn.photos import TrainingPhotos, augmentation  # noqa: E402
from concepthash.learn.report import Silent  # noqa: E402
from concepthash.learn.train import train  # noqa: E402
from concepthash.learn.views import collate_views, encode_views  # noqa: E402


class Notes(Silent):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    return drawn_birds(tmp_path_factory.mktemp("birds") / "drawn")


@pytest.fixture(scope="module")
def run(birds, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    return train(parts_config(birds, folder / "vit.safetensors"), folder / "a")


def state(path):
    return Run.open(path).load("last").state_dict()


def test_train__keeps_the_maps_it_found_and_trains_the_last_blocks(run):
    frozen = load_file(run.run / "frozen.safetensors")
    learned = load_file(run.run / "last.safetensors")
    assert any(name.startswith("encoder.blocks.0.") for name in frozen)
    assert any(name.startswith("encoder.stem.") for name in frozen)
    assert {name.split(".")[2] for name in learned if name.startswith("encoder.blocks.")} == {"2"}
    assert learned["encoder.part_maps.prototypes"].norm(dim=1) == pytest.approx([1, 1], abs=1e-5)
    assert run.evaluation is not None


def test_train__parts_two_runs_with_one_seed_are_equal(run, birds, tmp_path):
    config = parts_config(birds, tmp_path / "vit.safetensors")
    again = train(config, tmp_path / "b")
    one, two = state(run.run), state(again.run)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_train__parts_resumes_to_the_same_network(run, birds, tmp_path, monkeypatch):
    from concepthash.learn.loop import Trainer

    config = parts_config(birds, tmp_path / "vit.safetensors")
    whole = Trainer._epoch

    def stop(self, *args):
        if self.epoch == 1:
            raise KeyboardInterrupt
        return whole(self, *args)

    monkeypatch.setattr(Trainer, "_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "b")
    monkeypatch.undo()
    train(config, tmp_path / "b", resume=True)
    one, two = state(run.run), state(tmp_path / "b")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_train__views_that_do_not_fit_train_the_same_network_but_for_rounding(run, birds, tmp_path):
    config = parts_config(birds, tmp_path / "vit.safetensors")
    notes = Notes()
    train(config.updated({"data": {"cache_mb": 0}}, where="test"), tmp_path / "b", reporter=notes)
    assert any("encoded each epoch" in note for note in notes.notes)
    one, two = state(run.run), state(tmp_path / "b")
    assert all(torch.allclose(one[name], two[name], atol=2e-3) for name in one)
    assert not all(torch.equal(one[name], two[name]) for name in one)  # float16 was used
    other = train(config.updated({"train": {"views": 0}}, where="test"), tmp_path / "c")
    three = state(other.run)
    assert not all(torch.allclose(one[name], three[name], atol=2e-3) for name in one)


def test_encode_views__gives_what_the_network_makes_of_the_same_pixels(run):
    photos = TrainingPhotos(
        [torch.randint(0, 256, (3, 60, 80), dtype=torch.uint8) for _ in range(3)],
        np.array([2, 0, 1]),
        transform=augmentation(TrainConfig(), 48),
        short_side=64,
        seed=0,
    )
    network = Run.open(run.run).load("last").eval()
    views = encode_views(
        network.encoder, photos, views=2, workers=0, budget=2**20, reporter=Silent()
    )
    assert views is not None
    assert len(views) == 3
    keys = [(0, 0), (0, 2), (1, 1)]
    seen, labels = collate_views([views[key] for key in keys])
    pixels, same = map(torch.stack, zip(*[photos[key] for key in keys], strict=True))
    assert torch.equal(labels, same)
    with torch.inference_mode():
        found, expected = network.of_patches(*seen), network(pixels)
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=0.02)
    torch.testing.assert_close(found.features, expected.features, rtol=0, atol=0.02)


def test_train__parts_needs_pretrained_weights(birds, tmp_path):
    config = tiny_config(birds).updated({"model": {"concept_mode": "parts"}}, where="test")
    with pytest.raises(UsageError, match="pretrained") as caught:
        train(config, tmp_path / "c")
    assert "--concept-mode paper" in str(caught.value)


def test_discover_parts__names_a_photo_where_none_can_be_read(run, birds, tmp_path):
    split = read_dataset(Run.open(run.run).config.data, seed=0).train
    with pytest.raises(DataError, match="no training photo can be read") as raised:
        discover_parts(
            Run.open(run.run).load("last"),
            tmp_path,
            split,
            Preprocess(48, 48),
            area=0.4,
            seed=0,
            reporter=Silent(),
        )
    assert raised.value.hint == f"ls -l {tmp_path / split.paths[0]}"


def test_export__parts_bundle_has_the_network_s_maps_and_background(run):
    pytest.importorskip("onnx")
    from concepthash.export.bundle import export_bundle
    from concepthash.runtime.hasher import Hasher

    result = export_bundle(run.run, force=True)
    assert result.checked[0].parity.bits_flipped == 0
    hasher = Hasher(result.bundle)
    opened = Run.open(run.run)
    model = opened.load()
    photos = sorted(Path(opened.data_config().root).rglob("train/*/*.jpg"))[:5]
    batch = next(iter(decode_batches(photos, hasher.preprocess)))
    found = hasher.encode(batch.pixels)
    with torch.inference_mode():
        expected = model(torch.from_numpy(batch.pixels))
    np.testing.assert_allclose(found.attention, expected.maps.numpy(), atol=1e-4)
    assert found.background is not None
    np.testing.assert_allclose(found.background, expected.background.numpy(), atol=1e-4)
    np.testing.assert_allclose(found.attention.sum(axis=1) + found.background, 1, atol=1e-4)
