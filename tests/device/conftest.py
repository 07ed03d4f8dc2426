"""The stream that the tests of Live4D itself have; those of a detector with settings have a fake DCU."""

from contextlib import closing

import pytest
from kept_engines import kept_engines, with_kept_engines  # noqa: F401

from live4d_ophyd.testing.small_dcu import SmallDcu


@pytest.fixture
def dcu():
    """A sender of what the test puts together."""
    with closing(SmallDcu()) as small:
        yield small
