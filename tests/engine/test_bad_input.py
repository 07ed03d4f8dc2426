"""What an operator may ask for, or a detector send, that is odd: each has a result that can be told beforehand."""

import json
from contextlib import closing

import numpy as np
import pytest

from live4d_ophyd.engine import Acquisition, AcquisitionRequest
from live4d_ophyd.engine.acquisition import OpenStream
from live4d_ophyd.engine.recorded_settings import settings_in
from live4d_ophyd.imaging.center_of_mass import CenterOfMass
from live4d_ophyd.imaging.dpc import DPC, IDPC
from live4d_ophyd.imaging.drawn_detectors import Mask
from live4d_ophyd.imaging.virtual_detectors import Annulus, Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.testing.small_dcu import frames, series

GRID = ScanGrid(6, 5)
DISK = Disk("bf", center=(12, 16), radius=6)
COM = CenterOfMass("com", Disk("all", center=(12, 16), radius=11))


@pytest.fixture
def pixels():
    return frames(GRID.frames)


def take(dcu, messages, *methods, **options):
    dcu.send(messages)
    request = AcquisitionRequest(DectrisSource(dcu.endpoint), GRID, methods, timeout=20.0, **options)
    with closing(OpenStream(request.source)) as stream:
        (raster,) = Acquisition(request, stream).run()
    return raster


def sums(pixels, detector):
    return (pixels * detector.weights(pixels.shape[1:])).sum(axis=(1, 2)).reshape(GRID.shape)


def test_detectors_that_overlap_each_count_all_of_their_pixels(dcu, pixels):
    ring, inside = Annulus("adf", center=(12, 16), inner=4, outer=9), Disk("small", (12, 16), radius=2)
    raster = take(dcu, series(pixels), DISK, ring, inside)
    for detector in (DISK, ring, inside):
        np.testing.assert_array_equal(raster.outputs[detector.name], sums(pixels, detector))


def test_a_detector_of_which_all_pixels_are_masked_is_refused_by_name(dcu, pixels):
    mask = np.zeros((24, 32), bool)
    mask[2:23, 6:27] = True
    with pytest.raises(ValueError, match="every pixel of detector bf is masked or has a gain of 0"):
        take(dcu, series(pixels), Disk("edge", center=(1, 30), radius=1), DISK, pixel_mask=mask)


@pytest.mark.parametrize("kind", ["pixel_mask", "gain", "detector"])
def test_an_array_of_another_shape_than_the_frames_is_refused_with_both_shapes(dcu, pixels, kind):
    array = np.ones((20, 20), bool)
    methods = (Mask("drawn", array),) if kind == "detector" else (DISK,)
    options = {} if kind == "detector" else {kind: array.astype(float) if kind == "gain" else array}
    with pytest.raises(ValueError, match=r"20(, | x )20.*24(, | x )32"):
        take(dcu, series(pixels), *methods, **options)


def test_a_detector_without_a_pixel_is_refused():
    with pytest.raises(ValueError, match="drawn"):
        Mask("drawn", np.zeros((24, 32), bool))


def test_frames_without_counts_have_no_centre_and_leave_the_others_alone(dcu, pixels):
    pixels[7] = 0
    raster = take(dcu, series(pixels), DISK, COM, DPC("dpc"), IDPC("idpc"))
    outputs = raster.outputs
    assert outputs["bf"].flat[7] == outputs["com_sum"].flat[7] == 0
    for name in ("com_y", "com_x", "dpc_angle", "dpc_magnitude"):
        assert np.flatnonzero(np.isnan(outputs[name])).tolist() == [7], name
    assert np.isfinite(np.delete(outputs["idpc"].ravel(), 7)).all()
    assert (raster.losses.received, raster.losses.bad) == (30, 0)


def test_missing_rows_are_nan_in_every_image_and_counted(dcu, pixels):
    messages = series(pixels)
    del messages[1 + 10 : 1 + 20]  # behind the start: rows 2 and 3
    raster = take(dcu, messages, DISK, COM, DPC("dpc"), IDPC("idpc"))
    assert (raster.losses.received, raster.losses.lost) == (20, 10)
    for name in ("bf", "com_sum", "com_y", "com_x", "dpc_angle", "dpc_magnitude", "idpc"):
        rows = np.isnan(raster.outputs[name]).all(axis=1)
        assert np.flatnonzero(rows).tolist() == [2, 3], name
        assert np.isfinite(raster.outputs[name][[0, 1, 4, 5]]).all(), name


def test_methods_in_a_file_that_are_nested_too_deep_are_not_known():
    notes = json.loads('{"methods": {"bf": ' + '{"method": ' * 900 + "1" + "}" * 902)
    found = settings_in(notes, pixels=1)
    assert found.methods is None
    assert "recursion" in found.why_no_methods
