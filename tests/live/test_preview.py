"""Unmodified plans emit previews while they wait, and lose nothing of what they do without."""

import itertools
import threading
import time
from collections import Counter

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky.run_engine import WaitForTimeoutError
from bluesky.utils import FailedStatus, Msg, RunEngineInterrupted
from fake_device import FakeLive4D
from ophyd import Device
from ophyd.sim import det, motor, motor1, motor2
from ophyd.status import DeviceStatus

from live4d_ophyd.live import live_preview

ROWS = 16


def expose_at_waits(RE, *devices, rows=1):
    """``rows`` of each raster are exposed when the RunEngine is about to wait, or all if it will wait to the end.

    Nothing happens then between the end of a wait and what is read after it, however busy the machine is.
    """
    heard = {}  # status: its end, when the RunEngine has been told

    def expose(msg):
        if msg.command != "wait":
            return
        for device in devices:
            status = device.status
            if status is None or status.done:
                continue
            if status not in heard:
                heard[status] = threading.Event()
                status.add_callback(lambda status: heard[status].set())
            device.advance(rows if msg.kwargs.get("timeout") else device.shape[0])
            if status.done:
                assert heard[status].wait(10)

    RE.msg_hook = expose


@pytest.fixture
def live4d(RE):
    device = FakeLive4D(name="live4d", shape=(ROWS, 24))
    RE.preprocessors.append(live_preview([device], max_rate=100))
    expose_at_waits(RE, device)
    return device


def stream_counts(documents):
    """Number of Events by stream."""
    names = {doc["uid"]: doc["name"] for name, doc in documents if name == "descriptor"}
    return Counter(names[doc["descriptor"]] for name, doc in documents if name == "event")


def events(documents, stream):
    uids = {doc["uid"] for name, doc in documents if name == "descriptor" and doc["name"] == stream}
    return [doc for name, doc in documents if name == "event" and doc["descriptor"] in uids]


def previews_while_exposing(device):
    return device.preview.reads and all(device.preview.reads)


@pytest.mark.parametrize(
    ("plan", "points"),
    [
        (lambda d: bp.count([d], num=2), 2),
        (lambda d: bp.count([d, det], num=1), 1),
        (lambda d: bp.scan([d, det], motor, -1, 1, 3), 3),
        (lambda d: bp.rel_scan([d], motor, -1, 1, 2), 2),
        (lambda d: bp.grid_scan([d], motor1, -1, 1, 2, motor2, -1, 1, 2), 4),
        (lambda d: bpp.stage_wrapper(bpp.run_wrapper(bps.trigger_and_read([d, det])), [d]), 1),
    ],
    ids=["count", "count with another detector", "scan", "rel_scan", "grid_scan", "trigger_and_read"],
)
def test_standard_plans_emit_previews(RE, documents, live4d, plan, points):
    RE(plan(live4d))
    counts = stream_counts(documents)
    assert counts["primary"] == points
    assert counts["live4d_live"] >= points
    assert previews_while_exposing(live4d)


def test_an_adaptive_plan_emits_previews(RE, documents, live4d):
    RE(bp.adaptive_scan([live4d], "live4d_vbf_mean", motor, 0, 1, 0.4, 1, 10, backstep=False))
    counts = stream_counts(documents)
    assert counts["live4d_live"] >= counts["primary"] >= 2


def test_an_event_opened_before_its_triggers_is_open_again_for_a_plan_that_catches_the_failure(RE, documents):
    device = FakeLive4D(name="live4d")
    RE.preprocessors.append(live_preview([device], max_rate=100))

    def plan():
        yield from bps.open_run()
        yield from bps.create("primary")
        yield from bps.trigger(device, group="g", wait=False)
        device.fail("no frames")
        with pytest.raises(FailedStatus):
            yield from bps.wait("g")
        yield from bps.drop()
        yield from bps.close_run()

    RE(plan())
    assert stream_counts(documents) == {}


def test_pause_and_resume_with_an_event_opened_before_its_triggers(RE, documents, live4d):
    pause_once(RE, live4d, 1)
    with pytest.raises(RunEngineInterrupted):
        RE(bp.adaptive_scan([live4d], "live4d_vbf_mean", motor, 0, 1, 0.4, 1, 10, backstep=False))
    assert previews_while_exposing(live4d)
    RE.resume()
    primary = events(documents, "primary")
    assert [doc["seq_num"] for doc in primary] == list(range(1, len(primary) + 1))


