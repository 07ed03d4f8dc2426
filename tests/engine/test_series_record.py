"""What is recorded of a series, and from which count on its pixels are saturated."""

import numpy as np
import pytest

from live4d_ophyd.decode import FrameFormat, Saturation
from live4d_ophyd.engine.series_record import SeriesRecord, describe, digest, saturation_value
from live4d_ophyd.frames.encoded_array import EncodedArray
from live4d_ophyd.sources.dectris.header import header_of
from live4d_ophyd.sources.dectris.messages import StartMessage


def start(table=None, **options):
    if table is not None:
        data = np.ascontiguousarray(table)
        options["countrate_correction_lookup_table"] = EncodedArray(
            (len(data),), data.dtype, "", 0, data.tobytes()
        )
        options.setdefault("countrate_correction_enabled", True)
    return StartMessage(series_id=7, **options)


def header(message, channel=""):
    return None if message is None else header_of(message, (message.series_id, 0), channel)


@pytest.mark.parametrize(
    ("message", "value"),
    [
        (None, None),
        (start(), None),
        (start(saturation_value=500), 500),
        (start(saturation_value=0), None),
        (start(np.array([0, 1, 3, 9], "<u4")), 9),
        (start(np.array([0, 1, 3, 9], "<u4"), saturation_value=500), 500),
        (start(np.array([0, 1, 3, 9], "<u4"), countrate_correction_enabled=False), None),
        (start(np.array([0, 1], "<u4")), None),  # a placeholder
        (start(np.array([1, 1.1, 1.3], "<f4")), None),  # factors
        (start(np.array([0, 9, 3], "<u4")), None),
    ],
)
def test_the_count_at_which_a_pixel_is_saturated(message, value):
    assert saturation_value(header(message)) == value


def test_a_digest_tells_arrays_apart_by_dtype_shape_and_content():
    zeros = np.zeros((2, 3), bool)
    others = [zeros.T, np.zeros((2, 3), np.uint8), np.ones((2, 3), bool)]
    assert len({digest(array) for array in (zeros, *others)}) == 4
    assert digest(zeros) == digest(np.zeros((2, 3), bool))


def test_what_is_recorded_is_what_the_start_message_says_and_the_masks_that_were_applied():
    mask, own = np.zeros((2, 3), bool), np.zeros((2, 3), bool)
    mask[0, :2] = own[0, 0] = True
    message = start(
        series_unique_id="A", detector_description="EIGER2", detector_serial_number="E-1", incident_energy=2e5,
        threshold_energy={"threshold_1": 6e4, "threshold_2": 9e4}, count_time=3e-5, frame_time=4e-5,
    )  # fmt: skip
    frame = FrameFormat(2, 3, np.dtype("u2"))
    assert describe(header(message, "threshold_2"), "threshold_2", frame, Saturation(), mask, own) == SeriesRecord(
        unique_id="A", channel="threshold_2", detector="EIGER2 E-1", energy=2e5, threshold=9e4, count_time=3e-5,
        frame_time=4e-5, saturation=65535.0, pixels_masked=2, pixel_mask=digest(mask), detector_mask=digest(own),
    )  # fmt: skip


@pytest.mark.parametrize("message", [None, start()], ids=["no start", "a start of nothing"])
def test_what_nobody_says_is_nan_or_empty(message):
    frame = FrameFormat(2, 3, np.dtype("f4"))
    info = describe(header(message), "", frame, Saturation(), None, None)
    assert {name for name, value in vars(info).items() if value in ("", 0)} == {
        "unique_id", "channel", "detector", "pixels_masked", "pixels_spread", "pixel_mask", "detector_mask",
    }  # fmt: skip
    for name in ("energy", "threshold", "count_time", "frame_time", "saturation"):
        assert np.isnan(getattr(info, name))


def test_a_detector_may_have_a_name_or_a_number_only():
    frame = FrameFormat(2, 3, np.dtype("u2"))
    for message in (start(detector_description="one"), start(detector_serial_number="one")):
        assert describe(header(message), "", frame, Saturation(), None, None).detector == "one"


def test_the_shortest_table_and_a_flat_one_are_tables_of_counts():
    assert saturation_value(header(start(np.array([0, 1, 2], "<u4")))) == 2
    assert saturation_value(header(start(np.array([0, 5, 5], "<u4")))) == 5
    assert saturation_value(header(start(np.array([0, 1, 1], "<u4")))) is None  # below what was measured
    assert saturation_value(header(start(np.array([0, 1, 9], "<i4")))) is None


def test_a_table_that_does_not_decode_is_not_used_and_said(caplog):
    table = EncodedArray((4,), np.dtype("<u4"), "bslz4", 4, b"short")
    message = StartMessage(
        series_id=7, countrate_correction_enabled=True, countrate_correction_lookup_table=table
    )
    assert saturation_value(header(message)) is None
    assert "series 7: the countrate correction table is not used: cannot decode" in caplog.text
