"""Points, polygons and masks cover the pixels that they say, once, and refuse what cannot be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.path import Path

from live4d_ophyd.calibration import Calibration
from live4d_ophyd.imaging.drawn_detectors import Mask, Points, Polygon, positions

SHAPE = (20, 28)


def distance(row, col):
    rows, cols = np.indices(SHAPE)
    return np.hypot(rows - row, cols - col)


places = st.tuples(st.floats(0, 19), st.floats(0, 27)).map(lambda at: (round(at[0], 2), round(at[1], 2)))


@given(points=st.lists(places, min_size=1, max_size=6), radius=st.floats(0.75, 9))
def test_points_are_the_pixels_near_any_of_them_each_once(points, radius):
    weights = Points("spots", points, radius=radius).weights(SHAPE)
    assert weights.dtype == np.int64
    expected = np.any([distance(*point) <= radius for point in points], axis=0)
    near = np.any([np.abs(distance(*point) - radius) < 1e-9 for point in points], axis=0)  # either way
    np.testing.assert_array_equal(weights[~near], expected[~near])


def test_a_point_of_half_a_pixel_is_its_pixel():
    assert np.argwhere(Points("spot", [(3, 4)], radius=0.5).weights(SHAPE)).tolist() == [[3, 4]]


@given(corners=st.lists(st.tuples(st.floats(-3, 23), st.floats(-3, 31)), min_size=3, max_size=7))
def test_a_polygon_is_the_pixels_whose_centres_lie_in_it(corners):
    """Against matplotlib's: also concave ones, and those that cross themselves, by the even-odd rule."""
    polygon = Polygon("cell", corners)
    rows, cols = np.indices(SHAPE)
    # matplotlib has the winding rule: a point counts where an odd number of edges crosses a ray from it.
    ends = np.roll(corners, -1, axis=0)
    inside, near = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    for (row, col), (to_row, to_col) in zip(corners, ends):
        triangle = Path([(0, -100), (row, col), (to_row, to_col), (0, -100)])
        inside ^= triangle.contains_points(np.c_[rows.ravel(), cols.ravel()]).reshape(SHAPE)
        for one, other in (((row, col), (to_row, to_col)), ((0, -100), (row, col))):
            along = np.subtract(other, one)
            across = (rows - one[0]) * along[1] - (cols - one[1]) * along[0]
            near |= np.abs(across) <= 1e-6 * max(1, np.hypot(*along))
    if not (inside & ~near).any():
        return
    np.testing.assert_array_equal(polygon.weights(SHAPE)[~near], inside[~near])


def test_polygons_side_by_side_share_no_pixel_and_leave_none_out():
    left, right = (
        Polygon("l", [(2, 3), (2, 9), (12, 9), (12, 3)]),
        Polygon("r", [(2, 9), (2, 15), (12, 15), (12, 9)]),
    )
    both = left.weights(SHAPE) + right.weights(SHAPE)
    np.testing.assert_array_equal(both, Polygon("b", [(2, 3), (2, 15), (12, 15), (12, 3)]).weights(SHAPE))
    assert both.sum() == 10 * 12


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.float32])
def test_a_mask_is_its_array(dtype):
    array = np.zeros(SHAPE, dtype)
    array[5:9, 3:20] = np.arange(17) % 3
    mask = Mask("lattice", array)
    np.testing.assert_array_equal(mask.weights(SHAPE), array)
    first, band = mask.band(SHAPE)
    assert (first, len(band)) == (5, 4)
    assert band.dtype == {"b": bool, "u": np.int64, "i": np.int64, "f": np.float64}[array.dtype.kind]


def test_masks_are_equal_by_their_pixels():
    array = np.eye(4)
    assert Mask("m", array) == Mask("m", array.copy())
    assert hash(Mask("m", array)) == hash(Mask("m", array.copy()))
    assert Mask("m", array) != Mask("m", array * 2)
    assert Mask("m", array) != Mask("n", array)
    assert Mask("m", array) != Mask("m", array.astype(int))
    assert Mask("m", array) != 5


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Points("p", [], radius=1), "points of detector p have the shape .*; expected 1 to 1000"),
        (
            lambda: Points("p", [(1, 2, 3)], radius=1),
            r"have the shape \(1, 3\); expected 1 to 1000 positions",
        ),
        (lambda: Points("p", [(1, float("nan"))], radius=1), "points of detector p are not all finite"),
        (lambda: Points("p", "somewhere", radius=1), "points of detector p are 'somewhere'; expected"),
        (lambda: Points("p", [(1, 2)], radius=0), "radius of detector p is 0 px: expected more than 0"),
        (lambda: Points("p", [(1, 2)], radius=None), "radius of detector p is None: expected a length in px"),
        (lambda: Points("p", [(1, 2)], radius=1, unit="m"), "unit of detector p is 'm'"),
        (lambda: Polygon("p", [(1, 2), (3, 4)]), r"have the shape \(2, 2\); expected 3 to 1000 positions"),
        (lambda: Mask("m", np.zeros(SHAPE)), "array of detector m is 0 everywhere"),
        (
            lambda: Mask("m", np.ones(5)),
            r"array of detector m is an array \(5,\) of float64; expected weights",
        ),
        (lambda: Mask("m", np.full((2, 2), np.nan)), "array of detector m has 4 values that are not finite"),
        (lambda: Mask("m", [[1]]), r"array of detector m is \S+; expected weights|a list of length 1"),
        (lambda: Mask("m", np.ones((2, 2), complex)), "of complex128; expected weights"),
    ],
)
def test_what_cannot_be_is_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_what_does_not_fit_the_frames_is_refused_by_name():
    with pytest.raises(
        ValueError, match=r"array of detector m has the shape \(4, 4\), the frames have \(20, 28\)"
    ):
        Mask("m", np.eye(4)).weights(SHAPE)
    with pytest.raises(
        ValueError, match="point row 25, col 3 of detector p, radius 2 px, has no pixel on a frame of 20"
    ):
        Points("p", [(3, 3), (25, 3)], radius=2).weights(SHAPE)
    with pytest.raises(ValueError, match="detector p has no pixel on a frame of 20 x 28 px"):
        Polygon("p", [(30, 3), (40, 3), (40, 9)]).weights(SHAPE)


def test_positions_may_be_a_text():
    assert positions("it", "[[1, 2.5], [3, 4]]") == ((1.0, 2.5), (3.0, 4.0))


def test_points_in_px_need_no_calibration_and_take_none():
    points = Points("p", [(3, 3)], radius=2)
    assert points.on(SHAPE, Calibration((1, 1), 5, 5)) == points


def test_a_row_of_pixels_on_an_edge_is_in_whatever_the_other_edge_is():
    """2 is no float once it was the middle of 2 and 14.1, less half of what lies between them."""
    weights = Polygon("p", points=((2, 5), (2, 25), (14.1, 25), (14.1, 5))).weights((32, 32))
    assert np.flatnonzero(weights.any(axis=1)).tolist() == list(range(2, 15))


def test_points_reach_as_many_rows_as_each_of_them():
    points = ((39.9, 42.9), (34.7, 36.5), (25.0, 46.6))
    found = Points("p", points=points, radius=1.0).weights((64, 64))
    row, col = np.indices((64, 64))
    expected = np.any([np.hypot(row - y, col - x) <= 1 for y, x in points], axis=0)
    np.testing.assert_array_equal(found, expected)
