"""``chash eval --baselines``: the features it reads, and the table it prints."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from cli_entry import Chash  # noqa: E402
from tiny_run import TINY_VIT, drawn_birds, tiny_config  # noqa: E402

from concepthash.errors import DataError, Skipped  # noqa: E402
from concepthash.images import Preprocess  # noqa: E402
from concepthash.learn.baselines.features import (  # noqa: E402
    Features,
    read_backbone,
    read_features,
)
from concepthash.learn.data import read_dataset  # noqa: E402
from concepthash.learn.photos import read_photos  # noqa: E402
from concepthash.learn.report import Silent  # noqa: E402
from concepthash.learn.train import train  # noqa: E402

# Features


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn_birds(tmp_path_factory.mktemp("birds") / "drawn")


def tiny_features(data: Path, *, views: int = 2) -> tuple[Features, Skipped]:
    config = tiny_config(data)
    found, skipped = read_dataset(config.data, seed=0), Skipped()
    backbone = read_backbone(config, offline=True, tell=Silent())
    features = read_features(config, found, backbone, views=views, skipped=skipped, tell=Silent())
    return features, skipped


def test_features__are_the_normalised_class_token_of_photos_as_the_runtime_prepares_them(
    birds: Path,
) -> None:
    features, skipped = tiny_features(birds)
    assert not skipped
    config = tiny_config(birds)
    data = read_dataset(config.data, seed=0)
    vit = read_backbone(config, offline=True, tell=Silent()).vit
    for split, found in ((data.train, features.training.plain), (data.test, features.queries)):
        for path, row in zip(split.paths, found, strict=True):
            pixels = Preprocess(48, 48)(data.root / path).astype(np.float32) / 255
            image = torch.from_numpy((pixels - 0.5) / 0.5).permute(2, 0, 1)[None]
            with torch.no_grad():
                x = vit.norm(vit.blocks(vit.norm_pre(vit._pos_embed(vit.patch_embed(image)))))
            assert row == pytest.approx(x[0, 0].numpy(), abs=1e-4)
    assert np.array_equal(features.training.labels, data.train.labels)
    assert np.array_equal(features.query_labels, data.test.labels)


def test_features__of_views_are_augmented_and_follow_from_the_seed(birds: Path) -> None:
    features, _ = tiny_features(birds)
    training = features.training
    assert training.views.shape == (len(training.labels), 3, 32)
    assert not np.isclose(training.views[:, 0], training.views[:, 1]).all(axis=1).any()
    assert not np.isclose(training.views[:, 1], training.views[:, 2]).all(axis=1).any()
    assert np.array_equal(tiny_features(birds)[0].training.views, training.views)
    config = tiny_config(birds)
    backbone = read_backbone(config, offline=True, tell=Silent())
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
    for n, view in ((0, 1), (3, 2), (11, 1)):
        pixels, label = photos[view, n]
        assert training.views[n, view] == pytest.approx(backbone(pixels[None])[0].numpy(), abs=1e-4)
        assert training.labels[n] == int(label)
    alone = tiny_features(birds, views=0)[0].training
    assert np.array_equal(alone.views, training.views[:, :1])
    rows, labels = training.rows
    assert np.array_equal(rows[3:6], training.views[1])
    assert labels[3:6].tolist() == [training.labels[1]] * 3


def test_features__leave_out_photos_that_cannot_be_read(birds: Path, tmp_path: Path) -> None:
    whole, _ = tiny_features(birds)
    data = tmp_path / "birds"
    shutil.copytree(birds, data)
    victims = [sorted(data.glob(f"{split}/*/*.jpg"))[2] for split in ("train", "test")]
    for victim in victims:
        victim.write_bytes(b"no photo")
    features, skipped = tiny_features(data)
    assert {item.path for item in skipped.items} == {
        victim.relative_to(data).as_posix() for victim in victims
    }
    kept = np.delete(np.arange(len(whole.training.labels)), 2)
    assert np.array_equal(features.training.plain, whole.training.plain[kept])
    assert np.array_equal(features.training.labels, whole.training.labels[kept])
    assert np.array_equal(features.queries, np.delete(whole.queries, 2, axis=0))
    assert np.array_equal(features.query_labels, np.delete(whole.query_labels, 2))


def test_features__of_a_split_without_a_readable_photo_are_refused(
    birds: Path, tmp_path: Path
) -> None:
    data = tmp_path / "birds"
    shutil.copytree(birds, data)
    for photo in data.glob("test/*/*.jpg"):
        photo.write_bytes(b"no photo")
    with pytest.raises(DataError, match="test split") as raised:
        tiny_features(data)
    first = next(iter(sorted(data.glob("test/*/*.jpg"))))
    assert raised.value.hint == f"ls -l {first}"


# The command

QUICK = ("--baselines", "--methods", "lsh,ridge,orthohash", "--bits", "8,16", "--seeds", "0,1")


@pytest.fixture(scope="module")
def run(birds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    return train(tiny_config(birds, epochs=1), out).run


@pytest.mark.usefixtures("few_steps")
def test_eval_baselines__of_a_run_has_its_network_and_every_method(
    chash: Chash, birds: Path, run: Path
) -> None:
    arguments = (run, *QUICK, "--views", 2, "--csv", "table.csv", "--threads", 1, "--json")
    result = chash("eval", *arguments)
    assert result.code == 0, result.err
    value = result.json("chash.baselines/1")
    assert [(row["method"], row["bits"]) for row in value["rows"]] == [
        *(("lsh", bits) for bits in (None, 8, 16)),
        *(("ridge", bits) for bits in (None, 8, 16)),
        *(("orthohash", bits) for bits in (8, 16)),
        (f"{tiny_config(birds).model.concept_mode} (tiny)", 16),
    ]
    own = value["rows"][-1]
    plain = chash("eval", run, "--json").json("chash.eval/1")
    assert own["map"]["mean"] == plain["map"]["expected"]
    assert (own["map"]["low"], own["map"]["high"]) == (plain["map"]["low"], plain["map"]["high"])
    assert own["precision_1"]["mean"] == plain["precision"]["1"]
    for key in ("data", "query_size", "database_size", "tie_rule"):
        assert value["protocol"][key] == plain["protocol"][key]
    assert value["protocol"]["views"] == "1 plain, 2 augmented"
    assert (value["target"], value["seeds"]) == (str(run), [0, 1])
    assert value["choices"] == {"data": str(birds)}
    assert len(Path("table.csv").read_text().splitlines()) == 10


def test_eval_baselines__prints_methods_down_and_lengths_across(chash: Chash, run: Path) -> None:
    result = chash("eval", run, "--baselines", "--methods", "pca", "--bits", 8, "--views", 0)
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    assert lines[0] == "mAP 8 bits 16 bits float P@1 seconds what learned"
    assert lines[1].startswith("pca 0.")
    assert lines[2].endswith("- network")


@pytest.mark.usefixtures("few_steps")
def test_eval_baselines__of_photos_takes_the_backbone_that_is_named(
    chash: Chash, birds: Path, run: Path
) -> None:
    inner = ", ".join(f"{key} = {value}" for key, value in TINY_VIT.items())
    settings = "[data]\nresize = 48\ncrop = 48\nworkers = 0\n[model]\nbackbone_args = {" + inner
    Path("chash.toml").write_text(settings + "}\n")
    backbone = ("--backbone", "vit_tiny_patch16_224", "--weights", "none", "--views", 2)
    value = chash("eval", birds, *QUICK, *backbone, "--runs", run, "--json").json(
        "chash.baselines/1"
    )
    own = chash("eval", run, *QUICK, "--views", 2, "--json").json("chash.baselines/1")
    for row in (*value["rows"], *own["rows"]):
        row.pop("seconds")
    assert value["rows"] == own["rows"]  # the same backbone, photos and seed


@pytest.mark.usefixtures("few_steps")
def test_eval_baselines__lists_skipped_photos_once(
    chash: Chash, birds: Path, tmp_path: Path, run: Path
) -> None:
    data = tmp_path / "birds"
    shutil.copytree(birds, data)
    sorted(data.glob("train/*/*.jpg"))[0].write_bytes(b"no photo")
    result = chash("eval", run, *QUICK, "--views", 1, "--data", data, "--json")
    assert result.code == 3
    value = result.json("chash.baselines/1")
    assert len(value["skipped"]) == 1
    assert value["choices"] == {}
    assert value["protocol"]["database_size"] == 11


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--baselines", "--methods", "magic"), "there is no baseline 'magic'"),
        (("--baselines", "--bits", "many"), "try: --bits 16,32,64"),
        (("--baselines", "--seeds", "many"), "try: --seeds 0,1,2"),
        (("--baselines", "--checkpoint", "first"), "try: --checkpoint best"),
        (("--checkpoint", "first"), "try: --checkpoint best"),
        (("--baselines", "--weights", "gone.safetensors"), "try: --weights FILE.safetensors\n"),
        (("--baselines", "--pr-curve", "a.png"), "does not go with --baselines"),
        (("--seeds", "0"), "--seeds belongs to --baselines"),
    ],
)
def test_eval_baselines__says_what_is_wrong(
    chash: Chash, run: Path, arguments: tuple[str, ...], words: str
) -> None:
    result = chash("eval", run, *arguments)
    assert result.code in (1, 2)
    assert result.out == ""
    assert words in result.err


def test_eval__of_a_run_whose_photos_were_moved_asks_where_they_are(
    chash: Chash, birds: Path, run: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "run"
    shutil.copytree(run, moved)
    for name in ("config.json", "run.json"):
        text = (moved / name).read_text()
        assert str(birds) in text
        (moved / name).write_text(text.replace(str(birds), str(tmp_path / "gone")))
    for more in ((), ("--baselines", "--methods", "pca", "--bits", "8", "--seeds", "0")):
        result = chash("eval", moved, *more)
        assert (result.code, result.out) == (2, "")
        assert f"where: {tmp_path / 'gone'}" in result.err
        asked = " ".join(map(str, ("chash eval", moved, *more[:1])))
        assert f"try: {asked} --data FOLDER" in result.err
        assert chash("eval", moved, *more, "--data", birds).code == 0


def test_eval__of_a_run_without_a_test_split_does_not_propose_its_training_photos(
    chash: Chash, birds: Path, run: Path, tmp_path: Path
) -> None:
    every = tmp_path / "run"
    shutil.copytree(run, every)
    text = (every / "config.json").read_text().replace('"test_share": null', '"test_share": 0.0')
    text = text.replace(str(birds), str(birds / "train"))
    (every / "config.json").write_text(text)
    record = (every / "run.json").read_text()
    (every / "run.json").write_text(record.replace(str(birds), str(birds / "train")))
    result = chash("eval", every)
    assert result.code == 1
    assert f"try: chash eval {every} --data FOLDER, with other photos" in result.err
    result = chash("eval", every, "--baselines")
    assert result.code == 1
    assert "try: chash eval PHOTOS --baselines --backbone NAME --weights FILE" in result.err
    result = chash("eval", birds / "train", "--baselines", "--test-share", "0")
    assert "try: --test-share 0.2" in result.err


def test_eval_baselines__hints_at_photos_as_the_target_where_they_were_the_target(
    chash: Chash, birds: Path, tmp_path: Path
) -> None:
    shutil.copytree(birds / "train", tmp_path / "photos" / "all")
    result = chash("eval", tmp_path / "photos", "--baselines")
    assert result.code == 1
    assert f"chash eval --baselines {tmp_path / 'photos' / 'all'}" in result.err


@pytest.mark.usefixtures("few_steps")
def test_eval_baselines__refuses_a_run_of_other_photos(
    chash: Chash, run: Path, tmp_path: Path
) -> None:
    other = drawn_birds(tmp_path / "other", species=4)
    strange = train(tiny_config(other, epochs=1), tmp_path / "strange").run
    result = chash("eval", run, *QUICK, "--runs", strange)
    assert (result.code, result.out) == (2, "")
    assert f"where: {strange}" in result.err
    result = chash("eval", other, "--baselines", "--data", other)
    assert (result.code, result.out) == (2, "")
    assert "named twice" in result.err
