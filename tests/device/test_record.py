"""The documents say what was done: each image with the settings it was taken with, and nothing invented."""

from contextlib import closing

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky import RunEngine
from test_device import DISK, GRID, RING, Documents, expected

from live4d_ophyd import Annulus, Disk, Live4D, ScanGrid, Simplon
from live4d_ophyd.engine.series_record import digest
from live4d_ophyd.testing.small_dcu import encoded, frames, image, series, start


@pytest.fixture(scope="module")
def device():
    """One engine for the module; every test connects it to a stream of its own."""
    device = Live4D("tcp://127.0.0.1:9", name="live4d", scan=GRID, methods=[DISK, RING], backend="cpu")
    with closing(device):
        yield device


@pytest.fixture
def live4d(device, dcu):
    before = {name: getattr(device, name).get() for name in device.component_names if name != "endpoint"}
    device.endpoint.put(dcu.endpoint)
    yield device
    device.unstage()
    for name, value in before.items():
        getattr(device, name).put(value)


@pytest.fixture
def RE():
    return RunEngine({}, call_returns_result=False)


def disk(radius):
    return Disk("vbf", center=DISK.center, radius=radius)


# Settings --------------------------------------------------------------------------------------


def test_every_event_of_a_scan_over_a_setting_has_its_value(live4d, dcu, RE):
    pixels = frames(3 * GRID.frames).reshape(3, GRID.frames, 24, 32)
    radii = [3.0, 5.0, 8.0]
    dcu.send(
        [message for number, part in enumerate(pixels) for message in series(part, number, f"S{number}")]
    )
    docs = Documents()
    RE(bp.list_scan([live4d], live4d.vbf_radius, radii), docs)
    assert [e["data"]["live4d_vbf_radius"] for e in docs.events()] == radii
    for event, part, radius in zip(docs.events(), pixels, radii):
        np.testing.assert_array_equal(event["data"]["live4d_vbf"], expected(part, disk(radius)))
    assert docs.of("start")[0]["hints"]["dimensions"] == [(["live4d_vbf_radius"], "primary")]
    assert "live4d_vbf_radius" not in docs.of("descriptor")[0]["hints"]["live4d"]["fields"]


def test_a_setting_moved_between_two_events_is_in_both(live4d, dcu, RE):
    dcu.send([*series(frames(GRID.frames), 1, "A"), *series(frames(GRID.frames), 2, "B")])
    docs = Documents()

    @bpp.run_decorator()
    def plan():
        yield from bps.mv(live4d.vbf_radius, 4, live4d.vbf_center, (11, 15))
        yield from bps.trigger_and_read([live4d])
        yield from bps.mv(live4d.vbf_radius, 8, live4d.vbf_center, (12.5, 16))
        yield from bps.trigger_and_read([live4d])

    RE(plan(), docs)
    keys = ("live4d_vbf_radius", "live4d_vbf_center_row", "live4d_vbf_center_col")
    assert [[e["data"][key] for key in keys] for e in docs.events()] == [[4, 11, 15], [8, 12.5, 16]]


def test_a_setting_moved_after_the_trigger_is_not_the_images(live4d, dcu, RE):
    dcu.send(series(frames(GRID.frames)))
    docs = Documents()

    @bpp.run_decorator()
    def plan():
        yield from bps.mv(live4d.vbf_radius, 4)
        yield from bps.trigger(live4d, wait=True)
        yield from bps.mv(live4d.vbf_radius, 8)
        yield from bps.create()
        yield from bps.read(live4d)
        yield from bps.save()

    RE(plan(), docs)
    assert docs.events()[0]["data"]["live4d_vbf_radius"] == 4


def test_all_settings_are_in_every_event_and_in_the_configuration(live4d, dcu, RE):
    dcu.send(series(frames(GRID.frames)))
    docs = Documents()
    RE(bp.count([live4d]), docs)
    data, configuration = (
        docs.events()[0]["data"],
        docs.of("descriptor")[0]["configuration"]["live4d"]["data"],
    )
    for setting in (
        "endpoint", "channel", "connections", "nodata", "saturated", "pixel_mask", "gain", "dwell_time", "timeout",
        "scan_rows", "scan_cols", "scan_step_y", "scan_unit", "vbf_radius", "adf_inner", "backend", "backend_detail",
    ):  # fmt: skip
        assert f"live4d_{setting}" in data
        assert f"live4d_{setting}" in configuration
    assert "live4d-ophyd" in configuration["live4d_versions"]
    assert "numba" in configuration["live4d_versions"]


