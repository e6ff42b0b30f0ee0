"""The engine runner, on a fake TensorRT and a fake CUDA: it was not run on a GPU."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fake_cuda import FakeCudart
from hypothesis import given
from hypothesis import strategies as st
from tensorrt_fakes import BITS, CROP, VERSIONS, FakeTensorRT, tiny_outputs

from concepthash.encoder import DEPTH, Encoder
from concepthash.errors import BackendError, BundleError
from concepthash.runtime.tensorrt import Cuda, EngineEncoder, open_cuda, open_engine

MOST = 4
ENGINE = json.dumps(["image", [[n, CROP, CROP, 3] for n in (1, 2, MOST)]]).encode()


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, CROP, CROP, 3), dtype=np.uint8)


def codes_of(pixels: np.ndarray) -> np.ndarray:
    return tiny_outputs(pixels)["codes"]


class Machine:
    """A fake TensorRT on a fake GPU, and the engine opened on it."""

    def __init__(self, version: str = "11.4") -> None:
        self.trt = FakeTensorRT(version)
        self.cudart = self.trt.memory = FakeCudart()

    def open(self, content: bytes = ENGINE) -> EngineEncoder:
        cuda = Cuda(self.cudart, 1)
        return open_engine(content, trt=self.trt, cuda=cuda, precision="fp32")

    def check_clean(self) -> None:
        assert self.cudart.mistakes == []
        assert self.cudart.live == {}
        assert self.cudart.streams == {}


@pytest.fixture(params=VERSIONS)
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    made = Machine(request.param)
    yield made
    made.check_clean()  # whatever the test did, everything was given back, once


def test_engine__is_an_encoder_that_says_what_runs(machine: Machine) -> None:
    encoder = machine.open()
    assert isinstance(encoder, Encoder)
    assert encoder.backend == f"tensorrt {machine.trt.__version__} NVIDIA Fake 100, fp32"
    assert (encoder.device, encoder.note) == ("cuda:1", None)
    assert (encoder.image_side, encoder.code_bytes, encoder.most) == (CROP, BITS // 8, MOST)
    assert set(machine.cudart.chosen) == {1}
    encoder.close()


@pytest.mark.parametrize("count", [0, 1, MOST - 1, MOST, MOST + 1, 3 * MOST, 3 * MOST + 2])
def test_run__gives_every_output_of_batches_of_any_size(machine: Machine, count: int) -> None:
    encoder = machine.open()
    pixels = images(count)
    found = encoder.run(pixels)
    for name, values in tiny_outputs(pixels).items():
        got = getattr(found, name)
        assert got.shape == values.shape
        assert got.dtype == values.dtype
        np.testing.assert_array_equal(got, values)
    np.testing.assert_array_equal(encoder.codes(pixels), codes_of(pixels))
    encoder.close()


def test_codes__copies_nothing_else_from_the_gpu(machine: Machine) -> None:
    encoder = machine.open()
    encoder.codes(images(MOST + 1))
    downloads = [name for name, _ in machine.cudart.events if name == "download"]
    assert len(downloads) == 2
    encoder.close()


def test_submit__queues_the_next_batch_before_it_waits_for_the_last(machine: Machine) -> None:
    encoder = machine.open()
    batches = [images(MOST, seed) for seed in range(4)]
    under_way = [encoder.submit(batch) for batch in batches[:DEPTH]]
    events = machine.cudart.events
    assert "wait" not in [name for name, _ in events]
    first, second = (stream for name, stream in events if name == "upload")
    assert first != second
    under_way.append(encoder.submit(batches[2]))
    assert events[-4:] == [
        ("wait", first),  # the oldest is read before its memory is used again
        ("upload", first),
        ("compute", first),
        ("download", first),
    ]
    under_way.append(encoder.submit(batches[3]))
    assert events[-4] == ("wait", second)
    for batch, pending in reversed(list(zip(batches, under_way, strict=True))):
        np.testing.assert_array_equal(pending.result(), codes_of(batch))
        np.testing.assert_array_equal(pending.result(), codes_of(batch))
    encoder.close()


def test_submit__takes_a_copy_of_the_pixels(machine: Machine) -> None:
    encoder = machine.open()
    pixels = images(2)
    expected = codes_of(pixels)
    pending = encoder.submit(pixels)
    pixels[:] = 0
    np.testing.assert_array_equal(pending.result(), expected)
    encoder.close()


def test_codes__from_several_threads_at_once(machine: Machine) -> None:
    encoder = machine.open()
    batches = [images(1 + seed % (2 * MOST), seed) for seed in range(24)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(encoder.codes, batches))
    for batch, codes in zip(batches, found, strict=True):
        np.testing.assert_array_equal(codes, codes_of(batch))
    encoder.close()


sizes = st.integers(0, 2 * MOST + 1)
actions = st.tuples(st.sampled_from(["submit", "codes", "run", "keep", "collect"]), sizes)


@given(st.lists(actions, max_size=12))
def test_encoder__any_order_of_calls_gives_the_right_codes(
    calls: list[tuple[str, int]],
) -> None:
    machine = Machine()
    encoder = machine.open()
    under_way = []
    kept = []
    for seed, (action, size) in enumerate(calls):
        pixels = images(size, seed)
        expected = codes_of(pixels)
        if action == "submit":
            under_way.append((expected, encoder.submit(pixels)))
        elif action == "codes":
            np.testing.assert_array_equal(encoder.codes(pixels), expected)
        elif action == "run":
            np.testing.assert_array_equal(encoder.run(pixels).codes, expected)
        elif action == "keep":
            kept.append((expected, encoder.device_codes(pixels)))
        elif under_way:
            wanted, pending = under_way.pop(size % len(under_way))
            np.testing.assert_array_equal(pending.result(), wanted)
    encoder.close()
    for wanted, pending in under_way:  # closing finished them
        np.testing.assert_array_equal(pending.result(), wanted)
    for wanted, codes in kept:  # they are their own memory
        pointer, _ = codes.__cuda_array_interface__["data"]
        content = machine.cudart.read(pointer, wanted.nbytes, "device") if pointer else b""
        assert content == wanted.tobytes()
        del codes
    kept.clear()
    machine.check_clean()


def test_device_codes__stay_on_the_gpu_and_are_freed_with_their_object(machine: Machine) -> None:
    encoder = machine.open()
    before = set(machine.cudart.live)
    codes = encoder.device_codes(images(MOST + 1))
    (own,) = set(machine.cudart.live) - before
    assert "download" not in [name for name, _ in machine.cudart.events]
    assert machine.cudart.events[-1][0] == "wait"  # whoever takes them need not wait
    assert codes.__cuda_array_interface__ == {
        "shape": (MOST + 1, BITS // 8),
        "typestr": "|u1",
        "data": (own, False),
        "strides": None,
        "version": 3,
    }
    assert (len(codes), codes.device) == (MOST + 1, "cuda:1")
    encoder.close()
    assert set(machine.cudart.live) == {own}
    del codes


@pytest.mark.parametrize("call", ["device", "pinned", "stream"])
@pytest.mark.parametrize("works", range(0, 10, 3))
def test_open__without_room_frees_what_it_took(machine: Machine, call: str, works: int) -> None:
    if call == "stream" and works >= DEPTH:
        works = 1
    machine.cudart.failures[call] = works
    with pytest.raises(BackendError, match="out of memory") as caught:
        machine.open()
    assert caught.value.hint is not None
    assert "nvidia-smi" in caught.value.hint


@pytest.mark.parametrize("step", ["context", "address logits"])
def test_open__the_engine_says_no(machine: Machine, step: str) -> None:
    machine.trt.fail = step
    with pytest.raises(BackendError) as caught:
        machine.open()
    assert caught.value.hint


def test_open__refuses_what_is_no_engine(machine: Machine) -> None:
    with pytest.raises(BackendError, match="magic tag does not match"):
        machine.open(b"\0\0damaged")


def test_open__refuses_an_engine_of_another_graph(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tensorrt_fakes.ports", lambda trt: ([], []))
    with pytest.raises(BundleError, match="not a graph of this project"):
        machine.open()


@pytest.mark.parametrize("fails_at", [0, 1, 2, 3, 4])
def test_codes__a_copy_that_fails_is_an_error_and_the_next_batch_works(
    machine: Machine, fails_at: int
) -> None:
    encoder = machine.open()
    machine.cudart.failures["copy"] = fails_at
    with pytest.raises(BackendError, match="copying"):
        encoder.codes(images(3 * MOST))
    del machine.cudart.failures["copy"]
    pixels = images(3, seed=1)
    np.testing.assert_array_equal(encoder.codes(pixels), codes_of(pixels))
    encoder.close()


def test_codes__an_engine_that_does_not_start_says_why(machine: Machine) -> None:
    encoder = machine.open()
    machine.trt.fail = "enqueue"
    with pytest.raises(BackendError, match="inference failed"):
        encoder.codes(images(1))
    encoder.close()


def test_submit__a_failure_on_the_gpu_belongs_to_its_own_batch(machine: Machine) -> None:
    encoder = machine.open()
    first = encoder.submit(images(1))
    second = encoder.submit(images(2, seed=1))
    machine.cudart.failures["wait"] = 0
    third = encoder.submit(images(3, seed=2))  # finds that the first one failed
    del machine.cudart.failures["wait"]
    with pytest.raises(BackendError, match="unspecified launch failure, waiting for the GPU"):
        first.result()
    np.testing.assert_array_equal(second.result(), codes_of(images(2, seed=1)))
    np.testing.assert_array_equal(third.result(), codes_of(images(3, seed=2)))
    encoder.close()


def test_device_codes__are_freed_where_the_gpu_fails(machine: Machine) -> None:
    encoder = machine.open()
    before = len(machine.cudart.live)
    machine.cudart.failures["wait"] = 0
    with pytest.raises(BackendError, match="launch failure"):
        encoder.device_codes(images(1))
    assert len(machine.cudart.live) == before
    encoder.close()


def test_close__twice_and_after_errors(machine: Machine) -> None:
    encoder = machine.open()
    pending = encoder.submit(images(1))
    machine.cudart.failures["wait"] = 0
    encoder.close()
    encoder.close()
    with pytest.raises(BackendError, match="launch failure"):
        pending.result()
    with pytest.raises(BackendError, match="closed"):
        encoder.codes(images(1))


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, CROP, CROP, 3), np.float32),
        np.zeros((1, CROP + 1, CROP, 3), np.uint8),
        np.zeros((CROP, CROP, 3), np.uint8),
    ],
)
def test_codes__refuses_other_pixels(machine: Machine, pixels: np.ndarray) -> None:
    encoder = machine.open()
    with pytest.raises(BackendError, match="the engine takes uint8"):
        encoder.codes(pixels)
    encoder.close()


def test_gpu__without_one_says_where_to_run() -> None:
    with pytest.raises(BackendError, match="no GPU can be used here") as caught:
        Cuda(FakeCudart(driver=False), 0).gpu()
    assert caught.value.hint is not None
    assert "on the machine with the GPU" in caught.value.hint


def test_gpu__is_named_with_its_compute_capability() -> None:
    assert str(Cuda(FakeCudart(), 0).gpu()) == "NVIDIA Fake 100 (compute capability 8.6)"


def test_open_cuda__says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(BackendError, match="cannot be imported") as caught:
        open_cuda()
    assert caught.value.hint is not None
    assert "pip install cuda-bindings" in caught.value.hint


def test_fake_cuda__has_only_names_of_the_real_one() -> None:
    real = pytest.importorskip("cuda.bindings.runtime")
    names = [name for name in vars(FakeCudart) if name.startswith("cuda")]
    assert len(names) > 14
    for name in names:
        assert hasattr(real, name), name
        for member in vars(getattr(FakeCudart, name)) if name.endswith(("Kind", "_t")) else ():
            assert hasattr(getattr(real, name), member), member
    assert {"name", "major", "minor"} <= set(dir(real.cudaDeviceProp))
