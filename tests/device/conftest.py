"""The stream that the tests of Live4D itself have; those of a detector with settings have a fake DCU."""

from contextlib import closing

import pytest

from live4d_ophyd.testing.small_dcu import SmallDcu


@pytest.fixture(autouse=True)
def _engines(with_kept_engines):
    """Those that are left by other tests."""


@pytest.fixture
def dcu():
    """A sender of what the test puts together."""
    with closing(SmallDcu()) as small:
        yield small