def test_nan_can_be_set_by_a_plan(live4d, RE):
    """ophyd would wait for NaN to equal NaN."""
    RE(bps.mv(live4d.dwell_time, float("nan")))
    RE(bps.mv(live4d.vbf_center, (float("nan"), float("nan"))))
    RE(bps.mv(live4d.gain, np.full((24, 32), np.nan)))
    assert np.isnan(live4d.dwell_time.get())


# Shapes ------------------------------------------------------------------------------------------


def test_images_of_another_shape_are_refused_before_they_are_taken(live4d, dcu, RE):
    dcu.send(series(frames(GRID.frames)))
    docs = Documents()

    @bpp.stage_decorator([live4d])
    @bpp.run_decorator()
    def plan():
        yield from bps.trigger_and_read([live4d])
        yield from bps.mv(live4d.scan_rows, 6)
        yield from bps.trigger_and_read([live4d])

    with pytest.raises(
        ValueError, match=r"live4d_vbf would have the shape \(6, 4\) after Events of \(3, 4\)"
    ):
        RE(plan(), docs)
    assert len(docs.events()) == 1
    assert docs.of("stop")[0]["exit_status"] == "fail"


def test_configure_is_no_way_around_it(live4d, dcu, RE):
    dcu.send(series(frames(GRID.frames)))
    RE.subscribe(live4d.note_run)

    @bpp.run_decorator()
    def plan():
        yield from bps.trigger_and_read([live4d])
        yield from bps.configure(live4d, {"scan_rows": 6})
        yield from bps.trigger_and_read([live4d])

    with pytest.raises(ValueError, match=r"shape \(6, 4\)"):
        RE(plan())


def test_another_run_may_have_another_shape(live4d, dcu, RE):
    dcu.send([*series(frames(12), 1, "A"), *series(frames(24), 2, "B")])
    docs = Documents()
    RE.subscribe(live4d.note_run)

    @bpp.stage_decorator([live4d])
    def plan():
        yield from bpp.run_wrapper(bps.trigger_and_read([live4d]))
        yield from bps.mv(live4d.scan_rows, 6)
        yield from bpp.run_wrapper(bps.trigger_and_read([live4d]))

    RE(plan(), docs)
    assert [e["data"]["live4d_vbf"].shape for e in docs.events()] == [(3, 4), (6, 4)]


def test_patterns_of_another_shape_are_refused(live4d, dcu, RE):
    """The detector's region of interest changed."""
    dcu.send([*series(frames(12), 1, "A"), *series(frames(12, (20, 28)), 2, "B")])
    live4d.pattern_enabled.put(True)
    docs = Documents()
    with pytest.raises(ValueError, match=r"live4d_pattern would have the shape \(20, 28\)"):
        RE(bp.count([live4d], 2), docs)
    assert len(docs.events()) == 1


# What the series says, and what was made of its pixels -------------------------------------------------------


def test_what_the_series_says_of_itself_is_in_the_event(live4d, dcu, RE):
    pixels = frames(GRID.frames)
    mask = np.zeros((24, 32), np.uint32)
    mask[12, 16], mask[0, 0] = 2, 8
    mine = np.zeros((24, 32), bool)
    mine[12, 17] = True
    live4d.pixel_mask.put(mine)
    head = start(
        7, "U", 12, channels=["threshold_1"], incident_energy=200e3, threshold_energy={"threshold_1": 60e3},
        count_time=3e-5, frame_time=4e-5, saturation_value=60000, detector_description="ARINA",
        detector_serial_number="E-1", pixel_mask={"threshold_1": encoded(mask)},
    )  # fmt: skip
    dcu.send([head, *series(pixels, 7, "U")[1:]])
    docs = Documents()
    RE(bp.count([live4d]), docs)
    (event,) = docs.events()
    both = (mask != 0) | mine
    assert {key: event["data"][f"live4d_series_{key}"] for key in (
        "id", "unique_id", "channel", "detector", "energy", "threshold", "count_time", "frame_time", "saturation",
        "pixels_masked", "pixel_mask", "detector_mask",
    )} == {
        "id": 7, "unique_id": "U", "channel": "threshold_1", "detector": "ARINA E-1", "energy": 200e3,
        "threshold": 60e3, "count_time": 3e-5, "frame_time": 4e-5, "saturation": 60000, "pixels_masked": 3,
        "pixel_mask": digest(both), "detector_mask": digest(mask != 0),
    }  # fmt: skip
    assert event["data"]["live4d_pixel_mask"] == f"1 of 24 x 32 px, sha256 {digest(mine)}"
    np.testing.assert_array_equal(event["data"]["live4d_vbf"], expected(np.where(both, 0, pixels)))


