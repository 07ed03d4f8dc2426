"""Strain: known deformations come back with their signs in the scan's frame; what cannot be known is NaN."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from drawn_lattice import CENTER, G1, G2, RADIUS, SHAPE, drawn, series_of, strained, taken

from live4d_ophyd.calibration import Calibration
from live4d_ophyd.imaging.method import Patterns
from live4d_ophyd.imaging.strain import Reason, Strain
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.testing import MethodTests

GRID = ScanGrid(4, 6)
MAPS = ("e_rr", "e_cc", "e_rc", "theta")
METHOD = Strain("s", CENTER, g1=G1, g2=G2, radius=RADIUS, reference="lattice")
BOTH = pytest.mark.parametrize("refine", [False, True], ids=["windows", "edges"])


def deformations(size=0.015, seed=1, count=GRID.size):
    """F of each position: strain and rotation at random; of the first one nothing."""
    change = np.random.default_rng(seed).uniform(-size, size, (count, 2, 2))
    change[0] = 0
    return np.eye(2) + change


def counts(frames, seed=None):
    """Counts of a detector: with noise if there is a seed, else so many that rounding does not matter."""
    if seed is None:
        return np.round(frames).astype(np.uint16)
    return np.random.default_rng(seed).poisson(frames).astype(np.uint16)


def measured(method, frames, grid=GRID, **more):
    return taken(method, frames, series_of(frames, **more), grid)


def expected(f):
    """The four maps of F (n, 2, 2) in the scan's frame."""
    theta = np.degrees((f[:, 1, 0] - f[:, 0, 1]) / 2)
    return dict(zip(MAPS, (f[:, 0, 0] - 1, f[:, 1, 1] - 1, (f[:, 0, 1] + f[:, 1, 0]) / 2, theta)))


def check(found, f, atol=1e-3, where=slice(None)):
    """To what pixels of a disk of 5 px leave open."""
    for key, values in expected(f).items():
        limit = np.degrees(atol) if key == "theta" else atol
        np.testing.assert_allclose(found[f"s_{key}"].ravel()[where], values[where], atol=limit, err_msg=key)


BRIGHT = {"counts": 1e6, "first": 4e5}


@BOTH
def test_strain_and_rotation_come_back_with_their_signs(refine):
    f = deformations()
    found = measured(replace(METHOD, refine=refine), counts(drawn(strained(f), **BRIGHT)))
    check(found, f)
    assert found["s_reason"] == Reason.FITTED
    assert found["s_mapped"] == 1
    assert (found["s_indexed"] == 1).all()
    assert (found["s_residual"] < 0.03).all()
    np.testing.assert_allclose([found["s_reference_g1_row"], found["s_reference_g2_col"]], [G1[0], G2[1]])


@BOTH
@pytest.mark.parametrize(("degrees", "transpose"), [(30.0, False), (-115.0, True)])
def test_they_are_in_the_frame_of_the_scan(refine, degrees, transpose):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[c, -s], [s, c]])
    turn = turn[:, ::-1] if transpose else turn
    f = deformations()
    method = replace(METHOD, rotation=degrees, transpose=transpose, refine=refine)
    found = measured(method, counts(drawn(strained(turn.T @ f @ turn), **BRIGHT)))
    check(found, f)


@BOTH
def test_without_a_rotation_of_its_own_it_has_that_of_the_calibration(refine):
    f, turned = deformations(), Calibration(rotation=90.0)
    frames = counts(drawn(strained(f), **BRIGHT))
    own = measured(replace(METHOD, rotation=90.0, refine=refine), frames)
    known = measured(replace(METHOD, refine=refine), frames, calibration=turned)
    np.testing.assert_array_equal(known["s_e_rr"], own["s_e_rr"])
    none = measured(replace(METHOD, refine=refine), frames)
    np.testing.assert_allclose(none["s_e_cc"], own["s_e_rr"], atol=1e-12)
    kept = measured(replace(METHOD, rotation=0.0, refine=refine), frames, calibration=turned)
    np.testing.assert_array_equal(kept["s_e_rr"], none["s_e_rr"])


