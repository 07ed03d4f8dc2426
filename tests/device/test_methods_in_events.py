"""Methods of all kinds in a RunEngine: what they give is in the Events, and their parameters are moved between them."""

from contextlib import closing

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky import FailedStatus, RunEngine
from test_device import Documents

from live4d_ophyd import CenterOfMass, Disk, Live4D, MeanPattern, ScanGrid, Segments
from live4d_ophyd.testing.small_dcu import frames, series

GRID = ScanGrid(3, 4, step=0.5, unit="nm")


@pytest.fixture(scope="module")
def device():
    methods = [
        MeanPattern("pacbed"),
        CenterOfMass("com", within=Disk("within", center=(12, 16), radius=6)),
        Segments("seg", center=(12, 16), outer=8, sectors=2),
        Disk("vbf", center=(12, 16), radius=6),
    ]
    device = Live4D(
        "tcp://127.0.0.1:9", name="live4d", scan=GRID, methods=methods, timeout=20.0, backend="cpu"
    )
    with closing(device):
        yield device


@pytest.fixture
def live4d(device, dcu):
    device.endpoint.put(dcu.endpoint)
    yield device
    device.unstage()


@pytest.fixture
def RE():
    return RunEngine({}, call_returns_result=False)


def center_of_mass(pixels, radius):
    """Rows and columns of the centres relative to (12, 16), by plain NumPy."""
    weights = Disk("within", center=(12, 16), radius=radius).weights(pixels.shape[1:])
    rows, cols = np.indices(pixels.shape[1:])
    total = (pixels * weights).sum(axis=(1, 2))
    return [
        ((pixels * weights * (index - middle)).sum(axis=(1, 2)) / total).reshape(GRID.shape)
        for index, middle in ((rows, 12), (cols, 16))
    ]


def test_every_output_of_every_method_is_in_the_event_and_parameters_move_between_events(live4d, dcu, RE):
    pixels = frames(2 * GRID.frames).reshape(2, GRID.frames, 24, 32)
    dcu.send(
        [message for number, part in enumerate(pixels) for message in series(part, number, f"S{number}")]
    )
    docs = Documents()
    RE(bp.list_scan([live4d], live4d.com_radius, [6.0, 9.0]), docs)
    for event, part, radius in zip(docs.events(), pixels, [6.0, 9.0]):
        data = event["data"]
        assert data["live4d_com_radius"] == radius
        for axis, wanted in zip("yx", center_of_mass(part.astype(float), radius)):
            np.testing.assert_allclose(data[f"live4d_com_{axis}"], wanted, atol=1e-10)
        np.testing.assert_allclose(data["live4d_pacbed"], part.mean(axis=0))
        whole = Disk("all", center=(12, 16), radius=8).weights((24, 32))
        both = data["live4d_seg_0_0"] + data["live4d_seg_0_1"]
        np.testing.assert_array_equal(both, (part * whole).sum(axis=(1, 2)).reshape(GRID.shape))
        assert data["live4d_com_y_mean"] == pytest.approx(data["live4d_com_y"].mean())
    keys = docs.of("descriptor")[0]["data_keys"]
    described = {
        name: (keys[f"live4d_{name}"]["units"], keys[f"live4d_{name}"]["dims"])
        for name in ("com_y", "seg_0_1")
    }
    assert described == {"com_y": ("px", ["scan_y", "scan_x"]), "seg_0_1": ("counts", ["scan_y", "scan_x"])}
    assert keys["live4d_pacbed"]["shape"] == [24, 32]
    assert docs.of("descriptor")[0]["hints"]["live4d"]["fields"] == ["live4d_vbf_mean", "live4d_vbf_contrast"]


def test_a_movie_has_all_but_what_only_the_detector_knows_the_size_of(live4d, dcu, RE):
    live4d.com_radius.put(6)
    live4d.movie_rasters.put(2)
    pixels = frames(2 * GRID.frames)
    dcu.send(series(pixels))
    docs = Documents()
    RE(bpp.stage_wrapper(bp.fly([live4d]), [live4d]), docs)
    events = docs.events("live4d_movie")
    for event, part in zip(events, pixels.reshape(2, 12, 24, 32), strict=True):
        assert "live4d_pacbed" not in event["data"]
        np.testing.assert_allclose(
            event["data"]["live4d_com_x"], center_of_mass(part.astype(float), 6)[1], atol=1e-10
        )


def test_the_preview_has_the_images_of_all_methods(live4d):
    images = {
        "live4d_com_sum",
        "live4d_com_y",
        "live4d_com_x",
        "live4d_seg_0_0",
        "live4d_seg_0_1",
        "live4d_vbf",
    }
    assert {key for key, entry in live4d.preview.describe().items() if entry["dtype"] == "array"} == images


def test_a_parameter_that_would_give_other_outputs_is_refused_and_put_back(live4d, RE):
    with pytest.raises(FailedStatus, match="seg would give seg_0_2, for which live4d has no signal"):
        RE(bps.mv(live4d.seg_sectors, 3))
    assert live4d.seg_sectors.get() == 2


def test_a_centre_off_the_detector_is_refused_for_any_method(live4d, RE):
    with pytest.raises(FailedStatus, match=r"live4d_com_center is \(-1\.0, 16\.0\)"):
        RE(bps.mv(live4d.com_center, (-1, 16)))
