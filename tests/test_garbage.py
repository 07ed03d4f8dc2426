"""A beginning without Python's search for garbage, which is there again afterwards."""

import gc
import weakref

import pytest

from live4d_ophyd.garbage import no_search


class Circle:
    """Garbage as soon as nobody has it, and only the search finds it."""

    def __init__(self):
        self.me = self


def found_by_itself():
    """Whether Python finds a circle while many more objects are made."""
    gone = weakref.ref(Circle())
    keep = [[] for _ in range(100_000)]
    assert len(keep) == 100_000
    return gone() is None


def test_garbage_is_searched_for_afterwards_and_not_within():
    assert found_by_itself()
    with no_search():
        assert not found_by_itself()
        with no_search():
            pass
        assert not found_by_itself()
    assert found_by_itself()


def test_what_fails_within_ends_it():
    with pytest.raises(ZeroDivisionError), no_search():
        1 / 0  # noqa: B018
    assert found_by_itself()


def test_who_has_switched_the_search_off_finds_it_off():
    gc.disable()
    try:
        with no_search():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
