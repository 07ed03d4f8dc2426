"""What is calibrated is saved under a name and loaded again, at once, and every later run says so."""

import numpy as np
import pytest
from bluesky.plans import count
from scanned_field import CENTER, DETECTOR, RADIUS, FormulaEngine

from live4d_ophyd import BF, DPC, CenterOfMass, Disk, Live4D, NoSuchCalibration, ScanGrid, calibrations
from live4d_ophyd.plans import (
    calibrate_bright_field,
    calibrate_rotation,
    load_calibration,
    measure_flat_field,
    save_calibration,
)


@pytest.fixture(autouse=True)
def _data_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def another(defocus):
    """The device of a later session."""
    live4d = Live4D(
        "tcp://nowhere:1", name="live4d", scan=ScanGrid(24, 32), methods=[Disk("vbf", radius=10), BF("bf")]
    )
    live4d._client = FormulaEngine(defocus)
    return live4d


def flood(engine, rng, dead=((5, 6), (30, 33))):
    """An engine whose pattern is a flood exposure; the efficiencies."""
    efficiency = 1 + 0.04 * rng.standard_normal(DETECTOR)
    for at in dead:
        efficiency[at] = 0
    engine._pattern = lambda: rng.poisson(20_000 * efficiency) / 768
    return efficiency


def configuration(run, key):
    return run.descriptors["primary"]["configuration"]["live4d"]["data"][f"live4d_{key}"]


def test_what_is_saved_in_one_session_is_loaded_in_another_and_its_runs_say_so(
    RE, run, live4d, engine, defocus
):
    mask, gain = np.zeros(DETECTOR, bool), np.random.default_rng(3).uniform(0.9, 1.1, DETECTOR)
    mask[2, 3] = True
    live4d.pixel_mask.put(mask)
    live4d.gain.put(gain)
    RE(calibrate_bright_field(live4d, semiangle=20.0, save_as="20 mrad"))
    measured = run.start["uid"]
    later = another(defocus)
    stored = RE(load_calibration(later, "20 mrad")).plan_result
    assert stored.runs == f"bright_field={measured}"
    assert later.calibration() == live4d.calibration()
    assert later.calibration().center == pytest.approx(CENTER, abs=0.05)
    assert later.calibration().semiangle == 20.0
    assert later.vbf_radius.get() == later.calibration().bf_radius
    assert later.vbf_center.get() == later.calibration().center
    assert later.bf_radius.get() == 1.0  # in units of the disk: it follows by itself
    RE(count([later]))
    (asked,) = later._client.asked
    np.testing.assert_array_equal(asked.pixel_mask, mask)
    np.testing.assert_array_equal(asked.gain, gain)
    assert asked.calibration == live4d.calibration()
    assert configuration(run, "calibration_name") == "20 mrad"
    assert configuration(run, "calibration_uid") == stored.uid
    assert configuration(run, "calibration_runs") == f"bright_field={measured}"
    (event,) = run.events["primary"]
    assert event["data"]["live4d_calibration_name"] == "20 mrad"
    assert event["data"]["live4d_calibration_bf_radius"] == pytest.approx(RADIUS, abs=0.1)
    later.close()


def test_the_session_that_saves_has_the_name_until_something_changes(RE, run, live4d):
    RE(calibrate_bright_field(live4d, save_as="morning"))
    assert live4d.calibration_name.get() == "morning"
    live4d.calibration_bf_radius.put(10.0)
    RE(count([live4d]))
    assert configuration(run, "calibration_name") == "morning, changed"
    assert configuration(run, "calibration_runs").endswith(", changed")
    RE(load_calibration(live4d, "morning"))
    assert live4d.calibration_name.get() == "morning"
    live4d.pixel_mask.put(np.eye(64, dtype=bool))
    assert live4d.calibration_name.get() == "morning, changed"
    RE(calibrate_bright_field(live4d))
    assert live4d.calibration_runs.get() == f"bright_field={run.start['uid']}"


def test_names_are_made_listed_and_not_overwritten_by_chance(RE, live4d, capsys):
    RE(calibrate_bright_field(live4d, semiangle=20.0, save_as=""))
    RE(save_calibration(live4d))
    first, second = sorted(one.name for one in calibrations())
    assert first.endswith(" 20 mrad")
    assert second == f"{first} (2)"
    assert f"live4d: saved '{second}': radius 11.4" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="overwrite=True"):
        RE(save_calibration(live4d, first))
    RE(save_calibration(live4d, first, overwrite=True))
    with pytest.raises(NoSuchCalibration, match=rf"no calibration 'evening' in .*: there are .*'{first}'"):
        RE(load_calibration(live4d, "evening"))
    with pytest.raises(ValueError, match="a calibration cannot be called 'a/b'"):
        RE(save_calibration(live4d, "a/b"))


