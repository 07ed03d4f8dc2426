"""DPC and IDPC: a known phase, turned, mirrored, with descan and noise, comes back; what is missing is NaN."""

import math
from dataclasses import replace

import numpy as np
import pytest

from live4d_ophyd.calibration import Calibration, wavelength_m
from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.imaging.dpc import (
    DPC,
    IDPC,
    divergence_and_curl,
    fitted_descan,
    fitted_rotation,
    integrated,
    rotated,
)
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.source import SeriesInfo
from live4d_ophyd.testing import MethodTests

GRID = ScanGrid(48, 64, step=(0.5, 0.25), unit="nm")
SERIES = SeriesInfo(
    (1, 0), FrameFormat(96, 96, np.dtype("uint16")), energy=100e3, calibration=Calibration(mrad_per_px=0.25)
)


def atoms(grid=GRID, seed=0, count=40):
    """A phase of Gaussian atoms and its gradient (2, rows, cols), by the formula; not periodic."""
    rng = np.random.default_rng(seed)
    (step_y, step_x), phase = grid.steps, np.zeros(grid.shape)
    y, x = np.indices(grid.shape) * np.array([step_y, step_x])[:, None, None]
    gradient = np.zeros((2, *grid.shape))
    for at_y, at_x in rng.uniform(0, 1, (count, 2)) * [grid.rows * step_y, grid.cols * step_x]:
        bump = np.exp(-((y - at_y) ** 2 + (x - at_x) ** 2) / (2 * 0.8**2))
        phase += bump
        gradient -= bump * np.stack([y - at_y, x - at_x]) / 0.8**2
    return phase, gradient


def made(method, vector, series=SERIES, grid=GRID):
    """What it gives of a centre of mass, with the fit of it."""
    parts = {"com_y": vector[0], "com_x": vector[1]}
    fit = method.refit(series, grid, parts, None, lambda: False)
    return method.results(series, grid, parts, fit)


@pytest.fixture(scope="module")
def field():
    return atoms()[1]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("degrees", [-170.0, -91.0, -12.0, 0.0, 17.0, 60.0, 90.0, 179.0])
def test_rotation_and_transposition_are_found_from_the_curl_without_the_ambiguity_of_180_degrees(
    field, degrees, transposed
):
    # What the detector saw: the scan's vector turned back, then with its components exchanged.
    seen = rotated(field, -degrees, False)
    seen = seen[::-1] if transposed else seen
    results = made(DPC("dpc"), seen + np.array([3.0, -2.0])[:, None, None])
    assert (results["dpc_rotation_used"] - degrees + 180) % 360 - 180 == pytest.approx(0, abs=0.7)
    assert results["dpc_transpose_used"] == transposed
    assert results["dpc_curl"] < 0.05
    assert results["dpc_skewness"] < -0.5
    # As it was, but for the plane that atoms on one side have, too.
    plane = fitted_descan(field, "plane")
    rows, cols = np.indices(GRID.shape)
    expected = field - (
        plane[0][:, None, None] + plane[1][:, None, None] * rows + plane[2][:, None, None] * cols
    )
    found = np.stack([results["dpc_y"], results["dpc_x"]])
    assert np.abs(found - expected).max() < 0.03 * np.abs(field).max()


def test_the_right_handedness_has_several_times_less_curl(field):
    straight = fitted_rotation(field, GRID.steps)[2]
    assert made(DPC("d", rotation=0.0, transpose=True), field)["d_curl"] > 3 * straight


def test_with_noise_the_rotation_is_within_a_degree(field):
    noise = np.random.default_rng(4).normal(0, 0.2 * field.std(), field.shape)
    results = made(DPC("dpc"), rotated(field, -17.0, False) + noise)
    assert results["dpc_rotation_used"] == pytest.approx(17, abs=1)


