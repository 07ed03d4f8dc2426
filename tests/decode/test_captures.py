"""Messages captured from a real EIGER2 decode as the vendor's own decoder does it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from decode_oracle import patterns_of, project

from live4d_ophyd.decode import CpuDecoder, FrameFormat, Weights, decode_array
from live4d_ophyd.frames.batch import IMAGE, FrameBatch
from live4d_ophyd.sources.dectris.index import index_batch
from live4d_ophyd.sources.dectris.messages import ImageMessage, read_message

CAPTURES = Path(__file__).parents[2].parent / "shared" / "data" / "captures"
FILES = sorted(CAPTURES.glob("*/*.cbor"))

pytestmark = pytest.mark.skipif(not FILES, reason=f"no captured messages in {CAPTURES}")


def images():
    for path in FILES:
        message = read_message(path.read_bytes())
        if isinstance(message, ImageMessage):
            yield path, message


def test_every_channel_decodes_as_the_vendor_does():
    compression = pytest.importorskip("dectris.compression", reason="dectris-compression is not installed")
    seen = 0
    for path, message in images():
        for name, channel in message.channels.items():
            expected = compression.decompress(channel.data, channel.algorithm, elem_size=channel.elem_size)
            assert decode_array(channel).tobytes() == expected, f"{path.name} {name}"
            seen += 1
    assert seen >= 4


def test_the_counts_of_the_500k_images():
    sums = []
    for path, _ in images():
        if "500k" not in path.parent.name:
            continue
        batch = FrameBatch.from_messages([path.read_bytes()])
        index_batch(batch, b"threshold_1")
        assert batch.status[0] == IMAGE
        channel = read_message(batch.message(0)).channels["threshold_1"]
        decoder = CpuDecoder(FrameFormat(*channel.shape, channel.dtype))
        total, status = project(decoder, batch, Weights(np.ones((1, *channel.shape), int)))
        assert status.tolist() == [0]
        pixels, status = patterns_of(decoder, batch)
        np.testing.assert_array_equal(pixels[0], decode_array(channel))
        sums.append(int(total[0, 0]))
    assert sums == [909218] * 3
