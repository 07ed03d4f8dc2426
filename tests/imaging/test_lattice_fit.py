"""The lattice of a mean pattern is found wherever it lies, and what is none is refused."""

import numpy as np
import pytest
from drawn_lattice import CENTER, G1, G2, RADIUS, SHAPE, drawn

from live4d_ophyd.imaging.lattice_fit import fit_lattice

WIDE = (120, 128)


def pattern(basis=(G1, G2), center=(58.2, 65.7), shape=WIDE, seed=1, frames=400, **more):
    """Mean of so many frames with noise."""
    mean = drawn([basis], center, shape=shape, **more)[0]
    return np.random.default_rng(seed).poisson(mean * frames) / frames


@pytest.mark.parametrize(
    ("g1", "g2"),
    [
        (G1, G2),
        ((12.0, 0.0), (0.0, 17.0)),
        ((0.0, 14.0), (14.0 * np.sqrt(3) / 2, 7.0)),  # hexagonal
        ((11.0, 9.0), (-6.0, 12.0)),
    ],
    ids=["square", "rectangular", "hexagonal", "oblique"],
)
def test_centre_radius_and_vectors_are_found(g1, g2):
    fit = fit_lattice(pattern((g1, g2)), 400)
    assert np.hypot(*np.subtract(fit.center, (58.2, 65.7))) < 0.05
    assert fit.radius == pytest.approx(RADIUS, abs=0.1)
    assert fit.residual < 0.3
    # The same points: each basis is whole numbers of the other.
    for one, other in (((g1, g2), (fit.g1, fit.g2)), ((fit.g1, fit.g2), (g1, g2))):
        orders = np.array(one) @ np.linalg.inv(np.array(other))
        np.testing.assert_allclose(orders, np.round(orders), atol=0.01)
    assert fit.g1[0] > 0
    assert fit.g2[1] > 0
    assert abs(fit.g1[0]) / np.hypot(*fit.g1) >= abs(fit.g2[0]) / np.hypot(*fit.g2)


def test_absent_first_orders_give_the_lattice_of_what_is_there():
    """Of a centred cell."""
    mean = drawn([((7.0, 7.2), (-7.2, 7.0))], (58.2, 65.7), shape=WIDE, radius=3.5)[0]
    fit = fit_lattice(mean, 1000)
    np.testing.assert_allclose(sorted(np.hypot(*g) for g in (fit.g1, fit.g2)), [10.04, 10.04], atol=0.05)


def test_dead_pixels_and_hot_ones_in_between_change_little():
    counts, rng = pattern(), np.random.default_rng(2)
    dead = tuple(rng.integers(30, 90, (2, 60)))
    counts[dead] = np.nan
    fit = fit_lattice(counts, 400)
    np.testing.assert_allclose([fit.g1, fit.g2], [G1, G2], atol=0.05)
    valid = np.ones(WIDE, bool)
    valid[dead] = False
    assert fit_lattice(np.where(valid, counts, 1e6), 400, valid) == fit


@pytest.mark.parametrize("background", [0.5, 5.0])
def test_a_background_changes_little(background):
    fit = fit_lattice(pattern(background=background), 400)
    np.testing.assert_allclose([fit.g1, fit.g2], [G1, G2], atol=0.05)


def test_a_pattern_at_the_edge_of_the_frame_is_enough():
    fit = fit_lattice(pattern(center=(14.0, 40.0), shape=SHAPE), 400)
    np.testing.assert_allclose([fit.g1, fit.g2], [G1, G2], atol=0.05)


def vacuum():
    return pattern(first=0.0)


def one_row():
    y, x = np.indices(WIDE)
    disks = [np.clip(RADIUS + 0.5 - np.hypot(y - 58.2, x - 65.7 - 14 * n), 0, 1) for n in range(-3, 4)]
    return sum(disk * (200 if n == 3 else 20) for n, disk in enumerate(disks))


def two_crystals():
    turn = np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
    far = {"first": 3000.0, "radius": 3.0}
    return pattern(np.array((G1, G2)) * 1.1, **far) + pattern(np.array((G1, G2)) * 1.1 @ turn, **far)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (vacuum, "no lattice: 0 diffraction disks found beside the bright-field disk of radius 5.0 px"),
        (one_row, "no lattice: the 6 diffraction disks lie on one line; expected disks in two directions"),
        (two_crystals, "no lattice: only .* lie on one; expected nearly all. Are there several crystals"),
        (lambda: np.zeros(WIDE), "no bright-field disk: the pattern has no counts"),
    ],
)
def test_what_is_no_lattice_is_refused(made, words):
    with pytest.raises(ValueError, match=words):
        fit_lattice(made(), 400)


def test_the_centre_of_the_drawn_lattice_is_where_tests_say():
    fit = fit_lattice(drawn([(G1, G2)], counts=1e5, first=2e4)[0], 10)
    np.testing.assert_allclose(fit.center, CENTER, atol=0.05)
