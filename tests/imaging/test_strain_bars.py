"""Strain of simulated frames with noise is within the bars that a prototype reached, on a seed that it never saw.

The simulator's crystal is a phase object with a known displacement field: 20,000 electrons a frame, some 700 of them in
a disk of the first order, disks of 8 px, 19.7 px apart. Windows are where the fit of the mean pattern says.
"""

import numpy as np
import pytest
from drawn_lattice import series_of, taken

from live4d_ophyd.imaging.lattice_fit import fit_lattice
from live4d_ophyd.imaging.strain import Reason, Strain
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sim.crystal import Crystal
from live4d_ophyd.sim.patterns import Optics
from live4d_ophyd.sim.specimen import Detector, Microscope, Scan, truth

GRID, STEP_NM, ELECTRONS, ROTATION = ScanGrid(24, 24), 1.5, 2e4, 25.0
MICROSCOPE = Microscope(semiangle_mrad=2.0, energy_eV=300e3)
DETECTOR = Detector(192, 192, bf_center_px=(95.3, 97.1), bf_radius_px=8.0)
CRYSTAL = Crystal(size_nm=50.0, a_nm=0.4, b_nm=0.4, phase_rad=0.35, fall=0.35, vacuum_nm=0.0)


@pytest.fixture(scope="module")
def scan():
    """Frames, their true strain in the scan's frame (n, 4; rad), and the lattice of the mean pattern."""
    optics = Optics(CRYSTAL, MICROSCOPE, DETECTOR)
    positions = Scan(*GRID.shape, STEP_NM, rotation_deg=ROTATION).positions_nm()
    rng = np.random.default_rng(2024)
    parts = (optics.quantised(some).patterns for some in np.array_split(positions, 9))
    frames = np.concatenate([rng.poisson(patterns * ELECTRONS).astype(np.uint16) for patterns in parts])
    c, s = np.cos(np.radians(ROTATION)), np.sin(np.radians(ROTATION))
    turn = np.array([[c, -s], [s, c]])
    f = turn @ CRYSTAL.deformation(positions, optics.pixel_nm) @ turn.T
    strain = [f[:, 0, 0] - 1, f[:, 1, 1] - 1, (f[:, 0, 1] + f[:, 1, 0]) / 2, (f[:, 1, 0] - f[:, 0, 1]) / 2]
    basis = CRYSTAL.reciprocal(optics.pixel_nm) * truth(MICROSCOPE, DETECTOR).window_nm
    return frames, np.array(strain), fit_lattice(frames.mean(axis=0), len(frames)), basis


def test_the_lattice_of_the_mean_pattern_is_that_of_the_crystal(scan):
    _, _, lattice, basis = scan
    assert np.hypot(*np.subtract(lattice.center, DETECTOR.bf_center_px)) < 0.05
    assert lattice.radius == pytest.approx(8.0, abs=0.05)
    # g2 of the crystal is -g2 of the fit, or g2; the mean strain of the scan is 0 to about 0.3 %.
    for found, true in zip((lattice.g1, lattice.g2), basis * np.sign(basis[[0, 1], [0, 1]])[:, np.newaxis]):
        np.testing.assert_allclose(found, true, atol=0.2)


@pytest.mark.parametrize(("refine", "bar"), [(False, 3.8e-3), (True, 2.5e-3)], ids=["windows", "edges"])
def test_noise_and_bias_are_within_the_bars(scan, refine, bar):
    frames, strain, lattice, basis = scan
    g1, g2 = basis * np.sign(basis[[0, 1], [0, 1]])[:, np.newaxis]
    method = Strain(
        "s", lattice.center, g1=tuple(g1), g2=tuple(g2), radius=lattice.radius, reference="lattice",
        rotation=ROTATION, refine=refine,
    )  # fmt: skip
    found = taken(method, frames, series_of(frames), GRID)
    assert found["s_reason"] == Reason.FITTED
    assert found["s_mapped"] == 1
    maps = [found["s_e_rr"], found["s_e_cc"], found["s_e_rc"], np.radians(found["s_theta"])]
    for image, true in zip(maps, strain):
        off = image.ravel() - true
        assert off.std() < bar
        assert abs(off.mean()) < 6e-4
