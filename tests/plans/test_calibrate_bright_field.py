"""The calibration finds the disk, sets it, and leaves no trace when there is none."""

import numpy as np
import pytest
from bluesky.utils import FailedStatus
from scanned_field import CENTER, DETECTOR, RADIUS

from live4d_ophyd import (
    ABF,
    BF,
    DPC,
    IDPC,
    Annulus,
    Calibration,
    CenterOfMass,
    Disk,
    Live4D,
    OfChannel,
    Parallax,
    ScanGrid,
)
from live4d_ophyd.plans import calibrate_bright_field


def test_the_disk_is_found_set_and_returned(RE, live4d, capsys):
    fit = RE(calibrate_bright_field(live4d)).plan_result
    assert fit.center == pytest.approx(CENTER, abs=0.05)
    assert fit.radius == pytest.approx(RADIUS, abs=0.1)
    assert live4d.vbf_center.get() == fit.center
    assert live4d.vbf_radius.get() == fit.radius
    assert "live4d_vbf: centre row 30.30, col 33.80 px, radius 11.4" in capsys.readouterr().out


def test_hot_pixels_are_printed_as_a_mask(RE, live4d, engine, capsys):
    RE(calibrate_bright_field(live4d))
    assert "live4d: no pixel is hot by this pattern" in capsys.readouterr().out
    engine.hot = 3
    RE(calibrate_bright_field(live4d))
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("live4d: 3 hot pixels by this pattern.")
    found = {"np": np}
    exec(line.split("To leave them out: ")[1].split("; Live4D")[0], found)
    assert np.argwhere(found["mask"]).tolist() == [[3, 5], [3, 12], [3, 19]]
    assert found["mask"].shape == DETECTOR


@pytest.mark.parametrize(("hot", "masked"), [(20, 20), (21, 0)])  # of 4096: 0.5 %
def test_more_bad_pixels_than_a_detector_has_are_a_structure_and_not_masked(
    RE, live4d, engine, capsys, hot, masked
):
    engine.hot = hot
    RE(calibrate_bright_field(live4d, mask=True))
    assert live4d.pixel_mask.get() is None if not masked else live4d.pixel_mask.get().sum() == masked
    said = capsys.readouterr().out
    assert (
        "21 pixels are hot and 0 dead by this pattern: too many for single ones, and none is masked" in said
    ) == (not masked)


def test_concentric_detectors_stay_concentric(RE, live4d):
    RE(calibrate_bright_field(live4d))
    assert live4d.adf_center.get() == live4d.vbf_center.get()
    assert live4d.spot_center.get() == (5, 5)
    assert live4d.adf_inner.get() == 14


def test_the_run_holds_the_pattern_and_what_was_set(RE, run, live4d):
    RE(calibrate_bright_field(live4d, md={"operator": "A. B."}))
    assert run.start["plan_name"] == "calibrate_bright_field"
    assert run.start["purpose"] == "bright-field calibration"
    assert run.start["operator"] == "A. B."
    assert run.descriptors["primary"]["data_keys"]["live4d_pattern"]["shape"] == list(DETECTOR)
    assert run.events["primary"][0]["data"]["live4d_pattern"].shape == DETECTOR
    assert run.events["bright_field"][0]["data"] == {
        "live4d_calibration_center_row": live4d.vbf_center.get()[0],
        "live4d_calibration_center_col": live4d.vbf_center.get()[1],
        "live4d_calibration_bf_radius": live4d.vbf_radius.get(),
        "live4d_calibration_mrad_per_px": pytest.approx(np.nan, nan_ok=True),
        "live4d_calibration_ellipticity": pytest.approx(1, abs=0.01),
        "live4d_calibration_ellipse_angle": live4d.calibration_ellipse_angle.get(),
        "live4d_calibration_semiangle": pytest.approx(np.nan, nan_ok=True),
        "live4d_calibration_camera_length": pytest.approx(np.nan, nan_ok=True),
        "live4d_calibration_energy": pytest.approx(np.nan, nan_ok=True),
        "live4d_vbf_center_row": live4d.vbf_center.get()[0],
        "live4d_vbf_center_col": live4d.vbf_center.get()[1],
        "live4d_adf_center_row": live4d.vbf_center.get()[0],
        "live4d_adf_center_col": live4d.vbf_center.get()[1],
        "live4d_vbf_radius": live4d.vbf_radius.get(),
    }


@pytest.mark.parametrize("before", [0, 1])
def test_the_pattern_is_enabled_only_for_the_calibration(RE, run, live4d, before):
    live4d.pattern_enabled.put(before)
    RE(calibrate_bright_field(live4d))
    assert live4d.pattern_enabled.get() == before