@pytest.mark.parametrize("own", [{}, {"rotation": -40.0}])
def test_the_rotation_of_the_calibration_is_taken_by_methods_without_their_own(field, own):
    calibrated = replace(SERIES, calibration=Calibration(rotation=30.0, transpose=True))
    results = made(DPC("dpc", **own), field, calibrated)
    expected = made(DPC("dpc", **(own or {"rotation": 30.0, "transpose": True})), field)
    for key in ("y", "x", "rotation_used", "transpose_used"):
        np.testing.assert_array_equal(results[f"dpc_{key}"], expected[f"dpc_{key}"])


def test_a_given_rotation_is_taken_and_its_curl_told(field):
    results = made(DPC("dpc", rotation=30.0, transpose=True, descan="none"), field)
    y, x = results["dpc_y"], results["dpc_x"]
    c, s = math.cos(math.radians(30)), math.sin(math.radians(30))
    np.testing.assert_allclose(y, c * field[1] - s * field[0], atol=1e-12)
    np.testing.assert_allclose(x, s * field[1] + c * field[0], atol=1e-12)
    np.testing.assert_allclose(results["dpc_magnitude"], np.hypot(y, x))
    np.testing.assert_allclose(results["dpc_angle"], np.degrees(np.arctan2(y, x)))
    assert (results["dpc_rotation_used"], results["dpc_transpose_used"]) == (30, 1)
    assert results["dpc_curl"] > 0.3


@pytest.mark.parametrize(("descan", "left"), [("plane", 0), ("constant", 1), ("none", 2)])
def test_descan_is_a_plane_over_the_positions_that_are_there(descan, left):
    rows, cols = np.indices(GRID.shape)
    vector = np.stack([4 + 0.02 * rows - 0.01 * cols, -1 + 0.03 * cols])
    expected = [np.zeros_like(vector), vector - vector.mean(axis=(1, 2), keepdims=True), vector][left]
    results = made(DPC("dpc", descan=descan, rotation=0.0), vector)
    np.testing.assert_allclose([results["dpc_y"], results["dpc_x"]], expected, atol=1e-12)
    vector[:, 20:] = np.nan
    plane = fitted_descan(vector, "plane")
    np.testing.assert_allclose(plane, [[4, -1], [0.02, 0], [-0.01, 0.03]], atol=1e-12)


def test_what_is_missing_is_nan_and_nothing_else(field):
    vector = rotated(field, -17.0, False)
    vector[:, 5, 7] = np.nan  # a frame without counts
    vector[:, 30:] = np.nan  # rows that have not come
    results = made(DPC("dpc"), vector)
    missing = np.isnan(vector[0])
    for key in ("y", "x", "magnitude", "angle"):
        np.testing.assert_array_equal(np.isnan(results[f"dpc_{key}"]), missing)
    beside = missing.copy()
    beside[4:7, 7] = beside[5, 6:9] = beside[29] = True
    assert not np.isnan(results["dpc_divergence"][~beside]).any()
    assert results["dpc_rotation_used"] == pytest.approx(17, abs=1)
    phase = IDPC("phase").results(SERIES, GRID, results)["phase"]
    np.testing.assert_array_equal(np.isnan(phase), missing)


@pytest.mark.parametrize("there", [0, 1, 2])
def test_before_there_is_enough_the_numbers_are_nan_and_the_vector_is_not_turned(field, there):
    vector = field.copy()
    vector[:, there:] = np.nan
    for descan in ("plane", "none"):
        results = made(DPC("dpc", descan=descan), vector)
        assert np.isnan(
            [results[f"dpc_{key}"] for key in ("rotation_used", "transpose_used", "curl", "skewness")]
        ).all()
    np.testing.assert_array_equal(results["dpc_y"], vector[0])
    # And before the first fit the mean is subtracted, nothing else.
    early = DPC("dpc").results(SERIES, GRID, {"com_y": vector[0], "com_x": vector[1]}, None)
    if there:
        np.testing.assert_allclose(early["dpc_x"][:there], vector[1, :there] - vector[1, :there].mean())


@pytest.mark.parametrize("shape", [(1, 20), (20, 1), (2, 2), (1, 1)])
def test_a_scan_of_a_line_has_no_rotation(shape):
    grid = ScanGrid(*shape)
    results = made(DPC("dpc"), np.random.default_rng(0).normal(size=(2, *shape)), grid=grid)
    assert np.isnan(results["dpc_rotation_used"])
    assert np.isfinite(results["dpc_magnitude"]).all()
    assert np.isfinite(IDPC("i").results(SERIES, grid, results)["i"]).all()


