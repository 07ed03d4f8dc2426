"""The phase from single sidebands: in rad, what a sum over single pixels by its formula gives, NaN without a fit."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from weak_phase import ENERGY, SEMIANGLE, Truth, phase_of_atoms, scan_of, taken

from live4d_ophyd.calibration import wavelength_m
from live4d_ophyd.imaging.parallax import Parallax, Reason
from live4d_ophyd.imaging.sidebands import Optics, phase_of, probe_of, transfers
from live4d_ophyd.scan import ScanGrid

WAVELENGTH = wavelength_m(ENERGY) * 1e10
GRID = ScanGrid(48, 52, step=0.1, unit="nm")
SMALL = {"grid": GRID, "radius": 12.0, "center": (14.3, 15.2), "shape": (30, 31)}
INNER = np.s_[8:-8, 8:-8]


def turned(degrees):
    turn = np.radians(degrees)
    return np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])


def matrix_of(truth):
    return probe_of(truth.c10, truth.c12, truth.phi12) @ turned(truth.rotation)


def made(method, frames, series, positions=None):
    parts = taken(method, frames, series, GRID, positions)
    return method.results(series, GRID, parts, method.refit(series, GRID, parts, None, lambda: False))


def like(image, phase, where=INNER):
    return np.corrcoef(image[where].ravel(), phase[where].ravel())[0, 1]


def slope(image, phase, where=INNER):
    return np.polyfit(phase[where].ravel(), image[where].ravel(), 1)[0]


@pytest.fixture(scope="module")
def scan():
    rng = np.random.default_rng(21)
    phase = phase_of_atoms((80, 80), 1.0, rng)
    frames, series, _ = scan_of(phase, 1.0, Truth(), rng=rng, **SMALL)
    return frames, series, phase[: GRID.rows, : GRID.cols]


@pytest.fixture(scope="module")
def found(scan):
    return made(Parallax("p", ssb=True, rotation=-12.0), *scan[:2])


def by_pixels(frames, series, truth, unit):
    """Single sidebands of each pixel, written from the formula: conj(Gamma) / |Gamma| as weights, or conj(Gamma)."""
    (row, col), mrad = series.calibration.center, series.calibration.mrad_per_px
    wide = [n + 20 for n in GRID.shape]
    q_y, q_x = (np.fft.fftfreq(n, 1.0)[shape] for n, shape in zip(wide, (np.s_[:, None], np.s_[:])))

    def wave(k_y, k_x):
        angle, azimuth = WAVELENGTH * np.hypot(k_y, k_x), np.arctan2(k_x, k_y)
        bent = truth.c10 + truth.c12 * np.cos(2 * (azimuth - truth.phi12))
        return (angle <= SEMIANGLE) * np.exp(-1j * np.pi / WAVELENGTH * angle**2 * bent)

    total, mass, whole = 0, 0, 0
    for y, x in np.ndindex(series.format.shape):
        k_y, k_x = turned(truth.rotation) @ [y - row, x - col] * (mrad * 1e-3 / WAVELENGTH)
        if np.hypot(k_y, k_x) * WAVELENGTH > 0.95 * SEMIANGLE:
            continue
        image = frames[:, y, x].reshape(GRID.shape)
        counts, here = image.mean(), wave(k_y, k_x)
        spectrum = np.fft.fft2(image / counts - 1, wide)
        minus, plus = wave(k_y - q_y, k_x - q_x), wave(k_y + q_y, k_x + q_x)
        gamma = 1j * (here.conj() * minus - here * plus.conj())
        modulus = np.abs(gamma)
        weight = gamma / np.maximum(modulus, 1e-9) if unit else gamma
        total = total + counts * weight.conj() * spectrum
        mass, whole = mass + counts * np.abs(weight) * modulus, whole + counts
    return np.fft.ifft2(total / (mass + 0.02 * whole)).real[: GRID.rows, : GRID.cols]


def test_it_is_what_a_sum_over_single_pixels_gives(scan, found):
    frames, series, phase = scan
    best, unit = (by_pixels(frames, series, Truth(), unit) for unit in (False, True))
    assert like(found["p_phase"], best) > 0.98
    assert slope(found["p_phase"], best) == pytest.approx(1, abs=0.08)
    # With weights of one modulus, as usual in focus, tiles that see a frequency weakly count as much as those that do.
    assert like(found["p_phase"], phase) > like(unit, phase)


def test_fewer_tiles_are_hardly_weaker(scan):
    """The shift differs within a tile: what that takes away is put back."""
    frames, series, phase = scan
    for tiles in (60, 188):
        image = made(Parallax("p", ssb=True, rotation=-12.0, tiles=tiles), frames, series)["p_phase"]
        assert like(image, phase) > 0.86
        assert slope(image, phase) == pytest.approx(0.9, abs=0.05)


def test_it_is_the_phase_in_rad_and_nearer_to_it_than_parallax(scan, found):
    phase = scan[2]
    assert like(found["p_phase"], phase) > like(found["p"], phase) + 0.04
    assert 0.75 < slope(found["p_phase"], phase) < 1.05


def test_half_a_turn_turns_its_sign(scan, found):
    other = made(Parallax("p", ssb=True, rotation=168.0), *scan[:2])
    np.testing.assert_allclose(other["p_phase"], -found["p_phase"], atol=1e-4)


def test_a_transposed_detector_gives_the_same(scan, found):
    frames, series, _ = scan
    series = replace(
        series,
        format=replace(series.format, rows=series.format.cols, cols=series.format.rows),
        calibration=replace(series.calibration, center=series.calibration.center[::-1]),
    )
    method = Parallax("p", ssb=True, rotation=-12.0, transpose=True)
    image = made(method, np.swapaxes(frames, 1, 2), series)["p_phase"]
    assert like(image, found["p_phase"]) > 0.98  # tiles lie elsewhere


def test_missing_rows_and_edges_have_the_phase_from_fewer_tiles(scan, found):
    frames, series, phase = scan
    here = np.setdiff1d(np.arange(GRID.size), np.arange(20 * GRID.cols, 23 * GRID.cols))
    image = made(Parallax("p", ssb=True, rotation=-12.0), frames, series, here)["p_phase"]
    gap, edge = np.s_[20:23, 8:-8], np.s_[:4]
    assert np.isfinite(image).all()
    assert like(image, phase, gap) > 0.9
    assert 0.8 < slope(image, phase, gap) < 1.1
    assert 0.8 < slope(found["p_phase"], phase, edge) < 1.1


def test_of_the_first_rows_there_is_what_they_see(scan):
    frames, series, phase = scan
    early = made(Parallax("p", ssb=True, rotation=-12.0), frames, series, np.arange(24 * GRID.cols))
    np.testing.assert_array_equal(np.isnan(early["p_phase"]), np.isnan(early["p"]))
    assert np.isnan(early["p_phase"][36:]).all()
    assert like(early["p_phase"], phase, np.s_[4:20, 8:-8]) > 0.8


def test_a_centre_that_is_off_moves_the_image_by_what_it_moves_the_tiles(scan, found):
    frames, series, phase = scan
    off, (row, col) = np.array([1.5, -1.0]), series.calibration.center
    image = made(Parallax("p", (row + off[0], col + off[1]), ssb=True, rotation=-12.0), frames, series)[
        "p_phase"
    ]
    back = ndimage.shift(image, matrix_of(Truth()) @ off * SEMIANGLE / 12, order=3)
    assert like(image, phase) < 0.5
    assert like(back, phase) > like(found["p_phase"], phase) - 0.03


@pytest.mark.parametrize(("phase", "truth"), [(np.zeros((80, 80)), Truth()), (None, Truth(c10=0.0, c12=0.0))])
def test_without_a_fit_it_is_nan_as_the_image_is(phase, truth):
    rng = np.random.default_rng(3)
    phase = phase_of_atoms((80, 80), 1.0, rng) if phase is None else phase
    frames, series, _ = scan_of(phase, 1.0, truth, rng=rng, **SMALL)
    found = made(Parallax("p", ssb=True), frames, series)
    assert found["p_reason"] == Reason.NO_COMMON_IMAGE
    assert np.isnan(found["p_phase"]).all()


def test_it_is_made_only_if_it_is_asked_for(scan, found):
    series = scan[1]
    assert "p_phase" not in Parallax("p").outputs(series, GRID)
    output = Parallax("p", ssb=True).outputs(series, GRID)["p_phase"]
    assert (output.dims, output.shape, output.units) == (("scan_y", "scan_x"), GRID.shape, "rad")
    with pytest.raises(ValueError, match=r"p\.ssb is 2"):
        Parallax("p", ssb=2)


# Its parts ----------------------------------------------------------------------------------------


def one_pixel(truth):
    rng = np.random.default_rng(0)
    phase = phase_of_atoms((64, 64), 1.0, rng, height=0.001)
    grid = ScanGrid(64, 64, step=0.1, unit="nm")
    small = {"radius": 8.0, "center": (11.3, 12.2), "shape": (24, 25), "grid": grid}
    frames, series, _ = scan_of(phase, 1.0, truth, **small)
    return phase, frames, series, Optics(0.02 / 8, WAVELENGTH, (1.0, 1.0), 0.02)


@pytest.mark.parametrize("rotation", [-12.0, 140.0])
def test_the_transfer_is_what_the_weak_phase_is_multiplied_by(rotation):
    """By the simulation without noise: the image of one pixel, with periodic edges."""
    truth = Truth(rotation=rotation)
    phase, frames, series, optics = one_pixel(truth)
    for row, col in ((11, 12), (14, 9)):
        image = frames[:, row, col].reshape(64, 64)
        image = image / image.mean() - 1
        angle = (np.array([[row, col]]) - series.calibration.center) * optics.rad_per_px
        gamma = next(transfers(matrix_of(truth), rotation, [angle], optics, (64, 64)))
        expected, found = np.fft.rfft2(phase) * gamma, np.fft.rfft2(image)
        # Where the edge of the disk, 1 px wide, is not met.
        agree = abs(np.vdot(expected, found)) / np.linalg.norm(expected) / np.linalg.norm(found)
        assert agree > 0.97
        assert np.vdot(expected, found).real / np.linalg.norm(expected) ** 2 == pytest.approx(1, abs=0.06)


def test_the_transfer_of_a_tile_is_the_mean_of_its_pixels_where_both_sidebands_are():
    truth = Truth()
    optics = Optics(0.02 / 8, WAVELENGTH, (1.0, 1.0), 0.02)
    angles = np.array([[0.0, 1], [1, 1], [1, 2], [0, 2]]) * optics.rad_per_px
    tile = next(transfers(matrix_of(truth), -12.0, [angles], optics, (48, 40)))
    each = list(transfers(matrix_of(truth), -12.0, angles[:, np.newaxis], optics, (48, 40)))
    low = np.hypot(np.fft.fftfreq(48)[:, None], np.fft.rfftfreq(40)) < 0.5 * 0.02 / WAVELENGTH
    np.testing.assert_allclose(tile[low], np.mean(each, axis=0)[low], atol=1e-5)


def test_of_what_fits_exactly_it_gives_the_phase_back():
    rng, optics = np.random.default_rng(4), Optics(0.02 / 8, WAVELENGTH, (1.0, 1.0), 0.02)
    truth, phase = Truth(), phase_of_atoms((64, 64), 1.0, np.random.default_rng(4))
    at = [np.array([one]) * optics.rad_per_px for one in np.ndindex(9, 9)]
    at = [one - 4 * optics.rad_per_px for one in at]
    spectra = [
        np.fft.rfft2(phase) * gamma for gamma in transfers(matrix_of(truth), -12.0, at, optics, (64, 64))
    ]
    images = np.fft.irfft2(spectra, (64, 64)).astype(np.float32)
    weights = rng.uniform(50, 100, len(at))
    image = phase_of(images, weights, at, optics, matrix_of(truth), -12.0)
    assert like(image, phase) > 0.97
    assert slope(image, phase) == pytest.approx(0.92, abs=0.05)
