"""The microscope as plans see it."""

import math

import pytest
from bluesky import RunEngine
from bluesky import plan_stubs as bps
from bluesky import plans as bp
from bluesky.preprocessors import SupplementalData
from ophyd.sim import det
from ophyd.utils import LimitError

from live4d_ophyd.sim import SimMicroscope


@pytest.fixture
def microscope(simulator):
    microscope = SimMicroscope(simulator.rest_url)
    yield microscope
    if microscope.client.is_closed:
        return
    for name, value in (("defocus", 0), ("stage_x", 0), ("beam_current", 100), ("astigmatism", 0)):
        getattr(microscope, name).put(value)
    microscope.destroy()


@pytest.fixture
def run():
    engine = RunEngine({}, call_returns_result=False)
    documents = []
    engine.subscribe(lambda name, document: documents.append((name, document)))

    def run(plan, baseline=()):
        documents.clear()
        engine.preprocessors[:] = [SupplementalData(baseline=list(baseline))]
        engine(plan)
        return documents

    return run


def test_scan_over_defocus(microscope, run):
    documents = run(bp.scan([det], microscope.defocus, -200, 200, 5), baseline=[microscope])
    start = documents[0][1]
    assert start["hints"]["dimensions"] == [(["microscope_defocus"], "primary")]
    descriptors = {doc["name"]: doc for name, doc in documents if name == "descriptor"}
    key = descriptors["primary"]["data_keys"]["microscope_defocus"]
    assert (key["units"], key["lower_ctrl_limit"], key["upper_ctrl_limit"]) == ("nm", -250, 250)
    primary = descriptors["primary"]["uid"]
    events = [doc for name, doc in documents if name == "event" and doc["descriptor"] == primary]
    assert [event["data"]["microscope_defocus"] for event in events] == [-200, -100, 0, 100, 200]
    assert descriptors["baseline"]["hints"]["microscope"] == {"fields": []}
    assert "microscope_beam_current" in descriptors["baseline"]["data_keys"]


def test_moves_reach_the_microscope(microscope, run):
    run(bps.mv(microscope.defocus, 12.5, microscope.beam_current, 50))
    run(bps.mvr(microscope.stage_x, 3))
    other = SimMicroscope(microscope.prefix, name="other")
    assert (other.defocus.get(), other.beam_current.get(), other.stage_x.position) == (12.5, 50, 3)
    other.destroy()


def test_relative_scan_comes_back(microscope, run):
    microscope.stage_x.put(2.0)
    documents = run(bp.rel_scan([det], microscope.stage_x, -1, 1, 3))
    values = [doc["data"]["microscope_stage_x"] for name, doc in documents if name == "event"]
    assert values == [1, 2, 3]
    assert microscope.stage_x.get() == 2


def test_subscribers_hear_of_moves(microscope):
    heard = []
    microscope.defocus.subscribe(lambda value, **kwargs: heard.append(value), run=False)
    microscope.defocus.set(7).wait(5)
    assert heard[-1] == 7


def test_limits_are_those_of_the_microscope(microscope, run):
    assert microscope.defocus.limits == (-250, 250)
    with pytest.raises(LimitError, match=r"microscope_defocus = 300 nm: allowed from -250\.0 to 250\.0 nm"):
        microscope.defocus.set(300)
    assert microscope.defocus.get() == 0


def test_two_stigmators_are_the_astigmatism_as_a_vector(microscope, run):
    run(bps.mv(microscope.stigmator_a, 3.0, microscope.stigmator_b, 4.0))
    assert microscope.astigmatism.get() == pytest.approx(5)
    assert microscope.astigmatism_angle.get() == pytest.approx(math.degrees(math.atan2(4, 3)) / 2)
    run(bps.mv(microscope.stigmator_a, -3.0))
    assert microscope.stigmator_b.get() == pytest.approx(4)
    assert microscope.astigmatism_angle.get() == pytest.approx(math.degrees(math.atan2(4, -3)) / 2)
    with pytest.raises(LimitError, match="microscope_astigmatism"):
        microscope.stigmator_b.put(1e4)
    assert microscope.stigmator_a.get() == pytest.approx(-3)


def test_truth_and_raster(microscope, simulator):
    assert tuple(microscope.truth["bf_center"]) == simulator.bf_center
    with pytest.raises(ValueError, match="microscope scan: scan rows = -1"):
        microscope.set_scan(-1, 8)
    microscope.set_scan(8, 8, 0.25)


def test_progress_says_what_one_waits_for(microscope):
    assert microscope.progress == "simulator: idle"
    facts = microscope.client.get("/microscope/progress").json()
    assert facts == {"text": "simulator: idle", "computed": 0, "frames": 0, "sent": 0}


def test_no_answer_is_a_connection_error():
    nobody = SimMicroscope("http://127.0.0.1:9", name="nobody")
    with pytest.raises(
        ConnectionError, match=r"nobody_defocus: no answer from http://127.0.0.1:9/microscope/def"
    ):
        nobody.defocus.get()
    nobody.destroy()
