"""What a series takes of the messages that come: its own, once, and nothing of others, which it counts."""

import threading

import cbor2
import numpy as np
import pytest

from live4d_ophyd.decode import CpuBackend
from live4d_ophyd.engine import AcquisitionRequest
from live4d_ophyd.engine.frame_tracker import FrameTracker
from live4d_ophyd.engine.preparation import Preparation
from live4d_ophyd.engine.series import REASONS_KEPT, REASONS_LOGGED, Series
from live4d_ophyd.engine.series_record import digest
from live4d_ophyd.frames.batch import FrameBatch
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.control import Simplon
from live4d_ophyd.sources.dectris.index import hash_unique_id, index_batch
from live4d_ophyd.sources.dectris.series_filter import Memory, SeriesFilter
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.testing.small_dcu import UNIQUE_ID, end, frames, image, series, start

GRID = ScanGrid(3, 4)
BACKEND = CpuBackend()
DISK = Disk("vbf", center=(12, 16), radius=6)


@pytest.fixture
def pixels():
    return frames(GRID.frames)


def series_for(grid=GRID, memory=None, channel="", connections=1, armed=False, **options):
    simplon = Simplon("http://127.0.0.1:9") if armed else None
    request = AcquisitionRequest(
        DectrisSource("tcp://127.0.0.1:9", simplon=simplon), grid, (DISK,), **options
    )
    memory = Memory() if memory is None else memory
    source = SeriesFilter(memory, channel=channel, connections=connections, armed=armed)
    return Series(request, FrameTracker(grid, request.rasters), source, Preparation())


def give(engine_series, *messages, connection=0):
    """The messages in one batch, and what they give begun and finished."""
    batch = FrameBatch.from_messages(list(messages))
    batch.connection = connection
    index_batch(batch, engine_series.source.channel)
    for step in engine_series.accept(engine_series.source.accept(batch), BACKEND):
        step.finish()


def result(engine_series, raster=0):
    return engine_series.projection.imaging.result(raster)["vbf"]


def sums(pixels):
    return (pixels * DISK.weights(pixels.shape[1:])).sum(axis=(1, 2)).reshape(GRID.shape).astype(float)


def losses(engine_series):
    """Of a raster that is over with this."""
    return engine_series.tracker.close(0)[0]


def lines(caplog, words):
    return [record.message for record in caplog.records if words in record.message]


def test_a_series_is_known_by_its_start_and_over_with_its_end(pixels):
    engine_series = series_for()
    assert (
        engine_series.name,
        engine_series.key,
        engine_series.source.header,
        engine_series.source.channel,
        engine_series.ended,
    ) == (
        "?",
        None,
        None,
        "",
        False,
    )
    first, *images, last = series(pixels, 7)
    give(engine_series, first)
    assert (engine_series.name, engine_series.key) == ("7", (7, hash_unique_id(UNIQUE_ID)))
    assert engine_series.source.header.frames == 12
    give(engine_series, *images)
    assert (engine_series.source.channel, engine_series.ended) == ("threshold_1", False)
    give(engine_series, last)
    assert engine_series.ended
    np.testing.assert_array_equal(result(engine_series), sums(pixels))
    assert (engine_series.reasons, engine_series.source.unusable, engine_series.source.others) == ({}, {}, {})


def test_a_start_that_announces_another_number_of_images_is_said(pixels, caplog):
    give(series_for(rasters=2), start(3, number_of_images=12))
    assert "series 3 announces 12 frames, the grid needs 24 (3 x 4 x 2 rasters)" in caplog.text
    caplog.clear()
    give(series_for(), start(3, number_of_images=12))
    assert not caplog.text


def test_each_thread_has_one_decoder_for_the_whole_series(pixels, monkeypatch):
    """It holds the thread's scratch memory."""
    engine_series, made = series_for(), []
    really = CpuBackend.decoder
    monkeypatch.setattr(
        CpuBackend, "decoder", lambda *args, **kwargs: made.append(args) or really(*args, **kwargs)
    )
    first, *images, last = series(pixels)
    give(engine_series, first, *images[:4])
    give(engine_series, *images[4:8])
    thread = threading.Thread(target=lambda: [give(engine_series, *images[n : n + 2], last) for n in (8, 10)])
    thread.start()
    thread.join(30)
    assert len(made) == 2
    np.testing.assert_array_equal(result(engine_series), sums(pixels))


