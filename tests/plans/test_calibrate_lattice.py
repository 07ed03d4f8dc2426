"""The calibration finds the lattice, sets the windows of the strain map, and leaves no trace when there is none."""

import numpy as np
import pytest
from scanned_field import CENTER

from live4d_ophyd import BF, Live4D, Parallax, ScanGrid, Strain
from live4d_ophyd.plans import calibrate_bright_field, calibrate_lattice

G1, G2 = (15.5, 2.0), (-1.5, 16.5)


@pytest.fixture
def live4d(engine):
    device = Live4D(
        "tcp://nowhere:1",
        name="it",
        scan=ScanGrid(24, 32),
        methods=[BF(), Strain("strain"), Parallax("p", upsampling=1)],
    )
    device._client = engine
    engine.lattice = G1, G2
    return device


def asked(engine, live4d):
    """Names of the methods of the last raster that gave something."""
    return [m.name for m in engine.asked[-1].methods if m.outputs(None, live4d.grid())]


def test_the_lattice_is_found_set_and_returned(RE, live4d, engine, capsys):
    fit = RE(calibrate_lattice(live4d)).plan_result
    np.testing.assert_allclose([fit.g1, fit.g2], [G1, G2], atol=0.05)
    np.testing.assert_allclose(fit.center, CENTER, atol=0.05)
    settings = [getattr(live4d, f"strain_{name}").get() for name in ("center", "radius", "g1", "g2")]
    assert settings == [fit.center, fit.radius, fit.g1, fit.g2]
    assert fit.radius == pytest.approx(6, abs=0.1)
    words = capsys.readouterr().out
    assert "it_strain: centre row 30.3" in words
    assert "px, 7 disks of radius 5.99 px" in words
    # Nothing was calibrated before: the raster had the pattern alone. What can be made now is enabled again.
    assert asked(engine, live4d) == ["pattern"]
    assert [live4d.strain_enabled.get(), live4d.p_enabled.get(), live4d.pattern_enabled.get()] == [1, 1, 0]


def test_the_run_holds_the_pattern_and_what_was_set(RE, run, live4d):
    RE(calibrate_lattice(live4d, md={"operator": "A. B."}))
    assert run.start["plan_name"] == "calibrate_lattice"
    assert run.start["operator"] == "A. B."
    assert "it_pattern" in run.events["primary"][0]["data"]
    data = run.events["lattice"][0]["data"]
    assert data["it_strain_g1_row"] == live4d.strain_g1.get()[0]
    assert data["it_strain_g2_col"] == live4d.strain_g2.get()[1]
    assert set(data) == {
        *(f"it_strain_{of}_{axis}" for of in ("center", "g1", "g2") for axis in ("row", "col")),
        "it_strain_radius",
    }


def test_a_lattice_that_does_not_fit_any_more_is_measured_again(RE, live4d, engine):
    RE(calibrate_lattice(live4d))
    live4d.calibration_bf_radius.put(6.0)
    live4d.calibration_mrad_per_px.put(0.3)
    engine.lattice = (14.0, -3.0), (3.0, 14.5)
    RE(calibrate_lattice(live4d))
    assert asked(engine, live4d) == ["bf", "p", "pattern"]  # the others can be made
    np.testing.assert_allclose(live4d.strain_g1.get(), (14.0, -3.0), atol=0.05)


def test_a_strain_map_that_is_off_stays_off(RE, live4d):
    live4d.strain_enabled.put(False)
    RE(calibrate_lattice(live4d))
    assert not live4d.strain_enabled.get()


def test_without_a_lattice_nothing_changes_and_the_error_says_so(RE, run, live4d, engine):
    engine.lattice = None
    with pytest.raises(ValueError, match=r"it: no lattice: 0 diffraction disks .* strain stays as it was"):
        RE(calibrate_lattice(live4d))
    assert np.isnan(live4d.strain_g1.get()).all()
    assert np.isnan(live4d.strain_radius.get())
    assert [live4d.strain_enabled.get(), live4d.pattern_enabled.get()] == [1, 0]
    assert run.stop["exit_status"] == "fail"


def test_a_strain_map_without_a_lattice_waits_for_it(RE, live4d, engine):
    """Also when the bright-field disk is calibrated."""
    RE(calibrate_bright_field(live4d, "bf", semiangle=2.0))
    RE(calibrate_bright_field(live4d, "bf", semiangle=2.0))
    assert asked(engine, live4d) == ["pattern"]
    RE(calibrate_lattice(live4d))
    RE(calibrate_bright_field(live4d, "bf", semiangle=2.0))
    assert asked(engine, live4d) == ["bf", "strain", "p", "pattern"]


def test_only_strain_maps_have_a_lattice(RE, live4d):
    with pytest.raises(ValueError, match=r"it has no 'bf_g1'; this plan takes a Live4D"):
        RE(calibrate_lattice(live4d, "bf"))
