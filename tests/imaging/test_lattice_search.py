"""Strain beyond what windows follow: a search finds the lattice, says so, and finds none where there is none.

Disks of 5 px, 13.4 px apart; a third of that is how far a vector may be from the reference.
"""

from dataclasses import replace

import numpy as np
import pytest
from drawn_lattice import CENTER, G1, G2, RADIUS, SHAPE, drawn, series_of, strained, taken

from live4d_ophyd.imaging.lattice_search import search
from live4d_ophyd.imaging.strain import Reason, Strain
from live4d_ophyd.scan import ScanGrid

GRID = ScanGrid(4, 10)
METHOD = Strain("s", CENTER, g1=G1, g2=G2, radius=RADIUS, reference="lattice", refine=True)


def _turned(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s], [s, c]])


def _stretched(size, seed):
    """F of each position: that much along one direction or the other, and as much or half of it across."""
    rng = np.random.default_rng(seed)
    sizes = size * rng.choice([-1, 1], GRID.size)[:, np.newaxis] * rng.choice([0.5, 1], (GRID.size, 2))
    return np.eye(2) + sizes[:, :, np.newaxis] * np.eye(2)


def _measured(frames, method=METHOD, seed=3, **more):
    counts = np.random.default_rng(seed).poisson(frames).astype(np.uint16)
    return taken(method, counts, series_of(counts, **more), GRID)


def _off(found, f):
    """Measured less true e_rr, e_cc, e_rc and theta (4, n), theta in rad."""
    true = f[:, 0, 0] - 1, f[:, 1, 1] - 1, (f[:, 0, 1] + f[:, 1, 0]) / 2, (f[:, 1, 0] - f[:, 0, 1]) / 2
    maps = [found["s_e_rr"], found["s_e_cc"], found["s_e_rc"], np.radians(found["s_theta"])]
    return np.array([image.ravel() for image in maps]) - true


@pytest.mark.parametrize(
    ("size", "degrees", "least", "most"),
    [
        (0.02, 0.0, 0, 0), (0.04, 3.0, 0, 0), (0.06, 4.0, 0, 1), (0.08, 5.0, 0, 1), (0.08, 6.0, 0.5, 1),
        (0.14, 0.0, 0.5, 1), (0.02, 12.0, 1, 1), (0.05, -15.0, 1, 1),
    ],
)  # fmt: skip
def test_large_strain_and_rotation_come_out_within_the_bar_of_edges(size, degrees, least, most):
    """Of 2.5e-3 for 700 counts in a disk of the first order; disks are smaller and nearer here, so they have 1,500."""
    f = _stretched(size, 4) @ _turned(degrees)
    found = _measured(drawn(strained(f), counts=4e4, first=1500.0))
    off = _off(found, f)
    assert found["s_mapped"] == 1
    assert (np.sqrt((off**2).mean(axis=1)) < 2.5e-3).all()
    assert least <= found["s_searched"] <= most


def test_windows_alone_find_nothing_there_and_search_nothing():
    f = np.tile(_turned(12.0), (GRID.size, 1, 1))
    found = _measured(drawn(strained(f)), replace(METHOD, refine=False))
    assert found["s_mapped"] == 0
    assert found["s_searched"] == 0
    assert found["s_reason"] == Reason.OUTSIDE


def test_a_search_follows_descan_and_leaves_out_a_saturated_bright_field_disk_and_dead_pixels():
    f = np.tile(_turned(12.0), (GRID.size, 1, 1))
    center = np.array(CENTER) + np.random.default_rng(6).uniform(-2.5, 2.5, (GRID.size, 2))
    frames = drawn(strained(f), center, first=1500.0)
    found = _measured(frames)
    assert found["s_searched"] == 1
    assert np.abs(_off(found, f)).max() < 0.012
    frames, mask = drawn(strained(f), first=1500.0), np.zeros(SHAPE, bool)
    mask[tuple(np.random.default_rng(5).integers(15, 60, (2, 40)))] = True
    frames[:, mask] = 300.0
    found = _measured(np.minimum(frames, 200.0), saturation=150, pixel_mask=mask)
    assert found["s_searched"] > 0.9
    assert np.nanmax(np.abs(_off(found, f))) < 0.02


def test_a_position_has_the_same_lattice_whatever_came_before_it():
    f = _stretched(0.08, 7) @ _turned(8.0)
    counts = np.random.default_rng(8).poisson(drawn(strained(f))).astype(np.uint16)
    series, order = series_of(counts), np.random.default_rng(9).permutation(GRID.size)
    for some in (order, order[:7]):
        one, other = taken(METHOD, counts, series, GRID), taken(METHOD, counts, series, GRID, some)
        here = np.isin(np.arange(GRID.size), some).reshape(GRID.shape)
        for key in ("s_e_rr", "s_theta", "s_residual"):
            np.testing.assert_array_equal(one[key][here], other[key][here])


def test_beyond_a_third_of_the_shortest_vector_and_where_disks_meet_there_is_none():
    for f in (_turned(22.0), np.diag([1.38, 1.0]), np.diag([1.25, 1.25])):
        found = _measured(drawn(strained(np.tile(f, (GRID.size, 1, 1))), first=1500.0))
        assert np.isnan(found["s_e_rr"]).all()
        assert found["s_searched"] == 0


def _speckle(rng, size):
    spectrum = np.exp(-2 * (np.pi * size) ** 2 * sum(np.square(np.meshgrid(
        np.fft.fftfreq(SHAPE[0]), np.fft.fftfreq(SHAPE[1]), indexing="ij"))))  # fmt: skip
    smooth = np.fft.ifft2(np.fft.fft2(rng.exponential(size=(GRID.size, *SHAPE))) * spectrum).real
    return smooth / smooth.mean()


