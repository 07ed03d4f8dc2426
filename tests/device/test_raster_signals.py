"""RasterSignals: the numbers of a raster are in the signals as they are, and NaN where nobody knows them."""

from dataclasses import replace

import numpy as np
import pytest

from live4d_ophyd.device.raster_signals import RasterSignals
from live4d_ophyd.engine.results import Losses, RasterResult
from live4d_ophyd.engine.series_record import SeriesRecord

LOSSES = Losses(expected=12, received=9, lost=2, bad=1, saturated=3)
RECORD = SeriesRecord("01F", "threshold_1", "EIGER2", 2e5, 1e5, 9e-4, 1e-3, 4095.0, 5, "a1", "b2", 4)
RASTER = RasterResult(0, {}, LOSSES, series_id=42, rate_hz=1234.5, backend="cpu", dropped=2, info=RECORD)


@pytest.fixture
def signals():
    return RasterSignals("", name="live4d")


def values(signals):
    return {key.removeprefix("live4d_"): entry["value"] for key, entry in signals.read().items()}


def test_each_number_of_a_raster_is_in_its_signal(signals):
    signals.put_raster(RASTER)
    assert values(signals) == {
        "frames_expected": 12, "frames_received": 9, "frames_lost": 2, "frames_bad": 1, "frames_dropped": 2.0,
        "frames_saturated": 3,
        "frames_recorded": 0, "frames_unrecorded": 0, "recorded_file": "", "series_id": 42, "frame_rate": 1234.5,
        **{f"series_{name}": value for name, value in vars(RECORD).items()},
    }  # fmt: skip


def test_what_is_not_known_of_a_raster_is_nan_also_behind_one_of_which_it_was(signals):
    for raster in (RASTER, replace(RASTER, rate_hz=None, dropped=None)):
        signals.put_raster(raster)
    read = values(signals)
    assert np.isnan([read["frame_rate"], read["frames_dropped"]]).all()
    assert read["frames_received"] == 9


def test_what_was_lost_is_said_and_nothing_where_nothing_was(signals, caplog):
    signals.put_raster(RASTER)
    assert caplog.messages == ["live4d: series 42: 2 of 12 frames lost, 1 bad"]
    caplog.clear()
    signals.put_raster(replace(RASTER, losses=Losses(12, 12, 0, 0)))
    assert caplog.messages == []
