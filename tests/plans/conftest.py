import asyncio
from collections import defaultdict
from types import SimpleNamespace

import event_model
import pytest
from scanned_field import Axis, scanned_field


@pytest.fixture
def RE():
    from bluesky import RunEngine

    engine = RunEngine({}, context_managers=[], call_returns_result=True)
    yield engine
    if engine.state != "idle":
        engine.halt()
    engine.loop.call_soon_threadsafe(engine.loop.stop)
    engine._th.join(timeout=10)
    engine.loop.close()
    asyncio.set_event_loop(None)


@pytest.fixture
def defocus():
    return Axis(name="defocus", value=-3.0)


@pytest.fixture
def field(defocus):
    """live4d and engine of a scanned field."""
    live4d, engine = scanned_field(defocus)
    yield SimpleNamespace(live4d=live4d, engine=engine)
    live4d.close()


@pytest.fixture
def live4d(field):
    return field.live4d


@pytest.fixture
def engine(field):
    return field.engine


@pytest.fixture
def run(RE):
    """Documents of the last run: start, stop, descriptors and Events by stream."""
    seen = SimpleNamespace(start=None, stop=None, descriptors={}, events=defaultdict(list))
    names = {}

    def keep(name, doc):
        if name == "start":
            seen.start, seen.stop = doc, None
            seen.descriptors.clear()
            seen.events.clear()
        elif name == "stop":
            seen.stop = doc
        elif name == "descriptor":
            names[doc["uid"]] = doc["name"]
            seen.descriptors[doc["name"]] = doc
        elif name == "event":
            seen.events[names[doc["descriptor"]]].append(doc)
        elif name == "event_page":
            seen.events[names[doc["descriptor"]]].extend(event_model.unpack_event_page(doc))

    RE.subscribe(keep)
    return seen