def test_divergence_and_curl_are_those_of_the_scans_steps():
    y, x = np.indices(GRID.shape) * np.array(GRID.steps)[:, None, None]
    div, curl = divergence_and_curl(np.stack([2 * y + 5 * x, 3 * x - 4 * y]), GRID.steps)
    np.testing.assert_allclose(div, 5)
    np.testing.assert_allclose(curl, -4 - 5)


def test_the_phase_of_a_gradient_comes_back_though_it_is_not_periodic(field):
    phase = atoms()[0]
    found = integrated(field, GRID.steps)
    expected = phase - phase.mean()
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999
    assert np.polyfit(expected.ravel(), found.ravel(), 1)[0] == pytest.approx(1, abs=0.01)
    assert np.sqrt(np.mean((found - expected) ** 2)) < 0.03 * np.ptp(phase)
    assert found.mean() == pytest.approx(0, abs=1e-12)
    # A plain Fourier integration, periodic, is several times as far away.
    q = np.meshgrid(*(np.fft.fftfreq(n, s) for n, s in zip(GRID.shape, GRID.steps)), indexing="ij")
    square = q[0] ** 2 + q[1] ** 2
    square[0, 0] = 1.0
    plain = np.fft.ifft2(
        (q[0] * np.fft.fft2(field[0]) + q[1] * np.fft.fft2(field[1])) / (2j * np.pi * square)
    ).real
    assert np.std(plain - expected) > 3 * np.std(found - expected)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_ramp_of_phase_is_a_ramp(axis):
    """Continued by mirrors it has no step: along each axis the sign is that of the axis."""
    gradient = np.zeros((2, *GRID.shape))
    gradient[axis] = 1.0
    found = integrated(gradient, GRID.steps)
    along = np.arange(GRID.shape[axis]) * GRID.steps[axis]
    line = found.mean(axis=1 - axis)
    assert np.polyfit(along, line, 1)[0] == pytest.approx(1, abs=0.02)


def test_the_high_pass_damps_by_its_formula():
    y = np.arange(256)
    grid = ScanGrid(256, 4)
    wave = np.repeat(
        np.cos(np.pi * 16 * (y + 0.5) / 256)[:, None], 4, axis=1
    )  # even at the edges: one frequency
    slope = np.repeat((-np.pi * 16 / 256 * np.sin(np.pi * 16 * (y + 0.5) / 256))[:, None], 4, axis=1)
    gradient = np.stack([slope, np.zeros_like(slope)])
    q = 8 / 256
    np.testing.assert_allclose(integrated(gradient, grid.steps), wave, atol=1e-9)
    damped = integrated(gradient, grid.steps, 0.03)
    np.testing.assert_allclose(damped, wave * q**2 / (q**2 + 0.03**2), atol=1e-9)


def test_in_rad_it_is_the_phase_that_deflects_by_so_much():
    """A ramp of phase p a nm deflects by p lambda / 2 pi."""
    slope = 3.0  # rad / nm
    deflection = slope * 1e9 * wavelength_m(100e3) / (2 * np.pi) * 1e3 / 0.25  # px
    vector = np.stack([np.zeros(GRID.shape), np.full(GRID.shape, deflection)])
    phase = IDPC("p", unit="rad", high_pass=0).results(
        SERIES, GRID, {"dpc_y": vector[0], "dpc_x": vector[1]}
    )["p"]
    along = np.arange(GRID.cols) * GRID.steps[1]
    assert np.polyfit(along, phase.mean(axis=0), 1)[0] == pytest.approx(slope, rel=0.02)


