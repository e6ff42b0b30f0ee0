import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from concepthash.codes import CodeLayout, hamming, pack, per_concept, to_hex, unpack
from concepthash.errors import MismatchError, UsageError


@st.composite
def layouts(draw):
    bits = 8 * draw(st.integers(1, 64))
    concepts = draw(st.sampled_from([m for m in range(1, 17) if bits % m == 0]))
    return CodeLayout(bits, concepts)


@given(layouts(), st.integers(0, 2**32 - 1))
def test_pack__bit_j_is_bit_7_minus_j_mod_8_of_byte_j_div_8(layout, seed):
    logits = np.random.default_rng(seed).standard_normal((3, layout.bits))
    codes = pack(logits)
    for row in range(3):
        for j in range(layout.bits):
            assert (codes[row, j // 8] >> (7 - j % 8)) & 1 == (logits[row, j] > 0)
    assert np.array_equal(unpack(codes), logits > 0)


def test_pack__zero_logit_is_a_zero_bit():
    assert pack(np.zeros((1, 8))).tolist() == [[0]]


def test_pack__refuses_a_width_that_is_no_multiple_of_8():
    with pytest.raises(UsageError, match="12 bits"):
        pack(np.zeros((1, 12)))


@given(layouts(), st.integers(0, 2**32 - 1))
def test_hamming__equals_counting_and_splits_by_concept(layout, seed):
    rng = np.random.default_rng(seed)
    a, b = (pack(rng.standard_normal((4, layout.bits))) for _ in range(2))
    expected = (unpack(a)[:, None] != unpack(b)[None]).sum(-1)
    assert np.array_equal(hamming(a, b), expected)
    split = per_concept(a, b, layout)
    assert np.array_equal(split.sum(1), np.diag(expected))
    for m, mask in enumerate(layout.masks()):
        assert np.array_equal(np.diag(hamming(a, b, mask)), split[:, m])


@pytest.mark.parametrize(("bits", "concepts"), [(0, 1), (12, 1), (520, 1), (64, 0), (64, 3)])
def test_layout__refuses_what_cannot_be_shared(bits, concepts):
    with pytest.raises(UsageError):
        CodeLayout(bits, concepts)


def test_check__names_shape_and_width():
    with pytest.raises(MismatchError, match=r"\(n, 8\).*64 bits"):
        CodeLayout(64).check(np.zeros((2, 4), np.uint8))
    assert CodeLayout(16).check(np.zeros(2, np.uint8)).shape == (1, 2)


def test_to_hex__is_the_bytes_in_order():
    assert to_hex(np.array([1, 255], np.uint8)) == "01ff"
