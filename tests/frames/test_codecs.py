"""What a few compressed bytes can become at the most: nothing that detectors send is beyond it."""

import numpy as np
import pytest
import zstandard

from live4d_ophyd.frames.codecs import BY_NAME, MOST, OTHER_ALGORITHM, most_of
from live4d_ophyd.frames.encoded_array import EncodedArray
from live4d_ophyd.sim.compress import compress


@pytest.mark.parametrize("algorithm", ["bslz4", "lz4"])
@pytest.mark.parametrize("value", [0, 255])
def test_an_empty_frame_of_a_large_detector_is_plausible(algorithm, value):
    frame = np.full((2048, 2048), value, "<u2")
    for block_bytes in (8192, 65520):
        data = compress(frame, algorithm, block_bytes)
        assert EncodedArray(frame.shape, frame.dtype, algorithm, 2, data).plausible


@pytest.mark.parametrize("block_bytes", [8192, 131072])
def test_an_empty_frame_in_zstandard_is_plausible(block_bytes):
    block = zstandard.ZstdCompressor(level=19).compress(bytes(block_bytes))
    assert block_bytes <= most_of("bszstd") * (4 + len(block))


@pytest.mark.parametrize("algorithm", [*BY_NAME, "unheard of"])
def test_28_bytes_are_no_large_detector(algorithm):
    assert not EncodedArray((8192, 8192), np.dtype("<u2"), algorithm, 2, bytes(28)).plausible


def test_the_table_has_all_numbers():
    assert len(MOST) == OTHER_ALGORITHM + 1
    assert [MOST[codec.number] for codec in BY_NAME.values()] == [codec.most for codec in BY_NAME.values()]
