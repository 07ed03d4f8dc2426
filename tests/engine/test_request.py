"""An acquisition that cannot be is refused where it is asked for, with what was expected."""

from dataclasses import replace

import numpy as np
import pytest

from live4d_ophyd.engine import AcquisitionRequest
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.control import Simplon
from live4d_ophyd.sources.dectris.source import DectrisSource

GRID = ScanGrid(3, 4)
DISK = Disk("vbf", center=(12, 16), radius=6)
SOURCE = DectrisSource("tcp://dcu:31001", simplon=Simplon("http://dcu"))
GOOD = AcquisitionRequest(SOURCE, GRID, (DISK,))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.5, 0, -1, 10**9, 17, True, "2", None])
def test_connections_are_a_whole_number_from_1_to_16(value):
    with pytest.raises(ValueError, match=r"connections is .*; expected a whole number from 1 to 16"):
        replace(SOURCE, connections=value)


def test_connections_are_counted_over_all_addresses():
    two = "tcp://dcu:31001, tcp://dcu:31002"
    assert len(replace(SOURCE, endpoint=two, connections=8).addresses) == 2
    with pytest.raises(ValueError, match=r"connections is 9; expected a whole number from 1 to 8"):
        replace(SOURCE, endpoint=two, connections=9)
    with pytest.raises(ValueError, match=r"17 addresses; expected at most 16 connections"):
        replace(SOURCE, endpoint=",".join(["tcp://dcu:31001"] * 17))


@pytest.mark.parametrize("value", [1.5, 0, np.nan, "3", None, 10**30])
def test_rasters_are_a_whole_number(value):
    with pytest.raises(ValueError, match=r"rasters is .*; expected a whole number from 1"):
        replace(GOOD, rasters=value)


@pytest.mark.parametrize("value", [np.inf, np.nan, 0, -1.0, 1e9, "10", None, True])
def test_times_are_positive_and_not_absurd(value):
    with pytest.raises(ValueError, match=r"timeout is .* s; it must be positive and at most 86400 s"):
        replace(GOOD, timeout=value)
    if value is not None and value != 1e9:
        with pytest.raises(ValueError, match=r"dwell time is .*, or NaN to leave it"):
            replace(GOOD, frame_time=value)


@pytest.mark.parametrize("name", ["nodata", "stay_armed"])
@pytest.mark.parametrize("value", ["no", 0, None])
def test_switches_are_true_or_false(name, value):
    with pytest.raises(ValueError, match=rf"{name} is .*; expected True or False"):
        replace(GOOD, **{name: value})


@pytest.mark.parametrize(
    "mask", [[[0, 1], [1, 0]], np.zeros((2, 3, 3), bool), np.zeros(3, bool), np.zeros((3, 3)), "mask.tif"]
)
def test_a_pixel_mask_is_an_array_of_bool_or_integers(mask):
    with pytest.raises(ValueError, match=r"pixel_mask is .*; expected a NumPy array"):
        replace(GOOD, pixel_mask=mask)


@pytest.mark.parametrize("gain", [[[1.0]], np.ones((3, 3), complex), np.ones(3), np.ones((2, 3, 3)), 2.0])
def test_a_gain_is_an_array_of_real_numbers(gain):
    with pytest.raises(ValueError, match=r"gain is .*; expected a NumPy array"):
        replace(GOOD, gain=gain)


@pytest.mark.parametrize("factor", [1e308, -1e308])
def test_a_gain_that_would_overflow_is_refused(factor):
    gain = np.ones((3, 3))
    gain[1, 1] = factor
    with pytest.raises(ValueError, match=r"gain has a factor of 1e\+308; expected at most 1e\+12"):
        replace(GOOD, gain=gain)


@pytest.mark.parametrize(
    "endpoint",
    [None, "", "dcu:31001", "tcp://dcu", "tcp://:31001", "tcp://dcu:99999", "tcp://dcu:0", "http://dcu:80",
     "tcp://dcu:31001,", "tcp://dcu:31001 tcp://dcu:31002", 31001],
)  # fmt: skip
def test_an_endpoint_is_one_or_several_addresses(endpoint):
    with pytest.raises(ValueError, match=r"endpoint is .*; expected a"):
        replace(SOURCE, endpoint=endpoint)


@pytest.mark.parametrize(
    "endpoint",
    ["tcp://dcu:31001", "tcp://10.0.0.5:31001, tcp://10.0.0.6:31001", "tcp://[fe80::1%eth0]:31001",
     "tcp://10.0.0.1:0;10.0.0.5:31001", "ipc:///run/stream"],
)  # fmt: skip
def test_addresses_that_zmq_knows_are_taken(endpoint):
    assert replace(SOURCE, endpoint=endpoint).endpoint == endpoint


@pytest.mark.parametrize("channel", [None, 1, b"threshold_1"])
def test_a_channel_is_a_text(channel):
    with pytest.raises(ValueError, match=r"channel is .*; expected a text"):
        replace(SOURCE, channel=channel)


def test_a_series_has_a_number_of_images_that_fits_into_memory():
    with pytest.raises(ValueError, match=r"1 rasters of 1048576 x 1048576 positions are"):
        replace(GOOD, grid=ScanGrid(1 << 20, 1 << 20))
    with pytest.raises(ValueError, match=r"100 rasters of 4096 x 4096 positions are 1677721600 frames"):
        replace(GOOD, grid=ScanGrid(4096, 4096), rasters=100)
    with pytest.raises(ValueError, match=r"1 images of 16384 x 16384 positions are larger than the 800 MiB"):
        replace(GOOD, grid=ScanGrid(16384, 16384))
    with pytest.raises(ValueError, match=r"grid is .*; expected a ScanGrid"):
        replace(GOOD, grid=(3, 4))


def test_numbers_of_numpy_become_plain_ones():
    request = replace(GOOD, rasters=np.int32(3), timeout=np.float32(5), nodata=np.True_)
    assert [type(v) for v in (request.rasters, request.timeout, request.nodata)] == [int, float, bool]
    assert type(replace(SOURCE, connections=np.int64(2)).connections) is int
