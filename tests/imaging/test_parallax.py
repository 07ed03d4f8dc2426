"""Parallax: known aberrations of a weak phase object come back with their signs; what cannot be known is NaN."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from weak_phase import ENERGY, Truth, phase_of_atoms, scan_of, taken

from live4d_ophyd.calibration import Calibration, wavelength_m
from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.imaging.parallax import (
    Matrix,
    Parallax,
    Reason,
    flipped,
    relative,
    repeats,
    shift_between,
    solved,
    summed,
)
from live4d_ophyd.imaging.sidebands import aberrations
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sim.patterns import Optics as PatternOptics
from live4d_ophyd.sim.specimen import Detector, Microscope, Scan, Specimen
from live4d_ophyd.sim.specimen import truth as truth_of
from live4d_ophyd.sources.source import SeriesInfo
from live4d_ophyd.testing import MethodTests

GRID = ScanGrid(40, 44, step=0.1, unit="nm")
SMALL = {"grid": GRID, "radius": 8.0, "center": (11.3, 12.2), "shape": (24, 25)}
NUMBERS = ("C10", "defocus", "C12", "phi12", "rotation_used", "residual")


def scan(truth, seed=1, electrons=2e4, phase=None):
    """Frames of a small scan, series, grid and the phase of its positions."""
    rng = np.random.default_rng(seed)
    phase = phase_of_atoms((64, 64), 1.0, rng) if phase is None else phase
    frames, series, grid = scan_of(phase, 1.0, truth, electrons=electrons, rng=rng, **SMALL)
    return frames, series, grid, phase[: grid.rows, : grid.cols]


def made(method, frames, series, grid, positions=None):
    """Results with the fit of what has come."""
    parts = taken(method, frames, series, grid, positions)
    return method.results(series, grid, parts, method.refit(series, grid, parts, None, lambda: False))


def like(image, phase):
    """Correlation with the phase away from the edges."""
    inner = np.s_[8:-8, 8:-8]
    return np.corrcoef(image[inner].ravel(), phase[inner].ravel())[0, 1]


@pytest.fixture(scope="module")
def underfocus():
    return scan(Truth())


@pytest.mark.parametrize(
    "truth",
    [
        Truth(c10=300.0, rotation=25.0),
        Truth(c10=-220.0, c12=40.0, phi12=-1.0, rotation=100.0),
        Truth(c10=250.0, c12=50.0, phi12=1.2, rotation=-170.0),
    ],
)
def test_defocus_astigmatism_and_rotation_come_back_with_their_signs(truth):
    frames, series, grid, phase = scan(truth)
    # Both without the rotation, from the brightness of atoms, and with one that is known to within a right angle.
    for method in (Parallax("p"), Parallax("p", rotation=truth.rotation + 60)):
        found = made(method, frames, series, grid)
        assert found["p_reason"] == Reason.FITTED
        assert found["p_C10"] == pytest.approx(truth.c10, rel=0.03)
        assert found["p_defocus"] == -found["p_C10"]
        vector = found["p_C12"] * np.exp(2j * found["p_phi12"])
        assert abs(vector - truth.c12 * np.exp(2j * truth.phi12)) < 4
        assert (found["p_rotation_used"] - truth.rotation + 180) % 360 - 180 == pytest.approx(0, abs=0.5)
        assert like(found["p"], phase) > 0.7


def test_a_rotation_half_a_turn_off_gives_the_other_solution(underfocus):
    frames, series, grid, phase = underfocus
    method = Parallax("p", rotation=168.0)
    found = made(method, frames, series, grid)
    assert found["p_C10"] == pytest.approx(300, rel=0.03)
    assert found["p_rotation_used"] == pytest.approx(168, abs=0.5)
    assert like(found["p"], phase) < -0.7


def test_bright_field_sees_nothing_where_parallax_does(underfocus):
    frames, series, grid, phase = underfocus
    bright_field, method = frames.sum(axis=(1, 2)).reshape(grid.shape), Parallax("p")
    assert abs(like(bright_field, phase)) < 0.3
    assert like(made(method, frames, series, grid)["p"], phase) > 0.7


def test_a_transposed_detector_is_told_or_refused(underfocus):
    frames, series, grid, _ = underfocus
    turned, center = np.swapaxes(frames, 1, 2), series.calibration.center[::-1]
    series = replace(
        series,
        format=replace(series.format, rows=series.format.cols, cols=series.format.rows),
        calibration=replace(series.calibration, center=center),
    )
    found = made(Parallax("p", transpose=True), turned, series, grid)
    assert found["p_C10"] == pytest.approx(-300, rel=0.03)
    assert found["p_rotation_used"] == pytest.approx(-12, abs=0.5)
    assert made(Parallax("p"), turned, series, grid)["p_reason"] == Reason.NEAR_FOCUS


def test_rotation_and_transposition_of_the_calibration_are_taken_without_ones_of_its_own(underfocus):
    frames, series, grid, _ = underfocus
    turned, center = np.swapaxes(frames, 1, 2), series.calibration.center[::-1]
    series = replace(
        series,
        format=replace(series.format, rows=series.format.cols, cols=series.format.rows),
        calibration=replace(series.calibration, center=center, rotation=168.0, transpose=True),
    )
    found = made(Parallax("p"), turned, series, grid)
    assert found["p_C10"] == pytest.approx(300, rel=0.03)  # the solution that is half a turn off
    assert found["p_rotation_used"] == pytest.approx(168, abs=0.5)


def test_of_the_first_rows_it_makes_what_is_there(underfocus):
    frames, series, grid, _ = underfocus
    method = Parallax("p")
    rows = np.arange(20 * grid.cols)
    found = made(method, frames, series, grid, rows)
    assert found["p_C10"] == pytest.approx(-300, rel=0.05)
    for key, fine in (("p", 1), ("p_fine", 2)):
        assert np.isfinite(found[key][: 20 * fine]).mean() > 0.98
        assert np.isnan(found[key][30 * fine :]).all()
    early = made(method, frames, series, grid, rows[: 5 * grid.cols])
    assert early["p_reason"] == Reason.TOO_FEW_POSITIONS
    assert np.isnan([early[f"p_{key}"] for key in NUMBERS]).all()
    assert np.isnan(early["p"]).all()


def test_missing_rows_leave_less_weight_and_the_numbers_right(underfocus):
    frames, series, grid, phase = underfocus
    method = Parallax("p")
    here = np.setdiff1d(np.arange(grid.size), np.arange(18 * grid.cols, 20 * grid.cols))
    found = made(method, frames, series, grid, here)
    assert found["p_C10"] == pytest.approx(-300, rel=0.03)
    assert np.isfinite(found["p"]).mean() > 0.98  # others see the specimen there, too
    assert like(found["p"], phase) > 0.7


def test_a_wrong_centre_changes_nothing(underfocus):
    frames, series, grid, _ = underfocus
    right = made(Parallax("p"), frames, series, grid)
    row, col = series.calibration.center
    off = made(Parallax("p", (row + 1.5, col - 1), rotation=-12), frames, series, grid)
    for key in ("C10", "C12", "rotation_used"):
        assert off[f"p_{key}"] == pytest.approx(right[f"p_{key}"], abs=3)


def test_the_beam_s_current_is_not_taken_for_an_image():
    phase = phase_of_atoms((64, 64), 1.0, np.random.default_rng(2))
    flicker = 1 + 0.05 * np.random.default_rng(3).standard_normal(GRID.size)
    for specimen, right in ((phase, True), (np.zeros((64, 64)), False)):
        frames, series, grid = scan_of(specimen, 1.0, Truth(), **SMALL)
        counts = np.random.default_rng(4).poisson(frames * flicker[:, None, None])
        found = made(Parallax("p", rotation=-12), counts, series, grid)
        if right:
            assert found["p_C10"] == pytest.approx(-300, rel=0.03)
        else:
            assert found["p_reason"] == Reason.NO_COMMON_IMAGE


def nothing():
    return np.zeros((64, 64))


def lattice():
    y, x = np.indices((64, 64))
    return 0.2 * (np.cos(2 * np.pi * y / 4) + np.cos(2 * np.pi * (x + y) / 4))


def symmetric():
    """As often below its mean as above."""
    rng = np.random.default_rng(5)
    return phase_of_atoms((64, 64), 1.0, rng) - phase_of_atoms((64, 64), 1.0, rng)


@pytest.mark.parametrize(
    ("phase", "truth", "electrons", "reason"),
    [
        (nothing(), Truth(), 2e4, Reason.NO_COMMON_IMAGE),
        (None, Truth(), 700, Reason.NO_COMMON_IMAGE),
        (None, Truth(c10=0.0, c12=0.0), 2e4, Reason.NO_COMMON_IMAGE),
        (None, Truth(c10=-60.0, c12=120.0), 2e4, Reason.NEAR_FOCUS),
        (lattice(), Truth(), 2e4, Reason.NO_COMMON_IMAGE),
        (lattice(), Truth(c10=-50.0, c12=10.0), 1e6, Reason.PERIODIC),
        (symmetric(), Truth(), 2e4, Reason.UNKNOWN_SIGN),
    ],
    ids=["vacuum", "dose", "focus", "astigmatic", "lattice", "lattice near focus", "sign"],
)
def test_what_cannot_be_known_is_nan_with_a_reason(phase, truth, electrons, reason):
    frames, series, grid, _ = scan(truth, electrons=electrons, phase=phase)
    found = made(Parallax("p"), frames, series, grid)
    assert found["p_reason"] == reason
    assert np.isnan([found[f"p_{key}"] for key in NUMBERS]).all()
    assert np.isnan([found[f"p_{key}_error"] for key in ("C10", "C12", "phi12", "rotation")]).all()
    assert np.isnan(found["p"]).all()
    assert np.isnan(found["p_fine"]).all()


@pytest.mark.parametrize("defocus", [20.0, -30.0, 60.0, -90.0])
def test_a_strong_specimen_is_within_the_errors_or_too_near(defocus):
    """The simulator's gold at 100 kV, whose depth of field is 37 nm: near focus a fit has twice the defocus."""
    microscope, detector = Microscope(defocus_nm=defocus, astigmatism_nm=4.0), Detector(64, 64)
    at, grid = truth_of(microscope, detector), ScanGrid(48, 48, step=0.25, unit="nm")
    kept = PatternOptics(Specimen(), microscope, detector).quantised(Scan(48, 48, 0.25).positions_nm())
    rng = np.random.default_rng(3)
    counts = [
        rng.poisson(a.astype(float) ** 2 * (2e4 * unit)) for a, unit in zip(kept.amplitudes, kept.units)
    ]
    frames = np.stack(counts).astype(np.uint16)
    series = SeriesInfo(
        (1, 0), FrameFormat(64, 64, frames.dtype), len(frames), energy=100e3,
        calibration=Calibration(at.bf_center, at.bf_radius, at.mrad_per_px),
    )  # fmt: skip
    found = made(Parallax("p", rotation=0.0), frames, series, grid)
    if abs(defocus) < 1.5 * 37:
        assert found["p_reason"] == Reason.NEAR_FOCUS
        assert np.isnan(found["p_C10"])
    else:
        assert abs(found["p_C10"] + 10 * defocus) < 2 * found["p_C10_error"] < 0.2 * 10 * abs(defocus)


