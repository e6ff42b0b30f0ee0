from dataclasses import replace

import numpy as np
import pytest

from concepthash.bundle import FIRST_ARTIFACT, Artifact
from concepthash.codes import CodeLayout, pack
from concepthash.encoder import Encoded, InThread
from concepthash.errors import GateError, UsageError
from concepthash.export.blame import Blame
from concepthash.export.parity import (
    Reference,
    check,
    check_outputs,
    compare,
    faults,
    gate,
)
from concepthash.limits import LIMITS, Limits

LAYOUT = CodeLayout(16, 2)
FP32, INT8 = LIMITS["fp32"], LIMITS["int8"]
INT8_ARTIFACT = Artifact("onnx", "int8", "model.int8.onnx")


class FakeEncoder(InThread):
    """A fake: logits are a fixed product with the pixels, plus what ``wrong`` adds to them."""

    backend, device, note, image_side, code_bytes = "fake", "cpu", None, 4, 2

    def __init__(self, wrong=lambda pixels: 0.0):
        super().__init__()
        self.weights = np.random.default_rng(0).normal(size=(48, 16)).astype(np.float32)
        self.wrong = wrong

    def run(self, pixels):
        flat = pixels.reshape(len(pixels), -1).astype(np.float32) / 255 - 0.5
        logits = (flat @ self.weights + self.wrong(pixels)).astype(np.float32)
        return Encoded(pack(logits), logits, np.zeros((len(pixels), 2, 1, 1), np.float32))

    def codes(self, pixels):
        return self.run(pixels).codes


def photos(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)


def reference(count=40, unseen=0):
    labels = np.arange(count) % 4
    return Reference.of(
        FakeEncoder(),
        photos(count),
        labels,
        unseen=photos(unseen, 1),
        drawn=photos(3, 2),
        layout=LAYOUT,
    )


def test_compare__counts_flips_margins_and_ranks():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((20, 16)).astype(np.float32)
    labels = np.arange(20) % 4
    same = compare(pack(logits), logits, labels, layout=LAYOUT, backend="x")
    assert (same.bits_flipped, same.largest_margin, same.top10_overlap) == (0, 0, 1)
    assert sum(same.margins.values()) == 0
    assert faults(same, FP32) == []
    changed = logits.copy()
    changed[3, 12] *= -1
    parity = compare(pack(changed), logits, labels, layout=LAYOUT, backend="x")
    assert parity.bits_flipped == pytest.approx(1 / 320)
    assert parity.per_concept == (0, pytest.approx(1 / 160))
    assert parity.largest_margin == pytest.approx(abs(logits[3, 12]))
    [(bound, count)] = [item for item in parity.margins.items() if item[1]]
    assert count == 1
    assert bound.startswith(">") or parity.largest_margin <= float(bound.removeprefix("<="))


def test_faults__each_limit_is_one():
    logits = np.random.default_rng(0).standard_normal((20, 16)).astype(np.float32)
    same = compare(pack(logits), logits, np.arange(20) % 4, layout=LAYOUT, backend="x")
    rounding = {"largest_margin": 1e-5, "bits_flipped": 1e-4, "top10_overlap": 0.999}
    assert faults(replace(same, **rounding), FP32) == []
    for worse in (
        {"bits_flipped": 0.5},
        {"top10_overlap": 0.1},
        {"largest_margin": np.nan},
        {"map_delta": -0.006},
        {"mates": 1},
    ):
        assert len(faults(replace(same, **{**rounding, **worse}), FP32)) == 1
    assert faults(replace(same, bits_flipped=0.0099, largest_margin=3.0), INT8) == []
    assert faults(replace(same, bits_flipped=0.0101), INT8) != []


def test_gate__says_what_where_and_which_layers():
    logits = np.random.default_rng(0).standard_normal((20, 16)).astype(np.float32)
    parity = compare(pack(-logits), logits, np.arange(20) % 4, layout=LAYOUT, backend="x")
    worst = [Blame("encoder.blocks.7.mlp.fc2", 0.44, 0.03), Blame("encoder.blocks.0.x", 0.1, 0.1)]
    with pytest.raises(GateError, match="nothing was written") as caught:
        gate(INT8_ARTIFACT, parity, INT8, where="here", worst=worst)
    assert "blocks.7.mlp.fc2 44%, blocks.0.x 10%" in caught.value.what
    assert "--keep-fp32" in str(caught.value.hint)
    with pytest.raises(GateError) as caught:
        gate(FIRST_ARTIFACT, parity, FP32, where="here")
    assert "chash doctor" in str(caught.value.hint)


def test_limits__from_text():
    assert INT8.updated("bits=0.5%, map=0.01") == Limits(bits=0.005, map=0.01)
    assert INT8.updated("") == INT8
    assert INT8.updated("margin=2,overlap=100%") == Limits(bits=0.01, margin=2, overlap=1)
    for text in (
        "bits",
        "bits=x",
        "byts=1",
        "bits=-1",
        "map=inf",
        "bits=nan",
        "overlap=1.5",
        "bits=101%",
    ):
        with pytest.raises(UsageError, match="limit"):
            INT8.updated(text)


def test_compare__one_photo_a_class_has_no_map():
    logits = np.random.default_rng(0).standard_normal((6, 16)).astype(np.float32)
    parity = compare(pack(logits), logits, np.arange(6), layout=LAYOUT, backend="x")
    assert parity.map_delta == 0


def test_check__the_same_encoder_is_the_same():
    found = check(FakeEncoder(), reference(unseen=7))
    assert (found.bits_flipped, found.mates, found.unseen_bits_flipped) == (0, 0, 0)
    assert found.drawn_bits_flipped == 0
    assert check(FakeEncoder(), reference()).unseen_bits_flipped is None


def test_check__sees_codes_that_depend_on_the_batch():
    """The fault of dynamic quantisation: a scale that comes from the whole batch."""
    encoder = FakeEncoder(lambda pixels: pixels.astype(np.float32).std() / 100 * (len(pixels) > 1))
    found = check(encoder, reference())
    assert found.mates > 0
    assert any("batch" in text for text in faults(found, Limits(bits=1)))


def test_check__counts_unseen_photos_apart():
    known = {photo.tobytes() for photo in photos(40)}

    def wrong(pixels):
        return np.array([[0.0] if p.tobytes() in known else [9.0] for p in pixels])

    found = check(FakeEncoder(wrong), reference(unseen=7))
    assert found.bits_flipped == 0
    assert found.unseen_bits_flipped > 0.2
    assert found.drawn_bits_flipped > 0.2


def test_check_outputs__sees_what_the_codes_do_not():
    check_outputs(FakeEncoder(), reference(), where="here")
    for wrong in (0.02, np.nan):
        encoder = FakeEncoder(lambda pixels, wrong=wrong: wrong)
        with pytest.raises(GateError, match="logits"):
            check_outputs(encoder, reference(), where="here")
