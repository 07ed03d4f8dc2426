"""The stream itself is wrong: it stalls, or messages are lost, late, doubled, damaged or of another series."""

from __future__ import annotations

import pytest
from bluesky import FailedStatus, RunEngineInterrupted
from system.survival.conftest import GRID

pytestmark = pytest.mark.system

#: longest silence of the stream; a busy machine may be silent too
SILENCE_S = 3.0
#: of the simulator, and another one
BEAM_PA, OTHER_PA = 100.0, 50.0


def picks(ids):
    """As a fault takes them."""
    return ",".join(map(str, ids))


def test_stream_stalls_shorter_than_timeout_everything_arrives(rig, truth):
    rig.live4d.timeout.put(2 * SILENCE_S)
    rig.fault(stall_at=150, stall_s=1.5)
    (taken,) = rig.count()
    assert taken.received == GRID.frames
    taken.check(truth)


def test_stream_stalls_longer_than_timeout_gives_what_came_and_the_next_trigger_works(rig, truth):
    rig.live4d.timeout.put(SILENCE_S)
    rig.fault(stall_at=150, stall_s=30.0)
    stalled, clean = rig.count(2, before_next=rig.fault)
    assert (stalled.received, stalled.lost, stalled.bad) == (150, GRID.frames - 150, 0)
    stalled.check(truth)
    assert clean.received == GRID.frames
    clean.check(truth)


def test_frames_out_of_order_duplicated_missing_foreign_truncated_and_corrupt_in_one_run(rig, truth):
    # Stray frames come with ids 10, 21, 32, ...: of good frames, and of some of each that are not.
    lost = {10, 17, 208, 399}
    truncated = {32, 100, 301}
    corrupt = {0, 43, 77, 350}
    rig.fault(
        drop=picks(lost),
        truncate=picks(truncated),
        corrupt=picks(corrupt),
        late="every:7",
        duplicate=picks(set(range(0, GRID.frames, 5)) - truncated),
        foreign="every:11",
    )
    faulty, again = rig.count(2)
    for taken in (faulty, again):
        assert (taken.lost, taken.bad) == (len(lost), len(truncated) + len(corrupt))
        assert set(taken.missing) == lost | truncated | corrupt
        taken.check(truth)
    rig.fault()
    (clean,) = rig.count()
    assert clean.received == GRID.frames
    clean.check(truth)


@pytest.mark.parametrize("lost", ["no_start", "no_end"])
@pytest.mark.parametrize("drop", ["", "3,399"], ids=["all frames there", "frames lost too"])
def test_start_or_end_lost_changes_no_image(rig, truth, lost, drop):
    rig.live4d.timeout.put(SILENCE_S)
    rig.fault(drop=drop, **{lost: True})
    faulty, clean = rig.count(2, before_next=rig.fault)
    assert faulty.missing == [int(i) for i in drop.split(",") if i]
    faulty.check(truth)
    assert clean.received == GRID.frames
    clean.check(truth)


@pytest.mark.parametrize("wrong", ["wrong_shape", "wrong_dtype"])
def test_wrong_shape_or_dtype_in_mid_series_only_those_are_bad(rig, truth, wrong):
    ids = [0, 30, 31, 250]
    rig.fault(**{wrong: picks(ids)})
    (taken,) = rig.count()
    assert (taken.received, taken.lost, taken.bad) == (GRID.frames - 4, 0, 4)
    assert taken.missing == ids
    taken.check(truth)


@pytest.mark.parametrize("then", ["resume", "abort"])
def test_frames_after_abort_stay_out_of_the_next_image(rig, truth, then):
    """After a pause the stream stays connected: what the old series still sends meets the new one."""
    rig.fault(after_abort=50)
    rig.beam_current(OTHER_PA)
    taken = []
    with (
        rig.in_mid_series(100, rig.RE.request_pause),
        pytest.raises(RunEngineInterrupted),
    ):
        rig.count(into=taken)
    rig.beam_current(BEAM_PA)
    if then == "resume":
        rig.RE.resume()
    else:
        rig.RE.abort()
        assert taken == []
        rig.count(into=taken)
    (clean,) = taken
    assert clean.received == GRID.frames
    clean.check(truth)


def test_only_corrupt_frames_the_trigger_says_so_and_the_next_one_works(rig, truth):
    rig.fault(corrupt="every:1")
    with pytest.raises(FailedStatus):
        rig.count()
    assert f"could be used; {GRID.frames} were refused" in rig.reason
    rig.fault()
    (clean,) = rig.count()
    assert clean.received == GRID.frames
    clean.check(truth)
