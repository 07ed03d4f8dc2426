"""What a viewer knows of a run, from its documents only."""

import bluesky.plans as bp
import numpy as np
import pytest
from fake_device import FakeLive4D, run_engine

pytest.importorskip("bokeh")

from live4d_ophyd import live_preview
from live4d_ophyd.live import wire
from live4d_ophyd.view.live_run import LiveRuns


@pytest.fixture(scope="module")
def documents():
    """Of a count of two with previews, as they come over the wire."""
    found = []
    with run_engine() as RE:
        device = FakeLive4D(name="live4d", shape=(8, 12), rows_per_s=40, detectors=("vbf", "adf"))
        RE.preprocessors.append(live_preview([device], max_rate=50))
        RE(bp.count([device], 2), lambda name, doc: found.append((name, wire.loads(wire.dumps(doc)))))
    return found


def follow(documents):
    runs = LiveRuns()
    for name, doc in documents:
        runs.take(name, doc)
        yield name, doc, runs.run


def is_preview(name, doc):
    return name == "event" and "live4d_live_fraction" in doc["data"]


def test_the_last_run_of_an_idle_session_takes_no_place_of_the_running_one(documents):
    """It is told anew to every reader that comes."""
    (start, *others) = documents
    earlier = {**start[1], "uid": "old", "time": start[1]["time"] - 3600, "scan_id": 99}
    told = [
        start,
        ("start", earlier),
        ("stop", {"run_start": "old", "exit_status": "success", "time": 0.0}),
        *others,
    ]
    runs = [run for _, _, run in follow(told)]
    assert runs[2].status == "running"
    assert {run.title.split()[1] for run in runs} == {"1"}
    assert runs[-1].events == (2, 2)


def test_a_run_is_followed_from_its_start_to_its_end(documents):
    seen = list(follow(documents))
    assert seen[0][2].status == "running"
    assert seen[-1][2].status == "success"
    assert seen[-1][2].events == (2, 2)
    assert seen[-1][2].title.split() == ["scan", "1", "count"]
    versions = [run.version for name, _, run in seen if name in ("start", "event", "stop")]
    assert versions == sorted(set(versions))


def test_images_grow_and_are_those_of_the_documents(documents):
    previews = [(doc, run) for name, doc, run in follow(documents) if is_preview(name, doc)]
    assert len(previews) >= 2
    for doc, run in previews:
        assert run.fraction == doc["data"]["live4d_live_fraction"]
        assert list(run.pictures) == ["live4d_vbf", "live4d_adf"]
        for key, picture in run.pictures.items():
            np.testing.assert_array_equal(picture.values, doc["data"][key])
            assert (picture.axes.step, picture.axes.unit, picture.units) == ((0.5, 0.25), "nm", "counts")
            assert picture.label == key.removeprefix("live4d_")


def test_time_that_is_left_comes_from_what_is_done(documents):
    start = documents[0][1]["time"]
    for name, doc, run in follow(documents):
        if name == "event" and run.left is not None:
            done = run.events[0] + (run.fraction or 0)
            assert run.left == pytest.approx((doc["time"] - start) * (2 - done) / done)
            assert run.elapsed == doc["time"] - start
    assert run.left is None


def test_what_is_told_again_changes_nothing(documents):
    runs = LiveRuns()
    for name, doc in documents[:5]:
        runs.take(name, doc)
    pictures = runs.run.pictures
    runs.take(*documents[0])
    assert runs.run.pictures is pictures


def test_a_run_whose_beginning_was_not_seen_is_ignored(documents):
    runs = LiveRuns()
    for name, doc in documents[1:]:
        runs.take(name, doc)
    assert runs.run.status == "waiting"
    assert not runs.run.pictures


def event(data, keys, name="primary"):
    data_keys = {
        key: {"dtype": "array", "shape": [], "source": "", "object_name": "d", **entry}
        for key, entry in keys.items()
    }
    yield "start", {"uid": "s", "time": 10.0}
    yield (
        "descriptor",
        {"uid": "e", "run_start": "s", "name": name, "data_keys": data_keys, "configuration": {}},
    )
    yield "event", {"descriptor": "e", "seq_num": 1, "time": 12.0, "data": data}


def after(documents):
    return [run for *_, run in follow(documents)][-1]


SCAN, PATTERN = {"dims": ["scan_y", "scan_x"]}, {"dims": ["q_y", "q_x"]}


def test_losses_and_saturation_alarm():
    data = {"d_vbf": np.ones((2, 2)), "d_frames_lost": 3, "d_frames_saturated": 0, "d_frames_bad": 1}
    assert after(event(data, {"d_vbf": SCAN})).alarms == ("3 frames lost", "1 frames bad")


def test_patterns_and_settings_are_told_from_images():
    data = {"d_vbf": np.ones((2, 2)), "d_pattern": np.ones((4, 5)), "d_vbf_radius": 7.0}
    run = after(
        event(data, {"d_vbf": SCAN, "d_pattern": PATTERN, "d_raw": {**PATTERN, "external": "STREAM:"}})
    )
    assert list(run.pictures) == ["d_vbf"]
    assert {key: pattern.values.shape for key, pattern in run.patterns.items()} == {"d_pattern": (4, 5)}
    assert run.settings["d_vbf_radius"] == 7.0
    assert run.devices == ("d",)


def test_a_preview_names_patterns_as_its_device_does():
    """Its object is `d_preview`, and its keys are the device's."""
    live = PATTERN | {"object_name": "d_preview"}
    keys = {"d_vbf": SCAN, "d_pattern": live, "d_live_fraction": {}}
    data = {"d_vbf": np.ones((2, 2)), "d_pattern": np.ones((4, 5)), "d_live_fraction": 0.5}
    assert after(event(data, keys, "d_live")).patterns["d_pattern"].label == "pattern"


def test_an_angle_has_its_brightness():
    data = {"d_angle": np.full((2, 2), 90.0), "d_size": np.ones((2, 2))}
    run = after(event(data, {"d_angle": SCAN | {"brightness": "d_size"}, "d_size": SCAN}))
    np.testing.assert_array_equal(run.pictures["d_angle"].brightness, data["d_size"])
    assert run.pictures["d_size"].brightness is None


@pytest.mark.parametrize("value", [np.ones(3), np.ones((2, 2, 2)), np.empty((0, 4)), None])
def test_what_is_no_image_is_not_shown(value):
    assert not after(event({"d_vbf": value}, {"d_vbf": SCAN})).pictures
