"""Virtual detectors cover the pixels their geometry says, and refuse geometry that makes no sense."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from live4d_ophyd.imaging.registry import to_dict
from live4d_ophyd.imaging.virtual_detectors import ADF, HAADF, Annulus, Disk, weight_maps

SHAPE = (96, 128)


def distance(center, shape=SHAPE):
    rows, cols = np.indices(shape)
    return np.hypot(rows - center[0], cols - center[1])


def test_a_disk_is_the_pixels_within_its_radius():
    weights = Disk("vbf", (40.3, 61), radius=12.5).weights(SHAPE)
    assert weights.dtype == np.int64
    np.testing.assert_array_equal(weights, distance((40.3, 61)) <= 12.5)


def test_an_annulus_leaves_its_inner_edge_out_and_takes_its_outer_one():
    weights = Annulus("adf", (40, 60), inner=5, outer=10).weights(SHAPE)
    assert weights.dtype == np.int64
    assert weights[40, 65] == 0
    assert weights[40, 66] == weights[40, 70] == 1
    assert weights[40, 71] == 0


def test_disk_and_annulus_around_it_share_no_pixel_and_leave_none_out():
    inner = Disk("vbf", radius=20).weights(SHAPE)
    outer = Annulus("adf", inner=20, outer=40).weights(SHAPE)
    np.testing.assert_array_equal(inner + outer, Disk("all", radius=40).weights(SHAPE))


def test_the_default_centre_is_the_middle_of_the_frame():
    for shape in ((96, 96), (97, 64)):
        weights = Disk("vbf", radius=11).weights(shape)
        np.testing.assert_array_equal(weights, weights[::-1, ::-1])


def test_a_soft_edge_is_linear_over_one_pixel():
    weights = Disk("vbf", (40.2, 60.7), radius=12.0, soft=True).weights(SHAPE)
    assert weights.dtype == np.float64
    np.testing.assert_allclose(weights, np.clip(12.5 - distance((40.2, 60.7)), 0, 1))
    assert abs(weights.sum() - np.pi * 12**2) < 2


def test_a_soft_ring_thinner_than_its_edges_still_has_its_area():
    ring = Annulus("ring", (40, 60), inner=20, outer=20.4, soft=True).weights(SHAPE)
    assert ring.min() >= 0
    assert ring.sum() == pytest.approx(np.pi * (20.4**2 - 20**2), rel=0.05)


positions = st.floats(-8, 30).map(lambda x: round(2 * x) / 2)


@given(
    center=st.one_of(st.none(), st.tuples(positions, positions)),
    sizes=st.tuples(st.integers(0, 30), st.integers(1, 40)).map(lambda s: (s[0] / 2, (s[0] + s[1]) / 2)),
    soft=st.booleans(),
    disk=st.booleans(),
)
def test_weights_are_those_of_the_definition_wherever_a_detector_lies(center, sizes, soft, disk):
    shape, (inner, outer) = (9, 17), sizes
    away = distance((4, 8) if center is None else center, shape)

    def within(radius):
        return np.clip(radius - away + 0.5, 0, 1) if soft else (away <= radius).astype(float)

    expected = within(outer) if disk else within(outer) - within(inner)
    sizes = {"radius": outer} if disk else {"inner": inner, "outer": outer}
    detector = (Disk if disk else Annulus)("d", center, **sizes, soft=soft)
    if not expected.any():
        with pytest.raises(ValueError, match="has no pixel"):
            detector.weights(shape)
        return
    weights = detector.weights(shape)
    assert weights.dtype == (np.float64 if soft else np.int64)
    np.testing.assert_allclose(weights, expected, atol=1e-12)
    first, band = detector.band(shape)
    assert first <= np.flatnonzero(expected.any(axis=1))[0]
    assert first + len(band) > np.flatnonzero(expected.any(axis=1))[-1]


def test_a_tall_detector_is_a_disk_on_all_of_its_rows():
    weights = Disk("vbf", (150, 40), radius=140).weights((300, 80))
    np.testing.assert_array_equal(weights, distance((150, 40), (300, 80)) <= 140)


def test_numbers_of_any_kind_are_kept_as_floats():
    disk = Disk("a", (np.float32(1.5), 2), radius=np.int64(3), soft=np.True_)
    ring = Annulus("b", inner=np.int32(0), outer=4)
    assert (disk.center, disk.radius, disk.soft) == ((1.5, 2.0), 3.0, True)
    kinds = [type(x) for x in (*disk.center, disk.radius, disk.soft, ring.inner, ring.outer)]
    assert kinds == [float, float, float, bool, float, float]
    assert disk.soft is True
    assert Disk("a", radius=0.25).radius == 0.25


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Disk("my disk", radius=3), "detector name 'my disk'"),
        (lambda: Disk("", radius=3), "identifier"),
        (lambda: Disk("vbf", radius=0), "radius of detector vbf is 0 px"),
        (lambda: Disk("vbf", radius=float("nan")), "radius of detector vbf is nan"),
        (lambda: Disk("vbf", (1, float("inf")), radius=3), r"center of detector vbf is \(1, inf\)"),
        (lambda: Disk("vbf", (1, 2, 3), radius=3), r"expected \(row, col\)"),
        (lambda: Disk(3, radius=3), "detector name 3: expected an identifier"),
        (lambda: Disk("vbf", ("1", 2), radius=3), r"expected \(row, col\)"),
        (lambda: Disk("vbf", (1,), radius=3), r"expected \(row, col\)"),
        (lambda: Disk("vbf", radius=-1), "radius of detector vbf is -1 px: expected more than 0"),
        (lambda: Disk("vbf", radius=True), "radius of detector vbf is True: expected a length in px"),
        (lambda: Disk("vbf", radius="3"), "radius of detector vbf is '3': expected a length in px"),
        (lambda: Disk("vbf", radius=float("inf")), "radius of detector vbf is inf: expected a length"),
        (lambda: Disk("vbf", radius=3, soft=1), "soft of detector vbf is 1: expected True or False"),
        (lambda: Annulus("adf", inner=float("nan"), outer=4), "inner of detector adf is nan"),
        (lambda: Annulus("adf", inner=1, outer="4"), "outer of detector adf is '4'"),
        (lambda: Annulus("adf", inner=4, outer=4), "from 4 to 4 px"),
        (lambda: Annulus("adf", inner=-1, outer=4), "0 <= inner < outer"),
    ],
)
def test_impossible_detectors_are_refused(make, reason):
    with pytest.raises(ValueError, match=reason):
        make()


def test_a_detector_beside_the_frame_is_refused():
    with pytest.raises(
        ValueError, match=r"vbf \(center row 200, col 5, radius 9 px\) has no pixel .* 96 x 128 px"
    ):
        Disk("vbf", (200, 5), radius=9).weights(SHAPE)


def test_an_annulus_beside_the_frame_is_named_with_its_sizes():
    words = r"detector adf \(center row 200.5, col 5, inner 1 px, outer 2.5 px\) has no pixel on a frame of 96 x 128"
    with pytest.raises(ValueError, match=words):
        Annulus("adf", (200.5, 5), inner=1, outer=2.5).weights(SHAPE)


def test_a_detector_as_plain_values():
    assert to_dict(Disk("a", radius=3)) == {
        "kind": "disk", "name": "a", "center": None, "soft": False, "radius": 3.0, "unit": "px", "enabled": True,
    }  # fmt: skip
    assert to_dict(Annulus("b", (1, 2), inner=3, outer=4, soft=True)) == {
        "kind": "annulus", "name": "b", "center": [1.0, 2.0], "soft": True, "inner": 3.0, "outer": 4.0,
        "unit": "px", "enabled": True,
    }  # fmt: skip
    with pytest.raises(ValueError, match="'disk' is no imaging method: it has no name"):
        to_dict("disk")


def test_hard_edges_give_integer_weights_and_one_soft_edge_floats():
    hard, soft = Disk("a", radius=9), Disk("b", radius=9, soft=True)
    assert weight_maps([hard], SHAPE).integer
    assert not weight_maps([hard, soft], SHAPE).integer
    assert not weight_maps([hard], SHAPE, gain=np.ones(SHAPE)).integer


def test_bad_pixels_weigh_nothing_and_gain_multiplies():
    mask = np.zeros(SHAPE, np.uint32)
    mask[48, 64] = 4  # bit 2: under-responding
    gain = np.random.default_rng(0).normal(1, 0.03, SHAPE)
    gain[48, 64] = np.nan
    gain[0, 0] = np.inf  # on no detector
    disk = Disk("a", radius=9)
    maps = weight_maps([disk], SHAPE, pixel_mask=mask, gain=gain).maps
    expected = np.where((disk.weights(SHAPE) == 1) & (mask == 0), gain, 0)
    np.testing.assert_array_equal(maps[0], expected)
    assert weight_maps([disk], SHAPE, pixel_mask=mask).maps.sum() == disk.weights(SHAPE).sum() - 1


def test_masks_and_gains_that_cannot_be_used_are_refused():
    disk = Disk("a", radius=9)
    with pytest.raises(ValueError, match=r"pixel_mask of shape \(3, 3\)"):
        weight_maps([disk], SHAPE, pixel_mask=np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"gain of shape \(3, 3\) for frames of \(96, 128\) px"):
        weight_maps([disk], SHAPE, gain=np.ones((3, 3)))
    with pytest.raises(ValueError, match="every pixel of detector a is masked or has a gain of 0"):
        weight_maps([disk], SHAPE, gain=np.zeros(SHAPE))
    with pytest.raises(ValueError, match="every pixel of detector a is masked"):
        weight_maps([disk], SHAPE, pixel_mask=np.ones(SHAPE, bool))
    with pytest.raises(ValueError, match="gain of 1 good pixels of detector a is not finite"):
        weight_maps([disk], SHAPE, gain=np.where(distance((48, 64)) == 0, np.nan, 1))
    with pytest.raises(ValueError, match="no virtual detector"):
        weight_maps([], SHAPE)


def test_a_small_detector_on_a_large_frame_takes_memory_for_itself():
    """Not for 18 million pixels: that is what makes it fast."""
    shape = (4362, 4148)
    tracemalloc.start()
    try:
        weights = weight_maps([Disk("a", (2000, 1000), radius=100), Annulus("b", inner=50, outer=90)], shape)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20e6
    rows, cols = np.ogrid[1900:2101, 900:1101]
    inside = np.hypot(rows - 2000, cols - 1000) <= 100
    bits = np.unpackbits(weights.plan.masks[1], bitorder="little")[: shape[0] * shape[1]].reshape(shape)
    np.testing.assert_array_equal(bits[1900:2101, 900:1101], inside)
    assert bits.sum() == inside.sum()


def test_dark_fields_begin_where_the_one_before_ends():
    assert ADF() == Annulus("adf", inner=1.2, outer=3.0, unit="bf")
    assert HAADF() == Annulus("haadf", inner=3.0, outer=8.0, unit="bf")
    assert ADF("far", outer=4.0).outer == 4.0