def test_previews_grow_and_hold_nan_where_nothing_was_seen(RE, documents, live4d):
    RE(bp.count([live4d]))
    previews = events(documents, "live4d_live")
    fractions = [doc["data"]["live4d_live_fraction"] for doc in previews]
    assert fractions == sorted(fractions)
    for doc, fraction in zip(previews, fractions):
        assert np.isfinite(doc["data"]["live4d_vbf"]).mean() == pytest.approx(fraction)
    (final,) = events(documents, "primary")
    assert np.isfinite(final["data"]["live4d_vbf"]).all()


def test_while_no_frames_come_nothing_is_emitted_again(RE, documents):
    device = FakeLive4D(name="live4d", shape=(4, 6))
    RE.preprocessors.append(live_preview([device], max_rate=200))
    waits = Counter()

    def advance_every_tenth_wait(msg):
        if msg.command == "wait":
            waits["all"] += 1
            if waits["all"] % 10 == 0:
                device.advance(1)

    RE.msg_hook = advance_every_tenth_wait
    RE(bp.count([device]))
    fractions = [doc["data"]["live4d_live_fraction"] for doc in events(documents, "live4d_live")]
    assert fractions == [0.25, 0.5, 0.75]


def test_a_raster_shorter_than_the_period_has_no_preview(RE, documents):
    device = FakeLive4D(name="live4d", shape=(2, 3), rows_per_s=1000)
    RE.preprocessors.append(live_preview([device], max_rate=1))
    RE(bp.count([device]))
    assert stream_counts(documents) == {"primary": 1}


def test_the_plan_gets_what_wait_and_trigger_return(RE, live4d):
    responses = []

    def plan():
        yield from bps.open_run()
        responses.append((yield from bps.trigger(live4d, group="g", wait=False)))
        responses.append((yield from bps.wait("g")))
        yield from bps.close_run()

    RE(plan())
    assert responses[0] is live4d.status
    assert responses[1] is True


def test_the_plan_s_return_value_is_kept(RE, live4d):
    RE._call_returns_result = True

    def plan():
        yield from bp.count([live4d])
        return "kept"

    assert RE(plan()).plan_result == "kept"


