"""Kernels are compiled once, before the first test: no test's time-out should pay for that."""

import pytest

from live4d_ophyd.engine.acquisition import warm_up


@pytest.fixture(scope="session", autouse=True)
def compiled_kernels():
    warm_up()
