import json

import pytest

from concepthash.bundle import MANIFEST, Bundle, Manifest, fingerprint, write_bundle
from concepthash.codes import CodeLayout
from concepthash.errors import BundleError, UsageError
from concepthash.images import Preprocess


def manifest(**changes):
    values = {
        "name": "birds",
        "bits": 64,
        "concepts": 4,
        "preprocessing": Preprocess().to_json(),
        "fingerprint": "f" * 64,
        "backbone": "vit_tiny_patch16_224",
        "class_names": ("wren", "robin"),
        "concept_names": ("head", "wing", "tail", "breast"),
    }
    return Manifest(**(values | changes))


def edit(bundle, **changes):
    file = bundle.path / MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "birds.chb", manifest(), {"model.onnx": b"graph"})


def test_write_bundle__reads_back_equal(bundle):
    again = Bundle.open(bundle.path).manifest
    assert again.class_names == ("wren", "robin")
    assert again.layout == CodeLayout(64, 4)
    assert again.preprocess == Preprocess()
    bundle.verify()
    assert bundle.file("model.onnx").read_bytes() == b"graph"


def test_write_bundle__never_replaces_unasked(bundle):
    with pytest.raises(UsageError, match="exists") as error:
        write_bundle(bundle.path, manifest(), {"model.onnx": b"other"})
    assert error.value.hint == "--force replaces it"
    assert bundle.file("model.onnx").read_bytes() == b"graph"
    write_bundle(bundle.path, manifest(), {"model.onnx": b"other"}, replace=True)
    assert bundle.file("model.onnx").read_bytes() == b"other"
    assert [p.name for p in bundle.path.parent.iterdir()] == ["birds.chb"]


def test_write_bundle__leaves_nothing_after_a_failure(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_bundle(tmp_path / "x.chb", manifest(), {"model.onnx": tmp_path / "none"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format_version": 2}, "format 2"),
        ({"bits": 12}, "not a complete"),
        ({"bit_order": "little"}, "bit order"),
        ({"concept_names": ["one"]}, "1 concept names"),
        ({"preprocessing": {"size": 3}}, "not a complete"),
        ({"files": {"../../secret": "0"}}, "outside the bundle"),
        ({"files": {"engine.plan": "0"}}, "lacks engine.plan"),
    ],
)
def test_open__refuses_a_manifest_that_does_not_hold(bundle, changes, reason):
    edit(bundle, **changes)
    with pytest.raises(BundleError, match=reason):
        Bundle.open(bundle.path)


def test_open__ignores_fields_of_a_later_version(bundle):
    edit(bundle, prototypes=[1, 2])
    assert Bundle.open(bundle.path).manifest.name == "birds"


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_open__refuses_a_damaged_manifest(bundle, text):
    (bundle.path / MANIFEST).write_text(text)
    with pytest.raises(BundleError, match="manifest is damaged") as caught:
        Bundle.open(bundle.path)
    assert "copy the bundle again" in caught.value.hint


def test_open__a_manifest_that_cannot_be_read_is_not_called_damaged(bundle):
    (bundle.path / MANIFEST).unlink()
    (bundle.path / MANIFEST).mkdir()
    with pytest.raises(BundleError, match="cannot read the manifest: Is a directory") as caught:
        Bundle.open(bundle.path)
    assert caught.value.hint == f"ls -l {bundle.path / MANIFEST}"


def test_open__says_what_is_missing(tmp_path, bundle):
    with pytest.raises(BundleError, match="no such bundle"):
        Bundle.open(tmp_path / "none.chb")
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        Bundle.open(tmp_path)


def test_verify__finds_a_changed_file(bundle):
    (bundle.path / "model.onnx").write_bytes(b"grapH")
    with pytest.raises(BundleError, match="sha256"):
        bundle.verify()


def test_fingerprint__depends_on_weights_preprocessing_and_layout():
    base = ("w", Preprocess(), CodeLayout(64, 4))
    others = [
        ("v", *base[1:]),
        ("w", Preprocess(resize=248), base[2]),
        ("w", base[1], CodeLayout(64, 8)),
    ]
    assert len({fingerprint(*base), *(fingerprint(*o) for o in others)}) == 4
