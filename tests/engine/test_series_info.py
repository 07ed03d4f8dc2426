"""What is recorded of a series, and from which count on its pixels are saturated."""

import numpy as np
import pytest

from live4d_ophyd.engine.series_info import digest, saturation_value
from live4d_ophyd.stream.arrays import EncodedArray
from live4d_ophyd.stream.messages import StartMessage


def start(table=None, **options):
    if table is not None:
        data = np.ascontiguousarray(table)
        options["countrate_correction_lookup_table"] = EncodedArray(
            (len(data),), data.dtype, "", 0, data.tobytes()
        )
        options.setdefault("countrate_correction_enabled", True)
    return StartMessage(series_id=1, **options)


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
    assert saturation_value(message) == value


def test_a_digest_tells_arrays_apart_by_dtype_shape_and_content():
    zeros = np.zeros((2, 3), bool)
    others = [zeros.T, np.zeros((2, 3), np.uint8), np.ones((2, 3), bool)]
    assert len({digest(array) for array in (zeros, *others)}) == 4
    assert digest(zeros) == digest(np.zeros((2, 3), bool))
