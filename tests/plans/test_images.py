"""One raster, and movies: every raster that was taken is in the documents, whatever ends the movie."""

import numpy as np
import pytest
from bluesky.utils import FailedStatus, RunEngineInterrupted

from live4d_ophyd.plans import movie, single_image


def test_single_image_is_a_run_of_one_event(RE, run, live4d):
    RE(single_image([live4d], md={"sample": "stripes"}))
    assert [run.start["plan_name"], run.start["sample"]] == ["single_image", "stripes"]
    assert len(run.events["primary"]) == 1
    assert run.events["primary"][0]["data"]["live4d_vbf"].shape == (24, 32)


def test_a_movie_is_one_series_with_an_event_for_each_raster(RE, run, live4d, engine):
    uid = RE(movie(live4d, 5, md={"sample": "stripes"})).plan_result
    assert [request.rasters for request in engine.asked] == [5]
    assert [event["seq_num"] for event in run.events["live4d_movie"]] == [1, 2, 3, 4, 5]
    assert run.start["uid"] == uid
    assert [run.start["sample"], run.start["num_points"]] == ["stripes", 5]
    assert run.descriptors["live4d_movie"]["configuration"]["live4d"]["data"]["live4d_movie_rasters"] == 5


def test_a_movie_has_no_patterns_and_the_images_after_it_have(RE, run, live4d, engine):
    """Its stream is described before the first raster, when the size of a pattern is not known yet."""
    live4d.pattern_enabled.put(1)
    RE(single_image([live4d]))
    before = run.events["primary"][0]["data"]["live4d_pattern"]
    RE(movie(live4d, 2))
    assert "live4d_pattern" not in run.descriptors["live4d_movie"]["data_keys"]
    events = run.events["live4d_movie"]
    assert ["live4d_pattern" in event["data"] for event in events] == [False, False]
    assert run.stop["exit_status"] == "success"
    RE(single_image([live4d]))
    np.testing.assert_array_equal(run.events["primary"][0]["data"]["live4d_pattern"], before)
    assert ["pattern" in request.outputs() for request in engine.asked] == [True, False, True]


def test_a_movie_leaves_the_device_as_it_was(RE, live4d):
    live4d.movie_rasters.put(7)
    RE(movie(live4d, 2))
    assert live4d.movie_rasters.get() == 7
    assert live4d._staged.value == "no"


def test_rasters_are_in_the_documents_before_the_movie_ends(RE, run, live4d, engine):
    engine.close_gate()
    engine.open_gate(2)

    def let_the_rest_come(name, doc):
        assert len(run.events["live4d_movie"]) == 2
        engine.open_gate(10)
        RE.unsubscribe(token)

    token = RE.subscribe(let_the_rest_come, "event_page")
    RE(movie(live4d, 3))
    assert len(run.events["live4d_movie"]) == 3


def pause_after_first_collect(RE, *, defer):
    """Ask for a pause, from the RunEngine's own thread, at the second wait for the flight."""
    waits = []

    def watch(msg):
        if msg.command == "wait" and str(msg.kwargs.get("group", msg.args)).count("movie"):
            waits.append(msg)
            if len(waits) == 2:
                RE.loop.call_soon(RE.loop.create_task, RE._request_pause_coro(defer))

    RE.msg_hook = watch


@pytest.mark.parametrize("defer", [False, True], ids=["at once", "at a checkpoint"])
@pytest.mark.parametrize("end", ["resume", "abort", "stop"])
def test_a_paused_movie_ends_with_the_rasters_taken(RE, run, live4d, engine, defer, end, capsys):
    engine.close_gate()
    engine.open_gate(3)
    pause_after_first_collect(RE, defer=defer)
    with pytest.raises(RunEngineInterrupted):
        RE(movie(live4d, 10))
    getattr(RE, end)()
    RE.msg_hook = None
    assert [event["seq_num"] for event in run.events["live4d_movie"]] == [1, 2, 3]
    assert run.stop["exit_status"] == ("abort" if end == "abort" else "success")
    assert len(engine.asked) == 1
    assert live4d.movie_rasters.get() == 10
    said = "the movie of live4d ended at 3 of 10 rasters" in capsys.readouterr().out
    assert said == (end == "resume")  # what was ended by hand needs no word
    engine.open_gate(100)
    RE(movie(live4d, 2))
    assert [event["seq_num"] for event in run.events["live4d_movie"]] == [1, 2]


def test_a_movie_that_fails_keeps_its_rasters_and_says_why(RE, run, live4d, engine):
    engine.close_gate()
    engine.open_gate(2)

    def fail(name, doc):
        engine.fails_at = 1
        engine.open_gate(1)

    RE.subscribe(fail, "event_page")
    with pytest.raises(FailedStatus) as failure:
        RE(movie(live4d, 10))
    assert "no frame for 10 s" in str(failure.value.__cause__)
    assert len(run.events["live4d_movie"]) == 2
    assert run.stop["exit_status"] == "fail"


def test_a_movie_without_rasters_is_refused(RE, live4d):
    with pytest.raises(ValueError, match="a movie of 0 rasters"):
        RE(movie(live4d, 0))


def test_a_device_that_makes_no_movies_is_refused_by_name(RE, defocus):
    with pytest.raises(ValueError, match="defocus has no 'movie_rasters'"):
        RE(movie(defocus, 3))
