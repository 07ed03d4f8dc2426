"""Autofocus ends at the best contrast, or where it began with the reason."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from bluesky.utils import FailedStatus, RunEngineInterrupted
from scanned_field import BEST_DEFOCUS

from live4d_ophyd.plans import autofocus
from live4d_ophyd.plans.focus import FocusNotFound, peak, shot_noise


@pytest.mark.parametrize("search", [(-100, 100), (-40, 60), (0, 20)])
def test_autofocus_moves_to_the_best_contrast(RE, live4d, defocus, search, capsys):
    best = RE(autofocus(live4d, defocus, *search)).plan_result
    assert best == pytest.approx(BEST_DEFOCUS, abs=2)
    assert defocus.position == pytest.approx(best)
    said = capsys.readouterr().out
    assert re.search(
        rf"defocus = {best:.4g} \+- \S+ nm, where the contrast of live4d_vbf is highest: 0\.14\d+; "
        r"the lowest of the search was 0\.\d+ \(\S+% less\)",
        said,
    )


def test_the_run_holds_the_search_and_an_image_in_focus(RE, run, live4d, defocus):
    best = RE(autofocus(live4d, defocus, -100, 100, num=5, refine=3, md={"sample": "stripes"})).plan_result
    values = [event["data"]["defocus"] for event in run.events["primary"]]
    assert values == pytest.approx([-100, -50, 0, 50, 100, -25, 0, 25])
    (focused,) = run.events["focused"]
    assert focused["data"]["defocus"] == pytest.approx(best)
    contrasts = [event["data"]["live4d_vbf_contrast"] for event in run.events["primary"]]
    assert focused["data"]["live4d_vbf_contrast"] >= max(contrasts)
    assert [run.start["plan_name"], run.start["sample"]] == ["autofocus", "stripes"]
    assert run.start["hints"]["dimensions"] == [(["defocus"], "primary")]


@pytest.mark.parametrize(("search", "proposal"), [((20, 100), "-20 to 60"), ((-100, 0), "-50 to 50")])
def test_a_focus_outside_the_range_is_an_error_that_says_where_to_look(RE, live4d, defocus, search, proposal):
    with pytest.raises(FocusNotFound, match=rf"an end of the range.*Try {proposal}"):
        RE(autofocus(live4d, defocus, *search))
    assert defocus.position == -3


def test_a_field_without_contrast_is_an_error(RE, live4d, engine, defocus):
    engine.contrast = 1e-6
    with pytest.raises(FocusNotFound, match="does not depend on the defocus"):
        RE(autofocus(live4d, defocus, -100, 100))
    assert defocus.position == -3


def test_a_curve_that_scatters_more_than_it_bends_is_refused(RE, live4d, engine, defocus, monkeypatch):
    """Not by counting: as of a beam that flickers."""
    contrasts = iter([0.100, 0.1055, 0.1060, 0.1055, 0.101, 0.1062, 0.1051, 0.1062, 0.1051])
    raster = type(engine)._raster

    def flickering(self, request, index):
        self.contrast = next(contrasts) / 0.1
        self.defocus, before = SimpleNamespace(position=BEST_DEFOCUS), self.defocus
        taken = raster(self, request, index)
        self.defocus = before
        return taken

    monkeypatch.setattr(type(engine), "_raster", flickering)
    with pytest.raises(FocusNotFound, match="flatter than it scatters from -50 to 50") as refused:
        RE(autofocus(live4d, defocus, -100, 100, num=5))
    assert "Search a wider range" in str(refused.value)
    assert defocus.position == -3


def test_a_failed_raster_puts_the_lens_back(RE, run, live4d, engine, defocus):
    engine.fails_at = 4
    with pytest.raises(FailedStatus):
        RE(autofocus(live4d, defocus, -100, 100))
    assert defocus.position == -3
    assert run.stop["exit_status"] == "fail"


def pause_at_third_event(RE):
    """Ask for a pause at the next checkpoint, from the RunEngine's own thread."""

    def pause(name, doc):
        if doc["seq_num"] == 3:
            RE.unsubscribe(token)
            RE.loop.create_task(RE._request_pause_coro(True))

    token = RE.subscribe(pause, "event")


@pytest.mark.parametrize("end", ["abort", "stop"])
def test_an_autofocus_that_is_ended_puts_the_lens_back(RE, run, live4d, defocus, end):
    pause_at_third_event(RE)
    with pytest.raises(RunEngineInterrupted):
        RE(autofocus(live4d, defocus, -100, 100))
    assert defocus.position != -3
    getattr(RE, end)()
    assert defocus.position == -3


def test_an_autofocus_that_was_paused_goes_on(RE, run, live4d, defocus):
    pause_at_third_event(RE)
    with pytest.raises(RunEngineInterrupted):
        RE(autofocus(live4d, defocus, -100, 100))
    assert RE.resume().plan_result == pytest.approx(BEST_DEFOCUS, abs=2)


@pytest.mark.parametrize("arguments", [{"num": 2}, {"refine": -1}, {"start": 5, "stop": 5}])
def test_a_search_that_cannot_find_anything_is_refused(RE, live4d, defocus, arguments):
    with pytest.raises(ValueError, match="expected start < stop"):
        RE(autofocus(live4d, defocus, **{"start": 0, "stop": 1, **arguments}))


def test_an_image_without_counts_is_an_error(RE, live4d, engine, defocus):
    engine.counts = 0
    with pytest.raises(FocusNotFound, match="vbf image at -100 has no contrast: mean 0 counts"):
        RE(autofocus(live4d, defocus, -100, 100))


def test_shot_noise_is_what_repeated_rasters_differ_by():
    rng = np.random.default_rng(1)
    specimen = 200 * (1 + 0.1 * np.sin(np.arange(1000)))
    rasters = rng.poisson(specimen, (400, 1000))
    contrasts = rasters.std(axis=1) / rasters.mean(axis=1)
    assert shot_noise(contrasts.mean(), 200, 1000) == pytest.approx(contrasts.std(), rel=0.15)


def test_the_peak_of_a_parabola_is_exact():
    best, uncertain = peak({x: 3 - (x - 0.3) ** 2 for x in (-1.0, 0.0, 1.0, 2.0)}, 0.0)
    assert best == pytest.approx(0.3)
    assert uncertain == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("known", [True, False])
def test_the_error_of_a_peak_is_what_repeated_series_differ_by(known):
    """From the error of each contrast, or from how they scatter."""
    rng = np.random.default_rng(2)
    values = np.linspace(-40, 60, 12)
    truth = 0.1 - 1e-6 * (values - 12) ** 2
    peaks = [
        peak(dict(zip(values, truth + rng.normal(0, 1e-4, 12))), 1e-4 if known else 0.0) for _ in range(500)
    ]
    best, errors = np.transpose(peaks)
    assert best.mean() == pytest.approx(12, abs=0.2)
    assert errors.mean() == pytest.approx(best.std(), rel=0.15)


@pytest.mark.parametrize("measured", [{0.0: 1.0, 1.0: 0.5, 2.0: 0.9}, {0.0: 3.0, 1.0: 2.0, 2.0: 0.9}])
def test_without_a_peak_inside_nothing_is_certain(measured):
    assert peak(measured, 0.1) == (0.0, np.inf)
