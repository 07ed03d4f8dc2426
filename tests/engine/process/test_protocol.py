"""What crosses the wire comes out as it went in; anything else is refused by name."""

import cbor2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from live4d_ophyd.engine import AcquisitionRequest, Losses, RasterResult
from live4d_ophyd.engine.process import protocol as wire
from live4d_ophyd.imaging.center_of_mass import CenterOfMass
from live4d_ophyd.imaging.mean_pattern import MeanPattern
from live4d_ophyd.imaging.segments import Segments
from live4d_ophyd.imaging.virtual_detectors import Annulus, Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.control import Simplon


def test_a_spec_survives_the_wire():
    request = AcquisitionRequest(
        "tcp://dcu:31001",
        ScanGrid(3, 4, flyback=1, step=(0.5, 0.25), unit="nm"),
        (
            Disk("vbf", center=(1.5, 2), radius=3),
            Annulus("adf", center=None, inner=1, outer=2, soft=True),
            MeanPattern("pattern"),
            CenterOfMass("com", Disk("bf", radius=5)),
            Segments("dpc", center=(1, 2.5), inner=3, outer=9, rings=2, sectors=6, rotation=-12),
        ),
        control=Simplon("http://dcu", trigger_mode="ints"),
        pixel_mask=np.eye(3, dtype=bool),
    )
    message = wire.decode(wire.encode("acquire", generation=3, request=request.to_dict()))
    back = AcquisitionRequest.from_dict(message["request"])
    np.testing.assert_array_equal(back.pixel_mask, request.pixel_mask)
    without = {"pixel_mask": None}
    assert {**back.__dict__, **without} == {**request.__dict__, **without}


def test_a_raster_survives_the_wire():
    images = {"vbf": np.array([[1.5, np.nan], [3, 4]])}
    raster = RasterResult(2, images, Losses(4, 3, 1, 0), series_id=9, rate_hz=None, engine="cpu")
    back = RasterResult.from_dict(wire.decode(wire.encode("raster", raster=raster.to_dict()))["raster"])
    np.testing.assert_array_equal(back.outputs["vbf"], images["vbf"])
    assert (back.index, back.losses, back.rate_hz) == (2, raster.losses, None)


def test_another_version_is_refused_by_number():
    with pytest.raises(wire.WireError, match="version 99"):
        wire.decode(cbor2.dumps({"v": 99, "kind": "hello"}))


def test_objects_do_not_cross():
    with pytest.raises(Exception, match="cannot send"):
        wire.encode("hello", thing=object())
    hostile = cbor2.dumps({"v": 1, "kind": "x", "a": {"__array__": ["|O8", [1], bytes(8)]}})
    with pytest.raises(wire.WireError):
        wire.decode(hostile)


@given(st.binary(max_size=200))
def test_noise_is_refused(raw):
    try:
        message = wire.decode(raw)
    except wire.WireError:
        return
    assert message["v"] == wire.VERSION
