import matplotlib
import pytest
from fake_device import run_engine

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _raise_callback_errors(monkeypatch):
    """BestEffortCallback logs its errors; a test wants to see them."""
    monkeypatch.setenv("BLUESKY_DEBUG_CALLBACKS", "1")


@pytest.fixture
def RE():
    with run_engine() as engine:
        yield engine


@pytest.fixture
def documents(RE):
    """All documents of the RunEngine, as (name, document)."""
    seen = []
    RE.subscribe(lambda name, doc: seen.append((name, doc)))
    return seen


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")
