"""Drift follows a specimen from raster to raster and sums without it; what is not sure is left out, and said."""

import math
from dataclasses import replace

import numpy as np
import pytest
from test_registration import lattice, specimen, view

from live4d_ophyd.imaging.drift import Drift, Followed, MovedSum, path_of
from live4d_ophyd.imaging.method import carries
from live4d_ophyd.imaging.of_channel import OfChannel
from live4d_ophyd.imaging.registration import Reason
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.testing import MethodTests

SHAPE = (64, 56)
SCAN = ScanGrid(*SHAPE, step=(0.5, 0.25), unit="nm")
SPEED = np.array([1.7, -2.3])


def outputs_of(images, method=None, scan=SCAN):
    """What the method gives of rasters in turn, as the engine asks for it."""
    method, fit, given = method or Drift("drift"), None, []
    for image in images:
        parts = {"adf": image}
        half = np.where(np.arange(len(image))[:, None] < 40, image, np.nan)
        fit = method.refit(None, scan, {"adf": half}, fit, lambda: False)  # while it runs
        fit = method.refit(None, scan, parts, fit, lambda: False)
        given.append(method.results(None, scan, parts, fit))
        fit = method.next_raster(fit)
    return given


def movie(count=6, **options):
    field = specimen()
    return [view(field, *(number * SPEED), seed=number, **options) for number in range(count)]


class TestDrift(MethodTests):
    """Of one raster: the image itself, and no drift."""

    scan = ScanGrid(9, 8)

    def method(self):
        return Drift("drift", "vbf")

    def images(self, frames, scan, series):
        return {"vbf": frames[:, :, 3, 4]}

    def expected(self, frames, scan, series):
        numbers = {"row": 0.0, "col": 0.0, "confidence": np.nan, "rasters": 1.0, "reason": 1.0}
        return {"drift": frames[:, :, 3, 4], **{f"drift_{key}": np.array(v) for key, v in numbers.items()}}


def test_it_says_where_each_raster_was_in_the_units_of_the_scan():
    assert carries(Drift("drift"))
    given = outputs_of(movie())
    for number, outputs in enumerate(given):
        row, col = number * SPEED * SCAN.steps
        assert float(outputs["drift_row"]) == pytest.approx(row, abs=0.1 * 0.5)
        assert float(outputs["drift_col"]) == pytest.approx(col, abs=0.1 * 0.25)
        assert outputs["drift_rasters"] == number + 1
    assert [float(outputs["drift_reason"]) for outputs in given] == [Reason.REFERENCE] + 5 * [Reason.FOUND]
    assert math.isnan(given[0]["drift_confidence"])
    assert all(outputs["drift_confidence"] > 0.3 for outputs in given[1:])


def test_the_sum_is_sharp_where_the_plain_one_is_blurred():
    images = movie()
    corrected, plain = outputs_of(images)[-1]["drift"], np.mean(images, axis=0)
    truth = view(specimen(), counts=1e6) / 1e6 * 30
    inner = np.s_[8:-8, 14:-14]

    def like(image):
        return np.corrcoef(image[inner].ravel(), truth[inner].ravel())[0, 1]

    assert like(corrected) > 0.95
    assert like(plain) < 0.7
    assert np.nanmean(corrected) == pytest.approx(np.mean(images), rel=0.05)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (np.full(SHAPE, np.nan), {Reason.EMPTY}),
        (np.zeros(SHAPE), {Reason.EMPTY}),
        (view(specimen(77)), {Reason.UNCERTAIN, Reason.TOO_FAR}),
        (view(specimen(), 30, 30), {Reason.UNCERTAIN, Reason.TOO_FAR}),
        (np.random.default_rng(0).poisson(1.0, SHAPE).astype(float), {Reason.UNCERTAIN, Reason.TOO_FAR}),
    ],
    ids=["missing", "empty", "another place", "beyond the search", "noise"],
)
def test_a_raster_that_is_not_found_is_left_out_and_the_next_one_goes_on(bad, reason):
    images = movie()
    given = outputs_of([*images[:3], bad, images[3]])
    assert float(given[3]["drift_reason"]) in reason
    assert np.isnan([given[3]["drift_row"], given[3]["drift_col"]]).all()
    assert [float(outputs["drift_rasters"]) for outputs in given] == [1, 2, 3, 3, 4]
    np.testing.assert_array_equal(given[3]["drift"], given[2]["drift"])
    assert float(given[4]["drift_row"]) == pytest.approx(3 * SPEED[0] * 0.5, abs=0.1)