def test_what_it_does_not_say_is_nan_or_empty(live4d, dcu, RE):
    dcu.send(series(frames(GRID.frames)))
    docs = Documents()
    RE(bp.count([live4d]), docs)
    data = docs.events()[0]["data"]
    assert np.isnan([data["live4d_series_energy"], data["live4d_series_frame_time"]]).all()
    assert (data["live4d_series_detector_mask"], data["live4d_series_pixels_masked"]) == ("", 0)


def test_a_mask_or_gain_from_a_file_is_recorded_with_its_path(live4d, dcu, RE, tmp_path):
    pixels, gain = frames(GRID.frames), np.linspace(0.5, 2, 24 * 32).reshape(24, 32)
    np.save(tmp_path / "gain.npy", gain)
    dcu.send(series(pixels))
    docs = Documents()

    def plan():
        yield from bps.mv(live4d.gain, tmp_path / "gain.npy")
        yield from bp.count([live4d])

    RE(plan(), docs)
    data = docs.events()[0]["data"]
    assert data["live4d_gain"] == f"24 x 32 px from {tmp_path / 'gain.npy'}, sha256 {digest(gain)}"
    np.testing.assert_allclose(data["live4d_vbf"], expected(pixels * gain), rtol=1e-12)
    with pytest.raises(ValueError, match=r"live4d_gain: .*none.npy cannot be read as a .npy file"):
        live4d.gain.put(tmp_path / "none.npy")


# Saturation -----------------------------------------------------------------------------------------------------


def clipped():
    """8-bit frames: a saturated pixel inside the disk at three positions, outside of all detectors at one."""
    pixels = frames(GRID.frames, dtype="uint8")
    for position in (1, 5, 6):
        pixels[position, 12, 14 + position] = 255
    pixels[9, 0, 0] = 255
    return pixels


@pytest.mark.parametrize("saturated", ["leave_out", "count", "nan"])
def test_saturated_frames_are_counted_and_treated_as_asked(live4d, dcu, RE, saturated, caplog):
    pixels = clipped()
    dcu.send(series(pixels))
    docs = Documents()

    def plan():
        yield from bps.mv(live4d.saturated, saturated)
        yield from bp.count([live4d])

    RE(plan(), docs)
    (event,) = docs.events()
    assert event["data"]["live4d_frames_saturated"] == 3
    assert event["data"]["live4d_saturated"] == saturated
    image = expected(pixels if saturated == "count" else np.where(pixels == 255, 0, pixels)).astype(float)
    if saturated == "nan":
        image.flat[[1, 5, 6]] = np.nan
    np.testing.assert_array_equal(event["data"]["live4d_vbf"], image)
    assert np.isfinite(event["data"]["live4d_adf"]).all()
    assert "3 frames have pixels under a virtual detector that hold no count (255 and above)" in caplog.text


def test_the_detectors_own_saturation_value_is_the_limit(live4d, dcu, RE):
    pixels = frames(GRID.frames)
    pixels[4, 12, 16] = 500
    dcu.send([start(1, number_of_images=12, saturation_value=500), *series(pixels)[1:]])
    docs = Documents()
    RE(bp.count([live4d]), docs)
    assert docs.events()[0]["data"]["live4d_frames_saturated"] == 1
    assert docs.events()[0]["data"]["live4d_series_saturation"] == 500


def test_masked_pixels_are_not_called_saturated(live4d, dcu, RE):
    pixels = frames(GRID.frames)
    pixels[:, 12, 16] = 65535
    mask = np.zeros((24, 32), bool)
    mask[12, 16] = True
    live4d.pixel_mask.put(mask)
    dcu.send(series(pixels))
    docs = Documents()
    RE(bp.count([live4d]), docs)
    assert docs.events()[0]["data"]["live4d_frames_saturated"] == 0


def test_saturated_pixels_are_left_out_of_the_mean_pattern(live4d, dcu, RE):
    pixels = clipped()
    dcu.send(series(pixels))
    live4d.pattern_enabled.put(True)
    docs = Documents()
    RE(bp.count([live4d]), docs)
    counts = np.where(pixels == 255, np.nan, pixels.astype(float))
    np.testing.assert_allclose(docs.events()[0]["data"]["live4d_pattern"], np.nanmean(counts, axis=0))


