"""A flood exposure tells what each pixel counts, to its shot noise; what is no flood exposure is refused."""

from __future__ import annotations

import numpy as np
import pytest

from live4d_ophyd.imaging.flat_field import flat_field

SHAPE = (96, 80)


def flood(seed, counts, frames=64, spread=0.03, hot=10, dead=20, illumination=1.0):
    """Mean pattern, and what is true: efficiencies, hot and dead pixels."""
    rng = np.random.default_rng(seed)
    efficiency = 1 + spread * rng.standard_normal(SHAPE)
    places = rng.choice(efficiency.size, hot + dead, replace=False)
    expected = counts * efficiency * illumination
    expected.flat[places[hot:]] = 0
    expected.flat[places[:hot]] += rng.uniform(2, 100, hot) * counts
    pattern = rng.poisson(expected) / frames
    return pattern, efficiency, sorted(places[:hot].tolist()), sorted(places[hot:].tolist())


@pytest.mark.parametrize("seed", [51, 52, 53, 54])
def test_gain_and_all_bad_pixels_are_found(seed):
    pattern, efficiency, hot, dead = flood(seed, 40_000)
    found = flat_field(pattern, 64)
    assert np.flatnonzero(found.hot).tolist() == hot
    assert np.flatnonzero(found.dead).tolist() == dead
    good = np.isfinite(found.gain)
    assert np.flatnonzero(~good).tolist() == sorted(hot + dead)
    corrected = found.gain[good] * efficiency[good]
    corrected /= corrected.mean()
    assert corrected.std() == pytest.approx(1 / 200, rel=0.05)  # the shot noise of 40,000 counts, and no more
    assert found.noise == pytest.approx(1 / 200, rel=0.01)
    assert found.spread == pytest.approx(0.03, rel=0.05)
    assert found.helps


def test_masked_pixels_stay_masked_and_are_neither_hot_nor_dead():
    pattern, *_ = flood(55, 40_000, hot=0, dead=0)
    pattern[20:22, 30:33] = np.nan
    found = flat_field(pattern, 64)
    assert np.isnan(found.gain[20:22, 30:33]).all()
    assert np.count_nonzero(~np.isfinite(found.gain)) == 6
    assert not (found.hot | found.dead).any()
    np.testing.assert_array_equal(found.bad, np.isnan(pattern))  # without a factor they must not be used


def test_pixels_that_the_beam_does_not_reach_keep_a_factor_of_1():
    pattern, *_ = flood(59, 40_000)
    pattern[:10, :10] = np.random.default_rng(60).poisson(3, (10, 10)) / 64
    found = flat_field(pattern, 64)
    inner = found.gain[:7, :7]
    assert (inner == 1).all()
    assert 49 <= found.unexposed <= 100
    assert not found.bad[:7, :7].any()
    assert found.noise == pytest.approx(1 / 200, rel=0.01)  # their counts are in no mean


def test_a_gain_of_mostly_shot_noise_does_not_help():
    found = flat_field(flood(56, 400)[0], 64)  # 5 % of shot noise on pixels that differ by 3 %
    assert not found.helps
    assert found.noise == pytest.approx(0.05, rel=0.02)
    assert not flat_field(flood(57, 10_000, spread=0.0)[0], 64).helps


def test_the_shape_of_the_illumination_is_taken_out_on_request():
    y, x = np.meshgrid(np.linspace(-1, 1, SHAPE[0]), np.linspace(-1, 1, SHAPE[1]), indexing="ij")
    bowl = 1 + 0.1 * y - 0.08 * x**2 + 0.05 * x * y
    pattern, efficiency, *_ = flood(58, 40_000, illumination=bowl)
    plain, fitted = flat_field(pattern, 64), flat_field(pattern, 64, order=2)
    assert plain.unevenness == pytest.approx(bowl.std() / bowl.mean(), rel=0.05)

    def off(found):
        corrected = found.gain * efficiency
        return np.nanstd(corrected) / np.nanmean(corrected)

    assert off(plain) > 0.05
    assert off(fitted) < 0.0055


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (np.zeros(SHAPE), "0 of 7680 pixels have 20 counts or more"),
        (np.full(SHAPE, np.nan), "0 of 0 pixels"),
        (np.where(np.hypot(*(np.indices(SHAPE) - 40)) < 15, 50.0, 0.0), "of 7680 pixels have 20 counts or more"),
        (np.linspace(1, 9, SHAPE[1]) * np.ones(SHAPE), "the illumination scatters by 47 % over the detector"),
    ],
    ids=["dark", "all masked", "a disk", "uneven"],
)  # fmt: skip
def test_what_is_no_flood_exposure_is_refused(pattern, words):
    with pytest.raises(ValueError, match=f"no flood exposure: .*{words}"):
        flat_field(pattern, 100)


def test_an_order_that_is_none_is_refused():
    with pytest.raises(
        ValueError, match="order of the illumination is 3; expected a whole number from 0 to 2"
    ):
        flat_field(np.ones(SHAPE), 100, order=3)


def test_a_pixel_a_third_above_pixels_that_differ_by_3_percent_is_hot():
    pattern, *_ = flood(59, 40_000, hot=0, dead=0)
    pattern[10, 10] *= 1.4
    pattern[30, 30] *= 1.1
    assert np.argwhere(flat_field(pattern, 64).hot).tolist() == [[10, 10]]
