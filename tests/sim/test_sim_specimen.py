"""The physics: normalisation, geometry, and that there is something for plans to find."""

from dataclasses import replace

import numpy as np
import pytest
from sim_client import disk

from live4d_ophyd.sim.frames import positions_on_specimen
from live4d_ophyd.sim.patterns import Optics
from live4d_ophyd.sim.specimen import (
    Detector,
    Microscope,
    Scan,
    Specimen,
    aperture,
    transmission,
    truth,
)

SPECIMEN = Specimen(size_nm=20.0)
DETECTOR = Detector()


IN_FOCUS = Microscope()
SMALL, USUAL = Scan(4, 4), Scan(32, 32, 0.4)


def patterns(microscope=IN_FOCUS, scan=SMALL, detector=DETECTOR):
    return Optics(SPECIMEN, microscope, detector).quantised(scan.positions_nm()).patterns


def exact_pattern(microscope, position_nm, detector):
    """By the definition, in double precision: the probe moved by a phase ramp, one position."""
    n = detector.window
    pixel = truth(microscope, detector).window_nm / n
    plane = transmission(SPECIMEN, pixel, n).astype(complex)
    stage = np.array([microscope.stage_y_nm, microscope.stage_x_nm])
    place = (position_nm + stage) / pixel
    whole = np.floor(place).astype(int)
    shift = place - whole + n // 2
    ramp = [np.exp(-2j * np.pi / n * np.arange(n) * along) for along in shift]
    probe = np.fft.ifft2(aperture(microscope, detector) * np.outer(*ramp))
    rows, cols = ((w - n // 2 + np.arange(n)) % (len(plane) - n) for w in whole)
    return np.abs(np.fft.fft2(probe * plane[np.ix_(rows, cols)])) ** 2


@pytest.mark.parametrize("detector", [DETECTOR, Detector(64, 80)])
def test_patterns_are_those_of_the_definition(detector):
    microscope = Microscope(defocus_nm=35.0, astigmatism_nm=10.0, stage_x_nm=3.3, stage_y_nm=-41.0)
    scan = Scan(5, 7, 0.37)
    mine = patterns(microscope, scan, detector)
    exact = np.stack([exact_pattern(microscope, at, detector) for at in scan.positions_nm()])
    # A probe that is off by at most a sixteenth of a pixel changes little, and no two bytes hold more.
    difference = np.abs(mine - exact).sum((1, 2))
    assert difference.max() < 0.006
    # At a place of the table it is exact up to what two bytes a pixel hold.
    n, pixel = detector.window, truth(microscope, detector).window_nm / detector.window
    place = np.array([[-41.0, 3.3]]) * -1 + np.array([[11 + 3 / 8, -7 + 1 / 8]]) * pixel
    table = Optics(SPECIMEN, microscope, detector).quantised(place).patterns[0]
    exact = exact_pattern(microscope, place[0], detector)
    assert np.abs(table - exact).sum() < 1e-3
    assert np.abs(table / exact - 1)[exact > exact.max() / 1e3].max() < 2e-3
    assert table.shape == (n, n)


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


def test_the_specimen_drifts_while_it_is_scanned_and_from_raster_to_raster():
    scan = Scan(8, 12, 0.5)
    still, drifting = Microscope(), Microscope(drift_y_nm=1.0, drift_x_nm=-0.5)
    np.testing.assert_array_equal(positions_on_specimen(still, scan, 0, 300), scan.positions_nm())
    at = positions_on_specimen(drifting, scan, 0, 3 * scan.frames).reshape(3, scan.frames, 2)
    time = (np.arange(scan.frames) / scan.frames)[:, None]
    for number, positions in enumerate(at):
        expected = scan.positions_nm() - (time + number) * (1.0, -0.5)
        np.testing.assert_allclose(positions, expected, atol=1e-12)
    # A triggered raster begins where the specimen is then: what came before is the stage's.
    later = positions_on_specimen(drifting, scan, 2 * scan.frames, scan.frames)
    np.testing.assert_allclose(later[2 * scan.frames :], at[0], atol=1e-12)


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