def test_bad_pixels_weigh_nothing_also_where_others_are_spread():
    """What they take from a disk is known: with their neighbours' mean it would be put right twice."""
    demand = METHOD.demand(series_of(counts(drawn(strained(deformations())))), GRID)
    assert not demand.spread


@pytest.mark.parametrize("reference", ["scan", "region"])
def test_the_reference_is_the_median_of_the_scan_or_of_a_region(reference):
    f = np.tile(np.eye(2), (GRID.size, 1, 1))
    f[:2] += [[0.01, 0], [0, 0]]
    other = np.array([[1.004, 0.002], [0.003, 0.994]])  # the lattice that was set is another one
    method = replace(METHOD, reference=reference, region=((3, 5), (1, 4)))
    found = measured(method, counts(drawn(strained(f @ other), **BRIGHT)))
    check(found, f)
    vectors = strained(other[np.newaxis])[0]
    np.testing.assert_allclose(
        [[found[f"s_reference_{g}_{axis}"] for axis in ("row", "col")] for g in ("g1", "g2")],
        vectors,
        atol=0.01,
    )


def test_noise_is_that_of_the_counts_and_less_with_edges():
    f = deformations(0.008, count=400)
    frames, grid = counts(drawn(strained(f)), seed=3), ScanGrid(20, 20)
    off, expected_error = [], []
    for refine in (False, True):
        found = measured(replace(METHOD, refine=refine), frames, grid)
        expected_error.append(np.median(found["s_error"]))
        off.append(np.std(found["s_e_rr"].ravel() - expected(f)["e_rr"]))
    # As of the centroids of the four first disks alone: r / (2 sqrt N) over sqrt 2 |g|.
    assert off[0] < 1.05 * RADIUS / 2 / np.sqrt(700) / np.sqrt(2) / np.hypot(*G1)
    assert off[1] < 0.7 * off[0]
    assert expected_error[0] == pytest.approx(off[0], rel=0.4)
    assert expected_error[1] == pytest.approx(off[1], rel=0.4)


@BOTH
def test_what_did_not_come_and_vacuum_are_nan_and_counted(refine):
    f = deformations()
    frames = counts(drawn(strained(f), **BRIGHT))
    frames[8:11] = counts(drawn(strained(f[8:11]), counts=1e6, first=0.0))
    frames[20] = 0
    here = np.setdiff1d(np.arange(GRID.size), np.arange(12, 18))
    found = taken(replace(METHOD, refine=refine), frames, series_of(frames), GRID, here)
    nothing = np.zeros(GRID.size, bool)
    nothing[[8, 9, 10, 20, *range(12, 18)]] = True
    for key in (*MAPS, "residual", "indexed", "error"):
        np.testing.assert_array_equal(np.isnan(found[f"s_{key}"]).ravel(), nothing, err_msg=key)
    check(found, f, where=~nothing)
    assert found["s_mapped"] == pytest.approx(14 / 18)


@BOTH
@pytest.mark.parametrize("background", [2.0, 40.0])
def test_an_even_background_pulls_nothing_and_is_no_disk(refine, background):
    f, method = deformations(), replace(METHOD, refine=refine)
    found = measured(method, counts(drawn(strained(f), background=background, **BRIGHT)))
    check(found, f)
    film = counts(drawn(strained(f), first=0.0, background=background), seed=4)
    found = measured(method, film)
    assert found["s_reason"] == Reason.NO_DISKS
    assert found["s_mapped"] == 0
    assert np.isnan(found["s_e_rr"]).all()


