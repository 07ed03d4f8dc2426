"""Methods of all kinds in a RunEngine: what they give is in the Events, and their parameters are moved between them."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky import FailedStatus, RunEngine
from ophyd.utils import ReadOnlyError
from test_device import Documents

from live4d_ophyd import (
    ABF,
    DPC,
    IDPC,
    Annulus,
    CenterOfMass,
    Disk,
    Live4D,
    Mask,
    MeanPattern,
    Parallax,
    Points,
    Polygon,
    ScanGrid,
    Segments,
    Strain,
    live_preview,
)
from live4d_ophyd.engine.series_record import digest
from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.imaging.parallax import Reason
from live4d_ophyd.sources.source import SeriesInfo
from live4d_ophyd.testing.small_dcu import frames, series, start

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


def test_patterns_of_the_frames_so_far_are_in_the_preview(live4d, dcu, RE):
    pixels = frames(GRID.frames)
    messages = series(pixels)
    docs, shown = Documents(), threading.Event()

    def watch(name, doc):
        docs(name, doc)
        if name == "event" and doc["data"].get("live4d_live_fraction") == 0.5:
            shown.set()

    def feed():
        dcu.send(messages[:7])
        assert shown.wait(20)
        dcu.send(messages[7:])

    with ThreadPoolExecutor(1) as pool:
        fed = pool.submit(feed)
        RE(live_preview([live4d], max_rate=50)(bp.count([live4d])), watch)
        fed.result()
    half = next(e["data"] for e in docs.events("live4d_live") if e["data"]["live4d_live_fraction"] == 0.5)
    np.testing.assert_allclose(half["live4d_pacbed"], pixels[:6].mean(axis=0), rtol=1e-6)
    (descriptor,) = [doc for doc in docs.of("descriptor") if doc["name"] == "live4d_live"]
    assert descriptor["data_keys"]["live4d_pacbed"]["shape"] == [24, 32]
    assert descriptor["data_keys"]["live4d_pacbed"]["dims"] == ["q_y", "q_x"]


def test_the_preview_has_the_images_of_all_methods(live4d):
    images = {
        "live4d_com_sum",
        "live4d_com_y",
        "live4d_com_x",
        "live4d_seg_0_0",
        "live4d_seg_0_1",
        "live4d_vbf",
    }
    described = live4d.preview.describe()
    assert {key for key, entry in described.items() if entry.get("dims") == ["scan_y", "scan_x"]} == images


def test_a_parameter_that_would_give_other_outputs_is_refused_and_put_back(live4d, RE):
    with pytest.raises(FailedStatus, match="seg would give seg_0_2, for which live4d has no signal"):
        RE(bps.mv(live4d.seg_sectors, 3))
    assert live4d.seg_sectors.get() == 2


def test_a_centre_off_the_detector_is_refused_for_any_method(live4d, RE):
    with pytest.raises(FailedStatus, match=r"live4d_com_center is \(-1\.0, 16\.0\)"):
        RE(bps.mv(live4d.com_center, (-1, 16)))


def test_drawn_detectors_and_the_calibration_move_between_events(dcu, RE):
    """And what was used is in the Events: px of what is in other units, the text of positions, the digest of a mask."""
    half = np.zeros((24, 32), bool)
    half[:, :16] = True
    methods = [
        ABF("abf"),
        Points("spots", [(3, 4), (9, 20)], radius=1.5),
        Polygon("cell", [(2, 3), (2, 9), (7, 9), (7, 3)]),
        Mask("half", half),
    ]
    live4d = Live4D(dcu.endpoint, name="it", scan=GRID, methods=methods, timeout=20.0, backend="cpu")
    pixels = frames(2 * GRID.frames).reshape(2, GRID.frames, 24, 32)
    dcu.send(
        [message for number, part in enumerate(pixels) for message in series(part, number, f"T{number}")]
    )

    def move(points, corners, mask, radius):
        yield from bps.mv(
            live4d.spots_points, points, live4d.cell_points, corners, live4d.half_array, mask,
            live4d.calibration_bf_radius, radius, live4d.calibration_center, (12, 15),
        )  # fmt: skip

    square, triangle = [(2, 3), (2, 9), (7, 9), (7, 3)], "[[2, 3], [2, 20], [20, 3]]"

    @bpp.stage_decorator([live4d])
    @bpp.run_decorator()
    def plan():
        yield from move([(3, 4)], square, half, 8.0)
        yield from bps.trigger_and_read([live4d])
        yield from move([(3, 4), (9, 20), (15, 9)], triangle, ~half, 10.0)
        yield from bps.trigger_and_read([live4d])

    docs = Documents()
    with closing(live4d):
        RE(plan(), docs)
        with pytest.raises(FailedStatus, match=r"points of detector cell have the shape .* expected 3 to"):
            RE(bps.mv(live4d.cell_points, [(1, 2), (3, 4)]))
        with pytest.raises(FailedStatus, match="array of detector half is 0 everywhere"):
            RE(bps.mv(live4d.half_array, np.zeros((24, 32))))
        assert len(live4d.cell_points.get()) == 3
    asked = [
        [
            Annulus("a", (12, 15), inner=radius / 2, outer=radius),
            Points("p", points, radius=1.5),
            Polygon("c", corners),
            Mask("m", mask),
        ]
        for points, corners, mask, radius in (
            ([(3, 4)], square, half, 8.0),
            ([(3, 4), (9, 20), (15, 9)], triangle, ~half, 10.0),
        )
    ]
    for event, part, detectors in zip(docs.events(), pixels, asked, strict=True):
        for key, detector in zip(("abf", "spots", "cell", "half"), detectors):
            expected = (part * detector.weights((24, 32))).sum(axis=(1, 2)).reshape(GRID.shape)
            np.testing.assert_array_equal(event["data"][f"it_{key}"], expected)
        used = [event["data"][f"it_abf_{key}_px"] for key in ("inner", "outer", "center_row", "center_col")]
        assert used == [detectors[0].inner, detectors[0].outer, 12, 15]
    data = docs.events()[1]["data"]
    assert data["it_spots_points"] == "[[3.0, 4.0], [9.0, 20.0], [15.0, 9.0]]"
    assert data["it_half_array"] == f"24 x 32 px, sha256 {digest(~half)}"
    assert docs.of("descriptor")[0]["data_keys"]["it_abf_inner"]["units"] == "bright-field radius"


def test_a_unit_is_of_the_device(RE):
    live4d = Live4D("tcp://127.0.0.1:9", name="it", scan=GRID, methods=[ABF("abf")])
    with pytest.raises(ReadOnlyError, match="abf_unit is a result, and no setting"):
        RE(bps.mv(live4d.abf_unit, "px"))


def test_what_is_not_calibrated_fails_the_trigger_by_name(dcu, RE):
    live4d = Live4D(dcu.endpoint, name="it", scan=GRID, methods=[ABF("abf")], timeout=20.0, backend="cpu")
    dcu.send(series(frames(GRID.frames), 1, "U1"))
    with (
        closing(live4d),
        pytest.raises(FailedStatus, match="abf is in units of the bright-field radius, which is not"),
    ):
        RE(bp.count([live4d]))


def test_images_made_of_images_are_in_the_event_with_what_was_fitted(dcu, RE):
    """Phase contrast: of the centre of mass, and of that the phase; an angle says what it is as bright as."""
    grid = ScanGrid(6, 8, step=0.5, unit="nm")
    methods = [IDPC("idpc"), DPC("dpc"), CenterOfMass("com", Disk("d", center=(12, 16), radius=8))]
    live4d = Live4D(dcu.endpoint, name="it", scan=grid, methods=methods, timeout=20.0, backend="cpu")
    pixels = frames(grid.frames)
    pixels[11] = 0  # a frame without counts has no centre of mass
    dcu.send(series(pixels, 3, "D3"))
    docs = Documents()
    with closing(live4d):
        assert {"it_dpc_angle", "it_idpc", "it_com_y"} <= set(live4d.preview.describe())
        RE(bp.count([live4d]), docs)
    data = docs.events()[0]["data"]
    parts = {key: np.asarray(data[f"it_{key}"]) for key in ("com_y", "com_x")}
    dpc, info = DPC("dpc"), SeriesInfo((3, 0), FrameFormat(24, 32, pixels.dtype))
    fit = dpc.refit(info, grid, parts, None, lambda: False)
    expected = dict(dpc.results(info, grid, parts, fit))
    expected |= IDPC("idpc").results(info, grid, expected)
    for key, array in expected.items():
        np.testing.assert_allclose(data[f"it_{key}"], array, rtol=1e-12, err_msg=key)
    assert np.isnan(np.ravel(data["it_idpc"])).nonzero()[0].tolist() == [11]
    assert np.isfinite([data["it_dpc_rotation_used"], data["it_dpc_skewness"]]).all()
    keys = docs.of("descriptor")[0]["data_keys"]
    assert keys["it_dpc_angle"]["brightness"] == "it_dpc_magnitude"
    assert (keys["it_idpc"]["units"], keys["it_dpc_divergence"]["units"]) == ("px nm", "px/nm")


def test_a_phase_in_radians_that_cannot_be_is_refused_by_name(dcu, RE):
    methods = [IDPC("idpc", unit="rad"), DPC("dpc"), CenterOfMass("com", Disk("d", radius=8))]
    live4d = Live4D(dcu.endpoint, name="it", scan=GRID, methods=methods, timeout=20.0, backend="cpu")
    dcu.send(series(frames(GRID.frames), 4, "D4"))
    with (
        closing(live4d),
        pytest.raises(FailedStatus, match="idpc is in rad, and how many mrad a pixel is wide is not"),
    ):
        RE(bp.count([live4d]))


def test_an_image_finer_than_the_scan_is_in_the_event_with_axes_of_its_own(dcu, RE):
    methods = [Parallax("parallax", center=(12, 16), radius=8, unit="px", ssb=True)]
    grid = ScanGrid(6, 8, step=0.1, unit="nm")
    live4d = Live4D(dcu.endpoint, name="it", scan=grid, methods=methods, timeout=20.0, backend="cpu")
    live4d.calibration_mrad_per_px.put(2.5)
    _, *images = series(frames(grid.frames), 5, "D5")
    dcu.send([start(5, "D5", grid.frames, incident_energy=300e3), *images])
    docs = Documents()
    with closing(live4d):
        assert {"it_parallax", "it_parallax_fine"} <= set(live4d.preview.describe())
        RE(bp.count([live4d]), docs)
    data, keys = docs.events()[0]["data"], docs.of("descriptor")[0]["data_keys"]
    assert np.shape(data["it_parallax"]) == (6, 8)
    assert np.shape(data["it_parallax_fine"]) == (12, 16)
    assert keys["it_parallax"]["dims"] == ["scan_y", "scan_x"]
    assert keys["it_parallax_fine"]["dims"] == ["parallax_y", "parallax_x"]
    assert keys["it_parallax_C10"]["units"] == "A"
    assert keys["it_parallax_phase"]["dims"] == ["scan_y", "scan_x"]
    assert keys["it_parallax_phase"]["units"] == "rad"
    assert np.isnan(data["it_parallax_phase"]).all()
    assert data["it_parallax_reason"] == Reason.TOO_FEW_POSITIONS
    assert np.isnan([data["it_parallax_defocus"], data["it_parallax_C10_error"]]).all()


def test_strain_is_in_the_event_with_its_reference_and_two_colours(dcu, RE):
    strain = Strain("strain", (12, 16), g1=(7, 0), g2=(0, 7), radius=2.5, margin=0.5)
    live4d = Live4D(dcu.endpoint, name="it", scan=GRID, methods=[strain], timeout=20.0, backend="cpu")
    y, x = np.indices((24, 32))
    disk = np.min([np.hypot(y - row, x - col) for row in (5, 12, 19) for col in (9, 16, 23)], axis=0) < 2.6
    pixels = np.where(disk, 100, 0).astype(np.uint16) * np.ones((GRID.frames, 1, 1), np.uint16)
    pixels[3] = 0
    dcu.send(series(pixels, 6, "E6"))
    docs = Documents()
    with closing(live4d):
        assert {"it_strain_e_rr", "it_strain_indexed"} <= set(live4d.preview.describe())
        RE(bp.count([live4d]), docs)
        with pytest.raises(ValueError, match=r"it_strain_margin = 0.1: expected a number of at least 0.5 px"):
            RE(bps.mv(live4d.strain_margin, 0.1))
    data, keys = docs.events()[0]["data"], docs.of("descriptor")[0]["data_keys"]
    for key in ("e_rr", "e_cc", "e_rc", "theta"):
        image = np.ravel(data[f"it_strain_{key}"])
        assert np.isnan(image).nonzero()[0].tolist() == [3]
        np.testing.assert_allclose(np.delete(image, 3), 0, atol=1e-9)
        assert keys[f"it_strain_{key}"]["symmetric"] is True
    assert "symmetric" not in keys["it_strain_residual"]
    assert data["it_strain_mapped"] == pytest.approx(11 / 12)
    assert [data[f"it_strain_reference_g1_{axis}"] for axis in ("row", "col")] == pytest.approx([7, 0])
    assert (data["it_strain_g1_row"], data["it_strain_refine"], data["it_strain_reason"]) == (7, False, 0)
