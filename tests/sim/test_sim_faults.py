"""Which messages a schedule holds, and in which order."""

from dataclasses import replace

import numpy as np
import pytest

from live4d_ophyd.sim import faults as module
from live4d_ophyd.sim.faults import CORRUPT, FOREIGN, TRUNCATE, WRONG_DTYPE, WRONG_SHAPE, Faults, Pick


def test_without_faults_every_image_goes_out_once_when_it_was_taken():
    schedule = Faults().schedule(100, 5)
    assert schedule.image_id.tolist() == [100, 101, 102, 103, 104]
    assert schedule.slot.tolist() == [0, 1, 2, 3, 4]
    assert not schedule.flags.any()


def test_every_nth_and_lists_pick_images():
    ids = np.arange(7)
    assert ids[Pick.parse("every:3").mask(ids)].tolist() == [2, 5]
    assert ids[Pick.parse("6,0").mask(ids)].tolist() == [0, 6]
    assert not Pick.parse("").mask(ids).any()
    assert str(Pick.parse("every:3")) == "every:3"
    assert str(Pick.parse("6,0")) == "6,0"


@pytest.mark.parametrize("text", ["every:0", "every", "1,,2", "-1", "1;2"])
def test_other_picks_are_refused(text):
    with pytest.raises(ValueError, match=r"expected every:N or a list"):
        Pick.parse(text)


def test_dropped_late_and_doubled_images():
    schedule = Faults.parse(drop="1", late="2", late_by=3, duplicate="4").schedule(0, 8)
    assert schedule.image_id.tolist() == [0, 3, 4, 4, 5, 2, 6, 7]
    assert (np.diff(schedule.slot) >= 0).all()
    assert schedule.slot[-1] == 7


def test_late_images_of_the_last_exposures_still_go_out():
    assert Faults.parse(late="6,7", late_by=100).schedule(0, 8).image_id.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_damaged_and_stray_messages_are_flagged():
    schedule = Faults.parse(corrupt="0", truncate="1", foreign="2").schedule(0, 3)
    assert list(zip(schedule.image_id.tolist(), schedule.flags.tolist())) == [
        (0, CORRUPT),
        (1, TRUNCATE),
        (2, FOREIGN),
        (2, 0),
    ]


def test_long_series_come_in_pieces(monkeypatch):
    monkeypatch.setattr(module, "PIECE", 4)
    pieces = list(Faults.parse(drop="every:5").schedules(10, 10))
    assert [len(piece.image_id) for piece in pieces] == [4, 3, 1]
    assert np.concatenate([p.image_id for p in pieces]).tolist() == [10, 11, 12, 13, 15, 16, 17, 18]
    assert np.concatenate([p.slot for p in pieces]).tolist() == [0, 1, 2, 3, 5, 6, 7, 8]


def test_images_that_do_not_fit_are_flagged():
    schedule = Faults.parse(wrong_shape="1,2", wrong_dtype="2,3").schedule(0, 4)
    assert schedule.flags.tolist() == [0, WRONG_SHAPE, WRONG_SHAPE | WRONG_DTYPE, WRONG_DTYPE]


@pytest.mark.parametrize("stall_at", [10, 12, 14, 19])
def test_a_stall_is_a_pause_before_its_image_and_nothing_else(monkeypatch, stall_at):
    monkeypatch.setattr(module, "PIECE", 4)
    faults = Faults.parse(late="11", late_by=2, duplicate="13")
    plain = list(faults.schedules(10, 10))
    pieces = list(replace(faults, stall_at=stall_at, stall_s=2.5).schedules(10, 10))
    for name in ("image_id", "flags", "slot"):
        sent, expected = (np.concatenate([getattr(p, name) for p in some]) for some in (pieces, plain))
        assert sent.tolist() == expected.tolist()
    [k] = [k for k, piece in enumerate(pieces) if piece.pause_s]
    assert pieces[k].pause_s == 2.5
    assert pieces[k].slot[0] == stall_at - 10
    assert all((piece.slot < stall_at - 10).all() for piece in pieces[:k])


@pytest.mark.parametrize("stall_at", [-1, 9, 20])
def test_a_stall_of_another_trigger_is_none(stall_at):
    [piece] = Faults(stall_at=stall_at).schedules(10, 10)
    assert piece.pause_s == 0


def test_what_happened_is_used_up():
    faults = Faults(rest_errors=2, fail_series=True)
    assert faults.without_one("rest_errors") == Faults(rest_errors=1, fail_series=True)
    assert faults.without_one("fail_series") == Faults(rest_errors=2, fail_series=False)


def test_texts_there_and_back():
    faults = Faults.parse(
        drop="every:9", late="1,2", late_by=4, no_end=True, seed=3, rest_latency=2, stall_at=7
    )
    assert Faults.parse(**faults.as_dict()) == faults


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({"lost": "1"}, "unknown fault 'lost'"),
        ({"drop": "x"}, "fault drop: 'x'"),
        ({"late_by": 0}, "fault late_by is 0"),
        ({"late_by": True}, "fault late_by is True; expected a int from 1 to 9007199254740992 like 8"),
        ({"no_end": 1}, "fault no_end is 1; expected a bool like False"),
        ({"rest_latency": -1.0}, "fault rest_latency is -1.0; expected a float from 0 to 3600.0"),
        ({"stall_s": float("nan")}, "fault stall_s is nan"),
        ({"stall_s": float("inf")}, "fault stall_s is inf"),
        ({"stall_at": -2}, "fault stall_at is -2"),
        ({"rest_errors": 1.5}, "fault rest_errors is 1.5; expected a int"),
    ],
)
def test_wrong_faults_are_named(texts, words):
    with pytest.raises(ValueError, match=words):
        Faults.parse(**texts)
