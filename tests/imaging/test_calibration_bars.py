"""Centre, radius, ellipticity and bad pixels of simulated scans are found within the bars that a prototype reached.

A specimen of gold on carbon, an elliptical disk, pixels that differ by 3 %, hot and dead ones. The mean pattern of a
scan is drawn as the sum of its frames: Poisson numbers of the sum of the patterns.
"""

from __future__ import annotations

import numpy as np
import pytest

from live4d_ophyd.imaging.bad_pixels import find_dead_pixels, find_hot_pixels
from live4d_ophyd.imaging.disk_fit import fit_disk
from live4d_ophyd.sim.patterns import Optics
from live4d_ophyd.sim.specimen import Detector, Microscope, Scan, Specimen

ELECTRONS, SPECIMEN = 2e4, Specimen(size_nm=30.0)


@pytest.fixture(scope="module", params=[901, 902, 903, 904])
def taken(request):
    """Mean patterns of 3 rows and of 64, with what is true."""
    rng = np.random.default_rng(request.param)
    center = tuple(rng.uniform(44, 51, 2))
    detector = Detector(96, 96, center, rng.uniform(14, 17), rng.uniform(1, 1.08), rng.uniform(0, 180))
    optics = Optics(SPECIMEN, Microscope(), detector)
    patterns = optics.quantised(Scan(16, 16, 1.0).positions_nm()).patterns.mean(axis=0)
    efficiency = 1 + 0.03 * rng.standard_normal(patterns.shape)
    distance = np.hypot(*(np.indices(patterns.shape) - np.array(center)[:, None, None]))
    inside = rng.choice(np.flatnonzero(distance < detector.bf_radius - 4), 4, replace=False)
    outside = rng.choice(np.flatnonzero(distance > detector.bf_radius + 4), 26, replace=False)
    hot, dead = outside[:10], [*inside, *outside[10:]]
    efficiency.flat[dead] = 0
    expected = patterns * ELECTRONS * efficiency
    expected.flat[hot] += rng.uniform(1, 100, 10)
    means = {frames: rng.poisson(expected * frames) / frames for frames in (192, 4096)}
    return detector, means, sorted(hot.tolist()), set(inside.tolist()), {int(at) for at in dead}


@pytest.mark.parametrize(("frames", "bar"), [(192, 0.07), (4096, 0.05)])
def test_the_disk(taken, frames, bar):
    detector, means, *_ = taken
    fit = fit_disk(means[frames])
    np.testing.assert_allclose(fit.center, detector.bf_center, atol=bar)
    assert fit.radius == pytest.approx(detector.bf_radius, abs=bar)
    stretch = np.sqrt(detector.bf_ellipticity)
    axes = detector.bf_radius * stretch, detector.bf_radius / stretch
    np.testing.assert_allclose(fit.semiaxes, axes, atol=0.1)


def test_hot_pixels_and_the_dead_ones_inside_the_disk(taken):
    _, means, hot, inside, dead = taken
    pattern = means[4096]
    fit = fit_disk(pattern)
    assert np.flatnonzero(find_hot_pixels(pattern, 4096, fit)).tolist() == hot
    # Of those outside, the ones where the specimen scatters 20 counts are found, too.
    assert inside <= set(np.flatnonzero(find_dead_pixels(pattern, 4096, fit)).tolist()) <= dead
