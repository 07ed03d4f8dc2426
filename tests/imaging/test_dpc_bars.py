"""Centre of mass, rotation and phase of simulated frames with noise are within the bars that a prototype reached.

The specimen is a strong phase object: its phase, convolved with the intensity of the probe, is what a perfect iDPC
image is, whatever its strength. (Lazic et al., Ultramicroscopy 160, 265 (2016).)
"""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.fft
from scipy.ndimage import map_coordinates

from live4d_ophyd.calibration import Calibration
from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.imaging.center_of_mass import CenterOfMass
from live4d_ophyd.imaging.dpc import DPC, IDPC
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sim.patterns import Optics
from live4d_ophyd.sim.specimen import Detector, Microscope, Scan, Specimen, aperture, truth
from live4d_ophyd.sources.source import SeriesInfo

STEP_NM, ROTATION, ELECTRONS = 0.1, 17.0, 2e4
GRID = ScanGrid(60, 64, step=STEP_NM, unit="nm")
DETECTOR, MICROSCOPE, SPECIMEN = Detector(48, 48), Microscope(), Specimen(size_nm=24.0)


@pytest.fixture(scope="module")
def taken():
    """Centre of mass of noisy frames and of frames without, and the phase that a perfect image has."""
    true = truth(MICROSCOPE, DETECTOR)
    positions = Scan(*GRID.shape, STEP_NM, rotation_deg=ROTATION).positions_nm()
    patterns = Optics(SPECIMEN, MICROSCOPE, DETECTOR).quantised(positions).patterns
    series = SeriesInfo(
        (1, 0), FrameFormat(48, 48, np.dtype("uint16")), energy=MICROSCOPE.energy_eV,
        calibration=Calibration(true.bf_center, true.bf_radius, true.mrad_per_px),
    )  # fmt: skip
    noisy = np.random.default_rng(8).poisson(patterns * ELECTRONS)
    parts = [center_of_mass(frames, series) for frames in (noisy, patterns)]
    # The phase convolved with the probe's intensity, where the probe was.
    nm_per_px, n = true.window_nm / DETECTOR.window, DETECTOR.window
    phase = SPECIMEN.phase(nm_per_px)
    near = np.round(np.fft.fftfreq(n) * n).astype(int)
    probe = np.zeros(phase.shape)
    intensity = np.abs(scipy.fft.ifft2(aperture(MICROSCOPE, DETECTOR))) ** 2
    probe[np.ix_(near, near)] = intensity / intensity.sum()
    blurred = scipy.fft.irfft2(scipy.fft.rfft2(phase) * scipy.fft.rfft2(probe).conj(), phase.shape)
    at = map_coordinates(blurred, positions.T / nm_per_px, order=3, mode="grid-wrap").reshape(GRID.shape)
    return SimpleNamespace(series=series, noisy=parts[0], exact=parts[1], phase=at - at.mean())


def center_of_mass(frames, series):
    method = CenterOfMass("com", Disk("all", radius=50))
    demand = method.demand(series, GRID)
    sums = np.stack([(frames * weights).sum(axis=(1, 2)) for _, weights in demand.bands], axis=1)
    accumulator = method.accumulator(series, GRID, None)
    accumulator.add(np.arange(GRID.size), sums)
    return method.results(series, GRID, [accumulator])


def phase_of(taken, parts, dpc):
    fit = dpc.refit(taken.series, GRID, parts, None, lambda: False)
    images = dpc.results(taken.series, GRID, parts, fit)
    return images, IDPC("idpc", unit="rad").results(taken.series, GRID, images)["idpc"]


def damped(phase):
    """What the high-pass of IDPC leaves, in cosines: those go on at the edges as mirrors make them."""
    q = [(np.arange(n) / (2 * n)) ** 2 for n in phase.shape]
    square = q[0][:, None] + q[1]
    return scipy.fft.idctn(scipy.fft.dctn(phase, norm="ortho") * square / (square + 0.03**2), norm="ortho")


def test_the_centre_of_mass_is_as_noisy_as_poisson_makes_it_and_not_off(taken):
    limit = DETECTOR.bf_radius / (2 * np.sqrt(ELECTRONS))
    for axis in ("com_y", "com_x"):
        error = taken.noisy[axis] - taken.exact[axis]
        assert error.std() / limit < 1.6  # more than a plain disk's: the specimen scatters outside
        assert abs(error.mean()) < 4 * error.std() / np.sqrt(GRID.size)


def test_the_rotation_is_within_a_degree_and_of_the_right_sign(taken):
    images, _ = phase_of(taken, taken.noisy, DPC("dpc"))
    assert images["dpc_rotation_used"] == pytest.approx(ROTATION, abs=1)
    assert images["dpc_transpose_used"] == 0
    assert images["dpc_curl"] < 0.3


@pytest.mark.parametrize(
    "dpc", [DPC("dpc", descan="constant"), DPC("dpc", rotation=ROTATION, descan="constant")]
)
def test_the_phase_is_that_of_the_specimen_in_radians(taken, dpc):
    _, phase = phase_of(taken, taken.noisy, dpc)
    expected = damped(taken.phase)
    assert np.corrcoef(phase.ravel(), expected.ravel())[0, 1] > 0.97
    assert np.polyfit(expected.ravel(), phase.ravel(), 1)[0] == pytest.approx(1, abs=0.03)