@pytest.mark.parametrize(("saturated", "seen"), [("leave_out", 0), ("count", 40_000), ("nan", np.nan)])
def test_what_a_saturated_pixel_does_to_the_sum_of_its_frame(pixels, saturated, seen):
    pixels = pixels.copy()
    pixels[3, 12, 16] = 40_000
    pixels[5, 0, 0] = 40_000  # under no virtual detector
    engine_series = series_for(saturated=saturated)
    give(engine_series, start(number_of_images=12, saturation_value=30_000), *series(pixels)[1:])
    pixels[3, 12, 16] = 0
    expected = sums(pixels)
    expected.flat[3] += seen
    np.testing.assert_array_equal(result(engine_series), expected)
    assert losses(engine_series).saturated == 1


def test_an_image_that_contradicts_start_is_taken_at_once_where_it_is_the_only_one(pixels):
    """No other can tell who is right."""
    engine_series = series_for(ScanGrid(1, 1))
    announced = {"image_size_y": 48, "image_size_x": 64, "image_dtype": "uint16"}
    give(engine_series, start(number_of_images=1, **announced), image(pixels[0], 0))
    assert engine_series.tracker.received == 1
    engine_series = series_for()
    give(engine_series, start(number_of_images=12, **announced), image(pixels[0], 0))
    assert engine_series.tracker.received == 0
    give(engine_series, image(pixels[1], 1))
    assert engine_series.tracker.received == 2


def test_what_is_recorded_of_a_series_has_its_masks_and_its_limit(pixels):
    own, users = np.zeros((24, 32), "<u4"), np.zeros((24, 32), bool)
    own[12, 16] = 8
    users[2, 3] = True
    encoded_mask = cbor2.CBORTag(40, [[24, 32], cbor2.CBORTag(70, own.tobytes())])
    engine_series = series_for(pixel_mask=users)
    first = start(number_of_images=12, pixel_mask={"threshold_1": encoded_mask}, saturation_value=500)
    give(engine_series, first, *series(pixels)[1:])
    info = engine_series.projection.info
    assert (info.unique_id, info.channel, info.saturation) == (UNIQUE_ID, "threshold_1", 500.0)
    assert info.pixels_masked == 2
    assert (info.pixel_mask, info.detector_mask) == (digest(users | (own != 0)), digest(own != 0))


# What is refused --------------------------------------------------------------------------------


def test_refused_images_are_counted_by_their_reason(pixels, caplog):
    engine_series = series_for()
    messages = series(pixels)
    for n, size in [(2, 100), (5, 100), (7, 100)]:
        messages[n] = messages[n][:size]
    give(engine_series, *messages)
    ((reason, count),) = engine_series.reasons.items()
    assert count == 3
    assert lines(caplog, "bad frame") == [f"series 1: bad frame: {reason}"]
    book = losses(engine_series)
    assert (book.received, book.bad, book.lost) == (9, 3, 0)


def test_reasons_are_told_apart_up_to_a_number_and_logged_up_to_a_smaller_one(caplog):
    """Hostile messages can differ without end."""
    grid = ScanGrid(6, 10)
    pixels = frames(grid.frames)
    messages = series(pixels)
    for n in range(REASONS_KEPT + 5):
        messages[10 + n] = image(np.zeros((5, 5 + n), "u2"), 9 + n)
    engine_series = series_for(grid)
    give(engine_series, *messages)
    assert len(engine_series.reasons) == REASONS_KEPT + 1
    assert engine_series.reasons["other reasons"] == 5
    assert sum(engine_series.reasons.values()) == REASONS_KEPT + 5
    assert len(lines(caplog, "bad frame: the frame is 5 x")) == REASONS_LOGGED
    bad = losses(engine_series)
    assert (bad.bad, bad.received) == (REASONS_KEPT + 5, grid.frames - REASONS_KEPT - 5)


