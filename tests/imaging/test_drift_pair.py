"""Two scans at a right angle tell a drift that neither tells alone; what does not fit together is refused by name."""

import numpy as np
import pytest
from scipy import ndimage
from test_registration import specimen

from live4d_ophyd import drift_of_pair
from live4d_ophyd.imaging.registration import Reason

SIDE = 64


def scanned(field, speed, begin, turned=0, counts=40.0, seed=0):
    """Counts of a scan that begins ``begin`` rasters after 0, its fast axis along the columns, or turned."""
    i, j = np.indices((SIDE, SIDE), float) - (SIDE - 1) / 2
    time = (np.arange(SIDE**2).reshape(SIDE, SIDE) / SIDE**2 + begin)[..., np.newaxis]
    at = {0: (i, j), 90: (j, -i), -90: (-j, i)}[turned]
    y, x = np.moveaxis(np.stack(at, axis=-1) - time * speed, -1, 0)
    image = ndimage.map_coordinates(field, [y + 80, x + 80], order=3, mode="grid-wrap")
    expected = np.clip(image * counts / field.mean(), 0, None)
    return np.random.default_rng(seed).poisson(expected).astype(float)


@pytest.mark.parametrize("turned", [90, -90])
@pytest.mark.parametrize("speed", [(0.0, 0.0), (2.1, -1.4), (-1.2, 3.0)])
def test_the_speed_of_a_drift_is_found_and_undone(turned, speed):
    field = specimen(5)
    first, second = scanned(field, speed, 0), scanned(field, speed, 1, turned, seed=1)
    found = drift_of_pair(first, second, turned)
    assert found.reason is Reason.FOUND
    assert found.speed == pytest.approx(speed, abs=0.15)
    assert (found.error < 0.15).all()
    still = scanned(field, (0.0, 0.0), 0, counts=1e5) / 1e5
    inner = np.s_[10:-10, 10:-10]
    moved = np.roll(still, np.round(np.array(speed) / 2).astype(int), (0, 1))  # in the middle of the first

    def like(image):
        return np.corrcoef(image[inner].ravel(), moved[inner].ravel())[0, 1]

    assert like(found.image) > 0.85


def test_a_pair_of_other_places_has_no_speed():
    first, second = scanned(specimen(5), (0, 0), 0), scanned(specimen(6), (0, 0), 1, 90)
    found = drift_of_pair(first, second)
    assert found.reason is not Reason.FOUND
    assert np.isnan(found.speed).all()
    assert np.isnan(found.image).all()


def test_patches_below_the_least_confidence_that_was_asked_for_are_not_used():
    first, second = scanned(specimen(5), (0, 0), 0), scanned(specimen(5), (0, 0), 1, 90, seed=1)
    assert drift_of_pair(first, second).reason is Reason.FOUND
    assert drift_of_pair(first, second, least_confidence=1.0).reason is Reason.UNCERTAIN


@pytest.mark.parametrize("empty", [np.zeros((SIDE, SIDE)), np.full((SIDE, SIDE), np.nan)])
def test_an_empty_image_has_no_speed(empty):
    found = drift_of_pair(scanned(specimen(5), (0, 0), 0), empty)
    assert found.reason is Reason.EMPTY
    assert np.isnan(found.speed).all()


def test_missing_rows_are_left_out():
    field, speed = specimen(5), (1.5, -1.0)
    first, second = scanned(field, speed, 0), scanned(field, speed, 1, 90, seed=1)
    first[50:], second[:6] = np.nan, np.nan
    assert drift_of_pair(first, second).speed == pytest.approx(speed, abs=0.25)


def test_what_is_no_pair_is_refused():
    with pytest.raises(ValueError, match=r"shapes \(64, 64\) and \(64, 40\)"):
        drift_of_pair(np.zeros((64, 64)), np.zeros((64, 40)))
    with pytest.raises(ValueError, match="turned is 45; expected 90 or -90"):
        drift_of_pair(np.zeros((64, 64)), np.zeros((64, 64)), 45)
