"""What a window gets of a RunEngine's documents, and that its trouble is no plan's."""

import bluesky.plans as bp
import numpy as np
import pytest
from fake_device import FakeLive4D, run_engine

from live4d_ophyd import live_preview
from live4d_ophyd.window import feed as module
from live4d_ophyd.window.feed import Feed


@pytest.fixture
def RE():
    with run_engine() as engine:
        yield engine


def test_previews_and_results_of_a_run(RE):
    device, feed, seen = FakeLive4D(name="live4d", rows_per_s=60), Feed("live4d"), []
    RE.preprocessors.append(live_preview([device], max_rate=20))
    RE.subscribe(feed)
    finished = []

    def look(name, doc):
        newest, over = feed.take()
        seen.extend([newest] if newest else [])
        finished.extend(over)

    RE.subscribe(look)
    RE(bp.count([device], 2))
    assert [(moment.number, moment.title) for moment in finished] == [
        (1, "scan 1, count, event 1"),
        (2, "scan 1, count, event 2"),
    ]
    previews = [moment for moment in seen if moment.preview]
    assert previews
    assert {moment.number for moment in previews} <= {1, 2}
    assert np.isnan(previews[0].array("live4d_vbf")).any()
    last = finished[-1]
    assert last.image_keys == ["live4d_vbf"]
    assert last.array("live4d_vbf") == pytest.approx(device.complete[0])
    assert last.units("live4d_vbf") == "counts"
    assert (last.axes.step, last.axes.unit) == ((0.5, 0.25), "nm")
    assert last.stem.endswith("_002")
    assert list(feed.records) == finished


def test_what_was_not_taken_in_time_is_one_moment(RE):
    device, feed = FakeLive4D(name="live4d", rows_per_s=1000), Feed("live4d")
    RE.subscribe(feed)
    RE(bp.count([device], 3))
    newest, finished = feed.take()
    assert (newest.number, len(finished)) == (3, 3)
    assert feed.take() == (None, [])


def test_a_moment_has_the_time_of_its_own_images(RE):
    """Not of another device's, nor of the document, which of a movie comes later than several rasters."""
    first, device = (FakeLive4D(name=name, rows_per_s=1000) for name in ("first", "live4d"))
    feed = Feed("live4d")

    def late(name, doc):
        if name == "event":
            doc = {
                **doc,
                "time": 9e9,
                "timestamps": {**doc["timestamps"], "first_vbf": 7e9, "live4d_vbf": 1e9},
            }
        feed(name, doc)

    RE.subscribe(late)
    RE(bp.count([first, device]))
    assert feed.take()[0].time == 1e9


def test_records_take_no_more_memory_than_they_may(RE, monkeypatch):
    device, feed = FakeLive4D(name="live4d", rows_per_s=1000), Feed("live4d")
    monkeypatch.setattr(module, "RECORDS_BYTES", 2 * 16 * 24 * 8)
    RE.subscribe(feed)
    RE(bp.count([device], 4))
    feed.take()
    assert [record.number for record in feed.records] == [3, 4]


def test_other_devices_are_left_out(RE):
    device, feed = FakeLive4D(name="other", rows_per_s=1000), Feed("live4d")
    RE.subscribe(feed)
    RE(bp.count([device]))
    assert feed.take() == (None, [])


def test_a_document_that_cannot_be_read_is_logged_and_ends_no_plan(caplog):
    Feed("live4d")("descriptor", {"uid": "x"})
    assert "could not take a descriptor" in caplog.text
