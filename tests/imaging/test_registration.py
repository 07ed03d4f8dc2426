"""Registration finds by how far an image is displaced, or says why not: never a number that is not sure."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import ndimage

from live4d_ophyd.imaging.registration import LEAST_CONFIDENCE, Displacement, Reason, displacement, is_empty


def specimen(seed=0, size=160, width=1.5, density=0.02):
    """Blobs at random, (size, size), from 0 on."""
    rng = np.random.default_rng(seed)
    field = np.zeros((size, size))
    count = int(density * size**2)
    np.add.at(field, tuple(rng.integers(0, size, (2, count))), rng.uniform(0.3, 1.0, count))
    return ndimage.gaussian_filter(field, width, mode="wrap")


def view(field, row=0.0, col=0.0, shape=(64, 56), counts=30.0, seed=1):
    """Counts of a raster in the middle of the field; what it shows has moved by (row, col)."""
    y, x = np.indices(shape, float)
    at = [y - row + 48, x - col + 52]
    image = ndimage.map_coordinates(field, at, order=3, mode="grid-wrap")
    return np.random.default_rng(seed).poisson(np.clip(image * counts / field.mean(), 0, None)).astype(float)


@pytest.mark.parametrize("moved", [(0, 0), (1.4, -2.3), (-6.6, 3.3), (0.25, 7.5)])
def test_a_displacement_is_found_to_a_part_of_a_position(moved):
    found = displacement(view(specimen(), *moved, seed=2), view(specimen()), search=8)
    assert found.reason is Reason.FOUND
    assert (found.row, found.col) == pytest.approx(moved, abs=0.1)
    assert found.confidence > 3 * LEAST_CONFIDENCE


def test_one_that_is_far_away_is_found_about_where_it_is_expected():
    far = view(specimen(), -15.4, 17.2, seed=2)
    assert displacement(far, view(specimen()), search=6).reason is not Reason.FOUND
    found = displacement(far, view(specimen()), search=6, about=(-13, 15))
    assert (found.row, found.col) == pytest.approx((-15.4, 17.2), abs=0.1)


def test_missing_rows_are_left_out():
    image, reference = view(specimen(), 2.2, -1.6, seed=2), view(specimen())
    image[30:], reference[:6], reference[20, 7] = np.nan, np.nan, np.nan
    found = displacement(image, reference, search=8)
    assert (found.row, found.col) == pytest.approx((2.2, -1.6), abs=0.15)


def test_a_part_is_found_in_a_whole():
    found = displacement(view(specimen(), 1.3, 0.8, seed=2)[24:48], view(specimen()), 4, about=(-24, 0))
    assert (found.row + 24, found.col) == pytest.approx((1.3, 0.8), abs=0.15)


def test_an_image_that_is_below_0_somewhere_is_compared_as_it_is():
    one, other = view(specimen(), counts=200) - 200, view(specimen(), 3.7, 1.1, counts=200, seed=2) - 200
    found = displacement(other, one, search=8)
    assert (found.row, found.col) == pytest.approx((3.7, 1.1), abs=0.1)


@pytest.mark.parametrize("seed", range(20))
def test_noise_alone_is_uncertain(seed):
    one, other = np.random.default_rng(seed).poisson(15, (2, 64, 64)).astype(float)
    found = displacement(other, one, search=8)
    assert found.reason in (Reason.UNCERTAIN, Reason.TOO_FAR)
    assert np.isnan([found.row, found.col]).all()
    assert found.confidence < LEAST_CONFIDENCE


@pytest.mark.parametrize("seed", range(10))
def test_another_place_is_not_taken_for_this_one(seed):
    found = displacement(view(specimen(seed + 100), seed=2), view(specimen(seed)), search=8)
    assert found.reason in (Reason.UNCERTAIN, Reason.TOO_FAR)


@pytest.mark.parametrize("counts", [0.02, 0.005])
@pytest.mark.parametrize("seed", range(10))
def test_too_few_counts_are_none(counts, seed):
    found = displacement(
        view(specimen(), 1.0, 1.0, counts=counts, seed=seed),
        view(specimen(), counts=counts, seed=99),
        search=8,
    )
    assert found.reason in (Reason.EMPTY, Reason.UNCERTAIN, Reason.TOO_FAR)


def lattice(row=0.0, col=0.0, period=6.0, seed=1):
    y, x = np.indices((64, 64))
    waves = np.cos(2 * np.pi * (y - row) / period) + np.cos(2 * np.pi * (x - col) / period)
    return np.random.default_rng(seed).poisson(30 * (1 + 0.4 * waves)).astype(float)


@pytest.mark.parametrize("period", [5.0, 6.0, 7.3])
def test_a_lattice_is_uncertain_unless_the_search_is_within_half_a_period(period):
    one, other = lattice(period=period), lattice(1.2, -0.7, period=period, seed=2)
    assert displacement(other, one, search=8).reason is Reason.UNCERTAIN
    found = displacement(other, one, search=period / 2 - 0.2)
    assert (found.row, found.col) == pytest.approx((1.2, -0.7), abs=0.1)


def test_what_moved_beyond_the_search_is_too_far_or_uncertain():
    """Not the place at the edge of the search that is most alike."""
    smooth = specimen(width=6)
    found = displacement(view(smooth, 11.0, 0.0, counts=300, seed=2), view(smooth, counts=300), search=5)
    assert found.reason in (Reason.TOO_FAR, Reason.UNCERTAIN)


@pytest.mark.parametrize(
    "nothing",
    [np.full((64, 56), np.nan), np.zeros((64, 56)), np.full((64, 56), 7.0)],
    ids=["missing", "zeros", "constant"],
)  # fmt: skip
def test_an_image_without_anything_in_it_is_empty(nothing):
    assert is_empty(nothing)
    assert displacement(nothing, view(specimen()), 8) == pytest.approx(
        Displacement.none(Reason.EMPTY), nan_ok=True
    )
    assert displacement(view(specimen()), nothing, 8).reason is Reason.EMPTY


def test_fewer_than_8_rows_are_empty():
    image = view(specimen())
    image[7:] = np.nan
    assert displacement(image, view(specimen()), 8).reason is Reason.EMPTY
    assert not is_empty(view(specimen())[:8])


def test_places_that_overlap_too_little_are_too_far():
    found = displacement(view(specimen()), view(specimen(), seed=2), 2, about=(60.0, 0.0))
    assert found.reason is Reason.TOO_FAR


@settings(max_examples=50, deadline=None)
@given(
    npst.arrays(
        np.float64, st.tuples(st.integers(1, 24), st.integers(1, 24)),
        elements=st.one_of(st.just(np.nan), st.floats(-1e12, 1e12)),
    ),
    st.tuples(st.floats(-30, 30), st.floats(-30, 30)),
)  # fmt: skip
def test_whatever_the_image_there_is_a_reason_or_a_displacement_within_the_search(image, about):
    found = displacement(image, view(specimen(), shape=(24, 24)), 4, about)
    if found.reason is Reason.FOUND:
        assert np.hypot(found.row - about[0], found.col - about[1]) < 6
        assert LEAST_CONFIDENCE <= found.confidence <= 1
    else:
        assert np.isnan([found.row, found.col]).all()
