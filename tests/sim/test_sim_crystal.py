"""The crystal of the simulator: its patterns have disks where its truth says, and none in vacuum."""

import numpy as np
import pytest
from click.testing import CliRunner

from live4d_ophyd.commands.sim import sim
from live4d_ophyd.sim.crystal import Crystal
from live4d_ophyd.sim.patterns import Optics
from live4d_ophyd.sim.server import build_dcu
from live4d_ophyd.sim.specimen import Detector, Microscope, truth

MICROSCOPE = Microscope(semiangle_mrad=2.0)
DETECTOR = Detector(96, 96, bf_radius_px=6.0)


def centroid(pattern, at, reach=7.5):
    y, x = np.indices(pattern.shape)
    inside = np.where(np.hypot(y - at[0], x - at[1]) <= reach, pattern, 0.0)
    return np.array([(inside * axis).sum() for axis in (y, x)]) / inside.sum()


def test_disks_are_where_the_deformation_moves_them():
    crystal = Crystal(size_nm=90.0, gamma_deg=80.0, vacuum_nm=0.0)
    optics = Optics(crystal, MICROSCOPE, DETECTOR)
    positions = np.array([[0.0, 0.0], [20.0, -20.0], [15.0, 36.0]])
    basis = crystal.reciprocal(optics.pixel_nm) * truth(MICROSCOPE, DETECTOR).window_nm
    patterns = optics.quantised(positions).patterns
    strain = crystal.deformation(positions, optics.pixel_nm)
    assert np.abs(strain - np.eye(2)).max() > 0.015
    for pattern, f in zip(patterns, strain):
        moved = basis @ np.linalg.inv(f)
        assert np.abs(moved - basis).max() > 0.15
        for order in ((0, 0), (1, 0), (0, 1), (-1, 0), (-1, -1)):
            at = np.array(DETECTOR.bf_center) + np.array(order) @ moved
            np.testing.assert_allclose(centroid(pattern, at), at, atol=0.03)


def test_the_field_is_periodic_and_its_vacuum_is_empty():
    crystal = Crystal(size_nm=30.0, vacuum_nm=8.0)
    phase = crystal.phase(0.05)
    assert phase.shape == (crystal.grid(0.05),) * 2
    assert phase.dtype == np.float32
    where = np.arange(len(phase)) * 0.05
    empty = crystal.is_vacuum(np.stack([where, where], axis=1), 0.05)
    assert empty.mean() == pytest.approx(8 / 30, abs=0.01)
    assert not phase[:, empty].any()
    # No step from one period to the next: neighbours differ there as elsewhere.
    across = np.abs(phase[0] - phase[-1])[~empty].max()
    assert across < 1.5 * np.abs(np.diff(phase[:, ~empty], axis=0)).max()


def test_a_convergence_angle_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"semiangle is 0 mrad; expected 0.1 to 100 mrad"):
        build_dcu(semiangle=0.0)


@pytest.mark.parametrize("name", ["crystal", "particles"])
def test_the_command_scans_what_it_is_told(name, monkeypatch):
    served = []
    monkeypatch.setattr("live4d_ophyd.sim.server.serve", lambda dcu, *others, **more: served.append(dcu))
    options = ["--specimen", name, "--semiangle", "2", "--bf-radius", "6"]
    assert CliRunner().invoke(sim, options).exit_code == 0
    (dcu,) = served
    assert isinstance(dcu.source.specimen, Crystal) == (name == "crystal")
    assert (dcu.microscope.semiangle_mrad, dcu.detector.bf_radius) == (2.0, 6.0)
