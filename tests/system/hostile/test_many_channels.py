"""Images of thousands of channels cost an engine little: they are refused before their arrays are read."""

from contextlib import closing

import cbor2
import pytest
from system.hostile.rogue import MIB, Cost, Events, engine, message

from live4d_ophyd.engine import AcquisitionRequest
from live4d_ophyd.engine.process.protocol import Failed
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.testing.small_dcu import SmallDcu

pytestmark = pytest.mark.system


@pytest.mark.parametrize("channels", [65, 10_000, 20_000])
def test_many_channels_are_refused_in_little_time(channels):
    array = cbor2.CBORTag(40, [[1, 2], cbor2.CBORTag(64, b"ab")])
    images = [message("image", image_id=n, data={f"c{k}": array for k in range(channels)}) for n in range(48)]
    with engine() as client, closing(SmallDcu()) as dcu:
        cost, events = Cost(client.pid), Events()
        dcu.send([message("start", number_of_images=48), *images, message("end")])
        request = AcquisitionRequest(
            DectrisSource(dcu.endpoint), ScanGrid(6, 8), (Disk("vbf", radius=6),), timeout=2.0
        )
        client.acquire(1, request, events)
        assert isinstance(events.last(), Failed)
        assert cost.cpu < 6  # it was 7 s for 20,000, on a quiet machine
        assert cost.peak < 200 * MIB