def test_frames_without_counts_are_a_reason():
    _, series, grid, _ = scan(Truth(), electrons=100)
    found = made(Parallax("p"), np.zeros((grid.size, *series.format.shape), np.int64), series, grid)
    assert found["p_reason"] == Reason.NO_COMMON_IMAGE


def test_a_fit_that_is_told_to_stop_does(underfocus):
    frames, series, grid, _ = underfocus
    method, asked = Parallax("p"), []
    parts = taken(method, frames, series, grid)
    method.refit(series, grid, parts, None, lambda: bool(asked.append(1)) or len(asked) == 3)
    assert len(asked) == 3


def test_the_fine_image_holds_what_the_scan_is_too_coarse_for():
    """Every second position of a finer scan: the image correlates with the phase beyond its Nyquist."""
    rng = np.random.default_rng(7)
    phase = phase_of_atoms((128, 128), 0.5, rng)
    frames, series, _ = scan_of(
        phase, 0.5, Truth(), electrons=2e5, rng=rng, **{**SMALL, "grid": ScanGrid(96, 96)}
    )
    grid = ScanGrid(48, 48, step=0.1, unit="nm")
    frames = frames.reshape(96, 96, -1)[::2, ::2].reshape(grid.size, *series.format.shape)
    found = made(Parallax("p"), frames, series, grid)
    assert found["p_C10"] == pytest.approx(-300, rel=0.03)
    inner = np.s_[12:-12, 12:-12]
    window = np.outer(*[np.hanning(72)] * 2)
    image, true = (np.fft.fft2(window * one[inner]) for one in (found["p_fine"], phase[:96, :96]))
    q = np.hypot(
        np.fft.fftfreq(72, 0.5)[:, None], np.fft.fftfreq(72, 0.5)
    )  # 1/A; Nyquist of the scan is 0.25
    for low, high, least in ((0.1, 0.25, 0.8), (0.27, 0.34, 0.8)):
        ring = (q > low) & (q < high)
        agree = np.vdot(true[ring], image[ring]).real
        assert agree / np.linalg.norm(true[ring]) / np.linalg.norm(image[ring]) > least


