"""What goes wrong in the window ends no plan: Bluesky halts one for any exception that Qt sees."""

import sys
from contextlib import contextmanager

import pytest

from live4d_ophyd.window.errors import Contained
from live4d_ophyd.window.looks import profile


@pytest.fixture
def before(monkeypatch):
    """What reaches the hook that was there before."""
    heard = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: heard.append(kind))
    return heard


@contextmanager
def window():
    """One that is open, and what it says."""
    said = []
    contained = Contained(said.append)
    contained.watch()
    contained.watch()  # again and again
    try:
        yield contained, said
    finally:
        contained.end()


def raised(call):
    try:
        call()
    except BaseException:
        return sys.exc_info()


def of_the_window():
    return raised(lambda: profile(None, (0, 0), (1, 1), (1, 1)))


def test_an_exception_of_the_window_is_said_and_logged_and_others_go_on(before, caplog):
    with window() as (_, said):
        sys.excepthook(*of_the_window())
        assert before == []
        assert "the window could not do that" in said[0]
        assert "the live window" in caplog.text
        sys.excepthook(*raised(lambda: 1 / 0))
        assert before == [ZeroDivisionError]
        assert len(said) == 1


def test_an_interrupt_is_nobody_s_error(before):
    with window():
        sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert before == [KeyboardInterrupt]


def test_the_hook_of_a_plan_is_watched_too_and_the_one_before_comes_back(before):
    of_plan, there = [], sys.excepthook
    with window() as (contained, _):
        found, sys.excepthook = (
            sys.excepthook,
            lambda kind, error, trace: of_plan.append(kind),
        )  # as Bluesky does
        contained.watch()
        sys.excepthook(*raised(lambda: 1 / 0))
        assert (of_plan, before) == ([ZeroDivisionError], [])
        sys.excepthook = found
        sys.excepthook(*raised(lambda: 1 / 0))
        assert before == [ZeroDivisionError]
    assert sys.excepthook is there


def test_a_window_that_was_closed_in_a_plan_says_nothing_when_bluesky_puts_its_hook_back(before):
    with window() as (_, said):
        found = sys.excepthook
    sys.excepthook = found
    sys.excepthook(*of_the_window())
    assert (said, before) == ([], [TypeError])
    with window() as (_, of_the_next):
        sys.excepthook(*of_the_window())
        assert (said, len(of_the_next)) == ([], 1)


def test_with_two_windows_the_second_to_close_puts_back_what_was_there(before):
    there = sys.excepthook
    with window() as (first, _):
        with window() as (second, said):
            for contained in (first, second, first):
                contained.watch()
            sys.excepthook(*of_the_window())
            assert len(said) == 1
        sys.excepthook(*of_the_window())
        assert len(said) == 1
    assert (sys.excepthook is there, before) == (True, [])
