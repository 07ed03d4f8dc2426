"""Kernels are compiled once, before the first test: no test's time-out should pay for that."""

from live4d_ophyd.engine.acquisition import warm_up

pytest_plugins = ["empty_catalog"]


def pytest_collection_finish(session):
    """Not in a fixture: that would be of the first test, and of its time-out."""
    if session.items and not session.config.option.collectonly:
        warm_up()


def pytest_collection_modifyitems(items):
    """Whole runs first: they take longest, and the workers of `pytest -n` should end together."""
    items.sort(key=lambda item: "/system/" not in str(item.path))
