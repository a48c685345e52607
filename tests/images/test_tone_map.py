import concurrent.futures

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rf_jax.errors import InputError
from rf_jax.images.tone_map import TONE_MAPPERS, to_uint8, tone_map

_IMAGES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.just(3)),
    elements=st.floats(-10, 1e6, width=32),
)


@pytest.mark.parametrize(
    ("name", "middle_gray", "white"),
    [
        ("none", 0.18, 1.0),
        ("agx", 0.4614, 0.771),
        ("filmic", 0.5002, 0.807),
        ("pbr_neutral", 0.4113, 0.936),
    ],
)
def test_known_grays(name, middle_gray, white):
    hdr = np.array([[[0.18] * 3, [1.0] * 3]], np.float32)
    np.testing.assert_allclose(tone_map(hdr, name)[0, :, 1], [middle_gray, white], atol=1e-3)


@hypothesis.given(_IMAGES, st.sampled_from(TONE_MAPPERS))
def test_display_values_are_in_range_and_input_stays(hdr, name):
    before = hdr.copy()
    display = tone_map(hdr, name)
    assert display.dtype == np.float32
    assert display.shape == hdr.shape
    assert display.min() >= 0.0
    assert display.max() <= 1.0
    assert not np.shares_memory(display, hdr)
    np.testing.assert_array_equal(hdr, before)


@pytest.mark.parametrize("name", TONE_MAPPERS)
def test_strides_do_not_matter(name):
    hdr = np.random.default_rng(0).random((5, 7, 4), np.float32).transpose(1, 0, 2)[..., :3] * 4
    hdr.setflags(write=False)
    np.testing.assert_array_equal(tone_map(hdr, name), tone_map(np.ascontiguousarray(hdr), name))


@pytest.mark.parametrize("name", TONE_MAPPERS)
def test_brighter_gray_stays_brighter(name):
    ramp = np.linspace(0, 1, 64, dtype=np.float32)
    display = tone_map(np.repeat(ramp[None, :, None], 3, -1), name)
    assert (np.diff(display[0, :, 1]) >= 0).all()


def test_threads_share_a_mapper():
    hdr = np.random.default_rng(1).random((64, 64, 3), np.float32)
    expected = tone_map(hdr, "agx")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for display in pool.map(lambda _: tone_map(hdr, "agx"), range(16)):
            np.testing.assert_array_equal(display, expected)


def test_prints_nothing(capfd):
    for name in TONE_MAPPERS:
        tone_map(np.ones((2, 2, 3), np.float32), name)
    assert capfd.readouterr() == ("", "")


def test_unknown_name_lists_the_known():
    with pytest.raises(InputError, match=r"'aces'.*none, agx, filmic, pbr_neutral"):
        tone_map(np.zeros((2, 2, 3), np.float32), "aces")


@pytest.mark.parametrize("shape", [(2, 2), (2, 2, 4), (1, 2, 2, 3)])
def test_refuses_other_shapes(shape):
    with pytest.raises(InputError, match=r"\[H, W, 3\]"):
        tone_map(np.zeros(shape, np.float32), "none")


@pytest.mark.parametrize("name", TONE_MAPPERS)
def test_refuses_values_that_are_not_finite(name):
    hdr = np.array([[[np.nan, np.inf, 1.0]]], np.float32)
    with pytest.raises(InputError, match="2 of 3"):
        tone_map(hdr, name)


def test_uint8_of_every_level_is_that_level():
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(levels.astype(np.float32) / 255), levels)


@hypothesis.given(st.floats(0, 1, width=32))
def test_uint8_is_the_nearest_level(value):
    assert abs(int(to_uint8(np.float32(value))) - 255 * value) <= 0.5 + 1e-4


def test_uint8_clips():
    np.testing.assert_array_equal(to_uint8(np.array([-1.0, 2.0], np.float32)), [0, 255])