# Its parts ----------------------------------------------------------------------------------------


def test_tiles_hold_every_good_pixel_of_the_disk_once(underfocus):
    _, series, _, _ = underfocus
    mask = np.zeros(series.format.shape, bool)
    mask[9:12, 10] = True
    series = replace(series, pixel_mask=mask)
    tiles = Parallax("p", tiles=60).tiles_on(series)
    assert 40 < len(tiles.maps) <= 60
    y, x = np.indices(series.format.shape)
    inside = np.hypot(y - 11.3, x - 12.2) <= 0.95 * 8
    together = np.zeros(mask.shape, int)
    together[tiles.first : tiles.first + tiles.maps.shape[1]] = tiles.maps.sum(axis=0)
    np.testing.assert_array_equal(together, inside & ~mask)
    assert tiles.pixels.sum() == (inside & ~mask).sum()
    middle = (tiles.at * tiles.pixels[:, None]).sum(axis=0) / tiles.pixels.sum()
    np.testing.assert_allclose(middle, np.argwhere(inside & ~mask).mean(axis=0) - (11.3, 12.2))


def test_with_tiles_enough_every_pixel_is_one_and_the_image_no_worse(underfocus):
    frames, series, grid, phase = underfocus
    every, few = Parallax("p", tiles=4096), Parallax("p", tiles=60)
    tiles = every.tiles_on(series)
    assert (tiles.pixels == 1).all()
    assert len(tiles.maps) == few.tiles_on(series).pixels.sum()
    found, coarse = (made(method, frames, series, grid) for method in (every, few))
    assert found["p_reason"] == Reason.FITTED
    assert found["p_C10"] == pytest.approx(-300, rel=0.03)
    assert like(found["p"], phase) > like(coarse["p"], phase) - 0.01


