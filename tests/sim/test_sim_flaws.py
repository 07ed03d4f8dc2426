"""Flaws of the simulated sensor are in its counts as they were asked for; a flood hits all pixels alike."""

import numpy as np
import pytest

from live4d_ophyd.sim.flaws import NO_FLAWS, Flaws
from live4d_ophyd.sim.frames import FrameSource, Readout
from live4d_ophyd.sim.specimen import Detector, Microscope, Scan, Specimen

DETECTOR, FLOOD = Detector(48, 48), Microscope(flood=1.0, beam_current_pA=1000.0)
SHAPE = DETECTOR.rows, DETECTOR.cols


def counts(flaws, microscope=FLOOD, positions=16):
    """Pixels of a raster, before they are compressed, (frames, rows, cols)."""
    source = FrameSource(Specimen(size_nm=2.0), flaws=flaws, threads=1)
    raster = source.raster(microscope, Scan(positions, positions), DETECTOR, Readout(), 1)
    chunks = [raster._pixels(chunk)[:, 0] for chunk in range(positions**2 // 128)]
    source.close()
    return np.concatenate(chunks)


def test_a_flood_is_the_same_everywhere():
    pixels = counts(NO_FLAWS)
    expected = FLOOD.electrons(1 / 30e3) / DETECTOR.window**2
    assert pixels.mean() == pytest.approx(expected, rel=0.005)
    mean = pixels.mean(axis=0)
    assert mean.std() == pytest.approx(np.sqrt(expected / len(pixels)), rel=0.1)  # shot noise


def test_pixels_count_what_their_efficiency_says():
    flaws = Flaws(hot_pixels=5, cold_pixels=4, gain_spread=0.05)
    response = flaws.response(DETECTOR, 0)
    mean = counts(flaws).mean(axis=0)
    expected = FLOOD.electrons(1 / 30e3) / DETECTOR.window**2 * response.efficiency
    expected.flat[response.hot] += response.rates
    deviation = (mean - expected)[expected > 0] / np.sqrt(expected[expected > 0] / 256)
    assert abs(deviation).max() < 5
    assert np.count_nonzero(mean == 0) == 4
    assert response.efficiency[response.efficiency > 0].std() == pytest.approx(0.05, rel=0.25)


def test_hot_pixels_count_in_the_dark_and_stay_below_the_maximum():
    flaws = Flaws(hot_pixels=3)
    response = flaws.response(DETECTOR, 0)
    dark = np.zeros((4, *SHAPE), np.uint8)
    response.add_hot(dark, 100, np.random.default_rng(0))
    assert sorted(np.flatnonzero(dark.any(axis=0))) == sorted(response.hot)
    assert dark.max() <= 100


@pytest.mark.parametrize(
    ("flaws", "words"), [(Flaws(hot_pixels=-1), "-1 hot"), (Flaws(gain_spread=0.5), "gain_spread is 0.5")]
)
def test_flaws_that_no_sensor_has_are_refused(flaws, words):
    with pytest.raises(ValueError, match=words):
        flaws.check()


def test_an_ellipse_has_the_area_of_the_circle():
    from live4d_ophyd.sim.specimen import aperture

    for angle in (0.0, 35.0):
        disk = Detector(96, 96, (47.3, 48.1), 15.0, 1.1, angle)
        intensity = abs(aperture(Microscope(), disk)) ** 2
        assert (intensity > 0.5 * intensity.max()).sum() == pytest.approx(np.pi * 15**2, rel=0.02)
        rows, cols = np.indices(intensity.shape)
        y, x = rows - 47.3, cols - 48.1
        spread = np.array([[np.sum(intensity * a * b) for a in (y, x)] for b in (y, x)])
        least, most = np.linalg.eigvalsh(spread)
        assert np.sqrt(most / least) == pytest.approx(1.1, rel=0.01)
        assert np.degrees(0.5 * np.arctan2(2 * spread[0, 1], spread[0, 0] - spread[1, 1])) == pytest.approx(
            angle, abs=2
        )
    with pytest.raises(ValueError, match=r"bf_ellipticity is 0.5"):
        Detector(96, 96, None, None, 0.5).check()
