"""Bad pixels in the images: left out, or with their weight on their good neighbours, as the Event says."""

from contextlib import closing

import bluesky.plans as bp
import numpy as np
import pytest
from bluesky import RunEngine
from test_device import DISK, GRID, RING, Documents, expected

from live4d_ophyd import CenterOfMass, Live4D
from live4d_ophyd.testing.small_dcu import encoded, frames, series, start

BAD = [(12, 16), (11, 14), (0, 0)]


@pytest.fixture(scope="module")
def device():
    """One engine for the module; every test connects it to a stream of its own."""
    methods = [DISK, RING, CenterOfMass("com", DISK)]
    device = Live4D("tcp://127.0.0.1:9", name="live4d", scan=GRID, methods=methods, backend="cpu")
    with closing(device):
        yield device


def taken(device, dcu, bad_pixels):
    """Pixels that were sent, and the data of the one Event; the detector's mask has `BAD`."""
    pixels = frames(GRID.frames)
    mask = np.zeros(pixels.shape[1:], np.uint32)
    mask[tuple(zip(*BAD))] = 2
    head = start(7, "U", GRID.frames, channels=["threshold_1"], pixel_mask={"threshold_1": encoded(mask)})
    dcu.send([head, *series(pixels, 7, "U")[1:]])
    docs = Documents()
    device.endpoint.put(dcu.endpoint)
    device.bad_pixels.put(bad_pixels)
    RunEngine({}, call_returns_result=False)(bp.count([device]), docs)
    (event,) = docs.events()
    return pixels.astype(float), event["data"]


def test_their_weight_is_on_their_neighbours(device, dcu):
    pixels, data = taken(device, dcu, "spread")
    bad = set(BAD)
    repaired = pixels.copy()
    for row, col in BAD:
        near = [(r, c) for r in (row - 1, row, row + 1) for c in (col - 1, col, col + 1)]
        near = [at for at in near if at not in bad and min(at) >= 0]
        repaired[:, row, col] = np.mean([pixels[:, r, c] for r, c in near], axis=0)
    np.testing.assert_allclose(data["live4d_vbf"], expected(repaired), rtol=1e-14)
    np.testing.assert_allclose(data["live4d_adf"], expected(repaired, RING), rtol=1e-14)
    rows, cols = np.indices(pixels.shape[1:])
    for what, index, center in (("y", rows, DISK.center[0]), ("x", cols, DISK.center[1])):
        com = expected(repaired * index) / expected(repaired) - center
        np.testing.assert_allclose(data[f"live4d_com_{what}"], com, atol=1e-12)
    assert (data["live4d_bad_pixels"], data["live4d_series_pixels_spread"]) == ("spread", 3)
    assert data["live4d_series_pixels_masked"] == 3


def test_they_are_left_out(device, dcu):
    pixels, data = taken(device, dcu, "exclude")
    pixels[:, [row for row, _ in BAD], [col for _, col in BAD]] = 0
    np.testing.assert_array_equal(data["live4d_vbf"], expected(pixels))
    assert (data["live4d_bad_pixels"], data["live4d_series_pixels_spread"]) == ("exclude", 0)