def test_a_tile_without_numbers_in_some_rows_leaves_the_others_to_be_fitted(underfocus):
    frames, series, grid, _ = underfocus
    method = Parallax("p", tiles=60)
    (part,) = taken(method, frames, series, grid)
    part.values.reshape(-1, *grid.shape)[7, grid.rows // 2 :] = (
        np.nan
    )  # one of its pixels was saturated there
    fit = method.refit(series, grid, [part], None, lambda: False)
    half = method.refit(
        series, grid, taken(method, frames, series, grid, np.arange(grid.size // 2)), None, lambda: False
    )
    assert fit.reason == Reason.FITTED
    assert (fit.c10, fit.c12) == (half.c10, half.c12)


def test_more_tiles_than_memory_is_for_are_refused_by_name(underfocus):
    _, series, _, _ = underfocus
    large = ScanGrid(1 << 13, 1 << 13, step=0.1, unit="nm")
    with pytest.raises(
        ValueError, match=r"^p has \d+ tiles of 8192 x 8192 positions, \d+ GiB; .* set p_tiles to 64 at"
    ):
        Parallax("p").demand(series, large)
    Parallax("p", tiles=64).demand(series, large)


def test_any_matrix_is_that_of_its_aberrations():
    rng = np.random.default_rng(0)
    for _ in range(50):
        c10, c12, phi, turn = (
            rng.uniform(-300, 300),
            rng.uniform(0, 90),
            rng.uniform(-1.5, 1.5),
            rng.uniform(-3, 3),
        )
        probe = c10 * np.eye(2) + c12 * np.array(
            [[np.cos(2 * phi), np.sin(2 * phi)], [np.sin(2 * phi), -np.cos(2 * phi)]]
        )
        matrix = probe @ [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
        found = aberrations(matrix, np.degrees(turn) + rng.uniform(-80, 80))
        np.testing.assert_allclose(found[:2], [c10, c12], atol=1e-9)
        assert np.exp(2j * found[2]) == pytest.approx(np.exp(2j * phi))
        assert np.exp(1j * np.radians(found[3])) == pytest.approx(np.exp(1j * turn))
        # And the errors are those that a change of the matrix makes.
        fit = solved(Matrix(matrix, np.zeros((4, 4)), 0.0, 1.0, 0.0), np.degrees(turn), 0.0)
        assert fit.errors[0] == pytest.approx(0.012 * abs(c10))
        assert fit.errors[2] == pytest.approx(min(0.004 * abs(c10) / c12, np.pi / 2))


def test_shifts_are_found_below_a_position():
    phase = phase_of_atoms((48, 48), 1.0, np.random.default_rng(0))
    spectrum = np.fft.rfft2(phase)
    q_y, q_x = np.fft.fftfreq(48)[:, None], np.fft.rfftfreq(48)
    for shift in ((3.3, -4.6), (-0.4, 0.2), (7.0, 0.0)):
        moved = spectrum * np.exp(2j * np.pi * (shift[0] * q_y + shift[1] * q_x))
        np.testing.assert_allclose(shift_between(spectrum, moved, (48, 48), 9), shift, atol=0.08)


def test_an_image_repeats_itself_where_it_is_a_lattice():
    fade = np.ones((64, 64), np.float32)
    for image, low, high in (
        (lattice(), 0.9, 1.1),
        (phase_of_atoms((64, 64), 1.0, np.random.default_rng(0)), 0.0, 0.4),
    ):
        spectrum = np.fft.rfft2(image)
        assert low < repeats(spectrum, spectrum, fade) < high


@pytest.mark.parametrize("upsampling", [1, 2, 3])
def test_the_sum_is_that_of_a_loop_over_positions(upsampling):
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=(30, 9, 7)).astype(np.float32), rng.uniform(1, 2, 30)
    seen = rng.uniform(size=(9, 7)) > 0.1
    values[:, ~seen] = 0
    shifts = rng.uniform(-9, 9, (30, 2))
    total, weight = np.zeros((2, 9 * upsampling, 7 * upsampling))
    for k, row, col in np.ndindex(30, 9, 7):
        y, x = np.array([row, col]) * upsampling + np.rint(shifts[k] * upsampling).astype(int)
        if 0 <= y < total.shape[0] and 0 <= x < total.shape[1] and seen[row, col]:
            total[y, x] += weights[k] * values[k, row, col]
            weight[y, x] += weights[k]
    found = summed(values, weights, seen, shifts, upsampling)
    enough = weight > 0.25 * weights.sum() / upsampling**2
    assert enough.any()
    np.testing.assert_allclose(
        found[enough], (total / np.maximum(weight, 1e-9))[enough], rtol=1e-5, atol=1e-6
    )


def test_without_shifts_pixels_between_positions_are_interpolated():
    ramp = np.add.outer(np.arange(8.0), np.arange(8.0)).astype(np.float32)
    found = summed(ramp[None], np.ones(1), np.ones((8, 8), bool), np.zeros((1, 2)), 2)
    np.testing.assert_allclose(found[:14, :14], np.add.outer(np.arange(14), np.arange(14)) / 2)


def test_the_flip_turns_what_defocus_turned():
    phase = phase_of_atoms((64, 64), 1.0, np.random.default_rng(0))
    wavelength, probe = wavelength_m(ENERGY) * 1e10, np.array([[-260.0, 20.0], [20.0, -340.0]])
    y, x = np.fft.fftfreq(64)[:, None], np.fft.rfftfreq(64)
    chi = np.pi * wavelength * (probe[0, 0] * y**2 + 2 * probe[0, 1] * y * x + probe[1, 1] * x**2)
    seen = np.fft.irfft2(np.fft.rfft2(phase) * np.sin(chi), (64, 64))
    seen[3, 4] = np.nan
    found = flipped(seen, probe, wavelength, (1.0, 1.0), 0)
    expected = np.fft.irfft2(np.fft.rfft2(phase) * abs(np.sin(chi)), (64, 64))
    assert np.isnan(found[3, 4])
    there = np.isfinite(found)
    assert np.isfinite(found).sum() == 64 * 64 - 1
    assert np.corrcoef(found[there], expected[there])[0, 1] > 0.99


def test_a_dark_tile_weighs_nothing():
    stack = np.full((4, 8, 8), 100.0, np.float32)
    stack[3] = 1
    deviations, weights = relative(stack, np.ones((8, 8), bool), np.ones(4))
    assert weights[3] == 0
    assert (weights[:3] > 0).all()
    np.testing.assert_allclose(deviations, 0, atol=1e-6)


# What it needs and what it refuses ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "grid", "words"),
    [
        ({}, ScanGrid(8, 8), "p fits lengths, and the scan's step is in no unit of length"),
        (
            {"calibration": Calibration((11, 12), 8)},
            GRID,
            "p fits lengths, and how many mrad a pixel is wide is not known: set calibration_mrad_per_px",
        ),
        ({"energy": None}, GRID, "p fits lengths, and the series does not say the electrons' energy"),
        ({"calibration": Calibration((11, 12), None, 2.5)}, GRID, "bright-field radius, which is not known"),
        ({"calibration": Calibration((11, 12), 1.5, 2.5)}, GRID, "p has 9 tiles on its bright-field disk"),
    ],
)
def test_what_it_needs_is_asked_for_by_name(underfocus, change, grid, words):
    with pytest.raises(ValueError, match=words):
        Parallax("p").demand(replace(underfocus[1], **change), grid)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"radius": 0}, "p.radius is 0 bf; expected more than 0"),
        ({"unit": "nm"}, "unit of p is 'nm'"),
        ({"tiles": 3}, "p.tiles is 3; expected a whole number from 12"),
        ({"upsampling": 9}, "p.upsampling is 9; expected a whole number from 1 to 8"),
        ({"search": 0.5}, "p.search is 0.5; expected at least 1 scan position"),
        ({"rotation": float("nan")}, "p.rotation is nan"),
        ({"transpose": 2}, "p.transpose is 2"),
        ({"center": (1, "a")}, "p.center is 'a'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(fields, words):
    with pytest.raises(ValueError, match=words):
        Parallax("p", **fields)


@cache
def a_few_rows():
    rng, grid = np.random.default_rng(6), TestParallax.scan
    phase = phase_of_atoms((48, 48), 1.0, rng)
    frames, series, _ = scan_of(phase, 1.0, Truth(), rng=rng, **{**SMALL, "grid": grid})
    return frames.astype(np.uint16), series


class TestParallax(MethodTests):
    """Sums that were lost, split and shuffled give what one sum of all frames in order gives.

    Whether that is right is tested above: here only the sums under the tiles are made in another way.
    """

    scan = ScanGrid(20, 22, step=0.1, unit="nm")
    shape = (24, 25)

    def method(self):
        return Parallax("parallax", tiles=40, rotation=-12.0, upsampling=2, ssb=True)

    def series(self):
        return a_few_rows()[1]

    def frames(self):
        return a_few_rows()[0]

    def expected(self, frames, scan, series):
        method = self.method()
        tiles = method.tiles_on(series)
        stack = np.array(
            [(frames[:, :, tiles.first :][:, :, : len(one)] * one).sum(axis=(2, 3)) for one in tiles.maps]
        )
        part = method.accumulator(series, scan, None)
        part.values[:] = stack.reshape(len(stack), -1)
        fit = method.refit(series, scan, [part], None, lambda: False)
        return method.results(series, scan, [part], fit)

    def test_its_scan_is_fitted(self):
        assert self.expected(self._whole(), self.scan, self.series())["parallax_reason"] == Reason.FITTED