def test_without_a_disk_nothing_changes_and_the_error_says_so(RE, run, live4d, engine):
    engine.beam_on_detector = False
    with pytest.raises(ValueError, match=r"live4d: no bright-field disk.*vbf stays as it was"):
        RE(calibrate_bright_field(live4d))
    assert np.isnan(live4d.vbf_center.get()).all()
    assert live4d.vbf_radius.get() == 10
    assert live4d.pattern_enabled.get() == 0
    assert run.stop["exit_status"] == "fail"
    assert "no bright-field disk" in run.stop["reason"]


def test_a_failed_raster_restores_the_device(RE, live4d, engine):
    engine.fails_at = 1
    with pytest.raises(FailedStatus):
        RE(calibrate_bright_field(live4d))
    assert live4d.pattern_enabled.get() == 0
    assert live4d._staged.value == "no"


@pytest.mark.parametrize("name", ["adf", "vdf"])
def test_only_disks_can_be_calibrated(RE, live4d, name):
    with pytest.raises(ValueError, match=rf"live4d has no '{name}_radius'.*are: vbf, adf, spot"):
        RE(calibrate_bright_field(live4d, name))


def test_detectors_in_radii_of_the_disk_follow_the_calibration_and_are_left_as_they_are(RE, run, engine):
    methods = [
        BF(), ABF(), Annulus("ring", inner=5, outer=9, unit="mrad"), CenterOfMass("com", BF()), DPC("dpc"),
        IDPC("idpc", unit="rad"),
    ]  # fmt: skip
    live4d = Live4D("tcp://nowhere:1", name="live4d", scan=ScanGrid(24, 32), methods=methods)
    live4d._client = engine
    RE(calibrate_bright_field(live4d, "bf", semiangle=20.0))
    # Not known before, so that they could not be made: the run has the pattern alone.
    assert [method.name for method in engine.asked[-1].methods if method.outputs(None, live4d.grid())] == [
        "pattern"
    ]
    assert "live4d_abf" not in run.events["primary"][0]["data"]
    assert (live4d.bf_radius.get(), live4d.abf_inner.get(), live4d.abf_outer.get()) == (1.0, 0.5, 1.0)
    assert [live4d.bf_enabled.get(), live4d.abf_enabled.get(), live4d.ring_enabled.get()] == [True] * 3
    known = engine.asked[-1].calibration, live4d.calibration()
    assert known[0] == Calibration()
    assert known[1].bf_radius == pytest.approx(RADIUS, abs=0.1)
    assert known[1].center == pytest.approx(CENTER, abs=0.05)
    assert known[1].mrad_per_px == pytest.approx(20 / RADIUS, rel=0.01)
    RE(calibrate_bright_field(live4d, "bf"))  # what is known already is taken, too
    assert {"live4d_bf", "live4d_abf", "live4d_ring", "live4d_idpc", "live4d_pattern"} <= set(
        run.events["primary"][0]["data"]
    )


def test_methods_on_another_channel_follow_the_disk_or_wait_for_it_as_others_do(RE, engine):
    near, far = (
        Disk("near", center=(31, 33), radius=4),
        OfChannel(Disk("far", center=(31, 33), radius=9), "two"),
    )
    methods = [Disk("vbf", center=(31, 33), radius=10), near, far, OfChannel(BF("bf"), "two")]
    live4d = Live4D("tcp://nowhere:1", name="live4d", scan=ScanGrid(24, 32), methods=methods)
    live4d._client = engine
    RE(calibrate_bright_field(live4d))
    asked = [method.name for method in engine.asked[-1].methods if method.outputs(None, live4d.grid())]
    assert asked == ["pattern"]  # a radius of the disk was not known yet
    assert live4d.near_center.get() == live4d.far_two_center.get() == live4d.vbf_center.get()
    assert live4d.vbf_center.get() == pytest.approx(CENTER, abs=0.05)


def test_parallax_waits_for_the_angle_of_a_pixel_though_its_radius_is_in_radii_of_the_disk(RE, run, engine):
    live4d = Live4D("tcp://nowhere:1", name="live4d", scan=ScanGrid(24, 32), methods=[BF(), Parallax("p")])
    live4d._client = engine
    live4d.calibration_bf_radius.put(RADIUS)
    RE(calibrate_bright_field(live4d, "bf", semiangle=20.0))
    asked = engine.asked[-1].methods
    assert [method.name for method in asked if method.outputs(None, live4d.grid())] == ["pattern"]


@pytest.mark.parametrize("semiangle", [0, -3])
def test_an_angle_that_is_none_is_refused_before_a_raster(RE, live4d, engine, semiangle):
    with pytest.raises(ValueError, match=f"semiangle is {semiangle}; expected an angle above 0 mrad"):
        RE(calibrate_bright_field(live4d, semiangle=semiangle))
    assert engine.asked == []