def test_a_name_that_cannot_be_is_refused_before_anything_is_measured(RE, live4d, engine):
    RE(calibrate_bright_field(live4d, save_as="gold"))
    known, asked = live4d.calibration(), len(engine.asked)
    with pytest.raises(FileExistsError, match="there is a calibration 'gold' already"):
        RE(calibrate_bright_field(live4d, save_as="gold"))
    with pytest.raises(ValueError, match=r"a calibration cannot be called '\.\./gold'"):
        RE(calibrate_bright_field(live4d, save_as="../gold"))
    with pytest.raises(ValueError, match="live4d has no 'ring_radius'"):
        RE(load_calibration(live4d, "gold", disk="ring"))
    assert (live4d.calibration(), len(engine.asked)) == (known, asked)
    assert live4d.calibration_name.get() == "gold"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num": 0}, "num of rasters is 0; expected a whole number from 1"),
        ({"num": 1.5}, "num of rasters is 1.5"),
        ({"order": 3}, "order of the illumination is 3; expected a whole number from 0 to 2"),
    ],
)
def test_arguments_of_a_flat_field(RE, live4d, engine, arguments, words):
    with pytest.raises(ValueError, match=words):
        RE(measure_flat_field(live4d, **arguments))
    assert engine.asked == []


def test_nothing_calibrated_is_not_saved(RE, live4d):
    with pytest.raises(ValueError, match="nothing of live4d is calibrated"):
        RE(save_calibration(live4d, "x"))
    assert calibrations() == []


def test_a_calibration_of_other_frames_is_refused_and_one_of_another_binning_converted(
    RE, live4d, monkeypatch
):
    live4d.pattern_enabled.put(1)
    RE(count([live4d]))
    RE(calibrate_bright_field(live4d, save_as="whole"))
    whole = live4d.calibration()
    monkeypatch.setattr(live4d, "frame_shape", lambda: (48, 64))
    with pytest.raises(
        ValueError, match="'whole' is of frames of 64 x 64 px, and those of the detector have 48 x 64"
    ):
        RE(load_calibration(live4d, "whole"))
    assert live4d.calibration() == whole
    monkeypatch.setattr(live4d, "frame_shape", lambda: (32, 32))
    RE(load_calibration(live4d, "whole"))
    assert live4d.calibration().center == tuple((p + 0.5) / 2 - 0.5 for p in whole.center)
    assert live4d.vbf_radius.get() == whole.bf_radius / 2


def test_what_was_measured_on_frames_of_another_binning_is_not_saved(RE, live4d, monkeypatch):
    RE(calibrate_bright_field(live4d))
    monkeypatch.setattr(live4d, "frame_shape", lambda: (32, 32))
    with pytest.raises(
        ValueError, match=r"live4d has frames of 32 x 32 px now, .* of 64 x 64: calibrate again"
    ):
        RE(save_calibration(live4d, "binned"))
    assert calibrations() == []


# Camera length -------------------------------------------------------------------------------------------


def test_a_camera_length_needs_the_size_of_a_pixel_and_no_semiangle(RE, live4d, engine):
    with pytest.raises(
        ValueError, match="camera_length needs the size of a pixel, which live4d does not know"
    ):
        RE(calibrate_bright_field(live4d, camera_length=1.5))
    with pytest.raises(ValueError, match="give one of them"):
        RE(calibrate_bright_field(live4d, camera_length=1.5, semiangle=20))
    for wrong in (0, float("nan"), float("inf"), "1.5 m"):
        with pytest.raises(ValueError, match=f"camera_length is {wrong!r}; expected a length above 0 m"):
            RE(calibrate_bright_field(live4d, camera_length=wrong))
    assert engine.asked == []


# Bad pixels and flat field -------------------------------------------------------------------------------


def test_bad_pixels_of_the_scan_are_masked_on_request(RE, live4d, engine, capsys):
    engine.hot = 3
    before = np.zeros(DETECTOR, bool)
    before[60, 60] = True
    live4d.pixel_mask.put(before)
    RE(calibrate_bright_field(live4d, mask=True))
    assert np.argwhere(live4d.pixel_mask.get()).tolist() == [[3, 5], [3, 12], [3, 19], [60, 60]]
    assert live4d.bad_pixels.get() == "spread"
    assert "live4d: 3 hot pixels by this pattern, masked now" in capsys.readouterr().out