@pytest.mark.parametrize(
    ("series", "grid", "words"),
    [
        (SERIES, ScanGrid(8, 8), "p is in rad, and the scan's step is in no unit of length"),
        (
            SeriesInfo((1, 0), SERIES.format, energy=1e5),
            GRID,
            "how many mrad a pixel is wide is not known: set calibration_mrad",
        ),
        (SeriesInfo((1, 0), SERIES.format, calibration=SERIES.calibration), GRID, "electrons' energy"),
    ],
)
def test_what_radians_need_is_asked_for_by_name(series, grid, words):
    with pytest.raises(ValueError, match=words):
        IDPC("p", unit="rad").demand(series, grid)
    IDPC("p").demand(series, grid)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: DPC("d", descan="parabola"),
            "d.descan is 'parabola'; expected one of plane, constant, none",
        ),
        (lambda: DPC("d", rotation=float("nan")), "d.rotation is nan; expected a finite number"),
        (lambda: DPC("d", transpose=3), "d.transpose is 3; expected True or False"),
        (lambda: DPC("d", com="a b"), "named 'a b'; expected an identifier"),
        (lambda: IDPC("i", unit="nm"), "i.unit is 'nm'; expected one of px, rad"),
        (lambda: IDPC("i", high_pass=-1), "i.high_pass is -1; expected at least 0"),
        (lambda: IDPC("i", enabled=2), "i.enabled is 2; expected True or False"),
    ],
)
def test_what_cannot_be_is_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make()


class _OfAtoms(MethodTests):
    scan = ScanGrid(24, 20, step=0.5, unit="nm")

    def frames(self):
        return np.zeros((self.scan.size, *self.shape), self.dtype)

    def images(self, frames, scan, series):
        _, (y, x) = atoms(scan, count=12)
        y[3, 4] = x[3, 4] = np.nan
        return {"com_y": y, "com_x": x, "com_sum": y, "dpc_y": y, "dpc_x": x}


class TestDPC(_OfAtoms):
    rtol = 1e-9

    def method(self):
        return DPC("dpc", rotation=0.0, descan="constant")

    def expected(self, frames, scan, series):
        images = self.images(frames, scan, series)
        y, x = (images[key] - np.nanmean(images[key]) for key in ("com_y", "com_x"))
        div = np.gradient(y, 0.5, axis=0) + np.gradient(x, 0.5, axis=1)
        curl = np.gradient(x, 0.5, axis=0) - np.gradient(y, 0.5, axis=1)
        inner = div[1:-1, 1:-1]
        inner, around = inner[np.isfinite(inner)], curl[1:-1, 1:-1][np.isfinite(inner)]
        spread = inner - inner.mean()
        return {
            "dpc_y": y,
            "dpc_x": x,
            "dpc_magnitude": np.sqrt(y**2 + x**2),
            "dpc_angle": np.degrees(np.angle(x + 1j * y)),
            "dpc_divergence": div,
            "dpc_rotation_used": 0.0,
            "dpc_transpose_used": 0.0,
            "dpc_curl": np.sqrt((around**2).mean() / (inner**2).mean()),
            "dpc_skewness": (spread**3).mean() / inner.std() ** 3,
        }


class TestIDPC(_OfAtoms):
    rtol = 1e-9

    def method(self):
        return IDPC("idpc", high_pass=0)

    def expected(self, frames, scan, series):
        """By least squares in real space: cosines, which mirrors make of any image, and their derivatives."""
        images = self.images(frames, scan, series)
        y, x = (np.nan_to_num(images[key]) for key in ("dpc_y", "dpc_x"))
        rows, cols = scan.shape
        at_y, at_x = (np.pi * (np.arange(n) + 0.5) / n for n in (rows, cols))
        phase = np.zeros(scan.shape)
        for k in range(rows):
            for m in range(cols):
                if k == m == 0:
                    continue
                down, across = np.cos(k * at_y), np.cos(m * at_x)
                by_y = -k * np.pi / rows / 0.5 * np.outer(np.sin(k * at_y), across)
                by_x = -m * np.pi / cols / 0.5 * np.outer(down, np.sin(m * at_x))
                amplitude = (by_y * y + by_x * x).sum() / ((by_y**2).sum() + (by_x**2).sum())
                phase += amplitude * np.outer(down, across)
        phase[3, 4] = np.nan
        return {"idpc": phase}
