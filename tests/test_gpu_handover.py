"""Codes from ONNX Runtime to torch without a copy, on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from colour_bundle import LAYOUT, SIDE, colour_bundle, colour_logits

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from concepthash.bundle import MODEL  # noqa: E402
from concepthash.codes import pack  # noqa: E402
from concepthash.errors import BackendError, UsageError  # noqa: E402
from concepthash.gpu import TorchSearcher, codes_on_device  # noqa: E402
from concepthash.runtime import HammingIndex, Session, open_session  # noqa: E402


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return open_session(colour_bundle(tmp_path).file(MODEL), device="cpu", threads=1)


def photos(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 32, (count, 1, 1, 3), dtype=np.uint8)
    return np.broadcast_to(levels, (count, SIDE, SIDE, 3)).copy()


def test_handover__the_codes_of_the_graph_in_a_tensor(session: Session) -> None:
    pixels = photos(6)
    expected = pack(colour_logits(pixels))
    view = torch.from_numpy(pixels.transpose(1, 2, 3, 0).copy()).permute(3, 0, 1, 2)
    for given in (pixels, pixels[:, ::-1][:, ::-1], torch.from_numpy(pixels), view):
        codes = codes_on_device(session, given, LAYOUT)
        assert codes.dtype == torch.uint8
        assert str(codes.device) == session.device
        np.testing.assert_array_equal(codes.numpy(), expected)
    assert len(np.unique(expected, axis=0)) > 1


def test_handover__straight_into_the_search(session: Session) -> None:
    gallery = pack(colour_logits(photos(9)))
    index = HammingIndex(LAYOUT.bits, LAYOUT.concepts)
    index.add(gallery)
    ours = TorchSearcher.of(index, device="cpu")
    hits = ours.search(codes_on_device(session, photos(3), LAYOUT), 2)
    np.testing.assert_array_equal(hits.ids, index.search(gallery[:3], 2).ids)


def test_handover__wrong_pixels(session: Session) -> None:
    with pytest.raises(UsageError, match=r"not torch\.float32"):
        codes_on_device(session, torch.zeros((1, SIDE, SIDE, 3)), LAYOUT)
    with pytest.raises(BackendError, match="inference failed"):
        codes_on_device(session, torch.zeros((1, SIDE, SIDE, 4), dtype=torch.uint8), LAYOUT)