@BOTH
def test_dead_pixels_in_the_windows_pull_nothing(refine):
    f, mask = deformations(0.004), np.zeros(SHAPE, bool)
    mask[tuple(np.random.default_rng(5).integers(15, 60, (2, 40)))] = True
    frames = counts(drawn(strained(f), **BRIGHT))
    frames[:, mask] = 65535
    found = measured(replace(METHOD, refine=refine), frames, pixel_mask=mask, saturation=65535)
    check(found, f, atol=1.5e-3)


def test_a_disk_on_bad_pixels_is_not_looked_at():
    f, mask = deformations(), np.zeros(SHAPE, bool)
    at = np.array(CENTER) + G1
    y, x = np.indices(SHAPE)
    mask[np.hypot(y - at[0], x - at[1]) < 3] = True
    frames = counts(drawn(strained(f), **BRIGHT))
    windows = METHOD.windows_on(series_of(frames, pixel_mask=mask))
    assert [1, 0] not in windows.orders.tolist()
    assert [-1, 0] in windows.orders.tolist()
    check(measured(METHOD, frames, pixel_mask=mask), f)


@BOTH
def test_a_saturated_bright_field_disk_leaves_the_others(refine):
    f = deformations(0.01)
    frames = counts(drawn(strained(f), counts=6e6, first=4e5))
    assert frames.max() > 40_000
    found = measured(replace(METHOD, refine=refine), np.minimum(frames, 40_000), saturation=40_000)
    check(found, f)
    if refine:  # the disk is left out; windows see its edge
        assert (found["s_indexed"] < 1).all()
    everywhere = np.full_like(frames, 40_000)
    found = measured(replace(METHOD, refine=refine), everywhere, saturation=40_000)
    assert found["s_reason"] == Reason.NO_DISKS


def test_edges_follow_strain_and_descan_where_windows_say_that_disks_are_outside():
    f = deformations(0.005) + np.diag([0.06, -0.05])
    center = np.array(CENTER) + np.random.default_rng(6).uniform(-3, 3, (GRID.size, 2))
    frames = counts(drawn(strained(f), center, **BRIGHT))
    check(measured(replace(METHOD, refine=True), frames), f)
    far = measured(METHOD, counts(drawn(strained(f), np.add(CENTER, (2, -2)), **BRIGHT)))
    assert far["s_reason"] == Reason.OUTSIDE
    assert np.isnan(far["s_e_rr"]).all()


def _turned(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s], [s, c]])


@BOTH
@pytest.mark.parametrize("what", ["strain", "stretch", "centre", "turn"])
def test_beyond_what_can_be_followed_strain_is_nan_and_never_wrong(refine, what):
    rng, count = np.random.default_rng(8), GRID.size
    f, center = np.tile(np.eye(2), (count, 1, 1)), np.tile(CENTER, (count, 1))
    if what == "strain":
        f += np.linspace(0, 0.3, count)[:, np.newaxis, np.newaxis] * rng.uniform(-1, 1, f.shape)
    elif what == "stretch":
        f *= np.linspace(0.8, 1.3, count)[:, np.newaxis, np.newaxis]
    elif what == "centre":
        angle = rng.uniform(0, 2 * np.pi, count)
        center += np.linspace(0, 12, count)[:, np.newaxis] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    else:
        f = np.stack([_turned(degrees) for degrees in np.linspace(-44, 44, count)])
    found = measured(replace(METHOD, refine=refine), counts(drawn(strained(f), center, **BRIGHT)))
    mapped = np.isfinite(found["s_e_rr"]).ravel()
    assert 0 < mapped.sum() < count or (refine and what == "centre")
    assert found["s_mapped"] == mapped.mean()
    check(found, f, atol=3e-3, where=mapped)
    assert (found["s_indexed"].ravel()[mapped] >= 4 / 13).all()


def test_a_wrong_centre_moves_nothing_while_disks_are_in_their_windows():
    f = deformations(0.004)
    frames = counts(drawn(strained(f), **BRIGHT))
    row, col = CENTER
    check(measured(replace(METHOD, center=(row + 0.6, col - 0.5)), frames), f)