def test_a_flat_field_sets_gain_and_mask_and_the_run_has_both(RE, run, live4d, engine, capsys):
    efficiency = flood(engine, np.random.default_rng(81))
    found = RE(measure_flat_field(live4d, num=2)).plan_result
    good = efficiency > 0
    corrected = live4d.gain.get()[good] * efficiency[good]
    assert corrected.std() / corrected.mean() == pytest.approx(1 / np.sqrt(40_000), rel=0.1)
    np.testing.assert_array_equal(live4d.pixel_mask.get(), ~good)
    assert live4d.bad_pixels.get() == "spread"
    assert len(run.events["primary"]) == 2
    assert [method.name for method in engine.asked[-1].methods if method.outputs(None, live4d.grid())] == [
        "pattern"
    ]
    assert live4d.vbf_enabled.get()
    (event,) = run.events["flat_field"]
    np.testing.assert_array_equal(event["data"]["live4d_flat_field_gain"], found.gain)
    np.testing.assert_array_equal(event["data"]["live4d_flat_field_bad"], ~good)
    assert event["data"]["live4d_flat_field_noise"] == pytest.approx(1 / 200, rel=0.05)
    assert live4d.calibration_runs.get() == f"flat_field={run.start['uid']}"
    out = capsys.readouterr().out
    assert "live4d: 0 hot and 2 dead pixels, masked; their neighbours have their weight" in out
    assert "pixels differ by 4." in out


def test_no_pixel_without_a_factor_is_left_in_use(RE, live4d, engine, capsys):
    flood(engine, np.random.default_rng(83))
    made = engine._pattern

    def with_one_that_always_saturates():
        pattern = made()
        pattern[7, 8] = np.nan
        return pattern

    engine._pattern = with_one_that_always_saturates
    RE(measure_flat_field(live4d))
    assert np.isnan(live4d.gain.get()).sum() == 3
    np.testing.assert_array_equal(live4d.pixel_mask.get(), np.isnan(live4d.gain.get()))
    assert "2 dead pixels, and 1 that cannot be read, masked" in capsys.readouterr().out


def test_a_flat_field_that_is_mostly_noise_leaves_the_gain(RE, live4d, engine, capsys):
    engine._pattern = lambda: np.random.default_rng(82).poisson(100, DETECTOR) / 768
    RE(measure_flat_field(live4d))
    assert live4d.gain.get() is None
    assert "the gain stays as it was, as this one would be mostly noise" in capsys.readouterr().out


def test_without_a_flood_exposure_nothing_changes(RE, run, live4d):
    with pytest.raises(
        ValueError, match=r"live4d: no flood exposure: .*Pixel mask and gain stay as they were"
    ):
        RE(measure_flat_field(live4d))
    assert (live4d.gain.get(), live4d.pixel_mask.get(), live4d.bad_pixels.get()) == (None, None, "exclude")
    assert live4d.vbf_enabled.get()
    assert run.stop["exit_status"] == "fail"


# Rotation ------------------------------------------------------------------------------------------------


@pytest.fixture
def turned(defocus):
    live4d = Live4D(
        "tcp://nowhere:1",
        name="live4d",
        scan=ScanGrid(24, 32),
        methods=[CenterOfMass("com", Disk("all", radius=20)), DPC("dpc", rotation=3.0)],
    )
    live4d._client = engine = FormulaEngine(defocus)
    engine.said = {"rotation_used": 17.5, "transpose_used": 1.0, "curl": 0.2, "skewness": -0.4}
    raster = engine._raster

    def with_rotation(request, index):
        made = raster(request, index)
        made.outputs.update({f"dpc_{what}": np.array(value) for what, value in engine.said.items()})
        return made

    engine._raster = with_rotation
    yield live4d
    live4d.close()


def test_the_rotation_of_one_raster_is_that_of_later_ones(RE, run, turned, capsys):
    turned.calibration_rotation.put(80.0)
    assert RE(calibrate_rotation(turned)).plan_result == (17.5, True)
    (asked,) = turned._client.asked
    assert asked.calibration.rotation is None  # it was looked for, not taken from what was known
    assert [method.rotation for method in asked.methods if method.name == "dpc"] == [None]
    assert turned.calibration().turn(None, False) == (17.5, True)
    assert np.isnan(turned.dpc_rotation.get())
    assert run.events["rotation"][0]["data"] == {
        "live4d_calibration_rotation": 17.5,
        "live4d_calibration_transpose": True,
    }
    assert turned.calibration_runs.get() == f"rotation={run.start['uid']}"
    assert "live4d: rotation 17.5 degrees, transposed; curl 0.20" in capsys.readouterr().out


@pytest.mark.parametrize("curl", [0.95, np.nan])
def test_a_rotation_that_is_open_changes_nothing(RE, turned, curl):
    turned._client.said["curl"] = curl
    turned.calibration_rotation.put(80.0)
    with pytest.raises(
        ValueError, match=f"live4d: the rotation is open: the curl is {curl:.2f} of the divergence"
    ):
        RE(calibrate_rotation(turned))
    assert turned.calibration_rotation.get() == 80.0
    assert turned.dpc_rotation.get() == 3.0


def test_a_device_without_a_dpc_is_refused_by_name(RE, live4d):
    with pytest.raises(ValueError, match="live4d has no 'dpc_rotation'"):
        RE(calibrate_rotation(live4d))
