import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

pytest.importorskip("onnx")
from concepthash.export.rounding import Equaliser, Range, choose_range, round_weights

VALUES = arrays(
    np.float32,
    st.tuples(st.integers(1, 40), st.integers(1, 8)),
    elements=st.floats(-50, 50, width=32),
)


@settings(deadline=None)
@given(VALUES, st.booleans())
def test_range__zero_stays_zero_and_the_rest_within_half_a_step(x, symmetric):
    grid = choose_range(x, symmetric=symmetric)
    low, high = ((q - grid.zero) * grid.step for q in grid.limits)
    assert np.all(grid.round(np.zeros((1, 1), np.float32)) == 0)
    inside = (x >= low) & (x <= high)
    assert np.all(np.abs(grid.round(x) - x)[inside] <= grid.step * 0.5001)
    assert np.all((grid.round(x) >= low - 1e-3) & (grid.round(x) <= high + 1e-3))
    if symmetric:
        assert grid.zero == 0


def test_choose_range__cuts_a_rare_outlier_and_keeps_a_plain_spread():
    rng = np.random.default_rng(0)
    plain = rng.uniform(-1, 1, (4000, 4)).astype(np.float32)
    for symmetric in (True, False):
        grid = choose_range(plain, symmetric=symmetric)
        assert (grid.limits[1] - grid.zero) * grid.step == pytest.approx(1, rel=0.06)
        normal = rng.normal(size=(20_000, 4)).astype(np.float32)
        grid = choose_range(normal, symmetric=symmetric)
        assert (grid.limits[1] - grid.zero) * grid.step < normal.max() * 0.96


def test_choose_range__of_nothing_but_zeros():
    assert choose_range(np.zeros((3, 2), np.float32), symmetric=False) == Range(1.0, 0, False)


@settings(deadline=None)
@given(VALUES, st.booleans(), st.integers(0, 9))
def test_equaliser__is_the_same_function_with_other_weights(x, shift, seed):
    weights = np.random.default_rng(seed).normal(size=(x.shape[1], 3))
    equal = Equaliser.of(x.min(axis=0), x.max(axis=0), shift=shift)
    found = equal(x).astype(float) @ (weights * equal.scale[:, None]) + equal.shift @ weights
    assert np.allclose(found, x @ weights, rtol=1e-3, atol=1e-3 * max(1, np.abs(x).max()))


def test_equaliser__gives_all_channels_one_range():
    x = np.random.default_rng(0).normal(size=(500, 5)) * [1, 10, 200, 0.1, 3] + [0, 5, 0, 0, -9]
    x = x.astype(np.float32)
    equal = Equaliser.of(x.min(axis=0), x.max(axis=0), shift=True)(x)
    assert np.allclose(equal.max(axis=0), -equal.min(axis=0), rtol=1e-4)
    assert np.allclose(equal.max(axis=0), equal.max(), rtol=1e-4)
    gelu = np.maximum(x, -0.17)
    equal = Equaliser.of(gelu.min(axis=0), gelu.max(axis=0), shift=False)(gelu)
    assert equal.min() >= -equal.max() / 4 * 1.001


def test_round_weights__beats_rounding_to_the_nearest_where_inputs_go_together():
    rng = np.random.default_rng(0)
    inputs = (rng.normal(size=(2000, 6)) @ rng.normal(size=(6, 80))).astype(np.float32)
    weights = rng.normal(size=(80, 30)).astype(np.float32)
    rounded, steps = round_weights(weights, inputs)
    nearest = np.round(weights / steps)

    def error(values):
        return np.square(inputs @ (values * steps) - inputs @ weights).mean()

    assert rounded.dtype == np.int8
    assert np.abs(rounded).max() <= 127
    assert error(rounded.astype(np.float32)) < 0.2 * error(nearest)


def test_round_weights__leaves_what_is_on_the_grid_and_takes_channels_that_are_never_used():
    rng = np.random.default_rng(0)
    grid = rng.integers(-127, 128, (12, 5))
    grid[0] = 127
    inputs = rng.normal(size=(50, 12)).astype(np.float32)
    inputs[:, 3] = 0
    rounded, steps = round_weights((grid * 0.5).astype(np.float32), inputs)
    assert np.array_equal(rounded, grid)
    assert np.allclose(steps, 0.5)
    silent, _ = round_weights(np.zeros((12, 5), np.float32), np.zeros_like(inputs))
    assert not silent.any()
