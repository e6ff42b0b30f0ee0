"""The example of a camera loop: on drawn birds, and on a fake camera."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_bundle import tiny_bundle, tiny_codes, tiny_graph

from concepthash.bundle import Artifact, Bundle, extend_bundle
from concepthash.codes import hamming
from concepthash.demo import draw_bird, species
from concepthash.errors import MismatchError
from concepthash.images import Preprocess
from concepthash.runtime import Hasher, index_images

CAMERA = Path(__file__).parents[1] / "examples" / "camera.py"
BITS, CONCEPTS, SIDE = 64, 4, 32
PHOTOS = 6

Run = Callable[[Sequence[object]], list[list[str]]]


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("birds")
    for n, kind in enumerate(species(PHOTOS)):
        place = folder / f"kind{n}"
        place.mkdir()
        draw_bird(kind, seed=n, size=48).image.save(place / "bird.png")
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("b"), bits=BITS, concepts=CONCEPTS, crop=SIDE)


@pytest.fixture(scope="module")
def gallery(birds: Path, bundle: Bundle) -> Path:
    path = bundle.path.with_suffix(".chg")
    assert index_images(birds, path, Hasher(bundle, threads=1)).added == PHOTOS
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """The example with these arguments; its answers, each as label, distance, concepts."""
    main = runpy.run_path(str(CAMERA))["main"]

    def answers(arguments: Sequence[object]) -> list[list[str]]:
        main([str(argument) for argument in arguments])
        return [line.split("  ") for line in capsys.readouterr().out.splitlines()]

    return answers


def test_camera__names_each_frame_of_a_folder_without_opencv(
    monkeypatch: pytest.MonkeyPatch, birds: Path, bundle: Bundle, gallery: Path, run: Run
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)  # an import of it fails
    same = " ".join(f"concept {m}=0" for m in range(CONCEPTS))
    found = run([bundle.path, gallery, "--frames", birds])
    assert found == [[f"kind{n}", "0", same] for n in range(PHOTOS)]


def test_camera__goes_on_after_a_frame_it_cannot_read(
    tmp_path: Path, birds: Path, bundle: Bundle, gallery: Path, run: Run
) -> None:
    (tmp_path / "0.png").write_bytes(b"no photo")
    (tmp_path / "1.png").write_bytes((birds / "kind3" / "bird.png").read_bytes())
    found = run([bundle.path, gallery, "--frames", tmp_path])
    assert found[0][0].startswith("no answer: ")
    assert found[-1][:2] == ["kind3", "0"]


def test_camera__runs_the_precision_that_was_asked_for(
    tmp_path: Path, birds: Path, gallery: Path, run: Run
) -> None:
    whole = tiny_bundle(tmp_path, bits=BITS, concepts=CONCEPTS, crop=SIDE)
    name = "model.int8.onnx"
    other = tiny_graph(BITS, CONCEPTS, SIDE, seed=1)  # other weights, so that it can be told apart
    extend_bundle(whole, {name: other}, [Artifact("onnx", "int8", name)])
    photos = [birds / f"kind{n}" / "bird.png" for n in range(PHOTOS)]
    pixels = np.stack([Preprocess(resize=SIDE, crop=SIDE)(photo) for photo in photos])
    distances = hamming(tiny_codes(pixels, BITS, seed=1), tiny_codes(pixels, BITS)).min(axis=1)
    found = run([whole.path, gallery, "--precision", "int8", "--frames", birds])
    assert [int(answer[1]) for answer in found] == distances.tolist()
    assert distances.min() > 0


def test_camera__refuses_a_gallery_of_another_model(
    tmp_path: Path, birds: Path, gallery: Path, run: Run
) -> None:
    other = tiny_bundle(tmp_path, bits=BITS, concepts=CONCEPTS, crop=SIDE, seed=2)
    with pytest.raises(MismatchError, match="was made with model"):
        run([other.path, gallery, "--frames", birds])


class FakeCamera:
    """A fake of OpenCV's VideoCapture: gives these frames, in the order blue, green, red."""

    def __init__(self, frames: Sequence[np.ndarray]) -> None:
        self._frames = iter(frames)

    def set(self, setting: int, value: int) -> None:
        assert value == 1

    def read(self) -> tuple[bool, np.ndarray | None]:
        frame = next(self._frames, None)
        return frame is not None, frame


def test_camera__turns_the_colours_of_opencv_round(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle, gallery: Path, run: Run
) -> None:
    shown = [draw_bird(kind, seed=n, size=48).image for n, kind in enumerate(species(PHOTOS))]
    frames = [np.asarray(bird.convert("RGB"))[..., ::-1] for bird in shown]
    fake = SimpleNamespace(
        VideoCapture=lambda number: FakeCamera(frames),
        CAP_PROP_BUFFERSIZE=38,
        COLOR_BGR2RGB=4,
        cvtColor=lambda frame, code: np.ascontiguousarray(frame[..., ::-1]),
    )
    monkeypatch.setitem(sys.modules, "cv2", fake)
    found = run([bundle.path, gallery])
    assert [answer[:2] for answer in found] == [[f"kind{n}", "0"] for n in range(PHOTOS)]
