"""The stream that most tests of the engine have."""

from contextlib import closing

import pytest

from live4d_ophyd.testing.small_dcu import SmallDcu


@pytest.fixture
def dcu():
    """A sender of what the test puts together."""
    with closing(SmallDcu()) as small:
        yield small