def test_several_devices_have_a_stream_each_and_the_first_to_end_is_not_read_any_more(RE, documents):
    fast = FakeLive4D(name="fast", shape=(ROWS // 2, 8))
    slow = FakeLive4D(name="slow", shape=(ROWS, 8))
    RE.preprocessors.append(live_preview([fast, slow], max_rate=100))
    expose_at_waits(RE, fast, slow)
    RE(bp.count([fast, slow], num=2))
    counts = stream_counts(documents)
    assert counts["primary"] == 2
    assert counts["slow_live"] > counts["fast_live"] > 0
    assert previews_while_exposing(fast)
    assert previews_while_exposing(slow)


def test_a_slower_detector_in_the_group_does_not_prolong_the_previews(RE, live4d):
    class Slow(Device):
        def trigger(self):
            status = DeviceStatus(self)
            threading.Thread(
                target=lambda: (live4d.status.wait(10), threading.Timer(0.1, status.set_finished).start())
            ).start()
            return status

    RE(bp.count([live4d, Slow("", name="slow")]))
    assert previews_while_exposing(live4d)


def test_a_device_that_is_not_registered_is_left_alone(RE, documents, live4d):
    other = FakeLive4D(name="other", shape=(ROWS, 8), rows_per_s=400)
    RE(bp.count([other]))
    assert stream_counts(documents) == {"primary": 1}


def test_waits_with_a_timeout_are_left_alone(RE, documents):
    device = FakeLive4D(name="live4d")
    RE.preprocessors.append(live_preview([device], max_rate=1000))

    def plan():
        yield from bps.open_run()
        yield from bps.trigger(device, group="g", wait=False)
        done = yield from bps.wait("g", timeout=0.05, error_on_timeout=False)
        assert done is False
        with pytest.raises(WaitForTimeoutError):
            yield from bps.wait("g", timeout=0.05)
        device.advance(ROWS)
        yield from bps.wait("g", timeout=10)
        yield from bps.close_run()

    RE(plan())
    assert stream_counts(documents) == {}
    assert not device.preview.reads


def test_waits_for_other_groups_outside_runs_and_amid_readings_are_left_alone(RE, documents, live4d):
    def plan():
        yield from bps.trigger(live4d, wait=True)
        yield from bps.open_run()
        yield from bps.mv(motor, 1)
        yield from bps.trigger(live4d, group="g", wait=False)
        yield from bps.create("primary")
        yield from bps.read(det)
        yield from bps.wait("g")
        yield from bps.read(live4d)
        yield from bps.save()
        yield from bps.close_run()

    RE(plan())
    assert stream_counts(documents) == {"primary": 1}


def test_a_wait_behind_the_end_of_its_run_shows_nothing(RE, documents, live4d):
    def plan():
        for _ in range(2):
            yield from bps.open_run()
            yield from bps.trigger(live4d, group="g", wait=False)
            yield from bps.close_run()
            yield from bps.wait("g")

    RE(plan())
    assert [name for name, _ in documents] == ["start", "stop"] * 2
    assert not live4d.preview.reads
    RE(bp.count([live4d]))
    assert stream_counts(documents)["live4d_live"] > 0


def test_an_event_that_was_open_at_the_end_of_a_run_is_not_one_of_the_next(RE, documents, live4d):
    def plan():
        yield from bps.open_run()
        yield from bps.create("primary")
        yield from bps.read(det)
        yield from bps.close_run()
        yield from bps.open_run()
        yield from bps.trigger(live4d, group="g", wait=False)
        yield from bps.wait("g")
        yield from bps.close_run()

    RE(plan())
    assert stream_counts(documents)["live4d_live"] > 0


def test_previews_go_to_the_run_whose_wait_it_is(RE, documents, live4d):
    def inner():
        yield from bp.count([live4d])

    def outer():
        yield from bps.open_run(md={"which": "outer"})
        yield from bpp.set_run_key_wrapper(inner(), "inner")
        yield from bps.close_run()

    RE(outer())
    run_of = {doc["uid"]: doc["run_start"] for name, doc in documents if name == "descriptor"}
    starts = {doc["uid"]: doc.get("which", "inner") for name, doc in documents if name == "start"}
    assert {starts[run_of[doc["descriptor"]]] for doc in events(documents, "live4d_live")} == {"inner"}


def test_a_failed_exposure_raises_failed_status_into_the_plan(RE, documents):
    device = FakeLive4D(name="live4d", rows_per_s=50)
    RE.preprocessors.append(live_preview([device], max_rate=100))
    caught = []

    def fail_after_first_preview(name, doc):
        device.fail("stream ended early")

    RE.subscribe(fail_after_first_preview, "event")

    def plan():
        try:
            yield from bp.count([device])
        except FailedStatus as error:
            caught.append(error)
            raise

    with pytest.raises(FailedStatus):
        RE(plan())
    assert "stream ended early" in str(caught[0].__cause__)
    assert stream_counts(documents) == {"live4d_live": 1}
    (stop,) = (doc for name, doc in documents if name == "stop")
    assert stop["exit_status"] == "fail"


def test_a_failure_with_another_detector_still_busy_raises_too_and_the_next_plan_works(RE, documents, live4d):
    class Busy(Device):
        def trigger(self):
            self.status = DeviceStatus(self)
            return self.status

    busy = Busy("", name="busy")
    RE.msg_hook = None
    timer = threading.Timer(0.1, lambda: live4d.fail("lost"))
    timer.start()
    with pytest.raises(FailedStatus):
        RE(bp.count([live4d, busy]))
    busy.status.set_finished()
    expose_at_waits(RE, live4d)
    documents.clear()
    RE(bp.count([live4d]))
    assert stream_counts(documents)["primary"] == 1


def test_a_plan_may_catch_the_failure_and_go_on(RE, documents, live4d):
    def plan():
        yield from bps.open_run()
        yield from bps.trigger(live4d, group="a", wait=False)
        live4d.fail("first try")
        with pytest.raises(FailedStatus):
            yield from bps.wait("a")
        yield from bps.trigger_and_read([live4d])
        yield from bps.close_run()

    RE(plan())
    assert stream_counts(documents)["primary"] == 1


def pause_once(RE, device, after_previews):
    """Ask for a pause, from the RunEngine's own thread, once so many previews were read."""
    state = {"asked": False}
    expose = RE.msg_hook

    def watch(msg):
        expose(msg)
        if msg.command == "wait" and len(device.preview.reads) >= after_previews and not state["asked"]:
            state["asked"] = True
            RE.loop.call_later(0.002, lambda: RE.loop.create_task(RE._request_pause_coro()))

    RE.msg_hook = watch


@pytest.mark.parametrize("after_previews", [0, 1, 3])
def test_pause_and_resume_take_the_raster_again_with_previews(RE, documents, live4d, after_previews):
    pause_once(RE, live4d, after_previews)
    with pytest.raises(RunEngineInterrupted):
        RE(bp.count([live4d], num=2))
    assert len(live4d.preview.reads) >= after_previews
    assert all(live4d.preview.reads)
    before = len(live4d.preview.reads)
    RE.resume()
    assert live4d.triggers == 3
    assert len(live4d.preview.reads) > before + 2
    primary = events(documents, "primary")
    assert [doc["seq_num"] for doc in primary] == [1, 2]
    assert all(np.isfinite(doc["data"]["live4d_vbf"]).all() for doc in primary)


def test_a_raster_that_is_faster_the_second_time_is_not_previewed_after_its_end(RE, documents):
    """The RunEngine repeats messages on a resume; previews are not among them."""
    device = FakeLive4D(name="live4d", shape=(ROWS, 24))
    RE.preprocessors.append(live_preview([device], max_rate=4))  # a stall must not end a wait early
    expose_at_waits(RE, device)
    pause_once(RE, device, 2)
    with pytest.raises(RunEngineInterrupted):
        RE(bp.count([device]))
    before = len(device.preview.reads)
    expose_at_waits(RE, device, rows=ROWS)
    RE.resume()
    assert len(device.preview.reads) == before
    assert stream_counts(documents)["primary"] == 1


def test_a_pause_while_a_preview_is_emitted_is_survived(RE, documents, live4d):
    asked = []

    def pause_in_callback(name, doc):
        if not asked:
            asked.append(doc)
            RE.loop.create_task(RE._request_pause_coro())

    RE.subscribe(pause_in_callback, "event")
    with pytest.raises(RunEngineInterrupted):
        RE(bp.count([live4d]))
    assert previews_while_exposing(live4d)
    before = len(live4d.preview.reads)
    RE.resume()
    assert stream_counts(documents)["primary"] == 1
    assert len(live4d.preview.reads) > before


@pytest.mark.parametrize("end", ["abort", "stop", "halt"])
def test_a_plan_ended_during_a_preview_closes_its_run(RE, documents, live4d, end):
    pause_once(RE, live4d, 1)
    with pytest.raises(RunEngineInterrupted):
        RE(bp.count([live4d]))
    getattr(RE, end)()
    assert RE.state == "idle"
    assert [name for name, _ in documents].count("stop") == 1
    documents.clear()
    RE(bp.count([live4d]))
    assert stream_counts(documents)["primary"] == 1


def test_slow_callbacks_get_fewer_previews_not_a_longer_plan(RE):
    """With callbacks that take three periods, at most half of the time goes into previews."""
    device = FakeLive4D(name="live4d", shape=(8, 6))
    RE.preprocessors.append(live_preview([device], max_rate=100))
    shown = []  # when each preview's callback began and ended

    def advance_with_every_wait(msg):
        if msg.command == "wait":
            device.advance(1)

    def slow(name, doc):
        if "live4d_live_fraction" in doc["data"]:
            begin = time.monotonic()
            time.sleep(0.03)
            shown.append((begin, time.monotonic()))

    RE.msg_hook = advance_with_every_wait
    RE.subscribe(slow, "event")
    RE(bp.count([device]))
    assert len(shown) == 7  # of 8 rows the last one ends the raster
    for (begin, end), (following, _) in itertools.pairwise(shown):
        assert following - end > 0.9 * (end - begin)


def test_messages_of_a_plan_without_the_devices_pass_unchanged():
    plan = [Msg("open_run"), Msg("trigger", det, group="a"), Msg("wait", group="a"), Msg("close_run")]
    preprocessor = live_preview([FakeLive4D(name="live4d")])
    assert list(preprocessor(iter(plan))) == plan


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match="max_rate"):
        live_preview([], max_rate=rate)


def test_a_device_without_preview_is_refused():
    with pytest.raises(ValueError, match="has no preview"):
        live_preview([det])
