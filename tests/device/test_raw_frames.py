"""Recorded frames in a run's documents: described before the first raster, and never as what they are not."""

import numpy as np
import pytest

from live4d_ophyd.device.raw_frames import EventFile, RawFrames
from live4d_ophyd.engine.recorder import RecordedFile
from live4d_ophyd.frames.format import FrameFormat

SAID = FrameFormat(24, 32, np.dtype("u2"))


@pytest.fixture
def raw():
    return RawFrames("live4d_raw", "live4d:live4d/raw")


def event_file(number=1, shape=(24, 32), dtype="<u2"):
    path = f"/data/m_{number}.h5"
    return EventFile(RecordedFile(path, 12, 0, 0, (3, 4, *shape), dtype), path)


def described(raw, said=SAID):
    key = raw.describe((3, 4), said, recording=True).get("live4d_raw")
    return key and (key["shape"], key["dtype_numpy"])


def take(raw, file, said=SAID):
    raw.triggered(said)
    raw.raster_done(file)
    return [name for name, _ in raw.documents()]


def test_before_the_first_raster_it_is_what_the_detector_says(raw):
    assert described(raw) == ([3, 4, 24, 32], "<u2")
    assert take(raw, event_file()) == ["stream_resource", "stream_datum"]
    assert list(raw.documents()) == []


def test_after_it_it_is_what_came(raw):
    raw.triggered(SAID)
    raw.raster_done(event_file(shape=(12, 16)))
    assert described(raw) == ([3, 4, 12, 16], "<u2")


def test_frames_unlike_what_the_detector_says_are_in_no_document_and_described_right_in_the_next_run(
    raw, caplog
):
    """As with a region of interest: it may say the size of the whole detector."""
    assert described(raw) == ([3, 4, 24, 32], "<u2")
    other = event_file(shape=(24, 16))
    assert take(raw, other) == take(raw, other) == take(raw, event_file()) == []
    (record,) = caplog.records
    assert "described as (3, 4, 24, 32) of <u2" in record.message
    assert "came as (3, 4, 24, 16) of <u2" in record.message
    raw.begin()
    take(raw, other)
    raw.begin()
    assert described(raw) == ([3, 4, 24, 16], "<u2")
    assert take(raw, other) == ["stream_resource", "stream_datum"]
    with pytest.raises(
        ValueError, match=r"live4d_raw would be \(3, 4, 24, 32\) .* after Events of \(3, 4, 24, 16\)"
    ):
        take(raw, event_file())


def test_without_a_detector_that_says_it_a_run_begins_with_what_came_before(raw, caplog):
    assert described(raw, None) is None
    assert "live4d_raw is not in this run" in caplog.text
    assert take(raw, event_file(), None) == []
    raw.begin()
    assert described(raw, None) == ([3, 4, 24, 32], "<u2")


def test_rasters_of_a_movie_that_are_collected_together_are_one_datum(raw):
    """Bluesky numbers each datum of a collection from the same Event on."""
    described(raw)
    raw.triggered(SAID)
    files = [event_file(n) for n in (1, 2, 3)]
    for file in files:
        raw.raster_done(file, flying=True)
    assert not raw.is_new
    (_, resource), (_, datum) = raw.documents(files)
    uris = [resource["uri"], *resource["parameters"]["further_uris"]]
    assert uris == [f"file://localhost/data/m_{n}.h5" for n in (1, 2, 3)]
    assert datum["indices"] == {"start": 0, "stop": 3}