def test_of_another_lattice_there_is_no_strain():
    frames = counts(drawn(strained(np.tile(_turned(34), (GRID.size, 1, 1))), **BRIGHT))
    for refine in (False, True):
        found = measured(replace(METHOD, refine=refine), frames)
        assert found["s_reason"] != Reason.FITTED
        assert np.isnan(found["s_theta"]).all()


def test_before_the_first_frame_and_without_a_lattice_in_the_region_it_says_so():
    f = deformations()
    frames = counts(drawn(strained(f), **BRIGHT))
    series = series_of(frames)
    assert METHOD.results(series, GRID, [])["s_reason"] == Reason.NO_FRAMES
    frames[0] = 0
    found = taken(replace(METHOD, reference="region"), frames, series, GRID)
    assert found["s_reason"] == Reason.NO_REFERENCE
    assert found["s_mapped"] == pytest.approx(1 - 1 / GRID.size)
    assert np.isnan(found["s_e_rr"]).all()
    assert np.isfinite(found["s_residual"]).sum() == GRID.size - 1


def test_windows_never_meet_and_weights_are_whole():
    series = series_of(np.zeros((1, *SHAPE)))
    demand = replace(METHOD, margin=9.0).demand(series, GRID)
    total = np.zeros(SHAPE, int)
    for disk in range(0, len(demand.bands), 4):
        (first, window), (_, ring) = demand.bands[disk], demand.bands[disk + 3]
        assert window.dtype == np.int64
        total[first : first + len(window)] += window
        assert not (window.astype(bool) & ring.astype(bool)).any()
    assert total.max() == 1
    assert len(demand.bands) == 4 * 13
    assert isinstance(replace(METHOD, refine=True).demand(series, GRID), Patterns)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"radius": 0.5}, "s.radius is 0.5 px; expected at least 1"),
        ({"margin": 0.1}, "s.margin is 0.1 px; expected at least 0.5"),
        ({"disks": 4}, "s.disks is 4; expected a whole number from 5 to 199"),
        ({"reference": "vacuum"}, "s.reference is 'vacuum'; expected one of scan, region, lattice"),
        ({"region": ((1, 2),)}, "s.region is .* expected two corners"),
        ({"g1": (np.nan, 1)}, "s.g1 is nan; expected a finite number"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        replace(METHOD, **fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"g2": None}, "s has no lattice: run calibrate_lattice, or set s_g1 and s_g2"),
        (
            {"g2": (26.4, 4.2)},
            r"s.g1 is \(13.2, 2.1\) px and s.g2 is \(26.4, 4.2\) px; expected two directions",
        ),
        ({"radius": 6.5}, "radius of 6.5 px are 13.4 px apart; expected at least 14.0 px"),
        ({"radius": None}, "s is in units of the bright-field radius, which is not known"),
        ({"g1": (34.0, 1.0), "g2": (0, 31)}, "s has 2 disks with good pixels on frames of 72 x 76 px"),
        (
            {"reference": "region", "region": ((0, 0), (4, 2))},
            "s.region is .* within the scan of 4 x 6 positions",
        ),
    ],
)
def test_what_does_not_fit_the_frames_is_refused_by_name(fields, words):
    series = series_of(np.zeros((1, *SHAPE)))
    with pytest.raises(ValueError, match=words):
        replace(METHOD, **fields).demand(series, GRID)


def test_centre_and_radius_are_those_of_the_calibration_unless_set():
    series = series_of(np.zeros((1, *SHAPE)), calibration=Calibration((30.0, 31.0), 4.5))
    windows = replace(METHOD, center=None, radius=None).windows_on(series)
    assert windows.radius == 4.5
    np.testing.assert_array_equal(windows.at[0], [30, 31])


# The contract --------------------------------------------------------------------------------------


@cache
def frames_of_a_lattice(count):
    return counts(drawn(strained(deformations(seed=2, count=count)), **BRIGHT), seed=7)