def test_start_and_end_messages_that_cannot_be_used_are_said_once_and_are_no_bad_images(pixels, caplog):
    engine_series = series_for()
    bad_end = end()[:-5]
    give(
        engine_series, start(series_id="one"), start(series_id="one"), *series(pixels)[:-1], bad_end, bad_end
    )
    assert sorted(engine_series.source.unusable.values()) == ["end", "start"]
    assert len(lines(caplog, "the start message cannot be used: start message: series_id is text 'one'")) == 1
    assert len(lines(caplog, "the end message cannot be used")) == 1
    assert not engine_series.ended
    assert losses(engine_series).bad == 0
    caplog.clear()
    give(engine_series, *(start(series_id=f"x{n}") for n in range(REASONS_KEPT + 5)))
    assert len(engine_series.source.unusable) == REASONS_KEPT
    assert len(lines(caplog, "cannot be used")) == REASONS_KEPT - 2


def test_images_without_the_channel_that_was_asked_for_share_their_reason(pixels, caplog):
    engine_series = series_for(channel="threshold_2")
    give(engine_series, *series(pixels))
    reason = "no channel 'threshold_2' (asked for); the frame has threshold_1"
    assert engine_series.reasons == {reason: 12}
    assert (losses(engine_series).bad, engine_series.ended) == (12, True)
    assert lines(caplog, "bad frame") == [f"series 1: bad frame: {reason}"]


# What is of others ------------------------------------------------------------------------------


def test_images_of_other_series_are_counted_by_series(pixels):
    engine_series = series_for()
    give(engine_series, image(pixels[0], 0, 8), image(pixels[0], 1, 8))  # before any start
    first, *rest = series(pixels)
    give(engine_series, first, image(pixels[0], 0, 9), *rest[:5], image(pixels[0], 2, 8), *rest[5:])
    assert engine_series.source.others == {8: 3, 9: 1}
    assert losses(engine_series).foreign == 4
    np.testing.assert_array_equal(result(engine_series), sums(pixels))


def test_other_series_are_told_apart_up_to_a_number(pixels):
    engine_series = series_for()
    give(engine_series, start(), *(image(pixels[0], 0, 100 + n) for n in range(REASONS_KEPT + 5)))
    give(engine_series, *(image(pixels[0], 1, 100 + n) for n in range(2)))
    assert len(engine_series.source.others) == REASONS_KEPT
    assert engine_series.source.others[100] == engine_series.source.others[101] == 2
    assert losses(engine_series).foreign == REASONS_KEPT + 7


def test_the_same_number_under_another_unique_id_is_another_series(pixels):
    engine_series = series_for()
    give(engine_series, *series(pixels, 1, "A")[:5], image(pixels[0], 7, 1, "B"), end(1, "B"))
    assert (engine_series.tracker.strangers, engine_series.ended) == (1, False)
    give(engine_series, end(1, "A"))
    assert engine_series.ended


def test_a_series_that_is_over_is_left_alone(pixels):
    engine_series = series_for(memory=Memory(finished={(1, hash_unique_id("A"))}))
    give(engine_series, *series(pixels, 1, "A"), *series(pixels, 2, "B"))
    assert (engine_series.name, losses(engine_series).foreign, engine_series.ended) == ("2", 12, True)


def test_an_armed_series_is_the_only_one(pixels, caplog):
    caplog.set_level("INFO")
    engine_series = series_for(armed=True)
    engine_series.source.expect(5)
    assert (engine_series.name, engine_series.key) == ("5", (5, 0))
    give(engine_series, *series(pixels, 4, "A"), *series(pixels, 5, "B"), *series(pixels, 6, "C"))
    assert (engine_series.key, engine_series.ended) == ((5, hash_unique_id("B")), True)
    assert lines(caplog, "ignored the start") == [
        f"ignored the start of series {n}: series 5 was armed" for n in (4, 6)
    ]
    np.testing.assert_array_equal(result(engine_series), sums(pixels))
    assert engine_series.source.others[4] == 12


