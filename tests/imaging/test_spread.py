"""Sums with spread weights are those of frames in which bad pixels hold the mean of their good neighbours, exactly."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from live4d_ophyd.decode import CpuDecoder, Demand, FrameFormat
from live4d_ophyd.imaging.method import Sums
from live4d_ophyd.imaging.spread import good_neighbours, spread_sums
from live4d_ophyd.imaging.weights import combined_weights

SHAPE = (13, 17)
U2 = np.dtype("u2")


def around(mask, row, col):
    """Good neighbours of a pixel."""
    near = [(r, c) for r in (row - 1, row, row + 1) for c in (col - 1, col, col + 1) if (r, c) != (row, col)]
    return [(r, c) for r, c in near if 0 <= r < SHAPE[0] and 0 <= c < SHAPE[1] and not mask[r, c]]


def repaired(frame, mask):
    """As fractions: each bad pixel is the mean of its good neighbours, and 0 where it has none."""
    out = [[Fraction(int(count)) for count in row] for row in frame]
    for row, col in np.argwhere(mask).tolist():
        near = around(mask, row, col)
        out[row][col] = sum((Fraction(int(frame[at])) for at in near), Fraction(0)) / max(len(near), 1)
    return out


def demands(maps):
    names = tuple(f"map {number}" for number in range(len(maps)))
    return {"some": Sums.of_maps(names[:1], maps[:1]), "others": Sums.of_maps(names[1:], maps[1:])}


def masks():
    """Single pixels, a cluster whose middle has no good neighbour, edges and a corner of the frame."""
    rng = np.random.default_rng(31)
    mask = rng.random(SHAPE) < 0.06
    mask[4:7, 9:12] = mask[0, 0] = mask[0, 8] = mask[12, 16] = True
    return mask


def maps():
    row, col = np.indices(SHAPE)
    disk = np.hypot(row - 6, col - 8) <= 5
    return np.stack([disk.astype(np.int64), disk * (row - 6), disk * (col - 8), np.ones(SHAPE, np.int64)])


def test_good_neighbours_are_counted():
    mask = masks()
    expected = [[len(around(mask, row, col)) for col in range(SHAPE[1])] for row in range(SHAPE[0])]
    np.testing.assert_array_equal(good_neighbours(mask), expected)


def test_a_demand_that_knows_its_bad_pixels_is_left_alone():
    mask = masks()
    mine = Sums(("mine",), ((0, np.ones(SHAPE, int)),), spread=False)
    spread, divisors = spread_sums({"mine": mine, **demands(maps())}, mask, U2)
    assert spread["mine"] is mine
    assert divisors[0] == 1
    assert divisors.max() > 1


def test_integer_sums_are_exact_fractions_of_repaired_frames():
    """Decoded by the CPU's kernels: integers all the way, one division at the end."""
    rng, mask = np.random.default_rng(32), masks()
    frames = rng.poisson(40, (5, *SHAPE)).astype(U2)
    frames[:, mask] = 60_000  # what hot pixels count must not matter
    spread, divisors = spread_sums(demands(maps()), mask, U2)
    weights = combined_weights(list(spread.values()), SHAPE, mask)
    assert weights.integer
    sums = np.array([[int((frame.astype(np.int64) * one).sum()) for one in weights.maps] for frame in frames])
    for frame, of_frame in zip(frames, sums):
        fixed = repaired(frame, mask)
        for one, total, divisor in zip(maps(), of_frame, divisors):
            expected = sum(
                fixed[row][col] * int(one[row, col]) for row in range(SHAPE[0]) for col in range(SHAPE[1])
            )
            assert Fraction(int(total), int(divisor)) == expected
    from decode_oracle import batch_of, bslz4

    batch = batch_of([bslz4(frame, 512) for frame in frames], SHAPE, U2)
    (part,) = CpuDecoder(FrameFormat(*SHAPE, U2)).submit(batch, None, Demand(weights)).parts()
    np.testing.assert_array_equal(part.sums, sums)