class _OfALattice(MethodTests):
    scan = ScanGrid(5, 7)
    shape = SHAPE
    rtol = 1e-9

    def frames(self):
        return frames_of_a_lattice(self.scan.size).copy()

    def method(self):
        return replace(METHOD, rotation=20.0, refine=self.refine)

    def expected(self, frames, scan, series):
        flat, found = frames.reshape(-1, *self.shape), {}
        came = np.flatnonzero(np.isfinite(flat[:, 0, 0]))
        found = {key: np.full(scan.size, np.nan) for key in (*MAPS, "residual", "indexed", "error")}
        c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
        turn = np.array([[c, -s], [s, c]])
        for n in came:
            vectors, residual, error = self.lattice(flat[n].tobytes())
            f = turn @ np.linalg.inv(vectors) @ np.array([G1, G2]) @ turn.T
            for key, (value,) in expected(f[np.newaxis]).items():
                found[key][n] = value
            found["residual"][n], found["indexed"][n], found["error"][n] = residual, 1, error
        maps = {f"s_{key}": image.reshape(scan.shape) for key, image in found.items()}
        numbers = dict(zip(("g1_row", "g1_col", "g2_row", "g2_col"), (*G1, *G2)))
        return {
            **maps,
            "s_mapped": np.array(1.0 if len(came) else np.nan),
            "s_searched": np.array(0.0 if len(came) else np.nan),
            "s_reason": np.array(float(Reason.FITTED if len(came) else Reason.NO_FRAMES)),
            **{f"s_reference_{key}": np.array(value) for key, value in numbers.items()},
        }


class TestWindows(_OfALattice):
    refine = False

    @staticmethod
    @cache
    def lattice(frame):
        """By plain NumPy: centroids less background, and np.linalg.lstsq."""
        frame = np.frombuffer(frame).reshape(SHAPE)
        windows = METHOD.windows_on(series_of(frame[np.newaxis]))
        y, x = np.indices(SHAPE)
        every = np.array([(h, k) for h in range(-6, 7) for k in range(-6, 7)])
        near = [np.hypot(y - r, x - c) for r, c in np.array(CENTER) + every @ np.array([G1, G2])]
        free = np.min(near, axis=0) > windows.reach
        places, weights = [], []
        for at in windows.at:
            distance = np.hypot(y - at[0], x - at[1])
            inside, ring = distance <= windows.reach, (distance <= windows.reach + 2.5) & free
            level = frame[ring].mean()
            total = (frame - level)[inside].sum()
            places.append([((frame - level) * axis)[inside].sum() / total for axis in (y, x)])
            under = level * inside.sum()
            weights.append(1 / (0.01 + (RADIUS**2 + windows.reach**2 * under / total) / 4 / total))
        design, root = np.column_stack([np.ones(13), windows.orders]), np.sqrt(weights)[:, np.newaxis]
        solution = np.linalg.lstsq(design * root, np.array(places) * root, rcond=None)[0]
        away = ((np.array(places) - design @ solution) ** 2).sum(axis=1)
        variances = np.diag(np.linalg.inv((design * root).T @ (design * root)))[1:]
        error = np.sqrt(np.mean(variances / (solution[1:] ** 2).sum(axis=1)))
        return solution[1:], np.sqrt(np.average(away, weights=weights)), error


class TestEdges(_OfALattice):
    refine = True

    @staticmethod
    @cache
    def lattice(frame):
        """Each frame alone."""
        frame = np.frombuffer(frame).reshape(1, *SHAPE)
        method, series, scan = replace(METHOD, refine=True), series_of(frame), ScanGrid(1, 1)
        part = method.accumulator(series, scan, None)
        part.add(np.array([0]), frame.astype(np.uint16))
        lattices, _ = method._lattices(series, scan, [part])
        return lattices[0, 0, 2:6].reshape(2, 2), lattices[0, 0, 6], lattices[0, 0, 8]
