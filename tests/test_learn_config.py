import json

import pytest

from concepthash.errors import UsageError
from concepthash.learn.config import Config, difference, load_config


def test_load_config__reads_sections_over_the_defaults(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text('[model]\nbits = 32\n[train]\nlr = 1\ntrackers = ["tensorboard"]\n')
    config = load_config(file)
    assert config.model.bits == 32
    assert config.model.concepts == 4
    assert isinstance(config.train.lr, float)
    assert config.train.trackers == ("tensorboard",)


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("[train]\nepoch = 3", "'epoch'", "'epochs'"),
        ("[modle]\nbits = 3", "'modle'", "'model'"),
        ("[train]\nzzz = 3", "'zzz'", "one of"),
        ("[train]\nepochs = '3'", "not of type int", None),
        ("[train]\nepochs = true", "not of type int", None),
        ("[train]\nprecision = 'fp8'", "fp32", None),
        ("[model]\nbits = 12", "multiple of 8", "--bits"),
        ("train = 3", "table", None),
        ("[train]\nepochs = 0", "at least 1", "train.epochs=1"),
        ("[train]\nlr = nan", "at least 0", "train.lr"),
        ("[data]\nval_share = 2.0", "below 1", "--val"),
        ("[train]\neval_every = 0", "at least 1", "train.eval_every=1"),
        ("[train]\nbatch_size = 1", "at least 2", "train.batch_size=2"),
        ("[model]\nconcept_dim = 100", "8 heads", "concept_heads"),
        ("[data]\ncrop = 300", "at least 300", "data.resize=300"),
        ("[train]\npatience = 2\n[data]\nval_share = 0.0", "early stopping", "--val"),
        ("[train", "cannot read", "bits = 64"),
    ],
)
def test_load_config__says_what_is_wrong(tmp_path, text, what, hint):
    file = tmp_path / "a.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as error:
        load_config(file)
    assert what in error.value.what
    if hint:
        assert hint in (error.value.hint or "")


def test_load_config__missing_file(tmp_path):
    with pytest.raises(UsageError, match="no such"):
        load_config(tmp_path / "none.toml")


def test_load_config__a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match="cannot read the configuration: Is a directory") as error:
        load_config(tmp_path)
    assert error.value.hint == f"ls -l {tmp_path}"


def test_config__json_round_trip():
    config = Config().updated({"model": {"backbone_args": {"depth": 2}}}, where="test")
    again = Config().updated(json.loads(json.dumps(config.to_json())), where="test")
    assert again == config


def test_difference__lists_changed_settings_only():
    old, new = Config(), Config().updated({"train": {"lr": 0.5}, "model": {"bits": 32}}, where="t")
    assert difference(old.to_json(), new.to_json()) == [
        "model.bits: 64 -> 32",
        "train.lr: 0.001 -> 0.5",
    ]
    assert difference(json.loads(json.dumps(old.to_json())), old.to_json()) == []
