"""A DECTRIS detector is a source as the engine expects one, with real connections."""

from contextlib import closing, contextmanager

import pytest

from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources import registry
from live4d_ophyd.sources.dectris.control import Simplon
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.sources.source import SeriesRequest
from live4d_ophyd.testing import SourceTests
from live4d_ophyd.testing.small_dcu import SmallDcu, damaged_image, end, image, start


class TestDectrisSource(SourceTests):
    @contextmanager
    def source(self, frames, sent, bad=(), connections=1, series=1):
        with closing(SmallDcu()) as dcu:

            def messages():
                for series_id in range(1, series + 1):
                    size = {"image_size_y": self.shape[0], "image_size_x": self.shape[1]}
                    yield start(series_id, number_of_images=self.count, image_dtype=self.dtype, **size)
                    for n in sent:
                        yield (damaged_image if n in bad else image)(frames[n], n, series_id)
                    yield end(series_id)

            dcu.send(messages(), clients=connections)
            yield DectrisSource(dcu.endpoint, connections)


class TestDectrisSourceWithFramesOfFourBytes(TestDectrisSource):
    shape, dtype, count = (9, 31), "uint32", 12


class TestDectrisSourceWithoutLibzmq(TestDectrisSource):
    @pytest.fixture(autouse=True)
    def receiver(self, monkeypatch):
        monkeypatch.setattr("live4d_ophyd.sources.dectris.stream.RECEIVER", "zmtp")


def test_sources_go_to_the_engine_by_name():
    source = DectrisSource("tcp://dcu:31001")
    assert registry.class_of(registry.kind_of(source)) is DectrisSource
    with pytest.raises(ValueError, match="'tape' is no source of frames; expected one of dectris, file"):
        registry.class_of("tape")
    with pytest.raises(ValueError, match="'dectris' is no source of frames"):
        registry.kind_of("dectris")


def test_what_decides_which_connections_serve_is_where_they_go():
    source = DectrisSource("tcp://dcu:31001", 2)
    same = DectrisSource("tcp://dcu:31001", 2, "high", Simplon("http://dcu"))
    assert source.address == same.address
    assert source.address != DectrisSource("tcp://dcu:31001", 1).address


def test_without_control_nothing_is_armed_and_any_series_can_be():
    source = DectrisSource("tcp://dcu:31001")
    assert (source.armed_here, source.control()) == (False, None)
    source.check(SeriesRequest(ScanGrid(2, 2, lead_in=1)))
    by_line = DectrisSource("tcp://dcu:31001", simplon=Simplon("http://dcu", trigger_per="line"))
    with pytest.raises(ValueError, match="trigger_per is 'line', but the scan has 1 frames before its first"):
        by_line.check(SeriesRequest(ScanGrid(2, 2, lead_in=1)))
