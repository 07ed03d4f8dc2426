from contextlib import closing

import pytest
from fake_dcu import FakeDcu


@pytest.fixture
def dcu():
    with closing(FakeDcu()) as fake:
        yield fake


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr("live4d_ophyd.sources.dectris.rest._PAUSES_S", (0.0, 0.0))
