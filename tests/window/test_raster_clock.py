"""How far a raster is, from the status of its trigger."""

from fake_device import FakeLive4D

from live4d_ophyd.window.progress import Progress, RasterClock, clock


def test_frames_and_time_of_the_raster_that_runs():
    device, raster = FakeLive4D(name="live4d"), RasterClock()
    assert raster.now() is None
    raster.watch(device.trigger())
    assert raster.now().frames == 0
    assert raster.now().remaining is None
    device.advance(4)
    now = raster.now()
    assert (now.frames, now.expected, now.fraction) == (4 * 24, 16 * 24, 0.25)
    assert now.remaining == 3 * now.elapsed
    device.advance(12)
    assert raster.now() is None


def test_in_words():
    assert str(Progress(12345, 65536, 4.2, 18.0, 30000.0)) == (
        "12 345 of 65 536 frames, 30 kHz, 0:04 elapsed, 0:18 remaining"
    )
    assert clock(3725) == "1:02:05"