def test_the_live_view_says_so_while_the_raster_runs(live4d, dcu, RE):
    pixels = clipped()
    dcu.send([start(1, number_of_images=12), *[image(frame, n) for n, frame in enumerate(pixels[:7])]])
    live4d.stage()
    live4d.trigger()
    seen = {}
    for _ in range(600):
        seen = {key: entry["value"] for key, entry in live4d.preview.read().items()}
        if seen["live4d_live_saturated"] == 3:
            break
        live4d._client._thread.join(0.05)
    assert seen["live4d_live_saturated"] == 3


# What constructors and signals accept ------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"connections": float("nan")}, "live4d_connections = nan: expected a number"),
        ({"connections": 1.5}, "live4d_connections = 1.5: expected a whole number from 1 to 16"),
        ({"connections": 10**9}, "from 1 to 16"),
        ({"timeout": float("inf")}, "live4d_timeout = inf"),
        ({"nodata": "no"}, "live4d_nodata = 'no': expected True or False"),
        ({"saturated": "drop"}, "live4d_saturated = 'drop': expected one of leave_out, count, nan"),
        ({"pixel_mask": [[1]]}, "live4d_pixel_mask"),
        ({"pixel_mask": np.zeros((2, 2, 2))}, "live4d_pixel_mask"),
        ({"gain": np.full((2, 2), 1e308)}, "live4d_gain"),
        ({"channel": float("nan")}, "live4d_channel = nan: expected text"),
        ({"endpoint": None}, "live4d_endpoint = None: expected text"),
        ({"endpoint": ""}, "live4d_endpoint"),
        ({"endpoint": "dcu:31001"}, "live4d_endpoint"),
        ({"name": "a/b"}, "a device cannot be called 'a/b'"),
        ({"name": ""}, "a device cannot be called ''"),
        ({"methods": [Disk("a", radius=3), Disk("a_mean", radius=3)]}, "share the data key 'a_mean'"),
        ({"methods": [Disk("a_mean", radius=3), Disk("a", radius=3)]}, "share the data key 'a_mean'"),
        ({"methods": [Disk("a", radius=3), Disk("a_radius", radius=3)]}, "share the data key 'a_radius'"),
        ({"methods": [Disk("a", radius=3), Disk("a_center_row", radius=3)]}, "the data key 'a_center_row'"),
        ({"methods": [Disk("a_center_col", radius=3), Disk("a", radius=3)]}, "the data key 'a_center_col'"),
        *(
            ({"methods": [Disk(name, radius=3)]}, f"cannot be called '{name}'")
            for name in ("control", "preview", "detector_names", "detector_frame_time", "live_fraction", "name", "_a")
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_the_constructor(changes, words):
    options = {
        "endpoint": "tcp://127.0.0.1:9",
        "name": "live4d",
        "scan": GRID,
        "methods": [DISK],
        **changes,
    }
    with pytest.raises(ValueError, match=words):
        Live4D(options.pop("endpoint"), **options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("movie_rasters", 1.5), ("scan_rows", 0), ("scan_rows", 2.5), ("scan_rows", 10**400),
        ("timeout", 10**400), ("scan_serpentine", "no"), ("scan_step_y", 0),
        ("vbf_soft", "no"), ("vbf_radius", "3"), ("vbf_radius", -3), ("vbf_radius", float("nan")),
        ("vbf_center", (1.0, float("inf"))), ("vbf_center", "ab"), ("scan_unit", float("nan")), ("timeout", 0),
        ("pattern_enabled", 2), ("dwell_time", -1.0), ("dwell_time", "fast"), ("connections", 0), ("channel", 3),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_when_it_is_set(live4d, RE, name, value):
    before = getattr(live4d, name).get()
    with pytest.raises(ValueError, match=f"live4d_{name}"):
        RE(bps.mv(getattr(live4d, name), value))
    assert getattr(live4d, name).get() == before or np.isnan(before)


def test_a_dwell_time_that_nobody_sets_is_refused(live4d):
    with pytest.raises(ValueError, match="the device has no control"):
        live4d.dwell_time.put(1e-4)
    controlled = Live4D(
        "tcp://127.0.0.1:9", name="x", scan=GRID, methods=[DISK], control=Simplon("http://127.0.0.1:9")
    )
    controlled.dwell_time.put(1e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Disk("a", radius="3"),
        lambda: Disk("a", radius=3, soft="no"),
        lambda: Disk("a", center=("1", "2"), radius=3),
        lambda: Annulus("a", inner="1", outer=2),
        lambda: ScanGrid(3, 4, serpentine="no"),
        lambda: ScanGrid(10**30, 4),
        lambda: ScanGrid(3, 4, unit=float("nan")),
    ],
)
def test_shapes_and_grids_refuse_what_cannot_be(make):
    with pytest.raises(ValueError, match=r"expected|must"):
        make()