_ROW, _COL = np.indices(SHAPE)
_AWAY = np.hypot(_ROW - CENTER[0], _COL - CENTER[1])
_BEAM = 250.0 * (_AWAY <= RADIUS)


@pytest.mark.parametrize("beam", [False, True], ids=["without a beam", "with the beam"])
@pytest.mark.parametrize(
    "what", ["empty", "dim", "even", "halo", "wide ring", "fine speckle", "speckle", "disks"]
)
def test_without_a_lattice_none_is_found(what, beam):
    rng = np.random.default_rng(10)
    frames = {
        "empty": lambda: np.zeros(SHAPE),
        "dim": lambda: np.full(SHAPE, 0.03),
        "even": lambda: np.full(SHAPE, 5.0),
        "halo": lambda: 20 * np.exp(-_AWAY / 15),
        "wide ring": lambda: 3 * np.exp(-(((_AWAY - 13) / 15) ** 2)),
        "fine speckle": lambda: 5 * _speckle(rng, 1.0),
        "speckle": lambda: 5 * _speckle(rng, 2.5),
        "disks": lambda: _disks_anywhere(rng),
    }[what]()
    found = _measured(np.broadcast_to(frames + beam * _BEAM, (GRID.size, *SHAPE)))
    assert found["s_searched"] == 0
    assert found["s_mapped"] == 0
    assert found["s_reason"] == Reason.NO_DISKS


def _disks_anywhere(rng):
    frames = np.zeros((GRID.size, *SHAPE))
    for frame in frames:
        for row, col in rng.uniform(8, 64, (8, 2)):
            frame += 9.0 * (np.hypot(_ROW - row, _COL - col) <= RADIUS)
    return frames


def test_a_ring_with_the_radius_of_the_lattice_is_no_lattice_to_the_search():
    """Places on it look like disks, three of four at right angles; but where no disk ends it goes on."""
    frames = 5 * np.exp(-(((_AWAY - 15) / 4) ** 2)) + _BEAM
    found = _measured(np.broadcast_to(frames, (GRID.size, *SHAPE)))
    assert found["s_searched"] == 0


def test_disks_of_two_crystals_make_no_lattice_of_both():
    """Disks along g1 of one and along g2 of the other lie on a lattice, on which nothing else lies."""
    f = np.tile(_turned(14.0), (GRID.size, 1, 1))
    vectors = strained(f)
    frames = drawn(vectors, first=0.0)
    for g in (vectors[0, 0], np.array(G2) @ _turned(-4)):
        for times in (-2, -1, 1, 2):
            at = np.array(CENTER) + times * g
            frames += (1500 / 80) * np.clip(RADIUS + 0.5 - np.hypot(_ROW - at[0], _COL - at[1]), 0, 1)
    found = _measured(frames)
    assert found["s_mapped"] == 0


# The search itself: what fits of its seeds would hide. ----------------------------------------------

ORDERS = np.array([(h, k) for h in range(-1, 2) for k in range(-1, 2)])
TRUE = strained(_turned(10.0)[np.newaxis])


def _searched(frame, limit=np.inf, seed=11):
    """Whether a lattice was found in counts of what is expected, and what."""
    counts = np.random.default_rng(seed).poisson(frame).astype(np.uint16)
    found = np.zeros((3, 2))
    start = np.array([CENTER, G1, G2])
    return search(counts, np.ones(SHAPE, bool), limit, start, ORDERS, RADIUS, found), found


def _disks(at, counts=1500.0):
    away = np.hypot(_ROW - at[0], _COL - at[1])
    return counts / (np.pi * RADIUS**2) * np.clip(RADIUS + 0.5 - away, 0, 1)


def test_four_disks_beside_the_middle_are_a_lattice_and_three_are_none():
    g1, g2 = TRUE[0]
    frame = _disks(CENTER, 2e4) + sum(_disks(np.array(CENTER) + g) for g in (g1, -g1, g2))
    assert not _searched(frame)[0]
    is_there, found = _searched(frame + _disks(np.array(CENTER) - g2))
    assert is_there
    np.testing.assert_allclose(found[1:], [g1, g2], atol=1.0)


def test_noise_is_no_disk_however_many_places_are_looked_at():
    for seed in range(20):
        assert not _searched(np.full(SHAPE, 5.0) + _disks(CENTER, 2e4), seed=seed)[0]


def test_the_bright_field_disk_is_no_background_of_the_disks_beside_it():
    """It has 20 times their counts, and lies on the rings about them where they are 1.5 px from it."""
    vectors = strained(1.16 * np.eye(2)[np.newaxis])
    is_there, found = _searched(drawn(vectors, counts=3e4, first=1500.0)[0])
    assert is_there
    np.testing.assert_allclose(found, [CENTER, *vectors[0]], atol=1.0)


def test_a_saturated_pixel_is_no_background():
    frame = drawn(TRUE, first=1500.0)[0]
    for g in (*TRUE[0], *-TRUE[0]):  # beside each disk, on the ring of its background
        row, col = np.rint(np.array(CENTER) + (1 + 6.7 / np.hypot(*g)) * g).astype(int)
        frame[row, col] = 60_000.0
    is_there, found = _searched(frame, limit=50_000)
    assert is_there
    np.testing.assert_allclose(found[1:], TRUE[0], atol=1.0)
