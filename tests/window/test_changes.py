"""A change from the window gets in by the RunEngine's rules: at once, before the next raster, or not, with a word."""

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import pytest
from bluesky.run_engine import RunEngineInterrupted
from fake_device import run_engine
from ophyd.sim import motor
from still_live4d import still_live4d

from live4d_ophyd import Annulus, Disk
from live4d_ophyd.window.changes import REFUSED, SET, WAITS, Changes
from live4d_ophyd.window.progress import RasterClock


@pytest.fixture
def RE():
    with run_engine() as engine:
        yield engine


@pytest.fixture
def live4d():
    return still_live4d(
        Disk("vbf", (40.0, 40.0), radius=12), Annulus("adf", (40.0, 40.0), inner=20, outer=30)
    )


@pytest.fixture
def changes(RE, live4d):
    made = Changes(live4d, RE, RasterClock())
    RE.preprocessors.append(made.between_rasters)
    return made


def radii(live4d):
    return [taken["live4d_vbf_radius"] for taken in live4d.taken]


def test_without_a_plan_it_is_set_at_once(live4d, changes):
    assert changes.request({"vbf_radius": 14, "vbf_center": (41.0, 42.0)}) == (
        SET,
        "vbf_radius 14 px, vbf_center (41, 42) px",
    )
    assert live4d.vbf_radius.get() == 14
    assert live4d.vbf_center.get() == (41, 42)


def test_while_a_raster_runs_it_is_set_for_the_next_one(RE, live4d, changes):
    answers = []

    def drag():
        if len(live4d.taken) == 2:
            answers.append(changes.request({"vbf_radius": 14.0}))
            answers.append((changes.waiting, live4d.vbf_radius.get()))

    live4d.at_trigger = drag
    events = []
    RE(bp.count([live4d], 4), {"event": lambda name, doc: events.append(doc["data"]["live4d_vbf_radius"])})
    assert answers == [(WAITS, "vbf_radius 14 px: from the next raster"), ({"vbf_radius": 14.0}, 12)]
    assert radii(live4d) == [12, 12, 14, 14]
    assert events == [12, 12, 14, 14]  # each with what it was taken with
    assert list(changes.words) == ["vbf_radius 14 px: set"]


def test_a_change_during_the_last_raster_is_set_when_the_plan_is_over(RE, live4d, changes):
    live4d.at_trigger = lambda: changes.request({"vbf_radius": 14.0})
    RE(bp.count([live4d]))
    assert live4d.vbf_radius.get() == 12
    changes.flush()
    assert live4d.vbf_radius.get() == 14
    assert changes.waiting == {}


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (lambda live4d: bp.scan([live4d], motor, 0, 1, 2), "scan compares its images"),
        *(
            (
                lambda live4d, kind=kind: bp.count([live4d], 2, md={"purpose": f"{kind} calibration"}),
                "count sets detectors itself",
            )
            for kind in ("bright-field", "flat-field", "rotation", "lattice")
        ),
    ],
)
def test_plans_that_need_the_same_detectors_refuse_it(RE, live4d, changes, plan, words):
    answers = []
    live4d.at_trigger = lambda: answers.append(changes.request({"vbf_radius": 14.0}))
    RE(plan(live4d))
    assert [outcome for outcome, _ in answers] == [REFUSED, REFUSED]
    assert words in answers[0][1]
    assert "vbf_radius" in answers[0][1]
    assert radii(live4d) == [12, 12]
    changes.flush()
    assert live4d.vbf_radius.get() == 12


def test_a_plan_that_began_before_the_window_refuses_it(RE, live4d):
    changes, answers = Changes(live4d, RE, RasterClock()), []
    live4d.at_trigger = lambda: answers.append(changes.request({"vbf_radius": 14.0}))
    RE(bp.count([live4d]))
    assert answers[0][0] == REFUSED
    assert "began before the window" in answers[0][1]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"vbf_radius": -1.0}, "vbf_radius"),
        ({"adf_inner": 31.0}, "expected 0 <= inner < outer"),
        ({"vbf_center": (-5.0, 3.0)}, "vbf_center"),
    ],
)
def test_what_the_device_does_not_take_is_refused_with_its_words(live4d, changes, values, words):
    outcome, said = changes.request(values)
    assert outcome == REFUSED
    assert words in said
    assert (live4d.vbf_radius.get(), live4d.adf_inner.get()) == (12, 20)


def test_a_change_that_does_not_fit_any_more_is_dropped_and_the_plan_goes_on(RE, live4d, changes):
    def plan():
        yield from bps.open_run({"plan_name": "mine"})
        for outer in (30, 24):
            yield from bps.mv(live4d.adf_outer, outer)
            yield from bps.trigger_and_read([live4d])
        yield from bps.close_run()

    live4d.at_trigger = lambda: len(live4d.taken) == 1 and changes.request({"adf_inner": 25.0})
    RE(plan())
    assert [taken["live4d_adf_inner"] for taken in live4d.taken] == [20, 20]
    assert "expected 0 <= inner < outer" in changes.words[0]


def test_a_method_is_switched_on_from_the_next_run_as_the_keys_of_a_run_are_fixed(RE, live4d, changes):
    answers = []
    live4d.at_trigger = lambda: (
        len(live4d.taken) == 1 and answers.append(changes.request({"adf_enabled": False, "vbf_radius": 14.0}))
    )
    keys = []
    RE.subscribe(lambda name, doc: keys.append("live4d_adf" in doc["data"]), "event")

    def plan():
        yield from bp.count([live4d], 2)
        yield from bp.count([live4d])

    RE(plan())
    assert answers == [(WAITS, "adf_enabled off, vbf_radius 14 px: from the next run")]
    assert radii(live4d) == [12, 14, 14]
    assert keys == [True, True, False]


def test_a_rewind_does_not_bring_back_what_was_changed_since(RE, live4d, changes):
    def plan():
        yield from bps.open_run({"plan_name": "mine"})
        yield from bps.trigger_and_read([live4d])
        yield from bps.checkpoint()
        yield from bps.trigger_and_read([live4d])
        yield from bps.pause()
        yield from bps.close_run()

    live4d.at_trigger = lambda: len(live4d.taken) == 1 and changes.request({"vbf_radius": 14.0})
    with pytest.raises(RunEngineInterrupted):
        RE(plan())
    assert live4d.vbf_radius.get() == 14
    assert changes.request({"vbf_radius": 16.0})[0] == WAITS  # paused is not idle
    live4d.vbf_radius.put(15)
    RE.resume()
    assert radii(live4d) == [12, 14, 15]  # the second again; the set of 14 was not repeated
    changes.flush()
    assert live4d.vbf_radius.get() == 16