def test_a_first_raster_that_is_no_good_is_replaced():
    images = movie()
    for bad in (np.zeros(SHAPE), view(specimen(77))):
        given = outputs_of([bad, *images[:3]])
        assert float(given[3]["drift_row"]) == pytest.approx(2 * SPEED[0] * 0.5, abs=0.1)
        assert given[3]["drift_rasters"] == 3


def test_missing_rows_leave_what_other_rasters_have_of_them():
    images = movie()
    images[2][20:40] = np.nan
    given = outputs_of(images)
    assert float(given[2]["drift_col"]) == pytest.approx(2 * SPEED[1] * 0.25, abs=0.05)
    assert np.isfinite(given[-1]["drift"]).all()


def test_a_lattice_needs_a_search_within_half_its_period():
    images = [lattice(0.9 * number, 0.4 * number, seed=number) for number in range(4)]
    scan = ScanGrid(64, 64)
    lost = outputs_of(images, scan=scan)
    assert [float(outputs["drift_rasters"]) for outputs in lost] == [1, 1, 1, 1]
    found = outputs_of(images, Drift("drift", search=2.5), scan)
    assert float(found[-1]["drift_row"]) == pytest.approx(2.7, abs=0.15)


def test_a_drift_that_changes_within_a_raster_is_undone_by_strips():
    field, rows = specimen(), np.arange(64)
    bent = np.stack([1.0 + 0.02 * rows, -1.5 + 1.5 * (rows / 63) ** 2], axis=1)
    whole = np.stack([view(field, row, col, counts=60, seed=9)[i] for i, (row, col) in enumerate(bent)])
    path = path_of(whole, view(field, counts=60), 8, strips=4)
    np.testing.assert_allclose(path.rows[:, 1], bent[:, 1], atol=0.25)
    np.testing.assert_allclose(path.rows[:, 0], bent[:, 0], atol=0.35)
    assert np.ptp(path_of(whole, view(field, counts=60), 8).rows, axis=0).tolist() == [0, 0]


def test_values_go_to_where_the_specimen_was():
    total = MovedSum((6, 6))
    image = np.zeros((6, 6))
    image[2, 3] = 8.0
    total.add(image, np.tile([1.0, -1.0], (6, 1)))
    assert total.mean()[1, 4] == 8
    total = MovedSum((6, 6))
    total.add(image, np.tile([0.5, 0.25], (6, 1)))
    mean = total.mean()
    assert mean[1:3, 2:4] == pytest.approx(np.array([[1.0, 3.0], [1.0, 3.0]]))
    image[:, 0] = np.nan
    total = MovedSum((6, 6))
    total.add(image, np.zeros((6, 2)))
    assert np.isnan(total.mean()).sum() == 6


def test_a_state_that_was_taken_along_is_not_changed_by_what_follows():
    before = Followed(MovedSum(SHAPE)).with_raster(movie()[0], 8)
    kept = before.total.mean().copy()
    before.with_raster(movie()[1], 8)
    np.testing.assert_array_equal(before.total.mean(), kept)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"search": 0.5}, "search is 0.5; expected at least 1"),
        ({"least_confidence": 2.0}, "least_confidence is 2; expected 0 to 1"),
        ({"strips": 0}, "strips"),
        ({"search": math.nan}, "search is nan"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Drift("drift", **options)


def test_the_least_search_is_one_position():
    assert Drift("drift", search=1).search == 1


def test_strips_of_fewer_than_16_rows_are_refused_before_a_frame_is_taken():
    with pytest.raises(ValueError, match=r"drift has 5 strips of a scan of 64 rows.*at most 4"):
        Drift("drift", strips=5).demand(None, SCAN)
    Drift("drift", strips=4).demand(None, SCAN)


def test_on_a_further_channel_it_takes_its_state_along_too():
    method = OfChannel(Drift("drift"), "difference")
    assert carries(method)
    fit = None
    for number, image in enumerate(movie(3)):
        fit = method.refit(None, SCAN, {"adf_difference": image}, fit, lambda: False)
        given = method.results(None, SCAN, {"adf_difference": image}, fit)
        assert given["drift_rasters_difference"] == number + 1
        fit = method.next_raster(fit)
    assert not carries(OfChannel(Disk("vbf", radius=3), "difference"))


def test_disabled_it_gives_nothing():
    assert replace(Drift("drift"), enabled=False).outputs(None, SCAN) == {}