def test_an_armed_series_is_known_by_its_number_until_its_start_comes(pixels):
    memory = Memory(finished={(5, hash_unique_id("OLD")), (9, hash_unique_id("B"))})
    engine_series = series_for(memory=memory, armed=True)
    engine_series.source.expect(5)
    first, *images, last = series(pixels, 5, "B")
    give(engine_series, image(pixels[0], 3, 5, "OLD"), *images[:4], end(5, "OLD"))
    assert (engine_series.tracker.strangers, engine_series.ended) == (1, False)
    give(engine_series, first, *images[4:], last)
    assert engine_series.ended
    np.testing.assert_array_equal(result(engine_series), sums(pixels))


def test_a_series_that_brought_nothing_gives_way_and_one_that_did_is_over(pixels, caplog):
    engine_series = series_for()
    give(engine_series, start(1, "A", 12), *series(pixels, 2, "B")[:4])
    assert engine_series.name == "2"
    assert "series 2 replaces series 1, which brought no frame" in caplog.text
    assert not engine_series.ended
    give(engine_series, start(3, "C", 12))
    assert (engine_series.name, engine_series.ended) == ("2", True)
    assert "series 3 began before series 2 was over" in caplog.text


def test_what_comes_behind_the_end_is_kept_for_the_next_series(pixels, caplog):
    other = frames(GRID.frames, seed=5)
    memory = Memory()
    first, second = series_for(memory=memory), series_for(memory=memory)
    give(first, *series(pixels, 1, "A"), *series(other, 2, "B"))
    assert losses(first).foreign == 0
    assert "began before" not in caplog.text
    memory.finished.add(first.key)
    kept, memory.left_over = memory.left_over, []
    for batch in kept:
        for step in second.accept(second.source.accept(batch), BACKEND):
            step.finish()
    assert (second.name, second.ended) == ("2", True)
    np.testing.assert_array_equal(result(second), sums(other))


def test_no_more_is_kept_than_memory_is_for(pixels, monkeypatch):
    monkeypatch.setattr("live4d_ophyd.sources.dectris.series_filter.HOLD_BYTES", 1)
    memory = Memory()
    engine_series = series_for(memory=memory)
    give(engine_series, *series(pixels, 1, "A"))
    give(engine_series, *series(pixels, 2, "B"))
    assert len(memory.left_over) == 1  # the first goes in whatever its size
    assert losses(engine_series).foreign > 0


# Images that overtake their start on another connection ------------------------------------------


def test_images_that_overtake_their_start_are_taken_when_it_comes(pixels):
    engine_series = series_for(connections=2)
    first, *images, last = series(pixels)
    give(engine_series, *images[1::2], last, connection=1)
    assert not engine_series.tracker.begun
    give(engine_series, first, *images[0:6:2])
    give(engine_series, *images[6::2])
    assert engine_series.ended
    np.testing.assert_array_equal(result(engine_series), sums(pixels))


def test_they_wait_no_longer_than_a_start_may_take(pixels, monkeypatch):
    monkeypatch.setattr("live4d_ophyd.sources.dectris.series_filter.WAIT_FOR_START_S", 0.0)
    engine_series = series_for(connections=2, armed=True)
    engine_series.source.expect(1)
    give(engine_series, *series(pixels)[1:6], connection=1)
    assert not engine_series.tracker.begun
    give(engine_series, *series(pixels)[6:])
    assert (losses(engine_series).received, engine_series.ended) == (12, True)


def test_they_take_no_more_memory_than_is_for_them(pixels, monkeypatch):
    monkeypatch.setattr("live4d_ophyd.sources.dectris.series_filter.HOLD_BYTES", 0)
    engine_series = series_for(connections=2, armed=True)
    engine_series.source.expect(1)
    give(engine_series, *series(pixels)[1:6], connection=1)
    give(engine_series, *series(pixels)[6:])
    assert (losses(engine_series).received, engine_series.ended) == (12, True)


def test_one_connection_brings_the_start_first_and_waits_for_none(pixels):
    engine_series = series_for(armed=True)
    engine_series.source.expect(1)
    give(engine_series, *series(pixels)[1:])
    assert (losses(engine_series).received, engine_series.ended) == (12, True)
