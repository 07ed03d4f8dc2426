"""Parallax of simulated frames with noise is within the bars that a prototype reached, on seeds that it never saw.

The simulator's specimen is a phase object, not to first order only, and its aberrations are the detector's. Atoms are
weak enough for parallax here: 300 A from focus plain bright field shows nothing of them.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from weak_phase import taken

from live4d_ophyd.calibration import Calibration
from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.imaging.parallax import Parallax, Reason
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sim.patterns import Optics
from live4d_ophyd.sim.specimen import Detector, Microscope, Scan, Specimen, truth
from live4d_ophyd.sources.source import SeriesInfo

STEP_NM, ELECTRONS = 0.1, 2e4
GRID = ScanGrid(64, 64, step=STEP_NM, unit="nm")
DETECTOR = Detector(96, 96, bf_radius_px=15.0)
#: rows and columns with the bright-field disk: nothing else is looked at
BRIGHT = slice(30, 66)
#: single heavy atoms, hardly a film
ATOMS = {
    "size_nm": 20.0, "radius_nm": (0.09, 0.11), "coverage": 0.12, "atoms_per_nm3": 110.0, "atom_width_nm": 0.055,
    "atom_phase_rad_nm2": 0.004, "film_atoms_per_nm2": 1.0,
}  # fmt: skip


def simulated(seed, defocus_nm, astigmatism_nm, angle_deg, rotation_deg):
    """Frames of a seed's specimen; its phase where the probe was; and what is to be found, C12 in the scan's frame."""
    microscope = Microscope(
        defocus_nm=defocus_nm, astigmatism_nm=astigmatism_nm, astigmatism_angle_deg=angle_deg,
        semiangle_mrad=20.0, energy_eV=300e3,
    )  # fmt: skip
    specimen, true = Specimen(seed=seed, **ATOMS), truth(microscope, DETECTOR)
    positions = Scan(*GRID.shape, STEP_NM, rotation_deg=rotation_deg).positions_nm()
    kept = Optics(specimen, microscope, DETECTOR).quantised(positions)
    patterns = kept.amplitudes[:, BRIGHT, BRIGHT].astype(float) ** 2 * kept.units[:, None, None]
    frames = np.random.default_rng(seed).poisson(patterns * ELECTRONS).astype(np.uint16)
    nm_per_px = true.window_nm / DETECTOR.window
    phase = map_coordinates(specimen.phase(nm_per_px), positions.T / nm_per_px, order=3, mode="grid-wrap")
    row, col = true.bf_center
    series = SeriesInfo(
        (1, 0), FrameFormat(*patterns.shape[1:], np.dtype("uint16")), energy=300e3,
        calibration=Calibration((row - BRIGHT.start, col - BRIGHT.start), true.bf_radius, true.mrad_per_px),
    )  # fmt: skip
    c12 = 10 * astigmatism_nm * np.exp(2j * np.radians(angle_deg + rotation_deg))
    return SimpleNamespace(
        frames=frames, series=series, phase=phase.reshape(GRID.shape), c10=-10 * defocus_nm, c12=c12,
        rotation=rotation_deg,
    )  # fmt: skip


@pytest.fixture(scope="module", params=[(101, 30.0, 6.0, 29.0, -12.0), (102, -25.0, 4.0, -40.0, 35.0)])
def scan(request):
    return simulated(*request.param)


def found_in(scan, rows=64, **fields):
    method = Parallax("p", **fields)
    parts = taken(method, scan.frames, scan.series, GRID, np.arange(rows * GRID.cols))
    return method.results(
        scan.series, GRID, parts, method.refit(scan.series, GRID, parts, None, lambda: False)
    )


def like(image, phase):
    inner = np.s_[8:-8, 8:-8]
    return np.corrcoef(image[inner].ravel(), phase[inner].ravel())[0, 1]


def test_the_aberrations_are_within_the_bars(scan):
    found = found_in(scan)
    assert found["p_reason"] == Reason.FITTED
    assert found["p_C10"] == pytest.approx(scan.c10, rel=0.03)
    assert abs(found["p_C12"] * np.exp(2j * found["p_phi12"]) - scan.c12) < 4
    assert found["p_rotation_used"] == pytest.approx(scan.rotation, abs=0.3)
    assert abs(found["p_C10"] - scan.c10) < 3 * found["p_C10_error"]


def test_after_a_quarter_of_the_rows_defocus_is_within_its_bar(scan):
    assert found_in(scan, rows=16)["p_C10"] == pytest.approx(scan.c10, rel=0.05)


def test_the_image_is_the_specimen_where_bright_field_is_blind(scan):
    image = found_in(scan)["p"]
    bright_field = scan.frames.sum(axis=(1, 2)).reshape(GRID.shape)
    assert like(image, scan.phase) > 0.82
    assert abs(like(bright_field, scan.phase)) < 0.2


def test_the_phase_from_single_sidebands_is_nearer_to_the_specimen_s(scan):
    found = found_in(scan, ssb=True)
    assert like(found["p_phase"], scan.phase) > max(0.86, like(found["p"], scan.phase) + 0.03)
    inner = np.s_[8:-8, 8:-8]
    slope = np.polyfit(scan.phase[inner].ravel(), found["p_phase"][inner].ravel(), 1)[0]
    assert 0.75 < slope < 1.05
