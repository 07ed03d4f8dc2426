"""Autofocus ends at the best contrast, or where it began with the reason."""

import numpy as np
import pytest
from bluesky.utils import FailedStatus, RunEngineInterrupted
from scanned_field import BEST_DEFOCUS

from plans import autofocus
from plans.focus import FocusNotFound, peak, shot_noise


@pytest.mark.parametrize("search", [(-100, 100), (-40, 60), (0, 20)])
def test_autofocus_moves_to_the_best_contrast(RE, live4d, defocus, search, capsys):
    best = RE(autofocus(live4d, defocus, *search)).plan_result
    assert best == pytest.approx(BEST_DEFOCUS, abs=2)
    assert defocus.position == best
    assert f"defocus = {best:.4g} nm, contrast of vbf 0.14" in capsys.readouterr().out


def test_the_run_holds_the_search_and_an_image_in_focus(RE, run, live4d, defocus):
    best = RE(autofocus(live4d, defocus, -100, 100, num=5, refine=3, md={"sample": "stripes"})).plan_result
    values = [event["data"]["defocus"] for event in run.events["primary"]]
    assert values == pytest.approx([-100, -50, 0, 50, 100, -25, 0, 25])
    (focused,) = run.events["focused"]
    assert focused["data"]["defocus"] == best
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
    assert peak({x: 3 - (x - 0.3) ** 2 for x in (-1.0, 0.0, 2.0)}) == pytest.approx(0.3)


@pytest.mark.parametrize("measured", [{0.0: 1.0, 1.0: 0.5, 2.0: 0.9}, {0.0: 3.0, 1.0: 2.0, 2.0: 0.9}])
def test_without_a_peak_inside_the_best_value_counts(measured):
    assert peak(measured) == 0.0