def test_a_pixel_alone_makes_weights_of_8_and_9():
    mask = np.zeros(SHAPE, bool)
    mask[6, 8] = True
    spread, divisors = spread_sums({"all": Sums.of_maps(("all",), np.ones((1, *SHAPE), bool))}, mask, U2)
    ((first, weights),) = spread["all"].bands
    assert (first, divisors.tolist()) == (0, [8.0])
    assert np.unique(weights).tolist() == [0, 8, 9]
    assert weights.sum() == 8 * SHAPE[0] * SHAPE[1]


def test_weight_goes_to_neighbours_outside_of_the_band():
    mask = np.zeros(SHAPE, bool)
    mask[6, 8] = True
    spread, divisors = spread_sums({"row": Sums(("row",), ((6, np.ones((1, SHAPE[1]), int)),))}, mask, U2)
    ((first, weights),) = spread["row"].bands
    assert (first, weights.shape) == (5, (3, SHAPE[1]))
    expected = np.zeros((3, SHAPE[1]), int)
    expected[1], expected[1, 8] = 8, 0
    expected[:, 7:10] += [[1, 1, 1], [1, 0, 1], [1, 1, 1]]
    np.testing.assert_array_equal(weights, expected)
    assert divisors.tolist() == [8.0]


def test_maps_without_a_bad_pixel_stay_as_they_are():
    mask = np.zeros(SHAPE, bool)
    mask[0, 0] = True
    maps = np.zeros((1, *SHAPE), bool)
    maps[0, 5:8, 5:8] = True
    before = {"inner": Sums.of_maps(("inner",), maps)}
    spread, divisors = spread_sums(before, mask, U2)
    assert divisors is None
    assert spread["inner"].bands[0][1] is before["inner"].bands[0][1]


def test_soft_maps_and_gains_are_spread_as_floats():
    rng, mask = np.random.default_rng(33), masks()
    soft, gain = rng.random((1, *SHAPE)), rng.uniform(0.8, 1.2, SHAPE)
    gain[mask] = np.nan  # a bad pixel has none
    frame = rng.poisson(40, SHAPE)
    spread, divisors = spread_sums({"soft": Sums.of_maps(("soft",), soft)}, mask, U2)
    assert divisors is None
    weights = combined_weights(list(spread.values()), SHAPE, mask, gain)
    fixed = np.where(mask, 0.0, frame * gain)
    for row, col in np.argwhere(mask):
        near = around(mask, row, col)
        fixed[row, col] = np.mean([fixed[at] for at in near]) if near else 0.0
    assert (weights.maps[0] * frame).sum() == pytest.approx((soft[0] * fixed).sum(), rel=1e-12)


def test_sums_that_would_not_fit_int64_become_floats():
    mask = np.zeros(SHAPE, bool)
    mask[6, 8] = True
    large = np.full((1, *SHAPE), 2**22)
    (whole,) = spread_sums({"a": Sums.of_maps(("a",), large)}, mask, U2)[0]["a"].bands
    (floats,) = spread_sums({"a": Sums.of_maps(("a",), large)}, mask, np.dtype("u4"))[0]["a"].bands
    assert whole[1].dtype == np.int64
    assert floats[1].dtype == np.float64
    assert floats[1][6, 7] == 2**22 * 1.125


def test_the_same_as_libertem_folds_them():
    detector = pytest.importorskip("libertem.corrections.detector")
    rng = np.random.default_rng(34)
    mask = np.zeros(SHAPE, bool)
    mask.flat[rng.choice(mask.size, 12, replace=False)] = True
    gain = rng.uniform(0.8, 1.2, SHAPE)
    theirs = detector.correct_dot_masks(maps().astype(float), gain, np.array(np.nonzero(mask)))
    spread, divisors = spread_sums(demands(maps()), mask, U2)
    ours = combined_weights(list(spread.values()), SHAPE, mask, gain).maps / divisors[:, None, None]
    np.testing.assert_allclose(ours, np.asarray(theirs).reshape(ours.shape), rtol=1e-12)
