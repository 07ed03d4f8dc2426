"""The physics: normalisation, geometry, and that there is something for plans to find."""

from dataclasses import replace

import numpy as np
import pytest
from sim_client import disk

from live4d_ophyd.sim.specimen import (
    Detector,
    Microscope,
    Scan,
    Specimen,
    aperture,
    diffraction_patterns,
    simulate,
    truth,
)

SPECIMEN = Specimen(size_nm=20.0)
DETECTOR = Detector()


IN_FOCUS = Microscope()
SMALL, USUAL = Scan(4, 4), Scan(32, 32, 0.4)


def patterns(microscope=IN_FOCUS, scan=SMALL, detector=DETECTOR):
    batches = diffraction_patterns(SPECIMEN, microscope, scan, detector)
    return np.concatenate([pattern for _, pattern in batches])


def bright_field(microscope=IN_FOCUS, scan=USUAL):
    mask = disk((96, 96), DETECTOR.bf_center, DETECTOR.bf_radius)
    return patterns(microscope, scan)[:, mask].sum(1).reshape(scan.rows, scan.cols)


def test_wavelength():
    assert Microscope(energy_eV=300e3).wavelength_nm == pytest.approx(1.96875e-3, rel=1e-4)
    assert Microscope(energy_eV=100e3).wavelength_nm == pytest.approx(3.7014e-3, rel=1e-4)


def test_electrons_are_beam_current_times_dwell_time():
    assert Microscope(beam_current_pA=1.602176634).electrons(1e-6) == pytest.approx(10.0)


def test_every_electron_arrives():
    np.testing.assert_allclose(patterns().sum((1, 2)), 1, rtol=1e-4)


def test_counts_are_poisson_about_the_pattern():
    scan, microscope, dwell = Scan(6, 6), Microscope(beam_current_pA=200), 33.3e-6
    [mean] = [f for _, f in simulate(SPECIMEN, microscope, Scan(1, 1), DETECTOR, dwell, None)]
    assert mean.sum() == pytest.approx(microscope.electrons(dwell), rel=1e-3)
    means = np.concatenate([f for _, f in simulate(SPECIMEN, microscope, scan, DETECTOR, dwell, None)])
    rng = np.random.default_rng(1)
    counts = np.concatenate([f for _, f in simulate(SPECIMEN, microscope, scan, DETECTOR, dwell, rng)])
    bright = means > 5
    assert ((counts - means)[bright] ** 2 / means[bright]).mean() == pytest.approx(1, abs=0.03)


def test_bright_field_disk_is_where_the_truth_says():
    mean = patterns(scan=Scan(12, 12, 1.0)).mean(0)
    bright = mean > mean.max() / 2
    facts = truth(Microscope(), DETECTOR)
    assert np.sqrt(bright.sum() / np.pi) == pytest.approx(facts.bf_radius, abs=0.2)
    assert np.argwhere(bright).mean(0) == pytest.approx(facts.bf_center, abs=0.2)


def test_centre_of_the_disk_can_be_set_to_fractions_of_a_pixel():
    detector = Detector(bf_center_px=(50.25, 44.75), bf_radius_px=12.5)
    intensity = np.abs(aperture(Microscope(defocus_nm=70), detector)) ** 2
    rows, cols = np.indices(intensity.shape)
    assert ((intensity * rows).sum(), (intensity * cols).sum()) == pytest.approx((50.25, 44.75), abs=0.02)
    assert intensity.sum() == pytest.approx(1, rel=1e-5)
    assert 1 / intensity.max() == pytest.approx(np.pi * 12.5**2, rel=2e-3)


def test_defocus_is_minus_c10_and_astigmatism_adds_along_its_angle():
    def phase(**state):
        wave = aperture(Microscope(**state), Detector(bf_center_px=(48.0, 48.0)))
        return np.angle(wave[58, 48]), np.angle(wave[48, 58])  # 10 px along rows, along columns

    rows, cols = phase(defocus_nm=1.0)
    alpha = 10 / 15 * 10e-3
    assert rows == pytest.approx(cols) == pytest.approx(np.pi / 3.7014366e-3 * alpha**2, rel=1e-3)
    rows, cols = phase(astigmatism_nm=1.0)
    assert rows == pytest.approx(-cols)
    assert rows < 0
    turned = phase(astigmatism_nm=1.0, astigmatism_angle_deg=90)
    assert turned == pytest.approx((cols, rows))


def test_specimen_is_the_same_for_every_detector():
    assert np.array_equal(SPECIMEN.spheres(), SPECIMEN.spheres())
    mask96 = disk((96, 96), DETECTOR.bf_center, DETECTOR.bf_radius)
    large = Detector(192, 192)
    mask192 = disk((192, 192), large.bf_center, large.bf_radius)
    scan = Scan(10, 10, 1.0)
    small_image = patterns(scan=scan)[:, mask96].sum(1)
    large_image = patterns(scan=scan, detector=large)[:, mask192].sum(1)
    assert np.corrcoef(small_image, large_image)[0, 1] > 0.99


def test_stage_moves_the_field_of_view():
    scan = Scan(8, 12, 0.5)
    moved = bright_field(Microscope(stage_x_nm=1.0, stage_y_nm=-0.5), scan)
    np.testing.assert_allclose(moved[1:, :-2], bright_field(scan=scan)[:-1, 2:], rtol=1e-3)


def test_contrast_of_the_bright_field_image_peaks_once_near_focus():
    defoci = np.array([-200, -120, -60, 0, 60, 120, 200])
    images = [bright_field(Microscope(defocus_nm=float(d)), Scan(32, 32, 0.5)) for d in defoci]
    contrast = np.array([image.std() / image.mean() for image in images])
    best = contrast.argmax()
    assert abs(defoci[best]) <= 60
    assert (np.diff(contrast[: best + 1]) > 0).all()
    assert (np.diff(contrast[best:]) < 0).all()
    assert contrast[best] > 1.6 * contrast[[0, -1]].max()


def test_particles_are_dark_in_the_bright_field():
    image = bright_field()
    assert image.max() < 1.0
    assert np.percentile(image, 2) < 0.9 * np.percentile(image, 98)


def test_larger_detector_sees_nothing_outside_the_simulated_square():
    detector = Detector(250, 300)
    detector.check()
    [(_, frame)] = simulate(SPECIMEN, Microscope(), Scan(1, 1), detector, 33e-6, np.random.default_rng(0))
    assert frame.shape == (1, 250, 300)
    (row, col), n = detector.origin, detector.window
    assert n == 192
    assert frame[:, row : row + n, col : col + n].sum() == frame.sum() > 10_000
    mask = disk((250, 300), detector.bf_center, detector.bf_radius)
    assert frame[0, mask].sum() > 0.8 * frame.sum()


@pytest.mark.parametrize(
    ("detector", "words"),
    [
        (Detector(8, 96), "at least 16x16"),
        (Detector(bf_radius_px=2), "bf_radius is 2"),
        (Detector(bf_center_px=(10.0, 48.0)), "bf_center has row 10.0"),
    ],
)
def test_impossible_detectors_are_refused(detector, words):
    with pytest.raises(ValueError, match=words):
        detector.check()


def test_scan_positions_are_centred_and_row_by_row():
    positions = replace(Scan(3, 2), step_nm=0.5).positions_nm()
    assert positions[0] == pytest.approx((-0.5, -0.25))
    assert positions[1] == pytest.approx((-0.5, 0.25))
    assert positions.mean(0) == pytest.approx((0, 0))
